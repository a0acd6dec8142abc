//! The multiplexed stream: `[stream, 0, 0, 0, length BE32]` and the payload.
//!
//! Written without copying payloads: headers and payloads leave in one vectored write.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Which output a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// The eight bytes before each payload.
pub const HEADER: usize = 8;

/// Payloads above this are cut, since a length has 32 bits and readers take a frame in one piece.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The header of a payload of `length` bytes.
pub fn header(channel: Channel, length: usize) -> [u8; HEADER] {
    let mut head = [0; HEADER];
    head[0] = channel as u8;
    head[4..].copy_from_slice(&(length as u32).to_be_bytes());
    head
}

/// Appends a payload as one or more frames to a buffer.
pub fn encode(channel: Channel, payload: &[u8], into: &mut BytesMut) {
    for part in payload.chunks(MAX_PAYLOAD) {
        into.reserve(HEADER + part.len());
        into.put_slice(&header(channel, part.len()));
        into.put_slice(part);
    }
}

/// Output waiting to be written: payloads by reference, headers beside them.
#[derive(Default)]
pub struct Outgoing {
    pieces: std::collections::VecDeque<Piece>,
}

struct Piece {
    head: [u8; HEADER],
    head_left: usize,
    payload: Bytes,
}

/// As many slices as one write takes; Linux takes 1,024.
pub const MAX_SLICES: usize = 64;

impl Outgoing {
    /// Queues a payload with a header (`Some`) or raw (`None`).
    pub fn push(&mut self, channel: Option<Channel>, mut payload: Bytes) {
        while !payload.is_empty() {
            let part = payload.split_to(payload.len().min(MAX_PAYLOAD));
            let (head, head_left) = match channel {
                Some(channel) => (header(channel, part.len()), HEADER),
                None => ([0; HEADER], 0),
            };
            self.pieces.push_back(Piece {
                head,
                head_left,
                payload: part,
            });
        }
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many payloads wait.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Points `slices` at what comes next, answering how many are filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for piece in &self.pieces {
            if count + 2 > MAX_SLICES {
                break;
            }
            if piece.head_left > 0 {
                slices[count] = IoSlice::new(&piece.head[HEADER - piece.head_left..]);
                count += 1;
            }
            if !piece.payload.is_empty() {
                slices[count] = IoSlice::new(&piece.payload);
                count += 1;
            }
        }
        count
    }

    /// Forgets `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let head = piece.head_left.min(written);
            piece.head_left -= head;
            written -= head;
            let body = piece.payload.len().min(written);
            piece.payload.advance(body);
            written -= body;
            if piece.head_left > 0 || !piece.payload.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
    }
}

/// Reads frames back.
///
/// Answers the frames and what is left of an unfinished one.
#[cfg(test)]
pub fn decode(mut bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    let mut frames = Vec::new();
    while bytes.len() >= HEADER {
        let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        if bytes.len() - HEADER < length {
            break;
        }
        frames.push((bytes[0], bytes[HEADER..HEADER + length].to_vec()));
        bytes = &bytes[HEADER + length..];
    }
    (frames, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_eight_bytes_and_its_payload() {
        let mut buffer = BytesMut::new();
        encode(Channel::Stderr, b"hello", &mut buffer);
        assert_eq!(&buffer[..], b"\x02\0\0\0\0\0\0\x05hello");
    }

    proptest! {
        #[test]
        fn what_is_written_in_pieces_is_what_was_queued(
            frames in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..300)), 0..100),
            steps in proptest::collection::vec(1usize..500, 1..50),
        ) {
            let (mut outgoing, mut expected) = (Outgoing::default(), BytesMut::new());
            for (error, payload) in &frames {
                let channel = if *error { Channel::Stderr } else { Channel::Stdout };
                outgoing.push(Some(channel), Bytes::from(payload.clone()));
                encode(channel, payload, &mut expected);
            }
            let (mut written, mut step) = (Vec::new(), steps.iter().cycle());
            while !outgoing.is_empty() {
                let taken = {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let count = outgoing.slices(&mut slices);
                    let all: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
                    let taken = all.len().min(*step.next().expect("cycle"));
                    written.extend_from_slice(&all[..taken]);
                    taken
                };
                prop_assert!(taken > 0);
                outgoing.advance(taken);
            }
            prop_assert_eq!(&written[..], &expected[..]);
            let (decoded, rest) = decode(&written);
            prop_assert!(rest.is_empty());
            let frames: Vec<_> = frames.into_iter().map(|(e, p)| (if e { 2u8 } else { 1 }, p)).collect();
            prop_assert_eq!(decoded, frames);
        }

        #[test]
        fn any_bytes_decode_without_loss(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (frames, rest) = decode(&bytes);
            let total: usize = frames.iter().map(|(_, p)| HEADER + p.len()).sum();
            prop_assert_eq!(total + rest.len(), bytes.len());
        }
    }
}
