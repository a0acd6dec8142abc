//! `SessionManager`.

use vmomi::types::{LoginRequest, SessionIsActiveRequest, TerminateSessionRequest};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};

pub(super) async fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "Login" => login(call).await,
        "Logout" => {
            let session = call.session()?;
            close(call, &session.key).await?;
            ok(())
        }
        "SessionIsActive" => {
            let args = call.args::<SessionIsActiveRequest>()?;
            ok(call
                .world
                .sessions
                .list()
                .iter()
                .any(|s| s.key == args.session_id))
        }
        "TerminateSession" => {
            let args = call.args::<TerminateSessionRequest>()?;
            for id in &args.session_id {
                let key = call
                    .world
                    .sessions
                    .key_of(id)
                    .ok_or_else(|| Fault::plain("NotFound"))?;
                close(call, &key).await?;
            }
            ok(())
        }
        "SetLocale" | "UpdateServiceMessage" => ok(()),
        _ => Err(Fault::not_supported()),
    }
}

async fn login(call: &Call<'_>) -> Reply {
    let args = call.args::<LoginRequest>()?;
    // A session that has logged in cannot do so again.
    if call.session.is_some() || !call.world.may_log_in(&args.user_name, &args.password) {
        return Err(Fault::new(
            vmomi::types::InvalidLogin::default(),
            "Cannot complete login due to an incorrect user name or password.",
        ));
    }
    let locale = args.locale.as_deref().unwrap_or("en");
    let session = call
        .world
        .sessions
        .open(call.world, &args.user_name, locale, call.agent)
        .await?;
    if let Ok(mut opened) = call.opened.lock() {
        *opened = Some(session.key.clone());
    }
    ok(session.user.clone())
}

async fn close(call: &Call<'_>, key: &str) -> Outcome<()> {
    if call.world.sessions.close(call.world, key).await? {
        Ok(())
    } else {
        Err(Fault::plain("NotFound"))
    }
}
