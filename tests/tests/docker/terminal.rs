//! Terminals: their size at the start and after a resize, of a container and of an exec; `exec -t`.

use std::process::Command;

use anyhow::{Result, ensure};
use system_tests::run::{Ran, run};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("a_container_s_terminal_follows_the_client_s", run_resize),
    ("an_exec_s_terminal_follows_the_client_s", exec_resize),
    ("exec_t_gives_a_terminal_and_the_exit_code", exec_tty),
];

const IMAGE: &str = "busybox:test";

/// Says its size, waits until it is another and a signal has told so, and says it again.
const SIZES: &str = "trap told=1 WINCH; stty size; touch /tmp/ready; \
                     until [ \"$told $(stty size)\" = '1 33 101' ]; do sleep 0.05; done; stty size; exit 6";

/// Runs a shell's line on a terminal of its own, which `script` makes.
fn on_terminal(world: &World, line: &str) -> Result<Ran> {
    let mut command = Command::new("script");
    let docker = world.docker_command();
    command.envs(docker.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.env("SIZES", SIZES).env("IMAGE", IMAGE);
    run(command.args(["-qec", line, "/dev/null"]), b"")
}

/// A line that changes the terminal's size as soon as the container called `name` is ready for it.
fn resized_when_ready(name: &str, command: &str) -> String {
    let ready = format!("docker exec {name} sh -c 'until [ -e /tmp/ready ]; do sleep 0.05; done'");
    // The container may not be there yet: its client is started after this.
    format!(
        "stty rows 20 cols 60; (until {ready} >/dev/null 2>&1; do sleep 0.1; done; stty rows 33 cols 101 </dev/tty) & {command}"
    )
}

fn run_resize(world: &World) -> Result<()> {
    let command = "docker run --rm -it --name sized $IMAGE sh -c \"$SIZES\"";
    let ran = on_terminal(world, &resized_when_ready("sized", command))?;
    ensure!(ran.code() == 6, "{ran:?}");
    ensure!(
        ran.stdout.contains("20 60\r\n") && ran.stdout.contains("33 101\r\n"),
        "{ran:?}"
    );
    Ok(())
}

fn exec_resize(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "exec-sized", IMAGE, "sleep", "1000"])?
        .ok()?;
    let command = "docker exec -it exec-sized sh -c \"$SIZES\"";
    let ran = on_terminal(world, &resized_when_ready("exec-sized", command))?;
    ensure!(ran.code() == 6, "{ran:?}");
    ensure!(
        ran.stdout.contains("20 60\r\n") && ran.stdout.contains("33 101\r\n"),
        "{ran:?}"
    );
    world.docker(&["rm", "-f", "exec-sized"])?.ok()?;
    Ok(())
}

fn exec_tty(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "exec-tty", IMAGE, "sleep", "1000"])?
        .ok()?;
    let script =
        "test -t 0 && test -t 1 && test -t 2 && tty; echo to stderr >&2; echo $TERM; exit 5";
    let ran = world.docker(&["exec", "-t", "exec-tty", "sh", "-c", script])?;
    ensure!(ran.code() == 5, "{ran:?}");
    // A terminal has one output, and ends its lines its own way.
    ensure!(
        ran.stdout.starts_with("/dev/pts/") && ran.stdout.ends_with("\r\nto stderr\r\nxterm\r\n"),
        "{ran:?}"
    );
    ensure!(ran.stderr.is_empty(), "{ran:?}");
    let without = world.docker(&["exec", "exec-tty", "sh", "-c", "test -t 1"])?;
    ensure!(without.code() == 1, "{without:?}");
    world.docker(&["rm", "-f", "exec-tty"])?.ok()?;
    Ok(())
}
