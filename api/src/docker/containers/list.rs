//! `GET /containers/json`: answered from snapshots, without any message and, unless sizes are asked for, any call.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ContainerId;
use actors::container::{ContainerSnapshot, MountSpec};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::inspect::{endpoint, mounts};
use super::matching::Selection;
use super::status;
use crate::docker::error::{self, ApiError};
use crate::docker::reply::Reply;
use crate::docker::request::Call;
use crate::docker::versions::{self, Place};

/// An item of the list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item<'a> {
    id: String,
    names: [String; 1],
    image: Cow<'a, str>,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: Host<'a>,
    health: Health,
    network_settings: Networks,
    mounts: Vec<Value>,
}

/// What the list shows of `HostConfig`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    network_mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a Value>,
}

/// Health: no container has a check that runs yet.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: &'static str,
    failing_streak: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Networks {
    networks: BTreeMap<String, Value>,
}

/// `GET /containers/json`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let snapshots = call.engine().snapshots();
    let containers = snapshots.containers();
    let images = snapshots.images();
    let selection = Selection::parse(&call.query, &containers, &images)?;
    let now = OffsetDateTime::now_utc();
    let size = call.query.flag("size");
    let chosen: Vec<&Arc<ContainerSnapshot>> = selection.choose(&containers).collect();
    let written = match size {
        true => written(&call, chosen.iter().map(|c| c.id)).await?,
        false => BTreeMap::new(),
    };
    let items: Vec<Item<'_>> = chosen
        .into_iter()
        .map(|container| Item {
            id: container.id.to_string(),
            names: [format!("/{}", container.name)],
            image: status::image_name(container, &images),
            image_id: container.spec.image.as_str(),
            command: status::command(&container.spec.process.argv),
            created: container.created.unix_timestamp(),
            ports: ports(container),
            size_rw: size.then(|| written.get(&container.id).copied().unwrap_or(0)),
            size_root_fs: size.then(|| {
                let image = images.get(&container.spec.image).map_or(0, |i| i.size);
                image + written.get(&container.id).copied().unwrap_or(0)
            }),
            labels: &container.spec.labels,
            state: container.status_word(),
            status: status::status(container, now),
            host_config: Host {
                network_mode: network_mode(container),
                annotations: container.spec.documents.host_config.get("Annotations"),
            },
            health: Health {
                status: "none",
                failing_streak: 0,
            },
            network_settings: Networks {
                networks: container
                    .endpoints
                    .iter()
                    .map(|e| (e.network_name.clone(), endpoint(container, e)))
                    .collect(),
            },
            mounts: mounts(container),
        })
        .collect();
    versions::answer_list(call.version, Place::ContainerItem, &items)
}

/// What these containers have written, which only vSphere knows: the one thing of a list that costs calls.
pub(super) async fn written(
    call: &Call,
    containers: impl Iterator<Item = ContainerId>,
) -> Result<BTreeMap<ContainerId, u64>, ApiError> {
    let containers: Vec<ContainerId> = containers.collect();
    let found = call.engine().written(&containers).await;
    found.map_err(error::answer)
}

/// `bridge`, `none`, …, as inspect shows it.
pub fn network_mode(container: &ContainerSnapshot) -> &str {
    container
        .spec
        .documents
        .host_config
        .get("NetworkMode")
        .and_then(Value::as_str)
        .unwrap_or("bridge")
}

/// Ports that the image or the client exposed, while the container runs.
fn ports(container: &ContainerSnapshot) -> Vec<Value> {
    if !container.is_running() {
        return Vec::new();
    }
    let exposed = container
        .spec
        .documents
        .config
        .get("ExposedPorts")
        .and_then(Value::as_object);
    exposed
        .into_iter()
        .flatten()
        .filter_map(|(port, _)| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some(json!({ "PrivatePort": number.parse::<u16>().ok()?, "Type": protocol }))
        })
        .collect()
}

/// The volumes' names and targets that the filter `volume` looks at.
pub(super) fn volume_words(container: &ContainerSnapshot) -> impl Iterator<Item = &str> {
    let declared = container.spec.mounts.iter().flat_map(|mount| match mount {
        MountSpec::Volume { name, target, .. } => [name.as_deref(), Some(target.as_str())],
        MountSpec::Tmpfs { target, .. } => [Some(target.as_str()), None],
    });
    let present = container.mounts.iter().flat_map(|m| {
        [
            m.volume.as_deref(),
            Some(m.source.as_str()),
            Some(m.target.as_str()),
        ]
    });
    declared.chain(present).flatten()
}
