//! Processes: clone3 with namespaces, pidfds, reaping, identity, exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

use crate::{check, check_long, cstr};

/// New mount namespace.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// New UTS namespace.
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
/// New IPC namespace.
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
/// New PID namespace.
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// New network namespace.
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// New cgroup namespace.
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;

/// `CLONE_INTO_CGROUP` of clone3, which libc does not name for every target.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What clone3 is asked for.
#[derive(Debug, Default)]
pub struct CloneArgs<'a> {
    /// Namespaces to make ([`NEWNS`] …).
    pub namespaces: u64,
    /// A cgroup v2 directory to start in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A child made by [`spawn`].
#[derive(Debug)]
pub struct Child {
    /// Its process id as the parent sees it.
    pub pid: i32,
    /// Its pidfd (close-on-exec): readable when it has ended.
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks a child (a copy of this process) with new namespaces, and runs `child` in it.
///
/// `child` normally ends in [`exec`]; if it returns, the child exits with the returned code.
///
/// # Errors
/// `EBUSY` when this process has more than one thread: the copy would hold locks that nobody
/// releases. Otherwise what clone3 says.
pub fn spawn(args: &CloneArgs<'_>, child: impl FnOnce() -> i32) -> io::Result<Child> {
    if thread_count() > 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..RawCloneArgs::default()
    };
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of the address space, as with fork, and the
    // process is single-threaded (checked above), so no lock can be left held in the copy. `raw`
    // and `pidfd` outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<RawCloneArgs>()) };
    let pid = check_long(ret)? as i32;
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
        // SAFETY: _exit ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that nobody owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Returns how many threads this process has (1 when it cannot be told).
fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |dir| dir.count().max(1))
}

/// Replaces the process image; returns only if that failed.
///
/// # Errors
/// What execve says: `ENOENT`, `EACCES`, `ENOEXEC`, …
pub fn exec(path: &std::path::Path, argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let path = crate::cpath(path)?;
    let mut argv: Vec<_> = argv.iter().map(|a| a.as_ptr()).collect();
    argv.push(std::ptr::null());
    let mut env: Vec<_> = env.iter().map(|e| e.as_ptr()).collect();
    env.push(std::ptr::null());
    // SAFETY: both arrays are null-terminated and point to C strings that live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signaled(i32),
}

/// Reaps one ended child of this process, if there is one; never waits.
///
/// # Errors
/// What waitpid says, except `ECHILD`, which is `Ok(None)`.
pub fn reap_any() -> io::Result<Option<(i32, Ended)>> {
    wait_flags(-1, libc::WNOHANG)
}

/// Reaps the child `pid` if it has ended; never waits.
///
/// # Errors
/// What waitpid says, except `ECHILD`, which is `Ok(None)`.
pub fn reap(pid: i32) -> io::Result<Option<Ended>> {
    Ok(wait_flags(pid, libc::WNOHANG)?.map(|(_, ended)| ended))
}

/// Waits for the child `pid` to end.
///
/// # Errors
/// What waitpid says; `ECHILD` when there is no such child.
pub fn wait(pid: i32) -> io::Result<Ended> {
    wait_flags(pid, 0)?
        .map(|(_, e)| e)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

fn wait_flags(pid: i32, flags: i32) -> io::Result<Option<(i32, Ended)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result.
        let ret = unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) };
        match check(ret) {
            Ok(0) => return Ok(None),
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Ok(Some((pid, Ended::Signaled(libc::WTERMSIG(status)))));
            }
            Ok(pid) if libc::WIFEXITED(status) => {
                return Ok(Some((pid, Ended::Exited(libc::WEXITSTATUS(status)))));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Opens a pidfd (close-on-exec) of a process.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked before it is owned.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal through a pidfd: never hits a reused process id.
///
/// # Errors
/// `ESRCH` when the process is gone.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check_long(ret).map(drop)
}

/// Sends a signal to a process, a group (negative) or all (-1).
///
/// # Errors
/// What kill says.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Asks for `signal` when the thread that made this process dies.
///
/// # Errors
/// What prctl says.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) }).map(drop)
}

/// Marks the calling thread as one that does block I/O for others (`PR_SET_IO_FLUSHER`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn set_io_flusher() -> io::Result<()> {
    const PR_SET_IO_FLUSHER: i32 = 57;
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

/// Makes this process adopt the orphans among its descendants.
///
/// # Errors
/// What prctl says.
pub fn set_child_subreaper() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Makes `/proc/<this>` and ptrace unavailable to other users (`PR_SET_DUMPABLE` 0).
///
/// # Errors
/// What prctl says.
pub fn set_undumpable() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Sets the thread's name (15 bytes are kept).
///
/// # Errors
/// What prctl says.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = cstr(name)?;
    // SAFETY: `name` is a C string that lives across the call.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// What unshare says.
pub fn unshare(namespaces: u64) -> io::Result<()> {
    // SAFETY: no memory is involved; sharing less is always sound.
    check(unsafe { libc::unshare(namespaces as libc::c_int) }).map(drop)
}

/// Moves the calling thread's file system view (cwd, root, umask) apart from other threads'.
///
/// # Errors
/// What unshare says.
pub fn unshare_fs() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// Enters the namespaces behind a `/proc/<pid>/ns/*` descriptor or a pidfd.
///
/// # Errors
/// What setns says.
pub fn setns(fd: BorrowedFd<'_>, namespaces: u64) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setns(fd.as_raw_fd(), namespaces as libc::c_int) }).map(drop)
}

/// Starts a new session.
///
/// # Errors
/// `EPERM` for a group leader.
pub fn setsid() -> io::Result<i32> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })
}

/// Sets the file mode mask and returns the old one.
#[must_use]
pub fn umask(mask: u32) -> u32 {
    // SAFETY: no memory is involved; umask cannot fail.
    unsafe { libc::umask(mask) }
}

/// Sets the host name of the UTS namespace.
///
/// # Errors
/// `EPERM`, or `EINVAL` when too long.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the NIS domain name of the UTS namespace.
///
/// # Errors
/// `EPERM`, or `EINVAL` when too long.
pub fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Becomes a user for good: supplementary groups, gid, uid, in this order.
///
/// # Errors
/// What the three calls say. Must be called in a single-threaded process.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe `groups`.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: no memory is involved.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// Sets a resource limit.
///
/// # Errors
/// What setrlimit says.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` lives across the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    check_long(ret).map(drop)
}

/// Changes the root directory.
///
/// # Errors
/// What chroot says.
pub fn chroot(path: &std::path::Path) -> io::Result<()> {
    let path = crate::cpath(path)?;
    // SAFETY: `path` is a C string that lives across the call.
    check(unsafe { libc::chroot(path.as_ptr()) }).map(drop)
}

/// Changes the working directory to an open one.
///
/// # Errors
/// What fchdir says.
pub fn fchdir(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }).map(drop)
}

/// Makes a descriptor the given number in this process (dup2), without close-on-exec.
///
/// # Errors
/// What dup2 says.
pub fn dup_onto(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: no memory is involved.
        return check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: replacing descriptor `number` is what the caller asks for; Rust objects that own it
    // must not be used afterwards, which only ever happens between fork and exec.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Closes everything but standard streams and one descriptor, which it returns under a low number.
///
/// Only for a child of [`spawn`] that never returns to its parent's code: every other descriptor
/// that Rust objects own there is gone afterwards.
///
/// # Errors
/// What dup2 and `close_range` say.
pub fn keep_only(fd: OwnedFd) -> io::Result<OwnedFd> {
    const KEPT: RawFd = 3;
    let kept = if fd.as_raw_fd() == KEPT {
        fd
    } else {
        // SAFETY: replacing descriptor 3 is what the caller asks for (see above).
        check(unsafe { libc::dup3(fd.as_raw_fd(), KEPT, libc::O_CLOEXEC) })?;
        std::mem::forget(fd);
        // SAFETY: dup3 has just made this descriptor.
        unsafe { OwnedFd::from_raw_fd(KEPT) }
    };
    // SAFETY: closing the rest is what the caller asks for (see above).
    check_long(unsafe { libc::syscall(libc::SYS_close_range, KEPT as u32 + 1, u32::MAX, 0) })?;
    Ok(kept)
}

/// Marks every descriptor from `first` up close-on-exec.
///
/// # Errors
/// What `close_range` says.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: nothing is closed now, so no owner loses its descriptor.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check_long(ret).map(drop)
}

/// Makes a pipe (close-on-exec): read end, write end.
///
/// # Errors
/// `EMFILE`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just made and nobody owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Switches a descriptor to non-blocking mode, or back.
///
/// # Errors
/// What fcntl says.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no memory is involved.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let flags = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_other_than_root_is_not_needed_for_a_pidfd() {
        let fd = pidfd_open(std::process::id() as i32).unwrap();
        pidfd_signal(fd.as_fd(), 0).unwrap();
    }

    #[test]
    fn spawning_from_a_process_with_threads_is_refused() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let error = spawn(&CloneArgs::default(), || 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        drop(done);
        let _ = thread.join();
    }
}
