//! `POST /containers/{}/attach`: 101 only when no output can get lost any more.

use actors::container::{AttachOptions, Phase};

use crate::docker::detach::Keys;
use crate::docker::error::{self, ApiError, Form};
use crate::docker::hijack::{self, Session};
use crate::docker::reply::Reply;
use crate::docker::request::Call;

/// `POST /containers/{}/attach`.
pub async fn attach(call: Call) -> Result<Reply, ApiError> {
    take_over(call)
        .await
        .map_err(|why| why.in_form(Form::RawStream))
}

async fn take_over(call: Call) -> Result<Reply, ApiError> {
    let keys = Keys::parse(call.query.get("detachKeys"))?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    if container.phase == Phase::Paused {
        return Err(error::answer(actors::Error::Paused {
            what: "container",
            name: call.name().to_owned(),
            verb: "attach",
        }));
    }
    let query = &call.query;
    let options = AttachOptions {
        name: call.name().to_owned(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
    };
    let attachment = call
        .engine()
        .attach(container.id, options)
        .await
        .map_err(error::answer)?;
    let framed = !attachment.tty;
    let (shared, id, exits) = (call.shared.clone(), container.id, container.exits);
    let goes_on = move || {
        let now = shared.engine.snapshots().container(&id);
        now.is_some_and(|now| now.exits == exits && now.phase != Phase::Exited)
    };
    let session = Session {
        attachment,
        keys,
        framed,
        // Without the stream, the end of the log is the end.
        goes_on: match query.flag("stream") {
            true => Box::new(goes_on),
            false => Box::new(|| false),
        },
    };
    if call.wants_upgrade() {
        return Ok(hijack::upgraded(
            &call.takeover,
            call.version,
            session,
            true,
        ));
    }
    Ok(hijack::streamed(call.body, session, true))
}
