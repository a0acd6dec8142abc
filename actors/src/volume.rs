//! Volumes: disks of their own on the default volume store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A volume at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Its name.
    pub name: String,
    /// Its driver; `vsphere` and `local` are the same to us and given back as asked.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options as given.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Its disk as a datastore path: inspect's `Mountpoint`.
    pub path: String,
    /// Made without a name.
    pub anonymous: bool,
    /// Size of the disk in bytes.
    pub capacity: u64,
}

/// A volume to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name; none: 64 hex digits, and it is anonymous.
    pub name: Option<String>,
    /// Its driver; empty: `local`.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
}
