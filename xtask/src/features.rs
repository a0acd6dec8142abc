//! The table of features: what users are promised, and the test that shows each promise.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// `tests/features.toml`.
#[derive(Deserialize)]
struct Table {
    area: Vec<Area>,
}

/// One heading of the table.
#[derive(Deserialize)]
struct Area {
    name: String,
    feature: Vec<Feature>,
}

/// One promise.
#[derive(Deserialize)]
struct Feature {
    /// Its name for users.
    name: String,
    /// `<binary>::<test>` of the tests that show it; empty or `["missing"]` when none does.
    shown_by: Vec<String>,
    /// What is weaker than promised.
    #[serde(default)]
    note: Option<String>,
}

impl Feature {
    fn missing(&self) -> bool {
        self.shown_by.is_empty() || self.shown_by.iter().any(|t| t == "missing")
    }
}

fn load() -> Result<Table> {
    let path = crate::root().join("tests/features.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parsing {}", path.display()))
}

fn render(table: &Table) -> Result<String> {
    let mut page = String::from(
        "# Features\n\nWritten by `cargo xtask features` from `tests/features.toml`. Each row names the test that shows it; \
         continuous integration fails when that test did not run.\n",
    );
    let all = table.area.iter().flat_map(|a| &a.feature);
    let (total, missing) = all.fold((0, 0), |(t, m), f| (t + 1, m + usize::from(f.missing())));
    write!(
        page,
        "\n{} of {total} are shown by a test; {missing} are missing.\n",
        total - missing
    )?;
    for area in &table.area {
        write!(
            page,
            "\n## {}\n\n| feature | shown by | note |\n|---|---|---|\n",
            area.name
        )?;
        for f in &area.feature {
            let shown = if f.missing() {
                "**missing**".to_owned()
            } else {
                f.shown_by
                    .iter()
                    .map(|t| format!("`{t}`"))
                    .collect::<Vec<_>>()
                    .join("<br>")
            };
            writeln!(
                page,
                "| {} | {shown} | {} |",
                f.name,
                f.note.as_deref().unwrap_or_default()
            )?;
        }
    }
    Ok(page)
}

/// Prints the table and writes docs/FEATURES.md, or only compares it with `check`.
pub(crate) fn run(check: bool) -> Result<()> {
    let page = render(&load()?)?;
    let path = crate::root().join("docs/FEATURES.md");
    if check {
        if std::fs::read_to_string(&path).unwrap_or_default() != page {
            bail!(
                "docs/FEATURES.md is not what tests/features.toml says: run `cargo xtask features`"
            );
        }
        return Ok(());
    }
    print!("{page}");
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}

/// Fails when a row names a test that did not run.
pub(crate) fn check_ran(outcome: &crate::test::Outcome) -> Result<()> {
    let table = load()?;
    let absent: Vec<String> = table
        .area
        .iter()
        .flat_map(|a| &a.feature)
        .filter(|f| !f.missing())
        .flat_map(|f| f.shown_by.iter().map(move |t| (f, t)))
        .filter(|(_, t)| !outcome.passed.contains(*t))
        .map(|(f, t)| format!("  {}: {t}", f.name))
        .collect();
    if !absent.is_empty() {
        bail!(
            "tests/features.toml names tests that did not run and pass:\n{}",
            absent.join("\n")
        );
    }
    run(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_real_table_is_read() {
        let table = load().expect("tests/features.toml");
        assert!(table.area.iter().all(|a| !a.feature.is_empty()));
    }

    #[test]
    fn a_missing_row_is_counted_and_shown() {
        let table: Table = toml::from_str(
            "[[area]]\nname='A'\n[[area.feature]]\nname='x'\nshown_by=['missing']\n[[area.feature]]\nname='y'\nshown_by=['b::t']\n",
        )
        .expect("table");
        let page = render(&table).expect("page");
        assert!(page.contains("1 of 2 are shown"));
        assert!(page.contains("| x | **missing** |"));
    }
}
