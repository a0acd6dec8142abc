//! XML as the wire has it: a reader with limits and a writer, both below the types.

mod reader;
mod writer;

pub use reader::{Error, Limits, Reader, Start};
pub use writer::Writer;

/// The name space of the API.
pub const VIM25: &str = "urn:vim25";
/// The name space of SOAP 1.1 envelopes.
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// The name space of `xsi:type` and `xsi:nil`.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The name space of the simple types.
pub const XSD: &str = "http://www.w3.org/2001/XMLSchema";
