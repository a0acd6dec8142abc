//! Volumes and the default network.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::image::Recipe;
use system_tests::world::{World, path};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("volume_create_ls_inspect_rm", manage),
    ("data_in_a_named_volume_survives_its_container", survives),
    (
        "an_image_declared_volume_is_filled_from_the_image_and_goes_with_rm_v",
        declared,
    ),
    (
        "a_volume_has_the_owner_and_the_mode_of_the_image_s_directory",
        owned,
    ),
    (
        "a_new_volume_and_an_image_s_root_have_no_lost_and_found",
        nothing_of_ours,
    ),
    (
        "a_volume_of_a_running_container_is_named_when_another_one_wants_it",
        one_at_a_time,
    ),
    ("a_read_only_volume_cannot_be_written", read_only),
    ("a_volume_in_use_is_not_removed", in_use),
    ("parallel_starts_get_different_addresses", addresses),
    ("a_container_reaches_the_gateway_and_names", way_out),
    ("network_ls_and_inspect_show_the_bridge", networks),
    ("network_none_has_loopback_only", none),
];

const IMAGE: &str = "busybox:test";

fn manage(world: &World) -> Result<()> {
    ensure!(
        world
            .docker(&["volume", "create", "--label", "a=b", "vol1"])?
            .ok()?
            == "vol1"
    );
    ensure!(
        world
            .docker(&["volume", "ls", "-q"])?
            .ok()?
            .lines()
            .any(|l| l == "vol1")
    );
    ensure!(
        world
            .docker(&[
                "volume",
                "inspect",
                "-f",
                "{{.Labels.a}} {{.Driver}}",
                "vol1"
            ])?
            .ok()?
            == "b local"
    );
    world.docker(&["volume", "rm", "vol1"])?.ok()?;
    world
        .docker(&["volume", "inspect", "vol1"])?
        .fails_with(1, "get vol1: no such volume")
}

fn survives(world: &World) -> Result<()> {
    world
        .docker(&[
            "run",
            "--rm",
            "-v",
            "keep:/data",
            IMAGE,
            "sh",
            "-c",
            "echo kept > /data/f",
        ])?
        .ok()?;
    ensure!(
        world
            .docker(&["run", "--rm", "-v", "keep:/other", IMAGE, "cat", "/other/f"])?
            .ok()?
            == "kept"
    );
    world.docker(&["volume", "rm", "keep"])?.ok()?;
    Ok(())
}

fn declared(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("declared:1");
    recipe.config = json!({"Cmd": ["sh"], "Volumes": {"/seed": {}}});
    recipe
        .layers
        .push(vec![("seed/file".to_owned(), b"seeded\n".to_vec())]);
    let archive = world.archive(&recipe)?;
    world.docker(&["load", "-q", "-i", path(&archive)?])?.ok()?;
    let run = ["run", "--name", "decl", "declared:1", "cat", "/seed/file"];
    ensure!(world.docker(&run)?.ok()? == "seeded");
    let name = ["inspect", "-f", "{{(index .Mounts 0).Name}}", "decl"];
    let volume = world.docker(&name)?.ok()?;
    ensure!(volume.len() == 64, "{volume:?}");
    world.docker(&["volume", "inspect", &volume])?.ok()?;
    world.docker(&["rm", "-v", "decl"])?.ok()?;
    world
        .docker(&["volume", "inspect", &volume])?
        .fails_with(1, "no such volume")
}

fn owned(world: &World) -> Result<()> {
    let mut recipe = Recipe::busybox("owned:1");
    recipe.config = json!({"Cmd": ["sh"], "Volumes": {"/home": {}}, "User": "alice"});
    recipe.owners.insert("home".into(), (1000, 50));
    let archive = world.archive(&recipe)?;
    world.docker(&["load", "-q", "-i", path(&archive)?])?.ok()?;
    let script = "touch /home/mine && stat -c '%u:%g %a' /home";
    let declared = ["run", "--rm", "owned:1", "sh", "-c", script];
    ensure!(world.docker(&declared)?.ok()? == "1000:50 755");
    let named = [
        "run",
        "--rm",
        "-v",
        "ownv:/home",
        "owned:1",
        "sh",
        "-c",
        script,
    ];
    ensure!(world.docker(&named)?.ok()? == "1000:50 755");
    world.docker(&["volume", "rm", "ownv"])?.ok()?;
    Ok(())
}

fn nothing_of_ours(world: &World) -> Result<()> {
    let out = world
        .docker(&["run", "--rm", "-v", "/new", IMAGE, "ls", "-A", "/", "/new"])?
        .ok()?;
    ensure!(
        out.ends_with("/new:") && !out.contains("lost+found"),
        "{out}"
    );
    Ok(())
}

fn one_at_a_time(world: &World) -> Result<()> {
    let first = [
        "run", "-d", "--name", "has-it", "-v", "oneat:/v", IMAGE, "sleep", "1000",
    ];
    world.docker(&first)?.ok()?;
    world
        .docker(&["run", "--name", "wants-it", "-v", "oneat:/v", IMAGE, "true"])?
        .fails_with(
            125,
            "volume oneat is in use by the running container has-it",
        )?;
    world.docker(&["rm", "-f", "has-it"])?.ok()?;
    world.docker(&["start", "-a", "wants-it"])?.ok()?;
    world.docker(&["rm", "wants-it"])?.ok()?;
    world.docker(&["volume", "rm", "oneat"])?.ok()?;
    Ok(())
}

fn read_only(world: &World) -> Result<()> {
    world.docker(&["volume", "create", "ro1"])?.ok()?;
    let ran = world.docker(&["run", "--rm", "-v", "ro1:/v:ro", IMAGE, "touch", "/v/x"])?;
    ensure!(
        ran.code() == 1 && ran.stderr.contains("Read-only file system"),
        "{ran:?}"
    );
    world.docker(&["volume", "rm", "ro1"])?.ok()?;
    Ok(())
}

fn in_use(world: &World) -> Result<()> {
    world
        .docker(&[
            "run", "-d", "--name", "holder", "-v", "held:/v", IMAGE, "sleep", "1000",
        ])?
        .ok()?;
    world
        .docker(&["volume", "rm", "held"])?
        .fails_with(1, "volume is in use - [")?;
    world.docker(&["rm", "-f", "holder"])?.ok()?;
    world.docker(&["volume", "rm", "held"])?.ok()?;
    Ok(())
}

fn addresses(world: &World) -> Result<()> {
    let names: Vec<String> = (0..8).map(|i| format!("addr{i}")).collect();
    let found: Result<Vec<String>> = std::thread::scope(|scope| {
        let runs: Vec<_> = names
            .iter()
            .map(|name| {
                scope.spawn(move || {
                    world
                        .docker(&["run", "-d", "--name", name, IMAGE, "sleep", "1000"])?
                        .ok()?;
                    world
                        .docker(&[
                            "exec",
                            name,
                            "sh",
                            "-c",
                            "ip -4 -o addr show eth0 | awk '{print $4}'",
                        ])?
                        .ok()
                })
            })
            .collect();
        runs.into_iter()
            .map(|r| r.join().ok().context("panicked")?)
            .collect()
    });
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    world.docker(&remove)?.ok()?;
    let found = found?;
    ensure!(
        found.iter().collect::<BTreeSet<_>>().len() == 8 && found.iter().all(|a| a.contains('.')),
        "{found:?}"
    );
    Ok(())
}

fn way_out(world: &World) -> Result<()> {
    let port = world.registry.port;
    let script = format!(
        "wget -q -O - http://host.docker.internal:{port}/v2/ && nslookup host.docker.internal >/dev/null"
    );
    ensure!(
        world
            .docker(&["run", "--rm", IMAGE, "sh", "-c", &script])?
            .ok()?
            == "{}"
    );
    Ok(())
}

fn networks(world: &World) -> Result<()> {
    let list = world
        .docker(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"])?
        .ok()?;
    ensure!(list.lines().any(|l| l == "bridge bridge"), "{list}");
    let subnet = world
        .docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Subnet}}",
            "bridge",
        ])?
        .ok()?;
    ensure!(subnet.contains('/'), "{subnet}");
    Ok(())
}

fn none(world: &World) -> Result<()> {
    let out = world
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            "ls /sys/class/net",
        ])?
        .ok()?;
    ensure!(out == "lo", "{out:?}");
    Ok(())
}
