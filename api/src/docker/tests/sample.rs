//! Snapshots as actors would publish them.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::container::{
    ContainerSnapshot, CreateSpec, Documents, EndpointSnapshot, MountSnapshot, Phase, ProcessSpec,
    VmSnapshot,
};
use actors::image::ImageSnapshot;
use actors::{ContainerId, EndpointId, ImageId, NetworkId};
use serde_json::json;
use time::OffsetDateTime;

/// The id of the sample image.
pub fn image_id() -> ImageId {
    ImageId::parse(&"1a".repeat(32)).expect("id")
}

/// An image with everything that a container inherits.
pub fn image() -> ImageSnapshot {
    ImageSnapshot {
        id: image_id(),
        tags: vec!["busybox:latest".into()],
        digests: Vec::new(),
        diff_ids: vec![format!("sha256:{}", "2b".repeat(32))],
        chain_id: "3c".repeat(32),
        size: 4_261_550,
        created: Some(OffsetDateTime::UNIX_EPOCH),
        last_tagged: None,
        config: json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Cmd": ["sh"],
                "Env": ["PATH=/bin", "FROM=image"],
                "Labels": {"image": "yes"},
                "Volumes": {"/data": {}},
                "ExposedPorts": {"80/tcp": {}},
            },
        }),
    }
}

/// A container that was made from the sample image and never started.
pub fn container(name: &str) -> ContainerSnapshot {
    let spec = CreateSpec {
        name: Some(name.to_owned()),
        image_name: "busybox".into(),
        process: ProcessSpec {
            argv: vec!["sh".into(), "-c".into(), "echo a".into()],
            ..ProcessSpec::default()
        },
        labels: [("name".to_owned(), name.to_owned())].into(),
        documents: Documents {
            config: json!({"Image": "busybox", "ExposedPorts": {"80/tcp": {}}}),
            host_config: json!({"NetworkMode": "bridge"}),
            networking: json!({}),
        },
        ..CreateSpec::of(image_id())
    };
    ContainerSnapshot {
        id: ContainerId::of_name(name),
        name: name.to_owned(),
        created: OffsetDateTime::UNIX_EPOCH,
        spec: Arc::new(spec),
        phase: Phase::Created,
        removing: false,
        removing_volumes: false,
        dead: false,
        exit_code: 0,
        exits: 0,
        error: String::new(),
        oom_killed: false,
        started_at: None,
        finished_at: None,
        restart_count: 0,
        endpoints: vec![EndpointSnapshot {
            network: NetworkId::of_name("bridge"),
            network_name: "bridge".into(),
            id: EndpointId::of_name(name),
            aliases: Vec::new(),
            address: Some([172, 17, 0, 2].into()),
            prefix_len: 16,
            gateway: Some([172, 17, 0, 1].into()),
            mac: "02:42:ac:11:00:02".into(),
        }],
        mounts: vec![MountSnapshot {
            volume: Some("data".into()),
            anonymous: false,
            source: "[ds] vch-volumes/data/data.vmdk".into(),
            target: "/data".into(),
            read_only: false,
            mode: "z".into(),
        }],
        execs: BTreeMap::new(),
        vm: VmSnapshot::default(),
        revision: 1,
    }
}
