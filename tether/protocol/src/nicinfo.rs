//! The XDR document by which a guest reports its addresses (`SetGuestInfo  10`, GuestNicProto v3 of
//! VMware Tools), so that vSphere shows them as `guest.net`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Cidr;

/// Most elements of any list, most bytes of any string.
const LIMIT: u32 = 256;

/// What a guest says of its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicInfo {
    /// The NICs.
    pub nics: Vec<Nic>,
    /// Host name, empty when not said.
    pub host_name: String,
    /// Domain name, empty when not said.
    pub domain_name: String,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
}

/// One NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// MAC address, `00:50:56:…`.
    pub mac: String,
    /// Addresses.
    pub addresses: Vec<Cidr>,
    /// The addresses came by DHCP.
    pub dhcp: bool,
}

/// Bytes that are not this document.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("NIC information ends or is malformed at byte {at}")]
pub struct Malformed {
    at: usize,
}

impl NicInfo {
    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut x = Writer(Vec::new());
        x.u32(3); // NIC_INFO_V3
        x.u32(1); // a pointer that is there
        x.count(self.nics.len());
        for nic in &self.nics {
            x.string(&nic.mac);
            x.count(nic.addresses.len());
            for address in &nic.addresses {
                x.address(address.ip);
                x.u32(u32::from(address.prefix));
                x.u32(1);
                x.u32(if nic.dhcp { 4 } else { 2 }); // origin: DHCP or manual
                x.u32(1);
                x.u32(1); // status: preferred
            }
            x.u32(0); // DNS of the NIC
            x.u32(0); // WINS
            x.u32(1); // DHCPv4
            x.u32(u32::from(nic.dhcp));
            x.string("");
            x.u32(0); // DHCPv6
        }
        x.count(usize::from(self.gateway.is_some()));
        if let Some(gateway) = self.gateway {
            x.address(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            x.u32(0); // prefix length
            x.u32(1);
            x.address(gateway);
            x.u32(0); // index of the interface
            x.u32(4); // remote
            x.u32(0); // metric
        }
        x.u32(1); // DNS
        x.optional(&self.host_name);
        x.optional(&self.domain_name);
        x.count(self.dns.len());
        for server in &self.dns {
            x.address(*server);
        }
        x.count(self.search.len());
        for suffix in &self.search {
            x.string(suffix);
        }
        x.u32(0); // WINS
        x.u32(0); // DHCPv4
        x.u32(0); // DHCPv6
        x.0
    }

    /// Reads the document.
    ///
    /// # Errors
    /// When the bytes are not such a document, or beyond the limits of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut x = Reader { bytes, at: 0 };
        if x.u32()? != 3 || !x.flag()? {
            return Err(x.malformed());
        }
        let mut info = Self {
            nics: x.list(Reader::nic)?,
            ..Self::default()
        };
        info.gateway = x.list(Reader::route)?.into_iter().flatten().next();
        if x.flag()? {
            info.host_name = x.optional()?;
            info.domain_name = x.optional()?;
            info.dns = x.list(Reader::address)?.into_iter().flatten().collect();
            info.search = x.list(Reader::string)?;
        }
        Ok(info)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }
    fn opaque(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
    fn string(&mut self, text: &str) {
        self.opaque(text.as_bytes());
    }
    fn optional(&mut self, text: &str) {
        self.u32(u32::from(!text.is_empty()));
        if !text.is_empty() {
            self.string(text);
        }
    }
    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                self.u32(1);
                self.opaque(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.u32(2);
                self.opaque(&v6.octets());
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }
    fn take(&mut self, count: usize) -> Result<&[u8], Malformed> {
        let error = self.malformed();
        let end = self.at.checked_add(count).ok_or(error)?;
        let error = self.malformed();
        let taken = self.bytes.get(self.at..end).ok_or(error)?;
        self.at = end;
        Ok(taken)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        let taken = self.take(4)?;
        Ok(taken
            .iter()
            .fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
    fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.u32()? != 0)
    }
    fn length(&mut self) -> Result<usize, Malformed> {
        let length = self.u32()?;
        if length > LIMIT {
            return Err(self.malformed());
        }
        Ok(length as usize)
    }
    fn opaque(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.length()?;
        let data = self.take(length)?.to_vec();
        self.take(length.next_multiple_of(4) - length)?;
        Ok(data)
    }
    fn string(&mut self) -> Result<String, Malformed> {
        let bytes = self.opaque()?;
        String::from_utf8(bytes).map_err(|_| self.malformed())
    }
    fn optional(&mut self) -> Result<String, Malformed> {
        if self.flag()? {
            self.string()
        } else {
            Ok(String::new())
        }
    }
    fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.length()?;
        (0..count).map(|_| element(self)).collect()
    }
    fn address(&mut self) -> Result<Option<IpAddr>, Malformed> {
        let kind = self.u32()?;
        let bytes = self.opaque()?;
        Ok(match kind {
            1 => <[u8; 4]>::try_from(bytes)
                .ok()
                .map(|b| IpAddr::V4(Ipv4Addr::from(b))),
            2 => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|b| IpAddr::V6(Ipv6Addr::from(b))),
            _ => None,
        })
    }
    fn nic(&mut self) -> Result<Nic, Malformed> {
        let mac = self.string()?;
        let mut dhcp = false;
        let addresses = self.list(|x| {
            let ip = x.address()?;
            let prefix = u8::try_from(x.u32()?).unwrap_or(u8::MAX);
            if x.flag()? {
                dhcp |= x.u32()? == 4;
            }
            if x.flag()? {
                x.u32()?;
            }
            Ok(ip.map(|ip| Cidr {
                ip,
                prefix: prefix.min(if ip.is_ipv4() { 32 } else { 128 }),
            }))
        })?;
        if self.flag()? {
            self.skip_dns()?;
        }
        if self.flag()? {
            return Err(self.malformed()); // WINS: no guest of ours sends it
        }
        for _ in 0..2 {
            if self.flag()? {
                dhcp |= self.flag()?;
                self.string()?;
            }
        }
        Ok(Nic {
            mac,
            addresses: addresses.into_iter().flatten().collect(),
            dhcp,
        })
    }
    fn skip_dns(&mut self) -> Result<(), Malformed> {
        self.optional()?;
        self.optional()?;
        self.list(Self::address)?;
        self.list(Self::string)?;
        Ok(())
    }
    fn route(&mut self) -> Result<Option<IpAddr>, Malformed> {
        self.address()?;
        let prefix = self.u32()?;
        let hop = if self.flag()? { self.address()? } else { None };
        self.take(12)?;
        Ok(hop.filter(|_| prefix == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn cidr()(ip: [u8; 4], wide: [u8; 16], six: bool, prefix in 0u8..=32) -> Cidr {
            let ip = if six { IpAddr::from(wide) } else { IpAddr::from(ip) };
            Cidr { ip, prefix }
        }
    }

    proptest! {
        #[test]
        fn what_a_guest_says_comes_back(
            addresses in proptest::collection::vec(cidr(), 0..4),
            host_name in "[a-z]{0,12}",
            search in proptest::collection::vec("[a-z.]{1,20}", 0..3),
            dhcp: bool,
            gateway in proptest::option::of(cidr()),
        ) {
            let dns = addresses.iter().map(|a| a.ip).collect();
            let nic = Nic { mac: "00:50:56:00:00:01".into(), addresses, dhcp };
            let gateway = gateway.map(|g| g.ip);
            let info = NicInfo { nics: vec![nic], host_name, domain_name: String::new(), dns, search, gateway };
            prop_assert_eq!(NicInfo::decode(&info.encode()), Ok(info));
        }

        #[test]
        fn any_bytes_are_a_document_or_an_error(bytes: Vec<u8>) {
            let _ = NicInfo::decode(&bytes);
        }
    }
}
