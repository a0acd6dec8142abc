//! reboot(2). In a PID namespace it ends that namespace's PID 1: with SIGHUP for a restart, with
//! SIGINT for power-off and halt, which is how the parent tells them from an exit.

use std::io;

use nix::libc;

use crate::check;

/// What to do with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Turn it off.
    Off,
    /// Start it again.
    Restart,
}

/// Writes file systems back, then ends the machine (or the PID namespace).
///
/// # Errors
/// `EPERM` without `SYS_BOOT`. In a PID namespace a success does not return.
pub fn reboot(power: Power) -> io::Result<()> {
    let command = match power {
        Power::Off => libc::RB_POWER_OFF,
        Power::Restart => libc::RB_AUTOBOOT,
    };
    // SAFETY: no memory is involved.
    unsafe { libc::sync() };
    // SAFETY: no memory is involved.
    check(unsafe { libc::reboot(command) }).map(drop)
}
