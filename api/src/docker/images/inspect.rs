//! `GET /images/{}/json`.

use actors::image::ImageSnapshot;
use serde_json::{Map, Value, json};

use crate::docker::error::{self, ApiError};
use crate::docker::reply::Reply;
use crate::docker::request::Call;
use crate::docker::timestamp;
use crate::docker::versions::{self, Place};

/// The fields of an image's `Config`.
const CONFIG: &[&str] = &[
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// `GET /images/{}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    if let Some(platform) = call.query.opt("platform").filter(|p| !p.is_empty()) {
        check_platform(platform)?;
    }
    let image = call
        .engine()
        .snapshots()
        .find_image(call.name())
        .map_err(error::answer)?;
    versions::answer(call.version, Place::ImageInspect, &document(&image))
}

fn check_platform(text: &str) -> Result<(), ApiError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|why| ApiError::bad_request(format!("failed to parse platform: {why}")))?;
    let named = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .is_some_and(|v| !v.is_empty())
    };
    match named("os") && named("architecture") {
        true => Ok(()),
        false => Err(ApiError::bad_request(
            "both OS and Architecture must be provided",
        )),
    }
}

/// The document, with empty fields left out as in the newest version.
pub fn document(image: &ImageSnapshot) -> Value {
    let own = image.container_config();
    let config: Map<String, Value> = CONFIG
        .iter()
        .filter_map(|key| {
            own.get(*key)
                .map(|value| ((*key).to_owned(), value.clone()))
        })
        .filter(|(key, value)| {
            !crate::docker::containers::fields::is_unset(key, value)
                || key == "Volumes" && value.is_object()
        })
        .collect();
    let or = |text: &str, absent: &str| {
        if text.is_empty() {
            absent.to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut document = json!({
        "Id": image.id.as_str(),
        "RepoTags": image.tags,
        "RepoDigests": image.digests,
        "Config": config,
        "Architecture": or(image.text("architecture"), "amd64"),
        "Os": or(image.text("os"), "linux"),
        "Size": image.size,
        "GraphDriver": { "Name": "vsphere", "Data": { "ChainID": image.chain_id } },
        "RootFS": { "Type": "layers", "Layers": image.diff_ids },
        "Metadata": { "LastTagTime": timestamp::nano_or_never(image.last_tagged) },
    });
    let mut put = |key: &str, value: Value| {
        if let Some(map) = document.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    };
    if let Some(created) = image.created {
        put("Created", json!(timestamp::nano(created)));
    }
    for (key, field) in [
        ("Variant", "variant"),
        ("OsVersion", "os.version"),
        ("Author", "author"),
        ("DockerVersion", "docker_version"),
    ] {
        if !image.text(field).is_empty() {
            put(key, json!(image.text(field)));
        }
    }
    let history = image.config.get("history").and_then(Value::as_array);
    let comment = history
        .and_then(|h| h.last())
        .and_then(|h| h.get("comment"))
        .and_then(Value::as_str);
    if let Some(comment) = comment.filter(|c| !c.is_empty()) {
        put("Comment", json!(comment));
    }
    document
}
