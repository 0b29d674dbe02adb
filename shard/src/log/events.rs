//! What goes into a log and what comes out of it, as values.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Id;
use fluxar_protocol::envelope::{self, compact};

use super::class::Class;
use crate::peer::PeerId;

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
        &self.bytes[self.span(at)]
    }

    /// Where one of them stands in the bytes.
    #[must_use]
    pub fn span(&self, at: usize) -> std::ops::Range<usize> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[at] as usize
    }

    /// The id of one of them.
    #[must_use]
    pub fn id(&self, at: usize) -> Id {
        compact::id_of(self.get(at)).unwrap_or(Id([0; 16])) // none is too short: it was decoded before it was stored
    }

    /// Some of them, on the same bytes.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        if range.len() == self.len() {
            return self.clone();
        }
        let Some(last) = range.end.checked_sub(1).filter(|_| !range.is_empty()) else {
            return Self {
                bytes: Bytes::new(),
                ends: Arc::new([]),
            };
        };
        let start = range.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        Self {
            bytes: self.bytes.slice(start as usize..self.ends[last] as usize),
            ends: self.ends[range].iter().map(|end| end - start).collect(),
        }
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

impl Stored {
    /// The offset of each event, ascending.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        let mut offset = self.first;
        (0..self.events.len()).map(move |at| {
            if at > 0 {
                let delta = self.deltas.as_ref().map_or(1, |deltas| deltas[at - 1]);
                offset += u64::from(delta);
            }
            offset
        })
    }

    /// Whether one of the events is worthless now: its `meta.ttl_ms` has passed.
    pub(crate) fn has_expired(&self, event: &[u8], now_ms: u64) -> bool {
        let ttl_ms = || envelope::decode(event).ok()?.envelope.meta?.uint("ttl_ms").ok()?;
        self.expires && ttl_ms().is_some_and(|ttl_ms| now_ms >= self.time_ms.saturating_add(ttl_ms))
    }

    /// The offset of the last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        match &self.deltas {
            Some(deltas) => self.first + deltas.iter().copied().map(u64::from).sum::<u64>(),
            None => self.first + (self.events.len() as u64).saturating_sub(1),
        }
    }
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
    /// `cursors_max` durable cursors are kept. Again when one was forgotten.
    TooManyCursors,
    /// `rows_max` retained events are kept. Again when one was removed.
    TooManyRows,
    /// The log is being closed. Again after the restart.
    Stopping,
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
    /// It is being fetched from the disk: [`super::Log::poll_read`].
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

impl CursorState {
    /// Everything up to here was acknowledged, and nothing beyond it.
    #[must_use]
    pub fn up_to(acked: u64) -> Self {
        Self {
            acked,
            beyond: Vec::new(),
        }
    }

    /// Of a subscription with `retain`: it goes on behind this position, but first the table up to here has to come (again),
    /// for it was not handled yet. Written as a position that names itself as beyond it, which no queue ever does.
    #[must_use]
    pub fn before_table(position: u64) -> Self {
        Self {
            acked: position,
            beyond: vec![position],
        }
    }

    /// Whether a table has to come first.
    #[must_use]
    pub fn is_before_table(&self) -> bool {
        self.beyond.first() == Some(&self.acked)
    }
}

/// A retained event: the last of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedRow {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its offset.
    pub offset: u64,
}
