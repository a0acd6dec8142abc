//! `GET /containers/{}/top`.

use serde_json::json;

use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::Call;

/// `GET /containers/{}/top`.
pub async fn top(call: Call) -> Result<Reply, ApiError> {
    let args = match call.query.get("ps_args") {
        "" => "-ef",
        args => args,
    };
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    let list = call
        .engine()
        .top(container.id, args)
        .await
        .map_err(error::answer)?;
    reply::json(&json!({ "Titles": list.titles, "Processes": list.processes }))
}
