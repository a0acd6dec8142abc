//! What a container inherits from its image.

use std::collections::BTreeMap;

use actors::image::ImageSnapshot;
use serde_json::Value;

/// What a container inherits from its image.
#[derive(Clone, Debug, Default)]
pub(super) struct Inherited {
    pub(super) cmd: Vec<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) user: String,
    pub(super) working_dir: String,
    pub(super) stop_signal: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) exposed_ports: Vec<String>,
    pub(super) volumes: Vec<String>,
    pub(super) shell: Vec<String>,
    pub(super) on_build: Vec<String>,
    pub(super) healthcheck: bool,
}

impl Inherited {
    /// Reads the image's configuration.
    pub(super) fn read(image: &ImageSnapshot) -> Self {
        let config = image.container_config();
        let text = |key: &str| {
            config
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let list = |key: &str| {
            let list = config.get(key).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let keys = |key: &str| {
            let map = config.get(key).and_then(Value::as_object);
            map.into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        let labels = config.get("Labels").and_then(Value::as_object);
        let test = config
            .pointer("/Healthcheck/Test")
            .and_then(Value::as_array);
        Self {
            cmd: list("Cmd"),
            entrypoint: list("Entrypoint"),
            env: list("Env"),
            user: text("User"),
            working_dir: text("WorkingDir"),
            stop_signal: text("StopSignal"),
            labels: labels
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned()))
                .collect(),
            exposed_ports: keys("ExposedPorts"),
            volumes: keys("Volumes"),
            shell: list("Shell"),
            on_build: list("OnBuild"),
            healthcheck: test.is_some_and(|t| {
                t.first()
                    .and_then(Value::as_str)
                    .is_some_and(|w| w != "NONE")
            }),
        }
    }
}

/// The image's environment, overridden by key; `K` without `=` takes a variable away.
pub(super) fn merge_env(image: &[String], own: &[String]) -> Vec<String> {
    let key = |entry: &str| {
        entry
            .split_once('=')
            .map_or(entry, |(key, _)| key)
            .to_owned()
    };
    let mut merged: Vec<String> = own
        .iter()
        .filter(|entry| entry.contains('='))
        .cloned()
        .collect();
    let own_keys: std::collections::BTreeSet<String> = own.iter().map(|entry| key(entry)).collect();
    merged.extend(
        image
            .iter()
            .filter(|entry| !own_keys.contains(&key(entry)))
            .cloned(),
    );
    merged
}
