//! `POST /images/{}/tag` and `DELETE /images/{}`.

use actors::image::Removed;
use http::StatusCode;
use serde_json::{Value, json};

use super::reference;
use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::Call;

/// `POST /images/{}/tag`.
pub async fn tag(call: Call) -> Result<Reply, ApiError> {
    let (repository, tag) = (call.query.get("repo"), call.query.get("tag"));
    reference::check_name(repository)?;
    if actors::image::familiar_name(repository) == "sha256" {
        return Err(ApiError::bad_request(
            "refusing to create an ambiguous tag using digest algorithm as name",
        ));
    }
    let target = match tag {
        "" => repository.to_owned(),
        tag => {
            reference::check_tag(tag)?;
            format!("{repository}:{tag}")
        }
    };
    let image = call
        .engine()
        .snapshots()
        .find_image(call.name())
        .map_err(error::answer)?;
    call.engine()
        .tag(image.id.clone(), &actors::image::familiar(&target))
        .await
        .map_err(error::answer)?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `DELETE /images/{}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let removed = call
        .engine()
        .remove_image(
            call.name(),
            call.query.flag("force"),
            call.query.flag("noprune"),
        )
        .await
        .map_err(error::answer)?;
    let list: Vec<Value> = removed
        .into_iter()
        .map(|one| match one {
            Removed::Untagged(name) => json!({ "Untagged": name }),
            Removed::Deleted(id) => json!({ "Deleted": id }),
        })
        .collect();
    reply::json(&list)
}
