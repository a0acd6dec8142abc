//! What goes on beside the processes: leases are kept, name files follow them, vSphere is told.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Instant;

use tether_protocol::config::{ExecutorConfig, StateKeys};
use tether_protocol::rpci::{Command, info};

use crate::network::{Network, names};
use crate::rpc::Rpc;
use crate::say;

/// The network of a VM that is on.
#[derive(Debug)]
pub struct Upkeep<'a> {
    config: &'a ExecutorConfig,
    network: Network,
    etc: PathBuf,
}

/// Says that the tools run, of no version that vSphere would want to update.
pub const TOOLS_RUN: Command = Command::ToolsVersion(i32::MAX.unsigned_abs());

impl<'a> Upkeep<'a> {
    /// Keeps `network`, and the name files in the directory `etc`.
    pub fn new(config: &'a ExecutorConfig, network: Network, etc: PathBuf) -> Self {
        Self {
            config,
            network,
            etc,
        }
    }

    /// Writes the name files, in place: a container has them mounted one by one.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_names(&self) -> io::Result<[PathBuf; 3]> {
        let servers = self.network.name_servers(self.config);
        let address = self.network.primary().map(|cidr| cidr.ip);
        let domain = self.network.domain.as_deref();
        names::write(&self.etc, self.config, address, &servers, domain)
    }

    /// When [`turn`](Self::turn) is due.
    pub fn due(&self) -> Option<Instant> {
        self.network.due()
    }

    /// What makes [`turn`](Self::turn) due when it is readable.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.network.sockets()
    }

    /// Looks after the leases, and tells what has changed.
    pub fn turn(&mut self, rpc: &mut Rpc) {
        if !self.network.turn() {
            return;
        }
        if let Err(error) = self.write_names() {
            say!("writing the name files: {error}");
        }
        self.report(rpc);
    }

    /// Tells vSphere about the guest.
    pub fn report(&self, rpc: &mut Rpc) {
        let mut commands = vec![
            TOOLS_RUN,
            Command::SetGuestInfo {
                kind: info::DNS_NAME,
                data: self.config.host_name().into(),
            },
            Command::SetGuestInfo {
                kind: info::NIC_V3,
                data: self.network.report(self.config).encode(),
            },
        ];
        for interface in self.network.interfaces.iter().filter(|i| i.is_leased()) {
            let address = interface.address.map(|a| a.to_string()).unwrap_or_default();
            let gateway = interface.gateway.map(|a| a.to_string()).unwrap_or_default();
            let values = [
                (StateKeys::address(interface.device), address),
                (StateKeys::gateway(interface.device), gateway),
            ];
            commands.extend(values.map(|(key, value)| Command::InfoSet {
                key,
                value: value.into_bytes(),
            }));
        }
        if !self.network.interfaces.is_empty() {
            let address = self.network.primary().map(|cidr| cidr.ip.to_string());
            commands.push(Command::InfoSet {
                key: "guestinfo.ip".to_owned(),
                value: address.unwrap_or_default().into_bytes(),
            });
        }
        if let Err(error) = rpc.call(&commands) {
            say!("reporting the guest's state: {error}");
        }
    }
}
