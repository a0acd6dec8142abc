//! The simulator's networks: port groups as bridges in a network namespace of its own.
//!
//! ```text
//!              host's namespace            │  the simulator's namespace        │ guests
//!                                          │                                   │
//!  127.0.0.1:PORT ──forward──►             │ ──► VM's address                  │
//!  the world ◄── relay (TCP, UDP) ◄────────│◄── tproxy ◄─ pg0 "VM Network" ────│── eth0
//!  127.0.0.1:N ◄── `--host-port N` ◄───────│◄── gateway:N    (DHCP, DNS)       │
//!                  SOAP ◄──────────────────│◄── management address:443         │
//!                                          │    pg1 "bridge" ──────────────────│── eth1, eth0
//! ```
//!
//! Nothing of the host's is changed: no link, rule, nftables table or sysctl. The namespace has no
//! name; it lives as long as this process. Sockets in it are made by a thread that has entered it
//! and are then used from everywhere.
//!
//! Only "VM Network" has addresses, DHCP, DNS and a way out. Every other port group is a plain
//! layer 2. A guest reaches the world through connections that this process makes for it; of the
//! host's loopback, nothing but the named ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tether_sys::net::{self, Kind};
use tether_sys::netlink::{Address, Netlink};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

mod dhcp;
mod dns;
mod forward;
mod gateway;
mod relay;

pub use forward::{Forward, Target};

/// Reads bytes as everything that a guest may send to its network; for fuzzing. Must not panic.
pub fn fuzz_guest(bytes: &[u8]) {
    let config = Config::default();
    dhcp::fuzz(bytes, &config);
    dns::fuzz(bytes, &config);
}

/// Name of the port group that has DHCP, DNS and a gateway.
pub const VM_NETWORK: &str = "VM Network";

/// Names by which guests reach the host's named ports.
pub const HOST_NAMES: [&str; 2] = ["host.docker.internal", "host.internal"];

/// How the network is laid out.
#[derive(Clone, Debug)]
pub struct Config {
    /// First address of "VM Network".
    pub base: Ipv4Addr,
    /// Length of its network part, at most 28.
    pub prefix: u8,
    /// Ports of the host's loopback that guests reach at the gateway's address.
    pub host_ports: Vec<u16>,
    /// Whether guests reach the world at all.
    pub outward: bool,
}

impl Default for Config {
    /// A network that is rarely used at home, in companies, and by docker.
    fn default() -> Self {
        Self {
            base: Ipv4Addr::new(192, 168, 220, 0),
            prefix: 22,
            host_ports: Vec::new(),
            outward: true,
        }
    }
}

impl Config {
    /// The gateway: the first address. Named host ports and DNS are here.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address that the simulated vSphere reports as its own: the second.
    #[must_use]
    pub fn management(&self) -> Ipv4Addr {
        self.address(2)
    }

    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from((u32::from(self.base) & self.mask()) | number)
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix.min(28)))
    }
}

type Errand = Box<dyn FnOnce() + Send>;

/// The networks of one simulator.
pub struct Network {
    config: Config,
    netns: OwnedFd,
    errands: std::sync::mpsc::Sender<Errand>,
    netlink: Mutex<Netlink>,
    groups: Mutex<HashMap<String, u32>>,
    leases: dhcp::Leases,
    tasks: Mutex<tokio::task::JoinSet<()>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Makes the namespace, "VM Network", and its services.
    ///
    /// # Errors
    /// `EPERM` without root; what the kernel says to namespaces, bridges and nftables.
    pub async fn start(config: Config) -> io::Result<Arc<Self>> {
        let netns = net::new_namespace()?;
        let errands = visitor(&netns)?;
        let netlink = errand(&errands, Netlink::open).await?;
        let network = Arc::new(Self {
            leases: dhcp::Leases::new(&config),
            config,
            netns,
            errands,
            netlink: Mutex::new(netlink),
            groups: Mutex::default(),
            tasks: Mutex::default(),
        });
        network.inside(prepare_namespace).await?;
        network.set_link("lo".to_owned(), true).await?;
        network.port_group(VM_NETWORK).await?;
        gateway::start(&network).await?;
        Ok(network)
    }

    /// Returns how the network is laid out.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the namespace.
    #[must_use]
    pub fn namespace(&self) -> &OwnedFd {
        &self.netns
    }

    /// Runs `body` in the namespace's thread: sockets that it makes stay in the namespace.
    ///
    /// # Errors
    /// What `body` returns.
    pub async fn inside<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        errand(&self.errands, body).await
    }

    /// Returns the number of a port group's bridge, making it when there is none.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn port_group(&self, name: &str) -> io::Result<u32> {
        let mut groups = lock(&self.groups);
        if let Some(index) = groups.get(name) {
            return Ok(*index);
        }
        // "VM Network" is made first: pg0.
        let bridge = format!("pg{}", groups.len());
        let mut netlink = lock(&self.netlink);
        let index = netlink.add_bridge(&bridge)?;
        if name == VM_NETWORK {
            for ip in [self.config.gateway(), self.config.management()] {
                let prefix = self.config.prefix;
                netlink.add_address(&Address {
                    index,
                    ip: IpAddr::V4(ip),
                    prefix,
                })?;
            }
        }
        groups.insert(name.to_owned(), index);
        Ok(index)
    }

    /// Sets a link of the namespace up or down: the cable of the guest at its other end.
    ///
    /// # Errors
    /// `ENODEV` when there is none of that name.
    pub async fn set_link(&self, name: String, up: bool) -> io::Result<()> {
        let mut netlink = lock(&self.netlink);
        let index = netlink.index(&name)?;
        netlink.set_up(index, up)
    }

    /// Connects to an address in the namespace.
    ///
    /// # Errors
    /// When `host` is neither an IPv4 address nor a name of this network, or what connect says.
    pub async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let ip = match host.parse::<Ipv4Addr>() {
            Ok(ip) => ip,
            Err(_) if HOST_NAMES.contains(&host) => self.config.gateway(),
            Err(_) => return Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        let fd = self.inside(|| net::socket(Kind::Stream)).await?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
        socket.connect(SocketAddrV4::new(ip, port).into()).await
    }

    /// Listens on an address in the namespace; the simulator's own SOAP on
    /// [`Config::management`].
    ///
    /// # Errors
    /// What bind says.
    pub async fn listen(&self, address: SocketAddrV4) -> io::Result<TcpListener> {
        let fd = self
            .inside(move || {
                let socket = net::socket(Kind::Stream)?;
                net::set_reuse_address(&socket)?;
                net::bind(&socket, address)?;
                net::listen(&socket, 1024)?;
                Ok(socket)
            })
            .await?;
        TcpListener::from_std(std::net::TcpListener::from(fd))
    }

    /// Returns the address that DHCP gave, or would give, to a hardware address.
    #[must_use]
    pub fn address_of(&self, mac: [u8; 6]) -> Option<Ipv4Addr> {
        self.leases.get(mac)
    }

    fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Starts the thread that lives in the namespace.
fn visitor(netns: &OwnedFd) -> io::Result<std::sync::mpsc::Sender<Errand>> {
    let (sender, errands) = std::sync::mpsc::channel::<Errand>();
    let (entered, enter) = std::sync::mpsc::channel();
    let netns = netns.as_fd().try_clone_to_owned()?;
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let result = tether_sys::process::setns(netns.as_fd(), tether_sys::process::NEWNET);
            drop(netns);
            let failed = result.is_err();
            let _ = entered.send(result);
            if failed {
                return;
            }
            for errand in errands {
                errand();
            }
        })?;
    enter
        .recv()
        .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(sender)
}

async fn errand<T: Send + 'static>(
    errands: &std::sync::mpsc::Sender<Errand>,
    body: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    let run: Errand = Box::new(move || {
        // The asker may have been cancelled.
        let _ = sender.send(body());
    });
    errands
        .send(run)
        .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    result
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

/// Settings of the namespace; runs inside it, where `/proc/sys/net` is its own.
fn prepare_namespace() -> io::Result<()> {
    let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/{name}"), value);
    for family in ["iptables", "ip6tables", "arptables"] {
        // With these on, bridged packets visit the IP hooks first and tproxy never sees its
        // sockets. Without the module there is nothing to turn off.
        match set(&format!("bridge/bridge-nf-call-{family}"), "0") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    // Bridges are no routers, and answers to guests leave as they came.
    set("ipv4/ip_forward", "0")?;
    for scope in ["all", "default"] {
        set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        // Absent when the host was booted without IPv6.
        let _ = set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    Ok(())
}
