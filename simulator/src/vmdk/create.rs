//! Making new disks.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::descriptor::{Descriptor, ExtentLine, NO_PARENT};
use super::layer::{find, lock_file, open_plain};
use super::ops::{Info, inspect, new_cid};
use super::sparse::{DESCRIPTOR_AT, DESCRIPTOR_SECTORS, Header};
use super::{Error, MAX_CAPACITY, SECTOR};

/// Hosted sparse extents address sectors in 32 bits; some room is left for the tables.
const MAX_SPARSE: u64 = (2 << 40) - (1 << 30);

/// Creates a disk without a parent: a descriptor and a flat extent that takes no space yet.
///
/// `capacity` is rounded up to whole sectors.
///
/// # Errors
/// [`Error::AlreadyExists`] when either file is there, [`Error::Invalid`] for an impossible size,
/// [`Error::NotFound`] when the directory is missing.
pub fn create_flat(path: &Path, capacity: u64) -> Result<Info, Error> {
    let capacity = check_capacity(path, capacity, MAX_CAPACITY)?;
    let extent = flat_path(path)?;
    let descriptor = flat_descriptor(&extent, capacity, &new_uuid())?;
    let data = create_new(&extent)?;
    let made = data
        .set_len(capacity)
        .map_err(|e| Error::io("size", &extent, e))
        .and_then(|()| write_new(path, descriptor.render().as_bytes()));
    if let Err(error) = made {
        let _ = std::fs::remove_file(&extent);
        return Err(error);
    }
    inspect(path)
}

/// Creates a child of `parent` that holds nothing of its own yet.
///
/// `capacity` defaults to the parent's; a larger one leaves zeros behind the parent's end.
///
/// # Errors
/// [`Error::Locked`] when the parent is open for writing, [`Error::AlreadyExists`],
/// [`Error::Invalid`] when the capacity is smaller than the parent's.
pub fn create_child(path: &Path, parent: &Path, capacity: Option<u64>) -> Result<Info, Error> {
    let below = find(parent)?;
    // Nobody may be writing the parent now: its content id is about to be remembered.
    let held = open_plain(&below.extent, false)?;
    lock_file(&held, parent, false)?;
    let below = find(parent)?;
    let capacity = check_capacity(path, capacity.unwrap_or(below.capacity), MAX_SPARSE)?;
    if capacity < below.capacity {
        return Err(Error::invalid(
            path,
            "a child cannot be smaller than its parent",
        ));
    }
    let hint = relative(path, parent)?;
    let name = file_name(path)?;
    let header = Header::new(capacity);
    let descriptor = Descriptor {
        cid: new_cid(),
        parent_cid: below.descriptor.cid,
        create_type: "monolithicSparse".into(),
        parent_hint: Some(hint),
        extents: vec![ExtentLine {
            access: "RW".into(),
            sectors: capacity / SECTOR,
            kind: "SPARSE".into(),
            file: name,
            offset: 0,
        }],
        ddb: data_base(capacity, &new_uuid()),
    };
    let text = descriptor.render();
    if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR {
        return Err(Error::invalid(path, "the path to its parent is too long"));
    }
    let file = create_new(path)?;
    let written = header
        .write_directories(&file)
        .and_then(|()| file.write_all_at(text.as_bytes(), DESCRIPTOR_AT))
        .and_then(|()| file.write_all_at(&header.encode(), 0));
    if let Err(error) = written {
        let _ = std::fs::remove_file(path);
        return Err(Error::io("write", path, error));
    }
    inspect(path)
}

pub(super) fn flat_descriptor(
    extent: &Path,
    capacity: u64,
    uuid: &str,
) -> Result<Descriptor, Error> {
    Ok(Descriptor {
        cid: new_cid(),
        parent_cid: NO_PARENT,
        create_type: "vmfs".into(),
        parent_hint: None,
        extents: vec![ExtentLine {
            access: "RW".into(),
            sectors: capacity / SECTOR,
            kind: "VMFS".into(),
            file: file_name(extent)?,
            offset: 0,
        }],
        ddb: data_base(capacity, uuid),
    })
}

pub(super) fn check_capacity(path: &Path, capacity: u64, max: u64) -> Result<u64, Error> {
    if capacity == 0 || capacity > max {
        return Err(Error::invalid(path, "the capacity is out of range"));
    }
    Ok(capacity.next_multiple_of(SECTOR))
}

/// `x.vmdk` → `x-flat.vmdk`.
pub(super) fn flat_path(path: &Path) -> Result<PathBuf, Error> {
    let name = file_name(path)?;
    let stem = name
        .strip_suffix(".vmdk")
        .filter(|stem| !stem.is_empty())
        .ok_or_else(|| Error::invalid(path, "the name of a disk must end in .vmdk"))?;
    Ok(path.with_file_name(format!("{stem}-flat.vmdk")))
}

/// The file's name, if it can stand in a descriptor.
pub(super) fn file_name(path: &Path) -> Result<String, Error> {
    path.file_name()
        .and_then(|n| n.to_str())
        .filter(|n| fits(n))
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid(path, "the name cannot stand in a descriptor"))
}

fn fits(text: &str) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_control() || c == '"' || c == '\\')
}

pub(super) fn data_base(capacity: u64, uuid: &str) -> BTreeMap<String, String> {
    let cylinders = (capacity / (SECTOR * 255 * 63)).max(1);
    [
        ("ddb.adapterType", "lsilogic".to_owned()),
        ("ddb.geometry.cylinders", cylinders.to_string()),
        ("ddb.geometry.heads", "255".to_owned()),
        ("ddb.geometry.sectors", "63".to_owned()),
        ("ddb.thinProvisioned", "1".to_owned()),
        ("ddb.uuid", uuid.to_owned()),
        ("ddb.virtualHWVersion", "19".to_owned()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// A new disk's id in the descriptor's notation, in VMware's range: `60 00 C2 9x …`.
pub(super) fn new_uuid() -> String {
    let mut id = *uuid::Uuid::new_v4().as_bytes();
    id[0] = 0x60;
    id[1] = 0x00;
    id[2] = 0xc2;
    id[3] = 0x90 | (id[3] & 0x0f);
    let hex = |part: &[u8]| {
        part.iter()
            .map(|b| format!("{b:02x}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    format!("{}-{}", hex(&id[..8]), hex(&id[8..]))
}

pub(super) fn create_new(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io("create", path, e))
}

pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    create_new(path)?
        .write_all(bytes)
        .map_err(|e| Error::io("write", path, e))
}

/// The way from `from`'s directory to `to`, both seen without symbolic links.
pub(super) fn relative(from: &Path, to: &Path) -> Result<String, Error> {
    let real = |p: &Path| p.canonicalize().map_err(|e| Error::io("find", p, e));
    let dir = match from.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => real(dir)?,
        _ => real(Path::new("."))?,
    };
    let target = real(to)?;
    let (a, b): (Vec<_>, Vec<_>) = (dir.components().collect(), target.components().collect());
    let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let mut way = PathBuf::new();
    way.extend(std::iter::repeat_n(Component::ParentDir, a.len() - common));
    way.extend(&b[common..]);
    way.to_str()
        .filter(|w| fits(w))
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid(to, "the path cannot stand in a descriptor"))
}
