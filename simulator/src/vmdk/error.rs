//! What can go wrong with a virtual disk.

use std::io;
use std::path::{Path, PathBuf};

use super::descriptor::DescriptorError;

/// Why an operation on a virtual disk failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another user has the disk open; ESXi's words.
    #[error("Failed to lock the file {}", path.display())]
    Locked {
        /// The locked disk.
        path: PathBuf,
    },
    /// The disk to be made is there already.
    #[error("{} already exists", path.display())]
    AlreadyExists {
        /// The disk in the way.
        path: PathBuf,
    },
    /// There is no such disk, extent or parent.
    #[error("File {} was not found", path.display())]
    NotFound {
        /// The missing file.
        path: PathBuf,
    },
    /// The descriptor cannot be read.
    #[error("{} is not a supported virtual disk", path.display())]
    Descriptor {
        /// The file that holds the descriptor.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: DescriptorError,
    },
    /// The file contradicts itself or uses something that is not supported.
    #[error("{} is not a supported virtual disk: {why}", path.display())]
    Unsupported {
        /// The disk's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The parent has another content id than the child remembers.
    #[error(
        "The parent virtual disk {} has been modified since the child {} was created",
        parent.display(), child.display()
    )]
    ParentModified {
        /// The changed parent.
        parent: PathBuf,
        /// The disk that was opened.
        child: PathBuf,
    },
    /// The disk refers to a file that lies in no datastore.
    #[error("{} lies outside of every datastore", path.display())]
    Outside {
        /// The refused file.
        path: PathBuf,
    },
    /// The chain has a loop or more links than [`super::MAX_CHAIN`].
    #[error("The chain of {} is too long or has a loop", path.display())]
    ChainTooLong {
        /// The disk at its top.
        path: PathBuf,
    },
    /// The arguments make no sense together.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The disk concerned.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The host's file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps a host error, telling a missing and an existing file from the rest.
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            _ => Self::Io { what, path, source },
        }
    }

    pub(super) fn unsupported(path: &Path, why: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            why: why.into(),
        }
    }

    pub(super) fn invalid(path: &Path, why: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.to_path_buf(),
            why: why.into(),
        }
    }

    /// Tells whether the same call can succeed later with nothing repaired in between.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}
