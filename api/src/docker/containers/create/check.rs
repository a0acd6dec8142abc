//! What can be refused without the image: settings that make no sense, or contradict each other.

use serde_json::Value;

use super::Config;
use crate::docker::containers::hostconfig::HostConfig;
use crate::docker::containers::{endpoints, matching, signal};
use crate::docker::error::ApiError;
use crate::docker::version::ApiVersion;
use crate::docker::versions::{self, behaviour};

/// The longest host name that Linux takes.
const MAX_HOSTNAME: usize = 64;

/// Checks `Config` by itself, in moby's order and words.
pub(super) fn config(config: &Config) -> Result<(), ApiError> {
    let bad = |text: String| Err(ApiError::bad_request(text));
    if config.image.is_empty() {
        return bad("config cannot be empty in order to create a container".to_owned());
    }
    if config.hostname.len() > MAX_HOSTNAME {
        return bad(format!(
            "hostname {:?} is too long (maximum 64 bytes)",
            config.hostname
        ));
    }
    if let Some(entry) = config
        .env
        .iter()
        .find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
    {
        return bad(format!("invalid environment variable: {entry}"));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return bad(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    for port in config.exposed_ports.keys() {
        if matching::Ports::parse(port).is_none() {
            return bad(format!("invalid port specification: {port:?}"));
        }
    }
    if let Some(interval) = config
        .healthcheck
        .as_ref()
        .and_then(|h| h.get("Interval"))
        .and_then(Value::as_i64)
        && interval != 0
        && interval < 1_000_000
    {
        return bad("Interval in Healthcheck cannot be less than 1ms".to_owned());
    }
    Ok(())
}

/// Settings that contradict a network of somebody else.
pub(super) fn conflicts(config: &Config, host: &HostConfig) -> Result<(), ApiError> {
    if !host.network_mode.starts_with("container:") {
        return Ok(());
    }
    let rows = [
        (
            !config.hostname.is_empty(),
            "conflicting options: hostname and the network mode",
        ),
        (
            !host.dns.is_empty(),
            "conflicting options: dns and the network mode",
        ),
        (
            !host.extra_hosts.is_empty(),
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            !config.mac_address.is_empty(),
            "conflicting options: mac-address and the network mode",
        ),
        (
            !host.port_bindings.is_empty(),
            "conflicting options: port publishing and the container type network mode",
        ),
    ];
    match rows.iter().find(|(clashes, _)| *clashes) {
        Some((_, text)) => Err(ApiError::bad_request(*text)),
        None => Ok(()),
    }
}

/// The container's own MAC address, which newer versions take from the endpoint only.
pub(super) fn mac(
    version: ApiVersion,
    config: &Config,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, ApiError> {
    if config.mac_address.is_empty() || versions::has(version, behaviour::CONTAINER_MAC) {
        return Ok(None);
    }
    endpoints::check_mac(&config.mac_address)?;
    if versions::has(version, behaviour::MAC_WARNING) {
        warnings.push(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
                .to_owned(),
        );
    }
    Ok(Some(config.mac_address.clone()))
}
