//! What the tests have to say: kept until the end, so that it never stands within the line of a verdict.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a line; with `VIC_CHAOS_LIVE` set it is printed at once.
pub fn say(line: Arguments<'_>) {
    if std::env::var_os("VIC_CHAOS_LIVE").is_some() {
        eprintln!("{line}");
        return;
    }
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(line.to_string());
}

/// Prints all lines.
pub fn print() {
    for line in LINES.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{line}");
    }
}
