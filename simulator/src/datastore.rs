//! Datastores: names, `[ds] dir/file` paths, and the directories behind them; [`keeper`] is the actor
//! of each, through which files are changed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod keeper;

pub(crate) use keeper::{Stores, child, submit};

/// A path as the API writes it: `[datastore] dir/file`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DatastorePath {
    /// The datastore's name.
    pub(crate) datastore: String,
    /// The path below its root, without a leading or trailing slash; empty: the root.
    pub(crate) path: String,
}

impl FromStr for DatastorePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (datastore, path) = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
            .ok_or_else(|| format!("{text:?} is no datastore path"))?;
        let path = clean(path.trim()).ok_or_else(|| format!("{text:?} leaves the datastore"))?;
        // Written again, the blank would be taken for the one behind the datastore's name.
        if path.trim() != path {
            return Err(format!("{text:?} begins or ends with a blank"));
        }
        Ok(DatastorePath {
            datastore: datastore.trim().to_owned(),
            path,
        })
    }
}

/// Brings a path below a datastore's root into one form; `None` when it would leave the root.
pub(crate) fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part if part.contains('\0') => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

impl DatastorePath {
    /// Makes a path; `path` must come from [`clean`] or from another path.
    pub(crate) fn new(datastore: impl Into<String>, path: impl Into<String>) -> Self {
        DatastorePath {
            datastore: datastore.into(),
            path: path.into(),
        }
    }

    /// The directory that holds the file.
    pub(crate) fn parent(&self) -> DatastorePath {
        let parent = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        DatastorePath::new(&self.datastore, parent)
    }

    /// A file in this directory.
    pub(crate) fn join(&self, name: &str) -> DatastorePath {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        };
        DatastorePath::new(&self.datastore, path)
    }

    /// The last part of the path.
    pub(crate) fn file_name(&self) -> &str {
        self.path
            .rsplit_once('/')
            .map_or(&self.path, |(_, name)| name)
    }
}

/// A datastore on a directory.
#[derive(Debug)]
pub(crate) struct Datastore {
    /// The name, which does not change.
    pub(crate) name: String,
    /// Its object's moid.
    pub(crate) moid: String,
    /// The directory.
    pub(crate) root: PathBuf,
}

impl Datastore {
    /// The real place of a cleaned path; `None` when a link on the way leads out of the datastore.
    pub(crate) fn real(&self, path: &str) -> Option<PathBuf> {
        let place = if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        };
        let mut at = place.as_path();
        let there = loop {
            match at.canonicalize() {
                Ok(there) => break there,
                // It leads nowhere now, and anywhere as soon as somebody writes to it.
                Err(_) if at.is_symlink() => return None,
                Err(_) => at = at.parent()?,
            }
        };
        there.starts_with(&self.root).then_some(place)
    }

    /// Capacity and free space of the file system, in bytes.
    pub(crate) fn space(&self) -> (i64, i64) {
        match nix::sys::statvfs::statvfs(&self.root) {
            Ok(stat) => {
                let unit = stat.fragment_size();
                let bytes = |blocks: u64| i64::try_from(blocks * unit).unwrap_or(i64::MAX);
                (bytes(stat.blocks()), bytes(stat.blocks_available()))
            }
            Err(_) => (0, 0),
        }
    }
}

/// Removes a file or a whole directory.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

/// Copies a file or a whole directory, without the links in it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_symlink() {
        return Ok(());
    }
    if !from.symlink_metadata()?.is_dir() {
        return std::fs::copy(from, to).map(drop);
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Reads a text as a path of a datastore; for fuzzing. Must not panic.
///
/// # Panics
/// When a path leads out of its datastore, or is not read as it is written: that is the finding.
pub(crate) fn fuzz(text: &str) {
    if let Some(path) = clean(text) {
        assert!(Path::new(&path).is_relative() && !path.split('/').any(|part| part == ".."));
    }
    if let Ok(path) = text.parse::<DatastorePath>() {
        assert_eq!(path.to_string().parse(), Ok(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_path_stays_in_its_datastore_and_is_read_as_it_is_written(text in "\\[?[a-z \\[\\]]{0,4}\\]?[ /.a\t]{0,12}|\\PC{0,30}") {
            fuzz(&text);
        }
    }

    #[test]
    fn datastore_paths_are_brought_into_one_form() {
        let path: DatastorePath = "[ds 1]  /a//b/./c.vmdk".parse().expect("parses");
        assert_eq!(path.to_string(), "[ds 1] a/b/c.vmdk");
        assert_eq!(path.parent().to_string(), "[ds 1] a/b");
        assert_eq!(path.file_name(), "c.vmdk");
        assert_eq!("[ds]".parse::<DatastorePath>().expect("root").path, "");
    }

    #[test]
    fn nothing_leads_out_of_a_datastore() {
        assert!("[ds] ../x".parse::<DatastorePath>().is_err());
        assert!("[ds] a/../../x".parse::<DatastorePath>().is_err());
        assert!("ds/a".parse::<DatastorePath>().is_err());
    }
}
