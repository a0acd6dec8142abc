//! Leases on the wire: the sockets that the keepers ask through, and what becomes of the interfaces.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use tether_protocol::config::{Cidr, NetworkEndpoint};
use tether_sys::netlink::{Address, Netlink};

use super::dhcp::MAX_MESSAGE;
use super::keeper::{Change, Keeper};
use super::{Interface, Lease, Network, NetworkError, dhcp_client, kernel};

/// The lease of one interface, and the socket while answers are expected.
#[derive(Debug)]
pub(super) struct Kept {
    keeper: Keeper,
    endpoint: NetworkEndpoint,
    /// Open only while there is a question: port 68 is the container's else.
    socket: Option<UdpSocket>,
}

impl Kept {
    pub(super) fn new(
        endpoint: &NetworkEndpoint,
        mac: [u8; 6],
        host_name: &str,
        lease: Lease,
    ) -> Self {
        Self {
            keeper: Keeper::new(mac, host_name, dhcp_client::transaction(mac), lease),
            endpoint: endpoint.clone(),
            socket: None,
        }
    }

    fn send(&mut self, name: &str, question: Option<(Vec<u8>, SocketAddrV4)>) {
        let Some((message, to)) = question else {
            return;
        };
        if self.socket.is_none() {
            self.socket = dhcp_client::open(name)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
                .inspect_err(|error| crate::say!("asking for an address of {name}: {error}"))
                .ok();
        }
        if let Some(socket) = &self.socket {
            // What is lost is asked again.
            let _ = socket.send_to(&message, to);
        }
    }
}

impl Network {
    /// When a lease is to be looked after.
    pub fn due(&self) -> Option<Instant> {
        let kept = self.interfaces.iter().filter_map(|i| i.keeper.as_ref());
        kept.filter_map(|kept| kept.keeper.due()).min()
    }

    /// The sockets on which DHCP servers answer.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let kept = self.interfaces.iter().filter_map(|i| i.keeper.as_ref());
        kept.filter_map(|kept| kept.socket.as_ref().map(AsFd::as_fd))
    }

    /// Looks after the leases; true when addresses, gateways or name servers have changed.
    pub fn turn(&mut self) -> bool {
        let mut changed = false;
        for index in 0..self.interfaces.len() {
            let mut gateways = self.interfaces[..index].iter();
            let is_way_out = gateways.all(|other| other.gateway.is_none());
            changed |= self.interfaces[index].turn(is_way_out);
        }
        if changed {
            let leases = self.interfaces.iter().filter_map(|i| i.lease.as_ref());
            self.domain = leases.filter_map(|lease| lease.domain.clone()).next();
        }
        changed
    }
}

impl Interface {
    fn turn(&mut self, is_way_out: bool) -> bool {
        let Some(mut kept) = self.keeper.take() else {
            return false;
        };
        let mut changed = false;
        let mut buffer = [0; MAX_MESSAGE];
        while let Some(Ok(count)) = kept.socket.as_ref().map(|socket| socket.recv(&mut buffer)) {
            let (question, change) = kept.keeper.on_message(&buffer[..count], Instant::now());
            changed |= self.apply(&kept.endpoint, change, is_way_out);
            kept.send(&self.name, question);
        }
        let (question, change) = kept.keeper.on_time(Instant::now());
        changed |= self.apply(&kept.endpoint, change, is_way_out);
        kept.send(&self.name, question);
        if !kept.keeper.listens() {
            kept.socket = None;
        }
        self.keeper = Some(kept);
        changed
    }

    /// Does to the interface what a change of its lease means; true when others must know.
    fn apply(
        &mut self,
        endpoint: &NetworkEndpoint,
        change: Option<Change>,
        is_way_out: bool,
    ) -> bool {
        let before = (self.address, self.gateway, self.dns.clone());
        match change {
            None => return false,
            Some(Change::Granted(lease)) => self.take(endpoint, lease),
            Some(Change::Lost) => {
                crate::say!("the lease of {} is over", self.name);
                (self.address, self.gateway, self.lease) = (None, endpoint.gateway, None);
            }
        }
        if (self.address, self.gateway) != (before.0, before.1)
            && let Err(error) = self.move_from(before.0, is_way_out)
        {
            crate::say!("{}", crate::chain(&error));
        }
        (self.address, self.gateway, &self.dns) != (before.0, before.1, &before.2)
    }

    /// Replaces the address `old`: its routes go with it.
    fn move_from(&self, old: Option<Cidr>, is_way_out: bool) -> Result<(), NetworkError> {
        let open = Netlink::open();
        let mut netlink = open.map_err(|s| kernel("opening the netlink", &self.name, s))?;
        if let Some(Cidr { ip, prefix }) = old {
            let address = Address {
                index: self.index,
                ip,
                prefix,
            };
            netlink
                .delete_address(&address)
                .map_err(|s| kernel("removing the address", &self.name, s))?;
        }
        if self.address.is_none() {
            return Ok(());
        }
        self.configure(&mut netlink, is_way_out)
    }
}
