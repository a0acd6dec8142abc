//! The virtual container host: where the supervision tree is put together.
//!
//! `vch --config FILE` reads the document that the appliance's tether hands it, starts the actors, serves the
//! personas, and says on its own VM that it is ready. It never knows which vSphere it talks to.

mod debug;
mod disks;
mod dns;
mod gateway;
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actors::context::Settings;
use actors::image::disk::DiskAccess;
use actors::system::SystemInfo;
use actors::world::{self, World};
use api::docker::{self, Bind, Persona};
use clap::Parser;
use strategy::{Address, ChildSpec, Policy};
use tether_protocol::config::ApplianceConfig;
use tracing_subscriber::EnvFilter;
use vmomi::client::Config;
use vmomi::tls::{Thumbprint, Trust};

/// musl's own allocator takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Port of the serial hub, unless the configuration names another.
const SERIAL_PORT: u16 = 2377;

/// Port of the debug socket, with `--debug 3` at create.
const DEBUG_PORT: u16 = 2390;

/// The virtual container host.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Command {
    /// The configuration document (JSON).
    #[arg(long)]
    config: PathBuf,
    /// Where the docker API listens, instead of what the configuration says.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where the serial hub listens, instead of what the configuration says.
    #[arg(long)]
    serial: Option<SocketAddr>,
    /// Write nothing to disks: for a vSphere that runs no guests.
    #[arg(long)]
    no_disks: bool,
}

/// The host could not be started, or its tree has ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {path}")]
    Config {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a configuration document")]
    Document {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot use the configuration")]
    Settings(#[source] actors::Error),
    #[error("cannot use the vSphere address {0}")]
    Target(String),
    #[error("cannot use the docker API's certificate")]
    Tls(#[source] tls::Error),
    #[error("cannot start")]
    Start(#[source] actors::Error),
    #[error("the supervision tree has ended")]
    Ended,
}

fn main() -> ExitCode {
    let command = Command::parse();
    // The provider is compiled in: this fails only when it is called twice.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("vch: cannot start the runtime: {why}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("vch: {}", actors::error::chain(&why));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    let mut config = read(&command.config)?;
    start_log(config.executor.debug);
    let target = vsphere(&config)?;
    let reachable = own_address(&target);
    if config.serial_uri.is_empty() {
        // The host dials it, and our address was not known when the document was written.
        config.serial_uri = format!("tcp://{reachable}:{SERIAL_PORT}");
    }
    let settings = Settings::read(&config).map_err(Failure::Settings)?;
    let debug = settings.debug;
    let serial = command.serial.unwrap_or_else(|| serial_address(&config));
    let disks: Arc<dyn DiskAccess> = if command.no_disks {
        Arc::new(disks::NoDisks {
            scratch: std::env::temp_dir().join("vch-disks"),
        })
    } else {
        Arc::new(disks::OwnDisks {
            mounts: PathBuf::from("/run/vch/disks"),
        })
    };
    if !command.no_disks {
        gateway::open(&settings.bridge).await;
        tokio::spawn(dns::serve(settings.bridge.gateway));
    }
    let listen = command.listen.unwrap_or_else(|| api_address(&config));
    let tls = tls::server(&config.tls).map_err(Failure::Tls)?;
    let own_vm = settings.own_vm.clone();
    let world = world::Args {
        system: system(&config, &settings),
        settings,
        vsphere: target,
        disks,
        serial,
        policy: Policy::default(),
    };
    let world = World::start(world).await.map_err(Failure::Start)?;
    let address = Address::counted_by(world.engine.serving_counter().clone());
    let engine = world.engine.clone();
    let persona = ChildSpec::only("docker", address.clone(), move || {
        (
            Persona,
            docker::Args {
                bind: Bind::Tcp(listen),
                tls: tls.clone(),
                engine: engine.clone(),
            },
        )
    });
    world.add(persona).await.map_err(Failure::Start)?;
    let bound = address
        .ask(Duration::from_secs(5), docker::Message::Address)
        .await;
    tracing::info!(address = bound.as_deref().unwrap_or("?"), "docker API");
    if debug >= 3 {
        tokio::spawn(debug::serve(
            world.tree.clone(),
            (Ipv4Addr::UNSPECIFIED, DEBUG_PORT).into(),
        ));
    }
    if let Some(vm) = own_vm {
        let ready = SocketAddr::new(reachable, listen.port());
        if let Err(why) = world.engine.announce(&vm.value, &ready.to_string()).await {
            tracing::warn!(%why, "cannot say on our own VM that we are ready");
        }
    }
    serve_until_end(world).await
}

/// Runs until the tree ends, or somebody asks for the end.
async fn serve_until_end(world: World) -> Result<(), Failure> {
    let root = world.root();
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
    let asked = async {
        match &mut terminate {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = root.wait(None) => Err(Failure::Ended),
        _ = asked => { world.stop().await; Ok(()) }
        _ = tokio::signal::ctrl_c() => { world.stop().await; Ok(()) }
    }
}

fn read(path: &PathBuf) -> Result<ApplianceConfig, Failure> {
    let text = std::fs::read(path).map_err(|source| Failure::Config {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| Failure::Document {
        path: path.clone(),
        source,
    })
}

fn start_log(debug: u32) {
    let default = match debug {
        0 => "info",
        1 => "info,actors=debug,api=debug,vch=debug",
        _ => "debug,hyper=info,reqwest=info,rustls=info",
    };
    let filter = EnvFilter::try_from_env("VCH_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // Fails only when there is a log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}

fn vsphere(config: &ApplianceConfig) -> Result<Config, Failure> {
    let connect = &config.connect;
    let bad = || Failure::Target(connect.target.clone());
    let trust = if !connect.thumbprint.is_empty() {
        Trust::Thumbprint(Thumbprint::parse(&connect.thumbprint).ok_or_else(bad)?)
    } else if !connect.ca.is_empty() {
        Trust::Authorities(connect.ca.clone())
    } else {
        Trust::System
    };
    let target = Config::new(&connect.target).map_err(|_| bad())?;
    Ok(target
        .with_password(connect.username.clone(), connect.password.0.clone())
        .with_trust(trust))
}

fn api_address(config: &ApplianceConfig) -> SocketAddr {
    let port = match (u16::try_from(config.tls.port), config.tls.disabled) {
        (Ok(port), _) if port != 0 => port,
        (_, true) => 2375,
        (_, false) => 2376,
    };
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// Where the hub listens: on all addresses, at the port that guests are told.
fn serial_address(config: &ApplianceConfig) -> SocketAddr {
    let port = config
        .serial_uri
        .rsplit(':')
        .next()
        .and_then(|p| p.trim_end_matches('/').parse().ok());
    (Ipv4Addr::UNSPECIFIED, port.unwrap_or(SERIAL_PORT)).into()
}

/// The address by which we reach vSphere, which is how others reach us. Sends nothing.
fn own_address(target: &Config) -> IpAddr {
    let port = target.url.port_or_known_default().unwrap_or(443);
    let reach = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((target.url.host_str()?, port)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    reach().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The kernel that this program runs on: containers' guests boot the same one.
fn kernel_version() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

fn system(config: &ApplianceConfig, settings: &Settings) -> SystemInfo {
    SystemInfo {
        id: config.executor.id.clone(),
        name: config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        operating_system: "vSphere".into(),
        kernel_version: kernel_version(),
        image_store: settings.image_path(""),
        volume_stores: config
            .storage
            .volume_stores
            .iter()
            .map(|s| (s.label.clone(), s.url.clone()))
            .collect(),
        insecure_registries: config.registry.insecure.clone(),
        debug: settings.debug,
        default_memory: settings.default_memory,
        default_cpus: settings.default_cpus,
        ..SystemInfo::default()
    }
}
