//! Methods: what each takes, gives, and may fail with.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::data::{Described, TypeInfo};
use crate::generated::methods::METHODS;
use crate::value::Value;

/// A method of a managed type.
#[derive(Debug)]
pub struct MethodInfo {
    /// Its WSDL name: `PowerOnVM_Task`.
    pub name: &'static str,
    /// The managed type that has it.
    pub owner: &'static str,
    /// The version that brought it.
    pub since: u8,
    /// Whether it gives a task.
    pub task: bool,
    /// The WSDL name of what it gives, `[]` behind an array, `void` for nothing.
    pub returns: &'static str,
    /// What its task gives in the end.
    pub result: &'static str,
    /// The privilege that it takes.
    pub privilege: &'static str,
    /// The faults that it declares.
    pub faults: &'static [&'static str],
    /// Its parameters without `_this`.
    pub arguments: fn() -> &'static TypeInfo,
    /// Makes an empty response.
    pub response: fn() -> Box<dyn Value>,
}

/// The request of a method: a struct of its parameters.
pub trait Method: Described {
    /// What the method gives: `()`, a `T`, an `Option<T>` or a `Vec<T>`.
    type Response: Value + Default;
    /// The method.
    const INFO: &'static MethodInfo;
}

static BY_NAME: LazyLock<HashMap<&'static str, &'static MethodInfo>> =
    LazyLock::new(|| METHODS.iter().map(|info| (info.name, *info)).collect());

/// The method with this WSDL name.
pub fn lookup(name: &str) -> Option<&'static MethodInfo> {
    BY_NAME.get(name).copied()
}

/// All methods.
pub fn all() -> impl Iterator<Item = &'static MethodInfo> {
    METHODS.iter().copied()
}
