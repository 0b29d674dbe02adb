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
//! Where the index of the segment is not in memory, the first read is for that.
//!
//! Whoever has to wait plans again when its turn comes: what it wanted may be gone by then. A batch whose checksum is wrong
//! is damage from now on: told to each who comes by, never served.

mod pieces;
mod rows;
mod walk;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::Log;
use super::disk::{DiskFault, DiskOp, SegmentId};
use super::events::{ReaderId, Reading, Stored};
use super::partition::{Plan, Stretch, What};
use pieces::Pieces;
use rows::Rows;

/// Bytes that are being read for all readers of a core together; a single read may be larger.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
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
struct Job {
    partition: u16,
    want: Want,
    /// Its read under way, and what of.
    reading: Option<(u64, Stretch)>,
    /// Its turn among those that wait for others' reads.
    turn: Option<u64>,
    /// What could not be read at once.
    pieces: Option<Pieces>,
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
    /// Those that wait for others' reads to be done, each with its turn; where its job has another, it does not count.
    waiting: VecDeque<(ReaderId, u64)>,
    next_turn: u64,
    /// So many of them do not count.
    stale: usize,
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
            next_turn: 1,
            stale: 0,
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
        if let Some(mut job) = self.jobs.remove(&reader) {
            self.give_up_turn(&mut job);
        }
        self.done.retain(|(done, _)| *done != reader);
    }

    /// Has a reader wait until others' reads are done.
    fn wait(&mut self, reader: ReaderId, job: &mut Job) {
        job.turn = Some(self.next_turn);
        self.waiting.push_back((reader, self.next_turn));
        self.next_turn += 1;
    }

    /// Whoever had this job, which is in none of the maps now, waits no more.
    fn give_up_turn(&mut self, job: &mut Job) {
        if job.turn.take().is_none() {
            return;
        }
        // While the disk hangs readers may come and go, and all may go at once: those that wait are looked through only when
        // most of them are gone.
        self.stale += 1;
        if self.stale > self.waiting.len() / 2 {
            let jobs = &self.jobs;
            self.waiting
                .retain(|(reader, turn)| jobs.get(reader).is_some_and(|job| job.turn == Some(*turn)));
            self.stale = 0;
        }
    }

    /// The reader whose turn it is, and which waits no more; `None`: nobody waits.
    fn take_turn(&mut self) -> Option<ReaderId> {
        while let Some((reader, turn)) = self.waiting.pop_front() {
            if let Some(job) = self.jobs.get_mut(&reader)
                && job.turn == Some(turn)
            {
                job.turn = None;
                return Some(reader);
            }
            self.stale = self.stale.saturating_sub(1);
        }
        None
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
        let rows = Rows::new(offsets, with_removals);
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
            turn: None,
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
            readers.wait(reader, &mut job);
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
                    if let Some(mut job) = self.readers.jobs.remove(&reader) {
                        self.readers.give_up_turn(&mut job);
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
        let Some(mut job) = self.readers.jobs.remove(&reader) else {
            return;
        };
        self.readers.give_up_turn(&mut job);
        if let Some(reading) = self.go_on(reader, job) {
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
        for _ in self.readers.stale..self.readers.waiting.len() {
            if self.readers.in_flight_bytes >= READ_BYTES_MAX {
                break;
            }
            let Some(reader) = self.readers.take_turn() else {
                break;
            };
            self.wake(reader);
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
                Some(bytes) => self.take_bytes(reader, job, stretch, &bytes, false),
                None => {
                    job.pieces = Some(Pieces {
                        stretch,
                        bytes: Vec::new(),
                        is_unreadable: false,
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
            pieces.is_unreadable = true;
        }
        if !is_end && pieces.next().is_some() {
            job.pieces = Some(pieces);
            return self.go_on(reader, job);
        }
        let bytes = Bytes::from(pieces.bytes);
        self.take_bytes(reader, job, pieces.stretch, &bytes, pieces.is_unreadable)
    }

    /// Takes what was read; `is_unreadable`: some of it could not be, and is zeros.
    fn take_bytes(
        &mut self,
        reader: ReaderId,
        mut job: Job,
        stretch: Stretch,
        bytes: &Bytes,
        is_unreadable: bool,
    ) -> Option<Reading> {
        match &mut job.want {
            Want::Behind { .. } if stretch.what != What::Events => {
                let is_found = self.take_index(job.partition, stretch, bytes);
                if !is_found && stretch.what == What::Whole {
                    if is_unreadable {
                        let segment = stretch.segment.name();
                        return Some(Reading::Failed(format!("segment {segment} cannot be read")));
                    }
                    // None of it is there any more.
                    self.note_damage(job.partition, stretch.first, stretch.last);
                }
            }
            Want::Behind { after, bytes_max } => {
                let (stored, until, damage) = self.walk(job.partition, stretch, bytes, *bytes_max);
                if let Some((first, last)) = damage {
                    if is_unreadable && stored.is_empty() {
                        // Not remembered: the disk may give it to the next who asks.
                        return Some(Reading::Damaged { first, last });
                    }
                    if !is_unreadable {
                        self.note_damage(job.partition, first, last);
                    }
                }
                if !stored.is_empty() {
                    return Some(Reading::Events { stored, until });
                }
                // Nothing but damage, which is remembered now.
                *after = (*after).max(stretch.first - 1);
            }
            Want::Rows(rows) => self.take_rows(job.partition, rows, stretch, bytes, is_unreadable),
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
            Plan::Disk(stretch) => {
                self.indices.touch(stretch.segment);
                Next::Read(stretch)
            }
            Plan::Index { segment, first, last } => match self.index_of(segment, (first, last)) {
                Some(stretch) => Next::Read(stretch),
                None => Next::Say(Reading::Failed(format!(
                    "nothing says where in the log's segment {} offset {} is",
                    segment.name(),
                    after + 1
                ))),
            },
            Plan::Tail { after } => {
                let stored = partition.tail.read(after, bytes_max);
                let until = stored.last().map_or(after, Stored::last);
                Next::Say(Reading::Events { stored, until })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(readers: &mut Readers, reader: ReaderId) {
        let mut job = Job {
            partition: 0,
            want: Want::Behind {
                after: 0,
                bytes_max: 1,
            },
            reading: None,
            turn: None,
            pieces: None,
        };
        readers.wait(reader, &mut job);
        readers.jobs.insert(reader, job);
    }

    #[test]
    fn those_that_go_while_they_wait_leave_the_others_their_turn() {
        let mut readers = Readers::new(FixedState::with_seed(1));
        for reader in 0..1_000 {
            wait(&mut readers, ReaderId(reader));
        }
        // One that comes back waits behind all that are there.
        readers.forget(ReaderId(10));
        wait(&mut readers, ReaderId(10));
        for reader in (0..1_000_u64).filter(|reader| !reader.is_multiple_of(10)) {
            readers.forget(ReaderId(reader));
            assert!(readers.stale <= readers.waiting.len() / 2, "they do not pile up");
        }
        assert!(readers.waiting.len() <= 201, "{}", readers.waiting.len());
        let turns: Vec<u64> = std::iter::from_fn(|| readers.take_turn())
            .map(|reader| reader.0)
            .collect();
        let others = (0..1_000).step_by(10).filter(|reader| *reader != 10);
        let expected: Vec<u64> = others.chain([10]).collect();
        assert_eq!(turns, expected);
        assert_eq!((readers.stale, readers.waiting.len()), (0, 0));
    }
}
