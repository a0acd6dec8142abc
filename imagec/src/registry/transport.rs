//! Requests to one repository: the scheme, the login, and docker's words for failures.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::auth::{self, Challenge};
use super::{Client, LocalPolicy};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::reference::Reference;

/// The host behind the name `docker.io`.
const HUB: &str = "registry-1.docker.io";
/// How often a small request is tried.
const TRIES: u32 = 3;
/// The wait before the second try; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(500);
/// The longest body of an error that is read.
const MAX_ERROR: u64 = 64 * 1024;

/// One pull's dealings with one repository.
#[derive(Debug)]
pub(crate) struct Session {
    http: reqwest::Client,
    base: Url,
    pub(super) reference: Reference,
    credentials: Credentials,
    insecure: bool,
    /// The header that got in last.
    login: Mutex<Option<String>>,
}

impl Client {
    /// Finds out how the registry wants to be spoken to.
    pub(super) async fn session(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Session, Error> {
        let host = reference.domain();
        if let LocalPolicy::Refuse { instead } = &self.options.local
            && is_local(host)
        {
            let port = host
                .rsplit_once(':')
                .filter(|(_, p)| p.parse::<u16>().is_ok());
            let instead = match port {
                Some((_, port)) => format!("{instead}:{port}"),
                None => instead.clone(),
            };
            return Err(Error::LocalRegistry {
                host: host.to_owned(),
                instead,
            });
        }
        let insecure = self.options.insecure.iter().any(|named| names(named, host));
        let address = if host == "docker.io" { HUB } else { host };
        let start = |scheme: &str| -> Result<Session, Error> {
            let base = Url::parse(&format!("{scheme}://{address}/"))
                .map_err(|e| Error::malformed("registry name", e))?;
            Ok(Session {
                http: if insecure {
                    self.unchecked.clone()
                } else {
                    self.checked.clone()
                },
                base,
                reference: reference.clone(),
                credentials: credentials.clone(),
                insecure,
                login: Mutex::new(None),
            })
        };
        let session = start("https")?;
        match session.ping().await {
            Err(Error::Connect { .. }) if insecure => {
                let plain = start("http")?;
                plain.ping().await.map(|()| plain)
            }
            other => other.map(|()| session),
        }
    }
}

/// Tells whether a name in the list of insecure registries means `host`.
fn names(named: &str, host: &str) -> bool {
    let named = named
        .trim()
        .trim_start_matches("http://")
        .trim_start_matches("https://");
    let named = named.trim_end_matches('/');
    if named.eq_ignore_ascii_case(host) {
        return true;
    }
    let bare = bare_host(host);
    // Without a port, all ports of the host are meant.
    if named.eq_ignore_ascii_case(bare) {
        return true;
    }
    let Some((net, bits)) = named.split_once('/') else {
        return false;
    };
    let (Ok(net), Ok(bits), Ok(ip)) = (
        net.parse::<IpAddr>(),
        bits.parse::<u32>(),
        bare.parse::<IpAddr>(),
    ) else {
        return false;
    };
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            net.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            net.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

/// A registry's name without its port and brackets.
fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

fn is_local(host: &str) -> bool {
    let bare = bare_host(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

impl Session {
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Asks for the version, and logs in if that is wanted at once.
    async fn ping(&self) -> Result<(), Error> {
        let url = self.url("/v2/")?;
        let response = self.send(&url, None).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => {
                let wanted = auth::challenge(response.headers());
                *self.login.lock().await = self.log_in(wanted, &url).await?;
                Ok(())
            }
            status if status.is_success() => Ok(()),
            _ => Err(self.failure(response).await),
        }
    }

    fn url(&self, path: &str) -> Result<Url, Error> {
        self.base
            .join(path)
            .map_err(|e| Error::malformed("path", e))
    }

    /// Sends a GET, logs in when asked to, tries again what may pass.
    pub(crate) async fn get(&self, path: &str, accept: Option<&str>) -> Result<Response, Error> {
        let url = self.url(path)?;
        let mut wait = BACK_OFF;
        for turn in 1.. {
            let failed = match self.get_once(&url, accept).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if turn == TRIES || !failed.is_retryable() {
                return Err(failed);
            }
            tracing::debug!(%url, error = %failed, "a registry request is tried again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Err(Error::malformed("request", "no try was made"))
    }

    async fn get_once(&self, url: &Url, accept: Option<&str>) -> Result<Response, Error> {
        let response = self.send(url, accept).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.expect_success(response).await;
        }
        // A token may have become too old, or be for less than this.
        let wanted = auth::challenge(response.headers());
        let login = self.log_in(wanted, url).await?;
        let same = {
            let mut held = self.login.lock().await;
            std::mem::replace(&mut *held, login.clone()) == login
        };
        if same {
            return Err(self.failure(response).await);
        }
        let response = self.send(url, accept).await?;
        self.expect_success(response).await
    }

    async fn expect_success(&self, response: Response) -> Result<Response, Error> {
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.failure(response).await)
        }
    }

    async fn send(&self, url: &Url, accept: Option<&str>) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        if let Some(login) = self.login.lock().await.as_deref()
            && let Ok(value) = login.parse()
        {
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(value) = accept.and_then(|a| a.parse().ok()) {
            headers.insert(ACCEPT, value);
        }
        let request = self.http.get(url.clone()).headers(headers);
        request.send().await.map_err(|e| connect_error(url, &e))
    }

    /// Answers a challenge with a header.
    async fn log_in(&self, wanted: Option<Challenge>, url: &Url) -> Result<Option<String>, Error> {
        let creds = &self.credentials;
        if !creds.registry_token.is_empty() {
            return Ok(Some(format!("Bearer {}", creds.registry_token)));
        }
        match wanted {
            None => Ok(None),
            Some(Challenge::Basic) if creds.username.is_empty() => Err(Error::Unauthorized {
                message: format!("Get \"{url}\": no basic auth credentials"),
            }),
            Some(Challenge::Basic) => Ok(Some(auth::basic(creds))),
            Some(Challenge::Bearer(bearer)) => {
                let scope = format!("repository:{}:pull", self.reference.path());
                let token = auth::token(&self.http, &bearer, &scope, creds, self.insecure).await;
                token
                    .map(|token| Some(format!("Bearer {token}")))
                    .map_err(|error| match error {
                        Error::Unauthorized { message } if message.starts_with("denied") => {
                            self.denied(message)
                        }
                        other => other,
                    })
            }
        }
    }

    fn denied(&self, message: String) -> Error {
        Error::AccessDenied {
            repository: self.reference.familiar_name(),
            message,
        }
    }

    /// Makes docker's error of an answer that is none.
    async fn failure(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let scope_missing = matches!(
            auth::challenge(response.headers()),
            Some(Challenge::Bearer(b)) if b.error == "insufficient_scope"
        );
        let body = body(response, MAX_ERROR, "error").await.unwrap_or_default();
        let (code, message) = registry_message(&body);
        let reference = self.reference.clone().with_default_tag();
        match (status, code.as_str(), message) {
            (_, "MANIFEST_UNKNOWN", Some(message)) => Error::ManifestUnknown {
                reference: reference.familiar(),
                message,
            },
            (_, "NAME_UNKNOWN", Some(message)) => Error::RepositoryUnknown {
                repository: reference.familiar_name(),
                message,
            },
            (_, "DENIED", Some(message)) => self.denied(message),
            (401, ..) if scope_missing => {
                self.denied("denied: requested access to the resource is denied".into())
            }
            (401, _, message) => Error::Unauthorized {
                message: message.unwrap_or("unauthorized: authentication required".into()),
            },
            (403, _, message) => self.denied(
                message.unwrap_or("denied: requested access to the resource is denied".into()),
            ),
            (404, _, None) => Error::ManifestUnknown {
                reference: reference.familiar(),
                message: "manifest unknown: manifest unknown".into(),
            },
            (_, _, Some(message)) => Error::Registry { message, status },
            (_, _, None) => Error::Registry {
                message: format!("received unexpected HTTP status: {}", status_text(status)),
                status,
            },
        }
    }
}

/// `500 Internal Server Error`.
pub(super) fn status_text(status: u16) -> String {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason());
    format!("{status} {}", reason.unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// The first error of a registry's body: its code, and `code in words: message`.
pub(super) fn registry_message(body: &[u8]) -> (String, Option<String>) {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(parsed) = serde_json::from_slice::<Body>(body) else {
        return (String::new(), None);
    };
    match parsed.errors.first() {
        Some(one) if !one.code.is_empty() => {
            let words = one.code.to_lowercase().replace('_', " ");
            let message = if one.message.is_empty() {
                words.clone()
            } else {
                one.message.clone()
            };
            (one.code.clone(), Some(format!("{words}: {message}")))
        }
        _ if !parsed.details.is_empty() => (String::new(), Some(parsed.details)),
        _ => (String::new(), None),
    }
}

/// Reads a small body whole.
pub(super) async fn body(
    mut response: Response,
    limit: u64,
    what: &'static str,
) -> Result<Bytes, Error> {
    let mut all = BytesMut::new();
    loop {
        let chunk = response.chunk().await.map_err(|e| Error::Interrupted {
            what: what.to_owned(),
            why: reason(&e).0,
        })?;
        let Some(chunk) = chunk else {
            return Ok(all.freeze());
        };
        if all.len() as u64 + chunk.len() as u64 > limit {
            return Err(Error::malformed(what, "it is too large"));
        }
        all.extend_from_slice(&chunk);
    }
}

/// An error of a request that got no answer.
pub(super) fn connect_error(url: &Url, error: &reqwest::Error) -> Error {
    let (why, retry) = reason(error);
    let host = format!(
        "{}:{}",
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or(0)
    );
    let why = why
        .replace("{host}", &host)
        .replace("{name}", url.host_str().unwrap_or_default());
    Error::Connect {
        url: url.to_string(),
        why,
        retry,
    }
}

/// Go's words for what went wrong, and whether it may pass.
pub(crate) fn reason(error: &reqwest::Error) -> (String, bool) {
    let mut at: Option<&(dyn std::error::Error + 'static)> = error.source();
    let mut deepest = error.to_string();
    while let Some(inner) = at {
        let tls = inner
            .downcast_ref::<rustls::Error>()
            .or_else(|| tls_within(inner.downcast_ref::<std::io::Error>()?));
        if let Some(tls) = tls {
            return tls_reason(tls);
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as K;
            match io.kind() {
                K::ConnectionRefused => {
                    return ("dial tcp {host}: connect: connection refused".into(), true);
                }
                K::ConnectionReset => {
                    return (
                        "read tcp {host}: read: connection reset by peer".into(),
                        true,
                    );
                }
                K::HostUnreachable => {
                    return ("dial tcp {host}: connect: no route to host".into(), true);
                }
                K::NetworkUnreachable => {
                    return (
                        "dial tcp {host}: connect: network is unreachable".into(),
                        true,
                    );
                }
                K::UnexpectedEof => return ("EOF".into(), true),
                _ => {}
            }
        }
        deepest = inner.to_string();
        if deepest.contains("failed to lookup address") || deepest.contains("dns error") {
            return ("dial tcp: lookup {name}: no such host".into(), false);
        }
        at = inner.source();
    }
    if error.is_timeout() {
        return ("net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)".into(), true);
    }
    (deepest, true)
}

/// What TLS said, however often the layers between have wrapped it.
fn tls_within(io: &std::io::Error) -> Option<&rustls::Error> {
    let inner = io.get_ref()?;
    inner
        .downcast_ref()
        .or_else(|| tls_within(inner.downcast_ref()?))
}

fn tls_reason(error: &rustls::Error) -> (String, bool) {
    use rustls::CertificateError as C;
    let why = match error {
        rustls::Error::InvalidMessage(_) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        rustls::Error::InvalidCertificate(bad) => {
            let detail = match bad {
                C::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
                C::Expired | C::ExpiredContext { .. } => {
                    "certificate has expired or is not yet valid".to_owned()
                }
                C::NotValidForName | C::NotValidForNameContext { .. } => {
                    "certificate is not valid for {name}".to_owned()
                }
                other => other.to_string(),
            };
            format!("tls: failed to verify certificate: x509: {detail}")
        }
        other => format!("remote error: tls: {other}"),
    };
    (why, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_named_by_host_port_or_network() {
        assert!(names("10.0.0.1:5000", "10.0.0.1:5000"));
        assert!(names("10.0.0.1", "10.0.0.1:5000"));
        assert!(!names("10.0.0.1:5001", "10.0.0.1:5000"));
        assert!(names("10.0.0.0/8", "10.9.9.9:5000"));
        assert!(names("0.0.0.0/0", "10.9.9.9"));
        assert!(!names("10.0.0.0/8", "11.9.9.9:5000"));
        assert!(names("http://Reg.example/", "reg.example"));
        assert!(!names("10.0.0.0/99", "10.0.0.1"));
        assert!(names("::1/128", "[::1]:5000"));
    }

    #[test]
    fn local_names_are_known() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "0.0.0.0:1",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "localhost.example",
            "10.0.0.1:5000",
            "host.docker.internal:5000",
            "docker.io",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn a_registrys_errors_are_put_as_docker_puts_them() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(
            registry_message(body),
            (
                "MANIFEST_UNKNOWN".into(),
                Some("manifest unknown: manifest unknown".into())
            )
        );
        assert_eq!(registry_message(b"<html>"), (String::new(), None));
        assert_eq!(status_text(503), "503 Service Unavailable");
    }
}
