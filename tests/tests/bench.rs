//! What the project promises of its speed, against Debian's dockerd in the same run, and of the calls of a run.
//!
//! The figures are taken once; each test looks at its own. The samples are fewer than those of `cargo xtask bench`,
//! the ratios that they have to reach are the same.

use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use system_tests::bench::{Figure, Plan, measure, table};
use system_tests::timeline::Timeline;

type Test = fn() -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("run_rm_is_no_slower_than_dockerds", || met(&["run --rm"])),
    ("ps_with_500_containers_is_no_slower_than_dockerds", || {
        met(&["ps -a"])
    }),
    ("attach_logs_and_pull_reach_half_of_dockerds_speed", || {
        met(&["attach", "logs", "pull"])
    }),
    ("the_bench_takes_every_figure_of_both_engines", every_figure),
    (
        "the_timeline_of_a_run_has_every_step_and_no_call_too_many",
        timeline,
    ),
];

const PLAN: Plan = Plan {
    repetitions: 7,
    containers: 500,
    streams: 3,
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // What runs beside a measurement is measured with it.
    arguments.test_threads = Some(1);
    let trials = TESTS
        .iter()
        .map(|&(name, test)| {
            Trial::test(name, move || {
                test().map_err(|e| Failed::from(format!("{e:?}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(figures)) = FIGURES.get() {
        println!("{}", table(figures));
    }
    conclusion.exit_code()
}

/// Taken by the test that comes first.
static FIGURES: OnceLock<Result<Vec<Figure>, String>> = OnceLock::new();

fn figures() -> Result<&'static [Figure]> {
    FIGURES
        .get_or_init(|| {
            measure(PLAN, &mut |_| ())
                .map(|(_, figures)| figures)
                .map_err(|e| format!("{e:?}"))
        })
        .as_deref()
        .map_err(|e| anyhow!("{e}"))
}

fn met(names: &[&str]) -> Result<()> {
    for name in names {
        let figure = figures()?
            .iter()
            .find(|f| f.name == *name)
            .ok_or_else(|| anyhow!("{name} is not measured"))?;
        ensure!(figure.met(), "{figure:?}: ratio {:.2}", figure.ratio());
    }
    Ok(())
}

fn every_figure() -> Result<()> {
    let figures = figures()?;
    let names: Vec<_> = figures.iter().map(|f| f.name).collect();
    ensure!(
        names
            == [
                "run --rm",
                "run --rm --network none",
                "start",
                "exec",
                "logs",
                "attach",
                "pull",
                "ps -a"
            ],
        "{names:?}"
    );
    for figure in figures {
        let real = |v: f64| v.is_finite() && v > 0.0;
        ensure!(real(figure.ours) && real(figure.theirs), "{figure:?}");
    }
    Ok(())
}

/// A run is one CreateVM_Task, one PowerOnVM_Task, one Destroy_Task and nothing in between but the watch.
fn timeline() -> Result<()> {
    let line = Timeline::of_one_run()?;
    let sum: std::time::Duration = line.steps.iter().map(|s| s.length).sum();
    ensure!(
        line.steps.len() == 9 && sum == line.total,
        "{}",
        line.show()
    );
    for (method, count) in &line.calls {
        let most = match method.as_str() {
            "CreateVM_Task" | "PowerOnVM_Task" | "Destroy_Task" => 1,
            // One for each task that is waited for joins the standing filter and leaves it with the next.
            "ModifyListView" => 6,
            // The watch answers when something has changed: how often depends on what comes together.
            "WaitForUpdatesEx" => 40,
            _ => 0,
        };
        ensure!(*count <= most, "{method}: {count} calls, {most} allowed");
    }
    for method in ["CreateVM_Task", "PowerOnVM_Task", "Destroy_Task"] {
        ensure!(line.calls.contains_key(method), "{method}: no call");
    }
    Ok(())
}
