//! Disk access in the appliance: the hot-added disk is a block device below /dev/disk/by-slot.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use actors::image::disk::{DiskAccess, DiskError, Doing};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tether_protocol::config::Slot;

/// Where disks appear, by controller and unit.
const BY_SLOT: &str = "/dev/disk/by-slot";

/// How long a disk may take to appear after vSphere has added it.
const APPEAR: Duration = Duration::from_secs(10);

/// The disks of the VM that we run in.
#[derive(Debug)]
pub struct OwnDisks {
    /// Directory for mount points.
    pub mounts: PathBuf,
}

impl OwnDisks {
    fn mount_point(&self, slot: Slot) -> PathBuf {
        self.mounts.join(slot.to_string().replace(':', "-"))
    }

    /// The device of a slot, once it is there. Kernel and engine give no event that every guest has, so this
    /// looks every few milliseconds.
    async fn device(slot: Slot) -> Result<PathBuf, DiskError> {
        let path = Path::new(BY_SLOT).join(slot.to_string());
        let looking = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        match tokio::time::timeout(APPEAR, looking).await {
            Ok(()) => Ok(path),
            Err(_) => Err(DiskError::Missing(slot)),
        }
    }
}

/// The slot of a mount point's name.
fn slot_of(name: &str) -> Option<Slot> {
    let (bus, unit) = name.split_once('-')?;
    Some(Slot {
        bus: bus.parse().ok()?,
        unit: unit.parse().ok()?,
    })
}

async fn blocking<T: Send + 'static>(
    slot: Slot,
    tried: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, DiskError> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(std::io::Error::other);
    done.and_then(|result| result)
        .map_err(|source| DiskError::Io {
            tried,
            slot,
            source,
        })
}

impl DiskAccess for OwnDisks {
    fn format(&self, slot: Slot) -> Doing<'_, ()> {
        Box::pin(async move {
            let device = Self::device(slot).await?;
            let output = blocking(slot, "format", move || {
                Command::new("mke2fs")
                    .args([
                        "-q",
                        "-F",
                        "-t",
                        "ext4",
                        "-E",
                        "lazy_itable_init=1,nodiscard",
                        "-m",
                        "0",
                    ])
                    .arg(device)
                    .output()
            })
            .await?;
            if !output.status.success() {
                return Err(DiskError::Format(
                    String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                ));
            }
            // Programs that want an empty directory for their data look into a new volume, and images have no such
            // directory. A repair makes it again when it needs it.
            let root = self.mount(slot).await?;
            let emptied = blocking(slot, "empty", move || {
                std::fs::remove_dir(root.join("lost+found"))
            })
            .await;
            self.unmount(slot).await?;
            emptied
        })
    }

    fn mount(&self, slot: Slot) -> Doing<'_, PathBuf> {
        Box::pin(async move {
            let device = Self::device(slot).await?;
            let point = self.mount_point(slot);
            blocking(slot, "mount", move || {
                std::fs::create_dir_all(&point)?;
                let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
                mount(Some(&device), &point, Some("ext4"), flags, None::<&str>)?;
                Ok(point)
            })
            .await
        })
    }

    fn mounted(&self) -> Pin<Box<dyn Future<Output = Vec<Slot>> + Send + '_>> {
        Box::pin(async {
            // Every mount point is made for a mount and goes with it.
            let Ok(points) = std::fs::read_dir(&self.mounts) else {
                return Vec::new();
            };
            points
                .filter_map(|point| slot_of(point.ok()?.file_name().to_str()?))
                .collect()
        })
    }

    fn unmount(&self, slot: Slot) -> Doing<'_, ()> {
        let point = self.mount_point(slot);
        Box::pin(blocking(slot, "unmount", move || {
            match umount2(&point, MntFlags::empty()) {
                Ok(()) => std::fs::remove_dir(&point),
                Err(nix::errno::Errno::ENOENT) => Ok(()),
                // A mount point without a mount.
                Err(nix::errno::Errno::EINVAL) => std::fs::remove_dir(&point),
                Err(why) => Err(why.into()),
            }
        }))
    }
}

/// Writes nothing: for test benches on a vSphere that runs no guests. Layers are unpacked into a directory that is
/// thrown away.
#[derive(Debug)]
pub struct NoDisks {
    /// Directory for what is thrown away.
    pub scratch: PathBuf,
}

impl DiskAccess for NoDisks {
    fn format(&self, _: Slot) -> Doing<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn mount(&self, slot: Slot) -> Doing<'_, PathBuf> {
        let point = self.scratch.join(slot.to_string().replace(':', "-"));
        Box::pin(blocking(slot, "mount", move || {
            std::fs::create_dir_all(&point)?;
            Ok(point)
        }))
    }

    fn unmount(&self, slot: Slot) -> Doing<'_, ()> {
        let point = self.scratch.join(slot.to_string().replace(':', "-"));
        Box::pin(blocking(
            slot,
            "unmount",
            move || match std::fs::remove_dir_all(&point) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why),
                _ => Ok(()),
            },
        ))
    }
}
