//! Short ways to make what is made often.

use crate::any::Any;
use crate::types::{LocalizedMethodFault, MethodFault, OptionValue};
use crate::{Extends, Poly};

impl OptionValue {
    /// A key with its value.
    pub fn new(key: impl Into<String>, value: impl Into<Any>) -> Self {
        Self {
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// The value as text, when it is text.
    pub fn text(&self) -> Option<&str> {
        self.value.as_ref()?.as_str()
    }
}

impl LocalizedMethodFault {
    /// A fault with its text, as it stands in data.
    pub fn new(fault: impl crate::Data + Extends<MethodFault>, text: impl Into<String>) -> Self {
        Self {
            fault: Poly::new(fault),
            localized_message: Some(text.into()),
        }
    }
}
