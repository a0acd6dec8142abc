//! The debug socket itself: the live tree, and that it is there only when it was asked for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::image::Recipe;
use system_tests::installed::{Installed, until};
use system_tests::world::path;

use super::debug::{Entry, Socket};
use super::workload::{IMAGE, TICKER, start_ticker};

/// The tests of this file.
pub const TESTS: &[(&str, super::Test)] = &[
    (
        "the_live_tree_is_printed_by_the_debug_socket",
        tree_is_printed,
    ),
    ("without_debug_3_there_is_no_debug_socket", without),
];

/// How long a state may take to come.
const SOON: Duration = Duration::from_secs(30);

fn tree_is_printed() -> Result<()> {
    let vch = Installed::create(3)?;
    let debug = Socket(vch.debug_socket());
    for (path, kind) in [
        ("vch", "vch"),
        ("vch/vsphere", "vsphere"),
        ("vch/vsphere/watch", "watch"),
        ("vch/appliance", "appliance"),
        ("vch/events", "events"),
        ("vch/images", "images"),
        ("vch/images/repository", "repository"),
        ("vch/volumes", "volumes"),
        ("vch/networks", "networks"),
        ("vch/networks/bridge", "network"),
        ("vch/containers", "containers"),
        ("vch/serial", "serial"),
        ("vch/personas", "personas"),
        ("vch/personas/docker", "docker"),
    ] {
        ensure!(find(debug, path)?.kind == kind, "{path} is no {kind}");
    }
    let busybox = vch.archive(&Recipe::busybox(IMAGE))?;
    vch.docker(&["load", "-q", "-i", path(&busybox)?])?.ok()?;
    vch.docker(&["volume", "create", "kept"])?.ok()?;
    start_ticker(&vch)?;
    let id = vch.docker(&["inspect", "-f", "{{.Id}}", TICKER])?.ok()?;
    let container = format!("vch/containers/{}", &id[..12]);
    let is = |path: &str, kind: &str| {
        until(SOON, || {
            ensure!(find(debug, path)?.kind == kind, "{path} is no {kind}");
            Ok(())
        })
    };
    is("vch/volumes/kept", "volume")?;
    is(&container, "container")?;
    is(&format!("{container}/link"), "link")?;
    let layers = debug.tree()?.iter().filter(|e| e.kind == "layer").count();
    ensure!(layers == 2, "{layers} layers of an image that has two");
    // An exec is in the tree as long as it runs, and its container is busy with nothing else.
    vch.docker(&[
        "exec",
        "-d",
        TICKER,
        "sh",
        "-c",
        "until [ -e /go ]; do sleep 0.05; done",
    ])?
    .ok()?;
    let exec = || {
        let tree = debug.tree()?;
        let exec = tree.into_iter().find(|e| e.kind == "exec");
        exec.context("no exec in the tree")
    };
    let running = until(SOON, exec)?;
    ensure!(
        running.path.starts_with(&format!("{container}/")),
        "{running:?}"
    );
    // A killed actor has a successor of the same name, which is another one.
    let killed = debug.kill("vch/networks/bridge")?.context("killed")?;
    until(SOON, || {
        let next = find(debug, "vch/networks/bridge")?;
        ensure!(next.actor != killed.actor, "{next:?} is still there");
        Ok(())
    })?;
    ensure!(debug.kill("vch/nobody")?.is_none());
    vch.docker(&["rm", "-f", TICKER])?.ok()?;
    until(SOON, || {
        let left = debug.tree()?;
        ensure!(
            !left.iter().any(|e| e.path.starts_with(&container)),
            "{left:?}"
        );
        Ok(())
    })?;
    vch.docker(&["volume", "rm", "kept"])?.ok()?;
    until(SOON, || {
        let left = debug.tree()?;
        ensure!(!left.iter().any(|e| e.kind == "volume"), "{left:?}");
        Ok(())
    })
}

fn find(debug: Socket, path: &str) -> Result<Entry> {
    let tree = debug.tree()?;
    let found = tree.iter().find(|e| e.path == path).cloned();
    found.with_context(|| format!("no {path} in {tree:#?}"))
}

fn without() -> Result<()> {
    let with = Installed::create(3)?;
    ensure!(
        listens(&with)? && answers(with.debug_socket()),
        "no debug socket with --debug 3"
    );
    drop(with);
    let vch = Installed::create(2)?;
    vch.docker(&["version"])?.ok()?;
    ensure!(!listens(&vch)?, "vch listens on its debug port");
    ensure!(!answers(vch.debug_socket()), "the debug socket answers");
    Ok(())
}

/// Whether something listens on the debug port in the appliance.
fn listens(vch: &Installed) -> Result<bool> {
    // Port 2390; state 0A is LISTEN.
    let listening = |table: &str| {
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(":0956"))
                && fields.nth(1) == Some("0A")
        })
    };
    let pid = vch.vch()?;
    let v4 = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let v6 = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    Ok(listening(&v4) || listening(&v6))
}

/// Whether somebody prints a tree there.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"tree\n")?;
        stream.read(&mut [0; 64])
    };
    ask().is_ok_and(|count| count > 0)
}
