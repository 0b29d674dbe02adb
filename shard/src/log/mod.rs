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
pub mod files;

use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Id;

use crate::peer::PeerId;
use class::{Class, TopicRule};

/// What a log is configured with; the same on all cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many partitions the topics are hashed onto: fixed when the data directory is made.
    pub partitions: u16,
    /// A segment's size, bytes.
    pub segment_bytes: u64,
    /// What may be held in memory because it is not on the disk yet, bytes a core. At the bound publishers are refused.
    pub unsynced_bytes_max: usize,
    /// What is kept in memory of the newest events for readers that are a little behind, bytes a core.
    pub tail_bytes: usize,
    /// What was written is synced after so long even if nobody waits for it, ms.
    pub sync_ms: u32,
    /// How long ids of qos 2 publishes are remembered, ms.
    pub once_ms: u32,
    /// How many ids are remembered at most, a core. One more publish is refused.
    pub once_ids_max: usize,
    /// How many durable cursors a core keeps. One more is refused.
    pub cursors_max: usize,
    /// A durable cursor that nobody used for so long is forgotten, ms.
    pub cursor_ms: u64,
    /// Segments whose newest event is older are removed, ms; 0: never.
    pub retain_ms: u64,
    /// The oldest segments are removed while a core's are larger together, bytes; 0: never.
    pub retain_bytes: u64,
    /// A segment is removed once each of its partitions has so many newer events; 0: never.
    pub retain_events: u64,
    /// Rules by topic.
    pub topics: Vec<TopicRule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: 64,
            segment_bytes: 64 * 1024 * 1024,
            unsynced_bytes_max: 32 * 1024 * 1024,
            tail_bytes: 8 * 1024 * 1024,
            sync_ms: 1_000,
            once_ms: 5 * 60 * 1_000,
            once_ids_max: 4 * 1024 * 1024,
            cursors_max: 100_000,
            cursor_ms: 7 * 24 * 3_600 * 1_000,
            retain_ms: 7 * 24 * 3_600 * 1_000,
            retain_bytes: 0,
            retain_events: 0,
            topics: Vec::new(),
        }
    }
}

/// The partition of a topic. Stable: it is what places events on the disk.
#[must_use]
pub fn partition_of(topic: &str, partitions: u16) -> u16 {
    // FNV-1a, 64 bits, folded: plain to write in any language, and good enough for names.
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % u64::from(partitions.max(1))) as u16
}

/// Which core owns a partition.
#[must_use]
pub fn owner_of(partition: u16, cores: u16) -> u16 {
    partition % cores
}

/// Consecutive events of one publisher's input for one partition, of one class: what is appended at once, and what a
/// letter carries to the owner.
#[derive(Debug, Clone)]
pub struct Events {
    /// The envelopes, compact, back to back, at most a run's size.
    pub bytes: Bytes,
    /// Where each ends in them.
    pub ends: Arc<[u32]>,
}

impl Events {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[at] as usize]
    }

    /// The id of one of them: it stands at byte 3 of a compact envelope.
    #[must_use]
    pub fn id(&self, at: usize) -> Id {
        let mut id = [0; 16];
        if let Some(found) = self.get(at).get(3..19) {
            id.copy_from_slice(found);
        }
        Id(id)
    }
}

/// Events with their positions, as a reader gets them: committed, in order, of one partition.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The events.
    pub events: Events,
    /// The offset of the first.
    pub first: u64,
    /// The offsets of the others, each less the one before it; `None`: each is one more.
    pub deltas: Option<Arc<[u32]>>,
    /// When they were appended, ms since 1970.
    pub time_ms: u64,
    /// Some may have expired: `meta.ttl_ms` counts from `time_ms`.
    pub expires: bool,
}

/// Newly committed events: each partition's come out in order, none is left out.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Their partition.
    pub partition: u16,
    /// They.
    pub stored: Stored,
    /// Appended here as new, not delivered to anybody before.
    pub class: Class,
}

/// What became of a publisher's events.
#[derive(Debug, Clone)]
pub enum Settled {
    /// They are in the log as surely as their class says: the first at this offset, each at one more than the one before.
    Stored {
        /// Whose they are.
        from: PeerId,
        /// Their partition.
        partition: u16,
        /// The offset of the first.
        first: u64,
        /// They.
        events: Events,
    },
    /// One that had been stored before (qos 2).
    Again {
        /// Whose it is.
        from: PeerId,
        /// Its id.
        id: Id,
        /// Its partition.
        partition: u16,
        /// Where it is since the first time.
        offset: u64,
    },
}

/// Why the log does not take events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogRefusal {
    /// The partition is being recovered. Again in a moment.
    Recovering,
    /// `unsynced_bytes_max` are waiting for the disk. Again in a moment.
    Behind,
    /// The disk is full. Again when there is space.
    DiskFull,
    /// The disk fails, as it says.
    DiskFailed(String),
    /// `once_ids_max` ids are remembered. Again in a while.
    TooManyIds,
    /// There is no log: no data directory is configured.
    NoLog,
}

/// Who reads: chosen by the asker, given back with what was read. One read a reader at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// What a read yields.
#[derive(Debug, Clone)]
pub enum Reading {
    /// Some of the events behind the position that was asked for, in order. None of the partition is left out up to `until`.
    Events {
        /// They; empty if nothing is stored up to `until`.
        stored: Vec<Stored>,
        /// The position that is reached with them.
        until: u64,
    },
    /// Nothing is committed behind the position.
    End,
    /// What comes behind the position is not held any more.
    Gone {
        /// The first offset that is held.
        first: u64,
    },
    /// What comes behind the position was damaged on the disk.
    Damaged {
        /// The first offset of the damage.
        first: u64,
        /// The last.
        last: u64,
    },
    /// It could not be read now.
    Failed(String),
    /// It is being fetched from the disk: [`Log::poll_read`].
    Later,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that is held; one more than `committed` if it holds nothing.
    pub first: u64,
    /// The last offset that readers see.
    pub committed: u64,
}

/// Names a durable cursor: a subscription's principal (empty: nobody in particular), name, pattern and group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CursorName {
    /// Who, as authenticated.
    pub principal: Box<str>,
    /// `meta.durable`; for a group without one, empty.
    pub name: Box<str>,
    /// The pattern.
    pub pattern: Box<str>,
    /// `meta.group`, or empty.
    pub group: Box<str>,
}

/// How far a durable cursor is in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CursorState {
    /// Everything up to here was acknowledged.
    pub acked: u64,
    /// And these beyond it (work queues), ascending.
    pub beyond: Vec<u64>,
}

/// A retained event: the last of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRow {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its offset.
    pub offset: u64,
}
