//! The slots of the appliance's controller: which are free, and who has leased the others until when. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tether_protocol::config::Slot;

/// Units of a pvscsi controller.
const UNITS: u8 = 16;

/// The unit that the controller itself has.
const OWN_UNIT: u8 = 7;

/// A slot that is leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The lease's number; none is given twice.
    pub lease: u64,
    /// The disk's datastore path.
    pub path: String,
    /// The disk's device key; none while it is being added.
    pub key: Option<i32>,
    /// When the lease ends by itself, counted from the table's beginning.
    pub until: Duration,
    /// The holder is gone, or its time is over: the disk is to be let go.
    pub over: bool,
}

/// All slots. They outlive the appliance's actor, as its holders do; they end with the program.
#[derive(Debug, Default)]
pub struct Slots {
    held: BTreeMap<u8, Held>,
    /// Disks that the VM was made with, or somebody else has added: none of ours to give.
    fixed: BTreeSet<u8>,
    next: u64,
}

impl Slots {
    /// Leases a free slot; `None` when there is none.
    pub fn lease(&mut self, path: &str, until: Duration) -> Option<(u64, Slot)> {
        let unit = (0..UNITS)
            .filter(|u| *u != OWN_UNIT)
            .find(|u| !self.held.contains_key(u) && !self.fixed.contains(u))?;
        self.next += 1;
        let held = Held {
            lease: self.next,
            path: path.to_owned(),
            key: None,
            until,
            over: false,
        };
        self.held.insert(unit, held);
        Some((self.next, Slot { bus: 0, unit }))
    }

    /// The slot of a lease.
    pub fn find(&self, lease: u64) -> Option<(Slot, &Held)> {
        self.held
            .iter()
            .find(|(_, held)| held.lease == lease)
            .map(|(unit, held)| (slot(*unit), held))
    }

    /// Whether a disk is in a slot, or is about to be.
    pub fn has(&self, path: &str) -> bool {
        self.held.values().any(|held| held.path == path)
    }

    /// The disk of a lease is there; false when the lease is not.
    pub fn added(&mut self, lease: u64, key: i32) -> bool {
        let held = self.held.values_mut().find(|held| held.lease == lease);
        held.map(|held| held.key = Some(key)).is_some()
    }

    /// The holder of a lease is gone.
    pub fn give_up(&mut self, lease: u64) {
        for held in self.held.values_mut().filter(|held| held.lease == lease) {
            held.over = true;
        }
    }

    /// The slot of a lease is free again.
    pub fn free(&mut self, lease: u64) {
        self.held.retain(|_, held| held.lease != lease);
    }

    /// The leases whose disks are to be let go now.
    pub fn overdue(&mut self, now: Duration) -> Vec<u64> {
        for held in self.held.values_mut().filter(|held| held.until <= now) {
            held.over = true;
        }
        let over = self.held.values().filter(|held| held.over);
        // One that is still being added is looked at again when it is there.
        over.filter(|held| held.key.is_some())
            .map(|held| held.lease)
            .collect()
    }

    /// Takes a look at the VM's disks into account, `(unit, key, path, ours)`, when no reconfigure is under way. Gives
    /// those that nobody has leased and that are ours to remove, with their keys.
    pub fn seen(&mut self, disks: &[(u8, i32, String, bool)]) -> Vec<(Slot, i32)> {
        // What was being added when its adder died is there now, or never will be; nobody was told of it.
        self.held.retain(|unit, held| {
            let there = disks
                .iter()
                .any(|(u, _, path, _)| u == unit && *path == held.path);
            there && held.key.is_some()
        });
        self.fixed.clear();
        let mut strangers = Vec::new();
        for (unit, key, _, ours) in disks {
            match (self.held.get_mut(unit), ours) {
                (Some(held), _) => held.key = Some(*key),
                (None, true) => strangers.push((slot(*unit), *key)),
                (None, false) => {
                    self.fixed.insert(*unit);
                }
            }
        }
        strangers
    }

    /// The slots that are leased.
    pub fn leased(&self) -> Vec<Slot> {
        self.held.keys().map(|unit| slot(*unit)).collect()
    }
}

fn slot(unit: u8) -> Slot {
    Slot { bus: 0, unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn full() -> Slots {
        let mut slots = Slots::default();
        while let Some((lease, slot)) = slots.lease("[ds] a", HOUR) {
            assert!(slots.added(lease, 2000 + i32::from(slot.unit)));
        }
        slots
    }

    #[test]
    fn a_controller_has_fifteen_slots_and_the_seventh_unit_is_its_own() {
        let mut slots = full();
        let units: Vec<_> = slots.leased().iter().map(|s| s.unit).collect();
        assert_eq!(units, [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        let lease = slots.held[&3].lease;
        slots.free(lease);
        let (again, slot) = slots.lease("[ds] b", HOUR).unwrap();
        assert_eq!(slot.unit, 3);
        assert_ne!(again, lease);
        assert!(slots.lease("[ds] c", HOUR).is_none());
    }

    #[test]
    fn a_lease_is_over_at_its_deadline_or_when_its_holder_is_gone() {
        let mut slots = Slots::default();
        let (long, _) = slots.lease("[ds] a", HOUR).unwrap();
        let (short, _) = slots.lease("[ds] b", HOUR / 2).unwrap();
        let (adding, _) = slots.lease("[ds] c", HOUR / 2).unwrap();
        slots.added(long, 1);
        slots.added(short, 2);
        assert!(slots.overdue(HOUR / 4).is_empty());
        assert_eq!(slots.overdue(HOUR / 2), [short]);
        slots.give_up(long);
        slots.added(adding, 3);
        assert_eq!(slots.overdue(HOUR / 2), [long, short, adding]);
    }

    #[test]
    fn disks_that_nobody_has_leased_are_let_go_and_those_of_others_stay() {
        let mut slots = Slots::default();
        let (kept, _) = slots.lease("[ds] images/a", HOUR).unwrap();
        slots.added(kept, 10);
        // Its adder died before it could tell anybody.
        slots.lease("[ds] images/b", HOUR).unwrap();
        let disks = [
            (0, 11, "[ds] images/a".to_owned(), true),
            (1, 12, "[ds] images/b".to_owned(), true),
            (2, 13, "[ds] images/c".to_owned(), true),
            (3, 14, "[ds] vch/data".to_owned(), false),
        ];
        let strangers = slots.seen(&disks);
        assert_eq!(strangers, [(slot(1), 12), (slot(2), 13)]);
        assert_eq!(slots.find(kept).unwrap().1.key, Some(11));
        assert_eq!(slots.leased(), [slot(0)]);
        // The slots of strangers are free once they are removed; those of others never are.
        let units: Vec<_> = (0..3)
            .map(|_| slots.lease("[ds] d", HOUR).unwrap().1.unit)
            .collect();
        assert_eq!(units, [1, 2, 4]);
    }
}
