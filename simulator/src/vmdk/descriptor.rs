//! The text that describes a virtual disk: reader and writer.
//!
//! The text comes from datastores where others may write, so every count and length has a limit
//! and names of extents are plain file names, never paths.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{MAX_CAPACITY, SECTOR};

/// The longest descriptor that is read. VMware's own take 20 sectors; qemu reads at most 20 too.
pub const MAX_DESCRIPTOR: usize = 64 * 1024;
const MAX_LINES: usize = 1024;
const MAX_LINE: usize = 4096;
const MAX_EXTENTS: usize = 64;
const MAX_DDB: usize = 256;
/// `parentCID` of a disk without a parent.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// Why a descriptor was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Longer than any real descriptor.
    #[error("the descriptor is too long")]
    TooLong,
    /// The first line is not the mark of a descriptor.
    #[error("it does not begin with \"# Disk DescriptorFile\"")]
    NotADescriptor,
    /// It is not text.
    #[error("the descriptor is not text")]
    NotText,
    /// A line that is neither comment, assignment nor extent.
    #[error("line {line} cannot be understood")]
    BadLine {
        /// Counted from one.
        line: usize,
    },
    /// A key occurs twice.
    #[error("{key} is given twice")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// A needed key is missing.
    #[error("{key} is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is out of its range.
    #[error("{key} has a bad value")]
    BadValue {
        /// The key.
        key: &'static str,
    },
    /// The extent's name is a path or not a name at all.
    #[error("an extent's name is not a plain file name")]
    BadExtentName,
}

/// One extent line: `RW 16777216 VMFS "x-flat.vmdk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// `RW`, `RDONLY` or `NOACCESS`.
    pub access: String,
    /// Length in sectors.
    pub sectors: u64,
    /// `FLAT`, `VMFS`, `SPARSE`, `ZERO`, `VMFSSPARSE`, ….
    pub kind: String,
    /// The file that holds it, in the descriptor's own directory. Empty for `ZERO`.
    pub file: String,
    /// First sector in that file.
    pub offset: u64,
}

/// A parsed descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Content id: changes at the first write after each opening.
    pub cid: u32,
    /// The parent's content id when this disk was made, or all ones.
    pub parent_cid: u32,
    /// `vmfs`, `monolithicFlat`, `monolithicSparse`, ….
    pub create_type: String,
    /// Where the parent is, relative to this disk's directory or absolute.
    pub parent_hint: Option<String>,
    /// The extents in order.
    pub extents: Vec<ExtentLine>,
    /// The disk data base: keys with their `ddb.` prefix.
    pub ddb: BTreeMap<String, String>,
}

impl Descriptor {
    /// Capacity in bytes: the sum of the extents.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.extents.iter().map(|e| e.sectors * SECTOR).sum()
    }

    /// Tells whether the disk has a parent.
    #[must_use]
    pub fn has_parent(&self) -> bool {
        self.parent_cid != NO_PARENT
    }

    /// Writes the text form. [`parse_descriptor`] reads it back as it was.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(640);
        // Writing into a String cannot fail.
        let _ = write!(
            out,
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{}\"\n",
            self.cid, self.parent_cid, self.create_type
        );
        if let Some(hint) = &self.parent_hint {
            let _ = writeln!(out, "parentFileNameHint=\"{hint}\"");
        }
        out.push_str("\n# Extent description\n");
        for e in &self.extents {
            let _ = write!(out, "{} {} {}", e.access, e.sectors, e.kind);
            if !e.file.is_empty() {
                let _ = write!(out, " \"{}\"", e.file);
            }
            if e.offset != 0 || e.kind == "FLAT" {
                let _ = write!(out, " {}", e.offset);
            }
            out.push('\n');
        }
        out.push_str("\n# The Disk Data Base\n#DDB\n\n");
        for (key, value) in &self.ddb {
            let _ = writeln!(out, "{key} = \"{value}\"");
        }
        out
    }
}

/// Parses a descriptor's text.
///
/// Unknown keys are skipped, as VMware does; whatever is used is checked.
///
/// # Errors
/// [`DescriptorError`] says what is wrong.
pub fn parse_descriptor(text: &str) -> Result<Descriptor, DescriptorError> {
    if text.len() > MAX_DESCRIPTOR {
        return Err(DescriptorError::TooLong);
    }
    let mut lines = text.lines();
    let first = lines
        .next()
        .unwrap_or_default()
        .trim()
        .trim_start_matches('\u{feff}');
    if !first.eq_ignore_ascii_case("# Disk DescriptorFile") {
        return Err(DescriptorError::NotADescriptor);
    }
    let mut cid = None;
    let mut parent_cid = None;
    let mut create_type = None;
    let mut parent_hint = None;
    let mut extents = Vec::new();
    let mut ddb = BTreeMap::new();
    for (index, raw) in lines.enumerate() {
        let line_number = index + 2;
        if index >= MAX_LINES || raw.len() > MAX_LINE {
            return Err(DescriptorError::TooLong);
        }
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(extent) = parse_extent(line)? {
            if extents.len() == MAX_EXTENTS {
                return Err(DescriptorError::TooLong);
            }
            extents.push(extent);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(DescriptorError::BadLine { line: line_number });
        };
        let (key, value) = (key.trim(), unquote(value.trim()));
        if key.eq_ignore_ascii_case("CID") {
            once(&mut cid, parse_cid("CID", value)?, "CID")?;
        } else if key.eq_ignore_ascii_case("parentCID") {
            once(&mut parent_cid, parse_cid("parentCID", value)?, "parentCID")?;
        } else if key.eq_ignore_ascii_case("createType") {
            once(&mut create_type, value.to_owned(), "createType")?;
        } else if key.eq_ignore_ascii_case("parentFileNameHint") {
            if value.is_empty() || value.contains('\0') {
                return Err(DescriptorError::BadValue {
                    key: "parentFileNameHint",
                });
            }
            once(&mut parent_hint, value.to_owned(), "parentFileNameHint")?;
        } else if key.starts_with("ddb.") {
            if ddb.len() == MAX_DDB {
                return Err(DescriptorError::TooLong);
            }
            ddb.insert(key.to_owned(), value.to_owned());
        }
    }
    let descriptor = Descriptor {
        cid: cid.ok_or(DescriptorError::Missing { key: "CID" })?,
        parent_cid: parent_cid.unwrap_or(NO_PARENT),
        create_type: create_type.ok_or(DescriptorError::Missing { key: "createType" })?,
        parent_hint,
        extents,
        ddb,
    };
    if descriptor.extents.is_empty() {
        return Err(DescriptorError::Missing { key: "an extent" });
    }
    let total = descriptor
        .extents
        .iter()
        .try_fold(0u64, |sum, e| sum.checked_add(e.sectors));
    if total.is_none_or(|sectors| sectors == 0 || sectors > MAX_CAPACITY / SECTOR) {
        return Err(DescriptorError::BadValue {
            key: "the capacity",
        });
    }
    Ok(descriptor)
}

fn once<T>(slot: &mut Option<T>, value: T, key: &'static str) -> Result<(), DescriptorError> {
    if slot.replace(value).is_some() {
        return Err(DescriptorError::Twice { key });
    }
    Ok(())
}

fn parse_cid(key: &'static str, value: &str) -> Result<u32, DescriptorError> {
    u32::from_str_radix(value, 16).map_err(|_| DescriptorError::BadValue { key })
}

fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value)
}

/// Reads an extent line; `None` when the line is something else.
fn parse_extent(line: &str) -> Result<Option<ExtentLine>, DescriptorError> {
    let mut words = line.splitn(4, char::is_whitespace);
    let access = words.next().unwrap_or_default();
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return Ok(None);
    }
    let bad = DescriptorError::BadValue { key: "an extent" };
    let sectors = words
        .next()
        .and_then(|w| w.parse::<u64>().ok())
        .ok_or(bad.clone())?;
    if sectors > MAX_CAPACITY / SECTOR {
        return Err(bad);
    }
    let kind = words
        .next()
        .filter(|k| !k.is_empty() && k.len() <= 32)
        .ok_or(bad.clone())?;
    if !kind.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(bad);
    }
    let rest = words.next().unwrap_or_default().trim();
    let (file, tail) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(bad.clone())?,
        None if rest.is_empty() => ("", ""),
        None => return Err(bad),
    };
    if file.is_empty() {
        if kind != "ZERO" {
            return Err(DescriptorError::BadExtentName);
        }
    } else if file.len() > 255 || file == "." || file == ".." || file.contains(['/', '\\', '\0']) {
        return Err(DescriptorError::BadExtentName);
    }
    let offset = match tail.split_whitespace().next() {
        Some(word) => word.parse::<u64>().map_err(|_| bad.clone())?,
        None => 0,
    };
    if offset > MAX_CAPACITY / SECTOR {
        return Err(bad);
    }
    Ok(Some(ExtentLine {
        access: access.to_owned(),
        sectors,
        kind: kind.to_owned(),
        file: file.to_owned(),
        offset,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ESX: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=fffffffe\nparentCID=ffffffff\n\
        isNativeSnapshot=\"no\"\ncreateType=\"vmfs\"\n\n# Extent description\nRW 16777216 VMFS \"x-flat.vmdk\"\n\n\
        # The Disk Data Base \n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.uuid = \"60 00 C2 9f 01\"\n";

    #[test]
    fn an_esx_descriptor_is_read() {
        let d = parse_descriptor(ESX).unwrap();
        assert_eq!(d.cid, 0xffff_fffe);
        assert!(!d.has_parent());
        assert_eq!(d.capacity(), 8 << 30);
        assert_eq!(d.extents[0].file, "x-flat.vmdk");
        assert_eq!(d.ddb["ddb.adapterType"], "lsilogic");
    }

    #[test]
    fn an_extent_that_is_a_path_is_refused() {
        for name in ["../x", "/etc/shadow", "..", "a/b", ""] {
            let text = ESX.replace("x-flat.vmdk", name);
            assert_eq!(
                parse_descriptor(&text),
                Err(DescriptorError::BadExtentName),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_missing_twice_or_too_big_is_named() {
        let missing = ESX.replace("CID=fffffffe\n", "");
        assert!(matches!(
            parse_descriptor(&missing),
            Err(DescriptorError::Missing { .. })
        ));
        let twice = ESX.replace("version=1", "CID=1");
        assert_eq!(
            parse_descriptor(&twice),
            Err(DescriptorError::Twice { key: "CID" })
        );
        let big = ESX.replace("16777216", "18446744073709551615");
        assert!(matches!(
            parse_descriptor(&big),
            Err(DescriptorError::BadValue { .. })
        ));
        assert_eq!(
            parse_descriptor("hello"),
            Err(DescriptorError::NotADescriptor)
        );
        let long = format!("{ESX}{}", "#\n".repeat(40_000));
        assert_eq!(parse_descriptor(&long), Err(DescriptorError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,400}") {
            let _ = parse_descriptor(&text);
            let _ = parse_descriptor(&format!("# Disk DescriptorFile\n{text}"));
        }

        #[test]
        fn what_is_rendered_is_read_back(
            cid: u32, parent in proptest::option::of("[a-z./-]{1,40}"), sectors in 1u64..1 << 30,
            kind in "FLAT|VMFS|SPARSE", offset in 0u64..1000,
            ddb in proptest::collection::btree_map("ddb\\.[a-z.]{1,20}", "[A-Za-z0-9 -]{0,30}", 0..8),
        ) {
            let d = Descriptor {
                cid,
                parent_cid: if parent.is_some() { 7 } else { NO_PARENT },
                create_type: "monolithicSparse".into(),
                parent_hint: parent,
                extents: vec![ExtentLine {
                    access: "RW".into(), sectors, kind, file: "a b.vmdk".into(), offset,
                }],
                ddb: ddb.into_iter().map(|(k, v)| (k, v.trim().to_owned())).collect(),
            };
            prop_assert_eq!(parse_descriptor(&d.render()).unwrap(), d);
        }

        #[test]
        fn a_mangled_descriptor_never_panics(at in 0usize..300, with in "\\PC{0,8}") {
            let cut = ESX.char_indices().map(|(i, _)| i).nth(at % ESX.chars().count()).unwrap();
            let _ = parse_descriptor(&format!("{}{with}{}", &ESX[..cut], &ESX[cut..]));
        }
    }
}
