//! Layers as they should be, and layers made to do harm.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A root inside a directory that must stay as it was.
struct Room {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("victim"), "untouched").unwrap();
        fs::create_dir(dir.path().join("victims")).unwrap();
        Self { dir, root }
    }

    fn unpack(&self, layer: &[u8]) -> Result<Unpacked, UnpackError> {
        unpack(layer, &self.root, &Limits::default())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }

    fn assert_nothing_escaped(&self) {
        let mut outside: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        outside.sort();
        assert_eq!(outside, ["root", "victim", "victims"]);
        assert_eq!(
            fs::read_to_string(self.dir.path().join("victim")).unwrap(),
            "untouched"
        );
        assert_eq!(
            fs::read_dir(self.dir.path().join("victims"))
                .unwrap()
                .count(),
            0
        );
    }
}

/// Builds archives, bad ones too.
#[derive(Default)]
pub(super) struct Layer(Vec<u8>);

impl Layer {
    fn raw(self, path: &[u8], kind: u8, link: &[u8], size: u64, data: &[u8]) -> Self {
        let mut h = [0u8; 512];
        h[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        h[100..107].copy_from_slice(b"0000644");
        h[108..115].copy_from_slice(b"0001750");
        h[116..123].copy_from_slice(b"0001751");
        h[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        h[136..147].copy_from_slice(b"00000012345");
        h[156] = kind;
        h[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        h[257..265].copy_from_slice(b"ustar\x0000");
        h[329..336].copy_from_slice(b"0000001");
        h[337..344].copy_from_slice(b"0000003");
        self.push(h, data)
    }

    fn push(mut self, mut h: [u8; 512], data: &[u8]) -> Self {
        h[148..156].fill(b' ');
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&h);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.raw(
            path.as_bytes(),
            b'0',
            b"",
            data.len() as u64,
            data.as_bytes(),
        )
    }

    fn dir(self, path: &str) -> Self {
        self.raw(path.as_bytes(), b'5', b"", 0, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), b'2', target.as_bytes(), 0, b"")
    }

    fn hardlink(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), b'1', target.as_bytes(), 0, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length != body + length.to_string().len() {
                length = body + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(b"pax", b'x', b"", data.len() as u64, &data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn why(result: Result<Unpacked, UnpackError>) -> String {
    let error = result.unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[test]
fn files_directories_links_devices_and_their_attributes_arrive() {
    let room = Room::new();
    let layer = Layer::default()
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", "root")
        .symlink("etc/link", "/etc/passwd")
        .hardlink("etc/hard", "etc/passwd")
        .raw(b"dev/null", b'3', b"", 0, b"")
        .raw(b"fifo", b'6', b"", 0, b"")
        .pax(&[
            ("mtime", b"1700000000.25"),
            ("SCHILY.xattr.user.hello", b"wor\0ld"),
            ("uid", b"70000"),
        ])
        .file("with", "attributes")
        .end();
    let unpacked = room.unpack(&layer).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&layer));
    assert_eq!((unpacked.file_bytes, unpacked.entries), (14, 8));
    assert_eq!(room.read("etc/hard"), "root");
    let passwd = fs::metadata(room.root.join("etc/passwd")).unwrap();
    assert_eq!(
        (passwd.uid(), passwd.gid(), passwd.mode() & 0o7777),
        (1000, 1001, 0o644)
    );
    assert_eq!((passwd.nlink(), passwd.mtime()), (2, 0o12345));
    assert_eq!(
        fs::read_link(room.root.join("etc/link")).unwrap().to_str(),
        Some("/etc/passwd")
    );
    assert_eq!(
        fs::metadata(room.root.join("etc")).unwrap().mtime(),
        0o12345
    );
    assert_eq!(fs::metadata(&room.root).unwrap().mtime(), 0o12345);
    let null = fs::metadata(room.root.join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), nix::sys::stat::makedev(1, 3));
    assert!(
        fs::metadata(room.root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let with = fs::metadata(room.root.join("with")).unwrap();
    assert_eq!(
        (with.uid(), with.mtime(), with.mtime_nsec()),
        (70000, 1_700_000_000, 250_000_000)
    );
    let value = xattr::get(room.root.join("with"), "user.hello").unwrap();
    assert_eq!(value.as_deref(), Some(&b"wor\0ld"[..]));
    assert_eq!(
        fs::metadata(room.root.join("dev")).unwrap().mode() & 0o777,
        0o755
    );
}

#[test]
fn what_the_tar_crate_writes_with_long_names_is_read() {
    let room = Room::new();
    let mut builder = ::tar::Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let mut header = ::tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_uid(3_000_000);
    builder
        .append_data(&mut header, &long, &b"abc"[..])
        .unwrap();
    let mut link = ::tar::Header::new_gnu();
    link.set_entry_type(::tar::EntryType::Symlink);
    link.set_size(0);
    builder
        .append_link(&mut link, "l", format!("/{}", "t".repeat(150)))
        .unwrap();
    room.unpack(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(room.read(&long), "abc");
    let meta = fs::metadata(room.root.join(&long)).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o4755, 3_000_000));
    assert_eq!(
        fs::read_link(room.root.join("l"))
            .unwrap()
            .as_os_str()
            .len(),
        151
    );
}

#[test]
fn sparse_files_of_gnu_tar_arrive_with_their_holes() {
    let room = Room::new();
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    for at in (0..40).map(|i| i * 200_000) {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", at).unwrap();
    }
    for format in ["gnu", "pax"] {
        for version in ["0.0", "0.1", "1.0"] {
            let out = std::process::Command::new("tar")
                .args([
                    "-C",
                    source.path().to_str().unwrap(),
                    "-S",
                    "--format",
                    format,
                ])
                .args((format == "pax").then(|| format!("--sparse-version={version}")))
                .args(["-cf", "-", "sparse"])
                .output()
                .unwrap();
            assert!(out.status.success());
            room.unpack(&out.stdout).unwrap();
            let got = room.root.join("sparse");
            assert!(
                fs::read(&got).unwrap() == fs::read(&path).unwrap(),
                "{format} {version}"
            );
            assert!(fs::metadata(&got).unwrap().blocks() * 512 < 2 << 20);
        }
    }
}

#[test]
fn whiteouts_remove_only_what_is_below() {
    let room = Room::new();
    room.unpack(
        &Layer::default()
            .file("a/keep", "1")
            .file("a/gone", "1")
            .file("b/old", "1")
            .file("b/sub/old", "1")
            .file("b/new", "1")
            .dir("tree/x/y")
            .end(),
    )
    .unwrap();
    room.unpack(
        &Layer::default()
            .file("a/.wh.gone", "")
            .file("a/.wh.never", "")
            .file("nowhere/.wh.x", "")
            .file("b/new", "2")
            .dir("b/sub")
            .file("b/sub/fresh", "2")
            .file("b/.wh..wh..opq", "")
            .file("b/late", "2")
            .file(".wh.tree", "")
            .file(".wh..wh.plnk", "")
            .end(),
    )
    .unwrap();
    assert_eq!(room.read("a/keep"), "1");
    assert!(
        !room.has("a/gone")
            && !room.has("tree")
            && !room.has("nowhere")
            && !room.has(".wh..wh.plnk")
    );
    assert!(!room.has("b/old") && !room.has("b/sub/old"));
    assert_eq!(room.read("b/new"), "2");
    assert_eq!(room.read("b/sub/fresh"), "2");
    assert_eq!(room.read("b/late"), "2");
}

#[test]
fn a_thing_replaces_a_thing_of_another_kind() {
    let room = Room::new();
    room.unpack(
        &Layer::default()
            .file("d/f", "1")
            .file("f", "1")
            .symlink("l", "d")
            .end(),
    )
    .unwrap();
    room.unpack(
        &Layer::default()
            .file("d", "now a file")
            .dir("f")
            .file("f/x", "2")
            .file("l", "no link")
            .end(),
    )
    .unwrap();
    assert_eq!(
        (room.read("d"), room.read("f/x"), room.read("l")),
        ("now a file".into(), "2".into(), "no link".into())
    );
    room.unpack(
        &Layer::default()
            .dir("d")
            .symlink("f", "d")
            .file("f/through", "3")
            .end(),
    )
    .unwrap();
    assert_eq!(room.read("d/through"), "3");
}

#[test]
fn compressed_layers_have_the_digest_of_the_plain_stream() {
    let plain = Layer::default().file("f", "x").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for packed in [
        gzip.finish().unwrap(),
        zstd::encode_all(&plain[..], 3).unwrap(),
        plain.clone(),
    ] {
        let room = Room::new();
        assert_eq!(room.unpack(&packed).unwrap().diff_id, Digest::of(&plain));
        assert_eq!(room.read("f"), "x");
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for bad in ["../victim", "a/../../victim", "..", "x/../../victims/f"] {
        let room = Room::new();
        assert!(
            why(room.unpack(&Layer::default().file(bad, "!").end())).contains("leads out"),
            "{bad}"
        );
        room.assert_nothing_escaped();
    }
    let room = Room::new();
    room.unpack(&Layer::default().file("/victim", "inside").end())
        .unwrap();
    assert_eq!(room.read("victim"), "inside");
    room.assert_nothing_escaped();
}

#[test]
fn links_that_lead_out_end_inside() {
    let room = Room::new();
    let outside = room.dir.path().to_str().unwrap().to_owned();
    let layer = Layer::default()
        .symlink("up", "../..")
        .file("up/victim", "1")
        .symlink("abs", &outside)
        .dir(&outside[1..])
        .file("abs/victim", "2")
        .symlink("etc", "/")
        .file("etc/three", "3")
        .symlink("proc-like", "/proc/self/root")
        .end();
    room.unpack(&layer).unwrap();
    room.assert_nothing_escaped();
    assert_eq!(
        (room.read("victim"), room.read("three")),
        ("1".into(), "3".into())
    );
    assert_eq!(room.read(&format!("{}/victim", &outside[1..])), "2");
    // Links put there by a layer below are no better.
    let room = Room::new();
    symlink(room.dir.path(), room.root.join("out")).unwrap();
    symlink("../victim", room.root.join("file")).unwrap();
    assert!(
        room.unpack(&Layer::default().file("out/victim", "!").end())
            .is_err()
    );
    room.unpack(
        &Layer::default()
            .file("file", "replaced, not followed")
            .end(),
    )
    .unwrap();
    room.assert_nothing_escaped();
    assert_eq!(room.read("file"), "replaced, not followed");
}

#[test]
fn looping_and_dangling_links_are_refused() {
    let room = Room::new();
    let looping = Layer::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "!")
        .end();
    assert!(why(room.unpack(&looping)).contains("loop of links"));
    let dangling = Layer::default()
        .symlink("c", "/nowhere")
        .file("c/x", "!")
        .end();
    assert!(why(room.unpack(&dangling)).contains("link to nothing"));
    let own = Layer::default().symlink("d", "d").dir("d/e").end();
    assert!(why(room.unpack(&own)).contains("loop of links"));
    room.assert_nothing_escaped();
}

#[test]
fn hard_links_reach_nothing_outside() {
    let room = Room::new();
    for target in ["../victim", "/../victim", "a/../../victim"] {
        assert!(
            why(room.unpack(&Layer::default().hardlink("h", target).end())).contains("leads out")
        );
    }
    symlink(room.dir.path(), room.root.join("out")).unwrap();
    assert!(
        room.unpack(&Layer::default().hardlink("h", "out/victim").end())
            .is_err()
    );
    symlink("../victim", room.root.join("s")).unwrap();
    // A hard link to a link is that link again, not what it names.
    room.unpack(&Layer::default().hardlink("h2", "s").end())
        .unwrap();
    assert!(
        fs::symlink_metadata(room.root.join("h2"))
            .unwrap()
            .is_symlink()
    );
    assert!(why(room.unpack(&Layer::default().hardlink("x", "x").end())).contains("itself"));
    assert!(why(room.unpack(&Layer::default().hardlink("x", "missing").end())).contains("make"));
    room.assert_nothing_escaped();
}

#[test]
fn whiteouts_reach_nothing_outside() {
    for bad in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let room = Room::new();
        assert!(
            why(room.unpack(&Layer::default().file(bad, "").end())).contains("whiteout"),
            "{bad}"
        );
    }
    let room = Room::new();
    symlink(room.dir.path(), room.root.join("out")).unwrap();
    for layer in [
        Layer::default().file("out/.wh.victim", ""),
        Layer::default().file("out/.wh..wh..opq", ""),
    ] {
        let _ = room.unpack(&layer.end());
    }
    // A link in an opaque directory goes; what it names does not.
    fs::create_dir(room.root.join("d")).unwrap();
    symlink(room.dir.path(), room.root.join("d/out")).unwrap();
    room.unpack(&Layer::default().file("d/.wh..wh..opq", "").end())
        .unwrap();
    assert!(!room.has("d/out"));
    room.unpack(&Layer::default().file(".wh.out", "").end())
        .unwrap();
    room.assert_nothing_escaped();
}

#[test]
fn headers_without_end_are_refused() {
    let room = Room::new();
    let huge = 4u64 << 30;
    for kind in [b'L', b'K', b'x', b'g'] {
        let layer = Layer::default().raw(b"long", kind, b"", huge, b"x").0;
        assert!(
            why(room.unpack(&layer)).contains("too long"),
            "{}",
            kind as char
        );
    }
    let many = (0..100).fold(Layer::default(), |l, _| l.pax(&[("comment", b"again")]));
    assert!(why(room.unpack(&many.file("f", "").end())).contains("too long"));
    let name = vec![b'n'; 5000];
    let long = Layer::default().pax(&[("path", &name)]).file("f", "").end();
    assert!(why(room.unpack(&long)).contains("too long"));
    let value = vec![0; 70_000];
    let attribute = Layer::default()
        .pax(&[("SCHILY.xattr.user.x", &value)])
        .file("f", "")
        .end();
    assert!(why(room.unpack(&attribute)).contains("too long"));
    let map = Layer::default()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")])
        .raw(b"s", b'0', b"", 512, format!("{}\n", u64::MAX).as_bytes());
    assert!(room.unpack(&map.end()).is_err());
}

#[test]
fn bombs_stop_at_the_limits() {
    let room = Room::new();
    let limits = Limits {
        bytes: 10 << 20,
        entries: 100,
    };
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let head = Layer::default().raw(b"zeros", b'0', b"", 1 << 32, b"").0;
    bomb.write_all(&head).unwrap();
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let result = unpack(&bomb.finish().unwrap()[..], &room.root, &limits);
    assert_eq!(
        why(result),
        format!("the layer has more than {} bytes", 10 << 20)
    );
    assert!(fs::metadata(room.root.join("zeros")).unwrap().len() <= 10 << 20);
    let many = (0..101).fold(Layer::default(), |l, i| l.file(&format!("f{i}"), ""));
    assert_eq!(
        why(unpack(&many.end()[..], &room.root, &limits)),
        "the layer has more than 100 entries"
    );
    // Zeros without end behind the archive's end.
    let mut padded = Layer::default().file("f", "").end();
    padded.resize(11 << 20, 0);
    assert!(why(unpack(&padded[..], &room.root, &limits)).contains("bytes"));
}

#[test]
fn damaged_archives_are_refused() {
    let room = Room::new();
    let good = Layer::default().file("f", "hello").end();
    assert!(why(room.unpack(&good[..700])).contains("Read") || room.unpack(&good[..515]).is_err());
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    assert!(why(room.unpack(&flipped)).contains("checksum"));
    assert!(room.unpack(b"hello, this is no archive at all").is_err());
    assert!(
        why(room.unpack(&Layer::default().raw(b"f", b'Q', b"", 0, b"").end()))
            .contains("unknown type")
    );
    assert_eq!(room.unpack(b"").unwrap().entries, 0);
}

#[test]
fn an_unreadable_directory_can_be_filled_and_keeps_its_mode() {
    let room = Room::new();
    let mut h = [0u8; 512];
    h[..2].copy_from_slice(b"d/");
    h[100..107].copy_from_slice(b"0000000");
    h[108..115].copy_from_slice(b"0000000");
    h[116..123].copy_from_slice(b"0000000");
    h[124..135].copy_from_slice(b"00000000000");
    h[136..147].copy_from_slice(b"00000000000");
    h[156] = b'5';
    room.unpack(&Layer::default().push(h, b"").file("d/f", "1").end())
        .unwrap();
    assert_eq!(
        fs::metadata(room.root.join("d"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0
    );
    assert_eq!(room.read("d/f"), "1");
}

/// Names that meet often, so that links and their users do too.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[abc](/[abc]){0,2}",
        2 => "[abc]/\\.\\./[abc]",
        1 => "\\.\\./[abc]",
        1 => "[abc]/\\.wh\\.[abc]",
        1 => "[abc]/\\.wh\\.\\.wh\\.\\.opq",
        1 => "/[abc]",
        1 => "\\.wh\\.\\.{0,3}",
    ]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        "[abc](/[abc])?",
        Just("..".to_owned()),
        Just("../..".to_owned()),
        Just("/".to_owned()),
        Just("../victims".to_owned()),
        Just("../victim".to_owned()),
        Just("../../..".to_owned()),
        Just("/proc/self/cwd".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_archive_touches_anything_outside(
        entries in proptest::collection::vec((name(), 0u8..5, target()), 1..25)
    ) {
        let room = Room::new();
        for (path, kind, target) in &entries {
            let layer = Layer::default();
            let layer = match kind {
                0 => layer.file(path, "data"),
                1 => layer.dir(path),
                2 => layer.symlink(path, target),
                3 => layer.hardlink(path, target),
                _ => layer.file(&format!("{path}.x"), "data"),
            };
            let _ = room.unpack(&layer.end());
        }
        room.assert_nothing_escaped();
    }

    #[test]
    fn any_bytes_are_scanned_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = scan(&bytes[..], &Limits { bytes: 1 << 20, entries: 1000 });
    }

    #[test]
    fn a_mangled_archive_never_panics(at in any::<prop::sample::Index>(), with: u8, fix: bool) {
        let mut layer = Layer::default()
            .pax(&[("mtime", b"1.5"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")])
            .file("f", "x")
            .symlink("l", "f")
            .raw(b"s", b'S', b"", 3, b"abc")
            .end();
        let at = at.index(layer.len());
        layer[at] = with;
        if fix {
            let start = at / 512 * 512;
            layer[start + 148..start + 156].fill(b' ');
            let sum: u32 = layer[start..start + 512].iter().map(|b| u32::from(*b)).sum();
            layer[start + 148..start + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        let _ = scan(&layer[..], &Limits { bytes: 1 << 20, entries: 1000 });
        let room = Room::new();
        let _ = room.unpack(&layer);
        room.assert_nothing_escaped();
    }
}
