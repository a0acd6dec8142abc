//! What a sound layer holds arrives.

use super::*;

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
