//! `VirtualMachine`.

use vmomi::types::ReconfigVMRequest;

use super::{Call, PATIENCE, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::task::Task;
use crate::vm::Message;

pub(super) async fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "PowerOnVM_Task" => tell(call, Message::PowerOn),
        "PowerOffVM_Task" => tell(call, Message::PowerOff),
        "ResetVM_Task" => tell(call, Message::Reset),
        "SuspendVM_Task" => tell(call, Message::Suspend),
        "ReconfigVM_Task" => {
            let spec = Box::new(call.args::<ReconfigVMRequest>()?.spec.clone());
            tell(call, |task| Message::Reconfigure(spec, task))
        }
        "UnregisterVM" => {
            ask(call, Message::Unregister).await??;
            ok(())
        }
        "ShutdownGuest" => guest(call, "OS_Halt").await,
        "RebootGuest" => guest(call, "OS_Reboot").await,
        "StandbyGuest" => guest(call, "OS_Suspend").await,
        "RefreshStorageInfo" => {
            ask(call, Message::RefreshStorage).await?;
            ok(())
        }
        "ResetGuestInformation" => ok(()),
        _ => Err(Fault::not_supported()),
    }
}

async fn guest(call: &Call<'_>, command: &'static str) -> Reply {
    ask(call, |reply| Message::Ask(command, reply)).await??;
    ok(())
}

/// Hands a task to the VM's actor, and answers with it at once.
pub(super) fn tell(call: &Call<'_>, message: impl FnOnce(Task) -> Message) -> Reply {
    let vm = call.world.vm(call.this)?;
    let task = call.task();
    let moref = task.moref();
    // A message that cannot be delivered ends its task by being dropped.
    vm.address.tell(message(task));
    ok(moref)
}

async fn ask<T: Send + 'static>(
    call: &Call<'_>,
    message: impl FnOnce(ractor::RpcReplyPort<T>) -> Message,
) -> Outcome<T> {
    let vm = call.world.vm(call.this)?;
    vm.address
        .ask(PATIENCE, message)
        .await
        .map_err(|e| Fault::system(e.to_string()))
}
