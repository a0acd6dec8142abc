//! Personas: the Docker Engine API as translators from requests to messages.
//!
//! A persona owns no state of the containers. It turns an HTTP request into a read of a snapshot or into one
//! message to one actor, and the reply into an answer.

// Docker's larger documents are written as one `json!` each.
#![recursion_limit = "256"]

pub mod docker;
