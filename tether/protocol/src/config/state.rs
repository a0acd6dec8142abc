//! What the guest reports: state of its processes, its public key, by `info-set`.

use std::collections::BTreeMap;

use super::codec::{escape, unescape};

/// Names of the keys that a guest writes.
pub struct StateKeys;

impl StateKeys {
    /// Tether's public key (SPKI, base64), written at each boot.
    pub const KEY: &'static str = "guestinfo.vice..key";
    /// A random text, new at each boot, written before anything else: values that come with
    /// another one are of an earlier boot.
    pub const BOOT: &'static str = "guestinfo.vice..boot";
    /// Next sequence number of the log, written at a clean end.
    pub const LOG_NEXT: &'static str = "guestinfo.vice..log.next";
    /// Address that DHCP gave, as `a.b.c.d/p`, for the NIC of that number.
    pub fn address(device: u32) -> String {
        format!("guestinfo.vice..networks|{device}.assigned.IP")
    }
    /// Gateway that DHCP gave.
    pub fn gateway(device: u32) -> String {
        format!("guestinfo.vice..networks|{device}.assigned.gateway")
    }
    /// `""` before the start, `true` once it ran, else the text of the launch error.
    pub fn started(id: &str) -> String {
        format!("guestinfo.vice..sessions|{id}.started")
    }
    /// Exit status.
    pub fn status(id: &str) -> String {
        format!("guestinfo.vice..sessions|{id}.status")
    }
    /// Start time, Unix nanoseconds.
    pub fn start_time(id: &str) -> String {
        format!("guestinfo.vice..sessions|{id}.detail.starttime")
    }
    /// End time, Unix nanoseconds.
    pub fn stop_time(id: &str) -> String {
        format!("guestinfo.vice..sessions|{id}.detail.stoptime")
    }
    /// Starts of a supervised process after its first.
    pub fn resurrections(id: &str) -> String {
        format!("guestinfo.vice..sessions|{id}.diagnostics.resurrections")
    }
}

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ProcessStatus {
    /// Nothing was reported since the VM was told to start it.
    #[default]
    Pending,
    /// It could not be started; docker's text of the error, and its exit code (126, 127 or 128).
    Failed {
        /// Text for the client.
        error: String,
        /// Exit code that docker gives.
        code: i32,
    },
    /// It runs.
    Running,
    /// It ended.
    Exited {
        /// Exit status; 128 + signal for a death by signal.
        code: i32,
    },
}

/// What a guest reported about one process.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProcessState {
    /// Where it is in its life.
    pub status: ProcessStatus,
    /// When it was started, Unix nanoseconds.
    pub started_at: Option<i64>,
    /// When it ended, Unix nanoseconds.
    pub stopped_at: Option<i64>,
}

impl ProcessState {
    /// Reads a session's state out of a VM's extraConfig. Never fails: a guest writes these.
    pub fn decode(id: &str, keys: &BTreeMap<String, String>) -> Self {
        let get = |key: String| {
            keys.get(&key)
                .filter(|v| !v.is_empty())
                .and_then(|v| unescape(v))
        };
        let number = |key: String| get(key).and_then(|v| v.parse::<i64>().ok());
        let code = number(StateKeys::status(id)).and_then(|c| i32::try_from(c).ok());
        let status = match (get(StateKeys::started(id)), code) {
            (None, _) => ProcessStatus::Pending,
            (Some(text), None) if text == "true" => ProcessStatus::Running,
            (Some(text), Some(code)) if text == "true" => ProcessStatus::Exited { code },
            (Some(error), code) => ProcessStatus::Failed {
                error,
                code: code.unwrap_or(128),
            },
        };
        Self {
            status,
            started_at: number(StateKeys::start_time(id)),
            stopped_at: number(StateKeys::stop_time(id)),
        }
    }

    /// The keys that report this state, in the order in which they must be written: the reader
    /// wakes at `started` and at `status`, so those come last.
    pub fn encode(&self, id: &str) -> Vec<(String, String)> {
        let mut out = Vec::new();
        if let Some(at) = self.started_at {
            out.push((StateKeys::start_time(id), at.to_string()));
        }
        if let Some(at) = self.stopped_at {
            out.push((StateKeys::stop_time(id), at.to_string()));
        }
        match &self.status {
            ProcessStatus::Pending => {}
            ProcessStatus::Running => out.push((StateKeys::started(id), "true".to_owned())),
            ProcessStatus::Exited { code } => out.push((StateKeys::status(id), code.to_string())),
            ProcessStatus::Failed { error, code } => {
                out.push((StateKeys::status(id), code.to_string()));
                out.push((StateKeys::started(id), escape(error)));
            }
        }
        out
    }

    /// The keys to clear (write `""`) in the request that powers the VM on or before it.
    pub fn cleared(id: &str) -> Vec<String> {
        vec![
            StateKeys::started(id),
            StateKeys::status(id),
            StateKeys::start_time(id),
            StateKeys::stop_time(id),
            StateKeys::KEY.to_owned(),
        ]
    }
}
