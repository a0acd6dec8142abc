//! The wall clock, as the API writes it.

use vmomi::DateTime;

/// The present moment in UTC.
pub(crate) fn now() -> DateTime {
    DateTime(time::OffsetDateTime::now_utc())
}
