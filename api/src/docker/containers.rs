//! Containers: what `/containers/…` is translated to.

pub mod attach;
pub mod create;
pub mod endpoints;
pub mod fields;
pub mod hostconfig;
pub mod inspect;
pub mod lifecycle;
pub mod list;
pub mod logs;
pub mod matching;
pub mod mounts;
pub mod signal;
pub mod status;
pub mod top;
pub mod wait;
