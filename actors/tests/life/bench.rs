//! A bench for tests: a simulator that runs no guests, an appliance VM in it, and a world on top. Guests are played
//! by the test: by hand through vSphere ([`Bench::guest_runs`]), or all of them by [`Stage::Played`].
// A helper of tests: what fails here fails the test.
#![allow(
    dead_code,
    missing_docs,
    clippy::missing_panics_doc,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::container::spec::{
    CreateSpec, Created, EndpointSpec, MountSpec, NetworkSpec, ProcessSpec,
};
use actors::container::{ContainerSnapshot, Phase};
use actors::context::Settings;
use actors::image::disk::{DiskAccess, Doing};
use actors::image::{ImageSnapshot, Progress};
use actors::system::SystemInfo;
use actors::world::{Args, World};
use actors::{ContainerId, Error, network};
use strategy::Policy;
use tether_protocol::config::{
    ApplianceConfig, Cidr, Connection, LinkIdentity, ProcessState, ProcessStatus, Secret, Slot,
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

use crate::guest;

/// Who plays the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The test, by hand.
    ByHand,
    /// `guest::play`.
    Played,
}

/// What a bench is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// A vCenter; otherwise a single host.
    pub vcenter: bool,
    /// Who plays the guests.
    pub stage: Stage,
    /// Deadline of one vSphere request.
    pub deadline: Duration,
    /// How long one turn of the standing wait lasts.
    pub wait: Duration,
    /// How often an idle session is used.
    pub keep_alive: Duration,
    /// How many objects one page of a large answer holds.
    pub page: i32,
    /// Restarts of actors.
    pub policy: Policy,
    /// Length of the bridge's prefix: the smaller the pool, the sooner addresses that leak are missed.
    pub bridge_width: u32,
    /// Registries that may speak http.
    pub insecure: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vcenter: false,
            stage: Stage::ByHand,
            deadline: Duration::from_secs(60),
            wait: Duration::from_secs(60),
            keep_alive: Duration::from_secs(600),
            page: 1000,
            policy: Policy::default(),
            bridge_width: 28,
            insecure: vec![],
        }
    }
}

/// Unpacks into directories that are thrown away, and counts how often a disk was mounted for that.
#[derive(Debug)]
struct Scratch(PathBuf, Arc<AtomicU64>);

impl DiskAccess for Scratch {
    fn format(&self, _: Slot) -> Doing<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    fn mount(&self, slot: Slot) -> Doing<'_, PathBuf> {
        let point = self.0.join(slot.to_string().replace(':', "-"));
        std::fs::create_dir_all(&point).unwrap();
        self.1.fetch_add(1, Ordering::Relaxed);
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
    /// How often each container ran, when its guests are played.
    pub runs: guest::Runs,
    /// What was called until the world was there.
    pub all_calls: BTreeSet<String>,
    mounts: Arc<AtomicU64>,
    own_vm: String,
    pool: ManagedObjectReference,
    datastore: &'static str,
    playing: tokio::task::JoinSet<()>,
    args: Args,
    state: tempfile::TempDir,
}

fn reference(kind: &str, id: &str) -> ManagedObjectReference {
    ManagedObjectReference {
        r#type: kind.into(),
        value: id.into(),
    }
}

/// Where things are in the inventory.
struct Places {
    datacenter: &'static str,
    datastore: &'static str,
    folder: ManagedObjectReference,
    pool: ManagedObjectReference,
}

async fn places(client: &Client, vcenter: bool) -> Places {
    if !vcenter {
        return Places {
            datacenter: "",
            datastore: "datastore1",
            folder: reference("Folder", "ha-folder-vm"),
            pool: reference("ResourcePool", "ha-root-pool"),
        };
    }
    let index = client.content().search_index.clone().unwrap();
    let find = async |path: &str| {
        let inventory_path = path.to_owned();
        let request = vmomi::types::FindByInventoryPathRequest { inventory_path };
        let found = client.invoke(&index, request).await.expect("a search");
        found.unwrap_or_else(|| panic!("no {path}"))
    };
    Places {
        datacenter: "/DC0",
        datastore: "LocalDS_0",
        folder: find("DC0/vm").await,
        pool: find("DC0/host/DC0_C0/Resources").await,
    }
}

impl Bench {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A bench whose guests are played.
    pub async fn played() -> Self {
        Self::with(Options {
            stage: Stage::Played,
            ..Options::default()
        })
        .await
    }

    pub async fn with(options: Options) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = tempfile::tempdir().unwrap();
        let model = if options.vcenter {
            simulator::Config::vc(state.path().join("sim"))
        } else {
            simulator::Config::esx(state.path().join("sim"))
        };
        let user = model.user.clone();
        let simulator = simulator::Simulator::start(model)
            .await
            .expect("a simulator");
        let trust = Trust::Thumbprint(Thumbprint::parse(simulator.thumbprint()).unwrap());
        let config = Config::new(&simulator.url().to_string())
            .unwrap()
            .with_password(user, "password")
            .with_trust(trust);
        let client = Client::connect(config.clone()).await.expect("a session");
        let places = places(&client, options.vcenter).await;
        let (hub, hub_is) = tokio::sync::watch::channel(None);
        let runs = guest::Runs::default();
        let mut playing = tokio::task::JoinSet::new();
        if options.stage == Stage::Played {
            let guests = simulator.power_ons().expect("the inert engine");
            playing.spawn(guest::play(guests, hub_is, runs.clone()));
        }
        let own_vm = appliance(&client, &places).await;
        let dc = match places.datacenter {
            "" => "ha-datacenter",
            path => path.trim_start_matches('/'),
        };
        let files = client.datastore(dc, places.datastore);
        files
            .write("vch/bootstrap.iso", "iso")
            .await
            .expect("an ISO");
        let settings = settings(&places, &own_vm, &options);
        let vsphere = Config {
            timeout: options.deadline,
            wait: options.wait,
            keep_alive: options.keep_alive,
            page: options.page,
            ..config
        };
        let mounts = Arc::new(AtomicU64::new(0));
        let args = Args {
            settings,
            vsphere,
            disks: Arc::new(Scratch(state.path().join("disks"), mounts.clone())),
            serial: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            system: SystemInfo::default(),
            policy: options.policy,
        };
        let world = World::start(args.clone()).await.expect("a world");
        hub.send_replace(world.serial_address().await.ok());
        let all_calls = simulator.take_calls().into_keys().collect();
        Self {
            world,
            simulator,
            client,
            runs,
            all_calls,
            mounts,
            own_vm,
            pool: places.pool,
            datastore: places.datastore,
            playing,
            args,
            state,
        }
    }

    /// A second world on the same state, as when somebody powers a copy of the appliance on.
    pub async fn second(&self) -> World {
        World::start(self.args.clone())
            .await
            .expect("a second world")
    }

    /// How often a layer's or a blank disk was mounted to be written since this was asked last.
    pub fn take_mounts(&self) -> u64 {
        self.mounts.swap(0, Ordering::Relaxed)
    }

    pub async fn stop(mut self) {
        self.world.stop().await;
        self.playing.abort_all();
        self.simulator.stop().await;
    }

    /// Stops in an orderly way; gives the methods that were called since the last look.
    pub async fn end(mut self) -> Vec<String> {
        self.world.stop().await;
        self.playing.abort_all();
        let calls = self.simulator.take_calls().into_keys().collect();
        self.simulator.stop().await;
        calls
    }

    /// Adds a fault rule.
    pub fn fault(&self, rule: &str) {
        self.simulator.add_faults(&[rule]).expect("a rule");
    }

    /// Looks until something is so.
    pub async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let begun = std::time::Instant::now();
        while !so().await {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "waited for: {what}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn take_calls(&self) -> BTreeMap<String, u64> {
        self.simulator
            .take_calls()
            .into_iter()
            .map(|(k, v)| (k.to_string(), v))
            .collect()
    }

    pub async fn load_image(&self, tag: &str) -> Arc<ImageSnapshot> {
        self.load(tag, 1).await.expect("loaded")
    }

    /// Loads an image of its own with so many layers; equal tags are equal images.
    pub async fn load(&self, tag: &str, layers: usize) -> Result<Arc<ImageSnapshot>, Error> {
        let (sender, upload) = tokio::sync::mpsc::channel(4);
        sender.send(Ok(archive(tag, layers).into())).await.unwrap();
        drop(sender);
        let mut transfer = self.world.engine.load(upload).await?;
        let mut loaded = false;
        while let Some(step) = transfer.progress.recv().await {
            match step {
                Progress::Failed(why) => return Err(why),
                Progress::Stream(_) => loaded = true,
                _ => {}
            }
        }
        if !loaded {
            // The stream's end without a last word: the transfer died.
            return Err(Error::Interrupted("load"));
        }
        self.world.engine.snapshots().find_image(tag)
    }

    pub async fn create(&self, name: &str, image: &ImageSnapshot) -> Result<Created, Error> {
        self.create_spec(spec(name, image, &["sh"])).await
    }

    pub async fn create_spec(&self, spec: CreateSpec) -> Result<Created, Error> {
        self.world.engine.create(spec).await
    }

    /// Runs an exec to its end; gives its output and its exit code.
    pub async fn exec(&self, id: ContainerId, argv: &[&str]) -> Result<(String, i64), Error> {
        use actors::container::{ExecSpec, StartExec};
        let process = ProcessSpec {
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            ..Default::default()
        };
        let wanted = ExecSpec {
            process,
            attach_stdout: true,
            attach_stderr: true,
            ..Default::default()
        };
        let engine = &self.world.engine;
        // The guest is there.
        engine.top(id, "").await?;
        let exec = engine.create_exec(id, wanted).await?;
        let mut streams = engine.start_exec(exec, StartExec::default()).await?;
        let mut text = Vec::new();
        while let Some(output) = streams.output.recv().await {
            text.extend_from_slice(&output.data);
        }
        let code = || engine.snapshots().find_exec(&exec.to_string());
        self.until("an exec's code", async || {
            code().is_err() || code().is_ok_and(|(_, e)| e.exit_code.is_some())
        })
        .await;
        let code = code()?.1.exit_code.ok_or(Error::Interrupted("exec"))?;
        Ok((String::from_utf8_lossy(&text).into_owned(), code))
    }

    /// Waits until nothing that was done before makes calls any more: a disk is let go after its user was answered.
    pub async fn settle(&self) {
        self.until("quiet", async || {
            self.take_calls();
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.take_calls().keys().all(|m| m == "WaitForUpdatesEx")
        })
        .await;
    }

    /// Leaves everything as it is, without an orderly stop.
    pub fn leave(mut self) {
        self.playing.abort_all();
    }

    /// All VMs in the pool but the appliance: name and power state.
    pub async fn vms(&self) -> BTreeMap<String, String> {
        let filter = actors::vsphere::pool_spec(&self.pool);
        let found = self.client.retrieve(vec![filter]).await.expect("the VMs");
        found
            .into_iter()
            .filter(|p| p.object.value != self.own_vm)
            .map(actors::vsphere::VmFacts::from)
            .map(|facts| (facts.name, facts.power))
            .collect()
    }

    /// The paths of the disks that are attached to the appliance.
    pub async fn attached(&self) -> Vec<String> {
        use vmomi::types::{VirtualDevice, VirtualDisk, VirtualDiskFlatVer2BackingInfo};
        let vm = reference("VirtualMachine", &self.own_vm);
        let devices: Option<Vec<vmomi::Poly<VirtualDevice>>> = self
            .client
            .property(&vm, "config.hardware.device")
            .await
            .expect("the appliance's devices");
        devices
            .unwrap_or_default()
            .iter()
            .filter_map(|d| d.get::<VirtualDisk>())
            .filter_map(|d| d.backing.as_ref()?.get::<VirtualDiskFlatVer2BackingInfo>())
            .map(|b| b.file_name.clone())
            .collect()
    }

    /// The directory that the datastore is.
    pub fn datastore(&self) -> PathBuf {
        self.state
            .path()
            .join("sim")
            .join("datastores")
            .join(self.datastore)
    }

    /// Everything on the datastore but extents of disks, locks, and the appliance's own folder: directories with a
    /// slash behind their name.
    pub fn files(&self) -> BTreeSet<String> {
        fn walk(root: &Path, at: &Path, found: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let extent = name.ends_with("-flat.vmdk") || name.contains("-s0");
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    found.insert(format!("{name}/"));
                    walk(root, &path, found);
                } else if !extent && !name.ends_with(".lck") {
                    found.insert(name);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.datastore(), &self.datastore(), &mut found);
        found.retain(|f| !f.starts_with("vch/") || f.starts_with("vch/state/"));
        found
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

/// Mounts of volumes of these names, or without any.
pub fn mounts(names: &[Option<&str>]) -> Vec<MountSpec> {
    let mount = |(at, name): (usize, &Option<&str>)| MountSpec::Volume {
        name: name.map(str::to_owned),
        target: format!("/v{at}"),
        read_only: false,
        no_copy: false,
        labels: BTreeMap::new(),
        mode: String::new(),
    };
    names.iter().enumerate().map(mount).collect()
}

/// A container of this image that runs these arguments, on the bridge.
pub fn spec(name: &str, image: &ImageSnapshot, argv: &[&str]) -> CreateSpec {
    let endpoint = EndpointSpec {
        network: network::bridge_id(),
        aliases: vec![],
        address: None,
        mac: None,
    };
    CreateSpec {
        name: Some(name.into()),
        image_name: "busybox".into(),
        process: ProcessSpec {
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            ..Default::default()
        },
        network: NetworkSpec {
            endpoints: vec![endpoint],
            ..Default::default()
        },
        ..CreateSpec::of(image.id.clone())
    }
}

fn settings(places: &Places, own_vm: &str, options: &Options) -> Settings {
    let document = ApplianceConfig {
        name: "vch".into(),
        executor: tether_protocol::config::ExecutorConfig {
            id: own_vm.to_owned(),
            ..Default::default()
        },
        connect: Connection {
            vm_folder: places.folder.value.clone(),
            datacenter: places.datacenter.to_owned(),
            ..Default::default()
        },
        storage: Storage {
            image_store: format!("ds://{}/vch-images", places.datastore),
            volume_stores: vec![VolumeStore {
                label: "default".into(),
                url: format!("ds://{}/vch-volumes", places.datastore),
            }],
            base_image_kb: 8 << 10,
        },
        network: tether_protocol::config::NetworkSettings {
            bridge_network: "VM Network".into(),
            bridge_range: Some(Cidr {
                ip: IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)),
                prefix: 16,
            }),
            bridge_width: options.bridge_width,
            ..Default::default()
        },
        link: LinkIdentity {
            key: Secret(Identity::generate().unwrap().to_base64()),
        },
        resource_pool: places.pool.value.clone(),
        bootstrap_iso: format!("[{}] vch/bootstrap.iso", places.datastore),
        serial_uri: "tcp://127.0.0.1:2377".into(),
        registry: tether_protocol::config::RegistrySettings {
            insecure: options.insecure.clone(),
            ..Default::default()
        },
        ..Default::default()
    };
    Settings::read(&document).unwrap()
}

async fn appliance(client: &Client, places: &Places) -> String {
    let (folder, pool) = (&places.folder, &places.pool);
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
            vm_path_name: Some(format!("[{}]", places.datastore)),
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

/// The layers of an image of the test's own making: each a tar with one file.
pub fn layers(tag: &str, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| {
            let mut layer = tar::Builder::new(Vec::new());
            add(&mut layer, "hello", format!("{tag} {at}").as_bytes());
            layer.into_inner().unwrap()
        })
        .collect()
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// An image's configuration document.
pub fn config_of(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|l| digest(l)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, name, data).unwrap();
}

/// An image as `docker save` writes it.
fn archive(tag: &str, count: usize) -> Vec<u8> {
    let layers = layers(tag, count);
    let config = config_of(&layers);
    let name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
    let names: Vec<_> = (0..count).map(|at| format!("l{at}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": name, "RepoTags": [tag], "Layers": names}]);
    let mut all = tar::Builder::new(Vec::new());
    add(&mut all, &name, &config);
    for (name, layer) in names.iter().zip(&layers) {
        add(&mut all, name, layer);
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    add(&mut all, "manifest.json", &manifest);
    all.into_inner().unwrap()
}
