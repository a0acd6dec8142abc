//! What the API model says of managed types.

use vmomi::FieldInfo;
use vmomi::managed::lookup;

/// Says whether there is a managed type of this name.
pub(crate) fn exists(name: &str) -> bool {
    lookup(name).is_some() || is_root(name)
}

/// The bases that have no properties of their own.
fn is_root(name: &str) -> bool {
    matches!(
        name,
        "ManagedObject" | "ManagedEntity" | "ExtensibleManagedObject" | "View"
    )
}

/// Says whether `name` is, or extends, `base`.
pub(crate) fn is_a(name: &str, base: &str) -> bool {
    name == base || base == "ManagedObject" || lookup(name).is_some_and(|class| class.is_a(base))
}

/// Says whether objects of this type are part of the inventory's tree.
pub(crate) fn is_entity(name: &str) -> bool {
    is_a(name, "ManagedEntity")
}

/// Finds a property of a type.
pub(crate) fn property(r#type: &str, name: &str) -> Option<&'static FieldInfo> {
    lookup(r#type)?
        .info()
        .fields
        .iter()
        .find(|f| f.name == name)
}
