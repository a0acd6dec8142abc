//! Reads elements one after the other, within limits.

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;

use super::XSI;

/// A document is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not well-formed.
    #[error("the XML is not well-formed near byte {position}")]
    Syntax {
        /// Where.
        position: u64,
        /// What the parser says.
        #[source]
        source: quick_xml::Error,
    },
    /// It is not UTF-8.
    #[error("the XML is not UTF-8")]
    Encoding(#[source] std::str::Utf8Error),
    /// It is longer than allowed.
    #[error("the XML is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// It is nested deeper than allowed.
    #[error("the XML is nested deeper than {limit} elements")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// It has more elements than allowed.
    #[error("the XML has more than {limit} elements")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It has a document type, which could define entities.
    #[error("the XML has a document type")]
    DocumentType,
    /// It refers to an entity that XML does not define.
    #[error("the XML refers to the unknown entity {0:?}")]
    Entity(String),
    /// It ends too early.
    #[error("the XML ends before its last element does")]
    End,
    /// An element does not hold what its type is written like.
    #[error("element {element} holds {value:?}, which is no {type}")]
    Value {
        /// The element.
        element: String,
        /// The type.
        r#type: &'static str,
        /// What it holds.
        value: String,
    },
    /// An element is of a type that does not fit its place.
    #[error("a {found} stands where a {expected} is declared")]
    WrongType {
        /// What is declared.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A required element is not there.
    #[error("required property {field} of {type} is missing")]
    Missing {
        /// The type.
        r#type: &'static str,
        /// The property.
        field: &'static str,
    },
    /// It is no SOAP envelope.
    #[error("the XML is no SOAP envelope: {0}")]
    Envelope(&'static str),
}

/// How much a document may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length in bytes.
    pub bytes: usize,
    /// Depth of nesting; the decoder's use of the stack grows with it.
    pub depth: usize,
    /// Number of elements.
    pub elements: usize,
}

impl Limits {
    /// For requests, which strangers send: 16 MiB hold a ReconfigVM with 128 KiB of environment many times over.
    pub const REQUEST: Self = Self {
        bytes: 16 << 20,
        depth: 48,
        elements: 500_000,
    };
    /// For responses of a server that we logged in to: 10,000 VMs in one page are 8 MB.
    pub const RESPONSE: Self = Self {
        bytes: 512 << 20,
        depth: 48,
        elements: 50_000_000,
    };
}

/// An element just opened.
#[derive(Debug)]
pub struct Start<'a> {
    event: BytesStart<'a>,
    xsi_type: Option<String>,
    plain_type: Option<String>,
    nil: bool,
}

impl Start<'_> {
    /// Its name without a prefix.
    pub fn name(&self) -> &str {
        self.event.local_name().into_inner()
    }

    /// The type that `xsi:type` names, without a prefix.
    pub fn xsi_type(&self) -> Option<&str> {
        self.xsi_type.as_deref()
    }

    /// The attribute `type` without a prefix: the managed type of a reference.
    pub fn plain_type(&self) -> Option<&str> {
        self.plain_type.as_deref()
    }

    /// Whether `xsi:nil` says that there is nothing.
    pub fn nil(&self) -> bool {
        self.nil
    }

    /// The same element as if its `xsi:type` were this.
    pub(crate) fn retyped(&self, name: &str) -> Self {
        Start {
            event: self.event.clone().into_owned(),
            xsi_type: Some(name.to_owned()),
            plain_type: self.plain_type.clone(),
            nil: self.nil,
        }
    }
}

/// Reads a document from its beginning to its end.
pub struct Reader<'a> {
    inner: NsReader<&'a [u8]>,
    limits: Limits,
    strict: bool,
    depth: usize,
    elements: usize,
}

impl<'a> Reader<'a> {
    /// Begins to read.
    ///
    /// # Errors
    /// When the document is too long or not UTF-8.
    pub fn new(document: &'a [u8], limits: Limits) -> Result<Self, Error> {
        if document.len() > limits.bytes {
            return Err(Error::TooLong {
                limit: limits.bytes,
            });
        }
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        let text = std::str::from_utf8(document).map_err(Error::Encoding)?;
        let mut inner = NsReader::from_str(text);
        inner.config_mut().expand_empty_elements = true;
        Ok(Self {
            inner,
            limits,
            strict: false,
            depth: 0,
            elements: 0,
        })
    }

    /// From now on a missing required property is an error, as it is to a server.
    pub fn set_strict(&mut self, strict: bool) {
        self.strict = strict;
    }

    /// Whether a missing required property is an error.
    pub fn strict(&self) -> bool {
        self.strict
    }

    fn event(&mut self) -> Result<Event<'a>, Error> {
        let event = match self.inner.read_event() {
            Ok(event) => event,
            Err(source) => {
                return Err(Error::Syntax {
                    position: self.inner.error_position(),
                    source,
                });
            }
        };
        match &event {
            Event::Start(_) => {
                self.depth += 1;
                self.elements += 1;
                if self.depth > self.limits.depth {
                    return Err(Error::TooDeep {
                        limit: self.limits.depth,
                    });
                }
                if self.elements > self.limits.elements {
                    return Err(Error::TooMany {
                        limit: self.limits.elements,
                    });
                }
            }
            Event::End(_) => self.depth = self.depth.saturating_sub(1),
            Event::DocType(_) => return Err(Error::DocumentType),
            Event::Eof if self.depth > 0 => return Err(Error::End),
            _ => {}
        }
        Ok(event)
    }

    /// The next child of the element that is open, or nothing when that ends here.
    ///
    /// A child must be read to its end (by its own children, [`text`](Self::text) or
    /// [`skip`](Self::skip)) before the next one is asked for.
    ///
    /// # Errors
    /// When the document is malformed or beyond its limits.
    pub fn next_child(&mut self) -> Result<Option<Start<'a>>, Error> {
        loop {
            match self.event()? {
                Event::Start(event) => return self.start(event).map(Some),
                Event::End(_) | Event::Eof => return Ok(None),
                _ => {}
            }
        }
    }

    fn start(&self, event: BytesStart<'a>) -> Result<Start<'a>, Error> {
        let mut start = Start {
            event,
            xsi_type: None,
            plain_type: None,
            nil: false,
        };
        if start.event.attributes_raw().trim_ascii().is_empty() {
            return Ok(start);
        }
        let (mut xsi_type, mut plain_type, mut nil) = (None, None, false);
        for attribute in start.event.attributes().with_checks(false) {
            let attribute = attribute.map_err(|source| Error::Syntax {
                position: self.inner.buffer_position(),
                source: source.into(),
            })?;
            let local = attribute.key.local_name().into_inner();
            if local != "type" && local != "nil" {
                continue;
            }
            let value = attribute
                .normalized_value(quick_xml::XmlVersion::Implicit1_0)
                .map_err(|source| Error::Syntax {
                    position: self.inner.buffer_position(),
                    source,
                })?;
            let in_xsi = matches!(
                self.inner.resolver().resolve_attribute(attribute.key).0,
                ResolveResult::Bound(namespace) if namespace.0 == XSI
            );
            match (local, in_xsi) {
                ("type", true) => {
                    xsi_type = Some(
                        value
                            .rsplit(':')
                            .next()
                            .unwrap_or_default()
                            .trim()
                            .to_owned(),
                    );
                }
                ("type", false) if attribute.key.prefix().is_none() => {
                    plain_type = Some(value.into_owned())
                }
                ("nil", true) => nil = matches!(value.trim(), "true" | "1"),
                _ => {}
            }
        }
        start.xsi_type = xsi_type;
        start.plain_type = plain_type;
        start.nil = nil;
        Ok(start)
    }

    /// The name space of an element that [`next_child`](Self::next_child) has just opened.
    pub fn namespace(&self, start: &Start<'_>) -> Option<String> {
        match self.inner.resolver().resolve_element(start.event.name()).0 {
            ResolveResult::Bound(namespace) => Some(namespace.0.to_owned()),
            _ => None,
        }
    }

    /// The text of the element that is open, to its end; children of it are skipped.
    ///
    /// # Errors
    /// When the document is malformed or beyond its limits.
    pub fn text(&mut self) -> Result<String, Error> {
        Ok(self.text_or_children()?.0)
    }

    /// As [`text`](Self::text), and whether there were children.
    pub(crate) fn text_or_children(&mut self) -> Result<(String, bool), Error> {
        let mut text = String::new();
        let mut children = false;
        loop {
            match self.event()? {
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part.xml10_content()),
                Event::GeneralRef(reference) => text.push(self.entity(&reference)?),
                Event::Start(_) => {
                    children = true;
                    self.skip()?;
                }
                Event::End(_) => return Ok((text, children)),
                Event::Eof => return Err(Error::End),
                _ => {}
            }
        }
    }

    fn entity(&self, reference: &BytesRef<'_>) -> Result<char, Error> {
        match reference.resolve_char_ref() {
            Ok(Some(c)) => return Ok(c),
            Ok(None) => {}
            Err(source) => {
                return Err(Error::Syntax {
                    position: self.inner.buffer_position(),
                    source,
                });
            }
        }
        match &*reference.xml10_content() {
            "lt" => Ok('<'),
            "gt" => Ok('>'),
            "amp" => Ok('&'),
            "quot" => Ok('"'),
            "apos" => Ok('\''),
            other => Err(Error::Entity(other.chars().take(40).collect())),
        }
    }

    /// Passes over the rest of the element that is open.
    ///
    /// # Errors
    /// When the document is malformed or beyond its limits.
    pub fn skip(&mut self) -> Result<(), Error> {
        let target = self.depth.saturating_sub(1);
        while self.depth > target {
            if matches!(self.event()?, Event::Eof) {
                return Err(Error::End);
            }
        }
        Ok(())
    }
}
