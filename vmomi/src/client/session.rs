//! The session itself: HTTP, cookie, login, and the way of a call.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use tokio::sync::Semaphore;
use url::Url;

use super::config::{Config, Credentials};
use super::error::{Error, Retry};
use super::record::Record;
use super::{Call, IN_FLIGHT};
use crate::data::Data;
use crate::method::{Method, MethodInfo};
use crate::scalar::ManagedObjectReference;
use crate::soap::{self, Fault, Header};
use crate::tls::{self, Refused};
use crate::types::{
    CloneSessionRequest, LoginRequest, RetrieveServiceContentRequest, ServiceContent,
};
use crate::value::Value;
use crate::version::Version;
use crate::xml::Limits;

/// What every server of today answers to, before it has told its own version.
const FIRST_VERSION: &str = "6.0";

/// Methods that need no session, so that a `NotAuthenticated` of theirs is final.
const SESSIONLESS: &[&str] = &[
    "Login",
    "CloneSession",
    "LoginByToken",
    "RetrieveServiceContent",
    "Logout",
];

/// A session with a vSphere.
pub(crate) struct Session {
    http: reqwest::Client,
    url: Url,
    host: String,
    config: Config,
    version: Version,
    content: ServiceContent,
    cookie: Mutex<Option<HeaderValue>>,
    /// How many logins there were; held while one is under way.
    logins: tokio::sync::Mutex<u64>,
    /// The same number for those who only look.
    generation: std::sync::atomic::AtomicU64,
    /// Whether it was closed; then nobody logs in again.
    closed: std::sync::atomic::AtomicBool,
    permits: Semaphore,
    record: Record,
    refused: Refused,
}

impl Session {
    /// Connects and logs in.
    pub(crate) async fn open(config: Config) -> Result<Self, Error> {
        let host = match (config.url.host_str(), config.url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let refused = Refused::default();
        let tls = tls::config_with(&config.trust, &refused).map_err(|source| Error::Tls {
            host: host.clone(),
            source,
        })?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(&config.user_agent)
            .connect_timeout(config.timeout.min(Duration::from_secs(15)))
            .tcp_nodelay(true)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(IN_FLIGHT + 4)
            .build()
            .map_err(|source| Error::Unreachable {
                method: "connect".into(),
                host: host.clone(),
                source,
            })?;
        let mut session = Self {
            http,
            url: config.url.clone(),
            host,
            config,
            version: Version::parse(FIRST_VERSION).unwrap_or_else(Version::newest),
            content: ServiceContent::default(),
            cookie: Mutex::new(None),
            logins: tokio::sync::Mutex::new(0),
            generation: std::sync::atomic::AtomicU64::new(0),
            closed: std::sync::atomic::AtomicBool::new(false),
            permits: Semaphore::new(IN_FLIGHT),
            record: Record::default(),
            refused,
        };
        let this = ManagedObjectReference::service_instance();
        session.content = session
            .invoke(&this, RetrieveServiceContentRequest {})
            .await?;
        session.version =
            Version::parse(&session.content.about.api_version).unwrap_or(session.version);
        session.login().await?;
        session
            .generation
            .store(1, std::sync::atomic::Ordering::Release);
        *session.logins.get_mut() = 1;
        Ok(session)
    }

    pub(crate) fn content(&self) -> &ServiceContent {
        &self.content
    }
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }
    pub(crate) fn timeout(&self) -> Duration {
        self.config.timeout
    }
    pub(crate) fn keep_alive(&self) -> Duration {
        self.config.keep_alive
    }
    pub(crate) fn page(&self) -> i32 {
        self.config.page
    }
    pub(crate) fn retry(&self) -> Retry {
        self.config.retry
    }
    pub(crate) fn longest_wait(&self) -> Duration {
        self.config.wait
    }
    pub(crate) fn cookie(&self) -> Option<String> {
        self.cookie_header()?.to_str().ok().map(str::to_owned)
    }
    pub(crate) fn cookie_header(&self) -> Option<HeaderValue> {
        self.cookie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(std::sync::atomic::Ordering::Acquire)
    }

    async fn login(&self) -> Result<(), Error> {
        let missing = || self.unexpected("the service content", "there is no session manager");
        match &self.config.credentials {
            Credentials::None => Ok(()),
            Credentials::Password { user, password } => {
                let manager = self.content.session_manager.as_ref().ok_or_else(missing)?;
                let request = LoginRequest {
                    user_name: user.clone(),
                    password: password.clone(),
                    ..Default::default()
                };
                self.invoke(manager, request).await.map(drop)
            }
            Credentials::CloneTicket(ticket) => {
                let manager = self.content.session_manager.as_ref().ok_or_else(missing)?;
                self.invoke(
                    manager,
                    CloneSessionRequest {
                        clone_ticket: ticket.clone(),
                    },
                )
                .await
                .map(drop)
            }
        }
    }

    /// Logs in again, unless somebody has done so since `generation` was looked at.
    pub(crate) async fn renew(&self, generation: u64) -> Result<(), Error> {
        let mut logins = self.logins.lock().await;
        if *logins != generation {
            return Ok(());
        }
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(self.unexpected("the session", "it was closed"));
        }
        tracing::info!(host = %self.host, "the vSphere session has ended; logging in again");
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.login().await?;
        *logins += 1;
        self.generation
            .store(*logins, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// From now on nobody logs in again. A wait that still stands ends with the session, and would else take that
    /// for its expiry; a login under way is waited for, so that there is one session to log out of.
    pub(crate) async fn end(&self) {
        let _logins = self.logins.lock().await;
        self.closed
            .store(true, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn unexpected(&self, what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Unexpected {
            what: what.into(),
            host: self.host.clone(),
            reason: reason.into(),
        }
    }

    /// Calls a method and gives its result.
    pub(crate) fn invoke<'a, M: Method>(
        &'a self,
        this: &'a ManagedObjectReference,
        request: M,
    ) -> Call<'a, M::Response> {
        self.invoke_within(this, request, self.config.timeout)
    }

    /// As [`invoke`](Self::invoke), with its own measure of time.
    pub(crate) fn invoke_within<'a, M: Method>(
        &'a self,
        this: &'a ManagedObjectReference,
        request: M,
        timeout: Duration,
    ) -> Call<'a, M::Response> {
        Box::pin(async move {
            let value = self.call(M::INFO, this, &request, timeout).await?;
            let value: Box<dyn std::any::Any + Send> = value;
            match value.downcast::<M::Response>() {
                Ok(value) => Ok(*value),
                Err(_) => Err(self.unexpected(M::INFO.name, "the result has another type")),
            }
        })
    }

    async fn call(
        &self,
        method: &'static MethodInfo,
        this: &ManagedObjectReference,
        arguments: &dyn Data,
        timeout: Duration,
    ) -> Result<Box<dyn Value>, Error> {
        // The standing wait takes no permit: it would hold it for ever.
        let _permit = match method.name {
            "WaitForUpdatesEx" | "Login" | "CloneSession" => None,
            _ => self.permits.acquire().await.ok(),
        };
        let body = soap::request(method, this, arguments, &Header::default(), self.version);
        let mut renewed = false;
        let mut attempt = 0;
        loop {
            let generation = self.generation();
            let error = match self.attempt(method, this, body.clone(), timeout).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.is_fault("NotAuthenticated") && !renewed && !SESSIONLESS.contains(&method.name)
            {
                renewed = true;
                self.renew(generation).await?;
                continue;
            }
            let again = matches!(error, Error::Unreachable { .. })
                || (reads_only(method.name) && error.is_retryable() && error.fault().is_none());
            attempt += 1;
            match self.config.retry.pause(attempt) {
                Some(pause) if again => {
                    tracing::debug!(method = method.name, %error, attempt, "trying again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        method: &'static MethodInfo,
        this: &ManagedObjectReference,
        body: String,
        timeout: Duration,
    ) -> Result<Box<dyn Value>, Error> {
        let begun = Instant::now();
        let result = self.exchange(method, this, body, timeout).await;
        let took = begun.elapsed();
        self.record.add(method.name, took, result.is_err());
        tracing::trace!(method = method.name, %this, ?took, failed = result.is_err(), "called");
        result
    }

    async fn exchange(
        &self,
        method: &'static MethodInfo,
        this: &ManagedObjectReference,
        body: String,
        timeout: Duration,
    ) -> Result<Box<dyn Value>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/xml; charset=\"utf-8\""),
        );
        if let Ok(action) = HeaderValue::from_str(&format!("urn:vim25/{}", self.version.id())) {
            headers.insert("SOAPAction", action);
        }
        if let Some(cookie) = self.cookie_header() {
            headers.insert(COOKIE, cookie);
        }
        let sent = self
            .http
            .post(self.url.clone())
            .headers(headers)
            .timeout(timeout)
            .body(body)
            .send()
            .await;
        let response = sent.map_err(|source| self.transport(method.name, source, timeout))?;
        let status = response.status().as_u16();
        self.keep_cookie(response.headers());
        if status != 200 && status != 500 {
            return Err(Error::Status {
                method: method.name.into(),
                host: self.host.clone(),
                status,
            });
        }
        let bytes = response
            .bytes()
            .await
            .map_err(|source| self.transport(method.name, source, timeout))?;
        let mut value = (method.response)();
        let parsed = soap::parse_response_into(&bytes, method.name, &mut *value, Limits::RESPONSE);
        match parsed {
            Ok(None) => Ok(value),
            Ok(Some(fault)) => Err(fault_of(method, this, fault)),
            Err(_) if status == 500 => Err(Error::Status {
                method: method.name.into(),
                host: self.host.clone(),
                status,
            }),
            Err(source) => Err(Error::Malformed {
                method: method.name.into(),
                host: self.host.clone(),
                source,
            }),
        }
    }

    /// Tells what a transport's failure means.
    pub(crate) fn transport(&self, method: &str, source: reqwest::Error, after: Duration) -> Error {
        let (method, host) = (method.to_owned(), self.host.clone());
        let refused = self
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (Some(thumbprint), true) = (refused, source.is_connect()) {
            Error::Untrusted {
                host,
                thumbprint,
                source,
            }
        } else if source.is_connect() {
            Error::Unreachable {
                method,
                host,
                source: source.without_url(),
            }
        } else if source.is_timeout() {
            Error::Timeout {
                method,
                host,
                after,
            }
        } else {
            Error::Broken {
                method,
                host,
                source: source.without_url(),
            }
        }
    }

    fn keep_cookie(&self, headers: &HeaderMap) {
        for header in headers.get_all(SET_COOKIE) {
            let Ok(text) = header.to_str() else { continue };
            // The value is opaque, with or without quotes; attributes follow a semicolon.
            let pair = text.split(';').next().unwrap_or_default().trim();
            if pair.starts_with("vmware_soap_session=")
                && let Ok(value) = HeaderValue::from_str(pair)
            {
                *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            }
        }
    }
}

fn fault_of(method: &MethodInfo, this: &ManagedObjectReference, fault: Fault) -> Error {
    Error::Fault {
        method: method.name.into(),
        this: this.clone(),
        fault: Box::new(fault),
    }
}

/// Whether a method changes nothing, so that sending it twice does no harm.
fn reads_only(method: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "Retrieve", "Query", "Find", "Fetch", "Check", "Current", "Has", "Browse", "List",
    ];
    method == "WaitForUpdatesEx"
        || method == "SessionIsActive"
        || (PREFIXES.iter().any(|prefix| method.starts_with(prefix)) && !method.ends_with("_Task"))
}
