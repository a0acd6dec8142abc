//! The engine as a whole: ping, version, info.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::error::ApiError;
use super::reply::{self, Reply};
use super::request::Call;
use super::timestamp;
use super::version::{NEWEST, OLDEST};
use super::versions::{self, Place};

/// Our own version, plain `N.N.N`.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET`, `HEAD /_ping`.
pub async fn ping(call: Call) -> Result<Reply, ApiError> {
    let mut reply = if call.method == Method::HEAD {
        let mut reply = reply::empty(StatusCode::OK);
        let headers = reply.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        reply
    } else {
        reply::with_type(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            Bytes::from_static(b"OK"),
        )
    };
    let headers = reply.headers_mut();
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(reply)
}

/// `GET /version`.
pub async fn version(call: Call) -> Result<Reply, ApiError> {
    let system = call.engine().system();
    let kernel = kernel_version(&system);
    let engine = if system.version.is_empty() {
        VERSION
    } else {
        &system.version
    };
    versions::answer(
        call.version,
        Place::Version,
        &json!({
            "Platform": { "Name": "vSphere container engine" },
            "Version": engine,
            "ApiVersion": NEWEST.to_string(),
            "MinAPIVersion": OLDEST.to_string(),
            "GitCommit": option_env!("VCH_GIT_COMMIT").unwrap_or("unknown"),
            "GoVersion": "none (Rust)",
            "Os": "linux",
            "Arch": "amd64",
            "KernelVersion": kernel,
            "BuildTime": option_env!("VCH_BUILD_TIME").unwrap_or(""),
            "Experimental": false,
            "Components": [
                {
                    "Name": "Engine",
                    "Version": engine,
                    "Details": {
                        "ApiVersion": NEWEST.to_string(),
                        "MinAPIVersion": OLDEST.to_string(),
                        "Arch": "amd64",
                        "Os": "linux",
                        "KernelVersion": kernel,
                        "Experimental": "false",
                    },
                },
                {
                    "Name": "vSphere",
                    "Version": system.operating_system,
                    "Details": {},
                },
            ],
        }),
    )
}

fn kernel_version(system: &actors::system::SystemInfo) -> &str {
    if system.kernel_version.is_empty() {
        "unknown"
    } else {
        &system.kernel_version
    }
}

/// `GET /info`.
pub async fn info(call: Call) -> Result<Reply, ApiError> {
    let engine = call.engine();
    let (system, snapshots) = (engine.system(), engine.snapshots());
    let (mut running, mut paused, mut stopped) = (0, 0, 0);
    let containers = snapshots.containers();
    for container in &containers {
        match container.status_word() {
            "running" => running += 1,
            "paused" => paused += 1,
            _ => stopped += 1,
        }
    }
    let driver_status: Vec<Value> = std::iter::once(json!(["Image store", system.image_store]))
        .chain(
            system
                .volume_stores
                .iter()
                .map(|(label, path)| json!([format!("Volume store {label}"), path])),
        )
        .collect();
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".into(),
        json!({ "Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true }),
    );
    for name in &system.insecure_registries {
        indexes.insert(
            name.clone(),
            json!({ "Name": name, "Mirrors": [], "Secure": false, "Official": false }),
        );
    }
    let version = if system.version.is_empty() {
        VERSION
    } else {
        &system.version
    };
    versions::answer(
        call.version,
        Place::Info,
        &json!({
            "ID": system.id,
            "Containers": containers.len(),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": stopped,
            "Images": snapshots.images().len(),
            "Driver": "vsphere",
            "DriverStatus": driver_status,
            "Plugins": {
                "Volume": ["local", "vsphere"],
                "Network": ["bridge", "host", "null"],
                "Authorization": null,
                "Log": ["json-file", "local", "none"],
            },
            "MemoryLimit": true,
            "SwapLimit": false,
            "CpuCfsPeriod": true,
            "CpuCfsQuota": true,
            "CPUShares": true,
            "CPUSet": false,
            "PidsLimit": true,
            "IPv4Forwarding": true,
            "OomKillDisable": false,
            "Debug": system.debug > 0,
            "NFd": 0,
            "NGoroutines": 0,
            "SystemTime": timestamp::nano(time::OffsetDateTime::now_utc()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "none",
            "CgroupVersion": "2",
            "NEventsListener": 0,
            "KernelVersion": kernel_version(&system),
            "OperatingSystem": system.operating_system,
            "OSVersion": "",
            "OSType": "linux",
            "Architecture": "x86_64",
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "IndexConfigs": indexes,
                "InsecureRegistryCIDRs": [],
                "Mirrors": [],
            },
            "NCPU": system.cpus,
            "MemTotal": system.memory,
            "GenericResources": null,
            "DockerRootDir": system.image_store,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": system.name,
            "Labels": [],
            "ExperimentalBuild": false,
            "ServerVersion": version,
            "Runtimes": { "vsphere": { "path": "" } },
            "DefaultRuntime": "vsphere",
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": false,
                "Error": "",
                "RemoteManagers": null,
            },
            "LiveRestoreEnabled": true,
            "Isolation": "",
            "InitBinary": "",
            "ContainerdCommit": { "ID": "" },
            "RuncCommit": { "ID": "" },
            "InitCommit": { "ID": "" },
            "SecurityOptions": ["name=seccomp,profile=builtin"],
            "CDISpecDirs": [],
            "FirewallBackend": { "Driver": "nftables" },
            "Warnings": [],
        }),
    )
}

/// `GET /plugins`: there are none.
pub async fn plugins(_call: Call) -> Result<Reply, ApiError> {
    Ok(reply::with_type(
        StatusCode::OK,
        "application/json",
        Bytes::from_static(b"[]\n"),
    ))
}

/// 204.
pub fn no_content() -> Reply {
    reply::empty(StatusCode::NO_CONTENT)
}
