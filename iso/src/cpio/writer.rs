//! Writes archives whose bytes depend on their content alone.

use std::io::{self, Write};

use super::{HEADER_LEN, MAGIC, TRAILER, TYPE_CHAR, TYPE_DIR, TYPE_FILE, TYPE_SYMLINK, padding};

/// Writes one archive.
///
/// Owner is root, times are that of [`Writer::mtime`], inode numbers count up: the same calls give the same bytes.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    next_inode: u32,
    mtime: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an archive on `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            next_inode: 1,
            mtime: 0,
        }
    }

    /// Sets the time of the members that follow, in seconds since 1970.
    pub fn mtime(&mut self, seconds: u32) {
        self.mtime = seconds;
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// When writing fails or the name is not allowed.
    pub fn dir(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.member(path, TYPE_DIR | permissions, 2, 0, &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// When writing fails, the name is not allowed, or the file is larger than the format's 4 GiB.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.member(path, TYPE_FILE | permissions, 1, 0, data)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When writing fails or the name is not allowed.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.member(path, TYPE_SYMLINK | 0o777, 1, 0, target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When writing fails or the name is not allowed.
    pub fn char_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u8,
        minor: u8,
    ) -> io::Result<()> {
        let device = u32::from(major) << 8 | u32::from(minor);
        self.member(path, TYPE_CHAR | permissions, 1, device, &[])
    }

    /// Ends the archive and returns what it was written to.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.header(TRAILER, 0, 0, 1, 0, 0)?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn member(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let allowed = !path.is_empty() && path.len() < 4096 && path != TRAILER;
        if !allowed || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path:?} cannot name a member of an archive"),
            ));
        }
        let size = u32::try_from(data.len()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path} is larger than 4 GiB"),
            )
        })?;
        let inode = self.next_inode;
        self.next_inode += 1;
        self.header(path, inode, mode, links, device, size)?;
        self.inner.write_all(data)?;
        self.inner.write_all(&[0; 3][..padding(u64::from(size))])
    }

    fn header(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        links: u32,
        device: u32,
        size: u32,
    ) -> io::Result<()> {
        let name_len = path.len() as u32 + 1;
        let mtime = if inode == 0 { 0 } else { self.mtime };
        let fields = [
            inode,
            mode,
            0,
            0,
            links,
            mtime,
            size,
            0,
            0,
            device >> 8,
            device & 0xff,
            name_len,
            0,
        ];
        self.inner.write_all(MAGIC)?;
        for field in fields {
            write!(self.inner, "{field:08x}")?;
        }
        self.inner.write_all(path.as_bytes())?;
        let written = HEADER_LEN as u64 + u64::from(name_len);
        self.inner.write_all(&[0; 4][..1 + padding(written)])
    }
}
