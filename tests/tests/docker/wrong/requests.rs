//! Wrong requests, as no client of docker makes them: both engines answer with the same status and type.

use system_tests::http::Body;

/// A request and the status that it is answered with.
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// The path; versioned, so that both speak the same one.
    pub path: &'static str,
    /// The body with its type.
    pub body: Option<(&'static str, &'static str)>,
    /// The status.
    pub status: u16,
    /// Debian's, which is that of 20.10: what newer engines call the client's mistake was the server's then.
    pub debian: u16,
}

impl Request {
    /// The same request, which Debian's dockerd answers with another status.
    const fn on_debian(mut self, status: u16) -> Self {
        self.debian = status;
        self
    }

    /// The body as the client sends it.
    pub fn body(&self) -> Body<'_> {
        match self.body {
            None => Body::None,
            Some((kind, text)) => Body::Raw(kind, text.as_bytes()),
        }
    }
}

const JSON: &str = "application/json";

const fn plain(method: &'static str, path: &'static str, status: u16) -> Request {
    Request {
        method,
        path,
        body: None,
        status,
        debian: status,
    }
}

const fn with(
    method: &'static str,
    path: &'static str,
    kind: &'static str,
    text: &'static str,
    status: u16,
) -> Request {
    Request {
        method,
        path,
        body: Some((kind, text)),
        status,
        debian: status,
    }
}

/// The requests. Containers are those of the wrong commands' test.
pub const WRONG: &[Request] = &[
    plain("GET", "/v1.41/nosuch", 404),
    plain("GET", "/v1.41/containers", 404),
    plain("PATCH", "/v1.41/containers/json", 404),
    plain("GET", "/v1.99/info", 400),
    plain("GET", "/v1.41/containers/nosuch/json", 404),
    plain("GET", "/v1.41/containers/nosuch/top", 404),
    plain("GET", "/v1.41/containers/stopped/top", 409),
    plain("GET", "/v1.41/containers/nosuch/logs?stdout=1", 404),
    plain("GET", "/v1.41/containers/running/logs", 400),
    plain("GET", "/v1.41/containers/json?filters=x", 400).on_debian(500),
    plain(
        "GET",
        "/v1.41/containers/json?filters=%7B%22status%22%3A%5B%22x%22%5D%7D",
        400,
    ),
    plain(
        "GET",
        "/v1.41/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D",
        400,
    ),
    plain("GET", "/v1.41/containers/json?limit=x", 400).on_debian(500),
    plain("POST", "/v1.41/containers/nosuch/start", 404),
    plain("POST", "/v1.41/containers/running/start", 304),
    plain("POST", "/v1.41/containers/frozen/start", 409),
    plain("POST", "/v1.41/containers/nosuch/stop", 404),
    plain("POST", "/v1.41/containers/stopped/stop", 304),
    plain("POST", "/v1.41/containers/running/stop?t=x", 400).on_debian(500),
    plain("POST", "/v1.41/containers/nosuch/restart", 404),
    plain("POST", "/v1.41/containers/nosuch/kill", 404),
    plain("POST", "/v1.41/containers/stopped/kill", 409),
    plain("POST", "/v1.41/containers/running/kill?signal=NOSUCH", 400),
    plain("POST", "/v1.41/containers/nosuch/pause", 404),
    plain("POST", "/v1.41/containers/stopped/pause", 409),
    plain("POST", "/v1.41/containers/frozen/pause", 409),
    plain("POST", "/v1.41/containers/nosuch/unpause", 404),
    plain("POST", "/v1.41/containers/running/unpause", 500),
    plain("POST", "/v1.41/containers/nosuch/rename?name=x1", 404),
    plain("POST", "/v1.41/containers/running/rename", 400),
    plain("POST", "/v1.41/containers/running/rename?name=taken", 409),
    plain("POST", "/v1.41/containers/nosuch/resize?h=1&w=1", 404),
    plain("POST", "/v1.41/containers/stopped/resize?h=1&w=1", 409),
    plain("POST", "/v1.41/containers/running/resize?h=x&w=1", 400),
    plain("POST", "/v1.41/containers/nosuch/wait", 404),
    plain(
        "POST",
        "/v1.41/containers/nosuch/attach?stream=1&stdout=1",
        404,
    ),
    plain(
        "POST",
        "/v1.41/containers/frozen/attach?stream=1&stdout=1",
        409,
    ),
    plain(
        "POST",
        "/v1.41/containers/running/attach?stream=1&stdout=1&detachKeys=nonsense",
        400,
    ),
    plain("DELETE", "/v1.41/containers/nosuch", 404),
    plain("DELETE", "/v1.41/containers/running", 409),
    plain("DELETE", "/v1.41/containers/frozen", 409),
    with("POST", "/v1.41/containers/create", "text/plain", "{}", 400),
    with("POST", "/v1.41/containers/create", JSON, "{", 400).on_debian(500),
    with("POST", "/v1.41/containers/create", JSON, "{}", 400),
    with(
        "POST",
        "/v1.41/containers/create?name=x%20y",
        JSON,
        r#"{"Image":"busybox:test"}"#,
        400,
    ),
    with(
        "POST",
        "/v1.41/containers/create?name=taken",
        JSON,
        r#"{"Image":"busybox:test","Cmd":["true"]}"#,
        409,
    ),
    with(
        "POST",
        "/v1.41/containers/create",
        JSON,
        r#"{"Image":"nosuch"}"#,
        404,
    ),
    with(
        "POST",
        "/v1.41/containers/nosuch/exec",
        JSON,
        r#"{"Cmd":["true"]}"#,
        404,
    ),
    with(
        "POST",
        "/v1.41/containers/stopped/exec",
        JSON,
        r#"{"Cmd":["true"]}"#,
        409,
    ),
    with(
        "POST",
        "/v1.41/containers/frozen/exec",
        JSON,
        r#"{"Cmd":["true"]}"#,
        409,
    ),
    with("POST", "/v1.41/containers/running/exec", JSON, "{}", 400),
    with("POST", "/v1.41/exec/nosuch/start", JSON, "{}", 404),
    plain("GET", "/v1.41/exec/nosuch/json", 404),
    plain("POST", "/v1.41/exec/nosuch/resize?h=1&w=1", 404),
    plain("GET", "/v1.41/events?filters=x", 400).on_debian(500),
    plain("GET", "/v1.41/events?since=2&until=1", 400),
    plain("GET", "/v1.41/images/nosuch/json", 404),
    plain("DELETE", "/v1.41/images/nosuch", 404),
    plain("POST", "/v1.41/images/nosuch/tag?repo=a&tag=b", 404),
    plain(
        "POST",
        "/v1.41/images/busybox:test/tag?repo=UPPER&tag=b",
        400,
    )
    .on_debian(500),
    plain("GET", "/v1.41/volumes/nosuch", 404),
    plain("DELETE", "/v1.41/volumes/nosuch", 404),
    plain("DELETE", "/v1.41/volumes/inuse", 409),
    with(
        "POST",
        "/v1.41/volumes/create",
        JSON,
        r#"{"Name":"bad/name"}"#,
        400,
    ),
    plain("GET", "/v1.41/networks/nosuch", 404),
    plain("DELETE", "/v1.41/networks/nosuch", 404),
    plain("DELETE", "/v1.41/networks/bridge", 403),
    plain("GET", "/v1.41/services", 503),
    plain("GET", "/v1.41/plugins/nosuch/json", 404),
];
