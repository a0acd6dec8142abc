//! A bench for tests: a simulator that runs no guests, an appliance VM in it, and a world on top.
// A helper of tests: what fails here fails the test.
#![allow(
    dead_code,
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actors::container::spec::{
    CreateSpec, Created, Documents, EndpointSpec, NetworkSpec, ProcessSpec, Resources, SecuritySpec,
};
use actors::container::{ContainerSnapshot, Phase};
use actors::context::Settings;
use actors::image::disk::{DiskAccess, Doing};
use actors::image::{ImageSnapshot, Progress};
use actors::system::SystemInfo;
use actors::world::{Args, World};
use actors::{ContainerId, Error, network};
use tether_protocol::config::{
    ApplianceConfig, Connection, LinkIdentity, ProcessState, ProcessStatus, Secret, Slot,
    StateKeys, Storage, VolumeStore,
};
use tether_protocol::session::Identity;
use vmomi::client::{Client, Config};
use vmomi::tls::{Thumbprint, Trust};
use vmomi::types::{
    CreateVMRequest, DestroyRequest, OptionValue, ParaVirtualSCSIController, PowerOffVMRequest,
    PowerOnVMRequest, ReconfigVMRequest, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation,
    VirtualMachineConfigSpec, VirtualMachineFileInfo,
};
use vmomi::{Any, ManagedObjectReference};

/// Unpacks into directories that are thrown away.
#[derive(Debug)]
struct Scratch(PathBuf);

impl DiskAccess for Scratch {
    fn format(&self, _: Slot) -> Doing<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn mount(&self, slot: Slot) -> Doing<'_, PathBuf> {
        let point = self.0.join(slot.to_string().replace(':', "-"));
        std::fs::create_dir_all(&point).unwrap();
        Box::pin(async { Ok(point) })
    }
    fn unmount(&self, slot: Slot) -> Doing<'_, ()> {
        let _ = std::fs::remove_dir_all(self.0.join(slot.to_string().replace(':', "-")));
        Box::pin(async { Ok(()) })
    }
}

pub struct Bench {
    pub world: World,
    pub simulator: simulator::Simulator,
    pub client: Client,
    _state: tempfile::TempDir,
}

fn reference(kind: &str, id: &str) -> ManagedObjectReference {
    ManagedObjectReference {
        r#type: kind.into(),
        value: id.into(),
    }
}

impl Bench {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = tempfile::tempdir().unwrap();
        let simulator =
            simulator::Simulator::start(simulator::Config::esx(state.path().join("sim")))
                .await
                .expect("a simulator");
        let trust = Trust::Thumbprint(Thumbprint::parse(simulator.thumbprint()).unwrap());
        let config = Config::new(&simulator.url().to_string())
            .unwrap()
            .with_password("root", "password")
            .with_trust(trust);
        let client = Client::connect(config.clone()).await.expect("a session");
        let folder = reference("Folder", "ha-folder-vm");
        let pool = reference("ResourcePool", "ha-root-pool");
        let own_vm = appliance(&client, &folder, &pool).await;
        let files = client.datastore("ha-datacenter", "datastore1");
        files
            .write("vch/bootstrap.iso", "iso")
            .await
            .expect("an ISO");
        let document = ApplianceConfig {
            name: "vch".into(),
            executor: tether_protocol::config::ExecutorConfig {
                id: own_vm,
                ..Default::default()
            },
            connect: Connection {
                vm_folder: folder.value.clone(),
                ..Default::default()
            },
            storage: Storage {
                image_store: "ds://datastore1/vch-images".into(),
                volume_stores: vec![VolumeStore {
                    label: "default".into(),
                    url: "ds://datastore1/vch-volumes".into(),
                }],
                base_image_kb: 8 << 10,
            },
            network: tether_protocol::config::NetworkSettings {
                bridge_network: "VM Network".into(),
                ..Default::default()
            },
            link: LinkIdentity {
                key: Secret(Identity::generate().unwrap().to_base64()),
            },
            resource_pool: pool.value.clone(),
            bootstrap_iso: "[datastore1] vch/bootstrap.iso".into(),
            serial_uri: "tcp://127.0.0.1:2377".into(),
            ..Default::default()
        };
        let args = Args {
            settings: Settings::read(&document).unwrap(),
            vsphere: config,
            disks: Arc::new(Scratch(state.path().join("disks"))),
            serial: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            system: SystemInfo::default(),
        };
        let world = World::start(args).await.expect("a world");
        Self {
            world,
            simulator,
            client,
            _state: state,
        }
    }

    pub async fn stop(self) {
        self.world.stop().await;
        self.simulator.stop().await;
    }

    pub fn take_calls(&self) -> BTreeMap<String, u64> {
        self.simulator
            .take_calls()
            .into_iter()
            .map(|(k, v)| (k.to_string(), v))
            .collect()
    }

    pub async fn load_image(&self, tag: &str) -> Arc<ImageSnapshot> {
        let (sender, upload) = tokio::sync::mpsc::channel(4);
        sender.send(Ok(archive(tag).into())).await.unwrap();
        drop(sender);
        let mut transfer = self.world.engine.load(upload, true).await.expect("load");
        while let Some(step) = transfer.progress.recv().await {
            if let Progress::Failed(why) = step {
                panic!("load: {why}");
            }
        }
        self.world
            .engine
            .snapshots()
            .find_image(tag)
            .expect("loaded")
    }

    pub async fn create(&self, name: &str, image: &ImageSnapshot) -> Result<Created, Error> {
        let endpoint = EndpointSpec {
            network: network::bridge_id(),
            aliases: vec![],
            address: None,
            mac: None,
        };
        let spec = CreateSpec {
            name: Some(name.into()),
            image: image.id.clone(),
            image_name: "busybox".into(),
            process: ProcessSpec {
                argv: vec!["sh".into()],
                ..Default::default()
            },
            hostname: String::new(),
            domainname: String::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            stop_timeout: None,
            init: false,
            auto_remove: false,
            resources: Resources::default(),
            mounts: vec![],
            network: NetworkSpec {
                endpoints: vec![endpoint],
                ..Default::default()
            },
            security: SecuritySpec::default(),
            documents: Documents::default(),
            warnings: vec![],
        };
        self.world.engine.create(spec).await
    }

    pub fn vm_of(&self, id: ContainerId) -> ManagedObjectReference {
        let snapshot = self
            .world
            .engine
            .snapshots()
            .container(&id)
            .expect("on the shelf");
        reference("VirtualMachine", &snapshot.vm.moref)
    }

    pub async fn until_power(&self, vm: &ManagedObjectReference, power: &str) {
        let spec = vmomi::types::PropertyFilterSpec {
            prop_set: vec![vmomi::client::property_spec(
                "VirtualMachine",
                &["runtime.powerState"],
            )],
            object_set: vec![vmomi::types::ObjectSpec {
                obj: vm.clone(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut filter = self
            .client
            .watch()
            .await
            .unwrap()
            .filter(spec)
            .await
            .unwrap();
        let waiting = async {
            loop {
                let batch = filter.next().await.expect("a watch");
                for change in batch.objects.iter().flat_map(|o| &o.change_set) {
                    let state: vmomi::types::VirtualMachinePowerState =
                        change.val.clone().unwrap().to().unwrap();
                    if state.as_str() == power {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("the power state");
    }

    async fn set_keys(&self, vm: &ManagedObjectReference, keys: Vec<(String, String)>) {
        let extra_config = keys
            .into_iter()
            .map(|(key, value)| OptionValue {
                key,
                value: Some(Any::from(value)),
            })
            .collect();
        let spec = VirtualMachineConfigSpec {
            extra_config,
            ..Default::default()
        };
        self.client
            .run_task(vm, ReconfigVMRequest { spec })
            .await
            .expect("keys");
    }

    pub async fn guest_runs(&self, vm: &ManagedObjectReference, id: ContainerId, boot: &str) {
        let state = ProcessState {
            status: ProcessStatus::Running,
            started_at: Some(1_700_000_000_000_000_000),
            stopped_at: None,
        };
        let mut keys = vec![(StateKeys::BOOT.to_owned(), boot.to_owned())];
        keys.extend(state.encode(&id.to_string()));
        self.set_keys(vm, keys).await;
    }

    pub async fn guest_exits(&self, vm: &ManagedObjectReference, id: ContainerId, code: i32) {
        let state = ProcessState {
            status: ProcessStatus::Exited { code },
            started_at: None,
            stopped_at: Some(1_700_000_001_000_000_000),
        };
        self.set_keys(vm, state.encode(&id.to_string())).await;
        self.client
            .run_task(vm, PowerOffVMRequest {})
            .await
            .expect("off");
    }

    pub async fn destroy_behind_our_back(&self, vm: &ManagedObjectReference) {
        self.client
            .run_task(vm, DestroyRequest {})
            .await
            .expect("destroyed");
    }

    /// Waits until the container's actor answers again; at most a second, as promised.
    pub async fn until_up(&self, id: ContainerId) -> Arc<ContainerSnapshot> {
        let waiting = async {
            loop {
                if self
                    .world
                    .engine
                    .snapshots()
                    .container(&id)
                    .is_some_and(|c| c.phase != Phase::Starting)
                    && !matches!(
                        self.world
                            .engine
                            .resize(
                                id,
                                actors::streams::ConsoleSize {
                                    height: 1,
                                    width: 1
                                }
                            )
                            .await,
                        Err(Error::Interrupted(_) | Error::Deadline(_) | Error::NoSuchContainer(_))
                    )
                {
                    return self.world.engine.snapshots().container(&id).expect("there");
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .expect("up again")
    }
}

async fn appliance(
    client: &Client,
    folder: &ManagedObjectReference,
    pool: &ManagedObjectReference,
) -> String {
    let controller = VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        device: ParaVirtualSCSIController {
            key: 1000,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    };
    let config = VirtualMachineConfigSpec {
        name: Some("vch".into()),
        guest_id: Some("other3xLinux64Guest".into()),
        num_cpus: Some(1),
        memory_mb: Some(256),
        files: Some(VirtualMachineFileInfo {
            vm_path_name: Some("[datastore1]".into()),
            ..Default::default()
        }),
        device_change: vec![controller.into()],
        ..Default::default()
    };
    let request = CreateVMRequest {
        config,
        pool: pool.clone(),
        host: None,
    };
    let info = client
        .run_task(folder, request)
        .await
        .expect("an appliance");
    let vm = info.result.unwrap().as_reference().unwrap().clone();
    client
        .run_task(&vm, PowerOnVMRequest::default())
        .await
        .expect("an appliance that is on");
    vm.value
}

/// A one-layer image as `docker save` writes it.
fn archive(tag: &str) -> Vec<u8> {
    use sha2::Digest as _;
    let add = |tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, data).unwrap();
    };
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "hello", b"world");
    let layer = layer.into_inner().unwrap();
    let diff = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&layer)));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let name = format!("{}.json", hex::encode(sha2::Sha256::digest(&config)));
    let manifest =
        serde_json::json!([{"Config": name, "RepoTags": [tag], "Layers": ["l/layer.tar"]}]);
    let mut all = tar::Builder::new(Vec::new());
    add(&mut all, &name, &config);
    add(&mut all, "l/layer.tar", &layer);
    add(
        &mut all,
        "manifest.json",
        &serde_json::to_vec(&manifest).unwrap(),
    );
    all.into_inner().unwrap()
}
