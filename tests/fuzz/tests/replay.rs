//! Replays the corpora, and every prefix and single-byte change of each small entry.

use std::path::PathBuf;

fn entries(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut all: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| {
            let path = entry.expect("entry").path();
            let bytes = std::fs::read(&path).expect("corpus file");
            (path, bytes)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_target_survives_its_corpus() {
    for (name, target) in fuzz::TARGETS {
        let entries = entries(name);
        assert!(!entries.is_empty(), "{name} has no corpus");
        for (_, bytes) in entries {
            target(&bytes);
        }
    }
}

#[test]
fn every_target_survives_cut_and_changed_entries() {
    for (name, target) in fuzz::TARGETS {
        for (_, bytes) in entries(name).iter().filter(|(_, b)| b.len() <= 2048) {
            // Some make files or a directory per call: fewer steps for them.
            let step = if matches!(*name, "archive" | "cpio" | "unpack") {
                17
            } else {
                1
            };
            for cut in (0..bytes.len()).step_by(step) {
                target(&bytes[..cut]);
                let mut changed = bytes.clone();
                changed[cut] ^= 0x41;
                target(&changed);
            }
        }
    }
}
