//! The engine that the persona speaks for.
//!
//! The crate's own tests put an engine without VMs in its place, which has the same methods.

#[cfg(not(test))]
pub use actors::Engine;

#[cfg(test)]
pub use super::tests::fake::Engine;
