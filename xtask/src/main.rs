//! Every chore of the project; continuous integration calls the same commands as a developer does.

mod features;
mod fuzz;
mod generate;
mod image;
mod lint;
mod setup;
mod test;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the project")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Builds everything and starts a virtual container host on the built-in simulator
    Up {
        /// Arguments for `vic-machine up`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds the static programs, the ISOs, vic-sim and vic-machine (release)
    Build,
    /// Installs what building and testing need (Debian packages, the musl target)
    Setup {
        /// Install what only the tests need as well
        #[arg(long)]
        tests: bool,
    },
    /// Builds and runs every test, then checks tests/features.toml against what ran
    Test {
        /// Only tests whose package is named (repeatable); the feature check is left out
        #[arg(short, long)]
        package: Vec<String>,
    },
    /// Measures ours against Debian's dockerd and prints the ratios
    Bench {
        /// Repetitions of each figure, then the number of containers for `ps`
        args: Vec<String>,
    },
    /// Kills actors at random during a workload, in-process, and compares everything with a model
    Chaos {
        /// How many kills
        #[arg(long, default_value_t = 2000)]
        kills: u64,
        /// Which; any, if not given: it is printed
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Feeds the parsers of foreign bytes with what libFuzzer makes up; needs cargo-fuzz
    Fuzz {
        /// Which target; each of them, if not given
        target: Option<String>,
        /// For how long each
        #[arg(long, default_value_t = 90)]
        seconds: u64,
    },
    /// Shows where the time of one `docker run --rm busybox true` goes
    Timeline,
    /// Checks the rules that the compiler does not: dependency direction, file headers, words
    Lint,
    /// Prints the table of features and writes docs/FEATURES.md
    Features {
        /// Fail if docs/FEATURES.md is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Remakes the vSphere types from the API model
    Generate {
        /// Fail if the checked-in types are not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Refreshes iso/appliance.lock: the distribution packages inside the appliance
    LockAppliance,
}

fn main() -> Result<()> {
    match Cli::parse().chore {
        Chore::Up { args } => up(&args),
        Chore::Build => build(),
        Chore::Setup { tests } => setup::install(tests),
        Chore::Test { package } => test::run(&package),
        Chore::Bench { args } => system("bench", &args),
        Chore::Chaos { kills, seed } => chaos(kills, seed),
        Chore::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Chore::Timeline => system("timeline", &[]),
        Chore::Lint => lint::run(),
        Chore::Features { check } => features::run(check),
        Chore::Generate { check: true } => generate::check(),
        Chore::Generate { check: false } => generate::run(),
        Chore::LockAppliance => image::lock(),
    }
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds what a user runs: the static guests' programs, the ISOs, the simulator, the installer.
pub(crate) fn build() -> Result<()> {
    setup::install(false)?;
    run(Command::new("cargo")
        .args([
            "build",
            "--release",
            "--package",
            "vic-machine",
            "--package",
            "simulator",
        ])
        .current_dir(root()))?;
    image::build_isos()
}

/// Runs a program of the system tests' crate on a release build.
fn system(program: &str, args: &[String]) -> Result<()> {
    setup::install(true)?;
    build()?;
    let cargo = [
        "run",
        "--release",
        "--package",
        "system-tests",
        "--bin",
        program,
        "--",
    ];
    run(Command::new("cargo")
        .args(cargo)
        .args(args)
        .current_dir(root()))
}

fn up(args: &[String]) -> Result<()> {
    build()?;
    let program = root().join("target/release/vic-machine");
    use std::os::unix::process::CommandExt;
    let error = Command::new(&program).arg("up").args(args).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

fn chaos(kills: u64, seed: Option<u64>) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["test", "--package", "actors", "--test", "life"])
        .args(["--", "--nocapture", "chaos::"])
        .env("CHAOS_KILLS", kills.to_string())
        .current_dir(root());
    if let Some(seed) = seed {
        command.env("CHAOS_SEED", seed.to_string());
    }
    run(&mut command)
}

/// Runs a command to its end and fails with its command line when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
