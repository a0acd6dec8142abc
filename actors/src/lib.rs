//! The actors: one supervised actor per containerVM, layer, image, network, volume.
//!
//! This crate is the port layer. A persona holds an [`Engine`]: it reads [`snapshot`]s, which costs no message,
//! and asks actors by the messages that each module documents.

pub mod appliance;
pub mod container;
pub mod containers;
pub mod context;
pub mod engine;
pub mod error;
pub mod events;
pub mod ids;
pub mod image;
pub mod network;
pub mod serial;
pub mod snapshot;
pub mod streams;
pub mod system;
pub mod volume;
pub mod vsphere;
pub mod watch;
pub mod world;

pub use engine::Engine;
pub use error::{Error, ErrorKind};
pub use ids::{ContainerId, EndpointId, ExecId, ImageId, NetworkId};
