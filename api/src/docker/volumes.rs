//! Volumes: create, list, inspect, remove.

use std::collections::BTreeMap;

use actors::volume::{VolumeSnapshot, VolumeSpec};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::containers::matching::patterns;
use super::containers::mounts::check_volume_name;
use super::error::{self, ApiError};
use super::reply::{self, Reply};
use super::request::{Call, decode, fold_keys};
use super::system::no_content;
use super::timestamp;

/// The label of volumes without a name of the client's.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    cluster_volume_spec: Option<Value>,
}

/// `POST /volumes/create`.
pub async fn create(call: Call) -> Result<Reply, ApiError> {
    let (call, mut body) = call.json().await?;
    fold_keys(
        &mut body,
        &[
            "Name",
            "Driver",
            "DriverOpts",
            "Labels",
            "ClusterVolumeSpec",
        ],
    );
    if let Value::Object(map) = &mut body {
        map.retain(|_, v| !v.is_null());
    }
    let mut asked: Create = decode(body)?;
    if asked.cluster_volume_spec.is_some() {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
             swarm and try again.",
        ));
    }
    if !matches!(asked.driver.as_str(), "" | "local" | "vsphere") {
        return Err(ApiError::not_found(format!(
            "create {}: error looking up volume plugin {}: plugin \"{}\" not found",
            asked.name, asked.driver, asked.driver
        )));
    }
    if let Some(option) = asked.driver_opts.keys().next() {
        return Err(ApiError::bad_request(format!(
            "create {}: invalid option: {option:?}",
            asked.name
        )));
    }
    let name = match asked.name.is_empty() {
        true => {
            asked.labels.insert(ANONYMOUS.to_owned(), String::new());
            None
        }
        false => {
            check_volume_name(&asked.name)?;
            Some(asked.name)
        }
    };
    let spec = VolumeSpec {
        name,
        driver: asked.driver,
        labels: asked.labels,
        options: asked.driver_opts,
        anonymous: false,
    };
    let volume = call
        .engine()
        .create_volume(spec)
        .await
        .map_err(error::answer)?;
    reply::json_with(StatusCode::CREATED, &document(&volume))
}

/// `GET /volumes`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    filters.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.boolean("dangling")?;
    let snapshots = call.engine().snapshots();
    let patterns = patterns(filters.values("name"))?;
    let containers = snapshots.containers();
    let used = |name: &str| {
        containers
            .iter()
            .any(|c| c.mounts.iter().any(|m| m.volume.as_deref() == Some(name)))
    };
    let volumes: Vec<Value> = snapshots
        .volumes()
        .iter()
        .filter(|v| patterns.is_empty() || patterns.is_match(&v.name))
        .filter(|v| filters.exact("driver", driver(v)))
        .filter(|v| filters.labels("label", |key| v.labels.get(key).map(String::as_str)))
        .filter(|v| dangling.is_none_or(|wanted| wanted != used(&v.name)))
        .map(|v| document(v))
        .collect();
    reply::json(&json!({ "Volumes": volumes, "Warnings": null }))
}

/// `GET /volumes/{}`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let volume = call
        .engine()
        .snapshots()
        .find_volume(call.name())
        .map_err(error::answer)?;
    reply::json(&document(&volume))
}

/// `DELETE /volumes/{}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    call.engine()
        .remove_volume(call.name(), call.query.flag("force"))
        .await
        .map_err(error::answer)?;
    Ok(no_content())
}

fn driver(volume: &VolumeSnapshot) -> &str {
    if volume.driver.is_empty() {
        "local"
    } else {
        &volume.driver
    }
}

fn document(volume: &VolumeSnapshot) -> Value {
    let options = if volume.options.is_empty() {
        Value::Null
    } else {
        json!(volume.options)
    };
    let mut labels = volume.labels.clone();
    if volume.anonymous {
        labels.entry(ANONYMOUS.to_owned()).or_default();
    }
    json!({
        "CreatedAt": timestamp::nano(volume.created.replace_nanosecond(0).unwrap_or(volume.created)),
        "Driver": driver(volume),
        "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
        "Mountpoint": volume.path,
        "Name": volume.name,
        "Options": options,
        "Scope": "local",
    })
}
