//! The ids of qos 2 publishes of the last minutes, so that one that comes again is not stored again. Of all partitions of a
//! core together; remembered across sessions, and, since they are read back from the log, across restarts.
//!
//! A ring of entries in the order of their times, and a table of their places in it: 32 bytes and a little an id.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

#[derive(Debug)]
struct Entry {
    id: Id,
    offset: u64,
    /// When it was published, seconds since 1970, rounded up.
    time_s: u32,
    partition: u16,
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

    /// Has room for so many more.
    pub(super) fn reserve(&mut self, ids: usize) {
        self.ring.reserve(ids);
        let (hasher, ring, base) = (&self.hasher, &self.ring, self.base);
        self.places.reserve(ids, |&number| {
            let entry = &ring[number.wrapping_sub(base) as usize];
            hasher.hash_one((entry.partition, entry.id))
        });
    }

    /// Where the event with this id is.
    pub(super) fn find(&self, partition: u16, id: Id) -> Option<u64> {
        let hash = self.hash(partition, id);
        let place = self.places.find(hash, |&number| {
            let entry = &self.ring[number.wrapping_sub(self.base) as usize];
            entry.id == id && entry.partition == partition
        })?;
        Some(self.ring[place.wrapping_sub(self.base) as usize].offset)
    }

    /// Remembers an id that is not there, with the time of its publish, ms since 1970.
    pub(super) fn insert(&mut self, partition: u16, id: Id, offset: u64, time_ms: u64) {
        let number = self.base.wrapping_add(self.ring.len() as u32);
        let hash = self.hash(partition, id);
        self.ring.push_back(Entry {
            id,
            offset,
            time_s: u32::try_from(time_ms.div_ceil(1000)).unwrap_or(u32::MAX),
            partition,
        });
        let (hasher, ring, base) = (&self.hasher, &self.ring, self.base);
        self.places.insert_unique(hash, number, |&number| {
            let entry = &ring[number.wrapping_sub(base) as usize];
            hasher.hash_one((entry.partition, entry.id))
        });
    }

    /// Forgets those published before this time, ms since 1970; so many of them at most.
    pub(super) fn expire(&mut self, before_ms: u64, ids_max: usize) {
        for _ in 0..ids_max {
            let Some(entry) = self.ring.front() else { break };
            if u64::from(entry.time_s) * 1000 >= before_ms {
                break;
            }
            let hash = self.hash(entry.partition, entry.id);
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

    fn hash(&self, partition: u16, id: Id) -> u64 {
        self.hasher.hash_one((partition, id))
    }
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
            once.insert((n % 3) as u16, id(n), u64::from(n) + 1, u64::from(n) * 1000);
        }
        for n in 0..2000 {
            assert_eq!(once.find((n % 3) as u16, id(n)), Some(u64::from(n) + 1));
            assert_eq!(once.find((n % 3) as u16 + 1, id(n)), None, "of another partition");
        }
        once.expire(1_000_000, 400);
        assert_eq!(once.len(), 1600);
        once.expire(1_000_000, usize::MAX);
        assert_eq!(once.len(), 1000);
        assert_eq!(once.find(0, id(999)), None);
        assert_eq!(once.find(1, id(1000)), Some(1001));
        once.expire(u64::MAX, usize::MAX);
        assert_eq!((once.len(), once.places.len()), (0, 0));
    }
}
