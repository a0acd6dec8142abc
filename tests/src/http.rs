//! A small HTTP client: one request a connection, so that nothing is hidden that a killed server does to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body's type, without parameters.
    pub kind: String,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{:?} is no JSON", self.text()))
    }

    /// The body as text, for messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the request was carried out.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// Sends one request and reads the whole answer, all within `limit`.
///
/// # Errors
/// When the server cannot be reached, breaks off, or is late.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &Body<'_>,
    limit: Duration,
) -> Result<Answer> {
    let end = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&server, limit).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limit))?;
    let (kind, bytes) = match body {
        Body::None => ("", Vec::new()),
        Body::Json(value) => ("application/json", serde_json::to_vec(value)?),
        Body::Tar(bytes) => ("application/x-tar", bytes.to_vec()),
        Body::Raw(kind, bytes) => (*kind, bytes.to_vec()),
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: vch\r\nConnection: close\r\n");
    if !kind.is_empty() {
        head.push_str(&format!("Content-Type: {kind}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len()));
    stream.write_all(head.as_bytes()).context("sending")?;
    stream.write_all(&bytes).context("sending")?;
    let mut reader = BufReader::new(Timed { stream, end });
    read_answer(&mut reader).with_context(|| format!("{method} {path}"))
}

/// Asks for a raw stream, as docker's clients do for an attach, and gives what follows the answer's head.
///
/// # Errors
/// When the server cannot be reached, breaks off, or refuses.
pub fn hijack(server: SocketAddr, path: &str, limit: Duration) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&server, limit).context("connecting")?;
    stream.set_read_timeout(Some(limit))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: vch\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).context("sending")?;
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?;
    ensure!(status.contains(" 101 "), "{path}: {status}");
    while !line(&mut reader)?.is_empty() {}
    Ok(reader)
}

/// What goes with a request.
pub enum Body<'a> {
    /// Nothing.
    None,
    /// A JSON document.
    Json(Value),
    /// An archive.
    Tar(&'a [u8]),
    /// Bytes of any type.
    Raw(&'a str, &'a [u8]),
}

/// A stream whose reads all end at one moment.
struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn read_answer(reader: &mut impl BufRead) -> Result<Answer> {
    let status = line(reader)?;
    let status = status
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("the server says {status:?}"))?;
    let (mut length, mut chunked, mut kind) = (None, false, String::new());
    loop {
        let header = line(reader)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<u64>()?);
        }
        if let Some(value) = header.strip_prefix("content-type:") {
            let value = value.split(';').next().unwrap_or(value);
            value.trim().clone_into(&mut kind);
        }
        chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
    }
    let mut body = Vec::new();
    if chunked {
        chunks(reader, &mut body)?;
    } else if let Some(length) = length {
        reader.take(length).read_to_end(&mut body)?;
        ensure!(body.len() as u64 == length, "the answer broke off");
    } else if !matches!(status, 204 | 304) {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, kind, body })
}

fn chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let size = line(reader)?;
        let size = u64::from_str_radix(size.trim(), 16).context("the size of a chunk")?;
        let before = body.len() as u64;
        reader.by_ref().take(size).read_to_end(body)?;
        ensure!(
            body.len() as u64 - before == size,
            "the answer broke off in a chunk"
        );
        line(reader)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    if reader.read_line(&mut text)? == 0 {
        bail!("the answer broke off");
    }
    Ok(text.trim_end().to_owned())
}
