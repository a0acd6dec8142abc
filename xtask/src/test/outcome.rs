//! What `cargo test` prints, read as verdicts, messages and times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// How many lines of a failed test's message are shown again at the end, from its start and from its end.
const HEAD: usize = 40;
const TAIL: usize = 20;
/// How many of the slowest test programs are named.
const SLOWEST: usize = 8;

/// What the runner saw.
#[derive(Default)]
pub(crate) struct Outcome {
    /// `<binary>::<test>` of each test that passed.
    pub(crate) passed: BTreeSet<String>,
    /// The same of each that failed, and what it printed.
    pub(crate) failed: BTreeMap<String, String>,
    /// The same of each that was left out.
    pub(crate) ignored: BTreeSet<String>,
    /// The test programs that ran, and for how long.
    pub(crate) programs: BTreeMap<String, Duration>,
    /// The program whose lines come now.
    current: String,
    /// The failed test whose message comes now.
    message_of: Option<String>,
}

impl Outcome {
    /// Takes one line of `cargo test`'s output; `running` is how long the current program has run. Tells whether
    /// the line begins another program.
    pub(super) fn take(&mut self, line: &str, running: Duration) -> bool {
        if let Some(name) = binary_name(line) {
            self.end_of_run(running);
            self.current = name;
            return true;
        }
        self.message(line);
        self.verdict(line);
        false
    }

    /// The current program has ended.
    pub(super) fn end_of_run(&mut self, running: Duration) {
        self.message_of = None;
        if !self.current.is_empty() {
            let name = std::mem::take(&mut self.current);
            *self.programs.entry(name).or_default() += running;
        }
    }

    fn verdict(&mut self, line: &str) {
        let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        let name = format!("{}::{}", self.current, name.trim());
        let verdict = verdict.trim();
        if verdict == "ok" || verdict.starts_with("ok ") {
            self.passed.insert(name);
        } else if verdict.starts_with("ignored") {
            self.ignored.insert(name);
        } else if verdict.starts_with("FAILED") {
            self.failed.entry(name).or_default();
        }
    }

    /// Keeps what stands between `---- <test> ----` and the end of that message.
    fn message(&mut self, line: &str) {
        let head = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" ----"));
        if let Some(test) = head {
            let test = test.strip_suffix(" stdout").unwrap_or(test);
            self.message_of = Some(format!("{}::{test}", self.current));
        } else if line == "failures:" || line == "successes:" || line.starts_with("test result:") {
            self.message_of = None;
        } else if let Some(text) = self
            .message_of
            .as_ref()
            .and_then(|test| self.failed.get_mut(test))
        {
            text.push_str(line);
            text.push('\n');
        }
    }

    /// What there is to know at the end: counts, the slowest programs, and again what failed and why.
    pub(super) fn summary(&self) -> String {
        let mut text = String::from("\n== summary\n");
        let mut slowest: Vec<_> = self.programs.iter().collect();
        slowest.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        for (name, time) in slowest.into_iter().take(SLOWEST) {
            let _ = writeln!(text, "{:>9}  {name}", super::seconds(*time));
        }
        for (name, message) in &self.failed {
            let _ = writeln!(text, "\n---- {name} failed:\n{}", shortened(message));
        }
        let _ = writeln!(
            text,
            "{} passed, {} failed, {} skipped, in {} programs",
            self.passed.len(),
            self.failed.len(),
            self.ignored.len(),
            self.programs.len()
        );
        text
    }
}

fn shortened(message: &str) -> String {
    let lines: Vec<&str> = message.trim().lines().collect();
    if lines.len() <= HEAD + TAIL {
        return lines.join("\n");
    }
    let left_out = lines.len() - HEAD - TAIL;
    format!(
        "{}\n… {left_out} lines …\n{}",
        lines[..HEAD].join("\n"),
        lines[lines.len() - TAIL..].join("\n")
    )
}

/// The name of the test program in a `Running …` line: the file stem of `target/debug/deps/<name>-<hash>`.
fn binary_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc-{name}"));
    }
    let path = line
        .strip_prefix("Running ")?
        .rsplit_once('(')?
        .1
        .trim_end_matches(')');
    let stem = path.rsplit('/').next()?;
    Some(stem.rsplit_once('-')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Outcome {
        let mut outcome = Outcome::default();
        for line in text.lines() {
            outcome.take(line, Duration::from_secs(1));
        }
        outcome.end_of_run(Duration::from_secs(1));
        outcome
    }

    #[test]
    fn the_program_is_named_by_its_running_line() {
        let line = "     Running tests/docker.rs (target/debug/deps/docker-0a1b2c3d)";
        assert_eq!(binary_name(line).as_deref(), Some("docker"));
        assert_eq!(
            binary_name("   Doc-tests vmomi").as_deref(),
            Some("doc-vmomi")
        );
        assert_eq!(binary_name("test a ... ok"), None);
    }

    #[test]
    fn verdicts_are_told_apart() {
        let outcome = outcome(
            "     Running unittests src/lib.rs (target/debug/deps/b-01)\n\
             test a::works ... ok\n\
             test a::is_broken ... FAILED\n\
             test a::is_slow ... ignored, needs an hour\n\
             test result: ok. 1 passed; 0 failed\n",
        );
        assert_eq!(outcome.passed.iter().collect::<Vec<_>>(), ["b::a::works"]);
        assert_eq!(
            outcome.failed.keys().collect::<Vec<_>>(),
            ["b::a::is_broken"]
        );
        assert_eq!(
            outcome.ignored.iter().collect::<Vec<_>>(),
            ["b::a::is_slow"]
        );
        assert_eq!(outcome.programs["b"], Duration::from_secs(1));
    }

    #[test]
    fn what_a_failed_test_has_said_is_said_again_at_the_end() {
        let outcome = outcome(
            "     Running tests/one.rs (target/debug/deps/one-01)\n\
             test breaks ... FAILED\n\
             \n\
             failures:\n\
             \n\
             ---- breaks stdout ----\n\
             left is not right\n\
             \n\
             failures:\n    breaks\n\
             test result: FAILED. 0 passed; 1 failed\n\
             \x20    Running tests/two.rs (target/debug/deps/two-02)\n\
             test breaks ... FAILED\n\
             ---- breaks ----\n\
             Error: of the other harness\n\
             test works ... ok\n\
             test result: FAILED. 1 passed; 1 failed\n",
        );
        assert_eq!(outcome.failed["one::breaks"].trim(), "left is not right");
        assert!(outcome.failed["two::breaks"].contains("of the other harness"));
        let summary = outcome.summary();
        for wanted in [
            "one::breaks failed:\nleft is not right",
            "Error: of the other harness",
            "1 passed, 2 failed, 0 skipped, in 2 programs",
        ] {
            assert!(summary.contains(wanted), "{wanted}: {summary}");
        }
    }

    #[test]
    fn a_long_message_is_cut_in_its_middle() {
        let long: String = (0..200).map(|n| format!("line {n}\n")).collect();
        let short = shortened(&long);
        assert!(short.contains("line 0\n") && short.ends_with("line 199"));
        assert!(short.contains("… 140 lines …"), "{short}");
    }
}
