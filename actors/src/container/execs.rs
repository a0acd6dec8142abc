//! A container's execs, as it supervises them: made on request, made again after a restart, found in the guest.

use ractor::ActorProcessingErr;
use strategy::{ChildSpec, Restart};
use tether_protocol::session::{Known, PRIMARY, Process as Number};

use super::actor::Running;
use super::exec::{self, Heard, Label};
use super::link;
use super::snapshot::ExecSpec;
use crate::error::Error;
use crate::ids::ExecId;

impl Running {
    /// Makes an exec, not started yet.
    pub(super) async fn create_exec(
        &mut self,
        spec: ExecSpec,
    ) -> Result<Result<ExecId, Error>, ActorProcessingErr> {
        let shelf = self.context.snapshots().container(&self.id);
        let refusal = match &shelf {
            Some(container) => exec::refusal(container),
            None => Some(Error::NoSuchContainer(self.id.to_string())),
        };
        if let Some(why) = refusal {
            return Ok(Err(why));
        }
        let id = ExecId::random();
        let number = rand::random_range(2..Number::MAX);
        let command = spec.process.argv.join(" ");
        self.add_exec(id, number, spec, false).await?;
        self.emit(
            &format!("exec_create: {command}"),
            vec![("execID", id.to_string())],
        );
        Ok(Ok(id))
    }

    /// Starts an exec's actor.
    async fn add_exec(
        &mut self,
        id: ExecId,
        number: Number,
        spec: ExecSpec,
        found: bool,
    ) -> Result<(), ActorProcessingErr> {
        let address = self.context.enter_exec(id, self.id, number);
        let args = exec::Args {
            context: self.context.clone(),
            id,
            container: self.id,
            number,
            spec,
            found,
            link: self.link.clone(),
        };
        let make = move || (exec::Exec, args.clone());
        // Ends by itself when its time on the shelf is over.
        let child = ChildSpec::new(id.short(), Restart::Transient, address, make)
            .kind("exec")
            .at_once();
        self.children.start(vec![child]).await
    }

    /// After a restart of the container's actor: its execs died with it and are made again.
    pub(super) async fn revive_execs(&mut self) -> Result<(), ActorProcessingErr> {
        for (id, number) in self.context.execs_of(self.id) {
            if let Some(last) = self.context.snapshots().exec(&id) {
                self.add_exec(id, number, last.spec.clone(), false).await?;
            }
        }
        Ok(())
    }

    /// The guest told all that it knows: execs of an earlier life of this program are found, and those that it does
    /// not know are lost, unless they are on their way.
    pub(super) async fn met(&mut self, processes: Vec<Known>) -> Result<(), ActorProcessingErr> {
        let ours = self.context.execs_of(self.id);
        for (_, number) in &ours {
            if processes.iter().all(|known| known.process != *number) {
                self.link.tell(link::Message::Report(*number));
            }
        }
        for known in processes.into_iter().filter(|k| k.process != PRIMARY) {
            if ours.iter().any(|(_, number)| *number == known.process) {
                continue;
            }
            match Label::read(&known.id) {
                Some(label) => {
                    self.add_exec(label.id, known.process, label.spec, true)
                        .await?;
                }
                None => tracing::warn!(process = known.process, "the guest runs a strange process"),
            }
        }
        Ok(())
    }

    /// Passes on what the guest said of an exec's process.
    pub(super) fn exec_heard(&self, process: Number, heard: Heard) {
        let ours = self.context.execs_of(self.id);
        if let Some((id, _)) = ours.into_iter().find(|(_, number)| *number == process)
            && let Some(address) = self.context.exec(id)
        {
            address.tell(exec::Message::Heard(heard));
        }
    }

    /// The VM is off: no exec runs any more, and none that was only prepared ever will.
    pub(super) fn end_execs(&self) {
        for (id, _) in self.context.execs_of(self.id) {
            let Some(address) = self.context.exec(id) else {
                continue;
            };
            let started = self
                .context
                .snapshots()
                .exec(&id)
                .is_some_and(|e| e.started);
            address.tell(match started {
                true => exec::Message::Heard(Heard::Off),
                false => exec::Message::Forget,
            });
        }
    }
}
