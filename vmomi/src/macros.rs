//! What a generated type expands to.
//!
//! A type is a struct, a static table of its fields, and access to each field by index. Everything
//! else (the codec, comparison, debug output, property paths) is written once over those tables.

/// A data type: its fields are those of its bases first, then its own.
macro_rules! data {
    ($name:ident $wsdl:literal $base:tt $since:literal [$($ancestor:ident)*] {
        $($index:literal $field:ident $key:literal $added:literal $ty:ty;)*
    }) => {
        #[doc = concat!("Data type `", $wsdl, "`.")]
        #[derive(Clone, Default)]
        pub struct $name {
            $(#[doc = concat!("Property `", $key, "`.")] pub $field: $ty,)*
        }
        $(impl $crate::data::Extends<$ancestor> for $name {})*
        described!($name $wsdl $base $since { $($index $field $key $added;)* });
    };
}

/// The part of a struct with indexed fields that data types, requests and managed objects share.
macro_rules! described {
    ($name:ident $wsdl:literal $base:tt $since:literal {
        $($index:literal $field:ident $key:literal $added:literal;)*
    }) => {
        impl $crate::data::Described for $name {
            fn describe() -> &'static $crate::data::TypeInfo {
                static INFO: $crate::data::TypeInfo = $crate::data::TypeInfo {
                    name: $wsdl,
                    base: $base,
                    since: $since,
                    fields: &[$($crate::data::FieldInfo { name: $key, since: $added },)*],
                    new: || Box::new(<$name>::default()),
                };
                &INFO
            }
        }
        impl $crate::data::Data for $name {
            fn info(&self) -> &'static $crate::data::TypeInfo {
                <$name as $crate::data::Described>::describe()
            }
            fn field(&self, index: usize) -> Option<&dyn $crate::value::Value> {
                match index {
                    $($index => Some(&self.$field),)*
                    _ => None,
                }
            }
            fn field_mut(&mut self, index: usize) -> Option<&mut dyn $crate::value::Value> {
                match index {
                    $($index => Some(&mut self.$field),)*
                    _ => None,
                }
            }
            fn boxed_clone(&self) -> Box<dyn $crate::data::Data> {
                Box::new(self.clone())
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                $crate::data::same(self, other)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::data::debug(self, f)
            }
        }
    };
}

/// An enum of strings, open at the end.
macro_rules! enumeration {
    ($name:ident $wsdl:literal $since:literal { $first:ident $first_value:literal, $($variant:ident $value:literal,)* }) => {
        #[doc = concat!("Enum `", $wsdl, "`; the default is its first value.")]
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $name {
            #[doc = concat!("`", $first_value, "`")]
            #[default]
            $first,
            $(#[doc = concat!("`", $value, "`")] $variant,)*
            /// A value that the model does not have.
            Unknown(String),
        }
        impl $crate::enumeration::Enumeration for $name {
            const NAME: &'static str = $wsdl;
            const VALUES: &'static [&'static str] = &[$first_value, $($value),*];
            fn parse(value: &str) -> Self {
                match value {
                    $first_value => Self::$first,
                    $($value => Self::$variant,)*
                    _ => Self::Unknown(value.to_owned()),
                }
            }
            fn as_str(&self) -> &str {
                match self {
                    Self::$first => $first_value,
                    $(Self::$variant => $value,)*
                    Self::Unknown(value) => value,
                }
            }
        }
        impl $name {
            /// The value as it is on the wire.
            pub fn as_str(&self) -> &str {
                $crate::enumeration::Enumeration::as_str(self)
            }
        }
        impl $crate::value::Element for $name {
            enumeration_element!();
        }
        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                <Self as $crate::enumeration::Enumeration>::parse(value)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.as_str().to_owned()
            }
        }
        impl From<$name> for $crate::any::Any {
            fn from(value: $name) -> Self {
                $crate::value::Element::into_any(value)
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// What an enum does as a value on the wire.
macro_rules! enumeration_element {
    () => {
        fn type_name() -> &'static str {
            <Self as $crate::enumeration::Enumeration>::NAME
        }
        fn write_element(&self, out: &mut $crate::xml::Writer, name: &str, explicit: bool) {
            out.leaf(name, explicit.then(Self::type_name), self.as_str());
        }
        fn read_element(
            &mut self,
            input: &mut $crate::xml::Reader<'_>,
            _start: &$crate::xml::Start<'_>,
        ) -> Result<(), $crate::xml::Error> {
            *self = <Self as $crate::enumeration::Enumeration>::parse(input.text()?.trim());
            Ok(())
        }
        fn into_any(self) -> $crate::any::Any {
            $crate::any::Any::Enum {
                r#type: Self::type_name().into(),
                value: self.as_str().to_owned(),
            }
        }
        fn from_any(value: $crate::any::Any) -> Result<Self, $crate::value::Mismatch> {
            match value {
                $crate::any::Any::Enum { value, .. } | $crate::any::Any::String(value) => {
                    Ok(<Self as $crate::enumeration::Enumeration>::parse(&value))
                }
                other => Err($crate::value::Mismatch::new(Self::type_name(), &other)),
            }
        }
    };
}

/// Access to the base's fields in a polymorphic place.
macro_rules! poly {
    ($name:ident { $($index:literal $get:ident $get_mut:ident $key:literal $ty:ty;)* }) => {
        impl $crate::poly::Poly<$name> {
            $(
                #[doc = concat!("Property `", $key, "`.")]
                pub fn $get(&self) -> &$ty {
                    self.base_field($index)
                }
                #[doc = concat!("Property `", $key, "`, to change it.")]
                pub fn $get_mut(&mut self) -> &mut $ty {
                    self.base_field_mut($index)
                }
            )*
        }
    };
}

/// A method: its request is a struct of the parameters without `_this`.
macro_rules! method {
    ($name:ident $wsdl:literal $request:literal $owner:ident $owner_name:literal $since:literal $task:literal
     $returns:literal $result:literal $privilege:literal [$($fault:literal),*] ($response:ty) {
        $($index:literal $field:ident $key:literal $added:literal $ty:ty;)*
    }) => {
        #[doc = concat!("The parameters of `", $wsdl, "` of `", $owner_name, "`.")]
        #[derive(Clone, Default)]
        pub struct $name {
            $(#[doc = concat!("Parameter `", $key, "`.")] pub $field: $ty,)*
        }
        described!($name $request (None) $since { $($index $field $key $added;)* });
        impl $crate::method::Method for $name {
            type Response = $response;
            const INFO: &'static $crate::method::MethodInfo = &$crate::method::MethodInfo {
                name: $wsdl,
                owner: $owner_name,
                since: $since,
                task: $task,
                returns: $returns,
                result: $result,
                privilege: $privilege,
                faults: &[$($fault),*],
                arguments: <$name as $crate::data::Described>::describe,
                response: || Box::new(<$response>::default()),
            };
        }
    };
}

/// A managed type with all its properties.
macro_rules! managed {
    ($name:ident $wsdl:literal $base:tt $since:literal {
        $($index:literal $field:ident $key:literal $added:literal $ty:ty;)*
    } [ $($property:tt,)* ]) => {
        #[doc = concat!("The properties of managed type `", $wsdl, "`.")]
        #[derive(Clone, Default)]
        pub struct $name {
            $(#[doc = concat!("Property `", $key, "`.")] pub $field: $ty,)*
        }
        described!($name $wsdl $base $since { $($index $field $key $added;)* });
        impl $crate::managed::Managed for $name {
            const MANAGED: &'static $crate::managed::ManagedInfo = &$crate::managed::ManagedInfo {
                name: $wsdl,
                properties: <$name as $crate::data::Described>::describe,
                details: &[$($property),*],
            };
        }
    };
}

/// One function of the client per method.
macro_rules! calls {
    ($($function:ident $wsdl:literal $owner:literal $request:ident;)*) => {
        impl $crate::client::Client {
            $(
                #[doc = concat!("Calls `", $wsdl, "` of a `", $owner, "`.\n\n# Errors\nAs [`Client::invoke`](crate::client::Client::invoke).")]
                pub fn $function<'a>(
                    &'a self,
                    this: &'a $crate::ManagedObjectReference,
                    request: $request,
                ) -> $crate::client::Call<'a, <$request as $crate::Method>::Response> {
                    self.invoke(this, request)
                }
            )*
        }
    };
}
