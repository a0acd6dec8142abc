//! References as clients write them: checked with moby's texts.

use crate::docker::error::ApiError;

/// The longest tag.
const MAX_TAG: usize = 128;

/// The longest name.
const MAX_NAME: usize = 255;

fn invalid() -> ApiError {
    ApiError::bad_request("invalid reference format")
}

/// Checks `[host[:port]/]path[:tag][@digest]`.
///
/// # Errors
///
/// 400 with moby's texts.
pub fn check(reference: &str) -> Result<(), ApiError> {
    if reference.len() == 64
        && reference
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    {
        return Err(ApiError::bad_request(format!(
            "invalid repository name ({reference}), cannot specify 64-byte hexadecimal strings"
        )));
    }
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest {
        check_digest(digest)?;
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    check_name(name)
}

/// Checks a tag by itself.
///
/// # Errors
///
/// 400.
pub fn check_tag(tag: &str) -> Result<(), ApiError> {
    let good = !tag.is_empty()
        && tag.len() <= MAX_TAG
        && !tag.starts_with(['.', '-'])
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(invalid()) }
}

/// Checks a digest by itself.
///
/// # Errors
///
/// 400.
pub fn check_digest(digest: &str) -> Result<(), ApiError> {
    let good = digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let long_enough = match algorithm {
            "sha256" => hex.len() == 64,
            "sha512" => hex.len() == 128,
            _ => hex.len() >= 32,
        };
        long_enough && hex.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if good { Ok(()) } else { Err(invalid()) }
}

/// Checks a name without tag and digest.
///
/// # Errors
///
/// 400, saying so when upper case is all that is wrong.
pub fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(invalid());
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    let good_host = host.is_none_or(|h| {
        let (h, port) = h.rsplit_once(':').unwrap_or((h, "1"));
        !h.is_empty()
            && h.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'[' | b']' | b':'))
            && !port.is_empty()
            && port.bytes().all(|b| b.is_ascii_digit())
    });
    if good_host && path.split('/').all(is_component) {
        return Ok(());
    }
    let lower = path.to_ascii_lowercase();
    if good_host && lower != path && lower.split('/').all(is_component) {
        return Err(ApiError::bad_request(format!(
            "invalid reference format: repository name ({name}) must be lowercase"
        )));
    }
    Err(invalid())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(text.chars().next())
        && edge(text.chars().last())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
        && !text.contains("..")
        && !text.contains("___")
        && !["._", "_.", ".-", "-.", "_-", "-_"]
            .iter()
            .any(|pair| text.contains(pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_checked_in_mobys_words() {
        for good in [
            "busybox",
            "busybox:1",
            "a/b/c:tag",
            "localhost:5000/x",
            "127.0.0.1:5000/t/bb:1",
            "docker.io/library/x",
            "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "a__b/c-d.e",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, text) in [
            ("", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a:.b", "invalid reference format"),
            ("x@sha256:00", "invalid reference format"),
            (
                "Busybox",
                "invalid reference format: repository name (Busybox) must be lowercase",
            ),
            (
                "a/B:1",
                "invalid reference format: repository name (a/B) must be lowercase",
            ),
        ] {
            assert_eq!(check(bad).expect_err(bad).message(), text, "{bad}");
        }
        let hex = "0".repeat(64);
        assert_eq!(
            check(&hex).expect_err("hex").message(),
            format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_checked(text in ".{0,300}") {
            let _ = check(&text);
        }
    }
}
