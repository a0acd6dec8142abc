//! An admin's script against a simulator of its own, whose guests do not run: log in, list, read every
//! property of everything, make a VM, power it on and off, destroy it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::pyvmomi::{NEWEST, OLD, Pyvmomi};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("pyvmomi_does_all_of_it_on_an_esxi_host", |_| {
        script(NEWEST, "--esx", "root")
    }),
    ("pyvmomi_does_all_of_it_on_a_vcenter", |_| {
        script(NEWEST, "--vc", "administrator@vsphere.local")
    }),
    (
        "pyvmomi_of_vsphere_6_7_does_all_of_it_on_an_esxi_host",
        |_| script(OLD, "--esx", "root"),
    ),
    ("pyvmomi_of_vsphere_6_7_does_all_of_it_on_a_vcenter", |_| {
        script(OLD, "--vc", "administrator@vsphere.local")
    }),
];

const PASSWORD: &str = "a password";

/// A `vic-sim` that ends with the test.
struct Simulator {
    child: Child,
    port: String,
    _state: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Simulator {
    fn start(model: &str) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let mut child = Command::new(system_tests::program("vic-sim")?)
            .args([model, "--guest", "inert", "--listen", "127.0.0.1:0"])
            .arg("--state")
            .arg(state.path())
            .env("VIC_SIM_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting vic-sim")?;
        let stdout = child.stdout.take().context("stdout")?;
        let mut simulator = Self {
            child,
            port: String::new(),
            _state: state,
        };
        let mut line = String::new();
        // One line, when it serves; nothing, when it ends before.
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("vic-sim does not start")?;
        let url = ready["url"].as_str().context("a URL")?;
        let address = url.trim_end_matches("/sdk");
        let (_, port) = address.rsplit_once(':').context("a port")?;
        port.clone_into(&mut simulator.port);
        Ok(simulator)
    }
}

fn script(version: &str, model: &str, user: &str) -> Result<()> {
    let vsphere = Pyvmomi::install(version)?;
    let simulator = Simulator::start(model)?;
    let args = ["127.0.0.1", simulator.port.as_str(), user, PASSWORD];
    let ran = vsphere.script("smoke.py", &args)?;
    ensure!(ran.code() == 0, "{}\n{}", ran.stdout, ran.stderr);
    // Every step printed its line: the script was not cut short.
    let steps = ran.stdout.lines().filter(|l| l.starts_with("ok ")).count();
    ensure!(steps >= 25, "{steps} steps: {}", ran.stdout);
    Ok(())
}
