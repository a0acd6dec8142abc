//! Whom the client trusts: a certificate's thumbprint, an authority, or the system's authorities.

use std::fmt;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The SHA-1 of a certificate, as vSphere shows it: `AB:CD:…`.
///
/// It is what vSphere's own clients pin. SHA-1 is weak against collisions, which would need the
/// attacker to have made the server's certificate; finding a second one for a given print is not feasible.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint([u8; 20]);

impl Thumbprint {
    /// The thumbprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let mut out = [0; 20];
        out.copy_from_slice(
            digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, certificate).as_ref(),
        );
        Self(out)
    }

    /// Reads `AB:CD:…`, with or without colons.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        let mut out = [0; 20];
        hex::decode_to_slice(digits, &mut out).ok()?;
        Some(Self(out))
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// The authorities that the system trusts.
    #[default]
    System,
    /// These authorities, in PEM, and no other.
    Authorities(String),
    /// The one certificate with this thumbprint, whatever its name and authority.
    Thumbprint(Thumbprint),
    /// Anybody, without even a proof that the certificate is theirs (which allows keys that are too
    /// short to prove anything). For a first look at a certificate, and where the user insists.
    Anybody,
}

/// A TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM holds no certificate, or a broken one.
    #[error("the authorities' PEM cannot be read")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// There is no authority at all.
    #[error("there is no authority to trust")]
    NoAuthority,
    /// The verifier cannot be made.
    #[error("the verifier of certificates cannot be made")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

/// Where the verifier leaves the thumbprint of a certificate that it refused.
pub(crate) type Refused = Arc<Mutex<Option<Thumbprint>>>;

/// Makes a TLS configuration for a client.
///
/// # Errors
/// When the authorities cannot be read, or there are none.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    config_with(trust, &Refused::default())
}

pub(crate) fn config_with(trust: &Trust, refused: &Refused) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(provider::default_provider());
    let rule = match trust {
        Trust::Anybody => Rule::Anybody,
        Trust::Thumbprint(print) => Rule::Thumbprint(*print),
        Trust::System => Rule::Authorities(authorities(system(), &provider)?),
        Trust::Authorities(pem) => {
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                store
                    .add(certificate.map_err(TlsError::Pem)?)
                    .map_err(TlsError::Library)?;
            }
            Rule::Authorities(authorities(store, &provider)?)
        }
    };
    let verifier = Arc::new(Verifier {
        rule,
        provider: provider.clone(),
        refused: refused.clone(),
    });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn system() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

fn authorities(
    store: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, TlsError> {
    if store.is_empty() {
        // A machine without authorities can still talk to those that it trusts otherwise.
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map(Some)
        .map_err(TlsError::Verifier)
}

#[derive(Debug)]
enum Rule {
    Anybody,
    Thumbprint(Thumbprint),
    Authorities(Option<Arc<WebPkiServerVerifier>>),
}

#[derive(Debug)]
struct Verifier {
    rule: Rule,
    provider: Arc<CryptoProvider>,
    refused: Refused,
}

impl Verifier {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.rule {
            Rule::Anybody => Ok(ServerCertVerified::assertion()),
            Rule::Thumbprint(wanted) if *wanted == Thumbprint::of(certificate) => {
                Ok(ServerCertVerified::assertion())
            }
            Rule::Thumbprint(_) => Err(rustls::Error::General(
                "the certificate's thumbprint is another one".into(),
            )),
            Rule::Authorities(None) => Err(rustls::Error::General(
                "no authority is trusted here".into(),
            )),
            Rule::Authorities(Some(verifier)) => {
                verifier.verify_server_cert(certificate, intermediates, name, ocsp, now)
            }
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(certificate, intermediates, name, ocsp, now)
            .inspect_err(|_| {
                if let Ok(mut refused) = self.refused.lock() {
                    *refused = Some(Thumbprint::of(certificate));
                }
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if matches!(self.rule, Rule::Anybody) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if matches!(self.rule, Rule::Anybody) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    /// Shakes hands in memory; gives what the client says, and the server's thumbprint.
    fn handshake(
        trust: impl Fn(Thumbprint, String) -> Trust,
        name: &str,
    ) -> Result<(), rustls::Error> {
        let issued = rcgen::generate_simple_self_signed(["esx.example".to_owned()]).unwrap();
        let certificate = issued.cert.der().clone();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let config =
            client_config(&trust(Thumbprint::of(&certificate), issued.cert.pem())).unwrap();
        let mut client = ClientConnection::new(
            Arc::new(config),
            ServerName::try_from(name.to_owned()).unwrap(),
        )
        .unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_thumbprint_is_read_as_vsphere_shows_it() {
        let print = Thumbprint::of(b"abc");
        assert_eq!(
            print.to_string(),
            "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D"
        );
        assert_eq!(
            Thumbprint::parse("a9993e364706816aba3e25717850c26c9cd0d89d"),
            Some(print)
        );
        assert_eq!(Thumbprint::parse("A9:99"), None);
    }

    #[test]
    fn a_server_is_trusted_by_its_thumbprint_whatever_its_name() {
        assert!(handshake(|print, _| Trust::Thumbprint(print), "other.example").is_ok());
        assert!(
            handshake(
                |_, _| Trust::Thumbprint(Thumbprint::of(b"x")),
                "esx.example"
            )
            .is_err()
        );
    }

    #[test]
    fn a_server_is_trusted_by_its_authority_under_its_name_only() {
        assert!(handshake(|_, pem| Trust::Authorities(pem), "esx.example").is_ok());
        assert!(handshake(|_, pem| Trust::Authorities(pem), "other.example").is_err());
        let other = rcgen::generate_simple_self_signed(["esx.example".to_owned()])
            .unwrap()
            .cert
            .pem();
        assert!(handshake(|_, _| Trust::Authorities(other.clone()), "esx.example").is_err());
        assert!(handshake(|_, _| Trust::Authorities(String::new()), "esx.example").is_err());
        assert!(handshake(|_, _| Trust::Anybody, "other.example").is_ok());
    }
}
