//! How many processes a container may have, and which of them `docker top` shows.

use anyhow::{Result, ensure};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("pids_limit_bounds_the_number_of_processes", pids_limit),
    ("top_shows_no_exec_that_failed", top),
];

fn pids_limit(world: &World) -> Result<()> {
    // Twelve in all with the shell, of which ten are allowed.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11; do sleep 1000 & done; echo never";
    let args = ["run", "--name", "bounded", "--pids-limit", "10"];
    let args = [&args[..], &["busybox:test", "sh", "-c", script]].concat();
    let ran = world.docker(&args)?;
    ensure!(ran.code() != 0 && !ran.stdout.contains("never"), "{ran:?}");
    ensure!(ran.stderr.contains("can't fork"), "{ran:?}");
    let limit = world.docker(&["inspect", "-f", "{{.HostConfig.PidsLimit}}", "bounded"])?;
    ensure!(limit.ok()? == "10");
    world.docker(&["rm", "bounded"])?.ok()?;
    let free = script.replace("never", "all; kill $(jobs -p)");
    let ran = world.docker(&["run", "--rm", "busybox:test", "sh", "-c", &free])?;
    ensure!(ran.ok()?.contains("all"));
    Ok(())
}

fn top(world: &World) -> Result<()> {
    let args = ["run", "-d", "--name", "topped", "busybox:test"];
    let args = [&args[..], &["sleep", "1000"]].concat();
    world.docker(&args)?.ok()?;
    for _ in 0..5 {
        world.docker(&["exec", "topped", "nope"])?.exits(127)?;
        let list = world.docker(&["top", "topped"])?.ok()?;
        ensure!(list.lines().count() == 2, "{list}");
    }
    world.docker(&["rm", "-f", "topped"])?.ok()?;
    Ok(())
}
