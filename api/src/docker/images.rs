//! Images: what `/images/…` is translated to.

pub mod change;
pub mod inspect;
pub mod list;
pub mod reference;
pub mod transfer;
