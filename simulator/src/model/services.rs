//! The single objects: managers, collectors, the service instance itself.

use vmomi::types::{
    AuthorizationDescription, AuthorizationPrivilege, Capability, EventDescription,
    LicenseManagerLicenseInfo, OptionValue, PerfInterval, PerformanceDescription, TaskDescription,
};
use vmomi::types::{KeyAnyValue, KeyValue, PerfCounterInfo};
use vmomi::{Any, ManagedObjectReference as Moref};

use super::{Builder, content, none_of, privileges, roles};
use crate::clock::now;
use crate::inventory::{Prop, Tree};

/// Features that validation looks for in a licence.
const FEATURES: [(&str, &str); 3] = [
    ("serialuri:2", "Remote virtual Serial Port Concentrator"),
    ("dvs", "vSphere Distributed Switch"),
    ("vmotion", "vSphere vMotion"),
];

pub(super) fn build(b: &mut Builder<'_, '_>) {
    let ids = b.ids;
    let content = content(ids, b.is_vc(), b.instance);
    add(
        b,
        "ServiceInstance",
        "ServiceInstance",
        vec![
            ("serverClock", Prop::value(now())),
            (
                "capability",
                Prop::value(Capability {
                    provisioning_supported: b.is_vc(),
                    multi_host_supported: b.is_vc(),
                    user_shell_access_supported: !b.is_vc(),
                    ..Default::default()
                }),
            ),
            ("content", Prop::value(content)),
        ],
    );
    add(
        b,
        "SessionManager",
        &ids.session_manager,
        vec![
            ("message", Prop::value("")),
            ("messageLocaleList", Prop::value(vec!["en".to_owned()])),
            (
                "supportedLocaleList",
                Prop::value(vec!["en".to_owned(), "en_US".to_owned()]),
            ),
            ("defaultLocale", Prop::value("en")),
        ],
    );
    add(b, "PropertyCollector", &ids.property_collector, vec![]);
    add(
        b,
        "ViewManager",
        &ids.view_manager,
        vec![("viewList", Prop::Refs(Tree::default()))],
    );
    add(b, "SearchIndex", &ids.search_index, vec![]);
    add(
        b,
        "TaskManager",
        &ids.task_manager,
        vec![
            ("recentTask", Prop::Refs(Tree::default())),
            ("maxCollector", Prop::value(32)),
            ("description", Prop::value(TaskDescription::default())),
        ],
    );
    add(
        b,
        "EventManager",
        &ids.event_manager,
        vec![
            ("maxCollector", Prop::value(1000)),
            ("description", Prop::value(EventDescription::default())),
        ],
    );
    add(b, "FileManager", &ids.file_manager, vec![]);
    add(b, "VirtualDiskManager", &ids.disk_manager, vec![]);
    add(
        b,
        "DatastoreNamespaceManager",
        &ids.namespace_manager,
        vec![],
    );
    add(b, "DiagnosticManager", &ids.diagnostic_manager, vec![]);
    add(
        b,
        "UserDirectory",
        &ids.user_directory,
        vec![("domainList", Prop::value(Vec::<String>::new()))],
    );
    add(
        b,
        "PerformanceManager",
        &ids.perf_manager,
        vec![
            (
                "description",
                Prop::value(PerformanceDescription::default()),
            ),
            (
                "historicalInterval",
                Prop::value(Vec::<PerfInterval>::new()),
            ),
            ("perfCounter", Prop::value(Vec::<PerfCounterInfo>::new())),
        ],
    );
    add(b, "GuestOperationsManager", &ids.guest_operations, vec![]);
    add(b, "HostLocalAccountManager", &ids.account_manager, vec![]);
    add(
        b,
        "DistributedVirtualSwitchManager",
        &ids.dvs_manager,
        vec![],
    );
    add(
        b,
        "ExtensionManager",
        &ids.extension_manager,
        vec![(
            "extensionList",
            Prop::value(none_of::<vmomi::types::Extension>()),
        )],
    );
    add(
        b,
        "CustomFieldsManager",
        &ids.custom_fields,
        vec![(
            "field",
            Prop::value(none_of::<vmomi::types::CustomFieldDef>()),
        )],
    );
    licences(b);
    options(b);
    authorization(b);
}

fn add(b: &mut Builder<'_, '_>, r#type: &str, moid: &str, props: Vec<(&'static str, Prop)>) {
    if !moid.is_empty() {
        b.t.create(Moref::new(r#type, moid), props);
    }
}

/// The licence that everything has here.
pub(crate) fn licence() -> LicenseManagerLicenseInfo {
    let property = |key: &str, value: Any| KeyAnyValue {
        key: key.into(),
        value,
        ..Default::default()
    };
    let mut properties = vec![
        property("ProductName", "VMware ESX Server".into()),
        property("ProductVersion", "8.0".into()),
        property("expirationHours", Any::Int(0)),
    ];
    for (key, label) in FEATURES {
        let feature = KeyValue {
            key: key.into(),
            value: label.into(),
            ..Default::default()
        };
        properties.push(property("feature", feature.into()));
    }
    LicenseManagerLicenseInfo {
        license_key: "00000-00000-00000-00000-00000".into(),
        edition_key: "eval".into(),
        name: "Evaluation Mode".into(),
        total: 0,
        used: Some(0),
        cost_unit: String::new(),
        properties,
        ..Default::default()
    }
}

fn licences(b: &mut Builder<'_, '_>) {
    let ids = b.ids;
    let assignment = Moref::new("LicenseAssignmentManager", &ids.license_assignment);
    add(
        b,
        "LicenseManager",
        &ids.license_manager,
        vec![
            (
                "source",
                Prop::value(vmomi::types::EvaluationLicenseSource::default()),
            ),
            ("sourceAvailable", Prop::value(true)),
            ("licensedEdition", Prop::value("")),
            ("licenses", Prop::value(vec![licence()])),
            ("licenseAssignmentManager", Prop::value(assignment)),
            (
                "evaluation",
                Prop::value(vmomi::types::LicenseManagerEvaluationInfo::default()),
            ),
        ],
    );
    add(
        b,
        "LicenseAssignmentManager",
        &ids.license_assignment,
        vec![],
    );
}

fn options(b: &mut Builder<'_, '_>) {
    let option = |key: &str, value: Any| OptionValue {
        key: key.into(),
        value: Some(value),
        ..Default::default()
    };
    let settings = if b.is_vc() {
        vec![
            option("VirtualCenter.ManagedIP", b.management.into()),
            option("VirtualCenter.InstanceName", "vic-sim".into()),
            option("VirtualCenter.FQDN", b.management.into()),
            option("config.vpxd.rdm.serialPortNetworkBacking", "true".into()),
            option("event.maxAge", Any::Int(30)),
            option("task.maxAge", Any::Int(30)),
        ]
    } else {
        vec![
            option("Annotations.WelcomeMessage", "".into()),
            option("Config.HostAgent.log.level", "info".into()),
        ]
    };
    let ids = b.ids;
    add(
        b,
        "OptionManager",
        &ids.option_manager,
        vec![
            ("setting", Prop::value(settings)),
            (
                "supportedOption",
                Prop::value(none_of::<vmomi::types::OptionDef>()),
            ),
        ],
    );
}

fn authorization(b: &mut Builder<'_, '_>) {
    let list: Vec<AuthorizationPrivilege> = privileges()
        .into_iter()
        .map(|id| {
            let (group, name) = id.rsplit_once('.').unwrap_or(("", &id));
            AuthorizationPrivilege {
                priv_id: id.clone(),
                on_parent: false,
                name: name.to_owned(),
                priv_group_name: group.to_owned(),
                ..Default::default()
            }
        })
        .collect();
    let ids = b.ids;
    add(
        b,
        "AuthorizationManager",
        &ids.authorization_manager,
        vec![
            ("privilegeList", Prop::value(list)),
            ("roleList", Prop::value(roles())),
            (
                "description",
                Prop::value(AuthorizationDescription::default()),
            ),
        ],
    );
}
