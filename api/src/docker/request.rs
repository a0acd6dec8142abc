//! One request as handlers see it: version, path variables, query, body.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Shared;
use super::connection::TakeoverSlot;
use super::engine::Engine;
use super::error::ApiError;
use super::filters::Filters;
use super::version::ApiVersion;

/// JSON bodies above this are refused: the largest honest ones carry 128 KiB of environment.
const MAX_JSON: usize = 16 << 20;

/// A request on its way through a handler.
pub struct Call {
    /// The version that it is served with.
    pub version: ApiVersion,
    /// Method, as sent.
    pub method: Method,
    /// Header fields, as sent.
    pub headers: HeaderMap,
    /// What the pattern's variables matched, percent-decoded.
    pub vars: Vec<String>,
    /// Query parameters, decoded.
    pub query: Query,
    /// The body, not yet read.
    pub body: Incoming,
    /// Where a handler that takes the connection over leaves what shall happen.
    pub takeover: TakeoverSlot,
    /// What all requests share.
    pub shared: Arc<Shared>,
}

impl Call {
    /// The engine that this persona speaks for.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The first path variable, or an empty text when the pattern has none.
    pub fn name(&self) -> &str {
        self.vars.first().map_or("", String::as_str)
    }

    /// Whether the client asks to turn the connection into a raw stream.
    pub fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(header::UPGRADE)
    }

    /// Takes the body, leaving the rest of the call usable.
    ///
    /// # Errors
    ///
    /// 400 when the body breaks off or is longer than any honest one.
    pub async fn read_body(self) -> Result<(Parts, Bytes), ApiError> {
        let Call {
            version,
            method,
            headers,
            vars,
            query,
            body,
            takeover,
            shared,
        } = self;
        let bytes = Limited::new(body, MAX_JSON)
            .collect()
            .await
            .map_err(|why| ApiError::bad_request(format!("cannot read the request's body: {why}")))?
            .to_bytes();
        Ok((
            Parts {
                version,
                method,
                headers,
                vars,
                query,
                takeover,
                shared,
            },
            bytes,
        ))
    }

    /// Reads a JSON body that must be there.
    ///
    /// # Errors
    ///
    /// 400 with moby's texts for a foreign content type, an empty body, bad JSON, and anything after it.
    pub async fn json(self) -> Result<(Parts, Value), ApiError> {
        let (parts, bytes) = self.read_body().await?;
        check_content_type(&parts.headers, &bytes)?;
        let value = parse_json(&bytes)?;
        Ok((parts, value))
    }

    /// Reads a JSON body, or answers `null` when there is none.
    ///
    /// # Errors
    ///
    /// As [`Call::json`], except for the empty body.
    pub async fn json_or_null(self) -> Result<(Parts, Value), ApiError> {
        let (parts, bytes) = self.read_body().await?;
        if bytes.is_empty() {
            return Ok((parts, Value::Null));
        }
        check_content_type(&parts.headers, &bytes)?;
        let value = parse_json(&bytes)?;
        Ok((parts, value))
    }
}

/// A [`Call`] whose body has been read.
pub struct Parts {
    /// The version that it is served with.
    pub version: ApiVersion,
    /// Method, as sent.
    pub method: Method,
    /// Header fields, as sent.
    pub headers: HeaderMap,
    /// What the pattern's variables matched.
    pub vars: Vec<String>,
    /// Query parameters.
    pub query: Query,
    /// Where a handler that takes the connection over leaves what shall happen.
    pub takeover: TakeoverSlot,
    /// What all requests share.
    pub shared: Arc<Shared>,
}

impl Parts {
    /// The engine that this persona speaks for.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The first path variable.
    pub fn name(&self) -> &str {
        self.vars.first().map_or("", String::as_str)
    }
}

fn check_content_type(headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .map(|v| String::from_utf8_lossy(v.as_bytes()));
    let given = given.as_deref().unwrap_or("");
    if given.is_empty() && body.is_empty() {
        return Ok(());
    }
    let media = given.split(';').next().unwrap_or("").trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "unsupported Content-Type header ({given}): must be 'application/json'"
    )))
}

/// Parses one JSON document, keys folded to the case that [`decode`] looks for by the target type itself.
fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::bad_request(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let value = match stream.next() {
        Some(Ok(value)) => value,
        Some(Err(why)) => return Err(ApiError::bad_request(format!("invalid JSON: {why}"))),
        None => {
            return Err(ApiError::bad_request(
                "invalid JSON: got EOF while reading request body",
            ));
        }
    };
    if bytes[stream.byte_offset()..]
        .iter()
        .any(|b| !b.is_ascii_whitespace())
    {
        return Err(ApiError::bad_request("unexpected content after JSON"));
    }
    Ok(value)
}

/// Decodes a JSON value into a request type.
///
/// # Errors
///
/// 400 `invalid JSON: …` when a field has a foreign type.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_json::from_value(value)
        .map_err(|why| ApiError::bad_request(format!("invalid JSON: {why}")))
}

/// Renames the keys of an object to the spelling in `known`, whatever their case, as Go's decoder does.
pub fn fold_keys(value: &mut Value, known: &[&str]) {
    let Value::Object(map) = value else { return };
    let foreign: Vec<(String, &str)> = map
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .filter_map(|key| {
            known
                .iter()
                .find(|k| k.eq_ignore_ascii_case(key))
                .map(|k| (key.clone(), *k))
        })
        .collect();
    for (given, proper) in foreign {
        if let Some(inner) = map.remove(&given) {
            map.entry(proper.to_owned()).or_insert(inner);
        }
    }
}

/// Query parameters in the order sent.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes the text after the `?`.
    pub fn parse(text: Option<&str>) -> Self {
        let text = text.unwrap_or("");
        Self(
            url::form_urlencoded::parse(text.as_bytes())
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    /// The first value of `key`; empty when it is absent.
    pub fn get(&self, key: &str) -> &str {
        self.opt(key).unwrap_or("")
    }

    /// The first value of `key`, if the key is there.
    pub fn opt(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean as moby reads it: empty, `0`, `no`, `false`, `none` are false, all else is true.
    pub fn flag(&self, key: &str) -> bool {
        self.opt(key).is_some_and(truth)
    }

    /// As [`Query::flag`], with the value of an absent key.
    pub fn flag_or(&self, key: &str, absent: bool) -> bool {
        self.opt(key).map_or(absent, truth)
    }

    /// An integer, or `None` when the key is absent or empty.
    ///
    /// # Errors
    ///
    /// 400 with the value when it is no number.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
            }),
        }
    }

    /// The `filters` parameter.
    ///
    /// # Errors
    ///
    /// 400 `invalid filter` when it is no JSON of one of the two shapes.
    pub fn filters(&self) -> Result<Filters, ApiError> {
        Filters::parse(self.get("filters"))
    }
}

fn truth(text: &str) -> bool {
    let text: Cow<'_, str> = text.trim().to_ascii_lowercase().into();
    !matches!(text.as_ref(), "" | "0" | "no" | "false" | "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_moby_reads_them() {
        let query = Query::parse(Some(
            "a=1&b=True&c=False&d=0&e=&f=no&g=none&h=yes&i=%20false%20",
        ));
        let seen: Vec<bool> = "abcdefghij"
            .chars()
            .map(|key| query.flag(&key.to_string()))
            .collect();
        assert_eq!(
            seen,
            [
                true, true, false, false, false, false, false, true, false, false
            ]
        );
    }

    #[test]
    fn json_says_what_is_wrong_with_it() {
        assert_eq!(
            parse_json(b"").expect_err("empty").message(),
            "invalid JSON: got EOF while reading request body"
        );
        assert_eq!(
            parse_json(b"{} {}").expect_err("two").message(),
            "unexpected content after JSON"
        );
        assert!(
            parse_json(b"{x")
                .expect_err("bad")
                .message()
                .starts_with("invalid JSON: ")
        );
        assert!(parse_json(b" {}\n").is_ok());
    }

    #[test]
    fn a_foreign_content_type_is_refused_by_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().expect("value"));
        assert_eq!(
            check_content_type(&headers, b"{}")
                .expect_err("text")
                .message(),
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        headers.insert(
            header::CONTENT_TYPE,
            "application/json; charset=utf-8".parse().expect("value"),
        );
        assert!(check_content_type(&headers, b"{}").is_ok());
        assert!(check_content_type(&HeaderMap::new(), b"").is_ok());
        assert!(check_content_type(&HeaderMap::new(), b"{}").is_err());
    }

    #[test]
    fn keys_are_found_whatever_their_case() {
        let mut value = serde_json::json!({"image": "a", "CMD": ["b"], "Env": 1, "env": 2});
        fold_keys(&mut value, &["Image", "Cmd", "Env"]);
        assert_eq!(
            value,
            serde_json::json!({"Image": "a", "Cmd": ["b"], "Env": 1})
        );
    }
}
