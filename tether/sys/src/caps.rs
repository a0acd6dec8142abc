//! Capabilities of the calling thread.

use std::io;

use nix::libc;

use crate::{check, check_long};

const VERSION_3: u32 = 0x2008_0522;

/// The highest capability that this code names (`CAP_CHECKPOINT_RESTORE`).
pub const LAST: u8 = 40;

/// A set of capabilities, bit n for capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// Every capability that this code names.
    pub const ALL: Self = Self((1 << (LAST as u64 + 1)) - 1);

    /// Docker's default set.
    pub const DOCKER_DEFAULT: Self = Self(
        1 | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31,
    );

    /// Returns the set with one more.
    #[must_use]
    pub const fn with(self, cap: u8) -> Self {
        Self(self.0 | 1 << cap)
    }

    /// Returns the set with one less.
    #[must_use]
    pub const fn without(self, cap: u8) -> Self {
        Self(self.0 & !(1 << cap))
    }

    /// Tells whether a capability is in the set.
    #[must_use]
    pub const fn has(self, cap: u8) -> bool {
        self.0 & 1 << cap != 0
    }

    /// Returns what is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Returns the permitted set.
///
/// # Errors
/// What capget says.
pub fn permitted() -> io::Result<CapSet> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes one header and two data elements, which live across the call.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(CapSet(
        u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32,
    ))
}

/// Sets effective, permitted and inheritable at once.
///
/// # Errors
/// `EPERM` when something is asked for that is not permitted now.
pub fn set(effective: CapSet, permitted: CapSet, inheritable: CapSet) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (effective.0 >> shift) as u32,
        permitted: (permitted.0 >> shift) as u32,
        inheritable: (inheritable.0 >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes one header and two data elements, which live across the call.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
        .map(drop)
}

/// Removes everything that is not in `keep` from the bounding set, for good.
///
/// # Errors
/// `EPERM` without `SETPCAP`.
pub fn limit_bounding(keep: CapSet) -> io::Result<()> {
    for cap in 0..64u8 {
        // SAFETY: no memory is involved.
        let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(cap), 0, 0, 0) };
        if has < 0 {
            break; // past the kernel's last capability
        }
        if has == 1 && !keep.has(cap) {
            // SAFETY: no memory is involved.
            check(unsafe {
                libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(cap), 0, 0, 0)
            })?;
        }
    }
    Ok(())
}

/// Empties the ambient set.
///
/// # Errors
/// What prctl says.
pub fn clear_ambient() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

/// Keeps the permitted set across a change of user id.
///
/// # Errors
/// What prctl says.
pub fn keep_across_setuid(keep: bool) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep), 0, 0, 0) })
        .map(drop)
}

/// Forbids gaining privileges by exec.
///
/// # Errors
/// What prctl says.
pub fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_default_set_is_the_known_mask() {
        assert_eq!(CapSet::DOCKER_DEFAULT.0, 0xa804_25fb);
    }
}
