//! What a VM is told: the models of a containerVM and of the appliance, kept in extraConfig keys.
//!
//! Key names are VIC's (`guestinfo.vice./` for what the guest reads, `guestinfo.vice..` for what it
//! writes, no prefix for what it must not see), with one difference: each list element has a key of
//! its own, so that any value round-trips. vSphere deletes a key whose value is empty, and XML
//! carries no control characters: [`escape`] covers both.

mod appliance;
mod capability;
mod codec;
mod executor;
mod hidden;
mod net;
mod seal;
mod state;
#[cfg(test)]
mod tests;

pub use appliance::{
    ApplianceConfig, Connection, ContainerNetwork, LinkIdentity, NetworkSettings, RegistrySettings,
    Storage, TlsMaterial, VolumeStore,
};
pub use capability::{CAPABILITIES, capability_number};
pub use codec::{DecodeError, FetchError, PREFIX, delta, escape, unescape};
pub use executor::{
    ExecutorConfig, HostEntry, Mount, MountSource, NetworkEndpoint, Rootfs, Security, Session,
    Ulimit,
};
pub use hidden::Hidden;
pub use net::{Cidr, Slot};
pub use seal::{SEAL_KEY, Secret};
pub use state::{ProcessState, ProcessStatus, StateKeys};
