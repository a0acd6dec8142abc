//! Every field of Config, HostConfig and NetworkingConfig, and what becomes of it.
//!
//! The table is not only documentation: [`check`] refuses and warns by it. A test walks it with a sample of each
//! field, and another makes sure that no field of moby's is missing.

use serde_json::{Map, Value, json};

use crate::docker::error::ApiError;

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It changes what is made.
    Honoured,
    /// It is kept and given back by inspect; it means nothing to the engine, as in moby.
    Echoed,
    /// It says what is so anyway, or what moby ignores too.
    Ignored,
    /// 400 with this text.
    Refused(&'static str),
    /// Created, with this warning.
    Warned(&'static str),
}

/// Which document a field is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// The top level of create's body.
    Config,
    /// `HostConfig`.
    HostConfig,
    /// One value of `NetworkingConfig.EndpointsConfig`.
    Endpoint,
}

/// A row of the table.
pub struct Field {
    /// The document.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// A value that is not its default, as JSON.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the walk through the table is a test")
    )]
    pub sample: &'static str,
}

const fn row(
    section: Section,
    name: &'static str,
    treatment: Treatment,
    sample: &'static str,
) -> Field {
    Field {
        section,
        name,
        treatment,
        sample,
    }
}

use Section::{Config, Endpoint, HostConfig};
use Treatment::{Echoed, Honoured, Ignored, Refused, Warned};

const DEVICES: &str = "could not select device driver \"\" with capabilities: []: a container is a VM of its own and has \
                       none of the host's devices";
const REAL_TIME: &str = "kernel does not support CPU real-time scheduler";
const IO_DISCARDED: &str =
    "Limits on block devices are not supported by this engine. Limit discarded.";
const WINDOWS_IO: &str = "IOMaximum limits exist on Windows only";

/// The table.
pub static FIELDS: &[Field] = &[
    row(Config, "Hostname", Honoured, r#""h1""#),
    row(Config, "Domainname", Honoured, r#""example.org""#),
    row(Config, "User", Honoured, r#""1000:1000""#),
    row(Config, "AttachStdin", Echoed, "true"),
    row(Config, "AttachStdout", Echoed, "true"),
    row(Config, "AttachStderr", Echoed, "true"),
    row(Config, "ExposedPorts", Echoed, r#"{"81/tcp":{}}"#),
    row(Config, "Tty", Honoured, "true"),
    row(Config, "OpenStdin", Honoured, "true"),
    row(Config, "StdinOnce", Honoured, "true"),
    row(Config, "Env", Honoured, r#"["A=b"]"#),
    row(Config, "Cmd", Honoured, r#"["date"]"#),
    row(
        Config,
        "Healthcheck",
        Refused(
            "health checks are not implemented yet: create the container without one (--no-healthcheck)",
        ),
        r#"{"Test":["CMD","true"]}"#,
    ),
    row(Config, "ArgsEscaped", Ignored, "true"),
    row(Config, "Image", Honoured, r#""other""#),
    row(Config, "Volumes", Honoured, r#"{"/v":{}}"#),
    row(Config, "WorkingDir", Honoured, r#""/w""#),
    row(Config, "Entrypoint", Honoured, r#"["env"]"#),
    row(Config, "NetworkDisabled", Honoured, "true"),
    row(Config, "MacAddress", Ignored, r#""02:42:ac:11:00:09""#),
    row(Config, "OnBuild", Echoed, r#"["RUN x"]"#),
    row(Config, "Labels", Honoured, r#"{"l":"1"}"#),
    row(Config, "StopSignal", Honoured, r#""SIGINT""#),
    row(Config, "StopTimeout", Honoured, "3"),
    row(Config, "Shell", Echoed, r#"["/bin/sh","-c"]"#),
    row(HostConfig, "Binds", Honoured, r#"["data:/d"]"#),
    row(HostConfig, "ContainerIDFile", Echoed, r#""/tmp/cid""#),
    row(
        HostConfig,
        "LogConfig",
        Echoed,
        r#"{"Type":"local","Config":{"max-size":"1m"}}"#,
    ),
    row(HostConfig, "NetworkMode", Honoured, r#""none""#),
    row(
        HostConfig,
        "PortBindings",
        Refused("publishing ports is not implemented yet"),
        r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#,
    ),
    row(
        HostConfig,
        "RestartPolicy",
        Refused("restart policies are not implemented yet"),
        r#"{"Name":"always","MaximumRetryCount":0}"#,
    ),
    row(HostConfig, "AutoRemove", Honoured, "true"),
    row(HostConfig, "VolumeDriver", Echoed, r#""local""#),
    row(HostConfig, "VolumesFrom", Honoured, r#"["one"]"#),
    row(HostConfig, "ConsoleSize", Honoured, "[24,80]"),
    row(HostConfig, "Annotations", Echoed, r#"{"a":"b"}"#),
    row(HostConfig, "CapAdd", Honoured, r#"["NET_ADMIN"]"#),
    row(HostConfig, "CapDrop", Honoured, r#"["CAP_CHOWN"]"#),
    row(
        HostConfig,
        "Capabilities",
        Refused("Capabilities existed in API v1.40 only: use CapAdd and CapDrop"),
        r#"["CAP_CHOWN"]"#,
    ),
    row(HostConfig, "CgroupnsMode", Echoed, r#""private""#),
    row(HostConfig, "Dns", Honoured, r#"["192.0.2.1"]"#),
    row(HostConfig, "DnsOptions", Honoured, r#"["ndots:1"]"#),
    row(HostConfig, "DnsSearch", Honoured, r#"["example.org"]"#),
    row(HostConfig, "ExtraHosts", Honoured, r#"["a:192.0.2.1"]"#),
    row(HostConfig, "GroupAdd", Honoured, r#"["audio"]"#),
    row(HostConfig, "IpcMode", Echoed, r#""shareable""#),
    row(HostConfig, "Cgroup", Ignored, r#""x""#),
    row(
        HostConfig,
        "Links",
        Refused("links between containers are not implemented yet"),
        r#"["one:alias"]"#,
    ),
    row(HostConfig, "OomScoreAdj", Honoured, "100"),
    row(HostConfig, "PidMode", Echoed, r#""private""#),
    row(HostConfig, "Privileged", Honoured, "true"),
    row(
        HostConfig,
        "PublishAllPorts",
        Refused("publishing ports is not implemented yet"),
        "true",
    ),
    row(HostConfig, "ReadonlyRootfs", Honoured, "true"),
    row(
        HostConfig,
        "SecurityOpt",
        Honoured,
        r#"["no-new-privileges"]"#,
    ),
    row(HostConfig, "StorageOpt", Honoured, r#"{"size":"20G"}"#),
    row(HostConfig, "Tmpfs", Honoured, r#"{"/t":"size=1m"}"#),
    row(HostConfig, "UTSMode", Echoed, r#""private""#),
    row(HostConfig, "UsernsMode", Echoed, r#""private""#),
    row(HostConfig, "ShmSize", Honoured, "1048576"),
    row(
        HostConfig,
        "Sysctls",
        Honoured,
        r#"{"net.ipv4.ip_forward":"1"}"#,
    ),
    row(HostConfig, "Runtime", Echoed, r#""runc""#),
    row(HostConfig, "Isolation", Echoed, r#""default""#),
    row(HostConfig, "CpuShares", Honoured, "512"),
    row(HostConfig, "Memory", Honoured, "67108864"),
    row(HostConfig, "NanoCpus", Honoured, "500000000"),
    row(
        HostConfig,
        "CgroupParent",
        Warned(
            "A container is a VM of its own: its cgroup has no parent on a host. CgroupParent discarded.",
        ),
        r#""/x""#,
    ),
    row(HostConfig, "BlkioWeight", Warned(IO_DISCARDED), "500"),
    row(
        HostConfig,
        "BlkioWeightDevice",
        Warned(IO_DISCARDED),
        r#"[{"Path":"/dev/sda","Weight":500}]"#,
    ),
    row(
        HostConfig,
        "BlkioDeviceReadBps",
        Warned(IO_DISCARDED),
        r#"[{"Path":"/dev/sda","Rate":1024}]"#,
    ),
    row(
        HostConfig,
        "BlkioDeviceWriteBps",
        Warned(IO_DISCARDED),
        r#"[{"Path":"/dev/sda","Rate":1024}]"#,
    ),
    row(
        HostConfig,
        "BlkioDeviceReadIOps",
        Warned(IO_DISCARDED),
        r#"[{"Path":"/dev/sda","Rate":1024}]"#,
    ),
    row(
        HostConfig,
        "BlkioDeviceWriteIOps",
        Warned(IO_DISCARDED),
        r#"[{"Path":"/dev/sda","Rate":1024}]"#,
    ),
    row(HostConfig, "CpuPeriod", Honoured, "50000"),
    row(HostConfig, "CpuQuota", Honoured, "50000"),
    row(HostConfig, "CpuRealtimePeriod", Refused(REAL_TIME), "1000"),
    row(HostConfig, "CpuRealtimeRuntime", Refused(REAL_TIME), "1000"),
    row(HostConfig, "CpusetCpus", Honoured, r#""0-1""#),
    row(
        HostConfig,
        "CpusetMems",
        Warned("A container's VM has one memory node. CpusetMems discarded."),
        r#""0""#,
    ),
    row(
        HostConfig,
        "Devices",
        Refused(DEVICES),
        r#"[{"PathOnHost":"/dev/null"}]"#,
    ),
    row(
        HostConfig,
        "DeviceCgroupRules",
        Refused(DEVICES),
        r#"["c 1:3 r"]"#,
    ),
    row(
        HostConfig,
        "DeviceRequests",
        Refused(DEVICES),
        r#"[{"Driver":"nvidia"}]"#,
    ),
    row(HostConfig, "KernelMemory", Ignored, "67108864"),
    row(HostConfig, "KernelMemoryTCP", Ignored, "67108864"),
    row(
        HostConfig,
        "MemoryReservation",
        Warned("Memory reservations of VMs are not implemented yet. Reservation discarded."),
        "33554432",
    ),
    row(
        HostConfig,
        "MemorySwap",
        Warned("Your kernel does not support swap limit capabilities. Limitation discarded."),
        "-1",
    ),
    row(
        HostConfig,
        "MemorySwappiness",
        Warned("A container's VM has no swap. MemorySwappiness discarded."),
        "50",
    ),
    row(
        HostConfig,
        "OomKillDisable",
        Warned("Your kernel does not support OomKillDisable. OomKillDisable discarded."),
        "true",
    ),
    row(HostConfig, "PidsLimit", Honoured, "100"),
    row(
        HostConfig,
        "Ulimits",
        Honoured,
        r#"[{"Name":"nofile","Soft":10,"Hard":20}]"#,
    ),
    row(
        HostConfig,
        "CpuCount",
        Warned("CpuCount exists on Windows only. CpuCount discarded."),
        "1",
    ),
    row(
        HostConfig,
        "CpuPercent",
        Warned("CpuPercent exists on Windows only. CpuPercent discarded."),
        "1",
    ),
    row(HostConfig, "IOMaximumIOps", Refused(WINDOWS_IO), "1"),
    row(HostConfig, "IOMaximumBandwidth", Refused(WINDOWS_IO), "1"),
    row(
        HostConfig,
        "Mounts",
        Honoured,
        r#"[{"Type":"volume","Source":"data","Target":"/d"}]"#,
    ),
    row(HostConfig, "MaskedPaths", Echoed, r#"["/proc/x"]"#),
    row(HostConfig, "ReadonlyPaths", Echoed, r#"["/proc/x"]"#),
    row(HostConfig, "Init", Honoured, "true"),
    row(
        Endpoint,
        "IPAMConfig",
        Refused("user-specified IP address is supported on user-defined networks only"),
        r#"{"IPv4Address":"172.17.0.9"}"#,
    ),
    row(
        Endpoint,
        "Links",
        Refused("links between containers are not implemented yet"),
        r#"["one:alias"]"#,
    ),
    row(Endpoint, "Aliases", Honoured, r#"["alias"]"#),
    row(Endpoint, "MacAddress", Honoured, r#""02:42:ac:11:00:09""#),
    row(Endpoint, "DriverOpts", Echoed, r#"{"a":"b"}"#),
    row(Endpoint, "GwPriority", Echoed, "1"),
    row(Endpoint, "NetworkID", Ignored, r#""x""#),
    row(Endpoint, "EndpointID", Ignored, r#""x""#),
    row(Endpoint, "Gateway", Ignored, r#""192.0.2.1""#),
    row(Endpoint, "IPAddress", Ignored, r#""192.0.2.1""#),
    row(Endpoint, "IPPrefixLen", Ignored, "16"),
    row(Endpoint, "IPv6Gateway", Ignored, r#""x""#),
    row(Endpoint, "GlobalIPv6Address", Ignored, r#""x""#),
    row(Endpoint, "GlobalIPv6PrefixLen", Ignored, "64"),
    row(Endpoint, "DNSNames", Ignored, r#"["x"]"#),
];

/// The names of a section's fields.
pub fn names(section: Section) -> Vec<&'static str> {
    FIELDS
        .iter()
        .filter(|f| f.section == section)
        .map(|f| f.name)
        .collect()
}

/// Fields whose objects are structures, not maps.
const STRUCTURES: &[&str] = &["LogConfig", "RestartPolicy", "Healthcheck", "IPAMConfig"];

/// Whether a value says nothing: null, zero, false, empty, and `-1` where docker means "unset" by it.
pub fn is_unset(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => {
            number.as_f64() == Some(0.0)
                || (name == "MemorySwappiness" && number.as_i64() == Some(-1))
        }
        Value::String(text) => text.is_empty(),
        Value::Array(list) => {
            list.is_empty() || (name == "ConsoleSize" && list.iter().all(|v| is_unset("", v)))
        }
        // In a map from names to settings a name says something, in a structure only its values do.
        Value::Object(map) if STRUCTURES.contains(&name) => map.values().all(|v| is_unset("", v)),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Whether a value of a refused field asks for nothing that we would refuse.
fn is_harmless(name: &str, value: &Value) -> bool {
    match name {
        "RestartPolicy" => matches!(
            value.get("Name").and_then(Value::as_str),
            None | Some("" | "no")
        ),
        "Healthcheck" => {
            let test = value.get("Test").and_then(Value::as_array);
            test.is_none_or(|t| t.is_empty() || t.first().and_then(Value::as_str) == Some("NONE"))
        }
        "IPAMConfig" => value
            .as_object()
            .is_some_and(|map| map.values().all(|v| is_unset("", v))),
        _ => is_unset(name, value),
    }
}

/// Goes through a document by the table: refuses, and gathers warnings.
///
/// # Errors
///
/// 400 with the text of the first refused field that is set.
pub fn check(
    section: Section,
    document: &Value,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let Value::Object(map) = document else {
        return Ok(());
    };
    for field in FIELDS.iter().filter(|f| f.section == section) {
        let Some(value) = map.get(field.name) else {
            continue;
        };
        match field.treatment {
            Refused(text) if !is_harmless(field.name, value) => {
                return Err(ApiError::bad_request(text));
            }
            Warned(text) if !is_unset(field.name, value) && !warnings.iter().any(|w| w == text) => {
                warnings.push(text.to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

/// A document with only the fields that we know and that say something: what is worth keeping.
pub fn compact(section: Section, document: &Value) -> Value {
    let Value::Object(map) = document else {
        return json!({});
    };
    let kept: Map<String, Value> = FIELDS
        .iter()
        .filter(|f| f.section == section && f.treatment != Ignored)
        .filter_map(|f| map.get(f.name).map(|value| (f.name, value)))
        // `Init: false` and `StopTimeout: 0` say something.
        .filter(|(name, value)| {
            !is_unset(name, value) || (matches!(*name, "Init" | "StopTimeout") && !value.is_null())
        })
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    Value::Object(kept)
}

/// A kept `Config` with all fields that inspect shows always.
pub fn full_config(kept: &Value) -> Value {
    overlay(
        json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
            "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [],
            "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null,
            "OnBuild": null, "Labels": {},
        }),
        kept,
    )
}

/// A kept `HostConfig` with all fields that inspect shows always.
pub fn full_host_config(kept: &Value) -> Value {
    let mut full = overlay(
        json!({
            "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "json-file", "Config": {} },
            "NetworkMode": "bridge", "PortBindings": {}, "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
            "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
            "CapAdd": null, "CapDrop": null, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [],
            "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "private", "Cgroup": "",
            "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
            "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": 67_108_864, "Runtime": "vsphere", "Isolation": "", "CpuShares": 0, "Memory": 0,
            "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": null,
            "BlkioDeviceReadBps": null, "BlkioDeviceWriteBps": null, "BlkioDeviceReadIOps": null,
            "BlkioDeviceWriteIOps": null, "CpuPeriod": 0, "CpuQuota": 0, "CpuRealtimePeriod": 0,
            "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": null, "OomKillDisable": null, "PidsLimit": null, "Ulimits": null,
            "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
            "MaskedPaths": [], "ReadonlyPaths": [],
        }),
        kept,
    );
    let memory = full.get("Memory").and_then(Value::as_i64).unwrap_or(0);
    if memory > 0 && full.get("MemorySwap").and_then(Value::as_i64) == Some(0) {
        full["MemorySwap"] = json!(memory.saturating_mul(2));
    }
    full
}

fn overlay(mut full: Value, kept: &Value) -> Value {
    if let (Some(map), Some(kept)) = (full.as_object_mut(), kept.as_object()) {
        for (key, value) in kept {
            map.insert(key.clone(), value.clone());
        }
    }
    full
}
