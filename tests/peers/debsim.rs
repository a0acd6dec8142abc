//! Another vSphere simulator: that of govmomi, built from Debian's packages.
//!
//! Needs `golang-go` and `golang-github-vmware-govmomi-dev`; without them [`Debsim::start`] says so and gives none, and
//! fails where `VMOMI_PEER` is `required`. Part of the test programs that meet it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A running peer; ends with this value.
pub struct Debsim {
    child: Child,
    /// Where it listens, with user and password.
    pub url: String,
}

impl Debsim {
    /// Starts one with these arguments.
    pub fn start(args: &[&str]) -> Option<Self> {
        let Some(program) = program() else {
            assert_ne!(
                std::env::var("VMOMI_PEER").as_deref(),
                Ok("required"),
                "the peer cannot be built"
            );
            eprintln!("skipped: golang-go and golang-github-vmware-govmomi-dev are not installed");
            return None;
        };
        let mut child = Command::new(program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let url = url.trim().to_owned();
        Some(Self { child, url })
    }
}

impl Drop for Debsim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/debsim");
            let name = concat!("debsim-for-", env!("CARGO_PKG_NAME"));
            let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            let built = Command::new("go")
                .args(["build", "-o"])
                .arg(&out)
                .arg(".")
                .current_dir(source)
                .env("GO111MODULE", "off")
                .env("GOPATH", "/usr/share/gocode")
                .status();
            matches!(built, Ok(status) if status.success()).then_some(out)
        })
        .as_deref()
}
