//! Archives for `docker load`: as `skopeo` and `docker save` write them, and broken ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/layout.rs"]
mod layout;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use imagec::archive::{LoadedImage, open, spool};
use imagec::unpack::{Limits, unpack};
use imagec::{Error, Kind, Spool};
use layout::{Layout, Packing, tar_of};
use proptest::prelude::*;
use serde_json::Value;

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn layers() -> Vec<(Vec<u8>, Packing)> {
    vec![
        (tar_of(&[("a", b"1"), ("b", b"2")]), Packing::Gzip),
        (tar_of(&[(".wh.a", b""), ("c", b"3")]), Packing::Gzip),
    ]
}

fn sample(dir: &Path) -> Layout {
    let layout = Layout::new(&dir.join("oci"));
    let amd = layout.image("amd64", &layers());
    let arm = layout.image("arm64", &[(tar_of(&[("arm", b"1")]), Packing::Zstd)]);
    let index = layout.index(&[arm, amd.clone()]);
    layout.finish(&[
        ("docker.io/library/app:1", amd),
        ("quay.io/team/multi:2", index),
    ]);
    layout
}

fn spooled(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    spool(bytes, &mut file).unwrap();
    file
}

/// Unpacks an image and says what files came out.
fn contents(loaded: &LoadedImage) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let spool = Spool::new(root.path());
    for layer in &loaded.image.layers {
        let fetch = layer.fetch(&spool, Arc::new(|_| {})).unwrap();
        let unpacked = unpack(fetch.reader(), root.path(), &Limits::default()).unwrap();
        assert_eq!(unpacked.diff_id, layer.diff_id);
    }
    let mut names: Vec<_> = fs::read_dir(root.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn tags(loaded: &LoadedImage) -> Vec<String> {
    loaded.tags.iter().map(|t| t.familiar()).collect()
}

#[test]
fn a_docker_archive_is_loaded_plain_and_gzipped() {
    let dir = tempfile::tempdir().unwrap();
    let layout = sample(dir.path());
    let tar = dir.path().join("saved.tar");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{}:docker.io/library/app:1", layout.dir.display()),
            &format!("docker-archive:{}:app:1", tar.display()),
        ],
    );
    let plain = fs::read(&tar).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for upload in [plain, gzip.finish().unwrap()] {
        let loaded = open(spooled(&upload), None).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(tags(&loaded[0]), ["app:1"]);
        assert_eq!(contents(&loaded[0]), ["b", "c"]);
    }
}

#[test]
fn an_oci_layout_is_loaded_for_the_platform() {
    let dir = tempfile::tempdir().unwrap();
    let layout = sample(dir.path());
    let tar = dir.path().join("layout.tar");
    run(
        "tar",
        &[
            "-C",
            layout.dir.to_str().unwrap(),
            "-cf",
            tar.to_str().unwrap(),
            ".",
        ],
    );
    let amd = "linux/amd64".parse().unwrap();
    let loaded = open(spooled(&fs::read(&tar).unwrap()), Some(&amd)).unwrap();
    // Both names mean one image here.
    assert_eq!(loaded.len(), 1);
    assert_eq!(tags(&loaded[0]), ["app:1", "quay.io/team/multi:2"]);
    assert_eq!(contents(&loaded[0]), ["b", "c"]);
    let arm = "linux/arm64".parse().unwrap();
    let loaded = open(spooled(&fs::read(&tar).unwrap()), Some(&arm)).unwrap();
    assert_eq!(contents(&loaded[0]), ["arm"]);
    let none = open(
        spooled(&fs::read(&tar).unwrap()),
        Some(&"linux/s390x".parse().unwrap()),
    )
    .unwrap_err();
    assert_eq!(
        none.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    assert_eq!(none.kind(), Kind::NotFound);
}

#[test]
fn the_oldest_format_with_links_between_layers_is_loaded() {
    let (a, b) = (tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")]));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [imagec::Digest::of(&a), imagec::Digest::of(&b), imagec::Digest::of(&a)]},
    })
    .to_string();
    let manifest = r#"[{"Config":"cfg.json","RepoTags":null,"Layers":["x/layer.tar","y/layer.tar","z/layer.tar"]}]"#;
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, path, data).unwrap();
    };
    add("cfg.json", config.as_bytes());
    add("x/layer.tar", &a);
    add("y/layer.tar", &b);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder
        .append_link(&mut link, "z/layer.tar", "../x/layer.tar")
        .unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    builder
        .append_data(&mut header, "manifest.json", manifest.as_bytes())
        .unwrap();
    let archive = builder.into_inner().unwrap();
    let loaded = open(spooled(&archive), None).unwrap();
    assert!(loaded[0].tags.is_empty());
    assert_eq!(loaded[0].image.id, imagec::Digest::of(config.as_bytes()));
    assert_eq!(contents(&loaded[0]), ["a", "b"]);
    // Cut anywhere, it is refused or reads as it was, and never panics.
    for cut in (0..archive.len()).step_by(177) {
        let _ = open(spooled(&archive[..cut]), None);
    }
}

#[test]
fn what_is_no_archive_is_refused_with_dockers_text() {
    let text = |bytes: &[u8]| open(spooled(bytes), None).unwrap_err().to_string();
    assert_eq!(
        text(&tar_of(&[("hello", b"x")])),
        "invalid archive: does not contain a manifest.json"
    );
    assert_eq!(
        text(b""),
        "invalid archive: does not contain a manifest.json"
    );
    assert!(text(&[7; 2000]).starts_with("invalid archive: "));
    let missing = br#"[{"Config":"nope.json","RepoTags":["a:b"],"Layers":[]}]"#;
    assert_eq!(
        text(&tar_of(&[("manifest.json", missing)])),
        "invalid archive: nope.json is missing"
    );
    let outside = br#"[{"Config":"../../etc/passwd","RepoTags":["a:b"],"Layers":[]}]"#;
    assert_eq!(
        text(&tar_of(&[("manifest.json", outside)])),
        "invalid archive: etc/passwd is missing"
    );
}

#[test]
fn a_changed_blob_in_a_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let amd = layout.image("amd64", &layers());
    let path = layout
        .dir
        .join("blobs/sha256")
        .join(layout::descriptor(&amd).digest.hex());
    let mut bytes = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.push(b' ');
    fs::write(&path, bytes).unwrap();
    layout.finish(&[("x:1", amd)]);
    let tar = tempfile::NamedTempFile::new().unwrap();
    run(
        "tar",
        &[
            "-C",
            dir.path().to_str().unwrap(),
            "-cf",
            tar.path().to_str().unwrap(),
            ".",
        ],
    );
    let amd = "linux/amd64".parse().unwrap();
    let refused = open(spooled(&fs::read(tar.path()).unwrap()), Some(&amd)).unwrap_err();
    assert!(matches!(refused, Error::ManifestDigest { .. }), "{refused}");
}

/// The digest of nothing that there is.
const DIGEST: &str = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

/// Any JSON, with the names that archives use among its keys and values.
fn any_document() -> impl Strategy<Value = Value> {
    let names = vec![
        "Config",
        "Layers",
        "RepoTags",
        "config",
        "digest",
        "layers",
        "manifests",
        "mediaType",
        "size",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<u64>().prop_map(Value::from),
        prop::sample::select(vec!["file", "link", "loop", "../file", DIGEST]).prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(names.clone()), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_of_an_archive_is_images_or_refused(
        document in any_document(),
        name in prop::sample::select(vec!["manifest.json", "index.json"]),
    ) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |name: &str, link: Option<&str>, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            match link {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, name, target).unwrap();
                }
                None => tar.append_data(&mut header, name, content).unwrap(),
            }
        };
        put(name, None, document.to_string().as_bytes());
        put("file", None, document.to_string().as_bytes());
        put("link", Some("./file"), b"");
        put("loop", Some("loop"), b"");
        let _ = open(spooled(&tar.into_inner().unwrap()), None);
    }
}
