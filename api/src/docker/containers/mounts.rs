//! Binds, Mounts, Tmpfs, Volumes, VolumesFrom: everything that is mounted into a container.

use std::collections::BTreeMap;

use actors::container::{ContainerSnapshot, MountSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::docker::error::ApiError;

/// A mount as `HostConfig.Mounts` has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    r#type: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    bind_options: Option<Value>,
    volume_options: Option<VolumeOptions>,
    tmpfs_options: Option<TmpfsOptions>,
    image_options: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeOptions {
    no_copy: Option<bool>,
    labels: Option<BTreeMap<String, String>>,
    subpath: Option<String>,
    driver_config: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TmpfsOptions {
    size_bytes: Option<i64>,
    mode: Option<u32>,
    options: Option<Vec<Vec<String>>>,
}

/// What a bind of a host's path is answered with.
fn no_host_paths(source: &str) -> ApiError {
    if source.ends_with("docker.sock") {
        return ApiError::bad_request(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {source} (a container is a VM and \
             has no access to this machine; for testcontainers set TESTCONTAINERS_RYUK_DISABLED=true)"
        ));
    }
    ApiError::bad_request(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {source} (a container is a VM and has no \
         access to this machine's files: use a volume)"
    ))
}

fn config_error(kind: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("invalid mount config for type \"{kind}\": {why}"))
}

/// Reads one of `Binds`: `[src:]dst[:options]`.
///
/// # Errors
///
/// 400 for a text that is none, and for a path of this machine.
pub fn bind(text: &str) -> Result<MountSpec, ApiError> {
    let bad = || ApiError::bad_request(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target]
            if !target.starts_with('/') && source.starts_with('/') && is_mode(target) =>
        {
            ("", *source, *target)
        }
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(bad()),
    };
    if target.is_empty() || (parts.len() > 1 && parts[0].is_empty()) {
        return Err(bad());
    }
    if !target.starts_with('/') {
        return Err(ApiError::bad_request(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{}\": invalid mount path: '{target}' \
             mount path must be absolute",
            if source.starts_with('/') {
                "bind"
            } else {
                "volume"
            }
        )));
    }
    if !mode.is_empty() && !is_mode(mode) {
        return Err(ApiError::bad_request(format!("invalid mode: {mode}")));
    }
    let target = clean(target);
    if target == "/" {
        return Err(ApiError::bad_request(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{}\": invalid specification: \
             destination can't be '/'",
            if source.starts_with('/') {
                "bind"
            } else {
                "volume"
            }
        )));
    }
    if source.starts_with('/') {
        return Err(no_host_paths(source));
    }
    if !source.is_empty() {
        check_volume_name(source)?;
    }
    let has = |word: &str| mode.split(',').any(|m| m == word);
    Ok(MountSpec::Volume {
        name: (!source.is_empty()).then(|| source.to_owned()),
        target,
        read_only: has("ro"),
        no_copy: has("nocopy"),
        labels: BTreeMap::new(),
        mode: if mode.is_empty() {
            "z".to_owned()
        } else {
            mode.to_owned()
        },
    })
}

fn is_mode(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "ro",
        "rw",
        "z",
        "Z",
        "nocopy",
        "copy",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "consistent",
        "cached",
        "delegated",
        "default",
    ];
    !text.is_empty() && text.split(',').all(|word| WORDS.contains(&word))
}

/// Checks a volume's name as moby's local driver does.
///
/// # Errors
///
/// 400 with moby's text.
pub fn check_volume_name(name: &str) -> Result<(), ApiError> {
    let good = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if name.len() == 1 && good {
        return Err(ApiError::bad_request(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    if good {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Reads one of `Mounts`.
///
/// # Errors
///
/// 400 with moby's texts, and for what a VM cannot have.
pub fn mount(mount: &Mount) -> Result<MountSpec, ApiError> {
    let kind = mount.r#type.as_deref().unwrap_or("");
    let target = mount.target.as_deref().unwrap_or("");
    let source = mount.source.as_deref().unwrap_or("");
    for (name, given, own) in [
        (
            "BindOptions",
            mount.bind_options.as_ref().is_some_and(|v| !v.is_null()),
            "bind",
        ),
        ("VolumeOptions", mount.volume_options.is_some(), "volume"),
        ("TmpfsOptions", mount.tmpfs_options.is_some(), "tmpfs"),
        (
            "ImageOptions",
            mount.image_options.as_ref().is_some_and(|v| !v.is_null()),
            "image",
        ),
    ] {
        if given && kind != own {
            return Err(config_error(
                kind,
                &format!("{name} must not be specified on mount type \"{kind}\""),
            ));
        }
    }
    if !matches!(
        kind,
        "volume" | "bind" | "tmpfs" | "image" | "cluster" | "npipe"
    ) {
        return Err(config_error(kind, "mount type unknown"));
    }
    if target.is_empty() {
        return Err(config_error(kind, "field Target must not be empty"));
    }
    if !target.starts_with('/') {
        return Err(config_error(
            kind,
            &format!("invalid mount path: '{target}' mount path must be absolute"),
        ));
    }
    let target = clean(target);
    if target == "/" {
        return Err(config_error(
            kind,
            "invalid specification: destination can't be '/'",
        ));
    }
    let read_only = mount.read_only.unwrap_or(false);
    match kind {
        "volume" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            if options.subpath.as_deref().is_some_and(|s| !s.is_empty()) {
                return Err(config_error(
                    kind,
                    "mounting a part of a volume (Subpath) is not implemented yet",
                ));
            }
            let driver = options
                .driver_config
                .as_ref()
                .and_then(|d| d.get("Name"))
                .and_then(Value::as_str);
            if driver.is_some_and(|d| !matches!(d, "" | "local" | "vsphere")) {
                return Err(config_error(
                    kind,
                    &format!("unknown volume driver: {}", driver.unwrap_or("")),
                ));
            }
            if !source.is_empty() {
                check_volume_name(source)?;
            }
            Ok(MountSpec::Volume {
                name: (!source.is_empty()).then(|| source.to_owned()),
                target,
                read_only,
                no_copy: options.no_copy.unwrap_or(false),
                labels: options.labels.unwrap_or_default(),
                mode: "z".to_owned(),
            })
        }
        "tmpfs" => {
            if !source.is_empty() {
                return Err(config_error(kind, "field Source must not be specified"));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let mut words = Vec::new();
            if let Some(size) = options.size_bytes.filter(|size| *size > 0) {
                words.push(format!("size={size}"));
            }
            if let Some(mode) = options.mode.filter(|mode| *mode > 0) {
                words.push(format!("mode={mode:o}"));
            }
            words.extend(
                options
                    .options
                    .unwrap_or_default()
                    .iter()
                    .map(|pair| pair.join("=")),
            );
            if read_only {
                words.push("ro".to_owned());
            }
            Ok(MountSpec::Tmpfs {
                target,
                options: words.join(","),
            })
        }
        "bind" if source.is_empty() => Err(config_error(kind, "field Source must not be empty")),
        // moby's very words: here it too has nothing at this path.
        "bind" => Err(config_error(
            kind,
            &format!("bind source path does not exist: {source}"),
        )),
        "image" => Err(config_error(
            kind,
            "mounting an image is not implemented yet",
        )),
        other => Err(config_error(other, "this type of mount is not supported")),
    }
}

/// Reads `VolumesFrom`: the volumes of another container, by name.
///
/// # Errors
///
/// 400 for a mode that is none.
pub fn from_container(
    container: &ContainerSnapshot,
    mode: &str,
) -> Result<Vec<MountSpec>, ApiError> {
    if !mode.is_empty() && !is_mode(mode) {
        return Err(ApiError::bad_request(format!("invalid mode: {mode}")));
    }
    let read_only = mode.split(',').any(|word| word == "ro");
    Ok(container
        .mounts
        .iter()
        .filter_map(|mount| {
            let name = mount.volume.clone()?;
            Some(MountSpec::Volume {
                name: Some(name),
                target: mount.target.clone(),
                read_only: read_only || mount.read_only,
                no_copy: true,
                labels: BTreeMap::new(),
                mode: mode.to_owned(),
            })
        })
        .collect())
}

/// Joins all mounts: the client's must not share a place; the image's volumes and `VolumesFrom` give way.
///
/// # Errors
///
/// 400 `Duplicate mount point: <p>`.
pub fn join(asked: Vec<MountSpec>, giving_way: Vec<MountSpec>) -> Result<Vec<MountSpec>, ApiError> {
    let mut all: Vec<MountSpec> = Vec::with_capacity(asked.len() + giving_way.len());
    for mount in asked {
        if all.iter().any(|other| other.target() == mount.target()) {
            return Err(ApiError::bad_request(format!(
                "Duplicate mount point: {}",
                mount.target()
            )));
        }
        all.push(mount);
    }
    for mount in giving_way {
        if !all.iter().any(|other| other.target() == mount.target()) {
            all.push(mount);
        }
    }
    Ok(all)
}

/// An anonymous volume at a place, as `Config.Volumes` asks for.
///
/// # Errors
///
/// 400 for a place that is not absolute, or `/`.
pub fn anonymous(target: &str) -> Result<MountSpec, ApiError> {
    let bad = |why: String| {
        ApiError::bad_request(format!("invalid volume specification: '{target}': {why}"))
    };
    if !target.starts_with('/') {
        return Err(bad(format!(
            "invalid mount config for type \"volume\": invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    let target = clean(target);
    if target == "/" {
        return Err(bad("invalid mount config for type \"volume\": invalid specification: destination can't be '/'".into()));
    }
    Ok(MountSpec::Volume {
        name: None,
        target,
        read_only: false,
        no_copy: false,
        labels: BTreeMap::new(),
        mode: String::new(),
    })
}

/// An absolute path without `.`, `..` and doubled slashes, as Go's `path.Clean`.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: Option<&str>, target: &str, read_only: bool) -> MountSpec {
        MountSpec::Volume {
            name: name.map(str::to_owned),
            target: target.to_owned(),
            read_only,
            no_copy: false,
            labels: BTreeMap::new(),
            mode: "z".to_owned(),
        }
    }

    #[test]
    fn binds_name_volumes() {
        assert_eq!(
            bind("data:/d").expect("bind"),
            volume(Some("data"), "/d", false)
        );
        assert_eq!(bind("/d").expect("bind"), volume(None, "/d", false));
        let MountSpec::Volume {
            read_only,
            mode,
            target,
            ..
        } = bind("data:/a//b/../c:ro").expect("bind")
        else {
            panic!("a volume")
        };
        assert_eq!(
            (read_only, mode.as_str(), target.as_str()),
            (true, "ro", "/a/c")
        );
    }

    #[test]
    fn what_a_bind_cannot_be_is_refused() {
        for (text, why) in [
            (
                "/tmp:/h",
                "invalid mount config for type \"bind\": bind source path does not exist: /tmp",
            ),
            ("data:/", "invalid volume specification: 'data:/': "),
            ("data:d", "invalid volume specification: 'data:d': "),
            (":/d", "invalid volume specification: ':/d'"),
            ("a:/b:ro:x", "invalid volume specification: 'a:/b:ro:x'"),
            ("aa:/b:nope", "invalid mode: nope"),
            (
                "a$:/b",
                "create a$: \"a$\" includes invalid characters for a local volume name",
            ),
            ("a:/b", "create a: volume name is too short"),
            (
                "/var/run/docker.sock:/var/run/docker.sock:rw",
                "invalid mount config",
            ),
        ] {
            let error = bind(text).expect_err(text);
            assert!(
                error.message().starts_with(why),
                "{text}: {}",
                error.message()
            );
        }
    }

    #[test]
    fn mounts_are_checked_as_moby_checks_them() {
        let read = |json: &str| {
            serde_json::from_str::<Mount>(json)
                .map(|m| mount(&m))
                .expect("json")
        };
        assert_eq!(
            read(r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1024,"Mode":448}}"#)
                .expect("tmpfs"),
            MountSpec::Tmpfs {
                target: "/t".into(),
                options: "size=1024,mode=700".into()
            }
        );
        assert_eq!(
            read(r#"{"Type":"volume","Source":"data","Target":"/d","ReadOnly":true}"#)
                .expect("volume"),
            volume(Some("data"), "/d", true)
        );
        for (json, why) in [
            (
                r#"{"Type":"bind","Target":"/t"}"#,
                "invalid mount config for type \"bind\": field Source must not be empty",
            ),
            (
                r#"{"Type":"volume","Target":"t"}"#,
                "invalid mount config for type \"volume\": invalid mount path: 't' mount path must be absolute",
            ),
            (
                r#"{"Type":"volume","Target":"/"}"#,
                "invalid mount config for type \"volume\": invalid specification: destination can't be '/'",
            ),
            (
                r#"{"Type":"bind","Source":"/x","Target":"/t","VolumeOptions":{}}"#,
                "invalid mount config for type \"bind\": VolumeOptions must not be specified on mount type \"bind\"",
            ),
        ] {
            assert_eq!(read(json).expect_err(json).message(), why);
        }
    }

    #[test]
    fn no_two_mounts_share_a_place_but_the_images_give_way() {
        let one = volume(Some("aa"), "/d", false);
        let two = volume(Some("bb"), "/d", false);
        let error = join(vec![one.clone(), two.clone()], vec![]).expect_err("double");
        assert_eq!(error.message(), "Duplicate mount point: /d");
        assert_eq!(
            join(vec![one.clone()], vec![two]).expect("joined"),
            vec![one]
        );
    }
}
