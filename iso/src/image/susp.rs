//! Rock Ridge: the real name and mode of a file, in the room that a directory record leaves.

use super::date::Date;

/// Longest name that fits a record beside a plain name of 31 characters.
pub(super) const NAME_MAX: usize = 120;

const IDENTIFIER: &[u8] = b"RRIP_1991A";

/// The fields of a record with a name.
pub(super) fn named(name: &str, mode: u32, links: u32, date: Date) -> Vec<u8> {
    let mut fields = plain(mode, links, date);
    fields.extend([b'N', b'M', 5 + name.len() as u8, 1, 0]);
    fields.extend(name.as_bytes());
    fields
}

/// The fields of a record without a name of its own: `.` and `..`.
pub(super) fn plain(mode: u32, links: u32, date: Date) -> Vec<u8> {
    let mut fields = vec![b'P', b'X', 36, 1];
    for value in [mode, links, 0, 0] {
        fields.extend(value.to_le_bytes());
        fields.extend(value.to_be_bytes());
    }
    // The time of modification only.
    fields.extend([b'T', b'F', 12, 1, 2]);
    fields.extend(date.short());
    fields
}

/// The fields of the root's first record, which announce that there are any.
pub(super) fn announced(mut fields: Vec<u8>) -> Vec<u8> {
    let mut all = vec![b'S', b'P', 7, 1, 0xbe, 0xef, 0];
    all.append(&mut fields);
    all.extend([
        b'E',
        b'R',
        8 + IDENTIFIER.len() as u8,
        1,
        IDENTIFIER.len() as u8,
        0,
        0,
        1,
    ]);
    all.extend(IDENTIFIER);
    all
}

/// What the fields of one record say.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) name: Vec<u8>,
    pub(super) mode: Option<u32>,
    /// Where more fields are: sector, offset, length.
    pub(super) continued: Option<(u32, u32, u32)>,
}

impl Fields {
    /// Takes in the fields of `area`; damaged ones end it.
    pub(super) fn read(&mut self, mut area: &[u8]) {
        self.continued = None;
        while let [a, b, len, _version, ..] = *area {
            let len = usize::from(len);
            if len < 4 || len > area.len() {
                break;
            }
            let (field, rest) = area.split_at(len);
            match (&[a, b], field) {
                (b"NM", [_, _, _, _, flags, name @ ..]) if flags & 6 == 0 => {
                    self.name.extend(name);
                }
                (b"PX", [_, _, _, _, m0, m1, m2, m3, ..]) => {
                    self.mode = Some(u32::from_le_bytes([*m0, *m1, *m2, *m3]));
                }
                (b"CE", [_, _, _, _, at @ ..]) if at.len() >= 24 => {
                    let word =
                        |i: usize| u32::from_le_bytes([at[i], at[i + 1], at[i + 2], at[i + 3]]);
                    self.continued = Some((word(0), word(8), word(16)));
                }
                (b"ST", _) => break,
                _ => {}
            }
            area = rest;
        }
    }
}
