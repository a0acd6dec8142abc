//! Tether as PID 1: a container of busybox on a disk of its own, seen from the VCH and vSphere.
//!
//! Needs root, `mke2fs`, `unshare` and a static `/bin/busybox`.

#[path = "guest/ends.rs"]
mod ends;
#[path = "guest/limits.rs"]
mod limits;
#[path = "guest/machine.rs"]
mod machine;
#[path = "guest/network.rs"]
mod network;

use machine::{Builder, ID, Machine};
use tether_protocol::config::{ProcessStatus, Session};
use tether_protocol::rpci::Request;
use tether_protocol::session::{Message, PRIMARY, Stream};

fn args(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

#[test]
fn a_container_prints_and_ends_with_its_status() {
    let mut vm = Builder::new(&["sh", "-c", "echo out; echo err >&2; exit 3"]).boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    assert_eq!(vm.exit_of(PRIMARY), 3);
    assert_eq!(vm.output(PRIMARY, Stream::Stdout), "out\n");
    assert_eq!(vm.output(PRIMARY, Stream::Stderr), "err\n");
    vm.off();
    let state = vm.state("an end", |s| {
        matches!(s.status, ProcessStatus::Exited { .. })
    });
    assert_eq!(state.status, ProcessStatus::Exited { code: 3 });
    assert!(state.stopped_at > state.started_at);
    let log = vm.log();
    let numbers: Vec<_> = log.iter().map(|r| r.seq).collect();
    assert_eq!(numbers, [1, 2]);
    vm.fsck(0);
}

#[test]
fn the_container_sees_itself_alone() {
    let script = "echo pid $$; ls /proc | grep '^[0-9]' | wc -l; hostname; \
        cat /etc/hostname; readlink /proc/1/exe; pwd; env; ls /dev; ls /; cat /proc/mounts";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| s.dir = "/made/here".into())
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    assert_eq!(
        vm.exit_of(PRIMARY),
        0,
        "{}",
        vm.output(PRIMARY, Stream::Stderr)
    );
    let out = vm.output(PRIMARY, Stream::Stdout);
    assert!(out.starts_with("pid 1\n"), "{out}");
    assert!(
        out.contains("\nc0ffee000000\nc0ffee000000\n/bin/busybox\n/made/here\n"),
        "{out}"
    );
    assert!(
        out.contains("HOSTNAME=c0ffee000000\n") && out.contains("HOME=/root\n"),
        "{out}"
    );
    assert!(!out.contains("tether") && !out.contains("vmware"), "{out}");
    vm.off();
}

#[test]
fn a_terminal_is_one() {
    let mut vm = Builder::new(&["sh", "-c", "tty; stty size; read line; echo got $line"])
        .session(|s| {
            s.tty = true;
            s.open_stdin = true;
            (s.rows, s.cols) = (33, 99);
        })
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "/dev/pts/0\r\n");
    vm.type_in(PRIMARY, b"hello\n");
    assert_eq!(vm.exit_of(PRIMARY), 0);
    let out = vm.output(PRIMARY, Stream::Stdout);
    assert!(
        out.contains("33 99\r\n") && out.ends_with("got hello\r\n"),
        "{out:?}"
    );
    vm.off();
}

#[test]
fn input_ends_where_the_client_ends_it() {
    let mut vm = Builder::new(&["cat"])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    let much = vec![b'x'; 200_000];
    vm.type_in(PRIMARY, &much);
    vm.send(Message::CloseStdin { process: PRIMARY });
    assert_eq!(vm.exit_of(PRIMARY), 0);
    assert_eq!(vm.output(PRIMARY, Stream::Stdout).len(), much.len());
    vm.off();
}

#[test]
fn a_program_that_is_not_there_has_dockers_words() {
    let mut vm = Builder::new(&["nope"]).boot();
    let state = vm.state("an error", |s| {
        matches!(s.status, ProcessStatus::Failed { .. })
    });
    let ProcessStatus::Failed { error, code } = state.status else {
        unreachable!()
    };
    assert_eq!(code, 127);
    assert!(
        error.ends_with("exec: \"nope\": executable file not found in $PATH: unknown"),
        "{error}"
    );
    vm.off();
    vm.fsck(0);
}

#[test]
fn execs_join_the_container() {
    let mut vm = Builder::new(&["sh", "-c", "read x"])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    let script = "echo in $$; cat; readlink /proc/1/exe; env | grep -c A=1; exit 7";
    let spec = Session {
        args: args(&["sh", "-c", script]),
        env: args(&["A=1"]),
        open_stdin: true,
        ..Default::default()
    };
    vm.send(Message::Exec {
        process: 2,
        id: "e1".into(),
        spec: spec.clone(),
    });
    vm.subscribe(2);
    let pid = vm.message("a start", |m| match m {
        Message::Started {
            process: 2, pid, ..
        } => Some(*pid),
        _ => None,
    });
    vm.type_in(2, b"typed\n");
    vm.send(Message::CloseStdin { process: 2 });
    assert_eq!(vm.exit_of(2), 7);
    assert_eq!(
        vm.output(2, Stream::Stdout),
        format!("in {pid}\ntyped\n/bin/busybox\n1\n")
    );
    // A terminal, and a failure, at once.
    let spec = Session {
        args: args(&["tty"]),
        tty: true,
        ..Default::default()
    };
    vm.send(Message::Exec {
        process: 3,
        id: "e2".into(),
        spec,
    });
    vm.subscribe(3);
    let spec = Session {
        args: args(&["nope"]),
        ..Default::default()
    };
    vm.send(Message::Exec {
        process: 4,
        id: "e3".into(),
        spec,
    });
    let error = vm.message("a failure", |m| match m {
        Message::Failed {
            process: 4,
            error,
            code: 127,
        } => Some(error.clone()),
        _ => None,
    });
    assert!(
        error.starts_with("OCI runtime exec failed: exec failed:"),
        "{error}"
    );
    assert_eq!(vm.exit_of(3), 0);
    assert_eq!(vm.output(3, Stream::Stdout), "/dev/pts/0\r\n");
    vm.send(Message::List { request: 9 });
    let rows = vm.message("a list", |m| match m {
        Message::Processes { request: 9, rows } => Some(rows.clone()),
        _ => None,
    });
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].pid, rows[0].command.as_str()), (1, "sh -c read x"));
    vm.type_in(PRIMARY, b"\n");
    assert_eq!(vm.exit_of(PRIMARY), 0);
    vm.off();
    vm.fsck(0);
}

#[test]
fn a_new_vch_finds_what_runs_and_a_cut_line_loses_nothing() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; read x";
    let builder = Builder::new(&["sh", "-c", script]).session(|s| s.open_stdin = true);
    let identity = builder.identity.clone();
    let mut vm = builder.boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "line 10\n");
    vm.cut();
    vm.connect();
    vm.until(PRIMARY, "line 9000\n");
    vm.cut();
    vm.connect();
    vm.until(PRIMARY, "line 19999\n");
    let out = vm.output(PRIMARY, Stream::Stdout);
    let wanted: String = (0..20000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(out, wanted);
    vm.forget(&identity);
    vm.messages.clear();
    vm.connect();
    let known = vm.message("an inventory", |m| match m {
        Message::Inventory { processes, .. } => Some(processes.clone()),
        _ => None,
    });
    assert_eq!(
        (known[0].process, known[0].id.as_str(), known[0].pid),
        (PRIMARY, ID, Some(1))
    );
    vm.subscribe(PRIMARY);
    vm.type_in(PRIMARY, b"\n");
    assert_eq!(vm.exit_of(PRIMARY), 0);
    vm.off();
}

#[test]
fn volumes_are_filled_once_and_stay_clean() {
    let script = "cat /data/sub/file; echo more > /data/new; stat -c %a /data; ls -A /plain";
    let mut vm = Builder::new(&["sh", "-c", script])
        .volume("/data", true)
        .volume("/plain/deep", false)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    assert_eq!(
        vm.exit_of(PRIMARY),
        0,
        "{}",
        vm.output(PRIMARY, Stream::Stderr)
    );
    assert_eq!(
        vm.output(PRIMARY, Stream::Stdout),
        "from the image755\ndeep\n"
    );
    vm.off();
    (0..3).for_each(|disk| vm.fsck(disk));
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let script =
        "trap 'exit 9' TERM; readlink /proc/1/exe; echo $$; while true; do read -t 1 x; done";
    let mut vm = Builder::new(&["sh", "-c", script])
        .session(|s| {
            s.init = true;
            s.open_stdin = true;
        })
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.until(PRIMARY, "\n2\n");
    vm.send(Message::Signal {
        process: PRIMARY,
        signal: 15,
    });
    assert_eq!(vm.exit_of(PRIMARY), 9);
    vm.off();
}

#[test]
fn pause_freezes_and_thaws() {
    let mut vm = Builder::new(&["cat"])
        .session(|s| s.open_stdin = true)
        .boot();
    vm.connect();
    vm.subscribe(PRIMARY);
    vm.type_in(PRIMARY, b"before\n");
    vm.until(PRIMARY, "before\n");
    vm.send(Message::Freeze { frozen: true });
    vm.message("frozen", |m| {
        (*m == Message::Frozen { frozen: true }).then_some(())
    });
    vm.type_in(PRIMARY, b"during\n");
    vm.send(Message::List { request: 1 });
    vm.message("a list", |m| {
        matches!(m, Message::Processes { .. }).then_some(())
    });
    assert_eq!(vm.output(PRIMARY, Stream::Stdout), "before\n");
    vm.send(Message::Freeze { frozen: false });
    vm.until(PRIMARY, "during\n");
    vm.send(Message::CloseStdin { process: PRIMARY });
    assert_eq!(vm.exit_of(PRIMARY), 0);
    vm.off();
}

#[test]
fn the_appliance_supervises_what_it_is_told() {
    let script = "cat /run/vch/config.json; cat /etc/hosts; echo; echo run >> /run/count; \
        [ $(wc -l < /run/count) = 3 ] && while true; do read -t 9 x; done; exit 4";
    let session = Session {
        args: args(&["/bin/sh", "-c", script]),
        restart: true,
        ..Default::default()
    };
    let mut vm = Machine::appliance("vch", session);
    vm.tell(Request::Ping);
    vm.until_variable(
        "guestinfo.vice..sessions|vch.diagnostics.resurrections",
        "2",
    );
    vm.tell(Request::Halt);
    vm.off();
    let text: Vec<u8> = vm.log().into_iter().flat_map(|r| r.data).collect();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("\"password\":\"hunter2\""), "{text}");
    assert!(text.contains("127.0.0.1\tlocalhost"), "{text}");
}
