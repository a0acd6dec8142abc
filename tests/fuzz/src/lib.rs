//! Fuzz targets as plain functions: none may panic, hang or use memory without bound, whatever the bytes.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, by way of `tests/fuzz/libfuzzer`; `cargo test -p fuzz` replays the
//! corpora of `tests/fuzz/corpus`.

pub mod archive;
pub mod docker;

use std::collections::BTreeMap;

/// A function that takes whatever bytes there are.
pub type Target = fn(&[u8]);

/// Name and function of each target; the corpus of a target is the folder of its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("soap", soap),
    ("link_frame", link_frame),
    ("guest_rpc", guest_rpc),
    ("config", config),
    ("log_record", log_record),
    ("vmdk_descriptor", vmdk_descriptor),
    ("cpio", cpio),
    ("iso", iso_image),
    ("unpack", unpack),
    ("dhcp", dhcp),
    ("reference", reference),
    ("credentials", credentials),
    ("registry", registry),
    ("vmx", vmx),
    ("docker_create", docker::create),
    ("docker_filters", docker::filters),
    ("docker_request", docker::request),
    ("archive", archive::open),
    ("challenge", challenge),
    ("soap_reply", soap_reply),
    ("datastore", datastore),
    ("vmdk_sparse", vmdk_sparse),
    ("accounts", accounts),
    ("guest_network", guest_network),
];

/// A SOAP request as the simulator reads it.
pub fn soap(bytes: &[u8]) {
    let _ = vmomi::soap::parse_request(bytes);
}

/// A SOAP reply as a client of vSphere reads it: one with every kind of value, and one of plain data.
pub fn soap_reply(bytes: &[u8]) {
    use vmomi::types::{RetrieveServiceContentRequest, WaitForUpdatesExRequest};
    let _ = vmomi::soap::parse_response::<WaitForUpdatesExRequest>(bytes);
    let _ = vmomi::soap::parse_response::<RetrieveServiceContentRequest>(bytes);
}

/// Frames and messages of the link between guest and host.
pub fn link_frame(bytes: &[u8]) {
    tether_protocol::session::fuzz_decode(bytes);
}

/// Guest RPC: requests, replies, NIC information.
pub fn guest_rpc(bytes: &[u8]) {
    let mut buffer = bytes.to_vec();
    while let Ok(Some(message)) = tether_protocol::rpci::take_message(&mut buffer) {
        let _ = tether_protocol::rpci::Command::decode(&message);
        let _ = tether_protocol::rpci::Reply::decode(&message);
    }
    let _ = tether_protocol::nicinfo::NicInfo::decode(bytes);
}

/// The configuration of a VM: lines `key=value`.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let keys: BTreeMap<String, String> = text
        .lines()
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let _ = tether_protocol::config::ExecutorConfig::decode(&keys);
    let _ = tether_protocol::config::ApplianceConfig::decode(&keys);
}

/// A line of a container's log.
pub fn log_record(bytes: &[u8]) {
    let _ = tether_protocol::log::Record::decode(bytes);
}

/// The descriptor of a VMDK.
pub fn vmdk_descriptor(bytes: &[u8]) {
    let _ = simulator::vmdk::parse_descriptor(&String::from_utf8_lossy(bytes));
}

/// An initramfs.
pub fn cpio(bytes: &[u8]) {
    if let Ok(dir) = tempfile::tempdir() {
        let _ = iso::cpio::unpack(&mut iso::cpio::Reader::new(bytes), dir.path());
    }
}

/// An ISO image.
pub fn iso_image(bytes: &[u8]) {
    if let Ok(mut image) = iso::Reader::new(std::io::Cursor::new(bytes)) {
        let _ = image.list();
    }
}

/// A layer's tar, as the unpacker reads it.
pub fn unpack(bytes: &[u8]) {
    let bytes = &archive::with_sums(bytes)[..];
    let limits = imagec::unpack::Limits::default();
    let _ = imagec::unpack::scan(bytes, &limits);
    if let Ok(dir) = tempfile::tempdir() {
        let _ = imagec::unpack::unpack(bytes, dir.path(), &limits);
    }
}

/// What a DHCP server answers.
///
/// # Panics
/// When the times of an answer are not in order: that is the finding.
pub fn dhcp(bytes: &[u8]) {
    // The transaction and the address are where an answer to anybody has them.
    let field = |from: usize| bytes.get(from..from + 6).and_then(|b| b.try_into().ok());
    let mac: [u8; 6] = field(28).unwrap_or_default();
    let transaction = field(4).map_or(0, |b: [u8; 6]| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let answer = tether::network::dhcp::Answer::decode(bytes, transaction, mac);
    if let Some(answer) = answer {
        assert!(answer.renew_seconds <= answer.rebind_seconds);
        assert!(answer.rebind_seconds <= answer.lease_seconds && answer.prefix <= 32);
    }
}

/// The name of an image, as users type it.
///
/// # Panics
/// When what is printed of it is not read as the same: that is the finding.
pub fn reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(reference) = imagec::Reference::parse(&text) {
        let printed = reference.to_string();
        let again = imagec::Reference::parse(&printed);
        assert_eq!(again.map(|r| r.to_string()), Ok(printed));
    }
}

/// The header with which a client sends a registry's credentials.
pub fn credentials(bytes: &[u8]) {
    let _ = imagec::Credentials::from_header(&String::from_utf8_lossy(bytes));
}

/// Manifests, indexes and configurations as a registry sends them.
pub fn registry(bytes: &[u8]) {
    imagec::fuzz_parse(bytes);
}

/// The file that says what a VM is.
pub fn vmx(bytes: &[u8]) {
    simulator::fuzz_vmx(&String::from_utf8_lossy(bytes));
}

/// What a registry asks of whoever is not logged in.
pub fn challenge(bytes: &[u8]) {
    imagec::fuzz_challenge(&String::from_utf8_lossy(bytes));
}

/// Paths of datastores, and ranges of their files.
pub fn datastore(bytes: &[u8]) {
    simulator::fuzz_datastore(&String::from_utf8_lossy(bytes));
}

/// A disk that somebody put on a datastore: opened, and read at its ends.
pub fn vmdk_sparse(bytes: &[u8]) {
    use simulator::vmdk::{Access, Chain, Roots};
    let Ok(dir) = tempfile::tempdir() else { return };
    let top = dir.path().join("x.vmdk");
    let Ok(roots) = Roots::new([dir.path()]) else {
        return;
    };
    if std::fs::write(&top, bytes).is_ok()
        && let Ok(chain) = Chain::open(&top, Access::ReadOnly, &roots)
    {
        let mut sector = [0; 512];
        for at in [
            0,
            chain.capacity() / 2,
            chain.capacity().saturating_sub(512),
        ] {
            let _ = chain.read_at(&mut sector, at);
        }
    }
}

/// The user and group files of an image: who is asked for stands in the first line.
pub fn accounts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (asked, files) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(dir) = tempfile::tempdir() else { return };
    let etc = dir.path().join("etc");
    if std::fs::create_dir(&etc).is_ok()
        && ["passwd", "group"]
            .iter()
            .all(|name| std::fs::write(etc.join(name), files).is_ok())
    {
        let _ = tether::accounts::look_up(dir.path(), asked, &[asked.to_owned()]);
    }
}

/// What a guest sends to the DHCP server and the name server of its network.
pub fn guest_network(bytes: &[u8]) {
    simulator::network::fuzz_guest(bytes);
}
