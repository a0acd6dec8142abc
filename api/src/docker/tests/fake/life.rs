//! The verbs of a container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actors::container::{
    AttachOptions, CreateSpec, Created, ExitOutcome, LogRecord, LogsOptions, Phase, ProcessList,
    RemoveOptions, Signal, StopOptions, WaitCondition,
};
use actors::streams::{Attachment, ConsoleSize, Output, Stream};
use actors::{ContainerId, Error};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use super::Engine;
use super::program::program;
use crate::docker::tests::sample;

impl Engine {
    pub async fn create(&self, spec: CreateSpec) -> Result<Created, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId::random();
        let name = spec
            .name
            .clone()
            .unwrap_or_else(|| format!("fake_{}", id.short()));
        if let Ok(holder) = self.find(&name) {
            return Err(Error::NameTaken {
                name,
                holder: holder.id,
            });
        }
        let mut snapshot = sample::container(&name);
        snapshot.id = id;
        snapshot.created = OffsetDateTime::now_utc();
        let warnings = spec.warnings.clone();
        snapshot.spec = Arc::new(spec);
        self.emit(&id.to_string(), "create", &snapshot);
        self.put(snapshot);
        Ok(Created { id, warnings })
    }

    pub async fn start(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let (argv, tty, killed, input) = self.with(id, |fake| {
            match fake.snapshot.phase {
                Phase::Running => return Err(Error::NotModified),
                Phase::Paused => return Err(Error::StartPaused),
                _ => {}
            }
            fake.change(|s| {
                s.phase = Phase::Running;
                s.started_at = Some(OffsetDateTime::now_utc());
                s.vm.pid = 7;
            });
            let process = &fake.snapshot.spec.process;
            Ok((
                process.argv.clone(),
                process.tty,
                fake.killed.clone(),
                fake.input.take(),
            ))
        })?;
        if argv[0] == "nosuch" {
            let text = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
                        create failed: unable to start container process: exec: \"nosuch\": executable file not found in \
                        $PATH: unknown";
            self.exited(id, 127, true);
            return Err(Error::Launch {
                text: text.to_owned(),
                exit_code: 127,
            });
        }
        self.emit(&id.to_string(), "start", &*self.find(&id.to_string())?);
        let engine = self.clone();
        tokio::spawn(async move {
            let send = |stream, data: Bytes| engine.output(id, stream, data);
            let code = tokio::select! {
                biased;
                code = program(&argv, input, tty, send) => code,
                () = killed.0.notified() => 128 + *killed.1.lock().expect("signal"),
            };
            engine.exited(id, code, false);
        });
        Ok(())
    }

    async fn output(&self, id: ContainerId, stream: Stream, data: Bytes) {
        let (outputs, followers, record) = {
            let mut world = self.snapshots.world();
            let Some(fake) = world.containers.get_mut(&id) else {
                return;
            };
            let record = LogRecord {
                time: OffsetDateTime::now_utc(),
                stream,
                seq: fake.log.len() as u64,
                data: data.clone(),
            };
            fake.log.push(record.clone());
            (fake.outputs.clone(), fake.followers.clone(), record)
        };
        for output in outputs {
            let _ = output
                .send(Output {
                    stream,
                    data: data.clone(),
                })
                .await;
        }
        for follower in followers {
            let _ = follower.send(record.clone()).await;
        }
    }

    fn exited(&self, id: ContainerId, code: i32, failed: bool) {
        let gone = {
            let mut world = self.snapshots.world();
            let Some(fake) = world.containers.get_mut(&id) else {
                return;
            };
            fake.outputs.clear();
            fake.followers.clear();
            fake.input = None;
            fake.change(|s| {
                s.phase = if failed {
                    Phase::Created
                } else {
                    Phase::Exited
                };
                s.exit_code = i64::from(code);
                s.finished_at = Some(OffsetDateTime::now_utc());
            });
            fake.resolve(&[WaitCondition::NextExit, WaitCondition::NotRunning]);
            fake.snapshot.clone()
        };
        self.emit(&id.to_string(), "die", &gone);
        if gone.spec.auto_remove {
            self.forget(id);
        }
    }

    fn forget(&self, id: ContainerId) {
        let gone = self.snapshots.world().containers.remove(&id);
        if let Some(mut fake) = gone {
            self.emit(&id.to_string(), "destroy", &fake.snapshot);
            fake.resolve(&[
                WaitCondition::NextExit,
                WaitCondition::NotRunning,
                WaitCondition::Removed,
            ]);
        }
    }

    pub async fn stop(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let running = self.with(id, |fake| Ok(fake.snapshot.is_running()))?;
        if !running {
            return Err(Error::NotModified);
        }
        let ended = self.wait(id, WaitCondition::NotRunning).await?;
        self.kill(id, options.signal.unwrap_or(Signal(15))).await?;
        let _ = ended.await;
        Ok(())
    }

    pub async fn restart(&self, id: ContainerId, options: StopOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        match self.stop(id, options).await {
            Ok(()) | Err(Error::NotModified) => self.start(id).await,
            Err(why) => Err(why),
        }
    }

    pub async fn kill(&self, id: ContainerId, signal: Signal) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            if !fake.snapshot.is_running() {
                return Err(Error::NotRunning(id));
            }
            *fake.killed.1.lock().expect("signal") = signal.0;
            fake.killed.0.notify_one();
            Ok(())
        })
    }

    pub async fn pause(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.phase {
            Phase::Running => {
                fake.change(|s| s.phase = Phase::Paused);
                Ok(())
            }
            Phase::Paused => Err(Error::AlreadyPaused(id)),
            _ => Err(Error::NotRunning(id)),
        })
    }

    pub async fn unpause(&self, id: ContainerId) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.phase {
            Phase::Paused => {
                fake.change(|s| s.phase = Phase::Running);
                Ok(())
            }
            _ => Err(Error::NotPaused(id)),
        })
    }

    pub async fn rename(&self, id: ContainerId, name: &str) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if let Ok(holder) = self.find(name) {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                holder: holder.id,
            });
        }
        self.with(id, |fake| {
            fake.change(|s| s.name = name.to_owned());
            Ok(())
        })
    }

    pub async fn remove(&self, id: ContainerId, options: RemoveOptions) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let phase = self.with(id, |fake| Ok(fake.snapshot.phase))?;
        match phase {
            Phase::Running if !options.force => return Err(Error::RemoveRunning(options.name)),
            Phase::Paused if !options.force => return Err(Error::RemovePaused(options.name)),
            Phase::Running => {
                let ended = self.wait(id, WaitCondition::NotRunning).await?;
                self.kill(id, Signal(9)).await?;
                let _ = ended.await;
            }
            _ => {}
        }
        self.forget(id);
        Ok(())
    }

    pub async fn written(
        &self,
        containers: &[ContainerId],
    ) -> Result<BTreeMap<ContainerId, u64>, Error> {
        Ok(containers.iter().map(|id| (*id, 4096)).collect())
    }

    pub async fn wait(
        &self,
        id: ContainerId,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<ExitOutcome>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, receiver) = oneshot::channel();
            fake.waiters.push((condition, sender));
            if !fake.snapshot.is_running() {
                fake.resolve(&[WaitCondition::NotRunning]);
            }
            Ok(receiver)
        })
    }

    pub async fn attach(
        &self,
        id: ContainerId,
        options: AttachOptions,
    ) -> Result<Attachment, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, output) = mpsc::channel(8);
            if options.stdout || options.stderr {
                fake.outputs.push(sender);
            }
            let open = options.stdin && fake.snapshot.spec.process.open_stdin;
            let input = open.then(|| {
                let (sender, receiver) = mpsc::channel(8);
                fake.input = Some(receiver);
                sender
            });
            Ok(Attachment {
                output,
                input,
                tty: fake.snapshot.spec.process.tty,
            })
        })
    }

    pub async fn resize(&self, id: ContainerId, _size: ConsoleSize) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.is_running() {
            true => Ok(()),
            false => Err(Error::NotRunning(id)),
        })
    }

    pub async fn logs(
        &self,
        id: ContainerId,
        options: LogsOptions,
    ) -> Result<mpsc::Receiver<LogRecord>, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            let (sender, receiver) = mpsc::channel(64);
            let skip = options
                .tail
                .map_or(0, |tail| fake.log.len().saturating_sub(tail as usize));
            for record in &fake.log[skip..] {
                let _ = sender.try_send(record.clone());
            }
            if options.follow && fake.snapshot.is_running() {
                fake.followers.push(sender);
            }
            Ok(receiver)
        })
    }

    pub async fn top(&self, id: ContainerId, _ps_args: &str) -> Result<ProcessList, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| match fake.snapshot.is_running() {
            true => Ok(ProcessList {
                titles: ["PID", "CMD"].map(str::to_owned).to_vec(),
                processes: vec![["1", "sleep"].map(str::to_owned).to_vec()],
            }),
            false => Err(Error::NotRunning(id)),
        })
    }
}
