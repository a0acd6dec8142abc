//! Looks whether the target can take the VCH, before anything is made.
//!
//! Each check says what it found and goes on; what is wrong is collected, and told together at the end.

mod compute;
mod hosts;
mod networks;
mod stores;

pub(crate) use compute::choose as choose_compute;
use tracing::{error, info};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error};

use crate::cli::values::{StorePath, VolumeStore};
use crate::failure::{Failure, Tried};
use crate::inventory::Inventory;
use crate::plan::Plan;
use crate::target::Target;

/// What is wrong with a configuration.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Adds one.
    pub(crate) fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Lists all and fails, if there are any.
    pub(crate) fn end(self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        error!("--------------------");
        for problem in &self.0 {
            for line in problem.lines() {
                error!("{line}");
            }
        }
        error!("Create cannot continue: configuration validation failed");
        Err(Failure::new("validation of configuration failed"))
    }
}

impl From<Vec<String>> for Problems {
    fn from(problems: Vec<String>) -> Self {
        Self(problems)
    }
}

/// A port group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) object: Reference,
    pub(crate) name: String,
}

/// Where the VCH goes.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) datacenter: Reference,
    pub(crate) datacenter_path: String,
    /// Where VMs and folders of VMs are made.
    pub(crate) vm_folder: Reference,
    pub(crate) compute_path: String,
    /// The pool that the VCH's own is made in.
    pub(crate) pool: Reference,
    pub(crate) hosts: Vec<Reference>,
    pub(crate) image_store: StorePath,
    pub(crate) volume_stores: Vec<VolumeStore>,
    pub(crate) datastore: Reference,
    /// The appliance's NICs in order, with their roles; the bridge may have to be made.
    pub(crate) nics: Vec<(String, Vec<&'static str>, Option<Network>)>,
    /// Whether the target can have a pool of its own for the VCH.
    pub(crate) own_pool: bool,
}

/// Runs all checks.
pub(crate) async fn validate(
    client: &Client,
    target: &Target,
    plan: &Plan,
) -> Result<Placement, Failure> {
    info!("Validating supplied configuration");
    let inventory = Inventory::load(client)
        .await
        .tried("cannot read the target's inventory")?;
    let mut problems = Problems::default();
    let found = check(client, target, plan, &inventory, &mut problems)
        .await
        .tried("cannot check the configuration")?;
    problems.end()?;
    found.ok_or_else(|| Failure::new("validation of configuration failed"))
}

/// The checks in VIC's order. Without a place to put the VCH, what depends on one is left out.
async fn check(
    client: &Client,
    target: &Target,
    plan: &Plan,
    inventory: &Inventory,
    problems: &mut Problems,
) -> Result<Option<Placement>, Error> {
    hosts::not_managed(client, inventory, problems).await?;
    let Some(datacenter) = compute::datacenter(inventory, target.datacenter.as_deref(), problems)
    else {
        return Ok(None);
    };
    let resource = plan.compute_resource.as_deref();
    let compute = compute::choose(client, inventory, &datacenter.object, resource)
        .map_err(|problem| problems.add(problem))
        .ok();
    let stores = stores::check(plan, inventory, &datacenter.object, problems);
    let nics = networks::check(client, plan, inventory, &datacenter.object, problems);
    let Some(compute) = compute else {
        return Ok(None);
    };
    hosts::firewall(client, inventory, &compute.hosts, plan.force, problems).await?;
    hosts::licence(client, inventory, &compute.hosts, problems).await?;
    let own_pool = hosts::drs(client, inventory, &compute.object).await?;
    compute::name_is_free(client, &compute.pool, &plan.name, problems).await?;
    let Some((image_store, datastore)) = stores else {
        return Ok(None);
    };
    Ok(Some(Placement {
        datacenter: datacenter.object.clone(),
        datacenter_path: inventory.path(&datacenter.object),
        vm_folder: datacenter.properties.get("vmFolder").unwrap_or_default(),
        compute_path: inventory.path(&compute.object),
        pool: compute.pool,
        hosts: compute.hosts,
        volume_stores: stores::volumes(plan, &image_store),
        image_store,
        datastore,
        nics,
        own_pool,
    }))
}
