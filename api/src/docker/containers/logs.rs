//! `GET /containers/{}/logs`: the head at once, then lines as frames.

use std::collections::BTreeMap;

use actors::container::{LogRecord, LogsOptions};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::sync::mpsc;

use crate::docker::error::{self, ApiError};
use crate::docker::frames;
use crate::docker::hijack;
use crate::docker::reply::{self, Reply};
use crate::docker::request::{Call, Query};
use crate::docker::timestamp;

/// Lines are gathered up to this before they are sent, as long as more are at hand.
const GATHER: usize = 64 * 1024;

/// `GET /containers/{}/logs`.
pub async fn logs(call: Call) -> Result<Reply, ApiError> {
    let query = &call.query;
    let options = options(query)?;
    let container = call.engine().find(call.name()).map_err(error::answer)?;
    if container.dead || container.removing {
        return Err(ApiError::conflict(
            "can not get logs from container which is dead or marked for removal",
        ));
    }
    let driver = container
        .spec
        .documents
        .host_config
        .pointer("/LogConfig/Type")
        .and_then(|v| v.as_str());
    if driver == Some("none") {
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "configured logging driver does not support reading",
        ));
    }
    let tty = container.spec.process.tty;
    let writer = Writer {
        framed: !tty,
        timestamps: query.flag("timestamps"),
        details: query.flag("details").then(|| {
            details(
                &container.spec.labels,
                &container.spec.documents.host_config,
            )
        }),
    };
    let records = call
        .engine()
        .logs(container.id, options)
        .await
        .map_err(error::answer)?;
    let body =
        futures_util::stream::unfold((records, writer), |(mut records, writer)| async move {
            let chunk = writer.next_chunk(&mut records).await?;
            Some((chunk, (records, writer)))
        });
    Ok(reply::stream(
        hijack::content_type(call.version, tty),
        Box::pin(body),
    ))
}

fn options(query: &Query) -> Result<LogsOptions, ApiError> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad_request(
            "must specify at least one of 'stdout' or 'stderr'",
        ));
    }
    Ok(LogsOptions {
        stdout,
        stderr,
        since: timestamp::unix("since", query.get("since"))?,
        until: timestamp::unix("until", query.get("until"))?,
        // Anything but a number means all.
        tail: query.get("tail").parse().ok(),
        follow: query.flag("follow"),
    })
}

/// `k=v,k2=v2 `: what `--log-opt labels=…` names, sorted and escaped.
fn details(labels: &BTreeMap<String, String>, host_config: &serde_json::Value) -> String {
    let asked = host_config
        .pointer("/LogConfig/Config/labels")
        .and_then(|v| v.as_str())
        .unwrap_or("");
    let escape =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut pairs: Vec<String> = asked
        .split(',')
        .filter_map(|key| {
            labels
                .get(key)
                .map(|value| format!("{}={}", escape(key), escape(value)))
        })
        .collect();
    pairs.sort();
    format!("{} ", pairs.join(","))
}

/// How records become bytes.
struct Writer {
    framed: bool,
    timestamps: bool,
    details: Option<String>,
}

impl Writer {
    /// Waits for a record, takes those that are at hand too, and writes them.
    async fn next_chunk(&self, records: &mut mpsc::Receiver<LogRecord>) -> Option<Bytes> {
        let first = records.recv().await?;
        if self.is_plain(records) {
            return Some(first.data);
        }
        let mut buffer = BytesMut::with_capacity(first.data.len() + 64);
        self.append(&mut buffer, &first);
        while buffer.len() < GATHER
            && let Ok(record) = records.try_recv()
        {
            self.append(&mut buffer, &record);
        }
        Some(buffer.freeze())
    }

    /// Whether the bytes can go out as they are, without a copy.
    fn is_plain(&self, records: &mpsc::Receiver<LogRecord>) -> bool {
        !self.framed && !self.timestamps && self.details.is_none() && records.is_empty()
    }

    fn append(&self, buffer: &mut BytesMut, record: &LogRecord) {
        let start = buffer.len();
        if self.framed {
            buffer.extend_from_slice(&[0; frames::HEADER]);
        }
        if self.timestamps {
            buffer.extend_from_slice(timestamp::nine_digits(record.time).as_bytes());
            buffer.extend_from_slice(b" ");
        }
        if let Some(details) = &self.details {
            buffer.extend_from_slice(details.as_bytes());
        }
        buffer.extend_from_slice(&record.data);
        if self.framed {
            let length = buffer.len() - start - frames::HEADER;
            let head = frames::header(hijack::channel(record.stream), length);
            buffer[start..start + frames::HEADER].copy_from_slice(&head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actors::streams::Stream;
    use time::OffsetDateTime;

    fn record(text: &'static str, stream: Stream) -> LogRecord {
        LogRecord {
            time: OffsetDateTime::UNIX_EPOCH,
            stream,
            seq: 1,
            data: Bytes::from_static(text.as_bytes()),
        }
    }

    #[tokio::test]
    async fn lines_come_as_frames_with_their_times() {
        let (sender, mut receiver) = mpsc::channel(4);
        sender
            .send(record("a\n", Stream::Stdout))
            .await
            .expect("sent");
        sender
            .send(record("b\n", Stream::Stderr))
            .await
            .expect("sent");
        drop(sender);
        let writer = Writer {
            framed: true,
            timestamps: true,
            details: None,
        };
        let chunk = writer.next_chunk(&mut receiver).await.expect("chunk");
        let (frames, rest) = frames::decode(&chunk);
        assert!(rest.is_empty());
        assert_eq!(
            frames,
            vec![
                (1, b"1970-01-01T00:00:00.000000000Z a\n".to_vec()),
                (2, b"1970-01-01T00:00:00.000000000Z b\n".to_vec())
            ]
        );
        assert!(writer.next_chunk(&mut receiver).await.is_none());
    }

    #[test]
    fn one_stream_must_be_chosen() {
        assert_eq!(
            options(&Query::parse(Some("follow=1")))
                .expect_err("none")
                .message(),
            "must specify at least one of 'stdout' or 'stderr'"
        );
        let all = options(&Query::parse(Some("stdout=1&tail=all&since=1.5"))).expect("options");
        assert_eq!(all.tail, None);
        assert_eq!(
            options(&Query::parse(Some("stdout=1&tail=5")))
                .expect("options")
                .tail,
            Some(5)
        );
        assert!(options(&Query::parse(Some("stdout=1&since=x"))).is_err());
    }
}
