//! Answers: JSON, empty, streams.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;

use super::connection::BareHead;
use super::error::{ApiError, Form};
use super::hijack::RAW;

/// A byte stream whose head is flushed at once.
pub type ByteStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of an answer.
pub enum Body {
    /// All of it is there.
    Full(Option<Bytes>),
    /// It comes over time.
    Stream(ByteStream),
}

/// An answer on its way out.
pub type Reply = Response<Body>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(stream) => stream
                .as_mut()
                .poll_next(cx)
                .map(|item| item.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// 200 with a JSON document.
///
/// # Errors
///
/// 500 when the document cannot be written as JSON, which would be a defect of its type.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Reply, ApiError> {
    json_with(StatusCode::OK, value)
}

/// A JSON document with its status; it ends in a newline, as all of moby's do.
///
/// # Errors
///
/// As [`json`].
pub fn json_with<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Result<Reply, ApiError> {
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, value)
        .map_err(|why| ApiError::internal(format!("cannot write the answer: {why}")))?;
    bytes.push(b'\n');
    Ok(with_type(status, "application/json", Bytes::from(bytes)))
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = status;
    reply
}

/// A whole body of some content type.
pub fn with_type(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Reply {
    let mut reply = Response::new(Body::Full(Some(bytes)));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 200 whose body comes over time; the head goes out at once.
pub fn stream(content_type: &'static str, stream: ByteStream) -> Reply {
    let mut reply = Response::new(Body::Stream(stream));
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The answer that reports a failure.
pub fn failure(error: &ApiError) -> Reply {
    if error.status() == StatusCode::NOT_MODIFIED {
        return empty(StatusCode::NOT_MODIFIED);
    }
    let (kind, text) = match error.form() {
        Form::Json => {
            let body = serde_json::json!({ "message": error.message() });
            ("application/json", format!("{body}\n"))
        }
        Form::PlainText => (
            "text/plain; charset=utf-8",
            format!("{}\n", error.message()),
        ),
        Form::RawStream => (RAW, format!("{}\r\n", error.message())),
    };
    let mut reply = with_type(error.status(), kind, Bytes::from(text));
    if error.form() == Form::RawStream {
        // There was to be no further request on this connection.
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(header::CONNECTION, close);
        reply.extensions_mut().insert(BareHead);
    }
    reply
}
