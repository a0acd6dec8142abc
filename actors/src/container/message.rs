//! The messages of a container actor: the verbs of docker, as intents.
//!
//! Every message with a reply is answered exactly once, or its port is dropped when the actor dies
//! ([`Error::Interrupted`] at the facade). None blocks the mailbox: long ones answer from a task.

use bytes::Bytes;
use ractor::RpcReplyPort;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::snapshot::ExecSpec;
use crate::error::Error;
use crate::ids::ExecId;
use crate::streams::{Attachment, ConsoleSize, Stream};

/// The port for a verb's answer.
pub type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// A request to one container.
#[derive(Debug)]
pub enum Message {
    /// Runs the container. Answers when its process runs, or with [`Error::Launch`] and its text.
    /// [`Error::NotModified`] when it runs already.
    Start(Reply<()>),
    /// Sends the stop signal, waits, kills. Answers when the VM is off. [`Error::NotModified`] when it is stopped.
    Stop(StopOptions, Reply<()>),
    /// Stop (if it runs) and start.
    Restart(StopOptions, Reply<()>),
    /// Sends a signal to the container's process.
    Kill(Signal, Reply<()>),
    /// Freezes the container's processes.
    Pause(Reply<()>),
    /// Thaws them; powers on a VM that an admin suspended.
    Unpause(Reply<()>),
    /// Gives it another name, which the facade has reserved.
    Rename(String, Reply<()>),
    /// Destroys the VM with its disk and log. Answers when vSphere has.
    Remove(RemoveOptions, Reply<()>),
    /// Connects a client to the process's stdio; for a container that does not run yet, output comes from its
    /// first byte on.
    Attach(AttachOptions, Reply<Attachment>),
    /// Sets the size of the terminal.
    Resize(ConsoleSize, Reply<()>),
    /// Reads the log.
    Logs(LogsOptions, Reply<mpsc::Receiver<LogRecord>>),
    /// Lists the processes.
    Top(String, Reply<ProcessList>),
    /// Prepares an exec.
    CreateExec(Box<ExecSpec>, Reply<ExecId>),
    /// Answers when the container is on the shelf.
    Ready(Reply<()>),
    /// Internal: what changed before messages to the container's address came here is told again.
    #[doc(hidden)]
    Settle,
    /// Internal: what arrived from vSphere, the guest or a task.
    #[doc(hidden)]
    Event(Box<super::actor::Input>),
}

/// How a container is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// The signal; none: the container's own stop signal.
    pub signal: Option<Signal>,
    /// Seconds before SIGKILL; negative: never; none: the container's own, or 10.
    pub timeout: Option<i64>,
}

/// A signal by its Linux number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Signal(pub i32);

impl Signal {
    /// Reads `TERM`, `SIGTERM`, `sigterm`, `15` or `RTMIN+3`: from a client, or from an image that anybody made.
    pub fn parse(text: &str) -> Option<Self> {
        const NAMES: [&str; 31] = [
            "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV",
            "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN",
            "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
        ];
        const ALSO: [(&str, i32); 5] = [
            ("IOT", 6),
            ("CLD", 17),
            ("POLL", 29),
            ("RTMIN", Signal::REAL_TIME.0),
            ("RTMAX", Signal::REAL_TIME.1),
        ];
        if let Ok(number) = text.parse::<i32>() {
            return (1..=64).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = ALSO.iter().find(|(known, _)| *known == name) {
            return Some(Self(*number));
        }
        let (first, last) = Self::REAL_TIME;
        let steps = |text: &str| text.parse().ok().filter(|n| (0..=last - first).contains(n));
        if let Some(up) = name.strip_prefix("RTMIN+") {
            return steps(up).map(|n| Self(first + n));
        }
        if let Some(down) = name.strip_prefix("RTMAX-") {
            return steps(down).map(|n| Self(last - n));
        }
        let at = NAMES.iter().position(|n| *n == name)?;
        i32::try_from(at + 1).ok().map(Self)
    }

    /// The first and the last real-time signal that a program may use.
    const REAL_TIME: (i32, i32) = (34, 64);
}

/// How a container is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// What the client typed, for error texts.
    pub name: String,
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitCondition {
    /// Not running: at once for a container that does not run.
    NotRunning,
    /// The next exit, also of one that was not started yet. A failed start counts.
    NextExit,
    /// The removal.
    Removed,
}

/// What a waiter gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitOutcome {
    /// The exit code.
    pub status_code: i64,
    /// Why a removal failed.
    pub error: Option<String>,
}

/// Which streams an attach wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// What the client typed, for error texts.
    pub name: String,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
    /// Replay the log first.
    pub logs: bool,
    /// Go on live (otherwise only the log is given).
    pub stream: bool,
}

/// Which part of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsOptions {
    /// Standard output's records.
    pub stdout: bool,
    /// Standard error's records.
    pub stderr: bool,
    /// Not before this time.
    pub since: Option<OffsetDateTime>,
    /// Not after this time.
    pub until: Option<OffsetDateTime>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Go on until the container ends.
    pub follow: bool,
}

/// One record of the log: a line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When the guest read it.
    pub time: OffsetDateTime,
    /// Where the process wrote it.
    pub stream: Stream,
    /// Its number; grows by one from record to record over the container's life.
    pub seq: u64,
    /// The bytes, with the newline if the line ends here.
    pub data: Bytes,
}

/// The processes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessList {
    /// The columns' names.
    pub titles: Vec<String>,
    /// One row per process.
    pub processes: Vec<Vec<String>>,
}

/// How an exec is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartExec {
    /// Nobody wants its streams.
    pub detach: bool,
    /// First size of its terminal.
    pub console: Option<ConsoleSize>,
}
