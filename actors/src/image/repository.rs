//! The repository: which images there are, their tags and digests. One document on the datastore.
//!
//! What a crash loses: nothing that was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{ImageSnapshot, Removed, familiar, familiar_name, find};
use crate::context::Context;
use crate::error::Error;
use crate::events::{self, EventKind};
use crate::ids::ImageId;
use crate::vsphere::document::Document;

/// What the repository can be asked.
#[derive(Debug)]
pub enum Message {
    /// Notes which layers transfers are about to write: should this program end before they do, its successor deletes
    /// what nobody needs.
    Begin(RpcReplyPort<Result<(), Error>>),
    /// Adds an image whose layers are all present, or more names for one.
    Put(Box<ImageSnapshot>, RpcReplyPort<Result<(), Error>>),
    /// Gives an image one more name; moves it silently.
    Tag(ImageId, String, RpcReplyPort<Result<(), Error>>),
    /// Removes a name, or an image with its last one.
    Remove {
        /// What the client wrote.
        wanted: String,
        /// Remove although stopped containers use it or it has several names.
        force: bool,
        /// The answer.
        reply: RpcReplyPort<Result<Vec<Removed>, Error>>,
    },
}

/// The repository actor.
#[derive(Debug)]
pub struct Repository;

/// The running repository.
#[derive(Debug)]
pub struct State {
    context: Context,
    images: BTreeMap<ImageId, Arc<ImageSnapshot>>,
    document: Document,
}

/// What the document on the datastore holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    images: Vec<ImageSnapshot>,
    /// The chains that were being written or deleted: nobody may need them.
    #[serde(default)]
    unsettled: BTreeSet<String>,
}

impl Actor for Repository {
    type Msg = Message;
    type State = State;
    type Arguments = Context;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        context: Context,
    ) -> Result<State, ActorProcessingErr> {
        let path = context.settings().state_path("images.json");
        let (document, content): (_, Content) =
            Document::read(context.vsphere(), path, context.writer()).await?;
        let images: BTreeMap<_, _> = content
            .images
            .into_iter()
            .map(|i| (i.id.clone(), Arc::new(i)))
            .collect();
        context.snapshots().set_images(images.clone());
        context.images_are_known(content.unsettled.into_iter().collect());
        Ok(State {
            context,
            images,
            document,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Begin(reply) => {
                let images = state.images.clone();
                let answer = state.save(images).await;
                let _ = reply.send(answer);
            }
            Message::Put(image, reply) => {
                let answer = state.put(*image).await;
                let _ = reply.send(answer);
            }
            Message::Tag(id, reference, reply) => {
                let answer = state.tag(&id, &reference).await;
                let _ = reply.send(answer);
            }
            Message::Remove {
                wanted,
                force,
                reply,
            } => {
                let answer = state.remove(&wanted, force).await;
                let _ = reply.send(answer);
            }
        }
        Ok(())
    }
}

impl State {
    async fn put(&mut self, image: ImageSnapshot) -> Result<(), Error> {
        let mut images = self.images.clone();
        for tag in &image.tags {
            untag(&mut images, tag);
        }
        let mut merged = image;
        if let Some(old) = images.get(&merged.id) {
            for (from, to) in [
                (&old.tags, &mut merged.tags),
                (&old.digests, &mut merged.digests),
            ] {
                for name in from {
                    if !to.contains(name) {
                        to.push(name.clone());
                    }
                }
            }
        }
        merged.tags.sort();
        merged.digests.sort();
        images.insert(merged.id.clone(), Arc::new(merged));
        self.save(images).await
    }

    async fn tag(&mut self, id: &ImageId, reference: &str) -> Result<(), Error> {
        let name = familiar(reference);
        let mut images = self.images.clone();
        let Some(image) = images.get(id).cloned() else {
            return Err(Error::NoSuchImage(id.to_string()));
        };
        untag(&mut images, &name);
        let mut changed = images
            .get(id)
            .map_or_else(|| (*image).clone(), |i| (**i).clone());
        if !changed.tags.contains(&name) {
            changed.tags.push(name.clone());
            changed.tags.sort();
        }
        changed.last_tagged = Some(OffsetDateTime::now_utc());
        images.insert(id.clone(), Arc::new(changed));
        self.save(images).await?;
        self.emit("tag", id, &name);
        Ok(())
    }

    async fn remove(&mut self, wanted: &str, force: bool) -> Result<Vec<Removed>, Error> {
        let image = find(&self.images, wanted)?;
        let name = familiar(wanted);
        let by_name = image.tags.contains(&name) || image.digests.contains(&name);
        let names = image.tags.len();
        let mut images = self.images.clone();
        if by_name && names > 1 && image.tags.contains(&name) {
            untag(&mut images, &name);
            self.save(images).await?;
            self.emit("untag", &image.id, &image.id.to_string());
            return Ok(vec![Removed::Untagged(name)]);
        }
        let mut repositories: Vec<_> = image.tags.iter().map(|t| familiar_name(t)).collect();
        repositories.dedup();
        if !by_name && repositories.len() > 1 && !force {
            return Err(Error::Conflict(format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                image.id.short()
            )));
        }
        if by_name && force && self.runs(&image.id) {
            return self.forget_names(images, &image).await;
        }
        self.check_users(&image, &name, by_name, force)?;
        images.remove(&image.id);
        let unused = self.unused_chains(&images, &image);
        self.save_without(images, &unused).await?;
        let mut removed: Vec<_> = image.tags.iter().cloned().map(Removed::Untagged).collect();
        removed.extend(image.digests.iter().cloned().map(Removed::Untagged));
        for _ in &image.tags {
            self.emit("untag", &image.id, &image.id.to_string());
        }
        removed.push(Removed::Deleted(image.id.to_string()));
        self.emit("delete", &image.id, &image.id.to_string());
        for chain in &unused {
            removed.push(Removed::Deleted(format!("sha256:{chain}")));
        }
        super::forget_layers(&self.context, unused);
        Ok(removed)
    }

    /// Whether a container that runs was made of this image.
    fn runs(&self, image: &ImageId) -> bool {
        let containers = self.context.snapshots().containers();
        containers
            .iter()
            .any(|c| c.spec.image == *image && c.is_running())
    }

    /// Takes an image's last name, although a container that runs needs its layers: it stays without a name.
    async fn forget_names(
        &mut self,
        mut images: BTreeMap<ImageId, Arc<ImageSnapshot>>,
        image: &ImageSnapshot,
    ) -> Result<Vec<Removed>, Error> {
        let mut nameless = image.clone();
        let tags = std::mem::take(&mut nameless.tags);
        let digests = std::mem::take(&mut nameless.digests);
        images.insert(image.id.clone(), Arc::new(nameless));
        self.save(images).await?;
        for _ in &tags {
            self.emit("untag", &image.id, &image.id.to_string());
        }
        let names = tags.into_iter().chain(digests);
        Ok(names.map(Removed::Untagged).collect())
    }

    fn check_users(
        &self,
        image: &ImageSnapshot,
        name: &str,
        by_name: bool,
        force: bool,
    ) -> Result<(), Error> {
        let short = image.id.short();
        for container in self.context.snapshots().containers() {
            if container.spec.image != image.id {
                continue;
            }
            let user = container.id.short();
            let text = match (container.is_running(), by_name) {
                (true, false) => format!(
                    "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {user}"
                ),
                (false, false) if !force => format!(
                    "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {user}"
                ),
                (_, true) if !force => format!(
                    "conflict: unable to remove repository reference \"{name}\" (must force) - container {user} is using its referenced image {short}"
                ),
                _ => continue,
            };
            return Err(Error::Conflict(text));
        }
        Ok(())
    }

    /// The chains of a removed image that no other image needs, uppermost first. Those that stopped containers
    /// stand on stay until the next removal.
    fn unused_chains(
        &self,
        left: &BTreeMap<ImageId, Arc<ImageSnapshot>>,
        gone: &ImageSnapshot,
    ) -> Vec<String> {
        let mut needed: Vec<String> = left
            .values()
            .flat_map(|i| super::chains(&i.diff_ids))
            .collect();
        for container in self.context.snapshots().containers() {
            if container.spec.image == gone.id {
                needed.extend(super::chains(&gone.diff_ids));
            }
        }
        super::chains(&gone.diff_ids)
            .into_iter()
            .rev()
            .filter(|c| !needed.contains(c))
            .collect()
    }

    async fn save(&mut self, images: BTreeMap<ImageId, Arc<ImageSnapshot>>) -> Result<(), Error> {
        self.save_without(images, &[]).await
    }

    /// Saves images that no longer need the layers `unused`. The document names these too: whoever reads it after a
    /// crash deletes them.
    async fn save_without(
        &mut self,
        images: BTreeMap<ImageId, Arc<ImageSnapshot>>,
        unused: &[String],
    ) -> Result<(), Error> {
        let mut unsettled = self.context.needs().unsettled();
        unsettled.extend(unused.iter().cloned());
        let content = Content {
            images: images.values().map(|i| (**i).clone()).collect(),
            unsettled,
        };
        self.document.write(&content).await?;
        self.images.clone_from(&images);
        self.context.snapshots().set_images(images);
        Ok(())
    }

    fn emit(&self, action: &str, id: &ImageId, name: &str) {
        self.context.emit(events::Event {
            kind: EventKind::Image,
            action: action.to_owned(),
            id: id.to_string(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            time: OffsetDateTime::now_utc(),
        });
    }
}

fn untag(images: &mut BTreeMap<ImageId, Arc<ImageSnapshot>>, tag: &str) {
    for image in images.values_mut() {
        if image.tags.iter().any(|t| t == tag) {
            let mut changed = (**image).clone();
            changed.tags.retain(|t| t != tag);
            *image = Arc::new(changed);
        }
    }
}
