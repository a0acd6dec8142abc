//! Guest RPC: the commands that tether sends to the hypervisor (RPCI) and gets from it (TCLO), and
//! their framing on a socket.
//!
//! On ESXi the messages go through the VMware backdoor; in the simulator's `namespace` engine
//! through a stream socket, each with a 4-byte big-endian length before it. Requests may be
//! pipelined: replies come in order.

/// Longest message that is accepted.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A message whose length field is beyond [`MAX_MESSAGE`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("guest RPC message of {0} bytes")]
pub struct TooLong(pub usize);

/// Appends `message` with its length to `out`.
pub fn write_message(out: &mut Vec<u8>, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
}

/// Takes the first whole message off the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// When the length field is beyond [`MAX_MESSAGE`].
pub fn take_message(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, TooLong> {
    let Some((head, _)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MAX_MESSAGE {
        return Err(TooLong(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = buffer[4..4 + length].to_vec();
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Kinds of `SetGuestInfo`, as numbered by VMware Tools.
pub mod info {
    /// DNS name of the guest.
    pub const DNS_NAME: u32 = 1;
    /// Full name of the operating system.
    pub const OS_NAME_FULL: u32 = 3;
    /// Short name of the operating system.
    pub const OS_NAME: u32 = 4;
    /// Addresses of the NICs, [`nicinfo`](crate::nicinfo).
    pub const NIC_V3: u32 = 10;
}

/// What a guest asks of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `info-get <key>`: reads a guest variable.
    InfoGet(String),
    /// `info-set <key> <value>`: writes one.
    InfoSet {
        /// Name of the variable.
        key: String,
        /// Value; empty deletes.
        value: Vec<u8>,
    },
    /// `SetGuestInfo  <kind> <data>`: reports a fact about the guest.
    SetGuestInfo {
        /// One of [`info`].
        kind: u32,
        /// Text or XDR.
        data: Vec<u8>,
    },
    /// `tools.set.version <n>`: the tools run.
    ToolsVersion(u32),
    /// Anything else, which gets `Unknown command`.
    Other(Vec<u8>),
}

impl Command {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::InfoGet(key) => format!("info-get {key}").into_bytes(),
            Self::InfoSet { key, value } => {
                let mut out = format!("info-set {key} ").into_bytes();
                out.extend_from_slice(value);
                out
            }
            Self::SetGuestInfo { kind, data } => {
                let mut out = format!("SetGuestInfo  {kind} ").into_bytes();
                out.extend_from_slice(data);
                out
            }
            Self::ToolsVersion(version) => format!("tools.set.version {version}").into_bytes(),
            Self::Other(bytes) => bytes.clone(),
        }
    }

    /// Reads a message; never fails, since what is not known is [`Other`](Self::Other).
    pub fn decode(message: &[u8]) -> Self {
        Self::known(message).unwrap_or_else(|| Self::Other(message.to_vec()))
    }

    fn known(message: &[u8]) -> Option<Self> {
        if let Some(key) = message.strip_prefix(b"info-get ") {
            return Some(Self::InfoGet(text(key)?.trim().to_owned()));
        }
        if let Some(rest) = message.strip_prefix(b"info-set ") {
            let cut = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            let value = rest.get(cut + 1..).unwrap_or_default().to_vec();
            return Some(Self::InfoSet {
                key: text(&rest[..cut])?.to_owned(),
                value,
            });
        }
        if let Some(rest) = message.strip_prefix(b"SetGuestInfo  ") {
            let cut = rest.iter().position(|b| *b == b' ')?;
            let kind = text(&rest[..cut])?.parse().ok()?;
            return Some(Self::SetGuestInfo {
                kind,
                data: rest[cut + 1..].to_vec(),
            });
        }
        if let Some(version) = message.strip_prefix(b"tools.set.version ") {
            return Some(Self::ToolsVersion(text(version)?.trim().parse().ok()?));
        }
        None
    }
}

/// The hypervisor's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `1 <data>`.
    Ok(Vec<u8>),
    /// `0 <text>`; for a variable that is not there `No value found`.
    Failed(String),
}

impl Reply {
    /// The answer to `info-get` of a variable that is not there.
    pub fn no_value() -> Self {
        Self::Failed("No value found".to_owned())
    }

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (mark, data) = match self {
            Self::Ok(data) => (b"1 ", data.as_slice()),
            Self::Failed(text) => (b"0 ", text.as_bytes()),
        };
        [mark.as_slice(), data].concat()
    }

    /// Reads a message; one that starts with neither mark is a failure with its text.
    pub fn decode(message: &[u8]) -> Self {
        match message {
            [b'1'] => Self::Ok(Vec::new()),
            [b'1', b' ', data @ ..] => Self::Ok(data.to_vec()),
            [b'0', b' ', text @ ..] => Self::Failed(String::from_utf8_lossy(text).into_owned()),
            other => Self::Failed(String::from_utf8_lossy(other).into_owned()),
        }
    }
}

/// What the hypervisor tells a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `ping`.
    Ping,
    /// `OS_Halt`: shut down.
    Halt,
    /// `OS_Reboot`: restart.
    Reboot,
    /// `Set_Option …`, `Capabilities_Register`, …: answered, not acted on.
    Other(String),
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping => b"ping".to_vec(),
            Self::Halt => b"OS_Halt".to_vec(),
            Self::Reboot => b"OS_Reboot".to_vec(),
            Self::Other(text) => text.as_bytes().to_vec(),
        }
    }

    /// Reads a message; never fails.
    pub fn decode(message: &[u8]) -> Self {
        match message.trim_ascii_end() {
            b"ping" => Self::Ping,
            b"OS_Halt" => Self::Halt,
            b"OS_Reboot" => Self::Reboot,
            other => Self::Other(String::from_utf8_lossy(other).into_owned()),
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_have_the_texts_of_vmware_tools() {
        assert_eq!(
            Command::InfoGet("guestinfo.x".into()).encode(),
            b"info-get guestinfo.x"
        );
        let set = Command::SetGuestInfo {
            kind: info::DNS_NAME,
            data: b"host".to_vec(),
        };
        assert_eq!(set.encode(), b"SetGuestInfo  1 host");
        assert_eq!(
            Command::decode(b"info-set a "),
            Command::InfoSet {
                key: "a".into(),
                value: vec![]
            }
        );
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        let mut buffer = vec![0xff; 8];
        assert_eq!(take_message(&mut buffer), Err(TooLong(0xffff_ffff)));
    }

    proptest! {
        #[test]
        fn pipelined_messages_come_out_whole(messages: Vec<Vec<u8>>, cut in 1usize..9) {
            let mut wire = Vec::new();
            for message in &messages {
                write_message(&mut wire, message);
            }
            let (mut buffer, mut out) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = take_message(&mut buffer).unwrap() {
                    out.push(message);
                }
            }
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn any_bytes_decode_and_encode_again(bytes: Vec<u8>) {
            let _ = Reply::decode(&bytes);
            let _ = Request::decode(&bytes);
            let command = Command::decode(&bytes);
            prop_assert_eq!(Command::decode(&command.encode()), command);
        }
    }
}
