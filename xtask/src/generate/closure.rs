//! What the roots reach.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};

use super::model::{ManagedType, Method, Model, Prop, Roots};

/// The types to generate, by VMODL name, and the managed types by WSDL name.
pub struct Closure {
    pub data: BTreeSet<String>,
    pub enums: BTreeSet<String>,
    pub managed: BTreeSet<String>,
    pub methods: Vec<(String, Method)>,
    /// Types whose places may hold a subtype.
    pub polymorphic: BTreeSet<String>,
    plain: BTreeSet<String>,
    /// Types that would hold themselves if they were not boxed: (holder, property's type).
    boxed: BTreeSet<String>,
}

impl Closure {
    pub fn of(model: &Model, roots: &Roots) -> anyhow::Result<Self> {
        let mut closure = Self {
            data: BTreeSet::new(),
            enums: BTreeSet::new(),
            managed: BTreeSet::new(),
            methods: Vec::new(),
            polymorphic: BTreeSet::new(),
            plain: BTreeSet::new(),
            boxed: BTreeSet::new(),
        };
        for name in &roots.plain {
            closure.plain.insert(model.named(name)?.to_owned());
        }
        for (name, methods) in &roots.managed {
            closure.add_managed(model, name, methods)?;
        }
        for name in roots
            .data
            .values()
            .flatten()
            .chain(roots.enums.values().flatten())
        {
            match model.named(name) {
                Ok(vmodl) => closure.add(model, vmodl),
                Err(error) => eprintln!("skipped: {error}"),
            }
        }
        for name in [
            "LocalizedMethodFault",
            "LocalizableMessage",
            "DynamicProperty",
            "DynamicData",
            "MethodFault",
        ] {
            closure.add(model, model.named(name)?);
        }
        closure.find_cycles(model);
        closure.find_polymorphic(model);
        Ok(closure)
    }

    fn add_managed(&mut self, model: &Model, name: &str, methods: &[String]) -> anyhow::Result<()> {
        let managed = model
            .managed
            .get(name)
            .with_context(|| format!("no managed type {name}"))?;
        for ty in lineage(model, managed) {
            self.managed.insert(ty.wsdl.clone());
            for prop in &ty.props {
                self.add(model, &prop.ty);
            }
        }
        for wanted in methods {
            let Some(method) = managed.methods.iter().find(|m| &m.wsdl == wanted) else {
                bail!("{name} has no method {wanted}");
            };
            for prop in &method.params {
                self.add(model, &prop.ty);
            }
            self.add(model, &method.ret);
            self.add(model, &method.ret_task);
            for fault in &method.faults {
                self.add(model, fault);
            }
            self.methods.push((name.to_owned(), method.clone()));
        }
        Ok(())
    }

    fn add(&mut self, model: &Model, ty: &str) {
        let ty = ty.trim_end_matches("[]");
        let ty = ty.strip_prefix("exact:").unwrap_or(ty);
        if model.enums.contains_key(ty) {
            self.enums.insert(ty.to_owned());
            return;
        }
        let Some(data) = model.data.get(ty) else {
            return;
        };
        if !self.data.insert(ty.to_owned()) {
            return;
        }
        self.add(model, &data.base);
        for prop in &data.props {
            self.add(model, &prop.ty);
        }
    }

    /// Whether a place of this type may hold a subtype, and therefore is boxed.
    pub fn is_poly(&self, model: &Model, vmodl: &str) -> bool {
        (model.has_subtypes(vmodl) && !self.plain.contains(vmodl)) || self.boxed.contains(vmodl)
    }

    /// A struct that holds itself by value has no size: the first type found on a cycle is boxed.
    fn find_cycles(&mut self, model: &Model) {
        let all: Vec<String> = self.data.iter().cloned().collect();
        for start in all {
            let mut seen = BTreeSet::new();
            let mut todo = self.held(model, &start);
            while let Some(next) = todo.pop() {
                if next == start {
                    self.boxed.insert(start.clone());
                    break;
                }
                if seen.insert(next.clone()) {
                    todo.extend(self.held(model, &next));
                }
            }
        }
    }

    fn held(&self, model: &Model, vmodl: &str) -> Vec<String> {
        let fields: Vec<Prop> = model.flattened(vmodl);
        fields
            .into_iter()
            .map(|p| p.ty)
            .filter(|ty| {
                !ty.ends_with("[]") && model.data.contains_key(ty) && !self.is_poly(model, ty)
            })
            .collect()
    }

    fn find_polymorphic(&mut self, model: &Model) {
        let mut found = BTreeSet::new();
        let mut look = |ty: &str| {
            let ty = ty.trim_end_matches("[]");
            let ty = ty.strip_prefix("exact:").unwrap_or(ty);
            if self.data.contains(ty) && self.is_poly(model, ty) {
                found.insert(ty.to_owned());
            }
        };
        for vmodl in &self.data {
            model.data[vmodl].props.iter().for_each(|p| look(&p.ty));
        }
        for name in &self.managed {
            model.managed[name].props.iter().for_each(|p| look(&p.ty));
        }
        for (_, method) in &self.methods {
            method.params.iter().for_each(|p| look(&p.ty));
            look(&method.ret);
        }
        self.polymorphic = found;
    }
}

/// A managed type after its bases.
pub fn lineage<'a>(model: &'a Model, managed: &'a ManagedType) -> Vec<&'a ManagedType> {
    let mut list = vec![managed];
    let mut base = model.managed_by_vmodl(&managed.base);
    while let Some(ty) = base {
        list.push(ty);
        base = model.managed_by_vmodl(&ty.base);
    }
    list.reverse();
    list
}

/// The WSDL names of all data types outside the closure whose nearest base inside it says more than
/// `DynamicData`, with that base.
pub fn unlisted(model: &Model, closure: &Closure) -> BTreeMap<String, String> {
    let mut list = BTreeMap::new();
    for data in model
        .data
        .values()
        .filter(|d| !closure.data.contains(&d.vmodl))
    {
        let mut base = data.base.as_str();
        while let Some(found) = model.data.get(base) {
            if closure.data.contains(base) {
                if found.wsdl != "DynamicData" {
                    list.insert(data.wsdl.clone(), found.wsdl.clone());
                }
                break;
            }
            base = &found.base;
        }
    }
    list
}
