//! One generator thread: its ring, its connections, and the parts that they play.
//!
//! ```text
//!   turn: submit, park or spin, gather → time → events → stage → what is due → seal and send → progress
//! ```
//!
//! The clock is read once a turn. What one turn publishes on a connection is written back to back and leaves as one piece;
//! what arrives is looked at where it lies. Nothing is allocated for a message and nothing is locked; other threads are
//! told by atomics, once a turn.

mod peer;
mod pen;
mod seat;
pub mod shared;
mod stages;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fluxar_engine::driver::Driver;
use fluxar_engine::listener::Address;
use fluxar_engine::reactor::{Cause, Chunk, Close, Conn, Event, Piece, Reactor};
use fluxar_engine::uring::UringDriver;
use fluxar_engine::ws::WsDial;

use crate::payload::Payloads;
use crate::protocol::{Incoming, Names, Protocol, Session};
use crate::stamp::Stamp;
use crate::tally::{Tally, Timetable};
use crate::workload::calling::{Called, Calling};
use crate::workload::hearing::{Heard, Hearing};
use crate::workload::publishing::{Published, Publishing};
use crate::workload::storing::Storing;
use crate::workload::streaming::{Streamed, Streaming};
use crate::workload::visiting::Visiting;
use crate::workload::{Cast, Part};

use peer::{Notes, Peer, State};
use pen::Hand;
use shared::{Shared, Stage};

pub(crate) use seat::Seat;

/// A letter says nothing but that there is something to look at.
#[derive(Debug)]
pub(crate) struct Look;

/// Received bytes after which a turn goes on to what is due.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// Messages that a turn sends at most, and their bytes.
const TURN_MESSAGES_MAX: usize = 1_024;
const TURN_SENT_BYTES_MAX: usize = 256 * 1024;
/// What waits to be sent on one connection before publishes on it wait.
const QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// A thread looks at the stage at least this often, ns.
const PARK_NS: u64 = 5_000_000;
/// A turn in which nothing happens takes less, ns.
const IDLE_TURN_NS: u64 = 20_000;
/// Ends of connections that are kept with what was said.
const CUTS_MAX: usize = 16;

/// A connection that ended though it was needed.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) part: Part,
    pub(crate) number: u64,
    /// Since the warm-up began, ns.
    pub(crate) after_ns: u64,
    pub(crate) words: String,
}

/// What a thread found out.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) published: Vec<Tally>,
    /// Acknowledgements, where they are what publishes lead to.
    pub(crate) stored: Vec<Tally>,
    pub(crate) heard: Vec<Tally>,
    pub(crate) called: Vec<Tally>,
    pub(crate) streamed: Vec<Tally>,
    pub(crate) visited: Vec<Tally>,
    pub(crate) spoken: Tally,
    pub(crate) of_publishers: Published,
    pub(crate) of_subscribers: Heard,
    pub(crate) of_callers: Called,
    pub(crate) of_streams: Streamed,
    pub(crate) acknowledged: u64,
    pub(crate) served: u64,
    /// Drops that were told to subscribers that stopped reading.
    pub(crate) told_stopped: u64,
    /// Ends of connections that were needed, and how many there were.
    pub(crate) cuts: Vec<Cut>,
    pub(crate) cuts_count: u64,
    /// What the first refusal said.
    pub(crate) refusal: Option<String>,
    /// Why the first visitor failed.
    pub(crate) visit_fault: Option<String>,
}

/// See the module.
pub(crate) struct Worker<P: Protocol> {
    reactor: Reactor<UringDriver, Look>,
    thread: usize,
    threads: usize,
    spins: bool,
    shared: Arc<Shared>,
    cast: Arc<Cast>,
    names: Arc<Names>,
    /// Of publishers, callers and clients; of the others; of services that listen.
    protocols: [Arc<P>; 3],
    /// Where they connect.
    addresses: [Address; 2],
    websocket: Arc<WsDial>,
    sources: Vec<IpAddr>,
    sources_used: usize,
    /// So many connections at a time.
    connections_max: usize,
    peers: Vec<Peer<P::Session>>,
    /// Places of visitors that have gone.
    free: Vec<u32>,
    /// Which peer a reactor's slot belongs to.
    by_slot: Vec<u32>,
    /// Peers that wait to be dialled.
    to_dial: VecDeque<u32>,
    /// Peers that ask again in a moment.
    to_ask: Vec<u32>,
    /// Dialled and not prepared, in [`Stage::Connect`].
    under_way: usize,
    dirty: Vec<u32>,
    payloads: Payloads,
    publishing: Publishing,
    /// Where events are stored.
    storing: Option<Storing>,
    hearing: Hearing,
    calling: Calling,
    streaming: Streaming,
    visiting: Option<Visiting>,
    /// The connection that speaks to the silent ones.
    speaker: Option<usize>,
    timetable: Timetable,
    stage: Stage,
    now_ns: u64,
    /// The turn's budget ran out, or stages have more to do: no parking.
    has_more: bool,
    /// Publishes are due that a connection has no room for.
    is_blocked: bool,
    /// Something was due and did not leave, and still may.
    is_behind: bool,
    stopped_reading: bool,
    /// How far [`Stage::Rouse`] and [`Stage::Speak`] are in the list of peers.
    spoken_to: usize,
    roused: u64,
    prepared: u64,
    /// Connections from the server that are prepared, and all that ever came.
    attached: u64,
    accepted: u64,
    looked_ns: u64,
    outcome: Outcome,
}

impl<P: Protocol> Worker<P> {
    /// The whole run.
    pub(crate) fn run(mut self) -> io::Result<Outcome> {
        while self.stage != Stage::Stop {
            let before_ns = self.now_ns;
            self.reactor.turn(self.park_until_ns())?;
            self.now_ns = self.reactor.now_ns();
            let was_idle = !self.turn();
            if self.spins && was_idle {
                let idle_ns = &self.shared.progress[self.thread].0.idle_ns;
                // What took longer was not looking for work, but somebody else's turn on this processor.
                let looked_ns = self.now_ns.saturating_sub(before_ns).min(IDLE_TURN_NS);
                idle_ns.fetch_add(looked_ns, Ordering::Relaxed);
            }
        }
        self.leave_all()?;
        Ok(self.finish())
    }

    fn park_until_ns(&self) -> Option<u64> {
        if self.has_more || (self.spins && self.stage == Stage::Run) {
            return Some(0);
        }
        let look_ns = self.now_ns + PARK_NS;
        if self.stage != Stage::Run {
            return Some(look_ns);
        }
        if self.now_ns < self.timetable.start_ns {
            return Some(look_ns.min(self.timetable.start_ns));
        }
        let due_ns = [
            self.publishing.next_ns().filter(|_| !self.is_blocked),
            self.calling.next_ns().filter(|_| !self.is_blocked),
            self.streaming.next_ns().filter(|_| !self.is_blocked),
            self.visiting.as_ref().and_then(Visiting::next_ns),
        ];
        let due_ns = due_ns.into_iter().flatten().min();
        Some(due_ns.map_or(look_ns, |due_ns| due_ns.min(look_ns)))
    }

    /// One turn; whether anything happened.
    fn turn(&mut self) -> bool {
        self.has_more = false;
        self.hearing.begin_turn(self.now_ns);
        self.streaming.begin_turn(self.now_ns);
        let mut received_bytes = 0;
        let mut events = 0;
        while received_bytes < TURN_BYTES_MAX {
            let Some(event) = self.reactor.poll() else { break };
            received_bytes += self.handle(event);
            events += 1;
        }
        let live = &self.shared.live[self.thread].0;
        self.hearing.end_turn(live);
        self.streaming.end_turn(live);
        self.follow_stage();
        let sent = self.send_what_is_due();
        self.poll_sessions();
        self.report();
        self.flush();
        events > 0 || sent
    }

    /// The peer of a connection.
    fn find(&self, conn: Conn) -> Option<usize> {
        let index = *self.by_slot.get(conn.0.slot as usize)? as usize;
        let peer = self.peers.get(index)?;
        (peer.conn == Some(conn)).then_some(index)
    }

    /// One event; returns how many bytes it brought.
    fn handle(&mut self, event: Event<<UringDriver as Driver>::Lease, Look>) -> usize {
        match event {
            Event::Received { conn, chunk } => return self.received(conn, chunk),
            Event::Sent { conn, bytes } => {
                if let Some(index) = self.find(conn) {
                    let peer = &mut self.peers[index];
                    peer.queued_bytes = peer.queued_bytes.saturating_sub(bytes);
                    self.is_blocked = false;
                }
            }
            Event::Connected { conn } => {
                if let Some(index) = self.find(conn) {
                    let peer = &mut self.peers[index];
                    peer.state = State::Greeting;
                    peer.session.open(&mut peer.out);
                    self.mark(index);
                }
            }
            Event::Closed { conn, cause } => {
                if let Some(index) = self.find(conn) {
                    self.closed(index, cause);
                }
            }
            Event::Opened { conn, .. } => self.attach(conn),
            // What ends says so once more.
            Event::Ending { .. } | Event::Letter { .. } | Event::HandedOver { .. } | Event::Disk(_) => {}
        }
        0
    }

    fn received(&mut self, conn: Conn, chunk: Chunk<<UringDriver as Driver>::Lease>) -> usize {
        let bytes = match &chunk {
            Chunk::Lease(lease) => lease.len(),
            Chunk::Held(held) => held.len(),
        };
        let Some(index) = self.find(conn) else {
            drop(self.reactor.input(conn, chunk));
            return bytes;
        };
        let now_ns = self.now_ns;
        let live = &self.shared.live[self.thread].0;
        let (hearing, calling) = (&mut self.hearing, &mut self.calling);
        let mut streaming = self.cast.streams.map(|_| &mut self.streaming);
        let published = &self.shared.published[..];
        // Silent ones are sent one event.
        let start_ns = self.timetable.start_ns;
        let spoken = &mut self.outcome.spoken;
        let peer = &mut self.peers[index];
        let (part, of_part, events) = (peer.part, peer.index, &mut peer.events);
        let mut notes = Notes::default();
        let mut on = |incoming: Incoming<'_>| match incoming {
            Incoming::Event { payload } => match part {
                Part::Subscriber { .. } => hearing.event(of_part, payload, published, live),
                Part::Silent => match Stamp::read(payload) {
                    Some(stamp) if stamp.sequence == 0 && stamp.intended_ns >= start_ns => {
                        if *events > 0 {
                            spoken.duplicated += 1;
                        } else {
                            spoken.deliver(now_ns.saturating_sub(stamp.intended_ns), 1);
                        }
                        *events = events.saturating_add(1);
                    }
                    _ => hearing.foreign(),
                },
                Part::Visitor => *events = events.saturating_add(1),
                // They asked for none.
                Part::Publisher { .. }
                | Part::Caller { .. }
                | Part::Server { .. }
                | Part::Opener { .. }
                | Part::Keeper { .. } => hearing.foreign(),
            },
            Incoming::Answer { payload } => match part {
                Part::Caller { .. } => calling.answer(of_part, payload, now_ns, live),
                _ => hearing.foreign(),
            },
            other => match &mut streaming {
                Some(streaming) => notes.take_of_stream(other, of_part, now_ns, streaming, live),
                None => notes.take(other),
            },
        };
        let mut fault = None;
        let mut input = self.reactor.input(conn, chunk);
        while let Some(Piece::Stream(piece) | Piece::Message(piece)) = input.next() {
            if let Err(broken) = peer.session.receive(piece, &mut peer.out, &mut on) {
                fault = Some(broken);
                break;
            }
        }
        drop(input);
        let peer = &self.peers[index];
        if !peer.out.bytes.is_empty() || peer.session.has_unsaid() {
            self.mark(index);
        }
        self.note(index, notes);
        if let Some(fault) = fault {
            let peer = &mut self.peers[index];
            // What it said before it broke off says more.
            peer.words.get_or_insert(fault.0);
            self.reactor.close(conn, Close::Now);
        }
        bytes
    }

    /// What a session said, one thing after the other.
    fn note(&mut self, index: usize, notes: Notes) {
        let part = self.peers[index].part;
        if notes.pongs > 0 {
            self.attached(index);
        }
        self.outcome.acknowledged += notes.acknowledged;
        if let (Some(storing), Part::Publisher { .. }, 1..) = (&mut self.storing, part, notes.acknowledged) {
            let (publisher, live) = (self.peers[index].index as usize, &self.shared.live[self.thread].0);
            storing.acknowledged(publisher, notes.acknowledged, self.now_ns, live);
        }
        self.outcome.served += notes.served;
        if let Some(words) = notes.words {
            self.outcome.refusal.get_or_insert_with(|| words.clone());
            self.peers[index].words = Some(words);
        }
        if notes.refused > 0 {
            self.refused(index, notes.refused);
        }
        if notes.dropped > 0 {
            match part {
                Part::Subscriber { stops: true, .. } => {
                    let told = &mut self.outcome.told_stopped;
                    *told = told.saturating_add(notes.dropped);
                }
                Part::Subscriber { .. } => self.hearing.dropped(self.peers[index].index, notes.dropped),
                _ => {}
            }
        }
        if notes.ready {
            self.greeted(index);
        }
        if notes.subscribed {
            self.accepted(index);
        }
        if part == Part::Silent && notes.pongs > 0 {
            let since_ns = std::mem::take(&mut self.peers[index].since_ns);
            if since_ns > 0 {
                self.outcome
                    .spoken
                    .deliver(self.now_ns.saturating_sub(since_ns), 1);
            }
        }
        let peer = &self.peers[index];
        let has_heard = part == Part::Visitor && peer.events > 0 && peer.state == State::Prepared;
        // One that stays was done when it was greeted.
        if has_heard && !self.holds() {
            self.visit_done(index);
        }
    }

    /// Publishes and calls what is due; whether anything was.
    fn send_what_is_due(&mut self) -> bool {
        // What was due while it ran and could not leave may do so for a moment while it drains.
        // Before the start, nothing is: what was meant to be sent then is taken for another run's.
        let may_send = match self.cast.replayed() {
            Some(_) => self.stage == Stage::Fill,
            None => matches!(self.stage, Stage::Run | Stage::Drain),
        };
        if !may_send || self.now_ns < self.timetable.start_ns {
            return false;
        }
        for (at, publisher) in self.publishing.publishers.iter().enumerate() {
            // The slowest reader of a publisher may be here though the publisher is not; that is told in `report`.
            let number = publisher.number as usize;
            let position = match &self.storing {
                Some(storing) => storing.settled_of(at),
                None => self.hearing.slowest(number).unwrap_or(u64::MAX),
            };
            self.shared.set_heard(self.thread, number, position);
        }
        let mut hand = Hand {
            peers: &mut self.peers,
            dirty: &mut self.dirty,
            payloads: &mut self.payloads,
            left_bytes: TURN_SENT_BYTES_MAX,
            sent: 0,
            blocked: false,
        };
        let storing = &mut self.storing;
        self.publishing.pump(
            self.now_ns,
            TURN_MESSAGES_MAX,
            &self.shared,
            |publisher, order| {
                let stamp = Stamp {
                    publisher: publisher.number,
                    sequence: publisher.sent,
                    intended_ns: order.intended_ns,
                };
                let has_left = hand.write(publisher.peer, &stamp, |peer, payload| {
                    let topic = publisher.topic as usize;
                    peer.session.publish(topic, payload, &mut peer.out);
                });
                if let (Some(storing), true) = (storing.as_mut(), has_left) {
                    storing.sent(order.publisher, order.intended_ns);
                }
                has_left
            },
        );
        self.calling
            .pump(self.now_ns, TURN_MESSAGES_MAX, |caller, stamp| {
                hand.write(caller.peer, &stamp, |peer, payload| {
                    let method = caller.method as usize;
                    peer.session.call(method, payload, &mut peer.out);
                })
            });
        let is_through = self.streaming.pump(self.now_ns, TURN_MESSAGES_MAX, &mut hand);
        let (sent, blocked) = (hand.sent, hand.blocked);
        let is_full = hand.left_bytes == 0 || sent >= TURN_MESSAGES_MAX;
        self.is_blocked = blocked;
        self.has_more |= !is_through || !blocked && is_full;
        self.is_behind = self.publishing.is_behind(self.now_ns)
            || self.calling.is_behind(self.now_ns)
            || self.streaming.is_behind(self.now_ns);
        sent > 0
    }

    /// Tells the others how far this thread is.
    fn report(&mut self) {
        let mut moved = false;
        if self.threads > 1 && self.stage == Stage::Run && self.storing.is_none() {
            for publisher in 0..self.cast.publishers as usize {
                let position = self.hearing.slowest(publisher).unwrap_or(u64::MAX);
                moved |= self.shared.set_heard(self.thread, publisher, position);
            }
        }
        if moved {
            for thread in (0..self.threads).filter(|&thread| thread != self.thread) {
                // A full mailbox has a letter already, and all say the same.
                let _ = self.reactor.post(thread, Look);
            }
        }
        let progress = &self.shared.progress[self.thread].0;
        let (published, expected_events) = self.publishing.sent();
        let (called, expected_answers) = self.calling.sent();
        let (heard, heard_measured) = self.hearing.delivered();
        let (answered, answered_measured) = self.calling.delivered();
        let (streamed, expected_chunks) = self.streaming.sent();
        let (read, read_measured) = self.streaming.delivered();
        let (stored, stored_measured) = self.storing.as_ref().map_or((0, 0), Storing::delivered);
        if let Some(storing) = &self.storing {
            progress.settled.store(storing.settled(), Ordering::Relaxed);
        }
        if progress.delivered.load(Ordering::Relaxed) < heard {
            progress.arrived_ns.store(self.now_ns, Ordering::Relaxed);
        }
        let spoken = &self.outcome.spoken;
        progress.attached.store(self.attached, Ordering::Relaxed);
        progress.prepared.store(self.prepared, Ordering::Relaxed);
        progress.roused.store(self.roused, Ordering::Relaxed);
        progress
            .sent
            .store(published + called + streamed + spoken.sent, Ordering::Relaxed);
        progress.delivered.store(
            heard + answered + read + stored + spoken.delivered,
            Ordering::Relaxed,
        );
        progress.delivered_measured.store(
            heard_measured + answered_measured + read_measured + stored_measured + spoken.delivered,
            Ordering::Relaxed,
        );
        progress.expected_measured.store(
            expected_events + expected_answers + expected_chunks + spoken.expected,
            Ordering::Relaxed,
        );
        progress
            .behind
            .store(u64::from(self.is_behind), Ordering::Relaxed);
        if let Some(visiting) = &self.visiting {
            let (over, last_ns) = visiting.over();
            progress.visited_ns.store(last_ns, Ordering::Relaxed);
            progress.visited.store(over, Ordering::Relaxed);
        }
        progress.stage.store(self.stage as u8, Ordering::Release);
    }

    fn mark(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if !peer.is_dirty {
            peer.is_dirty = true;
            self.dirty.push(index as u32);
        }
    }

    /// What sessions have to say without having received anything: those that were just asked for something.
    fn poll_sessions(&mut self) {
        let mut at = 0;
        while let Some(&index) = self.dirty.get(at) {
            let mut notes = Notes::default();
            let mut said = false;
            self.peers[index as usize].session.poll(&mut |incoming| {
                said = true;
                notes.take(incoming);
            });
            if said {
                // It may be asked for more on that account, and say more.
                self.note(index as usize, notes);
            } else {
                at += 1;
            }
        }
    }

    /// Hands what was written to the reactor.
    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            self.flush_peer(index as usize);
        }
        self.dirty = dirty;
    }

    fn flush_peer(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        peer.is_dirty = false;
        let Some(conn) = peer.conn else { return };
        peer.session.seal(&mut peer.out);
        if peer.out.bytes.is_empty() && peer.out.ends.is_empty() {
            return;
        }
        // The next turn will write about as much.
        let room = peer.out.bytes.len().next_power_of_two().min(TURN_SENT_BYTES_MAX);
        let room = if peer.out.bytes.len() < 512 { 0 } else { room };
        let bytes = Bytes::from(std::mem::replace(&mut peer.out.bytes, Vec::with_capacity(room)));
        peer.queued_bytes += bytes.len();
        if peer.out.ends.is_empty() {
            self.reactor.send(conn, bytes);
            return;
        }
        let mut from = 0;
        for end in peer.out.ends.drain(..) {
            self.reactor.send(conn, bytes.slice(from..end));
            from = end;
        }
    }

    fn finish(self) -> Outcome {
        let mut outcome = self.outcome;
        let shared = self.shared;
        let published = |publisher: usize| shared.published[publisher].load(Ordering::Relaxed);
        (outcome.published, outcome.of_publishers) = self.publishing.finish();
        outcome.stored = self.storing.map(Storing::finish).unwrap_or_default();
        (outcome.heard, outcome.of_subscribers) = self.hearing.finish(published);
        (outcome.called, outcome.of_callers) = self.calling.finish();
        (outcome.streamed, outcome.of_streams) = self.streaming.finish();
        if let Some(visiting) = self.visiting {
            (outcome.visited, outcome.visit_fault) = visiting.finish();
        }
        outcome
    }

    /// What a connection's end is called.
    fn words(cause: &Cause) -> String {
        match cause {
            Cause::Peer => "the server closed the connection".to_owned(),
            Cause::Ours => "closed".to_owned(),
            Cause::Failed(error) => error.to_string(),
            Cause::Transport(words) => words.clone(),
        }
    }
}
