//! The same commands against another vSphere simulator: that of govmomi, built from Debian's packages.
//!
//! What it does not allow: its VMs run nothing and report no address, so the test says in the VCH's place that
//! docker is served, and nothing of the VCH's own is on its datastore but what was uploaded.

use vmomi::ManagedObjectReference;
use vmomi::types::EnableRulesetRequest;

use crate::debsim::Debsim;
use crate::stage::{Stage, Target};

/// A running peer.
pub struct Peer {
    _program: Debsim,
    pub host: String,
    pub thumbprint: String,
}

/// A stage on the peer; none where it cannot be had.
async fn stage(esx: bool) -> Option<Stage> {
    let program = Debsim::start(if esx {
        &["-vm", "0", "-esx"]
    } else {
        &["-vm", "0"]
    })?;
    let url = program.url.as_str();
    let host = url.split_once('@').map_or(url, |(_, host)| host);
    let host = host.trim_end_matches("/sdk").to_owned();
    let peer = Peer {
        _program: program,
        host: host.clone(),
        thumbprint: String::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage::with(dir, Target::Peer(peer), "user".into(), "pass".into());
    // What a user does who does not know the thumbprint: the error tells it.
    let run = stage
        .bare(&[
            "ls",
            "--target",
            &host,
            "--user",
            "user",
            "--password",
            "pass",
        ])
        .await;
    assert_eq!(run.code, Some(1), "{}", run.text);
    let (_, told) = run.text.split_once("(thumbprint=").unwrap();
    let (thumbprint, _) = told.split_once(')').unwrap();
    stage.learn(thumbprint);
    Some(stage)
}

/// Lets serial lines out, as an admin does it.
async fn open_firewalls(stage: &Stage) {
    let client = stage.client().await;
    let root = client.content().root_folder.clone();
    let path = "configManager.firewallSystem";
    let hosts = client.below(&root, &["HostSystem"], &[path]).await.unwrap();
    for host in hosts {
        let system: ManagedObjectReference = host.get(path).unwrap();
        let id = "vSPC".to_owned();
        client
            .invoke(&system, EnableRulesetRequest { id })
            .await
            .unwrap();
    }
    client.close().await.unwrap();
}

/// Makes, lists, inspects and deletes; nothing is left.
async fn whole_life(stage: &Stage, more: &[&str]) {
    let before = stage.inventory().await;
    stage.play_vch("peer-vch").await;
    let mut create = vec![
        "create",
        "--name",
        "peer-vch",
        "--tls-cname",
        "192.0.2.7",
        "--timeout",
        "60s",
    ];
    create.extend(more);
    // Its hosts let no serial line out, as real ones: that is told, and nothing is made.
    let run = stage.run(&create).await;
    assert!(
        run.code == Some(1)
            && run
                .text
                .contains("Firewall configuration INCORRECT on hosts:"),
        "{}",
        run.text
    );
    assert_eq!(stage.inventory().await, before);
    open_firewalls(stage).await;
    let run = stage.run(&create).await;
    assert!(run.success, "{}", run.text);
    assert!(
        run.text.contains("Firewall configuration OK on hosts:")
            && run.text.contains("Installer completed successfully"),
        "{}",
        run.text
    );
    let made = stage.inventory().await;
    for wanted in ["VirtualMachine peer-vch", "ResourcePool peer-vch"] {
        assert!(made.iter().any(|one| one == wanted), "{wanted}: {made:?}");
    }

    let run = stage.run(&["ls"]).await;
    let row = run.text.lines().find(|line| line.contains("peer-vch"));
    assert!(
        run.success && row.is_some_and(|row| row.contains("Up to date")),
        "{}",
        run.text
    );
    let run = stage.run(&["inspect", "--name", "peer-vch"]).await;
    assert!(
        run.success
            && run.text.contains("Installer has same version as VCH")
            && run.text.contains("docker -H 192.0.2.7:2376 --tlsverify"),
        "{}",
        run.text
    );
    let run = stage.run(&create).await;
    assert!(
        run.code == Some(1) && run.text.contains("already exists"),
        "{}",
        run.text
    );
    let run = stage
        .run(&["delete", "--name", "peer-vch", "--force"])
        .await;
    assert!(run.success, "{}", run.text);
    assert_eq!(stage.inventory().await, before);
    let run = stage.run(&["delete", "--name", "peer-vch"]).await;
    assert!(
        run.code == Some(1) && run.text.contains("Didn't find VM \"peer-vch\""),
        "{}",
        run.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_lives_on_an_esxi_host_of_govmomis_simulator() {
    let Some(stage) = stage(true).await else {
        return;
    };
    whole_life(&stage, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_lives_on_a_cluster_of_govmomis_simulator() {
    let Some(stage) = stage(false).await else {
        return;
    };
    let options = [
        "--bridge-network",
        "DC0_DVPG0",
        "--compute-resource",
        "DC0_C0",
    ];
    whole_life(&stage, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn govmomis_simulator_is_not_talked_to_under_another_thumbprint() {
    let Some(stage) = stage(true).await else {
        return;
    };
    let wrong = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33";
    for command in ["create", "ls", "inspect", "delete"] {
        let options = [command, "--name", "x"];
        let options = if command == "ls" {
            &options[..1]
        } else {
            &options
        };
        let more = ["--no-tls"];
        let more = if command == "create" { &more[..] } else { &[] };
        let run = stage
            .run_as(&[options, more].concat(), &["--thumbprint", wrong])
            .await;
        assert!(
            run.code == Some(1) && run.text.contains("thumbprint does not match"),
            "{}",
            run.text
        );
    }
}
