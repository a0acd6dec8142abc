//! Writes elements for one version of the API.

use crate::any::array_name;
use crate::version::Version;

/// A document in the making. Prefixes `xsi` and `xsd` are declared by whoever writes the root.
#[derive(Debug)]
pub struct Writer {
    out: String,
    version: Version,
}

impl Writer {
    /// An empty document for a reader of this version.
    pub fn new(version: Version) -> Self {
        Self {
            out: String::with_capacity(1024),
            version,
        }
    }

    /// The version of the reader.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The document.
    pub fn finish(self) -> String {
        self.out
    }

    /// How long the document is by now, in bytes.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Adds text that is XML already.
    pub fn raw(&mut self, xml: &str) {
        self.out.push_str(xml);
    }

    /// Opens an element, with its type where that has to be told.
    pub fn open(&mut self, name: &str, xsi_type: Option<&str>) {
        self.out.push('<');
        self.out.push_str(name);
        if let Some(ty) = xsi_type {
            self.out.push_str(" xsi:type=\"");
            self.escape(ty);
            self.out.push('"');
        }
        self.out.push('>');
    }

    /// Opens an element that holds an `ArrayOf…`.
    pub fn open_array(&mut self, name: &str, item: &str) {
        self.open(name, Some(&array_name(item)));
    }

    /// Closes an element.
    pub fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Writes an element that holds text.
    pub fn leaf(&mut self, name: &str, xsi_type: Option<&str>, text: &str) {
        self.open(name, xsi_type);
        self.escape(text);
        self.close(name);
    }

    /// Writes a reference to a managed object.
    pub fn reference(&mut self, name: &str, ty: &str, value: &str, explicit: bool) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str(" type=\"");
        self.escape(ty);
        self.out.push('"');
        if explicit {
            self.out.push_str(" xsi:type=\"ManagedObjectReference\"");
        }
        self.out.push('>');
        self.escape(value);
        self.close(name);
    }

    /// Writes text. Characters that XML 1.0 cannot hold become U+FFFD.
    pub fn escape(&mut self, text: &str) {
        let mut from = 0;
        for (at, c) in text.char_indices() {
            let with = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\r' => "&#13;",
                '\n' => "&#10;",
                '\t' => "&#9;",
                '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}",
                _ => continue,
            };
            self.out.push_str(&text[from..at]);
            self.out.push_str(with);
            from = at + c.len_utf8();
        }
        self.out.push_str(&text[from..]);
    }
}
