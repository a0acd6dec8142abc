//! The rewritings that the table of versions names.

use serde_json::{Map, Value, json};

use crate::docker::error::ApiError;

fn object<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    value.pointer_mut(path).and_then(Value::as_object_mut)
}

/// Sets a field whose parent is there.
pub(super) fn set(value: &mut Value, path: &str, to: Value) -> Result<(), ApiError> {
    if let Some((parent, key)) = path.rsplit_once('/')
        && let Some(map) = object(value, parent)
    {
        map.insert(key.to_owned(), to);
    }
    Ok(())
}

/// Removes fields of the object at `path`.
pub(super) fn remove(value: &mut Value, path: &str, keys: &[&str]) -> Result<(), ApiError> {
    drop_keys(value, path, keys);
    Ok(())
}

/// Removes fields of the object at `path`.
pub(super) fn drop_keys(value: &mut Value, path: &str, keys: &[&str]) {
    if let Some(map) = object(value, path) {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// Sets a field that is absent.
pub(super) fn default_key(value: &mut Value, path: &str, key: &str, to: Value) {
    if let Some(map) = object(value, path) {
        map.entry(key.to_owned()).or_insert(to);
    }
}

/// Sets a text that is absent or empty.
pub(super) fn default_text(
    value: &mut Value,
    path: &str,
    key: &str,
    to: &str,
) -> Result<(), ApiError> {
    if let Some(map) = object(value, path)
        && map
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("")
            .is_empty()
    {
        map.insert(key.to_owned(), json!(to));
    }
    Ok(())
}

/// Replaces a field that is there.
pub(super) fn replace(value: &mut Value, key: &str, to: Value) {
    if let Some(field) = value.get_mut(key) {
        *field = to;
    }
}

fn mounts(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value
        .pointer_mut("/HostConfig/Mounts")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Removes one option of all mounts.
pub(super) fn drop_from_mounts(
    value: &mut Value,
    options: &str,
    key: &str,
) -> Result<(), ApiError> {
    for mount in mounts(value) {
        drop_keys(mount, &format!("/{options}"), &[key]);
    }
    Ok(())
}

/// Removes options that belong to another type of mount.
pub(super) fn drop_foreign_options(value: &mut Value) -> Result<(), ApiError> {
    for mount in mounts(value) {
        let own = match mount.get("Type").and_then(Value::as_str) {
            Some("bind") => "BindOptions",
            Some("volume") => "VolumeOptions",
            Some("tmpfs") => "TmpfsOptions",
            Some("image") => "ImageOptions",
            _ => continue,
        };
        if let Some(map) = mount.as_object_mut() {
            map.retain(|key, _| !key.ends_with("Options") || key == own);
        }
    }
    Ok(())
}

/// 400 for a mounted part of a volume.
pub(super) fn no_subpath(value: &mut Value) -> Result<(), ApiError> {
    let asked = mounts(value).any(|m| {
        m.pointer("/VolumeOptions/Subpath")
            .and_then(Value::as_str)
            .is_some_and(|s| !s.is_empty())
    });
    match asked {
        true => Err(ApiError::bad_request(
            "VolumeOptions.Subpath needs API v1.45 or newer",
        )),
        false => Ok(()),
    }
}

/// 400 for a mounted image.
pub(super) fn no_image_mounts(value: &mut Value) -> Result<(), ApiError> {
    match mounts(value).any(|m| m.get("Type").and_then(Value::as_str) == Some("image")) {
        true => Err(ApiError::bad_request(
            "Mount type \"Image\" needs API v1.48 or newer",
        )),
        false => Ok(()),
    }
}

fn endpoints(value: &mut Value) -> Option<&mut Map<String, Value>> {
    object(value, "/NetworkingConfig/EndpointsConfig")
}

/// 400 for more than one network.
pub(super) fn one_endpoint(value: &mut Value) -> Result<(), ApiError> {
    match endpoints(value) {
        Some(map) if map.len() > 1 => {
            let names: Vec<&str> = map.keys().map(String::as_str).collect();
            Err(ApiError::bad_request(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )))
        }
        _ => Ok(()),
    }
}

/// Removes one field of all endpoints.
pub(super) fn drop_from_endpoints(value: &mut Value, key: &str) -> Result<(), ApiError> {
    for endpoint in endpoints(value)
        .into_iter()
        .flat_map(|map| map.values_mut())
    {
        drop_keys(endpoint, "", &[key]);
    }
    Ok(())
}

fn networks(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    object(value, "/NetworkSettings/Networks")
        .into_iter()
        .flat_map(|map| map.values_mut())
}

/// Removes fields of all networks in an inspect.
pub(super) fn drop_in_networks(value: &mut Value, keys: &[&str]) {
    for network in networks(value) {
        drop_keys(network, "", keys);
    }
}

/// Adds the short id to the aliases in networks that the user made.
pub(super) fn short_id_alias(value: &mut Value) {
    let short = value
        .get("Id")
        .and_then(Value::as_str)
        .and_then(|id| id.get(..12))
        .map(str::to_owned);
    let (Some(short), Some(map)) = (short, object(value, "/NetworkSettings/Networks")) else {
        return;
    };
    for (name, network) in map {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        if let Some(aliases) = network.get_mut("Aliases") {
            if aliases.is_null() {
                *aliases = json!([]);
            }
            if let Some(list) = aliases.as_array_mut()
                && !list.contains(&json!(short))
            {
                list.push(json!(short));
            }
        }
    }
}

/// Copies the network `bridge` to the settings themselves.
pub(super) fn repeat_default_network(value: &mut Value) {
    let bridge = value
        .pointer("/NetworkSettings/Networks/bridge")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let Some(map) = object(value, "/NetworkSettings") else {
        return;
    };
    let (text, number) = (json!(""), json!(0));
    for (key, absent) in [
        ("EndpointID", &text),
        ("Gateway", &text),
        ("GlobalIPv6Address", &text),
        ("GlobalIPv6PrefixLen", &number),
        ("IPAddress", &text),
        ("IPPrefixLen", &number),
        ("IPv6Gateway", &text),
        ("MacAddress", &text),
    ] {
        map.insert(key.to_owned(), bridge.get(key).unwrap_or(absent).clone());
    }
    map.insert("Bridge".into(), text.clone());
    map.insert("HairpinMode".into(), json!(false));
    map.insert("LinkLocalIPv6Address".into(), text);
    map.insert("LinkLocalIPv6PrefixLen".into(), number);
    map.insert("SecondaryIPAddresses".into(), Value::Null);
    map.insert("SecondaryIPv6Addresses".into(), Value::Null);
}

/// `<none>` for images without a name.
pub(super) fn dangling_names(value: &mut Value) {
    for (key, none) in [
        ("RepoTags", "<none>:<none>"),
        ("RepoDigests", "<none>@<none>"),
    ] {
        if let Some(list) = value.get_mut(key).and_then(Value::as_array_mut)
            && list.is_empty()
        {
            list.push(json!(none));
        }
    }
}

/// `VirtualSize`, the same as `Size`.
pub(super) fn virtual_size(value: &mut Value) {
    if let Some(size) = value.get("Size").cloned() {
        default_key(value, "", "VirtualSize", size);
    }
}

/// The container that an image was made from, which is nobody.
pub(super) fn container_of_image(value: &mut Value) {
    default_key(value, "", "Container", json!(""));
    default_key(
        value,
        "",
        "ContainerConfig",
        json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
            "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null,
            "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null,
            "OnBuild": null, "Labels": null,
        }),
    );
}

/// Fields of a container in an image's `Config`.
pub(super) fn container_fields(value: &mut Value) {
    for (key, absent) in [
        ("Hostname", json!("")),
        ("Domainname", json!("")),
        ("AttachStdin", json!(false)),
        ("AttachStdout", json!(false)),
        ("AttachStderr", json!(false)),
        ("Tty", json!(false)),
        ("OpenStdin", json!(false)),
        ("StdinOnce", json!(false)),
        ("Image", json!("")),
    ] {
        default_key(value, "/Config", key, absent);
    }
}

/// Fields of an image that are there even when empty.
pub(super) fn empty_image_fields(value: &mut Value) {
    for key in ["Parent", "Comment", "Author", "DockerVersion"] {
        default_key(value, "", key, json!(""));
    }
    for (key, absent) in [
        ("User", json!("")),
        ("Env", Value::Null),
        ("Cmd", Value::Null),
        ("Volumes", Value::Null),
        ("WorkingDir", json!("")),
        ("Entrypoint", Value::Null),
        ("OnBuild", Value::Null),
        ("Labels", Value::Null),
    ] {
        default_key(value, "/Config", key, absent);
    }
}

/// `Expected` in the versions of the runtime's parts.
pub(super) fn expected_commits(value: &mut Value) {
    for key in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        if let Some(commit) = value.get_mut(key) {
            let id = commit.get("ID").cloned().unwrap_or_else(|| json!(""));
            default_key(commit, "", "Expected", id);
        }
    }
}

/// Registries for layers that must not be given away: none.
pub(super) fn nondistributable(value: &mut Value) {
    for key in [
        "AllowNondistributableArtifactsCIDRs",
        "AllowNondistributableArtifactsHostnames",
    ] {
        default_key(value, "/RegistryConfig", key, Value::Null);
    }
}

/// Whether bridges pass packets to the host's filters: there is no host.
pub(super) fn bridge_nf(value: &mut Value) {
    for key in ["BridgeNfIptables", "BridgeNfIp6tables"] {
        default_key(value, "", key, json!(false));
    }
}

/// The three fields that events had before they had actors.
pub(super) fn old_event_fields(value: &mut Value) {
    let kind = value
        .get("Type")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    if kind != "container" && kind != "image" {
        return;
    }
    for (key, path) in [("status", "/Action"), ("id", "/Actor/ID")] {
        if let Some(field) = value.pointer(path).cloned() {
            default_key(value, "", key, field);
        }
    }
    if kind == "container"
        && let Some(image) = value.pointer("/Actor/Attributes/image").cloned()
    {
        default_key(value, "", "from", image);
    }
}
