//! Networks: the default bridge, and the two that are always listed (`host`, `none`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use time::OffsetDateTime;

use crate::container::vm::{EndpointRecord, Record};
use crate::context::Context;
use crate::error::Error;
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

/// The id of the default bridge: for good, so that containers find it again.
pub fn bridge_id() -> NetworkId {
    NetworkId::of_name("bridge")
}

/// What the bridge can be asked.
#[derive(Debug)]
pub enum Message {
    /// Gives a new container its place: an address for its whole life.
    Join(Join, RpcReplyPort<Result<EndpointRecord, Error>>),
    /// A container is gone, or was never made: its address is free again.
    Release(EndpointId),
}

/// A container that joins.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// Further names.
    pub aliases: Vec<String>,
    /// A fixed address.
    pub address: Option<Ipv4Addr>,
    /// A fixed MAC address.
    pub mac: Option<String>,
}

/// Addresses of a pool: each is given once until it is released.
#[derive(Debug, Clone)]
pub struct Addresses {
    pool: Pool,
    used: BTreeMap<Ipv4Addr, EndpointId>,
    next: u32,
}

impl Addresses {
    /// All of a pool but its own address, its gateway and its broadcast address.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            used: BTreeMap::new(),
            next: 0,
        }
    }

    fn hosts(&self) -> u32 {
        (1_u32 << (32 - u32::from(self.pool.prefix_len))).saturating_sub(2)
    }

    fn is_host(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.pool.network));
        (1..=self.hosts()).contains(&offset) && address != self.pool.gateway
    }

    /// Gives a free address, or the one that is wanted if it is free.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address outside, [`Error::Forbidden`] for a taken one, [`Error::Conflict`] when
    /// there is none left.
    pub fn give(&mut self, to: EndpointId, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Error> {
        if let Some(address) = wanted {
            if !self.is_host(address) {
                let text = format!("no configured subnet contains IP address {address}");
                return Err(Error::Invalid(text));
            }
            if self.used.contains_key(&address) {
                return Err(Error::Forbidden("Address already in use".into()));
            }
            self.used.insert(address, to);
            return Ok(address);
        }
        // Round robin, so that an address that was just freed is not given again at once.
        for _ in 0..self.hosts() {
            self.next = self.next % self.hosts() + 1;
            let address = Ipv4Addr::from(u32::from(self.pool.network) + self.next);
            if self.is_host(address) && !self.used.contains_key(&address) {
                self.used.insert(address, to);
                return Ok(address);
            }
        }
        Err(Error::Conflict(
            "no available IPv4 addresses on this network's address pools: bridge".into(),
        ))
    }

    /// Takes an address back.
    pub fn release(&mut self, endpoint: EndpointId) {
        self.used.retain(|_, owner| *owner != endpoint);
    }

    /// Notes an address that was given in an earlier life.
    pub fn note(&mut self, address: Ipv4Addr, endpoint: EndpointId) {
        self.used.insert(address, endpoint);
    }
}

/// The MAC address that belongs to an IPv4 address, in docker's way.
pub fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The bridge network's actor. What a crash loses: nothing; the addresses are read from the containers' VMs.
#[derive(Debug)]
pub struct Bridge;

/// The running bridge.
#[derive(Debug)]
pub struct State {
    addresses: Addresses,
    pool: Pool,
}

impl Actor for Bridge {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        let pool = context.settings().bridge;
        let mut addresses = Addresses::new(pool);
        for facts in context.vsphere().vms(&context.settings().pool).await? {
            for endpoint in Record::read(&facts.keys)
                .into_iter()
                .flat_map(|r| r.endpoints)
            {
                addresses.note(endpoint.address, endpoint.id);
            }
        }
        publish_predefined(&context);
        Ok(State { addresses, pool })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Join(join, reply) => {
                // The asker may have left: then nobody would release the address.
                if let Err(back) = reply.send(state.join(join)) {
                    tracing::debug!(%back, "a container's place was not wanted any more");
                }
            }
            Message::Release(endpoint) => state.addresses.release(endpoint),
        }
        Ok(())
    }
}

impl State {
    fn join(&mut self, join: Join) -> Result<EndpointRecord, Error> {
        let id = EndpointId::random();
        let address = self.addresses.give(id, join.address)?;
        Ok(EndpointRecord {
            network: bridge_id(),
            network_name: "bridge".into(),
            id,
            aliases: join.aliases,
            address,
            prefix_len: self.pool.prefix_len,
            gateway: self.pool.gateway,
            mac: join.mac.unwrap_or_else(|| mac_of(address)),
        })
    }
}

/// The three networks that are always there.
fn publish_predefined(context: &Context) {
    let known = |id: NetworkId| context.snapshots().networks().iter().any(|n| n.id == id);
    for (name, driver) in [("bridge", "bridge"), ("host", "host"), ("none", "null")] {
        let id = NetworkId::of_name(name);
        if known(id) {
            continue;
        }
        context.snapshots().put_network(NetworkSnapshot {
            id,
            name: name.to_owned(),
            driver: driver.to_owned(),
            created: OffsetDateTime::now_utc(),
            pool: (name == "bridge").then_some(context.settings().bridge),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            predefined: true,
            endpoints: BTreeMap::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(prefix_len: u8) -> Pool {
        let network = Ipv4Addr::new(172, 16, 0, 0);
        Pool {
            network,
            prefix_len,
            gateway: Ipv4Addr::new(172, 16, 0, 1),
        }
    }

    #[test]
    fn a_small_pool_gives_all_its_addresses_and_no_more() {
        let mut addresses = Addresses::new(pool(29));
        let given: Vec<_> = (0..5)
            .map(|_| addresses.give(EndpointId::random(), None).unwrap().octets()[3])
            .collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(addresses.give(EndpointId::random(), None).is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_never_given_twice(steps in proptest::collection::vec(any::<bool>(), 1..200)) {
            let mut addresses = Addresses::new(pool(26));
            let mut held: Vec<(EndpointId, Ipv4Addr)> = Vec::new();
            for take in steps {
                if take {
                    let id = EndpointId::random();
                    if let Ok(a) = addresses.give(id, None) {
                        prop_assert!(held.iter().all(|(_, b)| *b != a));
                        held.push((id, a));
                    }
                } else if let Some((id, _)) = held.pop() {
                    addresses.release(id);
                }
            }
        }
    }
}
