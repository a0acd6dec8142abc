//! Key pairs of the two ends: P-256, shown to the peer as raw public keys (RFC 7250), pinned.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

/// A key pair could not be made or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The kernel gave no entropy.
    #[error("generating a P-256 key")]
    Generate,
    /// Not base64 of PKCS #8 with a P-256 key.
    #[error("reading a P-256 key")]
    Parse,
}

/// A P-256 key pair.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Vec<u8>,
    pub(super) key: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

impl Identity {
    /// Makes a new key pair.
    ///
    /// # Errors
    /// When the kernel gives no entropy.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let pair = pair.map_err(|_| IdentityError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| IdentityError::Generate)?;
        Self::from_pkcs8(pkcs8.as_ref().to_vec())
    }

    /// Reads what [`to_base64`](Self::to_base64) wrote.
    ///
    /// # Errors
    /// When the text holds no P-256 key.
    pub fn from_base64(text: &str) -> Result<Self, IdentityError> {
        Self::from_pkcs8(
            STANDARD
                .decode(text.trim())
                .map_err(|_| IdentityError::Parse)?,
        )
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self, IdentityError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.clone()));
        let signing = any_ecdsa_type(&der).map_err(|_| IdentityError::Parse)?;
        let spki = signing.public_key().ok_or(IdentityError::Parse)?;
        let certificate = CertificateDer::from(spki.as_ref().to_vec());
        Ok(Self {
            pkcs8,
            key: Arc::new(CertifiedKey::new(vec![certificate], signing)),
        })
    }

    /// The private key as base64 of PKCS #8: a secret.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.pkcs8)
    }

    /// The public key (SPKI).
    pub fn public_key(&self) -> PublicKey {
        PublicKey(
            self.key
                .cert
                .first()
                .map(|c| c.as_ref().to_vec())
                .unwrap_or_default(),
        )
    }

    /// SHA-256 of the public key in hex, as `ExecutorConfig::vch_key` has it.
    pub fn fingerprint(&self) -> String {
        self.public_key().fingerprint()
    }
}

/// A public key as its SPKI document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(pub(super) Vec<u8>);

impl PublicKey {
    /// Reads the base64 text that a guest publishes; `None` when it is none.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD
            .decode(text.trim())
            .ok()
            .filter(|key| !key.is_empty())
            .map(Self)
    }

    /// The text to publish.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// SHA-256 in hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.0))
    }
}
