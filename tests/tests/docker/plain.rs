//! A VCH without TLS, made by `vic-machine create --no-tls`, and what is easiest to see on a plain connection.

use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use system_tests::dockerd::Dockerd;
use system_tests::http::{self, Answer, Body};
use system_tests::image::Recipe;
use system_tests::installed::{Installed, until};
use system_tests::recorder::{Engine, Recorder};
use system_tests::run::run;
use system_tests::world::path;

use super::wrong;

/// The tests of this file.
pub const TESTS: &[(&str, super::PlainTest)] = &[
    ("docker_over_plain_tcp_when_asked_for", plain_tcp),
    ("wait_knows_all_conditions", wait),
    ("exec_inspect_shows_the_process_and_its_end", exec_inspect),
    ("resize_of_what_does_not_run_is_refused", resize),
];

/// The image that everybody has.
pub const IMAGE: &str = "busybox:test";

/// No request of these takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// A VCH without TLS and Debian's dockerd, each started when it is first asked for.
#[derive(Default)]
pub struct Plain {
    starting: Mutex<()>,
    installed: OnceLock<Installed>,
    peer: OnceLock<Dockerd>,
}

impl Plain {
    /// The VCH.
    pub fn installed(&self) -> Result<&Installed> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = self.installed.get() {
            return Ok(there);
        }
        let installed = Installed::create(0)?;
        let archive = installed.archive(&Recipe::busybox(IMAGE))?;
        installed
            .docker(&["load", "-q", "-i", path(&archive)?])?
            .ok()?;
        wrong::set_up(&|args| installed.docker(args))?;
        Ok(self.installed.get_or_init(|| installed))
    }

    /// Debian's dockerd.
    pub fn peer(&self) -> Result<&Dockerd> {
        let archive = self.installed()?.archive(&Recipe::busybox(IMAGE))?;
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = self.peer.get() {
            return Ok(there);
        }
        let peer = Dockerd::start()?;
        peer.docker(&["load", "-q", "-i", path(&archive)?], b"")?
            .ok()?;
        wrong::set_up(&|args| peer.docker(args, b""))?;
        Ok(self.peer.get_or_init(|| peer))
    }

    /// A recorder in front of the VCH.
    pub fn recorder(&self) -> Result<Recorder> {
        Recorder::before(Engine::Tcp(self.installed()?.docker_address()))
    }

    /// A recorder in front of dockerd.
    pub fn peers_recorder(&self) -> Result<Recorder> {
        let host = self.peer()?.host();
        let socket = host.strip_prefix("unix://").context("a unix socket")?;
        Recorder::before(Engine::Unix(socket.into()))
    }

    fn ask(&self, method: &str, path: &str, body: &Body<'_>) -> Result<Answer> {
        self.installed()?.request(method, path, body, LIMIT)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask("GET", path, &Body::None)?;
        ensure!(answer.status == 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    fn post(&self, path: &str, body: Option<Value>, status: u16) -> Result<Answer> {
        let answer = self.ask("POST", path, &body.map_or(Body::None, Body::Json))?;
        ensure!(
            answer.status == status,
            "POST {path}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(answer)
    }

    fn docker(&self, args: &[&str]) -> Result<String> {
        self.installed()?.docker(args)?.ok()
    }
}

fn plain_tcp(plain: &Plain) -> Result<()> {
    let vch = plain.installed()?;
    let address = format!("tcp://{}", vch.docker_address());
    let mut command = Command::new("docker");
    command
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_TLS_VERIFY")
        .env_remove("DOCKER_CERT_PATH")
        .env("DOCKER_CONFIG", vch.scratch().join("docker-config"))
        .args(["-H", &address, "run", "--rm", "-i", IMAGE, "cat"]);
    let ran = run(&mut command, b"in and out")?;
    ensure!(ran.stdout == "in and out" && ran.code() == 0, "{ran:?}");
    // It is plain HTTP, not TLS that asks for nothing.
    let ping = plain.ask("GET", "/_ping", &Body::None)?;
    ensure!(ping.status == 200 && ping.text() == "OK", "{ping:?}");
    Ok(())
}

fn wait(plain: &Plain) -> Result<()> {
    plain.docker(&[
        "create",
        "-i",
        "--name",
        "waits",
        IMAGE,
        "sh",
        "-c",
        "read x; exit $x",
    ])?;
    // It does not run: that is so at once, and its next exit and its removal are still to come.
    let at_once = plain.post("/containers/waits/wait", None, 200)?.json()?;
    ensure!(at_once["StatusCode"] == 0, "{at_once}");
    let refused = plain.post("/containers/waits/wait?condition=x", None, 400)?;
    ensure!(refused.text().contains("invalid condition"), "{refused:?}");
    let recorder = plain.recorder()?;
    let waits = |condition: &str, count: usize| -> Result<Waiter> {
        let path = format!("/containers/waits/wait?condition={condition}");
        let address = recorder.address();
        let waiter =
            std::thread::spawn(move || http::request(address, "POST", &path, &Body::None, LIMIT));
        // The head comes when the waiter is registered, long before the body.
        until(LIMIT, || {
            let seen = recorder.seen();
            let answered = seen.iter().filter(|e| e.status == 200).count();
            ensure!(answered == count, "{seen:?}");
            Ok(())
        })?;
        Ok(Waiter(waiter))
    };
    let (exit, removal) = (waits("next-exit", 1)?, waits("removed", 2)?);
    plain.docker(&["start", "waits"])?;
    let stop = waits("not-running", 3)?;
    ensure!(!exit.has_ended() && !removal.has_ended() && !stop.has_ended());
    let mut attach = plain.installed()?.docker_command();
    run(attach.args(["attach", "waits"]), b"3\n")?.exits(3)?;
    ensure!(exit.code()? == 3 && stop.code()? == 3);
    ensure!(!removal.has_ended());
    plain.docker(&["rm", "waits"])?;
    ensure!(removal.code()? == 3);
    Ok(())
}

/// A request to wait that is under way.
struct Waiter(JoinHandle<Result<Answer>>);

impl Waiter {
    fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    fn code(self) -> Result<Value> {
        let answer = self.0.join().map_err(|_| anyhow!("panicked"))??;
        Ok(answer.json()?["StatusCode"].clone())
    }
}

/// Prepares an exec in the container that runs for all tests.
fn exec(plain: &Plain, command: &[&str], tty: bool) -> Result<String> {
    let asked = json!({ "AttachStdout": true, "Tty": tty, "Cmd": command, "User": "alice" });
    let made = plain.post("/containers/running/exec", Some(asked), 201)?;
    let id = made.json()?["Id"].as_str().context("no id")?.to_owned();
    Ok(id)
}

fn exec_inspect(plain: &Plain) -> Result<()> {
    let id = exec(
        plain,
        &["sh", "-c", "read x < /tmp/inspected; exit $x"],
        false,
    )?;
    plain.docker(&[
        "exec",
        "running",
        "sh",
        "-c",
        "mkfifo -m 666 /tmp/inspected",
    ])?;
    let place = format!("/exec/{id}/json");
    let before = plain.get(&place)?;
    ensure!(
        before["Running"] == false && before["ExitCode"].is_null() && before["Pid"] == 0,
        "{before}"
    );
    ensure!(
        before["ProcessConfig"]["entrypoint"] == "sh"
            && before["ProcessConfig"]["arguments"][0] == "-c"
            && before["ProcessConfig"]["user"] == "alice"
            && before["OpenStdout"] == true
            && before["OpenStdin"] == false,
        "{before}"
    );
    let start = format!("/exec/{id}/start");
    plain.post(&start, Some(json!({ "Detach": true })), 200)?;
    let during = plain.get(&place)?;
    let pid = during["Pid"].as_i64().unwrap_or_default();
    ensure!(
        during["Running"] == true && during["ExitCode"].is_null() && pid > 1,
        "{during}"
    );
    let listed = plain.get("/containers/running/json")?["ExecIDs"].clone();
    ensure!(
        listed.as_array().is_some_and(|l| l.contains(&json!(id))),
        "{listed}"
    );
    let rows = plain.docker(&["top", "running", "-o", "pid,user,args"])?;
    ensure!(
        rows.lines()
            .any(|l| l.starts_with(&pid.to_string()) && l.contains("read x")),
        "{pid} is not in {rows}"
    );
    let twice = plain.post(&start, Some(json!({ "Detach": true })), 409)?;
    ensure!(twice.text().contains(&id), "{twice:?}");
    plain.docker(&["exec", "running", "sh", "-c", "echo 7 > /tmp/inspected"])?;
    let after = ended(plain, &id)?;
    ensure!(after["ExitCode"] == 7, "{after}");
    Ok(())
}

fn resize(plain: &Plain) -> Result<()> {
    plain.post("/containers/stopped/resize?h=10&w=20", None, 409)?;
    plain.post("/containers/running/resize?h=10", None, 400)?;
    let id = exec(plain, &["true"], true)?;
    let detached = json!({ "Detach": true, "Tty": true });
    plain.post(&format!("/exec/{id}/start"), Some(detached), 200)?;
    ended(plain, &id)?;
    plain.post(&format!("/exec/{id}/resize?h=10&w=20"), None, 500)?;
    Ok(())
}

/// Waits until an exec has ended, and gives what inspect shows then.
fn ended(plain: &Plain, id: &str) -> Result<Value> {
    until(LIMIT, || {
        let now = plain.get(&format!("/exec/{id}/json"))?;
        ensure!(now["Running"] == false, "{now}");
        Ok(now)
    })
}
