//! Events: what `docker events`, the portal and the metrics are told.
//!
//! The last [`HISTORY`] events are kept for `since`; a subscriber that does not read loses its subscription,
//! nobody waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use strategy::{Busy, BusyGuard};
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// How many events `since` can go back, as in moby.
pub const HISTORY: usize = 256;

/// How many events a subscriber may be behind before it is cut off.
pub const SUBSCRIBER_DEPTH: usize = 1024;

/// One event, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind of thing.
    pub kind: EventKind,
    /// What happened: `create`, `start`, `die`, …
    pub action: String,
    /// The thing's id (images: id or reference; volumes: name).
    pub id: String,
    /// Attributes: name, image, labels, exitCode, …
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: OffsetDateTime,
}

/// The kinds of things that have events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Containers.
    Container,
    /// Images.
    Image,
    /// Volumes.
    Volume,
    /// Networks.
    Network,
    /// The engine itself.
    Daemon,
}

impl EventKind {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// A subscription: kept events first, then live ones, without hole or double. The persona filters and stops.
#[derive(Debug)]
pub struct Subscription {
    /// Events in order; ends when the subscriber was too slow.
    pub events: mpsc::Receiver<Arc<Event>>,
}

/// What the fan-out can be asked.
#[derive(Debug)]
pub enum Message {
    /// Tells everybody.
    Publish(Event),
    /// Subscribes; kept events not before this time come first (none: only live ones).
    Subscribe(Option<OffsetDateTime>, RpcReplyPort<Subscription>),
}

/// The fan-out actor. What a crash loses: the history and the subscriptions, which end.
#[derive(Debug)]
pub struct Events;

/// The running fan-out.
#[derive(Debug, Default)]
pub struct State {
    history: VecDeque<Arc<Event>>,
    subscribers: Vec<(mpsc::Sender<Arc<Event>>, BusyGuard)>,
    busy: Busy,
}

impl Actor for Events {
    type Msg = Message;
    type State = State;
    type Arguments = Busy;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        busy: Busy,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            busy,
            ..State::default()
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Publish(event) => state.publish(event),
            Message::Subscribe(since, reply) => {
                // The asker may have left.
                let _ = reply.send(state.subscribe(since));
            }
        }
        Ok(())
    }
}

impl State {
    fn publish(&mut self, event: Event) {
        let event = Arc::new(event);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(event.clone());
        self.subscribers
            .retain(|(s, _)| s.try_send(event.clone()).is_ok());
    }

    fn subscribe(&mut self, since: Option<OffsetDateTime>) -> Subscription {
        let (sender, events) = mpsc::channel(SUBSCRIBER_DEPTH);
        if let Some(since) = since {
            for event in self.history.iter().filter(|e| e.time >= since) {
                // The history is shorter than the channel.
                let _ = sender.try_send(event.clone());
            }
        }
        // A subscription is a request that is open until one side ends it.
        self.subscribers.retain(|(s, _)| !s.is_closed());
        self.subscribers.push((sender, self.busy.request()));
        Subscription { events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        Event {
            kind: EventKind::Container,
            action: n.to_string(),
            id: String::new(),
            attributes: BTreeMap::new(),
            time: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(n as i64),
        }
    }

    #[test]
    fn a_subscriber_gets_what_is_kept_and_then_what_comes() {
        let mut state = State::default();
        for n in 0..HISTORY + 10 {
            state.publish(event(n));
        }
        let from = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(HISTORY as i64);
        let mut subscription = state.subscribe(Some(from));
        state.publish(event(999));
        let mut seen = Vec::new();
        while let Ok(e) = subscription.events.try_recv() {
            seen.push(e.action.clone());
        }
        assert_eq!(seen.len(), 11);
        assert_eq!(seen.last().map(String::as_str), Some("999"));
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_cut_off() {
        let mut state = State::default();
        let subscription = state.subscribe(None);
        for n in 0..=SUBSCRIBER_DEPTH {
            state.publish(event(n));
        }
        assert!(state.subscribers.is_empty());
        drop(subscription);
    }
}
