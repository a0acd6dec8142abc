//! Networks: list and inspect; the predefined ones cannot be removed.

use actors::network::NetworkSnapshot;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::error::{self, ApiError};
use super::reply::Reply;
use super::request::Call;
use super::timestamp;
use super::version::ApiVersion;
use super::versions::{self, Place, behaviour};

/// The keys that the list filters by.
const KEYS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// `GET /networks`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let filters = call.query.filters()?;
    filters.only(KEYS)?;
    let dangling = filters.boolean("dangling")?;
    for kind in filters.values("type") {
        if !matches!(kind.as_str(), "custom" | "builtin") {
            return Err(ApiError::bad_request(format!(
                "invalid filter: 'type'='{kind}'"
            )));
        }
    }
    let networks: Vec<Value> = call
        .engine()
        .snapshots()
        .networks()
        .iter()
        .filter(|n| filters.exact("driver", &n.driver))
        .filter(|_| filters.exact("scope", "local"))
        .filter(|n| filters.any("name", |wanted| n.name.contains(wanted)))
        .filter(|n| filters.any("id", |wanted| n.id.to_string().starts_with(wanted)))
        .filter(|n| filters.exact("type", if n.predefined { "builtin" } else { "custom" }))
        .filter(|n| filters.labels("label", |key| n.labels.get(key).map(String::as_str)))
        .filter(|n| {
            dangling.is_none_or(|wanted| wanted == (n.endpoints.is_empty() && !n.predefined))
        })
        .map(|n| {
            document(
                call.version,
                n,
                !versions::has(call.version, behaviour::NETWORK_LIST),
            )
        })
        .collect();
    super::reply::json(&networks)
}

/// `GET /networks/{}`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let scope = call.query.get("scope");
    let network = call
        .engine()
        .snapshots()
        .find_network(call.name())
        .map_err(error::answer)?;
    if !matches!(scope, "" | "local") {
        return Err(error::answer(actors::Error::NoSuchNetwork(
            call.name().to_owned(),
        )));
    }
    super::reply::json(&document(call.version, &network, true))
}

/// `DELETE /networks/{}`.
pub async fn remove(call: Call) -> Result<Reply, ApiError> {
    let network = call
        .engine()
        .snapshots()
        .find_network(call.name())
        .map_err(error::answer)?;
    if network.predefined {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            ),
        ));
    }
    Err(ApiError::not_implemented(
        "DELETE /networks/{name} is not implemented yet",
    ))
}

fn document(version: ApiVersion, network: &NetworkSnapshot, with_containers: bool) -> Value {
    let pool: Vec<Value> = network
        .pool
        .iter()
        .map(|p| json!({ "Subnet": format!("{}/{}", p.network, p.prefix_len), "Gateway": p.gateway.to_string() }))
        .collect();
    let prefix_len = network.pool.map_or(0, |p| p.prefix_len);
    let containers: Map<String, Value> = network
        .endpoints
        .iter()
        .filter(|_| with_containers)
        .map(|(id, e)| {
            (
                id.to_string(),
                json!({
                    "Name": e.name,
                    "EndpointID": e.id.to_string(),
                    "MacAddress": e.mac,
                    "IPv4Address": format!("{}/{prefix_len}", e.address),
                    "IPv6Address": "",
                }),
            )
        })
        .collect();
    let mut document = json!({
        "Name": network.name,
        "Id": network.id.to_string(),
        "Created": timestamp::nano(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": if pool.is_empty() { Value::Null } else { json!(pool) },
        },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    });
    versions::downgrade(version, Place::Network, &mut document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::tests::fake;
    use crate::docker::tests::sample;

    #[test]
    fn a_network_shows_its_running_containers_and_the_list_only_below_1_28() {
        let engine = fake::Engine::new();
        let mut container = sample::container("one");
        container.phase = actors::container::Phase::Running;
        engine.put(container);
        let bridge = engine.snapshots().find_network("bridge").expect("bridge");
        let listed = |minor| {
            let version = ApiVersion::v1(minor);
            let with = !versions::has(version, behaviour::NETWORK_LIST);
            document(version, &bridge, with)["Containers"]
                .as_object()
                .map_or(0, Map::len)
        };
        assert_eq!((listed(27), listed(28)), (1, 0));
        let whole = document(ApiVersion::v1(55), &bridge, true);
        assert_eq!(
            whole["IPAM"]["Config"],
            json!([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}])
        );
    }
}
