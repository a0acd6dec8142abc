//! The directories that disks may lie in.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use super::Error;

/// The datastores' directories: no disk and no parent outside of them is opened.
///
/// A descriptor is text that anyone with the right to upload files can write, and its parent line
/// is a path. Without this list it could name any file of the host. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Roots(Arc<RwLock<Vec<PathBuf>>>);

impl Roots {
    /// Makes a list of the given directories.
    ///
    /// # Errors
    /// When a directory does not exist.
    pub fn new<P: AsRef<Path>>(dirs: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let roots = Self::default();
        for dir in dirs {
            roots.add(dir.as_ref())?;
        }
        Ok(roots)
    }

    /// Adds a datastore's directory.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn add(&self, dir: &Path) -> Result<(), Error> {
        let real = dir.canonicalize().map_err(|e| Error::io("find", dir, e))?;
        let mut list = self.0.write().unwrap_or_else(|poison| poison.into_inner());
        if !list.contains(&real) {
            list.push(real);
        }
        Ok(())
    }

    /// Resolves symbolic links in `path` and checks that it lies in one of the directories.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Outside`].
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, Error> {
        let real = path
            .canonicalize()
            .map_err(|e| Error::io("find", path, e))?;
        let list = self.0.read().unwrap_or_else(|poison| poison.into_inner());
        if list.iter().any(|root| real.starts_with(root)) {
            Ok(real)
        } else {
            Err(Error::Outside {
                path: path.to_path_buf(),
            })
        }
    }
}
