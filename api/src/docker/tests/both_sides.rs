//! The differences between API versions, seen by clients: each behaviour of the table, and one mark of each kind of
//! document, asked for over HTTP at the version before its change and at that of it.

use actors::container::Phase;
use actors::events::{Event, EventKind};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::cli::Server;
use super::{sample, streams};
use crate::docker::version::ApiVersion;
use crate::docker::versions::{Below, Place, ROWS, behaviour};

/// Each behaviour with what [`look`] sees below its version and from it on.
fn behaviours() -> Vec<(&'static str, Value, Value)> {
    vec![
        (behaviour::NETWORK_LIST, json!(true), json!(false)),
        (behaviour::WAIT_CONDITION, json!(200), json!(400)),
        (behaviour::PULL_PLATFORM, json!(200), json!(404)),
        (behaviour::IMAGE_FILTER, json!(0), json!(1)),
        (behaviour::CREATE_PLATFORM, json!(201), json!(404)),
        (
            behaviour::MULTIPLEXED_TYPE,
            json!("application/vnd.docker.raw-stream"),
            json!("application/vnd.docker.multiplexed-stream"),
        ),
        (behaviour::STOP_SIGNAL, json!(304), json!(400)),
        (
            behaviour::EVENT_TYPE,
            json!("application/json"),
            json!("application/jsonl"),
        ),
        (behaviour::IMAGE_CREATE_EVENT, json!(0), json!(1)),
        (behaviour::CONTAINER_MAC, json!(true), json!(false)),
        (behaviour::MAC_WARNING, json!(0), json!(1)),
    ]
}

/// An answer's status, content type and body.
async fn ask(
    server: &Server,
    method: &str,
    version: ApiVersion,
    path: &str,
    body: &Value,
) -> (u16, String, String) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (head, body) = streams::ask(server, method, &format!("/v{version}{path}"), &body).await;
    let status = head[9..12].parse().expect("a status");
    let kind = head
        .lines()
        .find_map(|l| l.strip_prefix("Content-Type: "))
        .unwrap_or("");
    let body = match head.contains("Transfer-Encoding: chunked") {
        true => without_chunks(&body),
        false => body,
    };
    (status, kind.to_owned(), body)
}

/// A body out of its chunks.
fn without_chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("the size of a chunk");
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

async fn get(server: &Server, version: ApiVersion, path: &str) -> Value {
    let (status, _, body) = ask(server, "GET", version, path, &Value::Null).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|why| panic!("{path}: {why}: {body}"))
}

/// What a client of this version sees of a behaviour.
async fn look(server: &Server, what: &str, version: ApiVersion) -> Value {
    let post = |path: &'static str, body: Value| async move {
        ask(server, "POST", version, path, &body).await
    };
    let with_mac = json!({"Image": "busybox", "MacAddress": "02:42:ac:11:00:09"});
    match what {
        behaviour::NETWORK_LIST => {
            let list = get(server, version, "/networks").await;
            let containers = list[0]["Containers"].as_object();
            json!(containers.is_some_and(|c| !c.is_empty()))
        }
        behaviour::WAIT_CONDITION => {
            let path = "/containers/stopped/wait?condition=nosuch";
            json!(post(path, Value::Null).await.0)
        }
        behaviour::PULL_PLATFORM => {
            let path = "/images/create?fromImage=busybox&tag=latest&platform=linux/nosuch";
            json!(post(path, Value::Null).await.0)
        }
        behaviour::IMAGE_FILTER => {
            let list = get(server, version, "/images/json?filter=nosuch").await;
            json!(list.as_array().expect("a list").len())
        }
        behaviour::CREATE_PLATFORM => {
            let path = "/containers/create?platform=linux/arm64";
            json!(post(path, json!({"Image": "busybox"})).await.0)
        }
        behaviour::MULTIPLEXED_TYPE => {
            let path = "/containers/stopped/logs?stdout=1";
            json!(ask(server, "GET", version, path, &Value::Null).await.1)
        }
        behaviour::STOP_SIGNAL => {
            json!(
                post("/containers/stopped/stop?signal=NOSUCH", Value::Null)
                    .await
                    .0
            )
        }
        behaviour::EVENT_TYPE => {
            let path = "/events?since=1&until=2";
            json!(ask(server, "GET", version, path, &Value::Null).await.1)
        }
        behaviour::IMAGE_CREATE_EVENT => {
            let path = "/events?since=1&until=10&filters=%7B%22type%22%3A%5B%22image%22%5D%7D";
            let body = ask(server, "GET", version, path, &Value::Null).await.2;
            json!(body.lines().count())
        }
        behaviour::CONTAINER_MAC => {
            let (_, _, body) = post("/containers/create", with_mac).await;
            let made: Value = serde_json::from_str(&body).expect("json");
            let id = made["Id"].as_str().expect("an id");
            let spec = server.engine.find(id).expect("made").spec.clone();
            json!(spec.network.endpoints.iter().any(|e| e.mac.is_some()))
        }
        behaviour::MAC_WARNING => {
            let (_, _, body) = post("/containers/create", with_mac).await;
            let made: Value = serde_json::from_str(&body).expect("json");
            json!(made["Warnings"].as_array().expect("warnings").len())
        }
        other => panic!("nobody knows how to look at {other:?}"),
    }
}

/// An engine with a stopped container, a running one, and the event of an image that was made.
async fn server() -> Server {
    let server = Server::start().await;
    server.engine.put(sample::container("stopped"));
    let mut running = sample::container("running");
    running.phase = Phase::Running;
    server.engine.put(running);
    server.engine.happened(Event {
        kind: EventKind::Image,
        action: "create".into(),
        id: "busybox:latest".into(),
        attributes: Default::default(),
        time: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(5),
    });
    server
}

#[tokio::test]
async fn every_behaviour_is_seen_from_both_sides_of_its_version() {
    let server = server().await;
    let known = behaviours();
    for row in ROWS {
        if !matches!(row.below, Below::Behaviour) {
            continue;
        }
        let (_, old, new) = known
            .iter()
            .find(|(what, _, _)| *what == row.what)
            .unwrap_or_else(|| panic!("{}: a row without a test", row.what));
        let below = ApiVersion::v1(row.since.minor() - 1);
        assert_eq!(
            look(&server, row.what, below).await,
            *old,
            "{}, below",
            row.what
        );
        assert_eq!(
            look(&server, row.what, row.since).await,
            *new,
            "{}, from it on",
            row.what
        );
    }
}

#[tokio::test]
async fn every_kind_of_document_is_rewritten_on_its_way() {
    let server = server().await;
    let container = "/containers/stopped/json";
    let event = "/events?since=1&until=10";
    // Place, path, where, the version of the change, whether it is there below and from it on.
    let marks = [
        (Place::Info, "/info", "/FirewallBackend", 49, false, true),
        (
            Place::ContainerInspect,
            container,
            "/NetworkSettings/IPAddress",
            52,
            true,
            false,
        ),
        (
            Place::ContainerItem,
            "/containers/json?all=1",
            "/0/Health",
            52,
            false,
            true,
        ),
        (
            Place::ImageInspect,
            "/images/busybox/json",
            "/VirtualSize",
            44,
            true,
            false,
        ),
        (
            Place::ImageItem,
            "/images/json",
            "/0/VirtualSize",
            44,
            true,
            false,
        ),
        (
            Place::Network,
            "/networks",
            "/0/EnableIPv4",
            48,
            false,
            true,
        ),
        (
            Place::Network,
            "/networks/bridge",
            "/EnableIPv4",
            48,
            false,
            true,
        ),
        (Place::Event, event, "/status", 52, true, false),
    ];
    for (place, path, pointer, minor, old, new) in marks {
        for (version, there) in [(minor - 1, old), (minor, new)] {
            let document = get(&server, ApiVersion::v1(version), path).await;
            assert_eq!(
                document.pointer(pointer).is_some(),
                there,
                "{path} {pointer} at 1.{version}"
            );
        }
        assert!(
            ROWS.iter()
                .any(|r| r.place == place && r.since.minor() == minor)
        );
    }
    // No other place has answers that are rewritten, but the outcome of wait, which every test of wait reads.
    for row in ROWS.iter().filter(|r| matches!(r.below, Below::Answer(_))) {
        let marked = marks.iter().any(|mark| mark.0 == row.place);
        assert!(marked || row.place == Place::Wait, "{}", row.what);
    }
}

#[tokio::test]
async fn requests_are_rewritten_on_their_way() {
    let server = server().await;
    for (minor, removed) in [(24, false), (25, true)] {
        let body = json!({"Image": "busybox", "HostConfig": {"AutoRemove": true}});
        let version = ApiVersion::v1(minor);
        let (status, _, body) = ask(&server, "POST", version, "/containers/create", &body).await;
        assert_eq!(status, 201, "{body}");
        let made: Value = serde_json::from_str(&body).expect("json");
        let id = made["Id"].as_str().expect("an id");
        assert_eq!(
            server.engine.find(id).expect("made").spec.auto_remove,
            removed
        );
    }
}
