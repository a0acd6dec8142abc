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

/// Ends the machine (or the PID namespace) at once: what is not unmounted is not written back.
///
/// # Errors
/// `EPERM` without `SYS_BOOT`. In a PID namespace a success does not return.
pub fn reboot(power: Power) -> io::Result<()> {
    let command = match power {
        Power::Off => libc::RB_POWER_OFF,
        Power::Restart => libc::RB_AUTOBOOT,
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::reboot(command) }).map(drop)
}

/// Writes every file system of the machine back. In a guest of the `namespace` engine these are the
/// host's too, which takes long: unmount what is one's own instead.
pub fn sync() {
    // SAFETY: no memory is involved; sync cannot fail.
    unsafe { libc::sync() };
}
