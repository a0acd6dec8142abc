//! What the guest must not see: docker's own data about a container, outside `guestinfo.`.

use std::collections::BTreeMap;

use super::codec::{self, DecodeError};

/// Prefix of the keys; names below it are docker's own.
const PREFIX: &str = "docker/";

/// Docker's own data of a container, by free names (`name`, `config`, `labels`); values may be of
/// any length and content.
///
/// ```
/// use tether_protocol::config::Hidden;
/// let mut hidden = Hidden::default();
/// hidden.0.insert("name".into(), "web".into());
/// assert_eq!(hidden.encode()["docker/name"], "web");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden(pub BTreeMap<String, String>);

impl Hidden {
    /// The keys that hold it. Names must not be empty nor contain `+`.
    pub fn encode(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (name, value) in &self.0 {
            codec::put_value(&mut out, &format!("{PREFIX}{name}"), value);
        }
        out
    }

    /// Reads the hidden keys among a VM's.
    ///
    /// # Errors
    /// When a value is not one that [`encode`](Self::encode) made.
    pub fn decode(keys: &BTreeMap<String, String>) -> Result<Self, DecodeError> {
        let lookup = |key: &str| keys.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let mut out = BTreeMap::new();
        for key in keys.keys() {
            let Some(name) = key.strip_prefix(PREFIX).filter(|name| !name.contains('+')) else {
                continue;
            };
            if let Some(value) = codec::get_value(key, &lookup)? {
                out.insert(name.to_owned(), value);
            }
        }
        Ok(Self(out))
    }
}
