//! The calls that a session has made: how many, how long they took, how many failed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is known of the calls of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStatistics {
    /// How many were sent, second attempts included.
    pub count: u64,
    /// How many did not end in a result.
    pub failed: u64,
    /// How long all of them took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
}

/// The calls of a session by method; `PUT`, `GET` and `HEAD` stand for transfers of files.
#[derive(Debug, Default)]
pub struct Record {
    by_method: Mutex<BTreeMap<&'static str, CallStatistics>>,
}

impl Record {
    pub(crate) fn add(&self, method: &'static str, took: Duration, failed: bool) {
        let mut map = self
            .by_method
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = map.entry(method).or_default();
        entry.count += 1;
        entry.failed += u64::from(failed);
        entry.total += took;
        entry.longest = entry.longest.max(took);
    }

    /// A copy of the record.
    pub fn snapshot(&self) -> BTreeMap<&'static str, CallStatistics> {
        self.by_method
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many calls of this method were sent.
    pub fn count(&self, method: &str) -> u64 {
        self.snapshot().get(method).map_or(0, |s| s.count)
    }

    /// Forgets everything, to count from here.
    pub fn clear(&self) {
        self.by_method
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
