//! The two clocks: wall time for records, monotonic time for deadlines.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix nanoseconds.
pub fn now_nanos() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Milliseconds until `deadline`, rounded up, for poll and epoll.
pub fn millis_until(deadline: Instant) -> u16 {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    u16::try_from(left.as_millis()).unwrap_or(u16::MAX)
}
