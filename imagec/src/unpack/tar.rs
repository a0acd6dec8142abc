//! A tar reader for streams from strangers: ustar, GNU and PAX, every length with a limit.
//!
//! The crates read names and PAX records of any length into memory; here nothing is believed
//! before it is small.

mod fields;

use std::io::{self, Read};

use fields::{Pending, check_map, number, parse_pax, signed, until_nul};

const BLOCK: usize = 512;
/// The longest path: the kernel takes no longer one.
const MAX_PATH: usize = 4096;
/// The longest PAX header or GNU long name: 128 KiB of attributes with room to spare.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most extension headers before one entry.
const MAX_EXTENSIONS: usize = 16;
/// The most pieces of a sparse file.
const MAX_PIECES: usize = 64 * 1024;

/// Why a stream is not an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed.
    #[error("the stream cannot be read")]
    Read(#[source] io::Error),
    /// It ends within an entry.
    #[error("unexpected end of the archive")]
    Truncated,
    /// A header's sum is wrong: no archive, or a damaged one.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// A field cannot be understood.
    #[error("a header has a bad {0}")]
    Field(&'static str),
    /// A length is over its limit.
    #[error("a header's {0} is too long")]
    TooLong(&'static str),
}

/// What kind of thing an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A hard link to another name in the archive or below.
    Hardlink(Vec<u8>),
    /// A character device with major and minor number.
    CharDevice(u32, u32),
    /// A block device with major and minor number.
    BlockDevice(u32, u32),
    /// A fifo.
    Fifo,
    /// Something else, by its type byte.
    Other(u8),
}

/// One entry's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as given.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Length of the file.
    pub size: u64,
    /// For sparse files: where the data that follows goes, as offset and length.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after the other; as a [`Read`], the data of the entry read last.
pub struct TarReader<R> {
    inner: R,
    /// Data of the present entry not read yet.
    left: u64,
    /// Padding behind it.
    padding: u64,
    position: u64,
}

impl<R: Read> TarReader<R> {
    /// Starts reading.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
            position: 0,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    /// The stream below, positioned behind what was read.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Bytes read so far: right after [`TarReader::next_entry`], where the data begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the present entry's data that were not read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Leaves out `bytes` of the data, which `skip` does on the stream below.
    pub(crate) fn jump(
        &mut self,
        bytes: u64,
        skip: impl FnOnce(&mut R) -> io::Result<()>,
    ) -> Result<(), TarError> {
        if bytes > self.left {
            return Err(TarError::Truncated);
        }
        skip(&mut self.inner).map_err(TarError::Read)?;
        self.left -= bytes;
        self.position += bytes;
        Ok(())
    }

    /// Goes to the next entry, skipping what is left of the present one. `None` at the end.
    ///
    /// # Errors
    /// [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut pending = Pending::default();
        for _ in 0..=MAX_EXTENSIONS {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136]).ok_or(TarError::Field("size"))?;
            match header[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    parse_pax(&records, &mut pending)?;
                }
                b'g' => {
                    self.extension(size)?;
                }
                b'L' => pending.path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => pending.link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => return self.entry(&header, size, pending).map(Some),
            }
        }
        Err(TarError::TooLong("list of extensions"))
    }

    /// Builds the entry and sets its data up for reading.
    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        header_size: u64,
        mut p: Pending,
    ) -> Result<Entry, TarError> {
        let kind_byte = header[156];
        let ustar = &header[257..262] == b"ustar";
        let gnu = &header[257..265] == b"ustar  \0";
        let mut path = match p.path.take() {
            Some(path) => path,
            None => {
                let name = until_nul(&header[..100]);
                let prefix = if ustar && !gnu {
                    until_nul(&header[345..500])
                } else {
                    b""
                };
                match prefix.is_empty() {
                    true => name.to_vec(),
                    false => [prefix, b"/", name].concat(),
                }
            }
        };
        let link = p
            .link
            .take()
            .unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let stored = p.size.unwrap_or(header_size);
        let mut size = stored;
        let mut sparse = None;
        // Data follows only where the type has any; links and the like may lie about it.
        let has_data = !matches!(kind_byte, b'1'..=b'6');
        self.set_data(if has_data { stored } else { 0 })?;
        if kind_byte == b'S' {
            let (map, real) = self.gnu_sparse(header)?;
            sparse = Some(map);
            size = real;
        } else if p.sparse_size.is_some() || p.sparse_major.is_some() {
            if let Some(name) = p.sparse_name.take() {
                path = name;
            }
            size = p.sparse_size.ok_or(TarError::Field("sparse size"))?;
            sparse = Some(match p.sparse_major {
                Some(1) => self.pax_sparse_map()?,
                _ => p.sparse_map.take().ok_or(TarError::Field("sparse map"))?,
            });
        }
        if let Some(map) = &sparse {
            check_map(map, size, self.left)?;
        }
        if path.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(TarError::TooLong("name"));
        }
        let device = || -> Result<(u32, u32), TarError> {
            let part = |raw: &[u8]| {
                number(raw)
                    .and_then(|n| u32::try_from(n).ok())
                    .ok_or(TarError::Field("device"))
            };
            Ok((part(&header[329..337])?, part(&header[337..345])?))
        };
        let kind = match kind_byte {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 | b'0' if path.last() == Some(&b'/') => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(a, b)| Kind::CharDevice(a, b))?,
            b'4' => device().map(|(a, b)| Kind::BlockDevice(a, b))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let id = |raw: &[u8], what| {
            number(raw)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or(TarError::Field(what))
        };
        let mode = number(&header[100..108]).ok_or(TarError::Field("mode"))?;
        Ok(Entry {
            path,
            kind,
            mode: (mode & 0o7777) as u32,
            uid: match p.uid {
                Some(uid) => uid,
                None => id(&header[108..116], "owner")?,
            },
            gid: match p.gid {
                Some(gid) => gid,
                None => id(&header[116..124], "group")?,
            },
            mtime: match p.mtime {
                Some(mtime) => mtime,
                None => (signed(&header[136..148]).ok_or(TarError::Field("time"))?, 0),
            },
            size,
            sparse,
            xattrs: p.xattrs,
        })
    }

    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 {
            return Err(TarError::Field("size"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0u8; BLOCK];
        let got = self.fill(&mut block)?;
        if got == 0 {
            return Ok(None);
        }
        if got < BLOCK {
            return Err(TarError::Truncated);
        }
        if block.iter().all(|b| *b == 0) {
            // One zero block ends it already; a second one and padding may follow.
            return Ok(None);
        }
        let stated = number(&block[148..156]).ok_or(TarError::Checksum)?;
        let sum = |signed: bool| -> i64 {
            block.iter().enumerate().fold(0, |sum, (i, b)| {
                let b = if (148..156).contains(&i) { b' ' } else { *b };
                sum + if signed {
                    i64::from(b as i8)
                } else {
                    i64::from(b)
                }
            })
        };
        if i64::try_from(stated)
            .ok()
            .is_none_or(|s| s != sum(false) && s != sum(true))
        {
            return Err(TarError::Checksum);
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::TooLong("extension"));
        }
        self.set_data(size)?;
        let mut data = vec![0u8; size as usize];
        self.exact(&mut data)?;
        self.skip_rest()?;
        Ok(data)
    }

    /// The map of an old GNU sparse file: in its header and the blocks that follow.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK]) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let bad = || TarError::Field("sparse map");
        let mut map = Vec::new();
        let mut take = |raw: &[u8]| -> Result<(), TarError> {
            for piece in raw.chunks_exact(24) {
                if piece[0] == 0 {
                    break;
                }
                if map.len() == MAX_PIECES {
                    return Err(TarError::TooLong("sparse map"));
                }
                let at = number(&piece[..12]).ok_or_else(bad)?;
                map.push((at, number(&piece[12..]).ok_or_else(bad)?));
            }
            Ok(())
        };
        take(&header[386..482])?;
        let real = number(&header[483..495]).ok_or_else(bad)?;
        let mut more = header[482] != 0;
        // These blocks stand before the data and are not counted in its length.
        let (left, padding) = (self.left, self.padding);
        while more {
            let mut block = [0u8; BLOCK];
            if self.fill(&mut block)? < BLOCK {
                return Err(TarError::Truncated);
            }
            take(&block[..504])?;
            more = block[504] != 0;
        }
        (self.left, self.padding) = (left, padding);
        Ok((map, real))
    }

    /// The map of a PAX 1.0 sparse file: lines of decimal numbers at the start of the data.
    fn pax_sparse_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = || TarError::Field("sparse map");
        let mut block = [0u8; BLOCK];
        let mut at = BLOCK;
        let mut next = |this: &mut Self| -> Result<u64, TarError> {
            let mut value: Option<u64> = None;
            loop {
                if at == BLOCK {
                    this.exact(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return value.ok_or_else(bad),
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        let next = value
                            .unwrap_or(0)
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(digit));
                        value = Some(next.ok_or_else(bad)?);
                    }
                    _ => return Err(bad()),
                }
            }
        };
        let count = next(self)?;
        if count > MAX_PIECES as u64 {
            return Err(TarError::TooLong("sparse map"));
        }
        (0..count).map(|_| Ok((next(self)?, next(self)?))).collect()
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut waste = [0u8; 16 * 1024];
        let mut skip = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        while skip > 0 {
            let want = skip.min(waste.len() as u64) as usize;
            let got = self.fill(&mut waste[..want])?;
            skip -= got as u64;
            if got < want {
                return Err(TarError::Truncated);
            }
        }
        Ok(())
    }

    /// Reads data of the present entry.
    fn exact(&mut self, buf: &mut [u8]) -> Result<(), TarError> {
        if (buf.len() as u64) > self.left {
            return Err(TarError::Truncated);
        }
        if self.fill(buf)? < buf.len() {
            return Err(TarError::Truncated);
        }
        self.left -= buf.len() as u64;
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, TarError> {
        let mut got = 0;
        while got < buf.len() {
            match self.inner.read(&mut buf[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Read(e)),
            }
        }
        self.position += got as u64;
        Ok(got)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(buf.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buf[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}
