//! `HostConfig`: resources, security, modes; read, checked with moby's texts, turned into a spec's parts.

use std::collections::BTreeMap;

use actors::container::{CAPABILITIES, Resources, SecuritySpec};
use serde::Deserialize;
use serde_json::Value;

use super::mounts::Mount;
use crate::docker::error::ApiError;

/// The least memory that moby gives.
const MIN_MEMORY: i64 = 6 << 20;

/// Microseconds of a period that the client does not give: the kernel's own.
const CPU_PERIOD: i64 = 100_000;

/// `HostConfig`, as far as it changes what is made. Nulls have been removed before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `[src:]dst[:options]`.
    pub binds: Vec<String>,
    /// The network's name.
    pub network_mode: String,
    /// `--rm`.
    pub auto_remove: bool,
    /// `id[:ro]`.
    pub volumes_from: Vec<String>,
    /// Rows and columns.
    pub console_size: Option<[u32; 2]>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `host:address`.
    pub extra_hosts: Vec<String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// Adjustment of the out-of-memory score.
    pub oom_score_adj: i32,
    /// All capabilities.
    pub privileged: bool,
    /// Root file system is read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`.
    pub security_opt: Vec<String>,
    /// `size`.
    pub storage_opt: BTreeMap<String, String>,
    /// Options by path.
    pub tmpfs: BTreeMap<String, String>,
    /// Size of /dev/shm.
    pub shm_size: i64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Limits.
    pub ulimits: Vec<Ulimit>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// A small reaper as PID 1.
    pub init: Option<bool>,
    /// Shares relative to 1024.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// Memory and swap in bytes.
    pub memory_swap: i64,
    /// Percent.
    pub memory_swappiness: Option<i64>,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// `0-2,4`.
    pub cpuset_cpus: String,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// Names of namespaces' modes.
    pub ipc_mode: String,
    /// Likewise.
    pub pid_mode: String,
    /// Likewise.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// Likewise.
    pub userns_mode: String,
    /// Likewise.
    pub cgroupns_mode: String,
    /// The runtime's name.
    pub runtime: String,
    /// Windows' isolation.
    pub isolation: String,
    /// Where logs go.
    pub log_config: LogConfig,
    /// When to start again.
    pub restart_policy: RestartPolicy,
    /// Ports.
    pub port_bindings: BTreeMap<String, Value>,
    /// A volume driver for anonymous volumes.
    pub volume_driver: String,
}

/// One of `Ulimits`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// `LogConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    r#type: String,
}

/// `RestartPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    name: String,
    maximum_retry_count: i64,
}

fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::bad_request(text)
}

impl HostConfig {
    /// Checks what can be checked without the image, in moby's order and words.
    ///
    /// # Errors
    ///
    /// 400.
    pub fn check(&self, cpus: u32) -> Result<(), ApiError> {
        self.check_restart()?;
        self.check_modes()?;
        self.check_cpu(cpus)?;
        self.check_memory()?;
        for host in &self.extra_hosts {
            check_extra_host(host)?;
        }
        for server in &self.dns {
            if server.parse::<std::net::IpAddr>().is_err() {
                return Err(bad(format!("bad nameserver address: {server}")));
            }
        }
        capabilities(&self.cap_add, "CapAdd")?;
        capabilities(&self.cap_drop, "CapDrop")?;
        if self.shm_size < 0 {
            return Err(bad("SHM size can not be less than 0"));
        }
        if !(-1000..=1000).contains(&self.oom_score_adj) {
            return Err(bad(format!(
                "Invalid value {}, range for oom score adj is [-1000, 1000]",
                self.oom_score_adj
            )));
        }
        for port in self.port_bindings.keys() {
            if super::matching::Ports::parse(port).is_none() {
                return Err(bad(format!("invalid port specification: {port:?}")));
            }
        }
        match self.log_config.r#type.as_str() {
            "" | "json-file" | "local" | "none" => Ok(()),
            other => Err(bad(format!(
                "logger: no log driver named '{other}' is registered"
            ))),
        }
    }

    fn check_restart(&self) -> Result<(), ApiError> {
        let policy = &self.restart_policy;
        match policy.name.as_str() {
            "" | "no" | "always" | "unless-stopped" if policy.maximum_retry_count != 0 => Err(bad(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            )),
            "on-failure" if policy.maximum_retry_count < 0 => Err(bad(
                "invalid restart policy: maximum retry count cannot be negative",
            )),
            "" | "no" => Ok(()),
            "always" | "unless-stopped" | "on-failure" if self.auto_remove => Err(bad(
                "can't create 'AutoRemove' container with restart policy",
            )),
            "always" | "unless-stopped" | "on-failure" => Ok(()),
            other => Err(bad(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ))),
        }
    }

    fn check_modes(&self) -> Result<(), ApiError> {
        for (what, mode, known) in [
            ("IPC", &self.ipc_mode, &["private", "shareable", "none"][..]),
            ("PID", &self.pid_mode, &["private"][..]),
            ("UTS", &self.uts_mode, &["private"][..]),
            ("userns", &self.userns_mode, &["private"][..]),
            ("cgroup namespace", &self.cgroupns_mode, &["private"][..]),
        ] {
            if mode.is_empty() || known.contains(&mode.as_str()) {
                continue;
            }
            if mode == "host" || mode.starts_with("container:") {
                return Err(bad(format!(
                    "invalid {what} mode: {mode}: a container is a VM and shares no namespace with this machine or \
                     another container"
                )));
            }
            return Err(bad(format!("invalid {what} mode: {mode}")));
        }
        if !matches!(
            self.runtime.as_str(),
            "" | "runc" | "io.containerd.runc.v2" | "vsphere"
        ) {
            return Err(bad(format!(
                "unknown or invalid runtime name: {}",
                self.runtime
            )));
        }
        if !matches!(self.isolation.as_str(), "" | "default") {
            return Err(bad(format!(
                "invalid isolation ({}) on linux",
                self.isolation
            )));
        }
        Ok(())
    }

    fn check_cpu(&self, cpus: u32) -> Result<(), ApiError> {
        let cpus = cpus.max(1);
        if self.nano_cpus != 0 && self.cpu_period != 0 {
            return Err(bad(
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ));
        }
        if self.nano_cpus != 0 && self.cpu_quota != 0 {
            return Err(bad(
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ));
        }
        if self.nano_cpus < 0 || self.nano_cpus > i64::from(cpus) * 1_000_000_000 {
            return Err(bad(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
        if self.cpu_shares < 0 {
            return Err(bad(format!(
                "invalid CPU shares ({}): value must be a positive integer",
                self.cpu_shares
            )));
        }
        if self.cpu_period != 0 && !(1000..=1_000_000).contains(&self.cpu_period) {
            return Err(bad(
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ));
        }
        if self.cpu_quota > 0 && self.cpu_quota < 1000 {
            return Err(bad("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
        }
        cpu_count(&self.cpuset_cpus).map(|_| ())
    }

    fn check_memory(&self) -> Result<(), ApiError> {
        if self.memory != 0 && self.memory < MIN_MEMORY {
            return Err(bad("Minimum memory limit allowed is 6MB"));
        }
        if self.memory > 0 && self.memory_swap > 0 && self.memory_swap < self.memory {
            return Err(bad(
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ));
        }
        if self.memory == 0 && self.memory_swap > 0 {
            return Err(bad(
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ));
        }
        if self
            .memory_swappiness
            .is_some_and(|s| !(-1..=100).contains(&s))
        {
            return Err(bad(format!(
                "Invalid value: {}, valid memory swappiness range is 0-100",
                self.memory_swappiness.unwrap_or(0)
            )));
        }
        Ok(())
    }

    /// The VM's resources.
    ///
    /// # Errors
    ///
    /// 400 for a size or a list of CPUs that is none.
    pub fn resources(&self) -> Result<Resources, ApiError> {
        let period = match self.cpu_period {
            0 => CPU_PERIOD,
            period => period,
        };
        // Wide, since a quota may be any number: beyond what can be counted is as much as can be.
        let quota = i128::from(self.cpu_quota.max(0)) * 1_000_000_000 / i128::from(period.max(1));
        let quota = u64::try_from(quota).unwrap_or(u64::MAX);
        let mut disk = 0;
        for (key, value) in &self.storage_opt {
            match key.as_str() {
                "size" => {
                    disk = size(value).ok_or_else(|| bad(format!("invalid size: '{value}'")))?
                }
                other => return Err(bad(format!("Unknown option: storage-opt {other}"))),
            }
        }
        Ok(Resources {
            memory: self.memory.max(0) as u64,
            nano_cpus: if self.nano_cpus > 0 {
                self.nano_cpus as u64
            } else {
                quota
            },
            cpus: cpu_count(&self.cpuset_cpus)?,
            pids_limit: self.pids_limit.unwrap_or(0),
            disk,
            cpu_shares: u32::try_from(self.cpu_shares).unwrap_or(0),
        })
    }

    /// What the processes may do.
    ///
    /// # Errors
    ///
    /// 400 for an option that is none.
    pub fn security(&self, warnings: &mut Vec<String>) -> Result<SecuritySpec, ApiError> {
        let mut security = SecuritySpec {
            privileged: self.privileged,
            cap_add: capabilities(&self.cap_add, "CapAdd")?,
            cap_drop: capabilities(&self.cap_drop, "CapDrop")?,
            readonly_rootfs: self.readonly_rootfs,
            sysctls: self.sysctls.clone(),
            ulimits: self
                .ulimits
                .iter()
                .map(|u| format!("{}={}:{}", u.name, u.soft, u.hard))
                .collect(),
            shm_size: self.shm_size.max(0) as u64,
            oom_score_adj: self.oom_score_adj,
            ..SecuritySpec::default()
        };
        for option in &self.security_opt {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => {}
                ("seccomp", "unconfined") => security.seccomp_unconfined = true,
                ("seccomp", "builtin") | ("apparmor", "unconfined" | "docker-default") => {}
                ("seccomp", _) => {
                    return Err(bad(
                        "seccomp profiles of one's own are not implemented yet: unconfined and builtin are",
                    ));
                }
                ("apparmor" | "label" | "systempaths" | "writable-cgroups", _) => {
                    warnings.push(format!(
                        "The guest has no use for the security option {option}. Option discarded."
                    ));
                }
                _ => return Err(bad(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(security)
    }
}

/// Checks names of capabilities, and gives them their full form.
fn capabilities(names: &[String], field: &str) -> Result<Vec<String>, ApiError> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            match bare {
                "ALL" => Ok("ALL".to_owned()),
                known if CAPABILITIES.contains(&known) => Ok(format!("CAP_{known}")),
                _ => Err(bad(format!(
                    "invalid {field}: unknown capability: \"CAP_{bare}\""
                ))),
            }
        })
        .collect()
}

fn check_extra_host(text: &str) -> Result<(), ApiError> {
    let Some((host, address)) = text.split_once(':') else {
        return Err(bad(format!("bad format for add-host: {text:?}")));
    };
    if host.is_empty() {
        return Err(bad(format!("bad format for add-host: {text:?}")));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if address == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(bad(format!("invalid IP address in add-host: {address:?}")))
}

/// How many CPUs a list like `0-2,4` names; 0 for no list.
fn cpu_count(list: &str) -> Result<u32, ApiError> {
    let wrong = || bad(format!("Invalid value {list} for cpuset cpus"));
    let mut count = 0u32;
    for part in list.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| wrong())?;
        let last: u32 = last.trim().parse().map_err(|_| wrong())?;
        if last < first || last > 8191 {
            return Err(wrong());
        }
        count = count.saturating_add(last - first + 1);
    }
    Ok(count)
}

/// A size like `20G`, with units of 1024.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let config: HostConfig = serde_json::from_str(json).expect("json");
        let checked = config
            .check(2)
            .and_then(|()| config.resources().map(|_| ()));
        checked
            .and_then(|()| config.security(&mut Vec::new()).map(|_| ()))
            .expect_err(json)
            .message()
            .to_owned()
    }

    #[test]
    fn settings_are_refused_in_mobys_words() {
        for (json, text) in [
            (
                r#"{"Memory":1048576}"#,
                "Minimum memory limit allowed is 6MB",
            ),
            (
                r#"{"Memory":67108864,"MemorySwap":33554432}"#,
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                r#"{"NanoCpus":3000000000}"#,
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                r#"{"NanoCpus":1000,"CpuPeriod":1000}"#,
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (
                r#"{"CpuPeriod":10}"#,
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (
                r#"{"RestartPolicy":{"Name":"x"}}"#,
                "invalid restart policy: unknown policy 'x'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}"#,
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always"},"AutoRemove":true}"#,
                "can't create 'AutoRemove' container with restart policy",
            ),
            (
                r#"{"CapAdd":["x"]}"#,
                "invalid CapAdd: unknown capability: \"CAP_X\"",
            ),
            (r#"{"ExtraHosts":["x"]}"#, "bad format for add-host: \"x\""),
            (
                r#"{"ExtraHosts":["x:y"]}"#,
                "invalid IP address in add-host: \"y\"",
            ),
            (r#"{"IpcMode":"x"}"#, "invalid IPC mode: x"),
            (r#"{"UTSMode":"x"}"#, "invalid UTS mode: x"),
            (
                r#"{"PortBindings":{"x":[]}}"#,
                "invalid port specification: \"x\"",
            ),
            (
                r#"{"LogConfig":{"Type":"x"}}"#,
                "logger: no log driver named 'x' is registered",
            ),
            (r#"{"Runtime":"x"}"#, "unknown or invalid runtime name: x"),
        ] {
            assert_eq!(refused(json), text);
        }
    }

    #[test]
    fn quota_and_period_are_cpus() {
        let config = HostConfig {
            cpu_quota: 50_000,
            ..HostConfig::default()
        };
        assert_eq!(
            config.resources().expect("resources").nano_cpus,
            500_000_000
        );
        let endless = HostConfig {
            cpu_quota: i64::MAX,
            cpu_period: 1000,
            ..HostConfig::default()
        };
        assert_eq!(endless.resources().expect("resources").nano_cpus, u64::MAX);
        assert_eq!(cpu_count("0-2,4").expect("list"), 4);
        assert_eq!(size("20G"), Some(20 << 30));
        assert_eq!(size("1024"), Some(1024));
    }
}
