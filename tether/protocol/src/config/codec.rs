//! Between models and extraConfig keys: paths, escapes, long values in pieces, lists and maps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::seal::{SEAL_KEY, SealKey};

/// Prefix of the keys that a guest may read and not write.
pub const PREFIX: &str = "guestinfo.vice./";

/// Longest piece of a value under one key: guest RPC takes 64 KiB in one message.
const PIECE: usize = 32 * 1024;
/// Most pieces of one value, so that a hostile VM owner cannot make a reader allocate without end.
const MAX_PIECES: usize = 1024;
/// Most elements of one list.
const MAX_LIST: usize = 65_536;

/// A key whose value is not what its field needs.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("key {key:?} does not hold {expected}")]
pub struct DecodeError {
    /// The extraConfig key.
    pub key: String,
    /// What was expected there.
    pub expected: &'static str,
}

/// Reading a configuration through a fetch function failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// The source of the keys failed.
    #[error("reading the configuration's keys")]
    Source(#[source] E),
    /// The keys do not make a configuration.
    #[error("decoding the configuration")]
    Decode(#[source] DecodeError),
}

/// Escapes a value so that it survives vSphere: it is never empty, and has no character that XML
/// cannot carry. Values without such needs stay as they are.
///
/// ```
/// use tether_protocol::config::{escape, unescape};
/// assert_eq!(escape("a | b"), "a | b");
/// assert_eq!(escape(""), "\\");
/// assert_eq!(unescape(&escape("\u{1b}[0m\r")), Some("\u{1b}[0m\r".to_owned()));
/// ```
pub fn escape(value: &str) -> String {
    let plain = !value.is_empty()
        && !value.starts_with('\\')
        && !value.starts_with(char::is_whitespace)
        && !value.ends_with(char::is_whitespace)
        && !value.chars().any(must_escape);
    if plain {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len() + 8);
    out.push('\\');
    for (at, c) in value.char_indices() {
        let edge = at == 0 || at + c.len_utf8() == value.len();
        match c {
            '\\' => out.push_str("\\\\"),
            c if must_escape(c) || (edge && c.is_whitespace()) => {
                out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

fn must_escape(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Undoes [`escape`]; `None` when the value is no escape's result.
pub fn unescape(value: &str) -> Option<String> {
    let Some(body) = value.strip_prefix('\\') else {
        return Some(value.to_owned());
    };
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('\\') {
            out.push('\\');
            rest = tail;
        } else {
            let (digits, tail) = after.strip_prefix("u{")?.split_once('}')?;
            out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = tail;
        }
    }
    out.push_str(rest);
    Some(out)
}

/// What to write to turn the keys `old` into `new`: changed ones, and `""` (delete) for those gone.
pub fn delta(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let gone = old
        .keys()
        .filter(|k| !new.contains_key(*k))
        .map(|k| (k.clone(), String::new()));
    let changed = new.iter().filter(|(k, v)| old.get(*k) != Some(*v));
    gone.chain(changed.map(|(k, v)| (k.clone(), v.clone())))
        .collect()
}

/// Puts `value` under `key`, in pieces when it is long.
pub(super) fn put_value(out: &mut BTreeMap<String, String>, key: &str, value: &str) {
    let escaped = escape(value);
    if escaped.len() <= PIECE {
        out.insert(key.to_owned(), escaped);
        return;
    }
    let mut rest = escaped.as_str();
    let mut count = 0;
    while !rest.is_empty() {
        let mut cut = rest.len().min(PIECE);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        // A piece of its own must survive too: mark it, so that white space at its ends is kept.
        out.insert(format!("{key}+{count}"), format!("={}=", &rest[..cut]));
        rest = &rest[cut..];
        count += 1;
    }
    out.insert(key.to_owned(), format!("\\+{count}"));
}

/// The value under `key`, put together from its pieces, in terms of a lookup function.
pub(super) fn get_value<'a>(
    key: &str,
    lookup: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Option<String>, DecodeError> {
    let error = |expected| DecodeError {
        key: key.to_owned(),
        expected,
    };
    let Some(value) = lookup(key) else {
        return Ok(None);
    };
    let Some(count) = value.strip_prefix("\\+") else {
        return unescape(value)
            .map(Some)
            .ok_or_else(|| error("an escaped value"));
    };
    let count: usize = count.parse().map_err(|_| error("a count of pieces"))?;
    if count > MAX_PIECES {
        return Err(error("a reasonable count of pieces"));
    }
    // Ask for all of them, also when the first is not there yet: a guest fetches what was asked.
    let pieces: Vec<_> = (0..count).map(|i| lookup(&format!("{key}+{i}"))).collect();
    let mut whole = String::new();
    for piece in pieces {
        let Some(piece) = piece else { return Ok(None) };
        let inner = piece.strip_prefix('=').and_then(|p| p.strip_suffix('='));
        whole.push_str(inner.ok_or_else(|| error("a marked piece"))?);
    }
    unescape(&whole)
        .map(Some)
        .ok_or_else(|| error("an escaped value"))
}

/// Keys being written.
pub(super) struct Keys {
    pub(super) out: BTreeMap<String, String>,
    pub(super) seal: Option<SealKey>,
}

impl Keys {
    pub(super) fn new(seal: Option<SealKey>) -> Self {
        Self {
            out: BTreeMap::new(),
            seal,
        }
    }

    pub(super) fn put(&mut self, path: &str, value: &str) {
        put_value(&mut self.out, &format!("{PREFIX}{path}"), value);
    }
}

/// Keys being read. What is asked for and not known is noted, so that a guest can fetch it.
pub(super) struct View<'a> {
    keys: &'a BTreeMap<String, Option<String>>,
    complete: bool,
    wanted: RefCell<BTreeSet<String>>,
}

impl View<'_> {
    pub(super) fn raw(&self, key: &str) -> Option<&str> {
        match self.keys.get(key) {
            Some(value) => value.as_deref().filter(|v| !v.is_empty()),
            None => {
                if !self.complete {
                    self.wanted.borrow_mut().insert(key.to_owned());
                }
                None
            }
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Option<String>, DecodeError> {
        get_value(&format!("{PREFIX}{path}"), &|key| self.raw(key))
    }

    pub(super) fn seal(&self) -> Option<SealKey> {
        self.raw(SEAL_KEY).and_then(SealKey::parse)
    }

    pub(super) fn error(&self, path: &str, expected: &'static str) -> DecodeError {
        DecodeError {
            key: format!("{PREFIX}{path}"),
            expected,
        }
    }
}

/// Something that lives under a path of keys.
pub(super) trait Model: Sized + Default + PartialEq {
    /// Writes it, whatever it holds.
    fn put(&self, keys: &mut Keys, at: &str);
    /// Reads it; absent keys give defaults.
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError>;
}

pub(super) fn encode(model: &impl Model, at: &str, seal: Option<SealKey>) -> Keys {
    let mut keys = Keys::new(seal);
    model.put(&mut keys, at);
    keys
}

pub(super) fn decode<M: Model>(
    keys: &BTreeMap<String, String>,
    at: &str,
) -> Result<M, DecodeError> {
    let keys = keys
        .iter()
        .map(|(k, v)| (k.clone(), Some(v.clone())))
        .collect();
    M::get(
        &View {
            keys: &keys,
            complete: true,
            wanted: RefCell::default(),
        },
        at,
    )
}

/// Gives one value, or none, for each key asked.
type Batch<'a, E> = dyn FnMut(&[String]) -> Result<Vec<Option<String>>, E> + 'a;

/// Reads a model by asking `fetch` for batches of keys, as few batches as lists are nested.
pub(super) fn fetch<M: Model, E>(at: &str, fetch: &mut Batch<'_, E>) -> Result<M, FetchError<E>> {
    let mut known = BTreeMap::new();
    loop {
        let view = View {
            keys: &known,
            complete: false,
            wanted: RefCell::default(),
        };
        let model = M::get(&view, at).map_err(FetchError::Decode)?;
        let wanted: Vec<String> = view.wanted.into_inner().into_iter().collect();
        if wanted.is_empty() {
            return Ok(model);
        }
        let mut values = fetch(&wanted).map_err(FetchError::Source)?.into_iter();
        for key in wanted {
            known.insert(key, values.next().flatten());
        }
    }
}

pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}/{key}")
    }
}

impl Model for String {
    fn put(&self, keys: &mut Keys, at: &str) {
        keys.put(at, self);
    }
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        Ok(view.get(at)?.unwrap_or_default())
    }
}

/// Values that are their text.
macro_rules! textual {
    ($($ty:ty => $what:literal),* $(,)?) => {$(
        impl Model for $ty {
            fn put(&self, keys: &mut Keys, at: &str) {
                keys.put(at, &self.to_string());
            }
            fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
                match view.get(at)? {
                    None => Ok(Self::default()),
                    Some(text) => text.parse().map_err(|_| view.error(at, $what)),
                }
            }
        }
    )*};
}
textual!(
    bool => "true or false", u16 => "a small number", u32 => "a number", u64 => "a large number",
    i64 => "an integer", i32 => "an integer",
);

/// Values that are their text and have no default of their own.
macro_rules! textual_option {
    ($($ty:ty => $what:literal),* $(,)?) => {$(
        impl Model for Option<$ty> {
            fn put(&self, keys: &mut Keys, at: &str) {
                if let Some(value) = self {
                    keys.put(at, &value.to_string());
                }
            }
            fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
                match view.get(at)? {
                    None => Ok(None),
                    Some(text) => text.parse().map(Some).map_err(|_| view.error(at, $what)),
                }
            }
        }
        impl Model for Vec<$ty> {
            fn put(&self, keys: &mut Keys, at: &str) {
                self.iter().map(|v| v.to_string()).collect::<Vec<String>>().put(keys, at);
            }
            fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
                let texts = Vec::<String>::get(view, at)?;
                // An element still to be fetched is empty: leave it out of this round.
                let present = texts.iter().filter(|t| !t.is_empty());
                present.map(|t| t.parse().map_err(|_| view.error(at, $what))).collect()
            }
        }
    )*};
}
textual_option!(
    std::net::IpAddr => "an IP address",
    super::net::Cidr => "an address with its prefix length",
    super::net::Slot => "a disk slot bus:unit",
);

impl Model for Option<String> {
    fn put(&self, keys: &mut Keys, at: &str) {
        if let Some(value) = self {
            value.put(keys, at);
        }
    }
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        view.get(at)
    }
}

impl Model for Option<u32> {
    fn put(&self, keys: &mut Keys, at: &str) {
        if let Some(value) = self {
            value.put(keys, at);
        }
    }
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        let text = view.get(at)?;
        text.map(|t| t.parse().map_err(|_| view.error(at, "a number")))
            .transpose()
    }
}

/// A list that is `Vec<Self>`.
pub(super) trait Element: Model {}
impl Element for String {}

impl<T: Element> Model for Vec<T> {
    fn put(&self, keys: &mut Keys, at: &str) {
        if let Some(last) = self.len().checked_sub(1) {
            keys.put(at, &last.to_string());
        }
        for (i, element) in self.iter().enumerate() {
            element.put(keys, &format!("{at}|{i}"));
        }
    }
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        let Some(last) = view.get(at)? else {
            return Ok(Self::new());
        };
        let last: usize = last
            .parse()
            .map_err(|_| view.error(at, "the last index of a list"))?;
        if last >= MAX_LIST {
            return Err(view.error(at, "a list of reasonable length"));
        }
        (0..=last)
            .map(|i| T::get(view, &format!("{at}|{i}")))
            .collect()
    }
}

/// Keys of the map are ids (no `|`, `.` or `/`), as VIC has it for sessions.
impl<T: Element> Model for BTreeMap<String, T> {
    fn put(&self, keys: &mut Keys, at: &str) {
        if !self.is_empty() {
            let ids: Vec<&str> = self.keys().map(String::as_str).collect();
            keys.put(at, &ids.join("|"));
        }
        for (id, element) in self {
            element.put(keys, &format!("{at}|{id}"));
        }
    }
    fn get(view: &View<'_>, at: &str) -> Result<Self, DecodeError> {
        let Some(ids) = view.get(at)? else {
            return Ok(Self::new());
        };
        if ids.split('|').count() > MAX_LIST {
            return Err(view.error(at, "a map of reasonable size"));
        }
        ids.split('|')
            .map(|id| Ok((id.to_owned(), T::get(view, &format!("{at}|{id}"))?)))
            .collect()
    }
}

/// A struct of documented fields, each with its key; defaults are not written.
macro_rules! model {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$fmeta:meta])* $field:ident : $ty:ty = $key:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }
        impl $crate::config::codec::Model for $name {
            fn put(&self, keys: &mut $crate::config::codec::Keys, at: &str) {
                let default = Self::default();
                $(if self.$field != default.$field {
                    $crate::config::codec::Model::put(
                        &self.$field, keys, &$crate::config::codec::join(at, $key));
                })*
            }
            fn get(
                view: &$crate::config::codec::View<'_>,
                at: &str,
            ) -> Result<Self, $crate::config::codec::DecodeError> {
                Ok(Self {
                    $($field: $crate::config::codec::Model::get(
                        view, &$crate::config::codec::join(at, $key))?,)*
                })
            }
        }
        impl $crate::config::codec::Element for $name {}
    };
}
pub(super) use model;
