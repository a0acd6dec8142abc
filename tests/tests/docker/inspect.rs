//! What inspect shows, and what takes how much room.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("inspect_shows_what_was_asked_for_and_what_is", inspect),
    ("ps_s_and_inspect_s_show_what_a_container_has_written", size),
];

const IMAGE: &str = "busybox:test";

fn look(world: &World, args: &[&str]) -> Result<Value> {
    let shown = world.docker(&[&["inspect"], args].concat())?.ok()?;
    let all: Value = serde_json::from_str(&shown)?;
    Ok(all[0].clone())
}

/// Each place of a document has this value.
fn expect(document: &Value, rows: &[(&str, Value)]) -> Result<()> {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(place, value)| document.pointer(place) != Some(value))
        .map(|(place, value)| format!("{place}: {:?} instead of {value}", document.pointer(place)))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn inspect(world: &World) -> Result<()> {
    let id = world
        .docker(&[
            "run",
            "-d",
            "--name",
            "seen",
            "--hostname",
            "h1",
            "-e",
            "A=b",
            "-w",
            "/var",
            "-u",
            "0:0",
            "--label",
            "k=v",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "3",
            "-m",
            "64m",
            "--init",
            "--dns",
            "192.0.2.1",
            "--cap-add",
            "NET_ADMIN",
            "-v",
            "seen-data:/data:ro",
            IMAGE,
            "sleep",
            "1000",
        ])?
        .ok()?;
    let running = look(world, &["seen"])?;
    expect(
        &running,
        &[
            ("/Id", json!(id)),
            ("/Name", json!("/seen")),
            ("/Path", json!("sleep")),
            ("/Args", json!(["1000"])),
            ("/State/Status", json!("running")),
            ("/State/Running", json!(true)),
            ("/State/ExitCode", json!(0)),
            ("/State/FinishedAt", json!("0001-01-01T00:00:00Z")),
            ("/Config/Hostname", json!("h1")),
            ("/Config/Image", json!(IMAGE)),
            ("/Config/Cmd", json!(["sleep", "1000"])),
            ("/Config/WorkingDir", json!("/var")),
            ("/Config/User", json!("0:0")),
            ("/Config/Labels/k", json!("v")),
            ("/Config/StopSignal", json!("INT")),
            ("/Config/StopTimeout", json!(3)),
            ("/HostConfig/Memory", json!(64 << 20)),
            ("/HostConfig/MemorySwap", json!(128 << 20)),
            ("/HostConfig/NetworkMode", json!("bridge")),
            ("/HostConfig/RestartPolicy/Name", json!("no")),
            ("/HostConfig/LogConfig/Type", json!("json-file")),
            ("/HostConfig/Init", json!(true)),
            ("/HostConfig/Dns", json!(["192.0.2.1"])),
            ("/HostConfig/Binds", json!(["seen-data:/data:ro"])),
            ("/Mounts/0/Type", json!("volume")),
            ("/Mounts/0/Name", json!("seen-data")),
            ("/Mounts/0/Destination", json!("/data")),
            ("/Mounts/0/RW", json!(false)),
        ],
    )?;
    let environment = running["Config"]["Env"].to_string();
    ensure!(environment.contains("A=b"), "{environment}");
    ensure!(
        running["State"]["Pid"].as_i64() > Some(0),
        "{}",
        running["State"]
    );
    // The image's id, the network's and the address are those that others see.
    let image = look(world, &["--type", "image", IMAGE])?;
    ensure!(running["Image"] == image["Id"], "{}", running["Image"]);
    let network = look(world, &["--type", "network", "bridge"])?;
    let endpoint = &running["NetworkSettings"]["Networks"]["bridge"];
    ensure!(endpoint["NetworkID"] == network["Id"], "{endpoint}");
    let there = &network["Containers"][&id];
    ensure!(
        there["IPv4Address"].as_str().is_some_and(|a| a
            .split_once('/')
            .is_some_and(|(a, _)| endpoint["IPAddress"] == a))
            && there["EndpointID"] == endpoint["EndpointID"]
            && there["MacAddress"] == endpoint["MacAddress"],
        "{there} and {endpoint}"
    );
    let inside = world
        .docker(&["exec", "seen", "ip", "-o", "-4", "address", "show", "eth0"])?
        .ok()?;
    let address = endpoint["IPAddress"].as_str().context("address")?;
    ensure!(inside.contains(&format!(" {address}/")), "{inside}");

    world.docker(&["kill", "seen"])?.ok()?;
    world.docker(&["wait", "seen"])?.ok()?;
    let stopped = look(world, &["seen"])?;
    expect(
        &stopped,
        &[
            ("/State/Status", json!("exited")),
            ("/State/Running", json!(false)),
            ("/State/ExitCode", json!(137)),
            ("/State/Pid", json!(0)),
            ("/NetworkSettings/Networks/bridge/IPAddress", json!("")),
            ("/NetworkSettings/Ports", json!({})),
        ],
    )?;
    ensure!(
        stopped["State"]["FinishedAt"].as_str() > stopped["State"]["StartedAt"].as_str(),
        "{}",
        stopped["State"]
    );
    world.docker(&["rm", "seen"])?.ok()?;
    world.docker(&["volume", "rm", "seen-data"])?.ok()?;
    Ok(())
}

/// The size that inspect shows of what a container has written.
fn written(world: &World, name: &str) -> Result<u64> {
    let shown = look(world, &["-s", name])?;
    ensure!(shown["SizeRootFs"].as_u64() > Some(100_000), "{shown}");
    shown["SizeRw"].as_u64().context("no SizeRw")
}

fn size(world: &World) -> Result<()> {
    const MORE: u64 = 20 << 20;
    let args = ["run", "-d", "--name", "writes", IMAGE, "sleep", "1000"];
    world.docker(&args)?.ok()?;
    let before = written(world, "writes")?;
    let script = "dd if=/dev/urandom of=/big bs=1M count=20 && sync";
    world
        .docker(&["exec", "writes", "sh", "-c", script])?
        .ok()?;
    let after = written(world, "writes")?;
    // The disk grows by what was written, and by a little of the file system's own.
    ensure!(
        after >= before + MORE && after < before + 2 * MORE,
        "{before} became {after}"
    );
    let shown = world
        .docker(&[
            "ps",
            "-s",
            "--filter",
            "name=writes",
            "--format",
            "{{.Size}}",
        ])?
        .ok()?;
    ensure!(shown.contains("MB (virtual "), "{shown}");
    world.docker(&["kill", "writes"])?.ok()?;
    world.docker(&["wait", "writes"])?.ok()?;
    // What the disk had in reserve is given back when the VM is off.
    let off = written(world, "writes")?;
    ensure!(off >= MORE, "{off}");
    world.docker(&["rm", "writes"])?.ok()?;
    Ok(())
}
