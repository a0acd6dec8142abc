//! Files that go to the datastore.

use std::path::Path;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::{debug, info, warn};
use vmomi::client::Client;

use super::appliance::Appliance;
use crate::failure::{Failure, Tried};
use crate::log::Kept;
use crate::plan::Plan;
use crate::validate::Placement;

/// How often an upload is tried: datastores of busy hosts refuse now and then.
const ATTEMPTS: u32 = 5;

/// Uploads both ISOs beside the appliance.
pub(super) async fn isos(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    vm: &Appliance,
) -> Result<(), Failure> {
    info!("Uploading images for container");
    for (name, local) in [
        ("bootstrap.iso", &plan.bootstrap_iso),
        ("appliance.iso", &plan.appliance_iso),
    ] {
        info!("{name}");
        upload(client, placement, &vm.folder, name, local).await?;
    }
    Ok(())
}

async fn upload(
    client: &Client,
    placement: &Placement,
    folder: &str,
    name: &str,
    local: &Path,
) -> Result<(), Failure> {
    let (datastore, dir) =
        split(folder).ok_or_else(|| Failure::new(format!("{folder} is no folder")))?;
    let files = client.datastore(&placement.datacenter_path, datastore);
    let path = format!("{dir}/{name}");
    for attempt in 1.. {
        match files.upload_file(&path, local).await {
            Ok(()) => break,
            Err(error) if attempt < ATTEMPTS && (error.is_retryable() || error.is_ambiguous()) => {
                warn!("uploading {name} failed, trying again: {error}");
            }
            Err(error) => return Err(error).tried(format!("cannot upload {name}")),
        }
    }
    Ok(())
}

/// Leaves the log in the appliance's folder.
pub(super) async fn keep_log(client: &Client, placement: &Placement, folder: &str, kept: &Kept) {
    let Some((datastore, dir)) = split(folder) else {
        return;
    };
    let form = format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
    let now = OffsetDateTime::now_utc().format(form).unwrap_or_default();
    let path = format!("{dir}/vic-machine_{now}_create.log");
    let files = client.datastore(&placement.datacenter_path, datastore);
    if let Err(error) = files.write(&path, kept.bytes()).await {
        debug!("the log cannot be left on the datastore: {error}");
    }
}

/// `[ds] path` in two.
fn split(folder: &str) -> Option<(&str, &str)> {
    let (datastore, path) = folder.strip_prefix('[')?.split_once(']')?;
    Some((datastore, path.trim_start()))
}
