//! Enums of the API: strings on the wire, open at the end.

/// An enum of the API.
pub trait Enumeration: Sized {
    /// Its WSDL name.
    const NAME: &'static str;
    /// The values that the model has.
    const VALUES: &'static [&'static str];
    /// The value with this spelling, or `Unknown`.
    fn parse(value: &str) -> Self;
    /// The spelling on the wire.
    fn as_str(&self) -> &str;
}
