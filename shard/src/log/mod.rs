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

pub mod class;
pub mod disk;
mod events;
pub mod files;
pub mod footer;
pub mod format;
#[allow(dead_code)]
mod order;
#[allow(dead_code)]
mod partition;
pub mod recovery;
pub mod scan;
mod settings;
#[allow(dead_code)]
mod tail;
pub mod verify;

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;

pub use events::{
    Bounds, Committed, CursorName, CursorState, Events, LogRefusal, ReaderId, Reading, RetainedRow, Settled,
    Stored,
};
pub use settings::{Settings, owner_of, partition_of};

use crate::peer::PeerId;
use class::Class;
use disk::{DiskDone, DiskOp};
use order::Order;
use partition::Partition;
use tail::Held;

/// Offsets of one partition that may be given and not be on the disk. After a crash offsets go on further away than that, so
/// that none is given twice.
pub const UNSYNCED_OFFSETS_MAX: u64 = 900_000;

/// The log of one core.
#[derive(Debug)]
pub struct Log {
    core: u16,
    cores: u16,
    settings: Option<Arc<Settings>>,
    epoch: u64,
    /// This core's, by `partition / cores`.
    partitions: Vec<Partition>,
    order: Order,
    committed: VecDeque<Committed>,
    settled: VecDeque<Settled>,
    /// Monotonic, us.
    now_us: u64,
    /// Since 1970, ms.
    unix_ms: u64,
    stopping: bool,
}

impl Log {
    /// A log whose partitions are not ready yet; without `settings`, that of a gateway without a data directory: everything
    /// is refused with [`LogRefusal::NoLog`].
    #[must_use]
    pub fn new(core: u16, cores: u16, settings: Option<Arc<Settings>>, hasher: &FixedState) -> Self {
        let _ = hasher;
        let all = settings.as_ref().map_or(0, |settings| settings.partitions);
        let ours = (core..all).step_by(usize::from(cores.max(1))).count();
        Self {
            core,
            cores: cores.max(1),
            settings,
            epoch: 0,
            partitions: std::iter::repeat_with(Partition::default).take(ours).collect(),
            order: Order::default(),
            committed: VecDeque::new(),
            settled: VecDeque::new(),
            now_us: 0,
            unix_ms: 0,
            stopping: false,
        }
    }

    /// What it is configured with.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// Has all partitions ready and empty, in this epoch: a data directory that was just made, or a test.
    pub fn handle_empty(&mut self, epoch: u64) {
        self.epoch = epoch;
        for partition in &mut self.partitions {
            partition.ready = true;
        }
    }

    /// Whether a partition of this core can be appended to and read.
    #[must_use]
    pub fn is_ready(&self, partition: u16) -> bool {
        self.partition(partition).is_some_and(|partition| partition.ready)
    }

    /// Which start of the gateway on which data directory this is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Appends events to a partition of this core. `from` None: nobody waits to hear that they are stored.
    ///
    /// # Errors
    /// None was taken.
    pub fn append(
        &mut self,
        partition: u16,
        class: Class,
        events: Events,
        from: Option<PeerId>,
    ) -> Result<(), LogRefusal> {
        let Some(settings) = &self.settings else {
            return Err(LogRefusal::NoLog);
        };
        if self.stopping {
            return Err(LogRefusal::Stopping);
        }
        let Some(at) = self.index(partition).filter(|&at| self.partitions[at].ready) else {
            return Err(LogRefusal::Recovering);
        };
        let cost = order::cost(events.bytes.len(), events.len());
        let held = &mut self.partitions[at];
        let unsynced = held.last - held.synced + events.len() as u64;
        if self.order.unsynced_bytes() + cost > settings.unsynced_bytes_max || unsynced > UNSYNCED_OFFSETS_MAX
        {
            return Err(LogRefusal::Behind);
        }
        if events.is_empty() {
            return Ok(());
        }
        let first = held.last + 1;
        held.last += events.len() as u64;
        held.tail.push(Held {
            seq: self.order.next(),
            first,
            events,
            time_ms: self.unix_ms,
            class,
            from,
        });
        self.order.push(partition, cost);
        self.commit(at);
        Ok(())
    }

    /// The next events that readers see from now on.
    pub fn poll_committed(&mut self) -> Option<Committed> {
        self.committed.pop_front()
    }

    /// The next publisher that is to hear what became of its events.
    pub fn poll_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    /// What a partition of this core holds.
    #[must_use]
    pub fn bounds(&self, partition: u16) -> Bounds {
        match self.partition(partition) {
            Some(partition) => partition.bounds(),
            None => Bounds {
                first: 1,
                committed: 0,
            },
        }
    }

    /// A position before the first event that was appended at this time or later, and not much before it.
    #[must_use]
    pub fn position_at(&self, partition: u16, time_ms: u64) -> u64 {
        let Some(partition) = self.partition(partition) else {
            return 0;
        };
        let first = partition.tail.first_at(time_ms);
        first.map_or(partition.committed, |first| first - 1)
    }

    /// Reads what is behind a position, about so many bytes. [`Reading::Later`]: what was read comes out of
    /// [`Log::poll_read`], and until then this reader asks for nothing else.
    pub fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading {
        let _ = reader;
        let Some(partition) = self.partition(partition).filter(|partition| partition.ready) else {
            return Reading::Failed("this partition is being recovered".to_owned());
        };
        if after >= partition.committed {
            return Reading::End;
        }
        let first = partition.tail.first().unwrap_or(partition.committed + 1);
        if after + 1 < first {
            return Reading::Gone { first };
        }
        let stored = partition.tail.read(after, bytes_max);
        let until = stored.last().map_or(after, Stored::last);
        Reading::Events { stored, until }
    }

    /// Forgets what this reader asked for.
    pub fn forget_reader(&mut self, reader: ReaderId) {
        let _ = reader;
    }

    /// What a reader asked for and had to wait for.
    pub fn poll_read(&mut self) -> Option<(ReaderId, Reading)> {
        None
    }

    /// How far a durable cursor is in a partition of this core.
    #[must_use]
    pub fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        let _ = (partition, name);
        None
    }

    /// Moves a durable cursor, or makes it. Written a little later, with others.
    ///
    /// # Errors
    /// It is new and there is no room for it, or it cannot be kept.
    pub fn set_cursor(
        &mut self,
        partition: u16,
        name: &CursorName,
        state: CursorState,
    ) -> Result<(), LogRefusal> {
        let _ = (partition, name, state);
        Ok(())
    }

    /// The retained events of a partition of this core whose topics match, by offset.
    #[must_use]
    pub fn retained(&self, partition: u16, pattern: &str) -> Vec<RetainedRow> {
        let _ = (partition, pattern);
        Vec::new()
    }

    /// Reads retained events, ascending; those that were replaced meanwhile are left out. What comes is a first part of them,
    /// up to `until`: ask again for the rest.
    pub fn read_rows(&mut self, reader: ReaderId, partition: u16, offsets: &[u64]) -> Reading {
        let _ = (reader, partition, offsets);
        Reading::End
    }

    /// What the disk is to do next.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        None
    }

    /// What came of it.
    pub fn handle_disk(&mut self, done: DiskDone) {
        let _ = done;
    }

    /// Tells the time: monotonic, us, and since 1970, ms.
    pub fn handle_time(&mut self, now_us: u64, unix_ms: u64) {
        self.now_us = now_us;
        self.unix_ms = unix_ms;
    }

    /// When [`Log::handle_time`] is due at the latest, monotonic, ms.
    #[must_use]
    pub fn poll_timeout_ms(&self) -> Option<u64> {
        None
    }

    /// Writes what there is, and seals it; nothing is taken any more. [`Log::is_stopped`] says when that is done.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether everything is on the disk and sealed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping
    }

    /// Commits what can be committed of a partition.
    fn commit(&mut self, at: usize) {
        let partition = &mut self.partitions[at];
        let number = self.core + (at as u16) * self.cores;
        while let Some(run) = partition.tail.commit_next(self.order.reached()) {
            partition.committed = run.last();
            self.committed.push_back(Committed {
                partition: number,
                stored: run.stored(),
                class: run.class,
            });
            if let Some(from) = run.from.take() {
                self.settled.push_back(Settled::Stored {
                    from,
                    partition: number,
                    first: run.first,
                    events: run.events.clone(),
                });
            }
        }
    }

    fn index(&self, partition: u16) -> Option<usize> {
        let ours = partition % self.cores == self.core;
        Some(usize::from(partition / self.cores)).filter(|&at| ours && at < self.partitions.len())
    }

    fn partition(&self, partition: u16) -> Option<&Partition> {
        self.index(partition).map(|at| &self.partitions[at])
    }
}
