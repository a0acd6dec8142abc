//! Managed types: their names, properties and the privileges that reading these takes.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::data::{Described, TypeInfo};
use crate::generated::mo;

/// A managed type.
#[derive(Debug)]
pub struct ManagedInfo {
    /// Its WSDL name.
    pub name: &'static str,
    /// Its properties, those of its bases first.
    pub properties: fn() -> &'static TypeInfo,
    /// Of each property: name, declared type (`VirtualDevice[]`), privilege to read it.
    pub details: &'static [(&'static str, &'static str, &'static str)],
}

impl ManagedInfo {
    /// Whether this is the managed type called `name` or extends it.
    pub fn is_a(&self, name: &str) -> bool {
        (self.properties)().is_a(name)
    }

    /// The description of the properties.
    pub fn info(&self) -> &'static TypeInfo {
        (self.properties)()
    }
}

/// A struct of the properties of a managed type.
pub trait Managed: Described {
    /// The managed type.
    const MANAGED: &'static ManagedInfo;
}

static BY_NAME: LazyLock<HashMap<&'static str, &'static ManagedInfo>> =
    LazyLock::new(|| mo::MANAGED.iter().map(|info| (info.name, *info)).collect());

/// The managed type with this name.
pub fn lookup(name: &str) -> Option<&'static ManagedInfo> {
    BY_NAME.get(name).copied()
}

/// All managed types.
pub fn all() -> impl Iterator<Item = &'static ManagedInfo> {
    mo::MANAGED.iter().copied()
}
