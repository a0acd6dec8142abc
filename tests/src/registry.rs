//! A real registry: Debian's `docker-registry` on a free port of the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Who may read from a closed registry.
pub const USER: &str = "joe";
/// The user's password there.
pub const PASSWORD: &str = "secret";
/// What the registry knows of it: its bcrypt.
const PASSWORD_FILE: &str = "joe:$2b$04$NWeZIud2/rRrBvLkvztfW.N7lsYCQ5jbxGaxmUUTAb.3hxslGJWqe\n";

/// A running registry; ends with this value.
pub struct Registry {
    child: Child,
    /// Where it listens on the host's loopback.
    pub port: u16,
    dir: tempfile::TempDir,
}

/// A port of the loopback interface that was free a moment ago.
///
/// # Errors
/// When the host has none left.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Waits until something accepts connections at `port` of the loopback interface.
///
/// # Errors
/// When nothing does by the deadline.
pub fn wait_port(port: u16, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while Instant::now() < end {
        // A refused connection returns at once and gives no event to wait for, so the next try follows a short connect.
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    bail!("nothing listens on port {port} after {deadline:?}")
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Errors
    /// When the program is not installed or does not come up.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let store = dir.path().join("store");
        let registry = Self::serve(dir, &store, "", Command::new("docker-registry"))?;
        wait_port(registry.port, Duration::from_secs(20))?;
        Ok(registry)
    }

    /// A second registry over the files of `other`, which answers [`USER`] only.
    ///
    /// # Errors
    /// When the program is not installed or does not come up.
    pub fn closed(other: &Self) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let passwords = dir.path().join("passwords");
        std::fs::write(&passwords, PASSWORD_FILE)?;
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: closed\n    path: {}\n",
            passwords.display()
        );
        let store = other.dir.path().join("store");
        let registry = Self::serve(dir, &store, &auth, Command::new("docker-registry"))?;
        wait_port(registry.port, Duration::from_secs(20))?;
        Ok(registry)
    }

    /// The name by which a VCH reaches it.
    #[must_use]
    pub fn name_in_a_vch(&self) -> String {
        format!("host.docker.internal:{}", self.port)
    }

    /// A second registry over the files of `other`, at the loopback interface of the network namespace `namespace`.
    ///
    /// # Errors
    /// When the program is not installed or does not come up.
    pub fn beside(other: &Self, namespace: &Path) -> Result<Self> {
        let enter = format!("--net={}", namespace.display());
        let mut command = Command::new("nsenter");
        command.arg(&enter).arg("docker-registry");
        let registry = Self::serve(
            tempfile::tempdir()?,
            &other.dir.path().join("store"),
            "",
            command,
        )?;
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}", registry.port);
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let mut probe = Command::new("nsenter");
            probe.args([&enter, "bash", "-c", &connect]);
            if crate::run::run(&mut probe, b"")?.status.success() {
                return Ok(registry);
            }
        }
        bail!("no registry answers in {}", namespace.display())
    }

    /// Runs `command` with a configuration for the files in `store`, to which `more` is added.
    fn serve(
        dir: tempfile::TempDir,
        store: &Path,
        more: &str,
        mut command: Command,
    ) -> Result<Self> {
        let port = free_port()?;
        let config = dir.path().join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
                store.display()
            ),
        )?;
        let child = command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting docker-registry (Debian package docker-registry)")?;
        Ok(Self { child, port, dir })
    }

    /// Puts a `docker save` archive into the registry as `name` (`path:tag`), by skopeo.
    ///
    /// # Errors
    /// When skopeo is missing or fails.
    pub fn push(&self, archive: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        command.arg(format!("docker-archive:{}", archive.display()));
        command.arg(format!("docker://127.0.0.1:{}/{name}", self.port));
        crate::run::run(&mut command, b"")?.ok()?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
