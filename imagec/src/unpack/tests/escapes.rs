//! Nothing outside of the root is read, written or removed.

use proptest::prelude::*;

use super::*;

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
}
