//! The persona in front of the true facade, without any actor behind it: whatever answers here is answered from
//! snapshots, since a message would find nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use actors::container::{ContainerSnapshot, CreateSpec, Phase, ProcessSpec, VmSnapshot};
use actors::image::ImageSnapshot;
use actors::network::NetworkSnapshot;
use actors::snapshot::Snapshots;
use actors::system::SystemInfo;
use actors::{ContainerId, Engine, ImageId, NetworkId};
use api::docker::{Args, Bind, serve};
use time::OffsetDateTime;

fn clients() -> Vec<PathBuf> {
    let found: Vec<PathBuf> = ["/usr/local/bin/docker", "/usr/bin/docker"]
        .iter()
        .map(PathBuf::from)
        .filter(|p| p.exists())
        .collect();
    assert!(
        !found.is_empty(),
        "these tests need a docker client: apt-get install docker.io"
    );
    found
}

fn image() -> ImageSnapshot {
    ImageSnapshot {
        id: ImageId::parse(&"1a".repeat(32)).expect("an id"),
        tags: vec!["busybox:latest".into()],
        digests: Vec::new(),
        diff_ids: Vec::new(),
        chain_id: "3c".repeat(32),
        size: 1,
        created: None,
        last_tagged: None,
        config: serde_json::json!({"os": "linux", "architecture": "amd64"}),
    }
}

fn container(name: &str) -> ContainerSnapshot {
    let spec = CreateSpec {
        name: Some(name.to_owned()),
        image_name: "busybox".into(),
        process: ProcessSpec {
            argv: vec!["top".into()],
            ..ProcessSpec::default()
        },
        ..CreateSpec::of(image().id)
    };
    ContainerSnapshot {
        id: ContainerId::of_name(name),
        name: name.to_owned(),
        created: OffsetDateTime::now_utc(),
        spec: Arc::new(spec),
        phase: Phase::Running,
        removing: false,
        removing_volumes: false,
        dead: false,
        exit_code: 0,
        exits: 0,
        error: String::new(),
        oom_killed: false,
        started_at: Some(OffsetDateTime::now_utc()),
        finished_at: None,
        restart_count: 0,
        endpoints: Vec::new(),
        mounts: Vec::new(),
        execs: BTreeMap::new(),
        vm: VmSnapshot::default(),
        revision: 1,
    }
}

fn network() -> NetworkSnapshot {
    NetworkSnapshot {
        id: NetworkId::of_name("bridge"),
        name: "bridge".into(),
        driver: "bridge".into(),
        created: OffsetDateTime::now_utc(),
        pool: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        predefined: true,
        endpoints: BTreeMap::new(),
    }
}

async fn docker(client: &Path, host: &str, version: &str, words: &str) -> (i32, String, String) {
    let mut command = Command::new(client);
    command
        .args(words.split(' '))
        .env("DOCKER_HOST", host)
        .env_remove("DOCKER_CONTEXT");
    if !version.is_empty() {
        command.env("DOCKER_API_VERSION", version);
    }
    let output = tokio::task::spawn_blocking(move || command.output().expect("the client runs"));
    let output = output.await.expect("no panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn reads_are_answered_from_snapshots_alone() {
    let snapshots = Snapshots::default();
    let image = image();
    snapshots.set_images([(image.id.clone(), Arc::new(image))].into());
    snapshots.put_network(network());
    for number in 0..1000 {
        snapshots.put_container(Arc::new(container(&format!("c{number}"))));
    }
    let engine = Engine::new(
        snapshots,
        SystemInfo {
            cpus: 2,
            memory: 1 << 30,
            ..SystemInfo::default()
        },
    );
    let dir = tempfile::tempdir().expect("a directory");
    let bind = Bind::Unix(dir.path().join("s"));
    let (persona, host) = serve(Args {
        bind,
        tls: None,
        engine,
    })
    .await
    .expect("served");
    for client in clients() {
        for version in ["", "1.24", "1.44"] {
            for (words, lines) in [
                ("ps -q", 1000),
                ("ps -q -n 5", 5),
                ("ps -q --filter name=^/c99", 11),
                ("images -q", 1),
            ] {
                let (code, out, err) = docker(&client, &host, version, words).await;
                assert_eq!(
                    (code, out.lines().count()),
                    (0, lines),
                    "{} {version} {words}: {err}",
                    client.display()
                );
            }
            for words in [
                "inspect c7",
                "info",
                "version",
                "network inspect bridge",
                "volume ls",
                "image inspect busybox",
            ] {
                let (code, _, err) = docker(&client, &host, version, words).await;
                assert_eq!(code, 0, "{} {version} {words}: {err}", client.display());
            }
        }
        let (code, _, err) = docker(&client, &host, "", "inspect nobody").await;
        assert!(
            code == 1 && err.to_lowercase().contains("no such object: nobody"),
            "{err}"
        );
    }
    persona.stop(None);
}
