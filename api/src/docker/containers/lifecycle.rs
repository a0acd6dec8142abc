//! The verbs: start, stop, restart, kill, pause, unpause, rename, resize, remove.

use actors::container::{RemoveOptions, Signal, StopOptions};
use actors::streams::ConsoleSize;
use http::StatusCode;

use super::signal;
use crate::docker::detach::Keys;
use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::{Call, Query};
use crate::docker::system::no_content;
use crate::docker::version::ApiVersion;
use crate::docker::versions::{self, behaviour};

/// A body longer than this means a client that still sends `HostConfig` to start, which ended with 1.24.
const MAX_START_BODY: usize = 7;

/// `POST /containers/{}/start`.
pub async fn start(call: Call) -> Result<Reply, ApiError> {
    let (call, body) = call.read_body().await?;
    if body.len() > MAX_START_BODY {
        return Err(ApiError::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    Keys::parse(call.query.get("detachKeys"))?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .start(container.id)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

/// `POST /containers/{}/stop`.
pub async fn stop(call: Call) -> Result<Reply, ApiError> {
    let options = stop_options(call.version, &call.query)?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .stop(container.id, options)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

/// `POST /containers/{}/restart`.
pub async fn restart(call: Call) -> Result<Reply, ApiError> {
    let options = stop_options(call.version, &call.query)?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .restart(container.id, options)
        .await
        .map_err(|why| {
            let answer = error::answer(why);
            match answer.status() {
                StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(format!(
                    "Cannot restart container {}: {}",
                    call.name(),
                    answer.message()
                )),
                _ => answer,
            }
        })?;
    Ok(no_content())
}

fn stop_options(version: ApiVersion, query: &Query) -> Result<StopOptions, ApiError> {
    let signal = query.get("signal");
    let signal = match signal.is_empty() || !versions::has(version, behaviour::STOP_SIGNAL) {
        true => None,
        false => Some(signal::parse(signal)?),
    };
    Ok(StopOptions {
        signal,
        timeout: query.integer("t")?,
    })
}

/// `POST /containers/{}/kill`.
pub async fn kill(call: Call) -> Result<Reply, ApiError> {
    let signal = match call.query.get("signal") {
        "" => Signal(9),
        text => signal::parse(text)?,
    };
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .kill(container.id, signal)
        .await
        .map_err(|why| match why {
            actors::Error::NotRunning(id) | actors::Error::KillNotRunning { id, .. } => {
                error::answer(actors::Error::KillNotRunning {
                    name: call.name().to_owned(),
                    id,
                })
            }
            other => error::answer(other),
        })?;
    Ok(no_content())
}

/// `POST /containers/{}/pause`.
pub async fn pause(call: Call) -> Result<Reply, ApiError> {
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .pause(container.id)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

/// `POST /containers/{}/unpause`.
pub async fn unpause(call: Call) -> Result<Reply, ApiError> {
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .unpause(container.id)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

/// `POST /containers/{}/rename`.
pub async fn rename(call: Call) -> Result<Reply, ApiError> {
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    let wanted = call.query.get("name");
    if wanted.is_empty() {
        return Err(ApiError::bad_request(
            "Neither old nor new names may be empty",
        ));
    }
    let name = super::create::check_name(wanted)?;
    if name == container.name {
        return Err(ApiError::bad_request(
            "Renaming a container with the same name as its current name",
        ));
    }
    call.engine()
        .rename(container.id, name)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

/// `POST /containers/{}/resize`.
pub async fn resize(call: Call) -> Result<Reply, ApiError> {
    let size = console_size(&call.query)?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    call.engine()
        .resize(container.id, size)
        .await
        .map_err(error::answer)?;
    Ok(reply::empty(StatusCode::OK))
}

/// Reads `h` and `w`; what no terminal can have is cut to what one can.
///
/// # Errors
///
/// 400 when one is missing or no number.
pub fn console_size(query: &Query) -> Result<ConsoleSize, ApiError> {
    let read = |key: &str| {
        let text = query.get(key);
        text.parse::<u32>()
            .map(|number| u16::try_from(number).unwrap_or(u16::MAX))
            .map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid resize {} {text:?}: invalid syntax",
                    if key == "h" { "height" } else { "width" }
                ))
            })
    };
    Ok(ConsoleSize {
        height: read("h")?,
        width: read("w")?,
    })
}

/// `DELETE /containers/{}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let query = &call.query;
    if query.flag("link") {
        return Err(ApiError::bad_request(
            "removing a link: legacy links are not supported",
        ));
    }
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    let options = RemoveOptions {
        name: call.name().to_owned(),
        force: query.flag("force"),
        volumes: query.flag("v"),
    };
    call.engine()
        .remove(container.id, options)
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::version::NEWEST;

    #[test]
    fn stop_takes_a_time_and_a_signal() {
        let options = stop_options(NEWEST, &Query::parse(Some("t=3&signal=INT"))).expect("options");
        assert_eq!(
            options,
            StopOptions {
                signal: Some(Signal(2)),
                timeout: Some(3)
            }
        );
        let forever = stop_options(NEWEST, &Query::parse(Some("t=-1"))).expect("options");
        assert_eq!(forever.timeout, Some(-1));
        assert!(stop_options(NEWEST, &Query::parse(Some("t=x"))).is_err());
    }

    #[test]
    fn below_1_42_stop_takes_no_signal() {
        let query = Query::parse(Some("signal=INT"));
        assert_eq!(
            stop_options(ApiVersion::v1(41), &query)
                .expect("options")
                .signal,
            None
        );
        assert_eq!(
            stop_options(ApiVersion::v1(42), &query)
                .expect("options")
                .signal,
            Some(Signal(2))
        );
    }

    #[test]
    fn a_size_needs_both_numbers() {
        let size = console_size(&Query::parse(Some("h=24&w=80"))).expect("size");
        assert_eq!(
            size,
            ConsoleSize {
                height: 24,
                width: 80
            }
        );
        assert!(console_size(&Query::parse(Some("h=24"))).is_err());
    }
}
