//! Where an entry belongs: names made safe before any system call sees them.

/// An entry's place below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The root itself.
    Root,
    /// `name` in the directory `parent` (relative, `.` for the root).
    Below {
        /// Cleaned path of the directory.
        parent: Vec<u8>,
        /// The last component: never empty, `.` or `..`.
        name: Vec<u8>,
    },
}

/// What whiteouts ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// Not a whiteout.
    No,
    /// Remove this name of the layers below.
    Remove(&'a [u8]),
    /// Empty the directory of what the layers below put there.
    Opaque,
    /// Something of aufs' own: nothing to do.
    Ignore,
}

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Cleans a name as docker does: absolute ones begin at the root, and `..` is taken out of the
/// text; one that would lead above the root is refused.
pub(super) fn place(path: &[u8]) -> Result<Place, &'static str> {
    if path.contains(&0) {
        return Err("its name has a NUL in it");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err("its name leads out of the root");
                }
            }
            _ => parts.push(part),
        }
    }
    let Some(name) = parts.pop() else {
        return Ok(Place::Root);
    };
    let parent = if parts.is_empty() {
        b".".to_vec()
    } else {
        parts.join(&b'/')
    };
    Ok(Place::Below {
        parent,
        name: name.to_vec(),
    })
}

/// Tells whether a last component is a whiteout.
pub(super) fn whiteout<'a>(parent: &[u8], name: &'a [u8]) -> Result<Whiteout<'a>, &'static str> {
    if parent.starts_with(META) {
        return Ok(Whiteout::Ignore);
    }
    if name == OPAQUE {
        return Ok(Whiteout::Opaque);
    }
    if name.starts_with(META) {
        return Ok(Whiteout::Ignore);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Whiteout::No),
        Some(b"" | b"." | b"..") => Err("its whiteout names no file"),
        Some(hidden) => Ok(Whiteout::Remove(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn below(parent: &str, name: &str) -> Result<Place, &'static str> {
        Ok(Place::Below {
            parent: parent.into(),
            name: name.into(),
        })
    }

    #[test]
    fn names_are_cleaned_and_never_lead_out() {
        assert_eq!(place(b"./"), Ok(Place::Root));
        assert_eq!(place(b"a/.."), Ok(Place::Root));
        assert_eq!(place(b"/etc//passwd"), below("etc", "passwd"));
        assert_eq!(place(b"./a/./b/../c/"), below("a", "c"));
        assert_eq!(place(b"x"), below(".", "x"));
        for bad in [&b"../x"[..], b"a/../../x", b"/..", b"..", b"a\0b"] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn whiteouts_are_told_apart_and_may_not_name_directories_themselves() {
        assert_eq!(whiteout(b"a", b".wh.b"), Ok(Whiteout::Remove(b"b")));
        assert_eq!(whiteout(b"a", b".wh..wh..opq"), Ok(Whiteout::Opaque));
        assert_eq!(whiteout(b"a", b".wh..wh.plnk"), Ok(Whiteout::Ignore));
        assert_eq!(whiteout(b".wh..wh.plnk", b"1.2"), Ok(Whiteout::Ignore));
        assert_eq!(whiteout(b"a", b"wh.b"), Ok(Whiteout::No));
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(whiteout(b"a", bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_place_has_no_dots_and_no_slash_in_its_name(path in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40))
        {
            if let Ok(Place::Below { parent, name }) = place(&path) {
                prop_assert!(!name.is_empty() && name != b"." && name != b"..");
                prop_assert!(!name.contains(&b'/') && !name.contains(&0));
                prop_assert!(!parent.split(|b| *b == b'/').any(|p| p == b".."));
                prop_assert!(!parent.starts_with(b"/"));
            }
        }
    }
}
