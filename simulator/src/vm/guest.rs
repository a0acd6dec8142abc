//! What guests do, and what is asked of them.

use ractor::ActorRef;
use tether_protocol::nicinfo::NicInfo;
use vmomi::types::{
    GuestNicInfo, NetIpConfigInfo, NetIpConfigInfoIpAddress, VirtualMachinePowerState as Power,
    VirtualMachineToolsStatus, VmGuestRebootEvent, VmGuestShutdownEvent,
};

use super::devices::{self, Kind};
use super::{Message, State, file};
use crate::engine::{GuestEvent, PowerOffCause};
use crate::event::Place;
use crate::fault::{Fault, Outcome};

impl State {
    /// Asks the guest to halt, to reboot or to sleep.
    pub(super) fn ask(&self, command: &'static str) -> Outcome<()> {
        if !self.record.is_on() {
            let wanted = if command == "OS_Reboot" {
                Power::PoweredOn
            } else {
                Power::PoweredOff
            };
            let state = self.record.runtime.power_state.clone();
            return Err(Fault::power_state(Some(wanted), state));
        }
        let running = self.record.guest.tools_running_status.as_deref();
        let Some(guest) = self.guest.clone() else {
            return Err(Fault::plain("ToolsUnavailable"));
        };
        if running != Some("guestToolsRunning") && self.world.engine.name() != "inert" {
            return Err(Fault::plain("ToolsUnavailable"));
        }
        let name = self.record.name().to_owned();
        // The guest's answer may take as long as its stop does; the VM stays at hand meanwhile.
        tokio::spawn(async move {
            if let Err(error) = guest.tclo(command.to_owned()).await {
                tracing::warn!(vm = name, command, %error, "the guest did not take the command");
            }
        });
        let world = &self.world;
        world.inventory.commit(|t| {
            let name = self.record.name();
            let place = Place::of(world, t.snapshot(), &self.record.moref, name);
            let (event, what) = if command == "OS_Reboot" {
                (VmGuestRebootEvent::default().into(), "reboot")
            } else {
                (VmGuestShutdownEvent::default().into(), "shutdown")
            };
            world.events.post(
                world,
                t,
                place,
                event,
                format!("Guest OS {what} for {name}"),
            );
        });
        Ok(())
    }

    /// Shows what the guest did, all of it in one moment.
    pub(super) async fn guest_events(
        &mut self,
        myself: &ActorRef<Message>,
        events: Vec<GuestEvent>,
    ) {
        let (mut config, mut state, mut end) = (false, false, None);
        for event in events {
            match event {
                GuestEvent::GuestInfoSet { key, value } => {
                    tracing::debug!(vm = self.record.name(), key, "guest says");
                    self.record.set_extra(&key, value.into());
                    config = true;
                }
                GuestEvent::NicInfo(bytes) => state |= self.nics(&bytes),
                GuestEvent::HostName(name) => {
                    self.record.guest.host_name = Some(name);
                    state = true;
                }
                GuestEvent::OsName(name) => {
                    self.record.guest.guest_full_name = Some(name);
                    state = true;
                }
                GuestEvent::ToolsRunning(running) => {
                    self.tools(running);
                    state = true;
                }
                GuestEvent::PoweredOff(cause) => end = Some(Some(cause)),
                GuestEvent::RebootRequested => end = Some(None),
            }
        }
        match end {
            None => {
                if config {
                    // A simulator that is killed must not forget what its guests said last.
                    file::save(&self.world, &self.record);
                }
                let world = self.world.clone();
                world.inventory.commit(|t| {
                    if config {
                        self.record.publish_config(t);
                    }
                    if state {
                        self.record.publish_state(t, None);
                    }
                });
            }
            Some(Some(cause)) => {
                tracing::debug!(vm = self.record.name(), ?cause, "guest is off");
                if matches!(cause, PowerOffCause::Lost | PowerOffCause::Signaled(_)) {
                    tracing::warn!(vm = self.record.name(), ?cause, "the guest is gone");
                }
                self.kill().await;
                self.went_off(Power::PoweredOff, None);
            }
            Some(None) => self.boot_again(myself).await,
        }
    }

    /// The guest has rebooted: its VM stays on.
    async fn boot_again(&mut self, myself: &ActorRef<Message>) {
        self.kill().await;
        match self.boot(myself).await {
            Ok(()) => {
                let world = self.world.clone();
                world.inventory.commit(|t| {
                    self.record.publish_config(t);
                    self.record.publish_state(t, None);
                });
            }
            Err(fault) => {
                tracing::warn!(
                    vm = self.record.name(),
                    why = fault.message,
                    "cannot reboot"
                );
                self.went_off(Power::PoweredOff, None);
            }
        }
    }

    fn tools(&mut self, running: bool) {
        let guest = &mut self.record.guest;
        guest.tools_status = Some(if running {
            VirtualMachineToolsStatus::ToolsOk
        } else {
            VirtualMachineToolsStatus::ToolsNotRunning
        });
        guest.tools_running_status = Some(
            if running {
                "guestToolsRunning"
            } else {
                "guestToolsNotRunning"
            }
            .into(),
        );
        guest.guest_operations_ready = Some(running);
        guest.guest_family = Some("linuxGuest".into());
        guest.guest_id.get_or_insert_with(|| "otherGuest64".into());
    }

    /// Shows the adapters that the guest reports; false: the report cannot be read.
    fn nics(&mut self, bytes: &[u8]) -> bool {
        let Ok(info) = NicInfo::decode(bytes) else {
            tracing::warn!(
                vm = self.record.name(),
                "the guest's report of its adapters is broken"
            );
            return false;
        };
        let list = &self.record.config.hardware.device;
        let mut shown = Vec::new();
        for nic in &info.nics {
            let mac = nic.mac.to_ascii_lowercase();
            let device = list.iter().find(|d| {
                devices::kind(d) == Kind::Nic
                    && devices::Fields::field_str(*d, "macAddress")
                        .is_some_and(|m| m.eq_ignore_ascii_case(&mac))
            });
            let Some(device) = device else { continue };
            let addresses: Vec<(String, i32)> = nic
                .addresses
                .iter()
                .map(|a| (a.ip.to_string(), i32::from(a.prefix)))
                .collect();
            let ip_config = NetIpConfigInfo {
                ip_address: addresses
                    .iter()
                    .map(|(address, prefix)| NetIpConfigInfoIpAddress {
                        ip_address: address.clone(),
                        prefix_length: *prefix,
                        state: Some("preferred".into()),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            };
            shown.push(GuestNicInfo {
                network: device.device_info().as_ref().map(|i| i.summary.clone()),
                ip_address: addresses.into_iter().map(|(a, _)| a).collect(),
                mac_address: Some(mac),
                connected: device.connectable().as_ref().is_none_or(|c| c.connected),
                device_config_id: *device.key(),
                ip_config: Some(ip_config),
                ..Default::default()
            });
        }
        let first = |v4: bool| {
            let all = shown.iter().flat_map(|n| n.ip_address.iter());
            all.filter(|a| !a.starts_with("fe80:"))
                .find(|a| a.contains('.') == v4)
                .cloned()
        };
        self.record.guest.ip_address = first(true).or_else(|| first(false));
        self.record.guest.net = shown;
        true
    }
}
