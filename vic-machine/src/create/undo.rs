//! What a `create` has made, and how it is taken away again.

use tracing::{debug, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error};
use vmomi::types::{
    DeleteDatastoreFileRequest, DestroyRequest, PowerOffVMRequest, RemovePortGroupRequest,
    RemoveVirtualSwitchRequest,
};

use crate::validate::Placement;

/// Something that was made.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// A pool, folder or VM.
    Entity(Reference),
    /// The appliance runs.
    PoweredOn(Reference),
    /// A virtual switch of a host's network system.
    Switch(Reference, String),
    /// A port group of a host's network system.
    PortGroup(Reference, String),
    /// A folder of a datastore, `[ds] path`, with the VM's files.
    Files(String),
}

/// Everything that was made, in order.
#[derive(Debug, Default)]
pub(super) struct Undo(Vec<Made>);

impl Undo {
    /// Notes one thing.
    pub(super) fn note(&mut self, made: Made) {
        self.0.push(made);
    }

    /// Notes something that is taken away right after the thing noted last.
    pub(super) fn insert_before_last(&mut self, made: Made) {
        self.0.insert(self.0.len().saturating_sub(1), made);
    }

    /// Notes something that is taken away after everything else.
    pub(super) fn note_first(&mut self, made: Made) {
        self.0.insert(0, made);
    }

    /// Whether the bridge network was made.
    pub(super) fn made_bridge(&self) -> bool {
        self.0
            .iter()
            .any(|made| matches!(made, Made::PortGroup(..)))
    }

    /// The appliance's folder, once it is there.
    pub(super) fn vm_folder(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|made| match made {
            Made::Files(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// Takes everything away, last first. What cannot be taken away is said.
    pub(super) async fn run(&self, client: &Client, placement: &Placement) {
        for made in self.0.iter().rev() {
            debug!("removing {made:?}");
            match remove(client, placement, made).await {
                Err(error)
                    if error.is_fault("ManagedObjectNotFound")
                        || error.is_fault("FileNotFound") => {}
                Err(error) => warn!("cannot remove {made:?}: {error}"),
                Ok(()) => {}
            }
        }
    }
}

async fn remove(client: &Client, placement: &Placement, made: &Made) -> Result<(), Error> {
    match made {
        Made::Entity(object) => client.run_task(object, DestroyRequest {}).await.map(drop),
        Made::PoweredOn(vm) => client.run_task(vm, PowerOffVMRequest {}).await.map(drop),
        Made::Switch(system, name) => {
            client
                .invoke(
                    system,
                    RemoveVirtualSwitchRequest {
                        vswitch_name: name.clone(),
                    },
                )
                .await
        }
        Made::PortGroup(system, name) => {
            client
                .invoke(
                    system,
                    RemovePortGroupRequest {
                        pg_name: name.clone(),
                    },
                )
                .await
        }
        Made::Files(path) => {
            let Some(manager) = &client.content().file_manager else {
                return Ok(());
            };
            let request = DeleteDatastoreFileRequest {
                name: path.clone(),
                datacenter: Some(placement.datacenter.clone()),
            };
            client.run_task(manager, request).await.map(drop)
        }
    }
}
