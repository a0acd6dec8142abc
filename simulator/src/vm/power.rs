//! Power: boot, kill, reset, and what a guest is booted with.

use std::sync::Arc;

use ractor::ActorRef;
use vmomi::types::{
    VirtualCdrom, VirtualCdromIsoBackingInfo, VirtualDevice,
    VirtualEthernetCardDistributedVirtualPortBackingInfo, VirtualEthernetCardNetworkBackingInfo,
    VirtualMachinePowerState as Power, VirtualSerialPort, VirtualSerialPortFileBackingInfo,
    VirtualSerialPortURIBackingInfo, VmPoweredOffEvent, VmPoweredOnEvent, VmResettingEvent,
    VmSuspendedEvent,
};
use vmomi::{Any, Poly};

use super::devices::{self, Fields, Kind};
use super::record::quiet_guest;
use super::{Message, Record, State, file};
use crate::clock::now;
use crate::engine::{
    DiskSlot, DiskSpec, EngineError, NicSpec, PowerOnSpec, SerialBacking, SerialSpec,
};
use crate::event::Place as EventPlace;
use crate::fault::{Fault, Outcome};
use crate::task::Task;
use crate::world::World;

/// How many of a guest's events are taken at once.
const BATCH: usize = 256;

/// Writes an error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What an engine's error is to a client.
pub(super) fn engine_fault(error: &EngineError) -> Fault {
    match error {
        EngineError::InUse(what) => Fault::in_use(what),
        EngineError::ToolsNotRunning => Fault::plain("ToolsUnavailable"),
        other => Fault::vm_config(chain(other)),
    }
}

impl State {
    pub(super) async fn power_on(&mut self, myself: &ActorRef<Message>, task: Task) {
        let result = match task.check() {
            Ok(()) if self.record.is_on() => {
                Err(Fault::power_state(Some(Power::PoweredOn), Power::PoweredOn))
            }
            Ok(()) => self.boot(myself).await,
            Err(fault) => Err(fault),
        };
        let world = self.world.clone();
        match result {
            Ok(()) => world.inventory.commit(|t| {
                self.record.publish_config(t);
                self.record.publish_state(t, None);
                let name = self.record.name().to_owned();
                let place = EventPlace::of(&world, t.snapshot(), &self.record.moref, &name);
                let event = VmPoweredOnEvent::default();
                world.events.post(
                    &world,
                    t,
                    place,
                    event.into(),
                    format!("{name} is powered on"),
                );
                task.end_in(t, Ok(None));
            }),
            Err(fault) => task.end(Err(fault)),
        }
    }

    /// Boots the guest and shows the VM as on; the caller publishes.
    pub(super) async fn boot(&mut self, myself: &ActorRef<Message>) -> Outcome<()> {
        self.generation += 1;
        self.guestinfo.replace(self.record.guestinfo());
        let mut spec = spec(&self.world, &self.record)?;
        spec.guestinfo = self.guestinfo.clone();
        let on = self
            .world
            .engine
            .power_on(spec)
            .await
            .map_err(|e| engine_fault(&e))?;
        self.guest = Some(on.guest);
        let (actor, generation, mut events) = (myself.clone(), self.generation, on.events);
        // Ends when the guest does: the engine closes the channel.
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while events.recv_many(&mut batch, BATCH).await > 0 {
                let events = std::mem::take(&mut batch);
                if actor
                    .send_message(Message::Guest(generation, events))
                    .is_err()
                {
                    return;
                }
            }
        });
        devices::power(&mut self.record.config.hardware.device, true);
        let runtime = &mut self.record.runtime;
        runtime.power_state = Power::PoweredOn;
        runtime.boot_time = Some(now());
        runtime.suspend_time = None;
        runtime.clean_power_off = Some(false);
        runtime.max_cpu_usage = Some(2400 * self.record.config.hardware.num_cpu);
        runtime.max_memory_usage = Some(self.record.config.hardware.memory_mb);
        self.record.guest = quiet_guest(Some(&self.record.guest));
        self.record.guest.guest_state = "running".into();
        Ok(())
    }

    pub(super) async fn power_off(&mut self, task: Task) {
        let fault = match self.record.runtime.power_state {
            _ if task.check().is_err() => task.check().err(),
            Power::PoweredOff => Some(Fault::power_state(
                Some(Power::PoweredOff),
                Power::PoweredOff,
            )),
            _ => None,
        };
        if let Some(fault) = fault {
            return task.end(Err(fault));
        }
        self.kill().await;
        self.went_off(Power::PoweredOff, Some(task));
    }

    pub(super) async fn suspend(&mut self, task: Task) {
        if let Err(fault) = task.check() {
            return task.end(Err(fault));
        }
        if !self.record.is_on() {
            let state = self.record.runtime.power_state.clone();
            return task.end(Err(Fault::power_state(Some(Power::Suspended), state)));
        }
        self.kill().await;
        self.record.runtime.suspend_time = Some(now());
        self.went_off(Power::Suspended, Some(task));
    }

    pub(super) async fn reset(&mut self, myself: &ActorRef<Message>, task: Task) {
        if let Err(fault) = task.check() {
            return task.end(Err(fault));
        }
        if !self.record.is_on() {
            let state = self.record.runtime.power_state.clone();
            return task.end(Err(Fault::power_state(Some(Power::PoweredOn), state)));
        }
        self.kill().await;
        match self.boot(myself).await {
            Ok(()) => {
                let world = self.world.clone();
                world.inventory.commit(|t| {
                    self.record.publish_config(t);
                    self.record.publish_state(t, None);
                    let name = self.record.name().to_owned();
                    let place = EventPlace::of(&world, t.snapshot(), &self.record.moref, &name);
                    let event = VmResettingEvent::default();
                    world
                        .events
                        .post(&world, t, place, event.into(), format!("{name} is reset"));
                    task.end_in(t, Ok(None));
                });
            }
            Err(fault) => {
                self.went_off(Power::PoweredOff, None);
                task.end(Err(fault));
            }
        }
    }

    /// Kills the guest, if there is one, and keeps what it last wrote.
    pub(super) async fn kill(&mut self) {
        if let Some(guest) = self.guest.take() {
            guest.kill().await;
        }
        self.take_guestinfo();
        self.generation += 1;
    }

    /// Takes over what the guest wrote, also where its event has not come yet.
    pub(super) fn take_guestinfo(&mut self) {
        if self.generation == 0 {
            return;
        }
        let written = self.guestinfo.snapshot();
        self.record
            .extra
            .retain(|key, _| !key.starts_with("guestinfo.") || written.contains_key(key));
        for (key, value) in written {
            if self.record.extra.get(&key).and_then(Any::as_str) != Some(&value) {
                self.record.set_extra(&key, value.into());
            }
        }
    }

    /// Shows the VM as off, and ends the task that asked for it.
    pub(super) fn went_off(&mut self, state: Power, task: Option<Task>) {
        self.guest = None;
        devices::power(&mut self.record.config.hardware.device, false);
        self.record.guest = quiet_guest(Some(&self.record.guest));
        let runtime = &mut self.record.runtime;
        runtime.power_state = state.clone();
        runtime.boot_time = None;
        runtime.clean_power_off = Some(true);
        runtime.max_cpu_usage = None;
        runtime.max_memory_usage = None;
        file::save(&self.world, &self.record);
        let world = self.world.clone();
        world.inventory.commit(|t| {
            self.record.publish_config(t);
            self.record.publish_state(t, None);
            let name = self.record.name().to_owned();
            let place = EventPlace::of(&world, t.snapshot(), &self.record.moref, &name);
            if state == Power::Suspended {
                let event = VmSuspendedEvent::default();
                world.events.post(
                    &world,
                    t,
                    place,
                    event.into(),
                    format!("{name} is suspended"),
                );
            } else {
                let event = VmPoweredOffEvent::default();
                world.events.post(
                    &world,
                    t,
                    place,
                    event.into(),
                    format!("{name} is powered off"),
                );
            }
            if let Some(task) = task {
                task.end_in(t, Ok(None));
            }
        });
    }

    /// The simulator ends: no guest may outlive it.
    pub(super) async fn halt(&mut self) {
        if self.record.is_on() {
            self.kill().await;
            self.went_off(Power::PoweredOff, None);
        }
    }
}

/// What the engine needs to know to boot a VM.
fn spec(world: &Arc<World>, record: &Record) -> Outcome<PowerOnSpec> {
    let list = &record.config.hardware.device;
    let limit = record.config.cpu_allocation.as_ref().and_then(|a| a.limit);
    let millis = u64::try_from(record.config.hardware.num_cpu).unwrap_or(1) * 1000;
    // A limit is in MHz of the simulated CPU's 2400.
    let cpu_millis = match limit.and_then(|l| u64::try_from(l).ok()) {
        Some(mhz) if mhz > 0 => millis.min((mhz * 1000).div_ceil(2400)),
        _ => millis,
    };
    let mut spec = PowerOnSpec {
        instance: record.config.instance_uuid.clone().unwrap_or_default(),
        name: record.name().to_owned(),
        cpu_millis,
        memory_mb: u64::try_from(record.config.hardware.memory_mb).unwrap_or(0),
        iso: iso(world, list)?,
        ..Default::default()
    };
    for (bus, unit, disk, file) in record.disks() {
        spec.disks.push(DiskSpec {
            slot: DiskSlot { bus, unit },
            vmdk: world.real(file)?,
            read_only: disk.guest_read_only == Some(true),
        });
    }
    let mut nics: Vec<_> = list
        .iter()
        .filter(|d| devices::kind(d) == Kind::Nic)
        .collect();
    nics.sort_by_key(|d| *d.key());
    spec.nics = nics.into_iter().filter_map(|d| nic(world, d)).collect();
    for device in list.iter().filter(|d| d.is::<VirtualSerialPort>()) {
        spec.serials.push(serial(world, record, device)?);
    }
    Ok(spec)
}

fn iso(world: &World, list: &[Poly<VirtualDevice>]) -> Outcome<Option<std::path::PathBuf>> {
    for device in list {
        let Some(cd) = device.get::<VirtualCdrom>() else {
            continue;
        };
        let connected = cd.connectable.as_ref().is_none_or(|c| c.start_connected);
        let backing = cd
            .backing
            .as_ref()
            .and_then(|b| b.get::<VirtualCdromIsoBackingInfo>());
        if let (true, Some(backing)) = (connected, backing)
            && !backing.file_name.is_empty()
        {
            return world.real(&backing.file_name).map(Some);
        }
    }
    Ok(None)
}

fn nic(world: &World, device: &Poly<VirtualDevice>) -> Option<NicSpec> {
    let backing = device.backing().as_ref()?;
    let snapshot = world.inventory.now();
    let network = if let Some(b) = backing.get::<VirtualEthernetCardNetworkBackingInfo>() {
        b.device_name.clone()
    } else {
        let b = backing.get::<VirtualEthernetCardDistributedVirtualPortBackingInfo>()?;
        let key = b.port.portgroup_key.as_ref()?;
        snapshot.find(key)?.text("name")?.to_owned()
    };
    let mut mac = [0; 6];
    let text = device.field_str("macAddress")?;
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let connected = device
        .connectable()
        .as_ref()
        .is_none_or(|c| c.start_connected);
    Some(NicSpec {
        key: *device.key(),
        mac,
        network,
        connected,
    })
}

/// Where a serial port leads.
pub(super) fn serial(
    world: &World,
    record: &Record,
    device: &Poly<VirtualDevice>,
) -> Outcome<SerialSpec> {
    let index = u32::try_from(*device.key() - 9000).unwrap_or(0);
    let connected = device.connectable().as_ref().is_none_or(|c| {
        if record.is_on() {
            c.connected
        } else {
            c.start_connected
        }
    });
    let backing = match device.backing() {
        Some(b) if b.is::<VirtualSerialPortFileBackingInfo>() => match devices::file_of(b) {
            Some(name) if name.starts_with('[') => SerialBacking::File(world.real(name)?),
            Some(name) => SerialBacking::File(world.locate(&record.vmx.parent().join(name))?),
            None => SerialBacking::None,
        },
        Some(b) => match b.get::<VirtualSerialPortURIBackingInfo>() {
            Some(uri) if uri.direction == "client" => {
                tcp(&uri.service_uri).unwrap_or(SerialBacking::None)
            }
            _ => SerialBacking::None,
        },
        None => SerialBacking::None,
    };
    Ok(SerialSpec {
        index,
        backing,
        connected,
    })
}

fn tcp(uri: &str) -> Option<SerialBacking> {
    let uri = url::Url::parse(uri).ok()?;
    if !matches!(uri.scheme(), "tcp" | "telnet") {
        return None;
    }
    let host = uri.host_str()?.trim_matches(['[', ']']).to_owned();
    Some(SerialBacking::TcpClient {
        host,
        port: uri.port()?,
    })
}
