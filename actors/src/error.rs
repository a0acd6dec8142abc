//! What a request to the port layer can fail with, in docker's words.
//!
//! A variant says what was asked and why it cannot be; [`Error::kind`] sorts them for the persona's one table
//! of statuses, [`Error::is_retryable`] tells whether the same request may succeed later.

use crate::ids::ContainerId;

/// How a failure ends at a client: each persona has one table from these to its statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// The request makes no sense by itself.
    Invalid,
    /// The request contradicts the present state.
    Conflict,
    /// The present state is already what was asked for.
    NotModified,
    /// Never allowed on this thing.
    Forbidden,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Not possible now; later perhaps.
    Unavailable,
    /// Known to docker, not yet to us.
    NotImplemented,
    /// Everything else: broken invariants, lost connections, vSphere's refusals.
    Internal,
}

/// A request that was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No container of that id, name or prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// A prefix that fits several containers.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// No exec of that id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// No image of that reference or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// No network of that id or name.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// No volume of that name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// The name belongs to another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// The container does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// A signal for a container that does not run.
    #[error("cannot kill container: {name}: container {id} is not running")]
    KillNotRunning {
        /// What the client typed.
        name: String,
        /// The container.
        id: ContainerId,
    },
    /// Start of a running container, stop of a stopped one.
    #[error("the container is already in that state")]
    NotModified,
    /// Pause of a paused container.
    #[error("container {0} is already paused")]
    AlreadyPaused(ContainerId),
    /// Unpause of a container that is not paused.
    #[error("Container {0} is not paused")]
    NotPaused(ContainerId),
    /// Start of a paused container.
    #[error("cannot start a paused container, try unpause instead")]
    StartPaused,
    /// Anything on a container that is being removed.
    #[error("container is marked for removal and cannot be started")]
    MarkedForRemoval,
    /// Attach or exec on a paused container.
    #[error("{what} {name} is paused, unpause the container before {verb}")]
    Paused {
        /// `container` or `Container`.
        what: &'static str,
        /// What the client typed.
        name: String,
        /// What was tried: `attach`, `exec`.
        verb: &'static str,
    },
    /// Removal of a running container without force.
    #[error(
        "cannot remove container \"{0}\": container is running: stop the container before removing or force remove"
    )]
    RemoveRunning(String),
    /// Removal of a paused container without force.
    #[error("cannot remove container \"{0}\": container is paused and must be unpaused first")]
    RemovePaused(String),
    /// A second removal.
    #[error("removal of container {0} is already in progress")]
    RemovalInProgress(String),
    /// An exec that ran or runs.
    #[error("exec command {0} has already run")]
    ExecAlreadyRan(String),
    /// The guest could not launch the process; the text is docker's and carries the exit code's words.
    #[error("{text}")]
    Launch {
        /// The whole text, `… executable file not found in $PATH: unknown`.
        text: String,
        /// 126, 127 or 128.
        exit_code: i64,
    },
    /// A request that makes no sense, in docker's words.
    #[error("{0}")]
    Invalid(String),
    /// A request against the present state, in docker's words.
    #[error("{0}")]
    Conflict(String),
    /// A request that is never allowed on this thing, in docker's words.
    #[error("{0}")]
    Forbidden(String),
    /// Something outside does not exist, in docker's words: a manifest, a repository.
    #[error("{0}")]
    NotFound(String),
    /// Credentials were refused.
    #[error("{0}")]
    Unauthorized(String),
    /// Known to docker, not yet to us.
    #[error("{0} is not implemented yet")]
    NotImplemented(&'static str),
    /// The actor concerned died while it had the request; whether it was carried out shows in the state.
    #[error("{0} was interrupted by a restart of its actor: look at the state and try again")]
    Interrupted(&'static str),
    /// The request was not answered by its deadline.
    #[error("{0} was not done within its deadline")]
    Deadline(&'static str),
    /// A second `vch` of the same name has written this host's state.
    #[error(
        "{path} has generation {found} instead of {expected}: another vch writes this host's state, this one does not overwrite it"
    )]
    Superseded {
        /// The document.
        path: String,
        /// Its generation.
        found: u64,
        /// The generation that this program wrote or read last.
        expected: u64,
    },
    /// vSphere or the guest refused or failed.
    #[error("{tried}: {why}")]
    Failed {
        /// What was tried.
        tried: String,
        /// The chain of causes as text.
        why: String,
        /// Whether the same request may succeed later.
        retryable: bool,
    },
}

impl Error {
    /// A failure of something below us, with its whole chain of causes.
    pub fn failed(tried: impl Into<String>, source: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed {
            tried: tried.into(),
            why: chain(source),
            retryable: false,
        }
    }

    /// Like [`Error::failed`], for failures that may pass.
    pub fn failed_for_now(
        tried: impl Into<String>,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::Failed {
            tried: tried.into(),
            why: chain(source),
            retryable: true,
        }
    }

    /// A failure for which there is only a text.
    pub fn internal(tried: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed {
            tried: tried.into(),
            why: why.into(),
            retryable: false,
        }
    }

    /// The row of the persona's status table.
    pub fn kind(&self) -> ErrorKind {
        use ErrorKind as K;
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchExec(_)
            | Self::NoSuchImage(_)
            | Self::NoSuchNetwork(_)
            | Self::NoSuchVolume(_)
            | Self::NotFound(_) => K::NotFound,
            Self::AmbiguousPrefix(_) | Self::Invalid(_) => K::Invalid,
            Self::Launch {
                exit_code: 126 | 127,
                ..
            } => K::Invalid,
            Self::NotModified => K::NotModified,
            Self::NameTaken { .. }
            | Self::NotRunning(_)
            | Self::KillNotRunning { .. }
            | Self::AlreadyPaused(_)
            | Self::StartPaused
            | Self::MarkedForRemoval
            | Self::Paused { .. }
            | Self::RemoveRunning(_)
            | Self::RemovePaused(_)
            | Self::RemovalInProgress(_)
            | Self::ExecAlreadyRan(_)
            | Self::Conflict(_) => K::Conflict,
            Self::Forbidden(_) => K::Forbidden,
            Self::Unauthorized(_) => K::Unauthorized,
            Self::NotImplemented(_) => K::NotImplemented,
            Self::NotPaused(_)
            | Self::Launch { .. }
            | Self::Interrupted(_)
            | Self::Deadline(_)
            | Self::Superseded { .. }
            | Self::Failed { .. } => K::Internal,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Interrupted(_) | Self::Deadline(_) => true,
            Self::Failed { retryable, .. } => *retryable,
            _ => false,
        }
    }
}

/// The texts of an error and of all its sources, joined by `: `.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
