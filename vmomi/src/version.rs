//! Versions of the API: a client names its own, and must not be sent what is newer.

use crate::generated::tables::VERSIONS;

/// A version of the API, by its place in the table of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u8);

impl Version {
    /// The newest version that the model has.
    pub fn newest() -> Self {
        Self((VERSIONS.len() - 1) as u8)
    }

    /// The version with this identifier (`8.0.1.0`), or else the newest that is not newer than it.
    pub fn parse(id: &str) -> Option<Self> {
        if let Some(index) = VERSIONS.iter().position(|v| v.1 == id) {
            return Some(Self(index as u8));
        }
        let wanted = numbers(id)?;
        VERSIONS
            .iter()
            .enumerate()
            .filter(|(_, v)| v.0.starts_with("vim."))
            .filter_map(|(index, v)| Some((numbers(v.1)?, index)))
            .filter(|(found, _)| *found <= wanted)
            .max()
            .map(|(_, index)| Self(index as u8))
    }

    /// The version that a `SOAPAction` header names: `urn:vim25/8.0.1.0`, perhaps in quotes.
    pub fn of_action(action: &str) -> Option<Self> {
        let action = action.trim().trim_matches('"');
        Self::parse(action.rsplit_once('/')?.1)
    }

    /// Its identifier on the wire.
    pub fn id(self) -> &'static str {
        VERSIONS.get(usize::from(self.0)).map_or("", |v| v.1)
    }

    /// Whether a client of this version knows what version `since` of a type or field brought.
    pub fn shows(self, since: u8) -> bool {
        VERSIONS
            .get(usize::from(self.0))
            .is_some_and(|v| v.2 >> since & 1 == 1)
    }

    /// The versions of the vim25 name space that have an identifier, the newest first.
    pub fn all() -> impl Iterator<Item = &'static str> {
        VERSIONS
            .iter()
            .rev()
            .filter(|v| v.0.starts_with("vim.") && numbers(v.1).is_some())
            .map(|v| v.1)
    }
}

fn numbers(id: &str) -> Option<Vec<u32>> {
    id.split('.').map(|part| part.parse().ok()).collect()
}
