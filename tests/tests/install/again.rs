//! What a later `up` may change, what it needs, and what `env` is good for.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::registry::free_port;
use system_tests::run::{run, run_within};
use system_tests::world::{Options, World};

/// What this part shows.
pub const TESTS: &[super::Test] = &[
    (
        "a_later_up_with_other_insecure_registries_honours_them",
        registries,
    ),
    (
        "vsphere_clients_trust_the_authority_that_env_names",
        authority,
    ),
    ("up_needs_root_and_says_so", root),
];

fn registries() -> Result<()> {
    let mut world = World::start(Options::default())?;
    let port = world.registry.port;
    let image = format!("host.docker.internal:{port}/test/busybox:1");
    world.docker(&["pull", "-q", &image])?.ok()?;
    world.docker(&["rmi", &image])?.ok()?;

    // Another one is named: this one is no longer insecure, and it speaks http only.
    world.down()?;
    world.up_with(&["--insecure-registry", "another.test:5000"])?;
    let refused = world.docker(&["pull", "-q", &image])?;
    ensure!(
        refused.code() == 1 && refused.stderr.contains("HTTP response to HTTPS client"),
        "{refused:?}"
    );

    // Nothing is named: it stays so. The registry's port of this machine is still open to containers.
    world.down()?;
    world.up_with(&[])?;
    let refused = world.docker(&["pull", "-q", &image])?;
    ensure!(
        refused.code() == 1 && refused.stderr.contains("HTTP response to HTTPS client"),
        "{refused:?}"
    );

    // Named again, it is insecure again.
    world.down()?;
    let named = format!("host.docker.internal:{port}");
    world.up_with(&["--insecure-registry", &named])?;
    world.docker(&["pull", "-q", &image])?.ok()?;
    Ok(())
}

/// A client on govmomi's library that reads govc's variables.
fn govls() -> Result<PathBuf> {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("govls");
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .arg(&out)
        .arg(".")
        .current_dir(system_tests::root().join("tests/peers/govls"))
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode");
    run_within(&mut build, b"", Duration::from_secs(300))?
        .ok()
        .context("building a client with golang-github-vmware-govmomi-dev")?;
    Ok(out)
}

fn authority() -> Result<()> {
    let govls = govls()?;
    let world = World::start(Options::default())?;
    let authority = world.env("GOVC_TLS_CA_CERTS")?;
    ensure!(
        world.env("GOVC_INSECURE").is_err(),
        "there is an authority: nothing has to be insecure"
    );
    let client = |authorities: Option<&str>| -> Result<Command> {
        let mut command = Command::new(&govls);
        for name in ["GOVC_URL", "GOVC_USERNAME", "GOVC_PASSWORD"] {
            command.env(name, world.env(name)?);
        }
        command
            .env_remove("GOVC_TLS_CA_CERTS")
            .env_remove("GOVC_INSECURE");
        if let Some(path) = authorities {
            command.env("GOVC_TLS_CA_CERTS", path);
        }
        Ok(command)
    };
    let listed = run(&mut client(Some(authority))?, b"")?.ok()?;
    ensure!(listed.lines().any(|name| name == "vch"), "{listed}");
    // Trust comes from nowhere else, and not from the docker API's authority.
    for other in [
        None,
        Some(format!("{}/ca.pem", world.env("DOCKER_CERT_PATH")?)),
    ] {
        let ran = run(&mut client(other.as_deref())?, b"")?;
        ensure!(
            ran.code() == 1
                && ran
                    .stderr
                    .contains("certificate signed by unknown authority"),
            "{ran:?}"
        );
    }
    // vic-machine itself too needs no thumbprint with it.
    let mut ls = Command::new(system_tests::program("vic-machine")?);
    ls.args(["ls", "--target", world.env("GOVC_URL")?])
        .args(["--user", world.env("GOVC_USERNAME")?])
        .args(["--password", world.env("GOVC_PASSWORD")?])
        .current_dir(world.scratch())
        .env("SSL_CERT_FILE", authority);
    let listed = run(&mut ls, b"")?.ok()?;
    ensure!(listed.contains("Up to date"), "{listed}");
    Ok(())
}

fn root() -> Result<()> {
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let program = dir.path().join("vic-machine");
    std::fs::copy(system_tests::program("vic-machine")?, &program)?;
    let home = dir.path().join("home");
    std::fs::create_dir(&home)?;
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY))?;
    let mut command = Command::new(&program);
    command
        .args(["up", "--detach", "--state"])
        .arg(home.join("state"))
        .args(["--port", &free_port()?.to_string()])
        .current_dir(&home)
        .uid(NOBODY)
        .gid(NOBODY);
    let ran = run(&mut command, b"")?;
    ensure!(
        ran.code() == 1 && ran.stdout.contains("'up' needs root"),
        "{ran:?}"
    );
    ensure!(!home.join("state").exists(), "nothing is begun");
    Ok(())
}
