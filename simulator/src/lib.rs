//! A vSphere simulator whose powered-on VMs really run.
//!
//! ```text
//! Simulator
//! ├─ http         HTTPS: SOAP (soap/*), datastore files (http/folder), debug
//! ├─ inventory    immutable snapshots of every managed object; whoever waits is woken by a commit
//! ├─ supervision  the tree of actors: sessions with their property collectors (pc), tasks, hosts,
//! │               datastores, networks, and VMs, each the single writer of everything about it
//! ├─ engine       what makes a powered-on VM run (namespace, inert)
//! └─ network      the guests' network: port groups, DHCP, DNS, the way out, forwards
//! ```
//! A method of the API stands in `soap/`, in the module called after the type that has it.
//!
//! ```no_run
//! # async fn start() -> Result<(), simulator::StartError> {
//! let simulator = simulator::Simulator::start(simulator::Config::esx("/tmp/sim")).await?;
//! println!("{} {}", simulator.url(), simulator.thumbprint());
//! simulator.stop().await;
//! # Ok(())
//! # }
//! ```

// The API's structs grow with the model: every literal ends in `..Default::default()`.
#![allow(clippy::needless_update)]

pub mod diskview;
pub mod engine;
pub mod network;
pub mod vmdk;

mod clock;
mod config;
mod datastore;
mod event;
mod fault;
mod faults;
mod forward;
mod host;
mod http;
mod inventory;
mod model;
mod names;
mod pc;
mod portgroup;
mod session;
mod simulator;
mod soap;
mod state;
mod supervision;
mod task;
mod tls;
mod vm;
mod vmx;
mod world;

pub use config::{Config, DatastoreConfig, Forward, GuestChoice, Model, VcModel};
pub use faults::{Effect, FaultRule, When};
pub use simulator::{Simulator, StartError};
pub use state::StateError;
pub use vmx::fuzz_vmx;

/// Reads a text as everything that names a file of a datastore or a part of it; for fuzzing. Must not panic.
pub fn fuzz_datastore(text: &str) {
    datastore::fuzz(text);
    http::fuzz(text);
}
