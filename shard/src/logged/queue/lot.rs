//! One partition of one work queue, on its owner's core: its ledger, and what was read and not given yet.

use std::collections::VecDeque;

use bytes::BytesMut;
use fluxar_protocol::Id;

use super::ledger::Ledger;
use crate::log::{Reading, Stored};
use crate::logged::letters::Start;

/// What a read is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What comes next.
    New,
    /// What is to be given again, from this offset on.
    Again(u64),
    /// The event at this offset was given too often.
    Spent(u64),
}

/// Why nothing more comes from a partition until somebody says where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Gone { first: u64 },
    Damaged { first: u64, last: u64 },
}

impl Broken {
    /// The first offset that cannot be read.
    pub(crate) fn first(self) -> u64 {
        match self {
            Self::Gone { .. } => 0,
            Self::Damaged { first, .. } => first,
        }
    }

    /// The last.
    pub(crate) fn last(self) -> u64 {
        match self {
            Self::Gone { first } => first.saturating_sub(1),
            Self::Damaged { last, .. } => last,
        }
    }
}

/// A run of which some events were not looked at yet.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(crate) stored: Stored,
    /// The first that is left.
    pub(crate) nth: usize,
    /// Its offset.
    pub(crate) offset: u64,
}

impl Ahead {
    pub(crate) fn new(stored: Stored) -> Self {
        Self {
            nth: 0,
            offset: stored.first,
            stored,
        }
    }

    /// How large it is.
    fn bytes(&self) -> usize {
        self.stored.events.bytes.len()
    }

    /// The event behind `(nth, offset)`.
    pub(crate) fn behind(&self, nth: usize, offset: u64) -> (usize, u64) {
        let delta = match &self.stored.deltas {
            None => 1,
            Some(deltas) => deltas.get(nth).map_or(1, |delta| u64::from(*delta)),
        };
        (nth + 1, offset + delta)
    }
}

#[derive(Debug)]
pub(crate) struct Lot {
    pub(crate) partition: u16,
    pub(crate) ledger: Ledger,
    /// What was read and not looked at yet.
    pub(crate) ahead: VecDeque<Ahead>,
    /// What that holds in memory.
    pub(crate) ahead_bytes: usize,
    /// How large that is: less than it holds where runs before it were looked at.
    left_bytes: usize,
    /// It may share, and hold, the whole of what was read from the disk, which is not counted.
    is_ahead_shared: bool,
    /// What is reached with it.
    pub(crate) ahead_until: u64,
    /// What is older is passed over, ms since 1970, until the first that is not: the queue was begun at a time, of which the
    /// log says no more than a place before it.
    pub(crate) since_ms: u64,
    /// Something that matches is left in what was read, or behind it.
    pub(crate) has_more: bool,
    /// Nothing that matches is committed behind what was read.
    pub(crate) is_quiet: bool,
    /// What the log is asked for.
    pub(crate) reading: Option<Purpose>,
    /// A read failed: not before this time, us.
    pub(crate) retry_us: u64,
    pub(crate) broken: Option<Broken>,
    /// Its cursor was made for members of which none has left yet that all owners had let join. If the last of them leaves so,
    /// it is forgotten: who is refused by one owner leaves nothing with the others.
    pub(crate) is_made: bool,
    /// An event is being set aside: under this id.
    pub(crate) aside: Option<(u64, Id)>,
    /// The cursor is to be handed to the log at this time, us; `None`: it has not moved.
    pub(crate) cursor_us: Option<u64>,
    /// The alarm that is set, us; it stands in the owner's list as well.
    pub(crate) alarm_us: Option<u64>,
}

impl Lot {
    pub(crate) fn new(partition: u16, ledger: Ledger, start: &Start) -> Self {
        Self {
            partition,
            ahead_until: ledger.read(),
            ledger,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            left_bytes: 0,
            is_ahead_shared: false,
            since_ms: match start {
                Start::TimeMs(time_ms) => *time_ms,
                _ => 0,
            },
            has_more: false,
            is_quiet: false,
            reading: None,
            retry_us: 0,
            broken: None,
            is_made: false,
            aside: None,
            cursor_us: None,
            alarm_us: None,
        }
    }

    /// Lets go of what was read and not given.
    pub(crate) fn drop_ahead(&mut self) -> usize {
        self.ahead.clear();
        self.left_bytes = 0;
        std::mem::take(&mut self.ahead_bytes)
    }

    /// Takes what was read; how large it is.
    pub(crate) fn take_ahead(&mut self, stored: Vec<Stored>) -> usize {
        let since_ms = self.since_ms;
        let stored = stored
            .into_iter()
            .filter(|run| !run.events.is_empty())
            .skip_while(|run| run.time_ms < since_ms);
        self.ahead.extend(stored.map(Ahead::new));
        if let Some(first) = self.ahead.front().filter(|_| since_ms > 0) {
            self.since_ms = 0;
            if first.offset - 1 > self.ledger.read() {
                self.ledger.pass(first.offset - 1);
            }
        }
        self.left_bytes = self.ahead.iter().map(Ahead::bytes).sum();
        self.ahead_bytes = self.left_bytes;
        self.is_ahead_shared = true;
        self.ahead_bytes
    }

    /// What is left behind so many runs has to wait for room: it is copied unless it is at least half of what it holds in
    /// memory. This is done for each job of a member that takes one at a time, so it costs what those runs cost.
    pub(crate) fn keep_behind(&mut self, runs: usize) {
        let looked_at: usize = self.ahead.drain(..runs).map(|ahead| ahead.bytes()).sum();
        self.left_bytes -= looked_at;
        let left = self.left_bytes;
        debug_assert_eq!(left, self.ahead.iter().map(Ahead::bytes).sum::<usize>());
        if !self.is_ahead_shared && 2 * left >= self.ahead_bytes {
            return;
        }
        let mut copy = BytesMut::with_capacity(left);
        for ahead in &self.ahead {
            copy.extend_from_slice(&ahead.stored.events.bytes);
        }
        let mut copy = copy.freeze();
        for ahead in &mut self.ahead {
            ahead.stored.events.bytes = copy.split_to(ahead.bytes());
        }
        self.ahead_bytes = left;
        self.is_ahead_shared = false;
    }

    /// Something that matches was committed, the first at this offset.
    pub(crate) fn heard(&mut self, offset: u64) {
        if self.is_quiet {
            self.is_quiet = false;
            // Between what was read and this there is nothing that matches.
            if offset - 1 > self.ledger.read() {
                self.ledger.pass(offset - 1);
            }
        }
    }

    /// Whether something is being read of which it is known that members want it. What else comes next may be of no concern to
    /// the queue for gigabytes; what is found there waits in `ahead` until there is room.
    pub(crate) fn reads_to_give(&self) -> bool {
        match self.reading {
            Some(Purpose::Again(_)) => true,
            // It was read before, and let go of.
            Some(Purpose::New) => self.has_more,
            Some(Purpose::Spent(_)) | None => false,
        }
    }

    /// Whether there is work, and nothing but room is missing.
    pub(crate) fn has_work(&self, now_us: u64) -> bool {
        if self.reading.is_some() || self.broken.is_some() || self.retry_us > now_us {
            return false;
        }
        self.ledger.next_again(0).is_some() || (self.ledger.room() > 0 && self.has_more)
    }
}

/// Whether a reading ends a queue.
pub(crate) fn broken_by(reading: &Reading) -> Option<Broken> {
    match *reading {
        Reading::Gone { first } => Some(Broken::Gone { first }),
        Reading::Damaged { first, last } => Some(Broken::Damaged { first, last }),
        _ => None,
    }
}
