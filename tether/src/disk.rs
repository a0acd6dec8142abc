//! Disks by slot: waiting for one, mounting its ext4, filling a new volume, the clean end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tether_protocol::config::Slot;
use tether_sys::mount;

use crate::clock;

/// How long a disk that the hypervisor has attached may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// A disk could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It did not appear.
    #[error("disk {slot} did not appear")]
    Missing {
        /// Its slot.
        slot: Slot,
    },
    /// It could not be watched for.
    #[error("waiting for disk {slot}")]
    Wait {
        /// Its slot.
        slot: Slot,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its file system could not be mounted.
    #[error("mounting disk {slot}")]
    Mount {
        /// Its slot.
        slot: Slot,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A mounted disk; [`release`](Self::release) leaves its file system clean.
#[derive(Debug)]
pub struct Disk {
    mount: OwnedFd,
    place: PathBuf,
}

impl Disk {
    /// Mounts the ext4 of the disk in `slot` at `place`, waiting until the disk is there.
    ///
    /// # Errors
    /// When it does not appear, or holds no file system that the kernel mounts.
    pub fn mount(slots: &Path, slot: Slot, place: PathBuf) -> Result<Self, DiskError> {
        let device = wait_for(slots, slot)?;
        let source = |source| DiskError::Mount { slot, source };
        let context = mount::FsContext::open("ext4").map_err(source)?;
        context
            .set("source", &device.to_string_lossy())
            .map_err(source)?;
        let mount = context.mount(0).map_err(source)?;
        fs::create_dir_all(&place).map_err(source)?;
        mount::attach(mount.as_fd(), &place).map_err(source)?;
        Ok(Self { mount, place })
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Writes everything back and unmounts. The container's namespaces are gone by now, so this is
    /// the last use, and the file system is left clean; should another be left after all, making it
    /// read-only first cleans it too, where an engine allows that.
    pub fn release(self) {
        let Self { mount, place } = self;
        match mount::make_read_only(mount.as_fd()) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                crate::say!("making {} read-only: {error}", place.display());
            }
            _ => {}
        }
        drop(mount);
        if mount::umount(&place, 0).is_err()
            && let Err(error) = mount::umount(&place, mount::MNT_DETACH)
        {
            crate::say!("unmounting {}: {error}", place.display());
        }
    }
}

fn wait_for(slots: &Path, slot: Slot) -> Result<PathBuf, DiskError> {
    let path = slots.join(slot.to_string());
    if path.exists() {
        return Ok(path);
    }
    let failed = |source: io::Error| DiskError::Wait { slot, source };
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
        .map_err(|e| failed(e.into()))?;
    fs::create_dir_all(slots).map_err(failed)?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    inotify
        .add_watch(slots, flags)
        .map_err(|e| failed(e.into()))?;
    let deadline = Instant::now() + APPEARS_WITHIN;
    while !path.exists() {
        let left = clock::millis_until(deadline);
        if left == 0 {
            return Err(DiskError::Missing { slot });
        }
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(left)).map_err(|e| failed(e.into()))?;
        // What happened does not matter: the path is looked at again.
        let _ = inotify.read_events();
    }
    Ok(path)
}

/// Tells whether a volume was never filled: nothing but what mkfs makes.
pub fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .all(|entry| entry.file_name().as_encoded_bytes() == b"lost+found")
    })
}

/// Copies the tree `from` into the directory `to`, with owners, modes, links and devices, as docker
/// fills a new volume.
///
/// # Errors
/// When something cannot be read or written; what was copied stays.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let data = fs::symlink_metadata(&source)?;
        let kind = data.file_type();
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else if !kind.is_socket() {
            let dir = fs::File::open(to)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            mount::mknod_at(dir.as_fd(), &name, data.mode(), data.rdev())?;
        } else {
            continue;
        }
        copy_owner(&data, &target)?;
    }
    Ok(())
}

/// Gives `target` the owner and, unless it is a link, the mode of `data`.
///
/// # Errors
/// What chown and chmod say.
pub fn copy_owner(data: &fs::Metadata, target: &Path) -> io::Result<()> {
    std::os::unix::fs::lchown(target, Some(data.uid()), Some(data.gid()))?;
    if !data.file_type().is_symlink() {
        fs::set_permissions(target, fs::Permissions::from_mode(data.mode() & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/f"), "text").unwrap();
        fs::set_permissions(from.path().join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("d/f", from.path().join("l")).unwrap();
        assert!(is_empty(to.path()));
        copy_tree(from.path(), to.path()).unwrap();
        assert!(!is_empty(to.path()));
        assert_eq!(fs::read_to_string(to.path().join("l")).unwrap(), "text");
        assert_eq!(
            fs::metadata(to.path().join("d/f")).unwrap().mode() & 0o7777,
            0o4711
        );
    }
}
