//! What the guest says over a link.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tether_protocol::session::{
    Event as LinkEvent, Known, Message as Frame, PRIMARY, Process, Stream as Channel,
};
use tokio::sync::mpsc::error::TrySendError;

use super::clients::Queue;
use super::{Ends, Heard, Notice, State};
use crate::error::Error;

impl State {
    pub(super) fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                LinkEvent::Up { resumed } => {
                    if !resumed {
                        self.subscribe(PRIMARY);
                    }
                    self.met = true;
                    self.send_signals();
                    for process in self.input.keys().copied().collect::<Vec<_>>() {
                        self.send_input(process);
                    }
                }
                LinkEvent::Credit { process, .. } => self.send_input(process),
                LinkEvent::Data {
                    process,
                    stream,
                    data,
                } => self.data(process, stream, data.into()),
                LinkEvent::Message(frame) => self.frame(frame),
            }
        }
    }

    pub(super) fn data(&mut self, process: Process, channel: Channel, data: Bytes) {
        let size = data.len() as u64;
        self.flow.entry((process, channel)).or_default().0 += size;
        let mut lost = Vec::new();
        for (number, subscriber) in &mut self.subscribers {
            if subscriber.process != process || !subscriber.wants(channel) {
                continue;
            }
            let sent = match &subscriber.queue {
                Queue::Client(queue) => queue.send((channel, data.clone())).is_ok(),
                Queue::Log(queue, left_behind) => {
                    // Nobody waits for a follower, and nothing is kept for one: it reads on in the file.
                    *subscriber.taken.entry(channel).or_default() += size;
                    let sent = queue.try_send(data.clone());
                    if let Err(TrySendError::Full(_)) = sent {
                        left_behind.store(true, Ordering::Release);
                    }
                    if sent.is_err() {
                        lost.push(*number);
                    }
                    sent.is_ok()
                }
            };
            if !sent {
                *subscriber.taken.entry(channel).or_default() = u64::MAX / 2;
            }
        }
        for number in lost {
            self.left(number);
        }
        self.give_credit(process, channel);
    }

    pub(super) fn frame(&mut self, frame: Frame) {
        let notice = match frame {
            Frame::Started { process, pid, .. } => {
                self.known.insert(process, Heard::Started(pid));
                Notice::Started { process, pid }
            }
            Frame::Failed {
                process,
                error,
                code,
            } => {
                self.known
                    .insert(process, Heard::Failed(error.clone(), code));
                if process != PRIMARY {
                    let text = Bytes::from(format!("{error}\r\n"));
                    for s in self.subscribers.values().filter(|s| s.process == process) {
                        if let Queue::Client(queue) = &s.queue {
                            // The client may have left.
                            let _ = queue.send((Channel::Stdout, text.clone()));
                        }
                    }
                }
                let ends = self.process_ended(process);
                Notice::Failed {
                    process,
                    error,
                    code,
                    ends,
                }
            }
            Frame::Exited { process, code, .. } => {
                self.known.insert(process, Heard::Ended(code));
                let ends = self.process_ended(process);
                Notice::Exited {
                    process,
                    code,
                    ends,
                }
            }
            Frame::Inventory {
                processes, frozen, ..
            } => {
                self.met(processes, frozen);
                return;
            }
            Frame::Frozen { frozen } => {
                for (wanted, reply) in std::mem::take(&mut self.freezes) {
                    if wanted == frozen {
                        let _ = reply.send(Ok(()));
                    } else {
                        self.freezes.push((wanted, reply));
                    }
                }
                return;
            }
            Frame::End {
                process,
                stream: Channel::Log,
            } => {
                // The live copy lagged and stopped; followers see the gap and read the file.
                self.subscribe(process);
                return;
            }
            Frame::Processes { request, rows } => {
                if let Some(reply) = self.lists.remove(&request) {
                    let _ = reply.send(rows);
                } else if let Some((reply, receiver)) = self.follows.remove(&request) {
                    let _ = reply.send(receiver);
                }
                return;
            }
            _ => return,
        };
        (self.args.notify)(notice);
    }

    /// A guest that had not met us before tells all that it knows.
    fn met(&mut self, processes: Vec<Known>, frozen: bool) {
        self.told = true;
        for known in &processes {
            match (known.code, known.pid) {
                (Some(code), _) => self.known.insert(known.process, Heard::Ended(code)),
                (None, Some(pid)) => self.known.insert(known.process, Heard::Started(pid)),
                (None, None) => None,
            };
        }
        let numbers: Vec<_> = processes.iter().map(|known| known.process).collect();
        (self.args.notify)(Notice::Met { processes, frozen });
        for process in numbers {
            self.report(process);
        }
    }

    /// Says what is known of a process.
    pub(super) fn report(&mut self, process: Process) {
        let notice = match self.known.get(&process) {
            Some(Heard::Asked) => return,
            Some(Heard::Started(pid)) => Notice::Started { process, pid: *pid },
            Some(Heard::Failed(error, code)) => Notice::Failed {
                process,
                error: error.clone(),
                code: *code,
                ends: Ends::default(),
            },
            Some(Heard::Ended(code)) => Notice::Exited {
                process,
                code: *code,
                ends: Ends::default(),
            },
            None if self.told => Notice::Lost(process),
            // The guest will tell when it is met.
            None => return,
        };
        (self.args.notify)(notice);
    }

    /// Sends the signals that somebody still waits for, once the guest is there.
    pub(super) fn send_signals(&mut self) {
        if !self.session.is_up() {
            return;
        }
        for (process, signal, reply) in self.signals.drain(..) {
            if !reply.is_closed() {
                self.session.send(Frame::Signal { process, signal });
                // The asker may have left at this moment.
                let _ = reply.send(());
            }
        }
    }

    pub(super) fn fail_requests(&mut self) {
        for (_, reply) in self.freezes.drain(..) {
            let _ = reply.send(Err(Error::internal("freeze", "the container stopped")));
        }
        self.lists.clear();
        self.signals.clear();
        self.follows.clear();
    }
}
