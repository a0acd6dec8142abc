//! Lists VCHs.

use std::fmt::Write as _;

use tracing::info;

use crate::VERSION;
use crate::cli::LsArgs;
use crate::failure::{Failure, Tried};
use crate::interrupt::Interrupts;
use crate::inventory::Inventory;
use crate::session::{Session, Strangers};
use crate::target::Target;
use crate::vch::{self, Vch};

/// `vic-machine ls`.
pub(crate) async fn run(args: LsArgs) -> Result<(), Failure> {
    let target = Target::resolve(&args.target).tried("the target cannot be used")?;
    info!("### Listing VCHs ####");
    let strangers = if args.force {
        Strangers::Accept
    } else {
        Strangers::Refuse
    };
    let interrupts = Interrupts::listen()?;
    let session = interrupts.or(Session::open(&target, strangers)).await?;
    let compute = args.common.compute_resource.as_deref();
    let table = session.during(&interrupts, list(&session, &target, compute));
    print!("{}", table.await?);
    Ok(())
}

async fn list(
    session: &Session,
    target: &Target,
    compute: Option<&str>,
) -> Result<String, Failure> {
    let client = &session.client;
    let inventory = Inventory::load(client)
        .await
        .tried("cannot read the target's inventory")?;
    let found = vch::all(client, &inventory, target, compute).await?;
    let rows = found
        .iter()
        .map(|vch| row(vch, &inventory))
        .collect::<Vec<_>>();
    Ok(table(&rows))
}

fn row(vch: &Vch, inventory: &Inventory) -> [String; 5] {
    let parent = vch
        .pool
        .as_ref()
        .map(|pool| inventory.path(pool))
        .unwrap_or_default();
    let own_suffix = format!("/{}", vch.config.name);
    let path = parent
        .strip_suffix(&own_suffix)
        .map_or(parent.clone(), str::to_owned);
    [
        vch.vm.value.clone(),
        path,
        vch.name.clone(),
        vch.config.version.clone(),
        upgrade_status(vch),
    ]
}

/// How a VCH's version is to this program's.
pub(crate) fn upgrade_status(vch: &Vch) -> String {
    compare(&vch.config.version, VERSION)
}

fn compare(theirs: &str, ours: &str) -> String {
    let numbers = |text: &str| {
        text.split(['.', '-'])
            .map_while(|part| part.parse().ok())
            .collect::<Vec<u32>>()
    };
    match numbers(theirs).cmp(&numbers(ours)) {
        _ if theirs.is_empty() => "Unknown: it has no version".to_owned(),
        std::cmp::Ordering::Equal => "Up to date".to_owned(),
        std::cmp::Ordering::Less => format!("Upgradeable to {ours}"),
        std::cmp::Ordering::Greater => "VCH has newer version".to_owned(),
    }
}

/// A table whose columns are as wide as they must be.
fn table(rows: &[[String; 5]]) -> String {
    let head = ["ID", "PATH", "NAME", "VERSION", "UPGRADE STATUS"].map(str::to_owned);
    let all: Vec<&[String; 5]> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| {
        all.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in all {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(
            text,
            "{}",
            cells.collect::<Vec<_>>().join("        ").trim_end()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = [
            "vm-12",
            "/DC0/host/C0/Resources",
            "VCH001",
            "0.1.0",
            "Up to date",
        ]
        .map(str::to_owned);
        assert_eq!(
            table(&[row]),
            "ID           PATH                          NAME          VERSION        UPGRADE STATUS\n\
             vm-12        /DC0/host/C0/Resources        VCH001        0.1.0          Up to date\n"
        );
    }

    #[test]
    fn versions_are_compared_by_numbers() {
        assert_eq!(compare("0.9.0", "0.10.0"), "Upgradeable to 0.10.0");
        assert_eq!(compare("0.10.0", "0.10.0"), "Up to date");
        assert_eq!(compare("1.0.0", "0.10.0"), "VCH has newer version");
        assert!(compare("", "1.0").starts_with("Unknown"));
    }
}
