//! `GET /containers/{}/json`: a snapshot in docker's words.

use actors::container::{ContainerSnapshot, EndpointSnapshot};
use serde_json::{Map, Value, json};

use super::fields;
use super::list::{network_mode, written};
use crate::docker::error::{self, ApiError};
use crate::docker::reply::Reply;
use crate::docker::request::Call;
use crate::docker::timestamp;
use crate::docker::versions::{self, Place};

/// `GET /containers/{}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    let mut document = document(&container);
    if call.query.flag("size") {
        let images = call.engine().snapshots().images();
        let written = written(&call, std::iter::once(container.id)).await?;
        let written = written.get(&container.id).copied().unwrap_or(0);
        let image = images.get(&container.spec.image).map_or(0, |i| i.size);
        document["SizeRw"] = json!(written);
        document["SizeRootFs"] = json!(image + written);
    }
    versions::answer(call.version, Place::ContainerInspect, &document)
}

/// The whole document.
pub fn document(container: &ContainerSnapshot) -> Value {
    let argv = &container.spec.process.argv;
    let execs: Vec<String> = container
        .execs
        .values()
        .filter(|e| e.running)
        .map(|e| e.id.to_string())
        .collect();
    let networks: Map<String, Value> = container
        .endpoints
        .iter()
        .map(|e| (e.network_name.clone(), endpoint(container, e)))
        .collect();
    json!({
        "Id": container.id.to_string(),
        "Created": timestamp::nano(container.created),
        "Path": argv.first().map_or("", String::as_str),
        "Args": argv.get(1..).unwrap_or(&[]),
        "State": state(container),
        "Image": container.spec.image.as_str(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": container.vm.log_path,
        "Name": format!("/{}", container.name),
        "RestartCount": container.restart_count,
        "Driver": "vsphere",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": fields::full_host_config(&container.spec.documents.host_config),
        "GraphDriver": { "Name": "vsphere", "Data": { "VM": container.vm.name, "MoRef": container.vm.moref } },
        "Mounts": mounts(container),
        "Config": config(container),
        "NetworkSettings": {
            "SandboxID": "",
            "SandboxKey": "",
            "Ports": ports(container),
            "Networks": networks,
        },
    })
}

fn state(container: &ContainerSnapshot) -> Value {
    let running = container.is_running();
    json!({
        "Status": container.status_word(),
        "Running": running,
        "Paused": container.status_word() == "paused",
        "Restarting": false,
        "OOMKilled": container.oom_killed,
        "Dead": container.dead,
        "Pid": if running { container.vm.pid.max(1) } else { 0 },
        "ExitCode": container.exit_code,
        "Error": container.error,
        "StartedAt": timestamp::nano_or_never(container.started_at),
        "FinishedAt": timestamp::nano_or_never(container.finished_at),
    })
}

fn config(container: &ContainerSnapshot) -> Value {
    let mut config = fields::full_config(&container.spec.documents.config);
    if let Some(map) = config.as_object_mut() {
        let hostname = map.entry("Hostname").or_insert_with(|| json!(""));
        if hostname.as_str().unwrap_or("").is_empty() && network_mode(container) != "host" {
            *hostname = json!(container.id.short());
        }
    }
    config
}

/// Exposed ports: `null` as long as none is published; an empty map when stopped.
fn ports(container: &ContainerSnapshot) -> Value {
    if !container.is_running() {
        return json!({});
    }
    let exposed = container
        .spec
        .documents
        .config
        .get("ExposedPorts")
        .and_then(Value::as_object);
    let ports: Map<String, Value> = exposed
        .into_iter()
        .flatten()
        .map(|(port, _)| (port.clone(), Value::Null))
        .collect();
    Value::Object(ports)
}

/// A place in a network, as inspect and list show it.
pub fn endpoint(container: &ContainerSnapshot, endpoint: &EndpointSnapshot) -> Value {
    let asked = container
        .spec
        .documents
        .networking
        .pointer("/EndpointsConfig")
        .and_then(Value::as_object);
    let asked = asked.and_then(|map| {
        map.get(&endpoint.network_name)
            .or_else(|| map.get(&endpoint.network.to_string()))
            .or_else(|| {
                map.get("default")
                    .filter(|_| endpoint.network_name == "bridge")
            })
    });
    let given = |key: &str| {
        asked
            .and_then(|a| a.get(key))
            .cloned()
            .unwrap_or(Value::Null)
    };
    let up = container.is_running();
    let text = |value: Option<std::net::Ipv4Addr>| match value {
        Some(address) if up => address.to_string(),
        _ => String::new(),
    };
    let user_network = !matches!(endpoint.network_name.as_str(), "bridge" | "host" | "none");
    let dns_names = if user_network {
        let mut names = vec![container.name.clone()];
        names.extend(endpoint.aliases.iter().cloned());
        names.push(container.id.short());
        if !container.spec.hostname.is_empty() && !names.contains(&container.spec.hostname) {
            names.push(container.spec.hostname.clone());
        }
        json!(names)
    } else {
        Value::Null
    };
    json!({
        "IPAMConfig": given("IPAMConfig"),
        "Links": given("Links"),
        "Aliases": if endpoint.aliases.is_empty() { Value::Null } else { json!(endpoint.aliases) },
        "DriverOpts": given("DriverOpts"),
        "GwPriority": asked.and_then(|a| a.get("GwPriority")).cloned().unwrap_or_else(|| json!(0)),
        "NetworkID": endpoint.network.to_string(),
        "EndpointID": if up { endpoint.id.to_string() } else { String::new() },
        "Gateway": text(endpoint.gateway),
        "IPAddress": text(endpoint.address),
        "MacAddress": if up { endpoint.mac.as_str() } else { "" },
        "IPPrefixLen": if up && endpoint.address.is_some() { endpoint.prefix_len } else { 0 },
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": dns_names,
    })
}

/// The mounts, as inspect and list show them.
pub fn mounts(container: &ContainerSnapshot) -> Vec<Value> {
    container
        .mounts
        .iter()
        .map(|mount| match &mount.volume {
            Some(name) => json!({
                "Type": "volume",
                "Name": name,
                "Source": mount.source,
                "Destination": mount.target,
                "Driver": "local",
                "Mode": mount.mode,
                "RW": !mount.read_only,
                "Propagation": "",
            }),
            None => json!({
                "Type": "tmpfs",
                "Source": "",
                "Destination": mount.target,
                "Mode": mount.mode,
                "RW": !mount.read_only,
                "Propagation": "",
            }),
        })
        .collect()
}
