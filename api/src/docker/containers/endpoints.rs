//! `NetworkMode` and `NetworkingConfig`: which networks a container joins.

use actors::container::EndpointSpec;
use serde_json::{Map, Value};

use super::fields::{self, Section};
use crate::docker::engine::Engine;
use crate::docker::error::{self, ApiError};

/// `NetworkMode` as inspect shows it: `default` and nothing mean the default bridge.
pub fn normal_mode(mode: &str) -> &str {
    match mode {
        "" | "default" => "bridge",
        other => other,
    }
}

/// Refuses modes that a VM cannot have.
///
/// # Errors
///
/// 400: the host's network and another container's are out of reach.
pub fn check_mode(mode: &str) -> Result<(), ApiError> {
    if mode == "host" {
        return Err(ApiError::bad_request(
            "host network mode is not supported: a container is a VM and cannot share this machine's network",
        ));
    }
    if let Some(other) = mode.strip_prefix("container:") {
        if other.is_empty() {
            return Err(ApiError::bad_request(
                "Invalid network mode: invalid container format container:<name|id>",
            ));
        }
        return Err(ApiError::bad_request(
            "container network mode is not supported: two containers are two VMs and cannot share a network stack",
        ));
    }
    Ok(())
}

/// Refuses a MAC address that is none.
///
/// # Errors
///
/// 400 with moby's text.
pub fn check_mac(mac: &str) -> Result<(), ApiError> {
    let parts: Vec<&str> = mac.split([':', '-']).collect();
    let good = parts.len() == 6
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    match good {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!("invalid MAC address: {mac}"))),
    }
}

/// Checks the endpoints by the table of fields.
///
/// # Errors
///
/// 400 with the text of the first refused field.
pub fn check(endpoints: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    for endpoint in endpoints.values() {
        fields::check(Section::Endpoint, endpoint, warnings)?;
        if let Some(mac) = endpoint
            .get("MacAddress")
            .and_then(Value::as_str)
            .filter(|m| !m.is_empty())
        {
            check_mac(mac)?;
        }
    }
    Ok(())
}

/// The networks that a container joins, its main one first.
///
/// # Errors
///
/// 400 for a network that is not there: not 404, which the CLI takes for a missing image and pulls.
pub fn resolve(
    engine: &Engine,
    mode: &str,
    endpoints: &Map<String, Value>,
    container_mac: Option<&str>,
) -> Result<Vec<EndpointSpec>, ApiError> {
    if mode == "none" {
        return Ok(Vec::new());
    }
    let find = |wanted: &str| {
        engine
            .snapshots()
            .find_network(wanted)
            .map_err(|why| ApiError::bad_request(error::answer(why).message().to_owned()))
    };
    let main = find(mode)?;
    let mut specs = vec![EndpointSpec {
        network: main.id,
        aliases: Vec::new(),
        address: None,
        mac: None,
    }];
    for (name, asked) in endpoints {
        let network = find(name)?;
        let spec = match specs.iter_mut().find(|spec| spec.network == network.id) {
            Some(spec) => spec,
            None => {
                specs.push(EndpointSpec {
                    network: network.id,
                    aliases: Vec::new(),
                    address: None,
                    mac: None,
                });
                let last = specs.len() - 1;
                &mut specs[last]
            }
        };
        let aliases = asked.get("Aliases").and_then(Value::as_array);
        let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
        spec.aliases = aliases.map(str::to_owned).collect();
        spec.mac = asked
            .get("MacAddress")
            .and_then(Value::as_str)
            .filter(|m| !m.is_empty())
            .map(str::to_owned);
    }
    if let Some(mac) = container_mac
        && specs[0].mac.is_none()
    {
        specs[0].mac = Some(mac.to_owned());
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_need_a_host_are_refused() {
        assert!(
            check_mode("bridge").is_ok()
                && check_mode("none").is_ok()
                && check_mode("mine").is_ok()
        );
        assert!(check_mode("host").is_err() && check_mode("container:x").is_err());
        assert_eq!(normal_mode("default"), "bridge");
    }

    #[test]
    fn a_mac_address_has_six_bytes() {
        assert!(check_mac("02:42:ac:11:00:09").is_ok());
        for bad in ["", "02:42", "02:42:ac:11:00:zz"] {
            assert_eq!(
                check_mac(bad).expect_err("bad").message(),
                format!("invalid MAC address: {bad}")
            );
        }
    }
}
