//! Reading: from memory at once, else from the disk, a stretch of a segment at a time. What comes back is checked and handed
//! on as it is, as slices of what was read.
//!
//! ```text
//!   read ──> plan ──> tail ────────────────────────────────────────────────────> Reading
//!              ^ │
//!              │ └──> disk ──> file open? ──> room? ──> DiskOp::Read ──> walk ──> Reading, by poll_read
//!              └────── opened ───┘  └── when a read is done ──┘
//! ```
//!
//! Whoever has to wait plans again when its turn comes: what it wanted may be gone by then. A batch whose checksum is wrong
//! is damage from now on: told to each who comes by, never served.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::Log;
use super::disk::{DiskFault, DiskOp, SegmentId};
use super::events::{Events, ReaderId, Reading, Stored};
use super::format::{ALIGN_BYTES, BATCH_HEAD_BYTES, BatchHead, Body, Kind, salt_of};
use super::partition::{Plan, Stretch};
use super::tail::cut;

/// Bytes that are being read for all readers of a core together; a single read may be larger.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much is read of a batch of which only the place is known, bytes.
const BATCH_GUESS_BYTES: u32 = 16 * 1024;
/// How much is read at once of what could not be read at once, bytes.
const PIECE_BYTES: u64 = 4096;
/// How many bytes of retained events are handed over at once, about.
pub(super) const ROWS_BYTES: usize = 60 * 1024;

/// The reader that carries retained events on when their segment is removed.
pub(super) const CARRIER: ReaderId = ReaderId(u64::MAX);

#[derive(Debug)]
enum Want {
    /// What is behind a position.
    Behind { after: u64, bytes_max: usize },
    /// Retained events.
    Rows(Rows),
}

#[derive(Debug)]
struct Rows {
    /// Those to come, ascending.
    offsets: VecDeque<u64>,
    out: RowsOut,
    /// The last one that was dealt with.
    until: u64,
    /// A batch that was found to be longer than what was read of it, and how long it is.
    long: Option<(SegmentId, u64, u32)>,
    /// Removals, too, as far as they are to be carried on.
    with_removals: bool,
}

#[derive(Debug)]
struct Job {
    partition: u16,
    want: Want,
    /// Its read under way, and what of.
    reading: Option<(u64, Stretch)>,
    /// What could not be read at once.
    pieces: Option<Pieces>,
}

/// A stretch that the disk would not give: read again a little at a time, so that no more is lost than has to be.
#[derive(Debug)]
struct Pieces {
    stretch: Stretch,
    /// What was read, with zeros for what could not be.
    bytes: Vec<u8>,
}

impl Pieces {
    /// The next one.
    fn next(&self) -> Option<Stretch> {
        let done = self.bytes.len() as u64;
        let left = u64::from(self.stretch.bytes).saturating_sub(done);
        let at = self.stretch.at + done;
        // Up to the end of a page of the file.
        let bytes = left.min(PIECE_BYTES - at % PIECE_BYTES);
        (bytes > 0).then_some(Stretch {
            at,
            bytes: bytes as u32,
            ..self.stretch
        })
    }
}

#[derive(Debug)]
struct Flight {
    reader: ReaderId,
    segment: SegmentId,
    bytes: u32,
}

/// Everybody who waits for the disk.
#[derive(Debug)]
pub(super) struct Readers {
    jobs: HashMap<ReaderId, Job, FixedState>,
    flights: HashMap<u64, Flight, FixedState>,
    next_ticket: u64,
    in_flight_bytes: usize,
    /// Those that wait for others' reads to be done.
    waiting: VecDeque<ReaderId>,
    done: VecDeque<(ReaderId, Reading)>,
}

impl Readers {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            jobs: HashMap::with_hasher(hasher.clone()),
            flights: HashMap::with_hasher(hasher),
            next_ticket: 1,
            in_flight_bytes: 0,
            waiting: VecDeque::new(),
            done: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn next_done(&mut self) -> Option<(ReaderId, Reading)> {
        self.done.pop_front()
    }

    pub(super) fn forget(&mut self, reader: ReaderId) {
        self.jobs.remove(&reader);
        self.done.retain(|(done, _)| *done != reader);
    }
}

/// Collects retained events: those of one time as one run.
#[derive(Debug, Default)]
struct RowsOut {
    runs: Vec<Stored>,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    offsets: Vec<u64>,
    time_ms: u64,
    all_bytes: usize,
}

impl RowsOut {
    fn push(&mut self, offset: u64, time_ms: u64, event: &[u8]) {
        if time_ms != self.time_ms {
            self.flush();
        }
        self.time_ms = time_ms;
        self.bytes.extend_from_slice(event);
        self.ends.push(self.bytes.len() as u32);
        self.offsets.push(offset);
        self.all_bytes += event.len();
    }

    fn flush(&mut self) {
        let Some(&first) = self.offsets.first() else {
            return;
        };
        let deltas = self.offsets.windows(2).map(|pair| pair[1] - pair[0]);
        let is_dense = deltas.clone().all(|delta| delta == 1);
        let deltas: Option<Arc<[u32]>> = (!is_dense).then(|| {
            deltas
                .map(|delta| u32::try_from(delta).unwrap_or(u32::MAX))
                .collect()
        });
        self.runs.push(Stored {
            events: Events {
                bytes: std::mem::take(&mut self.bytes).into(),
                ends: self.ends.drain(..).collect(),
            },
            first,
            deltas,
            time_ms: self.time_ms,
            expires: true,
        });
        self.offsets.clear();
    }

    fn take(&mut self) -> Vec<Stored> {
        self.flush();
        self.all_bytes = 0;
        std::mem::take(&mut self.runs)
    }
}

/// What is to be done for a reader next.
enum Next {
    Say(Reading),
    Read(Stretch),
}

impl Log {
    /// Reads what is behind a position, about so many bytes but one event at least. [`Reading::Later`]: what was read comes
    /// out of [`Log::poll_read`], and until then this reader asks for nothing else.
    pub fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading {
        let want = Want::Behind { after, bytes_max };
        self.begin_job(reader, partition, want)
    }

    /// Reads retained events, whose offsets ascend. Those that were replaced meanwhile are left out. What comes is a first
    /// part of them, up to `until`: ask again for the rest.
    pub fn read_rows(&mut self, reader: ReaderId, partition: u16, offsets: &[u64]) -> Reading {
        self.begin_rows(reader, partition, offsets, false)
    }

    /// As [`Log::read_rows`], for the log itself.
    pub(super) fn begin_rows(
        &mut self,
        reader: ReaderId,
        partition: u16,
        offsets: &[u64],
        with_removals: bool,
    ) -> Reading {
        let rows = Rows {
            offsets: offsets.iter().copied().collect(),
            out: RowsOut::default(),
            until: offsets.last().copied().unwrap_or_default(),
            long: None,
            with_removals,
        };
        self.begin_job(reader, partition, Want::Rows(rows))
    }

    /// Forgets what this reader asked for.
    pub fn forget_reader(&mut self, reader: ReaderId) {
        self.readers.forget(reader);
    }

    /// What a reader asked for and had to wait for.
    pub fn poll_read(&mut self) -> Option<(ReaderId, Reading)> {
        self.readers.next_done()
    }

    fn begin_job(&mut self, reader: ReaderId, partition: u16, want: Want) -> Reading {
        if !self.is_ready(partition) {
            return Reading::Failed("this partition is being recovered".to_owned());
        }
        self.readers.forget(reader);
        let job = Job {
            partition,
            want,
            reading: None,
            pieces: None,
        };
        self.go_on(reader, job).unwrap_or(Reading::Later)
    }

    /// Does what can be done for a reader now; `None`: it waits.
    fn go_on(&mut self, reader: ReaderId, mut job: Job) -> Option<Reading> {
        if let Some(piece) = job.pieces.as_ref().and_then(Pieces::next) {
            self.begin_read(reader, job, piece);
            return None;
        }
        let next = match &mut job.want {
            Want::Behind { after, bytes_max } => self.next_behind(job.partition, *after, *bytes_max),
            Want::Rows(rows) => self.next_rows(job.partition, rows),
        };
        match next {
            Next::Say(reading) => Some(reading),
            Next::Read(stretch) => {
                self.begin_read(reader, job, stretch);
                None
            }
        }
    }

    fn begin_read(&mut self, reader: ReaderId, mut job: Job, stretch: Stretch) {
        let readers = &mut self.readers;
        let bytes = stretch.bytes as usize;
        if readers.in_flight_bytes > 0 && readers.in_flight_bytes + bytes > READ_BYTES_MAX {
            readers.waiting.push_back(reader);
        } else if self.opened.want(stretch.segment, reader, &mut self.ops) {
            let ticket = readers.next_ticket;
            readers.next_ticket += 1;
            readers.in_flight_bytes += bytes;
            readers.flights.insert(
                ticket,
                Flight {
                    reader,
                    segment: stretch.segment,
                    bytes: stretch.bytes,
                },
            );
            job.reading = Some((ticket, stretch));
            self.opened.begin_read(stretch.segment);
            self.ops.push_back(DiskOp::Read {
                ticket,
                segment: stretch.segment,
                at: stretch.at,
                bytes: stretch.bytes,
            });
        }
        self.readers.jobs.insert(reader, job);
    }

    /// A segment that some wait for was opened, or could not be.
    pub(super) fn handle_opened(&mut self, segment: SegmentId, result: Result<(), DiskFault>) {
        for reader in self.opened.opened(segment, result.is_ok()) {
            match &result {
                Ok(()) => self.wake(reader),
                Err(fault) => {
                    if self.readers.jobs.remove(&reader).is_some() {
                        let why = format!("segment {}: {fault}", segment.name());
                        self.finish_read(reader, Reading::Failed(why));
                    }
                }
            }
        }
    }

    /// Has a reader that waited plan again.
    fn wake(&mut self, reader: ReaderId) {
        let Some(job) = self.readers.jobs.get(&reader) else {
            return;
        };
        if job.reading.is_some() {
            return;
        }
        if let Some(job) = self.readers.jobs.remove(&reader)
            && let Some(reading) = self.go_on(reader, job)
        {
            self.finish_read(reader, reading);
        }
    }

    /// A read is done.
    pub(super) fn handle_read(&mut self, ticket: u64, result: Result<Bytes, DiskFault>) {
        let Some(flight) = self.readers.flights.remove(&ticket) else {
            return;
        };
        self.readers.in_flight_bytes -= flight.bytes as usize;
        self.opened.end_read(flight.segment);
        let reader = flight.reader;
        let is_its = |job: &Job| job.reading.is_some_and(|(reading, _)| reading == ticket);
        if self.readers.jobs.get(&reader).is_some_and(is_its)
            && let Some(mut job) = self.readers.jobs.remove(&reader)
            && let Some((_, stretch)) = job.reading.take()
        {
            let reading = match result {
                // A disk that takes nothing either is broken as a whole: that says nothing about what is there.
                Err(fault) if self.stream.trouble.is_some() => Some(Reading::Failed(format!(
                    "segment {} at {}: {fault}",
                    stretch.segment.name(),
                    stretch.at
                ))),
                result => self.take_read(reader, job, stretch, result.ok()),
            };
            if let Some(reading) = reading {
                self.finish_read(reader, reading);
            }
        }
        for _ in 0..self.readers.waiting.len() {
            if self.readers.in_flight_bytes >= READ_BYTES_MAX {
                break;
            }
            if let Some(reader) = self.readers.waiting.pop_front() {
                self.wake(reader);
            }
        }
    }

    /// Takes what was read; `None`: it could not be.
    fn take_read(
        &mut self,
        reader: ReaderId,
        mut job: Job,
        stretch: Stretch,
        bytes: Option<Bytes>,
    ) -> Option<Reading> {
        let Some(mut pieces) = job.pieces.take() else {
            return match bytes {
                Some(bytes) => self.take_bytes(reader, job, stretch, &bytes),
                None => {
                    job.pieces = Some(Pieces {
                        stretch,
                        bytes: Vec::new(),
                    });
                    self.go_on(reader, job)
                }
            };
        };
        let is_end = bytes
            .as_ref()
            .is_some_and(|bytes| bytes.len() < stretch.bytes as usize);
        let until = pieces.bytes.len() + stretch.bytes as usize;
        pieces
            .bytes
            .extend_from_slice(bytes.as_deref().unwrap_or_default());
        if bytes.is_none() {
            pieces.bytes.resize(until, 0);
        }
        if !is_end && pieces.next().is_some() {
            job.pieces = Some(pieces);
            return self.go_on(reader, job);
        }
        let bytes = Bytes::from(pieces.bytes);
        self.take_bytes(reader, job, pieces.stretch, &bytes)
    }

    fn take_bytes(
        &mut self,
        reader: ReaderId,
        mut job: Job,
        stretch: Stretch,
        bytes: &Bytes,
    ) -> Option<Reading> {
        match &mut job.want {
            Want::Behind { after, bytes_max } => {
                let (stored, until) = self.walk(job.partition, stretch, bytes, *bytes_max);
                if !stored.is_empty() {
                    return Some(Reading::Events { stored, until });
                }
                // Nothing but damage, which is remembered now.
                *after = (*after).max(stretch.first - 1);
            }
            Want::Rows(rows) => self.take_rows(job.partition, rows, stretch, bytes),
        }
        self.go_on(reader, job)
    }

    fn finish_read(&mut self, reader: ReaderId, reading: Reading) {
        if reader == CARRIER {
            self.carry_read(reading);
        } else {
            self.readers.done.push_back((reader, reading));
        }
    }

    fn next_behind(&mut self, partition: u16, after: u64, bytes_max: usize) -> Next {
        let Some(partition) = self.partition(partition) else {
            return Next::Say(Reading::End);
        };
        match partition.plan(after, bytes_max) {
            Plan::Say(reading) => Next::Say(reading),
            Plan::Disk(stretch) => Next::Read(stretch),
            Plan::Tail { after } => {
                let stored = partition.tail.read(after, bytes_max);
                let until = stored.last().map_or(after, Stored::last);
                Next::Say(Reading::Events { stored, until })
            }
        }
    }

    /// Takes a stretch apart: the events that are wanted, and the position that is reached with them. What is missing is
    /// noted as damaged.
    fn walk(&mut self, number: u16, stretch: Stretch, bytes: &Bytes, bytes_max: usize) -> (Vec<Stored>, u64) {
        let salt = salt_of(self.secret, stretch.segment);
        let mut stored = Vec::new();
        let mut room = bytes_max;
        let mut reached = stretch.first - 1;
        let mut damage = None;
        let mut at = 0;
        while reached < stretch.last && at + BATCH_HEAD_BYTES <= bytes.len() {
            let Ok(head) = BatchHead::decode(&bytes[at..], salt, stretch.at + at as u64) else {
                // Whose it was nobody knows; heads stand at multiples of 8.
                at += ALIGN_BYTES as usize;
                continue;
            };
            let body_at = at + BATCH_HEAD_BYTES;
            at += head.bytes() as usize;
            if head.kind != Kind::Events || head.partition != number || head.last() <= reached {
                continue;
            }
            if head.first > reached + 1 {
                damage = Some((reached + 1, (head.first - 1).min(stretch.last)));
                break;
            }
            let body = Body::check(head, &bytes.slice(body_at.min(bytes.len())..));
            let Ok(Some(mut run)) = body.and_then(|body| body.events()) else {
                damage = Some((reached + 1, head.last().min(stretch.last)));
                break;
            };
            if run.last() > stretch.last {
                let keep = (stretch.last + 1 - run.first) as usize;
                run.events = run.events.slice(0..keep);
            }
            let skip = (reached + 1 - run.first) as usize;
            let Some(part) = cut(&run, skip, room, stored.is_empty()) else {
                break;
            };
            room = room.saturating_sub(part.events.bytes.len());
            reached = part.last();
            let is_cut = reached < run.last();
            stored.push(part);
            if is_cut {
                break;
            }
        }
        if damage.is_none() && stored.is_empty() {
            damage = Some((reached + 1, stretch.last));
        }
        if let (Some((first, last)), Some(partition)) = (damage, self.index(number)) {
            self.partitions[partition].note_damage(first, last);
        }
        (stored, reached)
    }

    fn next_rows(&mut self, number: u16, rows: &mut Rows) -> Next {
        let partition = self.partition(number);
        let retained = partition.and_then(|partition| partition.retained.as_deref());
        let (Some(partition), Some(retained)) = (partition, retained) else {
            let until = rows.until;
            return Next::Say(Reading::Events {
                stored: Vec::new(),
                until,
            });
        };
        while let Some(&offset) = rows.offsets.front() {
            if rows.out.all_bytes >= ROWS_BYTES {
                break;
            }
            let is_wanted = |removal: bool| !removal || rows.with_removals;
            let row = retained.get(offset).filter(|row| is_wanted(row.is_removal));
            let Some(row) = row else {
                rows.offsets.pop_front();
                continue;
            };
            if row.is_damaged {
                if rows.out.all_bytes > 0 {
                    break;
                }
                self.forget_row(number, offset);
                return Next::Say(Reading::Damaged {
                    first: offset,
                    last: offset,
                });
            }
            if let Some(run) = partition.tail.find(offset) {
                let event = run.events.get((offset - run.first) as usize);
                rows.out.push(offset, run.time_ms, event);
                rows.offsets.pop_front();
                continue;
            }
            let Some(place) = row.place else {
                rows.offsets.pop_front();
                continue;
            };
            let long = rows
                .long
                .filter(|&(segment, at, _)| (segment, at) == (place.segment, place.at));
            return Next::Read(Stretch {
                segment: place.segment,
                at: place.at,
                bytes: long.map_or(BATCH_GUESS_BYTES, |(.., bytes)| bytes),
                first: offset,
                last: offset,
            });
        }
        let until = rows.offsets.front().map_or(rows.until, |next| next - 1);
        Next::Say(Reading::Events {
            stored: rows.out.take(),
            until,
        })
    }

    /// Takes a row out of its table.
    fn forget_row(&mut self, number: u16, offset: u64) {
        if let Some(at) = self.index(number)
            && let Some(retained) = &mut self.partitions[at].retained
            && retained.remove(offset).is_some()
        {
            self.rows -= 1;
        }
    }

    /// Takes all rows that are wanted from one batch.
    fn take_rows(&mut self, number: u16, rows: &mut Rows, stretch: Stretch, bytes: &Bytes) {
        let salt = salt_of(self.secret, stretch.segment);
        let head = BatchHead::decode(bytes, salt, stretch.at).ok();
        if let Some(head) = head
            && head.bytes() > u64::from(stretch.bytes)
            && let Ok(bytes) = u32::try_from(head.bytes())
        {
            rows.long = Some((stretch.segment, stretch.at, bytes));
            return;
        }
        let body =
            head.and_then(|head| Body::check(head, &bytes.slice(BATCH_HEAD_BYTES.min(bytes.len())..)).ok());
        let found = body.and_then(|body| Found::of(&body));
        let Some(partition) = self.index(number) else {
            return;
        };
        let Some(retained) = &mut self.partitions[partition].retained else {
            return;
        };
        while let Some(&offset) = rows.offsets.front() {
            let place = retained.get(offset).and_then(|row| row.place);
            if place.is_none_or(|place| (place.segment, place.at) != (stretch.segment, stretch.at)) {
                break; // of another batch, or moved meanwhile
            }
            let index = place.map_or(0, |place| place.index as usize);
            match found.as_ref().and_then(|found| found.event(index, offset)) {
                Some((time_ms, event)) => rows.out.push(offset, time_ms, event),
                None => {
                    // It cannot be read, now or later: whoever asks for it next is told, and it is a row no more.
                    if let Some(row) = retained.get_mut(offset) {
                        row.is_damaged = true;
                    }
                    break;
                }
            }
            rows.offsets.pop_front();
        }
    }
}

/// The events of a batch that holds retained ones.
enum Found {
    Run(Stored),
    Kept(Vec<super::format::Kept>),
}

impl Found {
    fn of(body: &Body) -> Option<Self> {
        match body.head().kind {
            Kind::Events => body.events().ok()?.map(Self::Run),
            Kind::Kept => body.kept().ok().map(Self::Kept),
            _ => None,
        }
    }

    /// The time and the bytes of one of them, if it has this offset.
    fn event(&self, index: usize, offset: u64) -> Option<(u64, &[u8])> {
        match self {
            Self::Run(run) => {
                let is_it = index < run.events.len() && run.first + index as u64 == offset;
                is_it.then(|| (run.time_ms, run.events.get(index)))
            }
            Self::Kept(kept) => {
                let kept = kept.get(index).filter(|kept| kept.offset == offset)?;
                Some((kept.time_ms, &kept.event))
            }
        }
    }
}
