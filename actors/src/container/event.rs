//! What happens to a container: the inputs of its state machine.

/// Placeholder until the state machine lands (same module path, more variants).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The VM's power state changed.
    PowerChanged(String),
}
