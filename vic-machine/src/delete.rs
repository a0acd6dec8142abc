//! Removes a VCH: its containers, its images, with `--force` its volumes, the appliance, and what `create` made around it.
//!
//! Only what is the VCH's own goes: VMs of others in its pool or folder stay, and with them that pool or folder.

use tether_protocol::config::ExecutorConfig;
use tracing::{debug, info, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::Poly;
use vmomi::client::{Client, Error};
use vmomi::types::{
    DeleteDatastoreFileRequest, DestroyRequest, PowerOffVMRequest, ReconfigVMRequest,
    RemovePortGroupRequest, RemoveVirtualSwitchRequest, VirtualDevice, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecOperation, VirtualMachineConfigSpec, VirtualMachinePowerState,
};

use crate::VERSION;
use crate::cli::DeleteArgs;
use crate::cli::values::StorePath;
use crate::failure::{Failure, Tried};
use crate::interrupt::Interrupts;
use crate::inventory::Inventory;
use crate::session::{Session, Strangers};
use crate::target::Target;
use crate::vch::{self, BRIDGE_IS_OURS, Vch, text_options};

/// `vic-machine delete`.
pub(crate) async fn run(args: DeleteArgs) -> Result<(), Failure> {
    let target = Target::resolve(&args.target).tried("the target cannot be used")?;
    info!("### Removing VCH ####");
    let strangers = if args.force {
        Strangers::Accept
    } else {
        Strangers::Refuse
    };
    let interrupts = Interrupts::listen()?;
    let session = interrupts.or(Session::open(&target, strangers)).await?;
    let limit = args.common.timeout;
    let work = async {
        tokio::time::timeout(limit.0, delete(&session, &target, &args))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(format!(
                    "Delete timed out after {limit}: use --timeout to add more time"
                )))
            })
    };
    // What is gone by then is gone: the same command removes the rest.
    session.during(&interrupts, work).await?;
    info!("Completed successfully");
    Ok(())
}

async fn delete(session: &Session, target: &Target, args: &DeleteArgs) -> Result<(), Failure> {
    let client = &session.client;
    let inventory = Inventory::load(client)
        .await
        .tried("cannot read the target's inventory")?;
    let compute = args.common.compute_resource.as_deref();
    let vch = vch::find(client, &inventory, target, &args.vch, compute).await?;
    if vch.config.version != VERSION && !args.force {
        return Err(Failure::new(format!(
            "VCH version {:?} is different than installer version {VERSION}. Specify --force to force delete",
            vch.config.version
        )));
    }
    let job = Job {
        client,
        inventory: &inventory,
        datacenter: datacenter(&inventory, &vch),
        vch: &vch,
    };
    job.containers(args.force).await?;
    info!("Removing images");
    if let Ok(store) = vch.config.storage.image_store.parse::<StorePath>() {
        job.files(&store.bracketed()).await?;
    }
    info!("Removing volumes");
    job.volumes(args.force).await?;
    info!("Removing appliance VM network devices");
    job.bridge().await?;
    job.appliance().await?;
    job.folder().await?;
    job.pool().await
}

fn datacenter(inventory: &Inventory, vch: &Vch) -> Option<Reference> {
    let parent = vch.parent.as_ref().or(vch.pool.as_ref())?;
    inventory
        .datacenters()
        .into_iter()
        .find(|node| inventory.is_below(parent, &node.object))
        .map(|node| node.object.clone())
}

struct Job<'a> {
    client: &'a Client,
    inventory: &'a Inventory,
    datacenter: Option<Reference>,
    vch: &'a Vch,
}

impl Job<'_> {
    /// Removes the containers. Without force nothing is removed while one of them runs.
    async fn containers(&self, force: bool) -> Result<(), Failure> {
        info!("Removing VMs");
        let mut running = Vec::new();
        let mut all = Vec::new();
        for (vm, name, on) in self
            .container_vms()
            .await
            .tried("cannot read the VCH's containers")?
        {
            if on {
                running.push((vm.clone(), name.clone()));
            }
            all.push((vm, name));
        }
        if !force && let Some((_, name)) = running.first() {
            return Err(Failure::new(format!(
                "VM {name:?} is powered on: stop its container, or use --force to remove it nevertheless"
            )));
        }
        // The VCH must not put right what is taken away.
        self.power_off(&self.vch.vm)
            .await
            .tried("cannot power off the appliance")?;
        for (vm, name) in running {
            self.power_off(&vm)
                .await
                .tried(format!("cannot power off {name}"))?;
        }
        for (vm, name) in all {
            gone(self.client.run_task(&vm, DestroyRequest {}).await)
                .tried(format!("cannot remove {name}"))?;
        }
        Ok(())
    }

    /// The VMs in the VCH's pool that are containers: which, what name, whether on.
    async fn container_vms(&self) -> Result<Vec<(Reference, String, bool)>, Error> {
        let Some(pool) = &self.vch.pool else {
            return Ok(Vec::new());
        };
        let vms: Vec<Reference> = self.client.property(pool, "vm").await?.unwrap_or_default();
        let paths = ["name", "config.extraConfig", "runtime.powerState"];
        let mut found = Vec::new();
        for properties in self.client.properties(&vms, &paths).await? {
            let options = text_options(properties.get("config.extraConfig").unwrap_or_default());
            let is_container = properties.object != self.vch.vm
                && ExecutorConfig::decode(&options).is_ok_and(|config| is_container_id(&config.id));
            if is_container {
                let state: Option<VirtualMachinePowerState> = properties.get("runtime.powerState");
                let name = properties.text("name").unwrap_or_default().to_owned();
                found.push((
                    properties.object,
                    name,
                    state != Some(VirtualMachinePowerState::PoweredOff),
                ));
            } else if properties.object != self.vch.vm {
                debug!(
                    "{} is no container: it stays",
                    properties.text("name").unwrap_or_default()
                );
            }
        }
        Ok(found)
    }

    async fn power_off(&self, vm: &Reference) -> Result<(), Error> {
        match self.client.run_task(vm, PowerOffVMRequest {}).await {
            Err(error) if error.is_fault("InvalidPowerState") => Ok(()),
            result => gone(result.map(drop)),
        }
    }

    async fn volumes(&self, force: bool) -> Result<(), Failure> {
        let stores = &self.vch.config.storage.volume_stores;
        if !force {
            if !stores.is_empty() {
                info!("Volume stores were not removed, use --force to remove them:");
                stores
                    .iter()
                    .for_each(|store| info!("{}: {}", store.label, store.url));
            }
            return Ok(());
        }
        for store in stores {
            match store.url.parse::<StorePath>() {
                Ok(path) if !path.path.is_empty() => self.files(&path.bracketed()).await?,
                // The root of a datastore holds more than volumes.
                _ => warn!(
                    "the volume store {} is left as it is: {}",
                    store.label, store.url
                ),
            }
        }
        Ok(())
    }

    /// Takes the appliance's NICs away, and then the bridge that `create` made.
    async fn bridge(&self) -> Result<(), Failure> {
        self.nics()
            .await
            .tried("cannot remove the appliance's network devices")?;
        if self.vch.options.get(BRIDGE_IS_OURS).map(String::as_str) != Some("true") {
            info!("Bridge network was not created during VCH deployment, leaving it there");
            return Ok(());
        }
        let name = &self.vch.config.network.bridge_network;
        info!("Removing Portgroup {name}");
        let Some(system) = self
            .network_system()
            .await
            .tried("cannot read the host's network system")?
        else {
            return Ok(());
        };
        let request = RemovePortGroupRequest {
            pg_name: name.clone(),
        };
        match self.client.invoke(&system, request).await {
            Err(error) if error.is_fault("ResourceInUse") => {
                warn!("The port group {name} is in use by other VMs, leaving it there");
                return Ok(());
            }
            result => gone(result).tried(format!("cannot remove the port group {name}"))?,
        }
        info!("Removing VirtualSwitch {name}");
        let request = RemoveVirtualSwitchRequest {
            vswitch_name: name.clone(),
        };
        gone(self.client.invoke(&system, request).await)
            .tried(format!("cannot remove the virtual switch {name}"))
    }

    async fn nics(&self) -> Result<(), Error> {
        let vm = &self.vch.vm;
        let devices: Option<Vec<Poly<VirtualDevice>>> =
            self.client.property(vm, "config.hardware.device").await?;
        let device_change: Vec<Poly<VirtualDeviceConfigSpec>> = devices
            .unwrap_or_default()
            .into_iter()
            .filter(|device| device.is_a("VirtualEthernetCard"))
            .map(|device| {
                Poly::new(VirtualDeviceConfigSpec {
                    operation: Some(VirtualDeviceConfigSpecOperation::Remove),
                    device,
                    ..Default::default()
                })
            })
            .collect();
        if device_change.is_empty() {
            return Ok(());
        }
        let spec = VirtualMachineConfigSpec {
            device_change,
            ..Default::default()
        };
        self.client
            .run_task(vm, ReconfigVMRequest { spec })
            .await
            .map(drop)
    }

    async fn network_system(&self) -> Result<Option<Reference>, Error> {
        let host: Option<Reference> = self.client.property(&self.vch.vm, "runtime.host").await?;
        match host {
            Some(host) => {
                self.client
                    .property(&host, "configManager.networkSystem")
                    .await
            }
            None => Ok(None),
        }
    }

    async fn appliance(&self) -> Result<(), Failure> {
        gone(self.client.run_task(&self.vch.vm, DestroyRequest {}).await)
            .tried("cannot remove the appliance")?;
        if self.vch.folder.is_empty() {
            Ok(())
        } else {
            self.files(&self.vch.folder).await
        }
    }

    /// Removes the VCH's folder of the inventory, if it has one and nobody else is in it.
    async fn folder(&self) -> Result<(), Failure> {
        let Some(folder) = &self.vch.parent else {
            return Ok(());
        };
        let own = self
            .inventory
            .get(folder)
            .is_some_and(|node| node.name == self.vch.config.name);
        if !own || !self.client.is_vcenter() {
            return Ok(());
        }
        let children: Option<Vec<Reference>> = self
            .client
            .property(folder, "childEntity")
            .await
            .tried("cannot read the VCH folder")?;
        if children.is_none_or(|children| children.is_empty()) {
            gone(self.client.run_task(folder, DestroyRequest {}).await)
                .tried("cannot remove the VCH folder")?;
        }
        Ok(())
    }

    /// Removes the VCH's pool, if it is its own and nobody else is in it.
    async fn pool(&self) -> Result<(), Failure> {
        let Some(pool) = &self.vch.pool else {
            return Ok(());
        };
        let name = &self.vch.config.name;
        if self
            .inventory
            .get(pool)
            .is_none_or(|node| node.name != *name)
        {
            return Ok(());
        }
        info!("Removing Resource Pool {name}");
        let what = "cannot read the resource pool";
        let vms: Option<Vec<Reference>> = self.client.property(pool, "vm").await.tried(what)?;
        let pools: Option<Vec<Reference>> = self
            .client
            .property(pool, "resourcePool")
            .await
            .tried(what)?;
        if vms.is_none_or(|vms| vms.is_empty()) && pools.is_none_or(|pools| pools.is_empty()) {
            gone(self.client.run_task(pool, DestroyRequest {}).await)
                .tried("cannot remove the resource pool")
        } else {
            info!("Resource Pool is not empty: {name}");
            Ok(())
        }
    }

    /// Removes a folder of a datastore with all that is in it.
    async fn files(&self, name: &str) -> Result<(), Failure> {
        let Some(manager) = &self.client.content().file_manager else {
            return Ok(());
        };
        let request = DeleteDatastoreFileRequest {
            name: name.to_owned(),
            datacenter: self.datacenter.clone(),
        };
        gone(self.client.run_task(manager, request).await).tried(format!("cannot remove {name}"))
    }
}

/// What is gone already need not be removed.
fn gone<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error)
            if ["ManagedObjectNotFound", "FileNotFound", "NotFound"]
                .iter()
                .any(|name| error.is_fault(name)) =>
        {
            Ok(())
        }
        result => result.map(drop),
    }
}

fn is_container_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}
