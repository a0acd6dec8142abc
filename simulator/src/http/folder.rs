//! Datastore files over HTTP: `/folder/<path>?dcPath=<datacenter>&dsName=<datastore>`.
//!
//! GET and HEAD (with ranges), PUT (whole, or a part by `Content-Range`), DELETE; a directory is
//! listed. A session's cookie or Basic authentication is asked for. Bodies are streamed.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::{Body, full, session_cookie, text};
use crate::datastore;
use crate::faults::Effect;
use crate::world::World;

/// How much is read from a file at once.
const CHUNK: usize = 256 << 10;

/// Serves one request for a file as the fault rules say; nothing when the connection shall end without a reply.
pub(crate) async fn steered(
    world: &Arc<World>,
    request: Request<Incoming>,
) -> Option<Response<Body>> {
    let effect = world
        .faults
        .on_call(&format!("{} /folder", request.method()));
    match effect {
        None => Some(serve(world, request).await),
        Some(Effect::Drop) => None,
        Some(Effect::DropAfter) => {
            serve(world, request).await;
            None
        }
        Some(Effect::Delay(time)) => {
            tokio::time::sleep(time).await;
            Some(serve(world, request).await)
        }
        Some(Effect::Late(time)) => {
            let response = serve(world, request).await;
            tokio::time::sleep(time).await;
            Some(response)
        }
        Some(Effect::Stall) => std::future::pending().await,
        Some(Effect::Fault(name) | Effect::TaskFault(name)) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Some(text(status, format!("{name} by rule\n")))
        }
    }
}

async fn serve(world: &Arc<World>, request: Request<Incoming>) -> Response<Body> {
    if !authorized(world, &request) {
        let mut response = text(StatusCode::UNAUTHORIZED, "log in first\n");
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"VMware HTTP server\""),
        );
        return response;
    }
    let file = match locate(world, request.uri()) {
        Ok(file) => file,
        Err((status, why)) => return text(status, why),
    };
    let result = match *request.method() {
        Method::GET => get(&file, &request, true).await,
        Method::HEAD => get(&file, &request, false).await,
        Method::PUT | Method::POST => put(&file, request).await,
        Method::DELETE => delete(&file).await,
        _ => Ok(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "use GET, HEAD, PUT or DELETE\n",
        )),
    };
    result.unwrap_or_else(|error| {
        let status = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
            io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        text(status, format!("{error}\n"))
    })
}

fn authorized(world: &World, request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let cookie = headers.get(header::COOKIE).and_then(|v| v.to_str().ok());
    if cookie
        .and_then(session_cookie)
        .is_some_and(|key| world.sessions.get(&key).is_some())
    {
        return true;
    }
    let basic = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    basic
        .and_then(|v| v.strip_prefix("Basic "))
        .and_then(|v| base64::engine::general_purpose::STANDARD.decode(v).ok())
        .and_then(|v| String::from_utf8(v).ok())
        .is_some_and(|pair| {
            pair.split_once(':')
                .is_some_and(|(user, password)| world.may_log_in(user, password))
        })
}

fn locate(
    world: &World,
    uri: &http::Uri,
) -> Result<std::path::PathBuf, (StatusCode, &'static str)> {
    let query = url::form_urlencoded::parse(uri.query().unwrap_or("").as_bytes());
    let mut store = None;
    for (key, value) in query {
        if key == "dsName" {
            store = Some(value.into_owned());
        }
    }
    let store = store.ok_or((StatusCode::BAD_REQUEST, "dsName is missing\n"))?;
    let store = world
        .datastores
        .get(&store)
        .ok_or((StatusCode::NOT_FOUND, "no such datastore\n"))?;
    let path = uri.path().strip_prefix("/folder").unwrap_or("");
    let path = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| (StatusCode::BAD_REQUEST, "the path is not UTF-8\n"))?;
    let path = datastore::clean(&path)
        .ok_or((StatusCode::BAD_REQUEST, "the path leaves the datastore\n"))?;
    store
        .real(&path)
        .ok_or((StatusCode::NOT_FOUND, "the path leaves the datastore\n"))
}

/// A part of a file: first byte, and one past the last.
type Span = (u64, u64);

/// Reads a `Range` header of one range; `Err` when nothing of it is in the file.
fn range(header: Option<&str>, size: u64) -> Result<Option<Span>, ()> {
    let Some(spec) = header.and_then(|h| h.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Ok(None);
    };
    let span = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, size.min(last.saturating_add(1))),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, size),
        (Err(_), Ok(tail)) if first.trim().is_empty() => (size.saturating_sub(tail), size),
        _ => return Ok(None),
    };
    if span.0 >= span.1 {
        Err(())
    } else {
        Ok(Some(span))
    }
}

/// Reads where the part of a `Content-Range` header begins.
fn first(header: &str) -> Option<u64> {
    let (first, _) = header.strip_prefix("bytes ")?.split_once('-')?;
    first.trim().parse().ok()
}

/// Reads a text as the headers that name a part of a file; for fuzzing. Must not panic.
///
/// # Panics
/// When a part is empty, or goes beyond the file's end: that is the finding.
pub(crate) fn fuzz(text: &str) {
    for size in [0, 1, 4096, u64::MAX] {
        if let Ok(Some((first, end))) = range(Some(text), size) {
            assert!(first < end && end <= size, "{first}..{end} of {size}");
        }
    }
    let _ = first(text);
}

async fn get(path: &Path, request: &Request<Incoming>, body: bool) -> io::Result<Response<Body>> {
    let mut file = File::open(path).await?;
    let meta = file.metadata().await?;
    if meta.is_dir() {
        return list(path).await;
    }
    let size = meta.len();
    let wanted = request
        .headers()
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok());
    let Ok(span) = range(wanted, size) else {
        let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "");
        set(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes */{size}"),
        );
        return Ok(response);
    };
    let (first, end) = span.unwrap_or((0, size));
    let content = if body {
        file.seek(SeekFrom::Start(first)).await?;
        let stream = ReaderStream::with_capacity(file.take(end - first), CHUNK);
        StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
    } else {
        full(Bytes::new())
    };
    let mut response = Response::new(content);
    set(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(
        &mut response,
        header::CONTENT_LENGTH,
        &(end - first).to_string(),
    );
    if span.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes {first}-{}/{size}", end - 1),
        );
    }
    Ok(response)
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

async fn list(path: &Path) -> io::Result<Response<Body>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(path).await?;
    while let Some(entry) = entries.next_entry().await? {
        let slash = if entry.file_type().await?.is_dir() {
            "/"
        } else {
            ""
        };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(text(StatusCode::OK, names.join("\n") + "\n"))
}

async fn put(path: &Path, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let part = request.headers().get(header::CONTENT_RANGE).map(|v| {
        v.to_str().ok().and_then(first).ok_or(io::Error::new(
            io::ErrorKind::InvalidInput,
            "Content-Range is not understood",
        ))
    });
    let part = part.transpose()?;
    if path.is_dir() {
        return Ok(text(StatusCode::CONFLICT, "a directory is there\n"));
    }
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    let existed = path.exists();
    match part {
        Some(first) => {
            let mut file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .await?;
            file.seek(SeekFrom::Start(first)).await?;
            receive(request.into_body(), &mut file).await?;
        }
        None => {
            // Readers see the old file or the new one; an upload that breaks off leaves nothing.
            let new = path.with_file_name(format!(
                ".{}.{}.upload",
                path.file_name().unwrap_or_default().to_string_lossy(),
                uuid::Uuid::new_v4().simple()
            ));
            let guard = RemoveOnDrop(&new);
            let mut file = File::create(&new).await?;
            receive(request.into_body(), &mut file).await?;
            tokio::fs::rename(&new, path).await?;
            std::mem::forget(guard);
        }
    }
    Ok(text(
        if existed {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        },
        "",
    ))
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

async fn receive(mut body: Incoming, file: &mut File) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await?;
        }
    }
    file.flush().await
}

async fn delete(path: &Path) -> io::Result<Response<Body>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || datastore::remove(&path))
        .await
        .map_err(io::Error::other)??;
    Ok(text(StatusCode::NO_CONTENT, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_is_a_part_of_the_file_or_none(text in "(bytes[= ])?[0-9]{0,21}-?[0-9]{0,21}|\\PC{0,30}") {
            fuzz(&text);
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(range(Some("bytes=2-5"), 10), Ok(Some((2, 6))));
        assert_eq!(range(Some("bytes=2-"), 10), Ok(Some((2, 10))));
        assert_eq!(range(Some("bytes=-3"), 10), Ok(Some((7, 10))));
        assert_eq!(range(Some("bytes=2-99"), 10), Ok(Some((2, 10))));
        assert_eq!(range(Some("bytes=10-"), 10), Err(()));
        assert_eq!(range(Some("bytes=1-2,4-5"), 10), Ok(None));
        assert_eq!(range(None, 10), Ok(None));
    }
}
