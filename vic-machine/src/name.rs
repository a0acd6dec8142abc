//! What a VCH may be called.

/// vSphere's display names end there for VIC's sake: longer ones do not fit the names derived from them.
const LONGEST: usize = 31;
/// Characters that vSphere escapes or refuses in names.
pub(crate) const FORBIDDEN: &str = "%&*$#@!\\/:?\"<>;'|";

/// Why a name cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Nothing at all.
    #[error("a VCH must have a name")]
    Empty,
    /// Longer than 31 characters.
    #[error("VCH name {name:?} exceeds the permitted 31 characters limit: {length} characters")]
    Long {
        /// The name.
        name: String,
        /// How long it is.
        length: usize,
    },
    /// A character that vSphere does not take.
    #[error("VCH name {name:?} contains the unsupported character {character:?}")]
    Character {
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
}

/// Checks a name.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    let length = name.chars().count();
    if name.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if length > LONGEST {
        return Err(NameError::Long {
            name: name.to_owned(),
            length,
        });
    }
    match name
        .chars()
        .find(|c| FORBIDDEN.contains(*c) || c.is_control())
    {
        Some(character) => Err(NameError::Character {
            name: name.to_owned(),
            character,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(check("VCH001"), Ok(()));
        assert_eq!(check("my host"), Ok(()));
        assert_eq!(check(""), Err(NameError::Empty));
        assert!(
            check(&"x".repeat(32))
                .unwrap_err()
                .to_string()
                .contains("exceeds the permitted 31 characters limit")
        );
        assert!(
            check("a*b")
                .unwrap_err()
                .to_string()
                .contains("unsupported character")
        );
    }
}
