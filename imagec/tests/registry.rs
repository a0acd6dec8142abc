//! Pulls from the real registry of Docker (Debian's `docker-registry`), filled by `skopeo`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/layout.rs"]
mod layout;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use imagec::unpack::{Limits, unpack};
use imagec::{
    Client, Credentials, Error, FetchEvent, Kind, LocalPolicy, Options, Platform, Reference, Spool,
};
use layout::{Layout, Packing, tar_of};

/// A registry that ends with the test.
struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, extra)
    }

    fn start_in(dir: tempfile::TempDir, extra: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let root = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{extra}",
            root.display()
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("listening on"));
        assert!(ready, "the registry did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, dir, port }
    }

    fn name(&self, rest: &str) -> Reference {
        Reference::parse(&format!("127.0.0.1:{}/{rest}", self.port)).unwrap()
    }

    fn push(&self, layout: &Path, tag: &str, name: &str, options: &[&str]) {
        let out = Command::new("skopeo")
            .args([
                "copy",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
            ])
            .args(options)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .output()
            .expect("skopeo is installed");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    fn insecure(&self) -> Client {
        let insecure = vec![format!("127.0.0.1:{}", self.port)];
        Client::new(Options {
            insecure,
            ..Options::default()
        })
        .unwrap()
    }
}

fn nobody() -> Credentials {
    Credentials::default()
}

/// Three layers of all packings, the last one with a whiteout.
fn three_layers() -> Vec<(Vec<u8>, Packing)> {
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    vec![
        (
            tar_of(&[("bin/true", b"#!"), ("etc/gone", b"x"), ("noise", &noise)]),
            Packing::Gzip,
        ),
        (tar_of(&[("etc/motd", b"hello")]), Packing::Zstd),
        (
            tar_of(&[("etc/.wh.gone", b""), ("last", b"1")]),
            Packing::Plain,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_all_packings_is_pulled_and_unpacked() {
    let registry = Registry::start("");
    let layout = Layout::new(&registry.dir.path().join("oci"));
    let layers = three_layers();
    let arm = layout.image("arm64", &[(tar_of(&[("arm", b"1")]), Packing::Gzip)]);
    let amd = layout.image("amd64", &layers);
    let index = layout.index(&[arm, amd.clone()]);
    layout.finish(&[("v1", index.clone())]);
    registry.push(&layout.dir, "v1", "team/app:v1", &[]);

    let name = registry.name("team/app:v1");
    let client = registry.insecure();
    let image = client
        .resolve(&name, Some(&"linux/amd64".parse().unwrap()), &nobody())
        .await
        .unwrap();
    assert_eq!(
        image.manifest.as_ref().unwrap().digest,
        layout::descriptor(&index).digest
    );
    assert_eq!(image.platform.to_string(), "linux/amd64");
    assert_eq!(image.layers.len(), 3);

    let spool = Spool::new(registry.dir.path());
    let root = registry.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut fetches = Vec::new();
    for layer in &image.layers {
        let said = said.clone();
        let events = Arc::new(move |event: FetchEvent| said.lock().unwrap().push(event.status()));
        fetches.push(layer.fetch(&spool, events).unwrap());
    }
    for (layer, mut fetch) in image.layers.iter().zip(fetches) {
        let (reader, root) = (fetch.reader(), root.clone());
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(reader, &root, &Limits::default()));
        assert_eq!(unpacked.await.unwrap().unwrap().diff_id, layer.diff_id);
        fetch.done().await.unwrap();
    }
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hello");
    assert!(!root.join("etc/gone").exists());
    assert_eq!(fs::metadata(root.join("noise")).unwrap().len(), 3_000_000);
    let said = said.lock().unwrap().clone();
    for status in [
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
    ] {
        assert!(said.iter().any(|s| s == status), "{status} in {said:?}");
    }
    // By digest too, of the index and of the image in it.
    for digest in [&index, &amd] {
        let by_digest = name.with_digest(layout::descriptor(digest).digest);
        let again = client.resolve(&by_digest, None, &nobody()).await.unwrap();
        assert_eq!(again.id, image.id);
    }
    let arm = client
        .resolve(&name, Some(&"linux/arm64".parse().unwrap()), &nobody())
        .await
        .unwrap();
    assert_ne!(arm.id, image.id);
    assert_eq!(client.tags(&name, &nobody()).await.unwrap(), ["v1"]);
}

#[tokio::test]
async fn dockers_own_manifest_kinds_are_pulled() {
    let registry = Registry::start("");
    let layout = Layout::new(&registry.dir.path().join("oci"));
    let image = layout.image("amd64", &[(tar_of(&[("f", b"1")]), Packing::Gzip)]);
    layout.finish(&[("one", image.clone())]);
    let out = Command::new("skopeo")
        .args(["copy", "--format", "v2s2", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:one", layout.dir.display()))
        .arg(format!("docker://127.0.0.1:{}/v2s2:one", registry.port))
        .status()
        .unwrap();
    assert!(out.success());
    let pulled = registry
        .insecure()
        .resolve(&registry.name("v2s2:one"), None, &nobody())
        .await
        .unwrap();
    assert_eq!(pulled.manifest.unwrap().media_type, imagec::DOCKER_MANIFEST);
    assert_eq!(
        pulled.layers[0].blob.media_type,
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
}

#[tokio::test]
async fn what_is_missing_gets_dockers_text() {
    let registry = Registry::start("");
    let layout = Layout::new(&registry.dir.path().join("oci"));
    let image = layout.image("s390x", &[(tar_of(&[("f", b"1")]), Packing::Gzip)]);
    let index = layout.index(std::slice::from_ref(&image));
    layout.finish(&[("z", index), ("one", image)]);
    registry.push(&layout.dir, "z", "x:z", &[]);
    registry.push(&layout.dir, "one", "x:one", &[]);
    let client = registry.insecure();
    let amd: Platform = "linux/amd64".parse().unwrap();
    let fail = async |name: &str, platform| {
        let error = client
            .resolve(&registry.name(name), platform, &nobody())
            .await
            .unwrap_err();
        (error.to_string(), error.kind())
    };
    let port = registry.port;
    for name in ["x:nope", "never/was:1"] {
        assert_eq!(
            fail(name, None).await,
            (
                format!(
                    "manifest for 127.0.0.1:{port}/{name} not found: manifest unknown: manifest unknown"
                ),
                Kind::NotFound
            )
        );
    }
    assert_eq!(
        fail("x:z", Some(&amd)).await,
        (
            "no matching manifest for linux/amd64 in the manifest list entries".into(),
            Kind::NotFound
        )
    );
    assert_eq!(
        fail("x:one", Some(&amd)).await.0,
        format!(
            "image with reference 127.0.0.1:{port}/x:one was found but its platform (linux/s390x) does not match the specified platform (linux/amd64)"
        )
    );
    let tags = client
        .tags(&registry.name("never/was"), &nobody())
        .await
        .unwrap_err();
    assert!(
        tags.to_string().starts_with(&format!(
            "repository 127.0.0.1:{port}/never/was not found: name unknown"
        )),
        "{tags}"
    );
}

#[tokio::test]
async fn plain_http_only_where_a_registry_is_named_insecure() {
    let registry = Registry::start("");
    let strict = Client::new(Options::default()).unwrap();
    let error = strict
        .resolve(&registry.name("x:1"), None, &nobody())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Get \"https://127.0.0.1:{}/v2/\": http: server gave HTTP response to HTTPS client",
            registry.port
        )
    );
    let refusing = Options {
        insecure: vec!["127.0.0.0/8".into()],
        local: LocalPolicy::Refuse {
            instead: "host.docker.internal".into(),
        },
        ..Options::default()
    };
    let refusing = Client::new(refusing).unwrap();
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let name = Reference::parse(&format!("{host}:5000/x")).unwrap();
        let error = refusing.resolve(&name, None, &nobody()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error
                .to_string()
                .contains("use host.docker.internal:5000 instead"),
            "{error}"
        );
    }
    // Nobody listens on port 1.
    let error = strict
        .resolve(&Reference::parse("127.0.0.1:1/x").unwrap(), None, &nobody())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Get \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    let error = strict
        .resolve(
            &Reference::parse("no.such.invalid/x").unwrap(),
            None,
            &nobody(),
        )
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Get \"https://no.such.invalid/v2/\": dial tcp: lookup no.such.invalid: no such host"
    );
}

#[tokio::test]
async fn certificates_are_checked_against_the_given_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&server_key, &issuer).unwrap();
    let (crt, pem) = (dir.path().join("server.crt"), dir.path().join("server.key"));
    fs::write(&crt, server.pem()).unwrap();
    fs::write(&pem, server_key.serialize_pem()).unwrap();
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        crt.display(),
        pem.display()
    );
    let registry = Registry::start_in(dir, &tls);
    let layout = Layout::new(&registry.dir.path().join("oci"));
    layout.finish(&[(
        "t",
        layout.image("amd64", &[(tar_of(&[("f", b"1")]), Packing::Gzip)]),
    )]);
    registry.push(&layout.dir, "t", "x:t", &[]);
    let name = registry.name("x:t");
    let trusting = Options {
        ca_pem: vec![ca.pem().into_bytes()],
        ..Options::default()
    };
    Client::new(trusting)
        .unwrap()
        .resolve(&name, None, &nobody())
        .await
        .unwrap();
    registry
        .insecure()
        .resolve(&name, None, &nobody())
        .await
        .unwrap();
    let error = Client::new(Options::default())
        .unwrap()
        .resolve(&name, None, &nobody())
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        ),
        "{error}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn basic_credentials_open_a_closed_registry() {
    let dir = tempfile::tempdir().unwrap();
    let passwords = dir.path().join("htpasswd");
    // bcrypt of "secret".
    fs::write(
        &passwords,
        "joe:$2b$04$NWeZIud2/rRrBvLkvztfW.N7lsYCQ5jbxGaxmUUTAb.3hxslGJWqe\n",
    )
    .unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
        passwords.display()
    );
    let registry = Registry::start_in(dir, &auth);
    let layout = Layout::new(&registry.dir.path().join("oci"));
    layout.finish(&[(
        "t",
        layout.image("amd64", &[(tar_of(&[("f", b"1")]), Packing::Gzip)]),
    )]);
    registry.push(&layout.dir, "t", "x:t", &["--dest-creds", "joe:secret"]);
    let name = registry.name("x:t");
    let client = registry.insecure();
    let joe = Credentials::basic("joe", "secret");
    let image = client.resolve(&name, None, &joe).await.unwrap();
    let spool = Spool::new(registry.dir.path());
    image.layers[0]
        .fetch(&spool, Arc::new(|_| {}))
        .unwrap()
        .done()
        .await
        .unwrap();
    let error = client.resolve(&name, None, &nobody()).await.unwrap_err();
    assert!(
        error.to_string().ends_with("no basic auth credentials"),
        "{error}"
    );
    let error = client
        .resolve(&name, None, &Credentials::basic("joe", "wrong"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}
