//! `vic-machine up`, `env` and `down` as a newcomer meets them, and what they leave on the host.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::disk;
use system_tests::host::{self, Leftovers};
use system_tests::world::{Options, World};

#[path = "install/again.rs"]
mod again;
#[path = "install/interrupt.rs"]
mod interrupt;
#[path = "install/readme.rs"]
mod readme;
#[path = "install/terminal.rs"]
mod terminal;
#[path = "install/tls.rs"]
mod tls;
#[path = "install/vsphere.rs"]
mod vsphere;

/// A test and its name.
type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    ("up_prints_how_to_connect_and_env_only_exports", up_and_env),
    ("a_second_up_on_the_same_state_names_the_first", second_up),
    ("a_taken_port_is_a_clear_error", taken_port),
    (
        "down_and_up_find_images_containers_and_volumes_again",
        down_and_up,
    ),
    ("down_gives_every_container_its_stop_signal", stop_signal),
    (
        "the_host_is_the_same_before_during_and_after",
        host_unchanged,
    ),
    (
        "kill_9_of_the_simulator_ends_every_guest_and_nothing_needs_repair",
        kill_nine,
    ),
];

const IMAGE: &str = "busybox:test";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test starts a world of its own and looks at the whole host.
    arguments.test_threads = Some(1);
    let parts = [
        TESTS,
        again::TESTS,
        interrupt::TESTS,
        tls::TESTS,
        readme::TESTS,
    ];
    let trials = parts
        .concat()
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test().map_err(|e| Failed::from(format!("{e:?}")))
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn up_and_env() -> Result<()> {
    let world = World::start(Options::default())?;
    let mode = std::fs::metadata(world.state())?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "{mode:o}");
    let exports = system_tests::run::run(&mut world.vic_machine("env")?, b"")?.ok()?;
    ensure!(
        exports.lines().all(|l| l.starts_with("export ")),
        "{exports}"
    );
    for name in [
        "DOCKER_HOST",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
        "GOVC_URL",
        "GOVC_USERNAME",
        "GOVC_PASSWORD",
    ] {
        world.env(name)?;
    }
    ensure!(
        world
            .docker(&["run", "--rm", IMAGE, "echo", "there"])?
            .ok()?
            == "there"
    );
    Ok(())
}

fn second_up() -> Result<()> {
    let world = World::start(Options::default())?;
    let first = host::simulator(world.state())?;
    let mut again = world.vic_machine("up")?;
    let ran = system_tests::run::run(again.args(["--detach", "--port", "0"]), b"")?;
    ensure!(
        ran.code() == 1 && (ran.stderr.clone() + &ran.stdout).contains(&first.pid.to_string()),
        "{ran:?}"
    );
    world.docker(&["version"])?.ok()?;
    Ok(())
}

fn taken_port() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let dir = tempfile::tempdir()?;
    let mut command = std::process::Command::new(system_tests::program("vic-machine")?);
    command
        .args(["up", "--detach", "--port", &port, "--state"])
        .arg(dir.path().join("state"))
        .current_dir(dir.path());
    let ran = system_tests::run::run(&mut command, b"")?;
    let said = ran.stdout.clone() + &ran.stderr;
    ensure!(
        ran.code() == 1 && said.contains(&port) && said.contains("taken"),
        "{ran:?}"
    );
    Ok(())
}

fn down_and_up() -> Result<()> {
    let mut world = World::start(Options::default())?;
    world
        .docker(&[
            "run",
            "--name",
            "ended",
            IMAGE,
            "sh",
            "-c",
            "echo before; exit 3",
        ])?
        .exits(3)?;
    world
        .docker(&[
            "run",
            "--rm",
            "-v",
            "kept:/v",
            IMAGE,
            "sh",
            "-c",
            "echo data > /v/f",
        ])?
        .ok()?;
    world
        .docker(&["run", "-d", "--name", "was-running", IMAGE, "sleep", "1000"])?
        .ok()?;
    let (host, certificates) = (world.env("DOCKER_HOST")?.to_owned(), certificate(&world)?);
    world.down()?;
    world.up()?;
    ensure!(world.env("DOCKER_HOST")? == host && certificate(&world)? == certificates);
    let state = world
        .docker(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "ended",
        ])?
        .ok()?;
    ensure!(state == "exited 3", "{state}");
    ensure!(world.docker(&["logs", "ended"])?.ok()? == "before");
    let state = world
        .docker(&["inspect", "-f", "{{.State.Status}}", "was-running"])?
        .ok()?;
    ensure!(state == "exited", "{state}");
    ensure!(
        world
            .docker(&["run", "--rm", "-v", "kept:/v", IMAGE, "cat", "/v/f"])?
            .ok()?
            == "data"
    );
    world.docker(&["start", "was-running"])?.ok()?;
    Ok(())
}

fn certificate(world: &World) -> Result<Vec<u8>> {
    Ok(std::fs::read(
        std::path::Path::new(world.env("DOCKER_CERT_PATH")?).join("ca.pem"),
    )?)
}

fn stop_signal() -> Result<()> {
    let mut world = World::start(Options::default())?;
    let script = "trap 'echo stopped; exit 6' TERM; echo ready; while :; do sleep 0.05; done";
    world
        .docker(&["run", "-d", "--name", "told", IMAGE, "sh", "-c", script])?
        .ok()?;
    world
        .docker(&[
            "exec",
            "told",
            "sh",
            "-c",
            "until grep -q sleep /proc/[0-9]*/comm; do :; done",
        ])?
        .ok()?;
    world.down()?;
    world.up()?;
    let state = world
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "told"])?
        .ok()?;
    ensure!(state == "6", "{state}");
    Ok(())
}

fn host_unchanged() -> Result<()> {
    let (settings, leftovers) = (host::network_settings()?, Leftovers::now()?);
    let world = World::start(Options::default())?;
    world
        .docker(&["run", "-d", "--name", "one", IMAGE, "sleep", "1000"])?
        .ok()?;
    let during = host::differences(&settings, &host::network_settings()?);
    ensure!(during.is_empty(), "changed while a world runs: {during:#?}");
    let family = host::descendants(host::simulator(world.state())?.pid)?;
    ensure!(family.len() > 2, "{family:?}");
    drop(world);
    let after = host::differences(&settings, &host::network_settings()?);
    ensure!(after.is_empty(), "changed afterwards: {after:#?}");
    host::wait_gone(
        &family.iter().map(|p| p.pid).collect::<Vec<_>>(),
        Duration::from_secs(30),
    )?;
    Leftovers::wait_none(&leftovers, Duration::from_secs(30))
}

fn kill_nine() -> Result<()> {
    let mut world = World::start(Options::default())?;
    // One file grows while others come and go, on the container's disk and on a volume.
    let write = "i=0; while :; do i=$((i+1)); for d in / /v; do echo line >> $d/f; mkdir $d/d$i; \
                 echo new > $d/d$i/g; rm -rf $d/d$((i-5)); done; sync; done";
    let run = ["run", "-d", "--name", "writer", "-v", "written:/v", IMAGE];
    world
        .docker(&[&run[..], &["sh", "-c", write]].concat())?
        .ok()?;
    world
        .docker(&[
            "exec",
            "writer",
            "sh",
            "-c",
            "until [ -s /v/f ]; do :; done",
        ])?
        .ok()?;
    let simulator = host::simulator(world.state())?;
    let guests: Vec<u32> = host::descendants(simulator.pid)?
        .iter()
        .map(|p| p.pid)
        .collect();
    kill(
        Pid::from_raw(i32::try_from(simulator.pid)?),
        Signal::SIGKILL,
    )?;
    host::wait_gone(&guests, Duration::from_secs(5))?;
    let disks = disk::written_disks(&world.state().join("sim/datastores/datastore1"))?;
    ensure!(disks.len() == 2, "{disks:?}");
    for vmdk in disks {
        let raw = world.scratch().join("raw");
        disk::content(&vmdk, &raw)?;
        disk::needs_no_repair(&raw).with_context(|| vmdk.display().to_string())?;
    }
    world.up()?;
    let state = world
        .docker(&[
            "ps",
            "-a",
            "--filter",
            "name=writer",
            "--format",
            "{{.Status}}",
        ])?
        .ok()?;
    ensure!(state.starts_with("Exited (255) "), "{state}");
    world.docker(&["start", "writer"])?.ok()?;
    world
        .docker(&["exec", "writer", "grep", "-c", "line", "/f"])?
        .ok()?;
    Ok(())
}
