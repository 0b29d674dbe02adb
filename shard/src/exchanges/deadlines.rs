//! When something must happen to an exchange: a timer wheel whose entries are the exchanges' slots themselves.
//!
//! Nearly every call has a deadline and nearly none reaches it, so arming and disarming are what costs: both are O(1),
//! touch one link, and allocate only when there are more slots than ever before. A tick is [`TICK_US`]; nothing fires
//! early, and what is due fires at most a tick late.
//!
//! ```text
//!   level 0: 64 slots of 1 tick │ level 1: 64 of 64 │ level 2: 64 of 4,096 │ level 3 │ level 4: 64 of 2^24 (19 hours)
//! ```
//!
//! An entry lies on the level of the highest group of six bits in which its tick differs from the wheel's, so all that
//! lies on one level is due before anything on the next, and the first occupied slot is found by counting zeros.

/// Length of a tick, µs: about 4 ms.
pub(crate) const TICK_US: u64 = 1 << TICK_SHIFT;
const TICK_SHIFT: u32 = 12;
/// log2 of the slots of a level.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;
/// Beyond what the wheel covers (about 50 days), a deadline counts as this far away. A slot of the last level less than
/// its whole round, so that no entry lies in the slot where the wheel is, one round later.
const TICKS_MAX: u64 = (63 << (SLOT_BITS * (LEVELS as u32 - 1))) - 1;
const NONE: u32 = u32::MAX;
/// The place of an entry that is not armed.
const NOWHERE: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Deadlines {
    /// The tick up to which all has fired.
    now: u64,
    /// Bit n of a level: its slot n is not empty.
    occupied: [u64; LEVELS],
    first: [u32; LEVELS * SLOTS],
    links: Vec<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// The tick.
    at: u64,
    previous: u32,
    next: u32,
    /// `level * SLOTS + slot`.
    place: u16,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self {
            now: 0,
            occupied: [0; LEVELS],
            first: [NONE; LEVELS * SLOTS],
            links: Vec::new(),
        }
    }

    /// Makes `entry` fire at `at_us` or a little later, instead of when it was to fire before.
    pub(crate) fn arm(&mut self, entry: u32, at_us: u64) {
        let unarmed = Link {
            at: 0,
            previous: NONE,
            next: NONE,
            place: NOWHERE,
        };
        if self.links.len() <= entry as usize {
            self.links.resize(entry as usize + 1, unarmed);
        }
        self.disarm(entry);
        let tick = at_us.div_ceil(TICK_US);
        self.links[entry as usize].at = tick.clamp(self.now + 1, self.now.saturating_add(TICKS_MAX));
        self.link(entry);
    }

    /// It does not fire any more.
    pub(crate) fn disarm(&mut self, entry: u32) {
        let Some(&Link {
            previous,
            next,
            place,
            ..
        }) = self.links.get(entry as usize)
        else {
            return;
        };
        if place == NOWHERE {
            return;
        }
        self.links[entry as usize].place = NOWHERE;
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
            return;
        }
        let place = usize::from(place);
        self.first[place] = next;
        if next == NONE {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }

    /// Takes out what is due, one at a time, the earlier tick first. Poll until `None`.
    pub(crate) fn expired(&mut self, now_us: u64) -> Option<u32> {
        let now = now_us >> TICK_SHIFT;
        loop {
            let Some((level, place, start)) = self.next_place().filter(|(.., start)| *start <= now) else {
                self.now = self.now.max(now);
                return None;
            };
            if level == 0 {
                // The wheel stays a tick behind until the slot is empty, so that what is left in it is found.
                self.now = self.now.max(start - 1);
                let entry = self.first[place];
                self.disarm(entry);
                return Some(entry);
            }
            // The wheel's tick has this slot's bits now, and its entries belong on lower levels.
            self.now = self.now.max(start);
            let mut entry = std::mem::replace(&mut self.first[place], NONE);
            self.occupied[level] &= !(1 << (place % SLOTS));
            while entry != NONE {
                let next = self.links[entry as usize].next;
                self.link(entry);
                entry = next;
            }
        }
    }

    /// Nothing is due before this, µs; `None` if nothing is armed. It is exact within the wheel's current 64 ticks, and
    /// else where the slot of the next entry begins.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.next_place().map(|(.., start)| start << TICK_SHIFT)
    }

    /// The first place with entries: its level, itself, and its first tick.
    fn next_place(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let shift = level as u32 * SLOT_BITS;
        let above = self.now >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let slots = self.occupied[level];
        // On the last level, what lies before the wheel's own slot belongs to its next round.
        let behind = !(u64::MAX << ((self.now >> shift) % SLOTS as u64));
        let (slots, above) = match slots & !behind {
            0 => (slots, above + (1 << (shift + SLOT_BITS))),
            ahead => (ahead, above),
        };
        let slot = slots.trailing_zeros();
        let start = above | (u64::from(slot) << shift);
        Some((level, level * SLOTS + slot as usize, start))
    }

    fn link(&mut self, entry: u32) {
        let at = self.links[entry as usize].at;
        let differs = (at ^ self.now) | 1;
        let level = (((63 - differs.leading_zeros()) / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = (at >> (level as u32 * SLOT_BITS)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let next = std::mem::replace(&mut self.first[place], entry);
        if next != NONE {
            self.links[next as usize].previous = entry;
        }
        self.occupied[level] |= 1 << slot;
        let link = &mut self.links[entry as usize];
        link.previous = NONE;
        link.next = next;
        link.place = place as u16;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn fired(wheel: &mut Deadlines, now_us: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.expired(now_us)).collect()
    }

    #[test]
    fn nothing_fires_early_and_all_within_a_tick() {
        for at_ms in [0, 1, 3, 4, 255, 256, 257, 30_000, 30_001, 3_600_000, 90_000_000] {
            let mut wheel = Deadlines::new();
            assert_eq!(fired(&mut wheel, 123_456_789_000), []);
            let at_us = 123_456_789_000 + at_ms * 1_000;
            wheel.arm(7, at_us);
            if at_ms > 0 {
                assert_eq!(fired(&mut wheel, at_us - 1), [], "{at_ms}");
            }
            assert!(wheel.next_us().is_some_and(|next| next <= at_us + TICK_US));
            assert_eq!(fired(&mut wheel, at_us + TICK_US), [7], "{at_ms}");
            assert_eq!(wheel.next_us(), None);
        }
    }

    #[test]
    fn waking_at_what_it_names_takes_few_wakes() {
        let mut wheel = Deadlines::new();
        let mut now_us = 987_654_321_000;
        wheel.expired(now_us);
        wheel.arm(1, now_us + 30_000_000);
        let at_us = now_us + 30_000_000;
        let mut wakes = 0;
        loop {
            now_us = wheel.next_us().expect("it is armed");
            wakes += 1;
            if wheel.expired(now_us).is_some() {
                break;
            }
        }
        assert!(wakes <= LEVELS, "{wakes}");
        assert!((at_us..=at_us + TICK_US).contains(&now_us));
    }

    #[test]
    fn a_time_beyond_the_wheel_is_still_armed() {
        let mut wheel = Deadlines::new();
        wheel.arm(0, u64::MAX);
        assert_eq!(fired(&mut wheel, 40 * 86_400_000_000), []);
        wheel.disarm(0);
        wheel.disarm(0);
        wheel.disarm(99);
        assert_eq!(wheel.next_us(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![
            0..10_000u64,
            0..2_000_000u64,
            0..100_000_000_000u64,
            0..4_000_000_000_000u64
        ];
        prop_oneof![
            4 => (0..20u32, span.clone()).prop_map(|(entry, in_us)| Step::Arm(entry, in_us)),
            1 => (0..20u32).prop_map(Step::Disarm),
            3 => span.prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_list(begin in 0..u64::MAX / 4, steps in proptest::collection::vec(step(), 1..80)) {
            let mut wheel = Deadlines::new();
            wheel.expired(begin);
            let mut now_us = begin;
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(entry, in_us) => {
                        wheel.arm(entry, now_us + in_us);
                        model.insert(entry, (now_us + in_us).div_ceil(TICK_US).max(now_us / TICK_US + 1));
                    }
                    Step::Disarm(entry) => {
                        wheel.disarm(entry);
                        model.remove(&entry);
                    }
                    Step::Pass(us) => {
                        now_us += us;
                        let out = fired(&mut wheel, now_us);
                        let ticks: Vec<u64> = out.iter().map(|entry| model[entry]).collect();
                        prop_assert!(ticks.is_sorted(), "{ticks:?}");
                        for entry in out {
                            prop_assert!(model.remove(&entry).expect("armed") <= now_us / TICK_US);
                        }
                        prop_assert!(model.values().all(|tick| *tick > now_us / TICK_US));
                    }
                }
                prop_assert_eq!(wheel.next_us().is_none(), model.is_empty());
                if let Some(next_us) = wheel.next_us() {
                    prop_assert!(model.values().all(|tick| *tick >= next_us / TICK_US));
                }
            }
        }
    }
}
