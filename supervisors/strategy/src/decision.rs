//! The decision core: what happens when a child ends. Pure: time comes in as an argument.

use std::collections::VecDeque;
use std::time::Duration;

/// When a child is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restart {
    /// However it ended.
    Permanent,
    /// Unless it ended by itself.
    Transient,
    /// Never.
    Temporary,
}

/// Which children a restart concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Only the one that ended.
    #[default]
    OneForOne,
    /// All of them.
    OneForAll,
    /// The one that ended and those that were started after it.
    RestForOne,
}

/// How many restarts in how much time are too many: then the supervisor itself fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are still accepted within the period.
    pub restarts: usize,
    /// The period.
    pub period: Duration,
}

/// How long a child that keeps failing waits for its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait before the second restart in a row; the first is immediate. Doubles from there.
    pub base: Duration,
    /// Longest wait.
    pub max: Duration,
    /// A run of this length makes the next failure a first one again.
    pub reset_after: Duration,
}

/// Everything that is decided at a supervisor, in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Which children a restart concerns.
    pub strategy: Strategy,
    /// When to give up.
    pub intensity: Intensity,
    /// How fast to try again.
    pub backoff: Backoff,
}

impl Default for Policy {
    /// One for one; fifty restarts in ten seconds; waits from 50 to 500 ms, so that a request that waits for a
    /// restart is answered within a second.
    fn default() -> Self {
        Self {
            strategy: Strategy::OneForOne,
            intensity: Intensity {
                restarts: 50,
                period: Duration::from_secs(10),
            },
            backoff: Backoff {
                base: Duration::from_millis(50),
                max: Duration::from_millis(500),
                reset_after: Duration::from_secs(10),
            },
        }
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// By itself, or because it was asked to.
    Normal,
    /// By an error, a panic or a kill; also when it could not be started at all.
    Failed,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: the child is known and waits for somebody to start it, or is not known.
    Nothing,
    /// The child is off the list.
    Forget,
    /// Stop these (given in stopping order: last started first), then start those, in order, after a wait.
    Restart {
        /// Running children to stop first.
        stop: Vec<String>,
        /// Children to start.
        start: Vec<String>,
        /// How long to wait before.
        after: Duration,
    },
    /// Too many restarts: stop all children, fail.
    GiveUp,
}

#[derive(Debug, Clone)]
struct Child {
    id: String,
    restart: Restart,
    running: bool,
    started: Duration,
    failures: u32,
}

/// The children of one supervisor, in start order, and its recent restarts.
#[derive(Debug, Clone)]
pub struct Core {
    policy: Policy,
    children: Vec<Child>,
    restarts: VecDeque<Duration>,
}

impl Core {
    /// A supervisor without children.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            children: Vec::new(),
            restarts: VecDeque::new(),
        }
    }

    /// Adds a child at the end of the start order; false when the id is taken.
    pub fn add(&mut self, id: &str, restart: Restart) -> bool {
        if self.position(id).is_some() {
            return false;
        }
        self.children.push(Child {
            id: id.to_owned(),
            restart,
            running: false,
            started: Duration::ZERO,
            failures: 0,
        });
        true
    }

    /// Takes a child off the list; its end is then nobody's business.
    pub fn remove(&mut self, id: &str) {
        self.children.retain(|c| c.id != id);
    }

    /// Notes that a child runs.
    pub fn started(&mut self, id: &str, now: Duration) {
        if let Some(at) = self.position(id) {
            self.children[at].running = true;
            self.children[at].started = now;
        }
    }

    /// Notes that a child was stopped as part of a decision of ours.
    pub fn stopped(&mut self, id: &str) {
        if let Some(at) = self.position(id) {
            self.children[at].running = false;
        }
    }

    /// Whether a child runs.
    pub fn is_running(&self, id: &str) -> bool {
        self.position(id)
            .is_some_and(|at| self.children[at].running)
    }

    /// All children in start order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.children.iter().map(|c| c.id.as_str())
    }

    /// Decides about a child that ended, or could not be started.
    pub fn exited(&mut self, id: &str, exit: Exit, now: Duration) -> Decision {
        let Some(at) = self.position(id) else {
            return Decision::Nothing;
        };
        let backoff = self.policy.backoff;
        let child = &mut self.children[at];
        let ran = if child.running {
            now.saturating_sub(child.started)
        } else {
            Duration::ZERO
        };
        child.running = false;
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => exit == Exit::Failed,
            Restart::Temporary => false,
        };
        if !again {
            self.children.remove(at);
            return Decision::Forget;
        }
        if ran >= backoff.reset_after {
            child.failures = 0;
        }
        let after = backoff.wait(child.failures);
        child.failures = child.failures.saturating_add(1);
        if self.too_many(now) {
            return Decision::GiveUp;
        }
        let concerned = match self.policy.strategy {
            Strategy::OneForOne => at..at + 1,
            Strategy::OneForAll => 0..self.children.len(),
            Strategy::RestForOne => at..self.children.len(),
        };
        let stop = self.children[concerned.clone()]
            .iter()
            .rev()
            .filter(|c| c.running)
            .map(|c| c.id.clone())
            .collect();
        let start = self.children[concerned]
            .iter()
            .map(|c| c.id.clone())
            .collect();
        Decision::Restart { stop, start, after }
    }

    fn too_many(&mut self, now: Duration) -> bool {
        let Intensity { restarts, period } = self.policy.intensity;
        while self
            .restarts
            .front()
            .is_some_and(|at| now.saturating_sub(*at) > period)
        {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() > restarts
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.children.iter().position(|c| c.id == id)
    }
}

impl Backoff {
    /// The wait before a restart after this many failures in a row.
    pub fn wait(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            n => self.base.saturating_mul(1 << (n - 1).min(20)).min(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Strategy;
    use super::*;

    fn three(strategy: Strategy) -> Core {
        let mut core = Core::new(Policy {
            strategy,
            ..Policy::default()
        });
        for id in ["a", "b", "c"] {
            core.add(id, Restart::Permanent);
            core.started(id, Duration::ZERO);
        }
        core
    }

    fn restart_of(decision: Decision) -> (Vec<String>, Vec<String>) {
        match decision {
            Decision::Restart { stop, start, .. } => (stop, start),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_for_one_restarts_only_the_child_that_ended() {
        let (stop, start) =
            restart_of(three(Strategy::OneForOne).exited("b", Exit::Failed, Duration::ZERO));
        assert!(stop.is_empty());
        assert_eq!(start, ["b"]);
    }

    #[test]
    fn one_for_all_stops_in_reverse_and_starts_in_order() {
        let (stop, start) =
            restart_of(three(Strategy::OneForAll).exited("b", Exit::Failed, Duration::ZERO));
        assert_eq!(stop, ["c", "a"]);
        assert_eq!(start, ["a", "b", "c"]);
    }

    #[test]
    fn rest_for_one_leaves_the_older_children_alone() {
        let (stop, start) =
            restart_of(three(Strategy::RestForOne).exited("b", Exit::Normal, Duration::ZERO));
        assert_eq!(stop, ["c"]);
        assert_eq!(start, ["b", "c"]);
    }

    #[test]
    fn a_transient_child_that_ends_by_itself_is_forgotten() {
        let mut core = Core::new(Policy::default());
        core.add("t", Restart::Transient);
        core.started("t", Duration::ZERO);
        assert_eq!(
            core.exited("t", Exit::Normal, Duration::ZERO),
            Decision::Forget
        );
        assert_eq!(core.ids().next(), None);
    }

    #[test]
    fn a_child_that_keeps_failing_waits_longer_until_it_has_run_well() {
        let mut core = Core::new(Policy {
            intensity: Intensity {
                restarts: 1000,
                period: Duration::from_secs(1),
            },
            ..Policy::default()
        });
        core.add("x", Restart::Permanent);
        let mut waits = Vec::new();
        for _ in 0..4 {
            if let Decision::Restart { after, .. } = core.exited("x", Exit::Failed, Duration::ZERO)
            {
                waits.push(after.as_millis());
            }
        }
        assert_eq!(waits, [0, 50, 100, 200]);
        core.started("x", Duration::ZERO);
        let later = core.exited("x", Exit::Failed, Duration::from_secs(10));
        assert!(matches!(
            later,
            Decision::Restart {
                after: Duration::ZERO,
                ..
            }
        ));
    }

    proptest! {
        /// Never more restarts within a period than the intensity allows; the next one gives up.
        #[test]
        fn the_intensity_is_kept(steps in proptest::collection::vec(0u64..400, 1..200), limit in 1usize..10) {
            let period = Duration::from_millis(1000);
            let mut core = Core::new(Policy {
                intensity: Intensity { restarts: limit, period },
                ..Policy::default()
            });
            core.add("x", Restart::Permanent);
            let mut now = Duration::ZERO;
            let mut granted: Vec<Duration> = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                core.started("x", now);
                match core.exited("x", Exit::Failed, now) {
                    Decision::Restart { .. } => granted.push(now),
                    Decision::GiveUp => break,
                    other => prop_assert!(false, "{other:?}"),
                }
                let recent = granted.iter().filter(|at| now - **at <= period).count();
                prop_assert!(recent <= limit);
            }
        }

        /// Whatever happens, a running child is in at most one place, and stops are a part of starts.
        #[test]
        fn what_is_stopped_is_started_again(
            kind in 0usize..3, victims in proptest::collection::vec(0usize..3, 1..15)
        ) {
            let strategy = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne][kind];
            let mut core = three(strategy);
            for v in victims {
                let id = ["a", "b", "c"][v];
                if let Decision::Restart { stop, start, .. } = core.exited(id, Exit::Failed, Duration::ZERO) {
                    prop_assert!(start.contains(&id.to_owned()));
                    prop_assert!(!stop.contains(&id.to_owned()));
                    for s in &stop { prop_assert!(start.contains(s)); core.stopped(s); }
                    for s in &start { core.started(s, Duration::ZERO); }
                }
                for id in ["a", "b", "c"] { prop_assert!(core.is_running(id)); }
            }
        }
    }
}
