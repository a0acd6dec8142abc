//! Why a process could not be started, in docker's words.

use std::error::Error;
use std::io;

const START: &str = "failed to create task for container: failed to create shim task: \
    OCI runtime create failed: runc create failed: unable to start container process: ";
const EXEC: &str = "OCI runtime exec failed: exec failed: unable to start container process: ";

/// A process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LaunchError {
    /// What docker would say.
    pub text: String,
    /// Docker's exit code: 127 for what is not found, 126 for what cannot run, else 128.
    pub code: i32,
}

impl LaunchError {
    /// The image lacks the program, or it cannot run.
    pub(super) fn program(code: i32, text: &str) -> Self {
        Self {
            text: format!("{START}{text}: unknown"),
            code,
        }
    }

    /// An error that docker gives without mentioning a runtime.
    pub(super) fn plain(text: String) -> Self {
        Self { text, code: 128 }
    }

    /// Something that should not fail did. The text avoids the words by which the docker CLI
    /// recognises a missing program.
    pub fn internal(what: &str, source: &dyn Error) -> Self {
        Self::program(128, &format!("{what}: {source}"))
    }

    /// The same for an exec.
    #[must_use]
    pub(super) fn of_exec(self) -> Self {
        match self.text.strip_prefix(START) {
            Some(rest) => Self {
                text: format!("{EXEC}{rest}"),
                code: self.code,
            },
            // What docker finds out before it asks a runtime.
            None => Self { code: 126, ..self },
        }
    }
}

/// Names the step that failed.
pub(super) trait Step<T> {
    /// What was tried.
    fn step(self, what: &str) -> Result<T, LaunchError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: &str) -> Result<T, LaunchError> {
        self.map_err(|source| LaunchError::internal(what, &source))
    }
}
