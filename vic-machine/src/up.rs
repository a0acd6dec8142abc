//! A VCH on the built-in simulator, with one command.
//!
//! ```text
//! <state>/lock       held by the `up` that is busy or runs in the foreground; its process id
//! <state>/up.json    what `env`, `down` and the next `up` need to know
//! <state>/password   of the simulator's only user
//! <state>/certs/     CA, server and client of the docker API
//! <state>/sim/       the simulator's own: its inventory, datastores, certificate, its lock
//! ```
//! The first `up` goes through the same steps as `create`; later ones power the appliance on again. What `up` has
//! started ends with it (or with `down`): containers by their stop signal, the appliance, the simulator.

pub(crate) mod halt;
mod simulator;
pub(crate) mod state;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info, warn};
use vmomi::types::{OptionValue, PowerOnVMRequest, ReconfigVMRequest, VirtualMachineConfigSpec};
use vmomi::{Any, ManagedObjectReference as Reference};

use self::simulator::{Facts, Simulator};
use self::state::{State, Up};
use crate::cli::values::{Address, Gateway};
use crate::cli::{CreateArgs, UpArgs};
use crate::create::{self, READY_KEY, Ready};
use crate::failure::{Chain, Failure, Tried};
use crate::log::Kept;
use crate::plan::{self, Plan};
use crate::session::{Session, Strangers};
use crate::show::{self, DockerLines};
use crate::target::Target;
use crate::tls::Mode;
use crate::tls::choose::Chosen;
use crate::tls::files;
use crate::vch;

/// The name of the VCH.
const NAME: &str = "vch";
/// The port of docker's API when nothing else was said.
const PORT: u16 = 2376;
/// How long certificates hold: a state directory may live for years.
const DAYS: i64 = 3650;

/// `vic-machine up`.
pub(crate) async fn run(args: UpArgs, kept: &Kept) -> Result<(), Failure> {
    let state = State::open(&args.state.state)?;
    let lock = state.lock()?;
    let detach = args.detach;
    let limit = args.timeout;
    let (mut simulator, up) = {
        let work = start(&args, &state, kept);
        match tokio::time::timeout(limit.0, work).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(Failure::new(format!(
                    "the VCH did not answer within {limit}: use --timeout to add more time"
                )));
            }
        }
    };
    tell(&args, &up, detach);
    if detach {
        simulator.let_go();
        drop(lock);
        return Ok(());
    }
    info!("Ctrl-C stops the containers and everything else");
    wait(&mut simulator, &state, &up).await
}

/// Runs until a signal comes or the simulator ends by itself.
async fn wait(simulator: &mut Simulator, state: &State, up: &Up) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).tried("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).tried("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).tried("cannot wait for signals")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        status = simulator.ended() => {
            return Err(Failure::new(format!("vic-sim has ended: {status}; its log is {}", state.simulator_log().display())));
        }
    }
    info!("Stopping containers");
    if let Err(failure) = halt::guests(state, up).await {
        warn!("{}", Chain(&failure));
    }
    info!("Stopping the simulator");
    simulator.stop().await?;
    info!("Completed successfully");
    Ok(())
}

/// Starts the simulator and the VCH on it. On failure the simulator is stopped again.
async fn start(args: &UpArgs, state: &State, kept: &Kept) -> Result<(Simulator, Up), Failure> {
    let old = state.load()?;
    let port = args.port.or(old.as_ref().map(|up| up.port)).unwrap_or(PORT);
    check_port(port)?;
    let password = state.password()?;
    info!("Starting the vSphere simulator");
    let mut simulator = Simulator::start(&simulator::Options {
        state,
        guest: &args.guest,
        host_ports: &args.host_port,
        forward: (port, NAME, Mode::Verify.port()),
        listen: old.as_ref().map_or(0, |up| up.vsphere_port),
    })
    .await?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let facts = simulator.facts().clone();
    let work = bring_up(args, state, kept, &facts, old, port, &password);
    let result = tokio::select! {
        result = work => result,
        failure = interruption(&interrupted) => Err(failure),
        status = simulator.ended() => {
            Err(Failure::new(format!("vic-sim has ended: {status}; its log is {}", state.simulator_log().display())))
        }
    };
    match result {
        Ok(up) => Ok((simulator, up)),
        Err(failure) => {
            if interrupted.load(Ordering::Relaxed) {
                info!("Stopping the simulator");
            }
            if let Err(error) = simulator.stop().await {
                debug!("{}", Chain(&error));
            }
            Err(failure)
        }
    }
}

async fn interruption(flag: &AtomicBool) -> Failure {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
    flag.store(true, Ordering::Relaxed);
    Failure::new("interrupted")
}

async fn bring_up(
    args: &UpArgs,
    state: &State,
    kept: &Kept,
    simulator: &Facts,
    old: Option<Up>,
    port: u16,
    password: &str,
) -> Result<Up, Failure> {
    let target = simulator.target(password)?;
    let session = Session::open(&target, Strangers::Refuse).await?;
    let published = ("127.0.0.1".to_owned(), port);
    let known = match old.as_ref().and_then(|up| up.vch.as_deref()) {
        Some(id) => find(&session, id).await?,
        None => None,
    };
    let result = match known {
        Some(vm) => again(&session, state, &vm, published)
            .await
            .map(|ready| (vm, ready)),
        None => first(args, state, kept, simulator, &session, &target, published).await,
    };
    session.close().await;
    let (vm, ready) = result?;
    let up = Up {
        pid: simulator.pid(),
        url: simulator.url().to_owned(),
        vsphere_port: target.port,
        thumbprint: simulator.thumbprint().to_owned(),
        user: target.user.clone(),
        port,
        vch: Some(vm.value),
        address: Some(ready.address.to_string()),
    };
    state.save(&up)?;
    Ok(up)
}

/// The VCH that an earlier `up` has made, if it is still there.
async fn find(session: &Session, id: &str) -> Result<Option<Reference>, Failure> {
    match vch::by_id(&session.client, id).await {
        Ok(found) => Ok(found.map(|vch| vch.vm)),
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(None),
        Err(error) => Err(Failure::because("cannot look for the VCH", error)),
    }
}

/// Makes the VCH.
async fn first(
    args: &UpArgs,
    state: &State,
    kept: &Kept,
    simulator: &Facts,
    session: &Session,
    target: &Target,
    published: (String, u16),
) -> Result<(Reference, Ready), Failure> {
    info!("### Installing VCH ####");
    let mut create = CreateArgs {
        name: NAME.into(),
        ..CreateArgs::default()
    };
    create.common.debug = args.debug;
    create.resources.endpoint_memory = 2048;
    create.resources.endpoint_cpu = 1;
    create.network.public_network = "VM Network".into();
    create.network.bridge_network_range = "172.16.0.0/12".into();
    create.network.bridge_network_width = "16".into();
    create.storage.appliance_iso = Some(iso(args.appliance_iso.as_deref(), "appliance.iso")?);
    create.storage.bootstrap_iso = Some(iso(args.bootstrap_iso.as_deref(), "bootstrap.iso")?);
    create
        .registry
        .insecure_registry
        .clone_from(&args.insecure_registry);
    create.registry.registry_ca.clone_from(&args.registry_ca);
    create.tls.tls_cert_path = Some(state.certificates());
    create.tls.tls_cname = vec!["127.0.0.1".into(), "localhost".into()];
    let (own, gateway) = simulator.address_for_the_vch();
    create.network.public_network_ip = own.parse::<Address>().ok();
    create.network.public_network_gateway = gateway.parse::<Gateway>().ok();
    create.network.dns_server = gateway.parse().into_iter().collect();
    let own = create
        .network
        .public_network_ip
        .map(|address| address.ip.to_string());
    create.tls.tls_cname.extend(own);
    let mut plan =
        Plan::from_args(&create, DAYS).map_err(|problems| Failure::new(problems.join("; ")))?;
    plan.options = show::options(&create);
    let job = create::Job {
        session,
        target,
        plan: &plan,
        legacy: false,
        published: Some(published),
        limit: args.timeout,
        kept,
    };
    let installed = job.install().await?;
    Ok((installed.vm, installed.ready))
}

/// Powers the VCH on again.
async fn again(
    session: &Session,
    state: &State,
    vm: &Reference,
    published: (String, u16),
) -> Result<Ready, Failure> {
    info!("Starting the VCH");
    let client = &session.client;
    // What the last run has said must not be taken for this one's word.
    let spec = VirtualMachineConfigSpec {
        extra_config: vec![OptionValue {
            key: READY_KEY.into(),
            value: Some(Any::from(String::new())),
        }],
        ..Default::default()
    };
    client
        .run_task(vm, ReconfigVMRequest { spec })
        .await
        .tried("cannot configure the appliance")?;
    match client.run_task(vm, PowerOnVMRequest::default()).await {
        Err(error) if !error.is_fault("InvalidPowerState") => {
            return Err(Failure::because("cannot power on the appliance", error));
        }
        _ => {}
    }
    let ready = create::wait_ready(client, vm, &certificates(state)?, Some(published)).await?;
    info!("Initialization of appliance successful");
    Ok(ready)
}

/// The certificates that the first `up` has made.
fn certificates(state: &State) -> Result<Chosen, Failure> {
    let dir = state.certificates();
    let server = files::read_pair(&dir.join("server-cert.pem"), &dir.join("server-key.pem"))
        .tried("the docker API's certificates cannot be used")?;
    let client_ca = files::read_authority(&dir.join("ca.pem"))
        .tried("the docker API's certificates cannot be used")?;
    Ok(Chosen {
        mode: Mode::Verify,
        server: Some(server),
        client_ca,
        client_dir: Some(dir),
    })
}

fn iso(given: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    plan::find_iso(given, name, false).map_err(Failure::new)
}

/// Says early and plainly that a port is taken. (The simulator binds it a moment later.)
fn check_port(port: u16) -> Result<(), Failure> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Failure::new(format!(
            "port {port} on 127.0.0.1 is taken: choose another with --port"
        ))),
        Err(error) => Err(Failure::because(
            format!("port {port} on 127.0.0.1 cannot be used"),
            error,
        )),
    }
}

fn tell(args: &UpArgs, up: &Up, detach: bool) {
    let state = &args.state.state;
    let lines = DockerLines::new(
        &("127.0.0.1".into(), up.port),
        Mode::Verify,
        Some(&state.join("certs")),
    );
    info!("");
    info!("Connect to docker:");
    info!("{}", lines.command);
    info!("");
    info!("or, for this and other shells:");
    for line in state::exports(up, state, "") {
        info!("{line}");
    }
    info!("");
    if detach {
        info!("'vic-machine env' prints these exports, 'vic-machine down' stops everything");
    }
}
