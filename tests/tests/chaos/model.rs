//! What there should be: containers, volumes and images, as the workload has made them.

use std::collections::{BTreeMap, BTreeSet};

use super::workload::Op;

/// The state of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
}

impl State {
    /// As docker prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// One container. What only the server knows is learned when it is first seen, and may not change afterwards.
#[derive(Debug, Clone)]
pub struct Container {
    pub state: State,
    pub volume: Option<String>,
    pub anonymous: bool,
    /// Left by an interrupted `run --rm`: it goes when it has run.
    pub once: bool,
    pub id: Option<String>,
    /// When its present run began.
    pub started: Option<String>,
    pub address: Option<String>,
    /// All volumes, the anonymous one too.
    pub volumes: Option<BTreeSet<String>>,
}

/// An image that can be pulled or loaded.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name by which docker knows it.
    pub tag: String,
    pub archive: std::path::PathBuf,
    /// Its layers by chain id, lowest first.
    pub chain: Vec<String>,
}

/// Everything that there should be.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub containers: BTreeMap<String, Container>,
    pub volumes: BTreeSet<String>,
    /// Tags, with the layers that they keep.
    pub images: BTreeMap<String, Vec<String>>,
    /// Layers that an interrupted transfer may have left, whole, for the next one.
    pub spare: BTreeSet<String>,
    /// What an interrupted operation may still change: nothing else is done to it meanwhile.
    pub touched: BTreeSet<String>,
    /// Whether an anonymous volume may be there that no container has.
    pub stray: bool,
}

impl Model {
    /// What an operation that succeeded has done.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create {
                name,
                volume,
                anonymous,
            } => {
                let container = Container {
                    state: State::Created,
                    volume: volume.clone(),
                    anonymous: *anonymous,
                    once: false,
                    id: None,
                    started: None,
                    address: None,
                    volumes: None,
                };
                self.containers.insert(name.clone(), container);
            }
            Op::Start { name } => self.set(name, State::Running),
            Op::Stop { name } => self.set(name, State::Exited),
            Op::Remove { name } => {
                self.containers.remove(name);
            }
            Op::VolumeCreate { name } => {
                self.volumes.insert(name.clone());
            }
            Op::VolumeRemove { name } => {
                self.volumes.remove(name);
            }
            Op::Pull(image) | Op::Load(image) => {
                self.images.insert(image.tag.clone(), image.chain.clone());
                self.forget_spares(&image.chain);
            }
            Op::RemoveImage(image) => {
                self.images.remove(&image.tag);
                self.forget_spares(&image.chain);
            }
            Op::Exec { .. } | Op::Run { .. } | Op::Events | Op::Logs { .. } => {}
        }
    }

    /// Whether everything is as it is after this operation.
    pub fn shows(&self, op: &Op) -> bool {
        match op {
            Op::Create { name, .. } => self.containers.contains_key(name),
            Op::Start { name } => self.state(name) == Some(State::Running),
            Op::Stop { name } => self.state(name) == Some(State::Exited),
            Op::Remove { name } => !self.containers.contains_key(name),
            Op::VolumeCreate { name } => self.volumes.contains(name),
            Op::VolumeRemove { name } => !self.volumes.contains(name),
            Op::Pull(image) | Op::Load(image) => self.images.contains_key(&image.tag),
            Op::RemoveImage(image) => !self.images.contains_key(&image.tag),
            // Its container may come as long as anything may.
            Op::Run { .. } => false,
            Op::Exec { .. } | Op::Events | Op::Logs { .. } => true,
        }
    }

    /// What an operation that was interrupted may have done: each is one way that the world may be now.
    pub fn outcomes(&self, op: &Op) -> Vec<Model> {
        let mut done = self.clone();
        done.apply(op);
        let mut all = vec![self.clone(), done];
        match op {
            // Stopped before it was removed.
            Op::Remove { name } if self.state(name) == Some(State::Running) => {
                let mut stopped = self.clone();
                stopped.set(name, State::Exited);
                all.push(stopped);
            }
            // The client was to start it, and the server to remove it after its end.
            Op::Run { name } => {
                let mut created = self.clone();
                created.apply(&Op::Create {
                    name: name.clone(),
                    volume: None,
                    anonymous: false,
                });
                if let Some(container) = created.containers.get_mut(name) {
                    container.once = true;
                }
                all.push(created);
            }
            Op::Pull(image) | Op::Load(image) => {
                for model in &mut all {
                    let spare = image.chain.iter().filter(|id| !model.keeps(id)).cloned();
                    let spare: Vec<_> = spare.collect();
                    model.spare.extend(spare);
                }
            }
            _ => {}
        }
        all
    }

    /// All layers that images keep.
    pub fn layers(&self) -> BTreeSet<&str> {
        self.images.values().flatten().map(String::as_str).collect()
    }

    /// The names of containers in one of these states.
    pub fn in_state(&self, states: &[State]) -> Vec<String> {
        self.containers
            .iter()
            .filter(|(name, c)| states.contains(&c.state) && !self.touched.contains(*name))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The volumes that no container uses.
    pub fn unused_volumes(&self) -> Vec<String> {
        let used = |name: &&String| {
            self.containers
                .values()
                .any(|c| c.volume.as_ref() == Some(name))
        };
        let free = |name: &&String| !used(name) && !self.touched.contains(*name);
        self.volumes.iter().filter(free).cloned().collect()
    }

    /// The volumes that should be: named ones, and the anonymous ones that containers brought.
    pub fn all_volumes(&self) -> BTreeSet<&str> {
        let brought = self
            .containers
            .values()
            .flat_map(|c| c.volumes.iter().flatten());
        self.volumes
            .iter()
            .chain(brought)
            .map(String::as_str)
            .collect()
    }

    fn state(&self, name: &str) -> Option<State> {
        self.containers.get(name).map(|c| c.state)
    }

    fn set(&mut self, name: &str, state: State) {
        if let Some(container) = self.containers.get_mut(name) {
            if container.state != state {
                container.started = None;
            }
            container.state = state;
        }
    }

    fn keeps(&self, layer: &str) -> bool {
        self.layers().contains(layer)
    }

    fn forget_spares(&mut self, chain: &[String]) {
        self.spare.retain(|layer| !chain.contains(layer));
    }
}
