//! A container: one VM, one actor, one state machine.

pub mod actor;
pub mod event;
pub mod exec;
mod execs;
pub mod link;
pub mod logs;
pub mod message;
pub mod rename;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod top;
pub mod vm;

pub use actor::Input;
pub(crate) use actor::leave;
pub use message::{
    AttachOptions, ExitOutcome, LogRecord, LogsOptions, Message, ProcessList, RemoveOptions, Reply,
    Signal, StartExec, StopOptions, WaitCondition,
};
pub use snapshot::{
    ContainerSnapshot, EndpointSnapshot, ExecSnapshot, ExecSpec, MountSnapshot, Phase, VmSnapshot,
};
pub use spec::{
    CreateSpec, Created, Documents, EndpointSpec, MountSpec, NetworkSpec, ProcessSpec, Resources,
    SecuritySpec,
};
pub use tether_protocol::config::CAPABILITIES;
