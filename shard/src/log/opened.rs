//! Which segments are open to be read, and who waits for one to be. Each core opens what it reads itself; those not read for
//! longest are closed beyond a bound.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::disk::{DiskOp, SegmentId};
use super::events::ReaderId;

/// Open segments of one core, beside those that are being written or read.
pub(super) const OPEN_MAX: usize = 64;

#[derive(Debug)]
struct File {
    is_open: bool,
    /// Being written, or about to be.
    is_pinned: bool,
    /// Reads under way.
    reads: u32,
    /// When it was used last, as [`Opened`] counts.
    used: u64,
    waiting: Vec<ReaderId>,
}

#[derive(Debug)]
pub(super) struct Opened {
    files: HashMap<SegmentId, File, FixedState>,
    /// Counts uses.
    uses: u64,
}

impl Opened {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            files: HashMap::with_hasher(hasher),
            uses: 0,
        }
    }

    /// A segment was made, and is open to be written.
    pub(super) fn created(&mut self, segment: SegmentId) {
        self.files.insert(
            segment,
            File {
                is_open: true,
                is_pinned: true,
                reads: 0,
                used: self.uses,
                waiting: Vec::new(),
            },
        );
    }

    /// A segment is written no more.
    pub(super) fn unpin(&mut self, segment: SegmentId) {
        if let Some(file) = self.files.get_mut(&segment) {
            file.is_pinned = false;
        }
    }

    /// Whether a segment can be read now. If not, this reader is told when.
    pub(super) fn want(&mut self, segment: SegmentId, reader: ReaderId, ops: &mut VecDeque<DiskOp>) -> bool {
        self.uses += 1;
        if let Some(file) = self.files.get_mut(&segment) {
            file.used = self.uses;
            if !file.is_open {
                file.waiting.push(reader);
            }
            return file.is_open;
        }
        self.close_idle(ops);
        ops.push_back(DiskOp::Open { segment });
        self.files.insert(
            segment,
            File {
                is_open: false,
                is_pinned: false,
                reads: 0,
                used: self.uses,
                waiting: vec![reader],
            },
        );
        false
    }

    /// A segment was opened, or could not be; who waited for it.
    pub(super) fn opened(&mut self, segment: SegmentId, is_open: bool) -> Vec<ReaderId> {
        let Some(file) = self.files.get_mut(&segment) else {
            return Vec::new();
        };
        file.is_open = is_open;
        let waiting = std::mem::take(&mut file.waiting);
        if !is_open {
            self.files.remove(&segment);
        }
        waiting
    }

    pub(super) fn begin_read(&mut self, segment: SegmentId) {
        if let Some(file) = self.files.get_mut(&segment) {
            file.reads += 1;
        }
    }

    pub(super) fn end_read(&mut self, segment: SegmentId) {
        if let Some(file) = self.files.get_mut(&segment) {
            file.reads = file.reads.saturating_sub(1);
        }
    }

    /// Whether nothing of a segment is being read or opened, so that it can be removed.
    pub(super) fn is_idle(&self, segment: SegmentId) -> bool {
        self.files
            .get(&segment)
            .is_none_or(|file| file.is_open && !file.is_pinned && file.reads == 0)
    }

    /// Closes a segment, if it is open.
    pub(super) fn close(&mut self, segment: SegmentId, ops: &mut VecDeque<DiskOp>) {
        if self.files.remove(&segment).is_some() {
            ops.push_back(DiskOp::Close { segment });
        }
    }

    /// Makes room for one more.
    fn close_idle(&mut self, ops: &mut VecDeque<DiskOp>) {
        let idle = |file: &File| file.is_open && !file.is_pinned && file.reads == 0;
        while self.files.len() >= OPEN_MAX {
            let files = self.files.iter().filter(|(_, file)| idle(file));
            let Some((&segment, _)) = files.min_by_key(|(_, file)| file.used) else {
                return;
            };
            self.close(segment, ops);
        }
    }
}
