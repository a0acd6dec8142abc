//! The question for the password, on a real terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use simulator::Config;

use crate::stage::Stage;

/// Reads from the terminal until `wanted` was shown.
fn shows(terminal: &mut File, seen: &mut String, wanted: &str) {
    let mut bytes = [0; 4096];
    while !seen.contains(wanted) {
        let count = terminal.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "never shown {wanted:?}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

/// Waits until the terminal shows (or hides) what is typed.
fn echoes(terminal: &OwnedFd, wanted: bool) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let flags = tcgetattr(terminal).unwrap().local_flags;
        if flags.contains(LocalFlags::ECHO) == wanted {
            return;
        }
        assert!(Instant::now() < end, "echo does not become {wanted}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_password_is_asked_for_with_echo_off_and_on_again() {
    let stage = Stage::new(Config::esx("")).await;
    let pty = openpty(None, None).unwrap();
    let mut terminal = File::from(pty.master);
    echoes(&pty.slave, true);
    // A session of its own, whose terminal this is, as `script` and ssh do it.
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(env!("CARGO_BIN_EXE_vic-machine"))
        .args(["ls", "--target", &stage.host(), "--user", "root"])
        .args(["--thumbprint", &stage.thumbprint()])
        .current_dir(stage.dir())
        .env("HOME", stage.dir())
        .env_remove("VIC_MACHINE_PASSWORD")
        .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
        .stdout(Stdio::from(pty.slave.try_clone().unwrap()))
        .stderr(Stdio::from(pty.slave.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let mut seen = String::new();
    shows(
        &mut terminal,
        &mut seen,
        "Please enter ESX or vCenter password:",
    );
    echoes(&pty.slave, false);
    terminal.write_all(b"password\n").unwrap();
    shows(&mut terminal, &mut seen, "### Listing VCHs ####");
    shows(&mut terminal, &mut seen, "UPGRADE STATUS");
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success(), "{seen}");
    echoes(&pty.slave, true);
    let own_line = seen.lines().any(|line| line.trim() == "password");
    assert!(!own_line, "the password is shown: {seen}");
    stage.stop().await;
}
