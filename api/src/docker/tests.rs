//! Samples for the modules' tests, and tests of the whole persona over real sockets.

pub mod fake;
pub mod sample;

mod both_sides;
mod cli;
mod streams;
