//! Images and volumes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actors::image::{Progress, PullRequest, Removed, Transfer, Upload};
use actors::volume::{VolumeSnapshot, VolumeSpec};
use actors::{ContainerId, Error, ImageId};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::Engine;

impl Engine {
    pub async fn pull(&self, request: PullRequest) -> Result<Transfer, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if request.platform.contains("nosuch") {
            return Err(Error::NotFound(format!(
                "no matching manifest for {} in the manifest list entries",
                request.platform
            )));
        }
        if request.image.contains("nosuch") {
            return Err(Error::NotFound(format!(
                "pull access denied for {}, repository does not exist or may require 'docker login'",
                actors::image::familiar_name(&request.image)
            )));
        }
        Ok(transfer(vec![
            Progress::Status {
                id: "latest".into(),
                status: "Pulling from library/busybox".into(),
            },
            Progress::Bar {
                id: "0123456789ab".into(),
                status: "Downloading".into(),
                current: 1,
                total: 2,
            },
            Progress::Status {
                id: "0123456789ab".into(),
                status: "Pull complete".into(),
            },
            Progress::Status {
                id: String::new(),
                status: "Status: Downloaded newer image for busybox:latest".into(),
            },
        ]))
    }

    pub async fn load(&self, mut archive: Upload) -> Result<Transfer, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut size = 0;
        while let Some(piece) = archive.recv().await {
            size += piece.map_err(|why| Error::Invalid(why.to_string()))?.len();
        }
        Ok(transfer(vec![
            Progress::Status {
                id: "0123456789ab".into(),
                status: "Pull complete".into(),
            },
            Progress::Stream(format!("Loaded image: fake:{size}\n")),
        ]))
    }

    pub async fn tag(&self, image: ImageId, reference: &str) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let mut world = self.snapshots.world();
        let mut images = (*world.images).clone();
        let tagged = images
            .get_mut(&image)
            .ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        if !tagged.tags.iter().any(|tag| tag == reference) {
            Arc::make_mut(tagged).tags.push(reference.to_owned());
        }
        world.images = Arc::new(images);
        Ok(())
    }

    pub async fn remove_image(
        &self,
        wanted: &str,
        _force: bool,
        _noprune: bool,
    ) -> Result<Vec<Removed>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let found = self.snapshots.find_image(wanted)?;
        Ok(vec![
            Removed::Untagged(found.tags[0].clone()),
            Removed::Deleted(found.id.to_string()),
        ])
    }

    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Arc<VolumeSnapshot>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let name = spec
            .name
            .clone()
            .unwrap_or_else(|| ContainerId::random().to_string());
        let volume = Arc::new(VolumeSnapshot {
            name: name.clone(),
            driver: spec.driver,
            labels: spec.labels,
            options: spec.options,
            created: OffsetDateTime::now_utc(),
            path: format!("[ds] volumes/{name}.vmdk"),
            anonymous: spec.name.is_none(),
            capacity: 1 << 30,
        });
        self.snapshots.world().volumes.insert(name, volume.clone());
        Ok(volume)
    }

    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let gone = self.snapshots.world().volumes.remove(name);
        if gone.is_some() || force {
            Ok(())
        } else {
            Err(Error::NoSuchVolume(name.to_owned()))
        }
    }
}

fn transfer(steps: Vec<Progress>) -> Transfer {
    let (sender, progress) = mpsc::channel(steps.len());
    for step in steps {
        sender.try_send(step).expect("room for all");
    }
    Transfer { progress }
}
