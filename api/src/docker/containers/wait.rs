//! `POST /containers/{}/wait`: the head at once, the outcome later.
//!
//! The waiter is registered before the head goes out, so that an exit in the container's first millisecond is not
//! missed. A client that leaves drops the receiver, and with it the waiter.

use actors::container::{ExitOutcome, WaitCondition};
use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::Call;
use crate::docker::version::ApiVersion;
use crate::docker::versions::{self, Place, behaviour};

/// `POST /containers/{}/wait`.
pub async fn wait(call: Call) -> Result<Reply, ApiError> {
    let early = versions::has(call.version, behaviour::WAIT_CONDITION);
    let condition = match early {
        true => condition(call.query.get("condition"))?,
        false => WaitCondition::NotRunning,
    };
    let version = call.version;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    let outcome = call
        .engine()
        .wait(container.id, condition)
        .await
        .map_err(error::answer)?;
    if !early {
        let outcome = outcome.await.map_err(|_| lost())?;
        return reply::json(&document(version, &outcome));
    }
    let body = outcome.map(move |outcome| {
        let document = match outcome {
            Ok(outcome) => document(version, &outcome),
            Err(_) => json!({ "StatusCode": -1, "Error": { "Message": lost().message() } }),
        };
        Bytes::from(format!("{document}\n"))
    });
    Ok(reply::stream(
        "application/json",
        Box::pin(futures_util::stream::once(body)),
    ))
}

fn lost() -> ApiError {
    ApiError::internal("the engine is going down: the container's exit was not waited for")
}

fn condition(text: &str) -> Result<WaitCondition, ApiError> {
    match text {
        "" | "not-running" => Ok(WaitCondition::NotRunning),
        "next-exit" => Ok(WaitCondition::NextExit),
        "removed" => Ok(WaitCondition::Removed),
        other => Err(ApiError::bad_request(format!(
            "invalid condition: {other:?}"
        ))),
    }
}

fn document(version: ApiVersion, outcome: &ExitOutcome) -> Value {
    let mut document = json!({ "StatusCode": outcome.status_code });
    if let Some(message) = &outcome.error {
        document["Error"] = json!({ "Message": message });
    }
    versions::downgrade(version, Place::Wait, &mut document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_dockers() {
        assert_eq!(condition("").expect("default"), WaitCondition::NotRunning);
        assert_eq!(
            condition("next-exit").expect("next"),
            WaitCondition::NextExit
        );
        assert_eq!(
            condition("removed").expect("removed"),
            WaitCondition::Removed
        );
        assert_eq!(
            condition("x").expect_err("unknown").message(),
            "invalid condition: \"x\""
        );
    }

    #[test]
    fn an_outcome_without_error_has_no_error_field() {
        let outcome = ExitOutcome {
            status_code: 3,
            error: None,
        };
        assert_eq!(
            document(ApiVersion::v1(44), &outcome).to_string(),
            r#"{"StatusCode":3}"#
        );
    }
}
