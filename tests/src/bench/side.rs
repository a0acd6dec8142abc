//! One of the two engines: its CLI, timed.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::run::{run_within, wait};

/// Longest single command.
const LIMIT: Duration = Duration::from_secs(300);
/// Commands at the same time where many things are made.
const AT_ONCE: usize = 4;

pub(super) struct Side<'a> {
    /// A CLI pointed at the engine.
    pub(super) docker: &'a (dyn Fn() -> Command + Sync),
}

impl Side<'_> {
    pub(super) fn run(&self, args: &[&str], stdin: &[u8]) -> Result<String> {
        run_within((self.docker)().args(args), stdin, LIMIT)?.ok()
    }

    /// Milliseconds of one command.
    pub(super) fn time(&self, args: &[&str]) -> Result<f64> {
        let begin = Instant::now();
        self.run(args, b"")?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    /// Megabytes per second of a command that prints `bytes` bytes.
    pub(super) fn throughput(&self, args: &[&str], bytes: u64) -> Result<f64> {
        let begin = Instant::now();
        let mut child = (self.docker)()
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().context("stdout")?;
        let copied = std::io::copy(&mut output, &mut std::io::sink())?;
        let status = wait(&mut child, LIMIT)?;
        ensure!(
            status.success() && copied == bytes,
            "{args:?}: {status}, {copied} of {bytes} bytes"
        );
        let microseconds = begin.elapsed().as_micros();
        Ok(f64::from(u32::try_from(bytes)?) / f64::from(u32::try_from(microseconds)?))
    }

    /// Creates `count` containers, a few at a time.
    pub(super) fn create_many(&self, count: usize, what: &[&str]) -> Result<()> {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE)
                .map(|worker| {
                    scope.spawn(move || {
                        for i in (worker..count).step_by(AT_ONCE) {
                            let name = format!("many{i}");
                            self.run(&[&["create", "--name", &name], what].concat(), b"")?;
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .map_err(|_| anyhow!("a worker has panicked"))?
            })
        })
    }
}

/// Takes `n` samples of both sides, turn by turn, after one warm-up each, and gives the medians.
pub(super) fn interleaved(
    sides: [&Side<'_>; 2],
    n: usize,
    sample: impl Fn(&Side<'_>) -> Result<f64>,
) -> Result<(f64, f64)> {
    let mut all = [Vec::new(), Vec::new()];
    for turn in 0..=n {
        for (side, samples) in sides.iter().zip(&mut all) {
            let value = sample(side)?;
            if turn > 0 {
                samples.push(value);
            }
        }
    }
    let [ours, theirs] = all.map(median);
    Ok((ours, theirs))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
