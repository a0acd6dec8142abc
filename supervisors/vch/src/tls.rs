//! The docker API's TLS: the server's certificate, and whom it lets in.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tether_protocol::config::TlsMaterial;

/// The configured material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM text is broken.
    #[error("{0} is no PEM")]
    Pem(&'static str, #[source] pem::Error),
    /// The certificate and key do not fit, or an authority is none.
    #[error("the certificates cannot be used")]
    Certificates(#[source] rustls::Error),
    /// The clients' authorities cannot be used.
    #[error("the clients' authorities cannot be used")]
    Authorities(#[source] rustls::server::VerifierBuilderError),
}

/// The server's configuration; none for plain TCP.
///
/// # Errors
/// [`Error`] for material that cannot be used.
pub fn server(material: &TlsMaterial) -> Result<Option<Arc<ServerConfig>>, Error> {
    if material.disabled {
        return Ok(None);
    }
    let chain = certificates(&material.certificate, "the server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(material.key.0.as_bytes())
        .map_err(|why| Error::Pem("the server's key", why))?;
    let builder = ServerConfig::builder();
    let builder = if material.verify_clients {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&material.client_ca, "the clients' authority")? {
            roots.add(authority).map_err(Error::Certificates)?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        builder.with_client_cert_verifier(verifier.map_err(Error::Authorities)?)
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(chain, key)
        .map_err(Error::Certificates)?;
    Ok(Some(Arc::new(config)))
}

fn certificates(text: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|why| Error::Pem(what, why))
}
