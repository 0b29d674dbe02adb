//! Writing: what is appended meanwhile goes into the next write, and one sync makes safe what was written meanwhile.

use super::class::{Class, Level};
use super::disk::{DiskDone, DiskFault, DiskOp, SegmentId};
use super::events::Events;
use super::format::{Base, BatchWriter, CursorEntry};
use super::stream::{Ahead, Current, Group};
use super::{Log, UNSYNCED_OFFSETS_MAX};

/// What one write carries of events at most, bytes, but a run at least.
const WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// And of cursors, bytes, but one at least: what is left of them goes with the next write.
const CURSORS_BYTES_MAX: usize = 1024 * 1024;
/// What waits is written although a sync is under way, or nobody waits for it, once it is so many bytes.
const WRITE_BYTES_WORTH: usize = 256 * 1024;
/// What nobody waits for is written after so long, ms.
const GATHER_MS: u64 = 10;
/// Runs are put into one batch up to so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// Runs appended within so many ms are put into one batch, which has the time of the last: whoever asks for what was appended
/// from some time on gets all of it.
const BATCH_MS: u64 = 10;
/// Of a partition, more unsynced offsets than this are synced though nobody waits.
pub(super) const OFFSETS_DUE: u64 = UNSYNCED_OFFSETS_MAX / 2;

impl Log {
    /// What the disk is to do next.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        if self.ops.is_empty() && self.stream.next_number > 0 {
            self.drive();
        }
        self.ops.pop_front()
    }

    /// What came of it.
    pub fn handle_disk(&mut self, done: DiskDone) {
        match done {
            DiskDone::Opened { segment, result } => {
                if self.stream.ahead == Ahead::Creating(segment) {
                    self.handle_created(segment, result);
                } else {
                    self.handle_opened(segment, result);
                }
            }
            DiskDone::Wrote { segment, result } => self.handle_wrote(segment, result),
            DiskDone::Synced { segment, result } => self.handle_synced(segment, result),
            DiskDone::Read { ticket, result } => self.handle_read(ticket, result),
            DiskDone::Removed { segment, result } => self.handle_removed(segment, result.is_ok()),
        }
    }

    /// Writes what there is, and seals it; nothing is taken any more. [`Log::is_stopped`] says when that is done.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.cursors.hurry(self.now_ms());
    }

    /// Whether everything is on the disk, and nothing more is going to be done.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let stream = &self.stream;
        let is_sealed = stream.current.is_none() && matches!(stream.ahead, Ahead::None { .. });
        let is_done = is_sealed && stream.is_quiet() && !self.has_waiting() && self.ops.is_empty();
        self.stopping && (is_done || stream.next_number == 0)
    }

    /// Whether it is stopped, and the last segment has a footer. One that the disk refused may have none though all that it
    /// holds is safe; then the directory is no clean one, or the next start would take it for one that was cut off.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_stopped() && !self.stream.ends_open
    }

    /// Whether anything waits to be written.
    pub(super) fn has_waiting(&self) -> bool {
        let stream = &self.stream;
        let has_removals = stream.removals.issued < stream.removals.begun;
        !self.order.is_all_issued() || !stream.carried.is_empty() || has_removals || self.cursors.has_due()
    }

    /// Does the next thing that is due.
    fn drive(&mut self) {
        let now_ms = self.now_ms();
        if let Some(current) = &self.stream.current
            && current.failed.is_some()
        {
            if self.stream.write.is_none() && self.stream.syncing.is_none() {
                self.abandon();
            }
            return;
        }
        if self
            .stream
            .trouble
            .as_ref()
            .is_some_and(|trouble| now_ms < trouble.retry_ms)
        {
            return;
        }
        if !self.has_waiting() {
            self.stream.trouble = None;
        }
        self.prepare_segment();
        if self.stream.write.is_none() && self.stream.current.is_some() {
            self.drive_write();
        }
        if self.stream.syncing.is_none() && self.is_sync_due() {
            self.begin_sync();
        }
    }

    fn drive_write(&mut self) {
        let Some(current) = &self.stream.current else {
            return;
        };
        let bytes = self.segment_bytes();
        if !current.is_full && self.is_write_due() {
            let next = current.at + self.order.next_waiting_bytes() as u64;
            let is_beyond = next > bytes && !self.order.is_all_issued();
            // What is not events does not stay within the segment to the byte, but ends there, too.
            if current.at > 0 && (is_beyond || current.at >= bytes) {
                self.set_full();
            } else {
                self.begin_write();
            }
        } else if self.stopping && !self.has_waiting() {
            self.set_full();
        }
        let Some(current) = &self.stream.current else {
            return;
        };
        if current.is_full && self.stream.write.is_none() && current.failed.is_none() {
            let has_footer = self.stream.written.back().is_some_and(|group| group.is_footer);
            if !has_footer {
                self.begin_footer();
            }
        }
    }

    fn set_full(&mut self) {
        if let Some(current) = &mut self.stream.current {
            current.is_full = true;
        }
    }

    fn is_write_due(&self) -> bool {
        if !self.has_waiting() {
            return false;
        }
        let stream = &self.stream;
        let now_ms = self.now_ms();
        let is_worth = self.order.waiting_bytes() >= WRITE_BYTES_WORTH;
        if stream.wants_write || is_worth || self.stopping || stream.offsets_due {
            return true;
        }
        // What becomes safe with the sync after the one under way can wait for that: one write then, not many now.
        if stream.wants_sync && stream.syncing.is_none() {
            return true;
        }
        let waits_since = |since: u64| now_ms >= since + GATHER_MS;
        (stream.syncing.is_none() && stream.waits_since_ms.is_some_and(waits_since))
            || !stream.carried.is_empty()
            || stream.removals.issued < stream.removals.begun
            || self.cursors.write_by_ms().is_some_and(|by_ms| now_ms >= by_ms)
    }

    /// When something is to be handed to the disk at the latest, monotonic, ms: not what waits for the disk itself.
    pub(super) fn next_write_ms(&self) -> Option<u64> {
        let stream = &self.stream;
        if let Some(trouble) = &stream.trouble
            && trouble.retry_ms > self.now_ms()
        {
            return Some(trouble.retry_ms);
        }
        let can_write = |current: &Current| current.failed.is_none() && !current.is_full;
        let is_free = stream.write.is_none() && stream.current.as_ref().is_some_and(can_write);
        let is_idle = stream.syncing.is_none();
        let create_ms = match stream.ahead {
            Ahead::None { not_before_ms } if stream.current.is_none() || stream.is_short => {
                Some(not_before_ms)
            }
            _ => None,
        };
        let sync_ms = self
            .settings
            .as_ref()
            .map_or(0, |settings| settings.sync_ms.into());
        [
            self.cursors.cooled_ms(),
            self.cursors.write_by_ms().filter(|_| is_free),
            create_ms.filter(|_| !self.stopping || self.has_waiting()),
            stream
                .waits_since_ms
                .map(|since_ms| since_ms + GATHER_MS)
                .filter(|_| is_free && is_idle),
            stream
                .written
                .front()
                .map(|group| group.since_ms + sync_ms)
                .filter(|_| is_free && is_idle),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Hands what waits to the disk.
    fn begin_write(&mut self) {
        let now_ms = self.now_ms();
        let segment_bytes = self.segment_bytes();
        let bases = self.bases();
        let removed = match bases.is_empty() {
            true => Vec::new(),
            false => self.removed_ranges(),
        };
        let Some(current) = &mut self.stream.current else {
            return;
        };
        let room = usize::try_from(segment_bytes.saturating_sub(current.at)).unwrap_or(usize::MAX);
        let mut writer = BatchWriter::new(&current.head, current.at, current.synced, self.unix_ms);
        if current.at == 0 {
            writer.bases(&bases);
            current.bases = bases;
            if !removed.is_empty() {
                writer.removed(&removed);
            }
        }
        let mut group = Group {
            since_ms: now_ms,
            is_awaited: self.stream.wants_sync || self.stream.offsets_due,
            ..Group::default()
        };
        // Rows first: a removal that was appended before one was taken up is never behind it.
        while let Some(mut batch) = self.stream.carried.pop_front() {
            batch.at = writer.at();
            writer.kept(batch.partition, CARRIED, &batch.rows);
            group.kept.push(batch);
            group.is_awaited = true;
        }
        if self.stream.removals.issued < self.stream.removals.begun {
            group.removed = std::mem::take(&mut self.stream.removed);
            writer.removed(&group.removed);
            group.is_awaited = true;
            self.stream.removals.issued = self.stream.removals.begun;
        }
        group.removals = self.stream.removals.issued;
        let from = self.order.issued();
        group.until = self.order.issue(WRITE_BYTES_MAX.min(room));
        self.sorted.clear();
        self.sorted
            .extend((from..group.until).map(|seq| (self.order.partition(seq), seq)));
        self.sorted.sort_unstable();
        let mut rest = &self.sorted[..];
        let mut runs: Vec<&Events> = Vec::new();
        while let [(number, seq), ..] = *rest {
            let partition = &self.partitions[usize::from(number / self.cores)];
            let Some(first) = partition.tail.run(seq) else {
                debug_assert!(false, "a run that waits is in its partition's tail");
                rest = &rest[1..];
                continue;
            };
            let (mut bytes, mut time_ms) = (0, 0);
            runs.clear();
            for &(_, seq) in rest.iter().take_while(|(other, _)| *other == number) {
                let Some(run) = partition.tail.run(seq) else { break };
                bytes += run.events.bytes.len() + 4 * run.events.len();
                let belongs = run.class == first.class && run.time_ms.abs_diff(first.time_ms) <= BATCH_MS;
                if !runs.is_empty() && (bytes > BATCH_BYTES || !belongs) {
                    break;
                }
                runs.push(&run.events);
                time_ms = run.time_ms.max(time_ms);
            }
            rest = &rest[runs.len()..];
            current.newest_ms = current.newest_ms.max(time_ms);
            let at = writer.at();
            let head = writer.events(number, first.class, first.first, time_ms, runs.iter().copied());
            group.batches.push((head, at));
        }
        let mut entries: Vec<CursorEntry> = Vec::new();
        let (mut of, mut bytes) = (0, 0);
        for (number, issued, entry) in self.cursors.take_due(now_ms, CURSORS_BYTES_MAX) {
            // A batch of many, or large, cursors stays far below what a batch may be.
            let is_full = number != of || bytes + entry.bytes_max() > BATCH_BYTES;
            if is_full && !entries.is_empty() {
                group.cursors_at.push(writer.at());
                writer.cursors(of, &entries);
                entries.clear();
                bytes = 0;
            }
            of = number;
            bytes += entry.bytes_max();
            group.cursors.push(issued);
            entries.push(entry);
        }
        if !entries.is_empty() {
            group.cursors_at.push(writer.at());
            writer.cursors(of, &entries);
        }
        group.end = writer.at();
        let (segment, at) = (current.head.id, current.at);
        current.at = group.end;
        self.stream.write = Some(group);
        self.stream.writes += 1;
        if self.order.is_all_issued() {
            self.stream.wants_write = false;
            // Who waits for a cursor waits for those that did not fit in, too.
            self.stream.wants_sync &= self.cursors.has_due();
            self.stream.waits_since_ms = None;
        }
        self.ops.push_back(DiskOp::Write {
            segment,
            at,
            slices: writer.finish(),
        });
    }

    /// Where this core's partitions stand: the first batch of a segment.
    fn bases(&self) -> Vec<Base> {
        if self.stream.current.as_ref().is_none_or(|current| current.at > 0) {
            return Vec::new();
        }
        self.numbered()
            .filter(|(_, partition)| partition.ready)
            .map(|(number, partition)| partition.base(number))
            .collect()
    }

    fn handle_wrote(&mut self, segment: SegmentId, result: Result<(), DiskFault>) {
        let Some(current) = self
            .stream
            .current
            .as_mut()
            .filter(|current| current.head.id == segment)
        else {
            return;
        };
        let Some(group) = self.stream.write.take() else {
            return;
        };
        if let Err(fault) = result {
            current.failed = Some(fault);
            // Kept with what has to be done again.
            self.stream.written.push_back(group);
            return;
        }
        current.written = group.end;
        self.stream.trouble = None;
        self.order.written(group.until);
        for (head, _) in &group.batches {
            if head.class.level == Level::Written
                && let Some(at) = self.index(head.partition)
            {
                self.commit(at);
            }
        }
        self.stream.written.push_back(group);
    }

    fn is_sync_due(&self) -> bool {
        let written = &self.stream.written;
        let Some(oldest) = written.front() else {
            return false;
        };
        let settings = self.settings.as_deref();
        let (sync_ms, unsynced_max) =
            settings.map_or((0, 0), |settings| (settings.sync_ms, settings.unsynced_bytes_max));
        self.stopping
            || self.stream.offsets_due
            || written.iter().any(|group| group.is_awaited)
            || self.now_ms() >= oldest.since_ms + u64::from(sync_ms)
            || self.order.unsynced_bytes() > unsynced_max / 2
            || self
                .stream
                .current
                .as_ref()
                .is_some_and(|current| current.is_full)
    }

    fn begin_sync(&mut self) {
        let Some(current) = &self.stream.current else {
            return;
        };
        if current.failed.is_some() {
            return;
        }
        self.stream.syncing = Some(self.stream.written.len());
        self.stream.syncs += 1;
        self.ops.push_back(DiskOp::Sync {
            segment: current.head.id,
        });
    }

    fn handle_synced(&mut self, segment: SegmentId, result: Result<(), DiskFault>) {
        let Some(groups) = self.stream.syncing.take() else {
            return;
        };
        let Some(current) = self
            .stream
            .current
            .as_mut()
            .filter(|current| current.head.id == segment)
        else {
            return;
        };
        if let Err(fault) = result {
            current.failed = Some(fault);
            return;
        }
        self.news.synced();
        for _ in 0..groups {
            let Some(group) = self.stream.written.pop_front() else {
                break;
            };
            self.make_safe(segment, group);
        }
        self.stream.offsets_due = self
            .partitions
            .iter()
            .any(|partition| partition.unsynced() > OFFSETS_DUE);
        self.evict();
    }

    /// What one write carried survives power loss now.
    fn make_safe(&mut self, segment: SegmentId, group: Group) {
        self.order.written(group.until);
        self.order.synced(group.until);
        let mut event_bytes = 0;
        for (head, at) in &group.batches {
            let Some(partition) = self.index(head.partition) else {
                continue;
            };
            self.commit(partition);
            self.partitions[partition].place(segment, head, *at);
            event_bytes += head.bytes();
        }
        for issued in group.cursors {
            self.cursors.synced(issued, segment);
        }
        self.stream.removals.safe = self.stream.removals.safe.max(group.removals);
        let mut kept = Vec::new();
        for batch in group.kept {
            self.place_carried(segment, &batch, &mut kept);
            self.carried_is_safe();
        }
        let Some(current) = &mut self.stream.current else {
            return;
        };
        current.synced = group.end;
        current.event_bytes += event_bytes;
        current.cursors_at.extend(group.cursors_at);
        current.kept.append(&mut kept);
        if group.is_footer {
            self.finish_segment(0);
        }
        self.carry_on();
    }

    /// Lets go of what is safe and more than memory should keep.
    fn evict(&mut self) {
        let Some(settings) = &self.settings else { return };
        while let Some(number) = self.order.evict(settings.tail_bytes) {
            self.partitions[usize::from(number / self.cores)].tail.evict();
        }
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        let settings = self.settings.as_deref();
        settings.map_or(0, |settings| settings.segment_bytes)
    }
}

/// How carried events are treated; whether one has expired is looked at again.
const CARRIED: Class = Class {
    level: Level::Synced,
    once: false,
    retain: true,
    expires: true,
};
