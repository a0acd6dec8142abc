//! Platforms: `os/architecture/variant`, and the choice among the images of an index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform that an image was built for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …: Go's names.
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`, …; empty when there is but one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is an invalid component of \"{1}\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
)]
pub struct PlatformError(String, String);

impl Platform {
    /// The platform that this program runs on.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, "");
        Self {
            os: "linux".into(),
            architecture,
            variant,
        }
    }

    /// Tells whether an image for `offered` can stand in for one for `self`.
    #[must_use]
    pub fn accepts(&self, offered: &Platform) -> bool {
        let (arch, variant) = normalise(&offered.architecture, &offered.variant);
        let (own_arch, own_variant) = normalise(&self.architecture, &self.variant);
        offered.os.eq_ignore_ascii_case(&self.os)
            && arch == own_arch
            && (own_variant.is_empty() || variant.is_empty() || variant == own_variant)
    }

    /// Chooses the best of those offered: the first with the same variant, else the first that
    /// is accepted at all.
    pub fn choose<'a, T>(
        &self,
        offered: impl IntoIterator<Item = &'a T>,
        platform: impl Fn(&T) -> Option<&Platform>,
    ) -> Option<&'a T> {
        let mut second = None;
        let (_, own_variant) = normalise(&self.architecture, &self.variant);
        for item in offered {
            let Some(other) = platform(item).filter(|other| self.accepts(other)) else {
                continue;
            };
            if normalise(&other.architecture, &other.variant).1 == own_variant {
                return Some(item);
            }
            second = second.or(Some(item));
        }
        second
    }
}

/// Other people's names for the same thing.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (a, v) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("i386" | "x86", _) => ("386", ""),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (a.to_owned(), v.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &&str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if let Some(bad) = parts.iter().find(|p| !word(p)) {
            return Err(PlatformError((*bad).to_owned(), text.to_owned()));
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux" | "windows" | "darwin" | "freebsd"] => {
                (parts[0], host.architecture.as_str(), "")
            }
            [architecture] => ("linux", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return Err(PlatformError(parts[3].to_owned(), text.to_owned())),
        };
        let (architecture, variant) = normalise(architecture, variant);
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_parsed_with_their_other_names() {
        let p: Platform = "linux/aarch64".parse().unwrap();
        assert_eq!(p.to_string(), "linux/arm64");
        assert_eq!("linux/arm/v6".parse::<Platform>().unwrap().variant, "v6");
        assert_eq!(
            "x86_64".parse::<Platform>().unwrap().to_string(),
            "linux/amd64"
        );
        assert!("linux//x".parse::<Platform>().is_err());
        assert!("a/b/c/d".parse::<Platform>().is_err());
    }

    #[test]
    fn the_best_variant_is_chosen_and_attestations_are_not() {
        let offers: Vec<Platform> = [
            "unknown/unknown",
            "linux/arm/v7",
            "linux/arm64",
            "linux/amd64",
            "linux/arm/v6",
        ]
        .iter()
        .map(|p| p.parse().unwrap())
        .collect();
        let pick = |want: &str| {
            let want: Platform = want.parse().unwrap();
            want.choose(&offers, |p| Some(p)).map(ToString::to_string)
        };
        assert_eq!(pick("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(pick("linux/arm/v6").as_deref(), Some("linux/arm/v6"));
        assert_eq!(pick("linux/arm").as_deref(), Some("linux/arm/v7"));
        assert_eq!(pick("linux/arm64/v8").as_deref(), Some("linux/arm64"));
        assert_eq!(pick("linux/s390x"), None);
    }
}
