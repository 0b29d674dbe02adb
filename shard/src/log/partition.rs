//! One partition: which offsets it has given, which of them readers see, and where they are. O(1) while nothing happens to
//! it, but for the index of what is on the disk; what topics it holds it does not know, but for the retained ones.

use std::collections::VecDeque;

use super::UNSYNCED_OFFSETS_MAX;
use super::disk::SegmentId;
use super::events::{Bounds, Reading};
use super::footer::Extent;
use super::format::{Base, BatchHead, offset_after_crash};
use super::recovery::{CarriedDamage, HeldExtent, Hole, HoleCause};
use super::retained::Retained;
use super::tail::Tail;

/// How much of a segment is read at once, bytes, unless a single stretch of its index is longer.
const READ_BYTES: u64 = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Recovery has said what it holds.
    pub(super) ready: bool,
    /// The last offset that was given.
    pub(super) last: u64,
    /// The last offset that readers see.
    pub(super) committed: u64,
    /// The last offset of an event that is on the disk.
    pub(super) synced: u64,
    /// The first offset of this start of the gateway: behind a crash it is not `synced + 1`.
    pub(super) begin: u64,
    /// The last offset that was held once and is not any more, though nothing older is held.
    pub(super) removed: u64,
    /// So far of them retention removed them: the rest is missing for reasons that nobody knows.
    pub(super) let_go: u64,
    pub(super) tail: Tail,
    /// What is on the disk and where, ascending.
    pub(super) extents: VecDeque<HeldExtent>,
    /// What should be there and is not, ascending.
    pub(super) holes: Vec<Hole>,
    pub(super) retained: Option<Box<Retained>>,
    /// Within these offsets events were damaged that may have been rows of tables, as a start found.
    pub(super) table_damage: Option<(u64, u64)>,
    /// As well: rows that were carried on, and the segment that held them.
    pub(super) carried_damage: Vec<CarriedDamage>,
    /// Records of cursors were lost that had been written by this time, ms since 1970; 0: none were.
    pub(super) cursors_lost_ms: u64,
}

/// How to read on from a position.
#[derive(Debug)]
pub(super) enum Plan {
    /// That is all there is to say.
    Say(Reading),
    /// It is in memory, behind this position.
    Tail { after: u64 },
    /// It is on the disk.
    Disk(Stretch),
    /// It is in this segment, which holds so much of the partition, and where in it is to be read first.
    Index {
        segment: SegmentId,
        first: u64,
        last: u64,
    },
}

/// What a stretch is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Events.
    Events,
    /// The index of a segment: its footer.
    Footer,
    /// As well: all of it, because its footer is damaged.
    Whole,
}

/// A part of a segment that holds, or finds, events of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) what: What,
    pub(super) segment: SegmentId,
    pub(super) at: u64,
    pub(super) bytes: u32,
    /// The first offset that is wanted; it is there, unless there is damage.
    pub(super) first: u64,
    /// The last one that may be taken from there, and is there.
    pub(super) last: u64,
}

impl Partition {
    pub(super) fn bounds(&self) -> Bounds {
        let extent = self.extents.front().map(|held| held.extent.first);
        let hole = self.holes.first().map(|hole| hole.first);
        let first = [extent, hole, self.tail.first()].into_iter().flatten().min();
        Bounds {
            // Memory may still hold some of what was removed: that is gone all the same.
            first: first
                .map_or(self.committed + 1, |first| first.max(self.removed + 1))
                .min(self.committed + 1),
            committed: self.committed,
        }
    }

    /// So many offsets are given and not on the disk.
    pub(super) fn unsynced(&self) -> u64 {
        self.last - self.synced.max(self.begin.saturating_sub(1)).min(self.last)
    }

    /// Whether a start behind a crash gives none of the offsets again that are given now, or will be before anything else is
    /// written, though the disk says no more than where this start began.
    pub(super) fn is_safe_without_base(&self) -> bool {
        let began = self.begin.saturating_sub(1);
        let given = self.synced.max(began).saturating_add(UNSYNCED_OFFSETS_MAX);
        given < offset_after_crash(began)
    }

    /// What a segment that is begun now says about it.
    pub(super) fn base(&self, partition: u16) -> Base {
        Base {
            partition,
            last: self.synced,
            next: self.begin.max(self.synced + 1),
        }
    }

    /// A batch is on the disk.
    pub(super) fn place(&mut self, segment: SegmentId, head: &BatchHead, at: u64) {
        match self.extents.back_mut() {
            Some(held) if held.segment == segment => held.extent.push(head, at),
            _ => self.extents.push_back(HeldExtent {
                segment,
                extent: Extent::begin(head, at),
            }),
        }
        self.synced = head.last();
        if head.class.retain
            && let Some(retained) = &mut self.retained
        {
            retained.place(head.first..=head.last(), segment, at);
        }
    }

    /// What comes behind a position.
    pub(super) fn plan(&self, after: u64, bytes_max: usize) -> Plan {
        if after >= self.committed {
            return Plan::Say(Reading::End);
        }
        if after < self.removed {
            let first = self.bounds().first;
            return Plan::Say(Reading::Gone { first });
        }
        let tail = self.tail.first().unwrap_or(self.committed + 1);
        if after + 1 >= tail {
            return Plan::Tail { after };
        }
        let at = self.extents.partition_point(|held| held.extent.last <= after);
        let held = self.extents.get(at);
        let first = held
            .map_or(tail, |held| held.extent.first.max(after + 1))
            .min(tail);
        let hole = self.hole_behind(after);
        if let Some(hole) = hole.filter(|hole| hole.first <= first) {
            return Plan::Say(match hole.cause {
                HoleCause::Damaged => Reading::Damaged {
                    first: hole.first.max(after + 1),
                    last: hole.last,
                },
                HoleCause::Removed => Reading::Gone { first: hole.last + 1 },
            });
        }
        match held {
            Some(held) if first < tail && held.extent.index.is_empty() => Plan::Index {
                segment: held.segment,
                first: held.extent.first,
                last: held.extent.last,
            },
            Some(held) if first < tail => {
                let until = hole.map_or(u64::MAX, |hole| hole.first - 1);
                let until = until.min(self.committed);
                match stretch(held, first, until, bytes_max) {
                    Some(stretch) => Plan::Disk(stretch),
                    None => Plan::Say(Reading::Failed(format!(
                        "the index of the log's segment {} does not say where offset {first} is",
                        held.segment.name()
                    ))),
                }
            }
            _ if tail <= self.committed => Plan::Tail { after: tail - 1 },
            _ => Plan::Say(Reading::Events {
                stored: Vec::new(),
                until: self.committed,
            }),
        }
    }

    /// Within which offsets something is missing of tables that a start found damaged. What retention has passed since is gone
    /// for everybody.
    pub(super) fn damage_of_tables(&self) -> Option<(u64, u64)> {
        let range = self
            .table_damage
            .map(|(first, last)| (first.max(self.removed.saturating_add(1)), last))
            .filter(|(first, last)| first <= last);
        let carried = self.carried_damage.iter().filter(|lost| !lost.is_over());
        let carried = carried.map(|lost| (lost.offset, lost.offset));
        range
            .into_iter()
            .chain(carried)
            .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
    }

    /// The first range that is missing, or ends, behind a position.
    fn hole_behind(&self, after: u64) -> Option<&Hole> {
        let at = self.holes.partition_point(|hole| hole.last <= after);
        self.holes.get(at)
    }

    /// Remembers that these offsets could not be read; whether that is news.
    pub(super) fn note_damage(&mut self, first: u64, last: u64) -> bool {
        let covers =
            |hole: &Hole| hole.first <= first && last <= hole.last && hole.cause == HoleCause::Damaged;
        if self.hole_behind(first.saturating_sub(1)).is_some_and(covers) {
            return false;
        }
        self.note(first, last, HoleCause::Damaged);
        true
    }

    /// Lets go of a segment that is removed; `gone` hears the offsets it held.
    pub(super) fn leave(&mut self, segment: SegmentId, mut gone: impl FnMut(u64, u64)) {
        let mut left = VecDeque::with_capacity(self.extents.len());
        for held in std::mem::take(&mut self.extents) {
            if held.segment != segment {
                left.push_back(held);
                continue;
            }
            let (first, last) = (held.extent.first, held.extent.last);
            gone(first, last);
            if left.is_empty() {
                self.removed = self.removed.max(last);
                self.let_go = self.let_go.max(last);
            } else {
                // Something older stays.
                self.note(first, last, HoleCause::Removed);
            }
        }
        self.extents = left;
        let next = self.extents.front().map_or(u64::MAX, |held| held.extent.first);
        // What was missing before what is left is gone, too.
        self.removed = self
            .holes
            .iter()
            .filter(|hole| hole.last < next && hole.first <= self.removed + 1)
            .fold(self.removed, |removed, hole| removed.max(hole.last));
        let removed = self.removed;
        self.holes.retain(|hole| hole.last > removed);
    }

    /// Whether so many events stand behind what a segment holds. Offsets do not say it: behind a crash they skip ahead.
    pub(super) fn has_newer(&self, segment: SegmentId, events: u64) -> bool {
        let placed = self.synced.max(self.begin.saturating_sub(1));
        let mut newer = self.committed.saturating_sub(placed);
        for held in self.extents.iter().rev() {
            if newer >= events || held.segment == segment {
                break;
            }
            newer += held.extent.last - held.extent.first + 1;
        }
        newer >= events
    }

    /// What retention removed, as it is written: ranges of offsets.
    pub(super) fn let_go(&self) -> impl Iterator<Item = (u64, u64)> {
        let begin = Some((1, self.let_go)).filter(|(first, last)| first <= last);
        let holes = self.holes.iter().filter(|hole| hole.cause == HoleCause::Removed);
        begin.into_iter().chain(holes.map(|hole| (hole.first, hole.last)))
    }

    /// What would be added to that were this segment removed.
    pub(super) fn would_let_go(&self, segment: SegmentId) -> impl Iterator<Item = (u64, u64)> {
        let mut is_begin = true;
        self.extents.iter().filter_map(move |held| {
            is_begin &= held.segment == segment;
            let first = if is_begin { 1 } else { held.extent.first };
            (held.segment == segment).then_some((first, held.extent.last))
        })
    }

    /// Remembers why these offsets are missing; what was known of them before counts no more.
    fn note(&mut self, first: u64, last: u64, cause: HoleCause) {
        if first > last {
            return;
        }
        let mut new = Hole { first, last, cause };
        let mut holes = Vec::with_capacity(self.holes.len() + 2);
        for hole in self.holes.drain(..) {
            let touches = hole.first <= new.last + 1 && new.first <= hole.last + 1;
            if touches && hole.cause == cause {
                new.first = new.first.min(hole.first);
                new.last = new.last.max(hole.last);
                continue;
            }
            if hole.first < new.first {
                holes.push(Hole {
                    last: hole.last.min(new.first - 1),
                    ..hole
                });
            }
            if hole.last > new.last {
                holes.push(Hole {
                    first: hole.first.max(new.last + 1),
                    ..hole
                });
            }
        }
        holes.push(new);
        holes.sort_unstable_by_key(|hole| hole.first);
        self.holes = holes;
    }

    /// A position before the first event that was appended at this time or later. When what is damaged was appended nobody
    /// knows: where that may have been then, the position is before it.
    pub(super) fn position_at(&self, time_ms: u64) -> u64 {
        let late = self
            .extents
            .iter()
            .position(|held| held.extent.newest_ms >= time_ms);
        let position = self.position_in(late, time_ms);
        // Up to here everything is known to be older.
        let older = match late {
            Some(late) if self.extents[late].extent.oldest_ms < time_ms => position,
            Some(late) => late
                .checked_sub(1)
                .map_or(0, |older| self.extents[older].extent.last),
            None => {
                let on_disk = self.extents.back().map_or(0, |held| held.extent.last);
                on_disk.max(self.tail.last_before(time_ms))
            }
        };
        let damaged = self
            .holes
            .iter()
            .find(|hole| hole.cause == HoleCause::Damaged && hole.last > older && hole.first <= position);
        damaged.map_or(position, |hole| (hole.first.max(older + 1) - 1).max(self.removed))
    }

    /// As [`Partition::position_at`] of what is held: the first extent that is late enough, or the tail.
    fn position_in(&self, late: Option<usize>, time_ms: u64) -> u64 {
        if let Some(HeldExtent { extent, .. }) = late.map(|late| &self.extents[late]) {
            // The entry before the first one that is late enough may end with an event that is, too.
            let entry = extent.index.iter().position(|entry| entry.time_ms >= time_ms);
            let entry = entry.unwrap_or(extent.index.len()).saturating_sub(1);
            let first = extent.index.get(entry).map_or(extent.first, |entry| entry.first);
            return first.max(extent.first) - 1;
        }
        let first = self.tail.first_at(time_ms);
        first.map_or(self.committed, |first| first - 1)
    }
}

fn stretch(held: &HeldExtent, first: u64, until: u64, bytes_max: usize) -> Option<Stretch> {
    let index = &held.extent.index;
    let from = held.extent.entry_of(first)?;
    let begin = index.get(from)?;
    let mut end = begin;
    let mut own_bytes = u64::from(begin.own_bytes);
    let mut next = from + 1;
    while let Some(entry) = index.get(next)
        && entry.first <= until
        && own_bytes < bytes_max as u64
        && entry.end() - begin.at <= READ_BYTES
    {
        own_bytes += u64::from(entry.own_bytes);
        end = entry;
        next += 1;
    }
    let last = index.get(next).map_or(held.extent.last, |entry| entry.first - 1);
    Some(Stretch {
        what: What::Events,
        segment: held.segment,
        at: begin.at,
        bytes: u32::try_from(end.end() - begin.at).ok()?,
        first,
        last: last.min(until).min(held.extent.last),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_without_a_base_gives_no_offset_twice() {
        for began in [0, 7, 1_000_000, 1_900_000, 12_345_678] {
            let next = offset_after_crash(began);
            let mut is_ever_safe = false;
            for given in [0, 1, 90_000, 150_000, 900_000, 1_100_000, 5_000_000] {
                let partition = Partition {
                    begin: began + 1,
                    synced: began + given,
                    ..Partition::default()
                };
                let is_safe = partition.is_safe_without_base();
                assert!(!is_safe || began + given + UNSYNCED_OFFSETS_MAX < next);
                is_ever_safe |= is_safe;
                assert!(!is_safe || given < 1_000_000, "{given} behind {began}");
            }
            assert!(is_ever_safe, "at least when nothing was written");
        }
    }

    #[test]
    fn the_next_range_that_is_missing_is_found_among_many() {
        let mut partition = Partition {
            committed: 10_000,
            ..Partition::default()
        };
        // 6..=8, 16..=18, …, noted from the last to the first.
        for at in (0..100).rev() {
            assert!(partition.note_damage(10 * at + 6, 10 * at + 8));
        }
        assert_eq!(partition.holes.len(), 100);
        assert!(partition.holes.is_sorted_by_key(|hole| hole.first));
        for at in 0..100 {
            let (first, last) = (10 * at + 6, 10 * at + 8);
            for after in [first - 1, first, last - 1] {
                match partition.plan(after, 1) {
                    Plan::Say(Reading::Damaged { first, last: to }) => {
                        assert_eq!((first, to), (after + 1, last));
                    }
                    other => panic!("{after}: {other:?}"),
                }
            }
            assert!(!partition.note_damage(first, last), "it is known");
            assert!(!partition.note_damage(first + 1, last));
        }
        assert!(partition.note_damage(8, 9), "a part of it is news");
    }
}
