//! What there is, as each side shows it, compared with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::http::Body;
use system_tests::installed::{Installed, Inventory, NAME};

use super::model::{Model, State};

/// Reads are answered from snapshots.
const LIMIT: Duration = Duration::from_secs(20);

/// Everything that can be seen at one moment.
pub struct View {
    containers: BTreeMap<String, Value>,
    /// By container id: those that hold an address.
    endpoints: BTreeMap<String, String>,
    volumes: BTreeSet<String>,
    tags: BTreeSet<String>,
    vms: BTreeMap<String, Value>,
    /// Folder to its files, those of the datastore's root, of the images and of the volumes.
    folders: BTreeMap<String, BTreeSet<String>>,
}

impl View {
    /// Looks at docker, at vSphere, and at the datastore's directory.
    pub fn take(vch: &Installed, vsphere: &mut Inventory) -> Result<Self> {
        let get = |path: &str| -> Result<Value> {
            let answer = vch.request("GET", path, &Body::None, LIMIT)?;
            ensure!(answer.is_success(), "GET {path}: {}", answer.text());
            answer.json()
        };
        let mut containers = BTreeMap::new();
        for listed in array(&get("/containers/json?all=1")?)? {
            let id = text(listed, "Id")?;
            let full = get(&format!("/containers/{id}/json"))?;
            ensure!(
                full["State"]["Status"] == listed["State"],
                "the list says {} and inspect {}",
                listed["State"],
                full["State"]
            );
            let name = text(&full, "Name")?.trim_start_matches('/').to_owned();
            containers.insert(name, full);
        }
        let bridge = get("/networks/bridge")?;
        let endpoints = bridge["Containers"].as_object().into_iter().flatten();
        let endpoints = endpoints
            .map(|(id, e)| Ok((id.clone(), plain_address(&text(e, "IPv4Address")?))))
            .collect::<Result<_>>()?;
        let volumes = get("/volumes")?;
        let volumes = volumes["Volumes"].as_array().into_iter().flatten();
        let volumes = volumes.map(|v| text(v, "Name")).collect::<Result<_>>()?;
        let mut tags = BTreeSet::new();
        for image in array(&get("/images/json")?)? {
            for tag in image["RepoTags"].as_array().into_iter().flatten() {
                tags.insert(tag.as_str().context("tag")?.to_owned());
            }
        }
        let vms = vsphere.vms()?;
        let vms = vms.as_object().context("VMs")?.clone().into_iter();
        Ok(Self {
            containers,
            endpoints,
            volumes,
            tags,
            vms: vms.collect(),
            folders: folders(&vch.datastore())?,
        })
    }

    /// What differs from the model; the model learns what only the server can know.
    pub fn differences(&self, model: &mut Model) -> Vec<String> {
        let mut wrong = Wrong(Vec::new());
        self.docker(model, &mut wrong);
        self.vsphere(model, &mut wrong);
        self.datastore(model, &mut wrong);
        wrong.0
    }

    fn docker(&self, model: &mut Model, wrong: &mut Wrong) {
        let names = self.containers.keys().map(String::as_str).collect();
        wrong.sets(
            "containers",
            &model.containers.keys().map(String::as_str).collect(),
            &names,
        );
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, container) in &mut model.containers {
            let Some(seen) = self.containers.get(name) else {
                continue;
            };
            let id = seen["Id"].as_str().unwrap_or_default();
            wrong.learned(name, "id", &mut container.id, id);
            let state = seen["State"]["Status"].as_str().unwrap_or_default();
            wrong.equal(name, "state", container.state.name(), state);
            let mounts = seen["Mounts"].as_array().into_iter().flatten();
            let mounts: BTreeSet<String> = mounts
                .filter_map(|m| Some(m["Name"].as_str()?.to_owned()))
                .collect();
            let count = usize::from(container.volume.is_some()) + usize::from(container.anonymous);
            wrong.equal(
                name,
                "mounts",
                &count.to_string(),
                &mounts.len().to_string(),
            );
            let known = container.volumes.get_or_insert_with(|| mounts.clone());
            wrong.sets(
                name,
                &known.iter().map(String::as_str).collect(),
                &mounts.iter().map(String::as_str).collect(),
            );
            if container.state != State::Running {
                if let Some(address) = self.endpoints.get(id) {
                    wrong.say(format!("{name} does not run and has the address {address}"));
                }
                continue;
            }
            let started = seen["State"]["StartedAt"].as_str().unwrap_or_default();
            wrong.learned(name, "start", &mut container.started, started);
            let address = seen["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
                .as_str()
                .unwrap_or_default();
            wrong.learned(name, "address", &mut container.address, address);
            let listed = self.endpoints.get(id).map_or("none", String::as_str);
            wrong.equal(name, "address in the network", address, listed);
            if let Some(other) = given.insert(address, name) {
                wrong.say(format!("{name} and {other} both have {address}"));
            }
        }
        let runs = |c: &&super::model::Container| c.state == State::Running;
        let running = model.containers.values().filter(runs).count();
        wrong.equal(
            "network",
            "endpoints",
            &running.to_string(),
            &self.endpoints.len().to_string(),
        );
        let known: BTreeSet<String> = model.all_volumes().into_iter().map(str::to_owned).collect();
        let stray = self.volumes.difference(&known).filter(|v| v.len() == 64);
        if let Some(stray) = stray.take(usize::from(model.stray)).next() {
            model.volumes.insert(stray.clone());
        }
        wrong.sets(
            "volumes",
            &model.all_volumes(),
            &self.volumes.iter().map(String::as_str).collect(),
        );
        wrong.sets(
            "tags",
            &model.images.keys().map(String::as_str).collect(),
            &self.tags.iter().map(String::as_str).collect(),
        );
    }

    fn vsphere(&self, model: &Model, wrong: &mut Wrong) {
        let mut expected = BTreeMap::from([(NAME.to_owned(), None)]);
        for (name, container) in &model.containers {
            let id = container.id.as_deref().unwrap_or("unknown");
            expected.insert(folder(name, id), Some((container, id)));
        }
        wrong.sets(
            "VMs",
            &expected.keys().map(String::as_str).collect(),
            &self.vms.keys().map(String::as_str).collect(),
        );
        for (name, expected) in expected {
            let Some(vm) = self.vms.get(&name) else {
                continue;
            };
            let disks = vm["disks"].as_array().into_iter().flatten();
            let disks: BTreeSet<&str> = disks.filter_map(Value::as_str).collect();
            let Some((container, id)) = expected else {
                wrong.sets("disks of the appliance", &BTreeSet::new(), &disks);
                continue;
            };
            let power = match container.state {
                State::Running => "poweredOn",
                _ => "poweredOff",
            };
            let is = vm["powerState"].as_str().unwrap_or_default();
            wrong.equal(&name, "power", power, is);
            if let (State::Running, Some(address)) = (container.state, &container.address) {
                let is = vm["ipAddress"].as_str().unwrap_or_default();
                wrong.equal(&name, "guest's address", address, is);
            }
            let volumes = container.volumes.iter().flatten();
            let mut known: BTreeSet<String> = volumes
                .map(|v| format!("[datastore1] {NAME}-volumes/{v}/{v}.vmdk"))
                .collect();
            known.insert(format!("[datastore1] {name}/{id}.vmdk"));
            let known = known.iter().map(String::as_str).collect();
            wrong.sets(&format!("disks of {name}"), &known, &disks);
        }
    }

    fn datastore(&self, model: &Model, wrong: &mut Wrong) {
        let no_files = BTreeSet::new();
        let files = |folder: &str| self.folders.get(folder).unwrap_or(&no_files);
        let (images, volumes) = (format!("{NAME}-images"), format!("{NAME}-volumes"));
        let mut expected = BTreeSet::from([NAME.to_owned(), images.clone(), volumes.clone()]);
        for (name, container) in &model.containers {
            let id = container.id.as_deref().unwrap_or("unknown");
            let folder = folder(name, id);
            let mut known = BTreeSet::from([format!("{folder}.vmx"), format!("{id}.vmdk")]);
            if files(&folder).contains(&format!("{id}.log")) {
                known.insert(format!("{id}.log"));
            }
            wrong.folder(&folder, &known, files(&folder));
            expected.insert(folder);
        }
        let root: BTreeSet<String> = files("").iter().cloned().collect();
        wrong.folder("datastore", &expected, &root);
        let mut layers: BTreeSet<String> = model.layers().into_iter().map(str::to_owned).collect();
        for spare in &model.spare {
            if files(&images).contains(spare) {
                layers.insert(spare.clone());
            }
        }
        let whole = BTreeSet::from(["layer.json".to_owned(), "layer.vmdk".to_owned()]);
        for layer in &layers {
            let folder = format!("{images}/{layer}");
            wrong.folder(&folder, &whole, files(&folder));
        }
        layers.insert("scratch".to_owned());
        wrong.folder("layers", &layers, files(&images));
        let named: BTreeSet<String> = model.all_volumes().into_iter().map(str::to_owned).collect();
        wrong.folder("volumes", &named, files(&volumes));
        for volume in named {
            let folder = format!("{volumes}/{volume}");
            let whole = [format!("{volume}.vmdk"), format!("{volume}-flat.vmdk")];
            wrong.folder(&folder, &BTreeSet::from(whole), files(&folder));
        }
    }
}

/// The name of a container's VM, and of its folder.
fn folder(name: &str, id: &str) -> String {
    format!("{name}-{}", id.get(..12).unwrap_or(id))
}

/// The folders of the datastore, three levels deep; what the appliance's own VM keeps is its own business.
fn folders(datastore: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut all = BTreeMap::new();
    let mut left = vec![String::new()];
    while let Some(folder) = left.pop() {
        let mut files = BTreeSet::new();
        // A folder may go while we look.
        for entry in std::fs::read_dir(datastore.join(&folder))
            .into_iter()
            .flatten()
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                left.push(match folder.as_str() {
                    "" => name.clone(),
                    parent => format!("{parent}/{name}"),
                });
            }
            files.insert(name);
        }
        all.insert(folder, files);
    }
    Ok(all)
}

/// The differences found so far.
struct Wrong(Vec<String>);

impl Wrong {
    fn say(&mut self, text: String) {
        self.0.push(text);
    }

    fn equal(&mut self, of: &str, what: &str, model: &str, is: &str) {
        if model != is {
            self.say(format!("{of}: {what} is {is:?}, not {model:?}"));
        }
    }

    fn learned(&mut self, of: &str, what: &str, known: &mut Option<String>, is: &str) {
        let known = known.get_or_insert_with(|| is.to_owned()).clone();
        self.equal(of, what, &known, is);
    }

    fn sets(&mut self, what: &str, model: &BTreeSet<&str>, is: &BTreeSet<&str>) {
        let missing: Vec<_> = model.difference(is).collect();
        let surplus: Vec<_> = is.difference(model).collect();
        if !missing.is_empty() || !surplus.is_empty() {
            self.say(format!("{what}: missing {missing:?}, too many {surplus:?}"));
        }
    }

    fn folder(&mut self, name: &str, model: &BTreeSet<String>, is: &BTreeSet<String>) {
        self.sets(
            &format!("files in {name}"),
            &model.iter().map(String::as_str).collect(),
            &is.iter().map(String::as_str).collect(),
        );
    }
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("not a list")
}

fn text(value: &Value, name: &str) -> Result<String> {
    let text = value[name].as_str();
    Ok(text.with_context(|| format!("no {name}"))?.to_owned())
}

/// An address without its prefix.
fn plain_address(cidr: &str) -> String {
    cidr.split('/').next().unwrap_or_default().to_owned()
}
