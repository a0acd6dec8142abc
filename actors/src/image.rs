//! Images: names, tags and digests of layer chains.

pub mod disk;
pub mod layer;
pub mod need;
pub mod pull;
pub mod reference;
pub mod repository;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::error::Error;
use crate::ids::ImageId;

pub use reference::{familiar, familiar_name, find};

/// An image at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageSnapshot {
    /// Its id: the digest of its configuration.
    pub id: ImageId,
    /// Tags in familiar form, `busybox:latest`.
    pub tags: Vec<String>,
    /// `busybox@sha256:…`, one per repository that it was pulled from.
    pub digests: Vec<String>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<String>,
    /// The chain id of the top layer, 64 hex digits: names its disk.
    pub chain_id: String,
    /// The sum of the uncompressed layers' sizes in bytes.
    pub size: u64,
    /// When it was built, as its configuration says.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created: Option<OffsetDateTime>,
    /// When it was last tagged here.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_tagged: Option<OffsetDateTime>,
    /// The whole configuration document (`architecture`, `config`, `history`, `rootfs`, …).
    pub config: serde_json::Value,
}

impl ImageSnapshot {
    /// The part that containers inherit (`Cmd`, `Env`, …); an empty object when the image has none.
    pub fn container_config(&self) -> serde_json::Value {
        self.config
            .get("config")
            .cloned()
            .unwrap_or_else(|| serde_json::json!({}))
    }

    /// A top-level text of the configuration: `architecture`, `os`, `author`, `variant`…
    pub fn text(&self, field: &str) -> &str {
        self.config
            .get(field)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    }
}

/// What to pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// `fromImage`, as the client sent it.
    pub image: String,
    /// Tag or digest; none: all tags.
    pub tag: Option<String>,
    /// `os[/arch[/variant]]`; empty: ours.
    pub platform: String,
    /// Registry credentials.
    pub auth: Option<RegistryAuth>,
}

/// Decoded `X-Registry-Auth`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// An OAuth2 refresh token instead of a password.
    pub identity_token: String,
    /// A bearer token to be used as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// One step of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `{"status": …, "id": …}` without figures: `Pulling from library/x`, `Already exists`, `Digest: …`.
    Status {
        /// What the line is about: a tag or a layer's short id; empty: the transfer.
        id: String,
        /// The words.
        status: String,
    },
    /// A layer's bar: `Downloading`, `Extracting`.
    Bar {
        /// The layer's short id.
        id: String,
        /// `Downloading` or `Extracting`.
        status: String,
        /// Bytes so far.
        current: u64,
        /// Bytes in all; 0 when not known.
        total: u64,
    },
    /// `{"stream": …}`: what load prints.
    Stream(String),
    /// The transfer failed; last.
    Failed(Error),
}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Error {}

/// A running transfer, seen by one client. Ends (`None`) when it is done; dropping it does not stop the transfer
/// for others.
#[derive(Debug)]
pub struct Transfer {
    /// Steps in order.
    pub progress: mpsc::Receiver<Progress>,
}

/// An archive that a client uploads: chunks, then `None`; an `Err` aborts.
pub type Upload = mpsc::Receiver<Result<Bytes, std::io::Error>>;

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A tag or digest went away.
    Untagged(String),
    /// An image or layer went away.
    Deleted(String),
}

/// The images' index as published: by id.
pub type Images = BTreeMap<ImageId, std::sync::Arc<ImageSnapshot>>;

/// The chain ids of layers, lowest first, 64 hex digits each: what names their disks.
pub fn chains(diff_ids: &[String]) -> Vec<String> {
    use sha2::Digest as _;
    let mut chain = String::new();
    diff_ids
        .iter()
        .map(|diff| {
            chain = if chain.is_empty() {
                diff.clone()
            } else {
                format!(
                    "sha256:{}",
                    hex::encode(sha2::Sha256::digest(format!("{chain} {diff}")))
                )
            };
            chain.trim_start_matches("sha256:").to_owned()
        })
        .collect()
}

/// The datastore path of a layer's disk.
pub fn disk_path(context: &Context, chain: &str) -> String {
    context
        .settings()
        .image_path(&format!("{chain}/layer.vmdk"))
}

/// How long one try to delete a layer may take.
const FORGET_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// How often it is tried, with growing pauses: about five minutes in all.
const FORGET_TRIES: u32 = 40;

/// Deletes the layers of these chains that nobody needs, uppermost first; goes on until it is done.
pub(crate) fn forget_layers(context: &Context, chains: Vec<String>) {
    let chains: Vec<_> = chains
        .into_iter()
        .filter(|chain| !context.needs_layer(chain))
        .collect();
    // Without a runtime the program is at its end.
    let (false, Ok(runtime)) = (chains.is_empty(), tokio::runtime::Handle::try_current()) else {
        return;
    };
    let context = context.clone();
    context.needs().leaving(&chains);
    runtime.spawn(async move {
        for chain in chains {
            match forget_layer(&context, &chain).await {
                Ok(()) => context.needs().left(&chain),
                // It stays noted: the next life tries again.
                Err(why) => tracing::warn!(%why, chain, "cannot delete a layer"),
            }
        }
    });
}

async fn forget_layer(context: &Context, chain: &str) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        if context.needs_layer(chain) {
            return Ok(());
        }
        let address = pull::layer_actor(context, chain).await;
        let forgotten = match address {
            Ok(address) => address
                .ask(FORGET_DEADLINE, layer::Message::Forget)
                .await
                .map_err(|why| Error::failed_for_now("delete a layer", &why))
                .and_then(std::convert::identity),
            Err(why) => Err(why),
        };
        tries += 1;
        match forgotten {
            Err(why) if tries < FORGET_TRIES => {
                tracing::debug!(%why, chain, tries, "a layer cannot be deleted yet");
                let pause = std::time::Duration::from_millis(50 << tries.min(7));
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
}
