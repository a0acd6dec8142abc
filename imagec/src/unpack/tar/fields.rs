//! The fields of headers: numbers, times, names, and PAX records.

use super::{MAX_PIECES, TarError};

/// The most extended attributes of one file, and bytes of one value: the kernel's limits.
const MAX_XATTRS: usize = 256;
const MAX_XATTR_VALUE: usize = 64 * 1024;
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// Extensions gathered for the next entry.
#[derive(Default)]
pub(super) struct Pending {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse_major: Option<u64>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_size: Option<u64>,
    pub sparse_map: Option<Vec<(u64, u64)>>,
    pub sparse_offset: Option<u64>,
}

/// Pieces must be in order, inside the file, and as long together as the data.
pub(super) fn check_map(map: &[(u64, u64)], size: u64, data: u64) -> Result<(), TarError> {
    let bad = TarError::Field("sparse map");
    let (mut end, mut sum) = (0u64, 0u64);
    for &(at, len) in map {
        let stop = at.checked_add(len).filter(|stop| *stop <= size);
        let (Some(stop), true) = (stop, at >= end) else {
            return Err(bad);
        };
        end = stop;
        sum = sum.saturating_add(len);
    }
    if sum != data { Err(bad) } else { Ok(()) }
}

pub(super) fn until_nul(raw: &[u8]) -> &[u8] {
    &raw[..raw.iter().position(|b| *b == 0).unwrap_or(raw.len())]
}

/// A number: octal digits, or big-endian binary with the first bit set.
pub(super) fn number(raw: &[u8]) -> Option<u64> {
    signed(raw).and_then(|n| u64::try_from(n).ok())
}

pub(super) fn signed(raw: &[u8]) -> Option<i64> {
    let first = *raw.first()?;
    if first & 0x80 != 0 {
        // GNU's binary form; the second bit is the sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in raw.iter().enumerate() {
            let byte = if i == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
            if i == 0 && negative {
                value = -1;
            }
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let mut text = raw
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(|b| *b != 0 && *b != b' ');
    text.try_fold(0i64, |value, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 8)?;
        value.checked_mul(8)?.checked_add(i64::from(digit))
    })
}

fn decimal<T: std::str::FromStr>(raw: &[u8], what: &'static str) -> Result<T, TarError> {
    std::str::from_utf8(raw)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or(TarError::Field(what))
}

/// `seconds[.fraction]`, possibly negative.
fn pax_time(raw: &[u8]) -> Result<(i64, u32), TarError> {
    let text = std::str::from_utf8(raw).map_err(|_| TarError::Field("time"))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| TarError::Field("time"))?;
    let digits: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().map_err(|_| TarError::Field("time"))?;
    match (whole.starts_with('-'), nanos) {
        (true, n) if n > 0 => {
            let seconds = seconds.checked_sub(1).ok_or(TarError::Field("time"))?;
            Ok((seconds, 1_000_000_000 - n))
        }
        _ => Ok((seconds, nanos)),
    }
}

/// Reads `length key=value\n` records.
pub(super) fn parse_pax(mut raw: &[u8], p: &mut Pending) -> Result<(), TarError> {
    let bad = || TarError::Field("PAX record");
    while !raw.is_empty() {
        let blank = raw
            .iter()
            .take(20)
            .position(|b| *b == b' ')
            .ok_or_else(bad)?;
        let length: usize = decimal(&raw[..blank], "PAX record")?;
        if length <= blank + 1 || length > raw.len() || raw[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &raw[blank + 1..length - 1];
        raw = &raw[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => p.path = Some(name(value)?),
            b"linkpath" => p.link = Some(name(value)?),
            b"size" => p.size = Some(decimal(value, "size")?),
            b"uid" => p.uid = Some(decimal(value, "owner")?),
            b"gid" => p.gid = Some(decimal(value, "group")?),
            b"mtime" => p.mtime = Some(pax_time(value)?),
            b"GNU.sparse.major" => p.sparse_major = Some(decimal(value, "sparse version")?),
            b"GNU.sparse.name" => p.sparse_name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                p.sparse_size = Some(decimal(value, "sparse size")?);
            }
            b"GNU.sparse.map" => p.sparse_map = Some(sparse_list(value)?),
            b"GNU.sparse.offset" => p.sparse_offset = Some(decimal(value, "sparse map")?),
            b"GNU.sparse.numbytes" => {
                let at = p
                    .sparse_offset
                    .take()
                    .ok_or(TarError::Field("sparse map"))?;
                let map = p.sparse_map.get_or_insert_default();
                if map.len() == MAX_PIECES {
                    return Err(TarError::TooLong("sparse map"));
                }
                map.push((at, decimal(value, "sparse map")?));
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(PAX_XATTR) {
                    if p.xattrs.len() == MAX_XATTRS || value.len() > MAX_XATTR_VALUE {
                        return Err(TarError::TooLong("extended attributes"));
                    }
                    if attribute.is_empty() || attribute.len() > 255 || attribute.contains(&0) {
                        return Err(TarError::Field("extended attribute"));
                    }
                    p.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.contains(&0) {
        Err(TarError::Field("name"))
    } else {
        Ok(value.to_vec())
    }
}

fn sparse_list(value: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let numbers: Vec<u64> = value
        .split(|b| *b == b',')
        .take(2 * MAX_PIECES + 1)
        .map(|n| decimal(n, "sparse map"))
        .collect::<Result<_, _>>()?;
    if numbers.len() > 2 * MAX_PIECES {
        return Err(TarError::TooLong("sparse map"));
    }
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Field("sparse map"));
    }
    Ok(numbers.chunks_exact(2).map(|c| (c[0], c[1])).collect())
}
