//! The plaintext before TLS. A serial line has no beginning: the VCH says where a session starts.
//!
//! ```text
//! preamble  magic(16) version(2) nonce(16)             VCH → guest, repeated until the echo
//! echo      magic(16) version(2) nonce(16) n(1) id(n)  guest → VCH, then TLS
//! ```

/// Version of the link's protocol.
pub const VERSION: u16 = 1;

const PREAMBLE_MAGIC: [u8; 16] = [
    0x9b, 0x48, 0xe0, 0x49, 0xf0, 0xfa, 0x64, 0x80, 0xb8, 0x18, 0x67, 0x86, 0x50, 0x9f, 0x19, 0xaa,
];
const ECHO_MAGIC: [u8; 16] = [
    0xbd, 0x9c, 0x10, 0xeb, 0x17, 0x0e, 0xf4, 0x4a, 0xeb, 0x69, 0x3d, 0x8e, 0x0a, 0x33, 0xe8, 0x23,
];
/// Bytes of a preamble.
const PREAMBLE: usize = 34;
/// Bytes of an echo before the id.
const ECHO_HEAD: usize = 35;

/// The VCH's side of one new connection: says the preamble and waits for the echo, which tells
/// which container is at the other end.
///
/// ```
/// # use tether_protocol::session::Greeting;
/// let mut greeting = Greeting::new();
/// let _send_this_now_and_every_100_ms = greeting.preamble();
/// // bytes that come in:
/// if let Some(echo) = greeting.receive(b"noise") {
///     let _route_by = echo.id();
/// }
/// ```
#[derive(Debug)]
pub struct Greeting {
    nonce: [u8; 16],
    buffer: Vec<u8>,
}

impl Default for Greeting {
    fn default() -> Self {
        Self::new()
    }
}

impl Greeting {
    /// A greeting with a nonce of its own.
    pub fn new() -> Self {
        Self {
            nonce: super::random(),
            buffer: Vec::new(),
        }
    }

    /// The bytes to send, at once and then repeatedly until the echo comes.
    pub fn preamble(&self) -> Vec<u8> {
        [
            PREAMBLE_MAGIC.as_slice(),
            &VERSION.to_be_bytes(),
            &self.nonce,
        ]
        .concat()
    }

    /// Takes bytes in; the echo when it is complete. What precedes it is dropped: the rest of an
    /// older session.
    pub fn receive(&mut self, bytes: &[u8]) -> Option<Echo> {
        self.buffer.extend_from_slice(bytes);
        loop {
            let at = find(&self.buffer, &ECHO_MAGIC);
            // Keep what may be the beginning of a magic.
            let keep = at.unwrap_or(self.buffer.len().saturating_sub(ECHO_MAGIC.len() - 1));
            self.buffer.drain(..keep);
            at?;
            let length = usize::from(*self.buffer.get(ECHO_HEAD - 1)?);
            if self.buffer[18..34] != self.nonce {
                self.buffer.drain(..1);
                continue;
            }
            let id = self.buffer.get(ECHO_HEAD..ECHO_HEAD + length)?;
            let id = String::from_utf8_lossy(id).into_owned();
            let echo = self.buffer[..ECHO_HEAD + length].to_vec();
            let rest = self.buffer.split_off(ECHO_HEAD + length);
            return Some(Echo { id, echo, rest });
        }
    }
}

/// A guest has answered.
#[derive(Debug)]
pub struct Echo {
    id: String,
    echo: Vec<u8>,
    rest: Vec<u8>,
}

impl Echo {
    /// The container id that the guest says it has: TLS proves it.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.echo, self.rest)
    }
}

/// The echo of a preamble.
pub(super) fn echo(nonce: &[u8; 16], id: &str) -> Vec<u8> {
    let id = &id.as_bytes()[..id.len().min(255)];
    let length = u8::try_from(id.len()).unwrap_or(u8::MAX);
    [
        ECHO_MAGIC.as_slice(),
        &VERSION.to_be_bytes(),
        nonce,
        &[length],
        id,
    ]
    .concat()
}

/// Finds preambles in a stream of anything, also across the borders of reads.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    tail: Vec<u8>,
}

impl Scanner {
    /// The first preamble that ends within `bytes`: where it ends, and its nonce.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<(usize, [u8; 16])> {
        let before = self.tail.len();
        self.tail.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(at) = find(&self.tail[from..], &PREAMBLE_MAGIC) {
            let start = from + at;
            let Some(preamble) = self.tail.get(start..start + PREAMBLE) else {
                self.tail.drain(..start);
                return None;
            };
            let mut nonce = [0; 16];
            nonce.copy_from_slice(&preamble[18..]);
            // One that had ended before these bytes was found then.
            let end = start + PREAMBLE;
            if end > before {
                self.tail.clear();
                return Some((end - before, nonce));
            }
            from = start + 1;
        }
        let keep = self.tail.len().saturating_sub(PREAMBLE - 1);
        self.tail.drain(..keep);
        None
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|b| *b == first) {
        let start = from + at;
        if haystack[start..].starts_with(needle) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_preamble_is_found_in_noise_however_it_is_cut(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            after in proptest::collection::vec(any::<u8>(), 0..50),
            cut in 1usize..60,
        ) {
            let greeting = Greeting::new();
            let wire = [noise.clone(), greeting.preamble(), after].concat();
            let mut scanner = Scanner::default();
            let mut done = 0;
            let mut found = None;
            for chunk in wire.chunks(cut) {
                if let Some((end, nonce)) = scanner.scan(chunk) {
                    prop_assert_eq!(nonce, greeting.nonce);
                    found = Some(done + end);
                    break;
                }
                done += chunk.len();
            }
            prop_assert_eq!(found, Some(noise.len() + PREAMBLE));
        }

        #[test]
        fn an_echo_is_found_in_noise_however_it_is_cut(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 1usize..60,
        ) {
            let mut greeting = Greeting::new();
            let id = "ab".repeat(32);
            let other = echo(&[9; 16], "stale");
            let wire = [noise, other, echo(&greeting.nonce, &id), b"tls".to_vec()].concat();
            let mut rest = Vec::new();
            let mut found = None;
            for chunk in wire.chunks(cut) {
                match &found {
                    None => found = greeting.receive(chunk),
                    Some(_) => rest.extend_from_slice(chunk),
                }
            }
            let found = found.unwrap();
            prop_assert_eq!(found.id(), id);
            prop_assert_eq!([found.into_parts().1, rest].concat(), b"tls".to_vec());
        }
    }
}
