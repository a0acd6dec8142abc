//! What can go wrong with a call, and whether trying again may help.

use std::time::Duration;

use crate::scalar::ManagedObjectReference;
use crate::soap::Fault;
use crate::tls::{Thumbprint, TlsError};
use crate::xml;

/// How often, and after what pause, a call is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often in all.
    pub attempts: u32,
    /// The pause after the first attempt; it doubles each time.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    /// Five attempts within about a second: what does not come back by then needs a person.
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(50),
            longest: Duration::from_secs(1),
        }
    }
}

impl Retry {
    /// The pause before attempt `attempt` (0 is the first, which has none), or nothing when there is no such attempt.
    pub fn pause(&self, attempt: u32) -> Option<Duration> {
        match attempt {
            0 => Some(Duration::ZERO),
            n if n >= self.attempts => None,
            n => Some(
                self.first
                    .saturating_mul(1 << (n - 1).min(16))
                    .min(self.longest),
            ),
        }
    }
}

/// Faults that pass: the same call may succeed later.
const PASSING: &[&str] = &[
    "TaskInProgress",
    "VAppTaskInProgress",
    "HostCommunication",
    "HostNotReachable",
    "NetworkDisruptedAndConfigRolledBack",
    "FailToLockFaultToleranceVMs",
    "ResourceInUse",
    "FileLocked",
    "Timedout",
    "NotAuthenticated",
];

/// A call, a login or a transfer has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's certificate is not trusted.
    #[error("the certificate of {host} is not trusted (thumbprint {thumbprint})")]
    Untrusted {
        /// The server.
        host: String,
        /// Its certificate's thumbprint.
        thumbprint: Thumbprint,
        /// What the TLS library says.
        #[source]
        source: reqwest::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up for {host}")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// The server was not reached: nothing was sent.
    #[error("{method}: {host} cannot be reached")]
    Unreachable {
        /// What was called.
        method: String,
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke after the call was sent: whether it took effect is not known.
    #[error("{method}: the connection to {host} broke")]
    Broken {
        /// What was called.
        method: String,
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// There was no answer in time: whether the call took effect is not known.
    #[error("{method}: {host} did not answer within {after:?}")]
    Timeout {
        /// What was called.
        method: String,
        /// The server.
        host: String,
        /// The measure.
        after: Duration,
    },
    /// The answer has a status that says it is none of the API.
    #[error("{method}: {host} answered with HTTP status {status}")]
    Status {
        /// What was called.
        method: String,
        /// The server.
        host: String,
        /// The status.
        status: u16,
    },
    /// The answer cannot be read.
    #[error("{method}: the answer of {host} cannot be read")]
    Malformed {
        /// What was called.
        method: String,
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: xml::Error,
    },
    /// The server answered with a fault.
    #[error("{method} on {this}: {fault}")]
    Fault {
        /// What was called.
        method: String,
        /// On which object.
        this: ManagedObjectReference,
        /// The fault.
        fault: Box<Fault>,
    },
    /// A task has failed.
    #[error("{name}: {fault}")]
    Task {
        /// What the task did.
        name: String,
        /// The task.
        task: ManagedObjectReference,
        /// Why it failed.
        fault: Box<Fault>,
    },
    /// The session or the task was lost before the task's outcome was told.
    #[error("the outcome of {task} cannot be learnt: {reason}")]
    TaskLost {
        /// The task.
        task: ManagedObjectReference,
        /// Why.
        reason: String,
    },
    /// The server lacks something that every vSphere of this kind has, or a property has another type.
    #[error("{what} of {host} is not what it should be: {reason}")]
    Unexpected {
        /// What.
        what: String,
        /// The server.
        host: String,
        /// In which way.
        reason: String,
    },
    /// A file of a datastore cannot be read here or there.
    #[error("{what}")]
    File {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed when it is tried again.
    ///
    /// After [`Broken`](Self::Broken) and [`Timeout`](Self::Timeout) the first call may have taken
    /// effect: the caller looks before it tries again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::TaskLost { .. } => true,
            Self::Status { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Self::Fault { fault, .. } | Self::Task { fault, .. } => {
                PASSING.iter().any(|name| fault.is_a(name))
            }
            Self::Untrusted { .. }
            | Self::Tls { .. }
            | Self::Malformed { .. }
            | Self::Unexpected { .. }
            | Self::File { .. } => false,
        }
    }

    /// Whether it is not known if the call took effect.
    pub fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::Broken { .. }
                | Self::Timeout { .. }
                | Self::TaskLost { .. }
                | Self::Malformed { .. }
        )
    }

    /// The fault, when the server or the task told one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault { fault, .. } | Self::Task { fault, .. } => Some(fault),
            _ => None,
        }
    }

    /// Whether the server or the task told a fault that is, or extends, the one called `name`.
    pub fn is_fault(&self, name: &str) -> bool {
        self.fault().is_some_and(|fault| fault.is_a(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DuplicateName, TaskInProgress};

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let retry = Retry {
            attempts: 4,
            first: Duration::from_millis(50),
            longest: Duration::from_millis(120),
        };
        let pauses: Vec<_> = (0..5)
            .map(|n| retry.pause(n).map(|p| p.as_millis()))
            .collect();
        assert_eq!(pauses, [Some(0), Some(50), Some(100), Some(120), None]);
    }

    #[test]
    fn a_passing_fault_is_retryable_and_a_lasting_one_is_not() {
        let error = |fault: Fault| Error::Fault {
            method: "Rename_Task".into(),
            this: ManagedObjectReference::new("VirtualMachine", "vm-1"),
            fault: Box::new(fault),
        };
        assert!(error(Fault::new(TaskInProgress::default(), "")).is_retryable());
        let lasting = error(Fault::new(DuplicateName::default(), "taken"));
        assert!(!lasting.is_retryable());
        assert!(lasting.is_fault("VimFault"));
        assert_eq!(
            lasting.to_string(),
            "Rename_Task on VirtualMachine:vm-1: DuplicateName: taken"
        );
    }
}
