//! PID 1 of every containerVM and of the appliance.
//!
//! One thread, one event loop: [`boot`] reads the configuration by guest RPC, sets up network and
//! disks, starts the process, and hands over to [`guest`], which moves bytes between the process,
//! the log and the link until the process ends and the VM goes off.
//!
//! | module | what |
//! |---|---|
//! | [`boot`] | from power-on to the running process, and the orderly end |
//! | [`guest`] | the event loop: processes, link, signals, requests of the hypervisor |
//! | [`launch`] | namespaces, mounts, identity and exec of a process |
//! | [`network`] | loopback, addresses, DHCP, name files |
//! | [`disk`] | disks by slot, mounts of ext4, copy-up |
//! | [`link`], [`logport`], [`rpc`] | the serial line, the log's port, guest RPC |
//! | [`upkeep`] | leases, name files, what vSphere is told |
//! | [`reaper`] | what `--init` puts at PID 1 of a container |

pub mod accounts;
pub mod boot;
pub mod clock;
pub mod disk;
pub mod guest;
pub mod launch;
pub mod link;
pub mod logport;
pub mod network;
pub mod reaper;
pub mod rpc;
pub mod signals;
pub mod upkeep;

/// Writes one line to standard error, where the engine or the kernel's console keeps it.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { eprintln!("tether: {}", format_args!($($arg)*)) };
}

/// An error with all that caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
