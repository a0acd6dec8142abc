//! Guest RPC: answers the guest's requests (RPCI), and sends it the host's (TCLO).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tether_protocol::rpci::{Command, Reply, info, take_message, write_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, RwLock, mpsc, oneshot};

use crate::engine::{EngineError, GuestEvent, GuestInfo};

/// Connections of one guest to its RPCI socket at a time.
const MAX_CONNECTIONS: usize = 4;
/// How long a guest may take to answer a TCLO command.
const TCLO_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last reply of a guest that is gone may take to be read.
const DRAIN_DEADLINE: Duration = Duration::from_millis(200);
/// What a guest may write: VIC's own keys, and the address that tools report.
const WRITABLE: [&str; 2] = ["guestinfo.vice..", "guestinfo.ip"];

/// Where a guest's requests lead.
#[derive(Clone)]
pub(super) struct Rpci {
    pub(super) guestinfo: GuestInfo,
    pub(super) events: UnboundedSender<GuestEvent>,
}

impl Rpci {
    /// Answers connections until the task is dropped.
    pub(super) async fn serve(self, listener: UnixListener) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            if connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
                continue;
            }
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            connections.spawn(self.clone().connection(stream));
        }
    }

    async fn connection(self, mut stream: UnixStream) {
        // Ends with the guest's end of the connection, or with a message that is none.
        let _ = self.talk(&mut stream).await;
    }

    async fn talk(&self, stream: &mut UnixStream) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(4096);
        let mut replies = Vec::new();
        while stream.read_buf(&mut buffer).await? > 0 {
            while let Some(message) =
                take_message(&mut buffer).map_err(|e| io::Error::other(e.to_string()))?
            {
                let reply = self.answer(&Command::decode(&message));
                write_message(&mut replies, &reply.encode());
            }
            stream.write_all(&replies).await?;
            replies.clear();
        }
        Ok(())
    }

    fn answer(&self, command: &Command) -> Reply {
        match command {
            Command::InfoGet(key) => match self.guestinfo.get(key) {
                Some(value) if key.starts_with("guestinfo.") => Reply::Ok(value.into_bytes()),
                _ => Reply::no_value(),
            },
            Command::InfoSet { key, value } => self.set(key, value),
            Command::SetGuestInfo { kind, data } => {
                let text = || String::from_utf8_lossy(data).into_owned();
                match *kind {
                    info::DNS_NAME => self.send(GuestEvent::HostName(text())),
                    info::OS_NAME_FULL => self.send(GuestEvent::OsName(text())),
                    info::NIC_V3 => self.send(GuestEvent::NicInfo(data.clone())),
                    _ => {}
                }
                Reply::Ok(Vec::new())
            }
            Command::ToolsVersion(_) => {
                self.send(GuestEvent::ToolsRunning(true));
                Reply::Ok(Vec::new())
            }
            Command::Other(_) => Reply::Failed("Unknown command".to_owned()),
        }
    }

    fn set(&self, key: &str, value: &[u8]) -> Reply {
        if !WRITABLE.iter().any(|prefix| key.starts_with(prefix)) {
            return Reply::Failed("Permission denied".to_owned());
        }
        let Ok(value) = std::str::from_utf8(value) else {
            return Reply::Failed("Value is not UTF-8".to_owned());
        };
        self.guestinfo.set(key, value);
        self.send(GuestEvent::GuestInfoSet {
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Reply::Ok(Vec::new())
    }

    fn send(&self, event: GuestEvent) {
        // Nobody listens any more when the VM is being powered off.
        let _ = self.events.send(event);
    }
}

/// A command for the guest, and where its reply goes.
struct Ask {
    command: String,
    reply: oneshot::Sender<String>,
}

/// Sends TCLO commands.
#[derive(Clone, Default)]
pub(super) struct Tclo {
    agent: Arc<Mutex<Option<mpsc::Sender<Ask>>>>,
    /// Held for reading while a reply is awaited.
    asking: Arc<RwLock<()>>,
}

impl Tclo {
    /// Waits until a guest that has ended is heard out: its last replies lie in the socket.
    pub(super) async fn drain(&self) {
        // A guest that never replied is not waited for.
        let _ = tokio::time::timeout(DRAIN_DEADLINE, self.asking.write()).await;
    }

    /// Accepts the guest's agent, the newest connection counting.
    pub(super) async fn serve(self, listener: UnixListener) {
        let mut current: Option<tokio::task::AbortHandle> = None;
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (sender, asks) = mpsc::channel(4);
            *self.agent.lock().await = Some(sender);
            if let Some(old) = current.take() {
                old.abort();
            }
            while tasks.try_join_next().is_some() {}
            current = Some(tasks.spawn(converse(stream, asks)));
        }
    }

    /// Sends a command and waits for the reply.
    pub(super) async fn ask(&self, command: String) -> Result<String, EngineError> {
        let _asking = self.asking.read().await;
        let sender = self
            .agent
            .lock()
            .await
            .clone()
            .ok_or(EngineError::ToolsNotRunning)?;
        let (reply, answer) = oneshot::channel();
        let asked = async {
            sender.send(Ask { command, reply }).await.ok()?;
            answer.await.ok()
        };
        let answered = tokio::time::timeout(TCLO_DEADLINE, asked).await;
        answered.ok().flatten().ok_or(EngineError::ToolsNotRunning)
    }
}

async fn converse(mut stream: UnixStream, mut asks: mpsc::Receiver<Ask>) {
    let mut buffer = Vec::new();
    while let Some(ask) = asks.recv().await {
        let mut message = Vec::new();
        write_message(&mut message, ask.command.as_bytes());
        if stream.write_all(&message).await.is_err() {
            return;
        }
        let reply = loop {
            match take_message(&mut buffer) {
                Ok(Some(reply)) => break reply,
                Ok(None) => {}
                Err(_) => return,
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                return;
            }
        };
        // The asker may have given up.
        let _ = ask.reply.send(String::from_utf8_lossy(&reply).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpci() -> (Rpci, mpsc::UnboundedReceiver<GuestEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (
            Rpci {
                guestinfo: GuestInfo::default(),
                events,
            },
            receiver,
        )
    }

    #[test]
    fn what_a_guest_sets_is_there_before_the_event() {
        let (rpci, mut events) = rpci();
        let key = "guestinfo.vice..started".to_owned();
        let reply = rpci.answer(&Command::InfoSet {
            key: key.clone(),
            value: b"true".to_vec(),
        });
        assert_eq!(reply, Reply::Ok(Vec::new()));
        assert_eq!(rpci.guestinfo.get(&key).as_deref(), Some("true"));
        assert_eq!(
            rpci.answer(&Command::InfoGet(key.clone())),
            Reply::Ok(b"true".to_vec())
        );
        let event = GuestEvent::GuestInfoSet {
            key,
            value: "true".into(),
        };
        assert_eq!(events.try_recv().unwrap(), event);
    }

    #[test]
    fn a_guest_writes_only_its_own_keys_and_reads_only_guestinfo() {
        let (rpci, _events) = rpci();
        let set = Command::InfoSet {
            key: "guestinfo.vice./init".into(),
            value: b"x".to_vec(),
        };
        assert!(matches!(rpci.answer(&set), Reply::Failed(_)));
        rpci.guestinfo.set("vice.secret", "s");
        assert_eq!(
            rpci.answer(&Command::InfoGet("vice.secret".into())),
            Reply::no_value()
        );
    }
}
