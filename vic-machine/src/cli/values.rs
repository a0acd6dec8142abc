//! Values of options, as they are typed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

/// A length of time such as `3m`, `1m30s`, `1.5h` or `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(180))
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time such as 3m or 1m30s");
        let mut rest = text;
        let mut total = 0.0;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit_end = rest[digits..]
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .map_or(rest.len(), |end| digits + end);
            let seconds = match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
            total += number * seconds;
            rest = &rest[unit_end..];
        }
        match Duration::try_from_secs_f64(total) {
            Ok(time) if !text.is_empty() => Ok(Self(time)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, seconds) = (self.0.as_secs() / 60, self.0.as_secs() % 60);
        match (minutes, seconds, self.0.subsec_millis()) {
            (0, 0, millis) => write!(f, "{millis}ms"),
            (0, seconds, _) => write!(f, "{seconds}s"),
            (minutes, seconds, _) => write!(f, "{minutes}m{seconds}s"),
        }
    }
}

/// A size on disk such as `8GB`: decimal units, as vSphere's and docker's users write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// In thousands of bytes.
    pub(crate) kilobytes: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            kilobytes: 8_000_000,
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size such as 8GB or 500MB");
        let text_upper = text.trim().to_ascii_uppercase();
        let digits = text_upper
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text_upper.len());
        let number: u64 = text_upper[..digits].parse().map_err(|_| wrong())?;
        let unit = match text_upper[digits..]
            .trim()
            .trim_end_matches('B')
            .trim_end_matches('I')
        {
            "T" => 1_000_000_000,
            "G" => 1_000_000,
            "M" => 1_000,
            "K" => 1,
            _ => return Err(wrong()),
        };
        let kilobytes = number
            .checked_mul(unit)
            .filter(|size| *size > 0)
            .ok_or_else(wrong)?;
        Ok(Self { kilobytes })
    }
}

/// A folder of a datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StorePath {
    /// The datastore.
    pub(crate) datastore: String,
    /// The folder, without slashes at its ends; empty for the root.
    pub(crate) path: String,
}

impl StorePath {
    /// The form `[datastore] path`.
    pub(crate) fn bracketed(&self) -> String {
        format!("[{}] {}", self.datastore, self.path)
    }

    /// The form `ds://datastore/path`.
    pub(crate) fn url(&self) -> String {
        format!("ds://{}/{}", self.datastore, self.path)
    }

    /// A folder in this one.
    pub(crate) fn join(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        };
        Self {
            datastore: self.datastore.clone(),
            path,
        }
    }
}

impl FromStr for StorePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("ds://").unwrap_or(text);
        if rest.contains("://") {
            return Err(format!(
                "{text:?} does not name a datastore: only ds:// is known here"
            ));
        }
        if rest.contains('?') {
            return Err(format!(
                "{text:?} names a datastore, which takes no ?options"
            ));
        }
        let (datastore, path) = rest.split_once('/').unwrap_or((rest, ""));
        if datastore.is_empty() {
            return Err(format!("{text:?} does not name a datastore"));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(format!("{text:?} leads out of its datastore"));
        }
        Ok(Self {
            datastore: datastore.to_owned(),
            path: path.trim_matches('/').to_owned(),
        })
    }
}

/// A volume store with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeStore {
    /// How `docker volume create` names it.
    pub(crate) label: String,
    /// Where it is.
    pub(crate) at: StorePath,
}

impl FromStr for VolumeStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("nfs://") {
            return Err("volume stores on NFS are not there yet".into());
        }
        let scheme = if text.starts_with("ds://") {
            "ds://".len()
        } else {
            0
        };
        let (store, label) = text[scheme..]
            .rsplit_once(':')
            .filter(|(_, label)| !label.is_empty())
            .ok_or_else(|| format!("{text:?} has no label: write datastore/path:label"))?;
        if let Some(c) = label
            .chars()
            .find(|c| super::super::name::FORBIDDEN.contains(*c))
        {
            return Err(format!(
                "the label of {text:?} contains the unsupported character {c:?}"
            ));
        }
        Ok(Self {
            label: label.to_owned(),
            at: store.parse()?,
        })
    }
}

/// An address with its prefix length, as `192.0.2.7/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: Ipv4Addr,
    /// Bits of the network part.
    pub(crate) prefix: u8,
}

impl Address {
    /// Tells whether `other` is in the same network.
    pub(crate) fn contains(self, other: Ipv4Addr) -> bool {
        let shift = 32 - u32::from(self.prefix);
        let network = |ip: Ipv4Addr| u32::from(ip).checked_shr(shift).unwrap_or(0);
        network(self.ip) == network(other)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address with its prefix, such as 192.0.2.7/24");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = Self {
            ip: ip.parse().map_err(|_| wrong())?,
            prefix: prefix.parse().map_err(|_| wrong())?,
        };
        if address.prefix > 32 {
            Err(wrong())
        } else {
            Ok(address)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// The address of a gateway; VIC's form with a mask (`192.0.2.1/24`) is taken too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gateway(pub(crate) Ipv4Addr);

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return Err(format!(
                "the public network has the default route: {text:?} must not name destinations"
            ));
        }
        match text.split('/').next().unwrap_or_default().parse() {
            Ok(IpAddr::V4(ip)) => Ok(Self(ip)),
            _ => Err(format!("{text:?} is not the address of a gateway")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        assert_eq!("3m".parse::<Timeout>().unwrap().0, Duration::from_secs(180));
        assert_eq!("1m30s".parse::<Timeout>().unwrap().to_string(), "1m30s");
        assert_eq!(
            "1.5h".parse::<Timeout>().unwrap().0,
            Duration::from_secs(5400)
        );
        assert_eq!(
            "500ms".parse::<Timeout>().unwrap().0,
            Duration::from_millis(500)
        );
        for wrong in ["", "3", "m", "3x", "-1s", "1..s"] {
            assert!(wrong.parse::<Timeout>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!("8GB".parse::<Size>().unwrap().kilobytes, 8_000_000);
        assert_eq!("500 mb".parse::<Size>().unwrap().kilobytes, 500_000);
        assert!("8".parse::<Size>().is_err() && "0GB".parse::<Size>().is_err());
    }

    #[test]
    fn stores_are_named_in_three_ways() {
        let store: StorePath = "ds://my store/a/b/".parse().unwrap();
        assert_eq!(
            (store.bracketed(), store.url()),
            ("[my store] a/b".into(), "ds://my store/a/b".into())
        );
        assert_eq!("datastore1".parse::<StorePath>().unwrap().path, "");
        assert!("nfs://host/x".parse::<StorePath>().is_err());
        assert!("ds/../x".parse::<StorePath>().is_err());
        let volumes: VolumeStore = "ds://one/vols:fast".parse().unwrap();
        assert_eq!(
            (volumes.label.as_str(), volumes.at.path.as_str()),
            ("fast", "vols")
        );
        assert!("one/vols".parse::<VolumeStore>().is_err());
        assert!("one/vols:a*b".parse::<VolumeStore>().is_err());
    }

    #[test]
    fn addresses_know_their_network() {
        let address: Address = "10.1.2.3/16".parse().unwrap();
        assert!(address.contains("10.1.9.9".parse().unwrap()));
        assert!(!address.contains("10.2.0.1".parse().unwrap()));
        assert!("10.1.2.3".parse::<Address>().is_err());
        assert_eq!(
            "10.0.0.1/8".parse::<Gateway>().unwrap().0,
            Ipv4Addr::new(10, 0, 0, 1)
        );
        assert!("10.0.0.0/8:10.0.0.1".parse::<Gateway>().is_err());
    }
}
