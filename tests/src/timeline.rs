//! Where the time of one `docker run --rm busybox true` goes, put together from what the simulator and the VCH log.
//!
//! All parts run on one machine and one clock, so that their log lines can be laid side by side: the API's requests, the
//! calls that reach vSphere, the guest's start and what it writes into guestinfo.

mod log;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use self::log::{Event, What};
use crate::world::{Options, World};

/// Runs before the one that is shown: what is cached once is not what a run costs.
const WARM_UP: usize = 5;
/// Time for the last lines of a run to reach the logs.
const SETTLED: Duration = Duration::from_secs(10);

/// One stretch of the run.
#[derive(Debug)]
pub struct Step {
    /// What happens in it.
    pub name: &'static str,
    /// When it begins, from the moment that the CLI was started.
    pub begin: Duration,
    /// How long it lasts.
    pub length: Duration,
    /// What it may take by the budget of a run on an idle machine; none for what is not ours.
    pub budget: Option<Duration>,
}

/// One run, taken apart.
#[derive(Debug)]
pub struct Timeline {
    /// The stretches, end to end: their lengths sum up to the whole.
    pub steps: Vec<Step>,
    /// From the CLI's start to its end.
    pub total: Duration,
    /// The vSphere methods that were called for it, and how often.
    pub calls: BTreeMap<String, usize>,
    /// What the engine did before the guest's PID 1 ran, in microseconds.
    pub engine: String,
}

/// How the steps are named, where each ends, and its budget in milliseconds.
const STEPS: [(&str, Option<u64>); 9] = [
    ("the CLI starts and asks", None),
    ("create: one CreateVM_Task", Some(8)),
    ("the CLI attaches and waits", None),
    ("start: until PowerOnVM_Task arrives", Some(3)),
    ("power on: until PID 1 runs", Some(12)),
    ("tether: until the process runs", Some(10)),
    ("the process: until its status is in guestinfo", Some(5)),
    ("exit: unmount, PID 1 ends, Destroy_Task arrives", Some(10)),
    ("destroy: until the CLI has ended", Some(6)),
];

impl Timeline {
    /// Starts a world, warms it up, runs the container and takes its run apart.
    ///
    /// # Errors
    /// When something does not start, or a line that belongs to a run is not in the logs.
    pub fn of_one_run() -> Result<Self> {
        let world = World::start(Options {
            up: vec!["--debug".into(), "3".into()],
            env: vec![("VIC_SIM_LOG".into(), "info,simulator=debug".into())],
            closed_registry: false,
        })?;
        let run = ["run", "--rm", "busybox:test", "true"];
        for _ in 0..WARM_UP {
            world.docker(&run)?.ok()?;
        }
        settled(&world, WARM_UP)?;
        let begin = SystemTime::now();
        world.docker(&run)?.ok()?;
        let end = SystemTime::now();
        settled(&world, WARM_UP + 1)?;
        let events = events(&world)?;
        let since = |at: SystemTime| at.duration_since(begin).ok();
        let of_run: Vec<(Duration, Event)> = events
            .into_iter()
            .filter_map(|event| Some((since(event.at)?, event)))
            .collect();
        Self::of(&of_run, since(end).context("the clock went back")?)
    }

    fn of(events: &[(Duration, Event)], total: Duration) -> Result<Self> {
        let find = |what: &str, wanted: &dyn Fn(&Event) -> bool| {
            events
                .iter()
                .find(|(_, event)| wanted(event))
                .map(|(at, event)| (*at, event))
                .with_context(|| format!("no log line tells of {what}"))
        };
        let request = |path: &'static str| {
            find(
                path,
                &move |e| matches!(&e.what, What::Request { path: p } if p.contains(path)),
            )
        };
        let call = |name: &'static str| {
            find(
                name,
                &move |e| matches!(&e.what, What::Call { method } if method == name),
            )
        };
        let says = |key: &'static str| {
            find(
                key,
                &move |e| matches!(&e.what, What::Says { key: k } if k.ends_with(key)),
            )
        };
        let (created, create) = request("/containers/create")?;
        let (started, start) = request("/start")?;
        let (runs, engine) = find("the guest's start", &|e| {
            matches!(e.what, What::GuestRuns { .. })
        })?;
        let ends = [
            created.saturating_sub(create.elapsed),
            created,
            started.saturating_sub(start.elapsed),
            call("PowerOnVM_Task")?.0,
            runs,
            says(".started")?.0,
            says(".status")?.0,
            call("Destroy_Task")?.0,
            total,
        ];
        let mut begin = Duration::ZERO;
        let mut steps = Vec::new();
        for ((name, budget), end) in STEPS.into_iter().zip(ends) {
            ensure!(end >= begin, "{name}: ends before it begins");
            let length = end.saturating_sub(begin);
            let budget = budget.map(Duration::from_millis);
            steps.push(Step {
                name,
                begin,
                length,
                budget,
            });
            begin = end;
        }
        let mut calls = BTreeMap::new();
        for (_, event) in events {
            if let What::Call { method } = &event.what {
                *calls.entry(method.clone()).or_default() += 1;
            }
        }
        let What::GuestRuns { steps: engine } = &engine.what else {
            unreachable!("found as one")
        };
        Ok(Self {
            steps,
            total,
            calls,
            engine: engine.clone(),
        })
    }

    /// The run as text, with a bar for each step.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = String::new();
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        for step in &self.steps {
            let budget = step
                .budget
                .map_or_else(String::new, |b| format!("{:4.0}", ms(b)));
            let dots = usize::try_from(step.length.as_millis()).unwrap_or(usize::MAX);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{:8.1} {:+7.1} {budget:4} {:48} {}",
                ms(step.begin),
                ms(step.length),
                step.name,
                "#".repeat(dots.min(60))
            );
        }
        let _ = writeln!(text, "{:8.1} ms in all", ms(self.total));
        let _ = writeln!(text, "engine, microseconds: {}", self.engine);
        let calls: Vec<_> = self.calls.iter().map(|(m, n)| format!("{m} {n}")).collect();
        let _ = writeln!(text, "vSphere calls: {}", calls.join(", "));
        text
    }
}

/// Waits until the logs tell of `runs` containers that are gone.
fn settled(world: &World, runs: usize) -> Result<()> {
    let end = Instant::now() + SETTLED;
    loop {
        let gone = events(world)?
            .iter()
            .filter(|e| matches!(e.what, What::Destroyed))
            .count();
        if gone >= runs {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{gone} of {runs} containers are gone after {SETTLED:?}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// All that the simulator and the VCH have logged and that matters here, by time.
fn events(world: &World) -> Result<Vec<Event>> {
    let mut files = vec![world.state().join("vic-sim.log")];
    let consoles = world.state().join("sim/console");
    for entry in std::fs::read_dir(&consoles)? {
        files.push(entry?.path());
    }
    let mut events = files.iter().map(read).collect::<Result<Vec<_>>>()?.concat();
    events.sort_by_key(|e| e.at);
    Ok(events)
}

fn read(file: &PathBuf) -> Result<Vec<Event>> {
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .filter_map(log::event)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_a_run_are_end_to_end_and_every_call_is_counted() {
        let lines = [
            "2026-01-01T00:00:00.026000Z DEBUG simulator::soap: call method=\"CreateVM_Task\" this=ha-folder-vm elapsed=100µs",
            "2026-01-01T00:00:00.030000Z DEBUG api::docker::connection: request method=POST path=/v1.50/containers/create status=201 elapsed=5ms",
            "2026-01-01T00:00:00.033000Z DEBUG simulator::soap: call method=\"PowerOnVM_Task\" this=4 elapsed=86.188µs",
            "2026-01-01T00:00:00.040000Z DEBUG simulator::engine::namespace::guest: guest runs vm=\"a-1\" pid=7 steps=[(\"stem\", 4)]",
            "2026-01-01T00:00:00.050000Z DEBUG simulator::vm::guest: guest says vm=\"a-1\" key=\"guestinfo.vice..sessions|1.started\"",
            "2026-01-01T00:00:00.051000Z DEBUG api::docker::connection: request method=POST path=/v1.50/containers/1/start status=204 elapsed=19ms",
            "2026-01-01T00:00:00.055000Z DEBUG simulator::vm::guest: guest says vm=\"a-1\" key=\"guestinfo.vice..sessions|1.status\"",
            "2026-01-01T00:00:00.060000Z DEBUG simulator::soap: call method=\"Destroy_Task\" this=4 elapsed=107.207µs",
        ];
        let events: Vec<Event> = lines.into_iter().filter_map(log::event).collect();
        let begin = events[0].at - Duration::from_millis(26);
        let events: Vec<_> = events
            .into_iter()
            .map(|e| (e.at.duration_since(begin).unwrap(), e))
            .collect();
        let line = Timeline::of(&events, Duration::from_millis(65)).unwrap();
        let lengths: Vec<_> = line.steps.iter().map(|s| s.length.as_millis()).collect();
        assert_eq!(lengths, [25, 5, 2, 1, 7, 10, 5, 5, 5]);
        assert_eq!(line.calls.len(), 3);
        assert_eq!(line.calls["CreateVM_Task"], 1);
        assert!(line.show().contains("65.0 ms in all"));
        let without = Timeline::of(&events[..7], Duration::from_millis(65)).unwrap_err();
        assert_eq!(without.to_string(), "no log line tells of Destroy_Task");
    }
}
