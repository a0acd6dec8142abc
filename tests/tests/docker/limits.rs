//! What a container may use and how long it may take to stop: seen in inspect, in the VM and in the guest's cgroup.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::host;
use system_tests::pyvmomi::{NEWEST, Pyvmomi};
use system_tests::world::World;

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    ("memory_is_the_vm_s_and_cannot_be_exceeded", memory),
    ("cpus_are_a_limit_of_the_vm_and_of_its_guest", cpus),
    (
        "a_long_stop_timeout_lets_a_process_end_by_itself",
        long_stop,
    ),
    (
        "a_short_stop_timeout_kills_a_process_that_does_not_end",
        short_stop,
    ),
    ("info_tells_the_pool_s_cpus_and_memory", info),
];

const IMAGE: &str = "busybox:test";

fn memory(world: &World) -> Result<()> {
    let script = "head -c 200m /dev/zero | tail >/dev/null; echo $?; exec sleep 1000";
    world
        .docker(&[
            "run", "-d", "-m", "64m", "--name", "mem", IMAGE, "sh", "-c", script,
        ])?
        .ok()?;
    let vm = Pyvmomi::install(NEWEST)?.vm(world, "props", "mem", None)?;
    ensure!(vm["memoryMB"] == 64, "{}", vm["memoryMB"]);
    let asked = inspect(world, "mem", "{{.HostConfig.Memory}}")?;
    ensure!(asked == "67108864", "{asked}");
    world.docker(&["rm", "-f", "mem"])?.ok()?;
    let args = [
        "run",
        "--rm",
        "-m",
        "64m",
        IMAGE,
        "sh",
        "-c",
        "head -c 200m /dev/zero | tail",
    ];
    let ran = world.docker(&args)?;
    ensure!(ran.code() != 0, "200 MB fitted into 64: {ran:?}");
    Ok(())
}

fn inspect(world: &World, name: &str, format: &str) -> Result<String> {
    world.docker(&["inspect", "-f", format, name])?.ok()
}

fn cpus(world: &World) -> Result<()> {
    let args = [
        "run",
        "-d",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--name",
        "half",
    ];
    world
        .docker(&[&args[..], &[IMAGE, "sleep", "77331"]].concat())?
        .ok()?;
    let asked = inspect(
        world,
        "half",
        "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}}",
    )?;
    ensure!(asked == "500000000 512", "{asked}");
    let vm = Pyvmomi::install(NEWEST)?.vm(world, "props", "half", None)?;
    // A CPU of the simulated host has 2400 MHz; docker's 1024 shares are vSphere's 1000 a CPU.
    ensure!(
        vm["numCPU"] == 1 && vm["cpuLimitMHz"] == 1200 && vm["cpuShares"] == 500,
        "{vm}"
    );
    let simulator = host::simulator(world.state())?.pid;
    let inside = host::descendants(simulator)?;
    let inside = inside.iter().find(|p| p.command.trim() == "sleep 77331");
    let share = cpu_share(inside.context("the container's process")?.pid)?;
    ensure!(share == Some(0.5), "{share:?}");
    world.docker(&["rm", "-f", "half"])?.ok()?;
    Ok(())
}

/// The smallest share of a CPU that a process's cgroups allow; none: no limit.
fn cpu_share(pid: u32) -> Result<Option<f64>> {
    let mut least = None;
    for line in std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next(), fields.next());
        let (controllers, path) = (controllers.context("line")?, path.context("line")?);
        let Some(root) = hierarchy(controllers)? else {
            continue;
        };
        let mut dir = root.join(path.trim_start_matches('/'));
        while dir.starts_with(&root) {
            if let Some(share) = share_of(&dir) {
                least = Some(least.map_or(share, |l: f64| l.min(share)));
            }
            dir.pop();
        }
    }
    Ok(least)
}

/// Where the hierarchy that counts CPU time is mounted: the unified one has no name.
fn hierarchy(controllers: &str) -> Result<Option<PathBuf>> {
    let has_cpu = controllers.split(',').any(|c| c == "cpu");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let fits = match *fields.get(2)? {
            "cgroup2" => controllers.is_empty(),
            "cgroup" => has_cpu && fields.get(3)?.split(',').any(|o| o == "cpu"),
            _ => false,
        };
        fits.then(|| PathBuf::from(fields[1]))
    });
    Ok(found)
}

fn share_of(dir: &Path) -> Option<f64> {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(max) => {
            let (quota, period) = max.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (quota > 0.0).then_some(quota / period)
}

fn long_stop(world: &World) -> Result<()> {
    // Longer than docker's 10 seconds: only the container's own time-out lets it end by itself.
    let script = "trap 'sleep 12; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    world
        .docker(&[
            "run",
            "-d",
            "--stop-timeout",
            "50",
            "--name",
            "long",
            IMAGE,
            "sh",
            "-c",
            script,
        ])?
        .ok()?;
    super::lifecycle::until_logged(world, "long", "ready")?;
    ensure!(inspect(world, "long", "{{.Config.StopTimeout}}")? == "50");
    world.docker(&["stop", "long"])?.ok()?;
    let code = inspect(world, "long", "{{.State.ExitCode}}")?;
    ensure!(code == "3", "exit code {code}");
    world.docker(&["rm", "long"])?.ok()?;
    Ok(())
}

fn short_stop(world: &World) -> Result<()> {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    world
        .docker(&[
            "run",
            "-d",
            "--stop-timeout",
            "1",
            "--name",
            "short",
            IMAGE,
            "sh",
            "-c",
            script,
        ])?
        .ok()?;
    super::lifecycle::until_logged(world, "short", "ready")?;
    let begun = Instant::now();
    world.docker(&["stop", "short"])?.ok()?;
    let took = begun.elapsed();
    // Docker's own time-out is 10 seconds.
    ensure!(took < Duration::from_secs(10), "stop took {took:?}");
    let code = inspect(world, "short", "{{.State.ExitCode}}")?;
    ensure!(code == "137", "exit code {code}");
    world.docker(&["rm", "short"])?.ok()?;
    Ok(())
}

fn info(world: &World) -> Result<()> {
    let said = world
        .docker(&[
            "info",
            "--format",
            "{{.NCPU}} {{.MemTotal}} {{.OperatingSystem}} / {{.KernelVersion}}",
        ])?
        .ok()?;
    // The simulated host has what this machine has.
    let cpus = std::thread::available_parallelism()?.get();
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let memory: u64 = meminfo
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .context("MemTotal")?;
    let wanted = format!("{cpus} {} VMware ESXi ", memory << 10);
    ensure!(said.starts_with(&wanted), "{said:?} instead of {wanted:?}");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(said.ends_with(&format!("/ {}", kernel.trim())), "{said:?}");
    // One more CPU than there is cannot be had.
    let more = (cpus + 1).to_string();
    world
        .docker(&["create", "--cpus", &more, IMAGE, "true"])?
        .fails_with(1, &format!("as there are only {cpus} CPUs available"))
}
