//! What one subscriber has of one publisher: from the numbers in the payloads, whether each event is new, late or came
//! before.
//!
//! As long as nothing is missing, that takes one comparison and no memory beside a number. From the first gap on, the
//! last [`WINDOW`] numbers are kept as bits, so that a late one is told from one that came before. Of what is older only
//! the count of the missing is kept: an event from there is taken as one of those while any are left, and as a repeat
//! after. So nothing grows, and the sum of what arrived stays exact unless a publisher's events are both repeated and
//! lost more than [`WINDOW`] apart.

/// Numbers behind the newest one that are remembered one by one.
pub const WINDOW: u64 = 4_096;
const WORDS: usize = (WINDOW / 64) as usize;

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one: nothing is between it and the one before.
    InOrder,
    /// A new one; so many before it have not arrived.
    Ahead {
        /// How many.
        skipped: u64,
    },
    /// New, though a later one came before it.
    Late,
    /// It had arrived before.
    Repeated,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// One more than the highest number that arrived.
    next: u64,
    /// Below `next`, within the window, not arrived.
    missing_in_window: u64,
    /// Below the window, not arrived.
    missing_beyond: u64,
    /// The last [`WINDOW`] numbers below `next`, bit `n % WINDOW`: arrived. Means something only while anything is missing
    /// in the window; the rest of the time all have arrived.
    window: Option<Box<[u64; WORDS]>>,
}

impl Ledger {
    /// One more than the highest number that arrived: what is below is here, or late, or lost.
    #[must_use]
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many below [`Ledger::next`] have not arrived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing_in_window + self.missing_beyond
    }

    /// Notes an event. Its number is one that a publisher gave, which is below `u64::MAX`: whoever calls this has seen to it.
    #[inline]
    pub fn arrived(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next && self.missing_in_window == 0 {
            self.next += 1;
            return Arrival::InOrder;
        }
        self.out_of_line(sequence)
    }

    #[cold]
    fn out_of_line(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            return self.ahead(sequence);
        }
        let late = if self.next - sequence > WINDOW {
            if self.missing_beyond > 0 {
                self.missing_beyond -= 1;
                true
            } else {
                false
            }
        } else if self.missing_in_window > 0 && !self.bit(sequence) {
            self.set(sequence);
            self.missing_in_window -= 1;
            true
        } else {
            false
        };
        if late { Arrival::Late } else { Arrival::Repeated }
    }

    fn ahead(&mut self, sequence: u64) -> Arrival {
        let skipped = sequence - self.next;
        if self.missing_in_window == 0 && skipped > 0 {
            // Whatever the window held is old: all below `next` that it can name has arrived.
            match &mut self.window {
                Some(window) => window.fill(u64::MAX),
                None => self.window = Some(Box::new([u64::MAX; WORDS])),
            }
        }
        if skipped >= WINDOW {
            // All that the window held moves out of it, and so do the first of those that were skipped.
            self.missing_beyond += self.missing_in_window + (skipped + 1 - WINDOW);
            self.missing_in_window = WINDOW - 1;
            if let Some(window) = &mut self.window {
                window.fill(0);
            }
            self.set(sequence);
            self.next = sequence + 1;
        } else {
            for number in self.next..=sequence {
                self.step(number, number == sequence);
            }
        }
        if skipped > 0 {
            Arrival::Ahead { skipped }
        } else {
            Arrival::InOrder
        }
    }

    /// Moves the window on by one number, which takes the place of the one that leaves it.
    fn step(&mut self, number: u64, arrived: bool) {
        if number >= WINDOW && !self.bit(number) {
            self.missing_in_window -= 1;
            self.missing_beyond += 1;
        }
        if arrived {
            self.set(number);
        } else {
            self.clear(number);
            self.missing_in_window += 1;
        }
        self.next = number + 1;
    }

    fn bit(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.window.as_ref().is_none_or(|window| window[word] & bit != 0)
    }

    fn set(&mut self, number: u64) {
        let (word, bit) = place(number);
        if let Some(window) = &mut self.window {
            window[word] |= bit;
        }
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = place(number);
        if let Some(window) = &mut self.window {
            window[word] &= !bit;
        }
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(ledger: &mut Ledger, sequence: impl IntoIterator<Item = u64>) -> Vec<Arrival> {
        sequence
            .into_iter()
            .map(|number| ledger.arrived(number))
            .collect()
    }

    #[test]
    fn what_comes_in_order_needs_no_memory() {
        let mut ledger = Ledger::default();
        assert!(
            numbers(&mut ledger, 0..10_000)
                .iter()
                .all(|&a| a == Arrival::InOrder)
        );
        assert_eq!((ledger.next(), ledger.missing()), (10_000, 0));
        assert_eq!(ledger.arrived(5), Arrival::Repeated);
        assert!(ledger.window.is_none());
    }

    #[test]
    fn a_gap_is_seen_and_a_late_one_fills_it() {
        use Arrival::{Ahead, InOrder, Late, Repeated};
        let mut ledger = Ledger::default();
        assert_eq!(
            numbers(&mut ledger, [0, 3, 1, 1, 4, 3, 2, 2, 5]),
            [
                InOrder,
                Ahead { skipped: 2 },
                Late,
                Repeated,
                InOrder,
                Repeated,
                Late,
                Repeated,
                InOrder
            ]
        );
        assert_eq!(ledger.missing(), 0);
    }

    #[test]
    fn beyond_the_window_the_count_stays() {
        let mut ledger = Ledger::default();
        ledger.arrived(0);
        assert_eq!(
            ledger.arrived(3 * WINDOW),
            Arrival::Ahead {
                skipped: 3 * WINDOW - 1
            }
        );
        assert_eq!(ledger.missing(), 3 * WINDOW - 1);
        assert_eq!(ledger.arrived(7), Arrival::Late);
        assert_eq!(ledger.missing(), 3 * WINDOW - 2);
        // A second gap of which the first one's part leaves the window step by step.
        for number in 3 * WINDOW + 10..5 * WINDOW {
            ledger.arrived(number);
        }
        assert_eq!(ledger.missing(), 3 * WINDOW - 2 + 9);
    }

    proptest! {
        /// Against a set that remembers everything, for events that are displaced by less than the window.
        #[test]
        fn agrees_with_one_that_remembers_everything(
            moves in prop::collection::vec((0u64..40, 0u8..10), 1..2_000),
            start in 0u64..3 * WINDOW,
        ) {
            let mut ledger = Ledger::default();
            let mut seen = HashSet::new();
            let mut top = 0;
            for number in 0..start {
                ledger.arrived(number);
                seen.insert(number);
                top = number + 1;
            }
            for (distance, kind) in moves {
                let number = match kind {
                    0..5 => top,
                    5 => top + distance,
                    6 => top + distance * 50,
                    _ => top.saturating_sub(distance + 1),
                };
                if top.saturating_sub(number) > WINDOW {
                    continue;
                }
                let fresh = seen.insert(number);
                let arrival = ledger.arrived(number);
                let expected = match (fresh, number >= top) {
                    (false, _) => Arrival::Repeated,
                    (true, false) => Arrival::Late,
                    (true, true) if number == top => Arrival::InOrder,
                    (true, true) => Arrival::Ahead { skipped: number - top },
                };
                prop_assert_eq!(arrival, expected);
                top = top.max(number + 1);
                prop_assert_eq!(ledger.next(), top);
                prop_assert_eq!(ledger.missing(), top - seen.len() as u64);
            }
        }
    }
}
