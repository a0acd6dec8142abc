//! Events: what `docker events`, the portal and the metrics are told.
//!
//! The last [`HISTORY`] events are kept for `since`; a subscriber that does not read loses its subscription,
//! nobody waits for it.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use tokio::sync::mpsc;

/// How many events `since` can go back, as in moby.
pub const HISTORY: usize = 256;

/// How many events a subscriber may be behind before it is cut off.
pub const SUBSCRIBER_DEPTH: usize = 1024;

/// One event, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// What happened: `create`, `start`, `die`, …
    pub action: String,
    /// The thing's id (images: id or reference; volumes: name).
    pub id: String,
    /// Attributes: name, image, labels, exitCode, …
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: OffsetDateTime,
}

/// The kinds of things that have events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Containers.
    Container,
    /// Images.
    Image,
    /// Volumes.
    Volume,
    /// Networks.
    Network,
    /// The engine itself.
    Daemon,
}

impl EventKind {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// A subscription: kept events first, then live ones, without hole or double. The persona filters and stops.
#[derive(Debug)]
pub struct Subscription {
    /// Events in order; ends when the subscriber was too slow.
    pub events: mpsc::Receiver<std::sync::Arc<Event>>,
}
