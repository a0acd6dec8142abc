//! What the VCH says on the link: subscriptions, input, signals, execs, lists, pause.

use std::os::fd::AsFd;

use tether_protocol::config::Session as Spec;
use tether_protocol::session::{Event, Known, Message, PRIMARY, Process as Number, Stream};
use tether_sys::pty::{self, WinSize};

use super::process::{Process, Wanted};
use super::{Guest, top};
use crate::clock;
use crate::launch;

impl Guest<'_> {
    pub(super) fn link_events(&mut self) {
        while let Some(event) = self
            .parts
            .link
            .as_mut()
            .and_then(|link| link.session.poll_event())
        {
            match event {
                Event::Up { resumed: true } => {}
                Event::Up { resumed: false } => self.greet(),
                Event::Data {
                    process,
                    stream: Stream::Stdin,
                    data,
                } => {
                    if let Some(process) = self.processes.get_mut(&process) {
                        process.type_in(&data);
                    }
                    self.feed(process);
                }
                Event::Data {
                    process,
                    stream,
                    data,
                } => {
                    if let Some(link) = &mut self.parts.link {
                        link.session.consumed(process, stream, data.len());
                    }
                }
                Event::Credit { process, .. } => self.flush(process),
                Event::Message(message) => self.obey(message),
            }
        }
    }

    pub(super) fn flush(&mut self, number: Number) {
        if let (Some(process), Some(link)) =
            (self.processes.get_mut(&number), self.parts.link.as_mut())
        {
            process.flush(&mut link.session);
        }
    }

    /// A host that was not met before: it learns what there is, and gets nothing unasked.
    fn greet(&mut self) {
        for process in self.processes.values_mut() {
            process.unsubscribe();
            process.reported = false;
        }
        let known = |p: &Process| Known {
            process: p.number,
            id: p.id.clone(),
            pid: p.ended.is_none().then(|| top::inner_pid(p.pid)),
            code: p.ended.map(|(code, _)| code),
        };
        let processes = self.processes.values().map(known).collect();
        let frozen = self.parts.freezer.is_frozen();
        let log_next = self.parts.log.next();
        self.tell(Message::Inventory {
            processes,
            frozen,
            log_next,
        });
    }

    fn tell(&mut self, message: Message) {
        if let Some(link) = &mut self.parts.link {
            link.session.send(message);
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Subscribe {
                process,
                stdout,
                stderr,
                log,
            } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.subscribe(Wanted {
                        stdout,
                        stderr,
                        log,
                    });
                }
                self.flush(process);
            }
            Message::CloseStdin { process } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.end_input();
                }
                self.feed(process);
            }
            Message::Resize {
                process,
                rows,
                cols,
            } => {
                let process = self.processes.get(&process);
                let master = process.and_then(|p| p.outputs.first()?.file.as_ref());
                // Without a terminal there is no size to set.
                if let Some(master) = master {
                    let _ = pty::set_size(master.as_fd(), WinSize { rows, cols });
                }
            }
            Message::Signal { process, signal } => self.signal(process, signal),
            Message::Exec { process, id, spec } => self.exec(process, &id, &spec),
            Message::Release { process } if process != PRIMARY => {
                self.processes.remove(&process);
            }
            Message::Freeze { frozen } => {
                if let Some(primary) = self.processes.get(&PRIMARY).filter(|p| p.ended.is_none()) {
                    self.parts.freezer.set(frozen, primary.pid);
                }
                let frozen = self.parts.freezer.is_frozen();
                self.tell(Message::Frozen { frozen });
            }
            Message::List { request } => {
                let primary = self.processes.get(&PRIMARY).map_or(0, |p| p.pid);
                let passwd = format!("/proc/{primary}/root/etc/passwd");
                let passwd = std::fs::read_to_string(passwd).unwrap_or_default();
                let rows = top::list(primary, &passwd);
                self.tell(Message::Processes { request, rows });
            }
            // What only a guest says, and what the session keeps to itself.
            _ => {}
        }
    }

    fn exec(&mut self, number: Number, id: &str, spec: &Spec) {
        if self.processes.contains_key(&number) {
            return;
        }
        let Some(pidfd) = self
            .primary_pidfd
            .as_ref()
            .filter(|_| self.ending.is_none())
        else {
            let error = "the container's process has ended".to_owned();
            return self.tell(Message::Failed {
                process: number,
                error,
                code: 128,
            });
        };
        if self.parts.freezer.is_frozen() {
            // It would be frozen before it is a program, and this process waits for it to become one.
            let error = "the container is paused".to_owned();
            return self.tell(Message::Failed {
                process: number,
                error,
                code: 128,
            });
        }
        let spec = self.complete(spec);
        match launch::join(&self.parts.sandbox, pidfd.as_fd(), &spec) {
            Ok(launched) => {
                let pid = top::inner_pid(launched.pid);
                let process = Process::new(number, id, &spec, launched, true);
                self.processes.insert(number, process);
                self.tell(Message::Started {
                    process: number,
                    pid,
                    time: clock::now_nanos(),
                });
            }
            Err(error) => {
                let (error, code) = (error.text, error.code);
                self.tell(Message::Failed {
                    process: number,
                    error,
                    code,
                });
            }
        }
    }

    /// An exec has the container's environment, user and place where it says nothing itself.
    fn complete(&self, spec: &Spec) -> Spec {
        let mut spec = spec.clone();
        if let Some(primary) = self.parts.config.primary() {
            let mut env = primary.env.clone();
            launch::merge(&mut env, &spec.env);
            spec.env = env;
            if spec.user.is_empty() {
                spec.user.clone_from(&primary.user);
                spec.groups.clone_from(&primary.groups);
            }
            if spec.dir.is_empty() {
                spec.dir.clone_from(&primary.dir);
            }
            let privileged = spec.security.privileged;
            spec.security = primary.security.clone();
            spec.security.privileged |= privileged;
        }
        spec.init = false;
        spec
    }
}
