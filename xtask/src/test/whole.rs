//! What only the whole run can show: that nothing was left out, and that it was quick enough.
//!
//! Both are verdicts like those of tests, under `whole_run::…`, and fail the run like them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Outcome;

/// What `.ci/run` may take, from its first line to the last test.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// The variable in which `.ci/run` says when it began, in seconds since 1970.
const BEGAN: &str = "CI_RUN_BEGAN";

/// Counts from the beginning of `.ci/run`, or of this process where that does not run.
pub(super) struct Clock {
    started: Instant,
    before: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let began = std::env::var(BEGAN).ok();
        Self {
            started: Instant::now(),
            before: before(now, began.as_deref()),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.before + self.started.elapsed()
    }
}

/// How long ago `.ci/run` began.
fn before(now: Duration, began: Option<&str>) -> Duration {
    began
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs)
        .and_then(|began| now.checked_sub(began))
        .unwrap_or_default()
}

/// Adds the verdicts on the whole to those of the tests.
pub(super) fn check(outcome: &mut Outcome, programs: &BTreeSet<String>, took: Duration) {
    let absent: Vec<&str> = programs
        .iter()
        .filter(|name| !outcome.programs.contains_key(*name))
        .map(String::as_str)
        .collect();
    let all_ran = if absent.is_empty() {
        Ok(format!("{} programs", programs.len()))
    } else {
        Err(format!("did not run: {}", absent.join(", ")))
    };
    let minutes = |time: Duration| time.as_secs().div_ceil(60);
    let told = format!("{} of at most {} minutes", minutes(took), minutes(LIMIT));
    let in_time = if took <= LIMIT { Ok(told) } else { Err(told) };
    for (name, verdict) in [
        ("every_test_program_of_the_workspace_ran", all_ran),
        ("it_took_at_most_45_minutes", in_time),
    ] {
        let name = format!("whole_run::{name}");
        match verdict {
            Ok(told) => {
                println!("test {name} ... ok ({told})");
                outcome.passed.insert(name);
            }
            Err(told) => {
                println!("test {name} ... FAILED ({told})");
                outcome.failed.insert(name, told);
            }
        }
    }
}

/// The names of all test programs of the workspace, as their files are called.
pub(super) fn programs() -> Result<BTreeSet<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(crate::root())
        .output()
        .context("starting cargo metadata")?;
    let metadata = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    Ok(programs_of(&metadata))
}

fn programs_of(metadata: &Value) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = BTreeMap::new();
    for target in list(&metadata["packages"])
        .iter()
        .flat_map(|package| list(&package["targets"]))
    {
        let tested = target["test"].as_bool() == Some(true)
            && list(&target["required-features"]).is_empty()
            && !list(&target["kind"]).contains(&"custom-build".into());
        if let (true, Some(name)) = (tested, target["name"].as_str()) {
            all.insert(name.replace('-', "_"), ());
        }
    }
    all.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_beginning_of_ci() {
        let now = Duration::from_secs(10_000);
        assert_eq!(before(now, Some("9400\n")), Duration::from_secs(600));
        assert_eq!(before(now, None), Duration::ZERO);
        assert_eq!(before(now, Some("tomorrow")), Duration::ZERO);
        assert_eq!(before(now, Some("10001")), Duration::ZERO);
    }

    #[test]
    fn a_run_that_takes_too_long_or_leaves_a_program_out_fails() {
        let programs = BTreeSet::from(["docker".to_owned(), "install".to_owned()]);
        let mut outcome = Outcome::default();
        outcome.programs.insert("docker".into(), Duration::ZERO);
        check(&mut outcome, &programs, LIMIT + Duration::from_secs(1));
        assert_eq!(
            outcome.failed["whole_run::every_test_program_of_the_workspace_ran"],
            "did not run: install"
        );
        assert!(outcome.failed["whole_run::it_took_at_most_45_minutes"].starts_with("46 of"));

        let mut outcome = Outcome::default();
        outcome.programs.insert("docker".into(), Duration::ZERO);
        outcome.programs.insert("install".into(), Duration::ZERO);
        check(&mut outcome, &programs, LIMIT);
        assert!(outcome.failed.is_empty() && outcome.passed.len() == 2);
    }

    #[test]
    fn the_workspaces_test_programs_are_known() {
        let all = programs().expect("cargo metadata");
        for wanted in [
            "docker",
            "install",
            "installer",
            "xtask",
            "vmomi",
            "vic_machine",
        ] {
            assert!(all.contains(wanted), "{wanted}: {all:?}");
        }
        assert!(!all.contains("build_script_build"), "{all:?}");
    }
}
