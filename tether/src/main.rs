//! PID 1 of every containerVM and of the appliance.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    if args.next().as_deref() == Some(tether::reaper::NAME) {
        return tether::reaper::run(args.next().and_then(|pid| pid.parse().ok()));
    }
    tether::boot::run(&tether::boot::Machine::default())
}
