//! From what segments hold to what a partition is: which offsets are held where, which are missing, which never were.
//!
//! Segments are taken in the order in which they were written. Each says, by its first batch, how far the partition was
//! before it ([`Base`]): what lies between that and what is held was lost, and what lies between its `last` and its `next`
//! never was. What retention removed was written before it went: that is no loss, and is not held either, though a segment
//! that other cores still needed has it. Only where nothing older is held what is missing is taken to be removed without
//! being told so. Where a log wrote events again after a failed write, two segments hold the same offsets, and the
//! later one counts.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::meta::PartitionEnd;
use super::recovered::{HeldExtent, Hole, HoleCause, RecoveredCursor, RecoveredPartition};
use super::segment::Part;
use crate::log::{
    CursorName,
    disk::SegmentId,
    format::{Base, CursorEntry, EVENT_BYTES_MIN, offset_after_crash},
};

/// Offsets that one segment holds.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: u64,
    last: u64,
    /// Which of the parts.
    part: usize,
}

/// A partition while its segments are read.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// Ascending, without overlap.
    pieces: Vec<Piece>,
    parts: Vec<(SegmentId, Part)>,
    /// Intervals, each with its first and last offset: never were.
    never: Vec<(u64, u64)>,
    /// Retention removed them, in no order.
    let_go: Vec<(u64, u64)>,
    /// The last offset that was removed before anything that is held.
    removed: Option<u64>,
    /// The last offset that some event had.
    last: u64,
    /// All before this one may have been given away.
    next: u64,
    /// What was taken last may have held more than is known.
    has_lost_end: bool,
    cursors: HashMap<Arc<CursorName>, (CursorEntry, SegmentId), RandomState>,
}

impl Joining {
    /// Takes what retention removed, whoever says so.
    pub(super) fn take_let_go(&mut self, range: (u64, u64)) {
        self.let_go.push(range);
    }

    /// Takes what the next segment says about where it begins.
    pub(super) fn take_base(&mut self, base: Base) {
        if self.removed.is_none() && self.pieces.is_empty() {
            self.removed = Some(base.last);
        }
        // Whoever wrote this knew what came before it.
        self.has_lost_end = false;
        if base.next > base.last.saturating_add(1) {
            self.never.push((base.last + 1, base.next - 1));
        }
        self.last = self.last.max(base.last);
        self.next = self.next.max(base.next);
    }

    /// The segment whose base was just taken may have held more than it says.
    pub(super) fn lose_end(&mut self) {
        self.has_lost_end = true;
    }

    /// Takes what the next segment holds.
    pub(super) fn take_part(&mut self, segment: SegmentId, part: Part) {
        let index = self.parts.len();
        for &(first, last) in &part.ranges {
            self.insert(Piece {
                first,
                last,
                part: index,
            });
            self.last = self.last.max(last);
        }
        self.parts.push((segment, part));
    }

    /// Some events had these offsets, whether they are held or not; said before [`Self::take_part`] of their segment.
    pub(super) fn promise(&mut self, (first, last): (u64, u64)) {
        if self.removed.is_none() && self.pieces.is_empty() {
            // What its segment said about what came before is lost.
            self.removed = Some(first.saturating_sub(1));
        }
        self.last = self.last.max(last);
    }

    pub(super) fn take_cursor(&mut self, cursor: CursorEntry, segment: SegmentId) {
        match cursor.state {
            Some(_) => drop(self.cursors.insert(cursor.name.clone(), (cursor, segment))),
            None => drop(self.cursors.remove(&cursor.name)),
        }
    }

    /// What an earlier recovery knew.
    pub(super) fn take_end(&mut self, end: PartitionEnd) {
        if self.removed.is_none() && self.pieces.is_empty() {
            // Nothing is left of it, not even a segment that says where it was.
            self.removed = Some(end.last.max(self.last));
        }
        self.last = self.last.max(end.last);
        self.next = self.next.max(end.next);
    }

    /// The partition. `is_clean`: the log that had it was stopped in good order; if not, `lost_bytes` of its stream are
    /// damaged so that nobody knows which offsets they held.
    pub(super) fn finish(mut self, partition: u16, is_clean: bool, lost_bytes: u64) -> RecoveredPartition {
        let given = self.last.max(self.next.saturating_sub(1));
        let next = if is_clean {
            given.saturating_add(1)
        } else {
            offset_after_crash(given.saturating_add(lost_bytes / EVENT_BYTES_MIN))
        };
        if self.has_lost_end && !is_clean {
            // Any of these may have been an event's: whoever comes by is told, now and later.
            self.last = next - 1;
        }
        let let_go = self.leave_removed();
        let removed = self
            .removed
            .unwrap_or_else(|| self.pieces.first().map_or(self.last, |piece| piece.first - 1))
            .max(let_go);
        let holes = self.holes(removed);
        let extents = self.extents();
        let cursors = self.cursors.into_values();
        let mut cursors: Vec<RecoveredCursor> = cursors
            .map(|(entry, segment)| RecoveredCursor { entry, segment })
            .collect();
        cursors.sort_by(|one, other| one.entry.name.cmp(&other.entry.name));
        RecoveredPartition {
            partition,
            last: self.last,
            removed,
            let_go,
            next,
            extents,
            holes,
            cursors,
            table_damage: None,
            carried_damage: Vec::new(),
            cursors_lost: None,
            rows: Vec::new(),
        }
    }

    /// Forgets the pieces, or parts of them, that retention removed; the end of what it removed from the beginning on.
    fn leave_removed(&mut self) -> u64 {
        self.let_go = without_overlap(std::mem::take(&mut self.let_go));
        for &(first, last) in &self.let_go {
            self.last = self.last.max(last);
            let clipped = |piece: Piece| {
                let before = Piece {
                    last: piece.last.min(first - 1),
                    ..piece
                };
                let behind = Piece {
                    first: piece.first.max(last.saturating_add(1)),
                    ..piece
                };
                [before, behind]
                    .into_iter()
                    .filter(|part| part.first <= part.last)
            };
            self.pieces = std::mem::take(&mut self.pieces)
                .into_iter()
                .flat_map(clipped)
                .collect();
        }
        let from_begin = self.let_go.iter().filter(|(first, _)| *first == 1);
        from_begin.map(|(_, last)| *last).max().unwrap_or(0)
    }

    /// Puts a piece where it belongs; what older ones hold of its offsets does not count any more.
    fn insert(&mut self, piece: Piece) {
        let begin = self.pieces.partition_point(|held| held.last < piece.first);
        let end = self.pieces.partition_point(|held| held.first <= piece.last);
        let before = self.pieces[begin..end].first().copied();
        let behind = self.pieces[begin..end].last().copied();
        let before = before.filter(|held| held.first < piece.first).map(|held| Piece {
            last: piece.first - 1,
            ..held
        });
        let behind = behind.filter(|held| held.last > piece.last).map(|held| Piece {
            first: piece.last + 1,
            ..held
        });
        let new = before.into_iter().chain([piece]).chain(behind);
        self.pieces.splice(begin..end, new);
    }

    /// What is neither held nor removed nor never was.
    fn holes(&self, removed: u64) -> Vec<Hole> {
        let mut known: Vec<(u64, u64)> = self
            .pieces
            .iter()
            .map(|piece| (piece.first, piece.last))
            .chain(self.never.iter().copied())
            .collect();
        known.sort_unstable();
        let mut holes = Vec::new();
        let mut next = removed.saturating_add(1);
        for (first, last) in known.into_iter().chain([(self.last.saturating_add(1), u64::MAX)]) {
            if first > next {
                self.split_hole(next, first - 1, &mut holes);
            }
            next = next.max(last.saturating_add(1));
        }
        holes
    }

    /// Says of each part of a hole why it is one.
    fn split_hole(&self, mut first: u64, last: u64, holes: &mut Vec<Hole>) {
        let mut add = |first, last, cause| {
            if first <= last {
                holes.push(Hole { first, last, cause });
            }
        };
        for &(removed_first, removed_last) in &self.let_go {
            let (from, until) = (removed_first.max(first), removed_last.min(last));
            if from <= until {
                add(first, from - 1, HoleCause::Damaged);
                add(from, until, HoleCause::Removed);
                first = until + 1;
            }
        }
        add(first, last, HoleCause::Damaged);
    }

    /// What is held, an extent for all that follows each other in one segment: holes are listed on their own.
    fn extents(&self) -> Vec<HeldExtent> {
        let same_part = |one: &Piece, other: &Piece| one.part == other.part;
        let of_segment = |pieces: &[Piece]| {
            let (segment, part) = &self.parts[pieces[0].part];
            let mut extent = part.extent.clone();
            (extent.first, extent.last) = (pieces[0].first, pieces[pieces.len() - 1].last);
            HeldExtent {
                segment: *segment,
                extent,
            }
        };
        self.pieces.chunk_by(same_part).map(of_segment).collect()
    }
}

/// The same offsets in as few ranges as overlap does not join, ascending. Each segment says anew all that was removed before it:
/// of most partitions that is one range, which grows.
fn without_overlap(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    ranges.dedup_by(|range, before| {
        let overlaps = range.0 <= before.1;
        if overlaps {
            before.1 = before.1.max(range.1);
        }
        overlaps
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_segments_say_again_is_looked_at_once() {
        let growing = (1..=2_000).rev().map(|last| (1, last));
        let apart = [
            (3_000, 3_010),
            (2_500, 2_600),
            (3_005, 3_020),
            (2_500, 2_600),
            (3_021, 3_030),
        ];
        let ranges: Vec<(u64, u64)> = growing.chain(apart).collect();
        let expected = [(1, 2_000), (2_500, 2_600), (3_000, 3_020), (3_021, 3_030)];
        assert_eq!(without_overlap(ranges.clone()), expected);
        assert_eq!(without_overlap(Vec::new()), []);
        let mut joining = Joining::default();
        joining.take_base(Base {
            partition: 0,
            last: 0,
            next: 1,
        });
        ranges.into_iter().for_each(|range| joining.take_let_go(range));
        assert_eq!(joining.leave_removed(), 2_000);
        assert_eq!((&*joining.let_go, joining.last), (&expected[..], 3_030));
    }
}
