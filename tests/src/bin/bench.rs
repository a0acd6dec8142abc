//! `cargo xtask bench`: ours against Debian's dockerd, the same CLI, the same images, interleaved in one run.
//! What counts is the ratio; absolute times belong to the machine.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::dockerd::Dockerd;
use system_tests::image::Recipe;
use system_tests::run::run_within;
use system_tests::world::{Options, World, path};

const IMAGE: &str = "busybox:test";
/// Longest single measurement.
const LIMIT: Duration = Duration::from_secs(300);

/// One of the two engines under measurement.
struct Side<'a> {
    docker: &'a dyn Fn() -> Command,
}

impl Side<'_> {
    fn run(&self, args: &[&str], stdin: &[u8]) -> Result<String> {
        run_within((self.docker)().args(args), stdin, LIMIT)?.ok()
    }

    /// Runs a command whose output is only counted, and gives its bytes per second.
    fn throughput(&self, args: &[&str], stdin: Stdio, bytes: u64) -> Result<f64> {
        let begin = Instant::now();
        let mut child = (self.docker)()
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().context("stdout")?;
        let copied = std::io::copy(&mut output, &mut std::io::sink())?;
        let status = system_tests::run::wait(&mut child, LIMIT)?;
        ensure!(
            status.success() && copied == bytes,
            "{args:?}: {status}, {copied} of {bytes} bytes"
        );
        Ok(as_f64(bytes) / begin.elapsed().as_secs_f64())
    }

    fn time(&self, args: &[&str]) -> Result<f64> {
        let begin = Instant::now();
        self.run(args, b"")?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// What a figure's ratio has to be.
enum Target {
    /// ours / theirs at most.
    AtMost(f64),
    /// ours / theirs at least.
    AtLeast(f64),
    /// Shown only.
    None,
}

struct Figure {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    theirs: f64,
    target: Target,
}

impl Figure {
    fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    fn verdict(&self) -> &'static str {
        let met = match self.target {
            Target::AtMost(limit) => self.ratio() <= limit,
            Target::AtLeast(limit) => self.ratio() >= limit,
            Target::None => return "",
        };
        if met { "met" } else { "missed" }
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Takes `n` samples of both sides, turn by turn, after one warm-up each, and gives the medians.
fn interleaved(
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

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let repetitions: usize = args.next().map_or(Ok(10), |n| n.parse())?;
    let many: usize = args.next().map_or(Ok(500), |n| n.parse())?;
    let world = World::start(Options::default())?;
    let peer = Dockerd::start()?;
    let archive = world.archive(&Recipe::busybox(IMAGE))?;
    peer.docker(&["load", "-q", "-i", path(&archive)?], b"")?
        .ok()?;
    let (our_cli, their_cli) = (|| world.docker_command(), || peer.docker_command());
    let ours = Side { docker: &our_cli };
    let theirs = Side { docker: &their_cli };
    let both = [&ours, &theirs];
    let drivers = theirs.run(
        &[
            "info",
            "--format",
            "storage {{.Driver}}, logs {{.LoggingDriver}}, {{.ServerVersion}}",
        ],
        b"",
    )?;
    println!("peer: Debian's dockerd, {drivers}\n");

    let mut figures = Vec::new();
    let mut add = |name, unit, (ours, theirs), target| {
        let figure = Figure {
            name,
            unit,
            ours,
            theirs,
            target,
        };
        println!(
            "{}: {:.1} / {:.1} {} = {:.2} {}",
            figure.name,
            ours,
            theirs,
            unit,
            figure.ratio(),
            figure.verdict()
        );
        figures.push(figure);
    };

    add(
        "run --rm busybox true",
        "ms",
        interleaved(both, repetitions, |s| {
            s.time(&["run", "--rm", IMAGE, "true"])
        })?,
        Target::AtMost(1.0),
    );
    add(
        "run --rm --network none",
        "ms",
        interleaved(both, repetitions, |s| {
            s.time(&["run", "--rm", "--network", "none", IMAGE, "true"])
        })?,
        Target::None,
    );
    let start = |s: &Side<'_>| {
        s.run(&["create", "--name", "b1", IMAGE, "sleep", "1000"], b"")?;
        let ms = s.time(&["start", "b1"]);
        s.run(&["rm", "-f", "b1"], b"")?;
        ms
    };
    add(
        "start",
        "ms",
        interleaved(both, repetitions, start)?,
        Target::None,
    );
    for side in both {
        side.run(
            &["run", "-d", "--name", "long", IMAGE, "sleep", "100000"],
            b"",
        )?;
    }
    add(
        "exec true",
        "ms",
        interleaved(both, repetitions, |s| s.time(&["exec", "long", "true"]))?,
        Target::None,
    );

    let hundred = 100 << 20;
    let write =
        "yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde | head -c 104857600";
    for side in both {
        side.run(
            &["run", "--name", "logger", "-d", IMAGE, "sh", "-c", write],
            b"",
        )?;
        side.run(&["wait", "logger"], b"")?;
    }
    let logs = |s: &Side<'_>| Ok(s.throughput(&["logs", "logger"], Stdio::null(), hundred)? / 1e6);
    add(
        "logs of 100 MB",
        "MB/s",
        interleaved(both, 3, logs)?,
        Target::AtLeast(0.5),
    );
    let attach = |s: &Side<'_>| {
        let run = [
            "run",
            "--rm",
            "--log-driver",
            "none",
            IMAGE,
            "sh",
            "-c",
            write,
        ];
        Ok(s.throughput(&run, Stdio::null(), hundred)? / 1e6)
    };
    add(
        "attached output of 100 MB",
        "MB/s",
        interleaved(both, 3, attach)?,
        Target::AtLeast(0.5),
    );

    for side in both {
        for i in 0..many {
            side.run(
                &["create", "--name", &format!("many{i}"), IMAGE, "true"],
                b"",
            )?;
        }
    }
    add(
        "ps -a with many",
        "ms",
        interleaved(both, repetitions, |s| s.time(&["ps", "-a"]))?,
        Target::AtMost(1.0),
    );

    println!("\n| figure | unit | ours | dockerd | ratio | target |\n|---|---|---|---|---|---|");
    for f in &figures {
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.2} | {} |",
            f.name,
            f.unit,
            f.ours,
            f.theirs,
            f.ratio(),
            f.verdict()
        );
    }
    Ok(())
}
