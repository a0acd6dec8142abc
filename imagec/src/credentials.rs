//! What a docker client sends along to log in to a registry.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// The longest header that is looked at: an identity token is a few kilobytes.
const MAX_HEADER: usize = 64 * 1024;

/// A user's credentials for one registry; the default is nobody.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Credentials {
    /// User name.
    #[serde(default)]
    pub username: String,
    /// Password or access token.
    #[serde(default)]
    pub password: String,
    /// `base64(user:password)`, an older form.
    #[serde(default)]
    auth: String,
    /// OAuth refresh token.
    #[serde(default, rename = "identitytoken")]
    pub identity_token: String,
    /// Bearer token to be sent as it is.
    #[serde(default, rename = "registrytoken")]
    pub registry_token: String,
}

impl Credentials {
    /// Makes credentials of a user name and a password.
    #[must_use]
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            ..Self::default()
        }
    }

    /// Reads an `X-Registry-Auth` header: JSON in base64, of either alphabet, padded or not.
    /// What cannot be read is nobody, as docker does.
    #[must_use]
    pub fn from_header(header: &str) -> Self {
        if header.len() > MAX_HEADER {
            return Self::default();
        }
        let Some(json) = decode(header.trim()) else {
            return Self::default();
        };
        let mut read: Self = serde_json::from_slice(&json).unwrap_or_default();
        if read.username.is_empty() && !read.auth.is_empty() {
            let pair = decode(&read.auth).and_then(|raw| String::from_utf8(raw).ok());
            if let Some((user, password)) = pair.as_deref().and_then(|p| p.split_once(':')) {
                read.username = user.to_owned();
                read.password = password.trim_end_matches('\0').to_owned();
            }
        }
        read.auth = String::new();
        read
    }

    /// Tells whether there is nothing to log in with.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let url = GeneralPurpose::new(&alphabet::URL_SAFE, config);
    let standard = GeneralPurpose::new(&alphabet::STANDARD, config);
    url.decode(text).or_else(|_| standard.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{
        BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD,
    };
    use proptest::prelude::*;

    #[test]
    fn headers_of_all_codings_are_read() {
        let json = r#"{"username":"ü>?","password":"p~~~","serveraddress":"x","email":null}"#;
        let json = json.replace(r#","email":null"#, "");
        for header in [
            BASE64_URL_SAFE.encode(&json),
            BASE64_URL_SAFE_NO_PAD.encode(&json),
            BASE64_STANDARD.encode(&json),
            BASE64_STANDARD_NO_PAD.encode(&json),
        ] {
            assert_eq!(
                Credentials::from_header(&header),
                Credentials::basic("ü>?", "p~~~")
            );
        }
        let old = format!(r#"{{"auth":"{}"}}"#, BASE64_STANDARD.encode("u:p:q"));
        assert_eq!(
            Credentials::from_header(&BASE64_URL_SAFE.encode(old)),
            Credentials::basic("u", "p:q")
        );
    }

    #[test]
    fn what_cannot_be_read_is_nobody_and_nothing_is_shown() {
        for header in ["", "e30=", "!!!", "bm8ganNvbg==", &"A".repeat(100_000)] {
            assert!(Credentials::from_header(header).is_anonymous(), "{header}");
        }
        assert!(!format!("{:?}", Credentials::basic("u", "secret")).contains("secret"));
    }

    proptest! {
        #[test]
        fn a_name_and_a_password_come_back(user in "[^:\\PC]{1,20}", password in "\\PC{0,20}") {
            let json = serde_json::json!({ "username": user, "password": password }).to_string();
            prop_assert_eq!(
                Credentials::from_header(&BASE64_URL_SAFE.encode(json)),
                Credentials::basic(user, password)
            );
        }

        #[test]
        fn any_header_is_somebody_or_nobody(text in "\\PC{0,80}", json in "[{]\"(username|auth)\":[\"0-9a-z=]{0,20}[}]") {
            let _ = Credentials::from_header(&text);
            let _ = Credentials::from_header(&BASE64_STANDARD.encode(json));
        }
    }
}
