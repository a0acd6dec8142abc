//! Tasks and events: what was asked for, how it ended, and what is told of it.

use vmomi::types::*;
use vmomi::{ManagedObjectReference as Moref, Poly};

use super::bench::{Bench, bench, fault_of, folder, spec};

async fn recent(bench: &Bench, of: &Moref) -> Vec<Moref> {
    let list: Option<Vec<Moref>> = bench
        .client
        .property(of, "recentTask")
        .await
        .expect("reads");
    list.unwrap_or_default()
}

async fn info(bench: &Bench, task: &Moref) -> TaskInfo {
    let info: Option<TaskInfo> = bench.client.property(task, "info").await.expect("reads");
    info.expect("is set")
}

fn names(events: &[Poly<Event>]) -> Vec<&str> {
    events.iter().map(Poly::type_name).collect()
}

#[tokio::test]
async fn a_task_tells_who_asked_for_what_and_how_it_ended() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let manager = bench.client.content().task_manager.clone().expect("one");
    let made = recent(&bench, &manager).await;
    let create = info(&bench, made.last().expect("a task")).await;
    assert_eq!(create.description_id, "Folder.createVm");
    assert_eq!(create.entity, Some(folder()));
    assert_eq!(
        create.result.and_then(|r| r.as_reference().cloned()),
        Some(vm.clone())
    );
    let on = bench
        .client
        .invoke(&vm, PowerOnVMRequest::default())
        .await
        .expect("a task");
    bench.client.wait_task(&on).await.expect("on");
    let on = info(&bench, &on).await;
    assert_eq!(on.state, TaskInfoState::Success);
    assert_eq!(on.entity_name.as_deref(), Some("one"));
    assert_eq!(on.name.as_deref(), Some("PowerOnVM_Task"));
    assert!(!on.cancelled && !on.cancelable);
    let user = on.reason.get::<TaskReasonUser>().expect("a user asked");
    assert_eq!(user.user_name, "root");
    let (queued, started, ended) = (on.queue_time, on.start_time, on.complete_time);
    assert!(Some(queued) <= started && started <= ended && ended.is_some());
    assert!(recent(&bench, &vm).await.contains(&on.task));
    let again = bench
        .client
        .invoke(&vm, PowerOnVMRequest::default())
        .await
        .expect("a task");
    let error = bench.client.wait_task(&again).await;
    assert_eq!(fault_of(error), "InvalidPowerState");
    let failed = info(&bench, &again).await;
    assert_eq!(failed.state, TaskInfoState::Error);
    let fault = failed.error.expect("a fault").fault;
    assert!(fault.is::<InvalidPowerState>(), "{}", fault.type_name());
    let late = bench.client.invoke(&again, CancelTaskRequest {}).await;
    assert!(["NotSupported", "InvalidState"].contains(&fault_of(late).as_str()));
}

#[tokio::test]
async fn ended_tasks_are_kept_for_those_who_ask_late_but_not_for_ever() {
    let bench = bench().await;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let note = |n: usize| ReconfigVMRequest {
        spec: VirtualMachineConfigSpec {
            annotation: Some(n.to_string()),
            ..Default::default()
        },
    };
    let first = bench.client.invoke(&vm, note(0)).await.expect("a task");
    for n in 1..=520 {
        bench.client.invoke(&vm, note(n)).await.expect("a task");
    }
    let last = bench.client.invoke(&vm, note(0)).await.expect("a task");
    bench.client.wait_task(&last).await.expect("done");
    assert_eq!(info(&bench, &last).await.state, TaskInfoState::Success);
    let gone = bench.client.property::<TaskInfo>(&first, "info").await;
    assert_eq!(fault_of(gone), "ManagedObjectNotFound");
    let kept = recent(&bench, &vm).await.len();
    assert!((100..=501).contains(&kept), "{kept} are kept");
}

#[tokio::test]
async fn a_task_of_an_extension_is_driven_by_it() {
    let bench = bench().await;
    let client = &bench.client;
    let vm = bench.create(spec("one", vec![])).await.expect("made");
    let manager = client.content().task_manager.clone().expect("one");
    let create = |cancelable| CreateTaskRequest {
        obj: vm.clone(),
        task_type_id: "com.example.backup".into(),
        cancelable,
        ..Default::default()
    };
    let state = |state| SetTaskStateRequest {
        state,
        ..Default::default()
    };
    let task = client.invoke(&manager, create(false)).await.expect("made");
    assert_eq!(task.state, TaskInfoState::Queued);
    let task = task.task;
    assert!(recent(&bench, &vm).await.contains(&task));
    let early = client.invoke(&task, UpdateProgressRequest { percent_done: 5 });
    assert_eq!(fault_of(early.await), "InvalidState", "it does not run yet");
    let run = client.invoke(&task, state(TaskInfoState::Running)).await;
    run.expect("runs");
    let wrong = client.invoke(&task, UpdateProgressRequest { percent_done: 101 });
    assert_eq!(fault_of(wrong.await), "OutOfBounds");
    let half = client.invoke(&task, UpdateProgressRequest { percent_done: 50 });
    half.await.expect("half");
    assert_eq!(info(&bench, &task).await.progress, Some(50));
    let cancel = client.invoke(&task, CancelTaskRequest {}).await;
    assert_eq!(fault_of(cancel), "NotSupported", "it was made so");
    let done = SetTaskStateRequest {
        state: TaskInfoState::Success,
        result: Some("stored".into()),
        ..Default::default()
    };
    client.invoke(&task, done.clone()).await.expect("ends");
    let ended = client.wait_task(&task).await.expect("success");
    assert_eq!(ended.result, Some("stored".into()));
    let twice = client.invoke(&task, done).await;
    assert_eq!(fault_of(twice), "InvalidState");

    let other = client
        .invoke(&manager, create(true))
        .await
        .expect("made")
        .task;
    let run = client.invoke(&other, state(TaskInfoState::Running)).await;
    run.expect("runs");
    client
        .invoke(&other, CancelTaskRequest {})
        .await
        .expect("cancels");
    assert_eq!(fault_of(client.wait_task(&other).await), "RequestCanceled");
    assert!(info(&bench, &other).await.cancelled);
}

#[tokio::test]
async fn events_are_asked_for_by_entity_and_type_and_collected_in_pages() {
    let bench = bench().await;
    let client = &bench.client;
    let events = client.content().event_manager.clone().expect("one");
    let collector = CreateCollectorForEventsRequest {
        filter: EventFilterSpec::default(),
    };
    let collector = client.invoke(&events, collector).await.expect("made");
    let one = bench.create(spec("one", vec![])).await.expect("made");
    let two = bench.create(spec("two", vec![])).await.expect("made");
    client
        .run_task(&one, PowerOnVMRequest::default())
        .await
        .expect("on");
    let of = |vm: &Moref, kinds: &[&str]| QueryEventsRequest {
        filter: EventFilterSpec {
            entity: Some(EventFilterSpecByEntity {
                entity: vm.clone(),
                recursion: EventFilterSpecRecursionOption::SelfValue,
            }),
            event_type_id: kinds.iter().map(|k| (*k).to_owned()).collect(),
            ..Default::default()
        },
        ..Default::default()
    };
    let of_one = client.invoke(&events, of(&one, &[])).await.expect("asks");
    assert!(names(&of_one).contains(&"VmCreatedEvent"), "{of_one:?}");
    assert!(names(&of_one).contains(&"VmPoweredOnEvent"));
    assert!(
        of_one.windows(2).all(|w| w[0].key() < w[1].key()),
        "in order"
    );
    for event in &of_one {
        assert_eq!(event.vm().as_ref().map(|v| &v.vm), Some(&one));
        assert!(event.full_formatted_message().is_some());
        assert_eq!(event.user_name(), "root");
    }
    let of_two = client
        .invoke(&events, of(&two, &["VmPoweredOnEvent"]))
        .await;
    assert_eq!(names(&of_two.expect("asks")), [""; 0]);

    // The collector has seen the same, two at a time, and its latest page the newest first.
    let next = |n| ReadNextEventsRequest { max_count: n };
    let mut read = Vec::new();
    loop {
        let some = client.invoke(&collector, next(2)).await.expect("reads");
        assert!(some.len() <= 2);
        if some.is_empty() {
            break;
        }
        read.extend(some);
    }
    assert_eq!(
        names(&read)
            .iter()
            .filter(|n| **n == "VmCreatedEvent")
            .count(),
        2
    );
    let page: Option<Vec<Poly<Event>>> = client
        .property(&collector, "latestPage")
        .await
        .expect("reads");
    let page = page.expect("is set");
    assert_eq!(
        page.first().map(|e| *e.key()),
        read.last().map(|e| *e.key())
    );
    client
        .invoke(&collector, RewindCollectorRequest {})
        .await
        .expect("rewinds");
    let all = client.invoke(&collector, next(100)).await.expect("reads");
    assert_eq!(all.len(), read.len());
    let size = SetCollectorPageSizeRequest { max_count: 1 };
    client.invoke(&collector, size).await.expect("set");
    let page: Option<Vec<Poly<Event>>> = client
        .property(&collector, "latestPage")
        .await
        .expect("reads");
    assert_eq!(page.map(|p| p.len()), Some(1));
    client
        .invoke(&collector, DestroyCollectorRequest {})
        .await
        .expect("gone");
    let gone = client.invoke(&collector, next(1)).await;
    assert_eq!(fault_of(gone), "ManagedObjectNotFound");
}
