//! What is written as an archive comes out again, and what is no archive does no harm.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use iso::cpio::{self, Limits, ReadError, Reader, UnpackError, Writer};
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.mtime(1_470_513_116);
    writer.dir("bin", 0o755).unwrap();
    writer.file("bin/tool", 0o755, b"hello").unwrap();
    writer.symlink("sh", "bin/tool").unwrap();
    writer.char_device("console", 0o600, 5, 1).unwrap();
    writer.finish().unwrap()
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    assert_eq!(sample(), sample());
}

#[test]
fn cpio_lists_what_was_written() {
    let mut child = Command::new("cpio")
        .args(["-itv", "--quiet", "--numeric-uid-gid"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cpio is installed");
    child.stdin.take().unwrap().write_all(&sample()).unwrap();
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" bin"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with(" bin/tool"),
        "{text}"
    );
    assert!(lines[2].ends_with("sh -> bin/tool"), "{text}");
    assert!(
        lines[3].starts_with("crw-------") && lines[3].contains("5,   1"),
        "{text}"
    );
}

#[test]
fn several_archives_in_a_row_read_as_one() {
    let mut bytes = sample();
    bytes.extend([0; 100]);
    let mut second = Writer::new(Vec::new());
    second.file("late", 0o644, b"x").unwrap();
    bytes.extend(second.finish().unwrap());
    let mut reader = Reader::new(bytes.as_slice());
    let mut names = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        names.push(member.path);
    }
    assert_eq!(names, ["bin", "bin/tool", "sh", "console", "late"]);
}

#[test]
fn a_cut_archive_is_an_error_and_not_a_short_list() {
    let bytes = sample();
    let mut reader = Reader::new(&bytes[..bytes.len() - 130]);
    let mut last = Ok(None);
    for _ in 0..10 {
        last = reader.next_member();
        if !matches!(last, Ok(Some(_))) {
            break;
        }
    }
    assert!(matches!(last, Err(ReadError::Malformed { .. })), "{last:?}");
}

#[test]
fn limits_hold() {
    let bytes = sample();
    let limits = Limits {
        bytes: 4,
        ..Limits::default()
    };
    let mut reader = Reader::with_limits(bytes.as_slice(), limits);
    reader.next_member().unwrap();
    assert!(matches!(
        reader.next_member(),
        Err(ReadError::Limit {
            of: "bytes of data",
            ..
        })
    ));
    assert!(
        matches!(reader.next_member(), Ok(None)),
        "after an error the reader is at its end"
    );
}

#[test]
fn unpacking_restores_files_modes_and_links() {
    let dir = tempfile::tempdir().unwrap();
    cpio::unpack(&mut Reader::new(sample().as_slice()), dir.path()).unwrap();
    assert_eq!(fs::read(dir.path().join("sh")).unwrap(), b"hello");
    let mode = fs::metadata(dir.path().join("bin/tool"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!dir.path().join("console").exists());
}

#[test]
fn unpacking_does_not_follow_a_link_out_of_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(Vec::new());
    writer
        .symlink("way", outside.path().to_str().unwrap())
        .unwrap();
    writer.file("way/victim", 0o644, b"x").unwrap();
    let bytes = writer.finish().unwrap();
    let error = cpio::unpack(&mut Reader::new(bytes.as_slice()), dir.path()).unwrap_err();
    assert!(matches!(error, UnpackError::Parent { .. }), "{error:?}");
    assert!(!outside.path().join("victim").exists());
}

#[test]
fn names_that_climb_are_refused() {
    assert!(Writer::new(Vec::new()).file("../x", 0o644, b"").is_err());
    let bytes = String::from_utf8(sample())
        .unwrap()
        .replace("bin/tool\0", "../etcxx\0")
        .into_bytes();
    let mut reader = Reader::new(bytes.as_slice());
    reader.next_member().unwrap();
    assert!(matches!(reader.next_member(), Err(ReadError::Name { .. })));
}

proptest! {
    #[test]
    fn files_come_back_as_they_went_in(
        files in proptest::collection::btree_map("[a-z]{1,12}", proptest::collection::vec(any::<u8>(), 0..200), 0..12)
    ) {
        let mut writer = Writer::new(Vec::new());
        for (name, data) in &files {
            writer.file(name, 0o600, data).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(bytes.as_slice());
        let mut back = std::collections::BTreeMap::new();
        while let Some(member) = reader.next_member().unwrap() {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            back.insert(member.path, data);
        }
        prop_assert_eq!(back, files);
    }

    #[test]
    fn any_damage_is_an_error_or_harmless(at in 0usize..900, value in any::<u8>(), cut in 0usize..900) {
        let mut bytes = sample();
        let len = bytes.len();
        bytes[at % len] = value;
        bytes.truncate(len - cut % len);
        let mut reader = Reader::new(bytes.as_slice());
        for _ in 0..100 {
            match reader.next_member() {
                Ok(Some(_)) => { let _ = reader.read_to_end(&mut Vec::new()); }
                _ => break,
            }
        }
    }
}
