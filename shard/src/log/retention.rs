//! Retention: which segment goes next, and what of it lives on.
//!
//! ```text
//!   too old, too many bytes, too many events ──> its current rows: read, carried on ──┐
//!                                                its current cursors: written again ──┴─> safe? noted ─> safe? removed
//! ```
//!
//! What goes is noted in a later segment first, so that a recovery tells what retention removed from what was lost, and does
//! not serve it again where the file had to stay. That segment also says where the partitions stand: were nothing left that
//! does, offsets would be given twice.
//!
//! One segment at a time, always a stream's oldest. A row that was carried on keeps its offset, and is read from where it is
//! now; events that are not retained are gone, and readers that come for them are told so. A segment of a start with another
//! number of cores may hold partitions of several: each does all this for its own and gives up its claim, and the file goes
//! with the last one.

use std::collections::VecDeque;

use super::Log;
use super::disk::{DiskFault, DiskOp, SegmentId};
use super::events::Reading;
use super::footer::Extent;
use super::format::{Kept, Removed};
use super::partition::Partition;
use super::reading::{CARRIER, ROWS_BYTES};
use super::recovery::Claim;
use super::segments::Segment;
use super::stream::{Ahead, CarriedBatch, Trouble};

/// How often it is looked whether a segment goes, ms; when one is full as well.
const LOOK_MS: u64 = 10_000;
/// So many ids are forgotten at one look, where nobody publishes: some ten ms of work. What four million of them take together would
/// be too long a pause for everybody else.
const IDS_EXPIRED_AT_ONCE: usize = 256 * 1024;
/// How often unused cursors are looked for, ms.
const CURSORS_LOOK_MS: u64 = 60_000;
/// How many of the oldest segments are looked at: others stand behind ones that may not be removed here.
const LOOKED_AT: usize = 256;
/// How many rows are asked for at once.
const ROWS_AT_ONCE: usize = 4096;

/// A segment that goes.
#[derive(Debug)]
struct Removal {
    segment: SegmentId,
    /// What is still to be carried on, by partition and offset.
    rows: VecDeque<(u16, u64)>,
    is_reading: bool,
    /// Batches that are not safe yet.
    outstanding: usize,
    /// Which of the stream's removals it is, once that was asked to be written.
    noted: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Retention {
    removal: Option<Removal>,
    /// Segments that this core needs no more, and others may, oldest first; and whether they are of this number of cores.
    given_up: VecDeque<(SegmentId, Claim, bool)>,
    /// Segments that are gone but for their files, which could not be removed: tried again at the next look.
    left_over: Vec<SegmentId>,
    look_ms: u64,
    cursors_look_ms: u64,
    /// Ever: segments removed.
    pub(super) removed: u64,
}

impl Retention {
    /// When to look again, monotonic, ms.
    pub(super) fn next_ms(&self) -> u64 {
        self.look_ms
    }
}

impl Log {
    /// Has it looked at once whether a segment goes.
    pub(super) fn look_soon(&mut self) {
        self.retention.look_ms = 0;
    }

    pub(super) fn look_after_retention(&mut self) {
        let now_ms = self.now_ms();
        let Some(settings) = self.settings.clone() else {
            return;
        };
        if now_ms < self.retention.look_ms || self.stopping || self.stream.next_number == 0 {
            return;
        }
        self.retention.look_ms = now_ms + LOOK_MS;
        let before_ms = self.unix_ms.saturating_sub(settings.once_ms.into());
        self.once.expire(before_ms, IDS_EXPIRED_AT_ONCE);
        if now_ms >= self.retention.cursors_look_ms {
            self.retention.cursors_look_ms = now_ms + CURSORS_LOOK_MS;
            let before_ms = self.unix_ms.saturating_sub(settings.cursor_ms);
            self.cursors.expire(before_ms, now_ms);
        }
        self.seal_old(&settings);
        if self.retention.removal.is_none()
            && let Some(segment) = self.next_to_go(&settings)
        {
            self.retention.removal = Some(Removal {
                segment,
                rows: self.rows_of(segment),
                is_reading: false,
                outstanding: 0,
                noted: None,
            });
        }
        self.carry_on();
        self.remove_free();
        for id in std::mem::take(&mut self.retention.left_over) {
            self.remove_file(id);
        }
    }

    /// Has the current segment sealed once it is so old that what it holds would outlive its time by much.
    fn seal_old(&mut self, settings: &super::Settings) {
        if settings.retain_ms > 0
            && let Some(current) = &mut self.stream.current
            && current.at > 0
            && current.head.created_ms.saturating_add(settings.retain_ms / 8) < self.unix_ms
        {
            // Not before there is another one: on a full disk what lives longer is carried on to this one.
            current.is_old = true;
            current.is_full |= matches!(self.stream.ahead, Ahead::Ready(_));
        }
    }

    fn next_to_go(&self, settings: &super::Settings) -> Option<SegmentId> {
        let mut streams: Vec<u16> = Vec::new();
        for (id, segment) in self.segments.by_age().take(LOOKED_AT) {
            // Of a stream always the oldest: a recovery takes what is missing in its middle for damage.
            if streams.contains(&id.core) {
                continue;
            }
            streams.push(id.core);
            // One of carried rows alone would only be written again: it goes when what stands behind it is to go. So does one
            // of which nothing can be read: a disk may give tomorrow what it does not give today.
            let next = || {
                let behind = self.segments.by_age().skip_while(|(other, _)| *other != id);
                let mut of_stream = behind.filter(|(other, _)| other.core == id.core);
                of_stream.find(|(_, other)| other.event_bytes > 0)
            };
            let is_due = match segment.event_bytes {
                0 if !segment.partitions.is_empty() || segment.is_damaged => {
                    let is_due = |(id, segment)| self.is_to_go(id, segment, settings);
                    self.is_old(segment, settings) || next().is_some_and(is_due)
                }
                _ => self.is_to_go(id, segment, settings),
            };
            let is_needed = segment.partitions.is_empty() && self.is_newest(id);
            if is_due && !is_needed && self.is_oldest(id, segment) && self.can_go(id, segment) {
                return Some(id);
            }
        }
        None
    }

    fn is_old(&self, segment: &Segment, settings: &super::Settings) -> bool {
        settings.retain_ms > 0 && segment.newest_ms.saturating_add(settings.retain_ms) < self.unix_ms
    }

    /// Whether a segment holds the oldest of all its partitions.
    fn is_oldest(&self, id: SegmentId, segment: &Segment) -> bool {
        segment.partitions.iter().all(|&number| {
            let Some(partition) = self.partition(number) else {
                return true;
            };
            let is_front = partition.extents.front().is_none_or(|held| held.segment == id);
            is_front || !partition.extents.iter().any(|held| held.segment == id)
        })
    }

    /// While nothing can be written nothing can be carried on: what is to live on keeps its segment then. All others go, or
    /// a full disk would stay full; but not one that was given up while what it holds is nowhere else on the disk.
    fn can_go(&self, id: SegmentId, segment: &Segment) -> bool {
        if segment.again_until > self.order.reached().synced {
            return false;
        }
        self.stream.trouble.is_none() || (!self.cursors.has_any_in(id) && self.rows_of(id).is_empty())
    }

    fn is_to_go(&self, id: SegmentId, segment: &Segment, settings: &super::Settings) -> bool {
        let extents = || {
            let partitions = segment
                .partitions
                .iter()
                .filter_map(|&number| self.partition(number));
            partitions.filter_map(|partition| {
                let held = partition.extents.iter().rfind(|held| held.segment == id)?;
                Some((partition, &held.extent))
            })
        };
        // A recovery reads them back from there: without them an event that is sent again would be stored again.
        let once_since_ms = self.unix_ms.saturating_sub(settings.once_ms.into());
        if extents().any(|(_, extent)| extent.once_newest_ms > once_since_ms) {
            return false;
        }
        // What is carried on does not count: all of it might be more, and would be written again without end.
        let current = self.stream.current.as_ref();
        let event_bytes = self.segments.event_bytes() + current.map_or(0, |current| current.event_bytes);
        let is_too_much = settings.retain_bytes > 0 && event_bytes > settings.retain_bytes;
        let has_newer =
            |(partition, _): (&Partition, &Extent)| partition.has_newer(id, settings.retain_events);
        let is_passed = settings.retain_events > 0 && extents().next().is_some() && extents().all(has_newer);
        // What a crash or a quiet start left.
        let is_empty = segment.partitions.is_empty() && !segment.is_damaged;
        self.is_old(segment, settings) || is_too_much || is_passed || is_empty
    }

    /// The current rows that a segment holds, and the removals that have to live on.
    fn rows_of(&self, id: SegmentId) -> VecDeque<(u16, u64)> {
        let mut rows = Vec::new();
        let Some(segment) = self.segments.get(id) else {
            return VecDeque::new();
        };
        for &number in &segment.partitions {
            let Some(partition) = self.partition(number) else {
                continue;
            };
            let Some(retained) = &partition.retained else {
                continue;
            };
            for held in partition.extents.iter().filter(|held| held.segment == id) {
                for (offset, row) in retained.range(held.extent.first..=held.extent.last) {
                    let is_here = row.place.is_some_and(|place| place.segment == id);
                    if is_here && !row.is_damaged && (!row.is_removal || row.outlives_segment) {
                        rows.push((number, offset));
                    }
                }
            }
        }
        for &(number, offset) in &segment.kept {
            let retained = self
                .partition(number)
                .and_then(|partition| partition.retained.as_ref());
            let row = retained.and_then(|retained| retained.get(offset));
            let row = row.filter(|row| !row.is_damaged);
            if row
                .and_then(|row| row.place)
                .is_some_and(|place| place.segment == id)
            {
                rows.push((number, offset));
            }
        }
        rows.sort_unstable();
        rows.dedup();
        rows.into()
    }

    /// Does what can be done now for the segment that goes.
    pub(super) fn carry_on(&mut self) {
        loop {
            let Some(removal) = &mut self.retention.removal else {
                return;
            };
            if removal.is_reading || removal.outstanding > 0 || self.stopping {
                return;
            }
            let Some(&(number, _)) = removal.rows.front() else {
                break;
            };
            let of_one = removal.rows.iter().take_while(|(other, _)| *other == number);
            let offsets: Vec<u64> = of_one.map(|(_, offset)| *offset).take(ROWS_AT_ONCE).collect();
            removal.is_reading = true;
            match self.begin_rows(CARRIER, number, &offsets, true) {
                Reading::Later => return,
                reading => self.take_carried(reading),
            }
        }
        self.remove_segment();
    }

    /// Whether there is a retained event that can be read, as far as is known.
    fn is_row(&self, partition: u16, offset: u64) -> bool {
        let retained = self
            .partition(partition)
            .and_then(|partition| partition.retained.as_ref());
        let row = retained.and_then(|retained| retained.get(offset));
        row.is_some_and(|row| !row.is_damaged)
    }

    /// What was to be carried on was read.
    pub(super) fn carry_read(&mut self, reading: Reading) {
        self.take_carried(reading);
        self.carry_on();
    }

    fn take_carried(&mut self, reading: Reading) {
        let Some(removal) = &mut self.retention.removal else {
            return;
        };
        removal.is_reading = false;
        let Some(&(partition, _)) = removal.rows.front() else {
            return;
        };
        let is_damaged = matches!(reading, Reading::Damaged { last, .. } if !self.is_row(partition, last));
        let (at, now_ms) = (self.index(partition), self.unix_ms);
        let (Some(removal), Some(at)) = (&mut self.retention.removal, at) else {
            return;
        };
        let (stored, until) = match reading {
            Reading::Events { stored, until } => (stored, until),
            // It stays in the table as what is missing of it.
            Reading::Damaged { last, .. } if is_damaged => (Vec::new(), last),
            _ => {
                // Nothing is removed that could not be carried on: tried again later, from the beginning.
                self.retention.removal = None;
                return;
            }
        };
        while removal
            .rows
            .front()
            .is_some_and(|(number, offset)| *number == partition && *offset <= until)
        {
            removal.rows.pop_front();
        }
        let retained = (self.partitions.get(at)).and_then(|partition| partition.retained.as_ref());
        let is_last = |offset| {
            retained
                .and_then(|retained| retained.get(offset))
                .is_some_and(|row| !row.outlives_segment)
        };
        let mut expired = Vec::new();
        let mut batches: Vec<Vec<Kept>> = Vec::new();
        let mut bytes = 0;
        for run in &stored {
            for (at, offset) in run.offsets().enumerate() {
                let event = run.events.bytes.slice_ref(run.events.get(at));
                if run.has_expired(&event, now_ms) && is_last(offset) {
                    expired.push(offset);
                    continue;
                }
                bytes += event.len();
                // One that is large stands alone: together they might be more than a batch may be.
                if batches.is_empty() || bytes > 2 * ROWS_BYTES {
                    batches.push(Vec::new());
                    bytes = event.len();
                }
                if let Some(batch) = batches.last_mut() {
                    batch.push(Kept {
                        offset,
                        time_ms: run.time_ms,
                        event,
                    });
                }
            }
        }
        // Gone like what was removed, unless an older event of its key would come back.
        if let Some(retained) = &mut self.partitions[at].retained {
            for offset in expired {
                self.rows -= usize::from(retained.remove(offset).is_some());
            }
        }
        removal.outstanding += batches.len();
        let carried = batches.into_iter().map(|rows| CarriedBatch {
            partition,
            rows,
            at: 0,
        });
        self.stream.carried.extend(carried);
    }

    /// A batch of carried rows is safe.
    pub(super) fn carried_is_safe(&mut self) {
        if let Some(removal) = &mut self.retention.removal {
            removal.outstanding = removal.outstanding.saturating_sub(1);
        }
    }

    /// Whether a segment of this start is the last that says where this core's partitions stand.
    fn is_newest(&self, id: SegmentId) -> bool {
        let is_later = |(other, segment): (SegmentId, &Segment)| {
            other.core == id.core && other.number > id.number && segment.is_synced
        };
        id.core == self.core
            && id.number >= self.stream.first_number
            && self
                .stream
                .current
                .as_ref()
                .is_none_or(|current| current.synced == 0)
            && !self.segments.by_age().any(is_later)
    }

    /// Has it written what goes with a segment; whether that is safe.
    fn is_noted(&mut self, id: SegmentId) -> bool {
        let is_newest = self.is_newest(id);
        let noted = self.retention.removal.as_ref().and_then(|removal| removal.noted);
        let noted = match noted {
            Some(noted) => noted,
            None => {
                let removed = self.ranges_of(id);
                if removed.is_empty() && !is_newest {
                    return true;
                }
                self.stream.removed.extend(removed);
                self.stream.removals.begun += 1;
                let noted = self.stream.removals.begun;
                if let Some(removal) = &mut self.retention.removal {
                    removal.noted = Some(noted);
                }
                noted
            }
        };
        // A full disk would stay full. It is noted with the next write, for which there is room then. But where so much was
        // given since the start that a crash before that write would have offsets given twice, the last segment stays. On one
        // that fails nothing would be won.
        let is_safe = || {
            let mut partitions = self.partitions.iter();
            partitions.all(Partition::is_safe_without_base)
        };
        let cannot_wait = |trouble: &Trouble| trouble.fault == DiskFault::Full && (!is_newest || is_safe());
        self.stream.removals.safe >= noted || self.stream.trouble.as_ref().is_some_and(cannot_wait)
    }

    /// The offsets that go with a segment.
    fn ranges_of(&self, id: SegmentId) -> Vec<Removed> {
        let mut removed = Vec::new();
        for &number in self
            .segments
            .get(id)
            .map_or(&[][..], |segment| &segment.partitions)
        {
            let ranges = self
                .partition(number)
                .into_iter()
                .flat_map(|held| held.would_let_go(id));
            removed.extend(ranges.map(|(first, last)| Removed {
                partition: number,
                first,
                last,
            }));
        }
        removed
    }

    /// What retention removed of this core's partitions, and is about to remove.
    pub(super) fn removed_ranges(&self) -> Vec<Removed> {
        let of_partition = |(partition, held): (u16, &Partition)| {
            let ranges: Vec<(u64, u64)> = held.let_go().collect();
            ranges.into_iter().map(move |(first, last)| Removed {
                partition,
                first,
                last,
            })
        };
        let mut removed: Vec<Removed> = self.numbered().flat_map(of_partition).collect();
        if let Some(removal) = self
            .retention
            .removal
            .as_ref()
            .filter(|removal| removal.noted.is_some())
        {
            removed.extend(self.ranges_of(removal.segment));
        }
        removed
    }

    /// Nothing of the segment that goes has to be carried on but cursors, which are written with the next write.
    fn remove_segment(&mut self) {
        let now_ms = self.now_ms();
        let Some(removal) = &self.retention.removal else {
            return;
        };
        let id = removal.segment;
        if self.cursors.leave(id, now_ms) || !self.is_noted(id) || !self.opened.is_idle(id) {
            return;
        }
        let partitions = self.segments.get(id).map(|segment| segment.partitions.clone());
        for number in partitions.unwrap_or_default() {
            let Some(at) = self.index(number) else { continue };
            let partition = &mut self.partitions[at];
            let retained = &mut partition.retained.take();
            let rows = &mut self.rows;
            partition.leave(id, |first, last| {
                let Some(retained) = retained else { return };
                let gone: Vec<u64> = retained
                    .range(first..=last)
                    .filter(|(_, row)| row.place.is_some_and(|place| place.segment == id))
                    .filter(|(_, row)| row.is_removal || !row.is_damaged)
                    .map(|(offset, _)| offset)
                    .collect();
                for offset in gone {
                    retained.remove(offset);
                    *rows -= 1;
                }
            });
            partition.retained = retained.take();
        }
        self.indices.remove(id);
        self.opened.close(id, &mut self.ops);
        if let Some(segment) = self.segments.remove(id) {
            if segment.is_damaged {
                // Also of partitions of which nothing else was in it.
                for partition in &mut self.partitions {
                    partition.carried_damage.retain(|lost| lost.segment != id);
                }
            }
            segment.claim.give_up();
            if segment.is_keeper {
                let is_own = segment.cores == self.cores;
                self.retention.given_up.push_back((id, segment.claim, is_own));
            }
        }
        self.retention.removal = None;
        self.remove_free();
        // There may be another one.
        self.look_soon();
    }

    /// Removes the files that no core needs any more.
    fn remove_free(&mut self) {
        let retention = &mut self.retention;
        // Of those that other cores may need, one of a stream does not go before an older one: see `next_to_go`.
        let mut waiting: Vec<u16> = retention.left_over.iter().map(|id| id.core).collect();
        let mut free = Vec::new();
        retention.given_up.retain(|(id, claim, is_own)| {
            let is_next = *is_own || !waiting.contains(&id.core);
            if is_next && claim.is_free() {
                free.push(*id);
                return false;
            }
            waiting.push(id.core);
            true
        });
        for id in free {
            self.remove_file(id);
        }
    }

    fn remove_file(&mut self, id: SegmentId) {
        self.ops.push_back(DiskOp::Remove { segment: id });
        self.retention.removed += 1;
    }

    /// A segment's file was removed, or was not.
    pub(super) fn handle_removed(&mut self, id: SegmentId, is_gone: bool) {
        if !is_gone && !self.retention.left_over.contains(&id) {
            self.retention.removed = self.retention.removed.saturating_sub(1);
            self.retention.left_over.push(id);
        }
    }
}
