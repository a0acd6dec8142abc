//! A world: the simulator with a VCH in it, started as a user starts it, and clients pointed at it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::image::{Recipe, archive};
use crate::registry::{Registry, free_port};
use crate::run::{Ran, run, run_within};

/// How a world is made.
#[derive(Default, Clone)]
pub struct Options {
    /// More arguments of `vic-machine up`.
    pub up: Vec<String>,
    /// More environment of `vic-machine up`, and so of the simulator.
    pub env: Vec<(String, String)>,
    /// Whether there is a registry that asks for a password, too.
    pub closed_registry: bool,
}

/// A running world.
pub struct World {
    state: PathBuf,
    port: u16,
    options: Options,
    env: BTreeMap<String, String>,
    /// A registry that the VCH reaches as `host.docker.internal:<port>`.
    pub registry: Registry,
    /// The same images for [`crate::registry::USER`] only, when the options ask for it.
    pub closed: Option<Registry>,
    dir: tempfile::TempDir,
}

/// Time for `vic-machine up --detach`: two ISOs are uploaded and two VMs boot.
const UP: Duration = Duration::from_secs(120);

impl World {
    /// Starts simulator, VCH and registry, and loads `busybox:test` into both.
    ///
    /// # Errors
    /// With what the failing program printed.
    pub fn start(options: Options) -> Result<Self> {
        crate::need_root()?;
        let dir = tempfile::tempdir()?;
        let registry = Registry::start()?;
        let closed = options.closed_registry.then(|| Registry::closed(&registry));
        let mut world = Self {
            state: dir.path().join("state"),
            port: free_port()?,
            options,
            env: BTreeMap::new(),
            registry,
            closed: closed.transpose()?,
            dir,
        };
        world.up()?;
        let busybox = world.archive(&Recipe::busybox("busybox:test"))?;
        world.registry.push(&busybox, "test/busybox:1")?;
        world.docker(&["load", "-q", "-i", path(&busybox)?])?.ok()?;
        Ok(world)
    }

    /// `vic-machine up --detach` on this world's state directory, and the environment that it prints.
    ///
    /// # Errors
    /// With what it printed.
    pub fn up(&mut self) -> Result<String> {
        let mut args = Vec::new();
        for registry in [Some(&self.registry), self.closed.as_ref()]
            .into_iter()
            .flatten()
        {
            args.extend(["--host-port".to_owned(), registry.port.to_string()]);
            args.extend(["--insecure-registry".to_owned(), registry.name_in_a_vch()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.up_with(&args)
    }

    /// As [`World::up`], with these arguments about registries in place of those that name this world's own.
    ///
    /// # Errors
    /// With what it printed.
    pub fn up_with(&mut self, args: &[&str]) -> Result<String> {
        let mut command = self.vic_machine("up")?;
        command.args(["--detach", "--port", &self.port.to_string()]);
        command.args(args).args(&self.options.up);
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        let ran = run_within(&mut command, b"", UP)?;
        let printed = ran.ok()?;
        let exports = run(&mut self.vic_machine("env")?, b"")?.ok()?;
        self.env = exports.lines().filter_map(export).collect();
        Ok(printed)
    }

    /// `vic-machine down`.
    ///
    /// # Errors
    /// With what it printed.
    pub fn down(&self) -> Result<String> {
        run_within(&mut self.vic_machine("down")?, b"", UP)?.ok()
    }

    /// A `vic-machine` command on this world's state directory.
    ///
    /// # Errors
    /// When it is not built.
    pub fn vic_machine(&self, verb: &str) -> Result<Command> {
        let mut command = Command::new(crate::program("vic-machine")?);
        command
            .arg(verb)
            .arg("--state")
            .arg(&self.state)
            .current_dir(self.dir.path());
        Ok(command)
    }

    /// Runs the docker CLI against the VCH.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn docker(&self, args: &[&str]) -> Result<Ran> {
        self.docker_with(args, b"")
    }

    /// As [`World::docker`], with standard input.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn docker_with(&self, args: &[&str], stdin: &[u8]) -> Result<Ran> {
        run(self.docker_command().args(args), stdin)
    }

    /// The docker CLI with this world's environment, not yet started.
    #[must_use]
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .envs(&self.env)
            .env("DOCKER_CONFIG", self.dir.path().join("docker-config"));
        command
    }

    /// Starts the docker CLI and leaves it running, its output to be read by the caller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn docker_spawn(&self, args: &[&str]) -> Result<Child> {
        self.docker_command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting docker")
    }

    /// One value of `vic-machine env`.
    ///
    /// # Errors
    /// When it did not print that name.
    pub fn env(&self, name: &str) -> Result<&str> {
        self.env
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("vic-machine env prints no {name}"))
    }

    /// Writes the archive of an image for this world.
    ///
    /// # Errors
    /// When busybox is missing.
    pub fn archive(&self, recipe: &Recipe) -> Result<PathBuf> {
        archive(self.dir.path(), recipe)
    }

    /// A directory that goes with the world.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The simulator's state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("vic-machine down: {error:#}");
        }
    }
}

/// A path as text for a command line.
///
/// # Errors
/// When it is not UTF-8.
pub fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn export(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
}
