//! Images are read by xorriso as by us, and what is no image does no harm.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Cursor;
use std::process::Command;

use iso::image::{BuildError, ReadError};
use iso::{Builder, INITRD_PATH, Reader, VERSION_PATH, cpio, initramfs};
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut archive = cpio::Writer::new(Vec::new());
    archive.dir("proc", 0o555).unwrap();
    archive.file("init", 0o755, b"\x7fELF").unwrap();
    let initrd = initramfs::compress(&archive.finish().unwrap()).unwrap();
    let mut builder = Builder::new("BOOTSTRAP");
    builder.publisher("vic 0.1.0").time(1_470_513_116);
    builder.file(INITRD_PATH, initrd).unwrap();
    builder
        .file(VERSION_PATH, br#"{"version":"0.1.0"}"#.to_vec())
        .unwrap();
    builder
        .file(
            "/boot/a file with a long name, blanks and CAPITALS.text",
            vec![7; 5000],
        )
        .unwrap();
    let mut bytes = Vec::new();
    builder.write(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_same_content_gives_the_same_image() {
    assert_eq!(sample(), sample());
}

#[test]
fn xorriso_lists_and_extracts_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("x.iso");
    fs::write(&image, sample()).unwrap();
    let out = dir.path().join("out");
    let run = Command::new("xorriso")
        .args(["-abort_on", "WARNING", "-osirrox", "on", "-indev"])
        .arg(&image)
        .args(["-find", "/", "--", "-extract", "/"])
        .arg(&out)
        .output()
        .expect("xorriso is installed");
    let (listing, messages) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{messages}");
    for path in [
        "'/boot/initrd.gz'",
        "'/vic-version.json'",
        "'/boot/a file with a long name, blanks and CAPITALS.text'",
    ] {
        assert!(listing.contains(path), "{path} is not in {listing}");
    }
    assert_eq!(
        fs::read(out.join("vic-version.json")).unwrap(),
        br#"{"version":"0.1.0"}"#
    );
    assert_eq!(
        fs::read(out.join("boot/a file with a long name, blanks and CAPITALS.text")).unwrap(),
        vec![7; 5000]
    );
}

#[test]
fn an_image_of_xorriso_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(tree.join("boot")).unwrap();
    fs::write(tree.join("boot/initrd.gz"), b"one").unwrap();
    fs::write(tree.join(&long), b"two").unwrap();
    for number in 0..300 {
        fs::write(tree.join(format!("file-{number}")), b"").unwrap();
    }
    for rock_ridge in ["on", "off"] {
        let image = dir.path().join(format!("{rock_ridge}.iso"));
        let run = Command::new("xorriso")
            .arg("-outdev")
            .arg(&image)
            .args(["-rockridge", rock_ridge, "-map"])
            .arg(&tree)
            .arg("/")
            .output()
            .expect("xorriso is installed");
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let mut reader = Reader::open(&image).unwrap();
        assert_eq!(reader.read("/boot/initrd.gz", 10).unwrap(), b"one");
        if rock_ridge == "on" {
            assert_eq!(reader.read(&format!("/{long}"), 10).unwrap(), b"two");
            assert_eq!(reader.list().unwrap().len(), 303);
        }
    }
}

#[test]
fn the_reader_finds_streams_and_lists() {
    let mut reader = Reader::new(Cursor::new(sample())).unwrap();
    assert_eq!(
        (reader.volume_id(), reader.publisher()),
        ("BOOTSTRAP", "vic 0.1.0")
    );
    assert_eq!(
        reader.read(VERSION_PATH, 100).unwrap(),
        br#"{"version":"0.1.0"}"#
    );
    assert!(matches!(
        reader.read(VERSION_PATH, 5),
        Err(ReadError::Limit { .. })
    ));
    assert!(matches!(
        reader.read("/boot", 5),
        Err(ReadError::WrongKind { .. })
    ));
    assert!(matches!(
        reader.entry("/boot/none"),
        Err(ReadError::NotFound { .. })
    ));
    assert!(matches!(
        reader.entry("/vic-version.json/x"),
        Err(ReadError::NotFound { .. })
    ));
    let paths: Vec<String> = reader
        .list()
        .unwrap()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert!(paths.contains(&INITRD_PATH.to_owned()), "{paths:?}");

    let mut archive = initramfs::open(&mut reader).unwrap();
    assert_eq!(archive.next_member().unwrap().unwrap().path, "proc");
    assert_eq!(archive.next_member().unwrap().unwrap().path, "init");
}

#[test]
fn paths_that_an_image_cannot_hold_are_refused() {
    let mut builder = Builder::new("X");
    builder.file("/a/b", vec![]).unwrap();
    for path in [
        "/a",
        "/a/b",
        "/a/b/c",
        "",
        "/x//y",
        "/../x",
        "/1/2/3/4/5/6/7/8/9",
    ] {
        let error = builder.file(path, vec![]).unwrap_err();
        assert!(matches!(error, BuildError::Path { .. }), "{path}");
    }
}

#[test]
fn a_directory_may_fill_several_sectors() {
    let mut builder = Builder::new("MANY");
    for number in 0..200 {
        builder
            .file(
                &format!("/some directory/file number {number}"),
                vec![number],
            )
            .unwrap();
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes).unwrap();
    let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
    for number in 0..200 {
        assert_eq!(
            reader
                .read(&format!("/some directory/file number {number}"), 9)
                .unwrap(),
            [number]
        );
    }
}

proptest! {
    #[test]
    fn any_damage_is_an_error_or_harmless(
        damage in proptest::collection::vec((32_768usize..53_248, any::<u8>()), 1..40), cut in 0usize..60_000
    ) {
        let mut bytes = sample();
        let len = bytes.len();
        for (at, value) in damage {
            bytes[at % len] = value;
        }
        bytes.truncate(len - (cut % len) / 4);
        if let Ok(mut reader) = Reader::new(Cursor::new(bytes)) {
            let _ = reader.list();
            let _ = reader.read(VERSION_PATH, 1 << 20);
            if let Ok(mut archive) = initramfs::open(&mut reader) {
                for _ in 0..100 {
                    if !matches!(archive.next_member(), Ok(Some(_))) { break; }
                }
            };
        }
    }
}
