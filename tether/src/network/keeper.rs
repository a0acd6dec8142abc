//! Keeping an address that DHCP gave (RFC 2131 §4.4.5): what to ask when. Pure: no socket, no clock.
//!
//! ```text
//! Bound ──T1──▶ Renewing ──T2──▶ Rebinding ──end──▶ Lost: discover ⇄ request
//!   ▲    its server │   any server   │                 │
//!   └─────────ack───┴────────────────┴─────────────────┘        a nak leads from anywhere to Lost
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::dhcp::{Answer, Kind, Query};
use super::dhcp_client::{Lease, SERVER};

/// Shortest pause between two questions for more time; shorter only for leases that are short
/// themselves.
const FLOOR: Duration = Duration::from_secs(60);
/// First and longest pause between questions for a new address.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The address is ours, and nothing is to be done.
    Bound,
    /// T1 has passed: its server is asked for more time.
    Renewing,
    /// T2 has passed: every server is asked.
    Rebinding,
    /// There is no address: somebody is looked for who gives one.
    Discovering,
    /// An address was offered.
    Requesting {
        wanted: Ipv4Addr,
        server: Option<Ipv4Addr>,
    },
}

/// What an event means for the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// There is a lease, or more time for the one there was.
    Granted(Lease),
    /// The address must not be used any more.
    Lost,
}

/// The lease of one interface.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    mac: [u8; 6],
    host_name: String,
    lease: Lease,
    phase: Phase,
    transaction: u32,
    /// When something is due; none for an address without end.
    at: Option<Instant>,
    asked: Instant,
    pause: Duration,
}

impl Keeper {
    /// Keeps `lease`, which was just granted.
    pub(super) fn new(mac: [u8; 6], host_name: &str, transaction: u32, lease: Lease) -> Self {
        let mut keeper = Self {
            mac,
            host_name: host_name.to_owned(),
            asked: lease.since,
            phase: Phase::Bound,
            transaction,
            at: None,
            pause: FIRST_PAUSE,
            lease,
        };
        keeper.bind();
        keeper
    }

    /// When [`on_time`](Self::on_time) is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }

    /// Answers are expected.
    pub(super) fn listens(&self) -> bool {
        self.phase != Phase::Bound
    }

    fn bind(&mut self) {
        self.phase = Phase::Bound;
        self.pause = FIRST_PAUSE;
        self.at = self
            .lease
            .lasts
            .map(|_| self.lease.since + self.lease.renew);
    }

    /// Does what is due at `now`: moves on, asks (a message and where to) or gives up the address.
    pub(super) fn on_time(
        &mut self,
        now: Instant,
    ) -> (Option<(Vec<u8>, SocketAddrV4)>, Option<Change>) {
        let Some(lasts) = self
            .lease
            .lasts
            .filter(|_| self.at.is_some_and(|at| at <= now))
        else {
            return (None, None);
        };
        let (rebind, end) = (
            self.lease.since + self.lease.rebind,
            self.lease.since + lasts,
        );
        let mut change = None;
        match self.phase {
            Phase::Bound | Phase::Renewing | Phase::Rebinding if now >= end => {
                change = Some(Change::Lost);
                self.look_for_another();
            }
            Phase::Bound | Phase::Renewing if now < rebind => self.enter(Phase::Renewing),
            Phase::Bound | Phase::Renewing | Phase::Rebinding => self.enter(Phase::Rebinding),
            // The offer came to nothing.
            Phase::Requesting { .. } => self.look_for_another(),
            Phase::Discovering => {}
        }
        self.asked = now;
        // Half of what is left, but not again at once, and never past the next step.
        let floor = FLOOR.min(lasts / 16);
        self.at = Some(match self.phase {
            Phase::Renewing => (now + ((rebind - now) / 2).max(floor)).min(rebind),
            Phase::Rebinding => (now + ((end - now) / 2).max(floor)).min(end),
            _ => {
                let pause = self.pause;
                self.pause = (pause * 2).min(LAST_PAUSE);
                now + pause
            }
        });
        (Some(self.question()), change)
    }

    fn enter(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.transaction = self.transaction.wrapping_add(1);
        }
    }

    fn look_for_another(&mut self) {
        self.enter(Phase::Discovering);
    }

    fn question(&self) -> (Vec<u8>, SocketAddrV4) {
        let current = match self.lease.address.ip {
            std::net::IpAddr::V4(ip) => ip,
            std::net::IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let mut query = Query {
            kind: Kind::Request,
            transaction: self.transaction,
            mac: self.mac,
            current,
            wanted: None,
            server: None,
            host_name: &self.host_name,
        };
        let mut to = SERVER;
        match self.phase {
            Phase::Bound | Phase::Rebinding => {}
            Phase::Renewing => {
                if let Some(server) = self.lease.server {
                    to = SocketAddrV4::new(server, SERVER.port());
                }
            }
            Phase::Discovering => {
                query.kind = Kind::Discover;
                query.current = Ipv4Addr::UNSPECIFIED;
            }
            Phase::Requesting { wanted, server } => {
                query.current = Ipv4Addr::UNSPECIFIED;
                (query.wanted, query.server) = (Some(wanted), server);
            }
        }
        (query.encode(), to)
    }

    /// Takes what a server says; what is not for this question is left alone.
    pub(super) fn on_message(
        &mut self,
        bytes: &[u8],
        now: Instant,
    ) -> (Option<(Vec<u8>, SocketAddrV4)>, Option<Change>) {
        let Some(answer) = Answer::decode(bytes, self.transaction, self.mac) else {
            return (None, None);
        };
        match (self.phase, answer.kind) {
            (Phase::Renewing | Phase::Rebinding | Phase::Requesting { .. }, Kind::Ack) => {
                let mut lease = Lease::granted(answer, self.asked);
                // A server need not say again who it is.
                lease.server = lease.server.or(self.lease.server);
                self.lease = lease;
                self.bind();
                (None, Some(Change::Granted(self.lease.clone())))
            }
            (Phase::Renewing | Phase::Rebinding, Kind::Nak) => {
                self.look_for_another();
                self.at = Some(now);
                (None, Some(Change::Lost))
            }
            (Phase::Requesting { .. }, Kind::Nak) => {
                self.look_for_another();
                self.at = Some(now + self.pause);
                (None, None)
            }
            (Phase::Discovering, Kind::Offer) => {
                let (wanted, server) = (answer.address, answer.server);
                self.phase = Phase::Requesting { wanted, server };
                self.asked = now;
                self.at = Some(now + self.pause);
                (Some(self.question()), None)
            }
            _ => (None, None),
        }
    }
}

#[cfg(test)]
mod tests;
