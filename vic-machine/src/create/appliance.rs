//! The appliance's VM: its devices and its configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tether_protocol::config::{
    ApplianceConfig, Cidr, Connection, ExecutorConfig, LinkIdentity, NetworkEndpoint,
    NetworkSettings, RegistrySettings, Secret, Session as Process, Storage, TlsMaterial,
    VolumeStore,
};
use tether_protocol::session::Identity;
use vmomi::client::Client;
use vmomi::types::{
    CreateVMRequest, DistributedVirtualSwitchPortConnection, HostVirtualNic, MakeDirectoryRequest,
    OptionValue, ParaVirtualSCSIController, QueryOptionsRequest, ReconfigVMRequest, VirtualCdrom,
    VirtualCdromIsoBackingInfo, VirtualDevice, VirtualDeviceBackingInfo, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecOperation, VirtualDeviceConnectInfo,
    VirtualEthernetCardDistributedVirtualPortBackingInfo, VirtualEthernetCardNetworkBackingInfo,
    VirtualMachineConfigSpec, VirtualMachineFileInfo, VirtualSCSISharing, VirtualSerialPort,
    VirtualSerialPortFileBackingInfo, VirtualVmxnet3,
};
use vmomi::{Any, ManagedObjectReference as Reference, Poly};

use super::bridge::Nic;
use super::undo::{Made, Undo};
use crate::VERSION;
use crate::cli::values::Address;
use crate::failure::{Failure, Tried};
use crate::plan::Plan;
use crate::session::Session;
use crate::target::Target;
use crate::tls::Mode;
use crate::validate::Placement;
use crate::vch::BRIDGE_IS_OURS;

/// What tether starts, and where it puts the configuration for it.
const PROGRAM: [&str; 3] = ["/sbin/vch", "--config", "/run/vch/config.json"];
/// Where the VCH takes the serial lines that hosts dial; with DHCP it finds its own address for that.
const SERIAL_PORT: u16 = 2377;
/// The name of that process in the configuration.
pub(super) const PROCESS: &str = "vch";

/// The VM that was made.
#[derive(Clone, Debug)]
pub(super) struct Appliance {
    pub(super) object: Reference,
    /// Its folder, as `[ds] path`.
    pub(super) folder: String,
}

/// Makes the VM with its disks' controller and NICs, and its folder on the datastore.
pub(super) async fn create(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    folder: &Reference,
    pool: &Reference,
    nics: &[Nic],
    undo: &mut Undo,
) -> Result<Appliance, Failure> {
    let mut device_change = vec![add(ParaVirtualSCSIController {
        key: -1,
        bus_number: 0,
        shared_bus: VirtualSCSISharing::NoSharing,
        ..Default::default()
    })];
    for (number, nic) in nics.iter().enumerate() {
        device_change.push(add(VirtualVmxnet3 {
            key: -10 - number as i32,
            backing: Some(backing(client, nic).await?),
            connectable: Some(connected()),
            address_type: Some("generated".into()),
            ..Default::default()
        }));
    }
    let config = VirtualMachineConfigSpec {
        name: Some(plan.name.clone()),
        guest_id: Some("otherGuest64".into()),
        alternate_guest_name: Some(format!("Virtual container host {VERSION}, 64-bit")),
        num_cpus: Some(plan.endpoint_cpus as i32),
        memory_mb: Some(i64::from(plan.endpoint_memory_mb)),
        files: Some(VirtualMachineFileInfo {
            vm_path_name: Some(format!("[{}]", placement.image_store.datastore)),
            ..Default::default()
        }),
        device_change,
        ..Default::default()
    };
    let request = CreateVMRequest {
        config,
        pool: pool.clone(),
        host: None,
    };
    let done = client
        .run_task(folder, request)
        .await
        .tried("cannot create the appliance")?;
    let object: Reference = done
        .result
        .and_then(|result| result.to().ok())
        .ok_or_else(|| Failure::new("the target does not name the VM that it made"))?;
    undo.note(Made::Entity(object.clone()));
    let path: String = client
        .property(&object, "config.files.vmPathName")
        .await
        .tried("cannot read where the appliance lies")?
        .unwrap_or_default();
    let folder = path
        .rsplit_once('/')
        .map(|(dir, _)| dir.to_owned())
        .ok_or_else(|| Failure::new(format!("the appliance has no folder of its own: {path}")))?;
    // The VM's destruction takes its own files only; ours in the same folder go by this note, after it.
    undo.insert_before_last(Made::Files(folder.clone()));
    let appliance = Appliance { object, folder };
    directories(client, placement, &appliance, undo).await?;
    Ok(appliance)
}

/// Makes the folders that the VCH expects.
async fn directories(
    client: &Client,
    placement: &Placement,
    vm: &Appliance,
    undo: &mut Undo,
) -> Result<(), Failure> {
    let Some(manager) = &client.content().file_manager else {
        return Ok(());
    };
    let mut paths = vec![
        format!("{}/state", vm.folder),
        placement.image_store.bracketed(),
    ];
    paths.extend(
        placement
            .volume_stores
            .iter()
            .map(|store| store.at.bracketed()),
    );
    for name in paths {
        let request = MakeDirectoryRequest {
            name: name.clone(),
            datacenter: Some(placement.datacenter.clone()),
            create_parent_directories: Some(true),
        };
        match client.invoke(manager, request).await {
            Ok(()) => undo.note_first(Made::Files(name)),
            Err(error) if error.is_fault("FileAlreadyExists") => {}
            Err(error) => {
                return Err(Failure::because(
                    format!("cannot make the folder {name}"),
                    error,
                ));
            }
        }
    }
    Ok(())
}

/// What the configuration is made from.
pub(super) struct Setting<'a> {
    pub(super) session: &'a Session,
    pub(super) target: &'a Target,
    pub(super) plan: &'a Plan,
    pub(super) placement: &'a Placement,
    pub(super) pool: &'a Reference,
    pub(super) folder: &'a Reference,
    pub(super) nics: &'a [Nic],
}

/// Puts the CD in, adds the debug port, and writes the configuration.
pub(super) async fn configure(
    at: &Setting<'_>,
    vm: &Appliance,
    bridge_is_ours: bool,
) -> Result<(), Failure> {
    let client = &at.session.client;
    let mut keys = configuration(at, vm).await?.encode();
    keys.insert("answer.msg.serial.file.open".into(), "Append".into());
    keys.insert(BRIDGE_IS_OURS.into(), bridge_is_ours.to_string());
    let ide = ide_controller(client, &vm.object).await?;
    let cdrom = VirtualCdrom {
        key: -1,
        controller_key: ide,
        unit_number: Some(0),
        backing: Some(Poly::new(VirtualCdromIsoBackingInfo {
            file_name: format!("{}/appliance.iso", vm.folder),
            datastore: Some(at.placement.datastore.clone()),
            ..Default::default()
        })),
        connectable: Some(connected()),
        ..Default::default()
    };
    let serial = VirtualSerialPort {
        key: -2,
        backing: Some(Poly::new(VirtualSerialPortFileBackingInfo {
            file_name: format!("{}/tether.debug", vm.folder),
            ..Default::default()
        })),
        connectable: Some(connected()),
        yield_on_poll: true,
        ..Default::default()
    };
    let spec = VirtualMachineConfigSpec {
        device_change: vec![add(cdrom), add(serial)],
        extra_config: options(keys),
        ..Default::default()
    };
    client
        .run_task(&vm.object, ReconfigVMRequest { spec })
        .await
        .tried("cannot configure the appliance")?;
    Ok(())
}

async fn configuration(at: &Setting<'_>, vm: &Appliance) -> Result<ApplianceConfig, Failure> {
    let Setting {
        session,
        target,
        plan,
        placement,
        ..
    } = at;
    let identity = Identity::generate().tried("cannot make the key of the links")?;
    let tls = &plan.tls;
    Ok(ApplianceConfig {
        name: plan.name.clone(),
        version: VERSION.into(),
        executor: executor(at, vm),
        connect: Connection {
            target: address_for_the_vch(session, target, placement).await?,
            username: target.user.clone(),
            password: Secret(target.password.clone()),
            thumbprint: session.thumbprint.clone(),
            datacenter: placement.datacenter_path.clone(),
            compute: placement.compute_path.clone(),
            vm_folder: at.folder.value.clone(),
            ..Default::default()
        },
        storage: Storage {
            image_store: placement.image_store.url(),
            volume_stores: placement
                .volume_stores
                .iter()
                .map(|store| VolumeStore {
                    label: store.label.clone(),
                    url: store.at.url(),
                })
                .collect(),
            base_image_kb: plan.base_image_kb,
        },
        network: NetworkSettings {
            bridge_network: plan.bridge.network.clone(),
            bridge_moref: bridge(at)
                .map(|nic| nic.network.object.value.clone())
                .unwrap_or_default(),
            bridge_range: Some(cidr(plan.bridge.range)),
            bridge_width: u32::from(plan.bridge.width),
            ..Default::default()
        },
        tls: TlsMaterial {
            port: u32::from(tls.mode.port()),
            disabled: tls.mode == Mode::Plain,
            verify_clients: tls.mode == Mode::Verify,
            certificate: tls
                .server
                .as_ref()
                .map(|pair| pair.certificate.clone())
                .unwrap_or_default(),
            key: Secret(
                tls.server
                    .as_ref()
                    .map(|pair| pair.key.clone())
                    .unwrap_or_default(),
            ),
            client_ca: tls.client_ca.clone(),
        },
        registry: RegistrySettings {
            insecure: plan.insecure_registries.clone(),
            ca: plan.registry_ca.clone(),
            ..Default::default()
        },
        link: LinkIdentity {
            key: Secret(identity.to_base64()),
        },
        resource_pool: at.pool.value.clone(),
        bootstrap_iso: format!("{}/bootstrap.iso", vm.folder),
        serial_uri: plan
            .public_address
            .map(|own| format!("tcp://{}:{SERIAL_PORT}", own.ip))
            .unwrap_or_default(),
        options: plan.options.clone(),
        ..Default::default()
    })
}

fn executor(at: &Setting<'_>, vm: &Appliance) -> ExecutorConfig {
    let plan = at.plan;
    let process = Process {
        args: PROGRAM.map(str::to_owned).to_vec(),
        restart: plan.debug < 3,
        ..Default::default()
    };
    let networks = at
        .nics
        .iter()
        .enumerate()
        .map(|(device, nic)| {
            let public = nic.roles.contains(&"public");
            let is_bridge = nic.roles == ["bridge"];
            let own = if is_bridge {
                Some(plan.bridge.gateway())
            } else {
                plan.public_address.filter(|_| public)
            };
            NetworkEndpoint {
                device: device as u32,
                name: nic
                    .roles
                    .first()
                    .map(|role| (*role).to_owned())
                    .unwrap_or_default(),
                address: own.map(cidr),
                gateway: plan.public_gateway.filter(|_| public).map(IpAddr::V4),
                dns: if public { plan.dns.clone() } else { Vec::new() },
                ..Default::default()
            }
        })
        .collect();
    ExecutorConfig {
        id: vm.object.value.clone(),
        hostname: plan.name.replace(' ', "-"),
        debug: plan.debug,
        sessions: BTreeMap::from([(PROCESS.to_owned(), process)]),
        networks,
        dns: plan.dns.clone(),
        ..Default::default()
    }
}

fn bridge<'a>(at: &Setting<'a>) -> Option<&'a Nic> {
    at.nics.iter().find(|nic| nic.roles == ["bridge"])
}

/// How the VCH reaches vSphere. A loopback address means this machine only here: vSphere knows its own.
async fn address_for_the_vch(
    session: &Session,
    target: &Target,
    placement: &Placement,
) -> Result<String, Failure> {
    if !target.is_loopback() {
        return Ok(target.url());
    }
    let client = &session.client;
    let own = if client.is_vcenter() {
        managed_ip(client)
            .await
            .tried("cannot read the vCenter's own address")?
    } else {
        let host = placement
            .hosts
            .first()
            .ok_or_else(|| Failure::new("the target has no host"))?;
        let nics: Option<Vec<HostVirtualNic>> = client
            .property(host, "config.network.vnic")
            .await
            .tried("cannot read the host's own address")?;
        nics.unwrap_or_default()
            .into_iter()
            .find_map(|nic| nic.spec.ip?.ip_address)
    };
    Ok(match own.filter(|address| !address.is_empty()) {
        Some(address) => format!("{}://{address}", target.scheme),
        // A vSphere without an address of its own: what we know is all there is.
        None => target.url(),
    })
}

async fn managed_ip(client: &Client) -> Result<Option<String>, vmomi::client::Error> {
    let Some(setting) = &client.content().setting else {
        return Ok(None);
    };
    let request = QueryOptionsRequest {
        name: Some("VirtualCenter.ManagedIP".into()),
    };
    match client.invoke(setting, request).await {
        Ok(values) => Ok(values
            .into_iter()
            .find_map(|option| option.value?.as_str().map(str::to_owned))),
        Err(error) if error.is_fault("InvalidName") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn backing(client: &Client, nic: &Nic) -> Result<Poly<VirtualDeviceBackingInfo>, Failure> {
    let object = &nic.network.object;
    if object.r#type != "DistributedVirtualPortgroup" {
        return Ok(Poly::new(VirtualEthernetCardNetworkBackingInfo {
            device_name: nic.network.name.clone(),
            network: Some(object.clone()),
            ..Default::default()
        }));
    }
    let what = || format!("cannot read the port group {}", nic.network.name);
    let key: Option<String> = client.property(object, "key").await.tried(what())?;
    let switch: Option<Reference> = client
        .property(object, "config.distributedVirtualSwitch")
        .await
        .tried(what())?;
    let uuid: Option<String> = match &switch {
        Some(switch) => client.property(switch, "uuid").await.tried(what())?,
        None => None,
    };
    Ok(Poly::new(
        VirtualEthernetCardDistributedVirtualPortBackingInfo {
            port: DistributedVirtualSwitchPortConnection {
                switch_uuid: uuid.unwrap_or_default(),
                portgroup_key: key.or_else(|| Some(object.value.clone())),
                ..Default::default()
            },
        },
    ))
}

/// The key of the first IDE controller, which every VM has.
async fn ide_controller(client: &Client, vm: &Reference) -> Result<Option<i32>, Failure> {
    let devices: Vec<Poly<VirtualDevice>> = client
        .property(vm, "config.hardware.device")
        .await
        .tried("cannot read the appliance's devices")?
        .unwrap_or_default();
    let ide = devices
        .iter()
        .find(|device| device.is_a("VirtualIDEController"));
    Ok(ide.map(|device| *device.key()))
}

fn add(device: impl Into<Poly<VirtualDevice>>) -> Poly<VirtualDeviceConfigSpec> {
    Poly::new(VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        device: device.into(),
        ..Default::default()
    })
}

fn connected() -> VirtualDeviceConnectInfo {
    VirtualDeviceConnectInfo {
        start_connected: true,
        allow_guest_control: true,
        connected: true,
        ..Default::default()
    }
}

fn options(keys: BTreeMap<String, String>) -> Vec<OptionValue> {
    keys.into_iter()
        .map(|(key, value)| OptionValue {
            key,
            value: Some(Any::from(value)),
        })
        .collect()
}

fn cidr(address: Address) -> Cidr {
    Cidr {
        ip: IpAddr::V4(address.ip),
        prefix: address.prefix,
    }
}
