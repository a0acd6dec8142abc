//! What a request fails with: a status and docker's text; the one table from domain errors to statuses.

use std::borrow::Cow;

use actors::ErrorKind;
use http::StatusCode;

/// An answer that reports a failure: `{"message":"<text>"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    form: Form,
}

/// How a failure's text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON document.
    Json,
    /// Plain text, for versions that are too old.
    PlainText,
    /// A line on the raw stream that the client wanted to have: what moby does where it has taken the connection.
    RawStream,
}

/// The table: how each kind of domain error ends at a Docker client.
const STATUSES: &[(ErrorKind, StatusCode)] = &[
    (ErrorKind::NotFound, StatusCode::NOT_FOUND),
    (ErrorKind::Invalid, StatusCode::BAD_REQUEST),
    (ErrorKind::Conflict, StatusCode::CONFLICT),
    (ErrorKind::NotModified, StatusCode::NOT_MODIFIED),
    (ErrorKind::Forbidden, StatusCode::FORBIDDEN),
    (ErrorKind::Unauthorized, StatusCode::UNAUTHORIZED),
    (ErrorKind::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
    (ErrorKind::NotImplemented, StatusCode::NOT_IMPLEMENTED),
    (ErrorKind::Internal, StatusCode::INTERNAL_SERVER_ERROR),
];

impl ApiError {
    /// A failure with any status that is not a success.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            form: Form::Json,
        }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404: something named does not exist.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409: the present state forbids it.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 501: moby has it, we do not yet.
    pub fn not_implemented(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 404 for a path, a method or a version of a route that moby does not have.
    pub fn page_not_found() -> Self {
        Self::not_found("page not found")
    }

    /// The same failure, answered in another form.
    pub fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer's text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How the text is written.
    pub fn form(&self) -> Form {
        self.form
    }
}

/// Turns a domain error into an answer.
///
/// A function instead of `From`, so that every place where a domain error leaves for a client can be found.
pub fn answer(error: actors::Error) -> ApiError {
    let kind = error.kind();
    let status = STATUSES
        .iter()
        .find(|(row, _)| *row == kind)
        .map_or(StatusCode::INTERNAL_SERVER_ERROR, |(_, status)| *status);
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(error = %error, "request failed");
    }
    ApiError::new(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_one_status() {
        use ErrorKind as K;
        for kind in [
            K::NotFound,
            K::Invalid,
            K::Conflict,
            K::NotModified,
            K::Forbidden,
            K::Unauthorized,
            K::Unavailable,
            K::NotImplemented,
            K::Internal,
        ] {
            assert_eq!(
                STATUSES.iter().filter(|(row, _)| *row == kind).count(),
                1,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn texts_and_statuses_are_dockers() {
        let id = actors::ContainerId::of_name("x");
        let rows: Vec<(actors::Error, u16, String)> = vec![
            (actors::Error::NoSuchContainer("x".into()), 404, "No such container: x".into()),
            (actors::Error::NoSuchImage("x:latest".into()), 404, "No such image: x:latest".into()),
            (actors::Error::NoSuchNetwork("x".into()), 404, "network x not found".into()),
            (actors::Error::NoSuchVolume("x".into()), 404, "get x: no such volume".into()),
            (actors::Error::NoSuchExec("x".into()), 404, "No such exec instance: x".into()),
            (actors::Error::NotRunning(id), 409, format!("container {id} is not running")),
            (actors::Error::NotPaused(id), 500, format!("Container {id} is not paused")),
            (actors::Error::AlreadyPaused(id), 409, format!("container {id} is already paused")),
            (
                actors::Error::AmbiguousPrefix("ab".into()),
                400,
                "multiple IDs found with provided prefix: ab".into(),
            ),
            (
                actors::Error::NameTaken { name: "n".into(), holder: id },
                409,
                format!(
                    "Conflict. The container name \"/n\" is already in use by container \"{id}\". You have to \
                     remove (or rename) that container to be able to reuse that name."
                ),
            ),
            (
                actors::Error::RemoveRunning("n".into()),
                409,
                "cannot remove container \"n\": container is running: stop the container before removing or \
                 force remove"
                    .into(),
            ),
        ];
        for (error, status, text) in rows {
            let answer = answer(error);
            assert_eq!(
                (answer.status().as_u16(), answer.message()),
                (status, text.as_str())
            );
        }
    }
}
