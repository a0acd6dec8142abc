//! One connection: requests one after the other, until it closes or is taken over by a raw stream.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::Shared;
use super::error::ApiError;
use super::listener::Conn;
use super::reply::{self, Reply};
use super::request::{Call, Query};
use super::route;
use super::version;

/// A client that has not sent its request's head by then is sent away, also between two requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(300);

/// The `Server` field, as docker's.
const SERVER: &str = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");

/// What goes on with the connection's byte stream after a 101, given what was read beyond the request.
pub type Takeover = Box<dyn FnOnce(Conn, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Where a handler leaves its [`Takeover`].
#[derive(Clone, Default)]
pub struct TakeoverSlot(Arc<Mutex<Option<Takeover>>>);

impl TakeoverSlot {
    /// Leaves what shall happen after the answer.
    pub fn set(&self, takeover: Takeover) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(takeover);
    }

    fn take(&self) -> Option<Takeover> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves one connection to its end.
pub async fn serve(conn: Conn, shared: Arc<Shared>, mut drain: watch::Receiver<bool>) {
    let slot = TakeoverSlot::default();
    let service = service_fn({
        let slot = slot.clone();
        move |request| {
            let (shared, slot) = (shared.clone(), slot.clone());
            // Boxed, since `poll_without_shutdown` wants it unpinned.
            Box::pin(async move { Ok::<_, Infallible>(answer(request, shared, slot).await) })
        }
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(conn), service);
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = std::future::poll_fn(|cx| http.poll_without_shutdown(cx)) => break ended,
            () = stop(&mut drain), if !draining => {
                draining = true;
                Pin::new(&mut http).graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // A client that leaves in the middle of a long poll is ordinary.
        tracing::trace!(%error, "connection ended");
        return;
    }
    if let Some(takeover) = slot.take() {
        let parts = http.into_parts();
        takeover(parts.io.into_inner(), parts.read_buf).await;
    } else {
        use tokio::io::AsyncWriteExt as _;
        let _ = http.into_parts().io.into_inner().shutdown().await;
    }
}

async fn stop(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|on| *on).await;
}

/// Answers one request: version, route, handler; headers on all answers.
async fn answer(request: Request<Incoming>, shared: Arc<Shared>, slot: TakeoverSlot) -> Reply {
    let (head, body) = request.into_parts();
    let _serving = shared.engine.serving();
    let started = tokio::time::Instant::now();
    let mut reply = match dispatch(&head, body, shared, slot).await {
        Ok(reply) => reply,
        Err(error) => reply::failure(&error),
    };
    tracing::debug!(
        method = %head.method,
        path = %head.uri,
        status = reply.status().as_u16(),
        elapsed = ?started.elapsed(),
        "request"
    );
    if reply.extensions_mut().remove::<BareHead>().is_none() {
        let headers = reply.headers_mut();
        headers.insert("api-version", HeaderValue::from_static("1.55"));
        headers.insert("docker-experimental", HeaderValue::from_static("false"));
        headers.insert("ostype", HeaderValue::from_static("linux"));
        headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    }
    reply
}

/// Marks an answer that goes out without the fields that all others have.
#[derive(Clone)]
pub struct BareHead;

async fn dispatch(
    head: &http::request::Parts,
    body: Incoming,
    shared: Arc<Shared>,
    slot: TakeoverSlot,
) -> Result<Reply, ApiError> {
    if head.method == Method::OPTIONS {
        return Ok(reply::empty(StatusCode::OK));
    }
    let path = percent_encoding::percent_decode_str(head.uri.path())
        .decode_utf8()
        .map_err(|_| ApiError::page_not_found())?;
    let (asked, path) = version::split_prefix(&path);
    let matched = route::find(&head.method, path);
    let Some((route, vars)) = matched else {
        return Err(ApiError::page_not_found());
    };
    let version = version::negotiate(asked)?;
    if version < route.since {
        return Err(ApiError::page_not_found());
    }
    let call = Call {
        version,
        method: head.method.clone(),
        headers: head.headers.clone(),
        vars,
        query: Query::parse(head.uri.query()),
        body,
        takeover: slot,
        shared,
    };
    route.answer(call).await
}
