//! The VM's network: loopback, addresses by configuration or DHCP, name files.

use std::io;
use std::net::IpAddr;

use tether_protocol::config::{Cidr, ExecutorConfig, NetworkEndpoint};
use tether_protocol::nicinfo::{Nic, NicInfo};
use tether_sys::netlink::{Address, Netlink, Route};

pub mod dhcp;
mod dhcp_client;
mod keeper;
mod leases;
pub mod names;

pub use dhcp_client::Lease;

/// The network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused.
    #[error("{what} of {interface}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No DHCP server answered.
    #[error("getting an address for {interface} by DHCP")]
    Dhcp {
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One NIC as it was set up.
#[derive(Debug)]
pub struct Interface {
    /// Its number among the VM's NICs.
    pub device: u32,
    /// Its name.
    pub name: String,
    /// Its number in the kernel.
    pub index: u32,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address, from the configuration or DHCP.
    pub address: Option<Cidr>,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// What DHCP gave.
    pub lease: Option<Lease>,
    /// Networks that are reached through this NIC; all when there are none.
    destinations: Vec<Cidr>,
    keeper: Option<leases::Kept>,
}

/// The network as it was set up.
#[derive(Debug, Default)]
pub struct Network {
    /// The NICs.
    pub interfaces: Vec<Interface>,
    /// Search domain that DHCP gave.
    pub domain: Option<String>,
}

impl Network {
    /// Brings everything up.
    ///
    /// # Errors
    /// When the kernel refuses, or DHCP gives no address.
    pub fn set_up(config: &ExecutorConfig) -> Result<Self, NetworkError> {
        let mut netlink = Netlink::open().map_err(|s| kernel("opening the netlink", "lo", s))?;
        if let Ok(index) = netlink.index("lo") {
            netlink
                .set_up(index, true)
                .map_err(|s| kernel("bringing up", "lo", s))?;
        }
        let mut network = Self::default();
        for endpoint in &config.networks {
            let interface = bring_up(&mut netlink, endpoint, config.host_name())?;
            let domain = interface
                .lease
                .as_ref()
                .and_then(|lease| lease.domain.clone());
            network.domain = network.domain.take().or(domain);
            let is_way_out = network.gateway().is_none();
            interface.configure(&mut netlink, is_way_out)?;
            network.interfaces.push(interface);
        }
        Ok(network)
    }

    /// The address by which the VM is known: the first.
    pub fn primary(&self) -> Option<Cidr> {
        self.interfaces.iter().find_map(|i| i.address)
    }

    /// Name servers: those configured, else those of the networks, else the gateway.
    pub fn name_servers(&self, config: &ExecutorConfig) -> Vec<IpAddr> {
        if !config.dns.is_empty() {
            return config.dns.clone();
        }
        let told: Vec<_> = self.interfaces.iter().flat_map(|i| i.dns.clone()).collect();
        if told.is_empty() {
            self.gateway().into_iter().collect()
        } else {
            told
        }
    }

    fn gateway(&self) -> Option<IpAddr> {
        self.interfaces.iter().find_map(|i| i.gateway)
    }

    /// What vSphere is told.
    pub fn report(&self, config: &ExecutorConfig) -> NicInfo {
        let nic = |i: &Interface| Nic {
            mac: mac_text(i.mac),
            addresses: i.address.into_iter().collect(),
            dhcp: i.lease.is_some(),
        };
        NicInfo {
            nics: self.interfaces.iter().map(nic).collect(),
            host_name: config.host_name().to_owned(),
            domain_name: config.domainname.clone(),
            dns: self.name_servers(config),
            search: config.dns_search.clone(),
            gateway: self.gateway(),
        }
    }
}

fn kernel(what: &'static str, interface: &str, source: io::Error) -> NetworkError {
    NetworkError::Kernel {
        what,
        interface: interface.to_owned(),
        source,
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn bring_up(
    netlink: &mut Netlink,
    endpoint: &NetworkEndpoint,
    host_name: &str,
) -> Result<Interface, NetworkError> {
    let name = format!("eth{}", endpoint.device);
    let link = netlink
        .link(&name)
        .map_err(|s| kernel("finding", &name, s))?;
    let link = link.ok_or_else(|| kernel("finding", &name, io::ErrorKind::NotFound.into()))?;
    netlink
        .set_up(link.index, true)
        .map_err(|s| kernel("bringing up", &name, s))?;
    let mac = link.mac.unwrap_or_default();
    let mut interface = Interface {
        device: endpoint.device,
        name: name.clone(),
        index: link.index,
        mac,
        address: endpoint.address,
        gateway: endpoint.gateway,
        dns: endpoint.dns.clone(),
        lease: None,
        destinations: endpoint.destinations.clone(),
        keeper: None,
    };
    if interface.address.is_none() && !endpoint.unnumbered {
        let lease =
            dhcp_client::acquire(&name, mac, host_name).map_err(|source| NetworkError::Dhcp {
                interface: name.clone(),
                source,
            })?;
        interface.keeper = Some(leases::Kept::new(endpoint, mac, host_name, lease.clone()));
        interface.take(endpoint, lease);
    }
    Ok(interface)
}

impl Interface {
    /// Its address comes, or came, from DHCP.
    pub fn is_leased(&self) -> bool {
        self.keeper.is_some()
    }

    /// What DHCP gave counts where the configuration says nothing.
    fn take(&mut self, endpoint: &NetworkEndpoint, lease: Lease) {
        self.address = Some(lease.address);
        self.gateway = endpoint.gateway.or(lease.gateway.map(IpAddr::V4));
        self.dns.clone_from(&endpoint.dns);
        if self.dns.is_empty() {
            self.dns = lease.dns.iter().copied().map(IpAddr::V4).collect();
        }
        self.lease = Some(lease);
    }

    /// Gives the NIC its address and routes; the default route only where this is the way out.
    fn configure(&self, netlink: &mut Netlink, is_way_out: bool) -> Result<(), NetworkError> {
        let failed = |what| move |source| kernel(what, &self.name, source);
        if let Some(Cidr { ip, prefix }) = self.address {
            let address = Address {
                index: self.index,
                ip,
                prefix,
            };
            netlink
                .add_address(&address)
                .map_err(failed("adding the address"))?;
        }
        for destination in &self.destinations {
            let route = Route {
                destination: Some((destination.ip, destination.prefix)),
                gateway: self.gateway,
                index: Some(self.index),
                ..Route::default()
            };
            netlink
                .add_route(&route)
                .map_err(failed("adding a route"))?;
        }
        if let Some(gateway) = self.gateway
            && self.destinations.is_empty()
            && is_way_out
        {
            let route = Route {
                gateway: Some(gateway),
                index: Some(self.index),
                ..Route::default()
            };
            netlink
                .add_route(&route)
                .map_err(failed("adding the default route"))?;
        }
        Ok(())
    }
}
