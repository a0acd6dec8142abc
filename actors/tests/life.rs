//! The life of a container against the in-process simulator, where the test plays the guest through vSphere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "life/bench.rs"]
mod bench;
#[path = "life/calls.rs"]
mod calls;
#[path = "life/chaos.rs"]
mod chaos;
#[path = "life/clock.rs"]
mod clock;
#[path = "life/faults.rs"]
mod faults;
#[path = "life/guest.rs"]
mod guest;
#[path = "life/pulls.rs"]
mod pulls;
#[path = "life/second.rs"]
mod second;
#[path = "life/sources.rs"]
mod sources;

use std::time::Duration;

use actors::Error;
use actors::container::{Phase, RemoveOptions, StopOptions, WaitCondition};
use bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_created_started_exits_and_is_removed() {
    let bench = Bench::start().await;
    let image = bench.load_image("busybox:latest").await;
    bench.take_calls();
    let created = bench.create("c1", &image).await.expect("created");
    let calls = bench.take_calls();
    assert_eq!(calls.get("CreateVM_Task"), Some(&1), "{calls:?}");

    let engine = &bench.world.engine;
    let exited = engine
        .wait(created.id, WaitCondition::NextExit)
        .await
        .expect("waiting");
    let starting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.start(created.id).await }
    });
    let vm = bench.vm_of(created.id);
    bench.until_power(&vm, "poweredOn").await;
    bench.guest_runs(&vm, created.id, "boot-1").await;
    starting.await.unwrap().expect("started");
    let snapshot = engine.find("c1").unwrap();
    assert_eq!(snapshot.phase, Phase::Running);
    assert!(snapshot.endpoints[0].address.is_some());
    assert!(matches!(
        engine.start(created.id).await,
        Err(Error::NotModified)
    ));

    bench.guest_exits(&vm, created.id, 3).await;
    let outcome = tokio::time::timeout(Duration::from_secs(10), exited)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(outcome.status_code, 3);
    assert_eq!(engine.find("c1").unwrap().status_word(), "exited");

    let calls = bench.take_calls();
    assert_eq!(calls.get("PowerOnVM_Task"), Some(&1), "{calls:?}");
    engine
        .remove(created.id, RemoveOptions::default())
        .await
        .expect("removed");
    assert!(engine.find("c1").is_err());
    let calls = bench.take_calls();
    assert_eq!(calls.get("Destroy_Task"), Some(&1), "{calls:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_actors_find_their_containers_again() {
    let bench = Bench::start().await;
    let image = bench.load_image("busybox:latest").await;
    let created = bench.create("k1", &image).await.expect("created");
    let vm = bench.vm_of(created.id);
    let engine = &bench.world.engine;
    let starting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.start(created.id).await }
    });
    bench.until_power(&vm, "poweredOn").await;
    bench.guest_runs(&vm, created.id, "boot-1").await;
    starting.await.unwrap().expect("started");
    let paths: Vec<_> = bench
        .world
        .tree
        .entries()
        .into_iter()
        .map(|e| e.path)
        .collect();
    for path in paths.iter().filter(|p| *p != "vch") {
        // A child may have gone with its supervisor.
        bench.world.tree.kill(path).await;
        let stop = bench.until_up(created.id).await;
        assert_eq!(stop.phase, Phase::Running, "after {path} was killed");
    }
    let stopping = engine.stop(
        created.id,
        StopOptions {
            signal: None,
            timeout: Some(0),
        },
    );
    stopping.await.expect("stopped");
    assert_eq!(engine.find("k1").unwrap().phase, Phase::Exited);
    let again = bench.create("k1", &image).await;
    assert!(matches!(again, Err(Error::NameTaken { .. })), "{again:?}");
    engine
        .remove(created.id, RemoveOptions::default())
        .await
        .expect("removed");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_admin_does_is_seen() {
    let bench = Bench::start().await;
    let image = bench.load_image("busybox:latest").await;
    let created = bench.create("a1", &image).await.expect("created");
    let vm = bench.vm_of(created.id);
    let removed = bench
        .world
        .engine
        .wait(created.id, WaitCondition::Removed)
        .await
        .unwrap();
    bench.destroy_behind_our_back(&vm).await;
    tokio::time::timeout(Duration::from_secs(5), removed)
        .await
        .unwrap()
        .unwrap();
    assert!(bench.world.engine.find("a1").is_err());
    bench.stop().await;
}
