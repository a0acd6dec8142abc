//! The vSphere wire protocol: types, SOAP codec, client session, property collector, datastore HTTP.
//!
//! * [`types`] holds one plain struct per data type, enum and method request, [`mo`] one per managed
//!   type. They are generated from the API model (`vmomi/model`) by `cargo xtask generate`.
//! * A place that may hold a subtype is a [`Poly`]; `anyType` is [`Any`].
//! * [`soap`] reads and writes envelopes for both sides, the client's and the server's.
//! * [`path`] walks property paths such as `config.hardware.device[200].backing`.
//! * [`Client`] is a session with a vSphere; [`watch`] its standing wait for updates.
//!
//! ```
//! use vmomi::types::{VirtualDevice, VirtualDisk};
//! use vmomi::Poly;
//!
//! let disk = VirtualDisk { key: 2000, capacity_in_kb: 1024, ..Default::default() };
//! let mut device: Poly<VirtualDevice> = disk.into();
//! *device.unit_number_mut() = Some(0);
//! assert_eq!(*device.key(), 2000);
//! assert_eq!(device.get::<VirtualDisk>().map(|d| d.capacity_in_kb), Some(1024));
//! ```

#[macro_use]
mod macros;

pub mod any;
pub mod client;
pub mod data;
pub mod datastore;
mod enumeration;
#[rustfmt::skip]
mod generated;
pub mod managed;
pub mod method;
pub mod path;
mod poly;
pub mod scalar;
pub mod soap;
mod sugar;
pub mod tls;
pub mod value;
pub mod version;
pub mod watch;
pub mod xml;

pub use any::{Any, Array};
pub use client::{Client, Config, Error};
pub use data::{Data, Described, Extends, FieldInfo, TypeInfo};
pub use enumeration::Enumeration;
pub use managed::{Managed, ManagedInfo};
pub use method::{Method, MethodInfo};
pub use poly::Poly;
pub use scalar::{Binary, DateTime, ManagedObjectReference};
pub use value::{Element, Mismatch, Value};
pub use version::Version;

/// Data objects, faults, events, enums and the requests of methods, all by their WSDL names.
pub mod types {
    pub use crate::generated::data::*;
    pub use crate::generated::devices::*;
    pub use crate::generated::enums::*;
    pub use crate::generated::events::*;
    pub use crate::generated::faults::*;
    pub use crate::generated::hosts::*;
    pub use crate::generated::methods::*;
}

/// Managed objects: one struct per managed type, with all its properties.
pub mod mo {
    pub use crate::generated::mo::*;
}
