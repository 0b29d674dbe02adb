//! The segments that a core looks after, apart from the one that is being written: those of its stream, and of streams of cores
//! that are no more. Oldest first.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::disk::SegmentId;

#[derive(Debug)]
pub(super) struct Segment {
    /// Its length.
    pub(super) bytes: u64,
    /// When its newest event was appended, ms since 1970.
    pub(super) newest_ms: u64,
    /// The partitions of which it holds anything, ascending.
    pub(super) partitions: Vec<u16>,
    /// The rows that were carried on to it.
    pub(super) kept: Vec<(u16, u64)>,
    /// It holds partitions of other cores, which may need it: it stays.
    pub(super) is_shared: bool,
}

#[derive(Debug)]
pub(super) struct Segments {
    all: HashMap<SegmentId, Segment, FixedState>,
    /// Those that may be removed here.
    order: VecDeque<SegmentId>,
    bytes: u64,
    /// Bytes of those that may be removed here.
    removable_bytes: u64,
}

impl Segments {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            all: HashMap::with_hasher(hasher),
            order: VecDeque::new(),
            bytes: 0,
            removable_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of those that may be removed here.
    pub(super) fn removable_bytes(&self) -> u64 {
        self.removable_bytes
    }

    pub(super) fn is_removable(&self, id: SegmentId) -> bool {
        self.all.get(&id).is_some_and(|segment| !segment.is_shared)
    }

    /// Adds the newest one.
    pub(super) fn push(&mut self, id: SegmentId, segment: Segment) {
        self.remove(id);
        self.bytes += segment.bytes;
        if !segment.is_shared {
            self.removable_bytes += segment.bytes;
            self.order.push_back(id);
        }
        self.all.insert(id, segment);
    }

    pub(super) fn get(&self, id: SegmentId) -> Option<&Segment> {
        self.all.get(&id)
    }

    pub(super) fn remove(&mut self, id: SegmentId) {
        if let Some(segment) = self.all.remove(&id) {
            self.bytes -= segment.bytes;
            if !segment.is_shared {
                self.removable_bytes -= segment.bytes;
                self.order.retain(|other| *other != id);
            }
        }
    }

    /// Those that may be removed here, oldest first.
    pub(super) fn removable(&self) -> impl Iterator<Item = (SegmentId, &Segment)> {
        self.order.iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }
}
