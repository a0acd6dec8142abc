//! Values of properties: one, perhaps one, or many of something that has a form on the wire.

use std::any::Any as Native;
use std::fmt;

use crate::any::{Any, Array};
use crate::data::{self, Data, Described, TypeInfo};
use crate::xml::{Error, Reader, Start, Writer};

/// A value in an [`Any`] is not of the type wanted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("a value of type {found} is no {expected}")]
pub struct Mismatch {
    /// What was wanted.
    pub expected: &'static str,
    /// What is there.
    pub found: String,
}

impl Mismatch {
    /// Says that `found` is no `expected`.
    pub fn new(expected: &'static str, found: &Any) -> Self {
        Self {
            expected,
            found: found.type_name(),
        }
    }
}

/// What a property path can step into.
pub enum Node<'a> {
    /// Nothing is set here.
    Absent,
    /// A simple value: a path ends here.
    Leaf,
    /// An object with properties.
    Data(&'a dyn Data),
    /// An array; a step into it names an element by its key.
    List(&'a dyn List),
}

/// An array whose elements can be looked at without knowing their type.
pub trait List {
    /// How many elements there are.
    fn count(&self) -> usize;
    /// The element at an index.
    fn item(&self, index: usize) -> Option<&dyn Value>;
}

/// The value of a property: a `T`, an `Option<T>` or a `Vec<T>` of an [`Element`].
pub trait Value: Native + fmt::Debug + Send + Sync {
    /// Writes the value as elements called `name`: none when it is unset, one, or one per item.
    fn write(&self, out: &mut Writer, name: &str);
    /// Writes the value where `anyType` is declared, so with its type; nothing when it is unset.
    fn write_any(&self, out: &mut Writer, name: &str);
    /// Reads one element; an array grows by it.
    ///
    /// # Errors
    /// When the element does not hold a value of the type.
    fn read(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error>;
    /// A copy as `anyType`, or nothing when it is unset.
    fn to_any(&self) -> Option<Any>;
    /// Replaces the value; nothing unsets it.
    ///
    /// # Errors
    /// When the new value is of another type.
    fn set(&mut self, value: Option<Any>) -> Result<(), Mismatch>;
    /// Whether the other is the same value of the same type.
    fn same(&self, other: &dyn Value) -> bool;
    /// What a path can step into.
    fn node(&self) -> Node<'_>;
    /// Whether it is unset: `None` or an empty array.
    fn absent(&self) -> bool {
        false
    }
    /// Whether a request must bring it.
    fn required(&self) -> bool {
        false
    }
    /// Whether it is an array.
    fn is_array(&self) -> bool {
        false
    }
    /// The WSDL name of the (item's) declared type.
    fn declared_name(&self) -> &'static str;
    /// The description of the (item's) declared type, when it is a data type.
    fn declared(&self) -> Option<&'static TypeInfo>;
}

impl dyn Value {
    /// The value as a `T`, when its Rust type is exactly that.
    pub fn as_type<T: 'static>(&self) -> Option<&T> {
        (self as &dyn Native).downcast_ref()
    }
}

/// One value that has a form on the wire.
pub trait Element: Default + Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// The WSDL name of the declared type.
    fn type_name() -> &'static str;
    /// Writes one element; `explicit` asks for its type.
    fn write_element(&self, out: &mut Writer, name: &str, explicit: bool);
    /// Reads the element just opened.
    ///
    /// # Errors
    /// When the element does not hold a value of the type.
    fn read_element(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error>;
    /// The value as `anyType`.
    fn into_any(self) -> Any;
    /// The value out of `anyType`.
    ///
    /// # Errors
    /// When it is of another type.
    fn from_any(value: Any) -> Result<Self, Mismatch>;
    /// What a path can step into.
    fn node(&self) -> Node<'_> {
        Node::Leaf
    }
    /// The description of the declared type, when it is a data type.
    fn describe_element() -> Option<&'static TypeInfo> {
        None
    }
}

fn same<T: PartialEq + 'static>(a: &T, b: &dyn Value) -> bool {
    (b as &dyn Native)
        .downcast_ref::<T>()
        .is_some_and(|b| a == b)
}

impl<T: Element> Value for T {
    fn write(&self, out: &mut Writer, name: &str) {
        self.write_element(out, name, false);
    }
    fn write_any(&self, out: &mut Writer, name: &str) {
        self.write_element(out, name, true);
    }
    fn read(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        self.read_element(input, start)
    }
    fn to_any(&self) -> Option<Any> {
        Some(self.clone().into_any())
    }
    fn set(&mut self, value: Option<Any>) -> Result<(), Mismatch> {
        *self = value.map_or_else(|| Ok(T::default()), T::from_any)?;
        Ok(())
    }
    fn same(&self, other: &dyn Value) -> bool {
        same(self, other)
    }
    fn node(&self) -> Node<'_> {
        Element::node(self)
    }
    fn required(&self) -> bool {
        true
    }
    fn declared_name(&self) -> &'static str {
        T::type_name()
    }
    fn declared(&self) -> Option<&'static TypeInfo> {
        T::describe_element()
    }
}

impl<T: Element> Value for Option<T> {
    fn write(&self, out: &mut Writer, name: &str) {
        if let Some(value) = self {
            value.write_element(out, name, false);
        }
    }
    fn write_any(&self, out: &mut Writer, name: &str) {
        if let Some(value) = self {
            value.write_element(out, name, true);
        }
    }
    fn read(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        self.insert(T::default()).read_element(input, start)
    }
    fn to_any(&self) -> Option<Any> {
        self.clone().map(T::into_any)
    }
    fn set(&mut self, value: Option<Any>) -> Result<(), Mismatch> {
        *self = value.map(T::from_any).transpose()?;
        Ok(())
    }
    fn same(&self, other: &dyn Value) -> bool {
        same(self, other)
    }
    fn node(&self) -> Node<'_> {
        self.as_ref().map_or(Node::Absent, Element::node)
    }
    fn absent(&self) -> bool {
        self.is_none()
    }
    fn declared_name(&self) -> &'static str {
        T::type_name()
    }
    fn declared(&self) -> Option<&'static TypeInfo> {
        T::describe_element()
    }
}

impl<T: Element> List for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }
    fn item(&self, index: usize) -> Option<&dyn Value> {
        self.get(index).map(|item| item as &dyn Value)
    }
}

impl<T: Element> Value for Vec<T> {
    fn write(&self, out: &mut Writer, name: &str) {
        for value in self {
            value.write_element(out, name, false);
        }
    }
    fn write_any(&self, out: &mut Writer, name: &str) {
        out.open_array(name, T::type_name());
        for value in self {
            value.write_element(out, T::type_name(), false);
        }
        out.close(name);
    }
    fn read(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        let mut value = T::default();
        value.read_element(input, start)?;
        self.push(value);
        Ok(())
    }
    fn to_any(&self) -> Option<Any> {
        Some(self.clone().into())
    }
    fn set(&mut self, value: Option<Any>) -> Result<(), Mismatch> {
        *self = value.map_or_else(|| Ok(Vec::new()), Any::into_vec)?;
        Ok(())
    }
    fn same(&self, other: &dyn Value) -> bool {
        same(self, other)
    }
    fn node(&self) -> Node<'_> {
        Node::List(self)
    }
    fn absent(&self) -> bool {
        self.is_empty()
    }
    fn is_array(&self) -> bool {
        true
    }
    fn declared_name(&self) -> &'static str {
        T::type_name()
    }
    fn declared(&self) -> Option<&'static TypeInfo> {
        T::describe_element()
    }
}

/// The result of a method without one.
impl Value for () {
    fn write(&self, _out: &mut Writer, _name: &str) {}
    fn write_any(&self, _out: &mut Writer, _name: &str) {}
    fn read(&mut self, input: &mut Reader<'_>, _start: &Start<'_>) -> Result<(), Error> {
        input.skip()
    }
    fn to_any(&self) -> Option<Any> {
        None
    }
    fn set(&mut self, _value: Option<Any>) -> Result<(), Mismatch> {
        Ok(())
    }
    fn same(&self, other: &dyn Value) -> bool {
        same(self, other)
    }
    fn node(&self) -> Node<'_> {
        Node::Absent
    }
    fn absent(&self) -> bool {
        true
    }
    fn declared_name(&self) -> &'static str {
        "void"
    }
    fn declared(&self) -> Option<&'static TypeInfo> {
        None
    }
}

impl<T: Described> Element for T {
    fn type_name() -> &'static str {
        T::describe().name
    }
    fn write_element(&self, out: &mut Writer, name: &str, explicit: bool) {
        let info = T::describe();
        out.open(name, explicit.then_some(info.name));
        data::write(self, info, out);
        out.close(name);
    }
    fn read_element(&mut self, input: &mut Reader<'_>, _start: &Start<'_>) -> Result<(), Error> {
        data::read(self, input)
    }
    fn into_any(self) -> Any {
        Any::from(self)
    }
    fn from_any(value: Any) -> Result<Self, Mismatch> {
        match value {
            Any::Data(poly) if poly.is::<T>() => {
                poly.into_data().downcast().map_err(|other| Mismatch {
                    expected: T::describe().name,
                    found: other.info().name.to_owned(),
                })
            }
            // A subtype stands in a place that keeps the base only: it begins with the base's fields.
            Any::Data(poly) if poly.is_a(T::describe().name) => {
                let mut value = T::default();
                for index in 0..T::describe().fields.len() {
                    if let (Some(to), Some(from)) =
                        (value.field_mut(index), poly.data().field(index))
                    {
                        to.set(from.to_any())?;
                    }
                }
                Ok(value)
            }
            other => Err(Mismatch::new(T::describe().name, &other)),
        }
    }
    fn node(&self) -> Node<'_> {
        Node::Data(self)
    }
    fn describe_element() -> Option<&'static TypeInfo> {
        Some(T::describe())
    }
}

impl List for Array {
    fn count(&self) -> usize {
        self.items.len()
    }
    fn item(&self, index: usize) -> Option<&dyn Value> {
        self.items.get(index).map(|item| item as &dyn Value)
    }
}
