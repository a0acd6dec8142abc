//! Layers as they should be, and layers made to do harm: the tools of the tests.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

mod contents;
mod escapes;
mod limits;

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
