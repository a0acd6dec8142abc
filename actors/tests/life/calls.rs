//! What a container's life costs in vSphere calls: every method, with its exact count.
//!
//! One call for each step of the life, and one that puts the step's task on the standing wait. Only how many turns the
//! standing wait takes is not fixed: the changes of one step may come in one answer or in several.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actors::container::{RemoveOptions, WaitCondition};

use crate::bench::{Bench, spec};

/// Turns of the standing wait in one step: with every change in an answer of its own.
const TURNS: u64 = 12;

/// How long a call may be under way that nobody waits for: a task may have ended before the standing wait has it.
const LATE: Duration = Duration::from_secs(30);

/// Checks the calls since the last look.
async fn expect(bench: &Bench, step: &str, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> = expected
        .iter()
        .map(|(m, n)| ((*m).to_owned(), *n))
        .collect();
    let end = Instant::now() + LATE;
    let mut calls = BTreeMap::<String, u64>::new();
    let missing = |calls: &BTreeMap<String, u64>| {
        let mut wanted = expected.iter();
        wanted.any(|(method, n)| calls.get(method).is_none_or(|had| had < n))
    };
    loop {
        for (method, n) in bench.take_calls() {
            *calls.entry(method).or_default() += n;
        }
        if !missing(&calls) || Instant::now() > end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let turns = calls.remove("WaitForUpdatesEx").unwrap_or_default();
    println!("{step:8} {calls:?}, {turns} turns of the standing wait");
    assert_eq!(calls, expected, "{step}");
    assert!(turns <= TURNS, "{step}: {turns} turns of the standing wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_costs_one_call_for_each_step() {
    let bench = Bench::played().await;
    let image = bench.load_image("busybox:latest").await;
    let engine = &bench.world.engine;
    for round in 0..3 {
        bench.settle().await;
        bench.take_calls();
        let name = format!("c{round}");
        let created = bench.create_spec(spec(&name, &image, &["exit", "0"])).await;
        let id = created.expect("created").id;
        let task = ("ModifyListView", 1);
        expect(&bench, "create", &[("CreateVM_Task", 1), task]).await;
        let exited = engine.wait(id, WaitCondition::NextExit).await.unwrap();
        engine.start(id).await.expect("started");
        assert_eq!(exited.await.unwrap().status_code, 0);
        expect(&bench, "run", &[("PowerOnVM_Task", 1), task]).await;
        let gone = engine.wait(id, WaitCondition::Removed).await.unwrap();
        engine.remove(id, RemoveOptions::default()).await.unwrap();
        gone.await.unwrap();
        expect(&bench, "rm", &[("Destroy_Task", 1), task]).await;
    }
    bench.stop().await;
}
