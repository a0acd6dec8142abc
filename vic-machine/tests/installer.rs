//! `vic-machine` as a user runs it, against the simulator: what it prints, what it makes, what it leaves.
//!
//! Nothing runs inside the VMs here: the test plays the VCH and says that docker is served.

#![allow(clippy::unwrap_used)]

#[path = "../../tests/peers/debsim.rs"]
mod debsim;
#[path = "installer/inspect.rs"]
mod inspect;
#[path = "installer/interrupt.rs"]
mod interrupt;
#[path = "installer/peer.rs"]
mod peer;
#[path = "installer/stage.rs"]
mod stage;
#[path = "installer/terminal.rs"]
mod terminal;

use simulator::Config;
use stage::{Stage, golden};

/// The command lines of an article on release 0.4, with the address of the simulator.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_of_old_articles_work_literally() {
    let mut config = Config::esx("");
    config.datastores = vec!["mydatastore".parse().unwrap()];
    config.networks = vec!["VCH Bridge".into()];
    let stage = Stage::new(config).await;
    stage.play_vch("VCH001").await;
    let target = stage.host();
    let line = format!(
        "vic-machine create --bridge-network 'VCH Bridge' --external-network 'VM Network' \
         --image-datastore mydatastore --target 'root@{target}' --name VCH001"
    );
    let run = stage.on_terminal(&line, "password").await;
    golden(&stage, &run, "WARN Using deprecated flag --external-network; its name is now --public-network
WARN Using deprecated flag --image-datastore; its name is now --image-store
INFO Please enter ESX or vCenter password:
INFO ### Installing VCH ####
INFO Generating certificate/key pair - private key in ./VCH001-key.pem
WARN Clients are not asked for certificates; --tls-cname makes a VCH that asks
WARN Accepting host ESX with thumbprint THUMBPRINT, unverified; no other will be accepted from now on
INFO Validating supplied configuration
INFO Firewall status: ENABLED on /ha-datacenter/host/localhost.localdomain/localhost.localdomain
INFO Firewall configuration OK on hosts:
INFO /ha-datacenter/host/localhost.localdomain/localhost.localdomain
WARN Evaluation license detected. VIC may not function if evaluation expires or insufficient license is later assigned.
INFO License check OK
INFO DRS check SKIPPED - target is standalone host
INFO Creating Resource Pool VCH001
INFO Creating appliance on target
INFO Network role client is sharing NIC with external
INFO Network role management is sharing NIC with external
INFO Uploading images for container
INFO bootstrap.iso
INFO appliance.iso
INFO Waiting for IP information
INFO Waiting for major appliance components to launch
INFO Initialization of appliance successful
INFO
INFO DOCKER_HOST=192.0.2.7:2376
INFO
INFO Connect to docker:
INFO docker -H 192.0.2.7:2376 --tls info
INFO Installer completed successfully
");
    assert!(run.success);
    assert!(stage.dir().join("VCH001-key.pem").exists());

    let line = format!("vic-machine delete --target {target} --user root --name VCH001");
    let run = stage.on_terminal(&line, "password").await;
    golden(
        &stage,
        &run,
        "INFO Please enter ESX or vCenter password:
INFO ### Removing VCH ####
INFO Removing VMs
INFO Removing images
INFO Removing volumes
INFO Volume stores were not removed, use --force to remove them:
INFO default: ds://mydatastore/VCH001-volumes
INFO Removing appliance VM network devices
INFO Bridge network was not created during VCH deployment, leaving it there
INFO Removing Resource Pool VCH001
INFO Completed successfully
",
    );
    assert!(run.success);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_on_an_esxi_host_is_made_listed_inspected_and_removed() {
    let stage = Stage::new(Config::esx("")).await;
    let before = stage.inventory().await;
    stage.play_vch("my-vch").await;
    let run = stage
        .run(&["create", "--name", "my-vch", "--tls-cname", "192.0.2.7"])
        .await;
    assert!(run.success, "{}", run.text);
    for wanted in [
        "Creating VirtualSwitch",
        "Creating Portgroup",
        "DOCKER_TLS_VERIFY=1",
        "--tlsverify --tlscacert=",
        "Environment saved in",
        "Installer completed successfully",
    ] {
        assert!(run.text.contains(wanted), "{wanted}: {}", run.text);
    }
    let environment = std::fs::read_to_string(stage.dir().join("my-vch/my-vch.env")).unwrap();
    assert!(
        environment.contains("DOCKER_HOST=192.0.2.7:2376"),
        "{environment}"
    );
    let log = std::fs::read_to_string(stage.dir().join("vic-machine.log")).unwrap();
    assert!(!log.contains("password="), "the log has no password");
    let folder = stage.dir().join("state/datastores/datastore1/my-vch");
    let files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for wanted in ["appliance.iso", "bootstrap.iso", "state"] {
        assert!(
            files.iter().any(|file| file == wanted),
            "{wanted}: {files:?}"
        );
    }
    assert!(
        files
            .iter()
            .any(|file| file.starts_with("vic-machine_") && file.ends_with("_create.log")),
        "{files:?}"
    );

    let run = stage.run(&["ls"]).await;
    assert!(
        run.text.contains("my-vch") && run.text.contains("Up to date"),
        "{}",
        run.text
    );
    let run = stage
        .run(&["create", "--name", "my-vch", "--tls-cname", "192.0.2.7"])
        .await;
    assert!(
        !run.success && run.text.contains("already exists"),
        "{}",
        run.text
    );
    let run = stage.run(&["inspect", "--name", "none"]).await;
    assert!(
        !run.success
            && run
                .text
                .contains("Didn't find VM \"none\" in resource pool"),
        "{}",
        run.text
    );
    let run = stage.run(&["delete", "--name", "my-vch", "--force"]).await;
    assert!(
        run.success && run.text.contains("Removing Portgroup my-vch"),
        "{}",
        run.text
    );
    assert_eq!(stage.inventory().await, before);
    assert_eq!(stage.datastore_files(), Vec::<String>::new());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_on_a_cluster_has_a_pool_and_a_folder_and_leaves_none() {
    let stage = Stage::new(Config::vc("")).await;
    let before = stage.inventory().await;
    stage.play_vch("vch-vc").await;
    let create = [
        "create",
        "--name",
        "vch-vc",
        "--no-tlsverify",
        "--bridge-network",
        "DC0_DVPG0",
    ];
    let run = stage.run(&create).await;
    assert!(run.success, "{}", run.text);
    assert!(
        run.text.contains("DRS check OK on:\n") || run.text.contains("DRS check OK on:"),
        "{}",
        run.text
    );
    assert!(run.text.contains("Creating the VCH folder"), "{}", run.text);
    let made = stage.inventory().await;
    assert!(
        made.iter().any(|path| path.contains("Folder vch-vc")),
        "{made:?}"
    );
    assert!(
        made.iter().any(|path| path.contains("ResourcePool vch-vc")),
        "{made:?}"
    );
    let run = stage.run(&["delete", "--name", "vch-vc", "--force"]).await;
    assert!(run.success, "{}", run.text);
    assert!(
        run.text
            .contains("Bridge network was not created during VCH deployment, leaving it there"),
        "{}",
        run.text
    );
    assert_eq!(stage.inventory().await, before);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_tells_everything_that_is_wrong_at_once() {
    let stage = Stage::new(Config::vc("")).await;
    let before = stage.inventory().await;
    let run = stage
        .run(&[
            "create",
            "--name",
            "x",
            "--no-tls",
            "--bridge-network",
            "VM Network",
            "--public-network",
            "nowhere",
            "--image-store",
            "missing",
            "--volume-store",
            "absent/path:vol",
        ])
        .await;
    assert!(!run.success);
    for wanted in [
        "An existing distributed port group or opaque network must be specified for bridge network on vCenter",
        "--public-network: network 'nowhere' not found",
        "--image-store: datastore \"missing\" not found",
        "--volume-store vol: datastore \"absent\" not found",
        "Suggested values for --image-store:",
        "Create cannot continue: configuration validation failed",
        "vic-machine create failed: validation of configuration failed",
    ] {
        assert!(run.text.contains(wanted), "{wanted}: {}", run.text);
    }
    let run = stage
        .run(&[
            "create",
            "--name",
            "x",
            "--no-tls",
            "--bridge-network",
            "DC0_DVPG0",
            "-r",
            "nope",
        ])
        .await;
    assert!(
        run.text
            .contains("Suggested values for --compute-resource:"),
        "{}",
        run.text
    );
    assert_eq!(stage.inventory().await, before, "nothing is made");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_create_has_made_is_taken_away_again() {
    let stage = Stage::new(Config::esx("")).await;
    let before = stage.inventory().await;
    for method in [
        "CreateVM_Task",
        "ReconfigVM_Task",
        "PowerOnVM_Task",
        "AddPortGroup",
    ] {
        let rule = if method.ends_with("_Task") {
            "task=GenericVmConfigFault"
        } else {
            "HostConfigFault"
        };
        stage
            .simulator()
            .add_faults(&[&format!("{method}:1:{rule}")])
            .unwrap();
        let run = stage.run(&["create", "--name", "doomed", "--no-tls"]).await;
        stage.simulator().clear_faults();
        assert!(!run.success, "{method}: {}", run.text);
        assert!(
            run.text.contains("Removing what was made so far"),
            "{method}: {}",
            run.text
        );
        assert_eq!(stage.inventory().await, before, "{method}: {}", run.text);
        assert_eq!(stage.datastore_files(), Vec::<String>::new(), "{method}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_takes_too_long_can_be_deleted() {
    let stage = Stage::new(Config::esx("")).await;
    let run = stage
        .run(&["create", "--name", "slow", "--no-tls", "--timeout", "1s"])
        .await;
    assert!(
        !run.success && run.text.contains("Creating VCH exceeded time limit of 1s"),
        "{}",
        run.text
    );
    let run = stage.run(&["delete", "--name", "slow"]).await;
    assert!(run.success, "{}", run.text);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_strange_servers_end_with_one_line_and_exit_code_1() {
    let stage = Stage::new(Config::esx("")).await;
    for command in ["create", "delete", "ls", "inspect"] {
        let run = stage.run_as(&[command], &["--password", "wrong"]).await;
        assert!(!run.success && run.code == Some(1), "{command}");
        assert!(
            run.text
                .contains(&format!("vic-machine {command} failed: ")),
            "{}",
            run.text
        );
        assert!(!run.text.contains("panicked"), "{}", run.text);
    }
    let run = stage
        .bare(&[
            "ls",
            "--target",
            &stage.host(),
            "--user",
            "root",
            "--password",
            "password",
        ])
        .await;
    assert!(
        !run.success
            && run
                .text
                .contains(&format!("thumbprint={}", stage.thumbprint())),
        "{}",
        run.text
    );
    let run = stage.run_as(&["ls"], &["--thumbprint", "00:11"]).await;
    assert!(
        run.text.contains("thumbprint does not match"),
        "{}",
        run.text
    );
    let run = stage
        .bare(&["ls", "--target", &stage.host(), "--user", "root"])
        .await;
    assert!(
        !run.success
            && run
                .text
                .contains("no password, and no terminal to ask for it"),
        "{}",
        run.text
    );
    let run = stage.bare(&["ls"]).await;
    assert!(
        run.text.contains("--target argument must be specified"),
        "{}",
        run.text
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_name_the_command_and_exit_with_0() {
    let stage = Stage::new(Config::esx("")).await;
    for (command, title) in [("inspect", "Inspect VCH"), ("create", "Deploy a VCH")] {
        let run = stage.bare(&[command, "--help"]).await;
        assert!(
            run.success
                && run
                    .text
                    .contains(&format!("vic-machine {command} - {title}")),
            "{}",
            run.text
        );
        assert!(
            !run.text.contains("--external-network"),
            "old names are hidden"
        );
    }
    let run = stage.bare(&["version"]).await;
    assert_eq!(
        run.text.trim(),
        format!("vic-machine version {}", env!("CARGO_PKG_VERSION"))
    );
    let run = stage.bare(&["create", "surplus"]).await;
    assert!(
        run.code == Some(1) && run.text.contains("surplus"),
        "{}",
        run.text
    );
    stage.stop().await;
}
