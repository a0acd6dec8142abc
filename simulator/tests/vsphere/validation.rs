//! What `vic-machine create` reads of a target before it makes anything.

use vmomi::types::*;
use vmomi::{Any, ManagedObjectReference as Moref, Poly, Value};

use super::bench::{Bench, bench, fault_of, vcenter};

async fn read<T: Value + Default>(bench: &Bench, of: &Moref, path: &str) -> Option<T> {
    bench.client.property(of, path).await.expect(path)
}

/// What holds for the hosts of both.
async fn a_host_is_fit(bench: &Bench, host: &Moref) {
    // A host says which vCenter it belongs to, so that nobody goes behind its back.
    let manager: Option<String> = read(bench, host, "summary.managementServerIp").await;
    assert_eq!(manager.is_some(), bench.client.is_vcenter());
    let system: Moref = read(bench, host, "configManager.firewallSystem")
        .await
        .expect("has one");
    let firewall: HostFirewallInfo = read(bench, &system, "firewallInfo").await.expect("is set");
    assert!(!firewall.ruleset.is_empty());
    let rule = firewall.ruleset.iter().find(|set| {
        set.rule
            .iter()
            .any(|r| r.direction == HostFirewallRuleDirection::Outbound && r.protocol == "tcp")
    });
    let rule = rule.expect("a rule for connections outward");
    // Rule sets are switched by those who look after the host.
    let is_on = async |id: &str| {
        let info: Option<HostFirewallInfo> = read(bench, &system, "firewallInfo").await;
        let info = info.expect("is set");
        info.ruleset.iter().any(|set| set.key == id && set.enabled)
    };
    let id = rule.key.clone();
    let off = DisableRulesetRequest { id: id.clone() };
    bench.client.invoke(&system, off).await.expect("off");
    assert!(!is_on(&id).await);
    let on = EnableRulesetRequest { id: id.clone() };
    bench.client.invoke(&system, on).await.expect("on");
    assert!(is_on(&id).await);
    let none = EnableRulesetRequest { id: "none".into() };
    assert_eq!(
        fault_of(bench.client.invoke(&system, none).await),
        "NotFound"
    );

    let network: Moref = read(bench, host, "configManager.networkSystem")
        .await
        .expect("has one");
    let info: HostNetworkInfo = read(bench, &network, "networkInfo").await.expect("is set");
    assert!(info.vswitch.iter().any(|s| s.name == "vSwitch0"));
    let nics: Vec<HostVirtualNic> = read(bench, host, "config.network.vnic")
        .await
        .expect("is set");
    let address = nics[0]
        .spec
        .ip
        .as_ref()
        .and_then(|ip| ip.ip_address.clone());
    address
        .expect("a management address")
        .parse::<std::net::IpAddr>()
        .expect("an address");
    let state: Any = read(bench, host, "runtime.connectionState")
        .await
        .expect("is set");
    assert!(format!("{state:?}").contains("connected"), "{state:?}");
    let cpu: Option<i16> = read(bench, host, "summary.hardware.numCpuCores").await;
    assert!(cpu > Some(0));
    let memory: Option<i64> = read(bench, host, "hardware.memorySize").await;
    assert!(memory > Some(1 << 30));
}

fn lets_serial_ports_out(licence: &LicenseManagerLicenseInfo) -> bool {
    licence.properties.iter().any(|p| {
        p.key == "feature"
            && p.value
                .as_data::<KeyValue>()
                .is_some_and(|pair| pair.key.starts_with("serialuri:"))
    })
}

#[tokio::test]
async fn an_esxi_host_shows_all_that_is_validated() {
    let bench = bench().await;
    let client = &bench.client;
    let content = client.content().clone();
    assert!(!client.is_vcenter());
    assert_eq!(content.about.product_line_id, "embeddedEsx");
    a_host_is_fit(&bench, &bench.first("HostSystem").await).await;
    let licences: Vec<LicenseManagerLicenseInfo> =
        read(&bench, &content.license_manager.expect("one"), "licenses")
            .await
            .expect("is set");
    assert!(licences.iter().any(lets_serial_ports_out));
    let store = bench.first("Datastore").await;
    let summary: DatastoreSummary = read(&bench, &store, "summary").await.expect("is set");
    assert!(summary.accessible && summary.free_space > 0);
    assert!(summary.free_space <= summary.capacity);
    let compute = bench.first("ComputeResource").await;
    let plain: Poly<ComputeResourceConfigInfo> = read(&bench, &compute, "configurationEx")
        .await
        .expect("is set");
    assert!(
        !plain.is::<ClusterConfigInfoEx>(),
        "no DRS on a single host"
    );
    let options = content.setting.expect("one");
    let all = QueryOptionsRequest { name: None };
    let all = client.invoke(&options, all).await.expect("asks");
    assert!(!all.is_empty());
    let none = QueryOptionsRequest {
        name: Some("no.such.option".into()),
    };
    assert_eq!(fault_of(client.invoke(&options, none).await), "InvalidName");
}

#[tokio::test]
async fn a_vcenter_shows_all_that_is_validated() {
    let bench = vcenter().await;
    let client = &bench.client;
    let content = client.content().clone();
    assert_eq!(content.about.product_line_id, "vpx");
    assert!(content.about.instance_uuid.is_some());
    let host = bench.first("HostSystem").await;
    a_host_is_fit(&bench, &host).await;
    let licences = content.license_manager.expect("one");
    let assignments: Moref = read(&bench, &licences, "licenseAssignmentManager")
        .await
        .expect("is set");
    let of = QueryAssignedLicensesRequest {
        entity_id: Some(host.value.clone()),
    };
    let assigned = client.invoke(&assignments, of).await.expect("asks");
    assert_eq!(assigned[0].entity_id, host.value);
    assert!(lets_serial_ports_out(&assigned[0].assigned_license));
    let cluster = bench.first("ClusterComputeResource").await;
    let configuration: Poly<ComputeResourceConfigInfo> = read(&bench, &cluster, "configurationEx")
        .await
        .expect("is set");
    let configuration = configuration
        .get::<ClusterConfigInfoEx>()
        .expect("a cluster");
    assert_eq!(configuration.drs_config.enabled, Some(true));
    let group = bench.first("DistributedVirtualPortgroup").await;
    let key: Option<String> = read(&bench, &group, "key").await;
    assert!(key.is_some());
    let switch: Moref = read(&bench, &group, "config.distributedVirtualSwitch")
        .await
        .expect("is set");
    let uuid: Option<String> = read(&bench, &switch, "uuid").await;
    assert!(uuid.is_some_and(|u| !u.is_empty()));

    // The address that vSphere reports for itself, and an option that somebody sets.
    let options = content.setting.expect("one");
    let ask = |name: &str| QueryOptionsRequest {
        name: Some(name.into()),
    };
    let managed = client
        .invoke(&options, ask("VirtualCenter.ManagedIP"))
        .await
        .expect("asks");
    assert_eq!(managed.len(), 1);
    let group = client.invoke(&options, ask("VirtualCenter.")).await;
    assert!(group.expect("asks").len() > 1);
    let set = UpdateOptionsRequest {
        changed_value: vec![OptionValue::new("config.example", 7)],
    };
    client.invoke(&options, set).await.expect("set");
    let read = client.invoke(&options, ask("config.example")).await;
    assert_eq!(read.expect("asks")[0].value, Some(Any::Int(7)));
}
