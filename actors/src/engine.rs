//! The facade that a persona holds: reads from snapshots, requests to actors.
//!
//! Every method is one message to one actor (create and the image methods: to the collection's). Addresses are
//! looked up at each call, so a restarted actor is found again. All methods may be cancelled by dropping them:
//! a request that was sent is still carried out.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::container::{
    AttachOptions, ContainerSnapshot, CreateSpec, Created, ExecSpec, ExitOutcome, LogRecord,
    LogsOptions, ProcessList, RemoveOptions, Signal, StartExec, StopOptions, WaitCondition,
};
use crate::error::Error;
use crate::events::Subscription;
use crate::ids::{ContainerId, ExecId, ImageId};
use crate::image::{PullRequest, Removed, Transfer, Upload};
use crate::snapshot::Snapshots;
use crate::streams::{Attachment, ConsoleSize};
use crate::system::SystemInfo;
use crate::volume::{VolumeSnapshot, VolumeSpec};

/// The engine, seen by a persona.
#[derive(Debug, Clone)]
pub struct Engine {
    snapshots: Snapshots,
    system: Arc<SystemInfo>,
}

impl Engine {
    /// What can be read without a message.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Facts about the host.
    pub fn system(&self) -> &SystemInfo {
        &self.system
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
        let _ = spec;
        Err(Error::NotImplemented("create"))
    }

    /// Runs a container; answers when its process runs.
    ///
    /// # Errors
    /// [`Error::NotModified`], [`Error::Launch`], [`Error::StartPaused`], vSphere's.
    pub async fn start(&self, id: ContainerId) -> Result<(), Error> {
        let _ = id;
        Err(Error::NotImplemented("start"))
    }

    /// Stops a container; answers when its VM is off.
    ///
    /// # Errors
    /// [`Error::NotModified`], vSphere's.
    pub async fn stop(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        let _ = (id, options);
        Err(Error::NotImplemented("stop"))
    }

    /// Stops (if it runs) and starts a container.
    ///
    /// # Errors
    /// As stop and start.
    pub async fn restart(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        let _ = (id, options);
        Err(Error::NotImplemented("restart"))
    }

    /// Sends a signal to a container's process.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn kill(&self, id: ContainerId, signal: Signal) -> Result<(), Error> {
        let _ = (id, signal);
        Err(Error::NotImplemented("kill"))
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::AlreadyPaused`].
    pub async fn pause(&self, id: ContainerId) -> Result<(), Error> {
        let _ = id;
        Err(Error::NotImplemented("pause"))
    }

    /// Thaws a container.
    ///
    /// # Errors
    /// [`Error::NotPaused`].
    pub async fn unpause(&self, id: ContainerId) -> Result<(), Error> {
        let _ = id;
        Err(Error::NotImplemented("unpause"))
    }

    /// Renames a container and its VM.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::Invalid`].
    pub async fn rename(&self, id: ContainerId, name: &str) -> Result<(), Error> {
        let _ = (id, name);
        Err(Error::NotImplemented("rename"))
    }

    /// Removes a container: one Destroy_Task. Its name is free when this answers.
    ///
    /// # Errors
    /// [`Error::RemoveRunning`], [`Error::RemovePaused`], [`Error::RemovalInProgress`], vSphere's.
    pub async fn remove(&self, id: ContainerId, options: RemoveOptions) -> Result<(), Error> {
        let _ = (id, options);
        Err(Error::NotImplemented("remove"))
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
        let _ = (id, condition);
        Err(Error::NotImplemented("wait"))
    }

    /// Connects to a container's stdio; when this returns, no output can be missed.
    ///
    /// # Errors
    /// [`Error::Paused`].
    pub async fn attach(&self, id: ContainerId, options: AttachOptions) -> Result<Attachment, Error> {
        let _ = (id, options);
        Err(Error::NotImplemented("attach"))
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn resize(&self, id: ContainerId, size: ConsoleSize) -> Result<(), Error> {
        let _ = (id, size);
        Err(Error::NotImplemented("resize"))
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
        let _ = (id, options);
        Err(Error::NotImplemented("logs"))
    }

    /// Lists a container's processes, as `ps` with these arguments would.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn top(&self, id: ContainerId, ps_args: &str) -> Result<ProcessList, Error> {
        let _ = (id, ps_args);
        Err(Error::NotImplemented("top"))
    }

    /// Prepares an exec.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Paused`].
    pub async fn create_exec(&self, id: ContainerId, spec: ExecSpec) -> Result<ExecId, Error> {
        let _ = (id, spec);
        Err(Error::NotImplemented("exec"))
    }

    /// Runs an exec. Its exit code is in the snapshot before the output ends.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`], [`Error::ExecAlreadyRan`], [`Error::NotRunning`]; detached also [`Error::Launch`]
    /// (attached, the launch error is the output's text).
    pub async fn start_exec(&self, id: ExecId, options: StartExec) -> Result<Attachment, Error> {
        let _ = (id, options);
        Err(Error::NotImplemented("exec"))
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    /// [`Error::NoSuchExec`].
    pub async fn resize_exec(&self, id: ExecId, size: ConsoleSize) -> Result<(), Error> {
        let _ = (id, size);
        Err(Error::NotImplemented("exec"))
    }

    /// Subscribes to events; kept ones not before `since` come first (none: only live ones).
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub async fn events(&self, since: Option<OffsetDateTime>) -> Result<Subscription, Error> {
        let _ = since;
        Err(Error::NotImplemented("events"))
    }

    /// Pulls an image. Answers when the registry has accepted (its errors come as errors here); what fails
    /// later is the last step of the transfer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Invalid`] (bad reference), [`Error::Failed`].
    pub async fn pull(&self, request: PullRequest) -> Result<Transfer, Error> {
        let _ = request;
        Err(Error::NotImplemented("pull"))
    }

    /// Loads images from an archive of `docker save` (both layouts).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an archive that is none.
    pub async fn load(&self, archive: Upload, quiet: bool) -> Result<Transfer, Error> {
        let _ = (archive, quiet);
        Err(Error::NotImplemented("load"))
    }

    /// Gives an image one more name (moves it silently).
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Invalid`].
    pub async fn tag(&self, image: ImageId, reference: &str) -> Result<(), Error> {
        let _ = (image, reference);
        Err(Error::NotImplemented("tag"))
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
        let _ = (wanted, force, noprune);
        Err(Error::NotImplemented("rmi"))
    }

    /// Makes a volume; one of that name already there is the answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] (bad name), vSphere's.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Arc<VolumeSnapshot>, Error> {
        let _ = spec;
        Err(Error::NotImplemented("volume create"))
    }

    /// Removes a volume. With `force` a missing one is no error.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`], [`Error::Conflict`] (in use).
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        let _ = (name, force);
        Err(Error::NotImplemented("volume rm"))
    }
}
