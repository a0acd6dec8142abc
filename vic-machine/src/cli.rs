//! The command line.

pub(crate) mod legacy;
pub(crate) mod values;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use self::values::{Address, Gateway, Timeout, VolumeStore};

/// The virtual container hosts of a vSphere: install, look at, remove.
#[derive(Debug, Parser)]
#[command(
    about = "Installs and manages virtual container hosts (VCHs) on vSphere",
    disable_help_subcommand = false,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy a VCH
    #[command(override_usage = "vic-machine create --target <URL> [OPTIONS]")]
    Create(Box<CreateArgs>),
    /// Delete a VCH, its containers and images, and with --force its volumes
    Delete(DeleteArgs),
    /// List VCHs
    Ls(LsArgs),
    /// Inspect VCH
    Inspect(InspectArgs),
    /// Show the version
    Version,
    /// Start a VCH on the built-in vSphere simulator
    Up(Box<UpArgs>),
    /// Stop the VCH that `up` started, and its simulator
    Down(StateArgs),
    /// Print the exports that docker and govc need for the VCH that `up` started
    Env(StateArgs),
}

impl Command {
    /// The word that the user typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Delete(_) => "delete",
            Self::Ls(_) => "ls",
            Self::Inspect(_) => "inspect",
            Self::Version => "version",
            Self::Up(_) => "up",
            Self::Down(_) => "down",
            Self::Env(_) => "env",
        }
    }

    /// The debug level that the user asked for.
    pub(crate) fn debug(&self) -> u32 {
        let debug = match self {
            Self::Create(args) => args.common.debug,
            Self::Delete(args) => args.common.debug,
            Self::Ls(args) => args.common.debug,
            Self::Inspect(args) => args.common.debug,
            Self::Up(args) => args.debug,
            Self::Version | Self::Down(_) | Self::Env(_) => None,
        };
        debug.unwrap_or(0)
    }
}

/// Which vSphere, and who logs in.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetArgs {
    /// ESXi host or vCenter, as [https://][user[:password]@]host[:port][/datacenter]
    #[arg(short, long, value_name = "URL", env = "VIC_MACHINE_TARGET")]
    pub(crate) target: Option<String>,
    /// User to log in as; wins over the one in --target
    #[arg(short, long, value_name = "NAME", env = "VIC_MACHINE_USER")]
    pub(crate) user: Option<String>,
    /// Password; asked for on the terminal when neither this nor --target has one
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        env = "VIC_MACHINE_PASSWORD",
        hide_env_values = true
    )]
    pub(crate) password: Option<String>,
    /// Fingerprint of the server's certificate (SHA-1 or SHA-256, with colons), for one that no known CA has signed
    #[arg(long, value_name = "FINGERPRINT", env = "VIC_MACHINE_THUMBPRINT")]
    pub(crate) thumbprint: Option<String>,
}

/// What every command on a vSphere takes.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CommonArgs {
    /// Cluster, host or resource pool, as a path or the end of one
    #[arg(short = 'r', long, value_name = "PATH", help_heading = "Target")]
    pub(crate) compute_resource: Option<String>,
    /// Longest time that the command may take, as 3m or 1m30s
    #[arg(
        long,
        value_name = "TIME",
        default_value = "3m",
        help_heading = "Behaviour"
    )]
    pub(crate) timeout: Timeout,
    /// Debug level: 0 none, 1 logs, 2 opens more inside the VCH, 3 nothing is restarted
    #[arg(short = 'v', long, value_name = "LEVEL", help_heading = "Behaviour")]
    pub(crate) debug: Option<u32>,
}

/// How a VCH is named to commands that look for one.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct VchArgs {
    /// Name of the VCH
    #[arg(
        short,
        long,
        default_value = "virtual-container-host",
        help_heading = "VCH"
    )]
    pub(crate) name: String,
    /// Managed object id of the VCH's VM, as ls prints it; wins over --name and --compute-resource
    #[arg(long, value_name = "ID", help_heading = "VCH")]
    pub(crate) id: Option<String>,
}

/// `vic-machine create`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Name of the VCH, at most 31 characters
    #[arg(
        short,
        long,
        default_value = "virtual-container-host",
        help_heading = "VCH"
    )]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
    #[command(flatten)]
    pub(crate) storage: StorageArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Go on although the certificate, the ISOs' version or a check is in doubt
    #[arg(short, long, help_heading = "Behaviour")]
    pub(crate) force: bool,
    /// Whether an old name was used, and the old defaults hold; set by [`legacy`].
    #[arg(skip)]
    pub(crate) legacy: bool,
}

/// How large the VCH is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceArgs {
    /// Memory limit of the VCH's resource pool in MB; 0 is no limit
    #[arg(long, visible_alias = "mem", value_name = "MB", default_value_t = 0)]
    pub(crate) memory: u32,
    /// Memory that is kept for the pool, in MB
    #[arg(
        long,
        alias = "memr",
        value_name = "MB",
        default_value_t = 0,
        hide = true
    )]
    pub(crate) memory_reservation: u32,
    /// CPU limit of the VCH's resource pool in MHz; 0 is no limit
    #[arg(long, value_name = "MHZ", default_value_t = 0)]
    pub(crate) cpu: u32,
    /// CPU that is kept for the pool, in MHz
    #[arg(
        long,
        alias = "cpur",
        value_name = "MHZ",
        default_value_t = 0,
        hide = true
    )]
    pub(crate) cpu_reservation: u32,
    /// Memory of the appliance in MB
    #[arg(long, value_name = "MB", default_value_t = 2048, hide = true)]
    pub(crate) endpoint_memory: u32,
    /// Virtual CPUs of the appliance
    #[arg(long, value_name = "COUNT", default_value_t = 1, hide = true)]
    pub(crate) endpoint_cpu: u32,
}

/// Where the VCH keeps disks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// Where images lie, as [ds://]datastore[/path]; the only datastore, when there is one only
    #[arg(short, long, value_name = "DATASTORE")]
    pub(crate) image_store: Option<String>,
    /// Where volumes lie, as [ds://]datastore[/path]:label; repeat for more. The label `default` takes volumes that
    /// name none; without that label it is beside the images
    #[arg(long, visible_alias = "vs", value_name = "STORE:LABEL")]
    pub(crate) volume_store: Vec<VolumeStore>,
    /// Size of a container's disk
    #[arg(long, value_name = "SIZE", default_value = "8GB", hide = true)]
    pub(crate) base_image_size: values::Size,
    /// The appliance's ISO; looked for in the working directory and beside this program
    #[arg(long, visible_alias = "ai", value_name = "FILE")]
    pub(crate) appliance_iso: Option<PathBuf>,
    /// The containers' ISO; looked for in the working directory and beside this program
    #[arg(long, visible_alias = "bi", value_name = "FILE")]
    pub(crate) bootstrap_iso: Option<PathBuf>,
}

/// What the VCH is connected to.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Networks")]
pub(crate) struct NetworkArgs {
    /// Port group of the containers; made on an ESXi host where missing [default: the VCH's name]
    #[arg(short, long, value_name = "NETWORK")]
    pub(crate) bridge_network: Option<String>,
    /// Addresses of bridge networks
    #[arg(
        long,
        alias = "bnr",
        value_name = "CIDR",
        default_value = "172.16.0.0/12",
        hide = true
    )]
    pub(crate) bridge_network_range: String,
    /// Prefix length of one bridge network
    #[arg(
        long,
        alias = "bnw",
        value_name = "BITS",
        default_value = "16",
        hide = true
    )]
    pub(crate) bridge_network_width: String,
    /// Port group of the default route and of published ports
    #[arg(
        long,
        visible_alias = "pn",
        value_name = "NETWORK",
        default_value = "VM Network"
    )]
    pub(crate) public_network: String,
    /// Static address on it, with its prefix; DHCP when absent
    #[arg(long, value_name = "CIDR")]
    pub(crate) public_network_ip: Option<Address>,
    /// Gateway on it, for a static address
    #[arg(long, value_name = "IP")]
    pub(crate) public_network_gateway: Option<Gateway>,
    /// Port group of the docker API [default: that of --public-network]
    #[arg(long, visible_alias = "cln", value_name = "NETWORK")]
    pub(crate) client_network: Option<String>,
    /// Port group of the way to vSphere [default: that of --client-network]
    #[arg(long, visible_alias = "mn", value_name = "NETWORK")]
    pub(crate) management_network: Option<String>,
    /// Name server of the appliance; repeat for more
    #[arg(long, value_name = "IP")]
    pub(crate) dns_server: Vec<IpAddr>,
}

/// How clients and the VCH know each other.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArgs {
    /// Name or address for which the server's certificate is made out, as *.example.com or 192.0.2.7; repeat for more
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_cname: Vec<String>,
    /// Folder of the certificates that are made or found [default: ./<name>]
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_cert_path: Option<PathBuf>,
    /// The server's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_server_cert: Option<PathBuf>,
    /// The key of the server's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_server_key: Option<PathBuf>,
    /// CA of the clients' certificates, PEM; repeat for more
    #[arg(long, visible_alias = "ca", value_name = "FILE")]
    pub(crate) tls_ca: Vec<PathBuf>,
    /// Do not ask clients for certificates
    #[arg(long)]
    pub(crate) no_tlsverify: bool,
    /// Serve plain TCP; all other TLS options are ignored
    #[arg(short = 'k', long)]
    pub(crate) no_tls: bool,
    /// Organization in the certificates; repeat for more
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) organization: Vec<String>,
}

/// Registries that are treated specially.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArgs {
    /// Registry that may speak http or show any certificate, as host[:port] or CIDR; repeat for more
    #[arg(long, alias = "dir", value_name = "REGISTRY")]
    pub(crate) insecure_registry: Vec<String>,
    /// CA certificates of registries, PEM; repeat for more
    #[arg(long, alias = "rc", value_name = "FILE")]
    pub(crate) registry_ca: Vec<PathBuf>,
}

/// `vic-machine delete`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) vch: VchArgs,
    /// Power off running containers, and delete volumes too
    #[arg(short, long, help_heading = "Behaviour")]
    pub(crate) force: bool,
}

/// `vic-machine ls`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Accept whatever certificate the server shows
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,
}

/// `vic-machine inspect`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) vch: VchArgs,
    /// Folder of the client's certificates [default: ./<name>, then ., then ~/.docker]
    #[arg(long, value_name = "DIR", help_heading = "TLS")]
    pub(crate) tls_cert_path: Option<PathBuf>,
    /// Accept whatever certificate the server shows
    #[arg(short, long, hide = true)]
    pub(crate) force: bool,
}

/// Which state directory.
#[derive(Args, Clone, Debug)]
pub(crate) struct StateArgs {
    /// Folder of the simulator's and the VCH's state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, env = "VIC_STATE")]
    pub(crate) state: PathBuf,
}

/// Where `up` keeps things when not told otherwise.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/vic";

/// `vic-machine up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Port on 127.0.0.1 where the docker API is published [default: 2376, or that of the first `up`]
    #[arg(long, value_name = "PORT", env = "VIC_PORT")]
    pub(crate) port: Option<u16>,
    /// Return as soon as the VCH answers; `vic-machine down` stops it
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(crate) detach: bool,
    /// What VMs run on: auto, namespace or inert
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub(crate) guest: String,
    /// Port of this machine's loopback that containers may reach as host.docker.internal; repeat for more
    /// [default: those of the last `up`]
    #[arg(long, value_name = "PORT")]
    pub(crate) host_port: Vec<u16>,
    /// Registry that may speak http or show any certificate; repeat for more [default: those of the last `up`]
    #[arg(long, value_name = "REGISTRY")]
    pub(crate) insecure_registry: Vec<String>,
    /// CA certificates of registries, PEM; repeat for more [default: those of the last `up`]
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_ca: Vec<PathBuf>,
    /// Longest time that the start may take
    #[arg(long, value_name = "TIME", default_value = "3m")]
    pub(crate) timeout: Timeout,
    /// Debug level of the VCH; the first `up` decides
    #[arg(short = 'v', long, value_name = "LEVEL")]
    pub(crate) debug: Option<u32>,
    /// The appliance's ISO
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) appliance_iso: Option<PathBuf>,
    /// The containers' ISO
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) bootstrap_iso: Option<PathBuf>,
}
