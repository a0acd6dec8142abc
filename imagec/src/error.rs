//! What can go wrong with an image on its way here. Display is docker's text.

use std::io;

use crate::digest::Digest;
use crate::reference::ReferenceError;

/// What an error means for the one who asked; the API maps it to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such thing, or it may not be known: 404.
    NotFound,
    /// The request makes no sense: 400.
    Invalid,
    /// Anything else that went wrong: 500.
    System,
}

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is no name.
    #[error(transparent)]
    Reference(ReferenceError),
    /// The registry has no such tag or digest.
    #[error("manifest for {reference} not found: {message}")]
    ManifestUnknown {
        /// The familiar name.
        reference: String,
        /// The registry's words, `manifest unknown: manifest unknown`.
        message: String,
    },
    /// The registry has no such repository.
    #[error("repository {repository} not found: {message}")]
    RepositoryUnknown {
        /// The familiar name.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// The registry lets this user not see it, or it does not exist: it will not say.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': {message}"
    )]
    AccessDenied {
        /// The familiar name.
        repository: String,
        /// The registry's words, `denied: requested access to the resource is denied`.
        message: String,
    },
    /// The credentials are missing or wrong.
    #[error("{message}")]
    Unauthorized {
        /// Docker's words for it.
        message: String,
    },
    /// The index has nothing for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// What was asked for.
        platform: String,
    },
    /// The image is for another platform than the one asked for.
    #[error(
        "image with reference {reference} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    WrongPlatform {
        /// The familiar name.
        reference: String,
        /// The image's platform.
        found: String,
        /// The platform asked for.
        wanted: String,
    },
    /// The name means this very machine, where no registry can be.
    #[error(
        "{host} inside a virtual container host is the container host itself, not your machine: use {instead} instead of {host} in the image's name, and name it as an insecure registry if it serves plain HTTP"
    )]
    LocalRegistry {
        /// The registry as named.
        host: String,
        /// The name that reaches the user's machine.
        instead: String,
    },
    /// The manifest is of a kind that is not supported.
    #[error("unsupported media type {media_type}")]
    MediaType {
        /// The kind.
        media_type: String,
    },
    /// The manifest is of the kind that docker gave up in 2019.
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: {reference}"
    )]
    Schema1 {
        /// The familiar name.
        reference: String,
    },
    /// The registry cannot be reached.
    #[error("Get \"{url}\": {why}")]
    Connect {
        /// What was asked.
        url: String,
        /// Go's words for it where they are known.
        why: String,
        /// Whether to try again.
        retry: bool,
    },
    /// The registry answered with an error.
    #[error("{message}")]
    Registry {
        /// The registry's words, `toomanyrequests: …`, or docker's for the status alone.
        message: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection broke while data came.
    #[error("the transfer of {what} was interrupted: {why}")]
    Interrupted {
        /// What was on its way.
        what: String,
        /// The reason.
        why: String,
    },
    /// The bytes are not those that were asked for.
    #[error("filesystem layer verification failed for digest {digest}")]
    LayerDigest {
        /// The digest asked for.
        digest: Digest,
    },
    /// The manifest or configuration is not the one that was asked for.
    #[error("manifest verification failed for digest {digest}")]
    ManifestDigest {
        /// The digest asked for.
        digest: Digest,
    },
    /// A document contradicts itself or is no such document.
    #[error("invalid {what}: {why}")]
    Malformed {
        /// The document.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An archive for `load` is not one.
    #[error("invalid archive: {why}")]
    Archive {
        /// What is wrong.
        why: String,
    },
    /// This side's disk failed.
    #[error("cannot {what}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What the error means for the one who asked.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::ManifestUnknown { .. }
            | Self::RepositoryUnknown { .. }
            | Self::AccessDenied { .. }
            | Self::NoPlatform { .. }
            | Self::WrongPlatform { .. } => Kind::NotFound,
            Self::Reference(_) | Self::LocalRegistry { .. } => Kind::Invalid,
            _ => Kind::System,
        }
    }

    /// Tells whether the same request can succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { retry, .. } => *retry,
            Self::Registry { status, .. } => *status >= 500 || *status == 429,
            Self::Interrupted { .. } | Self::LayerDigest { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed {
            what,
            why: why.to_string(),
        }
    }

    pub(crate) fn archive(why: impl ToString) -> Self {
        Self::Archive {
            why: why.to_string(),
        }
    }

    pub(crate) fn local(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Local { what, source }
    }
}
