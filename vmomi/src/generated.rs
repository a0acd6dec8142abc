//! What `cargo xtask generate` writes.

mod calls;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod enums;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod hosts;
pub(crate) mod methods;
pub(crate) mod mo;
mod poly;
pub(crate) mod tables;

/// What the generated files refer to.
mod prelude {
    pub(super) use crate::any::Any;
    pub(super) use crate::data::{Described, TypeInfo};
    pub(super) use crate::method::Method;
    pub(super) use crate::managed::Managed;
    pub(super) use crate::poly::Poly;
    pub(super) use crate::scalar::{Binary, DateTime, ManagedObjectReference};
    pub(super) use crate::types::*;
}
