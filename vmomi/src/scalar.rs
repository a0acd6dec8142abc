//! Simple values: XSD's, dates, bytes and references to managed objects.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::any::Any;
use crate::value::{Element, Mismatch};
use crate::xml::{Error, Reader, Start, Writer};

/// A point in time; RFC 3339 on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime(pub OffsetDateTime);

impl DateTime {
    /// The time now.
    pub fn now() -> Self {
        Self(OffsetDateTime::now_utc())
    }
}

impl Default for DateTime {
    fn default() -> Self {
        Self(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).unwrap_or_default())
    }
}

impl From<std::time::SystemTime> for DateTime {
    fn from(value: std::time::SystemTime) -> Self {
        Self(value.into())
    }
}

/// Bytes; base64 on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binary(pub Vec<u8>);

/// A reference to a managed object; its value is opaque.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagedObjectReference {
    /// The WSDL name of the object's managed type.
    pub r#type: String,
    /// The object's identifier on its server.
    pub value: String,
}

impl ManagedObjectReference {
    /// A reference to the object `value` of managed type `type`.
    pub fn new(r#type: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            r#type: r#type.into(),
            value: value.into(),
        }
    }

    /// The object where every session begins.
    pub fn service_instance() -> Self {
        Self::new("ServiceInstance", "ServiceInstance")
    }
}

impl fmt::Display for ManagedObjectReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.r#type, self.value)
    }
}

impl Element for ManagedObjectReference {
    fn type_name() -> &'static str {
        "ManagedObjectReference"
    }
    fn write_element(&self, out: &mut Writer, name: &str, explicit: bool) {
        out.reference(name, &self.r#type, &self.value, explicit);
    }
    fn read_element(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
        self.r#type = start.plain_type().unwrap_or_default().to_owned();
        self.value = input.text()?;
        Ok(())
    }
    fn into_any(self) -> Any {
        Any::Reference(self)
    }
    fn from_any(value: Any) -> Result<Self, Mismatch> {
        match value {
            Any::Reference(reference) => Ok(reference),
            other => Err(Mismatch::new(Self::type_name(), &other)),
        }
    }
}

/// A simple type: its name, its spelling and its reading.
macro_rules! simple {
    ($ty:ty, $variant:ident, $name:literal, |$write:ident| $spell:expr, |$text:ident| $parse:expr $(, $from:pat => $into:expr)*) => {
        impl Element for $ty {
            fn type_name() -> &'static str {
                $name
            }
            fn write_element(&self, out: &mut Writer, name: &str, explicit: bool) {
                let $write = self;
                out.leaf(name, explicit.then_some(concat!("xsd:", $name)), &$spell);
            }
            fn read_element(&mut self, input: &mut Reader<'_>, start: &Start<'_>) -> Result<(), Error> {
                let text = input.text()?;
                let $text = text.trim();
                *self = ($parse).ok_or_else(|| Error::Value {
                    element: start.name().to_owned(),
                    r#type: $name,
                    value: text.chars().take(80).collect(),
                })?;
                Ok(())
            }
            fn into_any(self) -> Any {
                Any::$variant(self)
            }
            fn from_any(value: Any) -> Result<Self, Mismatch> {
                match value {
                    Any::$variant(value) => Ok(value),
                    $($from => Ok($into),)*
                    other => Err(Mismatch::new($name, &other)),
                }
            }
        }
    };
}

simple!(
    bool,
    Bool,
    "boolean",
    |v| if *v { "true" } else { "false" },
    |t| match t {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
);
simple!(i8, Byte, "byte", |v| v.to_string(), |t| t
    .parse()
    .ok()
    .or_else(|| t.parse::<u8>().ok().map(|b| b as i8)));
simple!(i16, Short, "short", |v| v.to_string(), |t| t.parse().ok(), Any::Byte(v) => v.into());
simple!(i32, Int, "int", |v| v.to_string(), |t| t.parse().ok(), Any::Short(v) => v.into(), Any::Byte(v) => v.into());
simple!(i64, Long, "long", |v| v.to_string(), |t| t.parse().ok(), Any::Int(v) => v.into(), Any::Short(v) => v.into(), Any::Byte(v) => v.into());
simple!(
    f32,
    Float,
    "float",
    |v| real(f64::from(*v), v.to_string()),
    |t| parse_real(t).map(|v| v as f32)
);
simple!(f64, Double, "double", |v| real(*v, v.to_string()), |t| parse_real(t), Any::Float(v) => v.into());
simple!(DateTime, DateTime, "dateTime", |v| v.to_string(), |t| {
    parse_time(t)
});
simple!(
    Binary,
    Binary,
    "base64Binary",
    |v| STANDARD.encode(&v.0),
    |t| {
        let compact: String = t.split_ascii_whitespace().collect();
        STANDARD.decode(compact).ok().map(Binary)
    }
);

/// XSD spells the special values in its own way.
fn real(value: f64, spelled: String) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 {
            "INF".into()
        } else {
            "-INF".into()
        }
    } else {
        spelled
    }
}

fn parse_real(text: &str) -> Option<f64> {
    match text {
        "INF" | "+INF" => Some(f64::INFINITY),
        "-INF" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

fn parse_time(text: &str) -> Option<DateTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        // A time without a zone is one of UTC.
        .or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339))
        .ok()
        .map(DateTime)
}

impl Element for String {
    fn type_name() -> &'static str {
        "string"
    }
    fn write_element(&self, out: &mut Writer, name: &str, explicit: bool) {
        out.leaf(name, explicit.then_some("xsd:string"), self);
    }
    fn read_element(&mut self, input: &mut Reader<'_>, _start: &Start<'_>) -> Result<(), Error> {
        *self = input.text()?;
        Ok(())
    }
    fn into_any(self) -> Any {
        Any::String(self)
    }
    fn from_any(value: Any) -> Result<Self, Mismatch> {
        match value {
            Any::String(value) | Any::Enum { value, .. } => Ok(value),
            other => Err(Mismatch::new("string", &other)),
        }
    }
}
