//! The part of rtnetlink that guests and the engine need: links, addresses, routes, rules.
//!
//! A [`Netlink`] belongs to the network namespace in which it was opened, wherever it is used
//! afterwards: a socket opened by a thread that visited a namespace goes on working on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::check;

mod message;

use message::{Attributes, Message};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_CARRIER: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;

/// Name and number of an interface, as the kernel has it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Number.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is set up.
    pub up: bool,
    /// Whether its other end is up too.
    pub running: bool,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the network part.
    pub prefix: u8,
}

/// Both ends of a pair of Ethernet interfaces.
#[derive(Debug)]
pub struct Veth<'a> {
    /// Name of the end that stays.
    pub name: &'a str,
    /// Bridge that the end that stays becomes a port of.
    pub master: Option<u32>,
    /// Name of the other end.
    pub peer: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: [u8; 6],
    /// Namespace of the other end; none is the same.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// Maximum transmission unit of both; 0 is the default.
    pub mtu: u32,
}

/// A route to add.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Destination; none is everything.
    pub destination: Option<(IpAddr, u8)>,
    /// Next router; none is directly on the link.
    pub gateway: Option<IpAddr>,
    /// Interface to go out of.
    pub index: Option<u32>,
    /// Table; 0 is main.
    pub table: u32,
    /// Preference: lower wins; 0 leaves it to the kernel.
    pub metric: u32,
    /// Deliver here whatever the destination is (for transparent proxies).
    pub local: bool,
}

/// A rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Netlink> for OwnedFd {
    fn from(netlink: Netlink) -> Self {
        netlink.fd
    }
}

impl From<OwnedFd> for Netlink {
    /// Takes a rtnetlink socket that another process opened.
    fn from(fd: OwnedFd) -> Self {
        Self { fd, sequence: 0 }
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What socket says.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
        // SAFETY: the kernel just gave us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, sequence: 0 })
    }

    /// Returns all interfaces.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP as u16);
        message.ifinfo(0, 0, 0);
        Ok(self
            .dump(message)?
            .iter()
            .filter_map(|body| parse_link(body))
            .collect())
    }

    /// Returns one interface by name.
    ///
    /// # Errors
    /// What the kernel answers; `Ok(None)` when there is no such interface.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0);
        message.ifinfo(0, 0, 0);
        message.string(IFLA_IFNAME, name);
        match self.request(message) {
            Ok(bodies) => Ok(bodies.iter().find_map(|body| parse_link(body))),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the number of an interface.
    ///
    /// # Errors
    /// `ENODEV` when there is none of that name.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        let link = self.link(name)?;
        link.map(|l| l.index)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16);
        message.ifinfo(index, flags, libc::IFF_UP as u32);
        self.request(message).map(drop)
    }

    fn set_link(&mut self, index: u32, set: impl FnOnce(&mut Message)) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16);
        message.ifinfo(index, 0, 0);
        set(&mut message);
        self.request(message).map(drop)
    }

    /// Renames an interface (it must be down).
    ///
    /// # Errors
    /// What the kernel answers: `EBUSY` while it is up.
    pub fn rename(&mut self, index: u32, name: &str) -> io::Result<()> {
        self.set_link(index, |m| m.string(IFLA_IFNAME, name))
    }

    /// Sets the hardware address.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.set_link(index, |m| m.bytes(IFLA_ADDRESS, &mac))
    }

    /// Sets the maximum transmission unit.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.set_link(index, |m| m.u32(IFLA_MTU, mtu))
    }

    /// Makes an interface a port of a bridge, or of none.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_master(&mut self, index: u32, bridge: Option<u32>) -> io::Result<()> {
        self.set_link(index, |m| m.u32(IFLA_MASTER, bridge.unwrap_or(0)))
    }

    /// Plugs or unplugs the cable, as the other end sees it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_carrier(&mut self, index: u32, on: bool) -> io::Result<()> {
        self.set_link(index, |m| m.bytes(IFLA_CARRIER, &[u8::from(on)]))
    }

    /// Moves an interface to another network namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_netns(&mut self, index: u32, netns: BorrowedFd<'_>) -> io::Result<()> {
        self.set_link(index, |m| m.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32))
    }

    /// Makes a bridge, sets it up and returns its number.
    ///
    /// # Errors
    /// `EEXIST`, or what the kernel answers.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<u32> {
        let mut message = Message::create(libc::RTM_NEWLINK);
        message.ifinfo(0, libc::IFF_UP as u32, libc::IFF_UP as u32);
        message.string(IFLA_IFNAME, name);
        message.nested(IFLA_LINKINFO, |m| m.string(IFLA_INFO_KIND, "bridge"));
        self.request(message)?;
        self.index(name)
    }

    /// Makes a pair of interfaces; the end that stays is set up at once.
    ///
    /// # Errors
    /// `EEXIST`, or what the kernel answers.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> io::Result<()> {
        let mut message = Message::create(libc::RTM_NEWLINK);
        message.ifinfo(0, libc::IFF_UP as u32, libc::IFF_UP as u32);
        message.string(IFLA_IFNAME, veth.name);
        if let Some(master) = veth.master {
            message.u32(IFLA_MASTER, master);
        }
        if veth.mtu != 0 {
            message.u32(IFLA_MTU, veth.mtu);
        }
        message.nested(IFLA_LINKINFO, |m| {
            m.string(IFLA_INFO_KIND, "veth");
            m.nested(IFLA_INFO_DATA, |m| {
                m.nested(VETH_INFO_PEER, |m| {
                    m.ifinfo(0, 0, 0);
                    m.string(IFLA_IFNAME, veth.peer);
                    m.bytes(IFLA_ADDRESS, &veth.peer_mac);
                    if veth.mtu != 0 {
                        m.u32(IFLA_MTU, veth.mtu);
                    }
                    if let Some(netns) = veth.peer_netns {
                        m.u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
                    }
                });
            });
        });
        self.request(message).map(drop)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_DELLINK, libc::NLM_F_ACK as u16);
        message.ifinfo(index, 0, 0);
        self.request(message).map(drop)
    }

    fn address(&mut self, kind: u16, flags: i32, address: &Address) -> io::Result<()> {
        let mut message = Message::new(kind, (libc::NLM_F_ACK | flags) as u16);
        let family = family(address.ip);
        message.raw(&[family, address.prefix, 0, 0]);
        message.raw(&address.index.to_ne_bytes());
        message.ip(IFA_LOCAL, address.ip);
        message.ip(IFA_ADDRESS, address.ip);
        if let (IpAddr::V4(ip), true) = (address.ip, address.prefix < 31) {
            let host = u32::MAX >> address.prefix;
            message.ip(
                IFA_BROADCAST,
                IpAddr::V4(Ipv4Addr::from(u32::from(ip) | host)),
            );
        }
        self.request(message).map(drop)
    }

    /// Adds an address to an interface; one that is there already is replaced.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_address(&mut self, address: &Address) -> io::Result<()> {
        self.address(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
            address,
        )
    }

    /// Removes an address from an interface.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when it is not there.
    pub fn delete_address(&mut self, address: &Address) -> io::Result<()> {
        self.address(libc::RTM_DELADDR, 0, address)
    }

    /// Returns all addresses.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let mut message = Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP as u16);
        message.raw(&[0; 8]);
        Ok(self
            .dump(message)?
            .iter()
            .filter_map(|body| parse_address(body))
            .collect())
    }

    /// Adds a route; one to the same destination is replaced.
    ///
    /// # Errors
    /// What the kernel answers: `ENETUNREACH` when the gateway is not on a link.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let sample = route.destination.map(|(ip, _)| ip).or(route.gateway);
        let family = sample.map_or(libc::AF_INET as u8, family);
        let scope = match (route.local, route.gateway) {
            (true, _) => 254,  // host
            (_, Some(_)) => 0, // universe
            (_, None) => 253,  // link
        };
        let kind = if route.local { 2 } else { 1 };
        let protocol = 4; // static
        let prefix = route.destination.map_or(0, |(_, prefix)| prefix);
        let mut message = Message::new(
            libc::RTM_NEWROUTE,
            (libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16,
        );
        let table = if route.table == 0 { 254 } else { route.table };
        let short = u8::try_from(table).unwrap_or(0);
        message.raw(&[family, prefix, 0, 0, short, protocol, scope, kind]);
        message.raw(&0u32.to_ne_bytes());
        message.u32(RTA_TABLE, table);
        if let Some((ip, _)) = route.destination {
            message.ip(RTA_DST, ip);
        }
        if let Some(gateway) = route.gateway {
            message.ip(RTA_GATEWAY, gateway);
        }
        if let Some(index) = route.index {
            message.u32(RTA_OIF, index);
        }
        if route.metric != 0 {
            message.u32(RTA_PRIORITY, route.metric);
        }
        self.request(message).map(drop)
    }

    /// Sends IPv4 packets with a firewall mark through a table of their own.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_mark_rule(&mut self, mark: u32, table: u8) -> io::Result<()> {
        let mut message = Message::create(libc::RTM_NEWRULE);
        let to_table = 1;
        message.raw(&[libc::AF_INET as u8, 0, 0, 0, table, 0, 0, to_table]);
        message.raw(&0u32.to_ne_bytes());
        message.u32(FRA_FWMARK, mark);
        message.u32(FRA_TABLE, u32::from(table));
        self.request(message).map(drop)
    }

    fn request(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        // SAFETY: pointer and length describe `bytes`.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut bodies = Vec::new();
        let mut buffer = vec![0u8; 65536];
        loop {
            // SAFETY: pointer and length describe `buffer`.
            let n = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                )
            };
            if n < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            match message::collect(&buffer[..n as usize], self.sequence, &mut bodies) {
                message::Next::More => {}
                message::Next::Done => return Ok(bodies),
                message::Next::Failed(0) => return Ok(bodies),
                message::Next::Failed(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.request(message)
    }
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        index: u32_at(body, 4)?,
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
        ..Link::default()
    };
    for (kind, value) in Attributes::new(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => {
                let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
                link.name = String::from_utf8_lossy(&value[..end]).into_owned();
            }
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_MASTER => link.master = u32_at(value, 0),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let index = u32_at(body, 4)?;
    let mut found = None;
    for (kind, value) in Attributes::new(body.get(8..)?) {
        // IFA_LOCAL wins over IFA_ADDRESS, which is the peer's on point-to-point links.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = match i32::from(family) {
                libc::AF_INET => <[u8; 4]>::try_from(value)
                    .ok()
                    .map(|b| Ipv4Addr::from(b).into()),
                libc::AF_INET6 => <[u8; 16]>::try_from(value)
                    .ok()
                    .map(|b| Ipv6Addr::from(b).into()),
                _ => None,
            };
        }
    }
    Some(Address {
        index,
        ip: found?,
        prefix,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in a thread with a network namespace of its own.
    fn isolated<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(|| {
            crate::process::unshare(crate::process::NEWNET).unwrap();
            body()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_pair_on_a_bridge_gets_address_and_route() {
        isolated(|| {
            let mut netlink = Netlink::open().unwrap();
            let bridge = netlink.add_bridge("br-test").unwrap();
            let mac = [2, 0, 0, 1, 2, 3];
            let veth = Veth {
                name: "stay",
                master: Some(bridge),
                peer: "go",
                peer_mac: mac,
                peer_netns: None,
                mtu: 1400,
            };
            netlink.add_veth(&veth).unwrap();
            let stay = netlink.link("stay").unwrap().unwrap();
            assert!(
                stay.up && stay.master == Some(bridge) && stay.mtu == 1400,
                "{stay:?}"
            );
            let go = netlink.link("go").unwrap().unwrap();
            assert_eq!(go.mac, Some(mac));
            netlink.rename(go.index, "eth0").unwrap();
            netlink.set_up(go.index, true).unwrap();
            let address = Address {
                index: go.index,
                ip: Ipv4Addr::new(10, 9, 8, 7).into(),
                prefix: 24,
            };
            netlink.add_address(&address).unwrap();
            netlink.add_address(&address).unwrap();
            assert!(netlink.addresses().unwrap().contains(&address));
            netlink
                .add_route(&Route {
                    gateway: Some(Ipv4Addr::new(10, 9, 8, 1).into()),
                    ..Route::default()
                })
                .unwrap();
            netlink.add_mark_rule(1, 100).unwrap();
            let lo = netlink.index("lo").unwrap();
            netlink.set_up(lo, true).unwrap();
            netlink
                .add_route(&Route {
                    local: true,
                    table: 100,
                    index: Some(lo),
                    ..Route::default()
                })
                .unwrap();
            netlink.delete_address(&address).unwrap();
            netlink.delete_link(go.index).unwrap();
            assert_eq!(netlink.link("stay").unwrap(), None);
        });
    }
}
