//! `ServiceInstance`.

use vmomi::types::ServiceContent;

use super::{Call, Reply, ok};
use crate::clock::now;
use crate::fault::Fault;
use crate::inventory::Prop;

pub(super) fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "RetrieveServiceContent" => {
            let snapshot = call.world.inventory.now();
            let content = snapshot
                .find("ServiceInstance")
                .and_then(|o| o.props.get("content"));
            let content = match content {
                Some(Prop::Value(any)) => any.as_data::<ServiceContent>().cloned(),
                _ => None,
            };
            ok(content.ok_or_else(|| Fault::not_found(call.this))?)
        }
        "CurrentTime" => ok(now()),
        _ => Err(Fault::not_supported()),
    }
}
