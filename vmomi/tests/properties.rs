//! Whatever is written can be read again, and whatever is read ends.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use vmomi::soap;
use vmomi::types::*;
use vmomi::{Any, Binary, ManagedObjectReference, Poly, Value, Version, path};

/// Text that XML 1.0 can hold.
fn text() -> impl Strategy<Value = String> {
    "[\t\n\r\\x20-\\x7e\u{a0}-\u{d7ff}\u{10000}-\u{10100}]{0,20}"
}

fn reference() -> impl Strategy<Value = ManagedObjectReference> {
    ("[A-Z][a-z]{1,8}", "[a-z0-9\\[\\]<&\" -]{1,12}")
        .prop_map(|(t, v)| ManagedObjectReference::new(t, v))
}

fn device() -> impl Strategy<Value = Poly<VirtualDevice>> {
    let backing = prop_oneof![
        (text(), option::of(any::<bool>())).prop_map(|(file_name, thin_provisioned)| {
            Poly::<VirtualDeviceBackingInfo>::new(VirtualDiskFlatVer2BackingInfo {
                file_name,
                thin_provisioned,
                ..Default::default()
            })
        }),
        text().prop_map(|device_name| {
            Poly::new(VirtualEthernetCardNetworkBackingInfo {
                device_name,
                ..Default::default()
            })
        }),
        text().prop_map(|service_uri| {
            Poly::new(VirtualSerialPortURIBackingInfo {
                service_uri,
                ..Default::default()
            })
        }),
    ];
    let common = (any::<i32>(), option::of(backing), option::of(any::<i32>()));
    (common, any::<i64>(), 0..4).prop_map(|((key, backing, controller_key), size, kind)| match kind
    {
        0 => VirtualDisk {
            key,
            backing,
            controller_key,
            capacity_in_kb: size,
            ..Default::default()
        }
        .into(),
        1 => VirtualVmxnet3 {
            key,
            backing,
            controller_key,
            ..Default::default()
        }
        .into(),
        2 => ParaVirtualSCSIController {
            key,
            bus_number: size as i32,
            ..Default::default()
        }
        .into(),
        _ => VirtualDevice {
            key,
            backing,
            controller_key,
            ..Default::default()
        }
        .into(),
    })
}

fn simple() -> impl Strategy<Value = Any> {
    prop_oneof![
        any::<bool>().prop_map(Any::Bool),
        any::<i8>().prop_map(Any::Byte),
        any::<i16>().prop_map(Any::Short),
        any::<i32>().prop_map(Any::Int),
        any::<i64>().prop_map(Any::Long),
        any::<f32>()
            .prop_filter("equal to itself", |v| !v.is_nan())
            .prop_map(Any::Float),
        any::<f64>()
            .prop_filter("equal to itself", |v| !v.is_nan())
            .prop_map(Any::Double),
        text().prop_map(Any::String),
        vec(any::<u8>(), 0..20).prop_map(|b| Any::Binary(Binary(b))),
        reference().prop_map(Any::Reference),
    ]
}

fn value() -> impl Strategy<Value = Any> {
    prop_oneof![
        simple(),
        vec(text(), 0..4).prop_map(Any::from),
        vec(reference(), 0..4).prop_map(Any::from),
        vec(device(), 0..4).prop_map(Any::from),
        (text(), simple()).prop_map(|(key, value)| OptionValue {
            key,
            value: Some(value)
        }
        .into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_change_is_read_as_it_was_written(name in text(), val in option::of(value())) {
        let change = PropertyChange { name, val, ..Default::default() };
        let set = UpdateSet {
            version: "1".into(),
            filter_set: vec![PropertyFilterUpdate {
                object_set: vec![ObjectUpdate { change_set: vec![change], ..Default::default() }],
                ..Default::default()
            }],
            truncated: Some(true),
        };
        let text = soap::response("WaitForUpdatesEx", &set, Version::newest());
        let read = soap::parse_response::<WaitForUpdatesExRequest>(text.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(read, Some(set));
    }

    #[test]
    fn a_request_is_read_as_it_was_written(
        this in reference(),
        name in option::of(text()),
        devices in vec(device(), 0..4),
        options in vec((text(), value()), 0..4),
    ) {
        let request = ReconfigVMRequest {
            spec: VirtualMachineConfigSpec {
                name,
                device_change: devices
                    .into_iter()
                    .map(|device| VirtualDeviceConfigSpec { device, ..Default::default() }.into())
                    .collect(),
                extra_config: options.into_iter().map(|(k, v)| OptionValue { key: k, value: Some(v) }).collect(),
                ..Default::default()
            },
        };
        let method = vmomi::method::lookup("ReconfigVM_Task").unwrap();
        let text = soap::request(method, &this, &request, &soap::Header::default(), Version::newest());
        let read = soap::parse_request(text.as_bytes()).unwrap();
        prop_assert_eq!(&read.this, &this);
        prop_assert_eq!(read.arguments.downcast::<ReconfigVMRequest>().unwrap(), request);
    }

    #[test]
    fn damaged_documents_end_in_an_error_or_a_value(cut in 0usize..2000, flip in 0usize..2000, with in any::<u8>()) {
        let request = ReconfigVMRequest::default();
        let method = vmomi::method::lookup("ReconfigVM_Task").unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", "vm-1");
        let mut text =
            soap::request(method, &this, &request, &soap::Header::default(), Version::newest()).into_bytes();
        let at = flip % text.len();
        text[at] = with;
        text.truncate(text.len() - cut % text.len());
        let _ = soap::parse_request(&text);
        let _ = soap::parse_response::<ReconfigVMRequest>(&text);
    }

    #[test]
    fn any_bytes_end_in_an_error(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(soap::parse_request(&bytes).is_err());
    }

    #[test]
    fn any_path_ends_in_an_answer(text in "[a-z.\\[\\]\"\\\\0-9]{0,24}") {
        let vm = vmomi::mo::VirtualMachine::default();
        let _ = path::find(&vm, &text);
        let _ = path::check(info(), &text);
    }

    #[test]
    fn what_is_the_same_is_the_same_however_it_is_held(v in value()) {
        prop_assert!(Value::same(&v, &v.clone()));
        prop_assert_eq!(v.clone().to::<Any>().unwrap(), v);
    }
}

fn info() -> &'static vmomi::TypeInfo {
    (vmomi::managed::lookup("VirtualMachine").unwrap().properties)()
}
