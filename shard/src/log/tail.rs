//! The newest runs of a partition, in memory: what is not on the disk yet, what is not committed yet, and some of what was
//! before it, for readers that are a little behind.
//!
//! ```text
//!   | on the disk, kept while there is room | not on the disk yet | not committed yet |
//!   └ evict, from the front                                                 append, behind ┘
//! ```
//!
//! Offsets are dense in it. Nothing is evicted before it is both synced and committed.

use std::collections::VecDeque;

use super::class::{Class, Level};
use super::events::{Events, Stored};
use crate::peer::PeerId;

/// A run, held.
#[derive(Debug)]
pub(super) struct Held {
    /// Its place in the order of all runs of this core's stream.
    pub(super) seq: u64,
    /// The offset of its first event.
    pub(super) first: u64,
    pub(super) events: Events,
    /// When it was appended, ms since 1970.
    pub(super) time_ms: u64,
    pub(super) class: Class,
    /// Who waits to hear that it is committed.
    pub(super) from: Option<PeerId>,
}

impl Held {
    /// The offset of its last event.
    pub(super) fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }

    /// As a reader gets it.
    pub(super) fn stored(&self) -> Stored {
        Stored {
            events: self.events.clone(),
            first: self.first,
            deltas: None,
            time_ms: self.time_ms,
            expires: self.class.expires,
        }
    }
}

/// How far the stream is, in its order of runs: everything before these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reached {
    /// The system took it.
    pub(super) written: u64,
    /// It is on the disk.
    pub(super) synced: u64,
}

impl Reached {
    fn keeps(self, run: &Held) -> bool {
        match run.class.level {
            Level::Memory => true,
            Level::Written => run.seq < self.written,
            Level::Synced => run.seq < self.synced,
        }
    }
}

/// The runs of one partition that are in memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    runs: VecDeque<Held>,
    /// How many of them, from the front, are committed.
    committed: usize,
}

impl Tail {
    pub(super) fn push(&mut self, run: Held) {
        debug_assert!(!run.events.is_empty());
        self.runs.push_back(run);
    }

    /// The next run that can be committed now, in order. It counts as committed from now on.
    pub(super) fn commit_next(&mut self, reached: Reached) -> Option<&mut Held> {
        let run = self.runs.get_mut(self.committed)?;
        if !reached.keeps(run) {
            return None;
        }
        self.committed += 1;
        Some(run)
    }

    /// Lets go of the oldest run.
    pub(super) fn evict(&mut self) {
        debug_assert!(self.committed > 0, "a run that is not committed is never let go");
        self.committed = self.committed.saturating_sub(1);
        self.runs.pop_front();
        if self.runs.is_empty() && self.runs.capacity() > 64 {
            self.runs = VecDeque::new(); // an idle partition takes no memory
        }
    }

    /// The offset from which on everything is here.
    pub(super) fn first(&self) -> Option<u64> {
        self.runs.front().map(|run| run.first)
    }

    /// The run with this place in the stream's order.
    pub(super) fn run(&self, seq: u64) -> Option<&Held> {
        let at = self.runs.partition_point(|run| run.seq < seq);
        self.runs.get(at).filter(|run| run.seq == seq)
    }

    /// The committed run that holds this offset.
    pub(super) fn find(&self, offset: u64) -> Option<&Held> {
        let at = self.runs.partition_point(|run| run.last() < offset);
        (at < self.committed)
            .then(|| &self.runs[at])
            .filter(|run| run.first <= offset)
    }

    /// The first offset of the first committed run that was appended at or after this time.
    pub(super) fn first_at(&self, time_ms: u64) -> Option<u64> {
        let committed = self.runs.iter().take(self.committed);
        committed
            .filter(|run| run.time_ms >= time_ms)
            .map(|run| run.first)
            .next()
    }

    /// The last offset of the committed runs in front of the first one that was appended at or after this time; 0: there are
    /// none.
    pub(super) fn last_before(&self, time_ms: u64) -> u64 {
        let committed = self.runs.iter().take(self.committed);
        let older = committed.take_while(|run| run.time_ms < time_ms);
        older.last().map_or(0, Held::last)
    }

    /// Committed events behind a position that is not before the front, as many as fit in so many bytes, but at least one
    /// if there is one.
    pub(super) fn read(&self, after: u64, bytes_max: usize) -> Vec<Stored> {
        let mut read = Vec::new();
        let mut room = bytes_max;
        let start = self.runs.partition_point(|run| run.last() <= after);
        for run in self.runs.range(start.min(self.committed)..self.committed) {
            let skip = (after + 1).saturating_sub(run.first) as usize;
            let Some(part) = cut(&run.stored(), skip, room, read.is_empty()) else {
                break;
            };
            let whole = part.events.len() + skip == run.events.len();
            room = room.saturating_sub(part.events.bytes.len());
            read.push(part);
            if !whole {
                break;
            }
        }
        read
    }
}

/// The events of a dense run from the `skip`th on that fit in so many bytes; one at least, if `one`.
pub(super) fn cut(run: &Stored, skip: usize, bytes_max: usize, one: bool) -> Option<Stored> {
    let ends = &run.events.ends;
    let start = skip.checked_sub(1).map_or(0, |before| ends[before]) as usize;
    let fit = ends.partition_point(|&end| end as usize <= start.saturating_add(bytes_max));
    let end = fit.max(skip + usize::from(one)).min(ends.len());
    (end > skip).then(|| Stored {
        events: run.events.slice(skip..end),
        first: run.first + skip as u64,
        ..run.clone()
    })
}
