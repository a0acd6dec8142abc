//! The target's inventory, read at once and looked at from many sides.

use std::collections::HashMap;

use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error, Properties};

/// Managed types and the properties that are read of each.
const WANTED: [(&str, &[&str]); 7] = [
    ("Folder", &["name", "parent"]),
    ("Datacenter", &["name", "parent", "vmFolder"]),
    (
        "ComputeResource",
        &[
            "name",
            "parent",
            "resourcePool",
            "host",
            "datastore",
            "network",
        ],
    ),
    ("HostSystem", &["name", "parent"]),
    ("ResourcePool", &["name", "parent", "owner"]),
    ("Datastore", &["name", "parent", "summary"]),
    ("Network", &["name", "parent"]),
];

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Which.
    pub(crate) object: Reference,
    /// Its name, without escapes.
    pub(crate) name: String,
    parent: Option<Reference>,
    /// What else was read.
    pub(crate) properties: Properties,
}

/// Everything but VMs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    nodes: HashMap<Reference, Node>,
    root: Option<Reference>,
}

impl Inventory {
    /// Reads it.
    pub(crate) async fn load(client: &Client) -> Result<Self, Error> {
        let root = &client.content().root_folder;
        let mut inventory = Self {
            root: Some(root.clone()),
            ..Self::default()
        };
        for (r#type, paths) in WANTED {
            for properties in client.below(root, &[r#type], paths).await? {
                inventory.add(properties);
            }
        }
        Ok(inventory)
    }

    fn add(&mut self, properties: Properties) {
        let name = unescape(properties.text("name").unwrap_or_default());
        let node = Node {
            object: properties.object.clone(),
            name,
            parent: properties.get("parent"),
            properties,
        };
        self.nodes.insert(node.object.clone(), node);
    }

    /// One object.
    pub(crate) fn get(&self, object: &Reference) -> Option<&Node> {
        self.nodes.get(object)
    }

    /// All objects of these managed types in a datacenter, by path.
    pub(crate) fn within<'a>(
        &'a self,
        datacenter: &'a Reference,
        types: &'a [&str],
    ) -> Vec<&'a Node> {
        let mut found: Vec<&Node> = self
            .nodes
            .values()
            .filter(|node| types.contains(&node.object.r#type.as_str()))
            .filter(|node| self.is_below(&node.object, datacenter))
            .collect();
        found.sort_by_key(|node| self.path(&node.object));
        found
    }

    /// All datacenters, by path.
    pub(crate) fn datacenters(&self) -> Vec<&Node> {
        let mut found: Vec<&Node> = self
            .nodes
            .values()
            .filter(|node| node.object.r#type == "Datacenter")
            .collect();
        found.sort_by_key(|node| self.path(&node.object));
        found
    }

    /// Whether `object` is `ancestor` or lies below it.
    pub(crate) fn is_below(&self, object: &Reference, ancestor: &Reference) -> bool {
        self.lineage(object).any(|node| node.object == *ancestor)
    }

    /// The inventory path, as `/ha-datacenter/host/name`.
    pub(crate) fn path(&self, object: &Reference) -> String {
        let mut parts: Vec<&str> = self
            .lineage(object)
            .filter(|node| Some(&node.object) != self.root.as_ref())
            .map(|node| node.name.as_str())
            .collect();
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// An object and everything above it. (A loop in what a server says ends after 64 steps.)
    fn lineage<'a>(&'a self, object: &Reference) -> impl Iterator<Item = &'a Node> {
        let mut next = self.nodes.get(object);
        std::iter::from_fn(move || {
            let node = next?;
            next = node
                .parent
                .as_ref()
                .and_then(|parent| self.nodes.get(parent));
            Some(node)
        })
        .take(64)
    }

    /// Whether the end of the object's path is `wanted`; the name `Resources` of root pools may be left out.
    pub(crate) fn path_ends_with(&self, object: &Reference, wanted: &str) -> bool {
        let path = self.path(object);
        let full: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let short: Vec<&str> = full
            .iter()
            .copied()
            .filter(|part| *part != "Resources")
            .collect();
        let wanted_parts: Vec<&str> = wanted.split('/').filter(|part| !part.is_empty()).collect();
        if wanted.starts_with('/') {
            return full == wanted_parts || short == wanted_parts;
        }
        !wanted_parts.is_empty()
            && (full.ends_with(&wanted_parts) || short.ends_with(&wanted_parts))
    }
}

/// vSphere escapes three characters in names.
pub(crate) fn unescape(name: &str) -> String {
    name.replace("%2f", "/")
        .replace("%2F", "/")
        .replace("%5c", "\\")
        .replace("%5C", "\\")
        .replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use vmomi::Any;

    use super::*;

    fn sample() -> Inventory {
        let reference = |text: &str| {
            let (r#type, _) = text.split_once('-').unwrap();
            Reference::new(r#type, text)
        };
        let mut inventory = Inventory {
            root: Some(reference("Folder-root")),
            ..Inventory::default()
        };
        for (object, name, parent) in [
            ("Folder-root", "Datacenters", None),
            ("Datacenter-1", "DC0", Some("Folder-root")),
            ("Folder-host", "host", Some("Datacenter-1")),
            ("ClusterComputeResource-1", "C0", Some("Folder-host")),
            (
                "ResourcePool-1",
                "Resources",
                Some("ClusterComputeResource-1"),
            ),
            ("ResourcePool-2", "a%2fb", Some("ResourcePool-1")),
            ("Datacenter-2", "DC1", Some("Folder-root")),
        ] {
            let mut values = vec![("name".to_owned(), Any::from(name.to_owned()))];
            values.extend(parent.map(|parent| ("parent".to_owned(), Any::from(reference(parent)))));
            inventory.add(Properties {
                object: reference(object),
                values,
                missing: Vec::new(),
            });
        }
        inventory
    }

    #[test]
    fn paths_begin_below_the_root_and_may_be_shortened() {
        let inventory = sample();
        let cluster = Reference::new("ClusterComputeResource", "ClusterComputeResource-1");
        let pool = Reference::new("ResourcePool", "ResourcePool-1");
        assert_eq!(inventory.path(&cluster), "/DC0/host/C0");
        assert!(inventory.path_ends_with(&cluster, "C0"));
        assert!(inventory.path_ends_with(&pool, "C0/Resources"));
        assert!(inventory.path_ends_with(&pool, "/DC0/host/C0/Resources"));
        assert!(!inventory.path_ends_with(&cluster, "0"));
        assert!(!inventory.path_ends_with(&cluster, ""));
        let nested = Reference::new("ResourcePool", "ResourcePool-2");
        assert_eq!(inventory.get(&nested).unwrap().name, "a/b");
    }

    #[test]
    fn a_datacenter_has_its_own_objects_only() {
        let inventory = sample();
        let [first, second] =
            [1, 2].map(|n| Reference::new("Datacenter", format!("Datacenter-{n}")));
        let pools = |datacenter| inventory.within(datacenter, &["ResourcePool"]).len();
        assert_eq!((pools(&first), pools(&second)), (2, 0));
        assert_eq!(inventory.datacenters().len(), 2);
    }
}
