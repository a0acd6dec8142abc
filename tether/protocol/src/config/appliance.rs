//! The appliance: everything that `vch` needs to know, written by `vic-machine`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::codec::{self, DecodeError, FetchError, model};
use super::executor::ExecutorConfig;
use super::net::Cidr;
use super::seal::{SEAL_KEY, SealKey, Secret};

model! {
    /// What the appliance is told. Tether hands it to `vch` as one JSON document, secrets included.
    pub struct ApplianceConfig {
        /// Name of the VCH.
        name: String = "vch/name",
        /// Version of the program that wrote this.
        version: String = "init/version/Version",
        /// The VM itself: id (its moref), networks, processes to supervise, debug level.
        executor: ExecutorConfig = "init",
        /// How to reach vSphere.
        connect: Connection = "connect",
        /// Where disks live.
        storage: Storage = "storage",
        /// Networks of containers.
        network: NetworkSettings = "network",
        /// What the docker API shows.
        tls: TlsMaterial = "cert",
        /// Registries.
        registry: RegistrySettings = "registry",
        /// Keys of the links to guests.
        link: LinkIdentity = "vch/link",
        /// Managed object id of the resource pool of containers.
        resource_pool: String = "container/ComputeResources|0/Value",
        /// Datastore path of bootstrap.iso.
        bootstrap_iso: String = "container/bootstrap_image_path",
        /// CPUs of a containerVM that asks for none; 2 when 0.
        default_cpus: u32 = "container/default_cpus",
        /// Memory in MB of a containerVM that asks for none; 2048 when 0.
        default_memory_mb: u32 = "container/default_memory_mb",
        /// Naming convention of containerVMs; docker's when empty.
        name_convention: String = "container/ContainerNameConvention",
        /// Where guests reach the serial hub: `tcp://<address>:<port>`, by default on the bridge.
        serial_uri: String = "vch/serialUri",
        /// Command line of `vic-machine create`, without secrets.
        options: Vec<String> = "vic_machine_create_options",
    }
}

model! {
    /// The vSphere to log in to.
    pub struct Connection {
        /// URL, `https://host[:port]`.
        target: String = "target",
        /// User name.
        username: String = "username",
        /// Password.
        password: Secret = "token",
        /// SHA-1 or SHA-256 thumbprint of the server's certificate; a CA decides when empty.
        thumbprint: String = "target_thumbprint",
        /// CA certificates for vSphere, PEM.
        ca: String = "target_ca",
        /// Seconds between keep-alives; 60 when 0.
        keepalive: u32 = "keepalive",
        /// Inventory path of the datacenter.
        datacenter: String = "datacenter",
        /// Inventory path of the cluster or host.
        compute: String = "compute",
        /// Managed object id of the folder for containerVMs.
        vm_folder: String = "vm_folder",
    }
}

model! {
    /// Stores of images and volumes.
    pub struct Storage {
        /// Image store, `ds://datastore/path`.
        image_store: String = "image_stores|0",
        /// Volume stores.
        volume_stores: Vec<VolumeStore> = "VolumeLocations",
        /// Size of a container's disk in KB; 8 GB when 0.
        base_image_kb: u64 = "scratch_size",
    }
}

model! {
    /// A volume store.
    pub struct VolumeStore {
        /// Its label; `default` takes volumes that name none.
        label: String = "label",
        /// `ds://datastore/path` or `nfs://host/path`.
        url: String = "url",
    }
}

model! {
    /// Networks of containers.
    pub struct NetworkSettings {
        /// Name of the bridge port group.
        bridge_network: String = "bridge_network",
        /// Managed object id of the bridge port group.
        bridge_moref: String = "bridge_network_moref",
        /// Address range of bridge networks; 172.16.0.0/12 when absent.
        bridge_range: Option<Cidr> = "bridge-ip-range",
        /// Prefix length of each bridge network; 16 when 0.
        bridge_width: u32 = "bridge-net-width",
        /// Port groups mapped into docker.
        container_networks: Vec<ContainerNetwork> = "container_networks",
    }
}

model! {
    /// A port group that containers can join.
    pub struct ContainerNetwork {
        /// Name in docker.
        name: String = "name",
        /// Name of the port group.
        port_group: String = "port_group",
        /// Managed object id of the port group.
        moref: String = "moref",
        /// Gateway and subnet; DHCP when absent.
        gateway: Option<Cidr> = "gateway",
        /// Name servers.
        dns: Vec<IpAddr> = "dns",
        /// Ranges of addresses to give.
        pools: Vec<String> = "pools",
        /// Trust level; `published` when empty.
        trust: String = "trust",
    }
}

model! {
    /// TLS of the docker API.
    pub struct TlsMaterial {
        /// Port; 2376 with TLS, 2375 without, when 0.
        port: u32 = "port",
        /// Plain TCP.
        disabled: bool = "disabled",
        /// Clients need a certificate of `client_ca`.
        verify_clients: bool = "verify_clients",
        /// Certificate chain of the server, PEM.
        certificate: String = "HostCertificate/Cert",
        /// Private key of the server, PEM.
        key: Secret = "HostCertificate/Key",
        /// CA of the clients, PEM.
        client_ca: String = "CertificateAuthorities",
    }
}

model! {
    /// Registries.
    pub struct RegistrySettings {
        /// Registries that may speak http or show any certificate: `host[:port]` or CIDR.
        insecure: Vec<String> = "insecure_registries",
        /// The only registries allowed; all when empty.
        whitelist: Vec<String> = "whitelist_registries",
        /// More CA certificates, PEM.
        ca: String = "RegistryCertificateAuthorities",
    }
}

model! {
    /// The VCH's key pair of the links, kept so that running guests know it again.
    pub struct LinkIdentity {
        /// PKCS #8 of the P-256 key, base64.
        key: Secret = "key",
    }
}

impl ApplianceConfig {
    /// The keys that hold this configuration; secrets are sealed under a new key, which is among
    /// them as `guestinfo.ovfEnv`.
    pub fn encode(&self) -> BTreeMap<String, String> {
        let key = SealKey::generate();
        let mut keys = codec::encode(self, "", Some(key.clone())).out;
        keys.insert(SEAL_KEY.to_owned(), key.text());
        keys
    }

    /// Reads the appliance's keys. Without `guestinfo.ovfEnv` the secrets are empty.
    ///
    /// # Errors
    /// When a key does not hold what its field needs.
    pub fn decode(keys: &BTreeMap<String, String>) -> Result<Self, DecodeError> {
        codec::decode(keys, "")
    }

    /// Reads it by batches of keys: `fetch` answers one value or `None` for each key asked.
    ///
    /// # Errors
    /// When `fetch` fails or a key does not hold what its field needs.
    pub fn fetch<E>(
        mut fetch: impl FnMut(&[String]) -> Result<Vec<Option<String>>, E>,
    ) -> Result<Self, FetchError<E>> {
        codec::fetch("", &mut fetch)
    }
}
