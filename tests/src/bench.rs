//! Ours against Debian's dockerd: the same CLI, the same images, turn by turn in one run. What counts is the ratio;
//! absolute times belong to the machine.

mod figure;
mod side;

use std::path::Path;

use anyhow::Result;

pub use self::figure::{Figure, Target, table};
use self::side::{Side, interleaved};
use crate::dockerd::Dockerd;
use crate::image::Recipe;
use crate::registry::Registry;
use crate::world::{Options, World, path};

/// The image of everything but the pull.
const IMAGE: &str = "busybox:test";
/// Prints [`OUTPUT`] bytes.
const WRITE: &str =
    "yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde | head -c 104857600";
const OUTPUT: u64 = 100 << 20;
/// The image of the pull: this many layers of this many bytes each, half of which compress away.
const LAYERS: u8 = 4;
const LAYER: usize = 16 << 20;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Samples of each short figure; its median counts.
    pub repetitions: usize,
    /// Containers that `ps -a` shows.
    pub containers: usize,
    /// Samples of each stream of bytes.
    pub streams: usize,
}

/// Both engines, up and warm.
struct Bench {
    world: World,
    peer: Dockerd,
    plan: Plan,
}

/// Starts both engines and takes every figure, telling each as it comes.
///
/// # Errors
/// When one of the engines, or a command, fails: a figure is never left out.
pub fn measure(plan: Plan, tell: &mut dyn FnMut(&Figure)) -> Result<(String, Vec<Figure>)> {
    let bench = Bench {
        world: World::start(Options::default())?,
        peer: Dockerd::start()?,
        plan,
    };
    let archive = bench.world.archive(&Recipe::busybox(IMAGE))?;
    let load = ["load", "-q", "-i", path(&archive)?];
    bench.peer.docker(&load, b"")?.ok()?;
    let (our_cli, their_cli) = (
        || bench.world.docker_command(),
        || bench.peer.docker_command(),
    );
    let [ours, theirs] = [Side { docker: &our_cli }, Side { docker: &their_cli }];
    let info = "Debian's dockerd {{.ServerVersion}}, storage {{.Driver}}, logs {{.LoggingDriver}}";
    let peer = theirs.run(&["info", "--format", info], b"")?;
    let mut figures = Vec::new();
    let mut add = |figure: Figure| {
        tell(&figure);
        figures.push(figure);
    };
    let both = [&ours, &theirs];
    bench.times(both, &mut add)?;
    bench.streams(both, &mut add)?;
    bench.pull(both, &mut add)?;
    bench.list(both, &mut add)?;
    Ok((peer, figures))
}

impl Bench {
    fn times(&self, both: [&Side<'_>; 2], add: &mut dyn FnMut(Figure)) -> Result<()> {
        let n = self.plan.repetitions;
        let run = interleaved(both, n, |s| s.time(&["run", "--rm", IMAGE, "true"]))?;
        add(Figure::new("run --rm", "ms", run, Target::AtMost(1.0)));
        let alone = interleaved(both, n, |s| {
            s.time(&["run", "--rm", "--network", "none", IMAGE, "true"])
        })?;
        add(Figure::new(
            "run --rm --network none",
            "ms",
            alone,
            Target::None,
        ));
        let start = interleaved(both, n, |s| {
            s.run(&["create", "--name", "b1", IMAGE, "sleep", "1000"], b"")?;
            let ms = s.time(&["start", "b1"]);
            s.run(&["rm", "-f", "b1"], b"")?;
            ms
        })?;
        add(Figure::new("start", "ms", start, Target::None));
        for side in both {
            let long = ["run", "-d", "--name", "long", IMAGE, "sleep", "100000"];
            side.run(&long, b"")?;
        }
        let exec = interleaved(both, n, |s| s.time(&["exec", "long", "true"]))?;
        add(Figure::new("exec", "ms", exec, Target::None));
        for side in both {
            side.run(&["rm", "-f", "long"], b"")?;
        }
        Ok(())
    }

    fn streams(&self, both: [&Side<'_>; 2], add: &mut dyn FnMut(Figure)) -> Result<()> {
        for side in both {
            let run = ["run", "--name", "logger", "-d", IMAGE, "sh", "-c", WRITE];
            side.run(&run, b"")?;
            side.run(&["wait", "logger"], b"")?;
        }
        let n = self.plan.streams;
        let logs = interleaved(both, n, |s| s.throughput(&["logs", "logger"], OUTPUT))?;
        add(Figure::new("logs", "MB/s", logs, Target::AtLeast(0.5)));
        let attach = interleaved(both, n, |s| {
            let quiet = ["run", "--rm", "--log-driver", "none"];
            s.throughput(&[&quiet[..], &[IMAGE, "sh", "-c", WRITE]].concat(), OUTPUT)
        })?;
        add(Figure::new("attach", "MB/s", attach, Target::AtLeast(0.5)));
        for side in both {
            side.run(&["rm", "-f", "logger"], b"")?;
        }
        Ok(())
    }

    fn pull(&self, both: [&Side<'_>; 2], add: &mut dyn FnMut(Figure)) -> Result<()> {
        let archive = self.world.archive(&large())?;
        self.world.registry.push(&archive, "test/large:1")?;
        std::fs::remove_file(&archive)?;
        // The peer has a loopback interface of its own, so it gets a registry there, over the same files.
        let beside = Registry::beside(&self.world.registry, &self.peer.network_namespace())?;
        let names = [
            format!(
                "host.docker.internal:{}/test/large:1",
                self.world.registry.port
            ),
            format!("localhost:{}/test/large:1", beside.port),
        ];
        let bytes = f64::from(LAYERS) * f64::from(u32::try_from(LAYER)?);
        let pull = interleaved(both, self.plan.streams, |s| {
            let name = &names[usize::from(!std::ptr::eq(s, both[0]))];
            let ms = s.time(&["pull", "-q", name])?;
            s.run(&["rmi", name], b"")?;
            Ok(bytes / 1e3 / ms)
        })?;
        add(Figure::new("pull", "MB/s", pull, Target::AtLeast(0.5)));
        Ok(())
    }

    fn list(&self, both: [&Side<'_>; 2], add: &mut dyn FnMut(Figure)) -> Result<()> {
        for side in both {
            side.create_many(self.plan.containers, &[IMAGE, "true"])?;
        }
        let ps = interleaved(both, self.plan.repetitions, |s| s.time(&["ps", "-a"]))?;
        add(Figure::new("ps -a", "ms", ps, Target::AtMost(1.0)));
        Ok(())
    }
}

/// Layers that no two machines share, each half random and half easy to compress.
fn large() -> Recipe {
    let layer = |number: u8| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(number);
        let mut content = Vec::with_capacity(LAYER);
        while content.len() < LAYER {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
            content.extend_from_slice(&[number; 8]);
        }
        let path = Path::new("data").join(number.to_string());
        vec![(path.display().to_string(), content)]
    };
    Recipe {
        tag: "large:test".to_owned(),
        config: serde_json::json!({"Cmd": ["sh"]}),
        layers: (0..LAYERS).map(layer).collect(),
        ..Recipe::default()
    }
}
