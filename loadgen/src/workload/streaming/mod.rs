//! The streams of one thread: both ends that live here, what each may write, and what each has read.
//!
//! ```text
//!   client: open ──▶ service           writers: as much as credit allows, or what a schedule has due
//!           chunks ◀── or ──▶ or both  readers: order, loss, latency, gaps; they grant again at half a window
//! ```
//!
//! A stream has a *position*: which stream of which client it is. Its writers are numbered by that in stamps: position for
//! what services send, and behind all positions for what clients send; a stamp's sequence counts the chunks of one
//! stream. The request of an open carries a stamp too, whose publisher is the position: so a service knows whose stream
//! it is, and when it was opened. The two ends of a stream need not be on the same thread; they share nothing, and what
//! was sent and what arrived is compared when the threads' sums are.

mod end;
mod found;

use std::collections::VecDeque;

use crate::protocol::Opening;
use crate::scenario::Direction;
use crate::stamp::Stamp;
use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

use super::pacing::{LATE_NS, Left, OVERTIME_NS, OpenLoop, Sent};
use end::{Ends, Reading};
pub use found::Streamed;

/// A stream that could not be opened, or failed, is opened again so much later, ns.
const PAUSE_NS: u64 = 10_000_000;
/// Streams that are opened in one turn.
const TURN_OPENS_MAX: usize = 256;
/// Chunks that one stream writes before it is another's turn.
const QUANTUM: usize = 64;
/// Dues that a turn takes off the schedule.
const TURN_DUES_MAX: usize = 8_192;

/// What the streams of a run are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Clients whose readers read on, and those whose readers stop, which are numbered behind them.
    pub clients: u32,
    /// See `clients`.
    pub stopped: u32,
    /// Of each client.
    pub streams: u32,
    /// Who sends chunks.
    pub direction: Direction,
    /// What a reader grants, bytes.
    pub window_bytes: u32,
    /// After so many chunks a direction ends, and the stream is opened again once both have.
    pub chunks: Option<u32>,
    /// The largest chunk, bytes.
    pub chunk_bytes_max: u64,
}

impl Shape {
    /// How many streams are open at a time, those of stopped clients included.
    #[must_use]
    pub fn positions(&self) -> u32 {
        (self.clients + self.stopped) * self.streams
    }

    /// How many writers there are; what stands behind them in stamps is nobody's.
    #[must_use]
    pub fn writers(&self) -> u32 {
        2 * self.positions()
    }

    fn is_stopped(&self, position: u32) -> bool {
        position >= self.clients * self.streams
    }

    fn writes(&self, is_client: bool) -> bool {
        match self.direction {
            Direction::Both => true,
            Direction::Up => is_client,
            Direction::Down => !is_client,
        }
    }

    /// The writer at one end of a position.
    fn writer(&self, position: u32, is_client: bool) -> u32 {
        position + if is_client { self.positions() } else { 0 }
    }

    /// The numbers of all writers that are paced by a schedule: one that is stopped writes what credit allows.
    #[must_use]
    pub fn scheduled(&self) -> Vec<u32> {
        let all = self.clients * self.streams;
        let of = |is_client: bool| {
            let count = if self.writes(is_client) { all } else { 0 };
            (0..count).map(move |position| self.writer(position, is_client))
        };
        of(false).chain(of(true)).collect()
    }
}

/// What can be done with a stream: the worker's hand, which knows connections and sessions. `peer` is a connection's
/// index, `stream` the session's number.
pub trait Pen {
    /// Whether the connection takes more now.
    fn has_room(&mut self, peer: u32) -> bool;
    /// Bytes of chunks that may be sent.
    fn credit(&self, peer: u32, stream: u32) -> u64;
    /// Opens one.
    fn open(&mut self, peer: u32, stream: u32, method: u32, opening: Opening, stamp: &Stamp);
    /// Sends a chunk; returns its size.
    fn chunk(&mut self, peer: u32, stream: u32, stamp: &Stamp, is_last: bool) -> u64;
    /// Ends our direction.
    fn end(&mut self, peer: u32, stream: u32);
    /// Lets the other side send more.
    fn grant(&mut self, peer: u32, stream: u32, bytes: u32);
}

/// A connection that has streams.
#[derive(Debug)]
struct Seat {
    peer: u32,
    /// Which client it is, and what it calls; none for a service.
    client: Option<(u32, u32)>,
    ends: Ends,
    is_gone: bool,
}

/// An end, by its seat and its number there.
type At = (u32, u32);

/// What is due of one writer.
#[derive(Debug, Default)]
struct Dues {
    /// The moments, oldest first.
    queue: VecDeque<u64>,
    /// Where its stream is, or was last.
    at: Option<At>,
}

/// See the module.
#[derive(Debug)]
pub struct Streaming {
    shape: Shape,
    seats: Vec<Seat>,
    /// In an open loop.
    schedule: Option<OpenLoop>,
    /// The writers of the schedule, by the index that it gives them.
    scheduled: Vec<u32>,
    /// By writer, in an open loop.
    dues: Vec<Dues>,
    /// All writers are on this thread, whether they were seen yet or not.
    is_alone: bool,
    /// Of all `dues`.
    waiting: u64,
    to_open: VecDeque<At>,
    /// With the moment.
    to_open_again: VecDeque<(u64, At)>,
    to_grant: Vec<At>,
    /// Ends that perhaps have something to write.
    ready: VecDeque<At>,
    /// No new streams and no more chunks: writers end their directions.
    is_ending: bool,
    timetable: Timetable,
    sent: Sent,
    reading: Reading,
    found: Streamed,
    /// Streams that clients here have open.
    open: u64,
}

impl Streaming {
    /// None yet. `schedule` is one for all of [`Shape::scheduled`], whichever thread they are on.
    #[must_use]
    pub fn new(shape: Shape, schedule: Option<OpenLoop>, is_alone: bool) -> Streaming {
        let (scheduled, writers) = match &schedule {
            Some(_) => (shape.scheduled(), shape.writers()),
            None => (Vec::new(), 0),
        };
        Streaming {
            shape,
            seats: Vec::new(),
            schedule,
            scheduled,
            dues: (0..writers).map(|_| Dues::default()).collect(),
            is_alone,
            waiting: 0,
            to_open: VecDeque::new(),
            to_open_again: VecDeque::new(),
            to_grant: Vec::new(),
            ready: VecDeque::new(),
            is_ending: false,
            timetable: Timetable::default(),
            sent: Sent::default(),
            reading: Reading::default(),
            found: Streamed::default(),
            open: 0,
        }
    }

    /// A client that opens streams of a method; returns the index by which it is spoken of.
    pub fn seat_client(&mut self, peer: u32, client: u32, method: u32) -> u32 {
        self.seat(peer, Some((client, method)))
    }

    /// A service.
    pub fn seat_service(&mut self, peer: u32) -> u32 {
        self.seat(peer, None)
    }

    fn seat(&mut self, peer: u32, client: Option<(u32, u32)>) -> u32 {
        self.seats.push(Seat {
            peer,
            client,
            ends: Ends::default(),
            is_gone: false,
        });
        self.seats.len() as u32 - 1
    }

    /// The run begins: every client opens its streams.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.sent = Sent::new(timetable);
        self.reading.begin(timetable);
        for (at, seat) in (0..).zip(&self.seats) {
            if seat.client.is_some() {
                self.to_open
                    .extend((0..self.shape.streams).map(|stream| (at, stream)));
            }
        }
    }

    /// A new turn.
    pub fn begin_turn(&mut self, now_ns: u64) {
        self.reading.begin_turn(now_ns);
    }

    /// What came in the turn is counted.
    pub fn end_turn(&mut self, live: &LiveLatency) {
        self.reading.count_due(live);
    }

    /// When something is due next, as far as that depends on time alone.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        if self.is_ending {
            return None;
        }
        let due_ns = self
            .schedule
            .as_ref()
            .and_then(|schedule| schedule.next_ns(&self.timetable));
        let again_ns = self.to_open_again.front().map(|(at_ns, _)| *at_ns);
        due_ns.into_iter().chain(again_ns).min()
    }

    /// Whether something is to leave still, or a stream has not ended: the run waits for both, a while.
    #[must_use]
    pub fn is_behind(&self, now_ns: u64) -> bool {
        let is_measured_over = now_ns >= self.timetable.measured_to_ns();
        self.waiting > 0 && !self.is_overtime(now_ns) || is_measured_over && self.open > 0
    }

    fn is_overtime(&self, now_ns: u64) -> bool {
        now_ns >= self.timetable.measured_to_ns().saturating_add(OVERTIME_NS)
    }

    /// Opens, grants, writes and ends what is to be now: at most `most` chunks. Whether that was all but for connections
    /// without room.
    pub fn pump(&mut self, now_ns: u64, most: usize, pen: &mut impl Pen) -> bool {
        if self.seats.is_empty() {
            return true;
        }
        if now_ns >= self.timetable.measured_to_ns() && !self.is_ending {
            self.begin_ending();
        }
        self.grant(pen);
        let opened_all = self.open_streams(now_ns, pen);
        self.take_dues(now_ns);
        let mut left = most;
        for _ in 0..self.ready.len() {
            let Some(at) = self.ready.pop_front() else { break };
            let seat = &mut self.seats[at.0 as usize];
            let Some(end) = seat.ends.get_mut(at.1) else {
                continue;
            };
            if seat.is_gone || !end.is_ready {
                continue;
            }
            if !pen.has_room(seat.peer) {
                self.ready.push_back(at);
                continue;
            }
            if self.write(at, now_ns, &mut left, pen) {
                self.ready.push_back(at);
            }
            if left == 0 {
                return false;
            }
        }
        opened_all
    }

    fn begin_ending(&mut self) {
        self.is_ending = true;
        self.to_open.clear();
        self.to_open_again.clear();
        for seat in 0..self.seats.len() as u32 {
            for stream in 0..self.seats[seat as usize].ends.count() {
                self.rouse((seat, stream));
            }
        }
    }

    /// It perhaps has something to write.
    fn rouse(&mut self, at: At) {
        if let Some(end) = self.seats[at.0 as usize].ends.get_mut(at.1)
            && end.is_open
            && !end.is_ready
        {
            end.is_ready = true;
            self.ready.push_back(at);
        }
    }

    fn grant(&mut self, pen: &mut impl Pen) {
        for (seat, stream) in self.to_grant.drain(..) {
            let seat = &mut self.seats[seat as usize];
            if let Some(end) = seat.ends.get_mut(stream)
                && end.is_open
                && !seat.is_gone
            {
                let bytes = std::mem::take(&mut end.ungranted_bytes);
                pen.grant(seat.peer, stream, bytes);
            }
        }
    }

    /// Whether no stream waits to be opened but for a connection's room.
    fn open_streams(&mut self, now_ns: u64, pen: &mut impl Pen) -> bool {
        while let Some(&(at_ns, at)) = self.to_open_again.front()
            && at_ns <= now_ns
        {
            self.to_open_again.pop_front();
            self.to_open.push_back(at);
        }
        for _ in 0..self.to_open.len().min(TURN_OPENS_MAX) {
            let Some(at) = self.to_open.pop_front() else { break };
            let seat = &mut self.seats[at.0 as usize];
            let Some((client, method)) = seat.client.filter(|_| !seat.is_gone) else {
                continue;
            };
            if !pen.has_room(seat.peer) {
                self.to_open.push_back(at);
                continue;
            }
            let position = client * self.shape.streams + at.1;
            let writes = self.shape.writes(true);
            let end = seat.ends.open(at.1, position, now_ns);
            let stamp = Stamp {
                publisher: position,
                sequence: end.opened_before,
                intended_ns: now_ns,
            };
            end.writes = writes;
            end.sent_end = !writes;
            end.is_read_first = self.shape.writes(false);
            let opening = Opening {
                ends: !writes,
                credit_bytes: self.shape.window_bytes,
            };
            pen.open(seat.peer, at.1, method, opening, &stamp);
            self.open += 1;
            self.found.opened += 1;
            self.settle_in(at);
        }
        self.to_open.len() < TURN_OPENS_MAX
    }

    /// A stream begins at this end.
    fn settle_in(&mut self, at: At) {
        let seat = &self.seats[at.0 as usize];
        let Some(end) = seat.ends.get(at.1) else { return };
        if end.writes {
            let writer = self.shape.writer(end.position, seat.client.is_some());
            if let Some(dues) = self.dues.get_mut(writer as usize) {
                dues.at = Some(at);
            }
        }
        self.rouse(at);
    }

    /// What the schedule has due goes to its writers.
    fn take_dues(&mut self, now_ns: u64) {
        let Some(schedule) = &mut self.schedule else {
            return;
        };
        let mut roused = Vec::new();
        let (scheduled, dues) = (&self.scheduled, &mut self.dues);
        let (is_alone, waiting) = (self.is_alone, &mut self.waiting);
        schedule.pump(&self.timetable, now_ns, TURN_DUES_MAX, |index, due_ns| {
            let dues = &mut dues[scheduled[index] as usize];
            if dues.at.is_none() && !is_alone {
                return Left::Gone;
            }
            roused.extend(dues.at);
            dues.queue.push_back(due_ns);
            *waiting += 1;
            Left::Sent
        });
        for at in roused {
            self.rouse(at);
        }
    }

    /// Writes on one stream; whether it is to be asked again.
    fn write(&mut self, at: At, now_ns: u64, left: &mut usize, pen: &mut impl Pen) -> bool {
        let is_overtime = self.is_overtime(now_ns);
        let seat = &mut self.seats[at.0 as usize];
        let (peer, is_client) = (seat.peer, seat.client.is_some());
        let Some(end) = seat.ends.get_mut(at.1) else {
            return false;
        };
        let is_stopped = self.shape.is_stopped(end.position);
        let writer = self.shape.writer(end.position, is_client);
        let mut dues = match &self.schedule {
            Some(_) if !is_stopped => self.dues.get_mut(writer as usize),
            _ => None,
        };
        let phase_now = self.timetable.phase(now_ns);
        let mut closed_loop = 0;
        let mut goes_on = false;
        if end.writes && !end.sent_end {
            let mut credit_bytes = pen.credit(peer, at.1);
            let mut quantum = QUANTUM.min(*left);
            while credit_bytes >= self.shape.chunk_bytes_max {
                if quantum == 0 {
                    goes_on = true;
                    break;
                }
                let intended_ns = match &mut dues {
                    Some(dues) => match dues.queue.pop_front() {
                        Some(due_ns) => due_ns,
                        None => break,
                    },
                    None if self.is_ending => break,
                    None => now_ns,
                };
                let stamp = Stamp {
                    publisher: writer,
                    sequence: end.written,
                    intended_ns,
                };
                end.written += 1;
                let is_last = self
                    .shape
                    .chunks
                    .is_some_and(|chunks| end.written >= u64::from(chunks));
                credit_bytes -= pen.chunk(peer, at.1, &stamp, is_last).min(credit_bytes);
                quantum -= 1;
                *left -= 1;
                if is_stopped {
                    self.found.stopped_written += 1;
                } else if dues.is_some() {
                    self.waiting -= 1;
                    let phase = self.timetable.phase(intended_ns);
                    let is_late = now_ns.saturating_sub(intended_ns) > LATE_NS;
                    self.found.late += u64::from(phase.is_some() && is_late);
                    self.sent.count(phase, 1, 1);
                } else {
                    closed_loop += 1;
                }
                if is_last {
                    end.sent_end = true;
                    break;
                }
                if !pen.has_room(peer) {
                    goes_on = true;
                    break;
                }
            }
        }
        self.sent.count(phase_now, closed_loop, 1);
        let has_dues = dues.is_some_and(|dues| !dues.queue.is_empty()) && !is_overtime;
        let is_through = !end.writes && end.received_end || self.is_ending && !has_dues || end.is_unknown;
        if is_through && !end.sent_end && !goes_on {
            end.sent_end = true;
            pen.end(peer, at.1);
        }
        if end.sent_end && end.received_end {
            self.over(at, now_ns, true);
            return false;
        }
        end.is_ready = goes_on && !end.sent_end;
        end.is_ready
    }

    /// A stream is over at this end.
    fn over(&mut self, at: At, now_ns: u64, is_good: bool) {
        let seat = &mut self.seats[at.0 as usize];
        let is_client = seat.client.is_some();
        let is_gone = seat.is_gone;
        let Some(end) = seat.ends.get_mut(at.1) else {
            return;
        };
        if !end.is_open {
            return;
        }
        end.is_open = false;
        end.is_ready = false;
        self.reading.leave(end, self.shape.is_stopped(end.position));
        if !is_client {
            return;
        }
        self.open -= 1;
        if is_good {
            self.found.ended += 1;
            let is_measured = self.timetable.phase(now_ns).is_some();
            self.found.ended_measured += u64::from(is_measured);
        } else {
            self.found.failed += 1;
        }
        if self.is_ending || is_gone {
            return;
        }
        if is_good {
            self.to_open.push_back(at);
        } else {
            self.to_open_again.push_back((now_ns + PAUSE_NS, at));
        }
    }

    /// A stream was opened to a service.
    pub fn opened(&mut self, seat: u32, stream: u32, payload: &[u8], has_ended: bool, now_ns: u64) {
        let stamp = Stamp::read(payload).filter(|stamp| {
            stamp.publisher < self.shape.positions() && stamp.intended_ns >= self.timetable.start_ns
        });
        let at = (seat, stream);
        let of = &mut self.seats[seat as usize];
        let writes = self.shape.writes(false);
        let opened_ns = stamp.map_or(now_ns, |stamp| stamp.intended_ns);
        let end = of
            .ends
            .open(stream, stamp.map_or(0, |stamp| stamp.publisher), opened_ns);
        end.received_end = has_ended;
        end.writes = writes && stamp.is_some();
        end.is_unknown = stamp.is_none();
        end.is_read_first = self.shape.direction == Direction::Up;
        if stamp.is_none() {
            // Somebody else's: it is ended at once.
            self.reading.foreign += 1;
        }
        self.settle_in(at);
    }

    /// More may be sent on a stream.
    pub fn granted(&mut self, seat: u32, stream: u32) {
        self.rouse((seat, stream));
    }

    /// A chunk came.
    #[inline]
    pub fn chunk(&mut self, seat: u32, stream: u32, payload: &[u8], is_last: bool, live: &LiveLatency) {
        let of = &mut self.seats[seat as usize];
        let is_client = of.client.is_some();
        let Some(end) = of.ends.get_mut(stream) else {
            return;
        };
        // What a client reads was written by the service.
        let writer = self.shape.writer(end.position, !is_client);
        let is_stopped = self.shape.is_stopped(end.position);
        self.reading.chunk(end, writer, is_stopped, payload, live);
        let has_stopped = is_stopped && self.reading.has_stopped();
        let half_bytes = self.shape.window_bytes / 2;
        if !has_stopped && !is_last {
            let before_bytes = end.ungranted_bytes;
            end.ungranted_bytes = before_bytes.saturating_add(payload.len() as u32);
            if before_bytes < half_bytes && end.ungranted_bytes >= half_bytes {
                self.to_grant.push((seat, stream));
            }
        }
        if is_last {
            self.ended(seat, stream);
        }
    }

    /// The other side's direction has ended.
    pub fn ended(&mut self, seat: u32, stream: u32) {
        let Some(end) = self.seats[seat as usize].ends.get_mut(stream) else {
            return;
        };
        end.received_end = true;
        let now_ns = self.reading.now_ns();
        if end.sent_end {
            self.over((seat, stream), now_ns, true);
        } else {
            self.rouse((seat, stream));
        }
    }

    /// A stream failed, or was cancelled.
    pub fn failed(&mut self, seat: u32, stream: u32) {
        let now_ns = self.reading.now_ns();
        self.over((seat, stream), now_ns, false);
    }

    /// A connection is gone, and with it its streams; whether any client is left here, or none ever was.
    pub fn gone(&mut self, seat: u32) -> bool {
        self.seats[seat as usize].is_gone = true;
        let now_ns = self.reading.now_ns();
        for stream in 0..self.seats[seat as usize].ends.count() {
            self.over((seat, stream), now_ns, false);
        }
        let mut clients = self.seats.iter().filter(|seat| seat.client.is_some());
        self.seats[seat as usize].client.is_none() || clients.any(|seat| !seat.is_gone)
    }

    /// Something came that is not of a stream of this run.
    pub fn foreign(&mut self) {
        self.reading.foreign += 1;
    }

    /// Chunks sent altogether, and the arrivals that the measured ones should lead to.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.all, self.sent.expected_measured)
    }

    /// Chunks that came so far, and those of the measured time.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        self.reading.delivered()
    }

    /// The end: what was sent and what came, by phase, and what else there is to say.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Tally>, Streamed) {
        for seat in &mut self.seats {
            for stream in 0..seat.ends.count() {
                if let Some(end) = seat.ends.get_mut(stream)
                    && end.is_open
                {
                    self.reading.leave(end, self.shape.is_stopped(end.position));
                }
            }
        }
        let mut found = self.found;
        found.unsent = self.waiting;
        if let Some(schedule) = self.schedule.filter(|_| self.is_alone) {
            found.unsent += schedule.finish(&self.timetable).1;
        }
        let mut tallies = self.sent.tallies;
        self.reading.finish(&mut tallies, &mut found);
        (tallies, found)
    }
}

#[cfg(test)]
mod tests;
