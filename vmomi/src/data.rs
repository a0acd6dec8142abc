//! Data objects as tables: every struct of the API can be walked without knowing its type.

use std::any::Any as Native;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use crate::generated::tables;
use crate::value::Value;
use crate::xml::{Error, Reader, Writer};

/// A property of a type.
#[derive(Debug)]
pub struct FieldInfo {
    /// Its name on the wire.
    pub name: &'static str,
    /// The version that brought it, for [`Version::shows`](crate::Version::shows).
    pub since: u8,
}

/// A type: its name, its base and its fields, those of the bases first.
pub struct TypeInfo {
    /// The WSDL name.
    pub name: &'static str,
    /// The type that this one extends.
    pub base: Option<fn() -> &'static TypeInfo>,
    /// The version that brought it.
    pub since: u8,
    /// All fields; the first ones are those of the base, in its order.
    pub fields: &'static [FieldInfo],
    /// Makes an object with every field at its default.
    pub new: fn() -> Box<dyn Data>,
}

impl fmt::Debug for TypeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypeInfo")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TypeInfo {
    /// The index of a field; the search begins at `hint`, since elements come in order.
    pub fn find(&self, name: &str, hint: usize) -> Option<usize> {
        let hint = hint.min(self.fields.len());
        let (before, after) = self.fields.split_at(hint);
        after
            .iter()
            .position(|f| f.name == name)
            .map(|i| i + hint)
            .or_else(|| before.iter().position(|f| f.name == name))
    }

    /// Whether this is the type called `name` or extends it.
    pub fn is_a(&'static self, name: &str) -> bool {
        self.lineage().any(|info| info.name == name)
    }

    /// This type, its base, the base of that, and so on.
    pub fn lineage(&'static self) -> impl Iterator<Item = &'static TypeInfo> {
        std::iter::successors(Some(self), |info| info.base.map(|base| base()))
    }
}

/// A data object, a request or a managed object's properties: a struct whose fields have indices.
pub trait Data: Native + fmt::Debug + Send + Sync {
    /// The object's own type.
    fn info(&self) -> &'static TypeInfo;
    /// The field at an index of [`TypeInfo::fields`].
    fn field(&self, index: usize) -> Option<&dyn Value>;
    /// The field at an index, to change it.
    fn field_mut(&mut self, index: usize) -> Option<&mut dyn Value>;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn Data>;
}

impl dyn Data {
    /// The object as a `T`, when it is exactly that.
    pub fn get<T: Data>(&self) -> Option<&T> {
        (self as &dyn Native).downcast_ref()
    }

    /// The object as a `T`, to change it, when it is exactly that.
    pub fn get_mut<T: Data>(&mut self) -> Option<&mut T> {
        (self as &mut dyn Native).downcast_mut()
    }

    /// The object as a `T`.
    ///
    /// # Errors
    /// The object itself, when it is something else.
    pub fn downcast<T: Data>(self: Box<Self>) -> Result<T, Box<dyn Data>> {
        if (&*self as &dyn Native).is::<T>() {
            let native: Box<dyn Native> = self;
            // The type has just been asked for, so the cast finds it.
            Ok(*native
                .downcast::<T>()
                .unwrap_or_else(|_| unreachable!("the type was checked")))
        } else {
            Err(self)
        }
    }

    /// The field called `name`.
    pub fn named(&self, name: &str) -> Option<&dyn Value> {
        self.field(self.info().find(name, 0)?)
    }

    /// The field called `name`, to change it.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut dyn Value> {
        self.field_mut(self.info().find(name, 0)?)
    }
}

/// A type that can be described without an object of it.
pub trait Described: Data + Default + Clone + PartialEq {
    /// The description.
    fn describe() -> &'static TypeInfo;
}

/// Says that a type is, or extends, `B`; a value of it fits where `B` is declared.
pub trait Extends<B> {}

/// Reads the children of the element just opened into `data`.
pub(crate) fn read(data: &mut dyn Data, input: &mut Reader<'_>) -> Result<(), Error> {
    let info = data.info();
    let mut hint = 0;
    let mut seen = 0u128;
    while let Some(child) = input.next_child()? {
        let index = info.find(child.name(), hint);
        match index.and_then(|i| Some((i, data.field_mut(i)?))) {
            Some((index, field)) if !child.nil() => {
                hint = index;
                seen |= 1u128.checked_shl(index as u32).unwrap_or(0);
                field.read(input, &child)?;
            }
            _ => input.skip()?,
        }
    }
    if input.strict() {
        for (index, field) in info.fields.iter().enumerate().take(128) {
            if seen >> index & 1 == 0 && data.field(index).is_some_and(|f| f.required()) {
                return Err(Error::Missing {
                    r#type: info.name,
                    field: field.name,
                });
            }
        }
    }
    Ok(())
}

/// Writes the fields of `data` that `info` (its type or a base of it) has and the version shows.
pub(crate) fn write(data: &dyn Data, info: &TypeInfo, out: &mut Writer) {
    for (index, field) in info.fields.iter().enumerate() {
        if out.version().shows(field.since)
            && let Some(value) = data.field(index)
        {
            value.write(out, field.name);
        }
    }
}

/// Whether two objects are of one type and have the same fields.
pub(crate) fn same(a: &dyn Data, b: &dyn Data) -> bool {
    let info = a.info();
    std::ptr::eq(info, b.info())
        && (0..info.fields.len()).all(|i| match (a.field(i), b.field(i)) {
            (Some(a), Some(b)) => a.same(b),
            _ => false,
        })
}

/// Shows the fields that are set.
pub(crate) fn debug(data: &dyn Data, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let info = data.info();
    let mut out = f.debug_struct(info.name);
    for (index, field) in info.fields.iter().enumerate() {
        if let Some(value) = data.field(index)
            && !value.absent()
        {
            out.field(field.name, &value);
        }
    }
    out.finish()
}

static BY_NAME: LazyLock<HashMap<&'static str, &'static TypeInfo>> = LazyLock::new(|| {
    tables::TYPES
        .iter()
        .map(|describe| describe())
        .map(|info| (info.name, info))
        .collect()
});

static NEAREST: LazyLock<HashMap<&'static str, &'static str>> =
    LazyLock::new(|| tables::UNLISTED.iter().copied().collect());

/// The data type with this name, when it is one of ours.
pub fn lookup(name: &str) -> Option<&'static TypeInfo> {
    BY_NAME.get(name).copied()
}

/// The type of ours that the type called `name` is or extends most closely.
pub fn nearest(name: &str) -> Option<&'static TypeInfo> {
    lookup(name).or_else(|| lookup(NEAREST.get(name)?))
}

/// All data types.
pub fn all() -> impl Iterator<Item = &'static TypeInfo> {
    tables::TYPES.iter().map(|describe| describe())
}

/// Whether the model has an enum of this name.
pub fn is_enum(name: &str) -> bool {
    tables::ENUMS.binary_search(&name).is_ok()
}
