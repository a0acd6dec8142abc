//! What a later `up` changes of the VCH's registries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tether_protocol::config::{ApplianceConfig, delta};

use crate::failure::{Failure, Tried};
use crate::plan;

/// The keys to write into the VCH's configuration, which now has `keys`. What is not named stays as it is.
pub(super) fn change(
    keys: &BTreeMap<String, String>,
    insecure: &[String],
    authorities: &[PathBuf],
) -> Result<BTreeMap<String, String>, Failure> {
    if insecure.is_empty() && authorities.is_empty() {
        return Ok(BTreeMap::new());
    }
    let config = ApplianceConfig::decode(keys).tried("cannot read the VCH's configuration")?;
    let mut registry = config.registry.clone();
    if !insecure.is_empty() {
        registry.insecure = insecure.to_vec();
    }
    if !authorities.is_empty() {
        registry.ca = plan::read_registry_ca(authorities).map_err(Failure::new)?;
    }
    let only = |registry| {
        let config = ApplianceConfig {
            registry,
            ..Default::default()
        };
        config.encode()
    };
    let mut changed = delta(&only(config.registry), &only(registry));
    // Secrets are sealed anew by each encoding; those of the VCH stay as they are.
    changed.retain(|key, _| key.contains("registry/"));
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vch() -> ApplianceConfig {
        let mut config = ApplianceConfig {
            name: "vch".into(),
            ..Default::default()
        };
        config.registry.insecure = vec!["one:5000".into(), "two:5000".into()];
        config.registry.whitelist = vec!["kept".into()];
        config.connect.password.0 = "secret".into();
        config
    }

    fn apply(keys: &mut BTreeMap<String, String>, changed: BTreeMap<String, String>) {
        for (key, value) in changed {
            // As vSphere does: an empty value removes the key.
            if value.is_empty() {
                keys.remove(&key);
            } else {
                keys.insert(key, value);
            }
        }
    }

    #[test]
    fn named_registries_take_the_place_of_the_old_ones_and_nothing_else_changes() {
        let mut keys = vch().encode();
        let changed = change(&keys, &["three:5000".into()], &[]).unwrap();
        apply(&mut keys, changed);
        let mut wanted = vch();
        wanted.registry.insecure = vec!["three:5000".into()];
        assert_eq!(ApplianceConfig::decode(&keys).unwrap(), wanted);
    }

    #[test]
    fn authorities_are_read_and_a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pem = dir.path().join("ca.pem");
        let text = "-----BEGIN CERTIFICATE-----\nY2E=\n-----END CERTIFICATE-----\n";
        std::fs::write(&pem, text).unwrap();
        let mut keys = vch().encode();
        let changed = change(&keys, &[], &[pem]).unwrap();
        apply(&mut keys, changed);
        let registry = ApplianceConfig::decode(&keys).unwrap().registry;
        assert!(registry.ca.contains("Y2E="));
        assert_eq!(registry.insecure, vch().registry.insecure);
        let error = change(&keys, &[], &["/no/ca.pem".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/ca.pem"), "{error}");
    }

    #[test]
    fn nothing_named_is_nothing_changed() {
        assert!(change(&vch().encode(), &[], &[]).unwrap().is_empty());
    }
}
