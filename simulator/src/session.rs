//! Sessions: who has logged in, and what belongs to a login (collectors, filters, views).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vmomi::types::UserSession;

use crate::clock::now;
use crate::pc::Collector;

/// How long a session lives without a call, as on vCenter.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// One login.
#[derive(Debug)]
pub(crate) struct Session {
    /// The cookie's value.
    pub(crate) key: String,
    /// What `currentSession` shows.
    pub(crate) user: UserSession,
    /// The collector that every session has.
    pub(crate) collector: Arc<Collector>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    last: Instant,
    /// Waits that run; such a session is not idle.
    calls: usize,
    collectors: HashMap<String, Arc<Collector>>,
    views: Vec<String>,
    next: u64,
}

/// A call that is being served; the session does not expire meanwhile.
pub(crate) struct Call(Arc<Session>);

impl Drop for Call {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.calls -= 1;
        inner.last = Instant::now();
    }
}

impl std::ops::Deref for Call {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Session {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a moid for an object that belongs to this session.
    pub(crate) fn moid(&self) -> String {
        let mut inner = self.lock();
        inner.next += 1;
        format!("session[{}]{}", self.user.key, inner.next)
    }

    /// Makes another collector.
    pub(crate) fn add_collector(&self) -> String {
        let moid = self.moid();
        self.lock().collectors.insert(moid.clone(), Arc::default());
        moid
    }

    /// Finds a collector that this session made.
    pub(crate) fn collector(&self, moid: &str) -> Option<Arc<Collector>> {
        self.lock().collectors.get(moid).cloned()
    }

    /// Takes a collector away; a wait on it ends.
    pub(crate) fn remove_collector(&self, moid: &str) -> bool {
        match self.lock().collectors.remove(moid) {
            Some(collector) => {
                collector.cancel_wait();
                true
            }
            None => false,
        }
    }

    /// All collectors, the session's own first.
    pub(crate) fn collectors(&self) -> Vec<Arc<Collector>> {
        let inner = self.lock();
        std::iter::once(&self.collector)
            .chain(inner.collectors.values())
            .cloned()
            .collect()
    }

    /// Remembers a view, which ends with the session.
    pub(crate) fn add_view(&self, moid: String) {
        self.lock().views.push(moid);
    }

    /// Forgets a view.
    pub(crate) fn remove_view(&self, moid: &str) {
        self.lock().views.retain(|v| v != moid);
    }

    /// Lists the views.
    pub(crate) fn views(&self) -> Vec<String> {
        self.lock().views.clone()
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session.
    pub(crate) fn open(&self, user: &str, locale: &str, agent: &str) -> Arc<Session> {
        let key = uuid::Uuid::new_v4().to_string();
        let moment = now();
        let session = Arc::new(Session {
            key: key.clone(),
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
            collector: Arc::default(),
            inner: Mutex::new(Inner {
                last: Instant::now(),
                calls: 0,
                collectors: HashMap::new(),
                views: Vec::new(),
                next: 0,
            }),
        });
        self.lock().insert(key, session.clone());
        session
    }

    /// Finds a session.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Session>> {
        self.lock().get(key).cloned()
    }

    /// Finds the cookie of the session that `currentSession` calls `id`.
    pub(crate) fn key_of(&self, id: &str) -> Option<String> {
        self.lock()
            .values()
            .find(|s| s.user.key == id)
            .map(|s| s.key.clone())
    }

    /// Finds a session for a call.
    pub(crate) fn call(&self, key: &str) -> Option<Call> {
        let session = self.get(key)?;
        session.lock().calls += 1;
        Some(Call(session))
    }

    /// Ends a session; returns it so that what belongs to it can be cleared away.
    pub(crate) fn close(&self, key: &str) -> Option<Arc<Session>> {
        let session = self.lock().remove(key)?;
        for collector in session.collectors() {
            collector.cancel_wait();
        }
        Some(session)
    }

    /// Ends the sessions that nobody has used for long: looked at when somebody logs in.
    pub(crate) fn expire(&self) -> Vec<Arc<Session>> {
        let expired: Vec<String> = self
            .lock()
            .values()
            .filter(|s| {
                let inner = s.lock();
                inner.calls == 0 && inner.last.elapsed() > IDLE
            })
            .map(|s| s.key.clone())
            .collect();
        expired.iter().filter_map(|key| self.close(key)).collect()
    }

    /// Lists who is logged in.
    pub(crate) fn list(&self) -> Vec<UserSession> {
        self.lock().values().map(|s| s.user.clone()).collect()
    }
}
