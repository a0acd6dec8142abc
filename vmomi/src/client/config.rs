//! What a session is made from.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::error::Retry;
use crate::tls::Trust;

/// How to prove who one is.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// By name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// By a ticket of [`AcquireCloneTicket`](crate::types::AcquireCloneTicketRequest); good for one login.
    CloneTicket(String),
    /// Not at all: only what needs no session can be called.
    #[default]
    None,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::CloneTicket(_) => f.write_str("CloneTicket"),
            Self::None => f.write_str("None"),
        }
    }
}

/// What a session is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API is: `https://host/sdk`.
    pub url: Url,
    /// Who logs in.
    pub credentials: Credentials,
    /// Whom to trust.
    pub trust: Trust,
    /// How long a call may take; the standing wait has its own measure.
    pub timeout: Duration,
    /// How long one turn of the standing wait for updates lasts when there is nothing new.
    pub wait: Duration,
    /// How often, and after what pause, a call is sent again.
    pub retry: Retry,
    /// How often an idle session is used: vCenter ends one after 30 minutes.
    pub keep_alive: Duration,
    /// How many objects one page of a large answer holds.
    pub page: i32,
    /// What the client calls itself.
    pub user_agent: String,
}

/// An address is not one of a vSphere.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no URL.
    #[error("{url:?} is no address of a vSphere")]
    Url {
        /// What was given, without a password.
        url: String,
        /// Why.
        #[source]
        source: url::ParseError,
    },
    /// It has no host, or a scheme other than http and https.
    #[error("{0:?} is no address of a vSphere")]
    Scheme(String),
}

impl Config {
    /// A configuration for an address: `host`, `https://user:password@host/sdk` and what is between.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn new(address: &str) -> Result<Self, ConfigError> {
        let full = if address.contains("://") {
            address.to_owned()
        } else {
            format!("https://{address}")
        };
        let shown = |text: &str| match text.rsplit_once('@') {
            Some((_, host)) => host.to_owned(),
            None => text.to_owned(),
        };
        let mut url = Url::parse(&full).map_err(|source| ConfigError::Url {
            url: shown(address),
            source,
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(ConfigError::Scheme(shown(address)));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let credentials = match (url.username(), url.password()) {
            ("", _) => Credentials::None,
            (user, password) => Credentials::Password {
                user: decode(user),
                password: decode(password.unwrap_or_default()),
            },
        };
        // Neither can fail: the URL has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        if matches!(url.path(), "" | "/") {
            url.set_path("/sdk");
        }
        url.set_fragment(None);
        Ok(Self {
            url,
            credentials,
            trust: Trust::System,
            timeout: Duration::from_secs(60),
            wait: Duration::from_secs(60),
            retry: Retry::default(),
            keep_alive: Duration::from_secs(600),
            page: 1000,
            user_agent: format!("vmomi/{}", env!("CARGO_PKG_VERSION")),
        })
    }

    /// The same with this name and password.
    pub fn with_password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::Password {
            user: user.into(),
            password: password.into(),
        };
        self
    }

    /// The same with this trust.
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_host_or_a_whole_url() {
        let config = Config::new("esx.example").unwrap();
        assert_eq!(config.url.as_str(), "https://esx.example/sdk");
        let config = Config::new("https://root:p%40ss%25@10.0.0.1:8443/").unwrap();
        assert_eq!(config.url.as_str(), "https://10.0.0.1:8443/sdk");
        assert_eq!(
            config.credentials,
            Credentials::Password {
                user: "root".into(),
                password: "p@ss%".into()
            }
        );
    }

    #[test]
    fn an_address_that_cannot_be_read_does_not_show_its_password() {
        let error = Config::new("https://root:secret@[bad").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert!(Config::new("ftp://h").is_err());
    }
}
