//! `Fetch`: one property of one object, as pyvmomi reads them. The API model does not have this
//! method, since it is the mechanism below the model's properties.

use std::sync::Arc;

use vmomi::value::Value as _;
use vmomi::xml::{Limits, Reader};
use vmomi::{ManagedObjectReference as Moref, Version, soap};

use super::{Answer, HttpCall, fault};
use crate::fault::{Fault, Outcome};
use crate::pc;
use crate::world::World;

/// Answers the call; the body is known to be a well-formed call of `Fetch`.
pub(super) fn answer(
    world: &Arc<World>,
    http: &HttpCall,
    this: &Moref,
    body: &[u8],
    version: Version,
) -> Answer {
    world.faults.on_call("Fetch");
    match read(world, http, this, body, version) {
        Ok(value) => {
            let body = soap::response_with("Fetch", version, |out| {
                if let Some(value) = value {
                    value.write_any(out, "returnval");
                }
            });
            Answer::Reply {
                fault: false,
                body,
                cookie: None,
            }
        }
        Err(error) => fault(&error, version),
    }
}

fn read(
    world: &Arc<World>,
    http: &HttpCall,
    this: &Moref,
    body: &[u8],
    version: Version,
) -> Outcome<Option<vmomi::Any>> {
    let session = http
        .session
        .as_deref()
        .and_then(|key| world.sessions.call(key));
    let session = session.ok_or_else(|| Fault::not_authenticated(this, "System.View"))?;
    let snapshot = world.inventory.now();
    let object = snapshot
        .find(&this.value)
        .ok_or_else(|| Fault::not_found(this))?;
    let name = property(body).ok_or_else(|| Fault::plain("InvalidRequest"))?;
    let reader = pc::Reader {
        version,
        session: Some(session.user.clone()),
        sessions: world.sessions.list(),
        filters: session.collector.filters(),
    };
    reader.fetch(object, &name)
}

/// Finds the text of the parameter `prop`.
fn property(body: &[u8]) -> Option<String> {
    let mut input = Reader::new(body, Limits::REQUEST).ok()?;
    input.next_child().ok()??;
    while input.next_child().ok()??.name() != "Body" {
        input.skip().ok()?;
    }
    input.next_child().ok()??;
    while input.next_child().ok()??.name() != "prop" {
        input.skip().ok()?;
    }
    input.text().ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_property_is_found_whatever_its_prefix() {
        let body =
            br#"<E><Header><x>y</x></Header><Body><a:Fetch xmlns:a="urn:vim25"><a:_this>x</a:_this>
            <a:prop>name</a:prop></a:Fetch></Body></E>"#;
        assert_eq!(property(body), Some("name".to_owned()));
        assert_eq!(property(b"<E/>"), None);
    }
}
