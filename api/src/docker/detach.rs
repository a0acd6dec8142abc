//! Detach keys: the sequence in the stdin of a terminal that ends the stream and leaves the container running.

use super::error::ApiError;

/// What a client that names no keys gets: Ctrl-P Ctrl-Q.
const DEFAULT: &[u8] = &[16, 17];

/// A sequence of key codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Keys {
    /// Parses `ctrl-p,ctrl-q`: single characters, `ctrl-` with one of `a-z @ [ \ ] ^ _`, or `DEL`.
    ///
    /// # Errors
    ///
    /// 400 `Invalid detach keys (<k>) provided`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self(DEFAULT.to_vec()));
        }
        text.split(',')
            .map(key)
            .collect::<Option<Vec<u8>>>()
            .map(Self)
            .ok_or_else(|| ApiError::bad_request(format!("Invalid detach keys ({text}) provided")))
    }

    /// A matcher at the beginning of a stream.
    pub fn matcher(&self) -> Matcher {
        Matcher {
            keys: self.0.clone(),
            seen: 0,
        }
    }
}

fn key(text: &str) -> Option<u8> {
    if text == "DEL" {
        return Some(127);
    }
    if let Some(control) = text.strip_prefix("ctrl-") {
        return match control.as_bytes() {
            [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
            [b'@'] => Some(0),
            [c @ b'['..=b'_'] => Some(c - b'[' + 27),
            _ => None,
        };
    }
    match text.as_bytes() {
        [one] => Some(*one),
        _ => None,
    }
}

/// Finds the sequence in a stream that comes in pieces.
///
/// A prefix of the sequence is held back until it is known not to be one.
pub struct Matcher {
    keys: Vec<u8>,
    seen: usize,
}

impl Matcher {
    /// Takes the next piece of input.
    ///
    /// `Ok` holds what may be passed on; `Err` holds what came before the sequence: the stream ends there.
    ///
    /// # Errors
    ///
    /// Not a failure: the sequence was seen.
    pub fn feed(&mut self, input: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        let mut out = Vec::with_capacity(input.len() + self.seen);
        for &byte in input {
            // The longest prefix of the keys that is a suffix of what has been held back and this byte.
            loop {
                if self.keys[self.seen] == byte {
                    self.seen += 1;
                    break;
                }
                if self.seen == 0 {
                    out.push(byte);
                    break;
                }
                let shorter = self.border();
                out.extend_from_slice(&self.keys[..self.seen - shorter]);
                self.seen = shorter;
            }
            if self.seen == self.keys.len() {
                return Err(out);
            }
        }
        Ok(out)
    }

    /// What is still held back when the input ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let rest = self.keys[..self.seen].to_vec();
        self.seen = 0;
        rest
    }

    fn border(&self) -> usize {
        let held = &self.keys[..self.seen];
        (0..self.seen)
            .rev()
            .find(|&n| held[..n] == held[self.seen - n..])
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_spelled_as_docker_spells_them() {
        assert_eq!(Keys::parse("").expect("default"), Keys(vec![16, 17]));
        assert_eq!(
            Keys::parse("ctrl-p,ctrl-q").expect("keys"),
            Keys(vec![16, 17])
        );
        assert_eq!(
            Keys::parse("ctrl-@,ctrl-[,ctrl-_,a,DEL").expect("keys"),
            Keys(vec![0, 27, 31, b'a', 127])
        );
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-ab"] {
            assert_eq!(
                Keys::parse(bad).expect_err(bad).message(),
                format!("Invalid detach keys ({bad}) provided")
            );
        }
    }

    #[test]
    fn a_half_typed_sequence_is_passed_on_late() {
        let mut matcher = Keys::parse("ctrl-p,ctrl-q").expect("keys").matcher();
        assert_eq!(matcher.feed(b"a\x10"), Ok(b"a".to_vec()));
        assert_eq!(matcher.feed(b"b"), Ok(b"\x10b".to_vec()));
        assert_eq!(matcher.feed(b"x\x10"), Ok(b"x".to_vec()));
        assert_eq!(matcher.feed(b"\x11y"), Err(Vec::new()));
    }

    proptest! {
        #[test]
        fn the_first_occurrence_is_found_however_the_input_is_cut(
            keys in proptest::collection::vec(0u8..3, 1..5),
            input in proptest::collection::vec(0u8..3, 0..40),
            cuts in proptest::collection::vec(1usize..5, 1..20),
        ) {
            let mut matcher = Matcher { keys: keys.clone(), seen: 0 };
            let found = input.windows(keys.len()).position(|w| w == keys);
            let (mut passed, mut hit, mut rest, mut cut) = (Vec::new(), false, &input[..], cuts.iter().cycle());
            while !rest.is_empty() && !hit {
                let (piece, tail) = rest.split_at(rest.len().min(*cut.next().expect("cycle")));
                rest = tail;
                match matcher.feed(piece) {
                    Ok(out) => passed.extend(out),
                    Err(out) => { passed.extend(out); hit = true; }
                }
            }
            match found {
                Some(at) => { prop_assert!(hit); prop_assert_eq!(&passed[..], &input[..at]); }
                None => { passed.extend(matcher.rest()); prop_assert!(!hit); prop_assert_eq!(passed, input); }
            }
        }
    }
}
