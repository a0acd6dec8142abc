//! Reads images that may have been made by anybody.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{
    DESCRIPTOR, FLAG_DIR, FLAG_MULTI_EXTENT, PUBLISHER, ROOT_RECORD, SECTOR, VOLUME_ID, susp,
};

/// A directory of more bytes than this is no directory of ours, nor of any boot CD.
const DIR_MAX: u32 = 4 << 20;
/// Entries that [`Reader::list`] returns at most.
const ENTRIES_MAX: usize = 65_536;
/// Parts of a path at most.
const DEPTH_MAX: usize = 32;
/// Areas that the fields of one record may be spread over.
const CONTINUATIONS_MAX: usize = 16;
/// Volume descriptors that are looked at.
const DESCRIPTORS_MAX: u32 = 32;

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The image file cannot be opened.
    #[error("cannot open the image {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Bytes of the image cannot be read.
    #[error("cannot read the image's {what}")]
    Io {
        /// What was read.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is no image, or a damaged one.
    #[error("not a valid ISO 9660 image: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The image has no such file.
    #[error("the image has no {path}")]
    NotFound {
        /// The path.
        path: String,
    },
    /// The path is a directory where a file was wanted, or the other way round.
    #[error("{path} is not a {wanted} in the image")]
    WrongKind {
        /// The path.
        path: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// Something is larger than allowed.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too large.
        what: String,
        /// How large it may be.
        limit: u64,
    },
}

/// A file or directory of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the root, with a leading slash.
    pub path: String,
    /// Bytes.
    pub size: u32,
    /// Whether it is a directory.
    pub is_dir: bool,
    sector: u32,
    multi_extent: bool,
}

/// An open image.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    root: Entry,
    volume_id: String,
    publisher: String,
}

impl Reader<File> {
    /// Opens the image file at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or is no image.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| ReadError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::new(file)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the descriptor of the image in `inner`.
    ///
    /// # Errors
    /// When there is no primary volume descriptor.
    pub fn new(mut inner: R) -> Result<Self, ReadError> {
        for number in 0..DESCRIPTORS_MAX {
            let mut sector = [0; SECTOR];
            read_at(
                &mut inner,
                DESCRIPTOR + number,
                &mut sector,
                "volume descriptor",
            )?;
            if &sector[1..6] != b"CD001" {
                return Err(ReadError::Malformed {
                    what: "a volume descriptor has no mark",
                });
            }
            match sector[0] {
                1 => return Self::from_descriptor(inner, &sector),
                0xff => break,
                _ => {}
            }
        }
        Err(ReadError::Malformed {
            what: "it has no primary volume descriptor",
        })
    }

    fn from_descriptor(inner: R, sector: &[u8; SECTOR]) -> Result<Self, ReadError> {
        if u16::from_le_bytes([sector[128], sector[129]]) as usize != SECTOR {
            return Err(ReadError::Malformed {
                what: "its sectors do not have 2048 bytes",
            });
        }
        let record = Record::parse(&sector[ROOT_RECORD])
            .filter(|record| record.flags & FLAG_DIR != 0)
            .ok_or(ReadError::Malformed {
                what: "it has no root directory",
            })?;
        let words = |field: &[u8]| {
            String::from_utf8_lossy(field)
                .trim_end_matches([' ', '\0'])
                .to_owned()
        };
        Ok(Self {
            root: record.entry(String::new()),
            volume_id: words(&sector[VOLUME_ID]),
            publisher: words(&sector[PUBLISHER]),
            inner,
        })
    }

    /// The volume's name.
    pub fn volume_id(&self) -> &str {
        &self.volume_id
    }

    /// The publisher; our images have the version as its last word.
    pub fn publisher(&self) -> &str {
        &self.publisher
    }

    /// Finds a file or directory. Plain names (without Rock Ridge) match in any case.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] when there is none, others when the image is damaged.
    pub fn entry(&mut self, path: &str) -> Result<Entry, ReadError> {
        let mut entry = self.root.clone();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.len() > DEPTH_MAX {
            return Err(ReadError::NotFound {
                path: path.to_owned(),
            });
        }
        for part in parts {
            if !entry.is_dir {
                return Err(ReadError::NotFound {
                    path: path.to_owned(),
                });
            }
            let found = self
                .children(&entry)?
                .into_iter()
                .find(|(name, rock_ridge, _)| {
                    name == part || (!rock_ridge && name.eq_ignore_ascii_case(part))
                });
            match found {
                Some((_, _, child)) => entry = child,
                None => {
                    return Err(ReadError::NotFound {
                        path: path.to_owned(),
                    });
                }
            }
        }
        Ok(entry)
    }

    /// Opens a file as a stream.
    ///
    /// # Errors
    /// When there is no such file, it is a directory, or the image is damaged.
    pub fn stream(&mut self, path: &str) -> Result<FileStream<'_, R>, ReadError> {
        let entry = self.entry(path)?;
        if entry.is_dir {
            return Err(ReadError::WrongKind {
                path: path.to_owned(),
                wanted: "file",
            });
        }
        if entry.multi_extent {
            return Err(ReadError::Malformed {
                what: "a file has several extents",
            });
        }
        let start = u64::from(entry.sector) * SECTOR as u64;
        self.inner
            .seek(SeekFrom::Start(start))
            .map_err(|source| ReadError::Io {
                what: "file",
                source,
            })?;
        Ok(FileStream {
            inner: &mut self.inner,
            left: u64::from(entry.size),
        })
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// When there is no such file, it is larger, or the image is damaged.
    pub fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        let mut stream = self.stream(path)?;
        if stream.left > limit {
            return Err(ReadError::Limit {
                what: path.to_owned(),
                limit,
            });
        }
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .map_err(|source| ReadError::Io {
                what: "file",
                source,
            })?;
        Ok(bytes)
    }

    /// Lists everything in the image except the root, parents before children.
    ///
    /// # Errors
    /// When the image is damaged or has too many entries.
    pub fn list(&mut self) -> Result<Vec<Entry>, ReadError> {
        let mut all = Vec::new();
        let mut waiting = vec![(self.root.clone(), 0)];
        while let Some((dir, depth)) = waiting.pop() {
            if depth > DEPTH_MAX {
                return Err(ReadError::Malformed {
                    what: "its directories are nested too deeply",
                });
            }
            for (_, _, child) in self.children(&dir)? {
                if child.is_dir {
                    waiting.push((child.clone(), depth + 1));
                }
                all.push(child);
                if all.len() > ENTRIES_MAX {
                    return Err(ReadError::Limit {
                        what: "the number of entries".into(),
                        limit: ENTRIES_MAX as u64,
                    });
                }
            }
        }
        Ok(all)
    }

    /// The entries of a directory: name, whether that is a Rock Ridge name, entry.
    fn children(&mut self, dir: &Entry) -> Result<Vec<(String, bool, Entry)>, ReadError> {
        if dir.size > DIR_MAX {
            return Err(ReadError::Limit {
                what: "a directory".into(),
                limit: u64::from(DIR_MAX),
            });
        }
        let mut bytes = vec![0; dir.size as usize];
        read_at(&mut self.inner, dir.sector, &mut bytes, "directory")?;
        let mut children = Vec::new();
        for sector in bytes.chunks(SECTOR) {
            let mut rest = sector;
            while let Some(record) = Record::parse(rest) {
                rest = &rest[usize::from(rest[0])..];
                if matches!(record.name, [0 | 1]) {
                    continue;
                }
                let (name, rock_ridge) = self.name(&record)?;
                if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
                    return Err(ReadError::Malformed {
                        what: "an entry has no proper name",
                    });
                }
                let entry = record.entry(format!("{}/{name}", dir.path));
                children.push((name, rock_ridge, entry));
            }
        }
        Ok(children)
    }

    fn name(&mut self, record: &Record<'_>) -> Result<(String, bool), ReadError> {
        let mut fields = susp::Fields::default();
        fields.read(record.fields);
        for _ in 0..CONTINUATIONS_MAX {
            let Some((sector, offset, len)) = fields.continued else {
                break;
            };
            if offset as usize >= SECTOR || len as usize > SECTOR {
                return Err(ReadError::Malformed {
                    what: "the fields of a record lead astray",
                });
            }
            let mut area = vec![0; (offset + len) as usize];
            read_at(&mut self.inner, sector, &mut area, "directory")?;
            fields.read(&area[offset as usize..]);
        }
        if fields.name.len() > 1024 {
            return Err(ReadError::Malformed {
                what: "a name is too long",
            });
        }
        if !fields.name.is_empty() {
            return Ok((String::from_utf8_lossy(&fields.name).into_owned(), true));
        }
        let plain = String::from_utf8_lossy(record.name).into_owned();
        let plain = plain
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        Ok((plain.to_owned(), false))
    }
}

/// The bytes of one file of an image.
#[derive(Debug)]
pub struct FileStream<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R> FileStream<'_, R> {
    /// Bytes that are still to be read.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<R: Read> Read for FileStream<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the image ends within a file",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A directory record, cut into its parts.
struct Record<'a> {
    sector: u32,
    size: u32,
    flags: u8,
    name: &'a [u8],
    fields: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` at the end of a sector's records, or at a damaged one.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let len = usize::from(*bytes.first()?);
        let record = bytes.get(..len).filter(|record| record.len() >= 34)?;
        let name_end = 33 + usize::from(record[32]);
        let name = record.get(33..name_end)?;
        let fields = record
            .get(name_end.next_multiple_of(2)..)
            .unwrap_or_default();
        let word = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        Some(Self {
            sector: word(2),
            size: word(10),
            flags: record[25],
            name,
            fields,
        })
    }

    fn entry(&self, path: String) -> Entry {
        Entry {
            path,
            size: self.size,
            is_dir: self.flags & FLAG_DIR != 0,
            sector: self.sector,
            multi_extent: self.flags & FLAG_MULTI_EXTENT != 0,
        }
    }
}

fn read_at(
    inner: &mut (impl Read + Seek),
    sector: u32,
    buffer: &mut [u8],
    what: &'static str,
) -> Result<(), ReadError> {
    inner
        .seek(SeekFrom::Start(u64::from(sector) * SECTOR as u64))
        .and_then(|_| inner.read_exact(buffer))
        .map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Malformed {
                what: "it is cut short",
            },
            _ => ReadError::Io { what, source },
        })
}
