//! Files of a datastore over HTTP: `/folder/<path>?dcPath=<datacenter>&dsName=<datastore>`.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, COOKIE, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio_util::io::ReaderStream;
use url::Url;

use crate::client::{Client, Error};

/// How long a transfer may take beyond a call's time, per MiB: a slow line gets its megabytes through.
const PER_MIB: Duration = Duration::from_secs(2);

/// The files of one datastore.
#[derive(Clone, Debug)]
pub struct DatastoreFiles {
    client: Client,
    datacenter: String,
    datastore: String,
}

impl Client {
    /// The files of the datastore called `datastore` of the datacenter at inventory path `datacenter`
    /// (`ha-datacenter` on ESX).
    pub fn datastore(
        &self,
        datacenter: impl Into<String>,
        datastore: impl Into<String>,
    ) -> DatastoreFiles {
        DatastoreFiles {
            client: self.clone(),
            datacenter: datacenter.into(),
            datastore: datastore.into(),
        }
    }
}

/// A file that is being read.
pub struct Download {
    /// How many bytes are to come, when the server says so.
    pub length: Option<u64>,
    /// How long the whole file is, when a range of it was asked for and the server says so.
    pub total: Option<u64>,
    response: Response,
    what: String,
    client: Client,
}

impl Download {
    /// The bytes as they come.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let Self {
            response,
            what,
            client,
            ..
        } = self;
        response.bytes_stream().map_err(move |source| {
            client
                .session()
                .transport(&what, source, client.session().timeout())
        })
    }

    /// All bytes at once.
    ///
    /// # Errors
    /// When the connection breaks before the end.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        let timeout = self.client.session().timeout();
        self.response
            .bytes()
            .await
            .map_err(|source| self.client.session().transport(&self.what, source, timeout))
    }
}

impl DatastoreFiles {
    /// The address of a file; `path` is relative to the datastore's root.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.client.url().clone();
        url.set_path("/folder");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.split('/').filter(|s| !s.is_empty()));
        }
        url.query_pairs_mut()
            .clear()
            .append_pair("dcPath", &self.datacenter)
            .append_pair("dsName", &self.datastore);
        url
    }

    /// The name of a file in the API: `[datastore] path`.
    pub fn name(&self, path: &str) -> String {
        format!("[{}] {path}", self.datastore)
    }

    /// How long a file is, or nothing when there is none.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn length(&self, path: &str) -> Result<Option<u64>, Error> {
        let what = format!("HEAD {}", self.name(path));
        let response = self
            .send(Method::HEAD, path, &what, self.time_for(0), |r| r)
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                Ok(header(&response, CONTENT_LENGTH).and_then(|v| v.parse().ok()))
            }
            status => Err(self.refused(what, status)),
        }
    }

    /// Begins to read a file, or gives nothing when there is none.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn download(&self, path: &str) -> Result<Option<Download>, Error> {
        let what = format!("GET {}", self.name(path));
        let response = self
            .send(Method::GET, path, &what, self.time_for(0), |r| r)
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => Ok(Some(self.reading(response, what))),
            status => Err(self.refused(what, status)),
        }
    }

    /// Begins to read a file from byte `from`, up to and without byte `to` if that is given.
    ///
    /// A range behind the file's end gives no bytes. Nothing when there is no file.
    ///
    /// # Errors
    /// When the server does not answer, refuses, or sends another range.
    pub async fn download_range(
        &self,
        path: &str,
        from: u64,
        to: Option<u64>,
    ) -> Result<Option<Download>, Error> {
        let what = format!("GET {} from byte {from}", self.name(path));
        let range = match to {
            Some(to) => format!("bytes={from}-{}", to.saturating_sub(1)),
            None => format!("bytes={from}-"),
        };
        let response = self
            .send(Method::GET, path, &what, self.time_for(0), |request| {
                request.header(RANGE, range.clone())
            })
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK if from == 0 && to.is_none() => Ok(Some(self.reading(response, what))),
            StatusCode::OK => Err(self
                .client
                .session()
                .unexpected(what, "the server does not serve ranges")),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let mut empty = self.reading(Response::from(http_empty()), what);
                empty.length = Some(0);
                empty.total = header(&response, CONTENT_RANGE).and_then(total);
                Ok(Some(empty))
            }
            StatusCode::PARTIAL_CONTENT => {
                let said = header(&response, CONTENT_RANGE)
                    .unwrap_or_default()
                    .to_owned();
                if !said.starts_with(&format!("bytes {from}-")) {
                    return Err(self
                        .client
                        .session()
                        .unexpected(what, format!("the server sent {said:?}")));
                }
                Ok(Some(self.reading(response, what)))
            }
            status => Err(self.refused(what, status)),
        }
    }

    /// Reads a whole file, or gives nothing when there is none.
    ///
    /// # Errors
    /// As [`download`](Self::download), and when the connection breaks before the end.
    pub async fn read(&self, path: &str) -> Result<Option<Bytes>, Error> {
        match self.download(path).await? {
            Some(download) => download.bytes().await.map(Some),
            None => Ok(None),
        }
    }

    /// Writes a file, replacing what is there.
    ///
    /// # Errors
    /// When the server does not answer, or refuses.
    pub async fn write(&self, path: &str, content: impl Into<Bytes>) -> Result<(), Error> {
        let content: Bytes = content.into();
        let what = format!("PUT {}", self.name(path));
        let timeout = self.time_for(content.len() as u64);
        let response = self
            .send(Method::PUT, path, &what, timeout, |r| {
                r.body(content.clone())
            })
            .await?;
        self.stored(what, response.status())
    }

    /// Writes a file of `length` bytes from a stream, replacing what is there.
    ///
    /// # Errors
    /// When the server does not answer or refuses, or the stream fails or ends early.
    pub async fn upload<S, E>(&self, path: &str, length: u64, content: S) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let what = format!("PUT {}", self.name(path));
        // A stream can be read once: the session must be alive before, not found dead after.
        self.length(path).await?;
        let request = self
            .request(Method::PUT, path)
            .header(CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(content.map_err(Into::into)));
        let limit = self.time_for(length);
        let response = self.exchange("PUT", request, &what, limit).await?;
        self.stored(what, response.status())
    }

    /// Writes a file from a local one, replacing what is there.
    ///
    /// # Errors
    /// As [`upload`](Self::upload), and when the local file cannot be read.
    pub async fn upload_file(&self, path: &str, local: &Path) -> Result<(), Error> {
        let failed = |source| Error::File {
            what: format!("reading {}", local.display()),
            source,
        };
        let file = std::fs::File::open(local).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        // Blocking reads of a local file, 256 KiB each, are shorter than a turn of the executor's other work.
        let reader = ReaderStream::with_capacity(Blocking(file), 256 << 10);
        self.upload(path, length, reader.boxed()).await
    }

    fn reading(&self, response: Response, what: String) -> Download {
        Download {
            length: header(&response, CONTENT_LENGTH)
                .and_then(|v| v.parse().ok())
                .or(response.content_length()),
            total: header(&response, CONTENT_RANGE).and_then(total),
            response,
            what,
            client: self.client.clone(),
        }
    }

    fn time_for(&self, bytes: u64) -> Duration {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        self.client.session().timeout() + PER_MIB.saturating_mul(mib)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let session = self.client.session();
        let mut request = session.http().request(method, self.url(path));
        if let Some(cookie) = session.cookie_header() {
            request = request.header(COOKIE, cookie);
        }
        request
    }

    /// Sends a request that can be sent again, and does so once after a new login, and when it found no answer as
    /// often as [`Config::retry`](crate::Config::retry) says.
    async fn send(
        &self,
        method: Method,
        path: &str,
        what: &str,
        limit: Duration,
        with: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let name = match method {
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            _ => "GET",
        };
        let session = self.client.session();
        let generation = session.generation();
        let mut attempt = 0;
        let response = loop {
            let request = with(self.request(method.clone(), path));
            let error = match self.exchange(name, request, what, limit).await {
                Ok(response) => break response,
                Err(error) => error,
            };
            attempt += 1;
            match session.retry().pause(attempt) {
                Some(pause) if error.is_retryable() => tokio::time::sleep(pause).await,
                _ => return Err(error),
            }
        };
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.client.session().renew(generation).await?;
        self.exchange(name, with(self.request(method, path)), what, limit)
            .await
    }

    async fn exchange(
        &self,
        name: &'static str,
        request: RequestBuilder,
        what: &str,
        limit: Duration,
    ) -> Result<Response, Error> {
        let session = self.client.session();
        let begun = Instant::now();
        // Until the answer begins: what comes after it takes as long as it takes.
        let result = tokio::time::timeout(limit, request.send()).await;
        let failed = !matches!(&result, Ok(Ok(r)) if r.status().is_success());
        session.record().add(name, begun.elapsed(), failed);
        match result {
            Ok(result) => result.map_err(|source| session.transport(what, source, limit)),
            Err(_) => Err(Error::Timeout {
                method: what.to_owned(),
                host: session.host().to_owned(),
                after: limit,
            }),
        }
    }

    fn refused(&self, what: String, status: StatusCode) -> Error {
        Error::Status {
            method: what,
            host: self.client.session().host().to_owned(),
            status: status.as_u16(),
        }
    }

    fn stored(&self, what: String, status: StatusCode) -> Result<(), Error> {
        if status.is_success() {
            Ok(())
        } else {
            Err(self.refused(what, status))
        }
    }
}

fn header(response: &Response, name: reqwest::header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// `bytes 0-9/100` → 100.
fn total(range: &str) -> Option<u64> {
    range.rsplit_once('/')?.1.parse().ok()
}

fn http_empty() -> http::Response<Bytes> {
    http::Response::new(Bytes::new())
}

/// A file that is read where it stands.
struct Blocking(std::fs::File);

impl tokio::io::AsyncRead for Blocking {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let read = std::io::Read::read(&mut self.0, buffer.initialize_unfilled())?;
        buffer.advance(read);
        std::task::Poll::Ready(Ok(()))
    }
}
