//! How a VM ends and comes back, and what its log looks like then.

use tether_protocol::config::ProcessStatus;
use tether_protocol::rpci::Request;
use tether_protocol::session::{Message, PRIMARY, Stream};

use crate::machine::Builder;

#[test]
fn shutdown_by_vsphere_is_the_stop_signal() {
    let script = "trap 'echo stopping; exit 5' QUIT; echo ready; while true; do read -t 1 x; done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| {
            s.stop_signal = "SIGQUIT".into();
            s.open_stdin = true;
        })
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "ready\n");
    vm.tell(Request::Halt);
    assert_eq!(vm.exit_of(PRIMARY), 5);
    assert_eq!(vm.output(PRIMARY, Stream::Stdout), "ready\nstopping\n");
    vm.off();
}

#[test]
fn what_ignores_its_stop_signal_is_killed() {
    let script = "trap '' TERM; echo ready; while true; do read -t 1 x; done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| {
            s.stop_timeout = Some(1);
            s.open_stdin = true;
        })
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "ready\n");
    vm.tell(Request::Halt);
    assert_eq!(vm.exit_of(PRIMARY), 137);
    vm.off();
}

#[test]
fn the_live_log_has_the_numbers_of_the_file() {
    let mut vm = Builder::new(&["sh", "-c", "read x; echo one; echo two"])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.send(Message::Subscribe {
        process: PRIMARY,
        stdout: false,
        stderr: false,
        log: true,
    });
    vm.message("an inventory", |m| {
        matches!(m, Message::Inventory { log_next: 1, .. }).then_some(())
    });
    vm.type_in(PRIMARY, b"\n");
    assert_eq!(vm.exit_of(PRIMARY), 0);
    let live = vm.output(PRIMARY, Stream::Log);
    vm.off();
    let lines: Vec<_> = live
        .split_inclusive('\n')
        .map(|line| tether_protocol::log::Record::decode(line.as_bytes()).unwrap())
        .collect();
    assert_eq!(lines, vm.log());
    assert_eq!(lines.len(), 2);
}

#[test]
fn nobody_attaches_and_the_process_never_blocks() {
    let script = "dd if=/dev/zero bs=1024 count=1024 2>/dev/null; echo; echo end >&2";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| s.attach = false)
        .boot();
    let state = vm.state("an end", |s| {
        matches!(s.status, ProcessStatus::Exited { .. })
    });
    assert_eq!(state.status, ProcessStatus::Exited { code: 0 });
    vm.off();
    let bytes: usize = vm.log().iter().map(|r| r.data.len()).sum();
    assert_eq!(bytes, 1024 * 1024 + 1 + 4);
}

/// The numbers of the records in the log.
fn numbers(vm: &crate::machine::Machine) -> Vec<u64> {
    vm.log().iter().map(|record| record.seq).collect()
}

#[test]
fn a_reboot_by_vsphere_stops_the_process_and_runs_it_again() {
    let script = "trap 'echo stopping; exit 5' TERM; echo ready; while true; do read -t 1 x; done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "ready\n");
    vm.tell(Request::Reboot);
    assert_eq!(vm.exit_of(PRIMARY), 5);
    let restart = vm.off();
    assert!(restart, "the VM went off");
    vm.fsck(0);
    let mut vm = vm.again();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "ready\n");
    vm.tell(Request::Halt);
    assert_eq!(vm.exit_of(PRIMARY), 5);
    let restart = vm.off();
    assert!(!restart, "the VM restarts");
    assert_eq!(numbers(&vm), [1, 2, 3, 4]);
}

#[test]
fn the_log_goes_on_without_gap_or_double_after_the_power_was_cut() {
    let script = "i=0; while true; do echo line $i; i=$((i+1)); done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| s.attach = false)
        .boot();
    let mut last = 0;
    for _ in 0..3 {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while numbers(&vm).last().is_none_or(|seq| *seq < last + 200) {
            assert!(std::time::Instant::now() < deadline, "no output");
        }
        vm.power_cut();
        let seen = numbers(&vm);
        last = *seen.last().unwrap();
        let wanted: Vec<_> = (1..=last).collect();
        assert_eq!(seen, wanted);
        vm = vm.again();
    }
    vm.power_cut();
    let seen = numbers(&vm);
    let wanted: Vec<_> = (1..=seen.len() as u64).collect();
    assert_eq!(seen, wanted);
}
