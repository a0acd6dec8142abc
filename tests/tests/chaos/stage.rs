//! A VCH with its workload, the model of it, and those who watch that nothing gets lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use system_tests::image::Recipe;
use system_tests::installed::{Installed, Inventory};
use system_tests::world::path;

use super::log::LogFile;
use super::model::{Container, Image, Model, State};
use super::random::Random;
use super::view::View;
use super::workload::{self, IMAGE, Op, Outcome, TICKER, Verb};

/// How long the world may need to become what the model says.
const SETTLE: Duration = Duration::from_secs(30);
/// How long an operation whose client was cut off may go on in the server.
const LATE: Duration = Duration::from_secs(15);

/// Everything that a test of kills needs.
pub struct Stage {
    pub vch: Installed,
    pub random: Random,
    pub model: Model,
    pub images: Vec<Image>,
    vsphere: Inventory,
    log: LogFile,
    /// Interrupted operations that have done nothing so far, and since when.
    late: Vec<(Op, Instant)>,
}

/// An operation and how it ended.
pub type Ended = (Op, Outcome);

impl Stage {
    /// Creates the VCH, its images, and the container that counts.
    pub fn set(debug: u32) -> Result<Self> {
        let seed = Random::seed();
        crate::report::say(format_args!("VIC_CHAOS_SEED={seed}"));
        let vch = Installed::create(debug)?;
        let busybox = vch.archive(&Recipe::busybox(IMAGE))?;
        vch.docker(&["load", "-q", "-i", path(&busybox)?])?.ok()?;
        let images = workload::images(&vch)?;
        workload::start_ticker(&vch)?;
        let mut model = Model::default();
        model
            .images
            .insert(IMAGE.to_owned(), workload::chain(&busybox)?);
        let ticker = Container {
            state: State::Running,
            volume: None,
            anonymous: false,
            once: false,
            id: None,
            started: None,
            address: None,
            volumes: None,
        };
        model.containers.insert(TICKER.to_owned(), ticker);
        let vsphere = vch.inventory()?;
        let log = LogFile::default();
        let mut stage = Self {
            vch,
            random: Random::new(seed),
            model,
            images,
            vsphere,
            log,
            late: Vec::new(),
        };
        stage.settle(&[])?;
        Ok(stage)
    }

    /// An operation that a `verb` can be now; carries out what has to be done before.
    pub fn prepare(&mut self, verb: Verb) -> Result<Op> {
        let mut first = workload::before(verb).iter();
        loop {
            if let Some(op) = workload::plan(verb, &self.model, &self.images, &mut self.random) {
                return Ok(op);
            }
            let Some(before) = first.next().copied() else {
                // What interrupted operations may still change is left alone for a while.
                ensure!(!self.late.is_empty(), "no way to {verb:?}");
                std::thread::park_timeout(Duration::from_millis(100));
                self.settle(&[])?;
                first = workload::before(verb).iter();
                continue;
            };
            if let Some(op) = workload::plan(before, &self.model, &self.images, &mut self.random) {
                match workload::run(&self.vch, &op) {
                    Outcome::Done => self.model.apply(&op),
                    other => bail!("{op:?} with nothing killed: {other:?}"),
                }
            }
        }
    }

    /// Waits until everything is as the model says, whichever way the interrupted operations went.
    pub fn settle(&mut self, ended: &[Ended]) -> Result<()> {
        self.late.retain(|(_, since)| since.elapsed() < LATE);
        for (op, outcome) in ended {
            match outcome {
                Outcome::Unknown(_) => self.late.push((op.clone(), Instant::now())),
                _ => self.model.apply(op),
            }
        }
        let mut models = vec![self.model.clone()];
        for (op, _) in &self.late {
            models = models.iter().flat_map(|m| m.outcomes(op)).collect();
        }
        let end = Instant::now() + SETTLE;
        loop {
            let differences = match View::take(&self.vch, &mut self.vsphere) {
                Ok(view) => {
                    let mut best: Option<Vec<String>> = None;
                    for model in &models {
                        // What it learns from a view that does not fit is forgotten again.
                        let mut model = model.clone();
                        let differences = view.differences(&mut model);
                        if differences.is_empty() {
                            self.model = model;
                            self.late.retain(|(op, _)| !self.model.shows(op));
                            let late = self.late.iter().flat_map(|(op, _)| op.things());
                            self.model.touched = late.collect();
                            let ticker = self.model.containers[TICKER].id.clone();
                            return self.log.check(&self.vch, &ticker.context("ticker")?);
                        }
                        if best.as_ref().is_none_or(|b| b.len() > differences.len()) {
                            best = Some(differences);
                        }
                    }
                    best.unwrap_or_default()
                }
                Err(why) => vec![format!("{why:#}")],
            };
            ensure!(
                Instant::now() < end,
                "not as the model says after {SETTLE:?}: {differences:#?}\nafter {ended:#?}"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
