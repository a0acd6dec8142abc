//! The docker CLI against a VCH on the simulator's namespace engine.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use system_tests::world::{Options, World};

#[path = "docker/both_sides.rs"]
mod both_sides;
#[path = "docker/escape.rs"]
mod escape;
#[path = "docker/exec.rs"]
mod exec;
#[path = "docker/images.rs"]
mod images;
#[path = "docker/lifecycle.rs"]
mod lifecycle;
#[path = "docker/run.rs"]
mod run;
#[path = "docker/volumes.rs"]
mod volumes;
#[path = "docker/wrong.rs"]
mod wrong;

type Test = fn(&World) -> anyhow::Result<()>;

/// Tests of promises that are not kept yet; their rows of features.toml say `missing`.
const NOT_YET: &[&str] = &["a_vm_renamed_in_vsphere_keeps_its_container"];

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
        wrong::TESTS,
    ]
    .concat();
    if arguments.list {
        return trials(&tests, None, &arguments);
    }
    match World::start(Options::default()) {
        Ok(world) => trials(&tests, Some(Arc::new(world)), &arguments),
        Err(error) => {
            eprintln!("the world did not start: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn trials(tests: &[(&str, Test)], world: Option<Arc<World>>, arguments: &Arguments) -> ExitCode {
    let trials = tests
        .iter()
        .map(|&(name, test)| {
            let world = world.clone();
            Trial::test(name, move || match &world {
                Some(world) => test(world).map_err(|e| Failed::from(format!("{e:?}"))),
                None => Ok(()),
            })
            .with_ignored_flag(NOT_YET.contains(&name))
        })
        .collect();
    libtest_mimic::run(arguments, trials).exit_code()
}
