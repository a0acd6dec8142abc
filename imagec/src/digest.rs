//! Content digests: `sha256:…`, checked while bytes stream by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// Why a text is not a digest; the texts are docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex`.
    #[error("invalid checksum digest format")]
    Format,
    /// An algorithm that is not known here.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The wrong number of hex digits.
    #[error("invalid checksum digest length")]
    Length,
}

/// A digest of an algorithm that is registered for images: sha256 or sha512.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// The sha256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// Wraps a sha256 sum.
    #[must_use]
    pub fn from_sha256(sum: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(sum)))
    }

    /// `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(a, _)| a)
    }

    /// The sum in lower-case hex.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, h)| h)
    }

    /// The first twelve digits: what progress lines and tables show.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole text, `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Starts a sum of this digest's algorithm.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" {
            Hasher::Sha512(Box::default())
        } else {
            Hasher::default()
        }
    }

    /// Tells whether `bytes` have this digest.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, sum) = text.split_once(':').ok_or(DigestError::Format)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm),
        };
        if sum.len() != length {
            return Err(DigestError::Length);
        }
        if !sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Format);
        }
        Ok(Self(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running sum.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// sha256.
    Sha256(Box<Sha256>),
    /// sha512.
    Sha512(Box<Sha512>),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::Sha256(Box::default())
    }
}

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha512(sum) => sum.update(bytes),
        }
    }

    /// Ends the sum.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(sum) => Digest::from_sha256(sum.finalize().into()),
            Self::Sha512(sum) => Digest(format!("sha512:{}", hex::encode(sum.finalize()))),
        }
    }
}

/// Computes the chain ids of layers from their diff ids, in order: the name of each layer *with*
/// everything below it.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_parsed_and_refused_with_dockers_texts() {
        let good = Digest::of(b"");
        assert_eq!(
            good.as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(good.as_str().parse(), Ok(good.clone()));
        assert_eq!(good.short(), "e3b0c44298fc");
        assert_eq!("md5:00".parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!("sha256:00".parse::<Digest>(), Err(DigestError::Length));
        assert_eq!("sha256".parse::<Digest>(), Err(DigestError::Format));
        let upper = good.as_str().to_uppercase().replace("SHA", "sha");
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Format));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let ids = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], ids[0]);
        assert_eq!(
            chain[1],
            Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes())
        );
        assert_eq!(
            chain[2],
            Digest::of(format!("{} {}", chain[1], ids[2]).as_bytes())
        );
    }
}
