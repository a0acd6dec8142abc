//! Properties of objects, read once.

use super::{Client, Error};
use crate::any::Any;
use crate::managed::Managed;
use crate::path;
use crate::scalar::ManagedObjectReference;
use crate::types::{
    ContinueRetrievePropertiesExRequest, CreateContainerViewRequest, DestroyViewRequest,
    MissingProperty, ObjectContent, ObjectSpec, PropertyFilterSpec, PropertySpec, RetrieveOptions,
    RetrievePropertiesExRequest, TraversalSpec,
};
use crate::value::Value;

/// The properties that were read of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// The object.
    pub object: ManagedObjectReference,
    /// The properties that are set, by path.
    pub values: Vec<(String, Any)>,
    /// The properties that could not be read, and why.
    pub missing: Vec<MissingProperty>,
}

impl From<ObjectContent> for Properties {
    fn from(content: ObjectContent) -> Self {
        Self {
            object: content.obj,
            values: content
                .prop_set
                .into_iter()
                .map(|p| (p.name, p.val))
                .collect(),
            missing: content.missing_set,
        }
    }
}

impl Properties {
    /// The property at a path, when it is set.
    pub fn value(&self, path: &str) -> Option<&Any> {
        self.values
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, value)| value)
    }

    /// The property at a path as a `T`; unset, and of another type, is nothing.
    pub fn get<T: Value + Default>(&self, path: &str) -> Option<T> {
        self.value(path)?.clone().to().ok()
    }

    /// The property at a path as text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.value(path)?.as_str()
    }

    /// The properties as a struct of the managed type; paths into a property do not fit in there and are left out.
    pub fn managed<M: Managed>(self) -> M {
        let mut object = M::default();
        for (name, value) in self.values {
            // A property of a newer server, or one that it wrote in another type, stays unset.
            let _ = path::set(&mut object, &name, Some(value));
        }
        object
    }
}

impl Client {
    /// Reads properties as filters say, all pages of them.
    ///
    /// # Errors
    /// When the server does not answer, or an object or property is not there.
    pub async fn retrieve(&self, specs: Vec<PropertyFilterSpec>) -> Result<Vec<Properties>, Error> {
        let collector = &self.content().property_collector;
        let request = RetrievePropertiesExRequest {
            spec_set: specs,
            options: RetrieveOptions {
                max_objects: Some(self.session().page()),
            },
        };
        let mut page = self.invoke(collector, request).await?;
        let mut all = Vec::new();
        while let Some(result) = page.take() {
            all.extend(result.objects.into_iter().map(Properties::from));
            let Some(token) = result.token else { break };
            page = Some(
                self.invoke(collector, ContinueRetrievePropertiesExRequest { token })
                    .await?,
            );
        }
        Ok(all)
    }

    /// Reads properties of objects of one managed type; without a path, all of them.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    pub async fn properties(
        &self,
        objects: &[ManagedObjectReference],
        paths: &[&str],
    ) -> Result<Vec<Properties>, Error> {
        let Some(first) = objects.first() else {
            return Ok(Vec::new());
        };
        let spec = PropertyFilterSpec {
            prop_set: vec![property_spec(&first.r#type, paths)],
            object_set: objects
                .iter()
                .map(|o| ObjectSpec {
                    obj: o.clone(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        self.retrieve(vec![spec]).await
    }

    /// Reads one property of an object, if it is set.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve), and when the property is of another type.
    pub async fn property<T: Value + Default>(
        &self,
        object: &ManagedObjectReference,
        path: &str,
    ) -> Result<Option<T>, Error> {
        let found = self
            .properties(std::slice::from_ref(object), &[path])
            .await?;
        let value = found
            .into_iter()
            .flat_map(|p| p.values)
            .next()
            .map(|(_, value)| value);
        value.map(Any::to).transpose().map_err(|mismatch| {
            self.session()
                .unexpected(format!("{path} of {object}"), mismatch.to_string())
        })
    }

    /// Reads an object's properties into a struct of its managed type; without a path, all of them.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    pub async fn object<M: Managed>(
        &self,
        object: &ManagedObjectReference,
        paths: &[&str],
    ) -> Result<M, Error> {
        let found = self.properties(std::slice::from_ref(object), paths).await?;
        Ok(found
            .into_iter()
            .next()
            .map(Properties::managed)
            .unwrap_or_default())
    }

    /// Reads properties of all objects of these managed types below a container.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    pub async fn below(
        &self,
        container: &ManagedObjectReference,
        types: &[&str],
        paths: &[&str],
    ) -> Result<Vec<Properties>, Error> {
        let Some(manager) = self.content().view_manager.clone() else {
            return Err(self
                .session()
                .unexpected("the service content", "there is no view manager"));
        };
        let request = CreateContainerViewRequest {
            container: container.clone(),
            r#type: types.iter().map(|&t| t.to_owned()).collect(),
            recursive: true,
        };
        let view = self.invoke(&manager, request).await?;
        let result = self.retrieve(vec![view_spec(&view, types, paths)]).await;
        // A view that stays behind goes with the session.
        let _ = self.invoke(&view, DestroyViewRequest {}).await;
        result
    }
}

/// Asks for properties of a managed type; without a path, for all of them.
pub fn property_spec(r#type: &str, paths: &[&str]) -> PropertySpec {
    PropertySpec {
        r#type: r#type.to_owned(),
        all: Some(paths.is_empty()),
        path_set: paths.iter().map(|&p| p.to_owned()).collect(),
    }
}

/// Asks for properties of the objects in a view.
pub fn view_spec(
    view: &ManagedObjectReference,
    types: &[&str],
    paths: &[&str],
) -> PropertyFilterSpec {
    let traversal = TraversalSpec {
        name: Some("view".into()),
        r#type: view.r#type.clone(),
        path: "view".into(),
        skip: Some(false),
        ..Default::default()
    };
    PropertyFilterSpec {
        prop_set: types.iter().map(|t| property_spec(t, paths)).collect(),
        object_set: vec![ObjectSpec {
            obj: view.clone(),
            skip: Some(true),
            select_set: vec![traversal.into()],
        }],
        ..Default::default()
    }
}
