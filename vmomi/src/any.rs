//! `anyType`: a value that carries the name of its type.

use std::borrow::Cow;

use crate::data::{self, Data};
use crate::poly::Poly;
use crate::scalar::{Binary, DateTime, ManagedObjectReference};
use crate::types::DynamicData;
use crate::value::{Element, Mismatch, Node, Value};
use crate::xml::{Error, Reader, Start, Writer};

/// A value of any type; on the wire its type always stands with it.
#[derive(Clone, Debug, PartialEq)]
pub enum Any {
    /// `xsd:boolean`
    Bool(bool),
    /// `xsd:byte`
    Byte(i8),
    /// `xsd:short`
    Short(i16),
    /// `xsd:int`
    Int(i32),
    /// `xsd:long`
    Long(i64),
    /// `xsd:float`
    Float(f32),
    /// `xsd:double`
    Double(f64),
    /// `xsd:string`
    String(String),
    /// `xsd:dateTime`
    DateTime(DateTime),
    /// `xsd:base64Binary`
    Binary(Binary),
    /// A reference to a managed object.
    Reference(ManagedObjectReference),
    /// A value of an enum, or of a simple type that the model does not have.
    Enum {
        /// The type's name.
        r#type: Cow<'static, str>,
        /// The value's spelling.
        value: String,
    },
    /// A data object.
    Data(Poly<DynamicData>),
    /// An `ArrayOf…`.
    Array(Array),
}

/// An `ArrayOf…`: the declared type of its items, and the items.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The WSDL name of the items' declared type: `string`, `VirtualDevice`, …
    pub item: Cow<'static, str>,
    /// The items.
    pub items: Vec<Any>,
}

impl Default for Any {
    fn default() -> Self {
        Self::String(String::new())
    }
}

impl Any {
    /// The name of the value's type, without a prefix.
    pub fn type_name(&self) -> String {
        match self {
            Self::Bool(_) => "boolean".into(),
            Self::Byte(_) => "byte".into(),
            Self::Short(_) => "short".into(),
            Self::Int(_) => "int".into(),
            Self::Long(_) => "long".into(),
            Self::Float(_) => "float".into(),
            Self::Double(_) => "double".into(),
            Self::String(_) => "string".into(),
            Self::DateTime(_) => "dateTime".into(),
            Self::Binary(_) => "base64Binary".into(),
            Self::Reference(_) => "ManagedObjectReference".into(),
            Self::Enum { r#type, .. } => r#type.clone().into_owned(),
            Self::Data(poly) => poly.type_name().to_owned(),
            Self::Array(array) => array_name(&array.item),
        }
    }

    /// The value as a `T`, an `Option<T>` or a `Vec<T>`.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn to<T: Value + Default>(self) -> Result<T, Mismatch> {
        let mut out = T::default();
        out.set(Some(self))?;
        Ok(out)
    }

    /// The items of an array.
    ///
    /// # Errors
    /// When it is no array, or one of other items.
    pub fn into_vec<T: Element>(self) -> Result<Vec<T>, Mismatch> {
        match self {
            Self::Array(array) => array.items.into_iter().map(T::from_any).collect(),
            other => Err(Mismatch {
                expected: T::type_name(),
                found: other.type_name(),
            }),
        }
    }

    /// The text of a string or an enum's value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) | Self::Enum { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The reference, when it is one.
    pub fn as_reference(&self) -> Option<&ManagedObjectReference> {
        match self {
            Self::Reference(reference) => Some(reference),
            _ => None,
        }
    }

    /// The data object as a `T`, when it is exactly that.
    pub fn as_data<T: Data>(&self) -> Option<&T> {
        match self {
            Self::Data(poly) => poly.get(),
            _ => None,
        }
    }
}

/// `string` → `ArrayOfString`, `VirtualDevice` → `ArrayOfVirtualDevice`.
pub(crate) fn array_name(item: &str) -> String {
    let mut name = String::with_capacity(item.len() + 7);
    name.push_str("ArrayOf");
    let mut chars = item.chars();
    if let Some(first) = chars.next() {
        name.push(first.to_ascii_uppercase());
    }
    name.push_str(chars.as_str());
    name
}

/// The declared type of the items of an `ArrayOf…`.
fn item_name(rest: &str) -> Cow<'static, str> {
    match rest {
        "String" => "string".into(),
        "Boolean" => "boolean".into(),
        "Byte" => "byte".into(),
        "Short" => "short".into(),
        "Int" => "int".into(),
        "Long" => "long".into(),
        "Float" => "float".into(),
        "Double" => "double".into(),
        "DateTime" => "dateTime".into(),
        "Base64Binary" => "base64Binary".into(),
        "AnyType" => "anyType".into(),
        "AnyURI" => "anyURI".into(),
        "ManagedObjectReference" => "ManagedObjectReference".into(),
        _ => rest.to_owned().into(),
    }
}

impl Element for Any {
    fn type_name() -> &'static str {
        "anyType"
    }

    fn write_element(&self, out: &mut Writer, name: &str, _explicit: bool) {
        match self {
            Self::Bool(v) => v.write_element(out, name, true),
            Self::Byte(v) => v.write_element(out, name, true),
            Self::Short(v) => v.write_element(out, name, true),
            Self::Int(v) => v.write_element(out, name, true),
            Self::Long(v) => v.write_element(out, name, true),
            Self::Float(v) => v.write_element(out, name, true),
            Self::Double(v) => v.write_element(out, name, true),
            Self::String(v) => v.write_element(out, name, true),
            Self::DateTime(v) => v.write_element(out, name, true),
            Self::Binary(v) => v.write_element(out, name, true),
            Self::Reference(v) => v.write_element(out, name, true),
            Self::Enum { r#type, value } => out.leaf(name, Some(r#type), value),
            Self::Data(v) => v.write_as(out, name, None),
            Self::Array(array) => {
                out.open_array(name, &array.item);
                for item in &array.items {
                    match item {
                        Self::Data(v) => v.write_as(out, &array.item, Some(&array.item)),
                        _ => item.write_bare(out, &array.item, array.item == "anyType"),
                    }
                }
                out.close(name);
            }
        }
    }

    fn read_element(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        let Some(name) = start.xsi_type() else {
            // Some servers leave out the type of a string; an object cannot be read without it.
            *self = Self::String(input.text()?);
            return Ok(());
        };
        *self = read_typed(name, input, start)?;
        Ok(())
    }

    fn into_any(self) -> Any {
        self
    }

    fn from_any(value: Any) -> Result<Self, Mismatch> {
        Ok(value)
    }

    fn node(&self) -> Node<'_> {
        match self {
            Self::Data(poly) => Node::Data(poly.data()),
            Self::Array(array) => Node::List(array),
            _ => Node::Leaf,
        }
    }
}

impl Any {
    /// Writes a simple item of an array.
    fn write_bare(&self, out: &mut Writer, name: &str, explicit: bool) {
        match self {
            Self::Enum { value, .. } if !explicit => out.leaf(name, None, value),
            Self::String(v) => v.write_element(out, name, explicit),
            Self::Reference(v) => v.write_element(out, name, explicit),
            Self::Int(v) => v.write_element(out, name, explicit),
            Self::Long(v) => v.write_element(out, name, explicit),
            Self::Short(v) => v.write_element(out, name, explicit),
            Self::Byte(v) => v.write_element(out, name, explicit),
            Self::Bool(v) => v.write_element(out, name, explicit),
            Self::Float(v) => v.write_element(out, name, explicit),
            Self::Double(v) => v.write_element(out, name, explicit),
            Self::DateTime(v) => v.write_element(out, name, explicit),
            Self::Binary(v) => v.write_element(out, name, explicit),
            other => other.write_element(out, name, true),
        }
    }
}

/// Reads the element just opened as the type called `name`.
fn read_typed(name: &str, input: &mut Reader<'_>, start: &Start<'_>) -> Result<Any, Error> {
    fn simple<T: Element>(input: &mut Reader<'_>, start: &Start<'_>) -> Result<Any, Error> {
        let mut value = T::default();
        value.read_element(input, start)?;
        Ok(value.into_any())
    }
    Ok(match name {
        "string" | "anyURI" | "token" | "normalizedString" => Any::String(input.text()?),
        "boolean" => simple::<bool>(input, start)?,
        "byte" => simple::<i8>(input, start)?,
        "short" | "unsignedByte" => simple::<i16>(input, start)?,
        "int" | "unsignedShort" => simple::<i32>(input, start)?,
        "long" | "unsignedInt" | "integer" => simple::<i64>(input, start)?,
        "float" => simple::<f32>(input, start)?,
        "double" => simple::<f64>(input, start)?,
        "dateTime" => simple::<DateTime>(input, start)?,
        "base64Binary" => simple::<Binary>(input, start)?,
        "ManagedObjectReference" => simple::<ManagedObjectReference>(input, start)?,
        _ => {
            if let Some(rest) = name.strip_prefix("ArrayOf")
                && data::lookup(name).is_none()
            {
                let item = item_name(rest);
                let mut items = Vec::new();
                while let Some(child) = input.next_child()? {
                    let typed = child.xsi_type().unwrap_or(&item).to_owned();
                    items.push(if typed == "anyType" {
                        Any::String(input.text()?)
                    } else {
                        read_typed(&typed, input, &child.retyped(&typed))?
                    });
                }
                return Ok(Any::Array(Array { item, items }));
            }
            if data::is_enum(name) {
                return Ok(Any::Enum {
                    r#type: name.to_owned().into(),
                    value: input.text()?,
                });
            }
            if data::nearest(name).is_none() {
                // Neither a type nor an enum that we know: it is kept as text or as an empty object.
                let (text, children) = input.text_or_children()?;
                return Ok(if children || text.is_empty() {
                    Any::Data(Poly::unknown(name))
                } else {
                    Any::Enum {
                        r#type: name.to_owned().into(),
                        value: text,
                    }
                });
            }
            let mut poly = Poly::<DynamicData>::default();
            poly.read_element(input, &start.retyped(name))?;
            Any::Data(poly)
        }
    })
}

impl Poly<DynamicData> {
    /// An object of a type that the model does not have.
    pub(crate) fn unknown(name: &str) -> Self {
        Self::named(name)
    }
}

impl<T: Data> From<T> for Any {
    fn from(value: T) -> Self {
        Self::Data(Poly::anything(Box::new(value)))
    }
}

impl<B: data::Described> From<Poly<B>> for Any {
    fn from(value: Poly<B>) -> Self {
        value.into_any()
    }
}

impl<T: Element> From<Vec<T>> for Any {
    fn from(value: Vec<T>) -> Self {
        Self::Array(Array {
            item: T::type_name().into(),
            items: value.into_iter().map(T::into_any).collect(),
        })
    }
}

macro_rules! from_simple {
    ($($ty:ty),*) => {$(
        impl From<$ty> for Any {
            fn from(value: $ty) -> Self {
                value.into_any()
            }
        }
    )*};
}
from_simple!(
    bool,
    i8,
    i16,
    i32,
    i64,
    f32,
    f64,
    String,
    DateTime,
    Binary,
    ManagedObjectReference
);

impl From<&str> for Any {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}
