//! The rest of a container's life: ps, inspect, logs, events, stop, kill, restart, pause, rename, wait, attach, top.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::host;
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("version_info_and_ping_answer", version),
    ("stop_delivers_the_stop_signal", stop_signal),
    ("kill_restart_and_exit_codes", kill_restart),
    ("pause_freezes_and_unpause_thaws", pause),
    ("rename_frees_the_old_name", rename),
    ("wait_returns_the_exit_code", wait),
    ("ps_filters_by_name_label_status_and_exit_code", filters),
    ("logs_since_tail_timestamps_and_both_streams", logs),
    (
        "logs_follow_ends_with_the_container_and_misses_nothing",
        follow,
    ),
    (
        "a_follower_that_reads_slowly_costs_no_memory_and_misses_nothing",
        slow_follower,
    ),
    ("events_tell_the_whole_life", events),
    ("a_restart_is_told_as_one", restart_events),
    ("attach_sees_new_output_and_half_closes", attach),
    ("top_lists_the_processes", top),
    ("run_t_gives_a_terminal", tty),
    ("init_puts_a_reaper_in_front", init),
    ("rm_f_of_a_running_container", rm_force),
];

const IMAGE: &str = "busybox:test";

fn version(world: &World) -> Result<()> {
    let v = world
        .docker(&[
            "version",
            "--format",
            "{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}",
        ])?
        .ok()?;
    ensure!(v == "1.55 1.24 linux", "{v}");
    ensure!(
        world
            .docker(&["info", "--format", "{{.OSType}} {{.Swarm.LocalNodeState}}"])?
            .ok()?
            == "linux inactive"
    );
    Ok(())
}

fn stop_signal(world: &World) -> Result<()> {
    let script = "trap 'echo usr1; exit 4' USR1; echo ready; while :; do sleep 0.05; done";
    world
        .docker(&[
            "run",
            "-d",
            "--name",
            "sig",
            "--stop-signal",
            "USR1",
            IMAGE,
            "sh",
            "-c",
            script,
        ])?
        .ok()?;
    until_logged(world, "sig", "ready")?;
    world.docker(&["stop", "sig"])?.ok()?;
    ensure!(
        world
            .docker(&["inspect", "-f", "{{.State.ExitCode}}", "sig"])?
            .ok()?
            == "4"
    );
    world.docker(&["rm", "sig"])?.ok()?;
    Ok(())
}

/// Follows the log until `text` is in it.
pub fn until_logged(world: &World, name: &str, text: &str) -> Result<()> {
    let mut child = world.docker_spawn(&["logs", "-f", name])?;
    let stdout = child.stdout.take().context("stdout")?;
    let found = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .any(|l| l.contains(text));
    child.kill()?;
    child.wait()?;
    ensure!(found, "the log of {name} ended without {text:?}");
    Ok(())
}

fn kill_restart(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "kr", IMAGE, "sleep", "1000"])?
        .ok()?;
    world.docker(&["kill", "kr"])?.ok()?;
    ensure!(world.docker(&["wait", "kr"])?.ok()? == "137");
    world
        .docker(&["kill", "kr"])?
        .fails_with(1, "is not running")?;
    world.docker(&["start", "kr"])?.ok()?;
    world.docker(&["restart", "-t", "0", "kr"])?.ok()?;
    ensure!(
        world
            .docker(&["inspect", "-f", "{{.State.Running}}", "kr"])?
            .ok()?
            == "true"
    );
    world.docker(&["rm", "-f", "kr"])?.ok()?;
    Ok(())
}

fn pause(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "pz", IMAGE, "sleep", "1000"])?
        .ok()?;
    world.docker(&["pause", "pz"])?.ok()?;
    ensure!(
        world
            .docker(&["inspect", "-f", "{{.State.Status}}", "pz"])?
            .ok()?
            == "paused"
    );
    world
        .docker(&["exec", "pz", "true"])?
        .fails_with(1, "is paused, unpause the container before exec")?;
    world.docker(&["unpause", "pz"])?.ok()?;
    world.docker(&["exec", "pz", "true"])?.ok()?;
    world.docker(&["rm", "-f", "pz"])?.ok()?;
    Ok(())
}

fn rename(world: &World) -> Result<()> {
    world
        .docker(&["create", "--name", "old", IMAGE, "true"])?
        .ok()?;
    world.docker(&["rename", "old", "new"])?.ok()?;
    world
        .docker(&["create", "--name", "old", IMAGE, "true"])?
        .ok()?;
    world
        .docker(&["rename", "old", "new"])?
        .fails_with(1, "is already in use by container")?;
    world.docker(&["rm", "old", "new"])?.ok()?;
    Ok(())
}

fn wait(world: &World) -> Result<()> {
    world
        .docker(&[
            "run", "-d", "--name", "waited", "-i", IMAGE, "sh", "-c", "exit 3",
        ])?
        .ok()?;
    ensure!(world.docker(&["wait", "waited"])?.ok()? == "3");
    ensure!(world.docker(&["wait", "waited"])?.ok()? == "3");
    world.docker(&["rm", "waited"])?.ok()?;
    Ok(())
}

fn filters(world: &World) -> Result<()> {
    world
        .docker(&[
            "run", "--name", "f-one", "--label", "kind=a", IMAGE, "sh", "-c", "exit 2",
        ])?
        .exits(2)?;
    world
        .docker(&[
            "create", "--name", "f-two", "--label", "kind=b", IMAGE, "true",
        ])?
        .ok()?;
    let names = |filter: &[&str]| -> Result<String> {
        let mut args = vec!["ps", "-a", "--format", "{{.Names}}", "--filter", "name=f-"];
        for f in filter {
            args.extend(["--filter", f]);
        }
        world.docker(&args)?.ok()
    };
    ensure!(names(&[])? == "f-two\nf-one");
    ensure!(names(&["label=kind=a"])? == "f-one");
    ensure!(names(&["status=created"])? == "f-two");
    ensure!(names(&["exited=2"])? == "f-one");
    ensure!(names(&["since=f-one"])? == "f-two");
    ensure!(names(&["label=kind=nosuch"])?.is_empty());
    world.docker(&["rm", "f-one", "f-two"])?.ok()?;
    Ok(())
}

fn logs(world: &World) -> Result<()> {
    let script = "for i in 1 2 3 4 5; do echo out $i; done; echo err >&2; printf partial";
    world
        .docker(&["run", "--name", "lg", IMAGE, "sh", "-c", script])?
        .ok()?;
    let ran = world.docker(&["logs", "lg"])?;
    ensure!(
        ran.stdout == "out 1\nout 2\nout 3\nout 4\nout 5\npartial" && ran.stderr == "err\n",
        "{ran:?}"
    );
    let tail = world.docker(&["logs", "--tail", "2", "lg"])?;
    ensure!(
        tail.stdout.lines().count() + tail.stderr.lines().count() == 2,
        "{tail:?}"
    );
    let stamped = world.docker(&["logs", "-t", "--tail", "all", "lg"])?.ok()?;
    let first = stamped.lines().next().context("no line")?;
    ensure!(
        first.len() > 31 && first.ends_with("Z out 1") && first.as_bytes().get(10) == Some(&b'T'),
        "{first}"
    );
    ensure!(
        world
            .docker(&["logs", "--since", "2100-01-01T00:00:00Z", "lg"])?
            .ok()?
            .is_empty()
    );
    ensure!(
        world
            .docker(&["logs", "--until", "2001-01-01T00:00:00Z", "lg"])?
            .ok()?
            .is_empty()
    );
    world.docker(&["rm", "lg"])?.ok()?;
    Ok(())
}

fn follow(world: &World) -> Result<()> {
    world
        .docker(&[
            "run",
            "-d",
            "--name",
            "fl",
            IMAGE,
            "sh",
            "-c",
            "seq 1 20000",
        ])?
        .ok()?;
    let out = world.docker(&["logs", "-f", "fl"])?.ok()?;
    let expected: Vec<String> = (1..=20000).map(|i| i.to_string()).collect();
    ensure!(
        out.lines().eq(expected.iter().map(String::as_str)),
        "{} lines",
        out.lines().count()
    );
    world.docker(&["rm", "fl"])?.ok()?;
    Ok(())
}

fn slow_follower(world: &World) -> Result<()> {
    const LINE: &str = "a line that is neither short nor long, as programs write them";
    const LINES: usize = 1_000_000;
    let simulator = host::simulator(world.state())?.pid;
    let memory = || -> Result<usize> {
        let family = host::descendants(simulator)?;
        let vch = family.iter().find(|p| p.command.contains("vch --config"));
        let pid = vch.context("no vch runs in the appliance")?.pid;
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let pages: usize = statm.split(' ').nth(1).context("statm")?.parse()?;
        Ok(pages * 4096)
    };
    let script = format!("read go; yes '{LINE}' | head -n {LINES}");
    world
        .docker(&[
            "run", "-d", "-i", "--name", "sf", IMAGE, "sh", "-c", &script,
        ])?
        .ok()?;
    let mut follower = world.docker_spawn(&["logs", "-f", "sf"])?;
    let before = memory()?;
    // Nobody reads what the follower prints until the container has written everything.
    world.docker_with(&["attach", "--sig-proxy=false", "sf"], b"go\n")?;
    world.docker(&["wait", "sf"])?.ok()?;
    let grown = memory()?.saturating_sub(before);
    let output = BufReader::new(follower.stdout.take().context("stdout")?);
    let mut lines = 0;
    for line in output.lines() {
        ensure!(line? == LINE, "line {lines} is another");
        lines += 1;
    }
    system_tests::run::wait(&mut follower, Duration::from_secs(10))?;
    ensure!(lines == LINES, "{lines} lines of {LINES}");
    ensure!(grown < LINES * LINE.len() / 2, "vch grew by {grown} bytes");
    world.docker(&["rm", "sf"])?.ok()?;
    Ok(())
}

fn restart_events(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "re", IMAGE, "sleep", "1000"])?
        .ok()?;
    world.docker(&["restart", "-t", "0", "re"])?.ok()?;
    world.docker(&["rm", "-f", "re"])?.ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let until = (now.as_secs() + 1).to_string();
    let mut args = vec!["events", "--since", "60s", "--until", &until];
    args.extend(["--filter", "container=re", "--format", "{{.Action}}"]);
    let out = world.docker(&args)?.ok()?;
    let order: Vec<&str> = out.lines().filter(|a| *a != "kill").collect();
    ensure!(
        order[..6] == ["create", "start", "die", "stop", "start", "restart"],
        "{out}"
    );
    Ok(())
}

fn events(world: &World) -> Result<()> {
    world
        .docker(&["run", "--rm", "--name", "ev", IMAGE, "true"])?
        .ok()?;
    // Whole seconds are what the CLI makes of a duration, so the end lies a second ahead.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let until = (now.as_secs() + 1).to_string();
    let args = [
        "events",
        "--since",
        "60s",
        "--until",
        &until,
        "--filter",
        "container=ev",
        "--format",
        "{{.Action}}",
    ];
    let out = world.docker(&args)?.ok()?;
    let order: Vec<&str> = out
        .lines()
        .filter(|a| ["create", "attach", "start", "die", "destroy"].contains(a))
        .collect();
    ensure!(
        order == ["create", "attach", "start", "die", "destroy"],
        "{out}"
    );
    Ok(())
}

fn attach(world: &World) -> Result<()> {
    world
        .docker(&[
            "run",
            "-d",
            "-i",
            "--name",
            "at",
            IMAGE,
            "sh",
            "-c",
            "read a; echo got $a; read b; echo got $b",
        ])?
        .ok()?;
    let mut child = world.docker_spawn(&["attach", "at"])?;
    let mut input = child.stdin.take().context("stdin")?;
    let mut output = BufReader::new(child.stdout.take().context("stdout")?);
    input.write_all(b"first\n")?;
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "got first\n", "{line:?}");
    input.write_all(b"second\n")?;
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    ensure!(rest == "got second\n", "{rest:?}");
    system_tests::run::wait(&mut child, Duration::from_secs(10))?;
    world.docker(&["rm", "at"])?.ok()?;
    Ok(())
}

fn top(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "tp", IMAGE, "sleep", "1234"])?
        .ok()?;
    let out = world.docker(&["top", "tp"])?.ok()?;
    ensure!(out.contains("PID") && out.contains("sleep 1234"), "{out}");
    world.docker(&["rm", "-f", "tp"])?.ok()?;
    Ok(())
}

fn tty(world: &World) -> Result<()> {
    // `script` gives the CLI the terminal that -t asks for.
    let mut command = std::process::Command::new("script");
    let line = "docker run --rm -it busybox:test sh -c 'test -t 0 && test -t 1 && echo a terminal'";
    let docker = world.docker_command();
    command.envs(docker.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.args(["-qec", line, "/dev/null"]);
    let out = system_tests::run::run(&mut command, b"")?.ok()?;
    ensure!(out.contains("a terminal\r"), "{out:?}");
    Ok(())
}

fn init(world: &World) -> Result<()> {
    let out = world
        .docker(&[
            "run",
            "--rm",
            "--init",
            IMAGE,
            "sh",
            "-c",
            "echo $$; (sleep 0.1 &) ; sleep 0.3; ps | grep -c '[Z]ombie' || true",
        ])?
        .ok()?;
    ensure!(!out.starts_with("1\n"), "{out:?}");
    Ok(())
}

fn rm_force(world: &World) -> Result<()> {
    world
        .docker(&["run", "-d", "--name", "rf", IMAGE, "sleep", "1000"])?
        .ok()?;
    world
        .docker(&["rm", "rf"])?
        .fails_with(1, "container is running")?;
    world.docker(&["rm", "-f", "rf"])?.ok()?;
    world.docker(&["inspect", "rf"])?.exits(1)?;
    Ok(())
}
