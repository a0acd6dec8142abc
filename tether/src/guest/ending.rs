//! How processes end, and with the container's own the VM: signals, reaping, who is told what, in which
//! order.
//!
//! ```text
//! SIGCHLD ─▶ reap ─▶ exit status to guest RPC ─▶ output, then `Exited` on the link ─▶ off
//! OS_Halt ─▶ stop signal ── timeout ─▶ KILL ─▶ SIGCHLD
//! ```

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tether_protocol::config::{ProcessState, ProcessStatus};
use tether_protocol::rpci::{self, Request};
use tether_protocol::session::{Message, PRIMARY, Process as Number};
use tether_sys::power::Power;
use tether_sys::process::{self as sys, Ended};

use super::Guest;
use super::process::Wanted;
use crate::clock;
use crate::signals::signal_number;

/// How long the end waits for a VCH that wants output and is not there.
const DELIVERS_FOR: Duration = Duration::from_secs(30);
/// How long it waits for the last acknowledgement when nobody wants output.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Seconds from a stop signal to KILL when the container says nothing.
const STOP_TIMEOUT: u32 = 10;

impl Guest<'_> {
    pub(super) fn on_signals(&mut self) {
        while let Ok(Some(received)) = self.parts.signals.read() {
            match received.signal {
                nix::libc::SIGCHLD => {}
                nix::libc::SIGHUP => {}
                _ => self.stop(Power::Off),
            }
        }
        while let Ok(Some((pid, how))) = sys::reap_any() {
            let code = match how {
                Ended::Exited(code) => code,
                Ended::Signaled(signal) => 128 + signal,
            };
            let process = self
                .processes
                .values_mut()
                .find(|p| p.pid == pid && p.ended.is_none());
            let Some(process) = process else { continue };
            let time = clock::now_nanos();
            process.ended = Some((code, time));
            if process.number == PRIMARY {
                self.on_primary_end(code, time);
            }
        }
    }

    /// The exit status goes to the hypervisor before anything else.
    fn on_primary_end(&mut self, code: i32, time: i64) {
        let state = ProcessState {
            status: ProcessStatus::Exited { code },
            stopped_at: Some(time),
            started_at: None,
        };
        if let Err(error) = self.parts.rpc.set(&state.encode(&self.parts.config.id)) {
            crate::say!("reporting the exit status: {error}");
        }
        self.kill_at = None;
        let wanted = self
            .processes
            .values()
            .any(|p| p.wanted != Wanted::default() || p.holds_output());
        let patience = if wanted { DELIVERS_FOR } else { LAST_WORDS };
        self.ending = Some(Instant::now() + patience);
    }

    /// Tells the host of processes whose output has been delivered.
    pub(super) fn report_exits(&mut self) {
        let numbers: Vec<_> = self.processes.keys().copied().collect();
        for number in numbers {
            let outputs = self.processes.get(&number).map_or(0, |p| p.outputs.len());
            if self
                .processes
                .get(&number)
                .is_some_and(|p| p.ended.is_some() && !p.reported)
            {
                // All that its pipes hold is there now.
                (0..outputs).for_each(|index| self.pump(number, index));
            }
            let Some(process) = self.processes.get_mut(&number) else {
                continue;
            };
            let Some((code, time)) = process.ended.filter(|_| !process.reported) else {
                continue;
            };
            // Children that were left behind may hold an exec's pipes open: docker does not wait.
            if number != PRIMARY {
                let idle = (0..outputs).all(|index| process.may_read(index));
                if idle {
                    process
                        .outputs
                        .iter_mut()
                        .for_each(|output| output.file = None);
                }
            }
            let Some(link) = &mut self.parts.link else {
                process.reported = true;
                continue;
            };
            process.flush(&mut link.session);
            if process.is_drained() && link.session.is_up() {
                process.reported = true;
                link.session.send(Message::Exited {
                    process: number,
                    code,
                    time,
                });
            }
        }
    }

    /// The primary has ended, and there is nothing to wait for any more.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(deadline) = self.ending else {
            return false;
        };
        let Some(primary) = self.processes.get(&PRIMARY) else {
            return true;
        };
        if Instant::now() >= deadline {
            return true;
        }
        let Some(link) = &self.parts.link else {
            return primary.is_drained();
        };
        if primary.is_drained() && !link.session.is_up() && link.session.all_acknowledged() {
            // The host never came, and nobody was promised anything.
            return true;
        }
        primary.reported && link.is_quiet()
    }

    pub(super) fn on_hypervisor(&mut self) {
        let mut buffer = [0; 4096];
        let Some(tclo) = &mut self.parts.tclo else {
            return;
        };
        match tclo.read(&mut buffer) {
            Ok(0) => self.parts.tclo = None,
            Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
            Err(_) => {}
        }
        while let Ok(Some(message)) = rpci::take_message(&mut self.heard) {
            let request = Request::decode(&message);
            let mut reply = Vec::new();
            rpci::write_message(&mut reply, b"OK ");
            if let Some(tclo) = &mut self.parts.tclo
                && let Err(error) = tclo.write_all(&reply)
            {
                crate::say!("answering the hypervisor: {error}");
            }
            match request {
                Request::Halt => self.stop(Power::Off),
                Request::Reboot => self.stop(Power::Restart),
                Request::Ping | Request::Other(_) => {}
            }
        }
    }

    /// Stops the container as docker would: its signal, then KILL.
    fn stop(&mut self, power: Power) {
        self.power = power;
        if self.ending.is_some() {
            return;
        }
        let spec = self.parts.config.primary();
        let signal = spec.map_or("", |s| s.stop_signal.as_str());
        let timeout = spec.and_then(|s| s.stop_timeout).unwrap_or(STOP_TIMEOUT);
        if self.parts.freezer.is_frozen()
            && let Some(primary) = self.processes.get(&PRIMARY)
        {
            self.parts.freezer.set(false, primary.pid);
        }
        self.signal(PRIMARY, signal_number(signal));
        self.kill_at = Some(Instant::now() + Duration::from_secs(timeout.into()));
    }

    pub(super) fn signal(&self, number: Number, signal: i32) {
        let Some(process) = self.processes.get(&number).filter(|p| p.ended.is_none()) else {
            return;
        };
        if let Err(error) = sys::kill(process.pid, signal) {
            crate::say!("signal {signal} to {}: {error}", process.pid);
        }
    }
}
