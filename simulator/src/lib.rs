//! A vSphere simulator whose powered-on VMs really run.

pub mod diskview;
pub mod engine;
pub mod network;
pub mod vmdk;
