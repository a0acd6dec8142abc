//! Options, licences, and managers of which only little is there.

use vmomi::types::{
    LicenseAssignmentManagerLicenseAssignment, OptionValue, PerfCounterInfo,
    QueryAssignedLicensesRequest, QueryOptionsRequest, UpdateOptionsRequest,
};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::Prop;
use crate::model;

pub(super) fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "QueryOptions" => {
            let args = call.args::<QueryOptionsRequest>()?;
            let wanted = args.name.as_deref().unwrap_or("");
            let found: Vec<OptionValue> = settings(call)?
                .into_iter()
                .filter(|o| {
                    wanted.is_empty()
                        || o.key == wanted
                        || (wanted.ends_with('.') && o.key.starts_with(wanted))
                })
                .collect();
            if found.is_empty() {
                return Err(Fault::invalid_name(wanted));
            }
            ok(found)
        }
        "UpdateOptions" => {
            let args = call.args::<UpdateOptionsRequest>()?;
            let mut all = settings(call)?;
            for change in &args.changed_value {
                match all.iter_mut().find(|o| o.key == change.key) {
                    Some(known) => known.value = change.value.clone(),
                    None => all.push(change.clone()),
                }
            }
            call.world
                .inventory
                .commit(|t| t.set(&call.this.value, "setting", all));
            ok(())
        }
        "QueryAssignedLicenses" => {
            let args = call.args::<QueryAssignedLicensesRequest>()?;
            let entity = args.entity_id.clone().unwrap_or_default();
            ok(vec![LicenseAssignmentManagerLicenseAssignment {
                entity_id: entity,
                assigned_license: model::licence(),
                ..Default::default()
            }])
        }
        "CheckLicenseFeature" => ok(true),
        "QueryPerfCounter" => ok(Vec::<PerfCounterInfo>::new()),
        "FindExtension" => ok(None::<vmomi::types::Extension>),
        _ => Err(Fault::not_supported()),
    }
}

fn settings(call: &Call<'_>) -> Outcome<Vec<OptionValue>> {
    let snapshot = call.world.inventory.now();
    let object = snapshot
        .find(&call.this.value)
        .ok_or_else(|| Fault::not_found(call.this))?;
    match object.props.get("setting") {
        Some(Prop::Value(any)) => any
            .as_ref()
            .clone()
            .into_vec()
            .map_err(|e| Fault::system(e.to_string())),
        _ => Ok(Vec::new()),
    }
}
