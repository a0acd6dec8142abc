//! Finds VCHs in the inventory and reads what they were told.

use std::collections::BTreeMap;

use tether_protocol::config::ApplianceConfig;
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::{Client, Error, Properties};
use vmomi::types::{OptionValue, VirtualMachinePowerState};

use crate::cli::VchArgs;
use crate::failure::{Failure, Tried};
use crate::inventory::Inventory;
use crate::target::Target;
use crate::validate::choose_compute;

/// The key of the appliance that says whether `create` has made the bridge network.
pub(crate) const BRIDGE_IS_OURS: &str = "vic.bridge.created";

const PATHS: [&str; 7] = [
    "name",
    "config.extraConfig",
    "config.files.vmPathName",
    "resourcePool",
    "runtime.powerState",
    "guest.ipAddress",
    "parent",
];

/// A VCH.
#[derive(Clone, Debug)]
pub(crate) struct Vch {
    /// The appliance.
    pub(crate) vm: Reference,
    /// The appliance's name, which is the VCH's unless somebody has renamed it.
    pub(crate) name: String,
    /// All keys of its extraConfig that are text.
    pub(crate) options: BTreeMap<String, String>,
    /// What it was told; without secrets.
    pub(crate) config: ApplianceConfig,
    /// The folder of its files, as `[ds] path`.
    pub(crate) folder: String,
    /// The pool that it runs in.
    pub(crate) pool: Option<Reference>,
    /// The folder of the inventory that it is in.
    pub(crate) parent: Option<Reference>,
    /// Whether it is on.
    pub(crate) running: bool,
    /// Its address, when tether has told it.
    pub(crate) address: Option<String>,
}

impl Vch {
    /// The VCH that a VM is the appliance of, if it is one.
    pub(crate) fn from_properties(properties: &Properties) -> Option<Self> {
        let options = text_options(properties.get("config.extraConfig").unwrap_or_default());
        let config = ApplianceConfig::decode(&options)
            .ok()
            .filter(|config| !config.name.is_empty())?;
        let path = properties
            .text("config.files.vmPathName")
            .unwrap_or_default();
        let state: Option<VirtualMachinePowerState> = properties.get("runtime.powerState");
        Some(Self {
            vm: properties.object.clone(),
            name: properties.text("name").unwrap_or_default().to_owned(),
            folder: path
                .rsplit_once('/')
                .map_or_else(String::new, |(dir, _)| dir.to_owned()),
            pool: properties.get("resourcePool"),
            parent: properties.get("parent"),
            running: state == Some(VirtualMachinePowerState::PoweredOn),
            address: properties
                .text("guest.ipAddress")
                .map(str::to_owned)
                .or_else(|| own_address(&options)),
            options,
            config,
        })
    }
}

/// The address that the VCH itself has written down, for where tools do not tell it.
fn own_address(options: &BTreeMap<String, String>) -> Option<String> {
    let own: std::net::SocketAddr = options.get(crate::create::READY_KEY)?.parse().ok()?;
    Some(own.ip().to_string())
}

/// The text values of extraConfig.
pub(crate) fn text_options(options: Vec<OptionValue>) -> BTreeMap<String, String> {
    options
        .into_iter()
        .filter_map(|option| Some((option.key, option.value?.as_str()?.to_owned())))
        .collect()
}

/// All VCHs of the target, in a datacenter and in a pool if such are named.
pub(crate) async fn all(
    client: &Client,
    inventory: &Inventory,
    target: &Target,
    compute: Option<&str>,
) -> Result<Vec<Vch>, Failure> {
    let area = area(client, inventory, target, compute)?;
    let vms = client
        .below(&client.content().root_folder, &["VirtualMachine"], &PATHS)
        .await
        .tried("cannot read the target's VMs")?;
    let mut found: Vec<Vch> = vms.iter().filter_map(Vch::from_properties).collect();
    found.retain(|vch| match (&area, &vch.pool) {
        (Some(area), Some(pool)) => inventory.is_below(pool, area),
        (Some(_), None) => false,
        (None, _) => true,
    });
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The datacenter or pool that VCHs are looked for in; none for everywhere.
fn area(
    client: &Client,
    inventory: &Inventory,
    target: &Target,
    compute: Option<&str>,
) -> Result<Option<Reference>, Failure> {
    let all = inventory.datacenters();
    let datacenter = match &target.datacenter {
        None => None,
        Some(name) => match all.iter().find(|node| node.name == *name) {
            Some(node) => Some(node.object.clone()),
            None => {
                let names: Vec<&str> = all.iter().map(|node| node.name.as_str()).collect();
                return Err(Failure::new(format!(
                    "Datacenter {name:?} is not found. Suggesting valid values for datacenter in --target: {}",
                    names.join(", ")
                )));
            }
        },
    };
    let Some(compute) = compute.filter(|text| !text.is_empty()) else {
        return Ok(datacenter);
    };
    let mut last = None;
    for node in all {
        if datacenter.as_ref().is_some_and(|only| *only != node.object) {
            continue;
        }
        match choose_compute(client, inventory, &node.object, Some(compute)) {
            Ok(found) => return Ok(Some(found.pool)),
            Err(problem) => last = Some(problem),
        }
    }
    Err(Failure::new(
        last.unwrap_or_else(|| "the target has no datacenter".into()),
    ))
}

/// The one VCH that the options name.
pub(crate) async fn find(
    client: &Client,
    inventory: &Inventory,
    target: &Target,
    args: &VchArgs,
    compute: Option<&str>,
) -> Result<Vch, Failure> {
    if let Some(id) = &args.id {
        return match by_id(client, id).await {
            Ok(Some(vch)) => Ok(vch),
            Ok(None) => Err(Failure::new(format!(
                "Failed to get Virtual Container Host: id {id:?} could not be found"
            ))),
            Err(error) if error.is_fault("ManagedObjectNotFound") => Err(Failure::new(format!(
                "Failed to get Virtual Container Host: id {id:?} could not be found"
            ))),
            Err(error) => Err(Failure::because(
                "Failed to get Virtual Container Host",
                error,
            )),
        };
    }
    let mut found = all(client, inventory, target, compute).await?;
    found.retain(|vch| vch.name == args.name || vch.config.name == args.name);
    match found.len() {
        0 => Err(Failure::new(format!(
            "Failed to get Virtual Container Host {:?}: Didn't find VM {:?} in resource pool",
            args.name, args.name
        ))),
        1 => Ok(found.remove(0)),
        _ => {
            let ids: Vec<&str> = found.iter().map(|vch| vch.vm.value.as_str()).collect();
            Err(Failure::new(format!(
                "Failed to get Virtual Container Host: several are called {:?}; name one by --id: {}",
                args.name,
                ids.join(", ")
            )))
        }
    }
}

/// The VCH with this id.
pub(crate) async fn by_id(client: &Client, id: &str) -> Result<Option<Vch>, Error> {
    let vm = Reference::new("VirtualMachine", id);
    let found = client.properties(&[vm], &PATHS).await?;
    Ok(found.first().and_then(Vch::from_properties))
}
