//! Signals by name or number.

use actors::container::Signal;

use crate::docker::error::ApiError;

/// Linux's signals on x86-64, without `SIG`.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// Reads `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
///
/// # Errors
///
/// 400 `invalid signal: <s>`.
pub fn parse(text: &str) -> Result<Signal, ApiError> {
    number(text)
        .map(Signal)
        .ok_or_else(|| ApiError::bad_request(format!("invalid signal: {text}")))
}

fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let real_time = match () {
        () if name.starts_with("RTMIN+") => 34 + name[6..].parse::<i32>().ok()?,
        () if name.starts_with("RTMAX-") => 64 - name[6..].parse::<i32>().ok()?,
        () => return None,
    };
    (34..=64).contains(&real_time).then_some(real_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("28", 28),
            ("RTMIN+1", 35),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text).expect(text), Signal(number));
        }
        for text in ["", "0", "65", "-9", "NOPE", "SIG", "RTMIN+99", "RTMIN+-40"] {
            assert_eq!(
                parse(text).expect_err(text).message(),
                format!("invalid signal: {text}")
            );
        }
    }
}
