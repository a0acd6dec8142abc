//! Datacenters, clusters and hosts.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    ClusterComputeResourceSummary, ClusterConfigInfo, ClusterConfigInfoEx, ClusterDasConfigInfo,
    ClusterDrsConfigInfo, ComputeResourceConfigInfo, ComputeResourceSummary, DatacenterConfigInfo,
    DrsBehavior, HostCapability, HostConfigInfo, HostConfigSummary, HostCpuInfo, HostHardwareInfo,
    HostHardwareSummary, HostLicensableResourceInfo, HostListSummary, HostListSummaryQuickStats,
    HostRuntimeInfo, HostSystemInfo, KeyAnyValue, ManagedEntityStatus,
};

use super::host::{firewall, managers, refresh_host_network};
use super::{Builder, about, network, pool_config, pool_props, storage};
use crate::clock::now;
use crate::config::VcModel;
use crate::inventory::{Prop, Tree};

/// Speed of a simulated CPU.
const MHZ: i32 = 2400;

/// The folders of a datacenter.
struct Site {
    moref: Moref,
    hosts: Moref,
    datastores: Moref,
    networks: Moref,
}

/// The CPUs and the memory of the machine that all this runs on.
fn machine() -> (i16, i64) {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<i64>().ok()
        })
        .map_or(16 << 30, |kb| kb << 10);
    (i16::try_from(cpus).unwrap_or(i16::MAX), memory)
}

pub(super) fn build_esx(b: &mut Builder<'_, '_>) {
    let root = root(b);
    let site = datacenter(b, &root, "ha-datacenter", "ha-datacenter");
    let stores = storage::build(b, &site.datastores, &site.moref);
    let mut names = vec!["VM Network".to_owned()];
    names.extend(b.config.networks.iter().cloned());
    let mut networks = network::standard(b, &site.networks, &names);
    for (moid, name, _, _) in b.portgroups {
        networks.push(network::portgroup(b.t, &site.networks, moid, name));
    }
    for network in &networks {
        b.t.add_ref(&site.moref.value, "network", network);
    }
    let compute = compute(b, &site, "ha-compute-res", "localhost.localdomain", false);
    let host = host(b, &compute, "ha-host", "localhost.localdomain");
    finish_compute(b, &compute, &[host], &stores, &networks, false);
}

pub(super) fn build_vc(b: &mut Builder<'_, '_>, size: &VcModel) {
    let root = root(b);
    for dc in 0..size.datacenters {
        let name = format!("DC{dc}");
        let moid = format!("datacenter-{}", b.number());
        let site = datacenter(b, &root, &moid, &name);
        // Datastores have one directory each: they belong to the first datacenter.
        let stores = if dc == 0 {
            storage::build(b, &site.datastores, &site.moref)
        } else {
            Vec::new()
        };
        let mut names = vec!["VM Network".to_owned()];
        if dc == 0 {
            names.extend(b.config.networks.iter().cloned());
        }
        let mut networks = network::standard(b, &site.networks, &names);
        let groups: Vec<String> = (0..size.portgroups)
            .map(|i| format!("{name}_DVPG{i}"))
            .collect();
        networks.extend(network::distributed(
            b,
            &site.networks,
            &format!("DVS{dc}"),
            &groups,
        ));
        for network in &networks {
            b.t.add_ref(&site.moref.value, "network", network);
        }
        for c in 0..size.clusters {
            let cluster_name = format!("{name}_C{c}");
            let moid = format!("domain-c{}", b.number());
            let cluster = compute(b, &site, &moid, &cluster_name, true);
            let hosts: Vec<Moref> = (0..size.hosts)
                .map(|h| {
                    let moid = format!("host-{}", b.number());
                    host(b, &cluster, &moid, &format!("{cluster_name}_H{h}"))
                })
                .collect();
            finish_compute(b, &cluster, &hosts, &stores, &networks, true);
        }
    }
}

fn root(b: &mut Builder<'_, '_>) -> Moref {
    let moid = b.ids.root_folder.clone();
    let name = if b.is_vc() {
        "Datacenters"
    } else {
        "ha-folder-root"
    };
    b.folder(moid, name, None, &["Folder", "Datacenter"])
}

fn datacenter(b: &mut Builder<'_, '_>, root: &Moref, moid: &str, name: &str) -> Site {
    let number = b.number();
    let ids: Vec<String> = if b.is_vc() {
        ["v", "h", "s", "n"]
            .iter()
            .map(|kind| format!("group-{kind}{number}"))
            .collect()
    } else {
        ["vm", "host", "datastore", "network"]
            .iter()
            .map(|kind| format!("ha-folder-{kind}"))
            .collect()
    };
    let folder = |i: usize| Moref::new("Folder", &ids[i]);
    let moref = b.entity(
        "Datacenter",
        moid.to_owned(),
        name,
        Some((root, "childEntity")),
        vec![
            ("vmFolder", Prop::value(folder(0))),
            ("hostFolder", Prop::value(folder(1))),
            ("datastoreFolder", Prop::value(folder(2))),
            ("networkFolder", Prop::value(folder(3))),
            ("datastore", Prop::Refs(Tree::default())),
            ("network", Prop::Refs(Tree::default())),
            (
                "configuration",
                Prop::value(DatacenterConfigInfo::default()),
            ),
        ],
    );
    let kinds: [(&str, &[&str]); 4] = [
        ("vm", &["Folder", "VirtualMachine", "VirtualApp"]),
        ("host", &["Folder", "ComputeResource"]),
        ("datastore", &["Folder", "Datastore", "StoragePod"]),
        (
            "network",
            &["Folder", "Network", "DistributedVirtualSwitch"],
        ),
    ];
    for (i, (name, types)) in kinds.into_iter().enumerate() {
        // The folders of a datacenter are its properties, not its children.
        let props = super::folder_props(types);
        b.entity("Folder", ids[i].clone(), name, None, props);
        b.t.set(&ids[i], "parent", moref.clone());
    }
    Site {
        moref,
        hosts: folder(1),
        datastores: folder(2),
        networks: folder(3),
    }
}

fn compute(b: &mut Builder<'_, '_>, site: &Site, moid: &str, name: &str, cluster: bool) -> Moref {
    let r#type = if cluster {
        "ClusterComputeResource"
    } else {
        "ComputeResource"
    };
    let browser = Moref::new("EnvironmentBrowser", format!("envbrowser-{moid}"));
    b.t.create(browser.clone(), vec![]);
    let mut props = vec![
        ("host", Prop::Refs(Tree::default())),
        ("datastore", Prop::Refs(Tree::default())),
        ("network", Prop::Refs(Tree::default())),
        ("environmentBrowser", Prop::value(browser)),
    ];
    if cluster {
        let drs = ClusterDrsConfigInfo {
            enabled: Some(true),
            enable_vm_behavior_overrides: Some(true),
            default_vm_behavior: Some(DrsBehavior::FullyAutomated),
            vmotion_rate: Some(3),
            ..Default::default()
        };
        let das = ClusterDasConfigInfo {
            enabled: Some(false),
            ..Default::default()
        };
        props.extend([
            (
                "configurationEx",
                Prop::value(ClusterConfigInfoEx {
                    vm_swap_placement: "vmDirectory".into(),
                    das_config: das.clone(),
                    drs_config: drs.clone(),
                    ..Default::default()
                }),
            ),
            (
                "configuration",
                Prop::value(ClusterConfigInfo {
                    das_config: das,
                    drs_config: drs,
                    ..Default::default()
                }),
            ),
        ]);
    } else {
        props.push((
            "configurationEx",
            Prop::value(ComputeResourceConfigInfo {
                vm_swap_placement: "vmDirectory".into(),
                ..Default::default()
            }),
        ));
    }
    b.entity(
        r#type,
        moid.to_owned(),
        name,
        Some((&site.hosts, "childEntity")),
        props,
    )
}

fn finish_compute(
    b: &mut Builder<'_, '_>,
    compute: &Moref,
    hosts: &[Moref],
    stores: &[Moref],
    networks: &[Moref],
    cluster: bool,
) {
    let pool_id = if b.is_vc() {
        format!("resgroup-{}", b.number())
    } else {
        "ha-root-pool".to_owned()
    };
    let pool = b.entity(
        "ResourcePool",
        pool_id,
        "Resources",
        None,
        pool_props("Resources", compute, pool_config()),
    );
    b.t.set(&pool.value, "parent", compute.clone());
    b.t.set(&compute.value, "resourcePool", pool);
    let (cpus, memory) = machine();
    let count = i16::try_from(hosts.len()).unwrap_or(1);
    let summary = ComputeResourceSummary {
        total_cpu: i32::from(cpus) * MHZ * i32::from(count),
        total_memory: memory * i64::from(count),
        num_cpu_cores: cpus * count,
        num_cpu_threads: cpus * count,
        effective_cpu: i32::from(cpus) * MHZ * i32::from(count),
        effective_memory: (memory >> 20) * i64::from(count),
        num_hosts: count.into(),
        num_effective_hosts: count.into(),
        overall_status: ManagedEntityStatus::Green,
        ..Default::default()
    };
    if cluster {
        let summary = ClusterComputeResourceSummary {
            total_cpu: summary.total_cpu,
            total_memory: summary.total_memory,
            num_cpu_cores: summary.num_cpu_cores,
            num_cpu_threads: summary.num_cpu_threads,
            effective_cpu: summary.effective_cpu,
            effective_memory: summary.effective_memory,
            num_hosts: summary.num_hosts,
            num_effective_hosts: summary.num_effective_hosts,
            overall_status: summary.overall_status,
            ..Default::default()
        };
        b.t.set(&compute.value, "summaryEx", summary.clone());
        b.t.set(&compute.value, "summary", summary);
    } else {
        b.t.set(&compute.value, "summary", summary);
    }
    let all = |b: &mut Builder<'_, '_>, owner: &Moref| {
        stores
            .iter()
            .for_each(|s| b.t.add_ref(&owner.value, "datastore", s));
        networks
            .iter()
            .for_each(|n| b.t.add_ref(&owner.value, "network", n));
    };
    all(b, compute);
    for host in hosts {
        all(b, host);
        networks
            .iter()
            .for_each(|n| b.t.add_ref(&n.value, "host", host));
        refresh_host_network(b.t, host, b.switches, b.management);
    }
    storage::mount(b, stores, hosts);
}

fn host(b: &mut Builder<'_, '_>, compute: &Moref, moid: &str, name: &str) -> Moref {
    let uuid = uuid::Uuid::new_v5(
        &uuid::Uuid::NAMESPACE_URL,
        format!("{}/{moid}", b.instance).as_bytes(),
    );
    let uuid = uuid.to_string();
    let (cpus, memory) = machine();
    let moref = Moref::new("HostSystem", moid);
    let product = about(false, b.instance);
    let runtime = HostRuntimeInfo {
        boot_time: Some(now()),
        in_maintenance_mode: false,
        ..Default::default()
    };
    let summary = HostListSummary {
        host: Some(moref.clone()),
        hardware: Some(HostHardwareSummary {
            vendor: "vic-sim".into(),
            model: "Simulated host".into(),
            uuid: uuid.clone(),
            memory_size: memory,
            cpu_model: "Simulated CPU".into(),
            cpu_mhz: MHZ,
            num_cpu_pkgs: 1,
            num_cpu_cores: cpus,
            num_cpu_threads: cpus,
            num_nics: 1,
            num_hbas: 1,
            ..Default::default()
        }),
        runtime: Some(runtime.clone()),
        config: HostConfigSummary {
            name: name.into(),
            port: 443,
            ssl_thumbprint: Some(b.thumbprint.to_owned()),
            product: Some(product.clone()),
            ..Default::default()
        },
        quick_stats: HostListSummaryQuickStats {
            overall_cpu_usage: Some(0),
            overall_memory_usage: Some(0),
            uptime: Some(0),
            ..Default::default()
        },
        overall_status: ManagedEntityStatus::Green,
        management_server_ip: b.is_vc().then(|| b.management.to_owned()),
        ..Default::default()
    };
    let managers = managers(b, moid);
    let hardware = HostHardwareInfo {
        system_info: HostSystemInfo {
            vendor: "vic-sim".into(),
            model: "Simulated host".into(),
            uuid,
            ..Default::default()
        },
        cpu_info: HostCpuInfo {
            num_cpu_packages: 1,
            num_cpu_cores: cpus,
            num_cpu_threads: cpus,
            hz: i64::from(MHZ) * 1_000_000,
            ..Default::default()
        },
        memory_size: memory,
        ..Default::default()
    };
    let config = HostConfigInfo {
        host: moref.clone(),
        product,
        firewall: Some(firewall()),
        ..Default::default()
    };
    let licensable = HostLicensableResourceInfo {
        resource: vec![KeyAnyValue {
            key: "numCpuPackages".into(),
            value: vmomi::Any::Int(1),
            ..Default::default()
        }],
        ..Default::default()
    };
    let browser = Moref::new("HostDatastoreBrowser", format!("{moid}-datastorebrowser"));
    let stores: Vec<Moref> = b
        .datastores
        .values()
        .map(|s| Moref::new("Datastore", &s.moid))
        .collect();
    b.t.create(browser.clone(), vec![("datastore", Prop::value(stores))]);
    b.entity(
        "HostSystem",
        moid.to_owned(),
        name,
        Some((compute, "host")),
        vec![
            ("runtime", Prop::value(runtime)),
            ("summary", Prop::value(summary)),
            ("hardware", Prop::value(hardware)),
            ("capability", Prop::value(HostCapability::default())),
            ("configManager", Prop::value(managers)),
            ("config", Prop::value(config)),
            ("vm", Prop::Refs(Tree::default())),
            ("datastore", Prop::Refs(Tree::default())),
            ("network", Prop::Refs(Tree::default())),
            ("datastoreBrowser", Prop::value(browser)),
            ("licensableResource", Prop::value(licensable)),
        ],
    )
}
