//! A hierarchical timer wheel: deadlines in milliseconds go in, keys whose deadline passed come out.
//!
//! It has no clock: the caller says what time it is. Arming, cancelling and firing are O(1) and, once the wheel has
//! grown to the number of timers that are armed at a time, without allocation. The reactor keeps its handshake and
//! drain deadlines in one; the gateway keeps one timer for each session in another and re-arms it lazily: when it
//! fires and the session was active since, it is armed again for what remains.
//!
//! ```text
//!   level 0: 64 slots of 1 ms │ level 1: 64 of 64 ms │ level 2: 64 of 4,096 ms │ … │ level 10
//!      ^ due ones fire             └── when the wheel comes to a slot, its timers move down ──┘
//! ```
//!
//! A timer lies on the level of the highest group of six bits in which its deadline differs from the wheel's time.
//! Therefore all that lies on a level is due before anything on the level above, no slot lies behind the wheel's
//! time, and eleven levels hold every `u64`.

use crate::paged::Paged;

/// log2 of the slots of a level.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// So that `LEVELS * SLOT_BITS >= 64`.
const LEVELS: usize = 11;
/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// Names an armed timer. Stale ones are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// Timers that fire with a key.
#[derive(Debug)]
pub struct Wheel<K> {
    /// The latest time that [`Wheel::expire`] was told. No slot before it holds a timer.
    now_ms: u64,
    levels: [Level; LEVELS],
    entries: Paged<Entry<K>>,
    /// First of the free entries, chained by `next`.
    free: u32,
    armed: usize,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    /// Bit n is set if slot n holds timers.
    occupied: u64,
    /// First entry of each slot's list.
    first: [u32; SLOTS],
}

#[derive(Debug)]
struct Entry<K> {
    at_ms: u64,
    /// `None` while the entry is free.
    key: Option<K>,
    generation: u32,
    previous: u32,
    next: u32,
    level: u8,
    slot: u8,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Wheel::new(0)
    }
}

impl<K> Wheel<K> {
    /// A wheel that begins at this time.
    #[must_use]
    pub fn new(now_ms: u64) -> Wheel<K> {
        Wheel {
            now_ms,
            levels: [Level {
                occupied: 0,
                first: [NONE; SLOTS],
            }; LEVELS],
            entries: Paged::new(),
            free: NONE,
            armed: 0,
        }
    }

    /// How many timers are armed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms a timer. One whose deadline has passed fires at the next [`Wheel::expire`].
    ///
    /// # Panics
    /// If four billion are armed.
    pub fn arm(&mut self, at_ms: u64, key: K) -> TimerId {
        let index = if self.free == NONE {
            let index = u32::try_from(self.entries.len())
                .ok()
                .filter(|index| *index != NONE);
            self.entries.push(Entry {
                at_ms,
                key: None,
                generation: 0,
                previous: NONE,
                next: NONE,
                level: 0,
                slot: 0,
            });
            index.expect("fewer timers than 2^32 - 1")
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            index
        };
        let entry = &mut self.entries[index as usize];
        entry.at_ms = at_ms.max(self.now_ms);
        entry.key = Some(key);
        let generation = entry.generation;
        self.armed += 1;
        self.link(index);
        TimerId { index, generation }
    }

    /// Takes a timer out before it fires, and gives its key back; `None` if it fired or was cancelled.
    pub fn cancel(&mut self, timer: TimerId) -> Option<K> {
        let entry = self.entries.get(timer.index as usize)?;
        if entry.generation != timer.generation || entry.key.is_none() {
            return None;
        }
        self.unlink(timer.index);
        self.release(timer.index)
    }

    /// Moves the time on and hands out every key whose deadline it reached, earlier deadlines first. A time before
    /// the one that was told last counts as that one.
    pub fn expire(&mut self, now_ms: u64, mut fire: impl FnMut(K)) {
        while let Some((level, slot, start_ms)) = self.next_slot() {
            if start_ms > now_ms {
                break;
            }
            self.now_ms = self.now_ms.max(start_ms);
            let mut index = self.levels[level].first[slot];
            self.levels[level].first[slot] = NONE;
            self.levels[level].occupied &= !(1 << slot);
            while index != NONE {
                let next = self.entries[index as usize].next;
                if level == 0 {
                    if let Some(key) = self.release(index) {
                        fire(key);
                    }
                } else {
                    // The wheel's time has this slot's bits now: the timer belongs on a lower level.
                    self.link(index);
                }
                index = next;
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// No timer is due before this; `None` if none is armed. It is exact for timers that are due within the current
    /// 64 ms, and otherwise the beginning of the slot in which the next one lies: a caller that sleeps until then
    /// calls [`Wheel::expire`] and asks again, at most once for each level.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.next_slot().map(|(.., start_ms)| start_ms)
    }

    /// The first slot that holds timers, and the time at which it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let (level, slots) = self
            .levels
            .iter()
            .enumerate()
            .find(|(_, level)| level.occupied != 0)?;
        let slot = slots.occupied.trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        // What the wheel's time and the slot's share: the bits above the level.
        let above = self.now_ms.checked_shr(shift + SLOT_BITS).unwrap_or(0);
        let start_ms = above.checked_shl(shift + SLOT_BITS).unwrap_or(0) | (u64::from(slot) << shift);
        Some((level, slot as usize, start_ms))
    }

    /// Puts an entry into the slot where its deadline lies as seen from now.
    fn link(&mut self, index: u32) {
        let at_ms = self.entries[index as usize].at_ms;
        let differs = at_ms ^ self.now_ms;
        let level = (63 - (differs | 1).leading_zeros()) / SLOT_BITS;
        let slot = (at_ms >> (level * SLOT_BITS)) as usize % SLOTS;
        let slots = &mut self.levels[level as usize];
        let next = slots.first[slot];
        slots.first[slot] = index;
        slots.occupied |= 1 << slot;
        if next != NONE {
            self.entries[next as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.previous = NONE;
        entry.next = next;
        entry.level = level as u8;
        entry.slot = slot as u8;
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            previous,
            next,
            level,
            slot,
            ..
        } = self.entries[index as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        let slots = &mut self.levels[usize::from(level)];
        slots.first[usize::from(slot)] = next;
        if next == NONE {
            slots.occupied &= !(1 << slot);
        }
    }

    fn release(&mut self, index: u32) -> Option<K> {
        let entry = &mut self.entries[index as usize];
        let key = entry.key.take();
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.armed -= 1;
        key
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    fn fired(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut keys = Vec::new();
        wheel.expire(now_ms, |key| keys.push(key));
        keys
    }

    #[test]
    fn fires_at_its_deadline_and_not_before() {
        for at_ms in [0, 1, 63, 64, 65, 4095, 4096, 15_000, 1 << 36, u64::MAX] {
            let mut wheel = Wheel::new(0);
            wheel.arm(at_ms, 1);
            if at_ms > 0 {
                assert_eq!(fired(&mut wheel, at_ms - 1), [], "{at_ms}");
            }
            assert_eq!(fired(&mut wheel, at_ms), [1], "{at_ms}");
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn a_sleeper_gets_to_the_deadline_in_few_steps() {
        let mut wheel = Wheel::new(12_345);
        wheel.arm(12_345 + 15_000, 1);
        let mut steps = 0;
        while let Some(at_ms) = wheel.next_deadline() {
            steps += 1;
            fired(&mut wheel, at_ms);
        }
        assert!(steps <= LEVELS, "{steps}");
    }

    #[test]
    fn re_arming_does_not_grow_it() {
        let mut wheel = Wheel::new(0);
        for key in 0..1000 {
            wheel.arm(15_000, key);
        }
        for round in 1..100 {
            for key in fired(&mut wheel, 15_000 * round) {
                wheel.arm(15_000 * (round + 1), key);
            }
        }
        assert_eq!((wheel.len(), wheel.entries.len()), (1000, 1000));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arm(u64),
        Cancel(usize),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let span = prop_oneof![
            0u64..100,
            0u64..10_000,
            0u64..10_000_000,
            any::<u64>().prop_map(|n| n >> 4)
        ];
        let step = prop_oneof![
            4 => span.clone().prop_map(Step::Arm),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => span.prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn fires_like_a_heap(start_ms in 0u64..1 << 40, steps in steps()) {
            let mut wheel = Wheel::new(start_ms);
            let mut heap = BinaryHeap::new();
            let mut armed = Vec::new();
            let mut now_ms = start_ms;
            for (key, step) in (0u32..).zip(steps) {
                match step {
                    Step::Arm(after_ms) => {
                        let at_ms = now_ms.saturating_add(after_ms);
                        armed.push((key, wheel.arm(at_ms, key)));
                        heap.push(Reverse((at_ms, key)));
                    }
                    Step::Cancel(which) if !armed.is_empty() => {
                        let (key, timer) = armed.swap_remove(which % armed.len());
                        let there = heap.iter().any(|Reverse((_, k))| *k == key);
                        prop_assert_eq!(wheel.cancel(timer), there.then_some(key));
                        prop_assert_eq!(wheel.cancel(timer), None);
                        heap.retain(|Reverse((_, k))| *k != key);
                    }
                    Step::Cancel(_) => {}
                    Step::Pass(ms) => {
                        now_ms = now_ms.saturating_add(ms);
                        let mut deadlines = Vec::new();
                        let mut expected = Vec::new();
                        while let Some(Reverse((at_ms, key))) = heap.peek().copied().filter(|e| e.0.0 <= now_ms) {
                            heap.pop();
                            deadlines.push((key, at_ms));
                            expected.push(key);
                        }
                        let keys = fired(&mut wheel, now_ms);
                        let at = |key: &u32| deadlines.iter().find(|(k, _)| k == key).map(|(_, at_ms)| *at_ms);
                        prop_assert!(keys.iter().map(at).is_sorted(), "in the order of their deadlines");
                        let mut sorted = keys;
                        sorted.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(sorted, expected);
                    }
                }
                prop_assert_eq!(wheel.len(), heap.len());
                let earliest = heap.peek().map(|Reverse((at_ms, _))| *at_ms);
                prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
                prop_assert!(wheel.next_deadline() <= earliest);
            }
        }
    }
}
