//! Any configuration survives its keys, by map and by fetching.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// Texts of every kind that vSphere or XML would spoil.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,30}",
        Just(String::new()),
        Just("\\".to_owned()),
        Just(" a | b\n".to_owned()),
        Just("\u{0}\u{1b}\r\u{ffff}".to_owned()),
        Just("é".repeat(70_000)),
        Just("x".repeat(128 * 1024)),
    ]
}

prop_compose! {
    fn session()(
        args in vec(text(), 0..4),
        env in vec(text(), 0..4),
        dir in text(),
        user in text(),
        tty: bool,
        rows: u32,
        stop_timeout in proptest::option::of(any::<u32>()),
        cap_add in vec(text(), 0..3),
        oom_score_adj: i32,
    ) -> Session {
        let security = Security { cap_add, oom_score_adj, ..Default::default() };
        Session { args, env, dir, user, tty, rows, stop_timeout, security, ..Default::default() }
    }
}

prop_compose! {
    fn executor()(
        id in "[0-9a-f]{1,64}",
        hostname in text(),
        sessions in btree_map("[0-9a-f]{1,64}", session(), 0..3),
        dest in text(),
        slot in proptest::option::of((any::<u8>(), any::<u8>())),
        address in proptest::option::of((any::<[u8; 4]>(), 0u8..=32)),
        dns in vec(any::<[u8; 16]>(), 0..3),
        log_port in proptest::option::of(any::<u32>()),
        shm_size: u64,
    ) -> ExecutorConfig {
        let slot = slot.map(|(bus, unit)| Slot { bus, unit });
        let address = address.map(|(ip, prefix)| Cidr { ip: ip.into(), prefix });
        ExecutorConfig {
            id,
            hostname,
            sessions,
            mounts: vec![Mount { dest, slot, ..Default::default() }, Mount::default()],
            networks: vec![NetworkEndpoint { address, ..Default::default() }],
            dns: dns.into_iter().map(Into::into).collect(),
            log_port,
            shm_size,
            ..Default::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_container_survives_its_keys(config in executor()) {
        let keys = config.encode();
        for (key, value) in &keys {
            prop_assert!(!value.is_empty(), "{} would be deleted", key);
            prop_assert!(value.len() <= 33 * 1024);
            let spoiled = |c: char| c.is_control() && c != '\n' && c != '\t';
            prop_assert!(!value.contains(spoiled));
        }
        prop_assert_eq!(ExecutorConfig::decode(&keys), Ok(config.clone()));
        let mut batches = 0;
        let fetched = ExecutorConfig::fetch(|wanted: &[String]| {
            batches += 1;
            Ok::<_, Infallible>(wanted.iter().map(|key| keys.get(key).cloned()).collect())
        });
        prop_assert_eq!(fetched.unwrap(), config);
        prop_assert!(batches <= 6, "{} batches", batches);
    }

    #[test]
    fn docker_data_of_any_kind_survives(map in btree_map("[a-z]{1,8}", text(), 0..5)) {
        let hidden = Hidden(map);
        prop_assert_eq!(Hidden::decode(&hidden.encode()), Ok(hidden));
    }

    #[test]
    fn any_text_is_escaped_and_back(value in any::<String>()) {
        prop_assert_eq!(unescape(&escape(&value)), Some(value));
    }

    #[test]
    fn any_keys_decode_or_are_refused(
        values in btree_map(
            prop_oneof![
                Just("guestinfo.vice./sessions".to_owned()),
                Just("guestinfo.vice./mounts".to_owned()),
                Just("guestinfo.vice./mounts|0/slot".to_owned()),
                Just("guestinfo.vice./hostname".to_owned()),
                Just("guestinfo.vice./cert/HostCertificate/Key@secret".to_owned()),
                Just("guestinfo.ovfEnv".to_owned()),
            ],
            prop_oneof![".{0,20}", "[0-9]{1,6}", Just("\\+9999999".to_owned())],
            0..6,
        ),
    ) {
        let _ = ExecutorConfig::decode(&values);
        let _ = ApplianceConfig::decode(&values);
        let _ = ProcessState::decode("x", &values);
    }

    #[test]
    fn what_a_process_reports_is_read(
        error in "[a-z: ]{1,20}x",
        code: i32,
        started_at in proptest::option::of(any::<i64>()),
    ) {
        for status in [
            ProcessStatus::Failed { error: error.clone(), code },
            ProcessStatus::Running,
            ProcessStatus::Pending,
        ] {
            let state = ProcessState { status, started_at, stopped_at: None };
            let keys: BTreeMap<_, _> = state.encode("id").into_iter().collect();
            prop_assert_eq!(ProcessState::decode("id", &keys), state);
        }
    }
}

#[test]
fn secrets_are_sealed_and_read_only_with_the_key() {
    let mut config = ApplianceConfig {
        name: "vch".into(),
        ..Default::default()
    };
    config.connect.password = Secret("hunter2".into());
    config.executor.id = "vm-1".into();
    let mut keys = config.encode();
    assert!(keys.values().all(|value| !value.contains("hunter2")));
    assert_eq!(ApplianceConfig::decode(&keys), Ok(config.clone()));
    assert_eq!(keys["guestinfo.vice./init/common/id"], "vm-1");
    // Another VM's key opens nothing; without a key the rest is still read.
    let other = ApplianceConfig::default()
        .encode()
        .remove(SEAL_KEY)
        .unwrap();
    let key = keys.insert(SEAL_KEY.to_owned(), other);
    assert!(ApplianceConfig::decode(&keys).is_err());
    keys.remove(SEAL_KEY);
    let without = ApplianceConfig::decode(&keys).unwrap();
    assert_eq!(
        (without.name.as_str(), without.connect.password.0.as_str()),
        ("vch", "")
    );
    assert!(key.is_some());
    assert_eq!(format!("{:?}", config.connect.password), "Secret(…)");
}

#[test]
fn a_delta_deletes_what_is_gone() {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let old = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let new = map(&[("a", "1"), ("b", "9"), ("d", "4")]);
    assert_eq!(delta(&old, &new), map(&[("b", "9"), ("c", ""), ("d", "4")]));
}
