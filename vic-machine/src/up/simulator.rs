//! `vic-sim` as a process of ours.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::state::State;
use crate::cli::TargetArgs;
use crate::failure::{Failure, Tried};
use crate::target::Target;

/// The only user of the simulator.
const USER: &str = "root";

/// The address on the simulator's "VM Network" that is kept free for a VCH, unless it says otherwise.
const VCH_ADDRESS: &str = "192.168.220.3/22";
/// The gateway of that network.
const GATEWAY: &str = "192.168.220.1";

/// How it is started.
pub(super) struct Options<'a> {
    pub(super) state: &'a State,
    /// What VMs run on.
    pub(super) guest: &'a str,
    /// Ports of the host's loopback for guests.
    pub(super) host_ports: &'a [u16],
    /// Port on 127.0.0.1, VM, port of the VM.
    pub(super) forward: (u16, &'a str, u16),
    /// Port of the API; 0 for any.
    pub(super) listen: u16,
}

/// What it says when it serves.
#[derive(Clone, Debug, Deserialize)]
struct Greeting {
    url: String,
    thumbprint: String,
    network: Option<GreetingNetwork>,
}

/// Addresses of "VM Network".
#[derive(Clone, Debug, Deserialize)]
struct GreetingNetwork {
    gateway: String,
    vch: String,
}

/// A running simulator. Dropped while we own it, it is killed, and its guests with it.
#[derive(Debug)]
pub(super) struct Simulator {
    child: Option<Child>,
    facts: Facts,
}

/// What is known of a running simulator.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pid: u32,
    greeting: Greeting,
}

impl Simulator {
    /// Starts it and waits until it serves.
    pub(super) async fn start(options: &Options<'_>) -> Result<Self, Failure> {
        let program = program()?;
        let log_path = options.state.simulator_log();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .tried("cannot write the simulator's log")?;
        let (port, vm, inner) = options.forward;
        let mut command = Command::new(&program);
        command
            .arg("--esx")
            .arg("--state")
            .arg(options.state.simulator())
            .args(["--listen", &format!("127.0.0.1:{}", options.listen)])
            .args(["--user", USER, "--password-file"])
            .arg(options.state.password_file())
            .args(["--guest", options.guest])
            .args(["--forward", &format!("{port}={vm}:{inner}")]);
        for port in options.host_ports {
            command.args(["--host-port", &port.to_string()]);
        }
        // A group of its own: Ctrl-C is for us; the simulator ends after its guests.
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .tried(format!("cannot start {}", program.display()))?;
        let pid = child.id().unwrap_or_default();
        let output = child
            .stdout
            .take()
            .ok_or_else(|| Failure::new("vic-sim has no output"))?;
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .await
            .tried("cannot read vic-sim's output")?;
        if line.is_empty() {
            let status = child.wait().await.tried("cannot wait for vic-sim")?;
            if status.signal() == Some(Signal::SIGINT as i32) {
                // Ctrl-C came while it still was in our group: what it ended is us.
                return Err(Failure::new("interrupted"));
            }
            return Err(Failure::new(format!(
                "vic-sim cannot start ({status}): {}",
                last_lines(&log_path)
            )));
        }
        let greeting = serde_json::from_str(&line)
            .tried(format!("vic-sim says what is not understood: {line:?}"))?;
        Ok(Self {
            child: Some(child),
            facts: Facts { pid, greeting },
        })
    }

    /// What is known of it.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => describe(child.wait().await),
            None => std::future::pending().await,
        }
    }

    /// Ends it and waits.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        if let Some(pid) = child.id() {
            terminate(pid)?;
        }
        child.wait().await.tried("cannot wait for vic-sim")?;
        self.child = None;
        Ok(())
    }

    /// Leaves it running when this process ends.
    pub(super) fn let_go(&mut self) {
        if let Some(child) = self.child.take() {
            // Tokio kills a child that it drops; one that is forgotten lives on.
            std::mem::forget(child);
        }
    }
}

impl Facts {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its address.
    pub(super) fn url(&self) -> &str {
        &self.greeting.url
    }

    /// The SHA-1 fingerprint of its certificate.
    pub(super) fn thumbprint(&self) -> &str {
        &self.greeting.thumbprint
    }

    /// The address that is kept free for the VCH, and the gateway.
    pub(super) fn address_for_the_vch(&self) -> (String, String) {
        match &self.greeting.network {
            Some(network) => (network.vch.clone(), network.gateway.clone()),
            None => (VCH_ADDRESS.to_owned(), GATEWAY.to_owned()),
        }
    }

    /// Who to log in as, and where.
    pub(super) fn target(&self, password: &str) -> Result<Target, Failure> {
        target(self.url(), self.thumbprint(), USER, password)
    }
}

/// A target for a simulator whose certificate is known.
pub(super) fn target(
    url: &str,
    thumbprint: &str,
    user: &str,
    password: &str,
) -> Result<Target, Failure> {
    Target::resolve(&TargetArgs {
        target: Some(url.to_owned()),
        user: Some(user.to_owned()),
        password: Some(password.to_owned()),
        thumbprint: Some(thumbprint.to_owned()),
    })
    .tried("the simulator's address cannot be used")
}

/// Asks a process to end.
pub(super) fn terminate(pid: u32) -> Result<(), Failure> {
    let id = i32::try_from(pid).tried("a process id is out of range")?;
    match kill(Pid::from_raw(id), Signal::SIGTERM) {
        Err(nix::errno::Errno::ESRCH) => Ok(()),
        result => result.tried(format!("cannot stop process {pid}")),
    }
}

/// The simulator lies beside this program.
fn program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().tried("cannot find this program's folder")?;
    let path = own.with_file_name("vic-sim");
    if path.exists() {
        Ok(path)
    } else {
        Err(Failure::new(format!(
            "vic-sim is not beside this program: {} is missing",
            path.display()
        )))
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// What the log ends with: the reason, if there was one.
fn last_lines(log: &PathBuf) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut last: Vec<&str> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(3)
        .collect();
    last.reverse();
    last.join("; ")
}
