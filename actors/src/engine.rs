//! The facade that a persona holds: reads from snapshots, requests to actors.
//!
//! Every method is one message to one actor (create and the image methods: to the collection's). Addresses are
//! looked up at each call, so a restarted actor is found again. All methods may be cancelled by dropping them:
//! a request that was sent is still carried out.

mod written;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strategy::AskError;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::container::exec;
use crate::container::{
    AttachOptions, ContainerSnapshot, CreateSpec, Created, ExecSpec, ExitOutcome, LogRecord,
    LogsOptions, Message, ProcessList, RemoveOptions, Reply, Signal, StartExec, StopOptions,
    WaitCondition,
};
use crate::containers;
use crate::context::Context;
use crate::error::Error;
use crate::events::Subscription;
use crate::ids::{ContainerId, ExecId, ImageId};
use crate::image::{PullRequest, Removed, Transfer, Upload, repository};
use crate::snapshot::Snapshots;
use crate::streams::{Attachment, ConsoleSize};
use crate::system::SystemInfo;
use crate::volume::{self, VolumeSnapshot, VolumeSpec};

/// The engine, seen by a persona.
#[derive(Debug, Clone)]
pub struct Engine {
    snapshots: Snapshots,
    system: Arc<SystemInfo>,
    context: Option<Context>,
    serving: strategy::Busy,
}

/// How long a request to one actor may take; vSphere's own deadlines are shorter.
const DEADLINE: Duration = Duration::from_secs(120);

/// How often a request is sent again to an actor that died with it, where sending twice does no harm.
const AGAIN: usize = 4;

impl Engine {
    /// An engine over shelves alone, for a persona's own tests: every request answers
    /// [`Error::NotImplemented`].
    pub fn new(snapshots: Snapshots, system: SystemInfo) -> Self {
        Self {
            snapshots,
            system: Arc::new(system),
            context: None,
            serving: strategy::Busy::default(),
        }
    }

    /// The engine of a running world.
    pub(crate) fn over(context: Context) -> Self {
        Self {
            snapshots: context.snapshots().clone(),
            system: context.system(),
            context: Some(context),
            serving: strategy::Busy::default(),
        }
    }

    fn context(&self, what: &'static str) -> Result<&Context, Error> {
        self.context.as_ref().ok_or(Error::NotImplemented(what))
    }

    /// Asks a container's actor. With `again`, a question that died with the actor is put to the next one.
    async fn ask<T: Send + 'static>(
        &self,
        id: ContainerId,
        what: &'static str,
        again: bool,
        question: impl Fn(Reply<T>) -> Message,
    ) -> Result<T, Error> {
        let context = self.context(what)?;
        let missing = || Error::NoSuchContainer(id.to_string());
        for _ in 0..if again { AGAIN } else { 1 } {
            let address = context.container(id).ok_or_else(missing)?;
            match address.ask(deadline(what), &question).await {
                Ok(answer) => return answer,
                Err(AskError::Gone) => return Err(missing()),
                Err(AskError::Deadline) => return Err(Error::Deadline(what)),
                Err(AskError::Interrupted) => {}
            }
        }
        Err(Error::Interrupted(what))
    }

    /// Counts a request that a persona has not answered yet, until the guard is dropped.
    pub fn serving(&self) -> strategy::BusyGuard {
        self.serving.request()
    }

    /// The counter of requests that personas have not answered yet.
    pub fn serving_counter(&self) -> &strategy::Busy {
        &self.serving
    }

    /// Says on our own VM where the API listens: the installer waits for it.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn announce(&self, own_vm: &str, address: &str) -> Result<(), Error> {
        let keys = std::collections::BTreeMap::from([("vch.ready".to_owned(), address.to_owned())]);
        let spec = vmomi::types::VirtualMachineConfigSpec {
            extra_config: crate::container::vm::option_values(keys),
            ..Default::default()
        };
        self.context("announce")?
            .vsphere()
            .reconfigure(own_vm, spec)
            .await
    }

    /// What can be read without a message.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Facts about the host.
    pub fn system(&self) -> Arc<SystemInfo> {
        match &self.context {
            Some(context) => context.system(),
            None => self.system.clone(),
        }
    }

    /// The container that a client means (see [`Snapshots::find_container`]).
    ///
    /// # Errors
    /// As there.
    pub fn find(&self, wanted: &str) -> Result<Arc<ContainerSnapshot>, Error> {
        self.snapshots.find_container(wanted)
    }

    /// Makes a container: one CreateVM_Task.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::NameTaken`], [`Error::Invalid`] (bad name), vSphere's.
    pub async fn create(&self, spec: CreateSpec) -> Result<Created, Error> {
        let context = self.context("create")?.clone();
        // A task of its own: a client that hangs up does not leave a half-made container.
        let making = tokio::spawn(async move { containers::create(&context, spec).await });
        making.await.map_err(|why| Error::failed("create", &why))?
    }

    /// Runs a container; answers when its process runs.
    ///
    /// # Errors
    /// [`Error::NotModified`], [`Error::Launch`], [`Error::StartPaused`], vSphere's.
    pub async fn start(&self, id: ContainerId) -> Result<(), Error> {
        let exits = || self.snapshots.container(&id).map(|c| c.exits);
        let before = exits();
        match self.ask(id, "start", false, Message::Start).await {
            Err(Error::Interrupted(_)) => {}
            answer => return answer,
        }
        // The actor died with it. Its successor knows whether the process runs, or ran and ended: never twice.
        for _ in 1..AGAIN {
            match self.ask(id, "start", true, Message::Ready).await {
                Err(Error::Interrupted(_)) => continue,
                answer => answer?,
            }
            if exits() != before {
                return Ok(());
            }
            match self.ask(id, "start", false, Message::Start).await {
                Err(Error::Interrupted(_)) => {}
                Err(Error::NotModified) => return Ok(()),
                answer => return answer,
            }
        }
        Err(Error::Interrupted("start"))
    }

    /// Stops a container; answers when its VM is off.
    ///
    /// # Errors
    /// [`Error::NotModified`], vSphere's.
    pub async fn stop(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.ask(id, "stop", true, |r| Message::Stop(options.clone(), r))
            .await
    }

    /// Stops (if it runs) and starts a container.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn restart(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.ask(id, "restart", false, |r| {
            Message::Restart(options.clone(), r)
        })
        .await
    }

    /// Sends a signal to a container's process.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn kill(&self, id: ContainerId, signal: Signal) -> Result<(), Error> {
        self.ask(id, "kill", false, |r| Message::Kill(signal, r))
            .await
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::AlreadyPaused`].
    pub async fn pause(&self, id: ContainerId) -> Result<(), Error> {
        self.ask(id, "pause", false, Message::Pause).await
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// [`Error::NotPaused`].
    pub async fn unpause(&self, id: ContainerId) -> Result<(), Error> {
        self.ask(id, "unpause", false, Message::Unpause).await
    }

    /// Renames a container and its VM.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::Invalid`].
    pub async fn rename(&self, id: ContainerId, name: &str) -> Result<(), Error> {
        let name = name.strip_prefix('/').unwrap_or(name);
        if !containers::names::is_valid(name) {
            return Err(Error::Invalid(containers::names::complaint(name)));
        }
        self.snapshots.reserve_name(name, id)?;
        let renamed = self
            .ask(id, "rename", false, |r| Message::Rename(name.to_owned(), r))
            .await;
        self.snapshots.release_name(name, id);
        renamed
    }

    /// Removes a container: one Destroy_Task. Its name is free when this answers.
    ///
    /// # Errors
    /// [`Error::RemoveRunning`], [`Error::RemovePaused`], [`Error::RemovalInProgress`], vSphere's.
    pub async fn remove(&self, id: ContainerId, options: RemoveOptions) -> Result<(), Error> {
        let tries = AtomicUsize::new(0);
        let removed = self.ask(id, "remove", true, |reply| {
            tries.fetch_add(1, Ordering::Relaxed);
            Message::Remove(options.clone(), reply)
        });
        let removed = removed.await;
        let tries = tries.into_inner();
        match removed {
            // It went with the first question, whose answer died with the actor.
            Err(Error::NoSuchContainer(_)) if tries > 0 => Ok(()),
            Err(Error::RemovalInProgress(_)) if tries > 1 => self.gone(id).await,
            answer => answer,
        }
    }

    /// Waits until a container that is being removed is gone.
    async fn gone(&self, id: ContainerId) -> Result<(), Error> {
        match self.snapshots.wait(&id, WaitCondition::Removed) {
            Ok(removed) => removed
                .await
                .map(|_| ())
                .map_err(|_| Error::Interrupted("remove")),
            Err(_) => Ok(()),
        }
    }

    /// Registers a waiter; when this returns, no exit can be missed. The receiver survives a restart of the
    /// container's actor.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`].
    pub async fn wait(
        &self,
        id: ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<ExitOutcome>, Error> {
        self.snapshots.wait(&id, condition)
    }

    /// Connects to a container's stdio; when this returns, no output can be missed.
    ///
    /// # Errors
    /// [`Error::Paused`].
    pub async fn attach(
        &self,
        id: ContainerId,
        options: AttachOptions,
    ) -> Result<Attachment, Error> {
        self.ask(id, "attach", true, |r| Message::Attach(options.clone(), r))
            .await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn resize(&self, id: ContainerId, size: ConsoleSize) -> Result<(), Error> {
        self.ask(id, "resize", true, |r| Message::Resize(size, r))
            .await
    }

    /// Reads a container's log.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn logs(
        &self,
        id: ContainerId,
        options: LogsOptions,
    ) -> Result<mpsc::Receiver<LogRecord>, Error> {
        self.ask(id, "logs", true, |r| Message::Logs(options.clone(), r))
            .await
    }

    /// Lists a container's processes, as `ps` with these arguments would.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn top(&self, id: ContainerId, ps_args: &str) -> Result<ProcessList, Error> {
        self.ask(id, "top", true, |r| Message::Top(ps_args.to_owned(), r))
            .await
    }

    /// Prepares an exec.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Paused`].
    pub async fn create_exec(&self, id: ContainerId, spec: ExecSpec) -> Result<ExecId, Error> {
        self.ask(id, "exec", true, |r| {
            Message::CreateExec(Box::new(spec.clone()), r)
        })
        .await
    }

    /// Runs an exec. Its exit code is in the snapshot before the output ends.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`], [`Error::ExecAlreadyRan`], [`Error::NotRunning`]; detached also [`Error::Launch`]
    /// (attached, the launch error is the output's text).
    pub async fn start_exec(&self, id: ExecId, options: StartExec) -> Result<Attachment, Error> {
        self.ask_exec(id, false, |r| exec::Message::Start(options.clone(), r))
            .await
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`].
    pub async fn resize_exec(&self, id: ExecId, size: ConsoleSize) -> Result<(), Error> {
        self.ask_exec(id, true, |r| exec::Message::Resize(size, r))
            .await
    }

    /// Asks an exec's actor. With `again`, a question that died with the actor is put to the next one.
    async fn ask_exec<T: Send + 'static>(
        &self,
        id: ExecId,
        again: bool,
        question: impl Fn(Reply<T>) -> exec::Message,
    ) -> Result<T, Error> {
        let context = self.context("exec")?;
        let missing = || Error::NoSuchExec(id.to_string());
        for _ in 0..if again { AGAIN } else { 1 } {
            let address = context.exec(id).ok_or_else(missing)?;
            match address.ask(DEADLINE, &question).await {
                Ok(answer) => return answer,
                Err(AskError::Gone) => return Err(missing()),
                Err(AskError::Deadline) => return Err(Error::Deadline("exec")),
                Err(AskError::Interrupted) => {}
            }
        }
        Err(Error::Interrupted("exec"))
    }

    /// Subscribes to events; kept ones not before `since` come first (none: only live ones).
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub async fn events(&self, since: Option<OffsetDateTime>) -> Result<Subscription, Error> {
        let events = &self.context("events")?.addresses().events;
        let asked = events
            .ask(DEADLINE, |r| crate::events::Message::Subscribe(since, r))
            .await;
        asked.map_err(|_| Error::Interrupted("events"))
    }

    /// Pulls an image. Answers when the registry has accepted (its errors come as errors here); what fails
    /// later is the last step of the transfer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Invalid`] (bad reference), [`Error::Failed`].
    pub async fn pull(&self, request: PullRequest) -> Result<Transfer, Error> {
        crate::image::pull::pull(self.context("pull")?, request).await
    }

    /// Loads images from an archive of `docker save` (both layouts).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an archive that is none.
    pub async fn load(&self, archive: Upload) -> Result<Transfer, Error> {
        crate::image::pull::load(self.context("load")?, archive).await
    }

    /// Gives an image one more name (moves it silently).
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Invalid`].
    pub async fn tag(&self, image: ImageId, reference: &str) -> Result<(), Error> {
        let repository = &self.context("tag")?.addresses().repository;
        let reference = reference.to_owned();
        let asked = repository
            .ask(DEADLINE, |r| repository::Message::Tag(image, reference, r))
            .await;
        asked.map_err(|_| Error::Interrupted("tag"))?
    }

    /// Removes a name or an image; `wanted` is what the client wrote.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Conflict`].
    pub async fn remove_image(
        &self,
        wanted: &str,
        force: bool,
        noprune: bool,
    ) -> Result<Vec<Removed>, Error> {
        // Layers that no other image needs always go: there are no untagged parents to keep.
        let _ = noprune;
        let repository = &self.context("rmi")?.addresses().repository;
        let wanted = wanted.to_owned();
        let asked = repository
            .ask(DEADLINE, |reply| repository::Message::Remove {
                wanted,
                force,
                reply,
            })
            .await;
        asked.map_err(|_| Error::Interrupted("rmi"))?
    }

    /// Makes a volume; one of that name already there is the answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] (bad name), vSphere's.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Arc<VolumeSnapshot>, Error> {
        let mut spec = spec;
        spec.name_it();
        volume::make(self.context("volume create")?, spec).await
    }

    /// Removes a volume. With `force` a missing one is no error.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], [`Error::Conflict`] (in use).
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        let volumes = &self.context("volume rm")?.addresses().volumes;
        let mut again = false;
        for _ in 0..AGAIN {
            let question = |r| volume::Message::Remove(name.to_owned(), force, r);
            match volumes.ask(DEADLINE, question).await {
                Err(AskError::Interrupted) => again = true,
                // It went with the first question, whose answer died with the actor.
                Ok(Err(Error::NoSuchVolume(_))) if again => return Ok(()),
                Ok(answer) => return answer,
                Err(why) => return Err(Error::failed_for_now("remove a volume", &why)),
            }
        }
        Err(Error::Interrupted("volume rm"))
    }
}

/// Stop and restart wait as long as the client says; the rest has a deadline.
fn deadline(what: &str) -> Duration {
    match what {
        "stop" | "restart" => Duration::from_secs(365 * 24 * 3600),
        _ => DEADLINE,
    }
}
