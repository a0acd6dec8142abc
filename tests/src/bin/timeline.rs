//! `cargo xtask timeline`: prints where the time of one `docker run --rm busybox true` goes.

use anyhow::Result;
use system_tests::timeline::Timeline;

fn main() -> Result<()> {
    println!("   begin   takes plan (ms)");
    print!("{}", Timeline::of_one_run()?.show());
    Ok(())
}
