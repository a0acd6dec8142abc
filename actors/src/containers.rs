//! All containers: found again at the start, made, and given to their actors.

pub(crate) mod abandoned;
pub mod names;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use strategy::{Address, AskError, ChildSpec, Children, Restart, SupervisorMessage};
use time::OffsetDateTime;

use crate::container::actor::{Args, Container};
use crate::container::spec::{CreateSpec, Created, MountSpec};
use crate::container::vm::{EndpointRecord, MountRecord, Record};
use crate::container::{self};
use crate::context::Context;
use crate::error::Error;
use crate::ids::ContainerId;
use crate::image::disk_path;
use crate::image::need::Wanted;
use crate::network;
use crate::volume::{self, VolumeSpec};
use crate::vsphere::VmFacts;

/// How long the smaller steps of a create may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The containers' supervisor's children: one for each VM of ours that vSphere has.
pub fn children(context: &Context) -> Children {
    let context = context.clone();
    Arc::new(move || {
        let context = context.clone();
        Box::pin(async move {
            let found = context.vsphere().vms(&context.settings().pool).await?;
            forget_missing(&context, &found);
            let children = found
                .into_iter()
                .filter_map(|facts| child(&context, facts))
                .collect();
            context.containers_are_known();
            // What changed between this look and their start comes from the watch.
            context
                .addresses()
                .watch
                .tell(crate::watch::Message::Resync);
            Ok(children)
        })
    })
}

/// Takes containers off the shelf whose VMs went while nobody watched: they have no actor any more that could.
fn forget_missing(context: &Context, found: &[VmFacts]) {
    for old in context.snapshots().containers() {
        if !found.iter().any(|facts| facts.vm == old.vm.moref) {
            let mut attributes = old.spec.labels.clone();
            attributes.insert("name".into(), old.name.clone());
            attributes.insert("image".into(), old.spec.image_name.clone());
            context.emit(crate::events::Event {
                kind: crate::events::EventKind::Container,
                action: "destroy".into(),
                id: old.id.to_string(),
                attributes,
                time: OffsetDateTime::now_utc(),
            });
            container::leave(context, old.id, old.exit_code);
        }
    }
}

/// The child specification for a container's VM; `None` when the VM is no container.
fn child(context: &Context, facts: VmFacts) -> Option<ChildSpec> {
    let record = Record::read(&facts.keys)?;
    let id = record.id;
    if context.abandoned().has(id) {
        abandoned::take_away(context, id);
        return None;
    }
    if context.snapshots().reserve_name(&record.name, id).is_err() {
        tracing::warn!(container = %id, name = record.name, "two containers have one name");
    }
    let address = context.enter_container(id, &facts.vm);
    context.needs().enter(id, record.chains);
    Some(spec_of(context, id, facts, address))
}

fn spec_of(
    context: &Context,
    id: ContainerId,
    facts: VmFacts,
    address: Address<crate::container::Message>,
) -> ChildSpec {
    let args = Args {
        context: context.clone(),
        vm: facts.vm.clone(),
        facts: Arc::new(Mutex::new(Some(facts))),
        id,
    };
    let make = move || (Container, args.clone());
    // Ends by itself only when its VM is gone.
    ChildSpec::new(id.short(), Restart::Transient, address, make).kind("container")
}

/// Adopts a VM that the watch shows and nobody knows, if it is a container of ours.
pub(crate) fn maybe_adopt(context: &Context, facts: &VmFacts) {
    let Some(record) = Record::read(&facts.keys) else {
        return;
    };
    if context.abandoned().has(record.id) {
        abandoned::take_away(context, record.id);
        return;
    }
    if context.container(record.id).is_some() {
        return;
    }
    for endpoint in &record.endpoints {
        if let Some(network) = context.network(endpoint.network) {
            network.tell(network::Message::Note(endpoint.id, endpoint.address));
        }
    }
    let (context, facts) = (context.clone(), facts.clone());
    tokio::spawn(async move {
        if let Some(spec) = child(&context, facts) {
            let _ = context
                .addresses()
                .containers
                .ask(DEADLINE, |reply| SupervisorMessage::AddChild(spec, reply))
                .await;
        }
    });
}

/// Makes a container. Everything that it took is given back when it fails.
pub(crate) async fn create(context: &Context, spec: CreateSpec) -> Result<Created, Error> {
    let id = ContainerId::random();
    let name = reserve(context, spec.name.as_deref(), id)?;
    let mut taken = Taken {
        context: context.clone(),
        id,
        name: name.clone(),
        endpoints: vec![],
        volumes: vec![],
        asked: false,
    };
    match build(context, id, &name, spec, &mut taken).await {
        Ok(created) => {
            taken.keep();
            Ok(created)
        }
        Err(why) => {
            if taken.asked {
                // Half-made, made after all, or made later: nothing of it may stay.
                abandoned::abandon(context, id).await;
            }
            taken.give_back().await;
            Err(why)
        }
    }
}

/// Checks and reserves the name, or makes one up.
fn reserve(context: &Context, name: Option<&str>, id: ContainerId) -> Result<String, Error> {
    match name.map(|n| n.strip_prefix('/').unwrap_or(n)) {
        Some(name) => {
            if !names::is_valid(name) {
                return Err(Error::Invalid(names::complaint(name)));
            }
            context.snapshots().reserve_name(name, id)?;
            Ok(name.to_owned())
        }
        None => loop {
            let name = names::generate();
            if context.snapshots().reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        },
    }
}

/// What a create has taken so far.
struct Taken {
    context: Context,
    id: ContainerId,
    name: String,
    endpoints: Vec<EndpointRecord>,
    volumes: Vec<String>,
    /// vSphere was asked for the VM.
    asked: bool,
}

impl Taken {
    fn keep(mut self) {
        // The VM carries them now.
        for endpoint in self.endpoints.drain(..) {
            self.context.promises().keep(endpoint.id);
        }
        self.volumes.clear();
    }

    async fn give_back(self) {
        self.context.snapshots().release_name(&self.name, self.id);
        for endpoint in &self.endpoints {
            network::release(&self.context, endpoint.network, endpoint.id);
        }
        for volume in self.volumes {
            volume::release(&self.context, volume, self.id);
        }
    }
}

async fn build(
    context: &Context,
    id: ContainerId,
    name: &str,
    spec: CreateSpec,
    taken: &mut Taken,
) -> Result<Created, Error> {
    let image = context.snapshots().images().get(&spec.image).cloned();
    let missing = || Error::NoSuchImage(spec.image_name.clone());
    let image = image.ok_or_else(missing)?;
    let chains = crate::image::chains(&image.diff_ids);
    // From here on its layers stay, whatever becomes of the image.
    let _wanted = Wanted::new(context, chains.clone());
    if !context.snapshots().images().contains_key(&spec.image) {
        return Err(missing());
    }
    let endpoints = join(context, &spec, taken).await?;
    let mounts = mounts(context, &spec, taken).await?;
    let warnings = spec.warnings.clone();
    let record = Record {
        id,
        name: name.to_owned(),
        created: OffsetDateTime::now_utc(),
        spec,
        endpoints,
        mounts,
        chains,
    };
    let settings = context.settings();
    let parent = disk_path(context, &image.chain_id);
    let config = record
        .vm(settings, &parent, context.system().cpu_mhz)
        .map_err(|why| Error::failed("write the container's configuration", &why))?;
    let keys = config
        .extra_config
        .iter()
        .filter_map(|o| Some((o.key.clone(), o.value.as_ref()?.as_str()?.to_owned())))
        .collect();
    taken.asked = true;
    let vm = context
        .vsphere()
        .create_vm(&settings.folder, &settings.pool, config)
        .await?;
    let facts = VmFacts {
        vm: vm.clone(),
        name: record.vm_name(),
        power: "poweredOff".into(),
        keys,
        path: format!(
            "[{}] {}/{}.vmx",
            settings.datastore,
            record.vm_name(),
            record.vm_name()
        ),
    };
    hand_over(context, id, facts).await?;
    let mut attributes = record.spec.labels.clone();
    attributes.insert("name".into(), record.name.clone());
    attributes.insert("image".into(), record.spec.image_name.clone());
    context.emit(crate::events::Event {
        kind: crate::events::EventKind::Container,
        action: "create".into(),
        id: id.to_string(),
        attributes,
        time: record.created,
    });
    Ok(Created { id, warnings })
}

/// Gives a new VM to its actor; the container is on the shelf when this answers.
async fn hand_over(context: &Context, id: ContainerId, facts: VmFacts) -> Result<(), Error> {
    let address = context.enter_container(id, &facts.vm);
    loop {
        let child = spec_of(context, id, facts.clone(), address.clone());
        let containers = &context.addresses().containers;
        let added = containers
            .ask(DEADLINE, |reply| SupervisorMessage::AddChild(child, reply))
            .await;
        match added {
            Ok(Ok(())) if context.snapshots().container(&id).is_some() => return Ok(()),
            Ok(Err(why)) => return Err(Error::internal("start the container's actor", why)),
            Err(AskError::Interrupted) | Ok(Ok(())) => {}
            Err(why) => return Err(Error::failed_for_now("start the container's actor", &why)),
        }
        // The actor or its supervisor died meanwhile. Their successors find the VM: the first answer comes from an
        // actor that knows it.
        match address.ask(DEADLINE, container::Message::Ready).await {
            Ok(_) if context.snapshots().container(&id).is_some() => return Ok(()),
            Ok(_) | Err(AskError::Interrupted) => {}
            Err(why) => return Err(Error::failed_for_now("start the container's actor", &why)),
        }
    }
}

async fn join(
    context: &Context,
    spec: &CreateSpec,
    taken: &mut Taken,
) -> Result<Vec<EndpointRecord>, Error> {
    for endpoint in &spec.network.endpoints {
        let join = network::Join {
            endpoint: crate::ids::EndpointId::random(),
            aliases: endpoint.aliases.clone(),
            address: endpoint.address,
            mac: endpoint.mac.clone(),
        };
        let place = network::join(context, endpoint.network, join).await?;
        taken.endpoints.push(place);
    }
    Ok(taken.endpoints.clone())
}

async fn mounts(
    context: &Context,
    spec: &CreateSpec,
    taken: &mut Taken,
) -> Result<Vec<MountRecord>, Error> {
    let mut mounts = Vec::new();
    for mount in &spec.mounts {
        match mount {
            MountSpec::Volume {
                name,
                target,
                read_only,
                no_copy,
                labels,
                mode,
            } => {
                let mut wanted = VolumeSpec {
                    name: name.clone(),
                    labels: labels.clone(),
                    ..VolumeSpec::default()
                };
                // An anonymous one is named here, so that it can be given back whatever became of the answer.
                taken.volumes.extend(wanted.name_it());
                let volume = volume::make(context, wanted).await?;
                mounts.push(MountRecord {
                    volume: Some(volume.name.clone()),
                    anonymous: name.is_none(),
                    disk: volume.path.clone(),
                    target: target.clone(),
                    read_only: *read_only,
                    copy_up: !no_copy,
                    mode: mode.clone(),
                });
            }
            MountSpec::Tmpfs { target, options } => mounts.push(MountRecord {
                volume: None,
                anonymous: false,
                disk: String::new(),
                target: target.clone(),
                read_only: false,
                copy_up: false,
                mode: options.clone(),
            }),
        }
    }
    Ok(mounts)
}
