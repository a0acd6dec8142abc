//! Property paths: `config.hardware.device[200].backing`, `config.extraConfig["k"]`.

use crate::any::Any;
use crate::data::{self, Data, TypeInfo};
use crate::value::{List, Node, Value};

/// A path does not lead to a property.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not written as a path is.
    #[error("{0:?} is no property path")]
    Syntax(String),
    /// A type on the way has no such property.
    #[error("{type} has no property {name:?}")]
    Unknown {
        /// The type.
        r#type: String,
        /// The property that it lacks.
        name: String,
    },
}

/// One step of a path: a property, and perhaps the key of an element of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The property.
    pub name: &'a str,
    /// The key in brackets, without quotes.
    pub key: Option<String>,
}

/// Takes a path apart.
///
/// # Errors
/// When it is empty or its brackets do not match.
pub fn parse(path: &str) -> Result<Vec<Step<'_>>, PathError> {
    let bad = || PathError::Syntax(path.to_owned());
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            return Err(bad());
        }
        let (key, after) = match after.strip_prefix('[') {
            None => (None, after),
            Some(inner) => {
                let (key, after) = bracket(inner).ok_or_else(bad)?;
                (Some(key), after)
            }
        };
        steps.push(Step { name, key });
        if after.is_empty() {
            return Ok(steps);
        }
        rest = after.strip_prefix('.').ok_or_else(bad)?;
    }
}

/// The key up to the closing bracket, and what follows that.
fn bracket(inner: &str) -> Option<(String, &str)> {
    let Some(quoted) = inner.strip_prefix('"') else {
        let (key, after) = inner.split_once(']')?;
        return (!key.is_empty()).then(|| (key.to_owned(), after));
    };
    let mut key = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => key.push(chars.next()?.1),
            '"' => return Some((key, quoted[at + 1..].strip_prefix(']')?)),
            c => key.push(c),
        }
    }
    None
}

/// The value at a path, or nothing when something on the way is unset.
///
/// # Errors
/// When the path is malformed, or names a property that is not there.
pub fn find<'a>(object: &'a dyn Data, path: &str) -> Result<Option<&'a dyn Value>, PathError> {
    let mut at = object;
    let steps = parse(path)?;
    let last = steps.len() - 1;
    for (depth, step) in steps.iter().enumerate() {
        let Some(field) = at.named(step.name) else {
            return Err(PathError::Unknown {
                r#type: at.info().name.to_owned(),
                name: step.name.to_owned(),
            });
        };
        let value = match &step.key {
            None => field,
            Some(key) => match element(field.node(), key) {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        if depth == last {
            return Ok((!matches!(value.node(), Node::Absent)).then_some(value));
        }
        at = match value.node() {
            Node::Data(data) => data,
            _ => {
                if let Some(info) = value.declared() {
                    check_steps(info, &steps[depth + 1..])?;
                } else {
                    return Err(PathError::Unknown {
                        r#type: value.declared_name().to_owned(),
                        name: steps[depth + 1].name.to_owned(),
                    });
                }
                return Ok(None);
            }
        };
    }
    Ok(None)
}

/// A copy of the value at a path.
///
/// # Errors
/// As [`find`].
pub fn get(object: &dyn Data, path: &str) -> Result<Option<Any>, PathError> {
    Ok(find(object, path)?.and_then(|value| value.to_any()))
}

/// Sets a property of the object itself, without a dot or a key in its name.
///
/// # Errors
/// When there is no such property, or it is of another type.
pub fn set(object: &mut dyn Data, name: &str, value: Option<Any>) -> Result<(), crate::Mismatch> {
    match object.named_mut(name) {
        Some(field) => field.set(value),
        None => Err(crate::Mismatch {
            expected: "a property",
            found: name.to_owned(),
        }),
    }
}

/// Whether a path can lead somewhere in objects of this type, set or not.
///
/// # Errors
/// When it is malformed or names a property that the type (or the types of its properties) lacks.
pub fn check(info: &'static TypeInfo, path: &str) -> Result<(), PathError> {
    check_steps(info, &parse(path)?)
}

fn check_steps(info: &'static TypeInfo, steps: &[Step<'_>]) -> Result<(), PathError> {
    let Some((step, rest)) = steps.split_first() else {
        return Ok(());
    };
    let unknown = || PathError::Unknown {
        r#type: info.name.to_owned(),
        name: step.name.to_owned(),
    };
    // The property may be one of a subtype that stands in the place.
    let owner = if info.find(step.name, 0).is_some() {
        info
    } else {
        data::all()
            .find(|t| t.is_a(info.name) && t.find(step.name, 0).is_some())
            .ok_or_else(unknown)?
    };
    let sample = (owner.new)();
    let field = sample.named(step.name).ok_or_else(unknown)?;
    match (rest.is_empty(), field.declared()) {
        (true, _) => Ok(()),
        (false, Some(next)) => check_steps(next, rest),
        (false, None) if field.declared_name() == "anyType" => Ok(()),
        (false, None) => Err(PathError::Unknown {
            r#type: field.declared_name().to_owned(),
            name: rest[0].name.to_owned(),
        }),
    }
}

/// The element of an array with this key.
fn element<'a>(node: Node<'a>, key: &str) -> Option<&'a dyn Value> {
    let Node::List(list) = node else { return None };
    position(list, key).and_then(|index| list.item(index))
}

/// The index of the element with this key: its `key` property, its identifier if it is a reference,
/// or its own text.
pub fn position(list: &dyn List, key: &str) -> Option<usize> {
    (0..list.count()).find(|&index| {
        list.item(index)
            .is_some_and(|item| key_of(item).as_deref() == Some(key))
    })
}

/// The key of an element of an array, as it stands in brackets without quotes.
pub fn key_of(item: &dyn Value) -> Option<String> {
    let any = match item.node() {
        Node::Data(data) => data.named("key")?.to_any()?,
        _ => item.to_any()?,
    };
    match any {
        Any::String(text) | Any::Enum { value: text, .. } => Some(text),
        Any::Int(number) => Some(number.to_string()),
        Any::Long(number) => Some(number.to_string()),
        Any::Reference(reference) => Some(reference.value),
        _ => None,
    }
}
