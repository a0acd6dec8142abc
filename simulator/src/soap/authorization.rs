//! `AuthorizationManager` and `UserDirectory`: one user, who may do everything; roles are kept.

use vmomi::ManagedObjectReference as Moref;
use vmomi::types::{
    AddAuthorizationRoleRequest, AuthorizationRole, Description, EntityPrivilege,
    HasPrivilegeOnEntitiesRequest, HasPrivilegeOnEntityRequest, HasUserPrivilegeOnEntitiesRequest,
    Permission, PrivilegeAvailability, RemoveAuthorizationRoleRequest,
    RemoveEntityPermissionRequest, RetrieveEntityPermissionsRequest, RetrieveUserGroupsRequest,
    SetEntityPermissionsRequest, UpdateAuthorizationRoleRequest, UserSearchResult,
};

use super::{Call, Reply, ok};
use crate::fault::{Fault, Outcome};
use crate::inventory::Prop;
use crate::model::ADMIN_ROLE;

pub(super) fn call(call: &Call<'_>) -> Reply {
    match call.method {
        "RetrieveAllPermissions" => {
            let mut all = vec![own(call)];
            call.world
                .inventory
                .now()
                .objects
                .for_each(&mut |_, object| {
                    all.extend(permissions_of(object));
                });
            ok(all)
        }
        "RetrieveEntityPermissions" => {
            let args = call.args::<RetrieveEntityPermissionsRequest>()?;
            let snapshot = call.world.inventory.now();
            let object = snapshot
                .find(&args.entity.value)
                .ok_or_else(|| Fault::not_found(&args.entity))?;
            let mut all = permissions_of(object);
            if args.inherited || args.entity.value == call.world.ids.root_folder {
                all.push(own(call));
            }
            ok(all)
        }
        "SetEntityPermissions" => {
            let args = call.args::<SetEntityPermissionsRequest>()?;
            change(call, &args.entity, |all| {
                for new in &args.permission {
                    all.retain(|p| p.principal != new.principal || p.group != new.group);
                    all.push(Permission {
                        entity: Some(args.entity.clone()),
                        ..new.clone()
                    });
                }
            })?;
            ok(())
        }
        "RemoveEntityPermission" => {
            let args = call.args::<RemoveEntityPermissionRequest>()?;
            change(call, &args.entity, |all| {
                all.retain(|p| p.principal != args.user || p.group != args.is_group);
            })?;
            ok(())
        }
        "HasPrivilegeOnEntity" => {
            let args = call.args::<HasPrivilegeOnEntityRequest>()?;
            ok(vec![true; args.priv_id.len()])
        }
        "HasPrivilegeOnEntities" => {
            let args = call.args::<HasPrivilegeOnEntitiesRequest>()?;
            ok(available(&args.entity, &args.priv_id))
        }
        "HasUserPrivilegeOnEntities" => {
            let args = call.args::<HasUserPrivilegeOnEntitiesRequest>()?;
            ok(available(&args.entities, &args.priv_id))
        }
        "AddAuthorizationRole" => {
            let args = call.args::<AddAuthorizationRoleRequest>()?;
            let mut all = roles(call);
            if all.iter().any(|r| r.name == args.name) {
                return Err(Fault::plain("AlreadyExists"));
            }
            let id = all.iter().map(|r| r.role_id).max().unwrap_or(0).max(0) + 1;
            let text = args.name.clone();
            all.push(AuthorizationRole {
                role_id: id,
                system: false,
                name: args.name.clone(),
                info: Description {
                    label: text.clone(),
                    summary: text,
                    ..Default::default()
                },
                privilege: args.priv_ids.clone(),
                ..Default::default()
            });
            set_roles(call, all);
            ok(id)
        }
        "UpdateAuthorizationRole" => {
            let args = call.args::<UpdateAuthorizationRoleRequest>()?;
            let mut all = roles(call);
            let role = all
                .iter_mut()
                .find(|r| r.role_id == args.role_id && !r.system);
            let role = role.ok_or_else(|| Fault::plain("NotFound"))?;
            role.name.clone_from(&args.new_name);
            role.privilege.clone_from(&args.priv_ids);
            set_roles(call, all);
            ok(())
        }
        "RemoveAuthorizationRole" => {
            let args = call.args::<RemoveAuthorizationRoleRequest>()?;
            let mut all = roles(call);
            let before = all.len();
            all.retain(|r| r.system || r.role_id != args.role_id);
            if all.len() == before {
                return Err(Fault::plain("NotFound"));
            }
            set_roles(call, all);
            ok(())
        }
        "RetrieveUserGroups" => {
            let args = call.args::<RetrieveUserGroupsRequest>()?;
            let user = &call.world.config.user;
            let found = args.find_users
                && if args.exact_match {
                    user.eq_ignore_ascii_case(&args.search_str)
                } else {
                    user.contains(&args.search_str)
                };
            let result = UserSearchResult {
                principal: user.clone(),
                full_name: Some(user.clone()),
                group: false,
                ..Default::default()
            };
            ok(if found {
                vec![result.into()]
            } else {
                Vec::<vmomi::Poly<UserSearchResult>>::new()
            })
        }
        _ => Err(Fault::not_supported()),
    }
}

/// The permission of the one user that there is.
fn own(call: &Call<'_>) -> Permission {
    Permission {
        entity: Some(Moref::new("Folder", &call.world.ids.root_folder)),
        principal: call.world.config.user.clone(),
        group: false,
        role_id: ADMIN_ROLE,
        propagate: true,
        ..Default::default()
    }
}

fn permissions_of(object: &crate::inventory::Object) -> Vec<Permission> {
    match object.props.get("permission") {
        Some(Prop::Value(any)) => any.as_ref().clone().into_vec().unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn change(call: &Call<'_>, entity: &Moref, f: impl FnOnce(&mut Vec<Permission>)) -> Outcome<()> {
    let snapshot = call.world.inventory.now();
    let object = snapshot
        .find(&entity.value)
        .ok_or_else(|| Fault::not_found(entity))?;
    let mut all = permissions_of(object);
    f(&mut all);
    call.world
        .inventory
        .commit(|t| t.set(&entity.value, "permission", all));
    Ok(())
}

fn available(entities: &[Moref], privileges: &[String]) -> Vec<EntityPrivilege> {
    entities
        .iter()
        .map(|entity| EntityPrivilege {
            entity: entity.clone(),
            priv_availability: privileges
                .iter()
                .map(|id| PrivilegeAvailability {
                    priv_id: id.clone(),
                    is_granted: true,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        })
        .collect()
}

fn roles(call: &Call<'_>) -> Vec<AuthorizationRole> {
    let snapshot = call.world.inventory.now();
    match snapshot
        .find(&call.this.value)
        .and_then(|o| o.props.get("roleList"))
    {
        Some(Prop::Value(any)) => any.as_ref().clone().into_vec().unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn set_roles(call: &Call<'_>, roles: Vec<AuthorizationRole>) {
    call.world
        .inventory
        .commit(|t| t.set(&call.this.value, "roleList", roles));
}
