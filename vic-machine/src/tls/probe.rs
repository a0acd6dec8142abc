//! Looks at a server before trusting it, and asks a docker API whether it is there.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where distributions keep the CA certificates that they trust.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// What a server has shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    certificate: CertificateDer<'static>,
    /// Whether a CA that this machine trusts has signed it for the name that was asked.
    pub(crate) trusted: bool,
}

impl Shown {
    /// The SHA-256 fingerprint.
    pub(crate) fn sha256(&self) -> String {
        colons(&Sha256::digest(&self.certificate))
    }

    /// The SHA-1 fingerprint, which vSphere's clients show.
    pub(crate) fn sha1(&self) -> String {
        colons(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.certificate).as_ref())
    }

    /// Whether a fingerprint of either kind is this certificate's.
    pub(crate) fn has(&self, thumbprint: &str) -> bool {
        let wanted = thumbprint.trim();
        self.sha1().eq_ignore_ascii_case(wanted) || self.sha256().eq_ignore_ascii_case(wanted)
    }
}

/// Shakes hands with a server, whatever it shows.
pub(crate) async fn look(host: &str, port: u16) -> io::Result<Shown> {
    let provider = provider();
    let inner = system_roots().and_then(|roots| {
        WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .ok()
    });
    let seen = Arc::new(Seen {
        inner,
        provider: provider.clone(),
        shown: Mutex::new(None),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let shaken = tokio::time::timeout(PATIENCE, async {
        let stream = TcpStream::connect((host, port)).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    });
    let result = shaken
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let shown = seen.shown.lock().ok().and_then(|mut shown| shown.take());
    match (shown, result) {
        // A server may dislike us after it has shown its certificate; that is enough here.
        (Some(shown), _) => Ok(shown),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::other("the server has shown no certificate")),
    }
}

/// How a docker API is reached.
#[derive(Clone, Debug)]
pub(crate) struct DockerPeer {
    /// Host and port to connect to.
    pub(crate) address: (String, u16),
    /// Certificates: the server's CA or the server's own, and the client's; none for plain TCP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl DockerPeer {
    /// A peer without TLS.
    pub(crate) fn plain(address: (String, u16)) -> Self {
        Self { address, tls: None }
    }

    /// A peer whose certificate is exactly the first one of `server`; shows the client certificate in `client_dir`.
    pub(crate) fn pinned(
        address: (String, u16),
        server: &str,
        client_dir: Option<&Path>,
    ) -> io::Result<Self> {
        let expected =
            CertificateDer::from_pem_slice(server.as_bytes()).map_err(io::Error::other)?;
        let provider = provider();
        let pinned = Arc::new(Pinned {
            expected,
            provider: provider.clone(),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(pinned);
        let config = match client_dir {
            None => builder.with_no_client_auth(),
            Some(dir) => {
                let chain = CertificateDer::pem_file_iter(dir.join("cert.pem"))
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(io::Error::other)?;
                let key =
                    PrivateKeyDer::from_pem_file(dir.join("key.pem")).map_err(io::Error::other)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(io::Error::other)?
            }
        };
        Ok(Self {
            address,
            tls: Some(Arc::new(config)),
        })
    }

    /// Asks `/_ping`; `Ok` when docker answers.
    pub(crate) async fn ping(&self) -> io::Result<()> {
        let answer = tokio::time::timeout(PATIENCE, self.ask()).await;
        answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn ask(&self) -> io::Result<()> {
        let (host, port) = (&self.address.0, self.address.1);
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let head = match &self.tls {
            None => exchange(stream, host).await?,
            Some(config) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                exchange(
                    TlsConnector::from(config.clone())
                        .connect(name, stream)
                        .await?,
                    host,
                )
                .await?
            }
        };
        if head.starts_with(b"HTTP/1.1 200") || head.starts_with(b"HTTP/1.0 200") {
            Ok(())
        } else {
            let line = String::from_utf8_lossy(&head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            Err(io::Error::other(format!("it answers {line:?}")))
        }
    }
}

async fn exchange(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    host: &str,
) -> io::Result<Vec<u8>> {
    let request = format!("GET /_ping HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = vec![0; 1024];
    let mut filled = 0;
    while filled < head.len() && !head[..filled].contains(&b'\n') {
        match stream.read(&mut head[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    head.truncate(filled);
    Ok(head)
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

fn system_roots() -> Option<Arc<RootCertStore>> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let path = named
        .as_deref()
        .into_iter()
        .chain(BUNDLES)
        .find(|path| Path::new(path).exists())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(path).ok()?.flatten());
    (!roots.is_empty()).then(|| Arc::new(roots))
}

fn colons(digest: &[u8]) -> String {
    digest
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// Accepts any certificate and remembers it.
#[derive(Debug)]
struct Seen {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    shown: Mutex<Option<Shown>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let trusted = self.inner.as_ref().is_some_and(|inner| {
            inner
                .verify_server_cert(certificate, intermediates, name, ocsp, now)
                .is_ok()
        });
        if let Ok(mut shown) = self.shown.lock() {
            *shown = Some(Shown {
                certificate: certificate.clone().into_owned(),
                trusted,
            });
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Accepts one certificate only.
#[derive(Debug)]
struct Pinned {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
