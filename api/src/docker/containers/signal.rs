//! Signals by name or number.

use actors::container::Signal;

use crate::docker::error::ApiError;

/// Reads `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
///
/// # Errors
///
/// 400 `invalid signal: <s>`.
pub fn parse(text: &str) -> Result<Signal, ApiError> {
    Signal::parse(text).ok_or_else(|| ApiError::bad_request(format!("invalid signal: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("28", 28),
            ("RTMIN+1", 35),
            ("SIGRTMAX-1", 63),
            ("RTMIN", 34),
            ("IOT", 6),
            ("SIGPOLL", 29),
        ] {
            assert_eq!(parse(text).expect(text), Signal(number));
        }
        for text in [
            "",
            "0",
            "65",
            "-9",
            "NOPE",
            "SIG",
            "RTMIN+99",
            "RTMIN+-40",
            "RTMIN+2147483647",
            "RTMAX--2147483648",
            "RTMIN\u{e9}1",
        ] {
            assert_eq!(
                parse(text).expect_err(text).message(),
                format!("invalid signal: {text}")
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_signal_of_linux_or_refused(text in "(SIG|sig)?(RTMIN|RTMAX|[A-Z]{0,4})[+-]{0,2}[0-9]{0,11}|\\PC{0,12}") {
            if let Ok(Signal(number)) = parse(&text) {
                prop_assert!((1..=64).contains(&number));
            }
        }
    }
}
