//! A server that says what a test tells it to: HTTP/1.1 without TLS, SOAP on top.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use vmomi::soap::{self, Fault, Request};
use vmomi::types::*;
use vmomi::{Config, ManagedObjectReference, Value, Version};

/// What the server does with a request.
pub enum Reply {
    /// Answers.
    Text(u16, String),
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Hang,
}

impl Reply {
    pub fn of(method: &str, value: &dyn Value) -> Self {
        Self::Text(200, soap::response(method, value, Version::newest()))
    }
    pub fn fault(fault: impl Into<vmomi::Poly<MethodFault>>) -> Self {
        Self::Text(
            500,
            soap::fault(&Fault::new(fault, "so the test says"), Version::newest()),
        )
    }
}

pub type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handler = Arc<dyn Fn(Request, Option<String>) -> Answer + Send + Sync>;

pub struct Server {
    pub address: std::net::SocketAddr,
    pub counts: Arc<Mutex<HashMap<&'static str, usize>>>,
    pub at_once: Arc<AtomicUsize>,
    pub most_at_once: Arc<AtomicUsize>,
}

impl Server {
    /// Serves what has no answer of its own (`RetrieveServiceContent`, `Login`) itself, the rest by `handler`.
    pub async fn start(
        handler: impl Fn(Request, Option<String>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            counts: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
        };
        let handler: Handler = Arc::new(handler);
        let (counts, at_once, most) = (
            server.counts.clone(),
            server.at_once.clone(),
            server.most_at_once.clone(),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(
                    stream,
                    handler.clone(),
                    counts.clone(),
                    at_once.clone(),
                    most.clone(),
                ));
            }
        });
        server
    }

    pub fn config(&self) -> Config {
        Config::new(&format!("http://{}/sdk", self.address))
            .unwrap()
            .with_password("root", "secret")
    }

    pub fn count(&self, method: &str) -> usize {
        self.counts
            .lock()
            .unwrap()
            .get(method)
            .copied()
            .unwrap_or(0)
    }
}

async fn connection(
    mut stream: TcpStream,
    handler: Handler,
    counts: Arc<Mutex<HashMap<&'static str, usize>>>,
    at_once: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
        let header = |name: &str| {
            head.lines().find_map(|l| {
                l.strip_prefix(name)?
                    .strip_prefix(':')
                    .map(|v| v.trim().to_owned())
            })
        };
        let length: usize = header("content-length").unwrap().parse().unwrap();
        while buffer.len() < head_end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let request = soap::parse_request(&buffer[head_end..head_end + length]).unwrap();
        buffer.drain(..head_end + length);
        let method = request.method.name;
        *counts.lock().unwrap().entry(method).or_default() += 1;
        most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let reply = match method {
            "RetrieveServiceContent" => Reply::of("RetrieveServiceContent", &content()),
            "Login" => Reply::of("Login", &UserSession::default()),
            _ => handler(request, header("cookie")).await,
        };
        at_once.fetch_sub(1, Ordering::SeqCst);
        let (status, text) = match reply {
            Reply::Text(status, text) => (status, text),
            Reply::Close => return,
            Reply::Hang => std::future::pending().await,
        };
        let cookie = match method {
            "Login" => {
                let logins = counts.lock().unwrap()["Login"];
                format!("Set-Cookie: vmware_soap_session=\"opaque={logins}\"; Path=/; Secure\r\n")
            }
            _ => String::new(),
        };
        let answer = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: text/xml\r\n{cookie}Content-Length: {}\r\n\r\n{text}",
            text.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn content() -> ServiceContent {
    let manager = |ty: &str| ManagedObjectReference::new(ty, ty);
    ServiceContent {
        root_folder: manager("Folder"),
        property_collector: manager("PropertyCollector"),
        session_manager: Some(manager("SessionManager")),
        view_manager: Some(manager("ViewManager")),
        about: AboutInfo {
            api_version: "8.0.1.0".into(),
            api_type: "HostAgent".into(),
            ..Default::default()
        },
        ..Default::default()
    }
}
