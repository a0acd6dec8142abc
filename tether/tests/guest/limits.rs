//! What a container may do, and what tether is.

use tether_protocol::config::Session;
use tether_protocol::session::{Message, PRIMARY, Stream};

use crate::machine::{Builder, program};

#[test]
fn users_capabilities_and_walls_are_dockers() {
    let script = "id; grep Cap /proc/self/status; mount -t tmpfs x /root; unshare -n true; \
        mknod /root/x c 1 3 && echo made; touch /proc/sys/kernel/domainname; echo done";
    let mut vm = Builder::new(&["sh", "-c", script]).boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.exit_of(PRIMARY);
    let (out, err) = (
        vm.output(PRIMARY, Stream::Stdout),
        vm.output(PRIMARY, Stream::Stderr),
    );
    assert!(out.contains("uid=0(root) gid=0(root)"), "{out}");
    assert!(out.contains("CapBnd:\t00000000a80425fb") && out.contains("CapEff:\t00000000a80425fb"));
    assert!(err.contains("mount: permission denied") || err.contains("Operation not permitted"));
    assert!(err.contains("unshare"), "{err}");
    assert!(out.contains("done"));
    vm.off();
    let mut vm = Builder::new(&[
        "sh",
        "-c",
        "id; grep CapEff /proc/self/status; echo x > /dev/stdout",
    ])
    .session(|s| s.user = "web".into())
    .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.exit_of(PRIMARY);
    let out = vm.output(PRIMARY, Stream::Stdout);
    assert!(
        out.contains("uid=33(web) gid=33(web) groups=33(web),77(extra)"),
        "{out}"
    );
    assert!(
        out.contains("CapEff:\t0000000000000000") && out.ends_with("x\n"),
        "{out}"
    );
    vm.off();
}

#[test]
fn tether_needs_nothing_of_the_image() {
    let elf = std::fs::read(program()).unwrap();
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "64-bit, little-endian");
    let number = |at: usize, length: usize| {
        let bytes = elf[at..at + length].iter().rev();
        bytes.fold(0usize, |n, byte| n << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<_> = (0..count).map(|i| number(table + i * size, 4)).collect();
    // PT_LOAD is there, PT_INTERP is not: the kernel starts it without a dynamic loader.
    assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
}

#[test]
fn a_container_has_as_many_processes_as_it_may() {
    let script = "sleep 600 & sleep 600 & echo two; read x; sleep 600 & echo three; read x; \
        (sleep 600 &) ; echo four; read x";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| {
            s.open_stdin = true;
            s.security.pids_limit = 5;
        })
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "two\n");
    // An exec counts too: the fifth is there for the moment, the sixth is not.
    let exec = |process, script: &str| Message::Exec {
        process,
        id: process.to_string(),
        spec: Session {
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            open_stdin: true,
            ..Default::default()
        },
    };
    vm.send(exec(
        2,
        "echo up; read x; true & true & true & wait; echo all",
    ));
    vm.subscribe(2);
    vm.until(2, "up\n");
    vm.type_in(PRIMARY, b"\n");
    vm.until(PRIMARY, "three\n");
    vm.type_in(2, b"\n");
    assert_ne!(vm.exit_of(2), 0);
    let error = vm.output(2, Stream::Stderr);
    assert!(error.contains("can't fork"), "{error}");
    assert!(!vm.output(2, Stream::Stdout).contains("all"));
    // The sixth of its own is refused alike, and the shell gives up.
    vm.send(exec(3, "read x"));
    vm.subscribe(3);
    vm.message("a start", |m| {
        matches!(m, Message::Started { process: 3, .. }).then_some(())
    });
    vm.type_in(PRIMARY, b"\n");
    assert_ne!(vm.exit_of(PRIMARY), 0);
    let error = vm.output(PRIMARY, Stream::Stderr);
    assert!(error.contains("can't fork"), "{error}");
    vm.off();
}
