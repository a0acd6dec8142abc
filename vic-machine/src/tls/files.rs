//! Reads and writes the files of certificates.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::issue::Pair;

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate where the key should be.
    #[error("{path}: found a certificate rather than a key in the PEM for the private key")]
    CertificateForKey {
        /// The file.
        path: PathBuf,
    },
    /// A key where the certificate should be.
    #[error(
        "{path}: no certificate found, but did find a private key; PEM inputs may have been switched"
    )]
    KeyForCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Nothing that PEM knows.
    #[error("{path}: there is no {wanted} in it")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The key is not the certificate's.
    #[error("the key {key} does not belong to the certificate {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What does not fit.
        #[source]
        source: rustls::Error,
    },
}

/// Reads a server's certificate and key and checks that they belong together.
pub(crate) fn read_pair(certificate: &Path, key: &Path) -> Result<Pair, FileError> {
    let pair = Pair {
        certificate: read(certificate)?,
        key: read(key)?,
    };
    let (in_certificate, in_key) = (kinds(&pair.certificate), kinds(&pair.key));
    if !in_certificate.contains(&Kind::Certificate) {
        let path = certificate.to_owned();
        return Err(if in_certificate.contains(&Kind::Key) {
            FileError::KeyForCertificate { path }
        } else {
            FileError::Empty {
                path,
                wanted: "certificate",
            }
        });
    }
    if !in_key.contains(&Kind::Key) {
        let path = key.to_owned();
        return Err(if in_key.contains(&Kind::Certificate) {
            FileError::CertificateForKey { path }
        } else {
            FileError::Empty {
                path,
                wanted: "private key",
            }
        });
    }
    fits(&pair).map_err(|source| FileError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(pair)
}

/// Reads a file with at least one CA certificate.
pub(crate) fn read_authority(path: &Path) -> Result<String, FileError> {
    let text = read(path)?;
    if kinds(&text).contains(&Kind::Certificate) {
        Ok(text)
    } else {
        Err(FileError::Empty {
            path: path.to_owned(),
            wanted: "certificate",
        })
    }
}

/// Writes `<stem>.pem` readable by all and `<key>.pem` for its owner only, in a folder of mode 0700.
pub(crate) fn write_pair(dir: &Path, stem: &str, key: &str, pair: &Pair) -> Result<(), FileError> {
    write(&dir.join(format!("{stem}.pem")), &pair.certificate, 0o644)?;
    write(&dir.join(format!("{key}.pem")), &pair.key, 0o600)
}

/// Makes a folder that only its owner may enter.
pub(crate) fn make_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| FileError::Write {
            path: dir.to_owned(),
            source,
        })
}

/// Replaces a file; it never has other permissions than these.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        fs::remove_file(path).map_err(failed)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// The names in the first certificate of a PEM text; `None` when it cannot be parsed.
pub(crate) fn names(pem: &str) -> Option<Vec<String>> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let mut names = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.extend(ip(bytes).map(|ip| ip.to_string())),
                _ => {}
            }
        }
    }
    let common = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok());
    names.extend(common.map(str::to_owned));
    Some(names)
}

/// Whether one of a certificate's names covers `name`; `*.x` covers one label.
pub(crate) fn covers(names: &[String], name: &str) -> bool {
    names.iter().any(|own| {
        own.eq_ignore_ascii_case(name)
            || own.strip_prefix("*.").is_some_and(|domain| {
                name.split_once('.')
                    .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain))
            })
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    Key,
}

/// What a PEM text holds.
fn kinds(text: &str) -> Vec<Kind> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes())
        .filter_map(|section| match section.ok()?.0 {
            SectionKind::Certificate => Some(Kind::Certificate),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Some(Kind::Key)
            }
            _ => None,
        })
        .collect()
}

fn fits(pair: &Pair) -> Result<(), rustls::Error> {
    let wrong = |error: rustls_pki_types::pem::Error| rustls::Error::General(error.to_string());
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(wrong)?;
    let provider = CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| rustls::crypto::aws_lc_rs::default_provider().into());
    CertifiedKey::from_der(chain, key, &provider).map(drop)
}
