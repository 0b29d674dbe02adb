//! Sets of receivers, each held once: two topics have the same receivers if and only if they have the same `Rc`.

use std::hash::BuildHasher;
use std::rc::{Rc, Weak};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::letter::GroupHandle;
use crate::peer::PeerId;

/// Who gets an event. Each list is sorted, none holds anything twice.
#[derive(Debug)]
pub(crate) struct Receivers {
    /// Connections of this core.
    pub(crate) plain: Rc<[PeerId]>,
    /// Other cores, which find their own connections.
    pub(crate) cores: Box<[u16]>,
    /// Groups of which one member, here or elsewhere, gets it.
    pub(crate) groups: Box<[GroupHandle]>,
}

impl Receivers {
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.cores.is_empty() && self.groups.is_empty()
    }
}

/// The sets in use.
#[derive(Debug)]
pub(crate) struct ReceiverSets {
    sets: HashTable<(u64, Weak<Receivers>)>,
    hasher: FixedState,
    /// At this many, those that nobody uses are swept out.
    sweep_at: usize,
}

const SWEEP_LEAST: usize = 64;

impl ReceiverSets {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            sets: HashTable::new(),
            hasher: hasher.clone(),
            sweep_at: SWEEP_LEAST,
        }
    }

    /// The set of these sorted lists.
    pub(crate) fn intern(
        &mut self,
        plain: &[PeerId],
        cores: &[u16],
        groups: &[GroupHandle],
    ) -> Rc<Receivers> {
        let hash = self.hasher.hash_one((plain, cores, groups));
        let mut known = None;
        let _ = self.sets.find(hash, |(other, set)| {
            known = set.upgrade().filter(|set| {
                *other == hash && *set.plain == *plain && *set.cores == *cores && *set.groups == *groups
            });
            known.is_some()
        });
        if let Some(known) = known {
            return known;
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|(_, set)| set.strong_count() > 0);
            self.sweep_at = SWEEP_LEAST.max(2 * self.sets.len());
        }
        let set = Rc::new(Receivers {
            plain: plain.into(),
            cores: cores.into(),
            groups: groups.into(),
        });
        self.sets
            .insert_unique(hash, (hash, Rc::downgrade(&set)), |(hash, _)| *hash);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_unused_ones_go() {
        let peer = |slot| PeerId {
            slot,
            generation: 0,
            core: 0,
        };
        let mut sets = ReceiverSets::new(&FixedState::with_seed(3));
        let one = sets.intern(&[peer(1), peer(2)], &[3], &[]);
        assert!(Rc::ptr_eq(&one, &sets.intern(&[peer(1), peer(2)], &[3], &[])));
        assert!(!Rc::ptr_eq(&one, &sets.intern(&[peer(1), peer(2)], &[], &[])));
        for slot in 0..10_000 {
            sets.intern(&[peer(slot)], &[], &[]);
        }
        assert!(sets.sets.len() <= SWEEP_LEAST);
        assert!(Rc::ptr_eq(&one, &sets.intern(&[peer(1), peer(2)], &[3], &[])));
    }
}
