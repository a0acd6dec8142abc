//! The documents of registries: manifests, indexes, and the part of a configuration that is
//! needed here.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::platform::Platform;

/// The largest manifest or index: docker's limit.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest configuration.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// More layers than any image has.
const MAX_LAYERS: usize = 512;
const MAX_MANIFESTS: usize = 1024;

/// Docker's image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What is accepted, best first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What names a piece of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: its names.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// An image manifest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// A parsed document of either kind.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<serde_json::Value>,
    layers: Option<serde_json::Value>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
}

/// Parses a manifest or index. `media_type` is what the server called it, if it did.
pub(crate) fn parse(bytes: &[u8], media_type: &str, reference: &str) -> Result<Document, Error> {
    let bad = |e: serde_json::Error| Error::malformed("manifest", e);
    let shape: Shape = serde_json::from_slice(bytes).map_err(bad)?;
    if shape.schema_version == 1 || shape.fs_layers.is_some() {
        return Err(Error::Schema1 {
            reference: reference.to_owned(),
        });
    }
    // One document must not be two things at once to two readers.
    if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
        return Err(Error::malformed(
            "manifest",
            "it is a manifest and an index at once",
        ));
    }
    let stated = shape.media_type.as_deref().unwrap_or(media_type);
    let kind = media_type.split(';').next().unwrap_or_default().trim();
    let known = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];
    if known.contains(&kind) && stated != kind && shape.media_type.is_some() {
        return Err(Error::malformed(
            "manifest",
            format!("it says {stated} but was sent as {kind}"),
        ));
    }
    if let Some(manifests) = shape.manifests {
        if manifests.len() > MAX_MANIFESTS {
            return Err(Error::malformed("manifest list", "too many entries"));
        }
        return Ok(Document::Index(manifests));
    }
    if shape.config.is_none() {
        return Err(Error::MediaType {
            media_type: stated.to_owned(),
        });
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(bad)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::malformed("manifest", "too many layers"));
    }
    Ok(Document::Manifest(manifest))
}

/// What matters here of an image's configuration.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub platform: Platform,
    pub rootfs: RootFs,
}

/// The layers as a configuration lists them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::malformed("image configuration", e))?;
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(Error::malformed("image configuration", "too many layers"));
        }
        Ok(config)
    }
}

/// Reads bytes as every document that a registry sends; for fuzzing. Must not panic.
pub fn fuzz_parse(bytes: &[u8]) {
    for kind in [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, ""] {
        let _ = parse(bytes, kind, "fuzz");
    }
    let _ = Config::parse(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(text: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": "x", "digest": Digest::of(text.as_bytes()), "size": 3})
    }

    #[test]
    fn kinds_are_told_by_their_shape_and_not_mixed() {
        let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor("c"), "layers": [descriptor("l")]});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor("m")]});
        let read = |v: &serde_json::Value, kind: &str| parse(v.to_string().as_bytes(), kind, "x:y");
        assert!(
            matches!(read(&manifest, OCI_MANIFEST), Ok(Document::Manifest(m)) if m.layers.len() == 1)
        );
        assert!(matches!(read(&index, "text/plain"), Ok(Document::Index(m)) if m.len() == 1));
        let mut both = manifest.clone();
        both["manifests"] = index["manifests"].clone();
        assert!(matches!(
            read(&both, OCI_INDEX),
            Err(Error::Malformed { .. })
        ));
        let mut lies = manifest.clone();
        lies["mediaType"] = OCI_INDEX.into();
        assert!(matches!(
            read(&lies, OCI_MANIFEST),
            Err(Error::Malformed { .. })
        ));
        let old = serde_json::json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(read(&old, ""), Err(Error::Schema1 { .. })));
        let chart = serde_json::json!({"schemaVersion": 2, "mediaType": "application/x"});
        assert_eq!(
            read(&chart, "").unwrap_err().to_string(),
            "unsupported media type application/x"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,100}") {
            let _ = parse(&bytes, OCI_INDEX, "x");
            let _ = parse(text.as_bytes(), &text, "x");
            let _ = Config::parse(&bytes);
        }
    }
}
