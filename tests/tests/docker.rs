//! The docker CLI against a VCH on the simulator's namespace engine.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use plain::Plain;
use system_tests::world::{Options, World};

#[path = "docker/admin.rs"]
mod admin;
#[path = "docker/both_sides.rs"]
mod both_sides;
#[path = "docker/clients.rs"]
mod clients;
#[path = "docker/disks.rs"]
mod disks;
#[path = "docker/escape.rs"]
mod escape;
#[path = "docker/exec.rs"]
mod exec;
#[path = "docker/images.rs"]
mod images;
#[path = "docker/inspect.rs"]
mod inspect;
#[path = "docker/layers.rs"]
mod layers;
#[path = "docker/lifecycle.rs"]
mod lifecycle;
#[path = "docker/limits.rs"]
mod limits;
#[path = "docker/plain.rs"]
mod plain;
#[path = "docker/processes.rs"]
mod processes;
#[path = "docker/run.rs"]
mod run;
#[path = "docker/terminal.rs"]
mod terminal;
#[path = "docker/volumes.rs"]
mod volumes;
#[path = "docker/wrong.rs"]
mod wrong;

/// A test on some place.
type TestOn<P> = fn(&P) -> anyhow::Result<()>;

type Test = TestOn<World>;

/// A test against a VCH without TLS, which is there beside the world's.
type PlainTest = TestOn<Plain>;

/// Tests of promises that are not kept yet; their rows of features.toml say `missing`.
const NOT_YET: &[&str] = &[];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests: Vec<(&str, Test)> = [
        run::TESTS,
        lifecycle::TESTS,
        exec::TESTS,
        images::TESTS,
        volumes::TESTS,
        both_sides::TESTS,
        escape::TESTS,
        disks::TESTS,
        admin::TESTS,
        limits::TESTS,
        layers::TESTS,
        processes::TESTS,
        terminal::TESTS,
        inspect::TESTS,
        clients::TESTS,
    ]
    .concat();
    let plain: Vec<(&str, PlainTest)> = [plain::TESTS, wrong::TESTS].concat();
    if arguments.list {
        return run_all(trials(&tests, None), trials(&plain, None), &arguments);
    }
    let options = Options {
        closed_registry: true,
        ..Options::default()
    };
    match World::start(options) {
        Ok(world) => {
            let beside = Some(Arc::new(Plain::default()));
            let plain = trials(&plain, beside);
            run_all(trials(&tests, Some(Arc::new(world))), plain, &arguments)
        }
        Err(error) => {
            eprintln!("the world did not start: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both kinds, the few long ones first.
fn run_all(tests: Vec<Trial>, mut plain: Vec<Trial>, arguments: &Arguments) -> ExitCode {
    plain.extend(tests);
    libtest_mimic::run(arguments, plain).exit_code()
}

/// One trial for each test on `place`; without one, only their names matter.
fn trials<P: Send + Sync + 'static>(
    tests: &[(&str, TestOn<P>)],
    place: Option<Arc<P>>,
) -> Vec<Trial> {
    tests
        .iter()
        .map(|&(name, test)| {
            let place = place.clone();
            Trial::test(name, move || match &place {
                Some(place) => test(place).map_err(|e| Failed::from(format!("{e:?}"))),
                None => Ok(()),
            })
            .with_ignored_flag(NOT_YET.contains(&name))
        })
        .collect()
}
