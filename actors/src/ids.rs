//! Identities: newtypes for things whose ids are all "64 hexadecimal digits" and must not be swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 64 hexadecimal digits")]
pub struct NotAnId;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Makes a new id from the system's randomness. It never looks like a number, so that
            /// its short form is a valid host name that no tool takes for an address.
            pub fn random() -> Self {
                loop {
                    let id = Self(rand::random());
                    if !id.short().bytes().all(|b| b.is_ascii_digit()) {
                        return id;
                    }
                }
            }

            /// The id that belongs to a name for good: its SHA-256.
            pub fn of_name(name: &str) -> Self {
                use sha2::Digest as _;
                Self(sha2::Sha256::digest(name.as_bytes()).into())
            }

            /// The first twelve digits, as docker prints ids.
            pub fn short(&self) -> String {
                let mut full = self.to_string();
                full.truncate(12);
                full
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnId)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// A container: also the name of its disk, its log and its primary session in the guest.
    ContainerId
}
hex_id! {
    /// One `docker exec`.
    ExecId
}
hex_id! {
    /// A network.
    NetworkId
}
hex_id! {
    /// One container's place in one network.
    EndpointId
}

/// An image: `sha256:` and the digest of its configuration document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(String);

impl ImageId {
    /// Takes `sha256:<64 hex>` or the bare digits.
    ///
    /// # Errors
    /// [`NotAnId`] for any other text.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let well_formed = digits.len() == 64
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if well_formed {
            Ok(Self(format!("sha256:{digits}")))
        } else {
            Err(NotAnId)
        }
    }

    /// The digits without `sha256:`.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or(self.hex())
    }

    /// `sha256:<64 hex>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = ContainerId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), id.to_string()[..12]);
    }

    #[test]
    fn an_image_id_is_the_same_with_and_without_its_algorithm() {
        let digits = "ab".repeat(32);
        assert_eq!(
            ImageId::parse(&digits),
            ImageId::parse(&format!("sha256:{digits}"))
        );
        assert!(ImageId::parse("sha256:abc").is_err());
    }
}
