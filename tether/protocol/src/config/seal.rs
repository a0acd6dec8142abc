//! Secrets in extraConfig: everyone who may read a VM sees its keys, so what must travel is sealed
//! under a key that vSphere's API never shows.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::codec::{DecodeError, Keys, Model, PREFIX, View};

/// The key of extraConfig that holds the sealing key; the API hides its value.
pub const SEAL_KEY: &str = "guestinfo.ovfEnv";

/// A value that is sealed in extraConfig and never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "Secret(empty)"
        } else {
            "Secret(…)"
        })
    }
}

/// The key that seals the secrets of one VM.
#[derive(Clone)]
pub(super) struct SealKey([u8; 32]);

impl SealKey {
    pub(super) fn generate() -> Self {
        let mut key = [0; 32];
        // The generator of aws-lc only fails when the kernel gives no entropy at all.
        aws_lc_rs::rand::fill(&mut key).expect("the kernel gives entropy");
        Self(key)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self(STANDARD.decode(text).ok()?.try_into().ok()?))
    }

    pub(super) fn text(&self) -> String {
        STANDARD.encode(self.0)
    }

    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).ok()
    }

    /// Seals `value` for the key `name`: a sealed value cannot be moved to another key.
    fn seal(&self, name: &str, value: &str) -> Option<String> {
        let mut data = value.as_bytes().to_vec();
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut data)
            .ok()?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut data);
        Some(STANDARD.encode(out))
    }

    fn open(&self, name: &str, text: &str) -> Option<String> {
        let mut data = STANDARD.decode(text).ok()?;
        if data.len() < NONCE_LEN {
            return None;
        }
        let mut body = data.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&data).ok()?;
        let aad = Aad::from(name.as_bytes());
        let plain = self.cipher()?.open_in_place(nonce, aad, &mut body).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

impl Model for Secret {
    fn put(&self, keys: &mut Keys, at: &str) {
        let name = format!("{at}@secret");
        // Without a sealing key a secret is left out rather than shown.
        if let Some(sealed) = keys.seal.as_ref().and_then(|key| key.seal(&name, &self.0)) {
            keys.put(&name, &sealed);
        }
    }

    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        let name = format!("{at}@secret");
        let value = view.get(&name)?;
        // Without the key (a reader through the API) secrets read as empty.
        let (Some(value), Some(key)) = (value, view.seal()) else {
            return Ok(Self::default());
        };
        key.open(&name, &value)
            .map(Self)
            .ok_or_else(|| DecodeError {
                key: format!("{PREFIX}{name}"),
                expected: "a value sealed under this VM's key",
            })
    }
}
