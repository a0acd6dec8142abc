//! The peer: Debian's dockerd on a socket of its own, in a network namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{Ran, run_within, wait};

/// A running dockerd; ends with this value.
pub struct Dockerd {
    child: Child,
    dir: tempfile::TempDir,
}

impl Dockerd {
    /// Starts it, with overlay2 (or what it chooses) and the json-file log driver, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed (Debian package docker.io) or does not come up.
    pub fn start() -> Result<Self> {
        crate::need_root()?;
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name).display().to_string();
        // Loopback has to be up for the registry's sake; `$@` is dockerd's command line.
        let script = "ip link set lo up && exec \"$@\"";
        let child = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", script, "sh", "/usr/sbin/dockerd"])
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
            ])
            .args([
                "-H",
                &format!("unix://{}", at("docker.sock")),
                "--log-driver",
                "json-file",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log"))?)
            .spawn()
            .context("starting dockerd (Debian package docker.io)")?;
        let peer = Self { child, dir };
        peer.wait_ready()?;
        Ok(peer)
    }

    fn wait_ready(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            if self.docker(&["version"], b"")?.status.success() {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        bail!(
            "dockerd does not answer: {}",
            std::fs::read_to_string(self.dir.path().join("log"))?
        )
    }

    /// The value of DOCKER_HOST that reaches it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Its network namespace, to be entered with `nsenter --net=…`.
    #[must_use]
    pub fn network_namespace(&self) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join("ns/net")
    }

    /// Runs the docker CLI against it.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn docker(&self, args: &[&str], stdin: &[u8]) -> Result<Ran> {
        run_within(
            self.docker_command().args(args),
            stdin,
            Duration::from_secs(60),
        )
    }

    /// The docker CLI pointed at it, not yet started.
    #[must_use]
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.dir.path().join("config"));
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGTERM,
            );
        }
        drop(wait(&mut self.child, Duration::from_secs(30)));
    }
}
