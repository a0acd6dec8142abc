//! Whether the API answers in time after a kill.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use system_tests::http::Body;
use system_tests::installed::Installed;

use super::workload::{self, IMAGE, Outcome, TICKER};

/// The time that the project promises.
const PROMISE: Duration = Duration::from_secs(1);
/// However strained the machine is, an answer may not take longer.
const LONGEST: Duration = Duration::from_secs(5);

/// How long an answer may take on a machine that was so strained meanwhile.
pub fn limit(strain: Strain) -> Duration {
    LONGEST.min(PROMISE + strain.so_far())
}
/// A client that is refused, broken off or told that the server failed asks again, and gives up after this.
const GIVE_UP: Duration = Duration::from_secs(30);

/// How long requests took, by the kind of the actor that was killed before.
#[derive(Default)]
pub struct Answers(BTreeMap<String, Vec<Duration>>);

impl Answers {
    /// Asks what concerns an actor of this kind, and everybody: each question has to be answered in time.
    pub fn ask(&mut self, vch: &Installed, kind: &str) -> Result<()> {
        for question in questions(kind) {
            let (began, strain) = (Instant::now(), Strain::begins());
            let mut last = None;
            while let Err(why) = question.put(vch) {
                ensure!(
                    began.elapsed() < GIVE_UP,
                    "{question:?} after a {kind} was killed: {why:#}"
                );
                last = Some(why);
                std::thread::park_timeout(Duration::from_millis(5));
            }
            let took = began.elapsed();
            self.0.entry(kind.to_owned()).or_default().push(took);
            let limit = limit(strain);
            ensure!(
                took <= limit,
                "{question:?} took {took:?} of {limit:?} after a {kind} was killed; last refusal: {last:?}"
            );
        }
        Ok(())
    }

    /// The longest and the mean answer after kills of one kind.
    pub fn figures(&self, kind: &str) -> (Duration, Duration) {
        let all = self.0.get(kind).map_or(&[][..], Vec::as_slice);
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
        let longest = all.iter().max().copied().unwrap_or_default();
        (longest, all.iter().sum::<Duration>() / count)
    }
}

/// One question to the API.
#[derive(Debug, Clone, Copy)]
enum Question {
    Get(&'static str),
    Events,
    /// A program in the container that counts.
    Exec,
    /// A volume is made and removed: tasks of vSphere.
    Volume,
}

fn questions(kind: &str) -> Vec<Question> {
    use Question::{Events, Exec, Get, Volume};
    let mut all = vec![Get("/_ping"), Get("/containers/json?all=1")];
    all.extend(match kind {
        "vsphere" | "watch" => vec![Volume],
        "images" | "repository" | "layer" | "pull" | "appliance" => {
            vec![Get("/images/json"), Get(IMAGE_PATH)]
        }
        "volumes" | "volume" => vec![Get("/volumes"), Volume],
        "networks" | "network" => vec![Get("/networks"), Get("/networks/bridge")],
        "events" => vec![Events],
        "containers" | "container" | "link" | "exec" | "serial" => vec![Exec],
        _ => vec![Get("/version")],
    });
    all
}

const IMAGE_PATH: &str = "/images/busybox:test/json";
const _: () = assert!(IMAGE.len() + "/images//json".len() == IMAGE_PATH.len());

impl Question {
    fn put(self, vch: &Installed) -> Result<()> {
        let ask = |method: &str, path: &str, body: &Body<'_>| {
            let answer = vch.request(method, path, body, GIVE_UP)?;
            ensure!(answer.is_success(), "{}: {}", answer.status, answer.text());
            Ok(())
        };
        match self {
            Self::Get(path) => ask("GET", path, &Body::None),
            Self::Events => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let path = format!("/events?since={}&until={now}", now.saturating_sub(5));
                ask("GET", &path, &Body::None)
            }
            Self::Exec => match workload::exec(vch, TICKER, 7, GIVE_UP)? {
                Outcome::Done => Ok(()),
                other => bail!("{other:?}"),
            },
            Self::Volume => {
                let body = Body::Json(serde_json::json!({"Name": "probe"}));
                ask("POST", "/volumes/create", &body).context("create")?;
                ask("DELETE", "/volumes/probe?force=1", &Body::None).context("remove")
            }
        }
    }
}

/// How long, since it was taken, somebody on this machine had to wait for a processor or a disk: what nobody could do
/// then is not held against the API.
#[derive(Debug, Clone, Copy)]
pub struct Strain {
    waited: Duration,
}

impl Strain {
    /// From now on.
    pub fn begins() -> Self {
        Self {
            waited: Self::total(),
        }
    }

    /// The time since then in which somebody waited.
    pub fn so_far(self) -> Duration {
        Self::total().saturating_sub(self.waited)
    }

    /// Pressure stall information (Linux, `Documentation/accounting/psi.rst`); a kernel without it waits for nothing.
    fn total() -> Duration {
        let waited = |resource: &str| {
            let text = std::fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?;
            let some = text.lines().find(|line| line.starts_with("some "))?;
            let total = some.split("total=").nth(1)?.trim().parse().ok()?;
            Some(Duration::from_micros(total))
        };
        ["cpu", "io"].into_iter().filter_map(waited).sum()
    }
}
