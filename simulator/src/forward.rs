//! Ports of VMs on the host's loopback: each follows its VM by name, whatever its address becomes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;
use vmomi::types::{GuestInfo, VirtualMachinePowerState, VirtualMachineRuntimeInfo};

use crate::config::Forward;
use crate::inventory::{Object, Prop};
use crate::world::World;

/// Opens a forward that stays as long as the simulator runs.
pub(crate) async fn open(world: &Arc<World>, forward: Forward) -> Result<SocketAddr, String> {
    let network = world
        .network
        .clone()
        .ok_or("guests have no network with this engine")?;
    let target = follow(world, forward.vm.clone(), forward.port);
    let opened = network
        .forward(forward.listen, target)
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", forward.listen))?;
    let address = opened.address();
    world
        .forwards
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(opened);
    Ok(address)
}

/// Follows the address of the VM called `name`.
fn follow(world: &Arc<World>, name: String, port: u16) -> watch::Receiver<Option<SocketAddrV4>> {
    let (sender, receiver) = watch::channel(None);
    let world = Arc::downgrade(world);
    tokio::spawn(async move {
        let Some(mut changes) = world.upgrade().map(|w| w.inventory.subscribe()) else {
            return;
        };
        loop {
            let snapshot = changes.borrow_and_update().clone();
            let Some(shared) = world.upgrade() else {
                return;
            };
            let target = shared
                .names
                .find(&name)
                .and_then(|vm| address(snapshot.find(&vm.value)?))
                .map(|ip| SocketAddrV4::new(ip, port));
            drop(shared);
            sender.send_if_modified(|known| {
                let changed = *known != target;
                *known = target;
                changed
            });
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

/// The address that a running guest reports.
fn address(vm: &Object) -> Option<Ipv4Addr> {
    let data = |name: &str| match vm.props.get(name)? {
        Prop::Value(any) => Some(any),
        Prop::Refs(_) => None,
    };
    let runtime = data("runtime")?.as_data::<VirtualMachineRuntimeInfo>()?;
    if runtime.power_state != VirtualMachinePowerState::PoweredOn {
        return None;
    }
    data("guest")?
        .as_data::<GuestInfo>()?
        .ip_address
        .as_ref()?
        .parse()
        .ok()
}
