//! The `.vmx` file: one `key = "value"` per line, from which a VM is registered.
//!
//! Bytes that the format cannot hold are written as `|XX` (two hex digits), as vSphere does it, so
//! that any key and any value come back as they were.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The largest file that is read: a VM's configuration is far smaller, and the file may come from
/// anybody who can write to the datastore.
pub(crate) const MAX_BYTES: usize = 16 << 20;
/// The most entries that are read from one file.
const MAX_ENTRIES: usize = 200_000;

/// Says why a `.vmx` file cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum VmxError {
    /// The file is larger than [`MAX_BYTES`].
    #[error("the file has {0} bytes, more than a .vmx file may have")]
    TooLarge(usize),
    /// The file has more entries than a VM can have.
    #[error("the file has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A line is neither empty, a comment, nor an entry.
    #[error("line {0} is not of the form key = \"value\"")]
    Line(usize),
    /// An escape does not stand for a character, or the result is not UTF-8.
    #[error("line {0} has an escape that stands for nothing")]
    Escape(usize),
}

/// The entries of a `.vmx` file; keys are compared as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vmx {
    entries: BTreeMap<String, String>,
}

impl Vmx {
    /// Reads a file.
    pub(crate) fn parse(text: &str) -> Result<Self, VmxError> {
        if text.len() > MAX_BYTES {
            return Err(VmxError::TooLarge(text.len()));
        }
        let mut entries = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once('=').ok_or(VmxError::Line(number))?;
            let value = value
                .trim()
                .strip_prefix('"')
                .and_then(|v| v.strip_suffix('"'))
                .ok_or(VmxError::Line(number))?;
            let key = unescape(key.trim()).ok_or(VmxError::Escape(number))?;
            let value = unescape(value).ok_or(VmxError::Escape(number))?;
            if key.is_empty() {
                return Err(VmxError::Line(number));
            }
            entries.insert(key, value);
            if entries.len() > MAX_ENTRIES {
                return Err(VmxError::TooMany);
            }
        }
        Ok(Vmx { entries })
    }

    /// Finds the value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(String::as_str)
    }

    /// Finds the value of `key` as a number.
    pub(crate) fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.get(key)?.parse().ok()
    }

    /// Says whether `key` is `TRUE`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// Sets an entry.
    pub(crate) fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.entries.insert(key.into(), value.into());
    }

    /// Sets an entry to `TRUE` or `FALSE`.
    pub(crate) fn set_flag(&mut self, key: impl Into<String>, value: bool) {
        self.set(key, if value { "TRUE" } else { "FALSE" });
    }

    /// Lists the entries whose key begins with `prefix`, with the rest of the key.
    pub(crate) fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        self.entries
            .range(prefix.to_owned()..)
            .take_while(move |(k, _)| k.starts_with(prefix))
            .map(move |(k, v)| (&k[prefix.len()..], v.as_str()))
    }

    /// Writes the file.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::from(".encoding = \"UTF-8\"\n");
        for (key, value) in self.entries.iter().filter(|(k, _)| *k != ".encoding") {
            escape(key, true, &mut out);
            out.push_str(" = \"");
            escape(value, false, &mut out);
            out.push_str("\"\n");
        }
        out
    }
}

fn escape(text: &str, key: bool, out: &mut String) {
    for c in text.chars() {
        let special = match c {
            '"' | '|' => true,
            '#' | '=' => key,
            // `lines` and `trim` know more kinds of white space than the ASCII ones.
            c if c.is_control() => true,
            c if c.is_whitespace() => key || c != ' ',
            _ => false,
        };
        if special {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "|{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    if !text.contains('|') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'|' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    String::from_utf8(out).ok()
}

/// Reads a text as a VMX file; for fuzzing. Must not panic.
pub fn fuzz_vmx(text: &str) {
    // The reason is of no interest here.
    let _ = Vmx::parse(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn newlines_are_written_as_vsphere_writes_them() {
        let mut vmx = Vmx::default();
        vmx.set("guestinfo.x", "a\nb|\"c\" = #");
        let text = vmx.to_text();
        assert!(
            text.contains("guestinfo.x = \"a|0Ab|7C|22c|22 = #\"\n"),
            "{text}"
        );
        let read = Vmx::parse(&text).expect("reads what it wrote");
        assert_eq!(read.get("guestinfo.x"), Some("a\nb|\"c\" = #"));
    }

    #[test]
    fn a_line_that_is_no_entry_is_named() {
        assert_eq!(Vmx::parse("a = \"1\"\nnonsense\n"), Err(VmxError::Line(2)));
        assert_eq!(Vmx::parse("a = \"|0\"\n"), Err(VmxError::Escape(1)));
    }

    proptest! {
        #[test]
        fn every_entry_comes_back(
            entries in proptest::collection::btree_map(".{1,20}", ".{0,60}", 0..20),
        ) {
            let mut vmx = Vmx::default();
            for (k, v) in &entries { vmx.set(k.clone(), v.clone()); }
            let read = Vmx::parse(&vmx.to_text()).expect("reads what it wrote");
            for (k, v) in &entries { prop_assert_eq!(read.get(k), Some(v.as_str())); }
        }

        #[test]
        fn foreign_text_never_panics(text in ".{0,400}") {
            let _ = Vmx::parse(&text);
        }
    }
}
