//! Containers whose creation was answered with an error: whatever comes of their VMs later is taken away.
//!
//! vSphere may carry out a call whose answer never reached us, and long after we gave up. So an abandoned id is
//! remembered for good: its VM is destroyed when it is found now, and whenever the watch or a list shows it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::container::actor::destroy;
use crate::container::vm::{Record, instance_uuid};
use crate::context::Context;
use crate::error::Error;
use crate::ids::ContainerId;

/// How often the VM is looked for and destroyed until that works, with growing pauses: about a minute in all.
const TRIES: u32 = 20;

/// How long the one who asked for the container waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ids of containers that nobody was promised.
#[derive(Debug, Default)]
pub(crate) struct Abandoned(Mutex<BTreeSet<ContainerId>>);

impl Abandoned {
    pub(crate) fn has(&self, id: ContainerId) -> bool {
        self.lock().contains(&id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<ContainerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Destroys the VM of a container that nobody was promised, now or when it comes. Answers when that has been tried.
pub(crate) async fn abandon(context: &Context, id: ContainerId) {
    context.abandoned().lock().insert(id);
    // Goes on behind the asker's back when it takes longer.
    let _ = tokio::time::timeout(PATIENCE, take_away(context, id)).await;
}

/// Begins to take the VM of an abandoned container away.
pub(crate) fn take_away(context: &Context, id: ContainerId) -> tokio::task::JoinHandle<()> {
    let context = context.clone();
    tokio::spawn(async move {
        for tries in 0..TRIES {
            match once(&context, id).await {
                Ok(()) => return,
                Err(why) => tracing::warn!(%why, container = %id.short(), tries, "abandoned"),
            }
            tokio::time::sleep(Duration::from_millis(50 << tries.min(6))).await;
        }
    })
}

async fn once(context: &Context, id: ContainerId) -> Result<(), Error> {
    let vsphere = context.vsphere();
    let Some(vm) = vsphere.find_vm(&instance_uuid(id)).await? else {
        return Ok(());
    };
    let Some(facts) = vsphere.vm(&vm).await? else {
        return Ok(());
    };
    let mounts = Record::read(&facts.keys).map(|r| r.mounts);
    let volumes: Vec<_> = mounts
        .into_iter()
        .flatten()
        .filter(|m| m.volume.is_some())
        .map(|m| m.disk)
        .collect();
    destroy(vsphere, &vm, &volumes).await
}
