//! Every method and every property that the API model has, one after the other: each works or answers
//! with a fault that it may answer with, and nothing is ever nonsense.

use std::collections::{BTreeMap, BTreeSet};

use vmomi::client::property_spec;
use vmomi::method::MethodInfo;
use vmomi::soap::Fault;
use vmomi::types::*;
use vmomi::xml::Limits;
use vmomi::{Any, ManagedObjectReference as Moref, Value};

use super::bench::{Bench, Raw, bench, spec, vcenter};

/// Calls that end or change the session with which we walk, or wait for what does not come.
const NOT_CALLED: [&str; 5] = [
    "Logout",
    "TerminateSession",
    "Login",
    "CloneSession",
    "WaitForUpdates",
];

struct Walk {
    bench: Bench,
    raw: Raw,
    complaints: Vec<String>,
}

impl Walk {
    async fn new(bench: Bench, user: &str) -> Self {
        let manager = bench.client.content().session_manager.clone();
        let raw = Raw::logged_in(&bench.simulator, user, &manager.expect("one")).await;
        Walk {
            bench,
            raw,
            complaints: Vec::new(),
        }
    }

    /// Calls `method` with parameters at their defaults, and judges the answer.
    async fn judge(&mut self, method: &'static MethodInfo, this: &Moref) {
        let arguments = ((method.arguments)().new)();
        let reply = self.raw.send(this, &*arguments).await;
        let mut value = (method.response)();
        let read = vmomi::soap::parse_response_into(
            &reply.body,
            method.name,
            &mut *value,
            Limits::RESPONSE,
        );
        let what = format!("{} on {this}", method.name);
        let fault = match (reply.status, read) {
            (200, Ok(None)) => match self.task_fault(method, &*value).await {
                Some(fault) => fault,
                None => return,
            },
            (500, Ok(Some(fault))) => fault,
            (status, read) => {
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                return self
                    .complaints
                    .push(format!("{what}: {status} {read:?} {body}"));
            }
        };
        let declared = method.faults.iter().any(|name| fault.is_a(name));
        // Any method may answer that it cannot be called so; none may say that the server is broken.
        if !declared && !fault.is_a("RuntimeFault") || fault.name() == "SystemError" {
            self.complaints
                .push(format!("{what}: {fault} is not declared"));
        }
        if fault.text.is_empty() {
            self.complaints
                .push(format!("{what}: {fault} says nothing"));
        }
    }

    /// The fault with which the task ended that a method gave.
    async fn task_fault(&mut self, method: &MethodInfo, value: &dyn Value) -> Option<Fault> {
        let Some(Any::Reference(task)) = value.to_any() else {
            return None;
        };
        if !method.task {
            return None;
        }
        match self.bench.client.wait_task(&task).await {
            Ok(_) => None,
            Err(error) => match error.fault() {
                Some(fault) => Some(fault.clone()),
                None => {
                    self.complaints.push(format!("{}: {error}", method.name));
                    None
                }
            },
        }
    }

    /// One object of each type that there is now.
    async fn objects(&self) -> BTreeMap<String, Moref> {
        let client = &self.bench.client;
        let root = client.content().root_folder.clone();
        let mut found = BTreeMap::new();
        let mut add = |moref: Moref| {
            found.entry(moref.r#type.clone()).or_insert(moref);
        };
        let content = client.content();
        if let Some(data) = content_references(content) {
            data.into_iter().for_each(&mut add);
        }
        add(Moref::service_instance());
        let entities = client.below(&root, &["ManagedEntity"], &["name"]).await;
        for entity in entities.expect("lists") {
            add(entity.object);
        }
        for kind in ["HostSystem", "Datastore", "ComputeResource"] {
            let all = client.below(&root, &[kind], &[]).await.expect("lists");
            for object in all {
                for (_, value) in &object.values {
                    references(value, &mut add);
                }
            }
        }
        let licence = content.license_manager.clone().expect("one");
        let all = client.properties(&[licence], &[]).await.expect("reads");
        for (_, value) in &all[0].values {
            references(value, &mut add);
        }
        found
    }

    /// An object of this type, made when it is gone or was never there.
    async fn object(&self, kind: &str, known: &BTreeMap<String, Moref>) -> Option<Moref> {
        let client = &self.bench.client;
        let content = client.content();
        match kind {
            "VirtualMachine" => {
                let root = content.root_folder.clone();
                let all = client.below(&root, &["VirtualMachine"], &["name"]).await;
                if let Some(vm) = all.expect("lists").into_iter().next() {
                    return Some(vm.object);
                }
                let mut config = spec("walked", vec![]);
                let store = if client.is_vcenter() {
                    "LocalDS_0"
                } else {
                    "datastore1"
                };
                config.files = Some(VirtualMachineFileInfo {
                    vm_path_name: Some(format!("[{store}]")),
                    ..Default::default()
                });
                let datacenter = self.bench.first("Datacenter").await;
                let folder: Option<Moref> = client
                    .property(&datacenter, "vmFolder")
                    .await
                    .expect("reads");
                let request = CreateVMRequest {
                    config,
                    pool: self.bench.first("ResourcePool").await,
                    ..Default::default()
                };
                let made = client.run_task(&folder.expect("is set"), request).await;
                let made = made.expect("made").result;
                made.and_then(|r| r.as_reference().cloned())
            }
            // These belong to the session that calls.
            "ContainerView" => {
                let request = CreateContainerViewRequest {
                    container: content.root_folder.clone(),
                    ..Default::default()
                };
                let views = content.view_manager.clone()?;
                let reply = self.raw.send(&views, &request).await;
                reply.of::<CreateContainerViewRequest>().ok()
            }
            "ListView" => {
                let views = content.view_manager.clone()?;
                let reply = self
                    .raw
                    .send(&views, &CreateListViewRequest::default())
                    .await;
                reply.of::<CreateListViewRequest>().ok()
            }
            "PropertyFilter" => {
                let request = CreateFilterRequest {
                    spec: PropertyFilterSpec {
                        prop_set: vec![property_spec("Folder", &["name"])],
                        object_set: vec![ObjectSpec {
                            obj: content.root_folder.clone(),
                            ..Default::default()
                        }],
                        ..Default::default()
                    },
                    partial_updates: false,
                };
                let reply = self.raw.send(&content.property_collector, &request).await;
                reply.of::<CreateFilterRequest>().ok()
            }
            "EventHistoryCollector" => {
                let request = CreateCollectorForEventsRequest::default();
                let reply = self
                    .raw
                    .send(&content.event_manager.clone()?, &request)
                    .await;
                reply.of::<CreateCollectorForEventsRequest>().ok()
            }
            "TaskHistoryCollector" => {
                let request = CreateCollectorForTasksRequest::default();
                let reply = self
                    .raw
                    .send(&content.task_manager.clone()?, &request)
                    .await;
                reply.of::<CreateCollectorForTasksRequest>().ok()
            }
            "Task" => {
                let request = CreateTaskRequest {
                    obj: content.root_folder.clone(),
                    task_type_id: "com.example.walk".into(),
                    ..Default::default()
                };
                let reply = self
                    .raw
                    .send(&content.task_manager.clone()?, &request)
                    .await;
                reply.of::<CreateTaskRequest>().ok().map(|info| info.task)
            }
            kind => known.get(kind).cloned(),
        }
    }
}

fn references(value: &Any, found: &mut impl FnMut(Moref)) {
    use vmomi::value::Node;
    match value {
        Any::Reference(moref) => found(moref.clone()),
        Any::Array(array) => array.items.iter().for_each(|item| references(item, found)),
        other => {
            let other: &dyn Value = other;
            if let Node::Data(data) = other.node() {
                for index in 0..data.info().fields.len() {
                    if let Some(Any::Reference(moref)) = data.field(index).and_then(|f| f.to_any())
                    {
                        found(moref);
                    }
                }
            }
        }
    }
}

fn content_references(content: &ServiceContent) -> Option<Vec<Moref>> {
    let mut found = Vec::new();
    references(&Any::from(content.clone()), &mut |m| found.push(m));
    Some(found)
}

const MADE: [&str; 7] = [
    "VirtualMachine",
    "ContainerView",
    "ListView",
    "PropertyFilter",
    "EventHistoryCollector",
    "TaskHistoryCollector",
    "Task",
];

async fn every_method(bench: Bench, user: &str) -> BTreeSet<String> {
    let mut walk = Walk::new(bench, user).await;
    let known = walk.objects().await;
    let mut kinds: BTreeSet<String> = known.keys().cloned().collect();
    kinds.extend(MADE.map(str::to_owned));
    let mut called = 0;
    for kind in &kinds {
        let class = vmomi::managed::lookup(kind).expect("a managed type");
        for method in vmomi::method::all() {
            if NOT_CALLED.contains(&method.name) || !class.is_a(method.owner) {
                continue;
            }
            // A wait on a collector without anything to tell does not end.
            if method.name == "WaitForUpdatesEx" {
                walk.object("PropertyFilter", &known).await;
            }
            let this = walk.object(kind, &known).await;
            let Some(this) = this else {
                walk.complaints.push(format!("there is no {kind}"));
                break;
            };
            walk.judge(method, &this).await;
            called += 1;
        }
    }
    assert!(called > 250, "{called} calls");
    assert_eq!(
        walk.complaints,
        [""; 0],
        "{} complaints",
        walk.complaints.len()
    );
    kinds
}

#[tokio::test]
async fn every_method_of_an_esxi_host_works_or_answers_a_declared_fault() {
    every_method(bench().await, "root").await;
}

#[tokio::test]
async fn every_method_of_a_vcenter_works_or_answers_a_declared_fault() {
    let kinds = every_method(vcenter().await, "administrator@vsphere.local").await;
    assert!(kinds.contains("ClusterComputeResource"), "{kinds:?}");
}

#[tokio::test]
async fn a_method_of_another_type_and_one_of_no_type_are_not_found() {
    let bench = bench().await;
    let walk = Walk::new(bench, "root").await;
    let known = walk.objects().await;
    for kind in known.keys().cloned().collect::<Vec<_>>() {
        let class = vmomi::managed::lookup(&kind).expect("a managed type");
        let this = walk.object(&kind, &known).await.expect("is there");
        let strange = vmomi::method::all().find(|m| !class.is_a(m.owner) && m.name != "Login");
        let strange = strange.expect("there is one");
        let arguments = ((strange.arguments)().new)();
        let reply = walk.raw.send(&this, &*arguments).await;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(body.contains("MethodNotFoundFault"), "{kind}: {body}");
        assert_eq!(reply.status, 500);
        // The same object by the name of a type that is not its own.
        let renamed = Moref::new("VirtualMachine", this.value.clone());
        let reply = walk.raw.send(&renamed, &PowerOnVMRequest::default()).await;
        assert_eq!(
            reply.fault::<PowerOnVMRequest>(),
            "MethodNotFound",
            "{kind}"
        );
    }
    let unknown = "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\">\
        <soapenv:Body><MakeCoffee xmlns=\"urn:vim25\"><_this type=\"ServiceInstance\">ServiceInstance\
        </_this></MakeCoffee></soapenv:Body></soapenv:Envelope>";
    let reply = walk.raw.post(unknown).await;
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(body.contains("MethodNotFoundFault"), "{body}");
    assert_eq!(reply.status, 500);
    for nonsense in ["", "hello", "<a/>", "<a><b></a>", "\u{0}\u{1}"] {
        let reply = walk.raw.post(nonsense).await;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 500, "{nonsense:?}: {body}");
        assert!(body.contains("InvalidRequestFault"), "{nonsense:?}: {body}");
    }
    // A call that lacks what it needs.
    let empty = "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\">\
        <soapenv:Body><CreateFolder xmlns=\"urn:vim25\"><_this type=\"Folder\">ha-folder-vm\
        </_this></CreateFolder></soapenv:Body></soapenv:Envelope>";
    let reply = walk.raw.post(empty).await;
    assert_eq!(reply.fault::<CreateFolderRequest>(), "InvalidRequest");
}

#[tokio::test]
async fn no_method_finds_an_object_that_is_not_there() {
    let bench = bench().await;
    let walk = Walk::new(bench, "root").await;
    for method in vmomi::method::all() {
        if NOT_CALLED.contains(&method.name) {
            continue;
        }
        let arguments = ((method.arguments)().new)();
        let none = Moref::new(method.owner, "no-such-object");
        let reply = walk.raw.send(&none, &*arguments).await;
        let mut value = (method.response)();
        let read = vmomi::soap::parse_response_into(
            &reply.body,
            method.name,
            &mut *value,
            Limits::RESPONSE,
        );
        let fault = read.expect("an answer").expect("a fault");
        let missing = fault.get::<ManagedObjectNotFound>();
        let missing = missing.unwrap_or_else(|| panic!("{}: {fault}", method.name));
        assert_eq!(missing.obj, none, "{}", method.name);
    }
}

/// Reads every property of every object, one at a time and all at once.
async fn every_property(bench: Bench, user: &str) {
    let mut walk = Walk::new(bench, user).await;
    let mut known = walk.objects().await;
    for kind in MADE {
        known.insert(
            kind.to_owned(),
            walk.object(kind, &known).await.expect("is made"),
        );
    }
    let mut complaints = Vec::new();
    for (kind, object) in &known {
        let class = vmomi::managed::lookup(kind).expect("a managed type");
        // What lives in a session is no object of the inventory: only its own session reads it.
        if kind == "PropertyFilter" {
            continue;
        }
        let mut sample = (class.info().new)();
        for field in class.info().fields {
            let read = walk.read(object, &[field.name]).await;
            let content = match read {
                Ok(content) => content,
                Err(fault) => {
                    complaints.push(format!("{kind}.{}: {fault}", field.name));
                    continue;
                }
            };
            let own = sample.named_mut(field.name).expect("is declared");
            let any = own.declared_name() == "anyType";
            match content.prop_set.into_iter().next() {
                Some(found) => {
                    if let Err(wrong) = own.set(Some(found.val)) {
                        complaints.push(format!("{kind}.{}: {wrong}", field.name));
                    }
                }
                None if own.required() => {
                    complaints.push(format!("{kind}.{} is not set", field.name));
                }
                None => {}
            }
            if any {
                continue;
            }
            let below = format!("{}.nonsense", field.name);
            let fault = walk
                .read(object, &[&below])
                .await
                .expect_err("no such property");
            if fault.name() != "InvalidProperty" {
                complaints.push(format!("{kind}.{below}: {fault}"));
            }
        }
        let fault = walk.read(object, &["nonsense"]).await.expect_err("none");
        let invalid = fault.get::<InvalidProperty>().expect(kind);
        assert_eq!(invalid.name, "nonsense");
        let all = walk.read(object, &[]).await.expect("all of them");
        assert!(all.missing_set.is_empty(), "{:?}", all.missing_set);
    }
    walk.complaints.extend(complaints);
    assert_eq!(
        walk.complaints,
        [""; 0],
        "{} complaints",
        walk.complaints.len()
    );
}

impl Walk {
    async fn read(&self, object: &Moref, paths: &[&str]) -> Result<ObjectContent, Fault> {
        let request = RetrievePropertiesExRequest {
            spec_set: vec![PropertyFilterSpec {
                prop_set: vec![property_spec(&object.r#type, paths)],
                object_set: vec![ObjectSpec {
                    obj: object.clone(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let collector = &self.bench.client.content().property_collector;
        let reply = self.raw.send(collector, &request).await;
        let result = reply.of::<RetrievePropertiesExRequest>()?;
        let mut objects = result.expect("the object").objects;
        assert_eq!(objects.len(), 1);
        Ok(objects.remove(0))
    }
}

#[tokio::test]
async fn every_property_of_an_esxi_host_is_what_the_model_says_and_no_other_is_there() {
    every_property(bench().await, "root").await;
}

#[tokio::test]
async fn every_property_of_a_vcenter_is_what_the_model_says_and_no_other_is_there() {
    every_property(vcenter().await, "administrator@vsphere.local").await;
}
