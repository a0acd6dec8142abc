//! The persona over raw sockets: heads, hijacks, half-closes, order.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::cli::Server;
use super::fake::Engine;
use crate::docker::frames;
use crate::docker::{Args, Bind, Message, serve, server_config};

/// Nothing in these tests takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .expect("done by its deadline")
}

/// Reads until the end of the head, answering it and what came beyond.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
    let mut seen = Vec::new();
    loop {
        if let Some(at) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = seen.split_off(at + 4);
            return (String::from_utf8(seen).expect("text"), rest);
        }
        let read = in_time(stream.read_buf(&mut seen)).await.expect("read");
        assert!(
            read > 0,
            "closed within the head: {}",
            String::from_utf8_lossy(&seen)
        );
    }
}

async fn rest(stream: &mut (impl AsyncRead + Unpin), mut seen: Vec<u8>) -> Vec<u8> {
    in_time(stream.read_to_end(&mut seen)).await.expect("read");
    seen
}

/// One request with `Connection: close`.
pub(super) async fn ask(server: &Server, method: &str, path: &str, body: &str) -> (String, String) {
    let mut stream = UnixStream::connect(server.socket())
        .await
        .expect("connected");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let (head, seen) = head(&mut stream).await;
    let body = rest(&mut stream, seen).await;
    (head, String::from_utf8_lossy(&body).into_owned())
}

async fn create(server: &Server, name: &str, extra: serde_json::Value) -> String {
    let mut body = serde_json::json!({"Image": "busybox"});
    for (key, value) in extra.as_object().expect("object") {
        body[key] = value.clone();
    }
    let (head, answer) = ask(
        server,
        "POST",
        &format!("/containers/create?name={name}"),
        &body.to_string(),
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 201 Created\r\n"),
        "{head}{answer}"
    );
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("json");
    answer["Id"].as_str().expect("an id").to_owned()
}

async fn upgrade(server: &Server, path: &str, body: &str) -> (UnixStream, String, Vec<u8>) {
    let mut stream = UnixStream::connect(server.socket())
        .await
        .expect("connected");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let (head, seen) = head(&mut stream).await;
    (stream, head, seen)
}

#[tokio::test]
async fn every_answer_has_dockers_headers() {
    let server = Server::start().await;
    for path in [
        "/_ping",
        "/nothing",
        "/v1.30/containers/none/json",
        "/v1.99/info",
    ] {
        let (head, _) = ask(&server, "GET", path, "").await;
        for field in [
            "Api-Version: 1.55\r\n",
            "Docker-Experimental: false\r\n",
            "Ostype: linux\r\n",
            "Server: Docker/",
        ] {
            assert!(head.contains(field), "{path}: {head}");
        }
    }
    let (head, body) = ask(&server, "HEAD", "/_ping", "").await;
    assert!(
        head.contains("Content-Length: 0\r\n") && body.is_empty(),
        "{head}{body}"
    );
    let (head, body) = ask(&server, "GET", "/_ping", "").await;
    assert!(
        head.contains("Swarm: inactive\r\n") && head.contains("Builder-Version: 1\r\n"),
        "{head}"
    );
    assert_eq!(body, "OK");
}

#[tokio::test]
async fn paths_and_versions_that_are_not_ours_are_refused_in_mobys_words() {
    let server = Server::start().await;
    for (method, path, status, body) in [
        (
            "GET",
            "/nothing",
            "404",
            "{\"message\":\"page not found\"}\n",
        ),
        ("PUT", "/info", "404", "{\"message\":\"page not found\"}\n"),
        (
            "GET",
            "/v1.24/distribution/x/json",
            "404",
            "{\"message\":\"page not found\"}\n",
        ),
        (
            "GET",
            "/v1.99/info",
            "400",
            "{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.55\"}\n",
        ),
        (
            "GET",
            "/v1.10/info",
            "400",
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n",
        ),
        (
            "GET",
            "/containers/x/stats",
            "501",
            "{\"message\":\"GET /containers/{name}/stats is not implemented yet\"}\n",
        ),
        (
            "GET",
            "/plugins/x/json",
            "404",
            "{\"message\":\"plugin \\\"x\\\" not found\"}\n",
        ),
        ("GET", "/plugins", "200", "[]\n"),
        ("OPTIONS", "/info", "200", ""),
        (
            "POST",
            "/containers/create",
            "400",
            "{\"message\":\"invalid JSON: got EOF while reading request body\"}\n",
        ),
        (
            "GET",
            "/images/a%2Fb%3Ac/json",
            "404",
            "{\"message\":\"No such image: a/b:c\"}\n",
        ),
        (
            "GET",
            "/images/a/b:c/json",
            "404",
            "{\"message\":\"No such image: a/b:c\"}\n",
        ),
    ] {
        let (head, seen) = ask(&server, method, path, "").await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {head}"
        );
        assert_eq!(seen, body, "{path}");
    }
    let (head, body) = ask(&server, "GET", "/swarm", "").await;
    assert!(
        head.starts_with("HTTP/1.1 503 ") && body.contains("This node is not a swarm manager."),
        "{head}{body}"
    );
}

#[tokio::test]
async fn the_head_of_wait_comes_before_the_exit() {
    let server = Server::start().await;
    let id = create(&server, "w1", serde_json::json!({"Cmd": ["exit", "3"]})).await;
    let mut stream = UnixStream::connect(server.socket())
        .await
        .expect("connected");
    let request =
        format!("POST /containers/{id}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let (head, seen) = head(&mut stream).await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Transfer-Encoding: chunked"),
        "{head}"
    );
    assert!(seen.is_empty());
    let (started, _) = ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    assert!(started.starts_with("HTTP/1.1 204 "), "{started}");
    let mut body = seen;
    while !String::from_utf8_lossy(&body).contains("}\n") {
        in_time(stream.read_buf(&mut body)).await.expect("read");
    }
    assert!(String::from_utf8_lossy(&body).contains("{\"StatusCode\":3}\n"));
}

#[tokio::test]
async fn a_waiter_goes_with_its_client() {
    let server = Server::start().await;
    let id = create(&server, "w2", serde_json::json!({"Cmd": ["sleep"]})).await;
    let mut stream = UnixStream::connect(server.socket())
        .await
        .expect("connected");
    let request =
        format!("POST /containers/{id}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    head(&mut stream).await;
    let id = id.parse().expect("an id");
    assert_eq!(server.engine.waiters(id), 1);
    drop(stream);
    in_time(async {
        while server.engine.waiters(id) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn attach_to_a_created_container_gets_the_first_byte_and_all_others() {
    let server = Server::start().await;
    let id = create(&server, "a1", serde_json::json!({"Cmd": ["flood", "4"]})).await;
    let (mut stream, head, seen) = upgrade(
        &server,
        &format!("/v1.50/containers/{id}/attach?stream=1&stdout=1&stderr=1"),
        "",
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: application/vnd.docker.multiplexed-stream\r\n"),
        "{head}"
    );
    assert!(
        head.contains("Connection: Upgrade\r\n") && head.contains("Upgrade: tcp\r\n"),
        "{head}"
    );
    assert!(!head.contains("Api-Version"), "{head}");
    stream.shutdown().await.expect("half-closed");
    ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    let bytes = rest(&mut stream, seen).await;
    let (frames, left) = frames::decode(&bytes);
    assert!(left.is_empty());
    assert_eq!(frames.iter().map(|(_, p)| p.len()).sum::<usize>(), 4 << 20);
    assert!(frames.iter().all(|(channel, _)| *channel == 1));
}

#[tokio::test]
async fn a_half_close_is_the_end_of_stdin_and_the_output_goes_on() {
    let server = Server::start().await;
    let extra = serde_json::json!({"Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true});
    let id = create(&server, "a2", extra).await;
    let (mut stream, head, seen) = upgrade(
        &server,
        &format!("/v1.41/containers/{id}/attach?stream=1&stdout=1&stdin=1"),
        "",
    )
    .await;
    assert!(
        head.contains("Content-Type: application/vnd.docker.raw-stream\r\n"),
        "{head}"
    );
    stream.write_all(b"hello\n").await.expect("written");
    stream.shutdown().await.expect("half-closed");
    ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    let bytes = rest(&mut stream, seen).await;
    let (frames, _) = frames::decode(&bytes);
    assert_eq!(frames, vec![(1, b"hello\n".to_vec())]);
}

#[tokio::test]
async fn detach_keys_end_a_terminals_stream_and_nothing_else() {
    let server = Server::start().await;
    let extra = serde_json::json!({"Cmd": ["cat"], "OpenStdin": true, "Tty": true});
    let id = create(&server, "a3", extra).await;
    let path = format!("/containers/{id}/attach?stream=1&stdout=1&stdin=1&detachKeys=ctrl-x,y");
    let (mut stream, head, seen) = upgrade(&server, &path, "").await;
    assert!(head.contains("raw-stream"), "{head}");
    ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    stream.write_all(b"a\x18y").await.expect("written");
    let bytes = rest(&mut stream, seen).await;
    assert!(bytes == b"a" || bytes.is_empty());
    let (head, bad) = ask(
        &server,
        "POST",
        &format!("/containers/{id}/attach?detachKeys=ctrl-1"),
        "",
    )
    .await;
    // On the stream that was asked for, as moby says it.
    assert!(
        head.starts_with("HTTP/1.1 400 ") && head.contains("application/vnd.docker.raw-stream"),
        "{head}"
    );
    assert_eq!(bad, "Invalid detach keys (ctrl-1) provided\r\n");
}

#[tokio::test]
async fn without_upgrade_attach_is_a_plain_answer_until_the_end() {
    let server = Server::start().await;
    let id = create(&server, "a4", serde_json::json!({"Cmd": ["echo", "a"]})).await;
    let mut stream = UnixStream::connect(server.socket())
        .await
        .expect("connected");
    let request =
        format!("POST /containers/{id}/attach?stream=true&stdout=true HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let (head, seen) = head(&mut stream).await;
    assert!(
        head.contains(" 200 OK\r\n") && head.contains("application/vnd.docker.raw-stream"),
        "{head}"
    );
    assert!(
        !head.contains("chunked") && !head.contains("Content-Length"),
        "{head}"
    );
    ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    let bytes = rest(&mut stream, seen).await;
    assert_eq!(frames::decode(&bytes).0, vec![(1, b"a\n".to_vec())]);
}

#[tokio::test]
async fn an_exec_has_its_code_when_its_stream_ends() {
    let server = Server::start().await;
    let id = create(&server, "e1", serde_json::json!({"Cmd": ["sleep"]})).await;
    ask(&server, "POST", &format!("/containers/{id}/start"), "").await;
    let body = r#"{"AttachStdout":true,"AttachStderr":true,"Cmd":["fail","x","9"]}"#;
    let (_, answer) = ask(&server, "POST", &format!("/containers/{id}/exec"), body).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("json");
    let exec = answer["Id"].as_str().expect("an id");
    let (mut stream, head, seen) = upgrade(
        &server,
        &format!("/v1.50/exec/{exec}/start"),
        r#"{"Detach":false,"Tty":false}"#,
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 101 UPGRADED\r\n") && head.contains("Api-Version: 1.55\r\n"),
        "{head}"
    );
    assert_eq!(
        frames::decode(&rest(&mut stream, seen).await).0,
        vec![(2, b"x\n".to_vec())]
    );
    let (_, inspected) = ask(&server, "GET", &format!("/exec/{exec}/json"), "").await;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("json");
    assert_eq!(
        (&inspected["ExitCode"], &inspected["Running"]),
        (&9.into(), &false.into())
    );
    let (head, again) = ask(&server, "POST", &format!("/exec/{exec}/start"), "{}").await;
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
    assert_eq!(
        again,
        format!("{{\"message\":\"exec command {exec} has already run\"}}\n")
    );
    let (_, none) = ask(&server, "POST", &format!("/containers/{id}/exec"), "{}").await;
    assert_eq!(none, "{\"message\":\"No exec command specified\"}\n");
}

#[tokio::test]
async fn a_drained_persona_answers_what_it_has_begun() {
    let dir = tempfile::tempdir().expect("a directory");
    let bind = Bind::Unix(dir.path().join("s"));
    let (actor, _) = serve(Args {
        bind,
        tls: None,
        engine: Engine::new(),
    })
    .await
    .expect("served");
    let mut stream = UnixStream::connect(dir.path().join("s"))
        .await
        .expect("connected");
    stream
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("written");
    let (head, _) = head(&mut stream).await;
    assert!(head.contains("200 OK"), "{head}");
    let drained = in_time(async { ractor::call!(actor, Message::Drain) });
    drained.await.expect("drained");
    assert!(UnixStream::connect(dir.path().join("s")).await.is_err());
    actor.stop(None);
}

#[tokio::test]
async fn below_1_30_wait_has_no_condition_and_answers_at_the_end() {
    let server = Server::start().await;
    let id = create(&server, "w3", serde_json::json!({"Cmd": ["sleep"]})).await;
    // A created container does not run: without a condition there is nothing to wait for.
    let (_, body) = ask(
        &server,
        "POST",
        &format!("/v1.29/containers/{id}/wait?condition=next-exit"),
        "",
    )
    .await;
    assert_eq!(body, "{\"StatusCode\":0}\n");
    let (_, bad) = ask(
        &server,
        "POST",
        &format!("/v1.30/containers/{id}/wait?condition=x"),
        "",
    )
    .await;
    assert_eq!(bad, "{\"message\":\"invalid condition: \\\"x\\\"\"}\n");
}

#[tokio::test]
async fn images_are_filtered_by_the_old_parameter_below_1_41() {
    let server = Server::start().await;
    let (_, old) = ask(&server, "GET", "/v1.40/images/json?filter=nothing", "").await;
    assert_eq!(old, "[]\n");
    let (_, new) = ask(&server, "GET", "/v1.41/images/json?filter=nothing", "").await;
    assert!(new.contains("busybox:latest"), "{new}");
}

#[tokio::test]
async fn create_takes_a_platform_from_1_41() {
    let server = Server::start().await;
    let body = r#"{"Image":"busybox"}"#;
    let (head, _) = ask(
        &server,
        "POST",
        "/v1.40/containers/create?platform=linux/arm64",
        body,
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    let (head, _) = ask(
        &server,
        "POST",
        "/v1.41/containers/create?platform=linux/arm64",
        body,
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

/// A CA, and what it signs.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("signed");
        Self {
            certificate,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn sign(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (
            certificate.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("root");
        roots
    }
}

async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<Vec<u8>> {
    stream
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await?;
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).await?;
    Ok(seen)
}

#[tokio::test]
async fn over_tls_only_clients_with_a_certificate_are_let_in() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let pem = |label: &str, der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let config = server_config(
        pem("CERTIFICATE", &certificate).as_bytes(),
        pem("PRIVATE KEY", key.secret_der()).as_bytes(),
        Some(pem("CERTIFICATE", authority.certificate.der()).as_bytes()),
    )
    .expect("configuration");
    let bind = Bind::Tcp("127.0.0.1:0".parse().expect("address"));
    let engine = Engine::new();
    let (actor, address) = serve(Args {
        bind,
        tls: Some(config),
        engine,
    })
    .await
    .expect("served");
    let address = address.strip_prefix("tcp://").expect("tcp").to_owned();

    let builder = || {
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(authority.roots())
    };
    let (certificate, key) = authority.sign("client");
    let known = builder()
        .with_client_auth_cert(vec![certificate], key)
        .expect("certificate");
    for (client, welcome) in [(known, true), (builder().with_no_client_auth(), false)] {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let tcp = TcpStream::connect(&address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("name");
        let seen = in_time(async {
            let mut stream = connector.connect(name, tcp).await?;
            talk(&mut stream).await
        })
        .await;
        assert_eq!(seen.is_ok_and(|bytes| bytes.ends_with(b"OK")), welcome);
    }
    actor.stop(None);
}
