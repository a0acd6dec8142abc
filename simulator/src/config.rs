//! What a simulator is made of: the model, its datastores and networks, who may log in, and how
//! its guests run.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Everything that [`Simulator::start`](crate::Simulator::start) needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory that holds the certificate, the index and (by default) the datastores.
    pub state: PathBuf,
    /// Whether the simulator is an ESXi host or a vCenter, and of which size.
    pub model: Model,
    /// The datastores; empty: one of the model's default name, inside `state`.
    pub datastores: Vec<DatastoreConfig>,
    /// Networks beside the model's own ("VM Network"; on vCenter a distributed port group).
    pub networks: Vec<String>,
    /// Where the HTTPS endpoint listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The name that may log in.
    pub user: String,
    /// The password of `user`.
    pub password: String,
    /// What a powered-on VM runs on.
    pub guest: GuestChoice,
    /// The program that starts guests of the namespace engine; `None`: this one. Its `main` must
    /// begin with `engine::namespace::helper::helper_main()`.
    pub helper: Option<PathBuf>,
    /// Ports of the host's loopback that guests may reach.
    pub host_ports: Vec<u16>,
    /// Ports of VMs that are published on the host's loopback from the start.
    pub forwards: Vec<Forward>,
    /// Fault rules that hold from the start (see [`FaultRule`](crate::FaultRule)).
    pub faults: Vec<String>,
    /// Whether `/debug/faults` and `/debug/calls` exist.
    pub debug: bool,
    /// Seeds the rules that fire by probability, so that a run can be repeated.
    pub seed: u64,
}

impl Config {
    /// Describes an ESXi host with one datastore in `state`, guests that do not run, any port.
    pub fn esx(state: impl Into<PathBuf>) -> Self {
        Config {
            state: state.into(),
            model: Model::Esx,
            datastores: Vec::new(),
            networks: Vec::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            user: "root".into(),
            password: "password".into(),
            guest: GuestChoice::Inert,
            helper: None,
            host_ports: Vec::new(),
            forwards: Vec::new(),
            faults: Vec::new(),
            debug: false,
            seed: 0,
        }
    }

    /// Describes a vCenter with one datacenter and one cluster of two hosts.
    pub fn vc(state: impl Into<PathBuf>) -> Self {
        Config {
            model: Model::Vc(VcModel::default()),
            user: "administrator@vsphere.local".into(),
            ..Config::esx(state)
        }
    }
}

/// Which kind of vSphere is simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// One ESXi host that nobody manages.
    Esx,
    /// A vCenter.
    Vc(VcModel),
}

/// How large a simulated vCenter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcModel {
    /// Number of datacenters (`DC0`, `DC1`, …).
    pub datacenters: u32,
    /// Clusters per datacenter (`DC0_C0`, …).
    pub clusters: u32,
    /// Hosts per cluster (`DC0_C0_H0`, …).
    pub hosts: u32,
    /// Distributed port groups per datacenter (`DC0_DVPG0`, …).
    pub portgroups: u32,
}

impl Default for VcModel {
    fn default() -> Self {
        VcModel {
            datacenters: 1,
            clusters: 1,
            hosts: 2,
            portgroups: 1,
        }
    }
}

/// A datastore on a real directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatastoreConfig {
    /// The name, as in `[name] path`.
    pub name: String,
    /// The directory; `None`: one inside the state directory.
    pub path: Option<PathBuf>,
}

impl FromStr for DatastoreConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name, Some(PathBuf::from(path))),
            None => (text, None),
        };
        if name.is_empty() || name.contains(['[', ']', '/']) {
            return Err(format!("{name:?} cannot be the name of a datastore"));
        }
        Ok(DatastoreConfig {
            name: name.to_owned(),
            path,
        })
    }
}

/// What a powered-on VM runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestChoice {
    /// The first engine that works here.
    Auto,
    /// Linux namespaces and a cgroup; needs root.
    Namespace,
    /// Power state only.
    Inert,
}

impl FromStr for GuestChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(GuestChoice::Auto),
            "namespace" => Ok(GuestChoice::Namespace),
            "inert" => Ok(GuestChoice::Inert),
            "qemu" => Err("the qemu engine is not there yet; use namespace or inert".into()),
            other => Err(format!(
                "{other:?} is not one of auto, namespace, inert, qemu"
            )),
        }
    }
}

/// One published port: `hostport=vmname:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the simulator listens on the host; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The name of the VM.
    pub vm: String,
    /// The VM's port.
    pub port: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form hostport=vmname:port");
        let (listen, target) = text.split_once('=').ok_or_else(wrong)?;
        let (vm, port) = target.rsplit_once(':').ok_or_else(wrong)?;
        let listen = match listen.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => listen.parse().map_err(|_| wrong())?,
        };
        let port = port.parse().map_err(|_| wrong())?;
        if !listen.ip().is_loopback() {
            return Err(format!("{listen} is not on the loopback interface"));
        }
        Ok(Forward {
            listen,
            vm: vm.to_owned(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_stay_on_the_loopback() {
        let forward: Forward = "2376=my:vm:443".parse().expect("parses");
        assert_eq!((forward.vm.as_str(), forward.port), ("my:vm", 443));
        assert_eq!(forward.listen.to_string(), "127.0.0.1:2376");
        assert!("0.0.0.0:1=a:2".parse::<Forward>().is_err());
    }

    #[test]
    fn qemu_is_refused_with_a_reason() {
        let error = "qemu".parse::<GuestChoice>().expect_err("not there");
        assert!(error.contains("not there yet"), "{error}");
    }
}
