//! Samples for the modules' tests, and tests of the whole persona over real sockets.

pub mod fake;
pub mod sample;

mod cli;
mod streams;
