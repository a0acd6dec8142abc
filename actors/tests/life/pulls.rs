//! Ten pulls of one image at once: every layer is fetched once and written once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use actors::image::{Progress, PullRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::bench::{Bench, Options, config_of, digest, layers};

/// How many want the image, and how many layers it has.
const PULLS: u64 = 10;
const LAYERS: usize = 3;

/// What a registry has, by path, with the type of its content.
type Shelf = Arc<BTreeMap<String, (&'static str, Vec<u8>)>>;

/// How often each path was fetched.
type Fetched = Arc<Mutex<BTreeMap<String, u64>>>;

/// A registry's answers, as far as one image goes.
async fn serve(mut line: TcpStream, shelf: Shelf, fetched: Fetched) {
    let mut head = Vec::new();
    let mut byte = [0];
    while let Ok(1) = line.read(&mut byte).await {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let mut words = text.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let answer = match shelf.get(path) {
            Some((kind, bytes)) => {
                if method == "GET" {
                    *fetched.lock().unwrap().entry(path.to_owned()).or_default() += 1;
                }
                let mut answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {}\r\n\
                     Content-Length: {}\r\n\r\n",
                    digest(bytes),
                    bytes.len()
                )
                .into_bytes();
                if method == "GET" {
                    answer.extend_from_slice(bytes);
                }
                answer
            }
            None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        };
        if line.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_pulls_at_once_fetch_and_write_each_layer_once() {
    let layers = layers("pulled", LAYERS);
    let config = config_of(&layers);
    let blob = |kind: &str, bytes: &[u8]| {
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes), "size": bytes.len()})
    };
    let parts: Vec<_> = layers.iter().map(|l| blob("layer.v1.tar", l)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2,
        "mediaType": kind, "config": blob("config.v1+json", &config), "layers": parts}))
    .unwrap();
    let path = |bytes: &[u8]| format!("/v2/x/blobs/{}", digest(bytes));
    let mut shelf = BTreeMap::from([
        ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
        (
            "/v2/x/manifests/latest".to_owned(),
            (kind, manifest.clone()),
        ),
        (
            format!("/v2/x/manifests/{}", digest(&manifest)),
            (kind, manifest),
        ),
        (path(&config), ("application/octet-stream", config)),
    ]);
    for layer in &layers {
        shelf.insert(path(layer), ("application/octet-stream", layer.clone()));
    }
    let (shelf, fetched) = (Shelf::new(shelf), Fetched::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    // A spelling of this machine's address that is not taken for the appliance's own.
    let registry = format!("127.1:{}", listener.local_addr().unwrap().port());
    let mut serving = JoinSet::new();
    let counted = fetched.clone();
    serving.spawn(async move {
        let mut lines = JoinSet::new();
        while let Ok((line, _)) = listener.accept().await {
            lines.spawn(serve(line, shelf.clone(), counted.clone()));
        }
    });

    let bench = Bench::with(Options {
        insecure: vec![registry.clone()],
        ..Options::default()
    })
    .await;
    bench.take_mounts();
    bench.take_calls();
    let mut pulls = JoinSet::new();
    for _ in 0..PULLS {
        let (engine, image) = (bench.world.engine.clone(), format!("{registry}/x"));
        pulls.spawn(async move {
            let wanted = PullRequest {
                image,
                tag: Some("latest".into()),
                ..PullRequest::default()
            };
            let mut transfer = engine.pull(wanted).await.expect("accepted");
            while let Some(step) = transfer.progress.recv().await {
                assert!(!matches!(step, Progress::Failed(_)), "{step:?}");
            }
        });
    }
    while let Some(pulled) = pulls.join_next().await {
        pulled.expect("pulled");
    }
    let images = bench.world.engine.snapshots().images();
    assert_eq!(images.len(), 1);
    assert_eq!(
        bench.take_mounts(),
        LAYERS as u64,
        "a layer is mounted once, to be written"
    );
    let fetched = fetched.lock().unwrap().clone();
    for layer in &layers {
        assert_eq!(fetched.get(&path(layer)), Some(&1), "{fetched:?}");
    }
    let calls = bench.take_calls();
    println!("{calls:?}");
    // Its disk is put on the appliance and taken off again: one of each for a layer and for the blank disk.
    let changes = calls["ReconfigVM_Task"];
    assert!(
        changes <= 2 * (LAYERS as u64 + 1),
        "{changes} changes of the appliance"
    );
    let markers = bench
        .files()
        .into_iter()
        .filter(|f| f.ends_with("/layer.json"));
    assert_eq!(markers.count(), LAYERS);
    bench.stop().await;
}
