//! The stream of segments that a core writes: which one is being written, what is under way, what the disk has taken and not
//! yet made safe.
//!
//! ```text
//!   create ──> ahead ──> current ── group ─ write ─> written ─ sync ─> safe ── ... full ─> footer ─ write, sync ─> sealed
//!                          │
//!                          └── a write or a sync failed: abandoned; what is not safe is written again to the next one
//! ```
//!
//! At most one write and one sync are under way. Nothing is written to a segment before the one before it is wholly safe, so
//! what a crash leaves of the stream is a beginning of it, but for the last segment's unsynced end.

use std::collections::VecDeque;

use super::cursors::IssuedCursor;
use super::disk::{DiskFault, SegmentId};
use super::footer::FooterRow;
use super::format::{Base, BatchHead, Kept, Removed, SegmentHead};

/// What could not be written is tried again after so long, ms.
pub(super) const RETRY_MS: u64 = 500;

/// What one write carries.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Where the stream's order is behind it.
    pub(super) until: u64,
    /// Where the segment is behind it.
    pub(super) end: u64,
    /// Somebody waits until it is safe.
    pub(super) is_awaited: bool,
    /// It seals the segment.
    pub(super) is_footer: bool,
    /// Its batches of events, and where they are.
    pub(super) batches: Vec<(BatchHead, u64)>,
    pub(super) cursors: Vec<IssuedCursor>,
    /// Where its batches of cursors are.
    pub(super) cursors_at: Vec<u64>,
    pub(super) kept: Vec<CarriedBatch>,
    /// What it says retention removes.
    pub(super) removed: Vec<Removed>,
    /// So many removals are written with it and with those before it.
    pub(super) removals: u64,
    /// When it was handed to the disk, monotonic, ms.
    pub(super) since_ms: u64,
}

/// Retained events that are carried on from a segment that is to be removed.
#[derive(Debug)]
pub(super) struct CarriedBatch {
    pub(super) partition: u16,
    pub(super) rows: Vec<Kept>,
    /// Where it is.
    pub(super) at: u64,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) head: SegmentHead,
    /// Where the next write begins.
    pub(super) at: u64,
    /// So many bytes were written.
    pub(super) written: u64,
    /// So many survive power loss.
    pub(super) synced: u64,
    /// Nothing but its footer comes any more.
    pub(super) is_full: bool,
    /// What it holds has waited long to be sealed.
    pub(super) is_old: bool,
    /// A write or a sync failed.
    pub(super) failed: Option<DiskFault>,
    pub(super) newest_ms: u64,
    /// Where the partitions stood when it was begun.
    pub(super) bases: Vec<Base>,
    /// Where its safe batches of cursors are.
    pub(super) cursors_at: Vec<u64>,
    /// The bytes of its safe batches of events.
    pub(super) event_bytes: u64,
    /// Where its footer is, once that was handed to the disk.
    pub(super) footer_at: Option<u64>,
    /// The carried rows that it holds safely.
    pub(super) kept: Vec<FooterRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// None is made; not before this time, monotonic, ms.
    None {
        not_before_ms: u64,
    },
    Creating(SegmentId),
    Ready(SegmentId),
}

/// Why nothing can be written, and when it is tried again.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) fault: DiskFault,
    /// Monotonic, ms.
    pub(super) retry_ms: u64,
}

/// Removals of segments, counted.
#[derive(Debug, Default)]
pub(super) struct Removals {
    pub(super) begun: u64,
    pub(super) issued: u64,
    pub(super) safe: u64,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// The number of the next segment; 0: recovery has not said it.
    pub(super) next_number: u64,
    /// That of the first one of this start.
    pub(super) first_number: u64,
    pub(super) current: Option<Current>,
    /// The segment that was finished last was given up, without a footer.
    pub(super) ends_open: bool,
    pub(super) ahead: Ahead,
    /// What the disk is taking.
    pub(super) write: Option<Group>,
    /// What it has taken, in order.
    pub(super) written: VecDeque<Group>,
    /// So many of these, from the front, the sync under way makes safe.
    pub(super) syncing: Option<usize>,
    /// Retained events that are to be carried on.
    pub(super) carried: VecDeque<CarriedBatch>,
    /// What retention is about to remove: to be written before.
    pub(super) removed: Vec<Removed>,
    /// How many removals were begun so, were handed to the disk, are safe there.
    pub(super) removals: Removals,
    pub(super) trouble: Option<Trouble>,
    /// There was no space for the next segment: the end of the current one is left to what retention carries on, which
    /// makes space.
    pub(super) is_short: bool,
    /// Somebody waits to hear that what is waiting was written.
    pub(super) wants_write: bool,
    /// Somebody waits to hear that what is waiting is safe.
    pub(super) wants_sync: bool,
    /// A partition has given many offsets that are not safe.
    pub(super) offsets_due: bool,
    /// Since when something waits to be written, monotonic, ms.
    pub(super) waits_since_ms: Option<u64>,
    /// Ever: writes, syncs, failures of either.
    pub(super) writes: u64,
    pub(super) syncs: u64,
    pub(super) failures: u64,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            next_number: 0,
            first_number: 1,
            current: None,
            ends_open: false,
            ahead: Ahead::None { not_before_ms: 0 },
            write: None,
            written: VecDeque::new(),
            syncing: None,
            carried: VecDeque::new(),
            removed: Vec::new(),
            removals: Removals::default(),
            trouble: None,
            is_short: false,
            wants_write: false,
            wants_sync: false,
            offsets_due: false,
            waits_since_ms: None,
            writes: 0,
            syncs: 0,
            failures: 0,
        }
    }

    /// Whether everything that was handed to the disk is safe.
    pub(super) fn is_quiet(&self) -> bool {
        self.write.is_none() && self.written.is_empty() && self.syncing.is_none()
    }
}
