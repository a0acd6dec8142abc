//! `docker run`: output, input, exit codes, identity, environment.

use anyhow::{Result, ensure};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("run_prints_what_the_process_prints", prints),
    ("run_gives_the_exit_code_of_the_process", exit_code),
    ("run_i_passes_standard_input_and_its_end", stdin),
    ("run_of_a_missing_program_exits_127", missing_program),
    (
        "run_of_a_file_that_is_not_executable_exits_126",
        not_executable,
    ),
    ("run_with_a_wrong_option_exits_125", wrong_option),
    ("stdout_and_stderr_stay_apart", both_streams),
    (
        "name_env_workdir_user_entrypoint_and_hostname_are_honoured",
        identity,
    ),
    ("the_process_is_pid_1", pid_one),
    ("run_rm_leaves_no_container_behind", rm),
    ("run_d_logs_stop_and_rm", detached),
    ("run_rm_delivers_the_last_byte_of_much_output", much_output),
];

const IMAGE: &str = "busybox:test";

fn prints(world: &World) -> Result<()> {
    let out = world
        .docker(&["run", "--rm", IMAGE, "echo", "hello"])?
        .ok()?;
    ensure!(out == "hello", "{out:?}");
    Ok(())
}

fn exit_code(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", IMAGE, "sh", "-c", "exit 7"])?
        .exits(7)?;
    Ok(())
}

fn stdin(world: &World) -> Result<()> {
    let out = world
        .docker_with(&["run", "--rm", "-i", IMAGE, "cat"], b"one\ntwo | three\n")?
        .ok()?;
    ensure!(out == "one\ntwo | three", "{out:?}");
    Ok(())
}

fn missing_program(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", IMAGE, "/no/such"])?
        .fails_with(127, "no such file or directory")?;
    world
        .docker(&["run", "--rm", IMAGE, "nosuch"])?
        .fails_with(127, "executable file not found in $PATH")
}

fn not_executable(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", IMAGE, "/etc/not-executable"])?
        .fails_with(126, "permission denied")
}

fn wrong_option(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", "--memory", "1m", IMAGE, "true"])?
        .fails_with(125, "Minimum memory limit allowed is 6MB")
}

fn both_streams(world: &World) -> Result<()> {
    let ran = world.docker(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2"])?;
    ensure!(ran.stdout == "out\n" && ran.stderr == "err\n", "{ran:?}");
    Ok(())
}

fn identity(world: &World) -> Result<()> {
    let script = "echo $A; pwd; id -u; id -g; hostname";
    let args = [
        "run",
        "--rm",
        "--name",
        "who",
        "-e",
        "A=b | c",
        "-w",
        "/var",
        "-u",
        "alice",
        "--hostname",
        "h1",
    ];
    let out = world
        .docker(&[&args[..], &["--entrypoint", "/bin/sh", IMAGE, "-c", script]].concat())?
        .ok()?;
    ensure!(out == "b | c\n/var\n1000\n1000\nh1", "{out:?}");
    Ok(())
}

fn pid_one(world: &World) -> Result<()> {
    let out = world
        .docker(&["run", "--rm", IMAGE, "sh", "-c", "echo $$; ps | wc -l"])?
        .ok()?;
    ensure!(out.starts_with("1\n"), "{out:?}");
    Ok(())
}

fn rm(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", "--name", "gone", IMAGE, "true"])?
        .ok()?;
    world.docker(&["inspect", "gone"])?.exits(1)?;
    // The name is free the moment the first `run` returns.
    world
        .docker(&["run", "--rm", "--name", "gone", IMAGE, "true"])?
        .ok()?;
    Ok(())
}

fn detached(world: &World) -> Result<()> {
    let id = world
        .docker(&[
            "run",
            "-d",
            "--name",
            "d1",
            IMAGE,
            "sh",
            "-c",
            "echo up; exec sleep 1000",
        ])?
        .ok()?;
    ensure!(id.len() == 64, "{id:?}");
    let names = world.docker(&["ps", "--format", "{{.Names}}"])?.ok()?;
    ensure!(names.lines().any(|n| n == "d1"), "{names:?}");
    world.docker(&["stop", "-t", "1", "d1"])?.ok()?;
    let logs = world.docker(&["logs", "d1"])?.ok()?;
    ensure!(logs == "up", "{logs:?}");
    world.docker(&["rm", "d1"])?.ok()?;
    Ok(())
}

fn much_output(world: &World) -> Result<()> {
    // The container is gone long before its client has read all.
    let script = "yes 0123456789abcdef0123456789abcdef | head -c 30000000";
    let out = world.docker(&["run", "--rm", IMAGE, "sh", "-c", script])?;
    ensure!(out.code() == 0, "{}", out.stderr);
    ensure!(out.stdout.len() == 30_000_000, "{}", out.stdout.len());
    Ok(())
}
