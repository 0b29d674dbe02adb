//! How much of an item is still to come, and how deep it is nested, without a stack to push and pop at each item.
//!
//! One number, `left`, counts every item that the open containers together still wait for. A container takes itself
//! off and adds what it holds; it is open for as long as `left` is greater than what it was between the two. That
//! remainder is all that has to be written down: in `log`, one entry an opening, in order. Remainders never fall
//! from a container to those inside it, so an entry above the next one belongs to a container that has ended.
//!
//! Nothing else is done as long as the log is no longer than the depth allowed, which is the end of it for most
//! documents. Otherwise [`Nesting::settle`] strikes out what has ended and sees how deep it went at each entry.
//!
//! A container of indefinite length pretends to hold [`ENDLESS`] items. What is missing from that at its break is
//! the number of items that it held.

use super::DEPTH_MAX;
use super::simd::{Appender, Scratch};

/// More items than any input can hold, and even, so that it does not change whether a map has its last value.
const ENDLESS: u64 = 1 << 48;

/// Openings that a window may log after [`Nesting::make_room`].
pub(super) const LOG_WINDOW_ROOM: usize = 256;
/// The log's length: a window's openings on top of as much again before anything has to be settled.
const LOG_ENTRIES: usize = 2 * LOG_WINDOW_ROOM;

// `open_endless` marks entries in 64 bits, and a settled log leaves room for a window.
const _: () = assert!(DEPTH_MAX <= 64 && DEPTH_MAX <= LOG_ENTRIES - LOG_WINDOW_ROOM);

pub(super) struct Nesting {
    left: u64,
    depth_max: usize,
    /// For each opening the value of `left` that it ends at.
    log: Scratch<u64, LOG_ENTRIES>,
    /// So many entries are known to be in order, and no deeper than allowed.
    settled: usize,
    /// Bit n: entry n is an open container of indefinite length. Such an entry is settled and stays where it is.
    endless: u64,
    /// Bit n: and it is a map.
    endless_maps: u64,
}

impl Nesting {
    /// Awaits the root of an input of so many bytes. `None` if [`ENDLESS`] would not be.
    #[inline(always)]
    pub(super) fn new(input_bytes: usize, depth_max: usize) -> Option<Self> {
        if input_bytes as u64 >= ENDLESS {
            return None;
        }
        Some(Self {
            left: 1,
            depth_max: depth_max.min(DEPTH_MAX),
            log: Scratch::new(),
            settled: 0,
            endless: 0,
            endless_maps: 0,
        })
    }

    /// Items still to come.
    #[inline(always)]
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Items have ended that were no containers. Not more than there are left.
    #[inline(always)]
    pub(super) fn take(&mut self, items: u64) {
        self.left -= items;
    }

    /// Starts to count common items, see [`Count`].
    #[inline(always)]
    pub(super) fn count(&mut self) -> Count<'_> {
        Count {
            left: self.left,
            log: self.log.append(),
            committed: &mut self.left,
        }
    }

    /// Sees to it that [`LOG_WINDOW_ROOM`] openings can be logged.
    #[inline(always)]
    pub(super) fn make_room(&mut self) -> Option<()> {
        if self.log.len() > LOG_ENTRIES - LOG_WINDOW_ROOM {
            self.settle()
        } else {
            Some(())
        }
    }

    /// A container of `items` items begins. There must be less of them than [`ENDLESS`].
    #[inline(always)]
    pub(super) fn open(&mut self, items: u64) -> Option<()> {
        if self.log.len() == LOG_ENTRIES {
            self.settle()?;
        }
        self.left -= 1;
        let mut log = self.log.append();
        log.put(&[self.left], 1);
        log.commit();
        self.left += items;
        Some(())
    }

    /// An array or a map of indefinite length begins.
    pub(super) fn open_endless(&mut self, map: bool) -> Option<()> {
        self.settle()?;
        let depth = self.log.len();
        if depth == self.depth_max {
            return None;
        }
        self.open(ENDLESS)?;
        self.settled = depth + 1;
        self.endless |= 1 << depth;
        self.endless_maps |= u64::from(map) << depth;
        Some(())
    }

    /// A break. `None` unless the innermost open container is of indefinite length, and no value is missing in it.
    pub(super) fn close_endless(&mut self) -> Option<()> {
        self.settle()?;
        let innermost = self.log.len().checked_sub(1)?;
        let bit = 1 << innermost;
        if self.endless & bit == 0 {
            return None;
        }
        let after = self.log.filled()[innermost];
        let items = after + ENDLESS - self.left;
        if self.endless_maps & bit != 0 && !items.is_multiple_of(2) {
            return None;
        }
        self.endless &= !bit;
        self.endless_maps &= !bit;
        self.left = after;
        self.log.truncate(innermost);
        self.settled = innermost;
        Some(())
    }

    /// The root has ended. `None` if it was nested too deep.
    #[inline(always)]
    pub(super) fn finish(&mut self) -> Option<()> {
        if self.log.len() > self.depth_max {
            self.settle()
        } else {
            Some(())
        }
    }

    /// Reduces the log to the containers that are open. `None` if it ever was nested too deep.
    #[inline(never)]
    fn settle(&mut self) -> Option<()> {
        let log = self.log.filled();
        let mut depth = self.settled;
        for entry in self.settled..log.len() {
            let after = log[entry];
            while depth > 0 && log[depth - 1] > after {
                depth -= 1;
            }
            if depth == self.depth_max {
                return None;
            }
            log[depth] = after;
            depth += 1;
        }
        while depth > 0 && log[depth - 1] >= self.left {
            depth -= 1;
        }
        self.log.truncate(depth);
        self.settled = depth;
        Some(())
    }
}

/// Counts common items with all that it needs in registers. What is counted is good from [`Count::commit`] on.
pub(super) struct Count<'a> {
    left: u64,
    log: Appender<'a, u64, LOG_ENTRIES>,
    committed: &'a mut u64,
}

impl Count<'_> {
    /// An item that brings `items` and opens a container if `opens` is 1, not if it is 0. Returns how many are left.
    #[inline(always)]
    pub(super) fn item(&mut self, items: u8, opens: u8) -> u64 {
        self.left -= 1;
        self.log.put(&[self.left], usize::from(opens));
        self.left += u64::from(items);
        self.left
    }

    #[inline(always)]
    pub(super) fn commit(self) {
        self.log.commit();
        *self.committed = self.left;
    }
}
