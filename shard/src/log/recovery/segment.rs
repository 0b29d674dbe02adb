//! What one segment holds, as recovery needs it: of a sealed one by its footer, of others by a scan.

use std::collections::BTreeMap;
use std::io;

use super::if_readable;
use super::meta::Meta;
use super::recovered::{Claim, OnceId};
use super::rows::RowTable;
use crate::log::{
    disk::SegmentId,
    files::Files,
    footer::{Extent, Extents, Footer, FooterRow, IndexEntry, decode_trailer},
    format::{
        BATCH_HEAD_BYTES, Base, BatchHead, Body, CursorEntry, HeadlessSegment, Kind, Removed,
        SEGMENT_HEAD_BYTES, SegmentHead, TRAILER_BYTES, row_of, salt_of,
    },
    owner_of,
    scan::{Bad, Found, Scan, Tail},
};

/// A cursor, and of which partition.
pub(in crate::log) type PartitionCursor = (u16, CursorEntry);

/// A batch of cursors that is lost, or bytes of which nobody knows that they were none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct LostCursors {
    /// Of which partition; `None`: of any that the segment's stream had.
    pub(in crate::log) partition: Option<u16>,
    /// When it was written, or a later time, ms since 1970; `u64::MAX`: nothing behind it says.
    pub(in crate::log) written_ms: u64,
}

/// The number of each core's newest segment in which something was written. What is made ahead of need has no head yet.
pub(in crate::log) type Newest = BTreeMap<u16, u64>;

/// Takes note of a segment by how it begins; `None`: that cannot be read.
pub(in crate::log) fn note_newest(
    newest: &mut Newest,
    id: SegmentId,
    head: Option<&Result<SegmentHead, HeadlessSegment>>,
) {
    if !matches!(head, Some(Err(HeadlessSegment::Empty))) {
        let number = newest.entry(id.core).or_default();
        *number = id.number.max(*number);
    }
}

/// What is to be found out about a segment.
#[derive(Debug, Clone, Copy)]
pub(in crate::log) struct Asked<'a> {
    /// The directory's, of its last start.
    pub(in crate::log) meta: &'a Meta,
    /// Of all segments that there are.
    pub(in crate::log) newest: &'a Newest,
    /// Ids of events that are younger are read.
    pub(in crate::log) once_since_ms: u64,
    /// Every byte is read, also of a segment whose footer says what there is.
    pub(in crate::log) reads_all: bool,
}

impl Asked<'_> {
    /// A segment that was there when an earlier start was recovered is whole, or damaged; so is the last of each stream behind
    /// a stop in good order. Not so those before it: what was not safe in one that a failed sync gave up was written
    /// again behind it, and may be there or not.
    fn tail_of(&self, id: SegmentId, head: Option<&SegmentHead>) -> Tail {
        if let Some(bytes) = self.meta.unsealed.get(&id) {
            return Tail::EndsAt(*bytes);
        }
        let is_recovered = head.is_some_and(|head| self.meta.has_recovered(head.epoch));
        let is_newest = self.newest.get(&id.core) == Some(&id.number);
        if is_recovered || (self.meta.is_clean && is_newest) {
            Tail::IsWhole
        } else {
            // What was made ahead of need has nothing behind it either.
            let is_newest = self
                .newest
                .get(&id.core)
                .is_none_or(|newest| id.number >= *newest);
            Tail::MayBeTorn { is_newest }
        }
    }

    /// Whether it was the last of its stream when the start of this epoch was stopped in good order, and so had a footer.
    fn was_sealed_last(&self, id: SegmentId, epoch: u64) -> bool {
        self.meta.is_clean && self.newest.get(&id.core) == Some(&id.number) && epoch == self.meta.epoch()
    }
}

/// What a segment holds of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::log) struct Part {
    pub(in crate::log) extent: Extent,
    /// The offsets whose events are there, ascending.
    pub(in crate::log) ranges: Vec<(u64, u64)>,
}

/// What a segment holds.
#[derive(Debug)]
pub(in crate::log) struct SegmentFacts {
    pub(in crate::log) id: SegmentId,
    /// What it says first, if that is whole.
    pub(in crate::log) head: Option<SegmentHead>,
    /// 0: nothing in it says.
    pub(in crate::log) epoch: u64,
    /// How many cores there were when it was written; 0: nothing in it says.
    pub(in crate::log) cores: u16,
    /// Whether its end may be torn.
    pub(in crate::log) tail: Tail,
    /// So many bytes of it count.
    pub(in crate::log) bytes: u64,
    pub(in crate::log) file_bytes: u64,
    /// So many bytes of it are batches; behind them there may be a footer.
    pub(in crate::log) content_bytes: u64,
    /// It has a footer.
    pub(in crate::log) is_sealed: bool,
    /// Where that is, if the file ends with the trailer that finds it.
    pub(in crate::log) footer_at: Option<u64>,
    /// It says that the log was stopped behind it in good order.
    pub(in crate::log) is_last: bool,
    pub(in crate::log) created_ms: u64,
    /// When its oldest and newest event were appended; when it was made, if it has none.
    pub(in crate::log) oldest_ms: u64,
    pub(in crate::log) newest_ms: u64,
    /// Its batches of events.
    pub(in crate::log) batches: u64,
    /// Its events.
    pub(in crate::log) events: u64,
    pub(in crate::log) bases: Vec<Base>,
    /// What it says retention removed, from it or from others.
    pub(in crate::log) removed: Vec<Removed>,
    pub(in crate::log) parts: BTreeMap<u16, Part>,
    /// The first and last offset of each partition that it held when it was written, as far as that is known.
    pub(in crate::log) promised: BTreeMap<u16, (u64, u64)>,
    /// Bytes of it that are damaged, so that nobody knows what they were.
    pub(in crate::log) unknown_bytes: u64,
    pub(in crate::log) rows: RowTable,
    /// In the order in which they were written.
    pub(in crate::log) cursors: Vec<PartitionCursor>,
    /// Where its batches of cursors are, if it was scanned.
    pub(in crate::log) cursors_at: Vec<u64>,
    /// Batches of cursors that are not what was written.
    pub(in crate::log) lost_cursors: Vec<LostCursors>,
    pub(in crate::log) once: Vec<OnceId>,
    /// Partitions of which it has anything.
    pub(in crate::log) partitions: Vec<u16>,
    /// Parts of it that were lost, and what was torn off.
    pub(in crate::log) damage: Vec<Bad>,
    pub(in crate::log) torn: Option<Bad>,
    /// Its file was removed: there was nothing in it.
    pub(in crate::log) is_gone: bool,
    /// Once it was handed out.
    pub(in crate::log) claim: Option<Claim>,
}

/// Reads a segment.
pub(in crate::log) fn read_segment<F: Files + ?Sized>(
    files: &F,
    id: SegmentId,
    asked: Asked<'_>,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Result<SegmentFacts, u16>> {
    let file_bytes = files.length(&id.name())?;
    let mut facts = SegmentFacts::new(id, file_bytes);
    let mut begin = [0; SEGMENT_HEAD_BYTES];
    let read = if_readable(files.read(&id.name(), 0, &mut begin))?;
    let head = match read.map(|read| SegmentHead::decode(&begin[..read])) {
        Some(Err(HeadlessSegment::Version(version))) => return Ok(Err(version)),
        head => head.and_then(Result::ok).filter(|head| head.id == id),
    };
    if let Some(head) = head {
        (facts.epoch, facts.cores, facts.created_ms) = (head.epoch, head.cores, head.created_ms);
    }
    facts.head = head;
    facts.tail = asked.tail_of(id, head.as_ref());
    let salt = head.map_or(salt_of(asked.meta.secret, id), |head| head.salt);
    let footer = read_footer(files, id, salt, file_bytes)?;
    let is_read = match footer {
        Some((footer_at, of_footer, footer)) => {
            // Its own head may be lost.
            facts.epoch = facts.epoch.max(of_footer.epoch);
            facts.footer_at = Some(footer_at);
            if matches!(facts.tail, Tail::EndsAt(_)) {
                // It was sealed since.
                facts.tail = Tail::IsWhole;
            }
            facts.content_bytes = footer_at;
            facts.take_footer(files, footer, (salt, of_footer.time_ms), asked)?
        }
        None => false,
    };
    if is_read {
        progress(file_bytes);
    } else {
        facts.scan(files, asked, progress)?;
    }
    facts.finish();
    Ok(Ok(facts))
}

/// The footer of a sealed segment, where it is and the head of its batch, if the file ends with its trailer and it is as it was written.
pub(in crate::log) fn read_footer<F: Files + ?Sized>(
    files: &F,
    id: SegmentId,
    salt: u64,
    file_bytes: u64,
) -> io::Result<Option<(u64, BatchHead, Footer)>> {
    let Some(trailer_at) = file_bytes.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES];
    let read = if_readable(files.read(&id.name(), trailer_at, &mut trailer))?;
    if read.is_none_or(|read| read < TRAILER_BYTES) {
        return Ok(None);
    }
    let Some(footer_at) = decode_trailer(&trailer, salt, file_bytes) else {
        return Ok(None);
    };
    let body = read_batch(files, id, salt, footer_at)?.ok();
    Ok(body
        .filter(|body| body.head().kind == Kind::Footer)
        .and_then(|body| Some((footer_at, *body.head(), Footer::decode(body.bytes()).ok()?))))
}

/// The batch at a place; if it is not as it was written, or cannot be read, its head, if that is good.
fn read_batch<F: Files + ?Sized>(
    files: &F,
    id: SegmentId,
    salt: u64,
    at: u64,
) -> io::Result<Result<Body, Option<BatchHead>>> {
    let mut head = [0; BATCH_HEAD_BYTES];
    let Some(read) = if_readable(files.read(&id.name(), at, &mut head))? else {
        return Ok(Err(None));
    };
    let Ok(head) = BatchHead::decode(&head[..read], salt, at) else {
        return Ok(Err(None));
    };
    let mut body = vec![0; head.body_bytes as usize];
    let Some(read) = if_readable(files.read(&id.name(), at + BATCH_HEAD_BYTES as u64, &mut body))? else {
        return Ok(Err(Some(head)));
    };
    body.truncate(read);
    Ok(Body::check(head, &body.into()).map_err(|_| Some(head)))
}

impl SegmentFacts {
    fn new(id: SegmentId, file_bytes: u64) -> Self {
        Self {
            id,
            head: None,
            epoch: 0,
            cores: 0,
            tail: Tail::IsWhole,
            bytes: file_bytes,
            file_bytes,
            content_bytes: 0,
            is_sealed: false,
            footer_at: None,
            is_last: false,
            created_ms: 0,
            oldest_ms: 0,
            newest_ms: 0,
            batches: 0,
            events: 0,
            bases: Vec::new(),
            removed: Vec::new(),
            parts: BTreeMap::new(),
            promised: BTreeMap::new(),
            unknown_bytes: 0,
            rows: RowTable::default(),
            cursors: Vec::new(),
            cursors_at: Vec::new(),
            lost_cursors: Vec::new(),
            once: Vec::new(),
            partitions: Vec::new(),
            damage: Vec::new(),
            torn: None,
            is_gone: false,
            claim: None,
        }
    }

    /// Whether there is nothing in it, nor was anything that is lost.
    pub(super) fn is_empty(&self) -> bool {
        // Its cursors may be all that it held, and a disk may give tomorrow what it does not give today.
        let has_lost = !self.damage.is_empty() || !self.lost_cursors.is_empty();
        self.partitions.is_empty() && self.promised.is_empty() && !has_lost
    }

    /// Whether the footer says all that is asked; what it says counts in any case.
    fn take_footer<F: Files + ?Sized>(
        &mut self,
        files: &F,
        footer: Footer,
        (salt, sealed_ms): (u64, u64),
        asked: Asked<'_>,
    ) -> io::Result<bool> {
        self.is_sealed = true;
        self.is_last = footer.is_last;
        self.bases = footer.bases;
        self.removed = footer.removed;
        for extent in &footer.extents {
            self.promise(extent.partition, extent.first, extent.last);
        }
        let has_young_ids = footer
            .extents
            .iter()
            .any(|extent| extent.once_newest_ms > 0 && extent.once_newest_ms >= asked.once_since_ms);
        let reads_all = asked.reads_all || has_young_ids;
        let (Some(rows), Some(cursors_at), false) = (footer.rows, footer.cursors_at, reads_all) else {
            return Ok(false);
        };
        for at in cursors_at {
            // One that is damaged now leaves an older state in place: what was acknowledged comes again. Where there is no
            // older one, whoever comes for it must hear of it.
            match read_batch(files, self.id, salt, at)? {
                Ok(body) if body.cursors().is_ok() => self.take_cursors(&body),
                Ok(body) => self.lose_cursors(Some(*body.head()), sealed_ms),
                Err(head) => self.lose_cursors(head, sealed_ms),
            }
        }
        for row in rows {
            self.rows.take(row, self.id, self.cores);
        }
        for extent in footer.extents {
            let ranges = vec![(extent.first, extent.last)];
            self.parts.insert(extent.partition, Part { extent, ranges });
        }
        Ok(true)
    }

    fn scan<F: Files + ?Sized>(
        &mut self,
        files: &F,
        asked: Asked<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut scan = Scan::open(files, self.id, asked.meta.secret, self.tail)?;
        let mut extents = Extents::default();
        let mut ranges: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
        let mut told = 0;
        // Since the last whole batch something was lost that may have been cursors.
        let mut is_unknown = false;
        // What stands last, whole or not; `None`: nobody knows.
        let mut ends_with = None;
        while let Some(found) = scan.step()? {
            match found {
                Found::Batch { at, body } => {
                    let head = *body.head();
                    ends_with = Some(head.kind);
                    self.content_bytes = at + head.bytes();
                    self.epoch = self.epoch.max(head.epoch);
                    // A batch of events does not say when it was written, but when they were appended.
                    if is_unknown && head.kind != Kind::Events {
                        self.lose_cursors(None, head.time_ms);
                        is_unknown = false;
                    }
                    match head.kind {
                        Kind::Events => {
                            let ranges = ranges.entry(head.partition).or_default();
                            if take_range(ranges, &head) {
                                extents.push(&head, at);
                                self.take_events(at, &body, asked);
                            }
                        }
                        Kind::Kept => self.take_kept(at, &body),
                        Kind::Cursors => {
                            self.cursors_at.push(at);
                            self.take_cursors(&body);
                        }
                        Kind::Bases => self.bases = body.bases().map_err(|_| unknown(at))?,
                        Kind::Removed => self.removed.extend(body.removed().map_err(|_| unknown(at))?),
                        Kind::Footer => {}
                    }
                }
                Found::Damage(bad) => {
                    is_unknown |= bad.head.is_none();
                    ends_with = bad.head.map(|head| head.kind);
                    self.take_damage(bad);
                }
            }
            progress(scan.at() - told);
            told = scan.at();
        }
        let ending = scan.ending();
        let is_cut = ending.footer.is_none() && ends_with.is_some_and(|kind| kind != Kind::Footer);
        if is_cut && asked.was_sealed_last(self.id, self.epoch) {
            // There was a footer: the file is shorter than it was, and nothing in it says what stood behind.
            is_unknown = true;
            self.take_damage(Bad {
                at: self.file_bytes,
                end: self.file_bytes,
                head: None,
            });
        }
        if is_unknown {
            self.lose_cursors(None, u64::MAX);
        }
        if let Some(footer) = ending.footer {
            self.is_sealed = true;
            self.is_last = footer.is_last;
            self.bases = footer.bases;
            self.removed = footer.removed;
            if footer.cursors_at.is_some_and(|listed| listed == self.cursors_at) {
                // All of them are there, whatever was lost.
                self.lost_cursors.clear();
            }
            for extent in footer.extents {
                self.promise(extent.partition, extent.first, extent.last);
            }
        }
        self.bytes = ending.bytes;
        self.torn = ending.torn;
        progress(self.file_bytes.saturating_sub(told));
        for extent in extents.into_vec() {
            let ranges = ranges.remove(&extent.partition).unwrap_or_default();
            self.parts.insert(extent.partition, Part { extent, ranges });
        }
        Ok(())
    }

    fn promise(&mut self, partition: u16, first: u64, last: u64) {
        let promised = self.promised.entry(partition).or_insert((first, last));
        *promised = (promised.0.min(first), promised.1.max(last));
    }

    fn take_damage(&mut self, bad: Bad) {
        match bad.head {
            Some(head) if head.kind == Kind::Events && head.count > 0 => {
                self.promise(head.partition, head.first, head.last());
            }
            Some(head) if head.kind == Kind::Cursors => self.lose_cursors(Some(head), u64::MAX),
            Some(_) => {}
            None => self.unknown_bytes += bad.end - bad.at,
        }
        self.damage.push(bad);
    }

    /// A batch of cursors is not what was written; its head, if that can be trusted. It was written by this time.
    fn lose_cursors(&mut self, head: Option<BatchHead>, by_ms: u64) {
        let head = head.filter(|head| head.kind == Kind::Cursors);
        self.lost_cursors.push(LostCursors {
            partition: head.map(|head| head.partition),
            written_ms: head.map_or(by_ms, |head| head.time_ms),
        });
    }

    /// When cursors of this partition were lost, or a later time, ms since 1970; `None`: none were.
    pub(super) fn cursors_lost_ms(&self, partition: u16) -> Option<u64> {
        let may_be_its = |lost: &&LostCursors| {
            lost.partition
                .map_or(self.may_have(partition), |of| of == partition)
        };
        let lost = self.lost_cursors.iter().filter(may_be_its);
        lost.map(|lost| lost.written_ms).max()
    }

    /// Whether bytes are lost that may have held the partition's last events in it, so that nothing in it says which those were.
    pub(super) fn may_end_unknown(&self, partition: u16) -> bool {
        if self.damage.is_empty() || self.is_sealed || !self.may_have(partition) {
            return false;
        }
        let last = self
            .parts
            .get(&partition)
            .and_then(|part| part.extent.index.last());
        let known_until = last.map_or(0, IndexEntry::end);
        let mut unknown = self.damage.iter().filter(|bad| bad.head.is_none());
        unknown.any(|bad| bad.end >= known_until)
    }

    /// Whether its stream had this partition.
    fn may_have(&self, partition: u16) -> bool {
        self.cores == 0 || owner_of(partition, self.cores) == self.id.core
    }

    fn take_events(&mut self, at: u64, body: &Body, asked: Asked<'_>) {
        let head = body.head();
        let has_young_ids = head.class.once && head.time_ms >= asked.once_since_ms;
        if !has_young_ids && !head.class.retain {
            return;
        }
        let Ok(Some(stored)) = body.events() else { return };
        for index in 0..stored.events.len() {
            let offset = stored.first + index as u64;
            if has_young_ids {
                let id = stored.events.id(index);
                self.once.push(OnceId {
                    id,
                    partition: head.partition,
                    offset,
                    time_ms: head.time_ms,
                });
            }
            if head.class.retain {
                let event = stored.events.get(index);
                self.take_row(head.partition, offset, head.time_ms, (at, index), event);
            }
        }
    }

    fn take_kept(&mut self, at: u64, body: &Body) {
        for (index, kept) in body.kept().unwrap_or_default().into_iter().enumerate() {
            let partition = body.head().partition;
            self.take_row(partition, kept.offset, kept.time_ms, (at, index), &kept.event);
        }
    }

    fn take_row(&mut self, partition: u16, offset: u64, time_ms: u64, place: (u64, usize), event: &[u8]) {
        let Some(row) = row_of(event) else { return };
        let row = FooterRow {
            partition,
            offset,
            time_ms,
            at: place.0,
            index: place.1 as u32,
            is_removal: row.is_removal,
            topic: row.topic.into(),
            key: row.key.into(),
        };
        self.rows.take(row, self.id, self.cores);
    }

    fn take_cursors(&mut self, body: &Body) {
        let partition = body.head().partition;
        let cursors = body.cursors().unwrap_or_default();
        self.cursors
            .extend(cursors.into_iter().map(|cursor| (partition, cursor)));
    }

    fn finish(&mut self) {
        let extents = || self.parts.values().map(|part| &part.extent);
        let newest_ms = extents().map(|extent| extent.newest_ms).max();
        let oldest_ms = extents().map(|extent| extent.oldest_ms).min();
        self.newest_ms = newest_ms.unwrap_or(self.created_ms);
        self.oldest_ms = oldest_ms.unwrap_or(self.created_ms);
        self.batches = extents().map(|extent| extent.batches).sum();
        let ranges = self.parts.values().flat_map(|part| &part.ranges);
        self.events = ranges.map(|(first, last)| last - first + 1).sum();
        self.list_partitions();
    }

    fn list_partitions(&mut self) {
        let mut partitions: Vec<u16> = self.parts.keys().copied().collect();
        partitions.extend(self.rows.partitions());
        partitions.extend(self.cursors.iter().map(|(partition, _)| *partition));
        partitions.sort_unstable();
        partitions.dedup();
        self.partitions = partitions;
    }

    /// Forgets where in a sealed segment what is: that is read again when it is needed. All of them together would be a part
    /// of the log in memory.
    pub(super) fn drop_index(&mut self) {
        if self.footer_at.is_some() {
            for part in self.parts.values_mut() {
                part.extent.index = Vec::new();
            }
        }
    }

    /// Forgets all that it has of the partitions whose owner had let go of it: up to `removed(partition)` retention took
    /// their events, and what was to live on was written elsewhere before.
    pub(super) fn leave(&mut self, removed: impl Fn(u16) -> u64) {
        let held = self
            .parts
            .iter()
            .map(|(partition, part)| (*partition, part.extent.last));
        let promised = self
            .promised
            .iter()
            .map(|(partition, (_, last))| (*partition, *last));
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        for (partition, offset) in held.chain(promised) {
            let last = last.entry(partition).or_default();
            *last = offset.max(*last);
        }
        last.retain(|partition, last| *last <= removed(*partition));
        if last.is_empty() {
            return;
        }
        self.parts.retain(|partition, _| !last.contains_key(partition));
        self.promised.retain(|partition, _| !last.contains_key(partition));
        drop(self.rows.extract(|partition| last.contains_key(&partition)));
        self.cursors
            .retain(|(partition, _)| !last.contains_key(partition));
        self.once.retain(|id| !last.contains_key(&id.partition));
        self.list_partitions();
    }
}

/// What was written here is whole and says nothing that this code understands. Without it offsets might be given twice, or what
/// was removed taken for lost: the log is not read.
fn unknown(at: u64) -> io::Error {
    let why = format!(
        "the batch at byte {at} is whole, and does not say in the known way where partitions stand: start the version that \
         wrote it, or start with an empty directory"
    );
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Adds a batch's offsets; whether they are new. A segment never goes back: what would is no batch of this log's.
fn take_range(ranges: &mut Vec<(u64, u64)>, head: &BatchHead) -> bool {
    let (first, last) = (head.first, head.last());
    if head.count == 0 {
        return false;
    }
    match ranges.last_mut() {
        Some(range) if first <= range.1 => return false,
        Some(range) if first == range.1 + 1 => range.1 = last,
        _ => ranges.push((first, last)),
    }
    true
}
