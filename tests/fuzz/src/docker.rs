//! Requests to the Docker API as a client sends them: whole, over a socket, and answered from shelves without any
//! actor behind them. What would need an actor is answered with 501, after everything in it has been read.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actors::container::{
    ContainerSnapshot, CreateSpec, Documents, MountSnapshot, Phase, ProcessSpec, VmSnapshot,
};
use actors::image::ImageSnapshot;
use actors::network::NetworkSnapshot;
use actors::snapshot::Snapshots;
use actors::system::SystemInfo;
use actors::volume::VolumeSnapshot;
use actors::{ContainerId, Engine, ImageId, NetworkId};
use api::docker::{Args, Bind, serve};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// By then any request has the head of its answer: a later one is a finding.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest head of an answer: ours have a few fields.
const MAX_HEAD: usize = 16 << 10;

/// The longest request target that is sent; HTTP's own reader refuses longer ones.
const MAX_TARGET: usize = 60_000;

/// What a request target may hold as it is: everything else is encoded, so that HTTP does not refuse it.
const LITERAL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'?')
    .remove(b'&')
    .remove(b'=')
    .remove(b'%')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b':')
    .remove(b'@')
    .remove(b'+')
    .remove(b',');

thread_local! {
    static PERSONA: Persona = Persona::start().expect("a runtime, a directory and a socket");
}

/// The API on a socket of its own.
struct Persona {
    runtime: Runtime,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Persona {
    fn start() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let args = Args {
            bind: Bind::Unix(socket.clone()),
            tls: None,
            engine: engine(),
        };
        runtime.block_on(serve(args)).map_err(io::Error::other)?;
        Ok(Self {
            runtime,
            socket,
            _dir: dir,
        })
    }

    /// Sends a request; gives the head of the answer.
    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let (mut input, mut output) = stream.split();
            let head = async {
                let mut head = Vec::new();
                let is_whole = |head: &[u8]| head.windows(4).any(|w| w == b"\r\n\r\n");
                while !is_whole(&head) && head.len() < MAX_HEAD {
                    if input.read_buf(&mut head).await? == 0 {
                        break;
                    }
                }
                Ok::<_, io::Error>(head)
            };
            // Both at once: who refuses a request early reads no more of it.
            let (_, head) = tokio::join!(
                output.write_all(request),
                tokio::time::timeout(PATIENCE, head)
            );
            head?
        })
    }
}

/// Sends a request; gives the status of its answer.
///
/// # Panics
/// When there is no answer, or when it says that the fault is the server's own: that is the finding.
pub fn status(method: &str, target: &str, auth: &[u8], body: &[u8]) -> u16 {
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: docker\r\n").into_bytes();
    request.extend_from_slice(b"Content-Type: application/json\r\nConnection: close\r\n");
    if !auth.is_empty() {
        request.extend_from_slice(b"X-Registry-Auth: ");
        request.extend(auth.iter().filter(|b| b.is_ascii_graphic()));
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    let what = || String::from_utf8_lossy(&request);
    let head = PERSONA
        .with(|persona| persona.exchange(&request))
        .unwrap_or_else(|error| panic!("{error}: {}", what()));
    let status = head.get(9..12).and_then(|s| std::str::from_utf8(s).ok());
    let status = status.and_then(|s| s.parse().ok()).unwrap_or(0);
    assert!(
        status != 0 && status != 500,
        "{}\nto: {}",
        String::from_utf8_lossy(&head),
        what()
    );
    status
}

/// A request written as `METHOD /target [X-Registry-Auth]`, a newline, and the body.
pub fn request(bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n');
    let (line, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let mut words = line.splitn(3, |b| *b == b' ');
    let method = match words.next().unwrap_or_default() {
        b"POST" => "POST",
        b"PUT" => "PUT",
        b"DELETE" => "DELETE",
        b"HEAD" => "HEAD",
        _ => "GET",
    };
    let target = words.next().unwrap_or_default();
    let target = target.strip_prefix(b"/").unwrap_or(target);
    let target = format!("/{}", percent_encode(target, LITERAL));
    if target.len() <= MAX_TARGET {
        status(
            method,
            &target,
            words.next().unwrap_or_default(),
            body.get(1..).unwrap_or_default(),
        );
    }
}

/// The body of a container's create, from an old client and from a new one.
pub fn create(bytes: &[u8]) {
    for version in ["v1.24", "v1.55"] {
        let target = format!("/{version}/containers/create?name=fuzz&platform=linux");
        status("POST", &target, b"", bytes);
    }
}

/// The parameter `filters` of everything that is listed.
pub fn filters(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let filters = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
    if filters.len() > MAX_TARGET {
        return;
    }
    for list in [
        "containers/json?all=1&",
        "images/json?",
        "volumes?",
        "networks?",
        "events?",
    ] {
        status("GET", &format!("/{list}filters={filters}"), b"", b"");
    }
}

/// One of everything that can be read.
fn engine() -> Engine {
    let id = |pair: &str| ImageId::parse(&pair.repeat(32)).expect("64 hexadecimal digits");
    let network = NetworkId::of_name("bridge");
    let snapshots = Snapshots::default();
    let image = ImageSnapshot {
        id: id("1a"),
        tags: vec!["busybox:latest".into(), "host:5000/a/b:1".into()],
        digests: Vec::new(),
        diff_ids: Vec::new(),
        chain_id: "3c".repeat(32),
        size: 1,
        created: Some(OffsetDateTime::UNIX_EPOCH),
        last_tagged: None,
        config: json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Cmd": ["sh"],
                "Env": ["PATH=/bin"],
                "Labels": {"image": "yes"},
                "Volumes": {"/data": {}},
                "ExposedPorts": {"80/tcp": {}},
            },
        }),
    };
    snapshots.set_images([(image.id.clone(), Arc::new(image))].into());
    snapshots.put_network(NetworkSnapshot {
        id: network,
        name: "bridge".into(),
        driver: "bridge".into(),
        created: OffsetDateTime::UNIX_EPOCH,
        pool: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        predefined: true,
        endpoints: BTreeMap::new(),
    });
    snapshots.put_volume(Arc::new(VolumeSnapshot {
        name: "data".into(),
        driver: String::new(),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        options: BTreeMap::new(),
        created: OffsetDateTime::UNIX_EPOCH,
        path: "[ds] vch-volumes/data/data.vmdk".into(),
        anonymous: false,
        capacity: 1 << 30,
    }));
    // Ended: waiting for it is answered at once, whatever for.
    snapshots.put_container(Arc::new(container(id("1a"))));
    let system = SystemInfo {
        cpus: 4,
        memory: 8 << 30,
        ..SystemInfo::default()
    };
    Engine::new(snapshots, system)
}

fn container(image: ImageId) -> ContainerSnapshot {
    let spec = CreateSpec {
        name: Some("one".into()),
        image_name: "busybox".into(),
        process: ProcessSpec {
            argv: vec!["sh".into()],
            ..ProcessSpec::default()
        },
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        documents: Documents {
            config: json!({"Image": "busybox", "ExposedPorts": {"80/tcp": {}}}),
            host_config: json!({"NetworkMode": "bridge"}),
            networking: json!({}),
        },
        ..CreateSpec::of(image)
    };
    ContainerSnapshot {
        id: ContainerId::of_name("one"),
        name: "one".into(),
        created: OffsetDateTime::UNIX_EPOCH,
        spec: Arc::new(spec),
        phase: Phase::Exited,
        removing: false,
        removing_volumes: false,
        dead: false,
        exit_code: 3,
        exits: 1,
        error: String::new(),
        oom_killed: false,
        started_at: Some(OffsetDateTime::UNIX_EPOCH),
        finished_at: Some(OffsetDateTime::UNIX_EPOCH),
        restart_count: 0,
        endpoints: Vec::new(),
        mounts: vec![MountSnapshot {
            volume: Some("data".into()),
            anonymous: false,
            source: "[ds] vch-volumes/data/data.vmdk".into(),
            target: "/data".into(),
            read_only: false,
            mode: "z".into(),
        }],
        execs: BTreeMap::new(),
        vm: VmSnapshot::default(),
        revision: 1,
    }
}
