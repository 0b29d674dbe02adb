//! Calls and opens that wait until one of the peers that serve their method has room.
//!
//! One queue a set of peers, in the order of `prio`, then of age; and all of them together in one more such order, from
//! whose far end the least urgent, newest one is displaced when the bound is reached. Both orders are lists through the
//! exchanges' slots: waiting and leaving at any place is O(1).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::serving::set::SetId;

/// Priorities, 0..=7.
pub(crate) const PRIOS: usize = 8;
const NONE: u32 = u32::MAX;

/// Waiting exchanges.
#[derive(Debug)]
pub(crate) struct Queue {
    sets: HashMap<SetId, Lists, FixedState>,
    all: Lists,
    seats: Vec<Seat>,
    waiting: usize,
    /// Of those of each priority.
    bytes: [usize; PRIOS],
}

/// First and last of each priority.
#[derive(Debug, Clone, Copy)]
struct Lists {
    ends: [(u32, u32); PRIOS],
    /// Bit n: somebody waits with priority n.
    occupied: u8,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    /// Neighbours in its set's list, and in the list of all.
    of_set: Neighbours,
    of_all: Neighbours,
    set: Option<SetId>,
    bytes: usize,
    prio: u8,
}

#[derive(Debug, Clone, Copy)]
struct Neighbours {
    previous: u32,
    next: u32,
}

const ALONE: Neighbours = Neighbours {
    previous: NONE,
    next: NONE,
};

impl Queue {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            sets: HashMap::with_hasher(hasher.clone()),
            all: Lists::new(),
            seats: Vec::new(),
            waiting: 0,
            bytes: [0; PRIOS],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Appends `entry`, of which so many bytes are held and which does not wait yet.
    pub(crate) fn push(&mut self, entry: u32, set: SetId, prio: u8, bytes: usize) {
        let vacant = Seat {
            of_set: ALONE,
            of_all: ALONE,
            set: None,
            bytes: 0,
            prio: 0,
        };
        if self.seats.len() <= entry as usize {
            self.seats.resize(entry as usize + 1, vacant);
        }
        debug_assert!(self.seats[entry as usize].set.is_none());
        let at = usize::from(prio) % PRIOS;
        let lists = self.sets.entry(set).or_insert_with(Lists::new);
        let of_set = lists.append(at, entry);
        let of_all = self.all.append(at, entry);
        if of_set.previous != NONE {
            self.seats[of_set.previous as usize].of_set.next = entry;
        }
        if of_all.previous != NONE {
            self.seats[of_all.previous as usize].of_all.next = entry;
        }
        self.seats[entry as usize] = Seat {
            of_set,
            of_all,
            set: Some(set),
            bytes,
            prio: at as u8,
        };
        self.waiting += 1;
        self.bytes[at] += bytes;
    }

    /// Takes `entry` out, wherever it stands. The set that it waited for, if it waited, and whether nobody does any more.
    pub(crate) fn remove(&mut self, entry: u32) -> Option<(SetId, bool)> {
        let place = self.seats.get_mut(entry as usize)?;
        let set = place.set.take()?;
        let seat = *place;
        self.waiting -= 1;
        let prio = usize::from(seat.prio);
        self.bytes[prio] -= seat.bytes;
        let lists = self.sets.get_mut(&set)?;
        lists.take_out(prio, seat.of_set);
        let is_empty = lists.occupied == 0;
        if is_empty {
            self.sets.remove(&set);
        }
        self.all.take_out(prio, seat.of_all);
        let Neighbours { previous, next } = seat.of_set;
        if previous != NONE {
            self.seats[previous as usize].of_set.next = next;
        }
        if next != NONE {
            self.seats[next as usize].of_set.previous = previous;
        }
        let Neighbours { previous, next } = seat.of_all;
        if previous != NONE {
            self.seats[previous as usize].of_all.next = next;
        }
        if next != NONE {
            self.seats[next as usize].of_all.previous = previous;
        }
        Some((set, is_empty))
    }

    /// Who goes first in a set.
    pub(crate) fn first_of(&self, set: SetId) -> Option<u32> {
        self.sets.get(&set)?.first()
    }

    /// Bytes of those that are less urgent than `prio`.
    pub(crate) fn bytes_below(&self, prio: u8) -> usize {
        self.bytes[..usize::from(prio) % PRIOS].iter().sum()
    }

    /// The newest of the least urgent ones, if it is less urgent than `prio`.
    pub(crate) fn displaced_by(&self, prio: u8) -> Option<u32> {
        let least = self.all.occupied.trailing_zeros();
        (self.all.occupied != 0 && least < u32::from(prio)).then(|| self.all.ends[least as usize].1)
    }
}

impl Lists {
    const fn new() -> Self {
        Self {
            ends: [(NONE, NONE); PRIOS],
            occupied: 0,
        }
    }

    /// The neighbours of a new last one.
    fn append(&mut self, prio: usize, entry: u32) -> Neighbours {
        let (first, last) = &mut self.ends[prio];
        let previous = std::mem::replace(last, entry);
        if previous == NONE {
            *first = entry;
            self.occupied |= 1 << prio;
        }
        Neighbours { previous, next: NONE }
    }

    fn take_out(&mut self, prio: usize, Neighbours { previous, next }: Neighbours) {
        let (first, last) = &mut self.ends[prio];
        if previous == NONE {
            *first = next;
        }
        if next == NONE {
            *last = previous;
        }
        if *first == NONE {
            self.occupied &= !(1 << prio);
        }
    }

    fn first(&self) -> Option<u32> {
        let most = self.occupied.checked_ilog2()?;
        Some(self.ends[most as usize].0)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn queue() -> Queue {
        Queue::new(&FixedState::with_seed(1))
    }

    fn set(at: u32) -> SetId {
        SetId { at, serial: 9 }
    }

    #[test]
    fn the_urgent_go_first_then_the_old() {
        let mut queue = queue();
        for (entry, prio) in [(10, 4), (11, 7), (12, 4), (13, 0), (14, 7)] {
            queue.push(entry, set(1), prio, 1);
        }
        queue.push(20, set(2), 7, 1);
        let mut order = Vec::new();
        while let Some(entry) = queue.first_of(set(1)) {
            order.push(entry);
            assert_eq!(queue.remove(entry), Some((set(1), entry == 13)));
            assert_eq!(queue.remove(entry), None);
        }
        assert_eq!(order, [11, 14, 10, 12, 13]);
        assert_eq!((queue.len(), queue.first_of(set(2))), (1, Some(20)));
    }

    #[test]
    fn only_the_less_urgent_are_displaced_the_newest_first() {
        let mut queue = queue();
        for (entry, prio) in [(1, 3), (2, 2), (3, 2), (4, 5)] {
            queue.push(entry, set(entry % 2), prio, 1);
        }
        assert_eq!(queue.displaced_by(2), None);
        assert_eq!(queue.displaced_by(3), Some(3));
        queue.remove(3);
        queue.remove(2);
        assert_eq!(queue.displaced_by(4), Some(1));
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_list(steps in proptest::collection::vec((0..24u32, 0..3u32, 0..8u8, any::<bool>()), 1..200)) {
            let mut queue = queue();
            let mut model: Vec<(u32, SetId, u8, usize)> = Vec::new();
            for (age, (entry, at, prio, push)) in steps.into_iter().enumerate() {
                let found = model.iter().position(|waiting| waiting.0 == entry);
                match (push, found) {
                    (true, None) => {
                        queue.push(entry, set(at), prio, entry as usize);
                        model.push((entry, set(at), prio, age));
                    }
                    (false, Some(at)) => {
                        let (_, set, ..) = model.remove(at);
                        let is_last = model.iter().all(|waiting| waiting.1 != set);
                        prop_assert_eq!(queue.remove(entry), Some((set, is_last)));
                    }
                    _ => {}
                }
                for set in [0, 1, 2].map(set) {
                    let in_set = model.iter().filter(|waiting| waiting.1 == set);
                    let first = in_set.min_by_key(|waiting| (Reverse(waiting.2), waiting.3));
                    prop_assert_eq!(queue.first_of(set), first.map(|waiting| waiting.0));
                }
                let last = model.iter().min_by_key(|waiting| (waiting.2, Reverse(waiting.3)));
                prop_assert_eq!(queue.displaced_by(8), last.map(|waiting| waiting.0));
                prop_assert_eq!(queue.len(), model.len());
                let below = model.iter().filter(|waiting| waiting.2 < 5);
                prop_assert_eq!(queue.bytes_below(5), below.map(|waiting| waiting.0 as usize).sum::<usize>());
            }
        }
    }
}
