//! `vic-sim`: a vSphere simulator as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use simulator::{Config, DatastoreConfig, Forward, GuestChoice, Model, Simulator, VcModel};
use tokio::signal::unix::{SignalKind, signal};

/// A vSphere (ESXi or vCenter) whose powered-on VMs really run.
#[derive(Debug, Parser)]
#[command(name = "vic-sim", version)]
struct Arguments {
    /// Directory for the certificate, the index of VMs and the datastores.
    #[arg(long, default_value = "/var/lib/vic-sim")]
    state: PathBuf,
    /// Be an ESXi host (the default).
    #[arg(long, conflicts_with = "vc")]
    esx: bool,
    /// Be a vCenter.
    #[arg(long)]
    vc: bool,
    /// Datacenters of the vCenter.
    #[arg(long, default_value_t = 1, requires = "vc")]
    datacenters: u32,
    /// Clusters per datacenter.
    #[arg(long, default_value_t = 1, requires = "vc")]
    clusters: u32,
    /// Hosts per cluster.
    #[arg(long, default_value_t = 2, requires = "vc")]
    hosts: u32,
    /// Distributed port groups per datacenter.
    #[arg(long, default_value_t = 1, requires = "vc")]
    portgroups: u32,
    /// A datastore, as name or name=directory; may be repeated.
    #[arg(long, value_name = "NAME[=DIR]")]
    datastore: Vec<DatastoreConfig>,
    /// A network beside the model's own; may be repeated.
    #[arg(long, value_name = "NAME")]
    network: Vec<String>,
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8989")]
    listen: SocketAddr,
    /// The user who may log in.
    #[arg(long)]
    user: Option<String>,
    /// The user's password.
    #[arg(long, env = "VIC_SIM_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// A file that holds the password.
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// What powered-on VMs run on: auto, namespace, inert.
    #[arg(long, default_value = "auto")]
    guest: GuestChoice,
    /// A port of this machine's loopback that guests may reach; may be repeated.
    #[arg(long, value_name = "PORT")]
    host_port: Vec<u16>,
    /// Publish a VM's port on the loopback, as hostport=vmname:port; may be repeated.
    #[arg(long, value_name = "HOSTPORT=VM:PORT")]
    forward: Vec<Forward>,
    /// Make calls fail by rule: Method:*|count|probability:fault|delay=MS|stall|drop|drop-after.
    #[arg(long, value_name = "RULE")]
    fault: Vec<String>,
    /// Serve /debug/faults, /debug/calls and /debug/forward to the loopback.
    #[arg(long, alias = "debug")]
    debug_faults: bool,
    /// Seed for rules that fire by probability.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    // Does not come back when this process is the one that starts guests.
    simulator::engine::namespace::helper::helper_main();
    let filter = tracing_subscriber::EnvFilter::try_from_env("VIC_SIM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(Box::<dyn std::error::Error>::from(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            eprintln!("vic-sim: {text}");
            ExitCode::FAILURE
        }
    }
}

fn config(arguments: Arguments) -> Result<Config, Box<dyn std::error::Error>> {
    let mut config = if arguments.vc {
        let model = VcModel {
            datacenters: arguments.datacenters,
            clusters: arguments.clusters,
            hosts: arguments.hosts,
            portgroups: arguments.portgroups,
        };
        Config {
            model: Model::Vc(model),
            ..Config::vc(arguments.state)
        }
    } else {
        Config::esx(arguments.state)
    };
    if let Some(user) = arguments.user {
        config.user = user;
    }
    if let Some(file) = arguments.password_file {
        let text = std::fs::read_to_string(&file)
            .map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        config.password = text.trim_end_matches(['\r', '\n']).to_owned();
    } else if let Some(password) = arguments.password {
        config.password = password;
    }
    config.datastores = arguments.datastore;
    config.networks = arguments.network;
    config.listen = arguments.listen;
    config.guest = arguments.guest;
    config.host_ports = arguments.host_port;
    config.forwards = arguments.forward;
    config.faults = arguments.fault;
    config.debug = arguments.debug_faults;
    config.seed = arguments.seed;
    Ok(config)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let simulator = Simulator::start(config(arguments)?).await?;
    let ready = serde_json::json!({
        "url": simulator.url(),
        "pid": std::process::id(),
        "thumbprint": simulator.thumbprint(),
        "thumbprint256": simulator.thumbprint_sha256(),
        "address": simulator.inner_address().map(|a| a.to_string()),
        "engine": simulator.engine(),
    });
    // Whoever started us may have gone; the endpoint serves all the same.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{ready}").and_then(|()| out.flush());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}
