//! The inventory with which a simulator starts: an ESXi host, or a vCenter.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmomi::types::{
    AboutInfo, AuthorizationRole, ManagedEntityStatus, Permission, ResourceAllocationInfo,
    ResourceConfigSpec, ResourcePoolRuntimeInfo, ResourcePoolSummary, ServiceContent, SharesInfo,
    SharesLevel,
};
use vmomi::{Any, ManagedObjectReference as Moref};

use crate::config::{Config, Model};
use crate::datastore::Datastore;
use crate::inventory::{Prop, Transaction, Tree};
use crate::world::Ids;

mod compute;
mod host;
mod network;
mod services;
mod storage;

pub(crate) use host::refresh_host_network;
pub(crate) use network::portgroup;
pub(crate) use services::licence;
pub(crate) use storage::describe;

/// The role of those who may do everything.
pub(crate) const ADMIN_ROLE: i32 = -1;

/// What the parts of the model need to know while it is built.
pub(crate) struct Builder<'a, 'b> {
    pub(crate) t: &'a mut Transaction,
    pub(crate) config: &'b Config,
    pub(crate) ids: &'b Ids,
    pub(crate) datastores: &'b BTreeMap<String, Arc<Datastore>>,
    pub(crate) thumbprint: &'b str,
    pub(crate) instance: &'b str,
    /// The address that vSphere reports for itself.
    pub(crate) management: &'b str,
    /// Standard port groups beside the model's own: (moid, name, switch, VLAN).
    pub(crate) portgroups: &'b [(String, String, String, i32)],
    pub(crate) switches: &'b [String],
    next: u32,
}

/// The moids of the single objects of a model.
pub(crate) fn ids(vc: bool) -> Ids {
    let name = |esx: &str, on_vc: &str| if vc { on_vc.to_owned() } else { esx.to_owned() };
    Ids {
        root_folder: name("ha-folder-root", "group-d1"),
        property_collector: name("ha-property-collector", "propertyCollector"),
        session_manager: name("ha-sessionmgr", "SessionManager"),
        view_manager: name("ha-view-manager", "ViewManager"),
        search_index: name("ha-searchindex", "SearchIndex"),
        task_manager: name("ha-taskmgr", "TaskManager"),
        event_manager: name("ha-eventmgr", "EventManager"),
        file_manager: name("ha-nfc-file-manager", "FileManager"),
        disk_manager: name("ha-vdiskmanager", "virtualDiskManager"),
        namespace_manager: name(
            "ha-datastore-namespace-manager",
            "DatastoreNamespaceManager",
        ),
        license_manager: name("ha-license-manager", "LicenseManager"),
        license_assignment: name("ha-license-assignment-manager", "LicenseAssignmentManager"),
        option_manager: name("HostAgentSettings", "VpxSettings"),
        authorization_manager: name("ha-authmgr", "AuthorizationManager"),
        user_directory: name("ha-user-directory", "UserDirectory"),
        diagnostic_manager: name("ha-diagnosticmgr", "DiagMgr"),
        perf_manager: name("ha-perfmgr", "PerfMgr"),
        guest_operations: name("ha-guest-operations-manager", "guestOperationsManager"),
        account_manager: name("ha-localacctmgr", ""),
        dvs_manager: name("", "DVSManager"),
        extension_manager: name("", "ExtensionManager"),
        custom_fields: name("", "CustomFieldsManager"),
    }
}

/// Builds the whole inventory, without VMs.
pub(crate) fn build(b: &mut Builder<'_, '_>) {
    services::build(b);
    match &b.config.model {
        Model::Esx => compute::build_esx(b),
        Model::Vc(size) => {
            let size = size.clone();
            compute::build_vc(b, &size);
        }
    }
}

impl<'a, 'b> Builder<'a, 'b> {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        t: &'a mut Transaction,
        config: &'b Config,
        ids: &'b Ids,
        datastores: &'b BTreeMap<String, Arc<Datastore>>,
        thumbprint: &'b str,
        instance: &'b str,
        management: &'b str,
        index: &'b crate::state::Index,
    ) -> Self {
        Builder {
            t,
            config,
            ids,
            datastores,
            thumbprint,
            instance,
            management,
            portgroups: &index.portgroups,
            switches: &index.switches,
            next: 1,
        }
    }

    /// A moid of the model itself: the same at every start with the same size.
    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    pub(crate) fn is_vc(&self) -> bool {
        matches!(self.config.model, Model::Vc(_))
    }

    fn moid(&mut self, on_esx: &str, prefix: &str) -> String {
        if self.is_vc() {
            format!("{prefix}{}", self.number())
        } else {
            on_esx.to_owned()
        }
    }

    /// Adds an entity below `parent`, and to the list of the parent's children named `list`.
    pub(crate) fn entity(
        &mut self,
        r#type: &str,
        moid: String,
        name: &str,
        parent: Option<(&Moref, &'static str)>,
        mut props: Vec<(&'static str, Prop)>,
    ) -> Moref {
        props.extend(entity_props(name, parent.map(|(p, _)| p)));
        let moref = self.t.create(Moref::new(r#type, moid), props);
        if let Some((parent, list)) = parent {
            self.t.add_ref(&parent.value, list, &moref);
        }
        moref
    }

    /// Adds a folder.
    pub(crate) fn folder(
        &mut self,
        moid: String,
        name: &str,
        parent: Option<(&Moref, &'static str)>,
        child_types: &[&str],
    ) -> Moref {
        self.entity("Folder", moid, name, parent, folder_props(child_types))
    }
}

/// The properties of a folder that holds these types.
pub(crate) fn folder_props(child_types: &[&str]) -> Vec<(&'static str, Prop)> {
    let types: Vec<String> = child_types.iter().map(|t| (*t).to_owned()).collect();
    vec![
        ("childType", Prop::value(types)),
        ("childEntity", Prop::Refs(Tree::default())),
    ]
}

/// The properties that every entity has.
pub(crate) fn entity_props(name: &str, parent: Option<&Moref>) -> Vec<(&'static str, Prop)> {
    let mut props = vec![
        ("name", Prop::value(name)),
        ("overallStatus", Prop::value(ManagedEntityStatus::Green)),
        ("configStatus", Prop::value(ManagedEntityStatus::Green)),
        (
            "configIssue",
            Prop::value(Vec::<vmomi::Poly<vmomi::types::Event>>::new()),
        ),
        ("effectiveRole", Prop::value(vec![ADMIN_ROLE])),
        ("permission", Prop::value(Vec::<Permission>::new())),
        ("disabledMethod", Prop::value(Vec::<String>::new())),
        ("recentTask", Prop::Refs(Tree::default())),
        (
            "declaredAlarmState",
            Prop::value(Vec::<vmomi::types::AlarmState>::new()),
        ),
        (
            "triggeredAlarmState",
            Prop::value(Vec::<vmomi::types::AlarmState>::new()),
        ),
        ("alarmActionsEnabled", Prop::value(true)),
        ("tag", Prop::value(Vec::<vmomi::types::Tag>::new())),
        (
            "value",
            Prop::value(Vec::<vmomi::Poly<vmomi::types::CustomFieldValue>>::new()),
        ),
        (
            "customValue",
            Prop::value(Vec::<vmomi::Poly<vmomi::types::CustomFieldValue>>::new()),
        ),
        (
            "availableField",
            Prop::value(Vec::<vmomi::types::CustomFieldDef>::new()),
        ),
    ];
    if let Some(parent) = parent {
        props.push(("parent", Prop::value(parent.clone())));
    }
    props
}

/// What a vSphere says of itself.
pub(crate) fn about(vc: bool, instance: &str) -> AboutInfo {
    let (name, full, line, api, os) = if vc {
        (
            "VMware vCenter Server",
            "VMware vCenter Server 8.0.1 build-21560480 (vic-sim)",
            "vpx",
            "VirtualCenter",
            "linux-x64",
        )
    } else {
        (
            "VMware ESXi",
            "VMware ESXi 8.0.1 build-21495797 (vic-sim)",
            "embeddedEsx",
            "HostAgent",
            "vmnix-x86",
        )
    };
    AboutInfo {
        name: name.into(),
        full_name: full.into(),
        vendor: "VMware, Inc.".into(),
        version: "8.0.1".into(),
        build: if vc { "21560480" } else { "21495797" }.into(),
        locale_version: Some("INTL".into()),
        locale_build: Some("000".into()),
        os_type: os.into(),
        product_line_id: line.into(),
        api_type: api.into(),
        api_version: crate::http::API_VERSIONS[0].into(),
        instance_uuid: vc.then(|| instance.to_owned()),
        license_product_name: Some(
            if vc {
                "VMware VirtualCenter Server"
            } else {
                "VMware ESX Server"
            }
            .into(),
        ),
        license_product_version: Some("8.0".into()),
        ..Default::default()
    }
}

/// What `RetrieveServiceContent` answers.
pub(crate) fn content(ids: &Ids, vc: bool, instance: &str) -> ServiceContent {
    let one =
        |r#type: &str, moid: &String| (!moid.is_empty()).then(|| Moref::new(r#type, moid.clone()));
    ServiceContent {
        root_folder: Moref::new("Folder", &ids.root_folder),
        property_collector: Moref::new("PropertyCollector", &ids.property_collector),
        view_manager: one("ViewManager", &ids.view_manager),
        about: about(vc, instance),
        setting: one("OptionManager", &ids.option_manager),
        user_directory: one("UserDirectory", &ids.user_directory),
        session_manager: one("SessionManager", &ids.session_manager),
        authorization_manager: one("AuthorizationManager", &ids.authorization_manager),
        perf_manager: one("PerformanceManager", &ids.perf_manager),
        event_manager: one("EventManager", &ids.event_manager),
        task_manager: one("TaskManager", &ids.task_manager),
        extension_manager: one("ExtensionManager", &ids.extension_manager),
        custom_fields_manager: one("CustomFieldsManager", &ids.custom_fields),
        account_manager: one("HostLocalAccountManager", &ids.account_manager),
        diagnostic_manager: one("DiagnosticManager", &ids.diagnostic_manager),
        license_manager: one("LicenseManager", &ids.license_manager),
        search_index: one("SearchIndex", &ids.search_index),
        file_manager: one("FileManager", &ids.file_manager),
        datastore_namespace_manager: one("DatastoreNamespaceManager", &ids.namespace_manager),
        virtual_disk_manager: one("VirtualDiskManager", &ids.disk_manager),
        dv_switch_manager: one("DistributedVirtualSwitchManager", &ids.dvs_manager),
        guest_operations_manager: one("GuestOperationsManager", &ids.guest_operations),
        ..Default::default()
    }
}

/// No limit, no reservation, normal shares.
pub(crate) fn allocation(shares: i32) -> ResourceAllocationInfo {
    ResourceAllocationInfo {
        reservation: Some(0),
        expandable_reservation: Some(true),
        limit: Some(-1),
        shares: Some(SharesInfo {
            shares,
            level: SharesLevel::Normal,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The properties of a resource pool.
pub(crate) fn pool_props(
    name: &str,
    owner: &Moref,
    config: ResourceConfigSpec,
) -> Vec<(&'static str, Prop)> {
    let runtime = ResourcePoolRuntimeInfo {
        overall_status: ManagedEntityStatus::Green,
        ..Default::default()
    };
    let summary = ResourcePoolSummary {
        name: name.into(),
        config: config.clone(),
        runtime: runtime.clone(),
        ..Default::default()
    };
    vec![
        ("owner", Prop::value(owner.clone())),
        ("config", Prop::value(config)),
        ("runtime", Prop::value(runtime)),
        ("summary", Prop::value(summary)),
        ("resourcePool", Prop::Refs(Tree::default())),
        ("vm", Prop::Refs(Tree::default())),
        (
            "childConfiguration",
            Prop::value(Vec::<ResourceConfigSpec>::new()),
        ),
    ]
}

/// A pool's configuration without limits.
pub(crate) fn pool_config() -> ResourceConfigSpec {
    ResourceConfigSpec {
        cpu_allocation: allocation(4000),
        memory_allocation: allocation(163_840),
        ..Default::default()
    }
}

/// The roles that are there from the start.
pub(crate) fn roles() -> Vec<AuthorizationRole> {
    let system = ["System.Anonymous", "System.View", "System.Read"];
    let all: Vec<String> = privileges();
    let role = |id: i32, name: &str, privilege: Vec<String>| AuthorizationRole {
        role_id: id,
        system: true,
        name: name.into(),
        info: vmomi::types::Description {
            label: name.into(),
            summary: name.into(),
            ..Default::default()
        },
        privilege,
        ..Default::default()
    };
    let first = |n: usize| {
        system[..n]
            .iter()
            .map(|p| (*p).to_owned())
            .collect::<Vec<_>>()
    };
    vec![
        role(ADMIN_ROLE, "Admin", all),
        role(-2, "ReadOnly", first(3)),
        role(-3, "View", first(2)),
        role(-4, "Anonymous", first(1)),
        role(-5, "NoAccess", Vec::new()),
    ]
}

/// Every privilege that the API's methods ask for.
pub(crate) fn privileges() -> Vec<String> {
    let mut all: Vec<String> = vmomi::method::all()
        .map(|m| m.privilege)
        .chain(["System.Anonymous", "System.View", "System.Read"])
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect();
    all.sort();
    all.dedup();
    all
}

/// An array that is empty, of items of type `T`.
pub(crate) fn none_of<T: vmomi::Element>() -> Any {
    Any::from(Vec::<T>::new())
}
