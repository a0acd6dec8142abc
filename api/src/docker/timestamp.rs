//! Points in time: RFC 3339 as Go writes it, and the `since`/`until` parameters.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::ApiError;

/// Go's zero time, which stands for "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 in UTC with nanoseconds, trailing zeros trimmed (Go's `RFC3339Nano`).
pub fn nano(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.nanosecond() > 0 {
        let fraction = format!(".{:09}", at.nanosecond());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// As [`nano`], or Go's zero time.
pub fn nano_or_never(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| NEVER.to_owned(), nano)
}

/// RFC 3339 with always nine digits, as `logs --timestamps` prints.
pub fn nine_digits(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.nanosecond()
    )
}

/// Unix seconds with an optional fraction of at most nine digits; empty and `0` are no limit.
///
/// # Errors
///
/// 400 `invalid value for "<key>": …`.
pub fn unix(key: &str, text: &str) -> Result<Option<OffsetDateTime>, ApiError> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bad = |why: &str| ApiError::bad_request(format!("invalid value for \"{key}\": {why}"));
    parse_unix(text).map(Some).ok_or_else(|| {
        bad(&format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })
}

/// As [`unix`], also taking RFC 3339 (events and some SDKs send it).
///
/// # Errors
///
/// As [`unix`].
pub fn unix_or_rfc3339(key: &str, text: &str) -> Result<Option<OffsetDateTime>, ApiError> {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => Ok(Some(at)),
        Err(_) => unix(key, text),
    }
}

fn parse_unix(text: &str) -> Option<OffsetDateTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: i64 = digits.parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(
        i128::from(seconds) * 1_000_000_000 + i128::from(nanos),
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).expect("time");
        assert_eq!(
            nano(at("2026-11-21T12:00:00.120Z")),
            "2026-11-21T12:00:00.12Z"
        );
        assert_eq!(
            nano(at("2026-11-21T14:00:00+02:00")),
            "2026-11-21T12:00:00Z"
        );
        assert_eq!(
            nine_digits(at("2026-11-21T12:00:00.12Z")),
            "2026-11-21T12:00:00.120000000Z"
        );
        assert_eq!(nano_or_never(None), NEVER);
    }

    #[test]
    fn limits_are_unix_seconds_with_a_fraction() {
        let nanos = |text| {
            unix("since", text)
                .expect("time")
                .map(OffsetDateTime::unix_timestamp_nanos)
        };
        assert_eq!(nanos("1"), Some(1_000_000_000));
        assert_eq!(nanos("1.5"), Some(1_500_000_000));
        assert_eq!(nanos("1.0000000019"), Some(1_000_000_001));
        assert_eq!(nanos("0"), None);
        assert_eq!(nanos(""), None);
        assert!(
            unix("since", "x")
                .expect_err("bad")
                .message()
                .starts_with("invalid value for \"since\": ")
        );
    }

    proptest! {
        #[test]
        fn a_limit_is_read_as_it_was_written(seconds in 1i64..253_402_300_800, nanos in 0u32..1_000_000_000) {
            let at = unix("since", &format!("{seconds}.{nanos:09}")).expect("time").expect("a limit");
            prop_assert_eq!((at.unix_timestamp(), at.nanosecond()), (seconds, nanos));
            prop_assert_eq!(unix_or_rfc3339("since", &nano(at)).expect("time"), Some(at));
        }

        #[test]
        fn any_text_is_a_limit_or_refused(text in "[+-]?[0-9]{0,20}[.]?[0-9]{0,12}|\\PC{0,30}") {
            if let Err(error) = unix_or_rfc3339("until", &text) {
                prop_assert!(error.message().starts_with("invalid value for \"until\": "));
            }
        }
    }
}
