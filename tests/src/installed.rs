//! A VCH that `vic-machine create` made on a simulator of its own, as an admin would have it.
//!
//! Unlike [`crate::world::World`] nothing is hidden by `up`: the simulator is started here, and its datastore, its
//! processes and any port of the appliance are in reach.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{self, Answer, Body};
use crate::image::{Recipe, archive};
use crate::registry::{Registry, free_port};
use crate::run::{Ran, run, run_within, wait};

/// The name of the VCH.
pub const NAME: &str = "vch";
/// Where `vch` serves docker without TLS, and where its debug socket is.
const PORTS: (u16, u16) = (2375, 2390);
const USER: &str = "root";
const PASSWORD: &str = "of the tests";
/// `create` uploads two ISOs and boots the appliance.
const CREATE: Duration = Duration::from_secs(120);
/// The simulator ends its guests before itself.
const END: Duration = Duration::from_secs(60);

/// A simulator and the VCH on it.
pub struct Installed {
    simulator: Child,
    url: String,
    docker: SocketAddr,
    debug: SocketAddr,
    /// A registry that the VCH reaches as `host.docker.internal:<port>`.
    pub registry: Registry,
    dir: tempfile::TempDir,
}

impl Installed {
    /// Starts the simulator on the namespace engine and creates a VCH with this `--debug` level.
    ///
    /// # Errors
    /// With what the failing program printed.
    pub fn create(debug: u32) -> Result<Self> {
        crate::need_root()?;
        let dir = tempfile::tempdir()?;
        let registry = Registry::start()?;
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        let (docker, socket) = (free_port()?, free_port()?);
        let mut simulator = Command::new(crate::program("vic-sim")?)
            .args(["--esx", "--guest", "namespace", "--listen", "127.0.0.1:0"])
            .arg("--state")
            .arg(dir.path().join("sim"))
            .args(["--user", USER, "--password-file"])
            .arg(&password)
            .args(["--forward", &format!("{docker}={NAME}:{}", PORTS.0)])
            .args(["--forward", &format!("{socket}={NAME}:{}", PORTS.1)])
            .args(["--host-port", &registry.port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("sim.log"))?)
            .spawn()
            .context("starting vic-sim")?;
        let mut greeting = String::new();
        let output = simulator.stdout.take().context("stdout")?;
        BufReader::new(output).read_line(&mut greeting)?;
        let installed = Self {
            simulator,
            url: String::new(),
            docker: (Ipv4Addr::LOCALHOST, docker).into(),
            debug: (Ipv4Addr::LOCALHOST, socket).into(),
            registry,
            dir,
        };
        installed.install(&greeting, debug)
    }

    /// `vic-machine create` on the simulator that greeted with this line.
    fn install(mut self, greeting: &str, debug: u32) -> Result<Self> {
        let log = || std::fs::read_to_string(self.dir.path().join("sim.log")).unwrap_or_default();
        let facts: Value = serde_json::from_str(greeting)
            .with_context(|| format!("vic-sim did not start: {}", log()))?;
        let fact = |name: &str| facts[name].as_str().map(str::to_owned).context("greeting");
        ensure!(
            fact("engine")? == "namespace",
            "the engine is not namespace"
        );
        self.url = fact("url")?;
        let registry = format!("host.docker.internal:{}", self.registry.port);
        let mut command = Command::new(crate::program("vic-machine")?);
        command
            .current_dir(self.dir.path())
            .args(["create", "--target", &self.url, "--user", USER])
            .args(["--password", PASSWORD, "--thumbprint", &fact("thumbprint")?])
            .args(["--name", NAME, "--no-tls", "--debug", &debug.to_string()])
            .args(["--insecure-registry", &registry]);
        run_within(&mut command, b"", CREATE)?.ok()?;
        Ok(self)
    }

    /// Runs the docker CLI against the VCH.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn docker(&self, args: &[&str]) -> Result<Ran> {
        run(self.docker_command().args(args), b"")
    }

    /// The docker CLI pointed at the VCH, not yet started.
    #[must_use]
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", format!("tcp://{}", self.docker))
            .env("DOCKER_CONFIG", self.dir.path().join("docker-config"));
        command
    }

    /// Where docker's API is served, without TLS.
    #[must_use]
    pub fn docker_address(&self) -> SocketAddr {
        self.docker
    }

    /// One request to docker's API, without a client in between that would try again.
    ///
    /// # Errors
    /// When there is no whole answer within `limit`.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        body: &Body<'_>,
        limit: Duration,
    ) -> Result<Answer> {
        http::request(self.docker, method, path, body, limit)
    }

    /// Where `vch`'s debug socket is, if it has one.
    #[must_use]
    pub fn debug_socket(&self) -> SocketAddr {
        self.debug
    }

    /// The process of the simulator.
    #[must_use]
    pub fn simulator(&self) -> u32 {
        self.simulator.id()
    }

    /// The directory that is the VCH's datastore.
    #[must_use]
    pub fn datastore(&self) -> PathBuf {
        self.dir.path().join("sim/datastores/datastore1")
    }

    /// What the simulator has logged, with what guests said on their consoles: `vch` among them.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("sim.log")).unwrap_or_default()
    }

    /// Writes the archive of an image.
    ///
    /// # Errors
    /// When busybox is missing.
    pub fn archive(&self, recipe: &Recipe) -> Result<PathBuf> {
        archive(self.dir.path(), recipe)
    }

    /// A directory that goes with the VCH.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A vSphere client that stays logged in and is asked for all VMs, again and again.
    ///
    /// # Errors
    /// When Python or pyvmomi is missing.
    pub fn inventory(&self) -> Result<Inventory> {
        let vsphere = crate::pyvmomi::Pyvmomi::install(crate::pyvmomi::NEWEST)?;
        Inventory::start(vsphere.command("inventory.py", &[&self.url, USER, PASSWORD]))
    }

    /// The running `vch`, as a process of this host.
    ///
    /// # Errors
    /// When none runs.
    pub fn vch(&self) -> Result<u32> {
        let family = crate::host::descendants(self.simulator())?;
        let vch = family.iter().find(|p| p.command.contains("vch --config"));
        Ok(vch.context("no vch runs in the appliance")?.pid)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.simulator.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        if let Err(error) = wait(&mut self.simulator, END) {
            eprintln!("vic-sim: {error:#}");
        }
    }
}

/// A process that answers with all VMs, as vSphere shows them.
pub struct Inventory {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Inventory {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting pyvmomi")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, output })
    }

    /// All VMs: name to power state, address and disks.
    ///
    /// # Errors
    /// When vSphere does not answer.
    pub fn vms(&mut self) -> Result<Value> {
        let input = self.child.stdin.as_mut().context("stdin")?;
        input.write_all(b"\n")?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the vSphere client has ended");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `look` gives something; says what it said last when `limit` has passed.
///
/// # Errors
/// With the last reason why not.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() >= end => {
                return Err(why.context(format!("still so after {limit:?}")));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}
