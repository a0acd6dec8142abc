//! The state directory: one owner at a time, the certificate, and the index of registered VMs.
//!
//! ```text
//! STATE/lock            held (flock) while a simulator runs on the directory; holds its pid
//! STATE/cert.pem        the endpoint's certificate, made at the first start
//! STATE/key.pem         its key, 0600
//! STATE/index.json      which .vmx file is which VM (moid, instance uuid)
//! STATE/datastores/X/   datastores without a path of their own
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Says why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another simulator runs on the directory.
    #[error("{0} is in use by another simulator")]
    InUse(PathBuf),
    /// A file of the directory cannot be read or written.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The index is not what a simulator writes.
    #[error("cannot understand {path}")]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The certificate cannot be made or read.
    #[error("cannot set up the certificate: {0}")]
    Certificate(String),
}

impl StateError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
        let path = path.to_owned();
        move |source| StateError::Io { what, path, source }
    }
}

/// One registered VM, as the index remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexEntry {
    /// The datastore path of the `.vmx` file.
    pub(crate) vmx: String,
    /// The folder (moid) that holds the VM.
    pub(crate) folder: String,
    /// The resource pool (moid) that it runs in.
    pub(crate) pool: String,
    /// The host (moid) that it runs on.
    pub(crate) host: String,
}

/// A child folder or pool that somebody made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerEntry {
    /// `Folder` or `ResourcePool`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// The moid of its parent.
    pub(crate) parent: String,
}

/// What must be known beside the `.vmx` files to have the same inventory again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    /// The last number given to an object.
    #[serde(default)]
    pub(crate) last_moid: u64,
    /// The vSphere's own identity.
    #[serde(default)]
    pub(crate) instance_uuid: String,
    /// VMs by moid.
    #[serde(default)]
    pub(crate) vms: BTreeMap<String, IndexEntry>,
    /// Folders and pools by moid, in the order of their making.
    #[serde(default)]
    pub(crate) containers: Vec<(String, ContainerEntry)>,
    /// Standard port groups that somebody made: (moid, name, switch, VLAN).
    #[serde(default)]
    pub(crate) portgroups: Vec<(String, String, String, i32)>,
    /// Standard switches that somebody made.
    #[serde(default)]
    pub(crate) switches: Vec<String>,
}

/// The state directory, held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory (0700) if need be, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(StateError::io("make", path))?;
        let path = path.canonicalize().map_err(StateError::io("find", path))?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(StateError::io("open", &lock))?;
        let mut held = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StateError::InUse(path.clone()))?;
        // Whoever finds the directory in use is told by whom.
        held.set_len(0)
            .and_then(|()| write!(held, "{}", std::process::id()))
            .map_err(StateError::io("write", &lock))?;
        Ok(StateDir { path, _lock: held })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the index; a directory without one has an empty index.
    pub(crate) fn index(&self) -> Result<Index, StateError> {
        let path = self.path.join("index.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(e) => return Err(StateError::io("read", &path)(e)),
        };
        serde_json::from_slice(&bytes).map_err(|source| StateError::Index { path, source })
    }

    /// Reads the certificate and its key (PEM), making them at the first call.
    pub(crate) fn certificate(&self, names: &[String]) -> Result<(String, String), StateError> {
        let (cert, key) = (self.path.join("cert.pem"), self.path.join("key.pem"));
        if cert.exists() && key.exists() {
            return Ok((
                fs::read_to_string(&cert).map_err(StateError::io("read", &cert))?,
                fs::read_to_string(&key).map_err(StateError::io("read", &key))?,
            ));
        }
        let (cert_pem, key_pem) = crate::tls::generate(names).map_err(StateError::Certificate)?;
        replace(&key, key_pem.as_bytes(), 0o600).map_err(StateError::io("write", &key))?;
        replace(&cert, cert_pem.as_bytes(), 0o644).map_err(StateError::io("write", &cert))?;
        Ok((cert_pem, key_pem))
    }
}

/// Writes the index of the state directory at `state`.
pub(crate) fn write_index(state: &Path, index: &Index) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(index)?;
    replace(&state.join("index.json"), &bytes, 0o600)
}

/// Replaces a file as a whole: a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_owner() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = StateDir::open(dir.path()).expect("first");
        assert!(matches!(
            StateDir::open(dir.path()),
            Err(StateError::InUse(_))
        ));
        drop(first);
        StateDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn the_certificate_stays_the_same() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = StateDir::open(dir.path()).expect("opens");
        let names = vec!["localhost".to_owned()];
        let first = state.certificate(&names).expect("made");
        assert_eq!(state.certificate(&names).expect("read"), first);
    }
}
