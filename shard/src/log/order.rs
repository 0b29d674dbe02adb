//! The order in which runs were appended, over all partitions of this core: the order in which they are written, and in
//! which memory lets go of them.
//!
//! ```text
//!   | synced: may be let go | written | being written | waits |
//!   base                 synced    written         issued    next
//! ```

use std::collections::VecDeque;

use super::tail::Reached;

/// What a run takes in memory beside its bytes and the ends of its events, about.
const RUN_BYTES: usize = 192;
/// What each of its events takes beside its bytes.
const EVENT_BYTES: usize = 4;

/// One run, of which the rest is in its partition's tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: u16,
    /// What it takes in memory.
    bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    /// The place of the first entry.
    base: u64,
    runs: VecDeque<Place>,
    reached: Reached,
    /// Everything before this was handed to the disk.
    issued: u64,
    /// Bytes of all entries.
    held_bytes: usize,
    /// Bytes of those that are not synced.
    unsynced_bytes: usize,
    /// Bytes of those that wait to be written.
    waiting_bytes: usize,
}

/// What a run takes in memory.
pub(super) fn cost(bytes: usize, events: usize) -> usize {
    RUN_BYTES + bytes + EVENT_BYTES * events
}

impl Order {
    /// The place of the next run.
    pub(super) fn next(&self) -> u64 {
        self.base + self.runs.len() as u64
    }

    pub(super) fn push(&mut self, partition: u16, bytes: usize) {
        self.runs.push_back(Place {
            partition,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
        self.held_bytes += bytes;
        self.unsynced_bytes += bytes;
        self.waiting_bytes += bytes;
    }

    pub(super) fn reached(&self) -> Reached {
        self.reached
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    pub(super) fn unsynced_bytes(&self) -> usize {
        self.unsynced_bytes
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Bytes of the next run that waits, or 0.
    pub(super) fn next_waiting_bytes(&self) -> usize {
        let next = self.runs.get((self.issued - self.base) as usize);
        next.map_or(0, |run| run.bytes as usize)
    }

    /// Whether everything was handed to the disk.
    pub(super) fn is_all_issued(&self) -> bool {
        self.issued == self.next()
    }

    /// The run at a place.
    pub(super) fn partition(&self, seq: u64) -> u16 {
        self.runs[(seq - self.base) as usize].partition
    }

    /// Hands runs to the disk, in order, as many as fit in so many bytes but at least one; where the next one is.
    pub(super) fn issue(&mut self, bytes_max: usize) -> u64 {
        let mut bytes = 0;
        while self.issued < self.next() {
            let run = self.runs[(self.issued - self.base) as usize];
            if bytes > 0 && bytes + run.bytes as usize > bytes_max {
                break;
            }
            bytes += run.bytes as usize;
            self.issued += 1;
        }
        self.waiting_bytes -= bytes;
        self.issued
    }

    pub(super) fn written(&mut self, until: u64) {
        self.reached.written = self.reached.written.max(until);
    }

    pub(super) fn synced(&mut self, until: u64) {
        while self.reached.synced < until {
            let run = self.runs[(self.reached.synced - self.base) as usize];
            self.unsynced_bytes -= run.bytes as usize;
            self.reached.synced += 1;
        }
    }

    /// What is not synced waits to be written again. What was acknowledged as written stays so.
    pub(super) fn write_again(&mut self) {
        while self.issued > self.reached.synced {
            self.issued -= 1;
            self.waiting_bytes += self.runs[(self.issued - self.base) as usize].bytes as usize;
        }
    }

    /// Lets go of the oldest run if it is synced and memory holds more than so many bytes; its partition.
    pub(super) fn evict(&mut self, bytes_max: usize) -> Option<u16> {
        if self.held_bytes <= bytes_max || self.base >= self.reached.synced {
            return None;
        }
        let run = self.runs.pop_front()?;
        self.base += 1;
        self.held_bytes -= run.bytes as usize;
        Some(run.partition)
    }
}
