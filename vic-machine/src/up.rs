//! A VCH on the built-in simulator, with one command.
//!
//! ```text
//! <state>/lock       held by the `up` that is busy or runs in the foreground; its process id
//! <state>/begun      there while the first `up` makes the VCH: what it leaves when it is cut off is not used
//! <state>/up.json    what `env`, `down` and the next `up` need to know
//! <state>/password   of the simulator's only user
//! <state>/certs/     CA, server and client of the docker API
//! <state>/vsphere-ca.pem  CA of the simulator, for vSphere clients
//! <state>/sim/       the simulator's own: its inventory, datastores, certificate, its lock
//! ```
//! The first `up` goes through the same steps as `create`; later ones power the appliance on again. What `up` has
//! started ends with it (or with `down`): containers by their stop signal, the appliance, the simulator.

pub(crate) mod halt;
mod registries;
mod simulator;
pub(crate) mod state;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use vmomi::types::{OptionValue, PowerOnVMRequest, ReconfigVMRequest, VirtualMachineConfigSpec};
use vmomi::{Any, ManagedObjectReference as Reference};

use self::simulator::{Facts, Simulator};
use self::state::{State, Up};
use crate::cli::values::{Address, Gateway};
use crate::cli::{CreateArgs, UpArgs};
use crate::create::{self, READY_KEY, Ready};
use crate::failure::{Chain, Failure, Tried};
use crate::interrupt::Interrupts;
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
    check_root(&args.guest)?;
    let state = State::open(&args.state.state)?;
    let lock = state.lock()?;
    let interrupts = Interrupts::listen()?;
    if state.start_over()? {
        info!(
            "Starting anew: the first 'up' on {} was cut off",
            state.dir().display()
        );
    }
    let (mut simulator, up) = start(&args, &state, kept, &interrupts).await?;
    tell(&args, &up);
    if args.detach {
        simulator.let_go();
        drop(lock);
        return Ok(());
    }
    info!("Ctrl-C stops the containers and everything else");
    wait(&mut simulator, &state, &up, &interrupts).await
}

/// Guests in namespaces are root's to make.
fn check_root(guest: &str) -> Result<(), Failure> {
    if guest == "inert" || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        "'up' needs root: the simulator's guests run in namespaces, cgroups and on loop devices of their own",
    ))
}

/// Runs until a signal comes or the simulator ends by itself.
async fn wait(
    simulator: &mut Simulator,
    state: &State,
    up: &Up,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    tokio::select! {
        _ = interrupts.first() => {}
        status = simulator.ended() => return Err(ended(&status, state)),
    }
    info!("Stopping containers");
    tokio::select! {
        result = halt::guests(state, up) => {
            if let Err(failure) = result {
                warn!("{}", Chain(&failure));
            }
        }
        _ = interrupts.second() => warn!("Switching off what still runs"),
    }
    info!("Stopping the simulator");
    simulator.stop().await?;
    info!("Completed successfully");
    Ok(())
}

fn ended(status: &str, state: &State) -> Failure {
    Failure::new(format!(
        "vic-sim has ended: {status}; its log is {}",
        state.simulator_log().display()
    ))
}

/// Starts the simulator and the VCH on it. On failure the simulator is stopped again.
async fn start(
    args: &UpArgs,
    state: &State,
    kept: &Kept,
    interrupts: &Interrupts,
) -> Result<(Simulator, Up), Failure> {
    let limit = args.timeout;
    let deadline = Instant::now() + limit.0;
    let late = || {
        Failure::new(format!(
            "the VCH did not answer within {limit}: use --timeout to add more time"
        ))
    };
    let old = state.load()?;
    let port = args.port.or(old.as_ref().map(|up| up.port)).unwrap_or(PORT);
    check_port(port)?;
    state.password()?;
    let host_ports = match &old {
        Some(up) if args.host_port.is_empty() => up.host_ports.clone(),
        _ => args.host_port.clone(),
    };
    info!("Starting the vSphere simulator");
    let options = simulator::Options {
        state,
        guest: &args.guest,
        host_ports: &host_ports,
        forward: (port, NAME, Mode::Verify.port()),
        listen: old.as_ref().map_or(0, |up| up.vsphere_port),
    };
    let starting = interrupts.or(Simulator::start(&options));
    let mut simulator = timeout_at(deadline, starting)
        .await
        .unwrap_or_else(|_| Err(late()))?;
    let facts = simulator.facts().clone();
    let job = BringUp {
        args,
        state,
        kept,
        interrupts,
        simulator: &facts,
        port,
        host_ports: &host_ports,
    };
    let work = timeout_at(deadline, job.run(old));
    let result = tokio::select! {
        result = work => result.unwrap_or_else(|_| Err(late())),
        status = simulator.ended() => Err(ended(&status, state)),
    };
    match result {
        Ok(up) => Ok((simulator, up)),
        Err(failure) => {
            info!("Stopping the simulator");
            if let Err(error) = simulator.stop().await {
                debug!("{}", Chain(&error));
            }
            Err(failure)
        }
    }
}

/// What it takes to have a VCH on a running simulator.
struct BringUp<'a> {
    args: &'a UpArgs,
    state: &'a State,
    kept: &'a Kept,
    interrupts: &'a Interrupts,
    simulator: &'a Facts,
    port: u16,
    host_ports: &'a [u16],
}

impl BringUp<'_> {
    /// Makes the VCH, or powers on the one of an earlier `up`; writes down how to find it.
    async fn run(&self, old: Option<Up>) -> Result<Up, Failure> {
        self.state.keep_authority()?;
        let target = self.simulator.target(&self.state.password()?)?;
        let opening = Session::open(&target, Strangers::Refuse);
        let session = self.interrupts.or(opening).await?;
        let result = self.vch(&session, &target, old).await;
        session.close().await;
        let (vm, ready) = result?;
        let up = Up {
            pid: self.simulator.pid(),
            url: self.simulator.url().to_owned(),
            vsphere_port: target.port,
            thumbprint: self.simulator.thumbprint().to_owned(),
            user: target.user.clone(),
            port: self.port,
            vch: Some(vm.value),
            address: Some(ready.address.to_string()),
            host_ports: self.host_ports.to_vec(),
        };
        self.state.save(&up)?;
        Ok(up)
    }

    async fn vch(
        &self,
        session: &Session,
        target: &Target,
        old: Option<Up>,
    ) -> Result<(Reference, Ready), Failure> {
        let known = match old.and_then(|up| up.vch) {
            Some(id) => self.interrupts.or(find(session, &id)).await?,
            None => None,
        };
        match known {
            Some(vm) => {
                let ready = self.interrupts.or(self.again(session, &vm)).await?;
                Ok((vm, ready))
            }
            None => self.first(session, target).await,
        }
    }

    /// Makes the VCH.
    async fn first(
        &self,
        session: &Session,
        target: &Target,
    ) -> Result<(Reference, Ready), Failure> {
        let Self {
            args,
            state,
            simulator,
            ..
        } = self;
        info!("### Installing VCH ####");
        state.begin()?;
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
            published: Some(self.published()),
            limit: args.timeout,
            kept: self.kept,
            interrupts: self.interrupts,
        };
        let installed = job.install().await?;
        Ok((installed.vm, installed.ready))
    }

    /// Powers the VCH on again.
    async fn again(&self, session: &Session, vm: &Reference) -> Result<Ready, Failure> {
        info!("Starting the VCH");
        if self.args.debug.is_some() {
            warn!("--debug is left aside: the first 'up' has decided");
        }
        let client = &session.client;
        let own: Option<Vec<OptionValue>> = client
            .property(vm, "config.extraConfig")
            .await
            .tried("cannot read the appliance's configuration")?;
        let keys = vch::text_options(own.unwrap_or_default());
        let mut changed =
            registries::change(&keys, &self.args.insecure_registry, &self.args.registry_ca)?;
        // What the last run has said must not be taken for this one's word.
        changed.insert(READY_KEY.into(), String::new());
        let spec = VirtualMachineConfigSpec {
            extra_config: changed
                .into_iter()
                .map(|(key, value)| OptionValue {
                    key,
                    value: Some(Any::from(value)),
                })
                .collect(),
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
        let certificates = certificates(self.state)?;
        let ready = create::wait_ready(client, vm, &certificates, Some(self.published())).await?;
        info!("Initialization of appliance successful");
        Ok(ready)
    }

    /// Where docker's API is published.
    fn published(&self) -> (String, u16) {
        ("127.0.0.1".to_owned(), self.port)
    }
}

/// The VCH that an earlier `up` has made, if it is still there.
async fn find(session: &Session, id: &str) -> Result<Option<Reference>, Failure> {
    match vch::by_id(&session.client, id).await {
        Ok(found) => Ok(found.map(|vch| vch.vm)),
        Err(error) if error.is_fault("ManagedObjectNotFound") => Ok(None),
        Err(error) => Err(Failure::because("cannot look for the VCH", error)),
    }
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

fn tell(args: &UpArgs, up: &Up) {
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
    if args.detach {
        info!("'vic-machine env' prints these exports, 'vic-machine down' stops everything");
    }
}
