//! Reading a container's log: the file on the datastore, then live records, without a hole or a double.
//!
//! A follower subscribes first, reads the file up to its end, then takes live records with higher numbers; when
//! one is missing in between, it reads on in the file. One whose client is slow is left behind by the link, and
//! begins again where it is. A line cut by a torn write is skipped.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use strategy::Address;
use tether_protocol::log::{self, Record};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::link;
use super::message::{LogRecord, LogsOptions};
use crate::streams::{CHANNEL_DEPTH, Stream};
use crate::vsphere::Vsphere;

/// How long the guest may take to begin sending its log.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(10);

/// How much of the file is read at a time.
const CHUNK: u64 = 1 << 20;

/// Where a log is.
#[derive(Debug, Clone)]
pub struct Source {
    /// vSphere.
    pub vsphere: Vsphere,
    /// The file as a datastore path.
    pub path: String,
    /// The link, while the container runs.
    pub link: Option<Address<link::Message>>,
}

/// Reads a log; the records come as fast as the receiver takes them, and end when it is dropped.
pub fn read(source: Source, options: LogsOptions) -> mpsc::Receiver<LogRecord> {
    let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
    tokio::spawn(async move {
        if let Err(why) = run(source, options, sender).await {
            tracing::debug!(%why, "log reader ended");
        }
    });
    receiver
}

struct Reader {
    source: Source,
    options: LogsOptions,
    client: mpsc::Sender<LogRecord>,
    offset: u64,
    partial: BytesMut,
    last: u64,
}

/// The client does not want any more, or has all that it asked for.
struct Left;

async fn run(
    source: Source,
    options: LogsOptions,
    client: mpsc::Sender<LogRecord>,
) -> Result<(), crate::error::Error> {
    let mut live = subscribe(&source, &options).await;
    let tail = options.tail;
    let mut reader = Reader {
        source,
        options,
        client,
        offset: 0,
        partial: BytesMut::new(),
        last: 0,
    };
    let mut kept = VecDeque::new();
    loop {
        let records = reader.next_chunk().await?;
        if records.is_empty() {
            break;
        }
        match tail {
            None => {
                if reader.give(records).await.is_err() {
                    return Ok(());
                }
            }
            Some(lines) => {
                // Parts of one line count as one; only those that pass the filters count.
                kept.extend(records.into_iter().filter(|r| reader.wants(r)));
                trim(&mut kept, lines, false);
            }
        }
    }
    if let Some(lines) = tail {
        trim(&mut kept, lines, true);
    }
    if reader.give(kept.into()).await.is_err() {
        return Ok(());
    }
    while let Some(followed) = live.take() {
        let left_behind = followed.left_behind.clone();
        let ended = reader.follow(followed.records).await?;
        if ended.is_err() || !left_behind.load(Ordering::Acquire) {
            break;
        }
        live = subscribe(&reader.source, &reader.options).await;
        // What the file has gained meanwhile, and all of it when the run has ended.
        if reader.catch_up().await?.is_err() {
            break;
        }
    }
    Ok(())
}

/// Asks for live records, if they are wanted and there is a guest to send them.
async fn subscribe(source: &Source, options: &LogsOptions) -> Option<link::Followed> {
    let link = source.link.as_ref().filter(|_| options.follow)?;
    link.ask(FOLLOW_DEADLINE, link::Message::FollowLog)
        .await
        .ok()
}

/// Keeps the last so many lines. A record without a newline is a part of the line that the next record of its own
/// stream goes on with: the other stream may come in between. The last one of a stream is a line when all is `read`.
fn trim(kept: &mut VecDeque<Record>, lines: u64, read: bool) {
    let mut count = 0;
    // Whether the line is kept that an older part belongs to, for each stream.
    let mut line = [None; 2];
    let mut keep = vec![false; kept.len()];
    for (at, record) in kept.iter().enumerate().rev() {
        let line = &mut line[usize::from(record.source == log::Source::Stderr)];
        let kept = match (*line, record.data.ends_with(b"\n")) {
            (Some(kept), false) => kept,
            (None, false) if !read => true,
            _ => {
                let last = count < lines;
                count += u64::from(last);
                last
            }
        };
        *line = Some(kept);
        keep[at] = kept;
    }
    let mut keep = keep.into_iter();
    kept.retain(|_| keep.next().unwrap_or(false));
}

impl Reader {
    /// The records of the next piece of the file; none at its present end.
    async fn next_chunk(&mut self) -> Result<Vec<Record>, crate::error::Error> {
        loop {
            let path = &self.source.path;
            let bytes = self
                .source
                .vsphere
                .read_range(path, self.offset, CHUNK)
                .await?;
            if bytes.is_empty() {
                return Ok(Vec::new());
            }
            self.offset += bytes.len() as u64;
            self.partial.extend_from_slice(&bytes);
            let records = take_records(&mut self.partial);
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    fn wants(&self, record: &Record) -> bool {
        let o = &self.options;
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(record.time));
        let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let stream = match record.source {
            log::Source::Stdout => o.stdout,
            log::Source::Stderr => o.stderr,
        };
        stream && o.since.is_none_or(|s| time >= s) && o.until.is_none_or(|u| time <= u)
    }

    async fn give(&mut self, records: Vec<Record>) -> Result<(), Left> {
        for record in records {
            self.last = self.last.max(record.seq);
            if !self.wants(&record) {
                continue;
            }
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(record.time));
            let out = LogRecord {
                time: time.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                stream: match record.source {
                    log::Source::Stdout => Stream::Stdout,
                    log::Source::Stderr => Stream::Stderr,
                },
                seq: record.seq,
                data: Bytes::from(record.data),
            };
            self.client.send(out).await.map_err(|_| Left)?;
        }
        Ok(())
    }

    /// Gives live records until there are no more of them: the run is over, the link has died, or it has left us
    /// behind.
    async fn follow(
        &mut self,
        mut live: mpsc::Receiver<Bytes>,
    ) -> Result<Result<(), Left>, crate::error::Error> {
        let mut partial = BytesMut::new();
        loop {
            let until = self.options.until;
            let bytes = tokio::select! {
                bytes = live.recv() => bytes,
                () = self.client.closed() => return Ok(Err(Left)),
                () = past(until) => return Ok(Err(Left)),
            };
            let Some(bytes) = bytes else { break };
            partial.extend_from_slice(&bytes);
            for record in take_records(&mut partial) {
                if record.seq > self.last + 1 && self.catch_up().await?.is_err() {
                    return Ok(Err(Left));
                }
                if record.seq > self.last && self.give(vec![record]).await.is_err() {
                    return Ok(Err(Left));
                }
            }
        }
        self.catch_up().await
    }

    /// Gives what the file has after the last record given, up to its present end.
    async fn catch_up(&mut self) -> Result<Result<(), Left>, crate::error::Error> {
        loop {
            let last = self.last;
            let records = self.next_chunk().await?;
            if records.is_empty() {
                return Ok(Ok(()));
            }
            let missing: Vec<_> = records.into_iter().filter(|r| r.seq > last).collect();
            if self.give(missing).await.is_err() {
                return Ok(Err(Left));
            }
        }
    }
}

async fn past(until: Option<OffsetDateTime>) {
    match until {
        Some(until) => {
            let left = until - OffsetDateTime::now_utc();
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

/// Takes whole lines off the buffer; what is no record is skipped.
fn take_records(buffer: &mut BytesMut) -> Vec<Record> {
    let Some(end) = buffer.iter().rposition(|b| *b == b'\n') else {
        return Vec::new();
    };
    let whole = buffer.split_to(end + 1);
    whole[..]
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| Record::decode(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use log::Source::{Stderr, Stdout};

    fn record(seq: u64, source: log::Source, text: &str) -> Record {
        Record {
            time: 0,
            source,
            seq,
            data: text.into(),
        }
    }

    /// The texts that are left of a log when it is read in two pieces, cut anywhere.
    fn tail(records: &[(log::Source, &str)], lines: u64) -> Vec<String> {
        let all: Vec<Record> = (1..)
            .zip(records)
            .map(|(seq, (source, text))| record(seq, *source, text))
            .collect();
        let ends: Vec<Vec<String>> = (0..=all.len())
            .map(|cut| {
                let mut kept: VecDeque<_> = all[..cut].to_vec().into();
                trim(&mut kept, lines, false);
                kept.extend(all[cut..].iter().cloned());
                trim(&mut kept, lines, true);
                kept.into_iter()
                    .map(|r| String::from_utf8_lossy(&r.data).into_owned())
                    .collect()
            })
            .collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        ends[0].clone()
    }

    #[test]
    fn tail_counts_lines_not_parts_of_lines() {
        let log = [
            (Stdout, "a\n"),
            (Stdout, "b"),
            (Stdout, "c\n"),
            (Stdout, "d\n"),
        ];
        assert_eq!(tail(&log, 2), ["b", "c\n", "d\n"]);
        assert_eq!(tail(&log, 3).len(), 4);
        assert!(tail(&log, 0).is_empty());
    }

    #[test]
    fn a_last_line_without_newline_is_one_whichever_stream_came_last() {
        let err_last = [(Stdout, "a\n"), (Stdout, "b"), (Stderr, "e\n")];
        assert_eq!(tail(&err_last, 2), ["b", "e\n"]);
        let out_last = [(Stdout, "a\n"), (Stderr, "e\n"), (Stdout, "b")];
        assert_eq!(tail(&out_last, 2), ["e\n", "b"]);
        assert_eq!(tail(&out_last, 1), ["b"]);
    }

    #[test]
    fn parts_of_a_line_stay_together_when_the_other_stream_comes_in_between() {
        let log = [(Stdout, "a"), (Stderr, "e\n"), (Stdout, "b\n")];
        assert_eq!(tail(&log, 1), ["a", "b\n"]);
        assert_eq!(tail(&log, 2), ["a", "e\n", "b\n"]);
    }

    #[test]
    fn torn_lines_are_skipped_and_partial_ones_wait() {
        let mut buffer = BytesMut::new();
        let mut line = Vec::new();
        record(1, Stdout, "x\n").encode(&mut line);
        buffer.extend_from_slice(b"torn\n");
        buffer.extend_from_slice(&line[..line.len() - 1]);
        assert!(take_records(&mut buffer).is_empty());
        buffer.extend_from_slice(b"\n");
        assert_eq!(take_records(&mut buffer), [record(1, Stdout, "x\n")]);
    }
}
