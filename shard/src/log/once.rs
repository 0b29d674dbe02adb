//! The ids of qos 2 publishes of the last minutes, so that one that comes again is not stored again. Of all partitions of a
//! core together; remembered across sessions, and, since they are read back from the log, across restarts.
//!
//! A ring of entries in the order of their times, and a table of their places in it: 32 bytes and a little an id.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use super::recovery::OnceId;

/// So many recovered ids are put into the table with one walk through it; 16 bytes each meanwhile.
const RECOVERED_AT_ONCE: usize = 512 * 1024;

#[derive(Debug)]
struct Entry {
    id: Id,
    offset: u64,
    /// When it was published, seconds since 1970, rounded up.
    time_s: u32,
    partition: u16,
}

impl Entry {
    fn new(partition: u16, id: Id, offset: u64, time_ms: u64) -> Self {
        Self {
            id,
            offset,
            time_s: u32::try_from(time_ms.div_ceil(1000)).unwrap_or(u32::MAX),
            partition,
        }
    }

    fn time_ms(&self) -> u64 {
        u64::from(self.time_s) * 1000
    }

    fn hash(&self, hasher: &FixedState) -> u64 {
        hasher.hash_one((self.partition, self.id))
    }
}

#[derive(Debug)]
pub(super) struct Once {
    hasher: FixedState,
    /// The low bits of the numbers of entries.
    places: HashTable<u32>,
    ring: VecDeque<Entry>,
    /// The number of the ring's first entry.
    base: u32,
}

impl Once {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            hasher,
            places: HashTable::new(),
            ring: VecDeque::new(),
            base: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Remembers an id with the time of its publish, ms since 1970, unless it is remembered: then it says where the event is. One
    /// that was published before `since_ms` does not count, forgotten or not.
    pub(super) fn insert(
        &mut self,
        partition: u16,
        id: Id,
        offset: u64,
        time_ms: u64,
        since_ms: u64,
    ) -> Option<u64> {
        let number = self.base.wrapping_add(self.ring.len() as u32);
        let entry = Entry::new(partition, id, offset, time_ms);
        let hash = entry.hash(&self.hasher);
        self.ring.push_back(entry);
        let known = self.place(hash, number, since_ms)?;
        self.ring.pop_back();
        Some(self.ring[known.wrapping_sub(self.base) as usize].offset)
    }

    /// Remembers what a start found, millions maybe, in the order of their times. One that comes twice, or is remembered, leaves
    /// an entry that nobody finds.
    pub(super) fn recover(&mut self, found: Vec<OnceId>) {
        self.ring.reserve(found.len());
        let (hasher, ring, base) = (&self.hasher, &self.ring, self.base);
        self.places
            .reserve(found.len(), |&number| entry_of(ring, base, number).hash(hasher));
        // Of each id the place in the table is anywhere in tens of MB, so that each would wait for the memory twice. The table is
        // walked from its beginning to its end instead, for many ids each time.
        let mask = self.places.num_buckets() as u64 - 1;
        let mut places: Vec<(u64, u32)> = Vec::with_capacity(found.len().min(RECOVERED_AT_ONCE));
        for found in found.chunks(RECOVERED_AT_ONCE) {
            places.clear();
            for found in found {
                let entry = Entry::new(found.partition, found.id, found.offset, found.time_ms);
                let number = self.base.wrapping_add(self.ring.len() as u32);
                places.push((entry.hash(&self.hasher), number));
                self.ring.push_back(entry);
            }
            // Of two that are the same the first counts.
            places.sort_unstable_by_key(|(hash, number)| (hash & mask, number.wrapping_sub(base)));
            for (hash, number) in &places {
                self.place(*hash, *number, 0);
            }
        }
    }

    /// Puts the number of an entry into the table, unless there is one of the same id that counts: then that one's.
    fn place(&mut self, hash: u64, number: u32, since_ms: u64) -> Option<u32> {
        let (hasher, ring, base) = (&self.hasher, &self.ring, self.base);
        let new = entry_of(ring, base, number);
        let is_same = |known: &u32| {
            let known = entry_of(ring, base, *known);
            known.id == new.id && known.partition == new.partition && known.time_ms() >= since_ms
        };
        let hash_of = |number: &u32| entry_of(ring, base, *number).hash(hasher);
        match self.places.entry(hash, is_same, hash_of) {
            Place::Occupied(known) => Some(*known.get()),
            Place::Vacant(place) => {
                place.insert(number);
                None
            }
        }
    }

    /// Forgets those published before this time, ms since 1970; so many of them at most.
    pub(super) fn expire(&mut self, before_ms: u64, ids_max: usize) {
        for _ in 0..ids_max {
            let Some(entry) = self.ring.front() else { break };
            if entry.time_ms() >= before_ms {
                break;
            }
            let hash = entry.hash(&self.hasher);
            let base = self.base;
            if let Ok(place) = self.places.find_entry(hash, |&number| number == base) {
                place.remove();
            }
            self.ring.pop_front();
            self.base = self.base.wrapping_add(1);
        }
        if self.ring.is_empty() && self.ring.capacity() > 1024 {
            self.ring = VecDeque::new();
            self.places = HashTable::new();
        }
    }
}

fn entry_of(ring: &VecDeque<Entry>, base: u32, number: u32) -> &Entry {
    &ring[number.wrapping_sub(base) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_until_they_are_old() {
        let mut once = Once::new(FixedState::with_seed(7));
        once.base = u32::MAX - 500; // numbers wrap
        let id = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_le_bytes());
            Id(id)
        };
        for n in 0..2000 {
            let known = once.insert((n % 3) as u16, id(n), u64::from(n) + 1, u64::from(n) * 1000, 0);
            assert_eq!(known, None);
        }
        for n in 0..2000 {
            assert_eq!(
                once.insert((n % 3) as u16, id(n), 9_999, u64::MAX, 0),
                Some(u64::from(n) + 1)
            );
        }
        assert_eq!(once.len(), 2000);
        assert_eq!(
            once.insert(1, id(0), 7, 2_000_000, 0),
            None,
            "of another partition"
        );
        once.expire(1_000_000, 400);
        assert_eq!(once.len(), 1601);
        once.expire(1_000_000, usize::MAX);
        assert_eq!(once.len(), 1001);
        assert_eq!(once.insert(1, id(1000), 9_999, 2_000_000, 0), Some(1001));
        assert_eq!(
            once.insert(0, id(999), 3_000, 2_000_000, 0),
            None,
            "it was forgotten"
        );
        once.expire(u64::MAX, usize::MAX);
        assert_eq!((once.len(), once.places.len()), (0, 0));
    }

    #[test]
    fn what_a_start_found_is_found_as_if_it_had_been_published() {
        // More than one walk through the table takes.
        let count = RECOVERED_AT_ONCE as u64 * 5 / 4;
        let mut once = Once::new(FixedState::with_seed(7));
        once.base = u32::MAX - 500; // numbers wrap
        let id = |n: u64| Id(u128::from(n).to_le_bytes());
        assert_eq!(once.insert(0, id(5), 1, 0, 0), None);
        let found = (0..count).map(|n| OnceId {
            id: id(n),
            partition: (n % 3) as u16,
            offset: n + 10,
            time_ms: n,
        });
        // An event that was written again to another segment is there twice.
        let again = OnceId {
            id: id(8),
            partition: 2,
            offset: 77,
            time_ms: count,
        };
        once.recover(found.chain([again]).collect());
        for n in 0..count {
            assert_eq!(once.insert((n % 3) as u16, id(n), 1, count, 0), Some(n + 10));
        }
        assert_eq!(once.insert(0, id(5), 2, count, 0), Some(1), "it was there before");
        assert_eq!(once.insert(0, id(count), count + 10, count, 0), None);
        once.expire(count / 2, usize::MAX);
        assert_eq!(once.insert(0, id(0), 1, count, 0), None, "it was forgotten");
        assert_eq!(
            once.insert(((count - 1) % 3) as u16, id(count - 1), 1, count, 0),
            Some(count + 9)
        );
        once.expire(u64::MAX, usize::MAX);
        assert_eq!((once.len(), once.places.len()), (0, 0));
    }

    #[test]
    fn an_id_that_is_old_does_not_count_though_it_is_not_forgotten_yet() {
        let mut once = Once::new(FixedState::with_seed(7));
        let id = Id([1; 16]);
        assert_eq!(once.insert(0, id, 1, 10_000, 0), None);
        assert_eq!(once.insert(0, id, 9, 20_000, 10_000), Some(1));
        assert_eq!(once.insert(0, id, 2, 20_000, 10_001), None);
        assert_eq!(once.insert(0, id, 9, 20_000, 15_000), Some(2));
        once.expire(15_000, usize::MAX);
        assert_eq!((once.len(), once.insert(0, id, 9, 20_000, 15_000)), (1, Some(2)));
    }
}
