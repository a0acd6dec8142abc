//! Property values: found by path, and written for a client of some version.

use vmomi::types::{
    DynamicProperty, ObjectContent, ObjectUpdate, ObjectUpdateKind, PropertyChange,
    PropertyChangeOp, UserSession,
};
use vmomi::value::{Node, Value};
use vmomi::{Any, FieldInfo, ManagedObjectReference as Moref, Version};

use super::selection::{Selection, Wanted};
use crate::fault::{Fault, Outcome};
use crate::inventory::{Object, Prop, class};

/// A property path that is known to lead somewhere.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// As the client wrote it, and as it is given back.
    full: String,
    /// The property of the managed object.
    field: &'static FieldInfo,
    /// A key that follows it.
    key: Option<String>,
    /// The way from there.
    rest: Option<String>,
}

impl Path {
    /// Reads a path of objects of `type`.
    pub(super) fn parse(r#type: &str, path: &str) -> Outcome<Self> {
        let invalid = || Fault::invalid_property(path);
        let info = vmomi::managed::lookup(r#type).ok_or_else(invalid)?.info();
        vmomi::path::check(info, path).map_err(|_| invalid())?;
        let steps = vmomi::path::parse(path).map_err(|_| invalid())?;
        let first = steps.first().ok_or_else(invalid)?;
        let field = class::property(r#type, first.name).ok_or_else(invalid)?;
        let rest = if steps.len() > 1 {
            after_first(path)
        } else {
            None
        };
        Ok(Path {
            full: path.to_owned(),
            field,
            key: first.key.clone(),
            rest,
        })
    }

    /// The property of the object in which the path begins.
    pub(super) fn prop<'a>(&self, object: &'a Object) -> Option<&'a Prop> {
        object.props.get(self.field.name)
    }

    /// Finds the value in a property; `None`: unset.
    fn find<'a>(&self, value: &'a Any) -> Option<&'a dyn Value> {
        let value: &dyn Value = match &self.key {
            None => value,
            Some(key) => match value.node() {
                Node::List(list) => list.item(vmomi::path::position(list, key)?)?,
                _ => return None,
            },
        };
        match &self.rest {
            None => Some(value),
            Some(rest) => match value.node() {
                // What a subtype lacks is unset in it: the path was checked against the type.
                Node::Data(data) => vmomi::path::find(data, rest).ok().flatten(),
                _ => None,
            },
        }
    }

    /// A copy of the value of an object; `None`: unset.
    fn get(&self, object: &Object) -> Option<Any> {
        match self.prop(object)? {
            Prop::Value(value) => self.find(value)?.to_any(),
            refs if self.key.is_none() && self.rest.is_none() => Some(refs.to_any()),
            Prop::Refs(_) => None,
        }
    }

    /// Says whether the value is the same in both states of an object.
    fn same(&self, old: &Object, new: &Object) -> bool {
        match (self.prop(old), self.prop(new)) {
            (None, None) => true,
            (Some(a), Some(b)) if a.same(b) => true,
            (Some(Prop::Value(a)), Some(Prop::Value(b))) => match (self.find(a), self.find(b)) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same(b),
                _ => false,
            },
            _ => false,
        }
    }
}

/// What follows the first step, with its key, of a path.
fn after_first(path: &str) -> Option<String> {
    let mut quoted = false;
    let mut depth = 0;
    let mut escaped = false;
    for (i, c) in path.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth -= 1,
            '.' if !quoted && depth == 0 => return Some(path[i + 1..].to_owned()),
            _ => {}
        }
    }
    None
}

/// The references at a path.
pub(super) fn references(object: &Object, path: &Path) -> Vec<Moref> {
    fn collect(value: &Any, out: &mut Vec<Moref>) {
        match value {
            Any::Reference(moref) => out.push(moref.clone()),
            Any::Array(array) => array.items.iter().for_each(|item| collect(item, out)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    match path.prop(object) {
        Some(Prop::Refs(refs)) if path.rest.is_none() => {
            refs.for_each(&mut |_, moref| found.push(moref.clone()));
        }
        Some(Prop::Value(_)) => {
            if let Some(value) = path.get(object) {
                collect(&value, &mut found);
            }
        }
        _ => {}
    }
    found
}

/// Who reads: what depends on the session and on the client's version.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// The client's version of the API.
    pub(crate) version: Version,
    /// What `currentSession` is.
    pub(crate) session: Option<UserSession>,
    /// What `sessionList` is.
    pub(crate) sessions: Vec<UserSession>,
    /// What `filter` of the collector is.
    pub(crate) filters: Vec<Moref>,
}

impl Reader {
    /// Values that the inventory cannot hold, since they differ by who asks.
    fn own(&self, object: &Object, name: &str) -> Option<Any> {
        match (object.moref.r#type.as_str(), name) {
            ("SessionManager", "currentSession") => self.session.clone().map(Any::from),
            ("SessionManager", "sessionList") => Some(self.sessions.clone().into()),
            ("PropertyCollector", "filter") => Some(self.filters.clone().into()),
            _ => None,
        }
    }

    fn value(&self, object: &Object, path: &Path) -> Option<Any> {
        if let Some(own) = self.own(object, path.field.name) {
            return path.find(&own)?.to_any();
        }
        path.get(object)
    }

    /// Reads one property of an object by its name; `None`: unset.
    pub(crate) fn fetch(&self, object: &Object, name: &str) -> Outcome<Option<Any>> {
        let path = Path::parse(&object.moref.r#type, name)?;
        Ok(self.value(object, &path))
    }

    fn wanted<'a>(object: &Object, selection: &'a Selection) -> impl Iterator<Item = &'a Wanted> {
        let r#type = object.moref.r#type.clone();
        selection
            .wanted
            .iter()
            .filter(move |w| class::is_a(&r#type, &w.r#type))
    }

    /// All properties that are set and that the client's version knows.
    fn all(&self, object: &Object) -> Vec<DynamicProperty> {
        let Some(class) = vmomi::managed::lookup(&object.moref.r#type) else {
            return Vec::new();
        };
        let shown = class
            .info()
            .fields
            .iter()
            .filter(|f| self.version.shows(f.since));
        shown
            .filter_map(|field| {
                let val = self
                    .own(object, field.name)
                    .or_else(|| object.props.get(field.name).map(Prop::to_any))?;
                Some(DynamicProperty {
                    name: field.name.to_owned(),
                    val,
                    ..Default::default()
                })
            })
            .collect()
    }

    fn properties(&self, object: &Object, selection: &Selection) -> Vec<DynamicProperty> {
        let mut properties: Vec<DynamicProperty> = Vec::new();
        for wanted in Self::wanted(object, selection) {
            if wanted.all {
                return self.all(object);
            }
            for path in &wanted.paths {
                if properties.iter().all(|p| p.name != path.full)
                    && let Some(val) = self.value(object, path)
                {
                    let name = path.full.clone();
                    properties.push(DynamicProperty {
                        name,
                        val,
                        ..Default::default()
                    });
                }
            }
        }
        properties
    }

    /// What a read gives of an object.
    pub(super) fn content(&self, object: &Object, selection: &Selection) -> ObjectContent {
        ObjectContent {
            obj: object.moref.clone(),
            prop_set: self.properties(object, selection),
            ..Default::default()
        }
    }

    /// What a filter says of an object that is new to it.
    pub(super) fn enter(&self, object: &Object, selection: &Selection) -> ObjectUpdate {
        let changes = self
            .properties(object, selection)
            .into_iter()
            .map(|p| PropertyChange {
                name: p.name,
                op: PropertyChangeOp::Assign,
                val: Some(p.val),
                ..Default::default()
            });
        ObjectUpdate {
            kind: ObjectUpdateKind::Enter,
            obj: object.moref.clone(),
            change_set: changes.collect(),
            ..Default::default()
        }
    }

    /// What a filter says of an object that has changed; `None`: nothing of what it watches.
    pub(super) fn modify(
        &self,
        old: &Object,
        new: &Object,
        selection: &Selection,
    ) -> Option<ObjectUpdate> {
        let mut changes: Vec<PropertyChange> = Vec::new();
        for wanted in Self::wanted(new, selection) {
            if wanted.all {
                self.all_changes(old, new, &mut changes);
                continue;
            }
            for path in wanted.paths.iter().filter(|p| !p.same(old, new)) {
                if changes.iter().all(|c| c.name != path.full) {
                    changes.push(change(path.full.clone(), path.get(new), path.key.is_some()));
                }
            }
        }
        (!changes.is_empty()).then(|| ObjectUpdate {
            kind: ObjectUpdateKind::Modify,
            obj: new.moref.clone(),
            change_set: changes,
            ..Default::default()
        })
    }

    fn all_changes(&self, old: &Object, new: &Object, changes: &mut Vec<PropertyChange>) {
        let Some(class) = vmomi::managed::lookup(&new.moref.r#type) else {
            return;
        };
        for field in class
            .info()
            .fields
            .iter()
            .filter(|f| self.version.shows(f.since))
        {
            let same = match (old.props.get(field.name), new.props.get(field.name)) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same(b),
                _ => false,
            };
            if !same {
                let value = new.props.get(field.name).map(Prop::to_any);
                changes.push(change(field.name.to_owned(), value, false));
            }
        }
    }
}

fn change(name: String, val: Option<Any>, keyed: bool) -> PropertyChange {
    let op = match (&val, keyed || name.ends_with(']')) {
        (None, true) => PropertyChangeOp::Remove,
        _ => PropertyChangeOp::Assign,
    };
    PropertyChange {
        name,
        op,
        val,
        ..Default::default()
    }
}
