//! Logging in: challenges, basic credentials and tokens.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use super::transport;
use crate::credentials::Credentials;
use crate::error::Error;

/// The longest answer of a token server: tokens are a few kilobytes.
const MAX_TOKEN: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token of the server named.
    Bearer(Bearer),
}

/// Where to get a token and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    pub realm: String,
    pub service: String,
    pub scope: String,
    /// Why the token sent was not enough.
    pub error: String,
}

/// Finds the challenge that we can answer.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter_map(parse)
        .collect();
    all.iter()
        .find(|c| matches!(c, Challenge::Bearer(_)))
        .or(all.first())
        .cloned()
}

/// Parses `Bearer realm="…",service="…",scope="…"`.
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut bearer = Bearer::default();
    let mut rest = rest.trim();
    while let Some((key, tail)) = rest.split_once('=') {
        let (value, tail) = match tail.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let (value, tail) = tail.split_once(',').unwrap_or((tail, ""));
                (value.trim().to_owned(), tail)
            }
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => bearer.realm = value,
            "service" => bearer.service = value,
            "scope" => bearer.scope = value,
            "error" => bearer.error = value,
            _ => {}
        }
        rest = tail.trim_start().trim_start_matches(',').trim_start();
    }
    (!bearer.realm.is_empty()).then_some(Challenge::Bearer(bearer))
}

/// The text up to the closing quote, and what follows.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// Reads a text as a challenge; for fuzzing. Must not panic.
pub fn fuzz_challenge(text: &str) {
    let _ = parse(text);
}

/// The header for basic credentials.
pub(super) fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// Gets a token. `plain`: whether the token server may be reached without TLS.
pub(super) async fn token(
    http: &reqwest::Client,
    bearer: &Bearer,
    scope: &str,
    credentials: &Credentials,
    plain: bool,
) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let mut url = Url::parse(&bearer.realm).map_err(|e| Error::malformed("token realm", e))?;
    if url.scheme() != "https" && !(plain && url.scheme() == "http") {
        return Err(Error::malformed(
            "token realm",
            format!("{url} is not https"),
        ));
    }
    let scope = if bearer.scope.is_empty() {
        scope
    } else {
        &bearer.scope
    };
    let request = if credentials.identity_token.is_empty() {
        {
            let mut query = url.query_pairs_mut();
            if !bearer.service.is_empty() {
                query.append_pair("service", &bearer.service);
            }
            query.append_pair("scope", scope);
            if !credentials.username.is_empty() {
                query.append_pair("account", &credentials.username);
            }
        }
        let request = http.get(url.clone());
        match credentials.username.is_empty() {
            true => request,
            false => request.header(reqwest::header::AUTHORIZATION, basic(credentials)),
        }
    } else {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", &bearer.service)
            .append_pair("client_id", "docker")
            .append_pair("refresh_token", &credentials.identity_token)
            .append_pair("scope", scope)
            .finish();
        http.post(url.clone())
            .header(
                reqwest::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .body(form)
    };
    let response = request
        .send()
        .await
        .map_err(|e| transport::connect_error(&url, &e))?;
    let status = response.status();
    if !status.is_success() {
        let body = transport::body(response, MAX_TOKEN, "token error")
            .await
            .unwrap_or_default();
        let (code, message) = transport::registry_message(&body);
        let message = match (status.as_u16(), message) {
            (_, Some(message)) if !code.is_empty() => message,
            (401 | 403, _) if credentials.is_anonymous() => {
                "denied: requested access to the resource is denied".to_owned()
            }
            (401 | 403, _) => "unauthorized: incorrect username or password".to_owned(),
            (n, _) => format!(
                "received unexpected HTTP status: {}",
                transport::status_text(n)
            ),
        };
        return Err(match status.as_u16() {
            401 | 403 => Error::Unauthorized { message },
            n => Error::Registry { message, status: n },
        });
    }
    let body = transport::body(response, MAX_TOKEN, "token").await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|e| Error::malformed("token", e))?;
    let token = if answer.token.is_empty() {
        answer.access_token
    } else {
        answer.token
    };
    if token.is_empty() {
        return Err(Error::malformed(
            "token",
            "the authorization server did not include a token",
        ));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_parsed() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push",error="insufficient_scope""#;
        let Some(Challenge::Bearer(b)) = parse(hub) else {
            panic!("{hub}")
        };
        assert_eq!(b.realm, "https://auth.docker.io/token");
        assert_eq!(b.scope, "repository:library/x:pull,push");
        assert_eq!(b.error, "insufficient_scope");
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=x"), None);
        let Some(Challenge::Bearer(b)) = parse(r#"Bearer realm=http://x , service="a\"b""#) else {
            panic!()
        };
        assert_eq!((b.realm.as_str(), b.service.as_str()), ("http://x", "a\"b"));
    }

    proptest! {
        #[test]
        fn any_challenge_is_parsed_or_not(text in "\\PC{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("Bearer {text}"));
        }
    }
}
