//! Events and tasks, and those who collect them.

use vmomi::types::{
    CreateCollectorForEventsRequest, CreateCollectorForTasksRequest, CreateTaskRequest,
    QueryEventsRequest, ReadNextEventsRequest, ReadNextTasksRequest, SetCollectorPageSizeRequest,
    SetTaskDescriptionRequest, SetTaskStateRequest, TaskInfo, UpdateProgressRequest,
};
use vmomi::{ManagedObjectReference as Moref, Poly};

use super::{Call, PATIENCE, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::Prop;
use crate::task::{self, Message};

pub(super) async fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    let id = &call.this.value;
    match call.method {
        "CreateCollectorForEvents" => {
            let args = call.args::<CreateCollectorForEventsRequest>()?;
            let session = call.session()?;
            let moref = Moref::new("EventHistoryCollector", session.moid());
            world.inventory.commit(|t| {
                let filter = Prop::value(args.filter.clone());
                t.create(moref.clone(), vec![("filter", filter)]);
                world
                    .events
                    .collect(t, moref.value.clone(), args.filter.clone());
            });
            session.add_view(moref.value.clone());
            ok(moref)
        }
        "QueryEvents" => {
            let args = call.args::<QueryEventsRequest>()?;
            ok(world
                .events
                .query(&world.inventory.now(), args.filter.clone()))
        }
        "SetCollectorPageSize" => {
            let size = call.args::<SetCollectorPageSizeRequest>()?.max_count;
            let size = usize::try_from(size).map_err(|_| Fault::invalid_argument("maxCount"))?;
            let found = world.inventory.commit(|t| {
                world.events.set_page(t, id, size)
                    || world.tasks.history.set_page(world, t, id, size)
            });
            if found {
                ok(())
            } else {
                Err(Fault::not_found(call.this))
            }
        }
        "ReadNextEvents" => {
            let count = call.args::<ReadNextEventsRequest>()?.max_count;
            let count = usize::try_from(count).map_err(|_| Fault::invalid_argument("maxCount"))?;
            let events = world.events.next(&world.inventory.now(), id, count);
            ok(events.ok_or_else(|| Fault::not_found(call.this))?)
        }
        "ReadPreviousEvents" => ok(Vec::<Poly<vmomi::types::Event>>::new()),
        "RewindCollector" | "ResetCollector" => {
            world.events.rewind(id);
            world.tasks.history.rewind(id);
            ok(())
        }
        "DestroyCollector" => {
            world.events.forget(id);
            world.tasks.history.forget(id);
            world.inventory.commit(|t| t.remove(id));
            call.session()?.remove_view(id);
            ok(())
        }
        "CreateCollectorForTasks" => {
            let args = call.args::<CreateCollectorForTasksRequest>()?;
            let session = call.session()?;
            let moref = Moref::new("TaskHistoryCollector", session.moid());
            world.inventory.commit(|t| {
                let filter = Prop::value(args.filter.clone());
                t.create(moref.clone(), vec![("filter", filter)]);
                let (id, filter) = (moref.value.clone(), args.filter.clone());
                world.tasks.history.collect(world, t, id, filter);
            });
            session.add_view(moref.value.clone());
            ok(moref)
        }
        "ReadNextTasks" => {
            let count = call.args::<ReadNextTasksRequest>()?.max_count;
            let count = usize::try_from(count).map_err(|_| Fault::invalid_argument("maxCount"))?;
            let tasks = world.tasks.history.next(world, id, count);
            ok(tasks.ok_or_else(|| Fault::not_found(call.this))?)
        }
        "ReadPreviousTasks" => ok(Vec::<TaskInfo>::new()),
        "CreateTask" => {
            let args = call.args::<CreateTaskRequest>()?;
            if world.inventory.now().find(&args.obj.value).is_none() {
                return Err(Fault::not_found(&args.obj));
            }
            let user = args.initiated_by.as_deref().unwrap_or(call.user());
            let kind = &args.task_type_id;
            ok(task::create(world, &args.obj, user, kind, args.cancelable))
        }
        "CancelTask" => {
            ask(call, Message::Cancel).await?;
            ok(())
        }
        "UpdateProgress" => {
            let percent = call.args::<UpdateProgressRequest>()?.percent_done;
            ask(call, |reply| Message::Progress(percent, reply)).await?;
            ok(())
        }
        "SetTaskState" => {
            let request = Box::new(call.args::<SetTaskStateRequest>()?.clone());
            ask(call, |reply| Message::SetState(request, reply)).await?;
            ok(())
        }
        "SetTaskDescription" => {
            let words = &call.args::<SetTaskDescriptionRequest>()?.description;
            let words = Box::new(words.clone());
            ask(call, |reply| Message::Describe(words, reply)).await?;
            ok(())
        }
        _ => Err(Fault::not_supported()),
    }
}

/// Asks the actor of the task that is called.
async fn ask(
    call: &Call<'_>,
    message: impl FnOnce(ractor::RpcReplyPort<Outcome<()>>) -> Message,
) -> Outcome<()> {
    let ended = || Fault::plain("InvalidState");
    let address = call.world.tasks.live(&call.this.value).ok_or_else(ended)?;
    // One that ends meanwhile has ended.
    address
        .ask(PATIENCE, message)
        .await
        .unwrap_or_else(|_| Err(ended()))
}
