//! Each row of the table, called from both sides of its change.

use serde_json::{Value, json};

use super::*;
use crate::docker::containers::create::Request;
use crate::docker::version::{NEWEST, OLDEST};

/// What both sides of a row see.
enum Case {
    /// An answer: a document as handlers write it, a place in it, what is there below and from the version on.
    Answer(Value, &'static str, Option<Value>, Option<Value>),
    /// A request: a document as clients send it, a place in it, what handlers read below and from the version on.
    Request(Value, &'static str, Option<Value>, Option<Value>),
    /// A request that the older version refuses.
    Refused(Value, &'static str),
    /// A behaviour: the persona's tests see it over HTTP, from both sides too.
    Behaviour,
}

fn networks(name: &str, endpoint: Value) -> Value {
    json!({"Id": "0123456789abcdef", "NetworkSettings": {"Networks": {name: endpoint}}})
}

fn mounts(mount: Value) -> Value {
    json!({"HostConfig": {"Mounts": [mount]}})
}

fn endpoint(value: Value) -> Value {
    json!({"NetworkingConfig": {"EndpointsConfig": {"a": value}}})
}

/// The case of a row, by what is new.
fn case(row: &Row) -> Option<Case> {
    use Case::{Answer, Behaviour, Refused, Request};
    let zero_time = json!(crate::docker::timestamp::NEVER);
    Some(match (row.place, row.what) {
        (_, "the server removes containers (AutoRemove)") => Request(
            json!({"HostConfig": {"AutoRemove": true}}),
            "/HostConfig/AutoRemove",
            Some(json!(false)),
            Some(json!(true)),
        ),
        (_, "the outcome carries an Error") => Answer(
            json!({"StatusCode": 1, "Error": {"Message": "x"}}),
            "/Error",
            None,
            Some(json!({"Message": "x"})),
        ),
        (_, "IpcMode is private unless said otherwise") => Request(
            json!({"HostConfig": {}}),
            "/HostConfig/IpcMode",
            Some(json!("shareable")),
            None,
        ),
        (_, "Mounts know NonRecursive") => Request(
            mounts(json!({"Type": "bind", "BindOptions": {"NonRecursive": true}})),
            "/HostConfig/Mounts/0/BindOptions/NonRecursive",
            None,
            Some(json!(true)),
        ),
        (_, "CgroupnsMode is known") => Request(
            json!({"HostConfig": {"CgroupnsMode": "private"}}),
            "/HostConfig/CgroupnsMode",
            None,
            Some(json!("private")),
        ),
        (_, "ConsoleSize is taken at create") => Request(
            json!({"HostConfig": {"ConsoleSize": [1, 2]}}),
            "/HostConfig/ConsoleSize",
            None,
            Some(json!([1, 2])),
        ),
        (_, "options of another mount type are refused") => Request(
            mounts(json!({"Type": "bind", "VolumeOptions": {}, "BindOptions": {}})),
            "/HostConfig/Mounts/0/VolumeOptions",
            None,
            Some(json!({})),
        ),
        (_, "Mounts know CreateMountpoint") => Request(
            mounts(json!({"Type": "bind", "BindOptions": {"CreateMountpoint": true}})),
            "/HostConfig/Mounts/0/BindOptions/CreateMountpoint",
            None,
            Some(json!(true)),
        ),
        (_, "ConsoleSize is taken by exec") => Request(
            json!({"ConsoleSize": [1, 2]}),
            "/ConsoleSize",
            None,
            Some(json!([1, 2])),
        ),
        (_, "Annotations are kept") => Request(
            json!({"HostConfig": {"Annotations": {"a": "b"}}}),
            "/HostConfig/Annotations",
            None,
            Some(json!({"a": "b"})),
        ),
        (_, "images without a name have empty lists") => Answer(
            json!({"RepoTags": [], "RepoDigests": []}),
            "/RepoTags",
            Some(json!(["<none>:<none>"])),
            Some(json!([])),
        ),
        (_, "VirtualSize is gone") => {
            Answer(json!({"Size": 5}), "/VirtualSize", Some(json!(5)), None)
        }
        (_, "Created is absent when it is not known") => {
            Answer(json!({}), "/Created", Some(zero_time), None)
        }
        (_, "a container joins several networks at once") => Refused(
            json!({"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}),
            "Container cannot be created with multiple network endpoints: a, b",
        ),
        (_, "an endpoint has a MacAddress") => Request(
            endpoint(json!({"MacAddress": "m"})),
            "/NetworkingConfig/EndpointsConfig/a/MacAddress",
            None,
            Some(json!("m")),
        ),
        (_, "health checks have a StartInterval") => Request(
            json!({"Healthcheck": {"StartInterval": 1}}),
            "/Healthcheck/StartInterval",
            None,
            Some(json!(1)),
        ),
        (_, "endpoints show DNSNames") => Answer(
            networks("a", json!({"DNSNames": ["x"]})),
            "/NetworkSettings/Networks/a/DNSNames",
            None,
            Some(json!(["x"])),
        ),
        (_, "volumes are mounted from a Subpath") => Refused(
            mounts(json!({"Type": "volume", "VolumeOptions": {"Subpath": "x"}})),
            "VolumeOptions.Subpath needs API v1.45 or newer",
        ),
        (_, "Container and ContainerConfig are gone") => {
            Answer(json!({}), "/Container", Some(json!("")), None)
        }
        (_, "Aliases have no short id") => Answer(
            networks("a", json!({"Aliases": ["x"]})),
            "/NetworkSettings/Networks/a/Aliases",
            Some(json!(["x", "0123456789ab"])),
            Some(json!(["x"])),
        ),
        (_, "the list shows Annotations") => Answer(
            json!({"HostConfig": {"Annotations": {"a": "b"}}}),
            "/HostConfig/Annotations",
            None,
            Some(json!({"a": "b"})),
        ),
        (_, "temporary file systems have Options") => Request(
            mounts(json!({"Type": "tmpfs", "TmpfsOptions": {"Options": [["noexec"]]}})),
            "/HostConfig/Mounts/0/TmpfsOptions/Options",
            None,
            Some(json!([["noexec"]])),
        ),
        (_, "Descriptor is shown") => Answer(
            json!({"Descriptor": {}}),
            "/Descriptor",
            None,
            Some(json!({})),
        ),
        (_, "images can be mounted") => Refused(
            mounts(json!({"Type": "image"})),
            "Mount type \"Image\" needs API v1.48 or newer",
        ),
        (_, "endpoints have a GwPriority") => Request(
            endpoint(json!({"GwPriority": 1})),
            "/NetworkingConfig/EndpointsConfig/a/GwPriority",
            None,
            Some(json!(1)),
        ),
        (_, "endpoints show GwPriority") => Answer(
            networks("a", json!({"GwPriority": 1})),
            "/NetworkSettings/Networks/a/GwPriority",
            None,
            Some(json!(1)),
        ),
        (_, "EnableIPv4 is shown") => Answer(
            json!({"EnableIPv4": true}),
            "/EnableIPv4",
            None,
            Some(json!(true)),
        ),
        (_, "FirewallBackend is shown") => Answer(
            json!({"FirewallBackend": {}}),
            "/FirewallBackend",
            None,
            Some(json!({})),
        ),
        (_, "commits have no Expected") => Answer(
            json!({"RuncCommit": {"ID": "x"}}),
            "/RuncCommit/Expected",
            Some(json!("x")),
            None,
        ),
        (_, "AllowNondistributableArtifacts is gone") => Answer(
            json!({"RegistryConfig": {}}),
            "/RegistryConfig/AllowNondistributableArtifactsCIDRs",
            Some(Value::Null),
            None,
        ),
        (_, "BridgeNf fields are gone") => {
            Answer(json!({}), "/BridgeNfIptables", Some(json!(false)), None)
        }
        (_, "Config has only an image's fields") => Answer(
            json!({"Config": {}}),
            "/Config/Hostname",
            Some(json!("")),
            None,
        ),
        (_, "Containers are counted") => Answer(
            json!({"Containers": 2}),
            "/Containers",
            Some(json!(-1)),
            Some(json!(2)),
        ),
        (_, "the default network is not repeated") => Answer(
            networks(
                "bridge",
                json!({"IPAddress": "172.17.0.2", "IPPrefixLen": 16}),
            ),
            "/NetworkSettings/IPAddress",
            Some(json!("172.17.0.2")),
            None,
        ),
        (_, "GraphDriver may be absent") => Answer(
            json!({}),
            "/GraphDriver",
            Some(json!({"Name": "vsphere", "Data": null})),
            None,
        ),
        (_, "empty fields are left out") => {
            Answer(json!({"Config": {}}), "/Parent", Some(json!("")), None)
        }
        (_, "the list shows Health") => {
            Answer(json!({"Health": {}}), "/Health", None, Some(json!({})))
        }
        (_, "status, id and from are gone") => Answer(
            json!({"Type": "container", "Action": "start", "Actor": {"ID": "i", "Attributes": {"image": "b"}}}),
            "/from",
            Some(json!("b")),
            None,
        ),
        (_, "Status is shown") => Answer(json!({"Status": {}}), "/Status", None, Some(json!({}))),
        _ if matches!(row.below, Below::Behaviour) => Behaviour,
        _ => return None,
    })
}

/// The version before a row's.
fn below(row: &Row) -> ApiVersion {
    ApiVersion::v1(row.since.minor() - 1)
}

fn answered(version: ApiVersion, place: Place, mut value: Value) -> Value {
    downgrade(version, place, &mut value);
    value
}

fn read(version: ApiVersion, place: Place, mut value: Value) -> Result<Value, ApiError> {
    upgrade(version, place, &mut value)?;
    Ok(value)
}

#[test]
fn every_row_is_called_from_both_sides() {
    for row in ROWS {
        let name = format!("{:?}: {} ({})", row.place, row.what, row.since);
        assert!(row.since > OLDEST && row.since <= NEWEST, "{name}");
        match case(row).unwrap_or_else(|| panic!("{name}: a row without a test")) {
            Case::Answer(document, path, old, new) => {
                assert!(matches!(row.below, Below::Answer(_)), "{name}");
                let old_document = answered(below(row), row.place, document.clone());
                assert_eq!(old_document.pointer(path).cloned(), old, "{name}, below");
                let new_document = answered(row.since, row.place, document);
                assert_eq!(
                    new_document.pointer(path).cloned(),
                    new,
                    "{name}, from it on"
                );
            }
            Case::Request(document, path, old, new) => {
                assert!(matches!(row.below, Below::Request(_)), "{name}");
                let old_document = read(below(row), row.place, document.clone()).expect(&name);
                assert_eq!(old_document.pointer(path).cloned(), old, "{name}, below");
                let new_document = read(row.since, row.place, document).expect(&name);
                assert_eq!(
                    new_document.pointer(path).cloned(),
                    new,
                    "{name}, from it on"
                );
            }
            Case::Refused(document, text) => {
                let refused = read(below(row), row.place, document.clone()).expect_err(&name);
                assert_eq!(refused.message(), text, "{name}");
                read(row.since, row.place, document).expect(&name);
            }
            Case::Behaviour => {
                assert!(
                    !has(below(row), row.what) && has(row.since, row.what),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_newest_version_sees_what_handlers_write() {
    let document = json!({"Size": 1, "RepoTags": [], "Config": {}, "Annotations": {}});
    for place in [
        Place::ImageItem,
        Place::ImageInspect,
        Place::ContainerInspect,
        Place::Info,
        Place::Event,
    ] {
        assert!(is_newest(NEWEST, place));
        assert_eq!(answered(NEWEST, place, document.clone()), document);
    }
}

#[test]
fn the_containers_own_mac_address_is_taken_below_1_52_and_warned_about_from_1_44() {
    let create = |minor| {
        let body = json!({"Image": "x", "MacAddress": "02:42:ac:11:00:09"});
        Request::read(ApiVersion::v1(minor), body, 2).expect("read")
    };
    let seen: Vec<(bool, usize)> = [43, 44, 51, 52]
        .iter()
        .map(|minor| create(*minor).mac_and_warnings())
        .collect();
    assert_eq!(seen, [(true, 0), (true, 1), (true, 1), (false, 0)]);
}
