//! The engine that runs nothing: power state only, for unit and scale tests.
//!
//! A test may keep the [`InertEngine::console`] of a guest to play its part: send events, answer TCLO.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::{
    BoxFuture, DiskSlot, DiskSpec, EngineError, Guest, GuestEngine, GuestEvent, PowerOffCause,
    PowerOnSpec, PoweredOn, SerialSpec,
};

type Consoles = Arc<Mutex<HashMap<String, Arc<InertGuest>>>>;

/// Runs nothing.
#[derive(Clone, Debug, Default)]
pub struct InertEngine {
    guests: Consoles,
    watchers: Watchers,
}

/// Who wants to play the guests that are powered on from now on.
type Watchers = Arc<Mutex<Vec<mpsc::UnboundedSender<Arc<InertGuest>>>>>;

impl InertEngine {
    /// Makes the engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a running guest by its VM's instance UUID, to play its part.
    #[must_use]
    pub fn console(&self, instance: &str) -> Option<Arc<InertGuest>> {
        lock(&self.guests).get(instance).cloned()
    }

    /// Hands over every guest that is powered on from now on, to play its part.
    #[must_use]
    pub fn power_ons(&self) -> mpsc::UnboundedReceiver<Arc<InertGuest>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.watchers).push(sender);
        receiver
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestEngine for InertEngine {
    fn name(&self) -> &'static str {
        "inert"
    }

    fn power_on(&self, spec: PowerOnSpec) -> BoxFuture<'_, Result<PoweredOn, EngineError>> {
        let (events, receiver) = mpsc::unbounded_channel();
        let guest = Arc::new(InertGuest {
            instance: spec.instance.clone(),
            guests: Arc::clone(&self.guests),
            state: Mutex::new(State {
                spec,
                events: Some(events),
            }),
            over: watch::Sender::new(false),
        });
        lock(&self.guests).insert(guest.instance.clone(), Arc::clone(&guest));
        lock(&self.watchers).retain(|watcher| watcher.send(Arc::clone(&guest)).is_ok());
        Box::pin(async move {
            Ok(PoweredOn {
                guest,
                events: receiver,
            })
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        let guests: Vec<_> = lock(&self.guests).values().cloned().collect();
        Box::pin(async move {
            for guest in guests {
                guest.end(GuestEvent::PoweredOff(PowerOffCause::Killed));
            }
        })
    }
}

/// A guest that does nothing by itself.
#[derive(Debug)]
pub struct InertGuest {
    instance: String,
    guests: Consoles,
    state: Mutex<State>,
    over: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    spec: PowerOnSpec,
    events: Option<mpsc::UnboundedSender<GuestEvent>>,
}

impl InertGuest {
    /// Returns what the guest was powered on with, hot changes included.
    #[must_use]
    pub fn spec(&self) -> PowerOnSpec {
        lock(&self.state).spec.clone()
    }

    /// Writes a key as the guest would.
    pub fn info_set(&self, key: &str, value: &str) {
        lock(&self.state).spec.guestinfo.set(key, value);
        self.send(GuestEvent::GuestInfoSet {
            key: key.to_owned(),
            value: value.to_owned(),
        });
    }

    /// Sends any event that does not end the guest.
    pub fn send(&self, event: GuestEvent) {
        if let Some(events) = &lock(&self.state).events {
            // A closed channel means that the VM is being powered off.
            let _ = events.send(event);
        }
    }

    /// Waits until the guest has ended: by itself, or because its power was cut.
    pub async fn ended(&self) {
        // The sender lives as long as we do.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Ends the guest with its last event.
    pub fn end(&self, event: GuestEvent) {
        self.over.send_replace(true);
        if let Some(events) = lock(&self.state).events.take() {
            let _ = events.send(event);
        }
        let mut guests = lock(&self.guests);
        if guests
            .get(&self.instance)
            .is_some_and(|g| std::ptr::eq(Arc::as_ptr(g), self))
        {
            guests.remove(&self.instance);
        }
    }

    fn running<T>(
        &self,
        change: impl FnOnce(&mut PowerOnSpec) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut state = lock(&self.state);
        if state.events.is_none() {
            return Err(EngineError::NotRunning);
        }
        change(&mut state.spec)
    }
}

impl Guest for InertGuest {
    fn attach_disk(&self, disk: DiskSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        let result = self.running(|spec| {
            if spec.disks.iter().any(|d| d.slot == disk.slot) {
                return Err(EngineError::InUse(format!("disk slot {}", disk.slot)));
            }
            spec.disks.push(disk);
            Ok(())
        });
        Box::pin(async move { result })
    }

    fn detach_disk(&self, slot: DiskSlot) -> BoxFuture<'_, Result<(), EngineError>> {
        let result = self.running(|spec| {
            let before = spec.disks.len();
            spec.disks.retain(|d| d.slot != slot);
            if spec.disks.len() == before {
                return Err(EngineError::NoSuchDevice(format!("disk {slot}")));
            }
            Ok(())
        });
        Box::pin(async move { result })
    }

    fn set_serial(&self, serial: SerialSpec) -> BoxFuture<'_, Result<(), EngineError>> {
        let result = self.running(|spec| {
            let port = spec
                .serials
                .iter_mut()
                .find(|s| s.index == serial.index)
                .ok_or_else(|| {
                    EngineError::NoSuchDevice(format!("serial port {}", serial.index))
                })?;
            *port = serial;
            Ok(())
        });
        Box::pin(async move { result })
    }

    fn set_nic_connected(
        &self,
        key: i32,
        connected: bool,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        let result = self.running(|spec| {
            let nic = spec
                .nics
                .iter_mut()
                .find(|n| n.key == key)
                .ok_or_else(|| EngineError::NoSuchDevice(format!("network adapter {key}")))?;
            nic.connected = connected;
            Ok(())
        });
        Box::pin(async move { result })
    }

    fn tclo(&self, command: String) -> BoxFuture<'_, Result<String, EngineError>> {
        let ended = match command.as_str() {
            "OS_Halt" => Some(GuestEvent::PoweredOff(PowerOffCause::PoweredOff)),
            "OS_Reboot" => Some(GuestEvent::RebootRequested),
            _ => None,
        };
        let result = self.running(|_| Ok("OK ".to_owned()));
        if let Some(event) = ended {
            self.end(event);
        }
        Box::pin(async move { result })
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        self.end(GuestEvent::PoweredOff(PowerOffCause::Killed));
        Box::pin(async {})
    }

    fn pid(&self) -> Option<i32> {
        None
    }
}
