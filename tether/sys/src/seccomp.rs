//! Installing seccomp filters (classic BPF programs).

use std::io;

use nix::libc;

use crate::{check, check_long};

/// One classic BPF instruction, laid out as the kernel's `sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

const SECCOMP_SET_MODE_FILTER: u32 = 1;

/// Installs a filter for the calling thread and its future children.
///
/// # Errors
/// `EACCES` without `SYS_ADMIN` and without `no_new_privs`; `EINVAL` for a bad program.
pub fn install(filter: &[Instruction]) -> io::Result<()> {
    let len =
        u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program {
        len,
        filter: filter.as_ptr(),
    };
    // SAFETY: `program` points to `len` instructions, and both live across the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    check_long(ret).map(drop)
}

/// Builds a filter that lets everything pass but the named system calls.
///
/// Foreign architectures (32-bit, x32) get `ENOSYS` for everything: their numbers differ.
#[derive(Debug, Default)]
pub struct DenyList {
    rules: Vec<(u32, Option<ArgMask>, u16)>,
}

/// Matches when an argument, masked, is not zero.
#[derive(Clone, Copy, Debug)]
struct ArgMask {
    arg: u8,
    mask: u32,
    equals: Option<u32>,
}

const LD_W_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;
const AND: u16 = 0x54;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
/// Offset of the architecture in `seccomp_data`.
const OFF_ARCH: u32 = 4;
/// Bit that marks x32 calls on `x86_64`.
const X32: u32 = 0x4000_0000;

impl DenyList {
    /// Starts with nothing denied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a system call with an errno.
    #[must_use]
    pub fn deny(mut self, call: i64, errno: i32) -> Self {
        self.rules.push((call as u32, None, errno as u16));
        self
    }

    /// Answers a system call with an errno when any of the bits of an argument's low word is set.
    #[must_use]
    pub fn deny_if_set(mut self, call: i64, arg: u8, mask: u32, errno: i32) -> Self {
        self.rules.push((
            call as u32,
            Some(ArgMask {
                arg,
                mask,
                equals: None,
            }),
            errno as u16,
        ));
        self
    }

    /// Answers a system call with an errno when an argument's low word, masked, equals a value.
    #[must_use]
    pub fn deny_if_equal(mut self, call: i64, arg: u8, mask: u32, value: u32, errno: i32) -> Self {
        let arg = ArgMask {
            arg,
            mask,
            equals: Some(value),
        };
        self.rules.push((call as u32, Some(arg), errno as u16));
        self
    }

    /// Returns the program.
    #[must_use]
    pub fn build(&self) -> Vec<Instruction> {
        let op = |code, jt, jf, k| Instruction { code, jt, jf, k };
        let enosys = ERRNO | libc::ENOSYS as u32;
        let mut program = vec![
            op(LD_W_ABS, 0, 0, OFF_ARCH),
            op(JEQ, 1, 0, ARCH),
            op(RET, 0, 0, enosys),
            op(LD_W_ABS, 0, 0, 0),
        ];
        if cfg!(target_arch = "x86_64") {
            program.push(op(JGE, 0, 1, X32));
            program.push(op(RET, 0, 0, enosys));
        }
        for (call, condition, errno) in &self.rules {
            let deny = op(RET, 0, 0, ERRNO | u32::from(*errno));
            match condition {
                None => program.extend([op(JEQ, 0, 1, *call), deny]),
                Some(arg) => {
                    let load = op(LD_W_ABS, 0, 0, 16 + 8 * u32::from(arg.arg));
                    let test: Vec<_> = match arg.equals {
                        None => vec![load, op(JSET, 0, 1, arg.mask), deny],
                        Some(value) => {
                            vec![load, op(AND, 0, 0, arg.mask), op(JEQ, 0, 1, value), deny]
                        }
                    };
                    // Past the test and the reload of the number.
                    program.push(op(JEQ, 0, test.len() as u8 + 1, *call));
                    program.extend(test);
                    program.push(op(LD_W_ABS, 0, 0, 0));
                }
            }
        }
        program.push(op(RET, 0, 0, ALLOW));
        program
    }
}

/// Tells whether the kernel has seccomp filters.
#[must_use]
pub fn is_supported() -> bool {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }).is_ok()
}
