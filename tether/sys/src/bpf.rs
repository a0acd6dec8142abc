//! BPF programs on cgroups: the device wall and the sysctl wall.
//!
//! Programs are written out instruction by instruction: no compiler, no loader. A program that is
//! attached to a cgroup holds for everything below it, and a process without `BPF` and `NET_ADMIN`
//! over the cgroup's owner cannot take it away.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::check_long;

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_PROG_TYPE_CGROUP_SYSCTL: u32 = 23;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_CGROUP_SYSCTL: u32 = 18;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;
const FUNC_SYSCTL_GET_NAME: i32 = 101;

const DEV_BLOCK: i32 = 1;
const DEV_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;

/// What a cgroup program decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Opening and making device nodes.
    Device,
    /// Reading and writing `/proc/sys`.
    Sysctl,
}

/// A device that may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Block device, or else character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number; none means all of the major.
    pub minor: Option<u32>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    regs: u8,
    off: i16,
    imm: i32,
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        regs: dst | src << 4,
        off,
        imm,
    }
}

// The few operations that the programs need.
fn load_word(dst: u8, src: u8, off: i16) -> Insn {
    insn(0x61, dst, src, off, 0)
}
fn mov_imm(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}
fn mov_reg(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}
fn and_imm(dst: u8, imm: i32) -> Insn {
    insn(0x57, dst, 0, 0, imm)
}
fn shift_right(dst: u8, imm: i32) -> Insn {
    insn(0x77, dst, 0, 0, imm)
}
fn add_imm(dst: u8, imm: i32) -> Insn {
    insn(0x07, dst, 0, 0, imm)
}
fn jump_ne(dst: u8, imm: i32, off: i16) -> Insn {
    insn(0x55, dst, 0, off, imm)
}
fn jump_eq(dst: u8, imm: i32, off: i16) -> Insn {
    insn(0x15, dst, 0, off, imm)
}
fn store_double(dst: u8, off: i16, imm: i32) -> Insn {
    insn(0x7a, dst, 0, off, imm)
}
fn call(function: i32) -> Insn {
    insn(0x85, 0, 0, 0, function)
}
fn exit() -> Insn {
    insn(0x95, 0, 0, 0, 0)
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    hook: Hook,
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

impl Program {
    /// Loads a device program: making any node is allowed, opening only what a rule names.
    ///
    /// # Errors
    /// `EPERM` without privilege, `EINVAL` when the kernel has no such programs.
    pub fn devices(rules: &[DeviceRule]) -> io::Result<Self> {
        // r2 = type, r3 = access, r4 = major, r5 = minor
        let mut code = vec![
            load_word(2, 1, 0),
            mov_reg(3, 2),
            and_imm(2, 0xffff),
            shift_right(3, 16),
            load_word(4, 1, 4),
            load_word(5, 1, 8),
            jump_ne(3, ACCESS_MKNOD, 2),
            mov_imm(0, 1),
            exit(),
        ];
        for rule in rules {
            let kind = if rule.block { DEV_BLOCK } else { DEV_CHAR };
            let skip = if rule.minor.is_some() { 4 } else { 3 };
            code.push(jump_ne(2, kind, skip));
            code.push(jump_ne(4, rule.major as i32, skip - 1));
            if let Some(minor) = rule.minor {
                code.push(jump_ne(5, minor as i32, 2));
            }
            code.extend([mov_imm(0, 1), exit()]);
        }
        code.extend([mov_imm(0, 0), exit()]);
        Self::load(&code, Hook::Device)
    }

    /// Loads a sysctl program: everything may be read, only `net/…` of the own network namespace
    /// and the names of the own UTS namespace may be written.
    ///
    /// # Errors
    /// `EPERM` without privilege, `EINVAL` when the kernel has no such programs.
    pub fn sysctls() -> io::Result<Self> {
        let word = |text: &[u8; 4]| i32::from_le_bytes(*text);
        // ctx: u32 write; u32 file_pos. The name goes to 32 bytes of stack at r10-32.
        let mut code = vec![
            mov_reg(6, 1),
            load_word(7, 1, 0),
            jump_ne(7, 0, 2),
            mov_imm(0, 1),
            exit(),
            store_double(10, -32, 0),
            store_double(10, -24, 0),
            store_double(10, -16, 0),
            store_double(10, -8, 0),
            mov_reg(1, 6),
            mov_reg(2, 10),
            add_imm(2, -32),
            mov_imm(3, 32),
            mov_imm(4, 0),
            call(FUNC_SYSCTL_GET_NAME),
            // "net/"
            load_word(2, 10, -32),
            jump_eq(2, word(b"net/"), 10),
        ];
        // "kernel/hostname" and "kernel/domainname": the first four words tell them apart from
        // every other name below kernel/.
        code.extend([
            jump_ne(2, word(b"kern"), 7),
            load_word(3, 10, -28),
            jump_ne(3, word(b"el/h"), 2),
            load_word(3, 10, -24),
            jump_eq(3, word(b"ostn"), 5),
            jump_ne(3, word(b"el/d"), 2),
            load_word(3, 10, -24),
            jump_eq(3, word(b"omai"), 2),
            // refuse
            mov_imm(0, 0),
            exit(),
            // allow
            mov_imm(0, 1),
            exit(),
        ]);
        Self::load(&code, Hook::Sysctl)
    }

    fn load(code: &[Insn], hook: Hook) -> io::Result<Self> {
        let mut log = vec![0u8; 16384];
        let (prog_type, expected_attach_type) = match hook {
            Hook::Device => (BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE),
            Hook::Sysctl => (BPF_PROG_TYPE_CGROUP_SYSCTL, BPF_CGROUP_SYSCTL),
        };
        let mut attr = LoadAttr {
            prog_type,
            insn_cnt: code.len() as u32,
            insns: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            expected_attach_type,
            ..LoadAttr::default()
        };
        let ret = bpf(BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>());
        let fd = match ret {
            Ok(fd) => fd,
            Err(first) if matches!(first.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                // Once more, with the verifier's words.
                attr.log_level = 1;
                attr.log_size = log.len() as u32;
                attr.log_buf = log.as_mut_ptr() as u64;
                bpf(BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()).map_err(|e| {
                    let end = log.iter().position(|b| *b == 0).unwrap_or(0);
                    io::Error::new(
                        e.kind(),
                        format!("{first}: {}", String::from_utf8_lossy(&log[..end])),
                    )
                })?
            }
            Err(e) => return Err(e),
        };
        // SAFETY: the kernel just gave us this descriptor (close-on-exec by itself).
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, hook })
    }

    /// Attaches the program to a cgroup v2 directory; with `replace`, takes the place of that
    /// program with no moment in between.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn attach(&self, cgroup: BorrowedFd<'_>, replace: Option<&Program>) -> io::Result<()> {
        let mut attr = AttachAttr {
            target_fd: cgroup.as_raw_fd() as u32,
            attach_bpf_fd: self.fd.as_raw_fd() as u32,
            attach_type: match self.hook {
                Hook::Device => BPF_CGROUP_DEVICE,
                Hook::Sysctl => BPF_CGROUP_SYSCTL,
            },
            attach_flags: BPF_F_ALLOW_MULTI,
            replace_bpf_fd: 0,
        };
        if let Some(old) = replace {
            attr.attach_flags |= BPF_F_REPLACE;
            attr.replace_bpf_fd = old.fd.as_raw_fd() as u32;
        }
        bpf(BPF_PROG_ATTACH, &raw const attr, size_of::<AttachAttr>()).map(drop)
    }
}

fn bpf<T>(command: u32, attr: *const T, size: usize) -> io::Result<i32> {
    // SAFETY: private to this module; every caller passes a repr(C) prefix of union bpf_attr that
    // lives across the call, with its size, and buffers inside that live as long.
    check_long(unsafe { libc::syscall(libc::SYS_bpf, command, attr, size) }).map(|fd| fd as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_accepts_both_programs() {
        Program::devices(&[
            DeviceRule {
                block: false,
                major: 1,
                minor: Some(3),
            },
            DeviceRule {
                block: false,
                major: 136,
                minor: None,
            },
            DeviceRule {
                block: true,
                major: 7,
                minor: Some(4),
            },
        ])
        .unwrap();
        Program::sysctls().unwrap();
    }
}
