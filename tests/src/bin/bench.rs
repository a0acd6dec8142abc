//! `cargo xtask bench [repetitions] [containers]`: prints ours against Debian's dockerd.

use anyhow::Result;
use system_tests::bench::{Plan, measure, table};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let plan = Plan {
        repetitions: args.next().map_or(Ok(10), |n| n.parse())?,
        containers: args.next().map_or(Ok(500), |n| n.parse())?,
        streams: 5,
    };
    let (peer, figures) = measure(plan, &mut |figure| {
        let (ours, theirs) = (figure.ours, figure.theirs);
        eprintln!("{}: {ours:.1} / {theirs:.1} {}", figure.name, figure.unit);
    })?;
    println!(
        "Against {peer}; {} containers for ps.\n\n{}",
        plan.containers,
        table(&figures)
    );
    Ok(())
}
