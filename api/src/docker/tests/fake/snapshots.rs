//! What can be read of the fake without a message.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use actors::container::{ContainerSnapshot, ExecSnapshot};
use actors::image::Images;
use actors::network::{NetworkSnapshot, Pool};
use actors::volume::VolumeSnapshot;
use actors::{ContainerId, Error, ExecId, NetworkId};
use time::OffsetDateTime;

use super::{Snapshots, World};

impl Snapshots {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world
            .lock()
            .expect("no test panics with the world in its hands")
    }

    pub fn containers(&self) -> Vec<Arc<ContainerSnapshot>> {
        let mut all: Vec<_> = self
            .world()
            .containers
            .values()
            .map(|c| c.snapshot.clone())
            .collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then(b.id.cmp(&a.id)));
        all
    }

    pub fn container(&self, id: &ContainerId) -> Option<Arc<ContainerSnapshot>> {
        self.containers().into_iter().find(|c| c.id == *id)
    }

    pub fn exec(&self, id: &ExecId) -> Option<Arc<ExecSnapshot>> {
        let mut all = self.containers().into_iter();
        all.find_map(|c| c.execs.get(id).cloned())
    }

    pub fn images(&self) -> Arc<Images> {
        self.world().images.clone()
    }

    pub fn find_image(&self, wanted: &str) -> Result<Arc<actors::image::ImageSnapshot>, Error> {
        actors::image::find(&self.images(), wanted)
    }

    pub fn networks(&self) -> Vec<Arc<NetworkSnapshot>> {
        let endpoints: BTreeMap<_, _> = self
            .containers()
            .iter()
            .filter(|c| c.is_running())
            .map(|c| {
                let e = actors::network::Endpoint {
                    id: actors::EndpointId::of_name(&c.name),
                    name: c.name.clone(),
                    mac: "02:42:ac:11:00:02".into(),
                    address: [172, 17, 0, 2].into(),
                };
                (c.id, e)
            })
            .collect();
        [("bridge", "bridge"), ("host", "host"), ("none", "null")]
            .iter()
            .map(|(name, driver)| {
                Arc::new(NetworkSnapshot {
                    id: NetworkId::of_name(name),
                    name: (*name).to_owned(),
                    driver: (*driver).to_owned(),
                    created: OffsetDateTime::UNIX_EPOCH,
                    pool: (*name == "bridge").then_some(Pool {
                        network: [172, 17, 0, 0].into(),
                        prefix_len: 16,
                        gateway: [172, 17, 0, 1].into(),
                    }),
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                    predefined: true,
                    endpoints: if *name == "bridge" {
                        endpoints.clone()
                    } else {
                        BTreeMap::new()
                    },
                })
            })
            .collect()
    }

    pub fn find_network(&self, wanted: &str) -> Result<Arc<NetworkSnapshot>, Error> {
        let name = if wanted == "default" {
            "bridge"
        } else {
            wanted
        };
        self.networks()
            .into_iter()
            .find(|n| n.name == name || n.id.to_string() == name)
            .ok_or_else(|| Error::NoSuchNetwork(wanted.to_owned()))
    }

    pub fn volumes(&self) -> Vec<Arc<VolumeSnapshot>> {
        self.world().volumes.values().cloned().collect()
    }

    pub fn find_volume(&self, name: &str) -> Result<Arc<VolumeSnapshot>, Error> {
        self.world()
            .volumes
            .get(name)
            .cloned()
            .ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    pub fn find_exec(
        &self,
        id: &str,
    ) -> Result<(Arc<ContainerSnapshot>, Arc<ExecSnapshot>), Error> {
        let missing = || Error::NoSuchExec(id.to_owned());
        let exec: ExecId = id.parse().map_err(|_| missing())?;
        self.containers()
            .into_iter()
            .find_map(|c| c.execs.get(&exec).cloned().map(|e| (c.clone(), e)))
            .ok_or_else(missing)
    }
}
