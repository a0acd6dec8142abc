//! The API model and the list of roots, as they are read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// A property of a type or a parameter of a method.
#[derive(Clone, Debug, Deserialize)]
pub struct Prop {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub version: String,
    pub flags: Vec<String>,
    #[serde(rename = "priv", default)]
    pub privilege: Option<String>,
}

impl Prop {
    pub fn optional(&self) -> bool {
        self.flags.iter().any(|f| f == "F_OPTIONAL")
    }
}

/// A data type.
#[derive(Clone, Debug, Deserialize)]
pub struct DataType {
    pub vmodl: String,
    pub wsdl: String,
    pub base: String,
    pub version: String,
    pub props: Vec<Prop>,
}

/// An enum.
#[derive(Clone, Debug, Deserialize)]
pub struct EnumType {
    pub vmodl: String,
    pub wsdl: String,
    pub version: String,
    pub values: Vec<String>,
}

/// A method of a managed type.
#[derive(Clone, Debug, Deserialize)]
pub struct Method {
    pub wsdl: String,
    pub version: String,
    pub params: Vec<Prop>,
    pub ret_flags: Vec<String>,
    pub ret: String,
    pub ret_task: String,
    #[serde(rename = "priv", default)]
    pub privilege: Option<String>,
    pub faults: Vec<String>,
}

/// A managed type.
#[derive(Clone, Debug, Deserialize)]
pub struct ManagedType {
    pub vmodl: String,
    pub wsdl: String,
    pub base: String,
    pub version: String,
    pub props: Vec<Prop>,
    pub methods: Vec<Method>,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    id: String,
}

#[derive(Deserialize)]
struct Raw {
    versions: Vec<Version>,
    parents: Vec<(String, String)>,
    managed: Vec<ManagedType>,
    data: Vec<DataType>,
    enums: Vec<EnumType>,
}

/// The model, indexed by VMODL name.
pub struct Model {
    pub managed: BTreeMap<String, ManagedType>,
    pub data: BTreeMap<String, DataType>,
    pub enums: BTreeMap<String, EnumType>,
    /// Versions, older ones first, as (name, id, what it includes).
    pub versions: Vec<(String, String, BTreeSet<String>)>,
    by_wsdl: HashMap<String, String>,
    children: HashMap<String, Vec<String>>,
}

impl Model {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let raw: Raw =
            serde_json::from_slice(&text).context("the model is not what is expected")?;
        let mut data: BTreeMap<_, _> = raw.data.into_iter().map(|d| (d.vmodl.clone(), d)).collect();
        for built_in in built_in() {
            data.insert(built_in.vmodl.clone(), built_in);
        }
        if let Some(dynamic) = data.get_mut("vmodl.DynamicData") {
            // Both properties of it have not been on the wire for many versions.
            dynamic.props.clear();
        }
        let mut by_wsdl = HashMap::new();
        let mut children: HashMap<String, Vec<String>> = HashMap::new();
        for d in data.values() {
            by_wsdl.insert(d.wsdl.clone(), d.vmodl.clone());
            children
                .entry(d.base.clone())
                .or_default()
                .push(d.vmodl.clone());
        }
        for e in &raw.enums {
            by_wsdl.insert(e.wsdl.clone(), e.vmodl.clone());
        }
        Ok(Self {
            versions: versions(&raw.versions, &raw.parents),
            managed: raw
                .managed
                .into_iter()
                .map(|m| (m.wsdl.clone(), m))
                .collect(),
            enums: raw
                .enums
                .into_iter()
                .map(|e| (e.vmodl.clone(), e))
                .collect(),
            data,
            by_wsdl,
            children,
        })
    }

    /// The VMODL name of the data type or enum with this WSDL name.
    pub fn named(&self, wsdl: &str) -> anyhow::Result<&str> {
        self.by_wsdl
            .get(wsdl)
            .map(String::as_str)
            .with_context(|| format!("roots.toml names {wsdl}, which the model does not have"))
    }

    /// Whether the model has subtypes of this data type.
    pub fn has_subtypes(&self, vmodl: &str) -> bool {
        self.children.contains_key(vmodl)
    }

    /// The managed type with this VMODL name.
    pub fn managed_by_vmodl(&self, vmodl: &str) -> Option<&ManagedType> {
        self.managed.values().find(|m| m.vmodl == vmodl)
    }

    /// The index of a version in the table of versions.
    pub fn since(&self, version: &str) -> usize {
        self.versions
            .iter()
            .position(|(name, _, _)| name == version)
            .unwrap_or(0)
    }

    /// All fields of a data type, those of its bases first.
    pub fn flattened(&self, vmodl: &str) -> Vec<Prop> {
        let Some(d) = self.data.get(vmodl) else {
            return Vec::new();
        };
        let mut fields = self.flattened(&d.base);
        fields.extend(d.props.iter().cloned());
        fields
    }
}

/// Types that the model takes for granted.
fn built_in() -> Vec<DataType> {
    let prop = |name: &str, ty: &str, version: &str, optional: bool| Prop {
        name: name.into(),
        ty: ty.into(),
        version: version.into(),
        flags: if optional {
            vec!["F_OPTIONAL".into()]
        } else {
            Vec::new()
        },
        privilege: None,
    };
    let ty = |wsdl: &str, base: &str, props: Vec<Prop>| DataType {
        vmodl: format!("vmodl.{wsdl}"),
        wsdl: wsdl.into(),
        base: base.into(),
        version: "vmodl.version.version0".into(),
        props,
    };
    let v4 = "vim.version.version5";
    vec![
        ty(
            "MethodFault",
            "vmodl.DataObject",
            vec![
                prop("faultCause", "vmodl.LocalizedMethodFault", v4, true),
                prop("faultMessage", "vmodl.LocalizableMessage[]", v4, true),
            ],
        ),
        ty("RuntimeFault", "vmodl.MethodFault", Vec::new()),
        ty(
            "LocalizedMethodFault",
            "vmodl.DynamicData",
            vec![
                prop(
                    "fault",
                    "exact:vmodl.MethodFault",
                    "vmodl.version.version0",
                    false,
                ),
                prop("localizedMessage", "string", "vmodl.version.version0", true),
            ],
        ),
    ]
}

/// Distinct versions, those that include the fewest others first.
fn versions(
    all: &[Version],
    parents: &[(String, String)],
) -> Vec<(String, String, BTreeSet<String>)> {
    let mut includes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
    for v in all {
        includes.entry(&v.name).or_default().insert(v.name.clone());
        ids.insert(&v.name, &v.id);
    }
    for (child, parent) in parents {
        if let Some(set) = includes.get_mut(child.as_str()) {
            set.insert(parent.clone());
        }
    }
    loop {
        let before: usize = includes.values().map(BTreeSet::len).sum();
        let snapshot = includes.clone();
        for set in includes.values_mut() {
            for name in set.clone() {
                if let Some(more) = snapshot.get(name.as_str()) {
                    set.extend(more.iter().cloned());
                }
            }
        }
        if includes.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    let mut list: Vec<_> = includes
        .into_iter()
        .map(|(name, set)| (name.to_owned(), ids[name].to_owned(), set))
        .collect();
    list.sort_by(|a, b| (a.2.len(), &a.0).cmp(&(b.2.len(), &b.0)));
    list
}

/// What is wanted of the model.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    pub plain: Vec<String>,
    pub managed: BTreeMap<String, Vec<String>>,
    pub data: BTreeMap<String, Vec<String>>,
    pub enums: BTreeMap<String, Vec<String>>,
}

impl Roots {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }
}
