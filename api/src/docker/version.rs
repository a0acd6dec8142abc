//! API versions: which we serve, and what a request's path prefix asks for.

use std::fmt;

use super::error::{ApiError, Form};

/// A version of the Engine API, `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

/// The newest version served, and the one of a request without a prefix.
pub const NEWEST: ApiVersion = ApiVersion::v1(55);

/// The oldest version served: what clients without negotiation assume.
pub const OLDEST: ApiVersion = ApiVersion::v1(24);

impl ApiVersion {
    /// Version `1.minor`.
    pub const fn v1(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    /// The version's second number.
    pub const fn minor(self) -> u32 {
        self.minor
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Splits `/v1.44/containers/json` into what the prefix says (`1.44`) and the rest (`/containers/json`).
///
/// Only digits and dots make a prefix; any other first segment belongs to the path.
pub fn split_prefix(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else {
        return (None, path);
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (digits, tail) = rest.split_at(end);
    if digits.is_empty()
        || tail.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    {
        return (None, path);
    }
    (Some(digits), tail)
}

/// Answers the version that a request is served with.
///
/// # Errors
///
/// 400 with moby's text when the version lies outside of what we serve. Clients below the floor of the whole
/// API get it as plain text, since their error reader knows no JSON.
pub fn negotiate(asked: Option<&str>) -> Result<ApiVersion, ApiError> {
    let Some(text) = asked else { return Ok(NEWEST) };
    let mut parts = text.split('.').map(|part| {
        part.parse::<u64>()
            .unwrap_or(if part.is_empty() { 0 } else { u64::MAX })
    });
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let beyond = parts.any(|part| part > 0);
    let asked = (major, minor);
    let newest = (u64::from(NEWEST.major), u64::from(NEWEST.minor));
    let oldest = (u64::from(OLDEST.major), u64::from(OLDEST.minor));
    if asked > newest || (asked == newest && beyond) {
        return Err(ApiError::bad_request(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if asked < oldest {
        return Err(ApiError::bad_request(format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, \
             please upgrade your client to a newer version"
        ))
        .in_form(Form::PlainText));
    }
    Ok(ApiVersion {
        major: major as u32,
        minor: minor as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_is_digits_and_dots_only() {
        assert_eq!(split_prefix("/v1.44/info"), (Some("1.44"), "/info"));
        assert_eq!(split_prefix("/volumes/v1.2"), (None, "/volumes/v1.2"));
        assert_eq!(split_prefix("/version"), (None, "/version"));
        assert_eq!(split_prefix("/v1.44"), (None, "/v1.44"));
    }

    #[test]
    fn every_version_from_the_oldest_to_the_newest_is_served() {
        for minor in OLDEST.minor..=NEWEST.minor {
            assert_eq!(
                negotiate(Some(&format!("1.{minor}"))).expect("served"),
                ApiVersion::v1(minor)
            );
        }
        assert_eq!(negotiate(None).expect("served"), NEWEST);
    }

    #[test]
    fn too_new_and_too_old_say_what_moby_says() {
        let new = negotiate(Some("1.99")).expect_err("too new");
        assert_eq!(
            new.message(),
            "client version 1.99 is too new. Maximum supported API version is 1.55"
        );
        let old = negotiate(Some("1.10")).expect_err("too old");
        assert_eq!(
            old.message(),
            "client version 1.10 is too old. Minimum supported API version is 1.24, \
             please upgrade your client to a newer version"
        );
        assert!(old.form() == Form::PlainText && new.form() == Form::Json);
    }

    proptest! {
        #[test]
        fn any_path_splits_without_loss(path in "/[v0-9./a-z]{0,20}") {
            let (version, rest) = split_prefix(&path);
            let whole = version.map_or_else(|| rest.to_owned(), |v| format!("/v{v}{rest}"));
            prop_assert_eq!(whole, path.clone());
            let _ = negotiate(version);
        }
    }
}
