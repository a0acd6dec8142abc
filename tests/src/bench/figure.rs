//! One figure of both engines, and what its ratio has to be.

use std::fmt::Write as _;

/// What a figure's ratio, ours by theirs, has to be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At most this: a time.
    AtMost(f64),
    /// At least this: a speed.
    AtLeast(f64),
    /// Shown only.
    None,
}

/// The medians of both engines.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Milliseconds or megabytes (10^6 bytes) per second.
    pub unit: &'static str,
    /// Ours.
    pub ours: f64,
    /// dockerd's.
    pub theirs: f64,
    /// What the ratio has to be.
    pub target: Target,
}

impl Figure {
    pub(super) fn new(
        name: &'static str,
        unit: &'static str,
        (ours, theirs): (f64, f64),
        target: Target,
    ) -> Self {
        Self {
            name,
            unit,
            ours,
            theirs,
            target,
        }
    }

    /// Ours by theirs.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    /// Whether the ratio is what it has to be.
    #[must_use]
    pub fn met(&self) -> bool {
        match self.target {
            Target::AtMost(limit) => self.ratio() <= limit,
            Target::AtLeast(limit) => self.ratio() >= limit,
            Target::None => true,
        }
    }

    fn verdict(&self) -> String {
        let verdict = if self.met() { "met" } else { "missed" };
        match self.target {
            Target::AtMost(limit) => format!("at most {limit}: {verdict}"),
            Target::AtLeast(limit) => format!("at least {limit}: {verdict}"),
            Target::None => String::new(),
        }
    }
}

/// The figures as a table in Markdown.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure | unit | ours | dockerd | ratio | target |\n|---|---|---|---|---|---|\n",
    );
    for f in figures {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {:.1} | {:.2} | {} |",
            f.name,
            f.unit,
            f.ours,
            f.theirs,
            f.ratio(),
            f.verdict()
        );
    }
    text
}
