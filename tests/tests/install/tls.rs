//! Each way of TLS, against VCHs that `vic-machine create` made: who is let in, and who is not.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::run::{Ran, run};
use system_tests::world::{Options, World, path};

use super::vsphere::VSphere;

/// What this part shows.
pub const TESTS: &[super::Test] = &[
    (
        "clients_with_a_certificate_of_the_vch_s_authority_are_let_in_and_no_others",
        verified,
    ),
    (
        "without_tlsverify_anybody_is_let_in_over_tls_and_without_tls_in_the_clear",
        unverified,
    ),
    (
        "a_wrong_thumbprint_is_refused_and_an_authority_will_do",
        thumbprint,
    ),
    (
        "the_certificate_is_made_out_for_127_0_0_1_localhost_and_its_own_address",
        names,
    ),
];

const VERSION: [&str; 3] = ["version", "--format", "{{.Server.Os}}"];

/// TLS options of the docker CLI for the certificates in `dir`.
fn certificates(dir: &Path) -> [String; 4] {
    let file = |option: &str, name: &str| format!("--{option}={}", dir.join(name).display());
    [
        "--tlsverify".to_owned(),
        file("tlscacert", "ca.pem"),
        file("tlscert", "cert.pem"),
        file("tlskey", "key.pem"),
    ]
}

fn ask(vsphere: &VSphere, host: &str, port: u16, options: &[String]) -> Result<Ran> {
    let options = options.iter().map(String::as_str);
    vsphere.docker(host, port, &options.chain(VERSION).collect::<Vec<_>>())
}

/// Fails unless the CLI failed and said one of `reasons`.
fn refused(ran: Ran, reasons: &[&str]) -> Result<()> {
    let said = ran.stderr.clone() + &ran.stdout;
    ensure!(
        ran.code() != 0 && reasons.iter().any(|reason| said.contains(reason)),
        "not refused with {reasons:?}: {ran:?}"
    );
    Ok(())
}

fn verified() -> Result<()> {
    let (vsphere, [port, other_port]) = VSphere::start([("safe", 2376), ("other", 2376)])?;
    let made = vsphere
        .vic_machine(&[
            "create",
            "--name=safe",
            "--tls-cname=127.0.0.1",
            "--tls-cname=*.vch.test",
        ])?
        .ok()?;
    for wanted in ["Generating CA", "Generating server", "Generating client"] {
        ensure!(made.contains(wanted), "{wanted}: {made}");
    }
    let dir = vsphere.scratch().join("safe");
    let own = certificates(&dir);
    ensure!(ask(&vsphere, "127.0.0.1", port, &own)?.ok()? == "linux");

    // The file for shells says the same; only the address is the appliance's own.
    let environment = std::fs::read_to_string(dir.join("safe.env"))?;
    let (verify, cert_path) = (
        "DOCKER_TLS_VERIFY=1\n",
        format!("DOCKER_CERT_PATH={}\n", dir.canonicalize()?.display()),
    );
    ensure!(
        environment.contains(verify) && environment.contains(&cert_path),
        "{environment}"
    );

    // Another VCH has another authority: its clients are strangers here, and its server to ours.
    let other = ["create", "--name=other", "--tls-cname=127.0.0.1"];
    vsphere.vic_machine(&other)?.ok()?;
    let foreign = certificates(&vsphere.scratch().join("other"));
    ensure!(ask(&vsphere, "127.0.0.1", other_port, &foreign)?.ok()? == "linux");
    let mixed = [&own[..2], &foreign[2..]].concat();
    refused(
        ask(&vsphere, "127.0.0.1", port, &mixed)?,
        &["unknown certificate authority", "bad certificate", "tls: "],
    )?;
    refused(
        ask(&vsphere, "127.0.0.1", other_port, &own)?,
        &["certificate signed by unknown authority"],
    )?;
    refused(
        ask(&vsphere, "127.0.0.1", port, &own[..2])?,
        &["certificate required", "bad certificate"],
    )?;
    refused(
        ask(&vsphere, "127.0.0.1", port, &[])?,
        &[
            "HTTP request to an HTTPS server",
            "malformed HTTP",
            "EOF",
            "reset",
        ],
    )?;
    refused(ask(&vsphere, "localhost", port, &own)?, &["not localhost"])?;
    shakes_hands(&dir, port, "any.vch.test")?;
    ensure!(
        shakes_hands(&dir, port, "vch.test").is_err(),
        "a wildcard is for one label"
    );

    // Both are there, each with its own network; deleting one leaves the other.
    let listed = vsphere.vic_machine(&["ls"])?.ok()?;
    ensure!(
        listed.contains("safe") && listed.contains("other"),
        "{listed}"
    );
    let gone = ["delete", "--name=other", "--force"];
    vsphere.vic_machine(&gone)?.ok()?;
    ensure!(ask(&vsphere, "127.0.0.1", port, &own)?.ok()? == "linux");
    let inspected = vsphere.vic_machine(&["inspect", "--name=safe"])?.ok()?;
    ensure!(
        inspected.contains(&cert_path.replace('\n', "")) && inspected.contains("--tlsverify"),
        "{inspected}"
    );
    Ok(())
}

fn unverified() -> Result<()> {
    let (vsphere, [open, plain, supplied]) =
        VSphere::start([("open", 2376), ("plain", 2375), ("supplied", 2376)])?;
    let create = [
        "create",
        "--name=open",
        "--no-tlsverify",
        "--tls-cname=127.0.0.1",
    ];
    let made = vsphere.vic_machine(&create)?.ok()?;
    ensure!(
        made.contains("certificate-based authentication disabled"),
        "{made}"
    );
    // Encrypted, and nobody is asked for a certificate.
    let tls = ["--tls".to_owned(), "--tlscacert=".to_owned()];
    ensure!(ask(&vsphere, "127.0.0.1", open, &tls)?.ok()? == "linux");
    refused(
        ask(&vsphere, "127.0.0.1", open, &[])?,
        &[
            "HTTP request to an HTTPS server",
            "malformed HTTP",
            "EOF",
            "reset",
        ],
    )?;
    // Its own certificate is its only authority.
    let own = vsphere.scratch().join("open/server-cert.pem");
    let trusting = [
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", own.display()),
    ];
    ensure!(ask(&vsphere, "127.0.0.1", open, &trusting)?.ok()? == "linux");

    let made = vsphere
        .vic_machine(&["create", "--name=plain", "--no-tls"])?
        .ok()?;
    ensure!(
        made.contains("all communications will be insecure")
            && made.contains(":2375 info")
            && !made.contains("Generating"),
        "{made}"
    );
    ensure!(ask(&vsphere, "127.0.0.1", plain, &[])?.ok()? == "linux");
    refused(
        ask(&vsphere, "127.0.0.1", plain, &tls)?,
        &["HTTP response to HTTPS client", "handshake", "tls: "],
    )?;

    // Certificates that the admin brings: here those of a VCH that was planned and never made.
    let scratch = vsphere.scratch();
    let wrong = "--compute-resource=nowhere";
    let plan = ["create", "--name=brought", "--tls-cname=127.0.0.1", wrong];
    ensure!(vsphere.vic_machine(&plan)?.code() == 1);
    let brought = scratch.join("brought");
    let file = |option: &str, name: &str| format!("--{option}={}", brought.join(name).display());
    let (certificate, key, authority) = (
        file("tls-server-cert", "server-cert.pem"),
        file("tls-server-key", "server-key.pem"),
        file("tls-ca", "ca.pem"),
    );
    vsphere
        .vic_machine(&["create", "--name=supplied", &certificate, &key, &authority])?
        .ok()?;
    let clients = certificates(&brought);
    ensure!(ask(&vsphere, "127.0.0.1", supplied, &clients)?.ok()? == "linux");
    refused(
        ask(&vsphere, "127.0.0.1", supplied, &clients[..2])?,
        &["certificate required", "bad certificate"],
    )
}

fn thumbprint() -> Result<()> {
    let (vsphere, []) = VSphere::start([])?;
    let wrong = "--thumbprint=00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33";
    for args in [
        &["create", "--name=x", "--no-tls", wrong][..],
        &["ls", wrong],
        &["inspect", wrong],
        &["delete", wrong],
    ] {
        let ran = run(&mut vsphere.stranger(args)?, b"")?;
        ensure!(
            ran.code() == 1 && ran.stdout.contains("thumbprint does not match"),
            "{ran:?}"
        );
    }
    // Without one, the error tells the one to give; with it, or its SHA-1 in small letters, all is well.
    let ran = run(&mut vsphere.stranger(&["ls"])?, b"")?;
    let told = format!("--thumbprint={}", vsphere.thumbprint);
    ensure!(ran.code() == 1 && ran.stdout.contains(&told), "{ran:?}");
    let small = told.to_lowercase();
    for right in [&told, &small] {
        run(&mut vsphere.stranger(&["ls", right])?, b"")?.ok()?;
    }
    let listed = run(&mut vsphere.stranger(&["ls", &told])?, b"")?.ok()?;
    ensure!(!listed.contains("Up to date"), "a VCH was made: {listed}");
    // A server that a trusted authority has signed needs none.
    let mut trusting = vsphere.stranger(&["ls"])?;
    trusting.env("SSL_CERT_FILE", vsphere.authorities());
    run(&mut trusting, b"")?.ok()?;
    Ok(())
}

fn names() -> Result<()> {
    let world = World::start(Options::default())?;
    let dir = Path::new(world.env("DOCKER_CERT_PATH")?);
    let port = world
        .env("DOCKER_HOST")?
        .rsplit(':')
        .next()
        .context("port")?;
    let port: u16 = port.parse()?;
    let state = std::fs::read_to_string(world.state().join("up.json"))?;
    let state: serde_json::Value = serde_json::from_str(&state)?;
    let own = state["address"].as_str().context("its own address")?;
    for name in ["127.0.0.1", "localhost", own] {
        shakes_hands(dir, port, name).with_context(|| format!("as {name}"))?;
    }
    // The docker CLI checks the name too.
    for name in ["127.0.0.1", "localhost"] {
        let mut docker = world.docker_command();
        docker
            .env("DOCKER_HOST", format!("tcp://{name}:{port}"))
            .args(VERSION);
        ensure!(run(&mut docker, b"")?.ok()? == "linux", "{name}");
    }
    for name in ["127.0.0.2", "vch.test"] {
        let answer = shakes_hands(dir, port, name);
        let why = answer.err().map(|error| format!("{error:#}"));
        ensure!(
            why.as_ref().is_some_and(|why| why.contains("subject")),
            "as {name}: {why:?}"
        );
    }
    Ok(())
}

/// Asks for a ping over TLS, the server being called `name` wherever it is, with the certificates of `dir`.
fn shakes_hands(dir: &Path, port: u16, name: &str) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "30",
    ])
    .args(["--connect-to", &format!("::127.0.0.1:{port}")])
    .args(["--cacert", path(&dir.join("ca.pem"))?])
    .args(["--cert", path(&dir.join("cert.pem"))?])
    .args(["--key", path(&dir.join("key.pem"))?])
    .arg(format!("https://{name}:{port}/_ping"));
    let answer = run(&mut curl, b"")?.ok()?;
    ensure!(answer == "OK", "{answer}");
    Ok(())
}
