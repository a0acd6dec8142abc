//! A lease under a clock of the test's own, against a server that the test plays.

use super::*;

const MAC: [u8; 6] = [0, 0x50, 0x56, 9, 8, 7];
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A keeper of 10.0.0.5 for `lasts` seconds from `start`.
fn keeper(start: Instant, lasts: u32) -> Keeper {
    let bytes = answer(0, 5, lasts, [10, 0, 0, 5]);
    let answer = Answer::decode(&bytes, 0, MAC).unwrap();
    Keeper::new(MAC, "web", 100, Lease::granted(answer, start))
}

fn answer(transaction: u32, kind: u8, lasts: u32, address: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[0] = 2;
    bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
    bytes[16..20].copy_from_slice(&address);
    bytes[28..34].copy_from_slice(&MAC);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend_from_slice(&[53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4]);
    bytes.extend_from_slice(&lasts.to_be_bytes());
    bytes.push(255);
    bytes
}

struct Asked {
    kind: u8,
    transaction: u32,
    current: [u8; 4],
    options: Vec<u8>,
}

fn read(message: &[u8]) -> Asked {
    Asked {
        kind: message[242],
        transaction: u32::from_be_bytes(message[4..8].try_into().unwrap()),
        current: message[12..16].try_into().unwrap(),
        options: message[240..].to_vec(),
    }
}

#[test]
fn at_t1_its_own_server_is_asked_for_more_time() {
    let start = Instant::now();
    let mut keeper = keeper(start, 800);
    assert_eq!(keeper.due(), Some(start + seconds(400)));
    assert_eq!(keeper.on_time(start + seconds(399)), (None, None));
    let now = start + seconds(400);
    let (asked, change) = keeper.on_time(now);
    let (message, to) = asked.unwrap();
    assert_eq!((to, change), (SocketAddrV4::new(SERVER_IP, 67), None));
    let asked = read(&message);
    // A renewal names the address in its head and neither the server nor the address as options.
    assert_eq!((asked.kind, asked.current), (3, [10, 0, 0, 5]));
    assert!(
        !asked
            .options
            .windows(2)
            .any(|o| o == [50, 4] || o == [54, 4])
    );
    let ack = answer(asked.transaction, 5, 800, [10, 0, 0, 5]);
    let (_, change) = keeper.on_message(&ack, now + seconds(1));
    assert!(matches!(change, Some(Change::Granted(lease)) if lease.since == now));
    // Time counts from the question, not from the answer.
    assert_eq!(keeper.due(), Some(now + seconds(400)));
    assert!(!keeper.listens());
}

#[test]
fn questions_are_repeated_after_half_of_what_is_left_and_not_faster_than_once_a_minute() {
    let start = Instant::now();
    let mut keeper = keeper(start, 8000);
    let mut times = Vec::new();
    while let Some(at) = keeper.due().filter(|at| *at < start + seconds(8000)) {
        let (asked, _) = keeper.on_time(at);
        let (_, to) = asked.unwrap();
        times.push(((at - start).as_secs(), *to.ip() == SERVER_IP));
    }
    let (renewing, rebinding): (Vec<_>, Vec<_>) = times.iter().partition(|(_, own)| *own);
    assert_eq!(renewing[..3], [(4000, true), (5500, true), (6250, true)]);
    assert_eq!(
        rebinding[..3],
        [(7000, false), (7500, false), (7750, false)]
    );
    let gaps = |list: &[(u64, bool)]| list.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 59);
    assert!(gaps(&renewing) && gaps(&rebinding), "{times:?}");
    assert!(times.len() < 20, "{times:?}");
}

#[test]
fn at_t2_every_server_is_asked_and_at_the_end_the_address_is_given_up() {
    let start = Instant::now();
    let mut keeper = keeper(start, 16);
    let mut lost = None;
    let mut rebound = false;
    while lost.is_none() {
        let at = keeper.due().unwrap();
        let (asked, change) = keeper.on_time(at);
        let (message, to) = asked.unwrap();
        rebound |= to == SERVER && read(&message).kind == 3;
        lost = change.map(|change| (at, change));
    }
    assert_eq!(lost, Some((start + seconds(16), Change::Lost)));
    assert!(rebound);
    // Then another is looked for.
    let at = keeper.due().unwrap();
    let (asked, change) = keeper.on_time(at);
    let asked = read(&asked.unwrap().0);
    assert_eq!((asked.kind, asked.current, change), (1, [0; 4], None));
    let offer = answer(asked.transaction, 2, 60, [10, 0, 0, 77]);
    let (asked, _) = keeper.on_message(&offer, at);
    let asked = read(&asked.unwrap().0);
    assert_eq!(asked.kind, 3);
    assert!(asked.options.windows(6).any(|o| o == [50, 4, 10, 0, 0, 77]));
    let ack = answer(asked.transaction, 5, 60, [10, 0, 0, 77]);
    let (_, change) = keeper.on_message(&ack, at);
    assert!(
        matches!(change, Some(Change::Granted(lease)) if lease.address.to_string() == "10.0.0.77/24")
    );
    assert_eq!(keeper.due(), Some(at + seconds(30)));
}

#[test]
fn a_refusal_takes_the_address_away_at_once() {
    let start = Instant::now();
    let mut keeper = keeper(start, 100);
    let now = start + seconds(50);
    let asked = read(&keeper.on_time(now).0.unwrap().0);
    let nak = answer(asked.transaction, 6, 0, [0; 4]);
    assert_eq!(keeper.on_message(&nak, now), (None, Some(Change::Lost)));
    let (asked, _) = keeper.on_time(now);
    assert_eq!(read(&asked.unwrap().0).kind, 1);
}

#[test]
fn an_address_without_end_is_never_asked_about() {
    let keeper = keeper(Instant::now(), u32::MAX);
    assert_eq!(keeper.due(), None);
}

#[test]
fn answers_to_earlier_questions_count_for_nothing() {
    let start = Instant::now();
    let mut keeper = keeper(start, 100);
    let first = read(&keeper.on_time(start + seconds(50)).0.unwrap().0);
    let t2 = start + seconds(88);
    keeper.on_time(t2);
    let late = answer(first.transaction, 5, 100, [10, 0, 0, 5]);
    assert_eq!(keeper.on_message(&late, t2), (None, None));
}
