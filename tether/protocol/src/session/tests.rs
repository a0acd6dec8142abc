//! The session as a whole: cuts after every byte, damage, strangers, credit.

use proptest::prelude::*;

use super::*;

struct Pair {
    host: SessionHost,
    guest: SessionGuest,
    guest_key: PublicKey,
}

impl Pair {
    fn new() -> Self {
        let ours = Identity::generate().unwrap();
        let theirs = Identity::generate().unwrap();
        let guest = SessionGuest::new(&theirs, "c0ffee", &ours.fingerprint()).unwrap();
        let guest_key = theirs.public_key();
        Self {
            host: SessionHost::new(&ours),
            guest,
            guest_key,
        }
    }

    /// A new connection, greeted. The host's side always notices; the guest's may not.
    fn connect(&mut self) {
        self.host.line_down();
        let mut greeting = Greeting::new();
        self.guest.receive(&greeting.preamble());
        self.guest.receive(&greeting.preamble());
        let echo = greeting.receive(&self.guest.take_output()).unwrap();
        assert_eq!(echo.id(), "c0ffee");
        self.host.connect(echo, &self.guest_key).unwrap();
    }

    /// Carries bytes until both are silent, or until `budget` bytes have passed (then cuts).
    fn run(&mut self, mut budget: usize) -> usize {
        let mut carried = 0;
        loop {
            let to_guest = self.host.take_output();
            let to_host = self.guest.take_output();
            if to_guest.is_empty() && to_host.is_empty() {
                return carried;
            }
            let first = to_guest.len().min(budget);
            self.guest.receive(&to_guest[..first]);
            budget -= first;
            let second = to_host.len().min(budget);
            self.host.receive(&to_host[..second]).unwrap();
            budget -= second;
            carried += first + second;
            if budget == 0 {
                return carried;
            }
        }
    }
}

fn drain(session: &mut Session) -> (Vec<u8>, Vec<Message>) {
    let (mut bytes, mut messages) = (Vec::new(), Vec::new());
    while let Some(event) = session.poll_event() {
        match event {
            Event::Data {
                process,
                stream,
                data,
            } => {
                session.consumed(process, stream, data.len());
                bytes.extend(data);
            }
            Event::Message(message) => messages.push(message),
            Event::Up { .. } | Event::Credit { .. } => {}
        }
    }
    (bytes, messages)
}

#[test]
fn a_line_cut_after_any_byte_loses_and_doubles_nothing() {
    let exec = Message::Signal {
        process: PRIMARY,
        signal: 15,
    };
    let exit = Message::Exited {
        process: PRIMARY,
        code: 3,
        time: 1,
    };
    let mut cut = 1;
    loop {
        let mut pair = Pair::new();
        pair.host.send_data(PRIMARY, Stream::Stdin, b"typed");
        pair.host.send(exec.clone());
        pair.connect();
        let mut carried = pair.run(cut);
        pair.guest.line_down();
        let met = pair.guest.poll_event() == Some(Event::Up { resumed: false });
        let (mut typed, mut told) = drain(&mut pair.guest);
        if met {
            pair.guest.send_data(PRIMARY, Stream::Stdout, &[b'x'; 300]);
            pair.guest.send(exit.clone());
        }
        // Twice more over a line that is cut after as many bytes, the last time over a whole one.
        pair.connect();
        carried += pair.run(cut);
        pair.connect();
        pair.run(cut);
        pair.connect();
        pair.run(usize::MAX);
        if met {
            let (output, messages) = drain(&mut pair.host);
            assert_eq!(output, [b'x'; 300], "cut after {cut}");
            assert_eq!(messages, std::slice::from_ref(&exit), "cut after {cut}");
        }
        let (more, also) = drain(&mut pair.guest);
        typed.extend(more);
        told.extend(also);
        assert_eq!(typed, b"typed", "cut after {cut}");
        assert_eq!(told, std::slice::from_ref(&exec), "cut after {cut}");
        if carried < cut {
            break;
        }
        cut += 1;
    }
    assert!(
        cut > 1000,
        "the handshake and the data are longer than {cut}"
    );
}

#[test]
fn a_new_host_is_met_as_a_stranger_in_the_middle_of_a_record() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(usize::MAX);
    drain(&mut pair.guest);
    // The old host dies with a record half on the line.
    pair.host.send_data(PRIMARY, Stream::Stdin, &[7; 5000]);
    let half = pair.host.take_output();
    pair.guest.receive(&half[..half.len() / 2]);
    let identity = pair.host.identity.clone();
    pair.host = SessionHost::new(&identity);
    pair.host.send(Message::List { request: 1 });
    pair.connect();
    pair.run(usize::MAX);
    assert_eq!(pair.guest.poll_event(), Some(Event::Up { resumed: false }));
    assert_eq!(
        pair.guest.poll_event(),
        Some(Event::Message(Message::List { request: 1 }))
    );
    assert_eq!(pair.guest.poll_event(), None);
}

#[test]
fn a_guest_with_another_key_is_refused() {
    let mut pair = Pair::new();
    pair.guest_key = Identity::generate().unwrap().public_key();
    pair.connect();
    pair.guest.receive(&pair.host.take_output());
    let answer = pair.guest.take_output();
    assert!(matches!(
        pair.host.receive(&answer),
        Err(SessionError::Tls(_))
    ));
}

#[test]
fn a_host_with_another_key_learns_nothing() {
    let mut pair = Pair::new();
    pair.host = SessionHost::new(&Identity::generate().unwrap());
    pair.connect();
    pair.guest.receive(&pair.host.take_output());
    pair.host.receive(&pair.guest.take_output()).unwrap();
    pair.guest.receive(&pair.host.take_output());
    assert!(!pair.guest.is_up());
    assert_eq!(pair.guest.poll_event(), None);
}

#[test]
fn damage_makes_the_guest_wait_for_a_preamble() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(usize::MAX);
    pair.host.send(Message::List { request: 1 });
    let mut wire = pair.host.take_output();
    *wire.last_mut().unwrap() ^= 1;
    pair.guest.receive(&wire);
    assert!(!pair.guest.is_up());
    drain(&mut pair.guest);
    pair.connect();
    pair.run(usize::MAX);
    assert_eq!(drain(&mut pair.guest).1, [Message::List { request: 1 }]);
}

#[test]
fn a_stream_without_a_reader_stops_alone() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(usize::MAX);
    let much = vec![1; 2 * WINDOW];
    assert_eq!(pair.guest.send_data(PRIMARY, Stream::Stdout, &much), WINDOW);
    assert_eq!(pair.guest.credit(PRIMARY, Stream::Stdout), 0);
    assert_eq!(pair.guest.send_data(2, Stream::Stdout, b"other"), 5);
    pair.run(usize::MAX);
    let (bytes, _) = drain(&mut pair.host);
    assert_eq!(bytes.len(), WINDOW + 5);
    pair.run(usize::MAX);
    assert_eq!(pair.guest.credit(PRIMARY, Stream::Stdout), WINDOW);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_traffic_over_any_cuts_arrives_once(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 1..20),
        cuts in proptest::collection::vec(1usize..9000, 0..12),
    ) {
        let mut pair = Pair::new();
        pair.connect();
        pair.run(usize::MAX);
        let (mut sent, mut arrived) = (Vec::new(), Vec::new());
        let mut cuts = cuts.into_iter();
        for chunk in chunks {
            let count = pair.guest.send_data(PRIMARY, Stream::Stdout, &chunk);
            sent.extend_from_slice(&chunk[..count]);
            if let Some(cut) = cuts.next() {
                pair.run(cut);
                pair.connect();
            }
            arrived.extend(drain(&mut pair.host).0);
        }
        pair.run(usize::MAX);
        pair.run(usize::MAX);
        arrived.extend(drain(&mut pair.host).0);
        prop_assert_eq!(arrived, sent);
    }
}
