//! pyvmomi in a virtual environment of its own, as an admin's scripts use it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::{Ran, run_within};
use crate::world::World;

/// The newest release that we know, and the oldest that has to work.
pub const NEWEST: &str = "9.1.1.0";
/// A client from the time of vSphere 6.7: strict about names that are newer than itself.
pub const OLD: &str = "6.7.3";

/// One installed version.
pub struct Pyvmomi {
    python: PathBuf,
}

impl Pyvmomi {
    /// Installs `version` once into the target directory.
    ///
    /// # Errors
    /// When Python's venv or pip fails.
    pub fn install(version: &str) -> Result<Self> {
        let home = crate::root().join("target/pyvmomi").join(version);
        let python = home.join("bin/python");
        let done = home.join("installed");
        if !done.exists() {
            let long = Duration::from_secs(300);
            run_within(
                Command::new("python3").args(["-m", "venv"]).arg(&home),
                b"",
                long,
            )?
            .ok()?;
            let mut pip = Command::new(&python);
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                &format!("pyvmomi=={version}"),
            ]);
            if version.starts_with('6') {
                pip.args(["six", "requests"]);
            }
            run_within(&mut pip, b"", long)?.ok()?;
            std::fs::write(done, b"")?;
        }
        Ok(Self { python })
    }

    /// Runs one of our scripts with `args`.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn script(&self, name: &str, args: &[&str]) -> Result<Ran> {
        run_within(&mut self.command(name, args), b"", Duration::from_secs(60))
    }

    /// One of our scripts with `args`, not yet started.
    #[must_use]
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command
            .arg(crate::root().join("tests/pyvmomi").join(name))
            .args(args);
        command
    }

    /// One operation of `vm.py` on the VM of the container called `container`.
    ///
    /// # Errors
    /// When the operation fails.
    pub fn vm(
        &self,
        world: &World,
        verb: &str,
        container: &str,
        argument: Option<&str>,
    ) -> Result<Value> {
        let (url, user, password) = (
            world.env("GOVC_URL")?,
            world.env("GOVC_USERNAME")?,
            world.env("GOVC_PASSWORD")?,
        );
        let mut args = vec![url, user, password, verb, container];
        args.extend(argument);
        let ran = self.script("vm.py", &args)?;
        ensure!(ran.status.success(), "{ran:?}");
        serde_json::from_str(&ran.stdout).with_context(|| format!("{:?} is no JSON", ran.stdout))
    }
}
