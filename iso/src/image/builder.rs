//! Writes images whose bytes depend on their content alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::date::Date;
use super::{DESCRIPTOR, FLAG_DIR, PUBLISHER, ROOT_RECORD, SECTOR, VOLUME_ID, sectors, susp};

const DIR_MODE: u32 = 0o040_555;
const FILE_MODE: u32 = 0o100_444;
/// ECMA-119 6.8.2.1, the root included.
const DEPTH_MAX: usize = 8;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A path that the format cannot hold.
    #[error("{path:?} cannot be a path in an image: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file that goes into the image cannot be read.
    #[error("cannot read {path} for the image")]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
    /// A file or the image is larger than the format allows.
    #[error("{what} is too large for an image")]
    TooLarge {
        /// What is too large.
        what: String,
    },
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From another file.
    File(PathBuf),
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Collects files, then writes them as an image.
#[derive(Clone, Debug)]
pub struct Builder {
    volume_id: String,
    publisher: String,
    time: u32,
    files: BTreeMap<String, Source>,
}

impl Builder {
    /// Begins an image with the volume name `volume_id` (upper case letters, digits and `_`).
    #[must_use]
    pub fn new(volume_id: &str) -> Self {
        Self {
            volume_id: volume_id.to_owned(),
            publisher: String::new(),
            time: 0,
            files: BTreeMap::new(),
        }
    }

    /// Sets the publisher, where the version stands as the last word.
    pub fn publisher(&mut self, publisher: &str) -> &mut Self {
        publisher.clone_into(&mut self.publisher);
        self
    }

    /// Sets the time of everything in the image, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub fn time(&mut self, seconds: u32) -> &mut Self {
        self.time = seconds;
        self
    }

    /// Adds a file; the directories above it are made.
    ///
    /// # Errors
    /// When the format cannot hold the path, or the path is in use.
    pub fn file(&mut self, path: &str, source: impl Into<Source>) -> Result<&mut Self, BuildError> {
        let refuse = |why| {
            Err(BuildError::Path {
                path: path.to_owned(),
                why,
            })
        };
        let relative = path.trim_start_matches('/');
        let parts: Vec<&str> = relative.split('/').collect();
        if parts.len() >= DEPTH_MAX {
            return refuse("it is nested too deeply");
        }
        for part in &parts {
            if part.is_empty() || *part == "." || *part == ".." {
                return refuse("every part needs a name");
            }
            if part.len() > susp::NAME_MAX || part.contains('\0') {
                return refuse("a part is too long or has a zero byte");
            }
        }
        let beneath = format!("{relative}/");
        let clash = self.files.keys().any(|other| {
            other == relative
                || other.starts_with(&beneath)
                || relative.starts_with(&format!("{other}/"))
        });
        if clash {
            return refuse("it is in use");
        }
        self.files.insert(relative.to_owned(), source.into());
        Ok(self)
    }

    /// Writes the image.
    ///
    /// # Errors
    /// When a source cannot be read, the image not be written, or something is too large.
    pub fn write(&self, out: &mut impl Write) -> Result<(), BuildError> {
        let mut layout = Layout::plan(self)?;
        layout.place()?;
        let head = layout.head(self);
        out.write_all(&head).map_err(BuildError::Write)?;
        for file in &layout.files {
            copy_file(file, out)?;
        }
        out.flush().map_err(BuildError::Write)
    }
}

struct FileNode<'a> {
    source: &'a Source,
    size: u64,
    at: u64,
}

enum Child {
    Dir(usize),
    File(usize),
}

struct DirNode {
    parent: usize,
    /// Plain name to the real one and what it is; the order is the one that the format wants.
    children: BTreeMap<String, (String, Child)>,
    plain: String,
    size: u64,
    at: u64,
}

struct Layout<'a> {
    /// Breadth first, the root first.
    dirs: Vec<DirNode>,
    files: Vec<FileNode<'a>>,
    path_table: usize,
    total: u64,
}

impl<'a> Layout<'a> {
    fn plan(builder: &'a Builder) -> Result<Self, BuildError> {
        let mut layout = Self {
            dirs: Vec::new(),
            files: Vec::new(),
            path_table: 0,
            total: 0,
        };
        layout.dirs.push(DirNode {
            parent: 0,
            children: BTreeMap::new(),
            plain: "\0".into(),
            size: 0,
            at: 0,
        });
        let mut prefixes = vec![String::new()];
        let mut next = 0;
        while next < layout.dirs.len() {
            layout.fill(builder, next, &mut prefixes)?;
            next += 1;
        }
        Ok(layout)
    }

    /// Finds the children of one directory.
    fn fill(
        &mut self,
        builder: &'a Builder,
        dir: usize,
        prefixes: &mut Vec<String>,
    ) -> Result<(), BuildError> {
        let prefix = prefixes[dir].clone();
        let mut names: BTreeMap<&str, Option<(&String, &'a Source)>> = BTreeMap::new();
        for (path, source) in &builder.files {
            let Some(rest) = path.strip_prefix(prefix.as_str()) else {
                continue;
            };
            match rest.split_once('/') {
                Some((name, _)) => names.insert(name, None),
                None => names.insert(rest, Some((path, source))),
            };
        }
        let mut used = BTreeSet::new();
        let mut plain_names: BTreeMap<String, &str> = BTreeMap::new();
        for (name, what) in &names {
            plain_names.insert(plain_name(name, what.is_some(), &mut used), name);
        }
        for (plain, name) in plain_names {
            let child = match names[name] {
                None => {
                    prefixes.push(format!("{prefix}{name}/"));
                    self.dirs.push(DirNode {
                        parent: dir,
                        children: BTreeMap::new(),
                        plain: plain.clone(),
                        size: 0,
                        at: 0,
                    });
                    Child::Dir(self.dirs.len() - 1)
                }
                Some((path, source)) => {
                    let size = source_size(source)?;
                    if u32::try_from(size).is_err() {
                        return Err(BuildError::TooLarge { what: path.clone() });
                    }
                    self.files.push(FileNode {
                        source,
                        size,
                        at: 0,
                    });
                    Child::File(self.files.len() - 1)
                }
            };
            self.dirs[dir]
                .children
                .insert(plain, (name.to_owned(), child));
        }
        Ok(())
    }

    /// Gives everything its sector.
    fn place(&mut self) -> Result<(), BuildError> {
        self.path_table = self
            .dirs
            .iter()
            .map(|dir| 8 + dir.plain.len().next_multiple_of(2))
            .sum();
        let mut at = u64::from(DESCRIPTOR) + 2 + 2 * sectors(self.path_table as u64);
        for index in 0..self.dirs.len() {
            // Sizes do not depend on where things lie, so a first writing measures them.
            let size = self.directory(index, Date::from_unix(0)).len() as u64;
            let dir = &mut self.dirs[index];
            (dir.size, dir.at) = (size, at);
            at += sectors(size);
        }
        for file in &mut self.files {
            file.at = at;
            at += sectors(file.size);
        }
        self.total = at;
        if u32::try_from(at).is_err() {
            return Err(BuildError::TooLarge {
                what: "the image".into(),
            });
        }
        Ok(())
    }

    /// Everything in front of the first file.
    fn head(&self, builder: &Builder) -> Vec<u8> {
        let date = Date::from_unix(builder.time);
        let mut head = vec![0; DESCRIPTOR as usize * SECTOR];
        head.extend(self.descriptor(builder, date));
        let mut end = vec![0; SECTOR];
        end[..7].copy_from_slice(b"\xffCD001\x01");
        head.extend(end);
        for big_endian in [false, true] {
            head.extend(self.path_table(big_endian));
            head.resize(head.len().next_multiple_of(SECTOR), 0);
        }
        for index in 0..self.dirs.len() {
            head.extend(self.directory(index, date));
        }
        head
    }

    fn descriptor(&self, builder: &Builder, date: Date) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        sector[..7].copy_from_slice(b"\x01CD001\x01");
        text(&mut sector[8..40], "LINUX");
        text(&mut sector[VOLUME_ID], &builder.volume_id);
        sector[80..88].copy_from_slice(&both32(self.total));
        sector[120..124].copy_from_slice(&both16(1));
        sector[124..128].copy_from_slice(&both16(1));
        sector[128..132].copy_from_slice(&both16(SECTOR as u16));
        sector[132..140].copy_from_slice(&both32(self.path_table as u64));
        let table = u32::from(DESCRIPTOR as u16) + 2;
        sector[140..144].copy_from_slice(&table.to_le_bytes());
        let second = table + sectors(self.path_table as u64) as u32;
        sector[148..152].copy_from_slice(&second.to_be_bytes());
        let root = &self.dirs[0];
        sector[ROOT_RECORD].copy_from_slice(&record(b"\0", root.at, root.size, true, date, &[]));
        for range in [190..318, 446..574, 574..702, 702..739, 739..776, 776..813] {
            text(&mut sector[range], "");
        }
        text(&mut sector[PUBLISHER], &builder.publisher);
        sector[813..830].copy_from_slice(&date.long());
        sector[830..847].copy_from_slice(&date.long());
        sector[847..864].copy_from_slice(b"0000000000000000\0");
        sector[864..881].copy_from_slice(b"0000000000000000\0");
        sector[881] = 1;
        sector
    }

    fn path_table(&self, big_endian: bool) -> Vec<u8> {
        let mut table = Vec::with_capacity(self.path_table);
        for dir in &self.dirs {
            table.extend([dir.plain.len() as u8, 0]);
            let (at, parent) = (dir.at as u32, dir.parent as u16 + 1);
            if big_endian {
                table.extend(at.to_be_bytes());
                table.extend(parent.to_be_bytes());
            } else {
                table.extend(at.to_le_bytes());
                table.extend(parent.to_le_bytes());
            }
            table.extend(dir.plain.as_bytes());
            table.resize(table.len().next_multiple_of(2), 0);
        }
        table
    }

    /// The records of one directory; none crosses the border of a sector.
    fn directory(&self, index: usize, date: Date) -> Vec<u8> {
        let dir = &self.dirs[index];
        let parent = &self.dirs[dir.parent];
        let mut own = susp::plain(DIR_MODE, self.links(index), date);
        if index == 0 {
            own = susp::announced(own);
        }
        let up = susp::plain(DIR_MODE, self.links(dir.parent), date);
        let mut records = vec![
            record(b"\0", dir.at, dir.size, true, date, &own),
            record(b"\x01", parent.at, parent.size, true, date, &up),
        ];
        for (plain, (name, child)) in &dir.children {
            records.push(match child {
                Child::Dir(child) => {
                    let fields = susp::named(name, DIR_MODE, self.links(*child), date);
                    let child = &self.dirs[*child];
                    record(plain.as_bytes(), child.at, child.size, true, date, &fields)
                }
                Child::File(child) => {
                    let fields = susp::named(name, FILE_MODE, 1, date);
                    let child = &self.files[*child];
                    record(plain.as_bytes(), child.at, child.size, false, date, &fields)
                }
            });
        }
        let mut bytes: Vec<u8> = Vec::new();
        for record in records {
            if bytes.len() % SECTOR + record.len() > SECTOR {
                bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            }
            bytes.extend(record);
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        bytes
    }

    fn links(&self, dir: usize) -> u32 {
        let below = self.dirs[dir].children.values();
        2 + below
            .filter(|(_, child)| matches!(child, Child::Dir(_)))
            .count() as u32
    }
}

fn source_size(source: &Source) -> Result<u64, BuildError> {
    match source {
        Source::Bytes(bytes) => Ok(bytes.len() as u64),
        Source::File(path) => std::fs::metadata(path)
            .map(|metadata| metadata.len())
            .map_err(|source| BuildError::Source {
                path: path.clone(),
                source,
            }),
    }
}

fn copy_file(file: &FileNode<'_>, out: &mut impl Write) -> Result<(), BuildError> {
    match file.source {
        Source::Bytes(bytes) => out.write_all(bytes).map_err(BuildError::Write)?,
        Source::File(path) => {
            let failed = |source| BuildError::Source {
                path: path.clone(),
                source,
            };
            let input = File::open(path).map_err(failed)?;
            let copied = io::copy(&mut input.take(file.size), out).map_err(BuildError::Write)?;
            if copied != file.size {
                return Err(failed(io::Error::other(
                    "it became shorter while it was read",
                )));
            }
        }
    }
    let filled = sectors(file.size) * SECTOR as u64 - file.size;
    out.write_all(&vec![0; filled as usize])
        .map_err(BuildError::Write)
}

/// The name that ECMA-119 allows for `name`, unique in its directory.
fn plain_name(name: &str, is_file: bool, used: &mut BTreeSet<String>) -> String {
    let clean = |text: &str, len: usize| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .take(len)
            .collect()
    };
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if is_file => (clean(stem, 20), clean(extension, 5)),
        _ => (clean(name, 20), String::new()),
    };
    for number in 0u32.. {
        let mark = if number == 0 {
            String::new()
        } else {
            format!("{number}")
        };
        let candidate = if is_file {
            format!("{stem}{mark}.{extension};1")
        } else {
            format!("{stem}{mark}")
        };
        if used.insert(candidate.clone()) {
            return candidate;
        }
    }
    unreachable!("a directory has fewer entries than there are numbers")
}

fn record(name: &[u8], at: u64, size: u64, dir: bool, date: Date, fields: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both32(at));
    record.extend(both32(size));
    record.extend(date.short());
    record.extend([if dir { FLAG_DIR } else { 0 }, 0, 0]);
    record.extend(both16(1));
    record.push(name.len() as u8);
    record.extend(name);
    record.resize(record.len().next_multiple_of(2), 0);
    record.extend(fields);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

/// A number in both byte orders; what is placed has been checked to fit.
fn both32(value: u64) -> [u8; 8] {
    let value = value as u32;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

fn text(field: &mut [u8], value: &str) {
    field.fill(b' ');
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value.as_bytes()[..len]);
}
