//! SOAP 1.1 envelopes, read and written for both sides.
//!
//! A request's body holds one element, called after the method, in the API's name space; `_this` is
//! its first child and the parameters follow. A reply holds `<MethodResponse>` with any number of
//! `<returnval>`, or a fault whose detail is a data object called after its type.
//!
//! Every function that reads takes bytes that a stranger may have sent: they end in an error, never
//! in a panic, and stay within [`Limits`].

use crate::data::{self, Data};
use crate::method::{self, Method, MethodInfo};
use crate::poly::Poly;
use crate::scalar::ManagedObjectReference;
use crate::types::{LocalizedMethodFault, MethodFault};
use crate::value::{Element, Value};
use crate::version::Version;
use crate::xml::{Error, Limits, Reader, SOAP, VIM25, Writer, XSD, XSI};

/// A request as a server sees it.
#[derive(Debug)]
pub struct Request {
    /// The object that is called.
    pub this: ManagedObjectReference,
    /// The method that is called.
    pub method: &'static MethodInfo,
    /// The parameters, a struct such as [`PowerOnVMRequest`](crate::types::PowerOnVMRequest).
    pub arguments: Box<dyn Data>,
    /// What the header says.
    pub header: Header,
}

/// The header of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A name for the operation, for logs.
    pub operation_id: Option<String>,
    /// The session's cookie, where it does not come as an HTTP cookie.
    pub session_cookie: Option<String>,
}

/// A request cannot be served as it stands.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is not a well-formed call: the answer is `InvalidRequest`.
    #[error("the request cannot be read")]
    Malformed(#[source] Error),
    /// The method is not one that we know: the answer is `MethodNotFound`.
    #[error("no method {method} in {namespace:?}")]
    UnknownMethod {
        /// The object that is called.
        this: ManagedObjectReference,
        /// The method's name.
        method: String,
        /// The name space of it.
        namespace: String,
    },
}

impl From<Error> for RequestError {
    fn from(source: Error) -> Self {
        Self::Malformed(source)
    }
}

/// Reads a request.
///
/// # Errors
/// When it is malformed, beyond [`Limits::REQUEST`], or calls what we do not know.
pub fn parse_request(body: &[u8]) -> Result<Request, RequestError> {
    parse_request_within(body, Limits::REQUEST)
}

/// Reads a request within other limits.
///
/// # Errors
/// As [`parse_request`].
pub fn parse_request_within(body: &[u8], limits: Limits) -> Result<Request, RequestError> {
    let mut input = Reader::new(body, limits)?;
    input.set_strict(true);
    let header = open_envelope(&mut input)?;
    let start = input
        .next_child()?
        .ok_or(Error::Envelope("its body is empty"))?;
    let namespace = input.namespace(&start).unwrap_or_default();
    let name = start.name().to_owned();
    let method = (namespace == VIM25)
        .then(|| method::lookup(&name))
        .flatten();
    let mut this = ManagedObjectReference::default();
    let mut arguments = method.map(|m| ((m.arguments)().new)());
    let mut hint = 0;
    let mut seen = 0u128;
    while let Some(child) = input.next_child()? {
        if child.name() == "_this" {
            this.read_element(&mut input, &child)?;
            continue;
        }
        let Some(arguments) = &mut arguments else {
            input.skip()?;
            continue;
        };
        match arguments.info().find(child.name(), hint) {
            Some(index) if !child.nil() => {
                hint = index;
                seen |= 1u128.checked_shl(index as u32).unwrap_or(0);
                if let Some(field) = arguments.field_mut(index) {
                    field.read(&mut input, &child)?;
                }
            }
            _ => input.skip()?,
        }
    }
    close_envelope(&mut input)?;
    let (Some(method), Some(arguments)) = (method, arguments) else {
        return Err(RequestError::UnknownMethod {
            this,
            method: name,
            namespace,
        });
    };
    let info = arguments.info();
    for (index, field) in info.fields.iter().enumerate().take(128) {
        if seen >> index & 1 == 0 && arguments.field(index).is_some_and(|f| f.required()) {
            return Err(Error::Missing {
                r#type: info.name,
                field: field.name,
            }
            .into());
        }
    }
    if this.value.is_empty() {
        return Err(Error::Envelope("the call has no _this").into());
    }
    Ok(Request {
        this,
        method,
        arguments,
        header,
    })
}

/// Reads up to the opening of the body.
fn open_envelope(input: &mut Reader<'_>) -> Result<Header, Error> {
    let root = input
        .next_child()?
        .ok_or(Error::Envelope("there is no element"))?;
    if root.name() != "Envelope" || input.namespace(&root).as_deref() != Some(SOAP) {
        return Err(Error::Envelope("the root is no SOAP 1.1 Envelope"));
    }
    let mut header = Header::default();
    loop {
        let part = input
            .next_child()?
            .ok_or(Error::Envelope("there is no Body"))?;
        match part.name() {
            "Body" => return Ok(header),
            "Header" => {
                while let Some(entry) = input.next_child()? {
                    match entry.name() {
                        "operationID" => header.operation_id = Some(input.text()?),
                        "vcSessionCookie" => header.session_cookie = Some(input.text()?),
                        _ => input.skip()?,
                    }
                }
            }
            _ => input.skip()?,
        }
    }
}

/// Reads from behind the body's element to the end of the document.
fn close_envelope(input: &mut Reader<'_>) -> Result<(), Error> {
    // What is left of the body, of the envelope, and behind that.
    for _ in 0..3 {
        while input.next_child()?.is_some() {
            input.skip()?;
        }
    }
    Ok(())
}

fn envelope(out: &mut Writer, header: &Header, body: impl FnOnce(&mut Writer)) {
    out.raw("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope xmlns:soapenv=\"");
    out.raw(SOAP);
    out.raw("\" xmlns:xsd=\"");
    out.raw(XSD);
    out.raw("\" xmlns:xsi=\"");
    out.raw(XSI);
    out.raw("\">\n");
    if *header != Header::default() {
        out.raw("<soapenv:Header>");
        for (name, value) in [
            ("operationID", &header.operation_id),
            ("vcSessionCookie", &header.session_cookie),
        ] {
            if let Some(value) = value {
                out.leaf(name, None, value);
            }
        }
        out.raw("</soapenv:Header>\n");
    }
    out.raw("<soapenv:Body>\n");
    body(out);
    out.raw("\n</soapenv:Body>\n</soapenv:Envelope>");
}

/// Writes a call of `method` on `this`.
pub fn request(
    method: &MethodInfo,
    this: &ManagedObjectReference,
    arguments: &dyn Data,
    header: &Header,
    version: Version,
) -> String {
    let mut out = Writer::new(version);
    envelope(&mut out, header, |out| {
        out.raw("<");
        out.raw(method.name);
        out.raw(" xmlns=\"urn:vim25\">");
        this.write_element(out, "_this", false);
        data::write(arguments, arguments.info(), out);
        out.close(method.name);
    });
    out.finish()
}

/// Writes the reply of the method called `method`.
pub fn response(method: &str, value: &dyn Value, version: Version) -> String {
    response_with(method, version, |out| value.write(out, "returnval"))
}

/// Writes the reply of the method called `method`; `body` writes the `returnval` elements.
pub fn response_with(method: &str, version: Version, body: impl FnOnce(&mut Writer)) -> String {
    let mut out = Writer::new(version);
    envelope(&mut out, &Header::default(), |out| {
        out.raw("<");
        out.raw(method);
        out.raw("Response xmlns=\"urn:vim25\">");
        body(out);
        out.raw("</");
        out.raw(method);
        out.raw("Response>");
    });
    out.finish()
}

/// A fault as the reply to a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// `ServerFaultCode`, or what another server says.
    pub code: String,
    /// What went wrong, in words.
    pub text: String,
    /// The fault itself, when the server told it.
    pub detail: Option<Poly<MethodFault>>,
}

impl Fault {
    /// A fault with its text.
    pub fn new(detail: impl Into<Poly<MethodFault>>, text: impl Into<String>) -> Self {
        Self {
            code: "ServerFaultCode".into(),
            text: text.into(),
            detail: Some(detail.into()),
        }
    }

    /// The fault's WSDL name, or `SystemError` when the server told none.
    pub fn name(&self) -> &str {
        self.detail
            .as_ref()
            .map_or("SystemError", |f| f.type_name())
    }

    /// Whether the fault is of this type or extends it.
    pub fn is_a(&self, name: &str) -> bool {
        self.detail.as_ref().is_some_and(|f| f.is_a(name))
    }

    /// The fault as a `T`, when it is exactly that.
    pub fn get<T: Data>(&self) -> Option<&T> {
        self.detail.as_ref()?.get()
    }

    /// The same fault as it stands in data.
    pub fn localized(&self) -> LocalizedMethodFault {
        LocalizedMethodFault {
            fault: self.detail.clone().unwrap_or_default(),
            localized_message: Some(self.text.clone()),
        }
    }
}

impl From<LocalizedMethodFault> for Fault {
    fn from(fault: LocalizedMethodFault) -> Self {
        Self::new(fault.fault, fault.localized_message.unwrap_or_default())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if let Some(messages) = self.detail.as_ref().map(Poly::fault_message) {
            for message in messages.iter().filter_map(|m| m.message.as_deref()) {
                write!(f, " ({message})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Writes a fault as the reply to a call.
pub fn fault(fault: &Fault, version: Version) -> String {
    let mut out = Writer::new(version);
    envelope(&mut out, &Header::default(), |out| {
        out.raw("<soapenv:Fault>");
        out.leaf("faultcode", None, &fault.code);
        out.leaf("faultstring", None, &fault.text);
        if let Some(detail) = &fault.detail {
            out.raw("<detail>");
            detail.write_fault_detail(out);
            out.raw("</detail>");
        }
        out.raw("</soapenv:Fault>");
    });
    out.finish()
}

/// Reads the reply to a call of `M`.
///
/// # Errors
/// When it is malformed or is no reply to that method.
pub fn parse_response<M: Method>(body: &[u8]) -> Result<Result<M::Response, Fault>, Error> {
    let mut value = M::Response::default();
    Ok(
        parse_response_into(body, M::INFO.name, &mut value, Limits::RESPONSE)?
            .map_or(Ok(value), Err),
    )
}

/// Reads the reply to a call of the method called `method` into `value`; gives the fault, if it is one.
///
/// # Errors
/// When it is malformed or is no reply to that method.
pub fn parse_response_into(
    body: &[u8],
    method: &str,
    value: &mut dyn Value,
    limits: Limits,
) -> Result<Option<Fault>, Error> {
    let mut input = Reader::new(body, limits)?;
    open_envelope(&mut input)?;
    let start = input
        .next_child()?
        .ok_or(Error::Envelope("its body is empty"))?;
    if start.name() == "Fault" && input.namespace(&start).as_deref() == Some(SOAP) {
        return read_fault(&mut input).map(Some);
    }
    if start.name().strip_suffix("Response") != Some(method) {
        return Err(Error::Envelope("it answers another method"));
    }
    while let Some(child) = input.next_child()? {
        if child.name() == "returnval" && !child.nil() {
            value.read(&mut input, &child)?;
        } else {
            input.skip()?;
        }
    }
    close_envelope(&mut input)?;
    Ok(None)
}

fn read_fault(input: &mut Reader<'_>) -> Result<Fault, Error> {
    let mut fault = Fault::default();
    while let Some(child) = input.next_child()? {
        match child.name() {
            "faultcode" => fault.code = input.text()?,
            "faultstring" => fault.text = input.text()?,
            "detail" => {
                while let Some(entry) = input.next_child()? {
                    if fault.detail.is_some() {
                        input.skip()?;
                        continue;
                    }
                    let mut detail = Poly::<MethodFault>::default();
                    match entry.xsi_type() {
                        Some(_) => detail.read_element(input, &entry)?,
                        None => {
                            let name = entry
                                .name()
                                .strip_suffix("Fault")
                                .unwrap_or(entry.name())
                                .to_owned();
                            detail.read_element(input, &entry.retyped(&name))?;
                        }
                    }
                    fault.detail = Some(detail);
                }
            }
            _ => input.skip()?,
        }
    }
    Ok(fault)
}
