//! Headers, bombs and damage: what never ends is stopped.

use proptest::prelude::*;

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

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
