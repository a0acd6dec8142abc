//! A network: its addresses, and the places of containers in it. One actor each: the default bridge, and the two that
//! are always listed (`host`, `none`), which have no addresses to give.
//!
//! ```text
//!  Join: address given, promised ──▶ the container's VM carries it ──▶ Release: free again
//! ```
//! What a crash loses: nothing. Addresses are read from the containers' VMs, those of containers that are being made
//! from the promises, which outlive the actor.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Address, AskError, ChildSpec, Children, Restart};
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

/// The networks that are always there: name and driver.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// How long a network may take to give a place.
const JOIN: Duration = Duration::from_secs(60);

/// How long a release is tried to be delivered, over restarts of the actor.
const RELEASE: Duration = Duration::from_secs(60);

/// What a network can be asked.
#[derive(Debug)]
pub enum Message {
    /// Gives a new container its place: an address for its whole life, promised until [`Promises::keep`].
    Join(Join, RpcReplyPort<Result<EndpointRecord, Error>>),
    /// A container is gone, or was never made: its address is free again.
    Release(EndpointId, RpcReplyPort<()>),
    /// A container has come that was not made by this program: its address is in use.
    Note(EndpointId, Ipv4Addr),
}

/// The lasting addresses of the networks' actors, by id.
#[derive(Debug, Clone)]
pub struct Addresses(pub BTreeMap<NetworkId, Address<Message>>);

impl Default for Addresses {
    fn default() -> Self {
        let entry = |(name, _): (&str, &str)| (NetworkId::of_name(name), Address::default());
        Self(PREDEFINED.into_iter().map(entry).collect())
    }
}

/// Addresses that were given to containers whose VMs are not there yet. They outlive the network's actor, which could
/// not find them in vSphere.
#[derive(Debug, Default)]
pub struct Promises(Mutex<BTreeMap<EndpointId, (NetworkId, Ipv4Addr)>>);

impl Promises {
    /// The VM is there and carries the address, or the address was given back.
    pub fn keep(&self, endpoint: EndpointId) {
        self.lock().remove(&endpoint);
    }

    fn make(&self, endpoint: EndpointId, network: NetworkId, address: Ipv4Addr) {
        self.lock().insert(endpoint, (network, address));
    }

    fn of(&self, network: NetworkId) -> Vec<(EndpointId, Ipv4Addr)> {
        self.lock()
            .iter()
            .filter(|(_, (of, _))| *of == network)
            .map(|(endpoint, (_, address))| (*endpoint, *address))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, (NetworkId, Ipv4Addr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The networks' supervisor's children.
pub fn children(context: &Context) -> Children {
    let context = context.clone();
    Arc::new(move || {
        let specs = PREDEFINED.into_iter().filter_map(|(name, driver)| {
            let args = Args {
                context: context.clone(),
                name,
                driver,
            };
            let address = context.network(NetworkId::of_name(name))?.clone();
            let make = move || (Network, args.clone());
            Some(ChildSpec::new(name, Restart::Permanent, address, make).kind("network"))
        });
        let specs = specs.collect();
        Box::pin(async move { Ok(specs) })
    })
}

/// Takes a place in a network.
///
/// # Errors
/// [`Error::NoSuchNetwork`], and those of [`Ipam::give`].
pub(crate) async fn join(
    context: &Context,
    network: NetworkId,
    join: Join,
) -> Result<EndpointRecord, Error> {
    let missing = || Error::NoSuchNetwork(network.to_string());
    let address = context.network(network).ok_or_else(missing)?;
    loop {
        let question = |reply| Message::Join(join.clone(), reply);
        match address.ask(JOIN, question).await {
            // The actor died with the question, perhaps after it had given: it is the same place again.
            Err(AskError::Interrupted) => {}
            Ok(answer) => return answer,
            Err(why) => {
                release(context, network, join.endpoint);
                return Err(Error::failed_for_now("join the network", &why));
            }
        }
    }
}

/// Gives a place back, whatever happens to the network's actor meanwhile. Does not wait.
pub(crate) fn release(context: &Context, network: NetworkId, endpoint: EndpointId) {
    context.promises().keep(endpoint);
    let Some(address) = context.network(network).cloned() else {
        return;
    };
    tokio::spawn(async move {
        // An actor that dies with it has a successor, which may have read the VMs before this one was gone.
        while let Err(AskError::Interrupted) = address
            .ask(RELEASE, |reply| Message::Release(endpoint, reply))
            .await
        {}
    });
}

/// A container that joins.
#[derive(Debug, Clone)]
pub struct Join {
    /// Its place, which the asker names: asking again gives the same address again.
    pub endpoint: EndpointId,
    /// Further names.
    pub aliases: Vec<String>,
    /// A fixed address.
    pub address: Option<Ipv4Addr>,
    /// A fixed MAC address.
    pub mac: Option<String>,
}

/// Addresses of a pool: each is given once until it is released.
#[derive(Debug, Clone)]
pub struct Ipam {
    pool: Pool,
    used: BTreeMap<Ipv4Addr, EndpointId>,
    next: u32,
}

impl Ipam {
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
        if let Some((given, _)) = self.used.iter().find(|(_, owner)| **owner == to) {
            return Ok(*given);
        }
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

/// The network actor.
#[derive(Debug)]
pub struct Network;

/// What it is started with.
#[derive(Debug, Clone)]
pub struct Args {
    context: Context,
    name: &'static str,
    driver: &'static str,
}

/// A running network.
#[derive(Debug)]
pub struct State {
    context: Context,
    id: NetworkId,
    name: &'static str,
    /// None: nobody joins it.
    addresses: Option<Ipam>,
}

impl Actor for Network {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        args: Args,
    ) -> Result<State, ActorProcessingErr> {
        let Args {
            context,
            name,
            driver,
        } = args;
        let id = NetworkId::of_name(name);
        let pool = (driver == "bridge").then_some(context.settings().bridge);
        let addresses = match pool {
            Some(pool) => Some(in_use(&context, id, pool).await?),
            None => None,
        };
        // Whoever runs in it stays on the shelf.
        if context.snapshots().networks().iter().all(|n| n.id != id) {
            context.snapshots().put_network(NetworkSnapshot {
                id,
                name: name.to_owned(),
                driver: driver.to_owned(),
                created: OffsetDateTime::now_utc(),
                pool,
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
                predefined: true,
                endpoints: BTreeMap::new(),
            });
        }
        Ok(State {
            context,
            id,
            name,
            addresses,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Join(join, reply) => {
                let place = state.join(join);
                let given = place.as_ref().ok().map(|place| place.id);
                if reply.send(place).is_err()
                    && let Some(endpoint) = given
                {
                    // The asker has left: nobody else would give it back.
                    state.release(endpoint);
                }
            }
            Message::Release(endpoint, reply) => {
                state.release(endpoint);
                let _ = reply.send(());
            }
            Message::Note(endpoint, address) => {
                if let Some(addresses) = &mut state.addresses {
                    addresses.note(address, endpoint);
                }
            }
        }
        Ok(())
    }
}

/// The addresses of a network, less those that containers have or are promised.
async fn in_use(context: &Context, id: NetworkId, pool: Pool) -> Result<Ipam, Error> {
    let mut addresses = Ipam::new(pool);
    // The promises first: one that is kept meanwhile is in a VM then.
    for (endpoint, address) in context.promises().of(id) {
        addresses.note(address, endpoint);
    }
    for facts in context.vsphere().vms(&context.settings().pool).await? {
        let record = Record::read(&facts.keys);
        let endpoints = record.into_iter().flat_map(|r| r.endpoints);
        for endpoint in endpoints.filter(|e| e.network == id) {
            addresses.note(endpoint.address, endpoint.id);
        }
    }
    Ok(addresses)
}

impl State {
    fn join(&mut self, join: Join) -> Result<EndpointRecord, Error> {
        let missing = || Error::NoSuchNetwork(self.name.to_owned());
        let addresses = self.addresses.as_mut().ok_or_else(missing)?;
        let id = join.endpoint;
        let address = addresses.give(id, join.address)?;
        self.context.promises().make(id, self.id, address);
        Ok(EndpointRecord {
            network: self.id,
            network_name: self.name.to_owned(),
            id,
            aliases: join.aliases,
            address,
            prefix_len: addresses.pool.prefix_len,
            gateway: addresses.pool.gateway,
            mac: join.mac.unwrap_or_else(|| mac_of(address)),
        })
    }

    fn release(&mut self, endpoint: EndpointId) {
        self.context.promises().keep(endpoint);
        if let Some(addresses) = &mut self.addresses {
            addresses.release(endpoint);
        }
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
        let mut addresses = Ipam::new(pool(29));
        let given: Vec<_> = (0..5)
            .map(|_| addresses.give(EndpointId::random(), None).unwrap().octets()[3])
            .collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
        assert!(addresses.give(EndpointId::random(), None).is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_never_given_twice(steps in proptest::collection::vec(any::<bool>(), 1..200)) {
            let mut addresses = Ipam::new(pool(26));
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
