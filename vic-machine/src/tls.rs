//! Certificates of the docker API: which are used, which are made, where they lie.
//!
//! Keys are P-256: a handshake with RSA costs a `docker run` more time than the rest of its TLS.

pub(crate) mod choose;
pub(crate) mod files;
pub(crate) mod issue;
pub(crate) mod probe;

/// How the docker API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Plain TCP on 2375.
    Plain,
    /// TLS on 2376; anybody may come.
    NoVerify,
    /// TLS on 2376, for clients with a certificate of our CA.
    Verify,
}

impl Mode {
    /// The port that docker's clients expect.
    pub(crate) fn port(self) -> u16 {
        if self == Self::Plain { 2375 } else { 2376 }
    }
}
