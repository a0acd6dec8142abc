//! `ViewManager` and its views.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    CreateContainerViewRequest, CreateListViewFromViewRequest, CreateListViewRequest,
    ModifyListViewRequest, ResetListViewFromViewRequest, ResetListViewRequest,
};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::{Prop, Transaction, Tree, ViewDefinition, class};

pub(super) fn call(call: &Call<'_>) -> Reply {
    let world = call.world;
    match call.method {
        "CreateContainerView" => {
            let args = call.args::<CreateContainerViewRequest>()?;
            if world.inventory.now().find(&args.container.value).is_none() {
                return Err(Fault::not_found(&args.container));
            }
            if args.r#type.iter().any(|t| !class::exists(t)) {
                return Err(Fault::invalid_argument("type"));
            }
            let session = call.session()?;
            let view = Moref::new("ContainerView", session.moid());
            world.inventory.commit(|t| {
                t.create(
                    view.clone(),
                    vec![
                        ("container", Prop::value(args.container.clone())),
                        ("type", Prop::value(args.r#type.clone())),
                        ("recursive", Prop::value(args.recursive)),
                    ],
                );
                t.add_view(ViewDefinition {
                    view: view.value.clone(),
                    container: args.container.value.clone(),
                    types: args.r#type.clone(),
                    recursive: args.recursive,
                });
            });
            session.add_view(view.value.clone());
            ok(view)
        }
        "CreateListView" => {
            let args = call.args::<CreateListViewRequest>()?;
            let session = call.session()?;
            let view = Moref::new("ListView", session.moid());
            world.inventory.commit(|t| {
                t.create(view.clone(), vec![("view", Prop::Refs(Tree::default()))]);
                add(t, &view.value, &args.obj);
            });
            session.add_view(view.value.clone());
            ok(view)
        }
        "ModifyListView" => {
            let args = call.args::<ModifyListViewRequest>()?;
            let unresolved = world.inventory.commit(|t| {
                for gone in &args.remove {
                    t.remove_ref(&call.this.value, "view", &gone.value);
                }
                add(t, &call.this.value, &args.add)
            });
            ok(unresolved)
        }
        "ResetListView" => {
            let args = call.args::<ResetListViewRequest>()?;
            let unresolved = world.inventory.commit(|t| {
                clear(t, &call.this.value);
                add(t, &call.this.value, &args.obj)
            });
            ok(unresolved)
        }
        "CreateListViewFromView" => {
            let args = call.args::<CreateListViewFromViewRequest>()?;
            let shown = shown(call, &args.view)?;
            let session = call.session()?;
            let view = Moref::new("ListView", session.moid());
            world.inventory.commit(|t| {
                t.create(view.clone(), vec![("view", Prop::Refs(Tree::default()))]);
                add(t, &view.value, &shown);
            });
            session.add_view(view.value.clone());
            ok(view)
        }
        "ResetListViewFromView" => {
            let args = call.args::<ResetListViewFromViewRequest>()?;
            let shown = shown(call, &args.view)?;
            world.inventory.commit(|t| {
                clear(t, &call.this.value);
                add(t, &call.this.value, &shown);
            });
            ok(())
        }
        "DestroyView" => {
            world.inventory.commit(|t| t.remove(&call.this.value));
            call.session()?.remove_view(&call.this.value);
            ok(())
        }
        _ => Err(Fault::not_supported()),
    }
}

/// What a view shows.
fn shown(call: &Call<'_>, view: &Moref) -> Outcome<Vec<Moref>> {
    let snapshot = call.world.inventory.now();
    let refs = snapshot.find(&view.value).and_then(|o| o.refs("view"));
    let mut shown = Vec::new();
    refs.ok_or_else(|| Fault::not_found(view))?
        .for_each(&mut |_, moref| shown.push(moref.clone()));
    Ok(shown)
}

/// Takes everything from a list.
fn clear(t: &mut Transaction, view: &str) {
    let before = t.snapshot().find(view).cloned();
    if let Some(refs) = before.as_ref().and_then(|o| o.refs("view")) {
        refs.for_each(&mut |_, m| t.remove_ref(view, "view", &m.value));
    }
}

/// Adds objects to a list; returns those that are not there.
fn add(t: &mut Transaction, view: &str, objects: &[Moref]) -> Vec<Moref> {
    let mut unresolved = Vec::new();
    for object in objects {
        if t.snapshot().find(&object.value).is_some() {
            t.add_ref(view, "view", object);
        } else {
            unresolved.push(object.clone());
        }
    }
    unresolved
}
