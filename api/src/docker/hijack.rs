//! Raw streams after `101 UPGRADED`: a process's output to the client, the client's bytes to its input.
//!
//! ```text
//! actor ── output ──► Outgoing ──writev──► client      ends when the process has ended and all is written;
//!                                                      is reset when the output was cut off before that
//! actor ◄── input ── detach keys ◄──read── client      FIN or close_notify: end of stdin, the output goes on
//! ```

use std::io::{self, IoSlice};
use std::time::Duration;

use actors::streams::{Attachment, Input, Output, Stream};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::connection::{BareHead, TakeoverSlot};
use super::detach::Keys;
use super::frames::{Channel, MAX_SLICES, Outgoing};
use super::listener::Conn;
use super::reply::{self, Body, Reply};
use super::version::ApiVersion;
use super::versions::{self, behaviour};

/// Bytes without frames.
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// Frames.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// How much input is read at once.
const READ: usize = 32 * 1024;

/// How many pieces of output are put into one write.
const BATCH: usize = MAX_SLICES / 2;

/// How long a client may go on sending after the end of the output.
const LINGER: Duration = Duration::from_secs(10);

/// The content type of a stream.
pub fn content_type(version: ApiVersion, tty: bool) -> &'static str {
    if !tty && versions::has(version, behaviour::MULTIPLEXED_TYPE) {
        MULTIPLEXED
    } else {
        RAW
    }
}

/// What a raw stream needs beside the process's ends.
pub struct Session {
    /// The process's ends.
    pub attachment: Attachment,
    /// Keys that end the stream; only looked for in terminals.
    pub keys: Keys,
    /// Frames or raw bytes.
    pub framed: bool,
    /// Asked when the output is over: whether the process goes on all the same.
    pub goes_on: GoesOn,
}

/// Tells whether a process still runs.
pub type GoesOn = Box<dyn Fn() -> bool + Send + Sync>;

/// The answer that takes the connection over, with the fields that all answers have unless `bare`.
pub fn upgraded(slot: &TakeoverSlot, version: ApiVersion, session: Session, bare: bool) -> Reply {
    let content_type = content_type(version, !session.framed);
    slot.set(Box::new(move |conn, early| {
        Box::pin(run(conn, early, session))
    }));
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    reply
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    if bare {
        reply.extensions_mut().insert(BareHead);
    }
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    reply
}

/// The answer for clients that do not ask for an upgrade: output as the body, which ends with the connection;
/// the request's body is the input.
pub fn streamed(request: hyper::body::Incoming, mut session: Session, bare: bool) -> Reply {
    if let Some(input) = session.attachment.input.take() {
        // Ends with the request's body or the process, whichever is first.
        let keys = session.attachment.tty.then(|| session.keys.clone());
        tokio::spawn(feed_body(request, input, keys));
    }
    let mut reply = output_only(session);
    if bare {
        reply.extensions_mut().insert(BareHead);
    }
    reply
}

/// As [`streamed`], for requests whose body has been read.
pub fn output_only(session: Session) -> Reply {
    let Session {
        attachment, framed, ..
    } = session;
    let body = futures_util::stream::unfold(attachment.output, move |mut output| async move {
        let first = output.recv().await?;
        let mut buffer = BytesMut::new();
        append(&mut buffer, &first, framed);
        while buffer.len() < READ
            && let Ok(more) = output.try_recv()
        {
            append(&mut buffer, &more, framed);
        }
        Some((buffer.freeze(), output))
    });
    let mut reply = reply::stream(RAW, Box::pin(body));
    // Of HTTP/1.0, so that the body is neither chunked nor measured.
    *reply.version_mut() = http::Version::HTTP_10;
    reply
}

fn append(buffer: &mut BytesMut, output: &Output, framed: bool) {
    match framed {
        true => super::frames::encode(channel(output.stream), &output.data, buffer),
        false => buffer.extend_from_slice(&output.data),
    }
}

/// The channel of an output.
pub fn channel(stream: Stream) -> Channel {
    match stream {
        Stream::Stdout => Channel::Stdout,
        Stream::Stderr => Channel::Stderr,
    }
}

async fn feed_body(
    mut body: hyper::body::Incoming,
    input: mpsc::Sender<Input>,
    keys: Option<Keys>,
) {
    use http_body_util::BodyExt as _;
    let mut matcher = keys.map(|keys| keys.matcher());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let (data, detached) = match &mut matcher {
            Some(matcher) => match matcher.feed(&data) {
                Ok(out) => (Bytes::from(out), false),
                Err(out) => (Bytes::from(out), true),
            },
            None => (data, false),
        };
        if !data.is_empty() && input.send(Input::Data(data)).await.is_err() || detached {
            return;
        }
    }
    let _ = input.send(Input::Close).await;
}

/// How the client's side of a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum ClientEnd {
    /// The client half-closed: its output goes on.
    HalfClosed,
    /// The detach keys came.
    Detached,
    /// The connection broke.
    Gone,
}

/// Carries bytes both ways until the process has ended, the client has gone, or has typed the detach keys.
async fn run(conn: Conn, early: Bytes, session: Session) {
    let Session {
        attachment,
        keys,
        framed,
        goes_on,
    } = session;
    let Attachment { output, input, tty } = attachment;
    let (mut reader, mut writer) = tokio::io::split(conn);
    let mut inward = Box::pin(read_input(&mut reader, early, input, tty.then_some(keys)));
    let (mut reading, mut cut_off) = (true, false);
    {
        let outward = write_output(&mut writer, output, framed);
        tokio::pin!(outward);
        loop {
            tokio::select! {
                written = &mut outward => {
                    if let Err(error) = written {
                        tracing::debug!(%error, "a client of a raw stream has gone");
                        reading = false;
                    } else {
                        cut_off = goes_on();
                    }
                    break;
                }
                end = &mut inward, if reading => {
                    reading = false;
                    if end != ClientEnd::HalfClosed {
                        break;
                    }
                }
            }
        }
    }
    if cut_off {
        // A clean end would say that this was all.
        drop(inward);
        reader.unsplit(writer).reset();
        return;
    }
    let _ = writer.shutdown().await;
    if reading {
        // Closing with input unread would reset the connection, and the client might lose the output's end.
        let _ = tokio::time::timeout(LINGER, inward).await;
    }
}

/// Writes output until it ends.
async fn write_output(
    writer: &mut WriteHalf<Conn>,
    mut output: mpsc::Receiver<Output>,
    framed: bool,
) -> io::Result<()> {
    let mut outgoing = Outgoing::default();
    while let Some(first) = output.recv().await {
        queue(&mut outgoing, first, framed);
        while outgoing.len() < BATCH
            && let Ok(more) = output.try_recv()
        {
            queue(&mut outgoing, more, framed);
        }
        while !outgoing.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = outgoing.slices(&mut slices);
                writer.write_vectored(&slices[..count]).await?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            outgoing.advance(written);
        }
        writer.flush().await?;
    }
    Ok(())
}

fn queue(outgoing: &mut Outgoing, output: Output, framed: bool) {
    outgoing.push(framed.then(|| channel(output.stream)), output.data);
}

/// Reads input until the client ends it. Without an input, only the end is waited for.
async fn read_input(
    reader: &mut ReadHalf<Conn>,
    early: Bytes,
    input: Option<mpsc::Sender<Input>>,
    keys: Option<Keys>,
) -> ClientEnd {
    let mut matcher = keys.map(|keys| keys.matcher());
    let mut buffer = BytesMut::from(early);
    loop {
        if buffer.is_empty() {
            buffer.reserve(READ);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => break,
                Ok(_) => {}
                // A TLS client that closes without close_notify has only ended its input, as far as we know.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(_) => return ClientEnd::Gone,
            }
        }
        let data = buffer.split().freeze();
        let (data, detached) = match &mut matcher {
            Some(matcher) => match matcher.feed(&data) {
                Ok(out) => (Bytes::from(out), false),
                Err(out) => (Bytes::from(out), true),
            },
            None => (data, false),
        };
        if let Some(input) = &input
            && !data.is_empty()
            && input.send(Input::Data(data)).await.is_err()
        {
            // Nobody reads the input any more; the client's end still matters.
            tracing::trace!("input after the end of a process");
        }
        if detached {
            return ClientEnd::Detached;
        }
    }
    if let Some(input) = &input {
        if let Some(rest) = matcher.as_mut().map(super::detach::Matcher::rest)
            && !rest.is_empty()
        {
            let _ = input.send(Input::Data(rest.into())).await;
        }
        let _ = input.send(Input::Close).await;
    }
    ClientEnd::HalfClosed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framed_streams_have_a_type_of_their_own_from_1_42() {
        assert_eq!(content_type(ApiVersion::v1(41), false), RAW);
        assert_eq!(content_type(ApiVersion::v1(42), false), MULTIPLEXED);
        assert_eq!(content_type(ApiVersion::v1(42), true), RAW);
    }
}
