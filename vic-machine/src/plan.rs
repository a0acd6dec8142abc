//! What `create` will make, as far as the options alone say it.
//!
//! Everything that is wrong with them is collected, so that one run shows it all.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::cli::CreateArgs;
use crate::cli::values::{Address, StorePath, VolumeStore};
use crate::failure::Chain;
use crate::tls::choose::{self, Chosen, Situation};
use crate::tls::files;
use crate::{VERSION, name};

/// A role of the appliance and its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// `public`, `client` or `management`.
    pub(crate) name: &'static str,
    /// The port group.
    pub(crate) network: String,
}

/// The containers' network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// The port group.
    pub(crate) network: String,
    /// Addresses of all bridge networks.
    pub(crate) range: Address,
    /// Prefix length of each.
    pub(crate) width: u8,
}

impl Bridge {
    /// The appliance's address on the first bridge network: the first that a host may have.
    pub(crate) fn gateway(&self) -> Address {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(self.range.prefix))
            .unwrap_or(0);
        let ip = Ipv4Addr::from((u32::from(self.range.ip) & mask) + 1);
        Address {
            ip,
            prefix: self.width,
        }
    }
}

/// Everything that the options say.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) debug: u32,
    pub(crate) compute_resource: Option<String>,
    /// Whether checks in doubt are warnings.
    pub(crate) force: bool,
    pub(crate) bridge: Bridge,
    pub(crate) roles: [Role; 3],
    pub(crate) public_address: Option<Address>,
    pub(crate) public_gateway: Option<Ipv4Addr>,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) image_store: Option<StorePath>,
    pub(crate) volume_stores: Vec<VolumeStore>,
    pub(crate) base_image_kb: u64,
    pub(crate) appliance_iso: PathBuf,
    pub(crate) bootstrap_iso: PathBuf,
    pub(crate) memory_limit_mb: u32,
    pub(crate) memory_reservation_mb: u32,
    pub(crate) cpu_limit_mhz: u32,
    pub(crate) cpu_reservation_mhz: u32,
    pub(crate) endpoint_memory_mb: u32,
    pub(crate) endpoint_cpus: u32,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_ca: String,
    pub(crate) tls: Chosen,
    pub(crate) options: Vec<String>,
}

impl Plan {
    /// Reads the options. The certificates come last: they are written only when all else is right.
    pub(crate) fn from_args(args: &CreateArgs, days: i64) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut note = |problem: String| problems.push(problem);
        if let Err(error) = name::check(&args.name) {
            note(error.to_string());
        }
        let bridge = bridge(args, &mut note);
        let roles = roles(args);
        for role in &roles {
            if role.network == bridge.network {
                note(format!(
                    "the bridge network must not be shared with another network role: {} is that of {} too",
                    bridge.network, role.name
                ));
            }
        }
        addresses(args, &mut note);
        let image_store = args.storage.image_store.as_deref().and_then(|text| {
            text.parse::<StorePath>()
                .map_err(|error| note(format!("--image-store: {error}")))
                .ok()
        });
        let mut iso = |given: &Option<PathBuf>, name: &str| {
            find_iso(given.as_deref(), name, args.force).unwrap_or_else(|error| {
                note(error);
                PathBuf::new()
            })
        };
        let appliance_iso = iso(&args.storage.appliance_iso, "appliance.iso");
        let bootstrap_iso = iso(&args.storage.bootstrap_iso, "bootstrap.iso");
        let registry_ca = read_registry_ca(&args.registry.registry_ca).unwrap_or_else(|error| {
            note(error);
            String::new()
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let situation = Situation {
            name: &args.name,
            static_ip: args
                .network
                .public_network_ip
                .map(|address| address.ip.into()),
            legacy: args.legacy,
            days,
        };
        let tls = choose::choose(&args.tls, &situation)
            .map_err(|error| vec![Chain(&error).to_string()])?;
        Ok(Self {
            name: args.name.clone(),
            debug: args.common.debug.unwrap_or(0),
            compute_resource: args.common.compute_resource.clone(),
            force: args.force,
            bridge,
            roles,
            public_address: args.network.public_network_ip,
            public_gateway: args.network.public_network_gateway.map(|gateway| gateway.0),
            dns: args.network.dns_server.clone(),
            image_store,
            volume_stores: volume_stores(&args.storage.volume_store),
            base_image_kb: args.storage.base_image_size.kilobytes,
            appliance_iso,
            bootstrap_iso,
            memory_limit_mb: args.resources.memory,
            memory_reservation_mb: args.resources.memory_reservation,
            cpu_limit_mhz: args.resources.cpu,
            cpu_reservation_mhz: args.resources.cpu_reservation,
            endpoint_memory_mb: args.resources.endpoint_memory,
            endpoint_cpus: args.resources.endpoint_cpu,
            insecure_registries: args.registry.insecure_registry.clone(),
            registry_ca,
            tls,
            options: Vec::new(),
        })
    }

    /// The port groups that the appliance has a NIC on, each once, with the roles that share it.
    pub(crate) fn nics(&self) -> Vec<(String, Vec<&'static str>)> {
        let mut nics: Vec<(String, Vec<&'static str>)> = Vec::new();
        for role in &self.roles {
            match nics
                .iter_mut()
                .find(|(network, _)| *network == role.network)
            {
                Some((_, names)) => names.push(role.name),
                None => nics.push((role.network.clone(), vec![role.name])),
            }
        }
        nics.push((self.bridge.network.clone(), vec!["bridge"]));
        nics
    }

    /// Says which roles share a NIC, in the words that the command line used for the public network.
    pub(crate) fn announce_sharing(&self, legacy: bool) {
        for (_, roles) in self.nics() {
            for role in roles.iter().skip(1) {
                let first = if legacy && roles[0] == "public" {
                    "external"
                } else {
                    roles[0]
                };
                info!("Network role {role} is sharing NIC with {first}");
            }
        }
    }
}

fn bridge(args: &CreateArgs, note: &mut impl FnMut(String)) -> Bridge {
    let network = args
        .network
        .bridge_network
        .clone()
        .unwrap_or_else(|| args.name.clone());
    let given = &args.network;
    let range = given
        .bridge_network_range
        .parse::<Address>()
        .unwrap_or_else(|error| {
            note(format!("Error parsing bridge network ip range: {error}"));
            Address {
                ip: Ipv4Addr::new(172, 16, 0, 0),
                prefix: 12,
            }
        });
    let width = match given.bridge_network_width.parse::<u8>() {
        Ok(width) if range.prefix <= width && width < 31 => width,
        _ => {
            note(format!(
                "Error specifying bridge network width: {}",
                given.bridge_network_width
            ));
            16
        }
    };
    Bridge {
        network,
        range,
        width,
    }
}

fn roles(args: &CreateArgs) -> [Role; 3] {
    let public = &args.network.public_network;
    let client = args.network.client_network.as_ref().unwrap_or(public);
    let management = args.network.management_network.as_ref().unwrap_or(client);
    // The public network's role comes first: it names the NIC that others share.
    [
        ("public", public),
        ("client", client),
        ("management", management),
    ]
    .map(|(name, network)| Role {
        name,
        network: network.clone(),
    })
}

fn addresses(args: &CreateArgs, note: &mut impl FnMut(String)) {
    let given = &args.network;
    match (given.public_network_ip, given.public_network_gateway) {
        (Some(_), None) => {
            note("--public-network-ip needs --public-network-gateway".to_owned());
        }
        (None, Some(_)) => {
            note("--public-network-gateway needs a static address: --public-network-ip".to_owned());
        }
        (Some(address), Some(gateway)) if !address.contains(gateway.0) => {
            note(format!(
                "the gateway {} is not in the network of {address}",
                gateway.0
            ));
        }
        _ => {}
    }
    if given.dns_server.len() > 3 {
        warn!("Maximum of 3 DNS servers allowed. Additional servers specified will be ignored.");
    }
}

/// A label that is given twice means the last store.
fn volume_stores(given: &[VolumeStore]) -> Vec<VolumeStore> {
    let mut stores: Vec<VolumeStore> = Vec::new();
    for store in given {
        stores.retain(|other| other.label != store.label);
        stores.push(store.clone());
    }
    stores
}

/// The CA certificates of registries, one after the other.
pub(crate) fn read_registry_ca(paths: &[PathBuf]) -> Result<String, String> {
    let mut all = String::new();
    for path in paths {
        let text = files::read_authority(path)
            .map_err(|error| format!("--registry-ca: {}", Chain(&error)))?;
        all.push_str(&text);
        all.push('\n');
    }
    Ok(all)
}

/// Finds an ISO and checks that it is of this version.
pub(crate) fn find_iso(given: Option<&Path>, name: &str, force: bool) -> Result<PathBuf, String> {
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => {
            let beside = std::env::current_exe()
                .ok()
                .and_then(|exe| Some(exe.parent()?.to_owned()));
            let mut all = vec![PathBuf::from(name)];
            if let Some(dir) = beside {
                all.push(dir.join(name));
                all.push(dir.join("../iso").join(name));
            }
            all
        }
    };
    let path = candidates
        .iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let places: Vec<String> = candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            format!("Unable to find {name}: it is none of {}", places.join(", "))
        })?;
    let image = iso::Reader::open(path).map_err(|error| Chain(&error).to_string())?;
    let version = image.publisher().rsplit(' ').next().unwrap_or_default();
    if version != VERSION {
        let message = format!(
            "{} is of version {version:?}, this program of version {VERSION:?}",
            path.display()
        );
        if !force {
            return Err(format!("{message}; --force uses it nevertheless"));
        }
        warn!("{message}");
    }
    Ok(path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::Gateway;

    /// Arguments with images and certificates in `dir`.
    fn args(dir: &Path) -> CreateArgs {
        for name in ["appliance", "bootstrap"] {
            let mut bytes = Vec::new();
            let mut builder = iso::Builder::new("X");
            builder
                .publisher(&format!("x {VERSION}"))
                .write(&mut bytes)
                .unwrap();
            std::fs::write(dir.join(format!("{name}.iso")), bytes).unwrap();
        }
        let mut args = CreateArgs {
            name: "VCH".into(),
            ..CreateArgs::default()
        };
        args.network.public_network = "VM Network".into();
        args.network.bridge_network_range = "172.16.0.0/12".into();
        args.network.bridge_network_width = "16".into();
        args.storage.appliance_iso = Some(dir.join("appliance.iso"));
        args.storage.bootstrap_iso = Some(dir.join("bootstrap.iso"));
        args.tls.tls_cname = vec!["127.0.0.1".into()];
        args.tls.tls_cert_path = Some(dir.join("certs"));
        args
    }

    #[test]
    fn roles_share_the_public_nic_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        let plan = Plan::from_args(&args, 1).unwrap();
        assert_eq!(
            plan.nics(),
            [
                (
                    "VM Network".to_owned(),
                    vec!["public", "client", "management"]
                ),
                ("VCH".to_owned(), vec!["bridge"])
            ]
        );
        assert_eq!(plan.bridge.gateway().to_string(), "172.16.0.1/16");
        args.network.management_network = Some("Management".into());
        assert_eq!(Plan::from_args(&args, 1).unwrap().nics().len(), 3);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        args.name = "a*b".into();
        args.network.bridge_network = Some("VM Network".into());
        args.network.bridge_network_width = "31".into();
        args.network.public_network_gateway = Some(Gateway(Ipv4Addr::new(10, 0, 0, 1)));
        args.storage.image_store = Some("nfs://x".into());
        args.storage.appliance_iso = Some("missing.iso".into());
        args.registry.registry_ca = vec!["missing.pem".into()];
        let problems = Plan::from_args(&args, 1).unwrap_err();
        for wanted in [
            "unsupported character",
            "must not be shared with another network role",
            "Error specifying bridge network width: 31",
            "needs a static address",
            "--image-store",
            "Unable to find appliance.iso",
            "--registry-ca",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(wanted)),
                "{wanted}: {problems:?}"
            );
        }
        assert!(
            !dir.path().join("certs").exists(),
            "certificates are made last"
        );
    }

    #[test]
    fn an_image_of_another_version_needs_force() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        let mut bytes = Vec::new();
        iso::Builder::new("X")
            .publisher("x 9.9.9")
            .write(&mut bytes)
            .unwrap();
        std::fs::write(dir.path().join("appliance.iso"), bytes).unwrap();
        assert!(Plan::from_args(&args, 1).unwrap_err()[0].contains("is of version \"9.9.9\""));
        args.force = true;
        assert!(Plan::from_args(&args, 1).is_ok());
    }
}
