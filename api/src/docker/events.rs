//! `GET /events`: what happened and happens, filtered, as JSON lines.

use std::sync::Arc;

use actors::events::{Event, EventKind};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::error::{self, ApiError};
use super::filters::Filters;
use super::reply::{self, Reply};
use super::request::Call;
use super::timestamp;
use super::version::ApiVersion;
use super::versions::{self, Place, behaviour};

/// The keys that events are filtered by.
const KEYS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// `GET /events`.
pub async fn stream(call: Call) -> Result<Reply, ApiError> {
    let since = timestamp::unix_or_rfc3339("since", call.query.get("since"))?;
    let until = timestamp::unix_or_rfc3339("until", call.query.get("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since"),
            call.query.get("until")
        )));
    }
    let filters = call.query.filters()?;
    filters.only(KEYS)?;
    let (content_type, separator) = content_type(call.version, &call.headers);
    let version = call.version;
    let now = OffsetDateTime::now_utc();
    // A limit in the past alone asks for what is kept.
    let from = since.or_else(|| {
        until
            .filter(|u| *u <= now)
            .map(|_| OffsetDateTime::UNIX_EPOCH)
    });
    let subscription = call.engine().events(from).await.map_err(error::answer)?;
    let deadline = until.map(|until| {
        let left = std::time::Duration::try_from(until - now).unwrap_or_default();
        // A moment longer, for what is on its way.
        tokio::time::Instant::now() + left
    });
    let reader = Reader {
        events: subscription.events,
        filters,
        version,
        since,
        until,
        deadline,
        separator,
    };
    let body = futures_util::stream::unfold(reader, |mut reader| async move {
        let line = reader.next().await?;
        Some((line, reader))
    });
    Ok(reply::stream(content_type, Box::pin(body)))
}

fn content_type(version: ApiVersion, headers: &HeaderMap) -> (&'static str, &'static str) {
    if !versions::has(version, behaviour::EVENT_TYPE) {
        return ("application/json", "");
    }
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let wants = |name: &str| {
        accept
            .split(',')
            .any(|part| part.split(';').next().unwrap_or("").trim() == name)
    };
    match () {
        () if wants("application/jsonl") => ("application/jsonl", ""),
        () if wants("application/x-ndjson") => ("application/x-ndjson", ""),
        () if wants("application/json-seq") => ("application/json-seq", "\u{1e}"),
        () => ("application/jsonl", ""),
    }
}

/// A subscription, seen through filters and limits.
struct Reader {
    events: tokio::sync::mpsc::Receiver<Arc<Event>>,
    filters: Filters,
    version: ApiVersion,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    deadline: Option<tokio::time::Instant>,
    separator: &'static str,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let event = match self.deadline {
                // Biased: what has come before the deadline is told, even when the deadline has passed.
                Some(deadline) => tokio::select! {
                    biased;
                    event = self.events.recv() => event?,
                    () = tokio::time::sleep_until(deadline) => return None,
                },
                None => self.events.recv().await?,
            };
            if self.until.is_some_and(|until| event.time > until) {
                return None;
            }
            if self.since.is_none_or(|since| event.time >= since)
                && wanted(&self.filters, self.version, &event)
            {
                let document = document(self.version, &event);
                return Some(Bytes::from(format!("{}{document}\n", self.separator)));
            }
        }
    }
}

/// An event as a client of this version sees it.
fn document(version: ApiVersion, event: &Event) -> Value {
    let nanos = event.time.unix_timestamp_nanos();
    let mut document = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.unix_timestamp(),
        "timeNano": i64::try_from(nanos).unwrap_or(i64::MAX),
    });
    versions::downgrade(version, Place::Event, &mut document);
    document
}

fn wanted(filters: &Filters, version: ApiVersion, event: &Event) -> bool {
    let image_create = event.kind == EventKind::Image && event.action == "create";
    if image_create && !versions::has(version, behaviour::IMAGE_CREATE_EVENT) {
        return false;
    }
    filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && filters.any("event", |wanted| {
            event.action == wanted
                || (matches!(wanted, "exec_create" | "exec_start" | "health_status")
                    && event
                        .action
                        .strip_prefix(wanted)
                        .is_some_and(|rest| rest.starts_with(':')))
        })
        && filters.labels("label", |key| event.attributes.get(key).map(String::as_str))
        && [
            ("container", EventKind::Container),
            ("volume", EventKind::Volume),
            ("network", EventKind::Network),
            ("daemon", EventKind::Daemon),
        ]
        .iter()
        .all(|(key, kind)| {
            filters.any(key, |wanted| event.kind == *kind && is_about(event, wanted))
        })
        && filters.any("image", |wanted| about_image(event, wanted))
        && ["config", "node", "plugin", "secret", "service"]
            .iter()
            .all(|key| !filters.has(key))
}

fn is_about(event: &Event, wanted: &str) -> bool {
    event.id.starts_with(wanted)
        || event
            .attributes
            .get("name")
            .is_some_and(|name| name == wanted)
}

/// An image's own events, and those of containers made from it.
fn about_image(event: &Event, wanted: &str) -> bool {
    let attribute = match event.kind {
        EventKind::Image => "name",
        EventKind::Container => "image",
        _ => return false,
    };
    let bare = |name: &str| actors::image::familiar_name(name).to_owned();
    let named = event.attributes.get(attribute).is_some_and(|name| {
        name == wanted || actors::image::familiar(name) == wanted || bare(name) == wanted
    });
    named || (event.kind == EventKind::Image && (event.id == wanted || bare(&event.id) == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, action: &str) -> Event {
        Event {
            kind,
            action: action.to_owned(),
            id: "abc".repeat(21) + "d",
            attributes: [("name", "web"), ("image", "busybox:1"), ("tier", "front")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            time: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn keeps(filters: &str, event: &Event) -> bool {
        wanted(
            &Filters::parse(filters).expect("filters"),
            super::super::version::NEWEST,
            event,
        )
    }

    #[test]
    fn filters_choose_events() {
        let start = event(EventKind::Container, "start");
        let exec = event(EventKind::Container, "exec_create: ls -l");
        for (filters, about_start) in [
            (r#"{"type":["container"]}"#, true),
            (r#"{"type":["image"]}"#, false),
            (r#"{"event":["start","stop"]}"#, true),
            (r#"{"event":["sta"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["abcabc"]}"#, true),
            (r#"{"container":["we"]}"#, false),
            (r#"{"label":["tier=front"]}"#, true),
            (r#"{"label":["tier=back"]}"#, false),
            (r#"{"image":["busybox"]}"#, true),
            (r#"{"image":["busybox:1"]}"#, true),
            (r#"{"image":["busybox:2"]}"#, false),
            (r#"{"volume":["web"]}"#, false),
            (r#"{"scope":["swarm"]}"#, false),
        ] {
            assert_eq!(keeps(filters, &start), about_start, "{filters}");
        }
        assert!(keeps(r#"{"event":["exec_create"]}"#, &exec));
        assert!(!keeps(r#"{"event":["exec_start"]}"#, &exec));
    }

    #[test]
    fn the_type_is_what_is_accepted_from_1_52() {
        let mut headers = HeaderMap::new();
        let mut kind = |minor, accept: &'static str| {
            headers.insert(header::ACCEPT, http::HeaderValue::from_static(accept));
            content_type(ApiVersion::v1(minor), &headers)
        };
        assert_eq!(kind(51, "application/x-ndjson"), ("application/json", ""));
        assert_eq!(kind(52, "*/*"), ("application/jsonl", ""));
        assert_eq!(
            kind(52, "application/x-ndjson"),
            ("application/x-ndjson", "")
        );
        assert_eq!(
            kind(52, "application/json-seq;q=1"),
            ("application/json-seq", "\u{1e}")
        );
    }

    #[test]
    fn image_create_events_are_hidden_below_1_46() {
        let create = event(EventKind::Image, "create");
        let none = Filters::default();
        assert!(!wanted(&none, ApiVersion::v1(45), &create));
        assert!(wanted(&none, ApiVersion::v1(46), &create));
    }

    #[tokio::test]
    async fn a_limit_in_the_past_ends_the_stream() {
        let (sender, events) = tokio::sync::mpsc::channel(4);
        sender
            .send(Arc::new(event(EventKind::Container, "start")))
            .await
            .expect("sent");
        let mut reader = Reader {
            events,
            filters: Filters::default(),
            version: super::super::version::NEWEST,
            since: None,
            until: Some(OffsetDateTime::now_utc()),
            deadline: Some(tokio::time::Instant::now()),
            separator: "",
        };
        assert!(reader.next().await.is_some());
        assert!(reader.next().await.is_none());
    }
}
