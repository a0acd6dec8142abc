//! Execs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actors::container::{ExecSnapshot, ExecSpec, StartExec};
use actors::streams::{Attachment, ConsoleSize, Output};
use actors::{ContainerId, Error, ExecId};
use tokio::sync::mpsc;

use super::Engine;
use super::program::program;

impl Engine {
    pub async fn create_exec(&self, id: ContainerId, spec: ExecSpec) -> Result<ExecId, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.with(id, |fake| {
            if !fake.snapshot.is_running() {
                return Err(Error::NotRunning(id));
            }
            let exec = ExecSnapshot {
                id: ExecId::random(),
                container: id,
                spec,
                started: false,
                running: false,
                exit_code: None,
                pid: 0,
            };
            let exec_id = exec.id;
            fake.change(|s| {
                s.execs.insert(exec_id, Arc::new(exec));
            });
            Ok(exec_id)
        })
    }

    fn change_exec(
        &self,
        container: ContainerId,
        id: ExecId,
        change: impl FnOnce(&mut ExecSnapshot),
    ) {
        let _ = self.with(container, |fake| {
            fake.change(|s| {
                if let Some(exec) = s.execs.get_mut(&id) {
                    change(Arc::make_mut(exec));
                }
            });
            Ok(())
        });
    }

    pub async fn start_exec(&self, id: ExecId, _options: StartExec) -> Result<Attachment, Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let (container, exec) = self.snapshots.find_exec(&id.to_string())?;
        self.change_exec(container.id, id, |e| {
            e.started = true;
            e.running = true;
        });
        let (output_sender, output) = mpsc::channel(8);
        let (input_sender, input) = mpsc::channel(8);
        let (engine, argv, tty) = (
            self.clone(),
            exec.spec.process.argv.clone(),
            exec.spec.process.tty,
        );
        let attach_stdin = exec.spec.attach_stdin;
        tokio::spawn(async move {
            let send = |stream, data| {
                let sender = output_sender.clone();
                async move {
                    let _ = sender.send(Output { stream, data }).await;
                }
            };
            let code = program(&argv, attach_stdin.then_some(input), tty, send).await;
            engine.change_exec(container.id, id, |e| {
                e.running = false;
                e.exit_code = Some(i64::from(code));
            });
            drop(output_sender);
        });
        Ok(Attachment {
            output,
            input: attach_stdin.then_some(input_sender),
            tty,
        })
    }

    pub async fn resize_exec(&self, _id: ExecId, _size: ConsoleSize) -> Result<(), Error> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
