//! Tells the state of a VCH and how to connect to it.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::VERSION;
use crate::cli::InspectArgs;
use crate::failure::{Failure, Tried};
use crate::interrupt::Interrupts;
use crate::inventory::Inventory;
use crate::ls;
use crate::session::{Session, Strangers};
use crate::show::{self, DockerLines};
use crate::target::Target;
use crate::tls::Mode;
use crate::vch::{self, Vch};

/// `vic-machine inspect`.
pub(crate) async fn run(args: InspectArgs) -> Result<(), Failure> {
    let target = Target::resolve(&args.target).tried("the target cannot be used")?;
    info!("### Inspecting VCH ####");
    let strangers = if args.force {
        Strangers::Accept
    } else {
        Strangers::Refuse
    };
    let interrupts = Interrupts::listen()?;
    let session = interrupts.or(Session::open(&target, strangers)).await?;
    let limit = args.common.timeout;
    let work = async {
        tokio::time::timeout(limit.0, find(&session, &target, &args))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::new(format!(
                    "Inspect timed out after {limit}: use --timeout to add more time"
                )))
            })
    };
    let found = session.during(&interrupts, work).await?;
    info!("");
    info!("VCH ID: {}", found.vm.value);
    info!("");
    info!("Installer version: {VERSION}");
    info!("VCH version: {}", found.config.version);
    info!("");
    info!("VCH upgrade status:");
    match ls::upgrade_status(&found).as_str() {
        "Up to date" => {
            info!("Installer has same version as VCH");
            info!("No upgrade available with this installer version");
        }
        other => info!("{other}"),
    }
    info!("");
    connection(&found, &args)?;
    info!("Completed successfully");
    Ok(())
}

async fn find(session: &Session, target: &Target, args: &InspectArgs) -> Result<Vch, Failure> {
    let client = &session.client;
    let inventory = Inventory::load(client)
        .await
        .tried("cannot read the target's inventory")?;
    vch::find(
        client,
        &inventory,
        target,
        &args.vch,
        args.common.compute_resource.as_deref(),
    )
    .await
}

fn connection(vch: &Vch, args: &InspectArgs) -> Result<(), Failure> {
    if !vch.running {
        return Err(Failure::new("the VCH is not powered on"));
    }
    let address = vch
        .address
        .clone()
        .ok_or_else(|| Failure::new("the VCH has no address yet"))?;
    let tls = &vch.config.tls;
    let mode = match (tls.disabled, tls.verify_clients) {
        (true, _) => Mode::Plain,
        (false, false) => Mode::NoVerify,
        (false, true) => Mode::Verify,
    };
    let dir = if mode == Mode::Verify {
        client_dir(args, &vch.config.name)
    } else {
        None
    };
    if mode == Mode::Verify && dir.is_none() {
        warn!("Unable to find valid client certs");
        warn!(
            "DOCKER_CERT_PATH must be provided in environment or certificates specified individually via CLI arguments"
        );
    }
    let network = &vch.config.network;
    let range = network
        .bridge_range
        .as_ref()
        .map_or_else(String::new, |range| {
            format!("{}/{}", range.ip, network.bridge_width)
        });
    show::networks(&network.bridge_network, &range, &address);
    let port = u16::try_from(tls.port)
        .ok()
        .filter(|port| *port != 0)
        .unwrap_or(mode.port());
    show::docker(&DockerLines::new(&(address, port), mode, dir.as_deref()));
    Ok(())
}

/// The first folder that has a client's certificates.
fn client_dir(args: &InspectArgs, name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    let places = match &args.tls_cert_path {
        Some(dir) => vec![dir.clone()],
        None => [Some(Path::new(".").join(name)), Some(".".into()), home]
            .into_iter()
            .flatten()
            .collect(),
    };
    let complete = |dir: &PathBuf| {
        ["ca.pem", "cert.pem", "key.pem"]
            .iter()
            .all(|file| dir.join(file).exists())
    };
    let found = places.into_iter().find(complete)?;
    Some(std::fs::canonicalize(&found).unwrap_or(found))
}
