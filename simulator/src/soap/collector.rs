//! `PropertyCollector` and `PropertyFilter`.

use std::time::Duration;

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    CancelRetrievePropertiesExRequest, CheckForUpdatesRequest, ContinueRetrievePropertiesExRequest,
    CreateFilterRequest, RetrievePropertiesExRequest, RetrievePropertiesRequest, RetrieveResult,
    WaitForUpdatesExRequest, WaitForUpdatesRequest,
};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::pc::{Collector, WaitOptions};

/// How many objects a reply holds when the client does not say, as on vCenter.
const PAGE: usize = 1000;

fn collector(call: &Call<'_>) -> Outcome<Collector> {
    let session = call.session()?;
    if call.this.value == call.world.ids.property_collector {
        return Ok(session.collector.clone());
    }
    session
        .collector(&call.this.value)
        .ok_or_else(|| Fault::not_found(call.this))
}

pub(super) async fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    match call.method {
        "RetrievePropertiesEx" => {
            let args = call.args::<RetrievePropertiesExRequest>()?;
            let page = args
                .options
                .max_objects
                .and_then(|n| usize::try_from(n).ok());
            let page = page.filter(|n| *n > 0).unwrap_or(PAGE);
            let (objects, token) = collector(call)?
                .retrieve(
                    world.inventory.now(),
                    &call.reader(),
                    &args.spec_set,
                    Some(page),
                )
                .await?;
            if objects.is_empty() {
                return ok(None::<RetrieveResult>);
            }
            ok(Some(RetrieveResult {
                token,
                objects,
                ..Default::default()
            }))
        }
        "ContinueRetrievePropertiesEx" => {
            let args = call.args::<ContinueRetrievePropertiesExRequest>()?;
            let (objects, token) = collector(call)?
                .continue_retrieve(&call.reader(), &args.token)
                .await?;
            ok(RetrieveResult {
                token,
                objects,
                ..Default::default()
            })
        }
        "CancelRetrievePropertiesEx" => {
            let args = call.args::<CancelRetrievePropertiesExRequest>()?;
            collector(call)?.cancel_retrieve(&args.token).await?;
            ok(())
        }
        "RetrieveProperties" => {
            let args = call.args::<RetrievePropertiesRequest>()?;
            let now = world.inventory.now();
            let (objects, _) = collector(call)?
                .retrieve(now, &call.reader(), &args.spec_set, None)
                .await?;
            ok(objects)
        }
        "CreateFilter" => {
            let args = call.args::<CreateFilterRequest>()?;
            let id = call.session()?.moid();
            let now = world.inventory.now();
            collector(call)?
                .create_filter(&now, id.clone(), &args.spec)
                .await?;
            ok(Moref::new("PropertyFilter", id))
        }
        "DestroyPropertyFilter" => {
            for collector in call.session()?.collectors() {
                if collector.has_filter(&call.this.value) {
                    collector.destroy_filter(&call.this.value).await?;
                }
            }
            ok(())
        }
        "CreatePropertyCollector" => ok(call.session()?.add_collector(world).await?),
        "DestroyPropertyCollector" => {
            if call.session()?.remove_collector(&call.this.value).await {
                ok(())
            } else {
                Err(Fault::not_supported())
            }
        }
        "CancelWaitForUpdates" => {
            collector(call)?.cancel_wait();
            ok(())
        }
        "WaitForUpdatesEx" => {
            let args = call.args::<WaitForUpdatesExRequest>()?;
            let options = args.options.clone().unwrap_or_default();
            let options = WaitOptions {
                max_wait: options
                    .max_wait_seconds
                    .map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))),
                max_updates: options
                    .max_object_updates
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| *n > 0),
            };
            wait(call, args.version.as_deref(), options).await
        }
        "WaitForUpdates" => {
            let args = call.args::<WaitForUpdatesRequest>()?;
            let version = args.version.as_deref().unwrap_or("");
            let updates = collector(call)?
                .wait(call.reader(), version, WaitOptions::default())
                .await?;
            ok(updates.unwrap_or_default())
        }
        "CheckForUpdates" => {
            let args = call.args::<CheckForUpdatesRequest>()?;
            let options = WaitOptions {
                max_wait: Some(Duration::ZERO),
                max_updates: None,
            };
            wait(call, args.version.as_deref(), options).await
        }
        _ => Err(Fault::not_supported()),
    }
}

async fn wait(call: &Call<'_>, version: Option<&str>, options: WaitOptions) -> Reply {
    let version = version.unwrap_or("");
    ok(collector(call)?
        .wait(call.reader(), version, options)
        .await?)
}
