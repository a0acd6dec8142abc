//! A simulator with guests that run, and `vic-machine` pointed at it as at any ESXi host.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use system_tests::registry::free_port;
use system_tests::run::{Ran, run, run_within, wait};

const USER: &str = "root";
const PASSWORD: &str = "of the tests";
/// `create` uploads two ISOs and boots the appliance.
const CREATE: Duration = Duration::from_secs(120);

/// A running simulator.
pub struct VSphere {
    child: Child,
    /// Its address.
    pub url: String,
    /// The fingerprint of its certificate.
    pub thumbprint: String,
    dir: tempfile::TempDir,
}

impl VSphere {
    /// Starts an ESXi host on which port `inner` of each named VM is published; gives those ports too.
    pub fn start<const N: usize>(forwards: [(&str, u16); N]) -> Result<(Self, [u16; N])> {
        system_tests::need_root()?;
        let dir = tempfile::tempdir()?;
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        let mut command = Command::new(system_tests::program("vic-sim")?);
        command
            .args(["--esx", "--guest", "namespace", "--listen", "127.0.0.1:0"])
            .arg("--state")
            .arg(dir.path().join("sim"))
            .args(["--user", USER, "--password-file"])
            .arg(&password);
        let mut ports = [0; N];
        for (port, (vm, inner)) in ports.iter_mut().zip(forwards) {
            *port = free_port()?;
            command.args(["--forward", &format!("{port}={vm}:{inner}")]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("sim.log"))?)
            .spawn()
            .context("starting vic-sim")?;
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut greeting)?;
        let mut vsphere = Self {
            child,
            url: String::new(),
            thumbprint: String::new(),
            dir,
        };
        let facts: Value = serde_json::from_str(&greeting).with_context(|| {
            let log = std::fs::read_to_string(vsphere.scratch().join("sim.log"));
            format!("vic-sim did not start: {}", log.unwrap_or_default())
        })?;
        let fact = |name: &str| facts[name].as_str().map(str::to_owned).context("greeting");
        ensure!(fact("engine")? == "namespace", "guests do not run: {facts}");
        (vsphere.url, vsphere.thumbprint) = (fact("url")?, fact("thumbprint")?);
        Ok((vsphere, ports))
    }

    /// A directory that goes with it; commands run in it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The CA certificate of the simulator's endpoint, and its own: what a client may be told to trust.
    pub fn authorities(&self) -> std::path::PathBuf {
        self.dir.path().join("sim/cert.pem")
    }

    /// A `vic-machine` command with target and credentials, but no thumbprint.
    pub fn stranger(&self, args: &[&str]) -> Result<Command> {
        let (verb, rest) = args.split_first().context("a command")?;
        let mut command = Command::new(system_tests::program("vic-machine")?);
        command
            .arg(verb)
            .args(["--target", &self.url, "--user", USER])
            .args(["--password", PASSWORD])
            .args(rest)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("SSL_CERT_FILE");
        Ok(command)
    }

    /// A `vic-machine` command to its end.
    pub fn vic_machine(&self, args: &[&str]) -> Result<Ran> {
        let mut command = self.stranger(args)?;
        command.args(["--thumbprint", &self.thumbprint]);
        run_within(&mut command, b"", CREATE)
    }

    /// The docker CLI at a port of this machine's loopback, with TLS options and nothing of its own.
    pub fn docker(&self, host: &str, port: u16, args: &[&str]) -> Result<Ran> {
        let config = self.dir.path().join("docker-config");
        std::fs::create_dir_all(&config)?;
        let mut command = Command::new("docker");
        command
            .args(["-H", &format!("tcp://{host}:{port}")])
            .args(args)
            .env("DOCKER_CONFIG", &config)
            .env("HOME", self.dir.path());
        for name in ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            command.env_remove(name);
        }
        run(&mut command, b"")
    }
}

impl Drop for VSphere {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if let Err(error) = wait(&mut self.child, Duration::from_secs(60)) {
            eprintln!("vic-sim: {error:#}");
        }
    }
}
