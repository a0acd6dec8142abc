//! Wrong commands and wrong requests: Debian's dockerd and we must agree on the exit code and on the status of every
//! request that the client makes, and on the text but where the table says otherwise (Debian's is 20.10, our texts are
//! those of the newest engine).

#[path = "wrong/requests.rs"]
mod requests;
#[path = "wrong/table.rs"]
mod table;

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::http::{self, Answer};
use system_tests::recorder::{Exchange, Recorder};
use system_tests::run::{Ran, run};

use super::plain::{IMAGE, Plain};
use requests::Request;
use table::{STATUSES, Text, WRONG};

/// The tests of this file.
pub const TESTS: &[(&str, super::PlainTest)] = &[
    ("wrong_commands_fail_as_on_debian_s_dockerd", commands),
    ("wrong_requests_fail_as_on_debian_s_dockerd", requests),
];

/// No request of these takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Both sides get the same containers and volumes.
pub fn set_up(docker: &dyn Fn(&[&str]) -> Result<Ran>) -> Result<()> {
    docker(&[
        "run", "-d", "--name", "running", "-v", "inuse:/v", IMAGE, "sleep", "10000",
    ])?
    .ok()?;
    docker(&["run", "--name", "stopped", IMAGE, "true"])?.ok()?;
    docker(&["create", "--name", "taken", IMAGE, "true"])?.ok()?;
    docker(&["run", "-d", "--name", "frozen", IMAGE, "sleep", "10000"])?.ok()?;
    docker(&["pause", "frozen"])?.ok()?;
    Ok(())
}

/// Ids become `<id>`: runs of 12 or 64 hexadecimal digits.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(std::iter::once('\n')) {
        if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
            run.push(c);
            continue;
        }
        out.push_str(if matches!(run.len(), 12 | 64) {
            "<id>"
        } else {
            &run
        });
        run.clear();
        out.push(c);
    }
    out
}

/// One command on one side: what the client did and what it saw.
struct Tried {
    ran: Ran,
    exchanges: Vec<Exchange>,
}

/// What a client asked and how it was answered, one exchange a line.
fn statuses(exchanges: &[Exchange]) -> Vec<String> {
    exchanges
        .iter()
        .map(|e| without_ids(&format!("{} {} {}", e.method, e.path, e.status)))
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn judge(line: &str, text: &Text, ours: &Tried, theirs: &Tried) -> Result<()> {
    ensure!(
        ours.ran.code() == theirs.ran.code(),
        "docker {line}: exit {} instead of {}: {}",
        ours.ran.code(),
        theirs.ran.code(),
        ours.ran.stderr
    );
    ensure!(theirs.ran.code() != 0, "docker {line}: is not wrong at all");
    let (we, they) = (statuses(&ours.exchanges), statuses(&theirs.exchanges));
    let same = match STATUSES.iter().find(|row| row.line == line) {
        None => we == they,
        Some(row) => {
            let last = |all: &[String]| all.last().cloned().unwrap_or_default();
            last(&we) == row.ours && last(&they) == row.theirs
        }
    };
    ensure!(same, "docker {line}:\n  ours:   {we:?}\n  theirs: {they:?}");
    let (we, they) = (
        without_ids(&ours.ran.stderr),
        without_ids(&theirs.ran.stderr),
    );
    match text {
        Text::Same => ensure!(
            we == they,
            "docker {line}:\n  ours:   {we}\n  theirs: {they}"
        ),
        Text::Differs { theirs, ours } => {
            ensure!(they.contains(theirs), "docker {line}: dockerd says {they}");
            ensure!(we.contains(ours), "docker {line}: we say {we}");
        }
    }
    Ok(())
}

fn commands(plain: &Plain) -> Result<()> {
    let (ours, theirs) = (plain.recorder()?, plain.peers_recorder()?);
    let attempt = |recorder: &Recorder, line: &str| -> Result<Tried> {
        let mut command = plain.installed()?.docker_command();
        command
            .env("DOCKER_HOST", recorder.host())
            .args(line.split(' '));
        let ran = run(&mut command, b"")?;
        let exchanges = recorder.take();
        Ok(Tried { ran, exchanges })
    };
    let mut wrong = Vec::new();
    for (line, text) in WRONG {
        let (ours, theirs) = (attempt(&ours, line)?, attempt(&theirs, line)?);
        if let Err(error) = judge(line, text, &ours, &theirs) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(
        WRONG.len() >= 60 && wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        WRONG.len(),
        wrong.join("\n")
    );
    Ok(())
}

fn judge_request(request: &Request, ours: &Answer, theirs: &Answer) -> Result<()> {
    let name = format!("{} {}", request.method, request.path);
    let (we, they) = (ours.text(), theirs.text());
    ensure!(
        theirs.status == request.debian,
        "{name}: dockerd answers {} {they}",
        theirs.status
    );
    ensure!(
        ours.status == request.status,
        "{name}: we answer {} {we} instead of {}; dockerd: {they}",
        ours.status,
        request.status
    );
    ensure!(
        ours.kind == theirs.kind,
        "{name}: we answer with {:?}, dockerd with {:?}",
        ours.kind,
        theirs.kind
    );
    Ok(())
}

fn requests(plain: &Plain) -> Result<()> {
    let (ours, theirs) = (plain.recorder()?, plain.peers_recorder()?);
    let mut wrong = Vec::new();
    for request in requests::WRONG {
        let ask = |recorder: &Recorder| {
            let body = request.body();
            http::request(
                recorder.address(),
                request.method,
                request.path,
                &body,
                LIMIT,
            )
        };
        let (ours, theirs) = (ask(&ours)?, ask(&theirs)?);
        if let Err(error) = judge_request(request, &ours, &theirs) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        requests::WRONG.len(),
        wrong.join("\n")
    );
    Ok(())
}
