//! Supervision as data: child specifications, strategies, restart intensity and back-off.
//!
//! [`decision`] decides and knows nothing of actors, time sources or tasks; [`nursery`] does what it decides for the
//! children of one actor, [`supervisor`] is the actor that does nothing else; [`tree`] is the live tree that can be
//! printed and killed in by path; [`address`] finds an actor again after its restart.
//!
//! ```
//! use std::time::Duration;
//! use strategy::decision::{Core, Decision, Exit, Policy, Restart};
//!
//! let mut core = Core::new(Policy::default());
//! core.add("network", Restart::Permanent);
//! core.started("network", Duration::ZERO);
//! let decision = core.exited("network", Exit::Failed, Duration::from_secs(60));
//! assert_eq!(decision, Decision::Restart { stop: vec![], start: vec!["network".into()], after: Duration::ZERO });
//! ```

pub mod address;
pub mod decision;
pub mod nursery;
pub mod spec;
pub mod supervisor;
pub mod tree;

pub use address::{Address, AskError};
pub use decision::{Backoff, Intensity, Policy, Restart, Strategy};
pub use nursery::Nursery;
pub use spec::{ChildSpec, Children};
pub use supervisor::{Supervisor, SupervisorArgs, SupervisorMessage};
pub use tree::{Busy, BusyGuard, Entry, Tree};
