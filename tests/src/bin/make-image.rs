//! Writes the busybox image of the tests as a `docker load` archive: `make-image DIR [TAG]`.

use std::path::Path;

use anyhow::{Context, Result};
use system_tests::image::{Recipe, archive};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: make-image DIR [TAG]")?;
    let tag = args.next().unwrap_or_else(|| "busybox:latest".to_owned());
    println!(
        "{}",
        archive(Path::new(&dir), &Recipe::busybox(&tag))?.display()
    );
    Ok(())
}
