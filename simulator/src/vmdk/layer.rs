//! One open disk of a chain: its extent, its lock and its parent.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::descriptor::{Descriptor, MAX_DESCRIPTOR, parse_descriptor};
use super::sparse::{Entry, Header, MAGIC, Tables};
use super::{DescriptorError, Error, MAX_CHAIN, Roots, SECTOR};

/// How the bytes lie in the extent's file.
#[derive(Debug)]
pub(super) enum Extent {
    /// One to one, from this byte on.
    Flat(u64),
    /// In grains.
    Sparse(Tables),
}

/// A disk's files as found, nothing locked yet.
#[derive(Debug)]
pub(super) struct Found {
    /// The file that was named.
    pub path: PathBuf,
    pub descriptor: Descriptor,
    /// The file that holds the data: `path` itself when sparse.
    pub extent: PathBuf,
    /// The sparse header.
    pub header: Option<Header>,
    /// First byte in a flat extent.
    pub flat_offset: u64,
    pub capacity: u64,
}

/// Opens without following a link in the last place; never a device or a fifo.
pub(super) fn open_plain(path: &Path, write: bool) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("examine", path, e))?;
    if !meta.is_file() {
        return Err(Error::unsupported(path, "not a regular file"));
    }
    Ok(file)
}

/// Reads a disk's descriptor and finds its extent.
pub(super) fn find(path: &Path) -> Result<Found, Error> {
    let mut file = open_plain(path, false)?;
    let len = file
        .metadata()
        .map_err(|e| Error::io("examine", path, e))?
        .len();
    let mut head = [0u8; 512];
    let got = read_up_to(&mut file, &mut head).map_err(|e| Error::io("read", path, e))?;
    let bad = |source| Error::Descriptor {
        path: path.to_path_buf(),
        source,
    };
    if got == 512 && head[..4] == MAGIC.to_le_bytes() {
        let header = Header::decode(&head, len).map_err(|why| Error::unsupported(path, why))?;
        let mut text = vec![0u8; header.descriptor_len as usize];
        file.read_exact_at(&mut text, header.descriptor_at)
            .map_err(|e| Error::io("read", path, e))?;
        let descriptor = parse_descriptor(text_of(&text).map_err(bad)?).map_err(bad)?;
        if descriptor.extents.len() != 1 || descriptor.extents[0].kind != "SPARSE" {
            return Err(Error::unsupported(
                path,
                "more than one extent, or not a sparse one",
            ));
        }
        return Ok(Found {
            path: path.to_path_buf(),
            extent: path.to_path_buf(),
            capacity: header.capacity,
            header: Some(header),
            flat_offset: 0,
            descriptor,
        });
    }
    if len > MAX_DESCRIPTOR as u64 {
        return Err(bad(DescriptorError::TooLong));
    }
    let mut raw = head[..got].to_vec();
    file.take(MAX_DESCRIPTOR as u64)
        .read_to_end(&mut raw)
        .map_err(|e| Error::io("read", path, e))?;
    let descriptor = parse_descriptor(text_of(&raw).map_err(bad)?).map_err(bad)?;
    let [line] = descriptor.extents.as_slice() else {
        return Err(Error::unsupported(path, "more than one extent"));
    };
    let extent = path.with_file_name(&line.file);
    let capacity = descriptor.capacity();
    let mut flat_offset = 0;
    let header = match line.kind.as_str() {
        "FLAT" | "VMFS" => {
            flat_offset = line.offset * SECTOR;
            None
        }
        "SPARSE" => {
            let data = open_plain(&extent, false)?;
            let len = data
                .metadata()
                .map_err(|e| Error::io("examine", &extent, e))?
                .len();
            data.read_exact_at(&mut head, 0)
                .map_err(|e| Error::io("read", &extent, e))?;
            Some(Header::decode(&head, len).map_err(|why| Error::unsupported(&extent, why))?)
        }
        other => return Err(Error::unsupported(path, format!("extent type {other}"))),
    };
    let capacity = header.as_ref().map_or(capacity, |h| h.capacity);
    Ok(Found {
        path: path.to_path_buf(),
        extent,
        capacity,
        header,
        flat_offset,
        descriptor,
    })
}

fn read_up_to(file: &mut File, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match file.read(&mut buf[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

fn text_of(raw: &[u8]) -> Result<&str, DescriptorError> {
    let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
    std::str::from_utf8(&raw[..end]).map_err(|_| DescriptorError::NotText)
}

impl Found {
    /// The parent's path, if there is one.
    pub(super) fn parent(&self) -> Result<Option<PathBuf>, Error> {
        if !self.descriptor.has_parent() {
            return Ok(None);
        }
        let Some(hint) = &self.descriptor.parent_hint else {
            return Err(Error::Descriptor {
                path: self.path.clone(),
                source: DescriptorError::Missing {
                    key: "parentFileNameHint",
                },
            });
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        Ok(Some(dir.join(hint)))
    }

    /// Opens and locks the extent.
    fn lock(&self, write: bool) -> Result<File, Error> {
        let file = open_plain(&self.extent, write)?;
        lock_file(&file, &self.path, write)?;
        Ok(file)
    }
}

/// How long a lock that is held is tried for again: a process that we are just starting holds copies of our
/// descriptors between its fork and its exec, and with them the locks of disks that we have closed meanwhile.
const FORK: Duration = Duration::from_millis(200);

/// Takes ESXi's lock: exclusive to write, shared to read.
pub(super) fn lock_file(file: &File, path: &Path, exclusive: bool) -> Result<(), Error> {
    let end = Instant::now() + FORK;
    loop {
        let taken = if exclusive {
            file.try_lock()
        } else {
            file.try_lock_shared()
        };
        match taken {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::park_timeout(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
        }
    }
}

/// An open disk. Its files stay locked while it lives.
#[derive(Debug)]
pub(super) struct Layer {
    pub path: PathBuf,
    pub file: File,
    pub extent: Extent,
    pub capacity: u64,
    pub cid: u32,
    pub parent: Option<Arc<Layer>>,
    depth: usize,
}

type Key = (u64, u64);

/// Parents that are open now. Their locks keep them unchanged, so whoever opens another child
/// shares the file and the tables already read.
fn shared() -> &'static Mutex<HashMap<Key, Weak<Layer>>> {
    static SHARED: OnceLock<Mutex<HashMap<Key, Weak<Layer>>>> = OnceLock::new();
    SHARED.get_or_init(Mutex::default)
}

impl Layer {
    /// Opens a disk with all its parents.
    pub(super) fn open(path: &Path, write: bool, roots: &Roots) -> Result<Layer, Error> {
        let top = find(&roots.resolve(path)?)?;
        let file = top.lock(write)?;
        // From the top down until the base or a disk that is open already.
        let mut pending: Vec<(Found, File)> = Vec::new();
        let mut seen: Vec<Key> = vec![key_of(&file, &top.extent)?];
        let mut base = None;
        let mut next = top.parent()?;
        while let Some(parent) = next {
            let found = find(&roots.resolve(&parent)?)?;
            let file = found.lock(false)?;
            let key = key_of(&file, &found.extent)?;
            if seen.contains(&key) || seen.len() > MAX_CHAIN {
                return Err(Error::ChainTooLong {
                    path: path.to_path_buf(),
                });
            }
            seen.push(key);
            let known = shared()
                .lock()
                .unwrap_or_else(|p| p.into_inner())
                .get(&key)
                .cloned();
            if let Some(open) = known.and_then(|weak| weak.upgrade()) {
                base = Some(open);
                break;
            }
            next = found.parent()?;
            pending.push((found, file));
        }
        if base.as_ref().map_or(0, |b| b.depth) + pending.len() > MAX_CHAIN {
            return Err(Error::ChainTooLong {
                path: path.to_path_buf(),
            });
        }
        while let Some((found, file)) = pending.pop() {
            let key = key_of(&file, &found.extent)?;
            let layer = Arc::new(Self::assemble(found, file, base.take())?);
            let mut map = shared().lock().unwrap_or_else(|p| p.into_inner());
            map.retain(|_, weak| weak.strong_count() > 0);
            map.insert(key, Arc::downgrade(&layer));
            base = Some(layer);
        }
        Self::assemble(top, file, base)
    }

    fn assemble(found: Found, file: File, parent: Option<Arc<Layer>>) -> Result<Layer, Error> {
        if let Some(parent) = &parent
            && parent.cid != found.descriptor.parent_cid
        {
            return Err(Error::ParentModified {
                parent: parent.path.clone(),
                child: found.path,
            });
        }
        let extent = match &found.header {
            Some(header) => {
                let tables = Tables::open(&file, header)
                    .map_err(|e| Error::io("read the tables of", &found.extent, e))?;
                Extent::Sparse(tables)
            }
            None => {
                let len = file
                    .metadata()
                    .map_err(|e| Error::io("examine", &found.extent, e))?
                    .len();
                if len < found.flat_offset + found.capacity {
                    return Err(Error::unsupported(
                        &found.path,
                        "its flat extent is too short",
                    ));
                }
                Extent::Flat(found.flat_offset)
            }
        };
        let depth = parent.as_ref().map_or(1, |p| p.depth + 1);
        Ok(Layer {
            path: found.path,
            file,
            extent,
            capacity: found.capacity,
            cid: found.descriptor.cid,
            parent,
            depth,
        })
    }

    /// Number of disks in the chain.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Finds who holds the byte at `at`, and how many bytes from there on (at most `max`) it
    /// holds in a row. `None`: they are zero.
    pub(super) fn resolve(
        &self,
        at: u64,
        max: u64,
    ) -> std::io::Result<(Option<(&Layer, u64)>, u64)> {
        let mut run = max;
        let mut layer = self;
        loop {
            if at >= layer.capacity {
                return Ok((None, run));
            }
            run = run.min(layer.capacity - at);
            match &layer.extent {
                Extent::Flat(offset) => return Ok((Some((layer, offset + at)), run)),
                Extent::Sparse(tables) => {
                    let within = at % tables.grain;
                    run = run.min(tables.grain - within);
                    match tables.entry(&layer.file, at / tables.grain)? {
                        Entry::At(start) => return Ok((Some((layer, start + within)), run)),
                        Entry::Zero => return Ok((None, run)),
                        Entry::Absent => {}
                    }
                }
            }
            match &layer.parent {
                Some(parent) => layer = parent,
                None => return Ok((None, run)),
            }
        }
    }

    /// Fills `buf` from byte `at` of this disk and its parents.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> std::io::Result<()> {
        let mut done = 0usize;
        while done < buf.len() {
            let (mut source, mut run) =
                self.resolve(at + done as u64, (buf.len() - done) as u64)?;
            // Neighbouring grains are often neighbours in the file too: one read for all of them.
            while done as u64 + run < buf.len() as u64 {
                let left = buf.len() as u64 - done as u64 - run;
                let (next, more) = self.resolve(at + done as u64 + run, left)?;
                match (&source, &next) {
                    (None, None) => {}
                    (Some((a, from)), Some((b, to)))
                        if std::ptr::eq(*a, *b) && from + run == *to => {}
                    _ => break,
                }
                run += more;
            }
            let part = &mut buf[done..done + run as usize];
            match source.take() {
                Some((layer, from)) => layer.file.read_exact_at(part, from)?,
                None => part.fill(0),
            }
            done += run as usize;
        }
        Ok(())
    }
}

fn key_of(file: &File, path: &Path) -> Result<Key, Error> {
    let meta = file.metadata().map_err(|e| Error::io("examine", path, e))?;
    Ok((meta.dev(), meta.ino()))
}
