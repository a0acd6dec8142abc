//! Events and tasks, and those who collect them.

use vmomi::types::{
    CreateCollectorForEventsRequest, QueryEventsRequest, ReadNextEventsRequest,
    SetCollectorPageSizeRequest,
};
use vmomi::{ManagedObjectReference as Moref, Poly};

use super::{Call, Reply, ok};
use crate::fault::Fault;
use crate::inventory::Prop;

pub(super) fn call(call: &Call<'_>) -> Reply {
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
            let found = world
                .inventory
                .commit(|t| world.events.set_page(t, id, size));
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
            ok(())
        }
        "DestroyCollector" => {
            world.events.forget(id);
            world.inventory.commit(|t| t.remove(id));
            call.session()?.remove_view(id);
            ok(())
        }
        // Nothing here takes so long that it could be cancelled.
        "CancelTask" => Err(Fault::not_supported()),
        _ => Err(Fault::not_supported()),
    }
}
