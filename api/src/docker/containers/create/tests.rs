//! Tests of create's checks and merging; the walk through the table of fields.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::fields::{FIELDS, Field, Section, Treatment};
use super::*;
use crate::docker::tests::{fake, sample};
use crate::docker::version::NEWEST;

fn made(body: Value) -> Result<CreateSpec, ApiError> {
    let engine = fake::Engine::new();
    engine.put(sample::container("one"));
    Request::read(NEWEST, body, 4)?.into_spec(&engine, None, "")
}

fn refused(body: Value) -> (u16, String) {
    let error = made(body).expect_err("refused");
    (error.status().as_u16(), error.message().to_owned())
}

/// What is made, without the documents that are only given back.
fn essence(mut spec: CreateSpec) -> String {
    spec.documents = Documents::default();
    format!("{spec:?}")
}

/// A body with one field of the table set.
fn with_field(field: &Field) -> Value {
    let sample: Value = serde_json::from_str(field.sample).expect(field.name);
    let mut body = json!({"Image": "busybox"});
    match field.section {
        Section::Config => body[field.name] = sample,
        // A period says something only about a quota.
        Section::HostConfig if field.name == "CpuPeriod" => {
            body["HostConfig"] = json!({"CpuQuota": 20000, "CpuPeriod": sample});
        }
        Section::HostConfig => body["HostConfig"] = json!({ field.name: sample }),
        Section::Endpoint => {
            body["NetworkingConfig"] =
                json!({"EndpointsConfig": {"bridge": { field.name: sample }}});
        }
    }
    body
}

#[test]
fn every_field_is_treated_as_the_table_says() {
    let plain = made(json!({"Image": "busybox"})).expect("plain");
    for field in FIELDS {
        let name = format!("{:?}.{}", field.section, field.name);
        let body = with_field(field);
        match field.treatment {
            Treatment::Refused(text) => assert_eq!(refused(body), (400, text.to_owned()), "{name}"),
            Treatment::Warned(text) => {
                let spec = made(body).unwrap_or_else(|e| panic!("{name}: {}", e.message()));
                assert_eq!(spec.warnings, [text], "{name}");
            }
            Treatment::Honoured if field.name == "Image" => {
                assert_eq!(
                    refused(body),
                    (404, "No such image: other:latest".to_owned())
                );
            }
            Treatment::Honoured => {
                let spec = made(body).unwrap_or_else(|e| panic!("{name}: {}", e.message()));
                assert_ne!(
                    essence(spec),
                    essence(plain.clone()),
                    "{name} changes nothing"
                );
            }
            Treatment::Echoed => {
                let spec = made(body).unwrap_or_else(|e| panic!("{name}: {}", e.message()));
                assert_ne!(
                    format!("{:?}", spec.documents),
                    format!("{:?}", plain.documents),
                    "{name} is lost"
                );
            }
            Treatment::Ignored => {
                let spec = made(body).unwrap_or_else(|e| panic!("{name}: {}", e.message()));
                assert_eq!(
                    essence(spec),
                    essence(plain.clone()),
                    "{name} changes something"
                );
            }
        }
    }
}

/// The fields of moby's `container.Config`, `container.HostConfig` and `network.EndpointSettings` in API 1.55.
const MOBY: &[(Section, &str)] = &[
    (
        Section::Config,
        "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd \
         Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels \
         StopSignal StopTimeout Shell",
    ),
    (
        Section::HostConfig,
        "Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom \
         ConsoleSize Annotations CapAdd CapDrop Capabilities CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts \
         GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt \
         StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime Isolation CpuShares Memory NanoCpus CgroupParent \
         BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps \
         BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems Devices \
         DeviceCgroupRules DeviceRequests KernelMemory KernelMemoryTCP MemoryReservation MemorySwap MemorySwappiness \
         OomKillDisable PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth Mounts MaskedPaths \
         ReadonlyPaths Init",
    ),
    (
        Section::Endpoint,
        "IPAMConfig Links Aliases MacAddress DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress IPPrefixLen \
         IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames",
    ),
];

#[test]
fn no_field_of_moby_is_missing_and_none_is_listed_twice() {
    for (section, names) in MOBY {
        let mut theirs: Vec<&str> = names.split_whitespace().collect();
        let mut ours = fields::names(*section);
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs, "{section:?}");
    }
}

#[test]
fn a_default_request_of_the_cli_warns_about_nothing() {
    // What docker 28 sends for `docker create busybox`, zero fields and all.
    let body = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true,
        "AttachStderr": true, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": null,
        "Image": "busybox", "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "default",
            "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
            "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null,
            "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null,
            "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
            "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": 0, "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
            "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0, "Ulimits": [], "CpuCount": 0,
            "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0, "MaskedPaths": null, "ReadonlyPaths": null,
        },
        "NetworkingConfig": {"EndpointsConfig": {"default": {
            "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null,
            "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
        }}},
    });
    let spec = made(body).expect("made");
    assert_eq!(spec.warnings, [""; 0]);
    assert_eq!(spec.network.endpoints.len(), 1);
    assert_eq!(spec.process.argv, ["sh"]);
    assert_eq!(spec.documents.host_config["NetworkMode"], "bridge");
}

#[test]
fn a_container_inherits_from_its_image() {
    let spec = made(json!({
        "Image": "busybox", "Env": ["FROM=me", "GONE"], "Labels": {"mine": "1"}, "Cmd": ["echo", "x"],
        "ExposedPorts": {"81/tcp": {}},
    }))
    .expect("made");
    assert_eq!(spec.process.env, ["FROM=me", "PATH=/bin"]);
    assert_eq!(
        spec.labels,
        [("image", "yes"), ("mine", "1")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    );
    assert_eq!(spec.process.argv, ["echo", "x"]);
    let config = &spec.documents.config;
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "81/tcp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert!(
        matches!(&spec.mounts[..], [MountSpec::Volume { name: None, target, .. }] if target == "/data")
    );
}

#[test]
fn an_entrypoint_of_ones_own_drops_the_images_command() {
    let argv = |body: Value| {
        made(body)
            .map(|spec| spec.process.argv)
            .map_err(|e| e.message().to_owned())
    };
    assert_eq!(
        argv(json!({"Image": "busybox", "Entrypoint": ["env"]})),
        Ok(vec!["env".to_owned()])
    );
    assert_eq!(
        argv(json!({"Image": "busybox", "Entrypoint": "env", "Cmd": "a"})),
        Ok(vec!["env".into(), "a".into()])
    );
    assert_eq!(
        argv(json!({"Image": "busybox", "Entrypoint": []})),
        Ok(vec!["sh".to_owned()])
    );
    assert_eq!(
        argv(json!({"Image": "busybox", "Entrypoint": [""]})),
        Err("no command specified".to_owned())
    );
    assert_eq!(
        argv(json!({"Image": "busybox", "Entrypoint": [""], "Cmd": ["a"]})),
        Ok(vec!["a".to_owned()])
    );
}

#[test]
fn a_volume_of_ones_own_takes_the_images_place() {
    let spec = made(json!({"Image": "busybox", "HostConfig": {"Binds": ["mine:/data:ro"]}}))
        .expect("made");
    assert!(matches!(
        &spec.mounts[..],
        [MountSpec::Volume { name: Some(name), target, read_only: true, .. }] if name == "mine" && target == "/data"
    ));
}

#[test]
fn settings_are_checked_before_the_image_and_the_image_before_the_name() {
    let both = json!({"Image": "nosuch", "HostConfig": {"Memory": 1}});
    assert_eq!(
        refused(both),
        (400, "Minimum memory limit allowed is 6MB".to_owned())
    );
    assert_eq!(
        refused(json!({"Image": "nosuch"})),
        (404, "No such image: nosuch:latest".to_owned())
    );
    assert_eq!(refused(json!({})).0, 400);
}

#[test]
fn what_makes_no_sense_is_refused_in_mobys_words() {
    let long = "h".repeat(65);
    for (extra, text) in [
        (
            json!({"Hostname": long}),
            format!("hostname {long:?} is too long (maximum 64 bytes)"),
        ),
        (
            json!({"Env": ["=x"]}),
            "invalid environment variable: =x".into(),
        ),
        (
            json!({"WorkingDir": "rel"}),
            "the working directory 'rel' is invalid, it needs to be an absolute path".into(),
        ),
        (json!({"StopSignal": "NOPE"}), "invalid signal: NOPE".into()),
        (
            json!({"ExposedPorts": {"x": {}}}),
            "invalid port specification: \"x\"".into(),
        ),
        (
            json!({"HostConfig": {"Binds": ["aa:/d", "bb:/d"]}}),
            "Duplicate mount point: /d".into(),
        ),
        (
            json!({"Hostname": "h", "HostConfig": {"NetworkMode": "container:x"}}),
            "conflicting options: hostname and the network mode".into(),
        ),
        (
            json!({"HostConfig": {"NetworkMode": "mine"}}),
            "network mine not found".into(),
        ),
        (
            json!({"HostConfig": {"VolumesFrom": ["nobody"]}}),
            "No such container: nobody".into(),
        ),
    ] {
        let mut body = json!({"Image": "busybox"});
        for (key, value) in extra.as_object().expect("object") {
            body[key] = value.clone();
        }
        assert_eq!(refused(body), (400, text));
    }
}

#[test]
fn names_are_checked_as_moby_checks_them() {
    assert_eq!(check_name("/ab").expect("name"), "ab");
    for bad in ["a", "", "-ab", "a b", "a/b", "/"] {
        assert_eq!(
            check_name(bad).expect_err(bad).message(),
            format!("Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        );
    }
}

#[test]
fn keys_are_read_whatever_their_case_and_unknown_ones_ignored() {
    let spec = made(
        json!({"image": "busybox", "CMD": ["a"], "hostconfig": {"MEMORY": 8388608}, "nonsense": 1}),
    );
    let spec = spec.expect("made");
    assert_eq!(
        (spec.process.argv, spec.resources.memory),
        (vec!["a".to_owned()], 8 << 20)
    );
}

#[test]
fn inspect_gives_back_what_was_given() {
    let spec = made(json!({
        "Image": "busybox", "Labels": {"a": "b"}, "HostConfig": {"Memory": 67108864, "CapAdd": ["NET_ADMIN"]},
    }))
    .expect("made");
    let mut container = sample::container("x");
    container.spec = std::sync::Arc::new(spec);
    let document = super::super::inspect::document(&container);
    assert_eq!(document["HostConfig"]["Memory"], 67_108_864);
    assert_eq!(document["HostConfig"]["MemorySwap"], 134_217_728);
    assert_eq!(document["HostConfig"]["CapAdd"], json!(["NET_ADMIN"]));
    assert_eq!(document["HostConfig"]["RestartPolicy"]["Name"], "no");
    assert_eq!(
        document["Config"]["Labels"],
        json!({"a": "b", "image": "yes"})
    );
    assert_eq!(document["Config"]["Hostname"], container.id.short());
    assert_eq!(document["NetworkSettings"]["Ports"], json!({}));
    assert_eq!(
        document["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
        ""
    );
    assert_eq!(document["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(document["Name"], "/x");
}

/// Any JSON, with the names of real fields among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        Just(json!("busybox")),
    ];
    let key = prop_oneof![
        (0..FIELDS.len()).prop_map(|n| FIELDS[n].name.to_owned()),
        prop::sample::select(vec![
            "HostConfig",
            "NetworkingConfig",
            "EndpointsConfig",
            "bridge",
            "Type",
            "Target"
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,4}",
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_is_made_or_refused_with_a_status_of_the_clients(mut body in any_json(), minor in 24u32..56) {
        if let Some(map) = body.as_object_mut() {
            map.insert("Image".to_owned(), json!("busybox"));
        }
        let engine = fake::Engine::new();
        let made = Request::read(ApiVersion::v1(minor), body, 4).and_then(|r| r.into_spec(&engine, None, ""));
        if let Err(error) = made {
            prop_assert!(matches!(error.status().as_u16(), 400 | 404), "{:?}", error);
            prop_assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn any_words_are_binds_or_refused(text in "[a-z:/.,$ ]{0,30}") {
        if let Ok(mount) = mounts::bind(&text) {
            prop_assert!(mount.target().starts_with('/') && mount.target() != "/");
        }
    }
}
