//! The one table of what differs between API versions, for the fields that we serve.
//!
//! Handlers speak the newest version only. For an older client, an answer is rewritten by every row above the
//! client's version, newest first; a request is rewritten the same way before a handler reads it. What is no
//! rewriting is a [`Below::Behaviour`], asked for by [`has`].

use serde::Serialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::reply::{self, Reply};
use super::version::ApiVersion;

/// Which document a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `GET /version`.
    Version,
    /// `GET /info`.
    Info,
    /// The body of `POST /containers/create`.
    ContainerCreate,
    /// `GET /containers/{}/json`.
    ContainerInspect,
    /// An item of `GET /containers/json`.
    ContainerItem,
    /// The bodies of `POST /containers/{}/exec` and `/exec/{}/start`.
    Exec,
    /// `GET /images/{}/json`.
    ImageInspect,
    /// An item of `GET /images/json`.
    ImageItem,
    /// An item of `GET /networks`.
    NetworkItem,
    /// `GET /networks/{}`, and items of the list.
    Network,
    /// One event.
    Event,
    /// `POST /containers/{}/wait`.
    Wait,
    /// Streams of containers: attach, logs, exec.
    Stream,
    /// Query parameters of the verbs.
    Verb,
}

/// What a version below the row's does.
#[derive(Clone, Copy)]
pub enum Below {
    /// The answer looks otherwise.
    Answer(fn(&mut Value)),
    /// The request is read otherwise, or refused.
    Request(fn(&mut Value) -> Result<(), ApiError>),
    /// The handler behaves otherwise.
    Behaviour,
}

/// A row of the table.
pub struct Row {
    /// The first version with the new way.
    pub since: ApiVersion,
    /// The document.
    pub place: Place,
    /// What is new.
    pub what: &'static str,
    /// The old way.
    pub below: Below,
}

/// Names of the rows that are behaviours.
pub mod behaviour {
    /// `condition` is honoured and the head goes out at once.
    pub const WAIT_CONDITION: &str = "wait has conditions, and its head is sent at once";
    /// The content type tells whether there are frames.
    pub const MULTIPLEXED_TYPE: &str = "framed streams have a content type of their own";
    /// Networks are listed without their containers.
    pub const NETWORK_LIST: &str = "networks are listed without their containers";
    /// `signal` of stop and restart.
    pub const STOP_SIGNAL: &str = "stop and restart take a signal";
    /// Event streams have a content type of their own.
    pub const EVENT_TYPE: &str = "events come as JSON lines by name";
    /// Image `create` events.
    pub const IMAGE_CREATE_EVENT: &str = "images have create events";
    /// `filter=` of the image list.
    pub const IMAGE_FILTER: &str = "the parameter filter of the image list is gone";
    /// `MacAddress` of the container itself.
    pub const CONTAINER_MAC: &str = "the container's own MacAddress is ignored";
    /// The warning about it.
    pub const MAC_WARNING: &str = "the container's own MacAddress is warned about";
    /// `platform` of create.
    pub const CREATE_PLATFORM: &str = "create takes a platform";
    /// `platform` of pull.
    pub const PULL_PLATFORM: &str = "pull takes a platform";
}

macro_rules! rows {
    ($($minor:literal $place:ident $what:expr => $kind:ident $(($below:expr))?);+ $(;)?) => {
        &[$(Row {
            since: ApiVersion::v1($minor),
            place: Place::$place,
            what: $what,
            below: Below::$kind $(($below))?,
        }),+]
    };
}

/// The table, oldest change first.
pub static ROWS: &[Row] = rows! {
    25 ContainerCreate "the server removes containers (AutoRemove)" => Request(|v| set(v, "/HostConfig/AutoRemove", json!(false)));
    28 NetworkItem behaviour::NETWORK_LIST => Behaviour;
    30 Wait behaviour::WAIT_CONDITION => Behaviour;
    32 Verb behaviour::PULL_PLATFORM => Behaviour;
    34 Wait "the outcome carries an Error" => Answer(|v| drop_keys(v, "", &["Error"]));
    40 ContainerCreate "IpcMode is private unless said otherwise" => Request(|v| default_text(v, "/HostConfig", "IpcMode", "shareable"));
    40 ContainerCreate "Mounts know NonRecursive" => Request(|v| drop_from_mounts(v, "BindOptions", "NonRecursive"));
    41 ContainerCreate "CgroupnsMode is known" => Request(|v| remove(v, "/HostConfig", &["CgroupnsMode"]));
    41 Verb behaviour::IMAGE_FILTER => Behaviour;
    41 Verb behaviour::CREATE_PLATFORM => Behaviour;
    42 Stream behaviour::MULTIPLEXED_TYPE => Behaviour;
    42 Verb behaviour::STOP_SIGNAL => Behaviour;
    42 ContainerCreate "ConsoleSize is taken at create" => Request(|v| remove(v, "/HostConfig", &["ConsoleSize"]));
    42 ContainerCreate "options of another mount type are refused" => Request(drop_foreign_options);
    42 ContainerCreate "Mounts know CreateMountpoint" => Request(|v| drop_from_mounts(v, "BindOptions", "CreateMountpoint"));
    42 Exec "ConsoleSize is taken by exec" => Request(|v| remove(v, "", &["ConsoleSize"]));
    43 ContainerCreate "Annotations are kept" => Request(|v| remove(v, "/HostConfig", &["Annotations"]));
    43 ImageItem "images without a name have empty lists" => Answer(dangling_names);
    44 ImageItem "VirtualSize is gone" => Answer(virtual_size);
    44 ImageInspect "VirtualSize is gone" => Answer(virtual_size);
    44 ImageInspect "Created is absent when it is not known" => Answer(|v| default_key(v, "", "Created", json!(super::timestamp::NEVER)));
    44 ContainerCreate "a container joins several networks at once" => Request(one_endpoint);
    44 ContainerCreate "an endpoint has a MacAddress" => Request(|v| drop_from_endpoints(v, "MacAddress"));
    44 ContainerCreate behaviour::MAC_WARNING => Behaviour;
    44 ContainerCreate "health checks have a StartInterval" => Request(|v| remove(v, "/Healthcheck", &["StartInterval"]));
    44 ContainerInspect "endpoints show DNSNames" => Answer(|v| drop_in_networks(v, &["DNSNames"]));
    45 ContainerCreate "volumes are mounted from a Subpath" => Request(no_subpath);
    45 ImageInspect "Container and ContainerConfig are gone" => Answer(container_of_image);
    45 ContainerInspect "Aliases have no short id" => Answer(short_id_alias);
    46 ContainerItem "the list shows Annotations" => Answer(|v| drop_keys(v, "/HostConfig", &["Annotations"]));
    46 Event behaviour::IMAGE_CREATE_EVENT => Behaviour;
    46 ContainerCreate "temporary file systems have Options" => Request(|v| drop_from_mounts(v, "TmpfsOptions", "Options"));
    48 ImageInspect "Descriptor is shown" => Answer(|v| drop_keys(v, "", &["Descriptor"]));
    48 ImageItem "Descriptor is shown" => Answer(|v| drop_keys(v, "", &["Descriptor"]));
    48 ContainerCreate "images can be mounted" => Request(no_image_mounts);
    48 ContainerCreate "endpoints have a GwPriority" => Request(|v| drop_from_endpoints(v, "GwPriority"));
    48 ContainerInspect "endpoints show GwPriority" => Answer(|v| drop_in_networks(v, &["GwPriority"]));
    48 Network "EnableIPv4 is shown" => Answer(|v| drop_keys(v, "", &["EnableIPv4"]));
    49 Info "FirewallBackend is shown" => Answer(|v| drop_keys(v, "", &["FirewallBackend"]));
    49 Info "commits have no Expected" => Answer(expected_commits);
    49 Info "AllowNondistributableArtifacts is gone" => Answer(nondistributable);
    50 Info "BridgeNf fields are gone" => Answer(bridge_nf);
    50 ImageInspect "Config has only an image's fields" => Answer(container_fields);
    51 ImageItem "Containers are counted" => Answer(|v| replace(v, "Containers", json!(-1)));
    52 ContainerInspect "the default network is not repeated" => Answer(repeat_default_network);
    52 ContainerInspect "GraphDriver may be absent" => Answer(|v| default_key(v, "", "GraphDriver", json!({"Name": "vsphere", "Data": null})));
    52 ImageInspect "GraphDriver may be absent" => Answer(|v| default_key(v, "", "GraphDriver", json!({"Name": "vsphere", "Data": null})));
    52 ImageInspect "empty fields are left out" => Answer(empty_image_fields);
    52 ContainerCreate behaviour::CONTAINER_MAC => Behaviour;
    52 ContainerItem "the list shows Health" => Answer(|v| drop_keys(v, "", &["Health"]));
    52 Event "status, id and from are gone" => Answer(old_event_fields);
    52 Event behaviour::EVENT_TYPE => Behaviour;
    52 Network "Status is shown" => Answer(|v| drop_keys(v, "", &["Status"]));
};

/// Whether a version has the behaviour of a row.
///
/// A name without a row is taken for new everywhere; a test makes sure that there is none.
pub fn has(version: ApiVersion, name: &str) -> bool {
    ROWS.iter()
        .find(|row| row.what == name)
        .is_none_or(|row| version >= row.since)
}

/// Rewrites a newest answer for an older client.
pub fn downgrade(version: ApiVersion, place: Place, value: &mut Value) {
    for row in ROWS
        .iter()
        .rev()
        .filter(|row| row.place == place && row.since > version)
    {
        if let Below::Answer(rewrite) = row.below {
            rewrite(value);
        }
    }
}

/// Rewrites an older client's request for the handlers.
///
/// # Errors
///
/// 400 where the older version refused what the newer takes.
pub fn upgrade(version: ApiVersion, place: Place, value: &mut Value) -> Result<(), ApiError> {
    for row in ROWS
        .iter()
        .filter(|row| row.place == place && row.since > version)
    {
        if let Below::Request(rewrite) = row.below {
            rewrite(value)?;
        }
    }
    Ok(())
}

/// Whether answers of this place are the same at `version` and at the newest.
pub fn is_newest(version: ApiVersion, place: Place) -> bool {
    !ROWS.iter().any(|row| {
        row.place == place && row.since > version && matches!(row.below, Below::Answer(_))
    })
}

/// 200 with one document, rewritten for the client's version.
///
/// # Errors
///
/// 500 when the document cannot be written.
pub fn answer<T: Serialize>(
    version: ApiVersion,
    place: Place,
    document: &T,
) -> Result<Reply, ApiError> {
    if is_newest(version, place) {
        return reply::json(document);
    }
    let mut value = serde_json::to_value(document)
        .map_err(|why| ApiError::internal(format!("cannot write the answer: {why}")))?;
    downgrade(version, place, &mut value);
    reply::json(&value)
}

/// 200 with a list, each item rewritten for the client's version.
///
/// # Errors
///
/// As [`answer`].
pub fn answer_list<T: Serialize>(
    version: ApiVersion,
    place: Place,
    items: &[T],
) -> Result<Reply, ApiError> {
    if is_newest(version, place) {
        return reply::json(items);
    }
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        let mut value = serde_json::to_value(item)
            .map_err(|why| ApiError::internal(format!("cannot write the answer: {why}")))?;
        downgrade(version, place, &mut value);
        values.push(value);
    }
    reply::json(&values)
}

mod rewrite;
use rewrite::*;

#[cfg(test)]
mod tests;
