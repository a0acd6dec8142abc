//! Names of images: docker's grammar, normalisation and familiar form.

use std::fmt;

use crate::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const OTHER_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a name was refused; the texts are docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not match the grammar.
    #[error("invalid reference format")]
    Format,
    /// The path has upper-case letters.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase {
        /// The path as given.
        name: String,
    },
    /// It looks like an image id.
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId {
        /// The name as given.
        name: String,
    },
    /// The path is too long.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// The part behind `@` is not a digest.
    #[error(transparent)]
    Digest(DigestError),
}

/// A normalised name: `docker.io/library/nginx:latest`, with a tag, a digest, both or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user typed.
    ///
    /// # Errors
    /// [`ReferenceError`], with docker's text.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId {
                name: text.to_owned(),
            });
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.chars().any(char::is_uppercase) {
            let name = text.split(['@']).next().unwrap_or_default();
            let name = name.strip_suffix(&tag.map(|t| format!(":{t}")).unwrap_or_default());
            return Err(ReferenceError::Uppercase {
                name: name.unwrap_or(path).to_owned(),
            });
        }
        if !valid_domain(&domain) || !path.split('/').all(valid_component) {
            return Err(ReferenceError::Format);
        }
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        let path = match !path.contains('/') && domain == DEFAULT_DOMAIN {
            true => format!("{OFFICIAL}{path}"),
            false => path.to_owned(),
        };
        if path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Adds `:latest` when there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Format`] for a bad tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !valid_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository by digest, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The repository alone.
    #[must_use]
    pub fn repository(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// The registry's name: `docker.io`, `localhost:5000`, ….
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path in its registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository as users know it: `nginx`, `foo/bar`, `quay.io/x/y`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        // `library/` is left out only where nothing else follows it.
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole name as users know it: `nginx:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// What a manifest is asked for by: the digest if there is one, else the tag.
    #[must_use]
    pub fn manifest_key(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest.as_str());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(format!("{}/{}", self.domain, self.path)))
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// The first part is a host when it looks like one.
fn split_domain(text: &str) -> (String, &str) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == OTHER_DEFAULT_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    (domain.to_owned(), rest)
}

/// `host(.host)*(:port)?` or `[v6](:port)?`.
fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) => {
                let v6_ok =
                    !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return v6_ok
                    && (port.is_empty() || port.strip_prefix(':').is_some_and(valid_port));
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port.is_none_or(valid_port) && host.split('.').all(label)
}

fn valid_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Letters and digits, with `.`, `_`, `__` or dashes between them.
fn valid_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// The grammar of a digest comes first, then its algorithm.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let (algorithm, sum) = text.split_once(':').ok_or(ReferenceError::Format)?;
    let part = |p: &str| {
        p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let grammar = algorithm.split(['-', '_', '+', '.']).all(part)
        && sum.len() >= 32
        && sum.bytes().all(|b| b.is_ascii_hexdigit());
    if !grammar {
        return Err(ReferenceError::Format);
    }
    text.parse().map_err(ReferenceError::Digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_normalised_and_shown_as_users_know_them() {
        let id = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (typed, full, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx"),
            ("nginx:1.2", "docker.io/library/nginx:1.2", "nginx:1.2"),
            ("library/nginx", "docker.io/library/nginx", "nginx"),
            ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
            ("index.docker.io/a/b", "docker.io/a/b", "a/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/x:y",
                "localhost:5000/x:y",
                "localhost:5000/x:y",
            ),
            ("Foo/bar", "Foo/bar", "Foo/bar"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            (
                "a__b/c---d.e_f",
                "docker.io/a__b/c---d.e_f",
                "a__b/c---d.e_f",
            ),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ] {
            let parsed = Reference::parse(typed).unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.familiar().as_str()),
                (full, familiar)
            );
            assert_eq!(Reference::parse(full).unwrap(), parsed);
            let by_digest = Reference::parse(&format!("{typed}@sha256:{id}")).unwrap();
            assert_eq!(by_digest.digest().unwrap().hex(), id);
        }
        assert_eq!(
            Reference::parse("x").unwrap().with_default_tag().familiar(),
            "x:latest"
        );
        assert_eq!(
            Reference::parse("x:y")
                .unwrap()
                .with_default_tag()
                .familiar(),
            "x:y"
        );
    }

    #[test]
    fn bad_names_get_dockers_texts() {
        let id = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = |s: &str| Reference::parse(s).unwrap_err().to_string();
        assert_eq!(
            text("Nginx"),
            "invalid reference format: repository name (Nginx) must be lowercase"
        );
        assert_eq!(
            text("foo/Bar:x"),
            "invalid reference format: repository name (foo/Bar) must be lowercase"
        );
        assert_eq!(
            text(id),
            format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings")
        );
        for bad in [
            "",
            "/",
            ":x",
            "a:",
            "a//b",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b:c",
            "a b",
            "x@",
            "a@b",
            "x@sha256:12",
            "x:-t",
            "host-.io/x",
            "h.io:port/x",
            "[zz]/x",
            "é",
            &format!("x:{}", "t".repeat(129)),
        ] {
            assert_eq!(text(bad), "invalid reference format", "{bad:?}");
        }
        assert_eq!(text(&format!("x@md9:{id}")), "unsupported digest algorithm");
        assert_eq!(
            text(&format!("a/{}", "b".repeat(255))),
            "repository name must not be more than 255 characters"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn what_is_shown_is_parsed_back(
            text in "([a-z]{1,5}(\\.[a-z]{1,3}(:[0-9]{1,4})?)?/)?[a-z0-9]{1,8}(/[a-z]{1,4})?(:[A-Za-z0-9_.]{1,8})?"
        ) {
            if let Ok(parsed) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&parsed.familiar()).unwrap(), parsed.clone());
                prop_assert_eq!(Reference::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
