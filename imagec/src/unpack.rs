//! Unpacking layers: a tar stream from strangers into a directory, and nowhere else.
//!
//! What a layer may hold: files (sparse ones too), directories, symbolic and hard links, devices,
//! fifos, owners, modes, times, extended attributes, and OCI's whiteouts: `.wh.x` removes `x` of
//! the layers below, `.wh..wh..opq` empties its directory of them.
//!
//! What it may not do:
//! - leave the root: every parent directory is opened by `openat2` with `RESOLVE_IN_ROOT`, so that
//!   symbolic links, absolute and looping ones too, end inside, and the last component is never
//!   followed;
//! - fill memory: headers, names, attributes and tables have limits;
//! - fill the disk without end: bytes and entries are counted.
//!
//! [`unpack`] blocks and leaves what it wrote behind when it fails. Whoever calls it makes the
//! directory visible to others only after the returned `diff_id` was found right.

mod decompress;
mod entry;
mod tar;
mod tree;

use std::io::{self, Read};
use std::path::Path;

use crate::digest::{Digest, Hasher};
pub use decompress::{Compression, decompress};
pub use tar::{Entry, Kind, TarError, TarReader};
use tree::Tree;

/// What a layer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and four million entries: no real layer comes near, and a bomb stops there.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed stream: compare it with the image's before going on.
    pub diff_id: Digest,
    /// Length of the uncompressed stream.
    pub stream_bytes: u64,
    /// Bytes in regular files: what docker calls the layer's size.
    pub file_bytes: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream cannot be read or is damaged.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The stream is not a proper archive.
    #[error("bad layer archive")]
    Tar(#[source] TarError),
    /// An entry wants something that is not allowed.
    #[error("bad entry {path:?} in the layer: {why}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit was reached.
    #[error("the layer has more than {limit} {what}")]
    TooBig {
        /// Bytes or entries.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file system refused.
    #[error("cannot {what} {path:?}")]
    Write {
        /// What was tried.
        what: &'static str,
        /// The entry's name.
        path: String,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// Tells whether the same layer, fetched again, could be unpacked.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

/// Unpacks a layer, compressed or not, over what is in `root` already.
///
/// # Errors
/// [`UnpackError`]. Part of the layer may have been written.
pub fn unpack(layer: impl Read, root: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let plain = decompress(layer).map_err(UnpackError::Read)?;
    let mut tar = TarReader::new(Counted {
        inner: plain,
        hasher: Hasher::default(),
        bytes: 0,
        limit: limits.bytes,
    });
    let mut tree = Tree::open(root)?;
    let mut entries = 0;
    let stopped = |tar: &TarReader<Counted<_>>, error: UnpackError| {
        let counted = tar.get_ref();
        match counted.bytes > counted.limit {
            true => UnpackError::TooBig {
                what: "bytes",
                limit: limits.bytes,
            },
            false => error,
        }
    };
    loop {
        let entry = match tar.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => return Err(stopped(&tar, tar_error(error))),
        };
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::TooBig {
                what: "entries",
                limit: limits.entries,
            });
        }
        if let Err(error) = tree.apply(&entry, &mut tar) {
            return Err(stopped(&tar, error));
        }
    }
    let file_bytes = tree.finish()?;
    // The digest is that of the whole stream, padding behind the archive's end included.
    let mut counted = tar.into_inner();
    if let Err(error) = io::copy(&mut counted, &mut io::sink()) {
        return Err(match counted.bytes > counted.limit {
            true => UnpackError::TooBig {
                what: "bytes",
                limit: limits.bytes,
            },
            false => UnpackError::Read(error),
        });
    }
    Ok(Unpacked {
        diff_id: counted.hasher.finish(),
        stream_bytes: counted.bytes,
        file_bytes,
        entries,
    })
}

/// Reads all entries and their data without writing anything: the entry for fuzzing.
///
/// # Errors
/// [`UnpackError`] for a stream that [`unpack`] would refuse while reading.
pub fn scan(layer: impl Read, limits: &Limits) -> Result<Vec<Entry>, UnpackError> {
    let plain = decompress(layer).map_err(UnpackError::Read)?;
    let counted = Counted {
        inner: plain,
        hasher: Hasher::default(),
        bytes: 0,
        limit: limits.bytes,
    };
    let mut tar = TarReader::new(counted);
    let mut all = Vec::new();
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        if all.len() as u64 >= limits.entries {
            return Err(UnpackError::TooBig {
                what: "entries",
                limit: limits.entries,
            });
        }
        all.push(entry);
    }
    Ok(all)
}

fn tar_error(error: TarError) -> UnpackError {
    match error {
        TarError::Read(source) => UnpackError::Read(source),
        other => UnpackError::Tar(other),
    }
}

/// Sums and counts what passes.
struct Counted<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
    limit: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.bytes += got as u64;
        if self.bytes > self.limit {
            return Err(io::Error::other("more bytes than allowed"));
        }
        self.hasher.update(&buf[..got]);
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
