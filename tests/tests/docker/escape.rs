//! What a container's root tries against the host, once with docker's default rights and once `--privileged`.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::host;
use system_tests::run::run;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("a_host_disk_cannot_be_read_through_mknod", mknod),
    ("a_host_disk_cannot_be_read_through_devtmpfs", devtmpfs),
    (
        "no_release_agent_can_be_set_in_any_hierarchy",
        release_agent,
    ),
    (
        "core_pattern_cannot_be_written_through_a_fresh_proc",
        core_pattern,
    ),
    ("other_vms_processes_and_nodes_are_out_of_sight", other_vms),
    (
        "an_unnamed_port_of_the_host_s_loopback_is_refused",
        loopback_port,
    ),
    (
        "processes_of_guests_are_in_namespaces_of_their_own",
        namespaces,
    ),
];

const IMAGE: &str = "busybox:test";
const SECRET: &str = "the content of the victim's disk";

/// A loop device of the host with known content.
struct Victim {
    device: String,
}

impl Victim {
    fn attach(dir: &Path, name: &str) -> Result<Self> {
        let file = dir.join(name);
        let mut content = SECRET.as_bytes().to_vec();
        content.resize(1 << 20, b'.');
        std::fs::write(&file, content)?;
        let device = run(
            Command::new("losetup").args(["--find", "--show", path(&file)?]),
            b"",
        )?
        .ok()?;
        Ok(Self { device })
    }

    fn minor(&self) -> &str {
        self.device.trim_start_matches("/dev/loop")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(run(
            Command::new("losetup").args(["--detach", &self.device]),
            b"",
        ));
    }
}

/// Runs `script` with docker's default rights and `--privileged`, and gives what each printed.
fn attempts(world: &World, script: &str) -> Result<Vec<String>> {
    [&[][..], &["--privileged"]]
        .iter()
        .map(|rights| {
            let args = [&["run", "--rm"], *rights, &[IMAGE, "sh", "-c", script]].concat();
            let ran = world.docker(&args)?;
            ensure!(
                ran.stdout.contains("tried"),
                "the attempt itself failed: {ran:?}"
            );
            Ok(ran.stdout + &ran.stderr)
        })
        .collect()
}

fn mknod(world: &World) -> Result<()> {
    let victim = Victim::attach(world.scratch(), "victim1")?;
    let script = format!(
        "mknod /tmp/v b 7 {}; head -c 64 /tmp/v; echo tried",
        victim.minor()
    );
    for said in attempts(world, &script)? {
        ensure!(!said.contains(SECRET), "{said}");
    }
    Ok(())
}

fn devtmpfs(world: &World) -> Result<()> {
    let victim = Victim::attach(world.scratch(), "victim2")?;
    let name = victim.device.trim_start_matches("/dev/");
    let script = format!(
        "mkdir /tmp/d; mount -t devtmpfs none /tmp/d; head -c 64 /tmp/d/{name}; echo tried"
    );
    for said in attempts(world, &script)? {
        ensure!(!said.contains(SECRET), "{said}");
    }
    Ok(())
}

fn release_agent(world: &World) -> Result<()> {
    let script = "n=0; for h in $(cut -d: -f2 /proc/self/cgroup) none; do n=$((n+1)); mkdir -p /tmp/c$n; \
        mount -t cgroup -o \"${h#name=}\" none /tmp/c$n 2>/dev/null || mount -t cgroup -o \"none,$h\" none /tmp/c$n 2>/dev/null; \
        if grep -q \" /tmp/c$n \" /proc/mounts && echo /tmp/agent > /tmp/c$n/release_agent; then echo HIJACKED $h; fi; done; echo tried";
    for said in attempts(world, script)? {
        ensure!(!said.contains("HIJACKED"), "{said}");
    }
    Ok(())
}

fn core_pattern(world: &World) -> Result<()> {
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let script = "mkdir /tmp/p; mount -t proc proc /tmp/p; echo '|/tmp/x' > /tmp/p/sys/kernel/core_pattern; \
        echo '|/tmp/x' > /proc/sys/kernel/core_pattern; echo tried";
    attempts(world, script)?;
    let after = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    if after != before {
        std::fs::write("/proc/sys/kernel/core_pattern", &before)?;
    }
    ensure!(after == before, "{before:?} became {after:?}");
    Ok(())
}

fn other_vms(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "neighbour", IMAGE, "sleep", "98765"])?
        .ok()?;
    let said = attempts(
        world,
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls /dev/disk/by-slot /dev/vmware 2>/dev/null; echo tried",
    )?;
    world.docker(&["rm", "-f", "neighbour"])?.ok()?;
    for s in said {
        ensure!(
            !s.contains("98765") && !s.contains("rpci") && !s.contains("vic-sim"),
            "{s}"
        );
    }
    Ok(())
}

fn loopback_port(world: &World) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let script = format!(
        "for h in 127.0.0.1 host.docker.internal host.internal; do nc -w 2 $h {port} </dev/null && echo REACHED $h; done; \
         gw=$(ip route | awk '/default/{{print $3}}'); nc -w 2 $gw {port} </dev/null && echo REACHED $gw; echo tried"
    );
    for said in attempts(world, &script)? {
        ensure!(!said.contains("REACHED"), "{said}");
    }
    Ok(())
}

fn namespaces(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "spaces", IMAGE, "sleep", "55555"])?
        .ok()?;
    let family = host::descendants(host::simulator(world.state())?.pid)?;
    let find = |part: &str| family.iter().find(|p| p.command.contains(part)).cloned();
    let container = find("sleep 55555").context("the container's process is not on the host")?;
    let vch = find("vch --config").context("vch is not on the host")?;
    for process in [&container, &vch] {
        for space in ["pid", "mnt", "net", "cgroup"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{space}"));
            ensure!(
                of(&process.pid.to_string())? != of("self")?,
                "{} shares the host's {space} namespace",
                process.command
            );
        }
        let program = std::fs::read_link(format!("/proc/{}/exe", process.pid))?;
        ensure!(
            !program.exists() || !program.starts_with(system_tests::root()),
            "{} runs from the host",
            program.display()
        );
    }
    world.docker(&["rm", "-f", "spaces"])?.ok()?;
    Ok(())
}
