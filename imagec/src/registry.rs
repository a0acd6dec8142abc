//! A client of Docker registries and OCI distribution servers.
//!
//! [`Client::resolve`] turns a name into an [`Image`]; its layers are fetched later, each by
//! itself. One [`Session`] holds what one pull needs: the registry's address, how to log in, and
//! the token got.

mod auth;
mod tls;
mod transport;

pub use auth::fuzz_challenge;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, Source};
use crate::model::{self, ACCEPT, Config, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;

pub(crate) use transport::Session;

/// Go's words for a broken transfer.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    transport::reason(error).0
}

/// An index may name indexes, but not without end.
const MAX_INDEX_DEPTH: usize = 3;
/// Pages of a tag list, and tags in all, that are read.
const MAX_TAGS: usize = 10_000;

/// What to do with names that mean this machine: `localhost:5000/x`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalPolicy {
    /// Connect.
    #[default]
    Allow,
    /// Refuse, and name what to use instead.
    Refuse {
        /// The host name that reaches the user's machine, `host.docker.internal`.
        instead: String,
    },
}

/// How to reach registries.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registries, `host` or `host:port`, whose certificates are not checked and that may speak
    /// plain HTTP.
    pub insecure: Vec<String>,
    /// Certificates of authorities to trust, PEM, any number in each.
    pub ca_pem: Vec<Vec<u8>>,
    /// Names of this machine.
    pub local: LocalPolicy,
}

impl Options {
    /// Adds the distribution's bundle of authorities, if there is one.
    #[must_use]
    pub fn with_system_roots(mut self) -> Self {
        if let Ok(pem) = std::fs::read("/etc/ssl/certs/ca-certificates.crt") {
            self.ca_pem.push(pem);
        }
        self
    }
}

/// A client. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    checked: reqwest::Client,
    unchecked: reqwest::Client,
    options: Arc<Options>,
}

impl Client {
    /// Makes a client.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self {
            checked: tls::client(tls::checked(&options.ca_pem)?)?,
            unchecked: tls::client(tls::unchecked()?)?,
            options: Arc::new(options),
        })
    }

    /// Resolves a name to an image: its manifest, chosen for `platform` (this machine's when
    /// `None`) if there are several, and its configuration, both checked against their digests.
    ///
    /// # Errors
    /// [`Error`], with docker's text.
    ///
    /// # Cancel safety
    /// Dropping the future ends the requests; nothing is left behind.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: &Credentials,
    ) -> Result<Image, Error> {
        let session = Arc::new(self.session(reference, credentials).await?);
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let mut key = reference.manifest_key().to_owned();
        let mut top = None;
        for _ in 0..MAX_INDEX_DEPTH {
            let (found, document) = session.manifest(&key).await?;
            let top_found = top.get_or_insert(found);
            match document {
                Document::Manifest(manifest) => {
                    let top = top_found.clone();
                    return Self::image(&session, top, manifest, platform).await;
                }
                Document::Index(manifests) => {
                    let chosen = wanted
                        .choose(&manifests, |m| m.platform.as_ref())
                        .or_else(|| only_unnamed(&manifests))
                        .ok_or_else(|| Error::NoPlatform {
                            platform: wanted.to_string(),
                        })?;
                    key = chosen.digest.to_string();
                }
            }
        }
        Err(Error::malformed(
            "manifest list",
            "too many lists within lists",
        ))
    }

    async fn image(
        session: &Arc<Session>,
        top: Descriptor,
        manifest: model::Manifest,
        platform: Option<&Platform>,
    ) -> Result<Image, Error> {
        let config = session.config(&manifest.config).await?;
        let blobs = manifest
            .layers
            .into_iter()
            .map(|l| (l, Source::Registry(session.clone())));
        let image = Image::assemble(config, Some(top), blobs.collect())?;
        if let Some(wanted) = platform
            && !image.platform.architecture.is_empty()
            && !wanted.accepts(&image.platform)
        {
            return Err(Error::WrongPlatform {
                reference: session.reference.familiar(),
                found: image.platform.to_string(),
                wanted: wanted.to_string(),
            });
        }
        Ok(image)
    }

    /// Lists the tags of a repository.
    ///
    /// # Errors
    /// [`Error`], with docker's text.
    pub async fn tags(
        &self,
        repository: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let session = self.session(repository, credentials).await?;
        let mut all: Vec<String> = Vec::new();
        let mut next = Some(format!("{}/tags/list", session.repository_path()));
        while let Some(path) = next.take() {
            let response = session.get(&path, None).await?;
            next = next_page(response.headers(), session.base());
            let body = transport::body(response, MAX_MANIFEST, "tag list").await?;
            let page: Page =
                serde_json::from_slice(&body).map_err(|e| Error::malformed("tag list", e))?;
            let before = all.len();
            all.extend(page.tags.unwrap_or_default());
            if all.len() == before || all.len() > MAX_TAGS {
                break;
            }
        }
        all.truncate(MAX_TAGS);
        Ok(all)
    }
}

/// An index of one image that says nothing of platforms: `oci` tools write such.
fn only_unnamed(manifests: &[Descriptor]) -> Option<&Descriptor> {
    match manifests {
        [one] if one.platform.is_none() => Some(one),
        _ => None,
    }
}

/// The path in `Link: <…>; rel="next"`, if it stays at this registry.
fn next_page(headers: &reqwest::header::HeaderMap, base: &url::Url) -> Option<String> {
    let link = headers.get(reqwest::header::LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") {
        return None;
    }
    let next = base.join(target).ok()?;
    let same = next.origin() == base.origin();
    same.then(|| next[url::Position::BeforePath..].to_owned())
}

impl Session {
    fn repository_path(&self) -> String {
        format!("/v2/{}", self.reference.path())
    }

    /// Fetches and checks a manifest by tag or digest.
    async fn manifest(&self, key: &str) -> Result<(Descriptor, Document), Error> {
        let path = format!("{}/manifests/{key}", self.repository_path());
        let response = self.get(&path, Some(ACCEPT)).await?;
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|v| v.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (media_type, stated) = (header("content-type"), header("docker-content-digest"));
        let body = transport::body(response, MAX_MANIFEST, "manifest").await?;
        // The digest asked for decides; for a tag, the registry's own must be true.
        let asked = key.parse::<Digest>().ok().or_else(|| stated.parse().ok());
        let digest = match asked {
            Some(digest) if digest.matches(&body) => digest,
            Some(digest) => return Err(Error::ManifestDigest { digest }),
            None => Digest::of(&body),
        };
        let document = model::parse(&body, &media_type, &self.reference.familiar())?;
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let size = body.len() as u64;
        Ok((
            Descriptor {
                media_type,
                digest,
                size,
                platform: None,
                annotations: Default::default(),
            },
            document,
        ))
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        if descriptor.size > MAX_CONFIG {
            return Err(Error::malformed("image configuration", "it is too large"));
        }
        let response = self.blob(&descriptor.digest).await?;
        let body = transport::body(response, MAX_CONFIG, "image configuration").await?;
        if !descriptor.digest.matches(&body) {
            return Err(Error::ManifestDigest {
                digest: descriptor.digest.clone(),
            });
        }
        // Helm charts, signatures and the like have manifests too.
        if Config::parse(&body).is_err() && !descriptor.media_type.contains("image") {
            return Err(Error::MediaType {
                media_type: descriptor.media_type.clone(),
            });
        }
        Ok(body)
    }

    /// Starts reading a blob.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<reqwest::Response, Error> {
        self.get(&format!("{}/blobs/{digest}", self.repository_path()), None)
            .await
    }
}
