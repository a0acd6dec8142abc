//! The simulator's end of the helper: starts it, calls it, hears of guests that ended.
//!
//! Two threads belong to a client: one that started the helper and waits for it (the helper asks to
//! die with that thread, so it must live as long as the process), and one that reads its reports.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tether_sys::fdpass;
use tokio::sync::{oneshot, watch};

use super::helper::ARGV0;
use super::protocol::{Call, Done, Failure, How, MAX_MESSAGE, Report, Request};
use crate::engine::EngineError;

type Answer = Result<(Done, Vec<OwnedFd>), Failure>;

/// Calls the helper.
pub(super) struct Client {
    state: Arc<State>,
    pid: u32,
    stopped: watch::Receiver<bool>,
}

struct State {
    socket: OwnedFd,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    lost: bool,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    /// Who waits for the end of a guest; and guests that ended before anybody did.
    waiters: HashMap<u64, oneshot::Sender<How>>,
    ended: HashMap<u64, How>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Starts the helper.
    pub(super) fn start(program: &Path) -> Result<Self, EngineError> {
        let pair = fdpass::pair().map_err(EngineError::step("make a socket pair"))?;
        let (ours, theirs) = pair;
        let (started, start) = std::sync::mpsc::channel();
        let (stopping, stopped) = watch::channel(false);
        let program = program.to_owned();
        let what = format!("start the guests' helper from {}", program.display());
        let parent = move || {
            let child = Command::new(program)
                .arg0(ARGV0)
                .stdin(Stdio::from(theirs))
                .stdout(Stdio::null())
                .current_dir("/")
                .spawn();
            match child {
                Ok(mut child) => {
                    let _ = started.send(Ok(child.id()));
                    let _ = child.wait();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
            let _ = stopping.send(true);
        };
        spawn_thread("guest-helper", parent)?;
        let pid = start
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
            .map_err(EngineError::step(what))?;
        let state = Arc::new(State {
            socket: ours,
            inner: Mutex::default(),
        });
        let reading = Arc::clone(&state);
        spawn_thread("guest-reports", move || read(&reading))?;
        Ok(Self {
            state,
            pid,
            stopped,
        })
    }

    /// Process id of the helper.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Done, Vec<OwnedFd>), EngineError> {
        let (sender, answer) = oneshot::channel();
        {
            let mut inner = self.state.lock();
            if inner.lost {
                return Err(EngineError::NotRunning);
            }
            inner.next += 1;
            let id = inner.next;
            let message = serde_json::to_vec(&Call { id, request })
                .map_err(|e| EngineError::step("encode a request")(e.into()))?;
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            fdpass::send(self.state.socket.as_fd(), &message, &borrowed)
                .map_err(EngineError::step("reach the guests' helper"))?;
            inner.calls.insert(id, sender);
        }
        match answer.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Failure { what, errno: 0 })) => {
                Err(EngineError::step(what)(io::Error::other("refused")))
            }
            Ok(Err(Failure { what, errno })) => {
                Err(EngineError::step(what)(io::Error::from_raw_os_error(errno)))
            }
            Err(_) => Err(EngineError::NotRunning),
        }
    }

    /// Returns what resolves when a guest is gone; an error means that the helper is.
    pub(super) fn end_of(&self, guest: u64) -> oneshot::Receiver<How> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.state.lock();
        if let Some(how) = inner.ended.remove(&guest) {
            let _ = sender.send(how);
        } else if !inner.lost {
            inner.waiters.insert(guest, sender);
        }
        receiver
    }

    /// Tells the helper to end, and waits until it has.
    pub(super) async fn stop(&self) {
        // Shutting the socket down is the end of file that it ends at.
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.state.socket),
            nix::sys::socket::Shutdown::Both,
        );
        let mut stopped = self.stopped.clone();
        // An error means that the thread is gone, and the helper with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.state.socket),
            nix::sys::socket::Shutdown::Both,
        );
    }
}

fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(EngineError::step("start a thread"))
}

fn read(state: &State) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let (length, fds) = match fdpass::receive(state.socket.as_fd(), &mut buffer) {
            Ok((0, _)) => break,
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "the guests' helper cannot be heard");
                break;
            }
        };
        let report = match serde_json::from_slice::<Report>(&buffer[..length]) {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(%error, "the guests' helper said what is not known");
                break;
            }
        };
        let mut inner = state.lock();
        match report {
            Report::Answer { id, result } => {
                if let Some(call) = inner.calls.remove(&id) {
                    let _ = call.send(result.map(|done| (done, fds)));
                }
            }
            Report::Ended { guest, how } => match inner.waiters.remove(&guest) {
                Some(waiter) => {
                    let _ = waiter.send(how);
                }
                None => {
                    inner.ended.insert(guest, how);
                }
            },
        }
    }
    let mut inner = state.lock();
    inner.lost = true;
    inner.calls.clear();
    inner.waiters.clear();
}
