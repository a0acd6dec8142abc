//! Places that hold a type or any of its subtypes.

use std::any::Any as Native;
use std::fmt;
use std::marker::PhantomData;

use crate::any::Any;
use crate::data::{self, Data, Described, Extends};
use crate::value::{Element, Mismatch, Node};
use crate::xml::{Error, Reader, Start, Writer};

/// A `B` or one of its subtypes.
///
/// The fields of `B` are at hand by methods of their names (`device.key()`, `device.key_mut()`),
/// whatever the subtype. An unlisted subtype is kept as its nearest base that we have, together
/// with its name, under which it is written again.
pub struct Poly<B> {
    data: Box<dyn Data>,
    /// The name of an unlisted subtype.
    name: Option<Box<str>>,
    base: PhantomData<fn() -> B>,
}

impl<B> Clone for Poly<B> {
    fn clone(&self) -> Self {
        Self {
            data: self.data.boxed_clone(),
            name: self.name.clone(),
            base: PhantomData,
        }
    }
}

impl<B: Described> Default for Poly<B> {
    fn default() -> Self {
        Self {
            data: Box::new(B::default()),
            name: None,
            base: PhantomData,
        }
    }
}

impl<B> PartialEq for Poly<B> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && data::same(&*self.data, &*other.data)
    }
}

impl<B> fmt::Debug for Poly<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name} as ")?;
        }
        self.data.fmt(f)
    }
}

impl<B: Described, T: Data + Extends<B>> From<T> for Poly<B> {
    fn from(value: T) -> Self {
        Self {
            data: Box::new(value),
            name: None,
            base: PhantomData,
        }
    }
}

impl<B: Described> Poly<B> {
    /// Holds a value of `B` or a subtype.
    pub fn new(value: impl Data + Extends<B>) -> Self {
        value.into()
    }

    /// Holds an object whose type is known at run time only.
    ///
    /// # Errors
    /// The object, when it neither is nor extends `B`.
    pub fn from_data(data: Box<dyn Data>) -> Result<Self, Box<dyn Data>> {
        if fits::<B>(data.info()) {
            Ok(Self {
                data,
                name: None,
                base: PhantomData,
            })
        } else {
            Err(data)
        }
    }

    /// The same object in a place declared as `C`.
    ///
    /// # Errors
    /// The place itself, when the object neither is nor extends `C`.
    pub fn cast<C: Described>(self) -> Result<Poly<C>, Self> {
        if fits::<C>(self.data.info()) {
            Ok(Poly {
                data: self.data,
                name: self.name,
                base: PhantomData,
            })
        } else {
            Err(self)
        }
    }
}

impl<B> Poly<B> {
    /// The object as a `T`, when it is exactly that.
    pub fn get<T: Data>(&self) -> Option<&T> {
        self.data.get()
    }

    /// The object as a `T`, to change it, when it is exactly that.
    pub fn get_mut<T: Data>(&mut self) -> Option<&mut T> {
        self.data.get_mut()
    }

    /// Whether the object is of exactly this type.
    pub fn is<T: Data>(&self) -> bool {
        self.get::<T>().is_some()
    }

    /// Whether the object is of the type called `name` or extends it.
    pub fn is_a(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name) || self.data.info().is_a(name)
    }

    /// The object's WSDL name, that of an unlisted subtype included.
    pub fn type_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.data.info().name)
    }

    /// The object, to walk its fields.
    pub fn data(&self) -> &dyn Data {
        &*self.data
    }

    /// The object, to change its fields.
    pub fn data_mut(&mut self) -> &mut dyn Data {
        &mut *self.data
    }

    /// The object itself.
    pub fn into_data(self) -> Box<dyn Data> {
        self.data
    }

    /// A field of the base: subtypes begin with the fields of their base, so the index is the same.
    pub(crate) fn base_field<T: 'static>(&self, index: usize) -> &T {
        self.data
            .field(index)
            .and_then(|value| (value as &dyn Native).downcast_ref())
            .unwrap_or_else(|| unreachable!("subtypes begin with the fields of their base"))
    }

    /// A field of the base, to change it.
    pub(crate) fn base_field_mut<T: 'static>(&mut self, index: usize) -> &mut T {
        self.data
            .field_mut(index)
            .and_then(|value| (value as &mut dyn Native).downcast_mut())
            .unwrap_or_else(|| unreachable!("subtypes begin with the fields of their base"))
    }

    /// The type to write the object as for this version, and the name to give it: a client of an
    /// older version does not know newer types, so it gets the nearest base that it knows.
    fn shown(&self, version: crate::Version) -> (&'static data::TypeInfo, &str) {
        let own = self.data.info();
        let shown = own
            .lineage()
            .find(|info| version.shows(info.since))
            .unwrap_or(own);
        (
            shown,
            if std::ptr::eq(shown, own) {
                self.type_name()
            } else {
                shown.name
            },
        )
    }

    /// Writes the object; its name is told when it differs from the declared one.
    pub(crate) fn write_as(&self, out: &mut Writer, element: &str, declared: Option<&str>) {
        let (shown, name) = self.shown(out.version());
        out.open(element, (declared != Some(name)).then_some(name));
        data::write(&*self.data, shown, out);
        out.close(element);
    }
}

/// Whether an object of this type may stand where `B` is declared.
fn fits<B: Described>(info: &'static data::TypeInfo) -> bool {
    let base = B::describe();
    base.name == "DynamicData" || info.lineage().any(|i| std::ptr::eq(i, base))
}

impl<B: Described> Element for Poly<B> {
    fn type_name() -> &'static str {
        B::describe().name
    }
    fn write_element(&self, out: &mut Writer, name: &str, explicit: bool) {
        self.write_as(out, name, (!explicit).then(|| B::describe().name));
    }
    fn read_element(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        *self = match start.xsi_type() {
            None => Self::default(),
            Some(name) => match data::lookup(name) {
                Some(info) if fits::<B>(info) => Self {
                    data: (info.new)(),
                    name: None,
                    base: PhantomData,
                },
                Some(info) => {
                    return Err(Error::WrongType {
                        expected: B::describe().name,
                        found: info.name.to_owned(),
                    });
                }
                None => {
                    let data = match data::nearest(name) {
                        Some(info) if fits::<B>(info) => (info.new)(),
                        _ => Box::new(B::default()),
                    };
                    Self {
                        data,
                        name: Some(name.into()),
                        base: PhantomData,
                    }
                }
            },
        };
        data::read(&mut *self.data, input)
    }
    fn into_any(self) -> Any {
        Any::Data(Poly {
            data: self.data,
            name: self.name,
            base: PhantomData,
        })
    }
    fn from_any(value: Any) -> Result<Self, Mismatch> {
        match value {
            Any::Data(poly) => poly
                .cast()
                .map_err(|poly| Mismatch::new(B::describe().name, &Any::Data(poly))),
            other => Err(Mismatch::new(B::describe().name, &other)),
        }
    }
    fn node(&self) -> Node<'_> {
        Node::Data(&*self.data)
    }
    fn describe_element() -> Option<&'static data::TypeInfo> {
        Some(B::describe())
    }
}

impl Poly<crate::types::MethodFault> {
    /// Writes the fault as SOAP has it in `detail`: in an element called after its type.
    pub(crate) fn write_fault_detail(&self, out: &mut Writer) {
        let (shown, name) = self.shown(out.version());
        out.raw("<");
        out.escape(name);
        out.raw("Fault xmlns=\"urn:vim25\" xsi:type=\"");
        out.escape(name);
        out.raw("\">");
        data::write(&*self.data, shown, out);
        out.raw("</");
        out.escape(name);
        out.raw("Fault>");
    }
}

impl Poly<crate::types::DynamicData> {
    /// Any object at all.
    pub(crate) fn anything(data: Box<dyn Data>) -> Self {
        Self {
            data,
            name: None,
            base: PhantomData,
        }
    }

    /// An empty object of a type that we know by name only.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            data: Box::new(crate::types::DynamicData::default()),
            name: Some(name.into()),
            base: PhantomData,
        }
    }
}
