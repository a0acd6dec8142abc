//! Sessions: who has logged in, and what belongs to a login (collectors, filters, views).
//!
//! ```text
//! Login ─► actor starts ─► (open) ── Logout, TerminateSession, idle for too long, crash ─► (gone)
//! ```
//! A session is an actor, its collectors are its children. What others need to know of it without
//! asking (its collectors, whether it is used) is on a shelf beside it. When the actor ends, however it
//! does, all that belonged to the session goes: it is kept nowhere, and its client logs in again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use strategy::{Address, ChildSpec, Nursery, Policy, Restart, SupervisorMessage};
use tokio::time::Instant;
use vmomi::ManagedObjectReference as Moref;
use vmomi::types::UserSession;

use crate::clock::now;
use crate::fault::{Fault, Outcome};
use crate::pc::Collector;
use crate::supervision::{self, SHUTDOWN};
use crate::world::World;

/// How long a session lives without a call, as on vCenter.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// One login, as others know it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The cookie's value.
    pub(crate) key: String,
    /// What `currentSession` shows.
    pub(crate) user: UserSession,
    /// The collector that every session has.
    pub(crate) collector: Collector,
    address: Address<Message>,
    shelf: Mutex<Shelf>,
    last_moid: AtomicU64,
}

#[derive(Debug)]
struct Shelf {
    last: Instant,
    /// Calls that run; such a session is not idle.
    calls: usize,
    collectors: HashMap<String, Collector>,
    /// Objects of the inventory that go with the session.
    views: Vec<String>,
}

/// A call that is being served; the session does not expire meanwhile.
pub(crate) struct Call(Arc<Session>);

impl Drop for Call {
    fn drop(&mut self) {
        let mut shelf = self.0.lock();
        shelf.calls -= 1;
        shelf.last = Instant::now();
    }
}

impl std::ops::Deref for Call {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a moid for an object that belongs to this session.
    pub(crate) fn moid(&self) -> String {
        let number = self.last_moid.fetch_add(1, Ordering::Relaxed) + 1;
        format!("session[{}]{number}", self.user.key)
    }

    /// Makes another collector.
    pub(crate) async fn add_collector(&self, world: &World) -> Outcome<Moref> {
        let moref = Moref::new("PropertyCollector", self.moid());
        let collector = Collector::new(moref.clone());
        let child = collector.child(Restart::Temporary, &world.inventory);
        self.address
            .ask(SHUTDOWN, |reply| {
                Message::Children(SupervisorMessage::AddChild(child, reply))
            })
            .await
            .map_err(|error| Fault::system(error.to_string()))?
            .map_err(Fault::system)?;
        self.lock()
            .collectors
            .insert(moref.value.clone(), collector);
        Ok(moref)
    }

    /// Finds a collector that this session made.
    pub(crate) fn collector(&self, moid: &str) -> Option<Collector> {
        self.lock().collectors.get(moid).cloned()
    }

    /// Takes a collector away; a wait on it ends.
    pub(crate) async fn remove_collector(&self, moid: &str) -> bool {
        let Some(collector) = self.lock().collectors.remove(moid) else {
            return false;
        };
        collector.cancel_wait();
        let id = moid.to_owned();
        let removed = self.address.ask(SHUTDOWN, |reply| {
            Message::Children(SupervisorMessage::RemoveChild(id, reply))
        });
        // A session that has ended in the meantime took its collectors along.
        let _ = removed.await;
        true
    }

    /// All collectors, the session's own first.
    pub(crate) fn collectors(&self) -> Vec<Collector> {
        let shelf = self.lock();
        std::iter::once(&self.collector)
            .chain(shelf.collectors.values())
            .cloned()
            .collect()
    }

    /// Remembers an object (a view, a collector of events or tasks) that ends with the session.
    pub(crate) fn add_view(&self, moid: String) {
        self.lock().views.push(moid);
    }

    /// Forgets such an object.
    pub(crate) fn remove_view(&self, moid: &str) {
        self.lock().views.retain(|v| v != moid);
    }
}

/// What can be asked of a session.
#[derive(Debug)]
pub(crate) enum Message {
    /// For its collectors' supervisor.
    Children(SupervisorMessage),
    /// Time to see whether anybody still uses it.
    Idle,
}

struct Life;

struct State {
    session: Arc<Session>,
    collectors: Nursery,
    /// Last: what belongs to the session goes when all else has.
    _belongings: Belongings,
}

/// Takes the session out of the world when its actor ends, however that happens.
struct Belongings {
    world: Arc<World>,
    session: Arc<Session>,
}

impl Drop for Belongings {
    fn drop(&mut self) {
        self.world.sessions.forget(&self.session.key);
        let (views, collectors) = {
            let mut shelf = self.session.lock();
            (
                std::mem::take(&mut shelf.views),
                std::mem::take(&mut shelf.collectors),
            )
        };
        for collector in std::iter::once(&self.session.collector).chain(collectors.values()) {
            collector.close();
        }
        if !views.is_empty() {
            for view in &views {
                self.world.events.forget(view);
                self.world.tasks.history.forget(view);
            }
            self.world
                .inventory
                .commit(|t| views.iter().for_each(|view| t.remove(view)));
        }
    }
}

impl Actor for Life {
    type Msg = Message;
    type State = State;
    type Arguments = (Arc<World>, Arc<Session>);

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        (world, session): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let path = format!("sim/sessions/{}", session.user.key);
        let mut collectors = Nursery::new(
            &path,
            Policy::default(),
            &world.actors.tree,
            &myself,
            Message::Children,
        );
        let first = session
            .collector
            .child(Restart::Permanent, &world.inventory)
            .at_once();
        collectors.start(vec![first]).await?;
        world.sessions.remember(&session);
        myself.send_after(IDLE, || Message::Idle);
        Ok(State {
            session: session.clone(),
            collectors,
            _belongings: Belongings { world, session },
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Children(message) => state.collectors.handle(message).await?,
            Message::Idle => {
                let (calls, unused) = {
                    let shelf = state.session.lock();
                    (shelf.calls, shelf.last.elapsed())
                };
                if calls == 0 && unused >= IDLE {
                    tracing::debug!(user = state.session.user.user_name, "session expires");
                    myself.stop(None);
                } else {
                    myself.send_after(IDLE.saturating_sub(unused), || Message::Idle);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.collectors.event(event).await?;
        // One that has died and is not started again is not there any more.
        let mut shelf = state.session.lock();
        shelf.collectors.retain(|_, c| c.is_there());
        Ok(())
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: RwLock<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    fn remember(&self, session: &Arc<Session>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(session.key.clone(), session.clone());
    }

    fn forget(&self, key: &str) -> Option<Arc<Session>> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(key)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Session>>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session.
    pub(crate) async fn open(
        &self,
        world: &Arc<World>,
        user: &str,
        locale: &str,
        agent: &str,
    ) -> Outcome<Arc<Session>> {
        let key = uuid::Uuid::new_v4().to_string();
        let moment = now();
        let own = Moref::new("PropertyCollector", &world.ids.property_collector);
        let session = Arc::new(Session {
            key,
            user: UserSession {
                key: uuid::Uuid::new_v4().to_string(),
                user_name: user.to_owned(),
                full_name: user.to_owned(),
                login_time: moment,
                last_active_time: moment,
                locale: locale.to_owned(),
                message_locale: locale.to_owned(),
                ip_address: "127.0.0.1".to_owned(),
                user_agent: agent.to_owned(),
                ..Default::default()
            },
            collector: Collector::new(own),
            address: Address::default(),
            shelf: Mutex::new(Shelf {
                last: Instant::now(),
                calls: 0,
                collectors: HashMap::new(),
                views: Vec::new(),
            }),
            last_moid: AtomicU64::new(0),
        });
        let (shared, known) = (world.clone(), session.clone());
        let child = ChildSpec::new(
            session.user.key.clone(),
            Restart::Temporary,
            session.address.clone(),
            move || (Life, (shared.clone(), known.clone())),
        )
        .kind("session");
        supervision::add(&world.actors.sessions, child).await?;
        Ok(session)
    }

    /// Finds a session.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Session>> {
        self.read().get(key).cloned()
    }

    /// Finds the cookie of the session that `currentSession` calls `id`.
    pub(crate) fn key_of(&self, id: &str) -> Option<String> {
        let all = self.read();
        let found = all.values().find(|s| s.user.key == id);
        found.map(|s| s.key.clone())
    }

    /// Finds a session for a call.
    pub(crate) fn call(&self, key: &str) -> Option<Call> {
        let session = self.get(key)?;
        session.lock().calls += 1;
        Some(Call(session))
    }

    /// Ends a session with all that belongs to it; says whether there was one.
    pub(crate) async fn close(&self, world: &World, key: &str) -> Outcome<bool> {
        // No call finds it from now on.
        let Some(session) = self.forget(key) else {
            return Ok(false);
        };
        for collector in session.collectors() {
            collector.cancel_wait();
        }
        supervision::remove(&world.actors.sessions, session.user.key.clone()).await?;
        Ok(true)
    }

    /// Lists who is logged in.
    pub(crate) fn list(&self) -> Vec<UserSession> {
        self.read().values().map(|s| s.user.clone()).collect()
    }
}
