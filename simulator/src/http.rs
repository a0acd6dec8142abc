//! The HTTPS endpoint: SOAP, datastore files, version discovery, and what tests steer it by.
//!
//! One server listens on any number of addresses (the host's loopback, and one inside the
//! simulator's own network), each handed in as a bound listener.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::faults::FaultRule;
use crate::soap::{self, Answer};
use crate::world::World;

pub(crate) mod folder;

pub(crate) use folder::fuzz;

/// The largest SOAP request that is read: 128 KiB of environment is far below it, as is any config.
const MAX_SOAP: usize = 64 << 20;

/// The body of every reply.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Makes a body of bytes that are there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|e: Infallible| match e {})
        .boxed_unsync()
}

/// Makes a reply of a status and a line of text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// The connection shall end without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped by rule")]
struct Dropped;

/// Accepts connections until it is dropped; every connection ends with it.
pub(crate) async fn serve(world: Arc<World>, listener: TcpListener, tls: TlsAcceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(world.clone(), stream, peer, tls.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of descriptors: the next connection to end makes room.
                    if connections.join_next().await.is_none() {
                        tokio::task::yield_now().await;
                    }
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(world: Arc<World>, stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor) {
    // Small replies must not wait for the client's acknowledgement of the last one.
    let _ = stream.set_nodelay(true);
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%peer, %error, "no TLS session"),
    };
    let service = service_fn(move |request| {
        let world = world.clone();
        async move { route(&world, peer, request).await }
    });
    let ended = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn route(
    world: &Arc<World>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/sdk" | "/sdk/" | "/sdk/vimService") => sdk(world, request).await,
        (&Method::GET, "/sdk/vimServiceVersions.xml") => Ok(xml(StatusCode::OK, versions())),
        (&Method::GET, "/sdk/vimService.wsdl" | "/sdk/vimService") => Ok(xml(StatusCode::OK, WSDL)),
        (_, "/sdk" | "/sdk/" | "/sdk/vimService") => {
            Ok(text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n"))
        }
        (_, path) if path == "/folder" || path.starts_with("/folder/") => {
            folder::steered(world, request).await.ok_or(Dropped)
        }
        (_, path) if path.starts_with("/debug/") && world.config.debug => {
            if peer.ip().is_loopback() {
                Ok(debug(world, request).await)
            } else {
                Ok(text(StatusCode::FORBIDDEN, "only from the loopback\n"))
            }
        }
        _ => Ok(text(StatusCode::NOT_FOUND, "there is nothing here\n")),
    }
}

fn xml(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = text(status, body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/xml; charset=\"utf-8\""),
    );
    response
}

async fn sdk(world: &Arc<World>, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_SOAP).collect().await else {
        return Ok(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request is too large\n",
        ));
    };
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let call = soap::HttpCall {
        session: header("cookie").and_then(session_cookie),
        action: header("soapaction")
            .unwrap_or("")
            .trim_matches('"')
            .to_owned(),
        agent: header("user-agent").unwrap_or("").to_owned(),
    };
    match soap::handle(world, call, &body.to_bytes()).await {
        Answer::Drop => Err(Dropped),
        Answer::Reply {
            fault,
            body,
            cookie,
        } => {
            let status = if fault {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            };
            let mut response = xml(status, body);
            if let Some(cookie) = cookie {
                let value = format!("vmware_soap_session=\"{cookie}\"; Path=/; HttpOnly; Secure");
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(header::SET_COOKIE, value);
                }
            }
            Ok(response)
        }
    }
}

/// Finds the session's key in a `Cookie` header; the quotes around it are optional.
pub(crate) fn session_cookie(cookies: &str) -> Option<String> {
    cookies.split(';').find_map(|cookie| {
        let value = cookie.trim().strip_prefix("vmware_soap_session=")?;
        Some(value.trim_matches('"').to_owned())
    })
}

async fn debug(world: &Arc<World>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, 1 << 20).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n");
    };
    let body = body.to_bytes();
    let faults = &world.faults;
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/debug/faults") => text(StatusCode::OK, faults.describe()),
        (&Method::DELETE, "/debug/faults") => {
            faults.clear();
            text(StatusCode::OK, "")
        }
        (&Method::POST | &Method::PUT, "/debug/faults") => {
            let rules: Result<Vec<FaultRule>, String> = String::from_utf8_lossy(&body)
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(str::parse)
                .collect();
            match rules {
                Ok(rules) => {
                    if parts.method == Method::PUT {
                        faults.clear();
                    }
                    faults.add(rules);
                    text(StatusCode::OK, faults.describe())
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        (&Method::GET, "/debug/calls") => {
            let calls = serde_json::to_vec(&faults.calls()).unwrap_or_default();
            let mut response = text(StatusCode::OK, calls);
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("application/json"),
            );
            response
        }
        (&Method::DELETE, "/debug/calls") => {
            faults.forget_calls();
            text(StatusCode::OK, "")
        }
        (&Method::POST, "/debug/forward") => {
            match world.forward(String::from_utf8_lossy(&body).trim()).await {
                Ok(address) => text(StatusCode::OK, format!("{address}\n")),
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

/// The API versions that we speak, newest first; a client takes the newest that it knows too.
pub(crate) const API_VERSIONS: [&str; 5] = ["8.0.1.0", "7.0.0.0", "6.7.3", "6.7", "6.5"];

fn versions() -> String {
    let mut prior = String::new();
    for version in &API_VERSIONS[1..] {
        prior.push_str("<version>");
        prior.push_str(version);
        prior.push_str("</version>");
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<namespaces version=\"1.0\"><namespace>\
         <name>urn:vim25</name><version>{}</version><priorVersions>{prior}</priorVersions>\
         </namespace></namespaces>\n",
        API_VERSIONS[0]
    )
}

/// Enough of a WSDL for those who only look whether there is one.
const WSDL: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <definitions targetNamespace=\"urn:vim25Service\" xmlns=\"http://schemas.xmlsoap.org/wsdl/\" \
    xmlns:interface=\"urn:vim25\"><import location=\"vim.wsdl\" namespace=\"urn:vim25\"/>\
    <service name=\"VimService\"/></definitions>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_found_with_and_without_quotes() {
        assert_eq!(
            session_cookie("a=b; vmware_soap_session=\"x-1\""),
            Some("x-1".into())
        );
        assert_eq!(
            session_cookie("vmware_soap_session=x-1; c=d"),
            Some("x-1".into())
        );
        assert_eq!(session_cookie("c=d"), None);
    }
}
