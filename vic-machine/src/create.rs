//! Makes a VCH.
//!
//! ```text
//! options ─► plan ─► log in ─► validate ─► resource pool ─► bridge (ESX) ─► folder (VC) ─► VM ─► ISOs ─► config
//!                                                                          power on ─► address ─► docker answers
//! ```
//! What has been made is noted; when a later step fails it is taken away again, last first. After a time-out the VCH
//! stays, for a look at it: `delete` removes it.

mod appliance;
mod bridge;
mod ready;
mod undo;
mod upload;

pub(crate) use ready::{READY_KEY, Ready, wait as wait_ready};
use tracing::{error, info, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::Client;
use vmomi::types::{
    CreateFolderRequest, CreateResourcePoolRequest, FindChildRequest, PowerOnVMRequest,
    ResourceAllocationInfo, ResourceConfigSpec, SharesInfo, SharesLevel,
};

use self::undo::{Made, Undo};
use crate::cli::CreateArgs;
use crate::failure::{Failure, Tried};
use crate::log::Kept;
use crate::plan::Plan;
use crate::session::{Session, Strangers};
use crate::show;
use crate::target::Target;
use crate::tls::issue;
use crate::validate::{self, Placement, Problems};

/// A VCH that answers.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// The appliance.
    pub(crate) vm: Reference,
    /// Where its docker API is.
    pub(crate) ready: Ready,
}

/// `vic-machine create`.
pub(crate) async fn run(args: CreateArgs, kept: &Kept) -> Result<(), Failure> {
    let target = Target::resolve(&args.target).tried("the target cannot be used")?;
    info!("### Installing VCH ####");
    let mut plan = match Plan::from_args(&args, issue::DAYS) {
        Ok(plan) => plan,
        Err(problems) => return Problems::from(problems).end(),
    };
    plan.options = show::options(&args);
    let strangers = match (args.force, args.legacy) {
        (true, _) => Strangers::Accept,
        (false, true) => Strangers::Remember,
        (false, false) => Strangers::Refuse,
    };
    let limit = args.common.timeout;
    let session = Session::open(&target, strangers).await?;
    let work = install(&session, &target, &plan, args.legacy, None, kept);
    let result = match tokio::time::timeout(limit.0, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(format!(
            "Creating VCH exceeded time limit of {limit}. Please increase the timeout using --timeout to accommodate \
             for a busy vSphere target"
        ))),
    };
    session.close().await;
    let installed = result?;
    show::installed(&plan, &installed, args.legacy);
    info!("Installer completed successfully");
    Ok(())
}

/// Validates and makes; takes away what it made when a step fails.
pub(crate) async fn install(
    session: &Session,
    target: &Target,
    plan: &Plan,
    legacy: bool,
    published: Option<(String, u16)>,
    kept: &Kept,
) -> Result<Installed, Failure> {
    let client = &session.client;
    let placement = validate::validate(client, target, plan).await?;
    let mut undo = Undo::default();
    let result = make(
        session, target, plan, &placement, legacy, published, &mut undo,
    )
    .await;
    if let Some(folder) = undo.vm_folder() {
        upload::keep_log(client, &placement, folder, kept).await;
    }
    match result {
        Ok(installed) => Ok(installed),
        Err(failure) => {
            error!("{}", crate::failure::Chain(&failure));
            warn!("Removing what was made so far");
            undo.run(client, &placement).await;
            Err(failure)
        }
    }
}

async fn make(
    session: &Session,
    target: &Target,
    plan: &Plan,
    placement: &Placement,
    legacy: bool,
    published: Option<(String, u16)>,
    undo: &mut Undo,
) -> Result<Installed, Failure> {
    let client = &session.client;
    let pool = resource_pool(client, plan, placement, undo).await?;
    let nics = bridge::ensure(client, plan, placement, undo).await?;
    let folder = vm_folder(client, plan, placement, undo).await?;
    info!("Creating appliance on target");
    plan.announce_sharing(legacy);
    let vm = appliance::create(client, plan, placement, &folder, &pool, &nics, undo).await?;
    upload::isos(client, plan, placement, &vm).await?;
    let setting = appliance::Setting {
        session,
        target,
        plan,
        placement,
        pool: &pool,
        folder: &folder,
        nics: &nics,
    };
    let bridge_is_ours = undo.made_bridge();
    appliance::configure(&setting, &vm, bridge_is_ours).await?;
    client
        .run_task(&vm.object, PowerOnVMRequest::default())
        .await
        .tried("cannot power on the appliance")?;
    undo.note(Made::PoweredOn(vm.object.clone()));
    let ready = wait_ready(client, &vm.object, &plan.tls, published).await?;
    info!("Initialization of appliance successful");
    Ok(Installed {
        vm: vm.object,
        ready,
    })
}

/// The VCH's own pool; one of its name that is there already is taken over.
async fn resource_pool(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    undo: &mut Undo,
) -> Result<Reference, Failure> {
    if !placement.own_pool {
        return Ok(placement.pool.clone());
    }
    if let Some(index) = &client.content().search_index {
        let request = FindChildRequest {
            entity: placement.pool.clone(),
            name: plan.name.clone(),
        };
        let found = client
            .invoke(index, request)
            .await
            .tried("cannot look for the resource pool")?;
        if let Some(pool) = found.filter(|found| found.r#type == "ResourcePool") {
            info!("Using existing Resource Pool {}", plan.name);
            return Ok(pool);
        }
    }
    info!("Creating Resource Pool {}", plan.name);
    let allocation = |limit: u32, reservation: u32| ResourceAllocationInfo {
        reservation: Some(i64::from(reservation)),
        expandable_reservation: Some(true),
        limit: Some(if limit == 0 { -1 } else { i64::from(limit) }),
        shares: Some(SharesInfo {
            shares: 0,
            level: SharesLevel::Normal,
        }),
        ..Default::default()
    };
    let spec = ResourceConfigSpec {
        cpu_allocation: allocation(plan.cpu_limit_mhz, plan.cpu_reservation_mhz),
        memory_allocation: allocation(plan.memory_limit_mb, plan.memory_reservation_mb),
        ..Default::default()
    };
    let request = CreateResourcePoolRequest {
        name: plan.name.clone(),
        spec,
    };
    let pool = client
        .invoke(&placement.pool, request)
        .await
        .tried(format!("cannot create the resource pool {}", plan.name))?;
    undo.note(Made::Entity(pool.clone()));
    Ok(pool)
}

/// Where the VCH's VMs are shown: on vCenter a folder of its own.
async fn vm_folder(
    client: &Client,
    plan: &Plan,
    placement: &Placement,
    undo: &mut Undo,
) -> Result<Reference, Failure> {
    if !client.is_vcenter() {
        return Ok(placement.vm_folder.clone());
    }
    info!("Creating the VCH folder");
    match client
        .invoke(
            &placement.vm_folder,
            CreateFolderRequest {
                name: plan.name.clone(),
            },
        )
        .await
    {
        Ok(folder) => {
            undo.note(Made::Entity(folder.clone()));
            Ok(folder)
        }
        Err(error) if error.is_fault("DuplicateName") => Err(Failure::because(
            format!(
                "the VCH folder cannot be created: the name {:?} is already in use",
                plan.name
            ),
            error,
        )),
        Err(error) => Err(Failure::because("cannot create the VCH folder", error)),
    }
}
