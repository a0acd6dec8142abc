//! `SessionManager`.

use std::sync::Arc;

use vmomi::types::{LoginRequest, SessionIsActiveRequest, TerminateSessionRequest};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::session::Session;

pub(super) fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "Login" => login(call),
        "Logout" => {
            let session = call.session()?;
            close(call, &session.key)?;
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
                close(call, &key)?;
            }
            ok(())
        }
        "SetLocale" | "UpdateServiceMessage" => ok(()),
        _ => Err(Fault::not_supported()),
    }
}

fn login(call: &Call<'_>) -> Reply {
    let args = call.args::<LoginRequest>()?;
    // A session that has logged in cannot do so again.
    if call.session.is_some() || !call.world.may_log_in(&args.user_name, &args.password) {
        return Err(Fault::new(
            vmomi::types::InvalidLogin::default(),
            "Cannot complete login due to an incorrect user name or password.",
        ));
    }
    for expired in call.world.sessions.expire() {
        clear(call, &expired);
    }
    let locale = args.locale.as_deref().unwrap_or("en");
    let session = call
        .world
        .sessions
        .open(&args.user_name, locale, call.agent);
    if let Ok(mut opened) = call.opened.lock() {
        *opened = Some(session.key.clone());
    }
    ok(session.user.clone())
}

fn close(call: &Call<'_>, key: &str) -> Outcome<()> {
    let session = call
        .world
        .sessions
        .close(key)
        .ok_or_else(|| Fault::plain("NotFound"))?;
    clear(call, &session);
    Ok(())
}

/// Takes away what belonged to a session.
fn clear(call: &Call<'_>, session: &Arc<Session>) {
    let views = session.views();
    if !views.is_empty() {
        call.world
            .inventory
            .commit(|t| views.iter().for_each(|view| t.remove(view)));
    }
}
