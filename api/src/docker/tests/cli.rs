//! The real docker CLI against the persona, in front of an engine without VMs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::fake::Engine;
use crate::docker::{Args, Bind, Message, serve};

/// No command of these tests takes this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The clients on this machine: one from docker, one from Debian.
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

/// A persona on a unix socket.
pub struct Server {
    pub engine: Engine,
    pub address: String,
    dir: tempfile::TempDir,
    actor: ractor::ActorRef<Message>,
}

impl Server {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::new();
        let bind = Bind::Unix(dir.path().join("docker.sock"));
        let (actor, address) = serve(Args {
            bind,
            tls: None,
            engine: engine.clone(),
        })
        .await
        .expect("served");
        Self {
            engine,
            address,
            dir,
            actor,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Runs a client with words separated by blanks.
    pub async fn run(&self, client: &Path, words: &str) -> Seen {
        self.run_with(
            client,
            words.split(' ').map(str::to_owned).collect(),
            "",
            &[],
        )
        .await
    }

    pub async fn run_with(
        &self,
        client: &Path,
        words: Vec<String>,
        input: &str,
        environment: &[(&str, &str)],
    ) -> Seen {
        let mut command = Command::new(client);
        command
            .args(&words)
            .env("DOCKER_HOST", &self.address)
            .env("DOCKER_CONFIG", self.dir.path())
            .env_remove("DOCKER_CONTEXT")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let work = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("the client runs");
            child
                .stdin
                .take()
                .expect("stdin")
                .write_all(input.as_bytes())
                .expect("written");
            child.wait_with_output().expect("the client ends")
        });
        let output = tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_| panic!("{} {words:?} did not end", client.display()))
            .expect("no panic");
        Seen::from(output)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.actor.stop(None);
    }
}

/// What a client printed.
#[derive(Debug)]
pub struct Seen {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Seen {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

#[tokio::test]
async fn the_clients_speak_every_version_that_they_can() {
    let server = Server::start().await;
    for client in clients() {
        for version in ["1.24", "1.30", "1.41", ""] {
            let environment: &[(&str, &str)] = if version.is_empty() {
                &[]
            } else {
                &[("DOCKER_API_VERSION", version)]
            };
            for words in [
                "version",
                "info",
                "ps -a",
                "images",
                "volume ls",
                "network ls",
                "network inspect bridge",
            ] {
                let words = words.split(' ').map(str::to_owned).collect();
                let seen = server.run_with(&client, words, "", environment).await;
                assert_eq!(seen.code, 0, "{} {version}: {seen:?}", client.display());
            }
        }
    }
}

#[tokio::test]
async fn run_prints_what_the_container_prints_and_ends_with_its_code() {
    let server = Server::start().await;
    for client in clients() {
        let seen = server.run(&client, "run --rm busybox echo hello").await;
        assert_eq!((seen.code, seen.out.as_str()), (0, "hello\n"), "{seen:?}");
        let seen = server.run(&client, "run --rm busybox fail sorry 3").await;
        assert_eq!(
            (seen.code, seen.out.as_str(), seen.err.as_str()),
            (3, "", "sorry\n"),
            "{seen:?}"
        );
        let words = "run --rm -i busybox cat"
            .split(' ')
            .map(str::to_owned)
            .collect();
        let seen = server.run_with(&client, words, "from stdin\n", &[]).await;
        assert_eq!(
            (seen.code, seen.out.as_str()),
            (0, "from stdin\n"),
            "{seen:?}"
        );
        assert!(server.engine.snapshots().containers().is_empty());
        let old = "run --rm busybox echo old"
            .split(' ')
            .map(str::to_owned)
            .collect();
        let seen = server
            .run_with(&client, old, "", &[("DOCKER_API_VERSION", "1.24")])
            .await;
        assert_eq!((seen.code, seen.out.as_str()), (0, "old\n"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_failed_start_ends_with_the_shells_code_and_leaves_nothing_with_rm() {
    let server = Server::start().await;
    for client in clients() {
        let seen = server.run(&client, "run --rm busybox nosuch").await;
        assert_eq!(seen.code, 127, "{seen:?}");
        assert!(
            seen.err.contains("executable file not found in $PATH"),
            "{seen:?}"
        );
        assert!(server.engine.snapshots().containers().is_empty());
    }
}

#[tokio::test]
async fn a_container_lives_through_all_verbs() {
    let server = Server::start().await;
    for client in clients() {
        let steps = [
            ("run -d --name d1 busybox sleep", 0),
            ("ps", 0),
            ("top d1", 0),
            ("pause d1", 0),
            ("unpause d1", 0),
            ("inspect d1", 0),
            ("rename d1 d2", 0),
            ("exec d2 echo inside", 0),
            ("exec d2 fail x 5", 5),
            ("exec d2 nosuch", 127),
            ("kill -s HUP d2", 0),
            ("wait d2", 0),
            ("start d2", 0),
            ("restart -t 1 d2", 0),
            ("rm d2", 1),
            ("stop -t 1 d2", 0),
            ("logs d2", 0),
            ("rm d2", 0),
        ];
        for (words, code) in steps {
            let seen = server.run(&client, words).await;
            assert_eq!(seen.code, code, "{} {words}: {seen:?}", client.display());
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_dockers_words() {
    let server = Server::start().await;
    server.engine.put(super::sample::container("taken"));
    for client in clients() {
        for (words, code, text) in [
            ("start nobody", 1, "No such container: nobody"),
            ("inspect nobody", 1, "nobody"),
            ("rm nobody", 1, "No such container: nobody"),
            (
                "run --name taken busybox true",
                125,
                "Conflict. The container name \"/taken\" is already in use by container",
            ),
            (
                "run --pull never nosuch:1 true",
                125,
                "No such image: nosuch:1",
            ),
            (
                "run -m 1m busybox true",
                125,
                "Minimum memory limit allowed is 6MB",
            ),
            (
                "run -p 80:80 busybox true",
                125,
                "publishing ports is not implemented yet",
            ),
            (
                "run --network nosuch busybox true",
                125,
                "network nosuch not found",
            ),
            (
                "run -v /tmp:/t busybox true",
                125,
                "bind source path does not exist: /tmp",
            ),
            (
                "run --cap-add nope busybox true",
                125,
                "invalid CapAdd: unknown capability: \"CAP_NOPE\"",
            ),
            (
                "run -w rel busybox true",
                125,
                "the working directory 'rel' is invalid, it needs to be an absolute path",
            ),
            ("exec taken true", 1, "is not running"),
            ("kill taken", 1, "cannot kill container: taken: container"),
            ("pause taken", 1, "is not running"),
            (
                "network rm bridge",
                1,
                "bridge is a pre-defined network and cannot be removed",
            ),
            ("volume inspect nope", 1, "such volume"),
            (
                "volume create a$b",
                1,
                "includes invalid characters for a local volume name",
            ),
            ("node ls", 1, "This node is not a swarm manager."),
            (
                "pull nosuch",
                1,
                "pull access denied for nosuch, repository does not exist or may require 'docker login'",
            ),
            (
                "diff taken",
                1,
                "GET /containers/{name}/changes is not implemented yet",
            ),
            ("ps --filter status=gone", 1, "invalid filter 'status=gone'"),
            ("images --filter nope=1", 1, "invalid filter 'nope'"),
        ] {
            let seen = server.run(&client, words).await;
            assert_eq!(seen.code, code, "{} {words}: {seen:?}", client.display());
            assert!(
                seen.err.contains(text),
                "{} {words}: {seen:?}",
                client.display()
            );
        }
    }
}

#[tokio::test]
async fn pull_load_tag_and_rmi_talk_to_the_engine() {
    let server = Server::start().await;
    for client in clients() {
        let seen = server.run(&client, "pull busybox").await;
        assert_eq!(seen.code, 0, "{seen:?}");
        assert!(
            seen.out
                .contains("Status: Downloaded newer image for busybox:latest"),
            "{seen:?}"
        );
        let words = vec!["load".to_owned()];
        let seen = server.run_with(&client, words, "some bytes", &[]).await;
        assert_eq!(
            (seen.code, seen.out.as_str()),
            (0, "Loaded image: fake:10\n"),
            "{seen:?}"
        );
        let seen = server.run(&client, "tag busybox other:1").await;
        assert_eq!(seen.code, 0, "{seen:?}");
        let seen = server.run(&client, "images -q other").await;
        assert_eq!(seen.out.trim(), "1a1a1a1a1a1a", "{seen:?}");
        let seen = server.run(&client, "rmi busybox").await;
        assert!(
            seen.out
                .starts_with("Untagged: busybox:latest\nDeleted: sha256:1a1a"),
            "{seen:?}"
        );
        let seen = server.run(&client, "volume create").await;
        assert_eq!((seen.code, seen.out.trim().len()), (0, 64), "{seen:?}");
    }
}

#[tokio::test]
async fn events_since_and_until_are_printed() {
    let server = Server::start().await;
    for client in clients() {
        server.run(&client, "run --rm busybox echo a").await;
        let until = time::OffsetDateTime::now_utc().unix_timestamp() + 1;
        let words = format!("events --since 1 --until {until} --filter event=start");
        let seen = server.run(&client, &words).await;
        assert_eq!(seen.code, 0, "{seen:?}");
        assert!(seen.out.contains("container start"), "{seen:?}");
        assert!(!seen.out.contains("container die"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_thousand_containers_are_listed_without_a_message() {
    let server = Server::start().await;
    for number in 0..1000 {
        let mut container = super::sample::container(&format!("c{number}"));
        container.phase = actors::container::Phase::Running;
        container.started_at = Some(time::OffsetDateTime::now_utc());
        server.engine.put(container);
    }
    for client in clients() {
        let seen = server.run(&client, "ps -q --no-trunc").await;
        assert_eq!(
            (seen.code, seen.out.lines().count()),
            (0, 1000),
            "{}",
            client.display()
        );
    }
    assert_eq!(server.engine.messages(), 0);
}
