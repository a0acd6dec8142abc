//! Log lines as events: what `tracing-subscriber` writes for the simulator and the VCH, with or without colours.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A log line that tells of a step.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// When it was written, which is when the step was done.
    pub(super) at: SystemTime,
    /// How long the step took, if the line says so.
    pub(super) elapsed: Duration,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The Docker API has answered.
    Request { path: String },
    /// A vSphere method has answered; a task goes on after that.
    Call { method: String },
    /// The guest's PID 1 runs; what the engine did for it, in microseconds.
    GuestRuns { steps: String },
    /// The guest has written a key of guestinfo.
    Says { key: String },
    /// A VM and its files are gone.
    Destroyed,
}

/// The event of a line, if it is one.
pub(super) fn event(line: &str) -> Option<Event> {
    let line = plain(line);
    let (at, rest) = line.split_once(' ')?;
    let at = OffsetDateTime::parse(at, &Rfc3339).ok()?;
    let value = |name: &str| field(rest, name).map(str::to_owned);
    let what = if rest.contains(" simulator::soap: call ") {
        What::Call {
            method: value("method")?,
        }
    } else if rest.contains(" api::docker::connection: request ") {
        What::Request {
            path: value("path")?,
        }
    } else if rest.contains(": guest runs ") {
        What::GuestRuns {
            steps: rest.split_once("steps=")?.1.to_owned(),
        }
    } else if rest.contains(": guest says ") {
        What::Says { key: value("key")? }
    } else if rest.contains(": destroyed ") {
        What::Destroyed
    } else {
        return None;
    };
    Some(Event {
        at: at.into(),
        elapsed: value("elapsed")
            .and_then(|e| duration(&e))
            .unwrap_or_default(),
        what,
    })
}

/// A line without the escape sequences that colour it.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    text
}

/// The value of `name=…`, without its quotation marks.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(&format!(" {name}="))? + name.len() + 2;
    let value = &line[start..];
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split(' ').next(),
    }
}

/// A duration as Rust's debug output writes it.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_and_durations_are_read() {
        let line = "\u{1b}[2m2026-01-01T00:00:00.5Z\u{1b}[0m \u{1b}[34mDEBUG\u{1b}[0m \u{1b}[2msimulator::soap\u{1b}[0m\u{1b}[2m:\u{1b}[0m call \u{1b}[3mmethod\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"Login\" \u{1b}[3melapsed\u{1b}[0m\u{1b}[2m=\u{1b}[0m1.25ms";
        let event = event(line).unwrap();
        assert_eq!(event.elapsed, Duration::from_micros(1250));
        assert!(matches!(event.what, What::Call { method } if method == "Login"));
    }

    #[test]
    fn other_lines_are_not_events() {
        for line in ["", "plain", "2026-01-01T00:00:00.5Z  INFO vch: ready"] {
            assert!(event(line).is_none(), "{line}");
        }
    }
}
