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
    choices: Vec<(u32, u8, &'static [u32], u16)>,
    unknown: Option<u32>,
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
const JGT: u16 = 0x25;
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

    /// Answers a system call with an errno unless an argument's low word is one of `values`.
    #[must_use]
    pub fn deny_unless(mut self, call: i64, arg: u8, values: &'static [u32], errno: i32) -> Self {
        self.choices.push((call as u32, arg, values, errno as u16));
        self
    }

    /// Answers every system call after `last` with `ENOSYS`, as a kernel does that is older than it:
    /// what a later kernel adds is not let through unseen.
    #[must_use]
    pub fn last_known(mut self, last: i64) -> Self {
        self.unknown = Some(last as u32);
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
        if let Some(last) = self.unknown {
            program.push(op(JGT, 0, 1, last));
            program.push(op(RET, 0, 0, enosys));
        }
        for (call, arg, values, errno) in &self.choices {
            let count = values.len() as u8;
            program.push(op(JEQ, 0, count + 3, *call));
            program.push(op(LD_W_ABS, 0, 0, 16 + 8 * u32::from(*arg)));
            for (i, value) in values.iter().enumerate() {
                // Past the other values and the refusal.
                program.push(op(JEQ, count - i as u8, 0, *value));
            }
            program.push(op(RET, 0, 0, ERRNO | u32::from(*errno)));
            program.push(op(LD_W_ABS, 0, 0, 0));
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

/// Returns what a filter answers to a system call of this architecture: 0 when it lets it pass, else the
/// errno. Runs the program as the kernel would; for tests of what a filter means.
///
/// # Panics
/// On an instruction that [`DenyList`] never makes.
#[must_use]
pub fn verdict(program: &[Instruction], call: i64, args: [u64; 6]) -> u32 {
    let (mut at, mut value) = (0, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LD_W_ABS => {
                value = match k {
                    0 => call as u32,
                    OFF_ARCH => ARCH,
                    offset => args[(offset as usize - 16) / 8] as u32,
                }
            }
            AND => value &= k,
            JEQ => at += jump(value == k),
            JSET => at += jump(value & k != 0),
            JGE => at += jump(value >= k),
            JGT => at += jump(value > k),
            RET if k == ALLOW => return 0,
            RET => return k & 0xffff,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Tells whether the kernel has seccomp filters.
#[must_use]
pub fn is_supported() -> bool {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_means_what_its_list_says() {
        let program = DenyList::new()
            .deny(1, libc::EPERM)
            .deny_if_set(2, 0, 0xf0, libc::EACCES)
            .deny_if_equal(3, 1, 0xff, 7, libc::EINVAL)
            .deny_unless(4, 0, &[0, 8], libc::EPERM)
            .last_known(5)
            .build();
        let answer = |call, a, b| verdict(&program, call, [a, b, 0, 0, 0, 0]);
        assert_eq!(answer(0, 0, 0), 0);
        assert_eq!(answer(1, 0, 0), libc::EPERM as u32);
        assert_eq!(
            (answer(2, 0x0f, 0), answer(2, 0x1f, 0)),
            (0, libc::EACCES as u32)
        );
        assert_eq!(
            (answer(3, 7, 0), answer(3, 0, 0x107)),
            (0, libc::EINVAL as u32)
        );
        assert_eq!((answer(4, 0, 0), answer(4, 8, 0)), (0, 0));
        assert_eq!(answer(4, 1, 0), libc::EPERM as u32);
        assert_eq!((answer(5, 0, 0), answer(6, 0, 0)), (0, libc::ENOSYS as u32));
    }
}
