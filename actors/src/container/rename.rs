//! Names: docker's and the VM's, whoever changes which.
//!
//! A container's VM is called `<name>-<short id>`. `docker rename` changes both in one reconfigure. A VM that is renamed
//! in vSphere gives its container the new name: the part before the short id, or, without that, the whole. Two
//! exceptions leave docker's name as it was (inspect of the VM shows the other): a name that docker does not allow, and one
//! that another container has. Such a name is tried again at the next restart of the container's actor.

use ractor::ActorRef;
use vmomi::types::VirtualMachineConfigSpec;

use super::actor::{Input, Running};
use super::message::{Message, Reply};
use super::vm::{self, Record};
use crate::containers::names;
use crate::error::Error;
use crate::ids::ContainerId;

/// A rename that docker asked for.
#[derive(Debug)]
pub struct Renamed {
    name: String,
    result: Result<(), Error>,
    reply: Reply<()>,
}

/// What docker calls a container whose VM is called so; `None` when docker allows no such name.
fn docker_name(vm: &str, id: ContainerId) -> Option<&str> {
    let suffix = format!("-{}", id.short());
    let name = vm.strip_suffix(suffix.as_str()).unwrap_or(vm);
    names::is_valid(name).then_some(name)
}

impl Running {
    /// Renames both: docker's name changes when vSphere has taken the VM's.
    pub(super) fn rename(&mut self, myself: &ActorRef<Message>, name: String, reply: Reply<()>) {
        let (context, id, vm, me) = (
            self.context.clone(),
            self.id,
            self.vm.clone(),
            myself.clone(),
        );
        self.tasks.spawn(async move {
            let spec = VirtualMachineConfigSpec {
                name: Some(vm::vm_name(&name, id)),
                extra_config: vm::option_values(Record::name_keys(&name)),
                ..Default::default()
            };
            let result = context.vsphere().label(&vm, spec).await;
            let renamed = Box::new(Renamed {
                name,
                result,
                reply,
            });
            let _ = me.send_message(Message::Event(Box::new(Input::Renamed(renamed))));
        });
    }

    /// A rename that docker asked for has ended.
    pub(super) fn renamed(&mut self, renamed: Renamed) {
        let Renamed {
            name,
            result,
            reply,
        } = renamed;
        if result.is_ok() {
            self.take_name(name);
        }
        // The client may have left.
        let _ = reply.send(result);
    }

    /// vSphere shows this name of the VM: the container follows when it is another than before.
    pub(super) fn follow_name(&mut self, vm_name: &str) {
        let before = std::mem::replace(&mut self.vm_name, vm_name.to_owned());
        let Some(record) = &self.record else {
            return;
        };
        // One that we gave ourselves says nothing new, and an old one that comes late even less.
        if vm_name == before || vm_name.is_empty() || vm_name == record.vm_name() {
            return;
        }
        let Some(name) = docker_name(vm_name, self.id) else {
            tracing::warn!(container = %self.id.short(), vm_name, "the VM's new name is none for docker");
            return;
        };
        if name == record.name {
            return;
        }
        if let Err(why) = self.context.snapshots().reserve_name(name, self.id) {
            tracing::warn!(container = %self.id.short(), vm_name, %why, "the VM's new name is not followed");
            return;
        }
        let name = name.to_owned();
        let (context, vm, keys) = (
            self.context.clone(),
            self.vm.clone(),
            Record::name_keys(&name),
        );
        self.take_name(name);
        self.tasks.spawn(async move {
            let spec = VirtualMachineConfigSpec {
                extra_config: vm::option_values(keys),
                ..Default::default()
            };
            // Without it the name is followed again after the next restart.
            if let Err(why) = context.vsphere().label(&vm, spec).await {
                tracing::warn!(vm, %why, "a container's new name is not on record");
            }
        });
    }

    fn take_name(&mut self, name: String) {
        let Some(record) = &mut self.record else {
            return;
        };
        if record.name == name {
            return;
        }
        let old = std::mem::replace(&mut record.name, name);
        self.publish();
        self.emit("rename", vec![("oldName", format!("/{old}"))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_id_is_no_part_of_dockers_name() {
        let id = ContainerId::random();
        assert_eq!(docker_name(&vm::vm_name("web", id), id), Some("web"));
        assert_eq!(
            docker_name("renamed-by-admin", id),
            Some("renamed-by-admin")
        );
        let other = vm::vm_name("web", ContainerId::random());
        assert_eq!(docker_name(&other, id), Some(other.as_str()));
    }

    #[test]
    fn a_name_that_docker_does_not_allow_is_not_followed() {
        let id = ContainerId::random();
        for bad in ["web server", "a%2fb", "x", "", "ü-machine"] {
            assert_eq!(docker_name(bad, id), None, "{bad}");
        }
        assert_eq!(docker_name(&format!("-{}", id.short()), id), None);
    }
}
