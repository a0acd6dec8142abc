//! `vic-machine`: installs, lists, inspects and deletes virtual container hosts (VCHs).
//!
//! ```text
//! cli        options, old names            plan      what create will make, from the options alone
//! target     which vSphere, who logs in    session   a logged-in client; finding things in the inventory
//! tls        certificates                  validate  what must hold before anything is made
//! interrupt  Ctrl-C                        show      what is said at the end
//! create     makes a VCH                   delete, ls, inspect
//! up, down, env                            the same on the built-in simulator
//! ```
//! Every failure ends with exit code 1 and one line that says what failed.

mod cli;
mod create;
mod delete;
mod failure;
mod inspect;
mod interrupt;
mod inventory;
mod known_hosts;
mod log;
mod ls;
mod name;
mod plan;
mod session;
mod show;
mod target;
mod tls;
mod up;
mod validate;
mod vch;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use tracing::{error, warn};

use crate::cli::{Cli, Command, legacy};
use crate::failure::{Chain, Failure};

/// The version, as it stands in ISOs and in VCHs too.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let modern = legacy::modernise(std::env::args());
    let program = modern
        .args
        .first()
        .and_then(|path| Path::new(path).file_name())
        .map_or_else(
            || "vic-machine".into(),
            |name| name.to_string_lossy().into_owned(),
        );
    let command = match parse(&program, &modern.args) {
        Ok(command) => command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let console = if matches!(command, Command::Env(_)) {
        log::Console::Error
    } else {
        log::Console::Output
    };
    let file = if matches!(command, Command::Env(_) | Command::Version) {
        "/dev/null"
    } else {
        log::FILE
    };
    let kept = log::start(console, command.debug(), Path::new(file));
    for warning in &modern.warnings {
        warn!("{warning}");
    }
    let name = command.name();
    match run(command, !modern.warnings.is_empty(), kept) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("--------------------");
            error!("{program} {name} failed: {}", Chain(&failure));
            ExitCode::FAILURE
        }
    }
}

fn parse(program: &str, args: &[String]) -> Result<Command, clap::Error> {
    // clap wants names that live as long as the program, as this one does.
    let own: &'static str = Box::leak(program.to_owned().into_boxed_str());
    let mut command = Cli::command().name(own).bin_name(own);
    for (name, about) in titles() {
        let title = format!("{program} {name} - {about}");
        command = command.mut_subcommand(name, |sub| sub.before_help(title));
    }
    let mut matches = command.try_get_matches_from(args)?;
    Ok(Cli::from_arg_matches_mut(&mut matches)?.command)
}

/// The commands and what each does, in a few words.
fn titles() -> Vec<(String, String)> {
    let command = Cli::command();
    let about = |sub: &clap::Command| sub.get_about().map(ToString::to_string).unwrap_or_default();
    command
        .get_subcommands()
        .map(|sub| (sub.get_name().to_owned(), about(sub)))
        .collect()
}

fn run(command: Command, legacy: bool, kept: log::Kept) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", error))?;
    runtime.block_on(async {
        match command {
            Command::Create(mut args) => {
                args.legacy = legacy;
                create::run(*args, &kept).await
            }
            Command::Delete(args) => delete::run(args).await,
            Command::Ls(args) => ls::run(args).await,
            Command::Inspect(args) => inspect::run(args).await,
            Command::Version => {
                println!("vic-machine version {VERSION}");
                Ok(())
            }
            Command::Up(args) => up::run(*args, &kept).await,
            Command::Down(args) => up::halt::run(args).await,
            Command::Env(args) => up::halt::environment(&args),
        }
    })
}
