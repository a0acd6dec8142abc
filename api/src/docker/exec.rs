//! Execs: create, start (a raw stream), resize, inspect.

use actors::container::{ExecSpec, Phase, ProcessSpec, StartExec};
use actors::streams::ConsoleSize;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::containers::lifecycle::console_size;
use super::detach::Keys;
use super::error::{self, ApiError};
use super::hijack::{self, Session};
use super::reply::{self, Reply};
use super::request::{Call, decode, fold_keys};
use super::versions::{self, Place};

/// The body of `POST /containers/{}/exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
    tty: bool,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
    privileged: bool,
    console_size: Option<[u32; 2]>,
}

/// The body of `POST /exec/{}/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    detach: bool,
    tty: bool,
    console_size: Option<[u32; 2]>,
}

fn console(size: Option<[u32; 2]>) -> Option<ConsoleSize> {
    let [height, width] = size.filter(|[h, w]| *h > 0 && *w > 0)?;
    Some(ConsoleSize {
        height: u16::try_from(height).unwrap_or(u16::MAX),
        width: u16::try_from(width).unwrap_or(u16::MAX),
    })
}

fn prepare(value: &mut Value, known: &[&str]) {
    fold_keys(value, known);
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
    }
}

/// `POST /containers/{}/exec`.
pub async fn create(call: Call) -> Result<Reply, ApiError> {
    let (call, mut body) = call.json().await?;
    prepare(
        &mut body,
        &[
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "DetachKeys",
            "Tty",
            "Cmd",
            "Env",
            "WorkingDir",
            "User",
            "Privileged",
            "ConsoleSize",
            "Detach",
        ],
    );
    versions::upgrade(call.version, Place::Exec, &mut body)?;
    let asked: Create = decode(body)?;
    if asked.cmd.is_empty() || asked.cmd[0].is_empty() {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    Keys::parse(&asked.detach_keys)?;
    if !asked.working_dir.is_empty() && !asked.working_dir.starts_with('/') {
        return Err(ApiError::bad_request(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            asked.working_dir
        )));
    }
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    if container.phase == Phase::Paused {
        return Err(error::answer(actors::Error::Paused {
            what: "Container",
            name: call.name().to_owned(),
            verb: "exec",
        }));
    }
    let spec = ExecSpec {
        process: ProcessSpec {
            argv: asked.cmd,
            env: asked.env,
            cwd: asked.working_dir,
            user: asked.user,
            groups: Vec::new(),
            tty: asked.tty,
            open_stdin: asked.attach_stdin,
            stdin_once: asked.attach_stdin,
            console: console(asked.console_size),
        },
        attach_stdin: asked.attach_stdin,
        attach_stdout: asked.attach_stdout,
        attach_stderr: asked.attach_stderr,
        privileged: asked.privileged,
        detach_keys: asked.detach_keys,
    };
    let id = call
        .engine()
        .create_exec(container.id, spec)
        .await
        .map_err(error::answer)?;
    reply::json_with(StatusCode::CREATED, &json!({ "Id": id.to_string() }))
}

/// `POST /exec/{}/start`.
pub async fn start(mut call: Call) -> Result<Reply, ApiError> {
    // Without an upgrade, what follows the JSON document in the same body would be the input; nobody sends it so.
    let upgrade = call.headers.contains_key(header::UPGRADE);
    let (call, mut body) = {
        if call.headers.get(header::CONTENT_TYPE).is_none() {
            call.headers.insert(
                header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/json"),
            );
        }
        call.json_or_null().await?
    };
    if body.is_null() {
        body = json!({});
    }
    prepare(&mut body, &["Detach", "Tty", "ConsoleSize"]);
    versions::upgrade(call.version, Place::Exec, &mut body)?;
    let asked: Start = decode(body)?;
    let (_, exec) = call
        .engine()
        .snapshots()
        .find_exec(call.name())
        .map_err(error::answer)?;
    if exec.started {
        return Err(ApiError::conflict(match exec.running {
            true => format!("exec command {} is already running", exec.id),
            false => format!("exec command {} has already run", exec.id),
        }));
    }
    let keys = Keys::parse(&exec.spec.detach_keys)?;
    let options = StartExec {
        detach: asked.detach,
        console: console(asked.console_size),
    };
    let attachment = call
        .engine()
        .start_exec(exec.id, options)
        .await
        .map_err(error::answer)?;
    if asked.detach {
        return Ok(reply::empty(StatusCode::OK));
    }
    let shared = call.shared.clone();
    let session = Session {
        attachment,
        keys,
        framed: !asked.tty,
        goes_on: Box::new(move || {
            let now = shared.engine.snapshots().exec(&exec.id);
            now.is_some_and(|now| now.running)
        }),
    };
    match upgrade {
        true => Ok(hijack::upgraded(
            &call.takeover,
            call.version,
            session,
            false,
        )),
        false => Ok(hijack::output_only(session)),
    }
}

/// `POST /exec/{}/resize`.
pub async fn resize(call: Call) -> Result<Reply, ApiError> {
    let size = console_size(&call.query)?;
    let (_, exec) = call
        .engine()
        .snapshots()
        .find_exec(call.name())
        .map_err(error::answer)?;
    call.engine()
        .resize_exec(exec.id, size)
        .await
        .map_err(error::answer)?;
    Ok(reply::empty(StatusCode::OK))
}

/// `GET /exec/{}/json`.
pub async fn inspect(call: Call) -> Result<Reply, ApiError> {
    let (container, exec) = call
        .engine()
        .snapshots()
        .find_exec(call.name())
        .map_err(error::answer)?;
    let process = &exec.spec.process;
    let user = if process.user.is_empty() {
        &container.spec.process.user
    } else {
        &process.user
    };
    reply::json(&json!({
        "ID": exec.id.to_string(),
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": {
            "tty": process.tty,
            "entrypoint": process.argv.first(),
            "arguments": process.argv.get(1..).unwrap_or(&[]),
            "privileged": exec.spec.privileged,
            "user": user,
        },
        "OpenStdin": exec.spec.attach_stdin,
        "OpenStderr": exec.spec.attach_stderr,
        "OpenStdout": exec.spec.attach_stdout,
        "CanRemove": false,
        "ContainerID": exec.container.to_string(),
        "DetachKeys": exec.spec.detach_keys,
        "Pid": exec.pid,
    }))
}
