//! What `inspect` tells of a VCH.

use std::path::Path;

use simulator::Config;
use vmomi::types::PowerOffVMRequest;

use crate::stage::{Run, Stage, golden};

/// The managed object id that `create` has printed.
fn id(run: &Run) -> String {
    run.text
        .lines()
        .find_map(|line| line.split_once("VCH ID: "))
        .map(|(_, id)| id.trim().to_owned())
        .unwrap()
}

fn lines(stage: &Stage, id: &str, connection: &str) -> String {
    format!(
        "INFO ### Inspecting VCH ####
INFO
INFO VCH ID: {id}
INFO
INFO Installer version: {version}
INFO VCH version: {version}
INFO
INFO VCH upgrade status:
INFO Installer has same version as VCH
INFO No upgrade available with this installer version
INFO
INFO Default bridge network: my-vch
INFO Default bridge network range: 172.16.0.0/16
INFO
INFO Published ports can be reached at:
INFO 192.0.2.7
INFO
INFO Docker environment variables:
{connection}INFO Completed successfully
",
        version = env!("CARGO_PKG_VERSION"),
    )
    .replace(
        "DIR",
        &stage.dir().canonicalize().unwrap().display().to_string(),
    )
}

/// What stands there for a VCH that asks for certificates, with the client's in `dir` (below the home).
fn verified(dir: &str) -> String {
    format!(
        "INFO DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=DIR{dir} DOCKER_HOST=192.0.2.7:2376 COMPOSE_TLS_VERSION=TLSv1_2
INFO
INFO Connect to docker:
INFO docker -H 192.0.2.7:2376 --tlsverify --tlscacert=\"DIR{dir}/ca.pem\" --tlscert=\"DIR{dir}/cert.pem\" --tlskey=\"DIR{dir}/key.pem\" info
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_is_told_by_name_and_by_id_with_the_clients_certificates() {
    let stage = Stage::new(Config::esx("")).await;
    stage.play_vch("my-vch").await;
    let run = stage
        .run(&["create", "--name", "my-vch", "--tls-cname", "192.0.2.7"])
        .await;
    assert!(run.success, "{}", run.text);
    let id = id(&run);

    // In ./<name>, where create has put them.
    let wanted = lines(&stage, &id, &verified("/my-vch"));
    for by in [["--name", "my-vch"], ["--id", &id]] {
        let run = stage.run(&["inspect", by[0], by[1]]).await;
        golden(&stage, &run, &wanted);
        assert!(run.success);
    }
    // The id wins over the name.
    let run = stage
        .run(&["inspect", "--id", &id, "--name", "another"])
        .await;
    golden(&stage, &run, &wanted);

    // In the folder that is named, in the working directory, in ~/.docker, nowhere.
    let home = stage.dir();
    std::fs::rename(home.join("my-vch"), home.join("elsewhere")).unwrap();
    let named = [
        "inspect",
        "--name",
        "my-vch",
        "--tls-cert-path",
        "elsewhere",
    ];
    let run = stage.run(&named).await;
    golden(&stage, &run, &lines(&stage, &id, &verified("/elsewhere")));
    let inspect = ["inspect", "--name", "my-vch"];
    copy(&home.join("elsewhere"), &home.join(".docker"));
    let run = stage.run(&inspect).await;
    golden(&stage, &run, &lines(&stage, &id, &verified("/.docker")));
    copy(&home.join("elsewhere"), home);
    let run = stage.run(&inspect).await;
    golden(&stage, &run, &lines(&stage, &id, &verified("")));
    for folder in [home.to_owned(), home.join(".docker")] {
        std::fs::remove_file(folder.join("key.pem")).unwrap();
    }
    let run = stage.run(&inspect).await;
    assert!(run.success, "{}", run.text);
    for wanted in [
        "Unable to find valid client certs",
        "DOCKER_CERT_PATH must be provided in environment or certificates specified individually",
        "DOCKER_TLS_VERIFY=1 DOCKER_HOST=192.0.2.7:2376",
        "docker -H 192.0.2.7:2376 --tlsverify info",
    ] {
        assert!(run.text.contains(wanted), "{wanted}: {}", run.text);
    }
    stage.stop().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_without_client_certificates_is_told_without_them() {
    let plain = "INFO DOCKER_HOST=192.0.2.7:2375
INFO
INFO Connect to docker:
INFO docker -H 192.0.2.7:2375 info
";
    let unverified = "INFO DOCKER_HOST=192.0.2.7:2376 COMPOSE_TLS_VERSION=TLSv1_2
INFO
INFO Connect to docker:
INFO docker -H 192.0.2.7:2376 --tls --tlscacert=\"\" info
";
    for (option, connection) in [("--no-tls", plain), ("--no-tlsverify", unverified)] {
        let stage = Stage::new(Config::esx("")).await;
        stage.play_vch("my-vch").await;
        let run = stage.run(&["create", "--name", "my-vch", option]).await;
        assert!(run.success, "{}", run.text);
        let wanted = lines(&stage, &id(&run), connection);
        let run = stage.run(&["inspect", "--name", "my-vch"]).await;
        golden(&stage, &run, &wanted);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vch_that_is_off_another_vm_and_none_are_errors() {
    let stage = Stage::new(Config::esx("")).await;
    stage.play_vch("my-vch").await;
    let run = stage.run(&["create", "--name", "my-vch", "--no-tls"]).await;
    assert!(run.success, "{}", run.text);
    let id = id(&run);
    let client = stage.client().await;
    let vm = vmomi::ManagedObjectReference::new("VirtualMachine", &id);
    client.run_task(&vm, PowerOffVMRequest {}).await.unwrap();
    client.close().await.unwrap();
    for (by, wanted) in [
        (["--id", id.as_str()], "the VCH is not powered on"),
        (["--id", "vm-4711"], "id \"vm-4711\" could not be found"),
        (
            ["--name", "none"],
            "Didn't find VM \"none\" in resource pool",
        ),
    ] {
        let run = stage.run(&["inspect", by[0], by[1]]).await;
        assert_eq!(run.code, Some(1), "{}", run.text);
        assert!(run.text.contains(wanted), "{wanted}: {}", run.text);
        assert!(
            run.text.contains("vic-machine inspect failed: "),
            "{}",
            run.text
        );
    }
    stage.stop().await;
}

/// How many sessions the target has.
async fn sessions(stage: &Stage) -> usize {
    let client = stage.client().await;
    let manager = client.content().session_manager.clone().unwrap();
    let all: Vec<vmomi::types::UserSession> = client
        .property(&manager, "sessionList")
        .await
        .unwrap()
        .unwrap_or_default();
    client.close().await.unwrap();
    all.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_leaves_a_session_behind() {
    let stage = Stage::new(Config::esx("")).await;
    let before = sessions(&stage).await;
    assert_eq!(before, 1, "the one that looks");
    let play = stage.client().await;
    for command in [
        &["ls"][..],
        &["inspect", "--name", "none"],
        &["delete", "--name", "none"],
        &["create", "--name", "x", "--no-tls", "-r", "nowhere"],
        &["create", "--name", "x", "--no-tls", "--timeout", "1s"],
        &["delete", "--name", "x"],
    ] {
        let run = stage.run(command).await;
        // Ours and the one that looks.
        assert_eq!(sessions(&stage).await, 2, "{command:?}: {}", run.text);
    }
    play.close().await.unwrap();
    assert_eq!(sessions(&stage).await, before);
    stage.stop().await;
}
