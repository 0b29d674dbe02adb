//! The durable cursors of a core's partitions: in memory, and written with whatever is written next.
//!
//! ```text
//!           set                 written
//!   idle ─────────> due ────────────────────> cooling (CURSOR_MS)
//!     ^              ^    changed meanwhile      │
//!     │              └───────────────────────────┤
//!     └──────────────────────────────────────────┘ unchanged
//! ```
//!
//! A cursor is written at most once every [`CURSOR_MS`], however often it moves. One that is put back or forgotten does not
//! cool: what the disk has of it is wrong.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::disk::SegmentId;
use super::events::{CursorName, CursorState};
use super::format::CursorEntry;

/// A cursor is written no more often than this, and no later than this after it moved, ms.
pub(super) const CURSOR_MS: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Due,
    Cooling,
}

#[derive(Debug)]
struct Cursor {
    partition: u16,
    name: Arc<CursorName>,
    /// `None`: it was forgotten, and that is still to be written.
    state: Option<CursorState>,
    /// When it was used last, ms since 1970.
    used_ms: u64,
    /// As it was written last.
    written_used_ms: u64,
    /// Counts changes.
    version: u32,
    /// The version that was handed to the disk last.
    issued: u32,
    /// The version that the disk has said it has: another than `issued` while a record is under way.
    safe: u32,
    phase: Phase,
    /// The segment with its newest record that is on the disk.
    segment: Option<SegmentId>,
    /// The furthest that it would be after a crash, by that record and by those that are under way; `None`: it might not be
    /// there.
    kept: Option<Mark>,
}

/// What of a record counts after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    acked: u64,
    is_before_table: bool,
}

impl Mark {
    fn of(state: &CursorState) -> Self {
        Self {
            acked: state.acked,
            is_before_table: state.is_before_table(),
        }
    }

    fn furthest(self, other: Self) -> Self {
        Self {
            acked: self.acked.max(other.acked),
            is_before_table: self.is_before_table && other.is_before_table,
        }
    }
}

/// A record that was handed to the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct IssuedCursor {
    slot: u32,
    version: u32,
    mark: Option<Mark>,
}

#[derive(Debug)]
pub(super) struct Cursors {
    hasher: FixedState,
    slots: Slab<Cursor>,
    names: HashTable<u32>,
    due: VecDeque<u32>,
    /// Since when the first of them is due, monotonic, ms.
    due_since_ms: u64,
    /// With the time when each may be written again.
    cooling: VecDeque<(u64, u32)>,
    /// Counts records that the disk has.
    synced: u64,
    /// How many cursors have their newest record in each segment; none in those that are not there.
    newest_in: HashMap<SegmentId, usize, FixedState>,
    /// The segment of which all that had their newest record there were looked at, and are written again since.
    left: Option<SegmentId>,
}

impl Cursors {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            newest_in: HashMap::with_hasher(hasher.clone()),
            left: None,
            hasher,
            slots: Slab::new(),
            names: HashTable::new(),
            due: VecDeque::new(),
            due_since_ms: 0,
            cooling: VecDeque::new(),
            synced: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn find(&self, partition: u16, name: &CursorName) -> Option<u32> {
        let hash = self.hasher.hash_one((partition, name));
        let is_it = |slot: &u32| {
            let cursor = &self.slots[*slot as usize];
            cursor.partition == partition && *cursor.name == *name
        };
        self.names.find(hash, is_it).copied()
    }

    pub(super) fn get(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        let slot = self.find(partition, name)?;
        self.slots[slot as usize].state.as_ref()
    }

    /// Whether who goes on by what a crash leaves of one misses nothing behind this position, nor the table before it, if
    /// that is wanted.
    pub(super) fn is_safe(
        &self,
        partition: u16,
        name: &CursorName,
        (position, wants_table): (u64, bool),
    ) -> bool {
        let Some(slot) = self.find(partition, name) else {
            return false;
        };
        self.slots[slot as usize]
            .kept
            .is_some_and(|mark| mark.acked <= position && (mark.is_before_table || !wants_table))
    }

    /// How many records the disk has taken.
    pub(super) fn synced_count(&self) -> u64 {
        self.synced
    }

    /// Adds one that was found on the disk.
    pub(super) fn recover(&mut self, partition: u16, entry: CursorEntry, segment: SegmentId) {
        if entry.state.is_none() || self.find(partition, &entry.name).is_some() {
            return;
        }
        if self.left == Some(segment) {
            self.left = None;
        }
        *self.newest_in.entry(segment).or_default() += 1;
        self.insert(Cursor {
            partition,
            kept: entry.state.as_ref().map(Mark::of),
            name: entry.name,
            state: entry.state,
            used_ms: entry.used_ms,
            written_used_ms: entry.used_ms,
            version: 0,
            issued: 0,
            safe: 0,
            phase: Phase::Idle,
            segment: Some(segment),
        });
    }

    /// Moves a cursor, or makes it if there is room; whether it was done. `now_ms` is monotonic.
    pub(super) fn set(
        &mut self,
        (partition, name): (u16, &CursorName),
        state: CursorState,
        (now_ms, unix_ms): (u64, u64),
        settings: &super::Settings,
    ) -> bool {
        let slot = match self.find(partition, name) {
            Some(slot) => slot,
            None if self.slots.len() >= settings.cursors_max => return false,
            None => self.insert(Cursor {
                partition,
                name: Arc::new(name.clone()),
                state: None,
                used_ms: unix_ms,
                written_used_ms: 0,
                version: 0,
                issued: 0,
                safe: 0,
                phase: Phase::Idle,
                segment: None,
                kept: None,
            }),
        };
        let cursor = &mut self.slots[slot as usize];
        cursor.used_ms = cursor.used_ms.max(unix_ms);
        // One that is used and does not move must not look forgotten after a restart.
        let is_stale = cursor.used_ms - cursor.written_used_ms.min(cursor.used_ms) > settings.cursor_ms / 8;
        if cursor.state.as_ref() != Some(&state) || is_stale {
            cursor.state = Some(state);
            self.touch(slot, now_ms);
        }
        true
    }

    fn insert(&mut self, cursor: Cursor) -> u32 {
        let hash = self.hasher.hash_one((cursor.partition, &cursor.name));
        let slot = self.slots.insert(cursor) as u32;
        let (hasher, slots) = (&self.hasher, &self.slots);
        self.names.insert_unique(hash, slot, |&slot| {
            let cursor = &slots[slot as usize];
            hasher.hash_one((cursor.partition, &cursor.name))
        });
        slot
    }

    /// Has it written.
    fn touch(&mut self, slot: u32, now_ms: u64) {
        let cursor = &mut self.slots[slot as usize];
        cursor.version = cursor.version.wrapping_add(1);
        if cursor.phase == Phase::Idle {
            self.make_due(slot, now_ms);
        }
    }

    fn make_due(&mut self, slot: u32, now_ms: u64) {
        self.slots[slot as usize].phase = Phase::Due;
        if self.due.is_empty() {
            self.due_since_ms = now_ms;
        }
        self.due.push_back(slot);
    }

    /// Has everything that changed written now.
    pub(super) fn hurry(&mut self, now_ms: u64) {
        self.cooling.iter_mut().for_each(|(cooled_ms, _)| *cooled_ms = 0);
        self.handle_time(now_ms);
    }

    /// Whether some may be written.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When some are to be written even if nothing else is, monotonic, ms.
    pub(super) fn write_by_ms(&self) -> Option<u64> {
        self.has_due().then_some(self.due_since_ms + CURSOR_MS)
    }

    /// When some may be written again, monotonic, ms.
    pub(super) fn cooled_ms(&self) -> Option<u64> {
        self.cooling.front().map(|&(cooled_ms, _)| cooled_ms)
    }

    pub(super) fn handle_time(&mut self, now_ms: u64) {
        while let Some(&(cooled_ms, slot)) = self.cooling.front()
            && cooled_ms <= now_ms
        {
            self.cooling.pop_front();
            let Some(cursor) = self.slots.get_mut(slot as usize) else {
                continue;
            };
            if cursor.phase != Phase::Cooling {
                continue;
            }
            cursor.phase = Phase::Idle;
            if cursor.version != cursor.issued {
                self.make_due(slot, now_ms);
            }
        }
    }

    /// What may be written, by partition: so many bytes, and what comes over them with the last. The rest stays due.
    pub(super) fn take_due(
        &mut self,
        now_ms: u64,
        bytes_max: usize,
    ) -> Vec<(u16, IssuedCursor, CursorEntry)> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(slot) = self.due.pop_front()
        {
            let Some(cursor) = self.slots.get_mut(slot as usize) else {
                continue;
            };
            if cursor.phase != Phase::Due {
                continue;
            }
            cursor.phase = Phase::Cooling;
            cursor.issued = cursor.version;
            cursor.written_used_ms = cursor.used_ms;
            self.cooling.push_back((now_ms + CURSOR_MS, slot));
            let issued = IssuedCursor {
                slot,
                version: cursor.version,
                mark: cursor.state.as_ref().map(Mark::of),
            };
            // From now on a crash may leave the new record as well as the one before.
            cursor.kept = cursor
                .kept
                .zip(issued.mark)
                .map(|(kept, mark)| kept.furthest(mark));
            let entry = CursorEntry {
                name: cursor.name.clone(),
                state: cursor.state.clone(),
                used_ms: cursor.used_ms,
            };
            bytes += entry.bytes_max();
            taken.push((cursor.partition, issued, entry));
        }
        taken.sort_by_key(|(partition, ..)| *partition);
        taken
    }

    /// A record is on the disk.
    pub(super) fn synced(&mut self, issued: IssuedCursor, segment: SegmentId) {
        let Some(cursor) = self.slots.get_mut(issued.slot as usize) else {
            return;
        };
        self.synced += 1;
        cursor.safe = issued.version;
        let before = cursor.segment.replace(segment);
        if before != Some(segment) {
            *self.newest_in.entry(segment).or_default() += 1;
            if let Some(before) = before {
                one_less_in(&mut self.newest_in, before);
            }
        }
        if cursor.issued == issued.version {
            cursor.kept = issued.mark;
        }
        if cursor.state.is_none() && cursor.version == issued.version {
            self.remove(issued.slot);
        }
    }

    /// A record was lost, though the disk may have it: it is due again.
    pub(super) fn lost(&mut self, issued: IssuedCursor, now_ms: u64) {
        let Some(cursor) = self.slots.get_mut(issued.slot as usize) else {
            return;
        };
        if cursor.phase != Phase::Due {
            self.make_due(issued.slot, now_ms);
        }
    }

    /// Has those written again whose newest record is in this segment, which nothing is written to any more; whether there are any.
    /// Those of partitions of other cores are not known here. It may be asked as often as there is something new: all cursors are
    /// looked at once for a segment.
    pub(super) fn leave(&mut self, segment: SegmentId, now_ms: u64) -> bool {
        if !self.has_any_in(segment) {
            return false;
        }
        if self.left.replace(segment) != Some(segment) {
            let there: Vec<u32> = self
                .slots
                .iter()
                .filter(|(_, cursor)| cursor.segment == Some(segment))
                .map(|(slot, _)| slot as u32)
                .collect();
            for slot in there {
                let cursor = &self.slots[slot as usize];
                // A record that is due or under way comes behind this segment; one that gets lost is due again.
                if cursor.phase != Phase::Due && cursor.safe == cursor.issued {
                    self.touch(slot, now_ms);
                }
            }
        }
        true
    }

    /// Whether this segment has the newest record of any.
    pub(super) fn has_any_in(&self, segment: SegmentId) -> bool {
        self.newest_in.contains_key(&segment)
    }

    /// Has one be what it was before it was moved or made (`None`: it was not there). That may be written at once, however
    /// short a time ago the move was.
    pub(super) fn put_back(
        &mut self,
        (partition, name): (u16, &CursorName),
        before: Option<CursorState>,
        now_ms: u64,
    ) {
        let Some(slot) = self.find(partition, name) else {
            return;
        };
        let cursor = &mut self.slots[slot as usize];
        if cursor.state != before {
            cursor.state = before;
            self.touch(slot, now_ms);
        }
        let cursor = &self.slots[slot as usize];
        if cursor.phase == Phase::Cooling && cursor.version != cursor.issued {
            self.make_due(slot, now_ms);
        }
    }

    /// Forgets those that nobody used since this time, ms since 1970.
    pub(super) fn expire(&mut self, before_ms: u64, now_ms: u64) {
        let old: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, cursor)| cursor.state.is_some() && cursor.used_ms < before_ms)
            .map(|(slot, _)| slot as u32)
            .collect();
        for slot in old {
            self.slots[slot as usize].state = None;
            self.touch(slot, now_ms);
        }
    }

    fn remove(&mut self, slot: u32) {
        let cursor = self.slots.remove(slot as usize);
        if let Some(segment) = cursor.segment {
            one_less_in(&mut self.newest_in, segment);
        }
        let hash = self.hasher.hash_one((cursor.partition, &cursor.name));
        if let Ok(entry) = self.names.find_entry(hash, |&known| known == slot) {
            entry.remove();
        }
    }
}

/// One cursor less has its newest record in a segment.
fn one_less_in(newest_in: &mut HashMap<SegmentId, usize, FixedState>, segment: SegmentId) {
    if let Some(count) = newest_in.get_mut(&segment) {
        *count -= 1;
        if *count == 0 {
            newest_in.remove(&segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Settings;

    const SEGMENT: SegmentId = SegmentId { core: 0, number: 1 };

    fn name() -> CursorName {
        CursorName {
            principal: "".into(),
            name: "books".into(),
            pattern: ">".into(),
            group: "".into(),
        }
    }

    fn set(cursors: &mut Cursors, acked: u64, now_ms: u64) {
        let state = CursorState::up_to(acked);
        assert!(cursors.set((1, &name()), state, (now_ms, now_ms), &Settings::default()));
    }

    fn issue(cursors: &mut Cursors, now_ms: u64) -> IssuedCursor {
        cursors.handle_time(now_ms);
        cursors.take_due(now_ms, usize::MAX).pop().expect("it is due").1
    }

    #[test]
    fn what_is_under_way_counts_as_what_a_crash_may_leave() {
        let mut cursors = Cursors::new(FixedState::default());
        let kept = |cursors: &Cursors| {
            let slot = cursors.find(1, &name())?;
            Some(cursors.slots[slot as usize].kept?.acked)
        };
        set(&mut cursors, 5, 0);
        let made = issue(&mut cursors, 0);
        assert_eq!(kept(&cursors), None);
        cursors.synced(made, SEGMENT);
        assert_eq!(kept(&cursors), Some(5));

        cursors.put_back((1, &name()), None, 1);
        let forgotten = issue(&mut cursors, 1);
        set(&mut cursors, 5, 301);
        assert_eq!(kept(&cursors), None, "it is as good as forgotten");
        cursors.synced(forgotten, SEGMENT);
        assert_eq!(kept(&cursors), None);
        let again = issue(&mut cursors, 600);
        cursors.synced(again, SEGMENT);
        assert_eq!(kept(&cursors), Some(5));

        set(&mut cursors, 9, 601);
        let on = issue(&mut cursors, 900);
        set(&mut cursors, 3, 901);
        assert_eq!(kept(&cursors), Some(9), "it may be that far by now");
        let back = issue(&mut cursors, 1_200);
        cursors.synced(on, SEGMENT);
        assert_eq!(kept(&cursors), Some(9));
        cursors.synced(back, SEGMENT);
        assert_eq!(kept(&cursors), Some(3));
    }

    #[test]
    fn a_record_that_was_lost_may_be_there_all_the_same() {
        let mut cursors = Cursors::new(FixedState::default());
        set(&mut cursors, 100, 0);
        let first = issue(&mut cursors, 0);
        cursors.synced(first, SEGMENT);
        set(&mut cursors, 500, 1);
        assert!(
            cursors.is_safe(1, &name(), (200, false)),
            "it is not written before it is handed to the disk"
        );
        let second = issue(&mut cursors, 300);
        cursors.lost(second, 301);
        set(&mut cursors, 200, 301);
        assert!(!cursors.is_safe(1, &name(), (200, false)));
        let third = issue(&mut cursors, 600);
        assert!(!cursors.is_safe(1, &name(), (200, false)));
        cursors.synced(third, SEGMENT);
        assert!(cursors.is_safe(1, &name(), (200, false)));
    }

    #[test]
    fn a_place_before_a_table_is_safe_when_the_table_would_come_again() {
        let mut cursors = Cursors::new(FixedState::default());
        let put = |cursors: &mut Cursors, state, now_ms| {
            assert!(cursors.set((1, &name()), state, (now_ms, now_ms), &Settings::default()));
        };
        let is_safe = |cursors: &Cursors| {
            assert!(cursors.is_safe(1, &name(), (100, false)));
            cursors.is_safe(1, &name(), (100, true))
        };
        put(&mut cursors, CursorState::up_to(100), 0);
        let handled = issue(&mut cursors, 0);
        cursors.synced(handled, SEGMENT);
        put(&mut cursors, CursorState::before_table(100), 1);
        assert!(!is_safe(&cursors));
        let before = issue(&mut cursors, 300);
        assert!(!is_safe(&cursors));
        cursors.synced(before, SEGMENT);
        assert!(is_safe(&cursors));
        put(&mut cursors, CursorState::up_to(100), 301);
        let handled = issue(&mut cursors, 600);
        put(&mut cursors, CursorState::before_table(100), 601);
        assert!(!is_safe(&cursors), "a crash may leave that it was handled");
        cursors.synced(handled, SEGMENT);
        assert!(!is_safe(&cursors));
    }

    #[test]
    fn what_is_put_back_does_not_cool() {
        let mut cursors = Cursors::new(FixedState::default());
        set(&mut cursors, 500, 0);
        let made = issue(&mut cursors, 0);
        cursors.synced(made, SEGMENT);
        set(&mut cursors, 900, 300);
        let moved = issue(&mut cursors, 300);
        set(&mut cursors, 901, 301);
        assert!(!cursors.has_due(), "it cools");
        cursors.put_back((1, &name()), Some(CursorState::up_to(500)), 301);
        let back = issue(&mut cursors, 301);
        cursors.synced(moved, SEGMENT);
        cursors.synced(back, SEGMENT);
        assert!(cursors.is_safe(1, &name(), (500, false)));
        // What was changed before, and cools, is not what is put back to, but has to be written as well.
        set(&mut cursors, 400, 302);
        assert!(!cursors.has_due());
        cursors.put_back((1, &name()), Some(CursorState::up_to(400)), 302);
        issue(&mut cursors, 302);
        cursors.put_back((1, &name()), None, 303);
        let gone = issue(&mut cursors, 303);
        cursors.synced(gone, SEGMENT);
        assert_eq!(cursors.len(), 0);
        cursors.handle_time(1_000);
        assert!(!cursors.has_due());
    }

    const NEXT: SegmentId = SegmentId { core: 0, number: 2 };

    #[test]
    fn a_write_takes_some_and_the_rest_stays_due() {
        let mut cursors = Cursors::new(FixedState::default());
        let settings = Settings::default();
        for partition in [3, 1, 2] {
            let state = CursorState::up_to(5);
            assert!(cursors.set((partition, &name()), state, (0, 0), &settings));
        }
        let mut partitions = Vec::new();
        while cursors.has_due() {
            let taken = cursors.take_due(0, 1);
            assert_eq!(taken.len(), 1, "one at least, whatever the bound");
            partitions.extend(taken.iter().map(|(partition, ..)| *partition));
            assert_eq!(cursors.write_by_ms().is_some(), partitions.len() < 3);
        }
        assert_eq!(partitions, [3, 1, 2], "who waits for longest first");
    }

    #[test]
    fn those_in_a_segment_that_goes_are_written_once_more_and_no_oftener() {
        let mut cursors = Cursors::new(FixedState::default());
        set(&mut cursors, 5, 0);
        let first = issue(&mut cursors, 0);
        cursors.synced(first, SEGMENT);
        assert!(cursors.has_any_in(SEGMENT) && !cursors.has_any_in(NEXT));
        // It cools, and nothing is under way.
        assert!(cursors.leave(SEGMENT, 100));
        assert!(!cursors.has_due());
        cursors.handle_time(200);
        assert!(cursors.has_due(), "it is not asked for a second time");
        let again = issue(&mut cursors, 200);
        // The disk takes its time: that record leaves the segment, there is no need of another one.
        for now_ms in [300, 500, 900] {
            cursors.handle_time(now_ms);
            assert!(cursors.leave(SEGMENT, now_ms));
            assert!(!cursors.has_due());
        }
        // It is lost, and written to another segment.
        cursors.lost(again, 900);
        assert!(cursors.leave(SEGMENT, 900));
        let third = issue(&mut cursors, 900);
        cursors.synced(third, NEXT);
        assert!(!cursors.leave(SEGMENT, 901) && !cursors.has_any_in(SEGMENT));
        assert!(cursors.has_any_in(NEXT));
        // Forgotten, it is in none.
        cursors.put_back((1, &name()), None, 901);
        let gone = issue(&mut cursors, 1_200);
        cursors.synced(gone, NEXT);
        assert_eq!((cursors.len(), cursors.newest_in.len()), (0, 0));
    }

    #[test]
    fn one_under_way_when_its_segment_is_to_go_is_not_written_twice() {
        let mut cursors = Cursors::new(FixedState::default());
        set(&mut cursors, 5, 0);
        let first = issue(&mut cursors, 0);
        cursors.synced(first, SEGMENT);
        set(&mut cursors, 6, 300);
        let second = issue(&mut cursors, 300);
        assert!(cursors.leave(SEGMENT, 301));
        cursors.synced(second, NEXT);
        assert!(!cursors.leave(SEGMENT, 302));
        cursors.handle_time(900);
        assert!(!cursors.has_due());
    }
}
