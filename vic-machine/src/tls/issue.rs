//! Makes certificates.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// How long certificates hold, from the day before they are made.
pub(crate) const DAYS: i64 = 365;

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Why no certificate could be made: a name that cannot stand in one, in practice.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for {subject}")]
pub(crate) struct IssueError {
    subject: String,
    #[source]
    source: rcgen::Error,
}

/// A certificate authority that lives as long as one `create`; its key is written to a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    days: i64,
    organization: String,
    pub(crate) pair: Pair,
}

impl Authority {
    /// Makes a new one.
    pub(crate) fn new(organization: &str, days: i64) -> Result<Self, IssueError> {
        let failed = |source| IssueError {
            subject: "the CA".into(),
            source,
        };
        let mut params = params(&[], organization, None, days).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let pair = Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Ok(Self {
            issuer: Issuer::new(params, key),
            days,
            organization: organization.to_owned(),
            pair,
        })
    }

    /// Makes a server's certificate for `names`, of which the first becomes its common name.
    pub(crate) fn server(&self, names: &[String]) -> Result<Pair, IssueError> {
        self.issue(
            names,
            names.first().map(String::as_str),
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    /// Makes a client's certificate.
    pub(crate) fn client(&self) -> Result<Pair, IssueError> {
        self.issue(&[], Some("client"), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        names: &[String],
        common_name: Option<&str>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair, IssueError> {
        let failed = |source| IssueError {
            subject: names.join(", "),
            source,
        };
        let mut params =
            params(names, &self.organization, common_name, self.days).map_err(failed)?;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Makes a server's certificate that nobody has signed.
pub(crate) fn self_signed(names: &[String], organization: &str) -> Result<Pair, IssueError> {
    let failed = |source| IssueError {
        subject: names.join(", "),
        source,
    };
    let common_name = names.first().map(String::as_str);
    let mut params = params(names, organization, common_name, DAYS).map_err(failed)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn params(
    names: &[String],
    organization: &str,
    common_name: Option<&str>,
    days: i64,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = params.not_before + Duration::days(days + 1);
    Ok(params)
}
