//! The codec on documents as the clients and servers in the field write them.

#![allow(clippy::unwrap_used)]

#[path = "codec/cost.rs"]
mod cost;

use vmomi::soap::{self, Fault, RequestError};
use vmomi::types::*;
use vmomi::value::Element;
use vmomi::xml::{Error, Limits, Reader, Writer};
use vmomi::{
    Any, Array, DateTime, ManagedObjectReference, Method, Poly, Value, Version, data, path,
};

/// As govmomi writes it: a default name space on the envelope, `xsi` under a name of its own on each element.
const GOVC: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Header><operationID xmlns="">4f-2</operationID></Header><Body><ReconfigVM_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-42</_this><spec><name>a&amp;b &#x41;<![CDATA[<c>]]></name><deviceChange><operation>add</operation><fileOperation>create</fileOperation><device xmlns:_XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" _XMLSchema-instance:type="VirtualDisk"><key>-1</key><backing xmlns:_XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" _XMLSchema-instance:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds] x.vmdk</fileName><diskMode>persistent</diskMode><thinProvisioned>1</thinProvisioned></backing><capacityInKB>1048576</capacityInKB></device></deviceChange><extraConfig><key>n</key><value xmlns:XMLSchema="http://www.w3.org/2001/XMLSchema" xmlns:_XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" _XMLSchema-instance:type="XMLSchema:int">7</value></extraConfig></spec></ReconfigVM_Task></Body></Envelope>"#;

/// As pyvmomi writes it: prefixes declared once, and attributes that no schema has.
const PYVMOMI: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<soapenv:Body>
<RetrievePropertiesEx xmlns="urn:vim25"><_this versionId="8.0.1.0" xsi:type="ManagedObjectReference" type="PropertyCollector">ha-property-collector</_this><specSet><propSet versionId="8.0.1.0" xsi:type="PropertySpec"><type>VirtualMachine</type><all>false</all><pathSet>name</pathSet><pathSet>runtime</pathSet></propSet><objectSet xsi:type="ObjectSpec"><obj type="Folder">group-v3</obj><skip>true</skip><selectSet xsi:type="TraversalSpec"><name>f</name><type>Folder</type><path>childEntity</path><skip>false</skip><selectSet><name>f</name></selectSet></selectSet></objectSet></specSet><options><maxObjects>1</maxObjects></options></RetrievePropertiesEx>
</soapenv:Body>
</soapenv:Envelope>"#;

#[test]
fn a_request_of_govmomi_is_read() {
    let request = soap::parse_request(GOVC.as_bytes()).unwrap();
    assert_eq!(
        request.this,
        ManagedObjectReference::new("VirtualMachine", "vm-42")
    );
    assert_eq!(request.method.name, "ReconfigVM_Task");
    assert_eq!(request.header.operation_id.as_deref(), Some("4f-2"));
    let spec = request
        .arguments
        .downcast::<ReconfigVMRequest>()
        .unwrap()
        .spec;
    assert_eq!(spec.name.as_deref(), Some("a&b A<c>"));
    let change = spec.device_change[0].clone();
    assert_eq!(
        *change.operation(),
        Some(VirtualDeviceConfigSpecOperation::Add)
    );
    let disk = change.device().get::<VirtualDisk>().unwrap();
    assert_eq!(disk.capacity_in_kb, 1_048_576);
    let backing = disk
        .backing
        .as_ref()
        .unwrap()
        .get::<VirtualDiskFlatVer2BackingInfo>()
        .unwrap();
    assert_eq!(
        (backing.file_name.as_str(), backing.thin_provisioned),
        ("[ds] x.vmdk", Some(true))
    );
    assert_eq!(spec.extra_config, [OptionValue::new("n", 7)]);
}

#[test]
fn a_request_of_pyvmomi_is_read() {
    let request = soap::parse_request(PYVMOMI.as_bytes()).unwrap();
    let request = request
        .arguments
        .downcast::<RetrievePropertiesExRequest>()
        .unwrap();
    assert_eq!(request.options.max_objects, Some(1));
    let select = &request.spec_set[0].object_set[0].select_set[0];
    let traversal = select.get::<TraversalSpec>().unwrap();
    assert_eq!(traversal.path, "childEntity");
    assert!(traversal.select_set[0].is::<SelectionSpec>());
    assert_eq!(traversal.select_set[0].name().as_deref(), Some("f"));
}

#[test]
fn what_is_not_a_call_of_ours_is_told_apart() {
    let unknown = GOVC.replace("ReconfigVM_Task", "MakeCoffee_Task");
    match soap::parse_request(unknown.as_bytes()) {
        Err(RequestError::UnknownMethod {
            this,
            method,
            namespace,
        }) => {
            assert_eq!(
                (this.value.as_str(), method.as_str()),
                ("vm-42", "MakeCoffee_Task")
            );
            assert_eq!(namespace, "urn:vim25");
        }
        other => panic!("{other:?}"),
    }
    let other = GOVC.replace("urn:vim25", "urn:pbm");
    assert!(matches!(
        soap::parse_request(other.as_bytes()),
        Err(RequestError::UnknownMethod { .. })
    ));
    for broken in [
        "",
        "x",
        "<a/>",
        "<Envelope/>",
        &GOVC[..600],
        "\u{0}",
        "<?xml version=\"1.0\"?>",
    ] {
        assert!(
            matches!(
                soap::parse_request(broken.as_bytes()),
                Err(RequestError::Malformed(_))
            ),
            "{broken:?}"
        );
    }
    let missing = GOVC.replace("<key>-1</key>", "");
    assert!(matches!(
        soap::parse_request(missing.as_bytes()),
        Err(RequestError::Malformed(Error::Missing {
            r#type: "VirtualDisk",
            field: "key"
        }))
    ));
}

#[test]
fn a_document_beyond_a_limit_is_refused() {
    let limits = Limits {
        bytes: 10_000,
        depth: 20,
        elements: 100,
    };
    let deep = format!("{}{}", "<a>".repeat(21), "</a>".repeat(21));
    let many = format!("<a>{}</a>", "<b/>".repeat(101));
    let read = |text: &str, limits| -> Result<(), Error> {
        let mut reader = Reader::new(text.as_bytes(), limits)?;
        reader.next_child()?;
        reader.skip()
    };
    assert!(matches!(
        read(&deep, limits),
        Err(Error::TooDeep { limit: 20 })
    ));
    assert!(matches!(
        read(&many, limits),
        Err(Error::TooMany { limit: 100 })
    ));
    assert!(matches!(
        read(&" ".repeat(10_001), limits),
        Err(Error::TooLong { limit: 10_000 })
    ));
    let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>"#;
    assert!(matches!(read(bomb, limits), Err(Error::DocumentType)));
    // Skipped content is not looked at; text is.
    let mut reader = Reader::new(b"<a>&b;</a>", limits).unwrap();
    reader.next_child().unwrap();
    assert!(matches!(reader.text(), Err(Error::Entity(name)) if name == "b"));
}

#[test]
fn the_deepest_document_allowed_does_not_exhaust_a_small_stack() {
    let mut nested = String::new();
    let depth = Limits::REQUEST.depth;
    for _ in 0..depth {
        nested.push_str("<faultCause><fault xsi:type=\"NotFound\">");
    }
    let text = format!("<x xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">{nested}");
    let handle = std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let mut reader = Reader::new(text.as_bytes(), Limits::REQUEST).unwrap();
            let start = reader.next_child().unwrap().unwrap();
            Poly::<MethodFault>::default()
                .read_element(&mut reader, &start)
                .unwrap_err()
        })
        .unwrap();
    assert!(matches!(handle.join().unwrap(), Error::TooDeep { .. }));
}

/// Reads `<val …>` with the prefixes that a server declares.
fn any(element: &str) -> Any {
    let text = format!(
        r#"<r xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">{element}</r>"#
    );
    let mut reader = Reader::new(text.as_bytes(), Limits::RESPONSE).unwrap();
    reader.next_child().unwrap();
    let start = reader.next_child().unwrap().unwrap();
    let mut value = Any::default();
    value.read_element(&mut reader, &start).unwrap();
    value
}

fn written(value: &dyn Value, name: &str, version: Version) -> String {
    let mut out = Writer::new(version);
    value.write(&mut out, name);
    out.finish()
}

#[test]
fn every_kind_of_any_keeps_its_type() {
    for text in [
        r#"<val xsi:type="xsd:boolean">true</val>"#,
        r#"<val xsi:type="xsd:byte">-1</val>"#,
        r#"<val xsi:type="xsd:short">3</val>"#,
        r#"<val xsi:type="xsd:int">3</val>"#,
        r#"<val xsi:type="xsd:long">9000000000</val>"#,
        r#"<val xsi:type="xsd:double">0.5</val>"#,
        r#"<val xsi:type="xsd:string"></val>"#,
        r#"<val xsi:type="xsd:dateTime">2026-11-21T12:00:00.5Z</val>"#,
        r#"<val xsi:type="xsd:base64Binary">AAEC</val>"#,
        r#"<val type="VirtualMachine" xsi:type="ManagedObjectReference">vm-42</val>"#,
        r#"<val xsi:type="VirtualMachinePowerState">poweredOn</val>"#,
        r#"<val xsi:type="OptionValue"><key>k</key><value xsi:type="xsd:string">v</value></val>"#,
        r#"<val xsi:type="ArrayOfString"><string>a</string><string>b</string></val>"#,
        r#"<val xsi:type="ArrayOfInt"></val>"#,
        r#"<val xsi:type="ArrayOfManagedObjectReference"><ManagedObjectReference type="HostSystem">h</ManagedObjectReference></val>"#,
        r#"<val xsi:type="ArrayOfVirtualDevice"><VirtualDevice xsi:type="VirtualIDEController"><key>200</key><busNumber>0</busNumber></VirtualDevice></val>"#,
        r#"<val xsi:type="ArrayOfAnyType"><anyType xsi:type="xsd:int">1</anyType></val>"#,
    ] {
        assert_eq!(written(&any(text), "val", Version::newest()), text);
    }
}

#[test]
fn an_unlisted_subtype_is_read_as_its_nearest_base_and_keeps_its_name() {
    assert!(data::lookup("VirtualHdAudioCard").is_none());
    let card = any(
        r#"<val xsi:type="VirtualHdAudioCard"><key>5</key><unknown><deep/></unknown><unitNumber>1</unitNumber></val>"#,
    );
    let Any::Data(poly) = &card else {
        panic!("{card:?}")
    };
    assert!(poly.data().get::<VirtualSoundCard>().is_some());
    assert_eq!(poly.type_name(), "VirtualHdAudioCard");
    let device: Poly<VirtualDevice> = card.clone().to().unwrap();
    assert_eq!((*device.key(), *device.unit_number()), (5, Some(1)));
    assert!(device.is_a("VirtualDevice") && device.is_a("VirtualHdAudioCard"));
    assert_eq!(
        written(&device, "device", Version::newest()),
        r#"<device xsi:type="VirtualHdAudioCard"><key>5</key><unitNumber>1</unitNumber></device>"#
    );
    // A name that no model has is kept too.
    let odd = r#"<val xsi:type="TotallyNew"></val>"#;
    assert_eq!(written(&any(odd), "val", Version::newest()), odd);
}

#[test]
fn a_type_that_does_not_fit_its_place_is_refused() {
    let text = GOVC.replace("\"VirtualDisk\"", "\"HostSystemInfo\"");
    let error = soap::parse_request(text.as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::Malformed(Error::WrongType {
                expected: "VirtualDevice",
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn an_enum_keeps_a_value_that_the_model_does_not_have() {
    let state = VirtualMachinePowerState::from("hibernating");
    assert_eq!(
        state,
        VirtualMachinePowerState::Unknown("hibernating".into())
    );
    assert_eq!(
        written(&state, "s", Version::newest()),
        "<s>hibernating</s>"
    );
    assert_eq!(
        VirtualMachinePowerState::PoweredOff.to_string(),
        "poweredOff"
    );
}

#[test]
fn elements_come_base_first_and_in_declared_order() {
    let disk = VirtualDisk {
        capacity_in_kb: 1,
        key: 2000,
        unit_number: Some(0),
        controller_key: Some(1000),
        backing: Some(
            VirtualDiskFlatVer2BackingInfo {
                file_name: "[ds] a.vmdk".into(),
                disk_mode: "persistent".into(),
                datastore: Some(ManagedObjectReference::new("Datastore", "ds-1")),
                ..Default::default()
            }
            .into(),
        ),
        ..Default::default()
    };
    assert_eq!(
        written(
            &Poly::<VirtualDevice>::new(disk),
            "device",
            Version::newest()
        ),
        r#"<device xsi:type="VirtualDisk"><key>2000</key><backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds] a.vmdk</fileName><datastore type="Datastore">ds-1</datastore><diskMode>persistent</diskMode></backing><controllerKey>1000</controllerKey><unitNumber>0</unitNumber><capacityInKB>1</capacityInKB></device>"#
    );
}

#[test]
fn an_older_client_is_not_sent_what_it_does_not_know() {
    let old = Version::of_action("\"urn:vim25/6.7.3\"").unwrap();
    assert_eq!(old.id(), "6.7.3");
    let content = ServiceContent {
        tenant_manager: Some(ManagedObjectReference::new("TenantTenantManager", "t")),
        view_manager: Some(ManagedObjectReference::new("ViewManager", "v")),
        site_info_manager: Some(ManagedObjectReference::new("SiteInfoManager", "s")),
        ..Default::default()
    };
    let text = written(&content, "returnval", old);
    assert!(
        text.contains("viewManager") && !text.contains("siteInfoManager"),
        "{text}"
    );
    assert!(written(&content, "returnval", Version::newest()).contains("siteInfoManager"));
    // A type that is newer than the client goes out as the base that it knows.
    let found = data::all().find(|t| !old.shows(t.since) && t.is_a("Event") && t.name != "Event");
    if let Some(newer) = found {
        let event = Poly::<Event>::from_data((newer.new)()).unwrap();
        assert!(!written(&event, "e", old).contains(newer.name));
    }
    assert_eq!(Version::parse("6.7.9").unwrap().id(), "6.7.3");
    assert_eq!(Version::parse("99").unwrap(), Version::newest());
    assert!(Version::all().next().unwrap().starts_with("9."));
}

#[test]
fn a_fault_goes_both_ways() {
    let fault = Fault::new(
        InvalidPowerState {
            requested_state: Some(VirtualMachinePowerState::PoweredOn),
            existing_state: VirtualMachinePowerState::PoweredOn,
            ..Default::default()
        },
        "The attempted operation cannot be performed in the current state (Powered on).",
    );
    let text = soap::fault(&fault, Version::newest());
    assert!(
        text.contains(r#"<InvalidPowerStateFault xmlns="urn:vim25" xsi:type="InvalidPowerState">"#),
        "{text}"
    );
    let read = soap::parse_response::<PowerOnVMRequest>(text.as_bytes())
        .unwrap()
        .unwrap_err();
    assert_eq!(read, fault);
    assert!(read.is_a("InvalidState") && read.is_a("VimFault") && !read.is_a("RuntimeFault"));
    assert_eq!(
        read.get::<InvalidPowerState>().unwrap().existing_state,
        VirtualMachinePowerState::PoweredOn
    );
    // Without xsi:type the element's name tells the type.
    let bare = text.replace(" xsi:type=\"InvalidPowerState\"", "");
    assert_eq!(
        soap::parse_response::<PowerOnVMRequest>(bare.as_bytes())
            .unwrap()
            .unwrap_err(),
        fault
    );
    let localized = fault.localized();
    let task = TaskInfo {
        error: Some(localized),
        ..Default::default()
    };
    assert!(written(&task, "info", Version::newest()).contains(
        r#"<error><fault xsi:type="InvalidPowerState"><requestedState>poweredOn</requestedState><existingState>poweredOn</existingState></fault><localizedMessage>"#
    ));
}

#[test]
fn a_response_may_have_no_one_and_many_values() {
    let version = Version::newest();
    let none = soap::response("FindByUuid", &None::<ManagedObjectReference>, version);
    assert_eq!(
        soap::parse_response::<FindByUuidRequest>(none.as_bytes()).unwrap(),
        Ok(None)
    );
    let vm = ManagedObjectReference::new("VirtualMachine", "vm-1");
    let one = soap::response("FindByUuid", &vm, version);
    assert_eq!(
        soap::parse_response::<FindByUuidRequest>(one.as_bytes()).unwrap(),
        Ok(Some(vm.clone()))
    );
    let many = soap::response("FindAllByUuid", &vec![vm.clone(), vm.clone()], version);
    assert_eq!(
        soap::parse_response::<FindAllByUuidRequest>(many.as_bytes())
            .unwrap()
            .unwrap()
            .len(),
        2
    );
    let void = soap::response("Logout", &(), version);
    assert_eq!(
        soap::parse_response::<LogoutRequest>(void.as_bytes()).unwrap(),
        Ok(())
    );
    assert!(soap::parse_response::<LogoutRequest>(many.as_bytes()).is_err());
}

#[test]
fn control_characters_never_make_invalid_xml() {
    let value = "tab\t newline\n return\r quote\" null\u{0} escape\u{1b} end\u{ffff}";
    let text = written(&OptionValue::new("k", value), "o", Version::newest());
    assert!(
        text.contains("tab&#9; newline&#10; return&#13;") && !text.contains('\u{0}'),
        "{text}"
    );
    let back = any(&text.replace("<o>", r#"<o xsi:type="OptionValue">"#));
    let option: OptionValue = back.to().unwrap();
    assert_eq!(
        option.text(),
        Some("tab\t newline\n return\r quote\" null\u{fffd} escape\u{fffd} end\u{fffd}")
    );
}

#[test]
fn a_path_leads_through_objects_arrays_and_keys() {
    let vm = vmomi::mo::VirtualMachine {
        name: "vm".into(),
        config: Some(VirtualMachineConfigInfo {
            hardware: VirtualHardware {
                device: vec![
                    VirtualIDEController {
                        key: 200,
                        ..Default::default()
                    }
                    .into(),
                    VirtualDisk {
                        key: 2000,
                        backing: Some(
                            VirtualDiskFlatVer2BackingInfo {
                                file_name: "[d] x".into(),
                                ..Default::default()
                            }
                            .into(),
                        ),
                        ..Default::default()
                    }
                    .into(),
                ],
                ..Default::default()
            },
            extra_config: vec![OptionValue::new("a.b[\"c\"]", "v")],
            ..Default::default()
        }),
        datastore: vec![ManagedObjectReference::new("Datastore", "ds-1")],
        ..Default::default()
    };
    let get = |p: &str| path::get(&vm, p);
    assert_eq!(get("name"), Ok(Some("vm".into())));
    assert_eq!(
        get("config.hardware.device[2000].backing.fileName"),
        Ok(Some("[d] x".into()))
    );
    assert_eq!(get("config.hardware.device[7].backing"), Ok(None));
    assert_eq!(
        get(r#"config.extraConfig["a.b[\"c\"]"].value"#),
        Ok(Some("v".into()))
    );
    assert_eq!(get("guest.ipAddress"), Ok(None));
    assert!(matches!(
        get("datastore[\"ds-1\"]"),
        Ok(Some(Any::Reference(_)))
    ));
    assert!(
        get("nonsense").is_err()
            && get("config.nonsense").is_err()
            && get("guest.nonsense").is_err()
    );
    assert!(
        get("").is_err() && get("a..b").is_err() && get("config.hardware.device[2000").is_err()
    );
    match get("config.hardware.device") {
        Ok(Some(Any::Array(Array { item, items }))) => {
            assert_eq!((item.as_ref(), items.len()), ("VirtualDevice", 2))
        }
        other => panic!("{other:?}"),
    }
    let info = (vmomi::managed::lookup("VirtualMachine").unwrap().properties)();
    assert!(path::check(info, "config.hardware.device[2000].capacityInKB").is_ok());
    assert!(path::check(info, "summary.runtime.powerState").is_ok());
    assert!(path::check(info, "config.hardware.device[2000].cup").is_err());
    assert!(path::check(info, "name.length").is_err());
}

#[test]
fn the_tables_tell_what_a_server_asks() {
    let power_on = vmomi::method::lookup("PowerOnVM_Task").unwrap();
    assert_eq!((power_on.owner, power_on.task), ("VirtualMachine", true));
    assert_eq!(power_on.privilege, "VirtualMachine.Interact.PowerOn");
    assert!(power_on.faults.contains(&"TaskInProgress"));
    assert_eq!(CreateVMRequest::INFO.name, "CreateVM_Task");
    let vm = vmomi::managed::lookup("VirtualMachine").unwrap();
    assert!(vm.is_a("ManagedEntity") && !vm.is_a("HostSystem"));
    assert!(
        vm.details
            .iter()
            .any(|d| d.0 == "datastore" && d.1 == "ManagedObjectReference[]")
    );
    assert!(vmomi::method::all().count() > 250 && data::all().count() > 1000);
    for info in data::all() {
        if let Some(base) = info.base.map(|b| b()) {
            let same = info
                .fields
                .iter()
                .zip(base.fields)
                .all(|(a, b)| a.name == b.name);
            assert!(
                same && info.fields.len() >= base.fields.len(),
                "{} begins as {} does",
                info.name,
                base.name
            );
        }
    }
    assert_eq!(DateTime::default().to_string(), "1970-01-01T00:00:00Z");
}

#[test]
fn every_type_is_read_as_it_was_written() {
    for info in data::all() {
        let change = PropertyChange {
            val: Some(Any::Data(Poly::from_data((info.new)()).unwrap())),
            ..Default::default()
        };
        let object = ObjectUpdate {
            change_set: vec![change],
            ..Default::default()
        };
        let update = PropertyFilterUpdate {
            object_set: vec![object],
            ..Default::default()
        };
        let set = UpdateSet {
            filter_set: vec![update],
            ..Default::default()
        };
        let text = soap::response("WaitForUpdatesEx", &set, Version::newest());
        let read = soap::parse_response::<WaitForUpdatesExRequest>(text.as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(read, Some(set), "{}", info.name);
    }
}
