//! What no real registry does on demand: tokens, broken lines, lies, busy servers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/layout.rs"]
mod layout;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use imagec::unpack::{Limits, unpack};
use imagec::{
    Client, Credentials, Digest, Error, Fetch, FetchEvent, Image, Options, Reference, Spool,
};
use layout::{Layout, Packing, tar_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request before it answers properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Sends half of the body, then closes.
    Cut,
    /// Changes one byte.
    Lie,
    /// Sends more than it should.
    Longer,
    /// Answers with this status.
    Status(u16),
}

#[derive(Default)]
struct World {
    /// Path → content type, body.
    pages: HashMap<String, (String, Vec<u8>)>,
    /// Path → what goes wrong, in order.
    faults: HashMap<String, Vec<Fault>>,
    /// Ask for a token; the one user that gets one.
    user: Option<(String, String)>,
    /// The token that is good now, and how many were given out.
    token: String,
    tokens: usize,
    asked: Vec<String>,
}

struct Server {
    port: u16,
    world: Arc<Mutex<World>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world: Arc<Mutex<World>> = Arc::default();
        let shared = world.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, shared.clone(), port));
            }
        });
        Self { port, world }
    }

    fn name(&self, rest: &str) -> Reference {
        Reference::parse(&format!("127.0.0.1:{}/{rest}", self.port)).unwrap()
    }

    fn client(&self) -> Client {
        Client::new(Options {
            insecure: vec!["127.0.0.1".into()],
            ..Options::default()
        })
        .unwrap()
    }

    fn fault(&self, path: &str, faults: &[Fault]) {
        self.world
            .lock()
            .unwrap()
            .faults
            .insert(path.to_owned(), faults.to_vec());
    }

    /// Serves one image as `app:1` and returns the paths of its manifest and layers.
    fn serve_image(&self, layers: &[(Vec<u8>, Packing)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let manifest = layout::descriptor(&layout.image("amd64", layers));
        let mut world = self.world.lock().unwrap();
        for blob in std::fs::read_dir(layout.dir.join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let path = format!(
                "/v2/app/blobs/sha256:{}",
                blob.file_name().to_str().unwrap()
            );
            world.pages.insert(
                path,
                (
                    "application/octet-stream".into(),
                    std::fs::read(blob.path()).unwrap(),
                ),
            );
        }
        let bytes =
            std::fs::read(layout.dir.join("blobs/sha256").join(manifest.digest.hex())).unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for key in ["1", manifest.digest.as_str()] {
            let path = format!("/v2/app/manifests/{key}");
            world
                .pages
                .insert(path, (imagec::OCI_MANIFEST.into(), bytes.clone()));
        }
        let layers = parsed["layers"].as_array().unwrap();
        let mut paths = vec!["/v2/app/manifests/1".to_owned()];
        paths.extend(
            layers
                .iter()
                .map(|l| format!("/v2/app/blobs/{}", l["digest"].as_str().unwrap())),
        );
        paths
    }

    async fn resolve(&self, credentials: &Credentials) -> Result<Image, Error> {
        self.client()
            .resolve(&self.name("app:1"), None, credentials)
            .await
    }
}

async fn answer(mut stream: TcpStream, world: Arc<Mutex<World>>, port: u16) {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            let mut more = [0; 4096];
            match stream.read(&mut more).await {
                Ok(n) if n > 0 => input.extend_from_slice(&more[..n]),
                _ => return,
            }
            // A TLS hello: this server speaks HTTP only.
            if input[0] == 22 {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
                return;
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        let length = header(&head, "content-length")
            .and_then(|l| l.parse::<usize>().ok())
            .unwrap_or(0);
        while input.len() < end + length {
            let mut more = [0; 4096];
            let n = stream.read(&mut more).await.unwrap_or(0);
            input.extend_from_slice(&more[..n]);
        }
        let form = String::from_utf8_lossy(&input[end..end + length]).into_owned();
        input.drain(..end + length);
        let (bytes, close) = reply(&head, &form, &world, port);
        if stream.write_all(&bytes).await.is_err() || close {
            return;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn reply(head: &str, form: &str, world: &Mutex<World>, port: u16) -> (Vec<u8>, bool) {
    let mut world = world.lock().unwrap();
    let target = head
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    world.asked.push(target.clone());
    let page = |status: u16, kind: &str, extra: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{extra}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let login = header(head, "authorization").unwrap_or_default();
    if path == "/token" {
        let good = match &world.user {
            Some((user, password)) => {
                login
                    == format!(
                        "Basic {}",
                        BASE64_STANDARD.encode(format!("{user}:{password}"))
                    )
                    || form.contains("refresh_token=refresh-me")
            }
            None => true,
        };
        if !good {
            return (page(401, "application/json", "", b"{}"), false);
        }
        world.tokens += 1;
        world.token = format!("token-{}", world.tokens);
        let body = format!(r#"{{"token":"{}"}}"#, world.token);
        return (page(200, "application/json", "", body.as_bytes()), false);
    }
    if world.user.is_some() && login != format!("Bearer {}", world.token) {
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"here\",scope=\"repository:app:pull\"\r\n"
        );
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return (page(401, "application/json", &challenge, body), false);
    }
    if path == "/v2/" {
        return (page(200, "application/json", "", b"{}"), false);
    }
    let fault = world
        .faults
        .get_mut(&path)
        .and_then(|f| (!f.is_empty()).then(|| f.remove(0)));
    let Some((kind, body)) = world.pages.get(&path) else {
        return (page(404, "text/plain", "", b"nothing here"), false);
    };
    match fault {
        None => (page(200, kind, "", body), false),
        Some(Fault::Status(429)) => {
            let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
            (page(429, "application/json", "", body), false)
        }
        Some(Fault::Status(status)) => (page(status, "text/html", "", b"<html>"), false),
        Some(Fault::Cut) => {
            let whole = page(200, kind, "", body);
            (whole[..whole.len() - body.len() / 2].to_vec(), true)
        }
        Some(Fault::Lie) => {
            let mut wrong = body.clone();
            wrong[body.len() / 2] ^= 1;
            (page(200, kind, "", &wrong), false)
        }
        Some(Fault::Longer) => (page(200, kind, "", &[&body[..], b"more"].concat()), false),
    }
}

fn nobody() -> Credentials {
    Credentials::default()
}

fn noise(seed: u32, len: u32) -> Vec<u8> {
    (0..len)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 15) as u8)
        .collect()
}

/// Fetches the first layer without waits between tries.
fn fetch(image: &Image, said: &Arc<Mutex<Vec<FetchEvent>>>) -> Fetch {
    let spool = Spool::new(&std::env::temp_dir()).with_back_off(Duration::from_millis(1));
    let said = said.clone();
    image.layers[0]
        .fetch(
            &spool,
            Arc::new(move |event| said.lock().unwrap().push(event)),
        )
        .unwrap()
}

async fn read_all(fetch: &Fetch) -> std::io::Result<Vec<u8>> {
    let mut reader = fetch.reader();
    let read = move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test]
async fn a_token_is_got_with_the_users_credentials_and_renewed_when_it_is_old() {
    let server = Server::start().await;
    server.serve_image(&[(tar_of(&[("f", &noise(1, 1000))]), Packing::Gzip)]);
    server.world.lock().unwrap().user = Some(("joe".into(), "secret".into()));
    let joe = Credentials::from_header(
        &BASE64_URL_SAFE.encode(r#"{"username":"joe","password":"secret"}"#),
    );
    let image = server.resolve(&joe).await.unwrap();
    assert_eq!(server.world.lock().unwrap().tokens, 1);
    let asked = server.world.lock().unwrap().asked.clone();
    assert!(
        asked
            .iter()
            .any(|t| t == "/token?service=here&scope=repository%3Aapp%3Apull&account=joe"),
        "{asked:?}"
    );
    // The token runs out; the layer is fetched all the same.
    server.world.lock().unwrap().token = "another".into();
    let said = Arc::default();
    fetch(&image, &said).done().await.unwrap();
    assert_eq!(server.world.lock().unwrap().tokens, 2);
    let identity =
        Credentials::from_header(&BASE64_URL_SAFE.encode(r#"{"identitytoken":"refresh-me"}"#));
    server.resolve(&identity).await.unwrap();
    let denied = server.resolve(&nobody()).await.unwrap_err();
    assert_eq!(
        denied.to_string(),
        format!(
            "pull access denied for 127.0.0.1:{}/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            server.port
        )
    );
    let wrong = server
        .resolve(&Credentials::basic("joe", "wrong"))
        .await
        .unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "unauthorized: incorrect username or password"
    );
}

#[tokio::test]
async fn a_broken_line_is_taken_up_again_and_readers_see_every_byte_once() {
    let server = Server::start().await;
    let tar = tar_of(&[("f", &noise(2, 500_000))]);
    let paths = server.serve_image(&[(tar.clone(), Packing::Plain)]);
    server.fault(&paths[0], &[Fault::Status(503), Fault::Status(429)]);
    server.fault(
        &paths[1],
        &[Fault::Cut, Fault::Status(500), Fault::Lie, Fault::Cut],
    );
    let image = server.resolve(&nobody()).await.unwrap();
    let said = Arc::default();
    let mut fetch = fetch(&image, &said);
    let bytes = read_all(&fetch).await.unwrap();
    fetch.done().await.unwrap();
    assert_eq!(bytes.len(), tar.len());
    assert_eq!(
        said.lock()
            .unwrap()
            .iter()
            .filter(|e| **e == FetchEvent::Downloaded)
            .count(),
        1
    );
}

#[tokio::test]
async fn bytes_with_the_wrong_digest_never_end_well() {
    let server = Server::start().await;
    let paths = server.serve_image(&[(tar_of(&[("f", &noise(3, 100_000))]), Packing::Gzip)]);
    let image = server.resolve(&nobody()).await.unwrap();
    for fault in [Fault::Lie, Fault::Longer] {
        server.fault(&paths[1], &[fault; 5]);
        let said = Arc::default();
        let mut fetch = fetch(&image, &said);
        let (reader, root) = (fetch.reader(), tempfile::tempdir().unwrap());
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(reader, root.path(), &Limits::default()));
        assert!(unpacked.await.unwrap().is_err(), "{fault:?}");
        let error = fetch.done().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "filesystem layer verification failed for digest {}",
                image.layers[0].blob.digest
            )
        );
    }
    // Manifests and configurations are checked before they are read.
    server.fault(&paths[0], &[Fault::Lie]);
    let by_digest = server
        .name("app")
        .with_digest(image.manifest.clone().unwrap().digest);
    server.fault(
        &format!("/v2/app/manifests/{}", by_digest.digest().unwrap()),
        &[Fault::Lie],
    );
    let error = server
        .client()
        .resolve(&by_digest, None, &nobody())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ManifestDigest { .. }), "{error}");
    server.fault(&paths[0], &[]);
    server.fault(&format!("/v2/app/blobs/{}", image.id), &[Fault::Lie]);
    let error = server.resolve(&nobody()).await.unwrap_err();
    assert!(matches!(error, Error::ManifestDigest { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_stays_down_is_given_up_with_dockers_words() {
    let server = Server::start().await;
    let paths = server.serve_image(&[(tar_of(&[("f", b"1")]), Packing::Gzip)]);
    let image = server.resolve(&nobody()).await.unwrap();
    server.fault(&paths[1], &[Fault::Status(500); 50]);
    let said = Arc::default();
    let mut fetch = fetch(&image, &said);
    let error = fetch.done().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "received unexpected HTTP status: 500 Internal Server Error"
    );
    assert!(read_all(&fetch).await.is_err());
    server.fault(&paths[0], &[Fault::Status(429); 10]);
    assert_eq!(
        server.resolve(&nobody()).await.unwrap_err().to_string(),
        "toomanyrequests: slow down"
    );
}

#[tokio::test]
async fn three_layers_are_fetched_at_once_and_the_others_wait() {
    let server = Server::start().await;
    let layers: Vec<_> = (0..6)
        .map(|i| (tar_of(&[("f", &noise(i, 200_000))]), Packing::Gzip))
        .collect();
    server.serve_image(&layers);
    let image = server.resolve(&nobody()).await.unwrap();
    let spool = Spool::new(&std::env::temp_dir());
    let waited = Arc::new(Mutex::new(0));
    let mut all = Vec::new();
    for layer in &image.layers {
        let waited = waited.clone();
        let events = Arc::new(move |event| {
            if event == FetchEvent::Waiting {
                *waited.lock().unwrap() += 1;
            }
        });
        all.push(layer.fetch(&spool, events).unwrap());
    }
    for fetch in &mut all {
        fetch.done().await.unwrap();
    }
    assert_eq!(*waited.lock().unwrap(), 3);
}

#[tokio::test]
async fn a_dropped_fetch_ends_its_readers() {
    let server = Server::start().await;
    let paths = server.serve_image(&[(tar_of(&[("f", &noise(9, 100_000))]), Packing::Gzip)]);
    let image = server.resolve(&nobody()).await.unwrap();
    server.fault(&paths[1], &[Fault::Cut; 5]);
    let spool = Spool::new(&std::env::temp_dir()).with_back_off(Duration::from_secs(600));
    let fetch = image.layers[0].fetch(&spool, Arc::new(|_| {})).unwrap();
    let mut reader = fetch.reader();
    let reading =
        tokio::task::spawn_blocking(move || std::io::copy(&mut reader, &mut std::io::sink()));
    drop(fetch);
    let error = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.to_string(), "the transfer was cancelled");
    assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
}
