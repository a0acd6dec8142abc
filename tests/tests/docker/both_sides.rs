//! What a vSphere admin does is seen by docker within a second, and the other way round.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use system_tests::pyvmomi::{NEWEST, OLD, Pyvmomi};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("power_off_in_vsphere_is_a_die_within_a_second", power_off),
    ("shutdown_guest_delivers_the_stop_signal", shutdown_guest),
    (
        "a_guest_that_never_pauses_is_told_to_end_all_the_same",
        never_pauses,
    ),
    ("reboot_guest_launches_the_process_again", reboot_guest),
    ("power_on_of_a_stopped_vm_starts_the_container", power_on),
    ("a_vm_renamed_in_vsphere_keeps_its_container", rename),
    ("a_vm_destroyed_in_vsphere_is_a_removed_container", destroy),
    (
        "guest_properties_show_address_host_name_and_tools",
        guest_properties,
    ),
    (
        "pyvmomi_reads_every_property_of_a_container_vm",
        read_all_newest,
    ),
    (
        "pyvmomi_of_vsphere_6_7_reads_every_property_of_a_container_vm",
        read_all_old,
    ),
    (
        "pyvmomi_of_vsphere_6_7_powers_a_container_vm_on_and_off",
        power_old,
    ),
];

const IMAGE: &str = "busybox:test";
/// What the project promises for a change made on the other side.
const WITHIN: Duration = Duration::from_secs(1);

/// The docker events of one container as they come.
struct Events {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Events {
    fn of(world: &World, container: &str) -> Result<Self> {
        let filter = format!("container={container}");
        let mut child = world.docker_spawn(&[
            "events",
            "--since",
            "1",
            "--filter",
            &filter,
            "--format",
            "{{.Action}}",
        ])?;
        let stdout = child.stdout.take().context("stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for the next event called `action`.
    fn wait(&self, action: &str, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if line == action {
                return Ok(());
            }
            seen.push(line);
        }
        bail!("no event {action} within {within:?}, only {seen:?}")
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(world: &World, name: &str, script: &str) -> Result<Events> {
    world
        .docker(&["run", "-d", "--name", name, IMAGE, "sh", "-c", script])?
        .ok()?;
    let events = Events::of(world, name)?;
    events.wait("start", Duration::from_secs(5))?;
    Ok(events)
}

fn status(world: &World, name: &str) -> Result<String> {
    world
        .docker(&["inspect", "-f", "{{.State.Status}}", name])?
        .ok()
}

fn power_off(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let events = start(world, "both-off", "exec sleep 1000")?;
    vsphere.vm(world, "power-off", "both-off", None)?;
    events.wait("die", WITHIN)?;
    ensure!(status(world, "both-off")? == "exited");
    world.docker(&["rm", "both-off"])?.ok()?;
    Ok(())
}

fn shutdown_guest(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let events = start(
        world,
        "both-shutdown",
        "trap 'echo got it; exit 5' TERM; while :; do sleep 0.1; done",
    )?;
    vsphere.vm(world, "shutdown", "both-shutdown", None)?;
    events.wait("die", Duration::from_secs(5))?;
    let code = world
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "both-shutdown"])?
        .ok()?;
    ensure!(code == "5", "{code}");
    ensure!(world.docker(&["logs", "both-shutdown"])?.ok()? == "got it");
    world.docker(&["rm", "both-shutdown"])?.ok()?;
    Ok(())
}

/// A guest with something to do at every moment finds the time to tell vSphere about itself, and to listen.
fn never_pauses(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let script = "trap 'exit 7' TERM; while :; do echo again; done";
    let events = start(world, "both-busy", script)?;
    let end = Instant::now() + Duration::from_secs(5);
    while vsphere.vm(world, "props", "both-busy", None)?["ipAddress"].is_null() {
        ensure!(Instant::now() < end, "vSphere was not told the address");
    }
    vsphere.vm(world, "shutdown", "both-busy", None)?;
    events.wait("die", Duration::from_secs(5))?;
    let code = world
        .docker(&["inspect", "-f", "{{.State.ExitCode}}", "both-busy"])?
        .ok()?;
    ensure!(code == "7", "{code}");
    world.docker(&["rm", "both-busy"])?.ok()?;
    Ok(())
}

fn reboot_guest(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let events = start(
        world,
        "both-reboot",
        "echo again; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    )?;
    vsphere.vm(world, "reboot", "both-reboot", None)?;
    events.wait("start", Duration::from_secs(10))?;
    ensure!(status(world, "both-reboot")? == "running");
    // The process runs; what it prints comes when it comes.
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let logs = world.docker(&["logs", "both-reboot"])?.ok()?;
        if logs == "again\nagain" {
            break;
        }
        ensure!(logs == "again" && Instant::now() < end, "{logs:?}");
    }
    world.docker(&["rm", "-f", "both-reboot"])?.ok()?;
    Ok(())
}

fn power_on(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let events = start(world, "both-on", "exec sleep 1000")?;
    world.docker(&["stop", "-t", "0", "both-on"])?.ok()?;
    vsphere.vm(world, "power-on", "both-on", None)?;
    events.wait("start", Duration::from_secs(2))?;
    ensure!(status(world, "both-on")? == "running");
    world.docker(&["rm", "-f", "both-on"])?.ok()?;
    Ok(())
}

fn rename(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    drop(start(world, "both-name", "exec sleep 1000")?);
    // As in docker, the event carries the new name: only by its id is the container the same.
    let id = world
        .docker(&["inspect", "-f", "{{.Id}}", "both-name"])?
        .ok()?;
    let events = Events::of(world, id.trim())?;
    vsphere.vm(world, "rename", "both-name", Some("renamed-by-admin"))?;
    events.wait("rename", WITHIN)?;
    let names = world
        .docker(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}"])?
        .ok()?;
    let line = format!("{} renamed-by-admin", id.trim());
    ensure!(names.lines().any(|l| l == line), "{names}");
    world.docker(&["rm", "-f", "renamed-by-admin"])?.ok()?;
    Ok(())
}

fn destroy(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    let events = start(world, "both-gone", "exec sleep 1000")?;
    world.docker(&["stop", "-t", "0", "both-gone"])?.ok()?;
    vsphere.vm(world, "destroy", "both-gone", None)?;
    events.wait("destroy", WITHIN)?;
    world.docker(&["inspect", "both-gone"])?.exits(1)?;
    Ok(())
}

fn guest_properties(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(NEWEST)?;
    drop(start(world, "both-props", "exec sleep 1000")?);
    let address = world
        .docker(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.bridge.IPAddress}}",
            "both-props",
        ])?
        .ok()?;
    let host = world
        .docker(&["inspect", "-f", "{{.Config.Hostname}}", "both-props"])?
        .ok()?;
    let props = vsphere.vm(world, "props", "both-props", None)?;
    ensure!(
        props["ipAddress"] == address.as_str() && props["hostName"] == host.as_str(),
        "{props}"
    );
    ensure!(
        props["toolsRunningStatus"] == "guestToolsRunning" && props["powerState"] == "poweredOn",
        "{props}"
    );
    ensure!(props["net"][0]["ip"][0] == address.as_str(), "{props}");
    world.docker(&["rm", "-f", "both-props"])?.ok()?;
    Ok(())
}

fn read_all(world: &World, version: &str) -> Result<()> {
    let vsphere = Pyvmomi::install(version)?;
    let name = format!("both-read-{}", &version[..1]);
    drop(start(world, &name, "exec sleep 1000")?);
    let read = vsphere.vm(world, "read-all", &name, None)?;
    ensure!(read["read"].as_u64() > Some(20), "{read}");
    world.docker(&["rm", "-f", &name])?.ok()?;
    Ok(())
}

fn read_all_newest(world: &World) -> Result<()> {
    read_all(world, NEWEST)
}

fn read_all_old(world: &World) -> Result<()> {
    read_all(world, OLD)
}

fn power_old(world: &World) -> Result<()> {
    let vsphere = Pyvmomi::install(OLD)?;
    let events = start(world, "both-old", "exec sleep 1000")?;
    vsphere.vm(world, "power-off", "both-old", None)?;
    events.wait("die", WITHIN)?;
    vsphere.vm(world, "power-on", "both-old", None)?;
    events.wait("start", Duration::from_secs(2))?;
    world.docker(&["rm", "-f", "both-old"])?.ok()?;
    Ok(())
}
