//! The line below the session: TLS on a greeted connection, its end, a new run.

use ractor::ActorRef;
use tether_protocol::session::SessionHost;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Line, Message, State};
use crate::error::chain;

impl State {
    /// Begins TLS on the waiting line, once the guest's key is known.
    pub(super) fn connect(&mut self, myself: &ActorRef<Message>) {
        let Some(key) = self.guest_key.clone() else {
            return;
        };
        let Some(line) = self.waiting.take() else {
            return;
        };
        let Line {
            mut reader,
            mut writer,
            echo,
        } = *line;
        self.drop_line();
        if let Err(why) = self.session.connect(echo, &key) {
            tracing::warn!(why = %chain(&why), "link: cannot begin");
            return;
        }
        let number = self.line;
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        self.writer = Some(sender);
        let to = myself.clone();
        self.line_tasks.spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
            }
            // The link may be gone.
            let _ = to.send_message(Message::LineClosed(number));
        });
        let to = myself.clone();
        self.line_tasks.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n) = reader.read(&mut buffer).await {
                if n == 0
                    || to
                        .send_message(Message::Received(number, buffer[..n].to_vec()))
                        .is_err()
                {
                    break;
                }
            }
            let _ = to.send_message(Message::LineClosed(number));
        });
    }

    pub(super) fn drop_line(&mut self) {
        self.line += 1;
        self.writer = None;
        self.line_tasks.abort_all();
        self.session.line_down();
    }

    pub(super) fn new_run(&mut self) {
        self.drop_line();
        self.waiting = None;
        self.guest_key = None;
        self.session = SessionHost::new(&self.args.identity);
        self.over = false;
        self.met = false;
        self.known.clear();
        self.told = false;
        self.flow.clear();
        for subscriber in self.subscribers.values_mut() {
            subscriber.taken.clear();
        }
        self.fail_requests();
    }

    pub(super) fn flush(&mut self) {
        let mut bytes = Vec::new();
        self.session.transmit(&mut bytes);
        if let (false, Some(writer)) = (bytes.is_empty(), &self.writer) {
            // A closed writer reports itself.
            let _ = writer.send(bytes);
        }
    }
}
