//! The log of one core: the partitions that it owns, and the one stream of segments that it writes them to.
//!
//! ```text
//!                    append                                   poll_committed ─> deliver
//!   run of events ───────────> partition: offsets ── commit ──┤
//!                                   │                   ^     poll_settled ───> acknowledge
//!                                   v                   │
//!                              stream: batches ── DiskOp::Write ── Sync ── DiskDone
//!                                   │
//!                                   v                            read ─> Reading / poll_read
//!                              segments: index, retention ──────────────> whoever is behind
//! ```
//!
//! Pure state: what the disk is to do comes out of `poll_disk`, what came of it goes into `handle_disk`.

mod appending;
pub mod class;
mod cursors;
pub mod disk;
mod events;
pub mod files;
pub mod footer;
pub mod format;
mod indices;
mod news;
mod once;
mod opened;
mod order;
mod partition;
mod reading;
pub mod recovery;
mod retained;
mod retention;
pub mod scan;
mod sealing;
mod segments;
mod settings;
mod starting;
mod stream;
mod tail;
pub mod verify;
mod writing;

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;

pub use events::{
    Bounds, Committed, CursorName, CursorState, Events, LogRefusal, ReaderId, Reading, RetainedRow, Settled,
    Stored,
};

pub use news::LogNews;
pub use settings::{Settings, owner_of, partition_of};
pub use starting::RecoveredLog;

use appending::Again;
use cursors::Cursors;
use disk::DiskOp;
use indices::Indices;
use news::News;
use once::Once;
use opened::Opened;
use order::Order;
use partition::Partition;
use reading::Readers;
use retention::Retention;
use segments::Segments;
use stream::Stream;

/// Offsets of one partition that may be given and not be on the disk. After a crash offsets go on further away than that, so
/// that none is given twice.
pub const UNSYNCED_OFFSETS_MAX: u64 = 900_000;

/// The log of one core.
#[derive(Debug)]
pub struct Log {
    core: u16,
    cores: u16,
    settings: Option<Arc<Settings>>,
    hasher: FixedState,
    epoch: u64,
    /// From which the salts of segments are made.
    secret: u64,
    /// Of all cores together.
    partition_count: u16,
    /// This core's, by `partition / cores`.
    partitions: Vec<Partition>,
    order: Order,
    committed: VecDeque<Committed>,
    settled: VecDeque<Settled>,
    once: Once,
    again: Again,
    cursors: Cursors,
    /// Retained events and removals, of all partitions together, with those that are to come.
    rows: usize,
    stream: Stream,
    segments: Segments,
    indices: Indices,
    opened: Opened,
    readers: Readers,
    retention: Retention,
    news: News,
    ops: VecDeque<DiskOp>,
    /// Of the write that is put together: runs by partition. Kept for its room.
    sorted: Vec<(u16, u64)>,
    /// Monotonic, us.
    now_us: u64,
    /// Since 1970, ms.
    unix_ms: u64,
    stopping: bool,
    /// Ever: events appended, and duplicates that were not.
    appended: u64,
    duplicates: u64,
}

/// A log in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Segments that this core looks after, the one being written included.
    pub segments: usize,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Bytes in memory of the indices of sealed segments.
    pub index_bytes: usize,
    /// Bytes of events in memory.
    pub held_bytes: usize,
    /// Bytes of events that are not on the disk.
    pub unsynced_bytes: usize,
    /// Readers that wait for the disk.
    pub readers: usize,
    /// Durable cursors.
    pub cursors: usize,
    /// Retained events, with those that are not committed yet.
    pub rows: usize,
    /// Ids of qos 2 that are remembered.
    pub once_ids: usize,
    /// Ranges of offsets that were damaged on the disk.
    pub holes: usize,
    /// Whether the disk takes nothing at the moment.
    pub is_in_trouble: bool,
    /// Ever: events appended.
    pub appended: u64,
    /// Ever: qos 2 events that came again.
    pub duplicates: u64,
    /// Ever: writes.
    pub writes: u64,
    /// Ever: syncs.
    pub syncs: u64,
    /// Ever: what the disk refused.
    pub failures: u64,
    /// Ever: segments that retention removed.
    pub segments_removed: u64,
}

impl Log {
    /// A log whose partitions are not ready yet; without `settings`, that of a gateway without a data directory: everything
    /// is refused with [`LogRefusal::NoLog`].
    #[must_use]
    pub fn new(core: u16, cores: u16, settings: Option<Arc<Settings>>, hasher: &FixedState) -> Self {
        let cores = cores.max(1);
        let partition_count = settings.as_ref().map_or(0, |settings| settings.partitions);
        let ours = (core..partition_count).step_by(usize::from(cores)).count();
        Self {
            core,
            cores,
            settings,
            epoch: 0,
            secret: 0,
            partition_count,
            partitions: std::iter::repeat_with(Partition::default).take(ours).collect(),
            order: Order::default(),
            committed: VecDeque::new(),
            settled: VecDeque::new(),
            once: Once::new(hasher.clone()),
            again: Again::default(),
            cursors: Cursors::new(hasher.clone()),
            rows: 0,
            stream: Stream::new(),
            segments: Segments::new(hasher.clone()),
            indices: Indices::new(hasher.clone()),
            opened: Opened::new(hasher.clone()),
            readers: Readers::new(hasher.clone()),
            retention: Retention::default(),
            news: News::default(),
            ops: VecDeque::new(),
            sorted: Vec::new(),
            hasher: hasher.clone(),
            now_us: 0,
            unix_ms: 0,
            stopping: false,
            appended: 0,
            duplicates: 0,
        }
    }

    /// What it is configured with.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// How many partitions the topics are hashed onto: what the data directory says, once it was read.
    #[must_use]
    pub fn partition_count(&self) -> u16 {
        self.partition_count
    }

    /// Whether a partition of this core can be read and appended to.
    #[must_use]
    pub fn is_ready(&self, partition: u16) -> bool {
        self.partition(partition).is_some_and(|partition| partition.ready)
    }

    /// Which start of the gateway on which data directory this is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next events that readers see from now on.
    pub fn poll_committed(&mut self) -> Option<Committed> {
        self.committed.pop_front()
    }

    /// The next publisher that is to hear what became of its events.
    pub fn poll_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    /// A position before the first event that was appended at this time (ms since 1970) or later, and not long before it.
    #[must_use]
    pub fn position_at(&self, partition: u16, time_ms: u64) -> u64 {
        self.partition(partition)
            .map_or(0, |partition| partition.position_at(time_ms))
    }

    /// How far a durable cursor is in a partition of this core.
    #[must_use]
    pub fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        self.cursors.get(partition, name)
    }

    /// Whether a durable cursor that is not there may have been lost, by damage on the disk that a start found: until all that
    /// were written before would be forgotten.
    #[must_use]
    pub fn may_have_lost_cursors(&self, partition: u16) -> bool {
        let lost_ms = self
            .partition(partition)
            .map_or(0, |partition| partition.cursors_lost_ms);
        let cursor_ms = self.settings.as_ref().map_or(0, |settings| settings.cursor_ms);
        // One in use is written again after an eighth of that time.
        lost_ms > 0 && self.unix_ms <= lost_ms.saturating_add(cursor_ms).saturating_add(cursor_ms / 8)
    }

    /// Moves a durable cursor, or makes it. It is written a little later, with others. One that does not move is in use as
    /// long as this is called now and then.
    ///
    /// # Errors
    /// It is new and there is no room for it, or it cannot be kept.
    pub fn set_cursor(
        &mut self,
        partition: u16,
        name: &CursorName,
        state: CursorState,
    ) -> Result<(), LogRefusal> {
        let Some(settings) = &self.settings else {
            return Err(LogRefusal::NoLog);
        };
        if self.stopping {
            return Err(LogRefusal::Stopping);
        }
        if !self.is_ready(partition) {
            return Err(LogRefusal::Recovering);
        }
        let now = (self.now_us / 1000, self.unix_ms);
        if self.cursors.set((partition, name), state, now, settings) {
            Ok(())
        } else {
            Err(LogRefusal::TooManyCursors)
        }
    }

    /// Whether who goes on by what a crash now leaves of a durable cursor misses nothing behind this position, nor the table
    /// before it, if that is wanted.
    #[must_use]
    pub fn is_cursor_safe(
        &self,
        partition: u16,
        name: &CursorName,
        position: u64,
        wants_table: bool,
    ) -> bool {
        self.cursors.is_safe(partition, name, (position, wants_table))
    }

    /// Counts the records of cursors that the disk has taken: while it stays, no cursor becomes safe.
    #[must_use]
    pub fn cursors_synced(&self) -> u64 {
        self.cursors.synced_count()
    }

    /// Has the cursors that moved written and synced with the next write that may carry them, instead of a little later: one that
    /// was written a moment ago waits for that to be 200 ms ago.
    pub fn hurry_cursors(&mut self) {
        self.stream.wants_sync = true;
    }

    /// Has a durable cursor be what it was before somebody moved or made it who did not begin after all (`None`: it was not
    /// there). That is written and synced at once: what the disk has would be taken for the cursor after a crash.
    pub fn put_back_cursor(&mut self, partition: u16, name: &CursorName, before: Option<CursorState>) {
        // Also while the log stops: nothing is moved any more then, but this is written before the last segment is sealed.
        self.cursors
            .put_back((partition, name), before, self.now_us / 1000);
        self.stream.wants_sync = true;
    }

    /// The retained events of a partition of this core whose topics match, with `after < offset <= until`, by offset, so many
    /// at most.
    #[must_use]
    pub fn retained(
        &self,
        partition: u16,
        pattern: &str,
        after: u64,
        until: u64,
        rows_max: usize,
    ) -> Vec<RetainedRow> {
        let retained = self
            .partition(partition)
            .and_then(|partition| partition.retained.as_deref());
        retained.map_or_else(Vec::new, |retained| {
            retained.matching(pattern, after, until, rows_max)
        })
    }

    /// What of a table of this partition is missing by damage on the disk, as far as topics that match may be concerned: the
    /// first and the last offset.
    #[must_use]
    pub fn table_damage(&self, partition: u16, pattern: &str) -> Option<(u64, u64)> {
        let partition = self.partition(partition)?;
        let retained = partition.retained.as_deref();
        let rows = retained.and_then(|retained| retained.damaged_matching(pattern));
        let all = rows.into_iter().chain(partition.damage_of_tables());
        all.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }

    /// Tells the time: monotonic, us, and since 1970, ms.
    pub fn handle_time(&mut self, now_us: u64, unix_ms: u64) {
        self.now_us = now_us;
        self.unix_ms = unix_ms;
        self.cursors.handle_time(now_us / 1000);
        self.look_after_retention();
    }

    /// When [`Log::handle_time`] and then [`Log::poll_disk`] are due at the latest, monotonic, ms.
    #[must_use]
    pub fn poll_timeout_ms(&self) -> Option<u64> {
        if self.stream.next_number == 0 {
            return None;
        }
        let look_ms = (!self.stopping).then(|| self.retention.next_ms());
        self.next_write_ms().into_iter().chain(look_ms).min()
    }

    /// How much there is of everything.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        let (kept, kept_bytes) = self.segments.kept();
        LogCounts {
            segments: kept + usize::from(self.stream.current.is_some()),
            segment_bytes: kept_bytes + self.current_bytes(),
            index_bytes: self.indices.bytes(),
            held_bytes: self.order.held_bytes(),
            unsynced_bytes: self.order.unsynced_bytes(),
            readers: self.readers.len(),
            cursors: self.cursors.len(),
            rows: self.rows,
            once_ids: self.once.len(),
            holes: self
                .partitions
                .iter()
                .map(|partition| partition.holes.len())
                .sum(),
            is_in_trouble: self.stream.trouble.is_some(),
            appended: self.appended,
            duplicates: self.duplicates,
            writes: self.stream.writes,
            syncs: self.stream.syncs,
            failures: self.stream.failures,
            segments_removed: self.retention.removed,
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1000
    }

    fn current_bytes(&self) -> u64 {
        self.stream.current.as_ref().map_or(0, |current| current.at)
    }

    /// The place of a partition that is this core's.
    fn index(&self, partition: u16) -> Option<usize> {
        let ours = partition % self.cores == self.core;
        Some(usize::from(partition / self.cores)).filter(|&at| ours && at < self.partitions.len())
    }

    /// The number of the partition at a place.
    fn number(&self, at: usize) -> u16 {
        self.core + at as u16 * self.cores
    }

    fn partition(&self, partition: u16) -> Option<&Partition> {
        self.index(partition).map(|at| &self.partitions[at])
    }

    /// This core's partitions with their numbers.
    fn numbered(&self) -> impl Iterator<Item = (u16, &Partition)> {
        let partitions = self.partitions.iter().enumerate();
        partitions.map(|(at, partition)| (self.number(at), partition))
    }
}
