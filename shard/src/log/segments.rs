//! The segments of which a core needs anything, apart from the one that is being written: those of its stream, and those that
//! were written with another number of cores and hold something of its partitions. Oldest first.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::disk::SegmentId;
use super::recovery::Claim;

#[derive(Debug)]
pub(super) struct Segment {
    /// Its length.
    pub(super) bytes: u64,
    /// So many of them are batches of events of this core's partitions.
    pub(super) event_bytes: u64,
    /// Where its footer is; `None`: it has none.
    pub(super) footer_at: Option<u64>,
    /// It is not what was written.
    pub(super) is_footer_damaged: bool,
    /// When its newest event was appended, ms since 1970.
    pub(super) newest_ms: u64,
    /// This core's partitions of which it holds anything, ascending.
    pub(super) partitions: Vec<u16>,
    /// The rows that were carried on to it.
    pub(super) kept: Vec<(u16, u64)>,
    /// So far in the order of the stream's runs, what it holds is to be written again before it may go: the disk failed it.
    pub(super) again_until: u64,
    /// What it says first survives power loss.
    pub(super) is_synced: bool,
    /// Something in it could not be read when it was recovered.
    pub(super) is_damaged: bool,
    /// With how many cores it was written.
    pub(super) cores: u16,
    /// This core removes its file, once nobody needs it.
    pub(super) is_keeper: bool,
    pub(super) claim: Claim,
}

#[derive(Debug)]
pub(super) struct Segments {
    all: HashMap<SegmentId, Segment, FixedState>,
    order: VecDeque<SegmentId>,
    /// How many this core looks after, and their bytes.
    kept: (usize, u64),
    event_bytes: u64,
}

impl Segments {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            all: HashMap::with_hasher(hasher),
            order: VecDeque::new(),
            kept: (0, 0),
            event_bytes: 0,
        }
    }

    /// How many this core looks after, and their bytes.
    pub(super) fn kept(&self) -> (usize, u64) {
        self.kept
    }

    /// What they hold of this core's events, bytes.
    pub(super) fn event_bytes(&self) -> u64 {
        self.event_bytes
    }

    /// Adds the newest one.
    pub(super) fn push(&mut self, id: SegmentId, segment: Segment) {
        self.remove(id);
        self.event_bytes += segment.event_bytes;
        if segment.is_keeper {
            self.kept = (self.kept.0 + 1, self.kept.1 + segment.bytes);
        }
        self.order.push_back(id);
        self.all.insert(id, segment);
    }

    pub(super) fn get(&self, id: SegmentId) -> Option<&Segment> {
        self.all.get(&id)
    }

    pub(super) fn footer_is_damaged(&mut self, id: SegmentId) {
        if let Some(segment) = self.all.get_mut(&id) {
            segment.is_footer_damaged = true;
        }
    }

    pub(super) fn remove(&mut self, id: SegmentId) -> Option<Segment> {
        let segment = self.all.remove(&id)?;
        self.event_bytes -= segment.event_bytes;
        if segment.is_keeper {
            self.kept = (self.kept.0 - 1, self.kept.1 - segment.bytes);
        }
        if self.order.front() == Some(&id) {
            self.order.pop_front();
        } else {
            self.order.retain(|other| *other != id);
        }
        Some(segment)
    }

    /// All of them, oldest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        self.order.iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }
}
