//! The server's side of TLS, from PEM documents.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// What can be wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A document is not PEM, or holds nothing of the kind.
    #[error("cannot read the {what} as PEM")]
    Pem {
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A document holds no certificate.
    #[error("the {0} holds no certificate")]
    Empty(&'static str),
    /// A certificate cannot be a root.
    #[error("cannot trust a certificate of the clients' CA")]
    Root(#[source] rustls::Error),
    /// No verifier can be made of the roots.
    #[error("cannot check clients by their CA")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// Key and certificate do not fit, or the key is of a kind that nobody speaks.
    #[error("cannot serve with this certificate and key")]
    Pair(#[source] rustls::Error),
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if list.is_empty() {
        Err(TlsError::Empty(what))
    } else {
        Ok(list)
    }
}

/// Makes the configuration of the listener: TLS 1.2 and 1.3; with `client_ca`, only clients with a certificate of it
/// are let in (`--tlsverify`).
///
/// # Errors
///
/// [`TlsError`] that names the document that is wrong.
pub fn server_config(
    certificate_pem: &[u8],
    key_pem: &[u8],
    client_ca_pem: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates("server's certificate", certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| TlsError::Pem {
        what: "server's key",
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .map_err(TlsError::Pair)?;
    let builder = match client_ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("clients' CA", pem)? {
                roots.add(root).map_err(TlsError::Root)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(TlsError::Verifier)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    builder
        .with_single_cert(chain, key)
        .map(Arc::new)
        .map_err(TlsError::Pair)
}
