//! Networks: the default bridge, and the two that are always listed (`host`, `none`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use time::OffsetDateTime;

use crate::ids::{ContainerId, EndpointId, NetworkId};

/// A network at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSnapshot {
    /// Its id.
    pub id: NetworkId,
    /// Its name: `bridge`, `host`, `none`.
    pub name: String,
    /// Its driver: `bridge`, `host`, `null`.
    pub driver: String,
    /// When it was made.
    pub created: OffsetDateTime,
    /// Its addresses; none for `host` and `none`.
    pub pool: Option<Pool>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Cannot be removed.
    pub predefined: bool,
    /// The containers that run in it.
    pub endpoints: BTreeMap<ContainerId, Endpoint>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pool {
    /// First address of the range (the network's own).
    pub network: Ipv4Addr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// The gateway.
    pub gateway: Ipv4Addr,
}

/// A running container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// This place.
    pub id: EndpointId,
    /// The container's name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Address.
    pub address: Ipv4Addr,
}
