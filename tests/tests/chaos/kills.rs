//! Two hundred kills of actors in an appliance that works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::debug::{Entry, Socket};
use super::log::{How, Reader};
use super::probe::Answers;
use super::random::Random;
use super::stage::{Ended, Stage};
use super::workload::{self, Op, Outcome, Verb};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[(
    "two_hundred_kills_leave_everything_as_the_model_says",
    two_hundred,
)];

/// The kinds that have to be killed: all that the architecture names, but for the root, whose end is the program's.
const KINDS: [&str; 19] = [
    "vsphere",
    "watch",
    "appliance",
    "events",
    "images",
    "repository",
    "layer",
    "pull",
    "volumes",
    "volume",
    "networks",
    "network",
    "containers",
    "container",
    "link",
    "exec",
    "serial",
    "personas",
    "docker",
];
/// Times that each kind is killed: 209 in all.
const PASSES: usize = 11;
/// How long an armed kill waits for its moment; then the next operation is tried.
const MOMENT: Duration = Duration::from_secs(2);

/// Operations that are tried for one kill.
const TRIES: usize = 6;

/// When an actor is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The moment that it has a request outstanding.
    Busy,
    /// Some milliseconds into an operation.
    Later,
    /// While nobody wants anything.
    Idle,
}

/// Kills of one kind, and the figures of a whole run.
#[derive(Default)]
struct Table(BTreeMap<String, (usize, usize)>);

fn two_hundred() -> Result<()> {
    let mut stage = Stage::set(3)?;
    let debug = Socket(stage.vch.debug_socket());
    let known = debug.kinds()?;
    for kind in KINDS {
        ensure!(known.iter().any(|k| k == kind), "no {kind} in {known:?}");
    }
    for kind in &known {
        ensure!(
            kind == "vch" || KINDS.contains(&kind.as_str()),
            "nobody kills a {kind}"
        );
    }
    let (mut table, mut answers) = (Table::default(), Answers::default());
    let began = Instant::now();
    let (mut attached, mut followed) = (0, 0);
    for pass in 0..PASSES {
        let when = match pass % 4 {
            0 | 2 => When::Busy,
            1 => When::Idle,
            _ => When::Later,
        };
        // Open streams keep actors busy: they are not there when actors are to be idle.
        let readers = (when != When::Idle).then(|| {
            let attach = Reader::start(&stage.vch, How::Attach);
            (attach, Reader::start(&stage.vch, How::Follow))
        });
        for kind in shuffled(&mut stage.random) {
            let step = Step { debug, kind, when };
            let number = table.sum();
            step.take(&mut stage, &mut table, &mut answers)
                .with_context(|| {
                    let events = ["events", "--since", "40s", "--until", "0s"];
                    format!(
                        "kill {number}, {step:?}; seed {}; vch's log:\n{}\nits last events:\n{}",
                        Random::seed(),
                        last_lines(&stage.vch.log()),
                        stage
                            .vch
                            .docker(&events)
                            .map_or(String::new(), |e| e.stdout)
                    )
                })?;
            if let Some((attach, logs)) = &readers {
                attach.alive(&stage.vch)?;
                logs.alive(&stage.vch)?;
            }
        }
        if let Some((attach, logs)) = readers {
            attached += attach.sessions();
            followed += logs.sessions();
        }
    }
    crate::report::say(format_args!(
        "{:12} {:>5} {:>5}  answers: longest, mean",
        "kind", "idle", "busy"
    ));
    for kind in KINDS {
        let (idle, busy) = table.0.get(kind).copied().unwrap_or_default();
        let (longest, mean) = answers.figures(kind);
        crate::report::say(format_args!(
            "{kind:12} {idle:5} {busy:5}  {longest:.0?} {mean:.0?}"
        ));
    }
    let busy: usize = table.0.values().map(|(_, busy)| busy).sum();
    crate::report::say(format_args!(
        "{} kills, {busy} of them busy, in {:.0?}; seed {}; {attached} attaches, {followed} logs -f",
        table.sum(),
        began.elapsed(),
        Random::seed()
    ));
    ensure!(table.sum() >= 200, "only {} kills", table.sum());
    ensure!(
        busy * 2 >= table.sum(),
        "only {busy} of {} busy",
        table.sum()
    );
    for kind in KINDS {
        let (_, busy) = table.0.get(kind).copied().unwrap_or_default();
        ensure!(busy > 0, "no {kind} was killed while it was busy");
    }
    Ok(())
}

fn shuffled(random: &mut Random) -> Vec<&'static str> {
    let mut left = KINDS.to_vec();
    let mut order = Vec::new();
    while !left.is_empty() {
        order.push(left.swap_remove(random.below(left.len())));
    }
    order
}

/// One kill.
#[derive(Debug, Clone, Copy)]
struct Step {
    debug: Socket,
    kind: &'static str,
    when: When,
}

impl Step {
    fn take(&self, stage: &mut Stage, table: &mut Table, answers: &mut Answers) -> Result<()> {
        let (killed, ended) = self.kill(stage)?;
        table.count(&killed);
        let words: Vec<_> = ended
            .iter()
            .map(|(op, out)| (op.verb(), out.say()))
            .collect();
        crate::report::say(format_args!(
            "{:3} {} busy={} during {words:?}",
            table.sum(),
            killed.path,
            killed.busy
        ));
        answers.ask(&stage.vch, self.kind)?;
        for (op, outcome) in &ended {
            ensure!(!matches!(outcome, Outcome::Wrong(_)), "{op:?}: {outcome:?}");
        }
        stage.settle(&ended)
    }

    /// Kills one actor of the kind during an operation that concerns it. What lives only as long as an operation
    /// may have ended before it could be killed: then the next operation is tried.
    fn kill(&self, stage: &mut Stage) -> Result<(Entry, Vec<Ended>)> {
        let pattern = format!("kind:{}", self.kind);
        for attempt in 0..TRIES {
            // What nobody asks anything is killed as it is; the table shows it.
            if (self.when == When::Idle || attempt + 1 == TRIES)
                && let Some(entry) = self.debug.kill(&pattern)?
            {
                return Ok((entry, Vec::new()));
            }
            let verbs = workload::verbs(self.kind);
            let verb = *stage.random.choose(verbs).context("no verb")?;
            let mut ops = vec![stage.prepare(verb)?];
            if stage.random.one_in(3) {
                ops.extend(beside(stage, &ops[0])?);
            }
            let delay = Duration::from_millis(stage.random.below(40) as u64);
            let when = self.when;
            // What was over too soon is waited for the next time.
            let armed = match when {
                When::Busy => Some(self.debug.arm(&pattern, MOMENT)?),
                _ if attempt > 0 => Some(self.debug.arm(&pattern, MOMENT)?),
                _ => None,
            };
            let vch = &stage.vch;
            let (killed, ended) = std::thread::scope(|scope| {
                let runs: Vec<_> = ops
                    .iter()
                    .map(|op| scope.spawn(move || (op.clone(), workload::run(vch, op))))
                    .collect();
                let killed = match armed {
                    Some(armed) => armed.wait(),
                    None => {
                        std::thread::park_timeout(delay);
                        self.debug.kill(&pattern)
                    }
                };
                let ended: Vec<Ended> = runs.into_iter().filter_map(|r| r.join().ok()).collect();
                (killed, ended)
            });
            if let Some(entry) = killed? {
                return Ok((entry, ended));
            }
            for (op, outcome) in &ended {
                ensure!(
                    matches!(outcome, Outcome::Done),
                    "{op:?} with nothing killed: {outcome:?}"
                );
            }
            stage.settle(&ended)?;
        }
        anyhow::bail!("no {} could be killed in {TRIES} operations", self.kind)
    }
}

/// A second operation for the same time, on things that the first does not touch.
fn beside(stage: &mut Stage, first: &Op) -> Result<Option<Op>> {
    let verb = match first {
        Op::Exec { .. } | Op::Logs { .. } | Op::Events => Verb::Load,
        Op::Pull(_) | Op::Load(_) | Op::RemoveImage(_) => Verb::Run,
        _ => Verb::Logs,
    };
    let op = workload::plan(verb, &stage.model, &stage.images, &mut stage.random);
    Ok(op)
}

impl Table {
    fn count(&mut self, killed: &Entry) {
        let (idle, busy) = self.0.entry(killed.kind.clone()).or_default();
        match killed.busy {
            0 => *idle += 1,
            _ => *busy += 1,
        }
    }

    fn sum(&self) -> usize {
        self.0.values().map(|(idle, busy)| idle + busy).sum()
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
