//! `GET /images/json`: answered from snapshots.

use std::sync::Arc;

use actors::image::ImageSnapshot;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::docker::error::{self, ApiError};
use crate::docker::filters::Filters;
use crate::docker::reply::Reply;
use crate::docker::request::Call;
use crate::docker::timestamp;
use crate::docker::versions::{self, Place, behaviour};

/// The keys that the list filters by.
const KEYS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];

/// `GET /images/json`.
pub async fn list(call: Call) -> Result<Reply, ApiError> {
    let mut filters = call.query.filters()?;
    let old = call.query.get("filter");
    if !old.is_empty() && !versions::has(call.version, behaviour::IMAGE_FILTER) {
        filters.add("reference", old);
    }
    filters.only(KEYS)?;
    let snapshots = call.engine().snapshots();
    let images = snapshots.images();
    let find = |key: &str| match filters.values(key).last() {
        Some(wanted) => actors::image::find(&images, wanted)
            .map(|i| i.created)
            .map_err(error::answer),
        None => Ok(None),
    };
    let chosen = Chosen {
        dangling: filters.boolean("dangling")?,
        before: find("before")?,
        since: find("since")?,
        until: match filters.values("until").last() {
            Some(text) => until(text, OffsetDateTime::now_utc())?,
            None => None,
        },
        filters: &filters,
    };
    let mut list: Vec<&Arc<ImageSnapshot>> = images
        .values()
        .filter(|image| chosen.wants(image))
        .collect();
    list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    let containers = snapshots.containers();
    let items: Vec<Value> = list
        .into_iter()
        .map(|image| {
            json!({
                "Id": image.id.as_str(),
                "ParentId": "",
                "RepoTags": tags(&filters, image),
                "RepoDigests": image.digests,
                "Created": image.created.map_or(0, OffsetDateTime::unix_timestamp),
                "Size": image.size,
                "SharedSize": -1,
                "Labels": image.container_config().get("Labels").cloned().unwrap_or(Value::Null),
                "Containers": containers.iter().filter(|c| c.spec.image == image.id).count(),
            })
        })
        .collect();
    versions::answer_list(call.version, Place::ImageItem, &items)
}

/// What the filters leave.
struct Chosen<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    before: Option<OffsetDateTime>,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

impl Chosen<'_> {
    fn wants(&self, image: &ImageSnapshot) -> bool {
        let config = image.container_config();
        let label = |key: &str| {
            config
                .pointer("/Labels")
                .and_then(|l| l.get(key))
                .and_then(Value::as_str)
        };
        let unlabelled =
            self.filters
                .values("label!")
                .iter()
                .all(|wanted| match wanted.split_once('=') {
                    Some((k, v)) => label(k) != Some(v),
                    None => label(wanted).is_none(),
                });
        self.dangling
            .is_none_or(|wanted| wanted == image.tags.is_empty())
            && self
                .before
                .is_none_or(|at| image.created.is_some_and(|c| c < at))
            && self
                .since
                .is_none_or(|at| image.created.is_some_and(|c| c > at))
            && self
                .until
                .is_none_or(|at| image.created.is_some_and(|c| c < at))
            && (!self.filters.has("reference") || !tags(self.filters, image).is_empty())
            && self.filters.labels("label", label)
            && unlabelled
    }
}

/// The tags that the filter `reference` leaves.
fn tags<'a>(filters: &Filters, image: &'a ImageSnapshot) -> Vec<&'a str> {
    let matches = |tag: &str| {
        filters.any("reference", |pattern| {
            glob(pattern, tag) || glob(pattern, actors::image::familiar_name(tag))
        })
    };
    image
        .tags
        .iter()
        .map(String::as_str)
        .filter(|tag| matches(tag))
        .collect()
}

/// A point in time, a date, or a Go duration before now.
fn until(text: &str, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, ApiError> {
    if let Some(at) = go_duration(text).and_then(|before| now.checked_sub(before)) {
        return Ok(Some(at));
    }
    let date = format!("{text}T00:00:00Z");
    timestamp::unix_or_rfc3339("until", text)
        .or_else(|why| timestamp::unix_or_rfc3339("until", &date).map_err(|_| why))
}

/// `1h30m`, as Go's `ParseDuration` reads it, in whole units.
fn go_duration(text: &str) -> Option<time::Duration> {
    let (mut total, mut rest) = (time::Duration::ZERO, text);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|n| *n > 0)?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(time::Duration::seconds(number.checked_mul(seconds)?))?;
        rest = &rest[unit..];
    }
    Some(total)
}

/// Go's `path.Match`, as far as names of images need it: `*` and `?` do not match `/`.
fn glob(pattern: &str, text: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), text.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if wildcard(pattern.as_bytes(), part.as_bytes()) => {}
            _ => return false,
        }
    }
}

/// `*` and `?` between two slashes. In time that grows with the product of the lengths, however many stars there
/// are: only the last star is ever tried again, since what an earlier one could give it can take itself.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = star else {
                    return false;
                };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_globs_of_the_familiar_name() {
        assert!(glob("busy*", "busybox"));
        assert!(glob("*:1", "busybox:1"));
        assert!(!glob("*", "a/b"));
        assert!(glob("*/*", "a/b"));
        assert!(!glob("busybo", "busybox"));
        assert!(glob("a?c*/d", "abcx/d"));
        assert!(!glob("a*", "a/"));
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let text = "a".repeat(250);
        assert!(glob(&"a*".repeat(100), &text));
        assert!(!glob(&format!("{}b", "a*".repeat(100)), &text));
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(go_duration("1h30m"), Some(time::Duration::minutes(90)));
        assert_eq!(go_duration("10"), None);
        assert_eq!(go_duration("x"), None);
        assert_eq!(
            go_duration("9223372036854775807s9223372036854775807s"),
            None
        );
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2);
        assert_eq!(
            until("1h", now).expect("time"),
            Some(now - time::Duration::hours(1))
        );
        assert!(until("2026-01-01", now).expect("date").is_some());
        assert!(until("9999999999h", now).is_err());
    }

    /// What `wildcard` must say, in the plain way that takes exponential time.
    fn plainly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', more @ ..], _) => (0..=text.len()).any(|n| plainly(more, &text[n..])),
            ([p, more @ ..], [t, rest @ ..]) => (*p == b'?' || p == t) && plainly(more, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_as_the_plain_definition_does(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(
                wildcard(pattern.as_bytes(), text.as_bytes()),
                plainly(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_text_is_a_time_or_refused(text in "([0-9]{1,20}[hms]){0,3}|[0-9TZ:.+-]{0,30}|\\PC{0,20}") {
            let _ = until(&text, OffsetDateTime::UNIX_EPOCH);
        }
    }
}
