//! Hosted sparse extents: header, grain directory and grain tables.
//!
//! ```text
//! sector 0      header
//! sector 1..21  descriptor (text, zero padded)
//! then          redundant grain directory, its tables
//! then          grain directory, its tables
//! overhead      first grain
//! ```
//! A table entry is the grain's first sector, 0 for "ask the parent" or 1 for "all zero".

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use super::{GRAIN, MAX_CAPACITY, SECTOR};

pub(super) const MAGIC: u32 = 0x564d_444b; // "KDMV" on disk
const FLAG_NEWLINE: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZERO_GRAIN: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const GD_AT_END: u64 = u64::MAX;
/// Entries in one grain table: fixed in every known writer.
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
/// Sectors for the embedded descriptor.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
pub(super) const DESCRIPTOR_AT: u64 = SECTOR;
/// An entry that reads as zeros whatever the parent holds.
const ZEROED: u32 = 1;

/// The file grows by at least and at most this much: one allocation of the host's file system for
/// many grains. The tail that was not needed is cut off when the disk is closed.
const GROW_MIN: u64 = 1 << 20;
const GROW_MAX: u64 = 64 << 20;

/// What the fixed part of the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub flags: u32,
    pub capacity: u64,
    pub grain: u64,
    pub descriptor_at: u64,
    pub descriptor_len: u64,
    pub rgd_at: u64,
    pub gd_at: u64,
    pub overhead: u64,
}

impl Header {
    /// Lays out a new extent of `capacity` bytes, with redundant tables and zero grains.
    pub(super) fn new(capacity: u64) -> Self {
        let tables = tables_for(capacity, GRAIN);
        let gd_sectors = (tables * 4).div_ceil(SECTOR);
        let rgd = 1 + DESCRIPTOR_SECTORS;
        let gd = rgd + gd_sectors + tables * TABLE_SECTORS;
        let end = gd + gd_sectors + tables * TABLE_SECTORS;
        let overhead = end.next_multiple_of(GRAIN / SECTOR);
        Self {
            flags: FLAG_NEWLINE | FLAG_REDUNDANT | FLAG_ZERO_GRAIN,
            capacity,
            grain: GRAIN,
            descriptor_at: DESCRIPTOR_AT,
            descriptor_len: DESCRIPTOR_SECTORS * SECTOR,
            rgd_at: rgd * SECTOR,
            gd_at: gd * SECTOR,
            overhead: overhead * SECTOR,
        }
    }

    pub(super) fn encode(&self) -> [u8; 512] {
        let mut out = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let version: u32 = if self.flags & FLAG_ZERO_GRAIN != 0 {
            2
        } else {
            1
        };
        put(0, &MAGIC.to_le_bytes());
        put(4, &version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &(self.capacity / SECTOR).to_le_bytes());
        put(20, &(self.grain / SECTOR).to_le_bytes());
        put(28, &(self.descriptor_at / SECTOR).to_le_bytes());
        put(36, &(self.descriptor_len / SECTOR).to_le_bytes());
        put(44, &(TABLE_ENTRIES as u32).to_le_bytes());
        put(48, &(self.rgd_at / SECTOR).to_le_bytes());
        put(56, &(self.gd_at / SECTOR).to_le_bytes());
        put(64, &(self.overhead / SECTOR).to_le_bytes());
        put(73, b"\n \r\n");
        out
    }

    /// Reads a header, with every number checked against the others and the file's length.
    pub(super) fn decode(raw: &[u8; 512], file_len: u64) -> Result<Self, &'static str> {
        let u32_at =
            |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let sectors = |at: usize| {
            let low = u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
            low.checked_mul(SECTOR)
                .ok_or("a number in the header is too large")
        };
        if u32_at(0) != MAGIC {
            return Err("no sparse header");
        }
        if !(1..=3).contains(&u32_at(4)) {
            return Err("unknown version of the sparse format");
        }
        let flags = u32_at(8);
        if flags & FLAG_NEWLINE != 0 && &raw[73..77] != b"\n \r\n" {
            return Err("the header was damaged by a text transfer");
        }
        if flags & (FLAG_COMPRESSED | FLAG_MARKERS) != 0 || raw[77] != 0 || raw[78] != 0 {
            return Err("compressed (stream-optimised) disks are for transport only");
        }
        if u64::from(u32_at(44)) != TABLE_ENTRIES {
            return Err("grain tables must have 512 entries");
        }
        if raw[56..64] == GD_AT_END.to_le_bytes() {
            return Err("the grain directory is in a footer");
        }
        let header = Self {
            flags,
            capacity: sectors(12)?,
            grain: sectors(20)?,
            descriptor_at: sectors(28)?,
            descriptor_len: sectors(36)?,
            rgd_at: sectors(48)?,
            gd_at: sectors(56)?,
            overhead: sectors(64)?,
        };
        if header.capacity == 0 || header.capacity > MAX_CAPACITY {
            return Err("the capacity is out of range");
        }
        if !header.grain.is_power_of_two() || !(4096..=1 << 20).contains(&header.grain) {
            return Err("the grain size is out of range");
        }
        let gd_bytes = tables_for(header.capacity, header.grain) * 4;
        let inside =
            |at: u64| at >= SECTOR && at.checked_add(gd_bytes).is_some_and(|e| e <= file_len);
        if !inside(header.gd_at) || (header.redundant() && !inside(header.rgd_at)) {
            return Err("the grain directory is beyond the end of the file");
        }
        let descriptor_end = header.descriptor_at.checked_add(header.descriptor_len);
        if header.descriptor_len > super::descriptor::MAX_DESCRIPTOR as u64
            || descriptor_end.is_none_or(|end| end > file_len)
        {
            return Err("the descriptor is beyond the end of the file");
        }
        Ok(header)
    }

    fn redundant(&self) -> bool {
        self.flags & FLAG_REDUNDANT != 0
    }

    /// Writes directories (tables are holes: everything comes from the parent) into a new file.
    pub(super) fn write_directories(&self, file: &File) -> io::Result<()> {
        let tables = tables_for(self.capacity, self.grain);
        let gd_sectors = (tables * 4).div_ceil(SECTOR);
        for at in [self.rgd_at, self.gd_at] {
            let first = at / SECTOR + gd_sectors;
            let mut raw = Vec::with_capacity(tables as usize * 4);
            for table in 0..tables {
                let sector = (first + table * TABLE_SECTORS) as u32;
                raw.extend_from_slice(&sector.to_le_bytes());
            }
            file.write_all_at(&raw, at)?;
        }
        file.set_len(self.overhead)
    }
}

fn tables_for(capacity: u64, grain: u64) -> u64 {
    capacity.div_ceil(grain * TABLE_ENTRIES)
}

/// Where a grain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Ask the parent.
    Absent,
    /// All zero.
    Zero,
    /// At this byte of the file.
    At(u64),
}

#[derive(Debug)]
struct Space {
    /// Where the next grain goes.
    next: u64,
    /// Length of the file.
    len: u64,
    /// How much to grow by next time.
    step: u64,
}

/// The tables of an open sparse extent: read on first use, kept in memory, written through.
#[derive(Debug)]
pub(super) struct Tables {
    pub grain: u64,
    capacity: u64,
    zero_grains: bool,
    overhead: u64,
    directory: Vec<u32>,
    redundant: Option<Vec<u32>>,
    tables: Vec<OnceLock<Box<[AtomicU32]>>>,
    space: Mutex<Option<Space>>,
}

/// A permission to allocate: while it lives, nobody else changes the tables.
pub(super) struct Allocating<'a> {
    tables: &'a Tables,
    file: &'a File,
    space: std::sync::MutexGuard<'a, Option<Space>>,
}

impl Tables {
    /// Reads the directories.
    pub(super) fn open(file: &File, header: &Header) -> io::Result<Self> {
        let count = tables_for(header.capacity, header.grain) as usize;
        let directory = read_u32s(file, header.gd_at, count)?;
        let redundant = match header.redundant() {
            true => Some(read_u32s(file, header.rgd_at, count)?),
            false => None,
        };
        Ok(Self {
            grain: header.grain,
            capacity: header.capacity,
            zero_grains: header.flags & FLAG_ZERO_GRAIN != 0,
            overhead: header.overhead,
            directory,
            redundant,
            tables: (0..count).map(|_| OnceLock::new()).collect(),
            space: Mutex::new(None),
        })
    }

    /// Looks a grain up.
    pub(super) fn entry(&self, file: &File, grain: u64) -> io::Result<Entry> {
        let Some(slot) = self.table(file, grain / TABLE_ENTRIES)? else {
            return Ok(Entry::Absent);
        };
        Ok(
            match slot[(grain % TABLE_ENTRIES) as usize].load(Ordering::Acquire) {
                0 => Entry::Absent,
                ZEROED if self.zero_grains => Entry::Zero,
                sector => Entry::At(u64::from(sector) * SECTOR),
            },
        )
    }

    /// One table, read at its first use; `None` when the directory has none.
    fn table(&self, file: &File, index: u64) -> io::Result<Option<&[AtomicU32]>> {
        let index = index as usize;
        let Some(&sector) = self.directory.get(index) else {
            return Ok(None);
        };
        if sector == 0 {
            return Ok(None);
        }
        let slot = &self.tables[index];
        if let Some(table) = slot.get() {
            return Ok(Some(table));
        }
        let raw = read_u32s(file, u64::from(sector) * SECTOR, TABLE_ENTRIES as usize)?;
        Ok(Some(slot.get_or_init(|| {
            raw.into_iter().map(AtomicU32::new).collect()
        })))
    }

    /// Number of grains, the last of which may be cut short by the capacity.
    pub(super) fn grains(&self) -> u64 {
        self.capacity.div_ceil(self.grain)
    }

    /// Takes the right to allocate.
    ///
    /// The first call finds the end of the used space: after a crash the file may have a tail that
    /// no table points at, and that is used again.
    pub(super) fn allocate<'a>(&'a self, file: &'a File) -> io::Result<Allocating<'a>> {
        let mut space = self
            .space
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if space.is_none() {
            let len = file.metadata()?.len();
            let mut next = self.overhead;
            if len > self.overhead {
                for grain in 0..self.grains() {
                    if let Entry::At(at) = self.entry(file, grain)? {
                        next = next.max(at + self.grain);
                    }
                }
            }
            *space = Some(Space {
                next,
                len,
                step: GROW_MIN,
            });
        }
        Ok(Allocating {
            tables: self,
            file,
            space,
        })
    }

    /// Cuts off the tail that was allocated ahead of its use.
    pub(super) fn trim(&self, file: &File) -> io::Result<()> {
        let mut space = self
            .space
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some(space) = space.as_mut().filter(|s| s.len > s.next) {
            file.set_len(space.next)?;
            space.len = space.next;
        }
        Ok(())
    }

    /// Whether the extent may hold zero grains.
    pub(super) fn has_zero_grains(&self) -> bool {
        self.zero_grains
    }
}

impl Allocating<'_> {
    /// Reserves room for `count` grains in a row; the tables do not know of it yet.
    pub(super) fn reserve(&mut self, count: u64) -> io::Result<u64> {
        let Some(space) = self.space.as_mut() else {
            return Err(io::Error::other("allocation without a start"));
        };
        let at = space.next;
        let end = at + count * self.tables.grain;
        if end / SECTOR > u64::from(u32::MAX) {
            return Err(io::Error::from_raw_os_error(nix::libc::EFBIG));
        }
        if end > space.len {
            let target = end.max(space.len + space.step);
            // Growing ahead is only for speed: a file system that cannot is written as it comes.
            let grown = nix::fcntl::fallocate(
                self.file,
                nix::fcntl::FallocateFlags::empty(),
                space.len as i64,
                (target - space.len) as i64,
            );
            match grown {
                Ok(()) => space.len = target,
                Err(nix::errno::Errno::ENOSPC) => return Err(nix::errno::Errno::ENOSPC.into()),
                Err(_) => space.len = end,
            }
            space.step = (space.step * 2).min(GROW_MAX);
        }
        space.next = end;
        Ok(at)
    }

    /// Points the tables at `count` grains from byte `at` on, whose data must be written already.
    pub(super) fn publish(&self, first: u64, count: u64, at: u64) -> io::Result<()> {
        let step = (self.tables.grain / SECTOR) as u32;
        let start = (at / SECTOR) as u32;
        self.store(first, count, |i| start + i as u32 * step)
    }

    /// Marks grains as zero.
    pub(super) fn publish_zero(&self, first: u64, count: u64) -> io::Result<()> {
        self.store(first, count, |_| ZEROED)
    }

    fn store(&self, first: u64, count: u64, value: impl Fn(u64) -> u32) -> io::Result<()> {
        let mut done = 0;
        while done < count {
            let grain = first + done;
            let (index, slot) = (grain / TABLE_ENTRIES, grain % TABLE_ENTRIES);
            let run = (TABLE_ENTRIES - slot).min(count - done);
            let Some(table) = self.tables.table(self.file, index)? else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "a grain table is missing",
                ));
            };
            let raw: Vec<u8> = (done..done + run)
                .flat_map(|i| value(i).to_le_bytes())
                .collect();
            let redundant = self.tables.redundant.iter().map(|r| r[index as usize]);
            for sector in redundant.chain([self.tables.directory[index as usize]]) {
                if sector != 0 {
                    self.file
                        .write_all_at(&raw, u64::from(sector) * SECTOR + slot * 4)?;
                }
            }
            for i in 0..run {
                table[(slot + i) as usize].store(value(done + i), Ordering::Release);
            }
            done += run;
        }
        Ok(())
    }
}

fn read_u32s(file: &File, at: u64, count: usize) -> io::Result<Vec<u32>> {
    let mut raw = vec![0u8; count * 4];
    file.read_exact_at(&mut raw, at)?;
    Ok(raw
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_header_is_read_back() {
        for capacity in [SECTOR, 1 << 20, 8 << 30, 2 << 40] {
            let header = Header::new(capacity);
            assert_eq!(
                Header::decode(&header.encode(), header.overhead).unwrap(),
                header
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_is_decoded_or_refused(raw in proptest::collection::vec(any::<u8>(), 512), len: u64) {
            let mut raw: [u8; 512] = raw.try_into().unwrap();
            let _ = Header::decode(&raw, len);
            raw[..4].copy_from_slice(&MAGIC.to_le_bytes());
            raw[4..8].copy_from_slice(&1u32.to_le_bytes());
            let _ = Header::decode(&raw, len);
        }

        #[test]
        fn a_damaged_header_never_panics(at in 0usize..512, with: u8, len in 0u64..1 << 24) {
            let mut raw = Header::new(8 << 30).encode();
            raw[at] = with;
            let _ = Header::decode(&raw, len);
        }
    }
}
