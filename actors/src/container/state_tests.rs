//! Tests of the state machine: stories, and random events that must keep its promises.

use proptest::prelude::*;

use super::*;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn machine() -> State {
    State::created(ContainerId::of_name("x"), false)
}

fn on(key: &str, process: Process) -> Event {
    Event::VmChanged(VmView {
        power: Power::On,
        boot_key: key.to_owned(),
        process,
        ..VmView::default()
    })
}

fn off(key: &str, process: Process) -> Event {
    Event::VmChanged(VmView {
        boot_key: key.to_owned(),
        process,
        ..VmView::default()
    })
}

fn answers(effects: &[Effect]) -> Vec<(u64, bool)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Answer(t, r) => Some((t.0, r.is_ok())),
            _ => None,
        })
        .collect()
}

fn run(state: &mut State, key: &str) {
    state.step(Event::Start(Ticket(0)), NOW);
    state.step(Event::Done(Work::PowerOn, Ok(())), NOW);
    state.step(on(key, Process::Running), NOW);
    assert_eq!(state.phase, Phase::Running);
}

#[test]
fn a_start_is_one_power_on_and_answers_when_the_process_runs() {
    let mut s = machine();
    assert_eq!(
        s.step(Event::Start(Ticket(1)), NOW),
        [Effect::Do(Work::PowerOn)]
    );
    assert!(s.step(on("", Process::Pending), NOW).is_empty());
    assert!(s.step(Event::Done(Work::PowerOn, Ok(())), NOW).is_empty());
    let effects = s.step(on("k1", Process::Running), NOW);
    assert_eq!(answers(&effects), [(1, true)]);
    assert_eq!(s.phase, Phase::Running);
}

#[test]
fn a_process_began_when_its_guest_says() {
    let mut s = machine();
    s.step(Event::Start(Ticket(1)), NOW);
    s.step(on("k1", Process::Running), NOW);
    assert_eq!(s.started_at, Some(NOW));
    let began = NOW + time::Duration::seconds(7);
    s.step(
        Event::VmChanged(VmView {
            power: Power::On,
            boot_key: "k1".to_owned(),
            process: Process::Running,
            started_at: Some(began),
            ..VmView::default()
        }),
        NOW,
    );
    assert_eq!(s.started_at, Some(began));
}

#[test]
fn a_second_start_waits_for_the_first() {
    let mut s = machine();
    s.step(Event::Start(Ticket(1)), NOW);
    assert!(s.step(Event::Start(Ticket(2)), NOW).is_empty());
    let effects = s.step(on("k1", Process::Running), NOW);
    assert_eq!(answers(&effects), [(1, true), (2, true)]);
}

#[test]
fn what_an_earlier_boot_wrote_does_not_answer_a_start() {
    let mut s = machine();
    run(&mut s, "k1");
    s.step(off("k1", Process::Exited { code: 3 }), NOW);
    assert_eq!((s.phase, s.exit_code), (Phase::Exited, 3));
    s.step(Event::Start(Ticket(5)), NOW);
    assert!(answers(&s.step(on("k1", Process::Exited { code: 3 }), NOW)).is_empty());
    assert_eq!(s.phase, Phase::Starting);
    assert_eq!(
        answers(&s.step(on("k2", Process::Running), NOW)),
        [(5, true)]
    );
}

#[test]
fn a_run_that_is_over_before_anybody_looked_counts_whole() {
    let mut s = machine();
    s.step(Event::Start(Ticket(1)), NOW);
    s.step(on("", Process::Pending), NOW);
    let effects = s.step(off("k1", Process::Exited { code: 7 }), NOW);
    assert_eq!(answers(&effects), [(1, true)]);
    let words: Vec<_> = effects
        .iter()
        .filter_map(|e| {
            if let Effect::Emit(w, _) = e {
                Some(*w)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(words, ["start", "die"]);
    assert_eq!((s.phase, s.exit_code, s.exits), (Phase::Exited, 7, 1));
}

#[test]
fn a_launch_error_leaves_a_created_container_and_answers_when_the_vm_is_off() {
    let mut s = machine();
    s.step(Event::Start(Ticket(1)), NOW);
    let failed = Process::Failed {
        error: "no".into(),
        code: 127,
    };
    let effects = s.step(on("k1", failed.clone()), NOW);
    assert_eq!(effects, [Effect::Do(Work::PowerOff)]);
    let effects = s.step(off("k1", failed), NOW);
    assert_eq!(answers(&effects), [(1, false)]);
    assert_eq!(
        (s.phase, s.exit_code, s.error.as_str(), s.exits),
        (Phase::Created, 127, "no", 1)
    );
}

#[test]
fn an_auto_remove_container_is_destroyed_at_its_exit_and_after_a_failed_start() {
    let mut s = State::created(ContainerId::of_name("x"), true);
    run(&mut s, "k1");
    let effects = s.step(off("k1", Process::Exited { code: 0 }), NOW);
    assert!(effects.contains(&Effect::Do(Work::Destroy)));
    assert!(
        s.step(Event::Done(Work::Destroy, Ok(())), NOW)
            .contains(&Effect::Gone)
    );

    let mut s = State::created(ContainerId::of_name("x"), true);
    s.step(Event::Start(Ticket(1)), NOW);
    let why = Error::internal("power on", "no host");
    let effects = s.step(Event::Done(Work::PowerOn, Err(why)), NOW);
    assert!(effects.contains(&Effect::Do(Work::Destroy)));
}

#[test]
fn a_stop_signals_then_powers_off_and_answers_when_it_is_off() {
    let mut s = machine();
    run(&mut s, "k1");
    let stop = Event::Stop {
        ticket: Ticket(2),
        signal: Signal(15),
        timeout: Some(10),
        restart: false,
    };
    let effects = s.step(stop, NOW);
    assert!(effects.contains(&Effect::Signal(Signal(15))));
    assert!(effects.contains(&Effect::Deadline(10)));
    assert_eq!(
        s.step(Event::StopDeadline, NOW),
        [Effect::Do(Work::PowerOff)]
    );
    let effects = s.step(Event::Done(Work::PowerOff, Ok(())), NOW);
    assert_eq!(answers(&effects), [(2, true)]);
    assert_eq!((s.phase, s.exit_code), (Phase::Exited, LOST));
}

#[test]
fn a_restart_stops_and_starts_again() {
    let mut s = machine();
    run(&mut s, "k1");
    let stop = Event::Stop {
        ticket: Ticket(2),
        signal: Signal(15),
        timeout: None,
        restart: true,
    };
    s.step(stop, NOW);
    let effects = s.step(off("k1", Process::Exited { code: 143 }), NOW);
    assert!(effects.contains(&Effect::Do(Work::PowerOn)));
    assert!(answers(&effects).is_empty());
    let effects = s.step(on("k2", Process::Running), NOW);
    assert_eq!(answers(&effects), [(2, true)]);
    let told = |action| effects.contains(&Effect::Emit(action, vec![]));
    assert!(told("start") && told("restart"));
}

#[test]
fn what_an_admin_does_ends_in_the_same_states() {
    let mut s = machine();
    run(&mut s, "k1");
    s.step(off("k1", Process::Running), NOW);
    assert_eq!((s.phase, s.exit_code), (Phase::Exited, LOST));
    s.step(on("k1", Process::Running), NOW);
    assert_eq!(s.phase, Phase::Starting);
    s.step(on("k2", Process::Running), NOW);
    assert_eq!(s.phase, Phase::Running);
    s.step(on("k3", Process::Running), NOW);
    assert_eq!(
        (s.phase, s.exits),
        (Phase::Running, 2),
        "a reboot is an exit and a start"
    );
    assert!(s.step(Event::VmGone, NOW).contains(&Effect::Gone));
}

#[test]
fn a_container_found_off_without_a_status_exited_with_255() {
    let vm = VmView {
        process: Process::Running,
        boot_key: "k".into(),
        ..VmView::default()
    };
    let s = State::recovered(ContainerId::of_name("x"), false, vm);
    assert_eq!((s.phase, s.exit_code), (Phase::Exited, FOUND_OFF));
}

fn any_process() -> impl proptest::strategy::Strategy<Value = Process> {
    prop_oneof![
        Just(Process::Pending),
        Just(Process::Running),
        Just(Process::Exited { code: 1 }),
        Just(Process::Failed {
            error: "e".into(),
            code: 127
        }),
    ]
}

fn any_event() -> impl proptest::strategy::Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start(Ticket(0))),
        any::<bool>().prop_map(|restart| Event::Stop {
            ticket: Ticket(0),
            signal: Signal(15),
            timeout: Some(1),
            restart
        }),
        Just(Event::Kill {
            ticket: Ticket(0),
            signal: SIGKILL
        }),
        any::<bool>().prop_map(|pause| Event::Pause {
            ticket: Ticket(0),
            pause
        }),
        any::<bool>().prop_map(|force| Event::Remove {
            ticket: Ticket(0),
            options: RemoveOptions {
                force,
                ..RemoveOptions::default()
            }
        }),
        (0u8..4, any_process()).prop_map(|(k, p)| on(&format!("k{k}"), p)),
        (0u8..4, any_process()).prop_map(|(k, p)| off(&format!("k{k}"), p)),
        Just(Event::StopDeadline),
        Just(Event::Done(Work::PowerOn, Ok(()))),
        Just(Event::Done(Work::PowerOff, Ok(()))),
    ]
}

proptest! {
    /// Every request is answered exactly once, at the latest when the VM is gone.
    #[test]
    fn every_request_is_answered_exactly_once(events in proptest::collection::vec(any_event(), 0..40)) {
        let mut s = machine();
        let mut asked = 0;
        let mut answered = std::collections::BTreeMap::<u64, u32>::new();
        let mut note = |effects: Vec<Effect>| {
            for (t, _) in answers(&effects) {
                *answered.entry(t).or_default() += 1;
            }
        };
        for mut event in events {
            if let Event::Start(ticket) | Event::Stop { ticket, .. } | Event::Kill { ticket, .. }
                | Event::Pause { ticket, .. } | Event::Remove { ticket, .. } = &mut event
            {
                *ticket = Ticket(asked);
                asked += 1;
            }
            note(s.step(event, NOW));
        }
        note(s.step(Event::VmGone, NOW));
        prop_assert_eq!(answered.len() as u64, asked);
        prop_assert!(answered.values().all(|n| *n == 1));
    }
}
