//! `docker exec`: streams, identity, exit codes, many at once.

use anyhow::{Context, Result, ensure};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("exec_prints_and_gives_the_exit_code", exit_code),
    ("exec_i_passes_standard_input_and_its_end", stdin),
    ("exec_honours_user_workdir_and_env", identity),
    ("exec_of_a_missing_program_exits_127", missing),
    ("exec_makes_no_working_directory_and_no_user", makes_nothing),
    ("exec_d_runs_in_the_background", detached),
    ("thirty_execs_at_once_keep_their_output_apart", many),
    ("exec_on_a_stopped_container_is_refused", stopped),
    ("a_megabyte_passes_through_exec_unharmed", megabyte),
];

const IMAGE: &str = "busybox:test";

/// A running container that goes when the test is over.
struct Running<'a> {
    world: &'a World,
    name: &'static str,
}

impl<'a> Running<'a> {
    fn start(world: &'a World, name: &'static str) -> Result<Self> {
        world
            .docker(&["run", "-d", "--name", name, IMAGE, "sleep", "1000"])?
            .ok()?;
        Ok(Self { world, name })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        drop(self.world.docker(&["rm", "-f", self.name]));
    }
}

fn exit_code(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec1")?;
    let out = world
        .docker(&["exec", "exec1", "sh", "-c", "echo in; exit 9"])?
        .exits(9)?;
    ensure!(out == "in", "{out:?}");
    Ok(())
}

fn stdin(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec2")?;
    let out = world
        .docker_with(&["exec", "-i", "exec2", "wc", "-c"], &[b'x'; 1000])?
        .ok()?;
    ensure!(out.trim() == "1000", "{out:?}");
    Ok(())
}

fn makes_nothing(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec-nothing")?;
    let ran = world.docker(&["exec", "-w", "/no/such", "exec-nothing", "true"])?;
    let text = "chdir to cwd (\"/no/such\") set in config.json failed: no such file or directory";
    ensure!(ran.code() == 127 && ran.stdout.contains(text), "{ran:?}");
    world
        .docker(&["exec", "exec-nothing", "test", "-e", "/no"])?
        .exits(1)?;
    let ran = world.docker(&["exec", "-u", "nobody-here", "exec-nothing", "true"])?;
    let text = "unable to find user nobody-here";
    ensure!(ran.code() == 126 && ran.stdout.contains(text), "{ran:?}");
    Ok(())
}

fn identity(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec3")?;
    let out = world
        .docker(&[
            "exec",
            "-u",
            "alice",
            "-w",
            "/var",
            "-e",
            "B=2",
            "exec3",
            "sh",
            "-c",
            "id -un; pwd; echo $B",
        ])?
        .ok()?;
    ensure!(out == "alice\n/var\n2", "{out:?}");
    Ok(())
}

fn missing(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec4")?;
    let ran = world.docker(&["exec", "exec4", "nosuch"])?;
    ensure!(
        ran.code() == 127
            && (ran.stdout.clone() + &ran.stderr).contains("executable file not found"),
        "{ran:?}"
    );
    Ok(())
}

fn detached(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec5")?;
    world
        .docker(&[
            "exec",
            "-d",
            "exec5",
            "sh",
            "-c",
            "mkfifo /tmp/f; echo done > /tmp/f",
        ])?
        .ok()?;
    let out = world
        .docker(&[
            "exec",
            "exec5",
            "sh",
            "-c",
            "while [ ! -p /tmp/f ]; do :; done; cat /tmp/f",
        ])?
        .ok()?;
    ensure!(out == "done", "{out:?}");
    Ok(())
}

fn many(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec6")?;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..30)
            .map(|i| {
                scope.spawn(move || {
                    let text = format!("exec number {i}");
                    let out = world
                        .docker_with(&["exec", "-i", "exec6", "cat"], text.as_bytes())?
                        .ok()?;
                    ensure!(out == text, "{out:?} instead of {text:?}");
                    Ok(())
                })
            })
            .collect();
        runs.into_iter()
            .try_for_each(|r| r.join().ok().context("panicked")?)
    })
}

fn stopped(world: &World) -> Result<()> {
    world
        .docker(&["create", "--name", "exec7", IMAGE, "true"])?
        .ok()?;
    world
        .docker(&["exec", "exec7", "true"])?
        .fails_with(1, "is not running")?;
    world.docker(&["rm", "exec7"])?.ok()?;
    Ok(())
}

fn megabyte(world: &World) -> Result<()> {
    let _c = Running::start(world, "exec8")?;
    let text: Vec<u8> = (0..200_000_u32)
        .flat_map(|i| format!("{i}\n").into_bytes())
        .collect();
    let out = world.docker_with(&["exec", "-i", "exec8", "cat"], &text)?;
    ensure!(
        out.code() == 0 && out.stdout.as_bytes() == text,
        "{} bytes came back of {}",
        out.stdout.len(),
        text.len()
    );
    Ok(())
}
