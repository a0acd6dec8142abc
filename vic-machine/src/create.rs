//! Makes a VCH.
//!
//! ```text
//! options ─► plan ─► log in ─► validate ─► resource pool ─► bridge (ESX) ─► folder (VC) ─► VM ─► ISOs ─► config
//!                                                                          power on ─► address ─► docker answers
//! ```
//! What has been made is noted; when a later step fails, or Ctrl-C comes, it is taken away again, last first. After a
//! time-out, or a second Ctrl-C, the VCH stays, for a look at it: `delete` removes it.

mod appliance;
mod bridge;
mod ready;
mod undo;
mod upload;

pub(crate) use ready::{READY_KEY, Ready, wait as wait_ready};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};
use vmomi::ManagedObjectReference as Reference;
use vmomi::client::Client;
use vmomi::types::{
    CreateFolderRequest, CreateResourcePoolRequest, FindChildRequest, PowerOnVMRequest,
    ResourceAllocationInfo, ResourceConfigSpec, SharesInfo, SharesLevel,
};

use self::undo::{Made, Undo};
use crate::cli::CreateArgs;
use crate::cli::values::Timeout;
use crate::failure::{Chain, Failure, Tried};
use crate::interrupt::Interrupts;
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
    let interrupts = Interrupts::listen()?;
    let session = interrupts.or(Session::open(&target, strangers)).await?;
    let job = Job {
        session: &session,
        target: &target,
        plan: &plan,
        legacy: args.legacy,
        published: None,
        limit: args.common.timeout,
        kept,
        interrupts: &interrupts,
    };
    let result = job.install().await;
    session.close().await;
    let installed = result?;
    show::installed(&plan, &installed, args.legacy);
    info!("Installer completed successfully");
    Ok(())
}

/// Everything that an installation needs.
pub(crate) struct Job<'a> {
    pub(crate) session: &'a Session,
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a Plan,
    /// Whether the command line has old names.
    pub(crate) legacy: bool,
    /// Where docker's API is forwarded to, if it is.
    pub(crate) published: Option<(String, u16)>,
    /// How long it may take.
    pub(crate) limit: Timeout,
    pub(crate) kept: &'a Kept,
    pub(crate) interrupts: &'a Interrupts,
}

impl Job<'_> {
    /// Validates and makes; takes away what it made when a step fails.
    pub(crate) async fn install(&self) -> Result<Installed, Failure> {
        let client = &self.session.client;
        let deadline = Instant::now() + self.limit.0;
        let validation = validate::validate(client, self.target, self.plan);
        let validated = timeout_at(deadline, self.interrupts.or(validation)).await;
        let placement = validated.unwrap_or_else(|_| Err(self.too_late()))?;
        let mut undo = Undo::default();
        let work = self.interrupts.or(self.make(&placement, &mut undo));
        let made = timeout_at(deadline, work).await;
        let failed_at_work = matches!(made, Ok(Err(_)));
        let result = made.unwrap_or_else(|_| Err(self.too_late()));
        if let Err(failure) = &result {
            error!("{}", Chain(failure));
        }
        if let Some(folder) = undo.vm_folder() {
            upload::keep_log(client, &placement, folder, self.kept).await;
        }
        if failed_at_work {
            warn!("Removing what was made so far");
            tokio::select! {
                () = undo.run(client, &placement) => {}
                _ = self.interrupts.second() => warn!(
                    "Not everything was removed: 'vic-machine delete --name={}' removes the rest",
                    self.plan.name
                ),
            }
        }
        result
    }

    fn too_late(&self) -> Failure {
        Failure::new(format!(
            "Creating VCH exceeded time limit of {}. Please increase the timeout using --timeout to accommodate for \
             a busy vSphere target",
            self.limit
        ))
    }

    async fn make(&self, placement: &Placement, undo: &mut Undo) -> Result<Installed, Failure> {
        let Self {
            session,
            target,
            plan,
            ..
        } = self;
        let client = &session.client;
        let pool = resource_pool(client, plan, placement, undo).await?;
        let nics = bridge::ensure(client, plan, placement, undo).await?;
        let folder = vm_folder(client, plan, placement, undo).await?;
        info!("Creating appliance on target");
        plan.announce_sharing(self.legacy);
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
        appliance::configure(&setting, &vm, undo.made_bridge()).await?;
        client
            .run_task(&vm.object, PowerOnVMRequest::default())
            .await
            .tried("cannot power on the appliance")?;
        undo.note(Made::PoweredOn(vm.object.clone()));
        let ready = wait_ready(client, &vm.object, &plan.tls, self.published.clone()).await?;
        info!("Initialization of appliance successful");
        Ok(Installed {
            vm: vm.object,
            ready,
        })
    }
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
