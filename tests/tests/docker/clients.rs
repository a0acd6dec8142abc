//! Older clients: Debian's, and today's at the oldest version of the API.

use std::process::Command;

use anyhow::{Result, ensure};
use system_tests::run::{Ran, run};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("debian_s_client_lives_with_us", debian),
    ("the_oldest_api_version_still_works", oldest),
];

const IMAGE: &str = "busybox:test";

/// The client of Debian's package docker.io.
const DEBIAN: &str = "/usr/bin/docker";

/// A client that speaks some version.
struct Client<'a> {
    world: &'a World,
    program: &'a str,
    version: Option<&'a str>,
}

impl Client<'_> {
    fn run(&self, args: &[&str], stdin: &[u8]) -> Result<Ran> {
        let mut command = Command::new(self.program);
        let docker = self.world.docker_command();
        command.envs(docker.get_envs().filter_map(|(k, v)| Some((k, v?))));
        if let Some(version) = self.version {
            command.env("DOCKER_API_VERSION", version);
        }
        run(command.args(args), stdin)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args, b"")?.ok()
    }

    /// What people do all day.
    fn day(&self, name: &str) -> Result<()> {
        let ran = self.run(&["run", "--rm", "-i", IMAGE, "cat"], b"through\n")?;
        ensure!(ran.stdout == "through\n" && ran.code() == 0, "{ran:?}");
        let script = "echo out; echo err >&2; exit 4";
        let ran = self.run(&["run", "--rm", IMAGE, "sh", "-c", script], b"")?;
        ensure!(
            ran.code() == 4 && ran.stdout == "out\n" && ran.stderr == "err\n",
            "{ran:?}"
        );
        // With `--rm` a client of 1.24 waits for ever, on Debian's dockerd too: no event tells it of a failed start.
        let failed = format!("{name}-failed");
        self.run(&["run", "--name", &failed, IMAGE, "nosuch"], b"")?
            .exits(127)?;
        self.ok(&["rm", &failed])?;
        let script = "echo up; exec sleep 1000";
        let args = [
            "run", "-d", "--name", name, "-e", "A=1", "-v", "/data", IMAGE,
        ];
        self.ok(&[&args[..], &["sh", "-c", script]].concat())?;
        let filter = format!("name=^/{name}$");
        let listed = self.ok(&[
            "ps",
            "--filter",
            &filter,
            "--format",
            "{{.Names}} {{.Status}}",
        ])?;
        ensure!(listed.starts_with(&format!("{name} Up ")), "{listed:?}");
        let wanted = "{{.State.Running}} {{.NetworkSettings.Networks.bridge.IPAddress}}";
        let shown = self.ok(&["inspect", "-f", wanted, name])?;
        ensure!(shown.starts_with("true 172."), "{shown:?}");
        let said = self.run(&["exec", "-i", name, "sh", "-c", "cat; exit 5"], b"x")?;
        ensure!(said.stdout == "x" && said.code() == 5, "{said:?}");
        ensure!(self.ok(&["top", name])?.contains("sleep 1000"));
        self.ok(&["pause", name])?;
        self.ok(&["unpause", name])?;
        self.ok(&["kill", "-s", "KILL", name])?;
        ensure!(self.ok(&["wait", name])? == "137");
        ensure!(self.ok(&["logs", name])? == "up");
        self.ok(&["start", name])?;
        self.ok(&["stop", "-t", "0", name])?;
        let renamed = format!("{name}-2");
        self.ok(&["rename", name, &renamed])?;
        self.ok(&["rm", "-v", &renamed])?;
        for list in [
            &["images"][..],
            &["volume", "ls"],
            &["network", "ls"],
            &["info"],
        ] {
            self.ok(list)?;
        }
        Ok(())
    }
}

fn debian(world: &World) -> Result<()> {
    let client = Client {
        world,
        program: DEBIAN,
        version: None,
    };
    let versions = client.ok(&["version", "--format", "{{.Client.Version}}"])?;
    ensure!(
        versions.contains("dfsg"),
        "{DEBIAN} {versions} is not Debian's"
    );
    client.day("debians")
}

fn oldest(world: &World) -> Result<()> {
    let client = Client {
        world,
        program: "docker",
        version: Some("1.24"),
    };
    let spoken = client.ok(&["version", "--format", "{{.Client.APIVersion}}"])?;
    ensure!(spoken == "1.24", "{spoken:?}");
    client.day("oldest")
}
