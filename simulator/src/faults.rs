//! Faults by rule, and a record of every call.
//!
//! A rule is `Method:when:what`. `when` is `*`, a count (`3`: the next three calls) or a
//! probability (`0.2`). `what` is the name of a fault, `delay=MS`, `late=MS` (the call is made at once,
//! its answer is held back), `stall` (the call is not made, no answer ever),
//! `drop` (the connection ends, the call is not made) or `drop-after` (the call is made, its answer
//! is lost). `task=Fault` lets the call succeed and its task fail. Transfers of files are `GET /folder`,
//! `PUT /folder` and so on; any fault's name fails them with status 500.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// When a rule fires.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At every call.
    Always,
    /// At the next calls, this many.
    Count(u64),
    /// At each call with this probability.
    Probability(f64),
}

/// What happens to a call when a rule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call answers with this fault, and does nothing.
    Fault(String),
    /// The call returns a task, and the task ends with this fault.
    TaskFault(String),
    /// The call is made later.
    Delay(Duration),
    /// The call is made at once, and answers later.
    Late(Duration),
    /// The call is not made, and never answers.
    Stall,
    /// The connection ends before the call is made.
    Drop,
    /// The connection ends after the call is made.
    DropAfter,
}

/// One rule: which method, when, what.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// WSDL name of the method, or `*`.
    pub method: String,
    /// When the rule fires.
    pub when: When,
    /// What it does.
    pub effect: Effect,
}

impl FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().splitn(3, ':');
        let (Some(method), Some(when), Some(what)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("{text:?} is not of the form Method:when:what"));
        };
        let when = if when == "*" {
            When::Always
        } else if let Ok(count) = when.parse() {
            When::Count(count)
        } else {
            match when.parse::<f64>() {
                Ok(p) if (0.0..=1.0).contains(&p) => When::Probability(p),
                _ => return Err(format!("{when:?} is neither *, a count nor a probability")),
            }
        };
        let effect = match what.split_once('=') {
            Some(("delay", ms)) => {
                let ms = ms
                    .parse()
                    .map_err(|_| format!("{ms:?} is no number of milliseconds"))?;
                Effect::Delay(Duration::from_millis(ms))
            }
            Some(("late", ms)) => {
                let ms = ms
                    .parse()
                    .map_err(|_| format!("{ms:?} is no number of milliseconds"))?;
                Effect::Late(Duration::from_millis(ms))
            }
            Some(("task", fault)) => Effect::TaskFault(fault.to_owned()),
            Some(_) => return Err(format!("{what:?} is not known")),
            None => match what {
                "stall" => Effect::Stall,
                "drop" => Effect::Drop,
                "drop-after" => Effect::DropAfter,
                fault if fault.chars().all(char::is_alphanumeric) && !fault.is_empty() => {
                    Effect::Fault(fault.to_owned())
                }
                _ => return Err(format!("{what:?} is not the name of a fault")),
            },
        };
        Ok(FaultRule {
            method: method.to_owned(),
            when,
            effect,
        })
    }
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.method)?;
        match self.when {
            When::Always => f.write_str("*")?,
            When::Count(n) => write!(f, "{n}")?,
            When::Probability(p) => write!(f, "{p:?}")?,
        }
        match &self.effect {
            Effect::Fault(name) => write!(f, ":{name}"),
            Effect::TaskFault(name) => write!(f, ":task={name}"),
            Effect::Delay(d) => write!(f, ":delay={}", d.as_millis()),
            Effect::Late(d) => write!(f, ":late={}", d.as_millis()),
            Effect::Stall => f.write_str(":stall"),
            Effect::Drop => f.write_str(":drop"),
            Effect::DropAfter => f.write_str(":drop-after"),
        }
    }
}

/// The rules in force, and the calls that came.
#[derive(Debug)]
pub(crate) struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: Vec<FaultRule>,
    calls: BTreeMap<String, u64>,
    random: StdRng,
}

impl Faults {
    /// Makes a set of rules; `seed` decides the ones that fire by probability.
    pub(crate) fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Faults {
            inner: Mutex::new(Inner {
                rules,
                calls: BTreeMap::new(),
                random,
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records a call, and says what shall happen to it.
    pub(crate) fn on_call(&self, method: &str) -> Option<Effect> {
        let inner = &mut *self.lock();
        match inner.calls.get_mut(method) {
            Some(count) => *count += 1,
            None => drop(inner.calls.insert(method.to_owned(), 1)),
        }
        let position = inner.rules.iter_mut().position(|rule| {
            (rule.method == method || rule.method == "*")
                && match &mut rule.when {
                    When::Always => true,
                    When::Count(_) => true,
                    When::Probability(p) => inner.random.random_bool(*p),
                }
        })?;
        let effect = inner.rules[position].effect.clone();
        if let When::Count(left) = &mut inner.rules[position].when {
            *left = left.saturating_sub(1);
            if *left == 0 {
                inner.rules.remove(position);
            }
        }
        Some(effect)
    }

    /// Adds rules.
    pub(crate) fn add(&self, rules: Vec<FaultRule>) {
        let keep = rules.into_iter().filter(|r| r.when != When::Count(0));
        self.lock().rules.extend(keep);
    }

    /// Takes all rules away.
    pub(crate) fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Lists the rules, one per line.
    pub(crate) fn describe(&self) -> String {
        self.lock().rules.iter().map(|r| format!("{r}\n")).collect()
    }

    /// Says how often each method was called.
    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        self.lock().calls.clone()
    }

    /// Forgets the calls.
    pub(crate) fn forget_calls(&self) {
        self.lock().calls.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        for text in [
            "PowerOnVM_Task:1:TaskInProgress",
            "*:0.25:drop",
            "Login:*:delay=20",
            "PUT /folder:1:late=2500",
            "CreateVM_Task:2:task=FileAlreadyExists",
            "Login:*:stall",
            "Login:3:drop-after",
        ] {
            let rule: FaultRule = text.parse().expect(text);
            assert_eq!(rule.to_string(), text);
        }
        assert!("Login:2.5:drop".parse::<FaultRule>().is_err());
        assert!("Login:drop".parse::<FaultRule>().is_err());
    }

    #[test]
    fn a_counted_rule_fires_that_often_and_calls_are_counted() {
        let faults = Faults::new(vec!["A:2:drop".parse().expect("rule")], 1);
        let fired = (0..4).filter(|_| faults.on_call("A").is_some()).count();
        assert_eq!(fired, 2);
        assert_eq!(faults.on_call("B"), None);
        assert_eq!(faults.calls()["A"], 4);
        assert_eq!(faults.describe(), "");
    }
}
