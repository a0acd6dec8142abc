//! Encoding and decoding of netlink messages.

use std::net::IpAddr;

use nix::libc;

const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// A message being built.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Starts a request.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        Self(bytes)
    }

    /// Starts a request that makes something new.
    pub(super) fn create(kind: u16) -> Self {
        Self::new(
            kind,
            (libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
        )
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends struct ifinfomsg.
    pub(super) fn ifinfo(&mut self, index: u32, flags: u32, change: u32) {
        self.raw(&[0; 4]);
        self.raw(&index.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&change.to_ne_bytes());
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.raw(&((value.len() + 4) as u16).to_ne_bytes());
        self.raw(&kind.to_ne_bytes());
        self.raw(value);
        self.pad();
    }

    pub(super) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(super) fn ip(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(ip) => self.bytes(kind, &ip.octets()),
            IpAddr::V6(ip) => self.bytes(kind, &ip.octets()),
        }
    }

    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.raw(&[0; 2]);
        self.raw(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }

    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// What a received datagram means for the request.
pub(super) enum Next {
    /// More datagrams follow.
    More,
    /// The answer is complete.
    Done,
    /// The kernel answered with an errno (0 is its acknowledgement).
    Failed(i32),
}

/// Adds the bodies of the messages in `datagram` that answer request `sequence`.
pub(super) fn collect(datagram: &[u8], sequence: u32, bodies: &mut Vec<Vec<u8>>) -> Next {
    let mut rest = datagram;
    let mut single = false;
    while let (Some(length), Some(kind), Some(flags), Some(seq)) =
        (word(rest, 0), half(rest, 4), half(rest, 6), word(rest, 8))
    {
        let length = length as usize;
        if length < HEADER || length > rest.len() {
            break;
        }
        let body = &rest[HEADER..length];
        if seq == sequence {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Next::Done,
                libc::NLMSG_ERROR => {
                    return Next::Failed(word(body, 0).map_or(libc::EIO, |e| -(e as i32)));
                }
                _ => {
                    bodies.push(body.to_vec());
                    single |= flags & libc::NLM_F_MULTI as u16 == 0;
                }
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    if single { Next::Done } else { Next::More }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

/// Walks over attributes.
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = half(self.0, 0)? as usize;
        let kind = half(self.0, 2)? & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bodies = Vec::new();
            collect(&bytes, 0, &mut bodies);
            let _ = Attributes::new(&bytes).count();
        }
    }
}
