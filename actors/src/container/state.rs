//! The container's state machine: `(State, Event) → effects`. Pure: no clock, no actor, no vSphere.
//!
//! ```text
//!            Start: PowerOn            guest: started
//!  Created ────────────────▶ Starting ────────────────▶ Running ◀──▶ Paused
//!     ▲                        │  launch error, VM off     │  │ Stop: signal, deadline
//!     └────────────────────────┘                           │  ▼
//!  Exited ◀───────────────────────── VM off ───────────────┴─ Stopping
//!     └── Start: PowerOn ─▶ Starting
//!  any phase ── Remove (off first) ─▶ removing ── Destroy done, VM gone ─▶ gone
//! ```
//! What an admin does behind our back enters as `VmChanged` or `VmGone` and takes the same arrows. What a crash
//! loses: requests in flight (their ports drop) and a running `stop` deadline; the rest is rebuilt from the VM.

use time::OffsetDateTime;

use super::event::{Event, Power, Process, Ticket, VmView, Work};
use super::message::{RemoveOptions, Signal};
use super::snapshot::Phase;
use crate::error::Error;
use crate::ids::ContainerId;

/// SIGKILL's number.
pub const SIGKILL: Signal = Signal(9);

/// Seconds that the guest gets to power off after SIGKILL, before the VM is powered off hard.
pub const KILL_GRACE: u64 = 3;

/// Exit code of a container whose VM went off without saying how its process ended.
pub const LOST: i64 = 137;

/// Exit code of a container that is found off, although its process ran when it was last seen.
pub const FOUND_OFF: i64 = 255;

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start a piece of work; its end comes back as [`Event::Done`].
    Do(Work),
    /// Send a signal to the container's process.
    Signal(Signal),
    /// Give a [`Event::StopDeadline`] after so many seconds.
    Deadline(u64),
    /// Answer a request.
    Answer(Ticket, Result<(), Error>),
    /// Tell the world, in docker's words, with extra attributes.
    Emit(&'static str, Vec<(&'static str, String)>),
    /// The run is over: end attached streams once they are drained.
    RunEnded,
    /// The container is gone: take it off the shelf, free what it had, end the actor.
    Gone,
}

/// A container's state.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Its id, for error texts.
    pub id: ContainerId,
    /// Whether it removes itself at its exit.
    pub auto_remove: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// What vSphere showed last.
    pub vm: VmView,
    /// The guest's key when the VM was last off: a boot is new when its key is another.
    stale_key: String,
    /// Exit code of the last run.
    pub exit_code: i64,
    /// Why the last start or run failed.
    pub error: String,
    /// Begin of the last run.
    pub started_at: Option<OffsetDateTime>,
    /// End of the last run.
    pub finished_at: Option<OffsetDateTime>,
    /// Runs that ended, failed starts included.
    pub exits: u64,
    /// A removal is under way.
    pub removing: Option<RemoveOptions>,
    /// A removal failed.
    pub dead: bool,
    /// The VM's destruction is under way.
    destroying: bool,
    starts: Vec<Ticket>,
    stops: Vec<Ticket>,
    restarts: Vec<Ticket>,
    removes: Vec<Ticket>,
    pauses: Vec<Ticket>,
    powering_off: bool,
    asked_to_power_on: bool,
    /// The start under way is the second half of a restart.
    restarting: bool,
}

impl State {
    /// A container that was just made.
    pub fn created(id: ContainerId, auto_remove: bool) -> Self {
        Self {
            id,
            auto_remove,
            phase: Phase::Created,
            vm: VmView::default(),
            stale_key: String::new(),
            exit_code: 0,
            error: String::new(),
            started_at: None,
            finished_at: None,
            exits: 0,
            removing: None,
            dead: false,
            destroying: false,
            starts: vec![],
            stops: vec![],
            restarts: vec![],
            removes: vec![],
            pauses: vec![],
            powering_off: false,
            asked_to_power_on: false,
            restarting: false,
        }
    }

    /// A container as its VM shows it, after a restart of the actor or of the whole program.
    pub fn recovered(id: ContainerId, auto_remove: bool, vm: VmView) -> Self {
        let mut state = Self::created(id, auto_remove);
        state.started_at = vm.started_at;
        state.finished_at = vm.stopped_at;
        match (vm.power, &vm.process) {
            (Power::On, Process::Running) => state.phase = Phase::Running,
            (Power::Suspended, _) => state.phase = Phase::Paused,
            (Power::On, _) => state.phase = Phase::Starting,
            (Power::Off, Process::Pending) => {}
            (Power::Off, Process::Exited { code }) => {
                state.phase = Phase::Exited;
                state.exit_code = *code;
            }
            (Power::Off, Process::Running) => {
                state.phase = Phase::Exited;
                state.exit_code = FOUND_OFF;
                state.finished_at = vm.stopped_at.or(vm.started_at);
            }
            (Power::Off, Process::Failed { error, code }) => {
                state.exit_code = *code;
                state.error = error.clone();
            }
        }
        if vm.power == Power::Off {
            state.stale_key.clone_from(&vm.boot_key);
        }
        state.vm = vm;
        state
    }

    /// Takes over what only the last snapshot knows, after a restart of the actor.
    pub fn continue_from(&mut self, last: &super::snapshot::ContainerSnapshot) {
        self.exits = last.exits;
        let over = matches!(self.phase, Phase::Created | Phase::Exited);
        let ran = match last.phase {
            Phase::Running | Phase::Paused | Phase::Stopping => true,
            // Whether vSphere was asked to power it on before the actor died, only the guest can tell.
            Phase::Starting => {
                self.started_at != last.started_at
                    || !self.error.is_empty() && self.error != last.error
            }
            Phase::Created | Phase::Exited => false,
        };
        if over && ran {
            // The run that ended while nobody looked.
            self.exits += 1;
        }
        if self.phase == Phase::Running && last.phase == Phase::Paused {
            self.phase = Phase::Paused;
        }
        if self.phase == Phase::Created && last.phase == Phase::Exited {
            self.phase = Phase::Exited;
            self.finished_at = last.finished_at;
        }
        if last.removing {
            self.removing = Some(RemoveOptions {
                force: true,
                volumes: last.removing_volumes,
                ..RemoveOptions::default()
            });
        }
    }

    /// What is to be done first after a recovery.
    pub fn resume(&mut self) -> Vec<Effect> {
        let mut out = Vec::new();
        let off = matches!(self.phase, Phase::Created | Phase::Exited);
        if self.removing.is_some() && off {
            self.destroy(&mut out);
        } else if self.removing.is_some() {
            self.hard_off(&mut out);
        } else if self.auto_remove && self.phase == Phase::Exited {
            self.remove_now(&mut out);
        }
        out
    }

    /// Takes an event and gives what is to be done, in order. `now` is for events that carry no time.
    pub fn step(&mut self, event: Event, now: OffsetDateTime) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Start(ticket) => self.start(ticket, &mut out),
            Event::Stop {
                ticket,
                signal,
                timeout,
                restart,
            } => {
                self.stop(ticket, signal, timeout, restart, &mut out);
            }
            Event::Kill { ticket, signal } => self.kill(ticket, signal, &mut out),
            Event::Pause { ticket, pause } => self.pause(ticket, pause, &mut out),
            Event::Remove { ticket, options } => self.remove(ticket, options, &mut out),
            Event::VmChanged(vm) => self.vm_changed(vm, now, &mut out),
            Event::VmGone => self.gone(&mut out),
            Event::Frozen(frozen) => self.found_frozen(frozen),
            Event::Done(work, result) => self.done(work, result, now, &mut out),
            Event::StopDeadline => self.deadline(&mut out),
        }
        out
    }

    fn start(&mut self, ticket: Ticket, out: &mut Vec<Effect>) {
        let refusal = match self.phase {
            _ if self.removing.is_some() || self.dead => Some(Error::MarkedForRemoval),
            Phase::Running | Phase::Stopping => Some(Error::NotModified),
            Phase::Paused => Some(Error::StartPaused),
            Phase::Created | Phase::Exited | Phase::Starting => None,
        };
        if let Some(why) = refusal {
            out.push(Effect::Answer(ticket, Err(why)));
            return;
        }
        self.starts.push(ticket);
        if self.phase != Phase::Starting {
            self.power_on(out);
        }
    }

    fn power_on(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Starting;
        self.error.clear();
        self.stale_key.clone_from(&self.vm.boot_key);
        self.asked_to_power_on = true;
        out.push(Effect::Do(Work::PowerOn));
    }

    fn stop(
        &mut self,
        ticket: Ticket,
        signal: Signal,
        timeout: Option<u64>,
        restart: bool,
        out: &mut Vec<Effect>,
    ) {
        match self.phase {
            Phase::Created | Phase::Exited if restart => {
                self.restarting = true;
                self.start(ticket, out);
            }
            Phase::Created | Phase::Exited => {
                out.push(Effect::Answer(ticket, Err(Error::NotModified)));
            }
            Phase::Starting | Phase::Running | Phase::Paused | Phase::Stopping => {
                if restart {
                    &mut self.restarts
                } else {
                    &mut self.stops
                }
                .push(ticket);
                if self.phase == Phase::Paused {
                    // A frozen process takes no signal: thaw first, the signal waits in it.
                    out.push(Effect::Do(Work::Freeze(false)));
                }
                self.phase = Phase::Stopping;
                out.push(Effect::Signal(signal));
                out.push(Effect::Emit("kill", vec![("signal", signal.0.to_string())]));
                if let Some(seconds) = timeout {
                    out.push(Effect::Deadline(seconds));
                }
            }
        }
    }

    fn deadline(&mut self, out: &mut Vec<Effect>) {
        if self.phase != Phase::Stopping || self.powering_off {
            return;
        }
        self.hard_off(out);
    }

    fn hard_off(&mut self, out: &mut Vec<Effect>) {
        if !self.powering_off {
            self.powering_off = true;
            out.push(Effect::Do(Work::PowerOff));
        }
    }

    fn kill(&mut self, ticket: Ticket, signal: Signal, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Created | Phase::Exited | Phase::Starting => {
                out.push(Effect::Answer(ticket, Err(Error::NotRunning(self.id))));
            }
            Phase::Running | Phase::Paused | Phase::Stopping => {
                if signal == SIGKILL && self.phase == Phase::Paused {
                    self.hard_off(out);
                } else {
                    out.push(Effect::Signal(signal));
                }
                out.push(Effect::Emit("kill", vec![("signal", signal.0.to_string())]));
                out.push(Effect::Answer(ticket, Ok(())));
                if signal == SIGKILL {
                    self.phase = Phase::Stopping;
                    out.push(Effect::Deadline(KILL_GRACE));
                }
            }
        }
    }

    fn pause(&mut self, ticket: Ticket, pause: bool, out: &mut Vec<Effect>) {
        let refusal = match (self.phase, pause) {
            (Phase::Running, true) | (Phase::Paused, false) => None,
            (Phase::Paused, true) => Some(Error::AlreadyPaused(self.id)),
            (_, true) => Some(Error::NotRunning(self.id)),
            (_, false) => Some(Error::NotPaused(self.id)),
        };
        if let Some(why) = refusal {
            out.push(Effect::Answer(ticket, Err(why)));
            return;
        }
        self.pauses.push(ticket);
        let resume = self.vm.power == Power::Suspended;
        out.push(Effect::Do(if resume {
            Work::PowerOn
        } else {
            Work::Freeze(pause)
        }));
    }

    /// Nothing happened: this is how it was while nobody looked.
    fn found_frozen(&mut self, frozen: bool) {
        if self.vm.power != Power::On || !self.pauses.is_empty() {
            return;
        }
        match (frozen, self.phase) {
            (true, Phase::Running) => self.phase = Phase::Paused,
            (false, Phase::Paused) => self.phase = Phase::Running,
            _ => {}
        }
    }

    fn remove(&mut self, ticket: Ticket, options: RemoveOptions, out: &mut Vec<Effect>) {
        if self.removing.is_some() {
            // A client that removes what `--rm` removes already gets the same end.
            if self.auto_remove {
                self.removes.push(ticket);
            } else {
                let why = Error::RemovalInProgress(options.name);
                out.push(Effect::Answer(ticket, Err(why)));
            }
            return;
        }
        let off = matches!(self.phase, Phase::Created | Phase::Exited);
        if !off && !options.force {
            let why = match self.phase {
                Phase::Paused => Error::RemovePaused(options.name),
                _ => Error::RemoveRunning(options.name),
            };
            out.push(Effect::Answer(ticket, Err(why)));
            return;
        }
        self.removes.push(ticket);
        self.removing = Some(options);
        self.dead = false;
        if off {
            self.destroy(out);
        } else {
            out.push(Effect::Emit("kill", vec![("signal", "9".to_owned())]));
            self.hard_off(out);
        }
    }

    fn vm_changed(&mut self, vm: VmView, now: OffsetDateTime, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.vm, vm);
        match self.vm.power {
            Power::Off => self.seen_off(&before, now, out),
            Power::Suspended => {
                if self.phase == Phase::Running {
                    self.phase = Phase::Paused;
                    out.push(Effect::Emit("pause", vec![]));
                }
            }
            Power::On => self.seen_on(&before, now, out),
        }
    }

    fn seen_on(&mut self, before: &VmView, now: OffsetDateTime, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Created | Phase::Exited => {
                // Somebody else powered it on.
                self.phase = Phase::Starting;
                self.stale_key.clone_from(&before.boot_key);
            }
            Phase::Paused if before.power == Power::Suspended => {
                self.phase = Phase::Running;
                out.push(Effect::Emit("unpause", vec![]));
                self.answer_all(|s| &mut s.pauses, &Ok(()), out);
            }
            Phase::Running | Phase::Stopping if self.rebooted(before) => {
                self.run_ended(self.last_code(), now, out);
                self.phase = Phase::Starting;
                self.stale_key.clone_from(&before.boot_key);
            }
            _ => {}
        }
        let starting = self.phase == Phase::Starting
            || (self.phase == Phase::Stopping && self.started_at_is_old());
        if starting && self.fresh() {
            self.booted(now, out);
        } else if self.fresh() && self.vm.process == Process::Running {
            // The guest knows best when its process began.
            self.started_at = self.vm.started_at.or(self.started_at);
        }
    }

    /// Whether the keys on show were written by the present boot.
    fn fresh(&self) -> bool {
        !self.vm.boot_key.is_empty() && self.vm.boot_key != self.stale_key
    }

    fn rebooted(&self, before: &VmView) -> bool {
        !self.vm.boot_key.is_empty()
            && !before.boot_key.is_empty()
            && self.vm.boot_key != before.boot_key
            && before.boot_key != self.stale_key
    }

    fn started_at_is_old(&self) -> bool {
        self.fresh() && self.started_at != self.vm.started_at && !self.starts.is_empty()
    }

    fn booted(&mut self, now: OffsetDateTime, out: &mut Vec<Effect>) {
        match self.vm.process.clone() {
            Process::Pending => {}
            Process::Running | Process::Exited { .. } => {
                if self.phase == Phase::Starting {
                    self.phase = Phase::Running;
                }
                self.started_at = self.vm.started_at.or(Some(now));
                self.exit_code = 0;
                self.error.clear();
                out.push(Effect::Emit("start", vec![]));
                if std::mem::take(&mut self.restarting) {
                    out.push(Effect::Emit("restart", vec![]));
                }
                self.answer_all(|s| &mut s.starts, &Ok(()), out);
            }
            Process::Failed { .. } => {
                // The answer waits until the VM is off, so that what follows finds it so.
                self.hard_off(out);
            }
        }
    }

    fn seen_off(&mut self, before: &VmView, now: OffsetDateTime, out: &mut Vec<Effect>) {
        self.powering_off = false;
        match self.phase {
            Phase::Created | Phase::Exited => {}
            // The PowerOn that we asked for has not happened yet.
            Phase::Starting
                if before.power == Power::Off && self.asked_to_power_on && !self.fresh() =>
            {
                return;
            }
            Phase::Starting => self.start_ended(now, out),
            Phase::Running | Phase::Paused | Phase::Stopping => {
                if self.phase == Phase::Stopping && !self.starts.is_empty() {
                    let why = Error::internal("start", "stopped before its process ran");
                    self.answer_all(|s| &mut s.starts, &Err(why), out);
                }
                self.run_ended(self.last_code(), now, out);
            }
        }
        self.after_off(out);
    }

    /// The VM went off while it was starting: it ran and ended between two looks, or it never ran.
    fn start_ended(&mut self, now: OffsetDateTime, out: &mut Vec<Effect>) {
        self.asked_to_power_on = false;
        let ran =
            self.fresh() && matches!(self.vm.process, Process::Exited { .. } | Process::Running);
        if ran {
            self.phase = Phase::Running;
            self.booted(now, out);
            self.run_ended(self.last_code(), now, out);
            return;
        }
        let (error, code) = match &self.vm.process {
            Process::Failed { error, code } if self.fresh() => (error.clone(), *code),
            _ => (
                "the virtual machine stopped before the process was started".to_owned(),
                128,
            ),
        };
        self.start_failed(
            Error::Launch {
                text: error,
                exit_code: code,
            },
            code,
            out,
        );
    }

    fn start_failed(&mut self, why: Error, code: i64, out: &mut Vec<Effect>) {
        let ran_before = self.finished_at.is_some();
        self.phase = if ran_before {
            Phase::Exited
        } else {
            Phase::Created
        };
        self.asked_to_power_on = false;
        self.restarting = false;
        self.exit_code = code;
        self.error = why.to_string();
        self.exits += 1;
        out.push(Effect::RunEnded);
        self.answer_all(|s| &mut s.starts, &Err(why.clone()), out);
        self.answer_all(|s| &mut s.restarts, &Err(why), out);
        self.answer_all(|s| &mut s.stops, &Ok(()), out);
        if self.auto_remove {
            self.remove_now(out);
        }
    }

    fn last_code(&self) -> (i64, Option<OffsetDateTime>) {
        match &self.vm.process {
            Process::Exited { code } => (*code, self.vm.stopped_at),
            _ => (LOST, None),
        }
    }

    fn run_ended(
        &mut self,
        (code, at): (i64, Option<OffsetDateTime>),
        now: OffsetDateTime,
        out: &mut Vec<Effect>,
    ) {
        self.asked_to_power_on = false;
        self.phase = Phase::Exited;
        self.exit_code = code;
        self.finished_at = at.or(Some(now));
        self.exits += 1;
        let ran = match (self.started_at, self.finished_at) {
            (Some(from), Some(to)) => (to - from).whole_seconds().max(0),
            _ => 0,
        };
        out.push(Effect::Emit(
            "die",
            vec![
                ("exitCode", code.to_string()),
                ("execDuration", ran.to_string()),
            ],
        ));
        out.push(Effect::RunEnded);
    }

    fn after_off(&mut self, out: &mut Vec<Effect>) {
        if !self.stops.is_empty() || !self.restarts.is_empty() {
            out.push(Effect::Emit("stop", vec![]));
            self.answer_all(|s| &mut s.stops, &Ok(()), out);
        }
        let why = Error::NotRunning(self.id);
        self.answer_all(|s| &mut s.pauses, &Err(why), out);
        if self.removing.is_some() {
            self.destroy(out);
        } else if !self.restarts.is_empty() {
            let again = std::mem::take(&mut self.restarts);
            self.restarting = true;
            self.starts.extend(again);
            self.power_on(out);
        } else if self.auto_remove && self.phase == Phase::Exited {
            self.remove_now(out);
        }
    }

    /// Asks for the VM's destruction, once: its power-off is seen both as a task's end and as a property's change.
    fn destroy(&mut self, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.destroying, true) {
            out.push(Effect::Do(Work::Destroy));
        }
    }

    fn remove_now(&mut self, out: &mut Vec<Effect>) {
        if self.removing.is_none() {
            self.removing = Some(RemoveOptions {
                volumes: true,
                ..RemoveOptions::default()
            });
            self.destroy(out);
        }
    }

    fn gone(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Running | Phase::Paused | Phase::Stopping) {
            out.push(Effect::Emit("die", vec![("exitCode", LOST.to_string())]));
            out.push(Effect::RunEnded);
        }
        out.push(Effect::Emit("destroy", vec![]));
        out.push(Effect::Gone);
        let missing = Err(Error::NoSuchContainer(self.id.to_string()));
        self.answer_all(|s| &mut s.starts, &missing, out);
        self.answer_all(|s| &mut s.stops, &missing, out);
        self.answer_all(|s| &mut s.restarts, &missing, out);
        self.answer_all(|s| &mut s.pauses, &missing, out);
        self.answer_all(|s| &mut s.removes, &Ok(()), out);
    }

    fn done(
        &mut self,
        work: Work,
        result: Result<(), Error>,
        now: OffsetDateTime,
        out: &mut Vec<Effect>,
    ) {
        match (work, result) {
            (Work::Destroy, Ok(())) => self.gone(out),
            (Work::Destroy, Err(why)) => {
                self.removing = None;
                self.destroying = false;
                self.dead = true;
                self.answer_all(|s| &mut s.removes, &Err(why), out);
            }
            (Work::PowerOn, Err(why)) if self.phase == Phase::Starting => {
                self.start_failed(why, 128, out);
            }
            (Work::PowerOff, Err(why)) => {
                self.powering_off = false;
                // It went off by itself in the meantime: `VmChanged` tells or has told.
                if self.vm.power != Power::Off {
                    self.answer_all(|s| &mut s.stops, &Err(why.clone()), out);
                    self.answer_all(|s| &mut s.restarts, &Err(why.clone()), out);
                    if self.removing.take().is_some() {
                        self.answer_all(|s| &mut s.removes, &Err(why), out);
                    }
                }
            }
            (Work::PowerOff, Ok(())) => {
                // The task's end may be seen before the property's change.
                let off = VmView {
                    power: Power::Off,
                    ..self.vm.clone()
                };
                if self.vm.power != Power::Off {
                    self.vm_changed(off, now, out);
                }
            }
            (Work::Freeze(pause), Ok(())) => {
                match (pause, self.phase) {
                    (true, Phase::Running) => {
                        self.phase = Phase::Paused;
                        out.push(Effect::Emit("pause", vec![]));
                    }
                    (false, Phase::Paused) => {
                        self.phase = Phase::Running;
                        out.push(Effect::Emit("unpause", vec![]));
                    }
                    _ => {}
                }
                self.answer_all(|s| &mut s.pauses, &Ok(()), out);
            }
            (Work::Freeze(_), Err(why)) => self.answer_all(|s| &mut s.pauses, &Err(why), out),
            (Work::PowerOn, Err(why)) => self.answer_all(|s| &mut s.pauses, &Err(why), out),
            (Work::PowerOn, Ok(())) => {}
        }
    }

    fn answer_all(
        &mut self,
        waiting: impl Fn(&mut Self) -> &mut Vec<Ticket>,
        answer: &Result<(), Error>,
        out: &mut Vec<Effect>,
    ) {
        for ticket in std::mem::take(waiting(self)) {
            out.push(Effect::Answer(ticket, answer.clone()));
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
