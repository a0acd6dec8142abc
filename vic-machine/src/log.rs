//! What the user sees, and what `vic-machine.log` keeps.
//!
//! Lines look like `INFO[2016-08-06T19:52:00Z] Validating supplied configuration`. The console shows our own lines
//! from `INFO` up; the file, appended to in the working directory, everything. A copy is kept in memory for the
//! datastore of the VCH that is installed.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as layer};

/// The name of the log file.
pub(crate) const FILE: &str = "vic-machine.log";
/// How much of the log is kept in memory.
const KEPT: usize = 1 << 20;

/// The lines so far, for the datastore.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    /// A copy of the lines so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().map(|kept| kept.clone()).unwrap_or_default()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Ok(mut kept) = self.0.lock()
            && kept.len() + bytes.len() <= KEPT
        {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Where the console's lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// To standard output, as VIC's.
    Output,
    /// To standard error: standard output is for something else.
    Error,
}

/// Starts logging. The command runs on without a file when that cannot be opened.
pub(crate) fn start(console: Console, debug: u32, file: &Path) -> Kept {
    let kept = Kept::default();
    let ours = if debug > 0 { Level::DEBUG } else { Level::INFO };
    let shown = Targets::new().with_target("vic_machine", ours);
    let (file, problem) = match OpenOptions::new().create(true).append(true).open(file) {
        Ok(file) => (Some(Mutex::new(file)), None),
        Err(error) => (
            None,
            Some(format!("cannot write {}: {error}", file.display())),
        ),
    };
    let everything = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_targets([("vic_machine", Level::TRACE), ("vmomi", Level::DEBUG)]);
    let to_console = match console {
        Console::Output => layer::layer()
            .event_format(Lines)
            .with_writer(io::stdout)
            .boxed(),
        Console::Error => layer::layer()
            .event_format(Lines)
            .with_writer(io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(to_console.with_filter(shown.clone()))
        .with(file.map(|file| {
            layer::layer()
                .event_format(Lines)
                .with_ansi(false)
                .with_writer(file)
                .with_filter(everything)
        }))
        .with(
            layer::layer()
                .event_format(Lines)
                .with_ansi(false)
                .with_writer(kept.clone())
                .with_filter(shown),
        )
        .init();
    if let Some(problem) = problem {
        // Not through the log: it is the log that is missing.
        let _ = writeln!(io::stderr(), "{problem}; going on without a log file");
    }
    kept
}

/// The moment as the log writes it.
pub(crate) fn timestamp(moment: OffsetDateTime) -> String {
    moment
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second]Z"
        ))
        .unwrap_or_default()
}

struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERRO",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG => "DEBU",
            Level::TRACE => "TRAC",
        };
        let mut text = String::new();
        context
            .field_format()
            .format_fields(Writer::new(&mut text), event)?;
        let line = format!("{level}[{}] {text}", timestamp(OffsetDateTime::now_utc()));
        writeln!(writer, "{}", line.trim_end())
    }
}
