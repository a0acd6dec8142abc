//! What `--init` puts at PID 1 of a container: passes signals on, reaps, ends as its child ends.

use std::os::fd::AsFd;
use std::process::ExitCode;

use tether_sys::process::{self, Ended};
use tether_sys::{poll, signals};

/// Name under which tether's program runs as the reaper.
pub const NAME: &str = "docker-init";

/// Runs as the reaper for the child `pid`, until it ends.
pub fn run(pid: Option<i32>) -> ExitCode {
    let Some(pid) = pid else {
        eprintln!("{NAME}: started without a child");
        return ExitCode::from(2);
    };
    match watch(pid) {
        Ok(Ended::Exited(code)) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)),
        Ok(Ended::Signaled(signal)) => {
            ExitCode::from(u8::try_from(128 + (signal & 0x7f)).unwrap_or(255))
        }
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::from(2)
        }
    }
}

/// Signals that are passed on: all but those that cannot be, and those of faults of our own.
pub fn passed_on() -> Vec<i32> {
    let own = [
        nix::libc::SIGKILL,
        nix::libc::SIGSTOP,
        nix::libc::SIGSEGV,
        nix::libc::SIGBUS,
        nix::libc::SIGFPE,
        nix::libc::SIGILL,
        nix::libc::SIGTRAP,
        nix::libc::SIGABRT,
    ];
    (1..=64)
        .filter(|signal| !own.contains(signal) && !(32..34).contains(signal))
        .collect()
}

fn watch(pid: i32) -> std::io::Result<Ended> {
    let signals = signals::SignalFd::open(&passed_on())?;
    loop {
        while let Some((ended, how)) = process::reap_any()? {
            if ended == pid {
                return Ok(how);
            }
        }
        poll::readable(&[signals.as_fd()], -1)?;
        while let Some(received) = signals.read()? {
            if received.signal != nix::libc::SIGCHLD {
                // The child may just have gone.
                let _ = process::kill(pid, received.signal);
            }
        }
    }
}
