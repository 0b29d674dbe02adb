//! The bytes of calls and opens that wait, and of idempotent calls that run and may be sent a second time.
//!
//! The latter are spare: without them a call only loses its repeat, so they go first when bytes are short. They are a
//! list through the slots, the oldest first.

use bytes::Bytes;
use slab::Slab;

use super::NONE;

/// What is kept of one that waits, or that may be sent a second time.
#[derive(Debug)]
pub(crate) struct Kept {
    /// As it came, or, of an open, as it is to go.
    pub(crate) bytes: Bytes,
    /// What its `timeout_ms` was to be when it came, ms; what is left is written in when it goes out later.
    pub(crate) timeout_ms: Option<u64>,
    /// When a second copy goes out, µs.
    pub(crate) hedge_us: u64,
    /// It may be sent a second time.
    pub(crate) is_idempotent: bool,
}

#[derive(Debug)]
struct Place {
    kept: Kept,
    /// Whose it is.
    slot: u32,
    /// Its neighbours among those that are spare.
    previous: u32,
    next: u32,
    is_spare: bool,
}

#[derive(Debug)]
pub(super) struct KeptCalls {
    places: Slab<Place>,
    bytes: usize,
    spare_bytes: usize,
    first: u32,
    last: u32,
}

impl KeptCalls {
    pub(super) fn new() -> Self {
        Self {
            places: Slab::new(),
            bytes: 0,
            spare_bytes: 0,
            first: NONE,
            last: NONE,
        }
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of those that are spare.
    pub(super) fn spare_bytes(&self) -> usize {
        self.spare_bytes
    }

    /// Whose go first, if there are any that are spare.
    pub(super) fn first_spare(&self) -> Option<u32> {
        Some(self.places.get(self.first as usize)?.slot)
    }

    pub(super) fn insert(&mut self, slot: u32, kept: Kept) -> u32 {
        self.bytes += kept.bytes.len();
        self.places.insert(Place {
            kept,
            slot,
            previous: NONE,
            next: NONE,
            is_spare: false,
        }) as u32
    }

    pub(super) fn get(&self, at: u32) -> Option<&Kept> {
        Some(&self.places.get(at as usize)?.kept)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Kept> {
        Some(&mut self.places.get_mut(at as usize)?.kept)
    }

    pub(super) fn remove(&mut self, at: u32) {
        self.set_spare(at, false);
        if let Some(place) = self.places.try_remove(at as usize) {
            self.bytes -= place.kept.bytes.len();
        }
    }

    /// Says whether it is spare; nothing comes of it for one that is not there.
    pub(super) fn set_spare(&mut self, at: u32, is_spare: bool) {
        let last = self.last;
        let Some(place) = self.places.get_mut(at as usize) else {
            return;
        };
        if std::mem::replace(&mut place.is_spare, is_spare) == is_spare {
            return;
        }
        let bytes = place.kept.bytes.len();
        if is_spare {
            (place.previous, place.next) = (last, NONE);
            self.spare_bytes += bytes;
            self.link(last, at);
            self.last = at;
            return;
        }
        let (previous, next) = (place.previous, place.next);
        self.spare_bytes -= bytes;
        self.link(previous, next);
        match self.places.get_mut(next as usize) {
            Some(next) => next.previous = previous,
            None => self.last = previous,
        }
    }

    /// `next` follows `previous`; without one it is the first.
    fn link(&mut self, previous: u32, next: u32) {
        match self.places.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.first = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(bytes: usize) -> Kept {
        Kept {
            bytes: vec![0; bytes].into(),
            timeout_ms: None,
            hedge_us: 0,
            is_idempotent: true,
        }
    }

    proptest! {
        #[test]
        fn the_spare_ones_are_a_queue(steps in proptest::collection::vec((0..12_u32, 0..3_u8), 1..200)) {
            let mut calls = KeptCalls::new();
            let mut places = [None; 12];
            let mut spare: Vec<u32> = Vec::new();
            for (slot, what) in steps {
                let place = &mut places[slot as usize];
                match (what, *place) {
                    (0, None) => *place = Some(calls.insert(slot, kept(slot as usize))),
                    (0, Some(at)) => {
                        calls.remove(at);
                        spare.retain(|other| *other != slot);
                        *place = None;
                    }
                    (1, Some(at)) => {
                        calls.set_spare(at, true);
                        if !spare.contains(&slot) {
                            spare.push(slot);
                        }
                    }
                    (_, at) => {
                        calls.set_spare(at.unwrap_or(NONE), false);
                        spare.retain(|other| *other != slot);
                    }
                }
                let bytes: usize = (0..12).filter(|slot| places[*slot].is_some()).sum();
                prop_assert_eq!(calls.bytes(), bytes);
                prop_assert_eq!(calls.spare_bytes(), spare.iter().map(|slot| *slot as usize).sum::<usize>());
                prop_assert_eq!(calls.first_spare(), spare.first().copied());
            }
            while let Some(slot) = calls.first_spare() {
                prop_assert_eq!(slot, spare.remove(0));
                calls.remove(places[slot as usize].unwrap());
            }
            prop_assert!(spare.is_empty());
        }
    }
}
