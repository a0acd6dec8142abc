//! Reads archives that may have been made by anybody.

use std::io::{self, Read};

use super::{HEADER_LEN, MAGIC, TRAILER, TYPE_DIR, TYPE_FILE, TYPE_MASK, TYPE_SYMLINK, padding};

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes could not be had.
    #[error("cannot read the archive")]
    Io(#[source] io::Error),
    /// The bytes are not a cpio archive, or a damaged one.
    #[error("not a valid cpio archive: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A name leads out of the archive or is not text.
    #[error("the archive has a member with the forbidden name {name:?}")]
    Name {
        /// The name as found.
        name: String,
    },
    /// The archive is larger than the caller allows.
    #[error("the archive exceeds the limit of {limit} {of}")]
    Limit {
        /// What there is too much of.
        of: &'static str,
        /// How much would have been allowed.
        limit: u64,
    },
}

/// What a reader accepts at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members in all.
    pub members: u64,
    /// Bytes of data in all members together: an initramfs lives in memory.
    pub bytes: u64,
    /// Bytes of one name; the kernel's PATH_MAX.
    pub name: u32,
    /// Zero bytes between two archives.
    pub gap: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            members: 100_000,
            bytes: 2 << 30,
            name: 4096,
            gap: 1 << 20,
        }
    }
}

/// One file of an archive; its data is read from the [`Reader`] that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Relative, without `.`, `..` or doubled slashes; empty for the root itself.
    pub path: String,
    /// Kind and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number within the archive; members that are links of each other share it.
    pub inode: u32,
    /// How many members share the number.
    pub links: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of data.
    pub size: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl Member {
    /// Tells whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_DIR
    }

    /// Tells whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_FILE
    }

    /// Tells whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_SYMLINK
    }
}

/// Goes through an archive, member by member.
///
/// [`Reader::next_member`] returns the next member; until it is called again, the reader itself reads as that
/// member's data.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    limits: Limits,
    /// Unread bytes of the current member, and the padding behind them.
    left: u64,
    pad: usize,
    members: u64,
    bytes: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the archive in `inner`, with the default limits.
    pub fn new(inner: R) -> Self {
        Self::with_limits(inner, Limits::default())
    }

    /// Reads the archive in `inner`.
    pub fn with_limits(inner: R, limits: Limits) -> Self {
        Self {
            inner,
            limits,
            left: 0,
            pad: 0,
            members: 0,
            bytes: 0,
            ended: false,
        }
    }

    /// Skips what is left of the current member and returns the next one, or `None` at the end.
    ///
    /// # Errors
    /// When the bytes are not an archive, exceed the limits, or cannot be read. After an error the reader is at its end.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.read_next();
        if !matches!(next, Ok(Some(_))) {
            self.ended = true;
            self.left = 0;
        }
        next
    }

    fn read_next(&mut self) -> Result<Option<Member>, ReadError> {
        self.skip(self.left + self.pad as u64)?;
        (self.left, self.pad) = (0, 0);
        let mut after_trailer = false;
        loop {
            let Some(first) = self.first_byte(after_trailer)? else {
                return Ok(None);
            };
            let member = self.read_header(first)?;
            if member.path != TRAILER {
                return self.enter(member).map(Some);
            }
            after_trailer = true;
        }
    }

    /// The first byte of a header. Behind a trailer there may be zeroes or nothing.
    fn first_byte(&mut self, after_trailer: bool) -> Result<Option<u8>, ReadError> {
        let mut byte = [0];
        for _ in 0..=self.limits.gap {
            if read_up_to(&mut self.inner, &mut byte).map_err(ReadError::Io)? == 0 {
                return if after_trailer {
                    Ok(None)
                } else {
                    Err(ReadError::Malformed {
                        what: "it ends without a trailer",
                    })
                };
            }
            if byte[0] != 0 || !after_trailer {
                return Ok(Some(byte[0]));
            }
        }
        Err(ReadError::Limit {
            of: "bytes of filling",
            limit: self.limits.gap,
        })
    }

    fn read_header(&mut self, first: u8) -> Result<Member, ReadError> {
        let mut header = [0; HEADER_LEN];
        header[0] = first;
        self.exact(&mut header[1..])?;
        if &header[..6] != MAGIC {
            return Err(ReadError::Malformed {
                what: "a member does not begin with 070701",
            });
        }
        let mut fields = [0u32; 13];
        for (field, text) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *field = hex_field(text).ok_or(ReadError::Malformed {
                what: "a header field is not hexadecimal",
            })?;
        }
        let [
            inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            _,
            _,
            major,
            minor,
            name_len,
            _,
        ] = fields;
        let path = self.read_name(name_len)?;
        Ok(Member {
            path,
            mode,
            uid,
            gid,
            inode,
            links,
            mtime,
            size,
            device: (major, minor),
        })
    }

    fn read_name(&mut self, name_len: u32) -> Result<String, ReadError> {
        if name_len > self.limits.name {
            return Err(ReadError::Limit {
                of: "bytes in a name",
                limit: u64::from(self.limits.name),
            });
        }
        let mut name = vec![0; name_len as usize];
        self.exact(&mut name)?;
        self.skip(padding(HEADER_LEN as u64 + u64::from(name_len)) as u64)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(ReadError::Malformed {
                what: "a name does not end where it should",
            });
        }
        let name = String::from_utf8(name).map_err(|error| ReadError::Name {
            name: String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })?;
        normalise(&name).ok_or(ReadError::Name { name })
    }

    fn enter(&mut self, member: Member) -> Result<Member, ReadError> {
        self.members += 1;
        if self.members > self.limits.members {
            return Err(ReadError::Limit {
                of: "members",
                limit: self.limits.members,
            });
        }
        self.bytes += u64::from(member.size);
        if self.bytes > self.limits.bytes {
            return Err(ReadError::Limit {
                of: "bytes of data",
                limit: self.limits.bytes,
            });
        }
        self.left = u64::from(member.size);
        self.pad = padding(self.left);
        Ok(member)
    }

    fn skip(&mut self, count: u64) -> Result<(), ReadError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(count), &mut io::sink())
            .map_err(ReadError::Io)?;
        if skipped == count {
            Ok(())
        } else {
            Err(ReadError::Malformed {
                what: "it ends within a member",
            })
        }
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        if read_up_to(&mut self.inner, buffer).map_err(ReadError::Io)? == buffer.len() {
            Ok(())
        } else {
            Err(ReadError::Malformed {
                what: "it ends within a header",
            })
        }
    }
}

impl<R: Read> Read for Reader<R> {
    /// Reads the data of the current member.
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
                "the archive ends within a member",
            ));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn read_up_to(inner: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match inner.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hex_field(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0u32, |value, &digit| {
        Some(value << 4 | (digit as char).to_digit(16)?)
    })
}

/// Removes leading slashes and `.` parts; `None` for a name that climbs.
fn normalise(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
