//! An image, wherever it came from: its configuration and its layers in order.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::digest::{Digest, chain_ids};
use crate::error::Error;
use crate::fetch::{Events, Fetch, Spool};
use crate::model::{Config, Descriptor};
use crate::platform::Platform;
use crate::registry::Session;

/// An image whose layers can be fetched.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration: docker's image id.
    pub id: Digest,
    /// What the registry's name resolved to: the index when there was one. For `RepoDigests` and
    /// the `Digest:` line. `None` for archives.
    pub manifest: Option<Descriptor>,
    /// The configuration as it came.
    pub config: Bytes,
    /// What it was built for.
    pub platform: Platform,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The name of this layer with all below it.
    pub chain_id: Digest,
    /// The content to be fetched: kind, digest and length, usually compressed.
    pub blob: Descriptor,
    pub(crate) source: Source,
}

/// Where a layer's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Registry(Arc<Session>),
    Archive { file: Arc<File>, offset: u64 },
}

impl Layer {
    /// Starts fetching the layer; `events` hears how it goes. Must be called on a tokio runtime.
    ///
    /// Dropping the returned [`Fetch`] ends the transfer and frees what was spooled.
    ///
    /// # Errors
    /// [`Error::Local`] when there is no room to spool to.
    pub fn fetch(&self, spool: &Spool, events: Events) -> Result<Fetch, Error> {
        match &self.source {
            Source::Registry(session) => {
                Fetch::download(session.clone(), self.blob.clone(), spool, events)
            }
            Source::Archive { file, offset } => {
                Ok(Fetch::ready(file.clone(), *offset, self.blob.size, events))
            }
        }
    }
}

impl Image {
    /// Puts an image together. `blobs` are the layers' contents in order.
    pub(crate) fn assemble(
        config: Bytes,
        manifest: Option<Descriptor>,
        blobs: Vec<(Descriptor, Source)>,
    ) -> Result<Self, Error> {
        let parsed = Config::parse(&config)?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != blobs.len() {
            return Err(Error::malformed(
                "image configuration",
                format!(
                    "{} layers in the manifest, {} in the configuration",
                    blobs.len(),
                    diff_ids.len()
                ),
            ));
        }
        let layers = chain_ids(&diff_ids)
            .into_iter()
            .zip(diff_ids)
            .zip(blobs)
            .map(|((chain_id, diff_id), (blob, source))| Layer {
                diff_id,
                chain_id,
                blob,
                source,
            })
            .collect();
        Ok(Self {
            id: Digest::of(&config),
            manifest,
            config,
            platform: parsed.platform,
            layers,
        })
    }
}
