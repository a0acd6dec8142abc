//! The README's session, typed as it is printed.
//!
//! `VIC_STATE` and `VIC_PORT`, which the README names too, keep it apart from a VCH that may run here.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::registry::free_port;

use super::terminal::Terminal;

/// What this part shows.
pub const TESTS: &[super::Test] = &[("the_readme_s_ten_lines_work_as_printed", ten_lines)];

/// Building is left to `cargo xtask test`; what it has built is only looked at again.
const BUILD: Duration = Duration::from_secs(600);
const LINE: Duration = Duration::from_secs(90);
/// The shell's prompt: how the last line has ended.
const PROMPT: (&str, &str) = ("[status=", "]# ");

/// What has to be shown by the line that has a word in it.
const SHOWN: &[(&str, &[&str])] = &[
    (
        "xtask up",
        &[
            "docker -H 127.0.0.1:",
            "export DOCKER_HOST=tcp://127.0.0.1:",
        ],
    ),
    ("docker version", &["Client:", "Server:"]),
    ("docker load", &["Loaded image: busybox:latest"]),
    ("echo hello", &["hello\n"]),
    ("docker exec web ps", &["sleep 1000"]),
    ("docker ps -a", &["web\n", "Exited ("]),
    ("docker rm", &["web\n"]),
    (
        "vic-machine down",
        &["Stopping containers", "Completed successfully"],
    ),
];

/// The lines of the first block of shell commands below a heading.
fn block<'a>(page: &'a str, heading: &str) -> Result<Vec<&'a str>> {
    let (_, below) = page.split_once(heading).context("the heading")?;
    let (_, block) = below.split_once("```sh\n").context("a block")?;
    let (block, _) = block.split_once("```").context("its end")?;
    Ok(block.lines().collect())
}

fn ten_lines() -> Result<()> {
    system_tests::need_root()?;
    let page = std::fs::read_to_string(system_tests::root().join("README.md"))?;
    ensure!(page.contains("`VIC_STATE`") && page.contains("`VIC_PORT`"));
    let lines = block(&page, "## Ten lines to try\n")?;
    ensure!(
        lines.len() <= 10 && lines.last().is_some_and(|last| last.ends_with(" down")),
        "{lines:#?}"
    );
    for (line, _) in SHOWN {
        ensure!(
            lines.iter().any(|l| l.contains(line)),
            "no line has {line:?}"
        );
    }
    let dir = tempfile::tempdir()?;
    let state = dir.path().join("state");
    // By way of `env`: a shell in between, run by root, would put a prompt of its own in place of this.
    let bash = "exec env \"PS1=$NEWCOMERS_PROMPT\" bash --norc --noprofile -i";
    let mut shell = Terminal::start(bash, |command| {
        newcomer(command)
            .current_dir(system_tests::root())
            .env("NEWCOMERS_PROMPT", format!("{}$?{}", PROMPT.0, PROMPT.1))
            .env("DOCKER_CONFIG", dir.path().join("docker-config"))
            .env("VIC_STATE", &state);
    })?;
    shell.until(PROMPT.1, LINE)?;
    shell.types(&format!("export VIC_PORT={}\n", free_port()?))?;
    prompt(&mut shell, LINE)?;
    let result = lines
        .iter()
        .try_for_each(|line| typed(&mut shell, line).with_context(|| format!("the line {line:?}")));
    if result.is_err() {
        // A later line takes it down, which is not reached.
        let down = Command::new(system_tests::program("vic-machine")?)
            .args(["down", "--state"])
            .arg(&state)
            .current_dir(dir.path())
            .output()?;
        eprintln!("{}", String::from_utf8_lossy(&down.stdout));
    }
    result?;
    shell.types("exit\n")?;
    shell.end(LINE)?;
    Ok(())
}

/// Types one line and looks at what it shows.
fn typed(shell: &mut Terminal, line: &str) -> Result<()> {
    shell.types(&format!("{line}\n"))?;
    if line.contains("docker run -it") {
        // Somebody sits there and uses it.
        shell.until("/ # ", LINE)?;
        shell.types("echo $((6 * 7)) of $$\n")?;
        shell.until("42 of 1\n", LINE)?;
        shell.types("exit\n")?;
    }
    let limit = if line.contains("cargo ") { BUILD } else { LINE };
    let (text, status) = prompt(shell, limit)?;
    ensure!(status == "0", "it ended with {status}:\n{text}");
    let wanted = SHOWN.iter().filter(|(word, _)| line.contains(word));
    for text_wanted in wanted.flat_map(|(_, texts)| *texts) {
        ensure!(
            text.contains(text_wanted),
            "{text_wanted:?} is not in:\n{text}"
        );
    }
    Ok(())
}

/// What is shown up to the next prompt, and the status in it.
fn prompt(shell: &mut Terminal, limit: Duration) -> Result<(String, String)> {
    let text = shell.until(PROMPT.0, limit)?;
    let status = shell.until(PROMPT.1, LINE)?;
    Ok((text, status))
}

/// What cargo tells the process of a test, by its beginning; settings that a user may have made stay.
const OF_TESTS: &[&str] = &[
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
    "CARGO_TARGET_TMPDIR",
];

/// Takes away what only a test's process has in its environment, and what would lead to another docker.
fn newcomer(command: &mut Command) -> &mut Command {
    command.env_remove("CARGO");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("DOCKER_") || OF_TESTS.iter().any(|begin| text.starts_with(begin)) {
            command.env_remove(&name);
        }
    }
    command
}
