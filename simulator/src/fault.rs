//! Faults: what a call or a task answers when it cannot be done.

use vmomi::types::{
    CannotCreateFile, DuplicateName, FileAlreadyExists, FileFault, FileNotFound,
    GenericVmConfigFault, InvalidArgument, InvalidDatastore, InvalidDatastorePath,
    InvalidDeviceSpec, InvalidName, InvalidPowerState, InvalidProperty, LocalizedMethodFault,
    ManagedObjectNotFound, MethodFault, MethodNotFound, NotAuthenticated, ResourceInUse,
    SystemError, VirtualMachinePowerState,
};
use vmomi::{ManagedObjectReference as Moref, Poly};

/// The result of whatever may end in a fault.
pub(crate) type Outcome<T> = Result<T, Fault>;

/// A fault, and what it says to people.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The fault as data.
    pub(crate) fault: Box<Poly<MethodFault>>,
    /// The text for people.
    pub(crate) message: String,
}

macro_rules! by_name {
    ($name:expr; $($fault:ident),* $(,)?) => {
        match $name {
            $(stringify!($fault) => Some(vmomi::types::$fault::default().into()),)*
            _ => None,
        }
    };
}

/// Makes a fault without any fields of its own, by name.
fn named(name: &str) -> Option<Poly<MethodFault>> {
    by_name!(name;
        AlreadyExists, AlreadyUpgraded, ConcurrentAccess, CannotAccessFile, CannotCreateFile,
        CannotDeleteFile, DuplicateName, FileAlreadyExists, FileFault, FileLocked, FileNotFound,
        GenericVmConfigFault, GuestOperationsFault, GuestOperationsUnavailable, HostCommunication,
        HostNotConnected, HostNotReachable, InsufficientResourcesFault, InvalidArgument,
        InvalidCollectorVersion, InvalidDatastore, InvalidDatastorePath, InvalidDeviceSpec,
        InvalidFolder, InvalidGuestLogin, InvalidLogin, InvalidName, InvalidPowerState,
        InvalidProperty, InvalidRequest, InvalidState, InvalidType, InvalidVmConfig,
        ManagedObjectNotFound, MethodDisabled, MethodNotFound, NoDiskSpace, NoPermission,
        NotAuthenticated, NotFound, NotSupported, OperationNotSupportedByGuest, RequestCanceled,
        ResourceInUse, RuntimeFault, SystemError, TaskInProgress, ToolsUnavailable,
        UnexpectedFault, VmConfigFault,
    )
}

impl Fault {
    pub(crate) fn new(fault: impl Into<Poly<MethodFault>>, message: impl Into<String>) -> Self {
        Fault {
            fault: Box::new(fault.into()),
            message: message.into(),
        }
    }

    /// A fault without fields of its own; a name that is not known makes a `SystemError`.
    pub(crate) fn plain(name: &str) -> Self {
        match named(name) {
            Some(fault) => Fault::new(fault, words(name)),
            None => Fault::system(format!("a fault {name} was asked for by rule")),
        }
    }

    pub(crate) fn system(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let message = format!("A general system error occurred: {reason}");
        Fault::new(
            SystemError {
                reason,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn invalid_argument(property: &str) -> Self {
        Fault::new(
            InvalidArgument {
                invalid_property: Some(property.into()),
                ..Default::default()
            },
            format!("A specified parameter was not correct: {property}"),
        )
    }

    pub(crate) fn invalid_property(name: &str) -> Self {
        Fault::new(
            InvalidProperty {
                name: name.into(),
                ..Default::default()
            },
            format!("The property {name} does not exist"),
        )
    }

    pub(crate) fn not_found(object: &Moref) -> Self {
        Fault::new(
            ManagedObjectNotFound {
                obj: object.clone(),
                ..Default::default()
            },
            format!(
                "The object 'vim.{}:{}' has already been deleted or has not been completely \
                 created",
                object.r#type, object.value
            ),
        )
    }

    pub(crate) fn method_not_found(object: &Moref, method: &str) -> Self {
        Fault::new(
            MethodNotFound {
                receiver: object.clone(),
                method: method.into(),
                ..Default::default()
            },
            format!("The method {method} is not there on {}", object.r#type),
        )
    }

    pub(crate) fn not_supported() -> Self {
        Fault::new(
            vmomi::types::NotSupported::default(),
            "The operation is not supported on the object.",
        )
    }

    pub(crate) fn not_authenticated(object: &Moref, privilege: &str) -> Self {
        Fault::new(
            NotAuthenticated {
                object: Some(object.clone()),
                privilege_id: Some(privilege.into()),
                ..Default::default()
            },
            "The session is not authenticated.",
        )
    }

    pub(crate) fn power_state(
        requested: Option<VirtualMachinePowerState>,
        existing: VirtualMachinePowerState,
    ) -> Self {
        let message = format!(
            "The attempted operation cannot be performed in the current state ({}).",
            match existing {
                VirtualMachinePowerState::PoweredOn => "Powered on",
                VirtualMachinePowerState::Suspended => "Suspended",
                _ => "Powered off",
            }
        );
        Fault::new(
            InvalidPowerState {
                requested_state: requested,
                existing_state: existing,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn duplicate_name(name: &str, object: &Moref) -> Self {
        Fault::new(
            DuplicateName {
                name: name.into(),
                object: object.clone(),
                ..Default::default()
            },
            format!("The name '{name}' already exists."),
        )
    }

    pub(crate) fn invalid_name(name: &str) -> Self {
        Fault::new(
            InvalidName {
                name: name.into(),
                ..Default::default()
            },
            format!("The name '{name}' is not valid."),
        )
    }

    pub(crate) fn file_not_found(file: impl ToString) -> Self {
        let file = file.to_string();
        let message = format!("File {file} was not found");
        Fault::new(
            FileNotFound {
                file,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn file_exists(file: impl ToString) -> Self {
        let file = file.to_string();
        let message = format!("File {file} already exists");
        Fault::new(
            FileAlreadyExists {
                file,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn cannot_create(file: impl ToString, why: impl std::fmt::Display) -> Self {
        let file = file.to_string();
        let message = format!("Cannot create file {file}: {why}");
        Fault::new(
            CannotCreateFile {
                file,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn file(file: impl ToString, why: impl std::fmt::Display) -> Self {
        let file = file.to_string();
        let message = format!("Error caused by file {file}: {why}");
        Fault::new(
            FileFault {
                file,
                ..Default::default()
            },
            message,
        )
    }

    /// What an I/O error on a datastore file is to a client.
    pub(crate) fn io(file: impl ToString, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Fault::file_not_found(file),
            std::io::ErrorKind::AlreadyExists => Fault::file_exists(file),
            _ => Fault::file(file, error),
        }
    }

    pub(crate) fn datastore_path(path: &str) -> Self {
        Fault::new(
            InvalidDatastorePath {
                datastore_path: path.into(),
                ..Default::default()
            },
            format!("Invalid datastore path '{path}'."),
        )
    }

    pub(crate) fn datastore(name: &str) -> Self {
        Fault::new(
            InvalidDatastore {
                name: Some(name.into()),
                ..Default::default()
            },
            format!("Datastore '{name}' is not valid."),
        )
    }

    pub(crate) fn invalid_device(property: &str, index: i32) -> Self {
        Fault::new(
            InvalidDeviceSpec {
                property: Some(property.into()),
                device_index: index,
                ..Default::default()
            },
            format!("Invalid configuration for device '{index}'."),
        )
    }

    pub(crate) fn vm_config(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let message = reason.clone();
        Fault::new(
            GenericVmConfigFault {
                reason,
                ..Default::default()
            },
            message,
        )
    }

    pub(crate) fn in_use(name: &str) -> Self {
        Fault::new(
            ResourceInUse {
                name: Some(name.into()),
                ..Default::default()
            },
            format!("The resource '{name}' is in use."),
        )
    }

    /// The form in which data carries a fault.
    pub(crate) fn localized(&self) -> LocalizedMethodFault {
        LocalizedMethodFault {
            fault: (*self.fault).clone(),
            localized_message: Some(self.message.clone()),
        }
    }
}

/// Makes words of a type name: `TaskInProgress` → `Task in progress.`
fn words(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push(' ');
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out.push('.');
    out
}
