//! What a generator thread does at each stage of a run, and what becomes of its connections meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fluxar_engine::dial::Dial;
use fluxar_engine::reactor::{Cause, Close, Conn};
use rustix::io::Errno;

use crate::protocol::{Protocol, Session};
use crate::run::RunError;
use crate::stamp::Stamp;
use crate::workload::Part;
use crate::workload::visiting::PATIENCE_NS;

use super::peer::{Peer, State};
use super::shared::Stage;
use super::{CUTS_MAX, Cut, Worker};

/// Connections that a turn dials, subscribes or speaks to.
const TURN_CONNECTIONS: usize = 256;
/// How often visitors are looked through for those that wait too long, ns.
const LOOK_NS: u64 = 250_000_000;
/// How long closing connections are waited for at the end, ns.
const LEAVE_NS: u64 = 1_500_000_000;
/// What a server cannot do at the moment it is asked for again after this, while connections are prepared, ns.
const ASK_AGAIN_NS: u64 = 50_000_000;
/// What a gateway says then: it listens while it still reads its log.
const NOT_YET: &str = "unavailable";
/// RFC 6455 close code for a good end.
const WS_NORMAL: u16 = 1000;

impl<P: Protocol> Worker<P> {
    /// Takes up the run's stage and does what belongs to it.
    pub(super) fn follow_stage(&mut self) {
        let stage = self.shared.stage();
        if stage != self.stage {
            self.stage = stage;
            self.enter(stage);
        }
        match self.stage {
            Stage::Connect => {
                self.dial_waiting();
                self.ask_again();
            }
            Stage::Run => {
                self.let_visitors_come();
                self.stop_reading();
            }
            Stage::Rouse => self.rouse(),
            Stage::Speak => self.speak(),
            Stage::Fill | Stage::Drain | Stage::Stop => {}
        }
    }

    fn enter(&mut self, stage: Stage) {
        match stage {
            Stage::Fill => self.begin(),
            Stage::Run => {
                // A thread without publishers may have been asleep while others filled.
                if self.timetable.phases.is_empty() {
                    self.begin();
                }
                if self.cast.replayed().is_some() {
                    self.ask_for_all();
                }
            }
            Stage::Speak => {
                let silent = self.peers.iter().filter(|peer| peer.part == Part::Silent);
                // Each is to hear the event, and to get an answer to its ping.
                self.outcome.spoken.expected = 2 * silent.count() as u64;
                self.spoken_to = 0;
            }
            Stage::Drain => {
                for peer in &self.peers {
                    if let (true, Some(conn)) = (peer.part.stops_reading(), peer.conn) {
                        self.reactor.resume(conn);
                    }
                }
            }
            Stage::Connect | Stage::Rouse | Stage::Stop => {}
        }
    }

    fn begin(&mut self) {
        let timetable = self.shared.timetable();
        self.publishing.begin(&timetable);
        if let Some(storing) = &mut self.storing {
            storing.begin(&timetable);
        }
        self.hearing.begin(&timetable);
        self.calling.begin(&timetable);
        self.streaming.begin(&timetable);
        if let Some(visiting) = &mut self.visiting {
            visiting.begin(&timetable);
        }
        self.timetable = timetable;
    }

    /// Subscribers that came late ask for everything that was stored.
    fn ask_for_all(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if let (Part::Subscriber { topic, .. }, State::Prepared) = (peer.part, peer.state) {
                peer.state = State::Asking;
                peer.session.subscribe(topic as usize, &mut peer.out);
                self.mark(index);
            }
        }
    }

    /// Dials those that wait, so many at a time.
    fn dial_waiting(&mut self) {
        let at_a_time = (self.cast.concurrency as usize).div_ceil(self.threads);
        while self.under_way < at_a_time {
            let Some(index) = self.to_dial.pop_front() else {
                return;
            };
            self.under_way += 1;
            self.dial(index as usize);
        }
    }

    fn dial(&mut self, index: usize) {
        let source = if self.sources.is_empty() {
            None
        } else {
            self.sources_used += 1;
            Some(self.sources[self.sources_used % self.sources.len()])
        };
        let address = &self.addresses[usize::from(self.peers[index].part.hears())];
        let websocket = Arc::clone(&self.websocket);
        match self.reactor.dial(address, &Dial { source, websocket }) {
            Ok(conn) => {
                self.bind(index, conn);
                self.peers[index].state = State::Dialling;
            }
            Err(error) => {
                let error = self.connect_error(index, error);
                if self.peers[index].part == Part::Visitor {
                    self.visit_failed(index, &error.to_string());
                    self.free.push(index as u32);
                }
                self.shared.fail(error);
            }
        }
    }

    /// What was not to be had a moment ago is asked for again.
    fn ask_again(&mut self) {
        for at in (0..self.to_ask.len()).rev() {
            let index = self.to_ask[at] as usize;
            let peer = &mut self.peers[index];
            if peer.state != State::Asking {
                self.to_ask.swap_remove(at);
            } else if peer.since_ns <= self.now_ns {
                self.to_ask.swap_remove(at);
                peer.state = State::Greeting;
                self.greeted(index);
            }
        }
    }

    /// The server connected to a service that listens.
    pub(super) fn attach(&mut self, conn: Conn) {
        let at = self.peers.len();
        let number = self.cast.parts.len() as u64 + self.thread as u64 + self.accepted * self.threads as u64;
        self.accepted += 1;
        let mut session = self.protocols[2].session(number, &self.names);
        session.listen();
        let index = self.streaming.seat_service(at as u32);
        let mut peer = Peer::new(session, Part::Server { method: 0 }, number, index);
        peer.state = State::Greeting;
        peer.was_accepted = true;
        self.peers.push(peer);
        self.bind(at, conn);
    }

    /// A service that listens had an answer to what it said behind its hello.
    pub(super) fn attached(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if peer.was_accepted && peer.state == State::Asking {
            peer.state = State::Prepared;
            self.attached += 1;
        }
    }

    fn bind(&mut self, index: usize, conn: Conn) {
        let slot = conn.0.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, u32::MAX);
        }
        self.by_slot[slot] = index as u32;
        self.peers[index].conn = Some(conn);
    }

    fn connect_error(&self, index: usize, error: io::Error) -> RunError {
        let address = self.addresses[usize::from(self.peers[index].part.hears())].to_string();
        let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        if is(Errno::MFILE) || is(Errno::NFILE) {
            let (limit, _) = fluxar_engine::rlimit::raise_descriptor_limit().unwrap_or((0, 0));
            // The sum of what the run needs was within the limit; something else of this process has descriptors too.
            RunError::Descriptors {
                needed: limit + 1,
                limit,
            }
        } else if is(Errno::ADDRNOTAVAIL) {
            RunError::Ports {
                address,
                connections: self.cast.parts.len().max(self.reactor.connections()),
                sources: self.sources.len().max(1),
            }
        } else {
            RunError::Connect { address, error }
        }
    }

    /// The server took a session's hello.
    pub(super) fn greeted(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if peer.state != State::Greeting {
            return;
        }
        peer.state = State::Asking;
        match peer.part {
            // It asks when everything is stored.
            Part::Subscriber { .. } if self.cast.replayed().is_some() => return self.prepared(index),
            Part::Subscriber { topic, .. } | Part::Keeper { topic } => {
                peer.session.subscribe(topic as usize, &mut peer.out);
            }
            // Behind its answer, the server knows that we listen.
            Part::Server { .. } if peer.was_accepted => peer.session.ping(&mut peer.out),
            Part::Server { method } => peer.session.serve(method as usize, &mut peer.out),
            Part::Visitor if self.visiting.as_ref().is_some_and(|visiting| visiting.listens()) => {
                peer.session.subscribe(0, &mut peer.out);
            }
            Part::Visitor => return self.visit_done(index),
            Part::Publisher { .. } | Part::Caller { .. } | Part::Opener { .. } | Part::Silent => {
                return self.prepared(index);
            }
        }
        self.mark(index);
    }

    /// What it asked for is in force.
    pub(super) fn accepted(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        if peer.state != State::Asking {
            return;
        }
        match peer.part {
            Part::Visitor => peer.state = State::Prepared,
            Part::Silent => {
                peer.state = State::Prepared;
                self.roused += 1;
            }
            Part::Keeper { .. } => {
                self.prepared(index);
                self.leave(index);
            }
            _ => self.prepared(index),
        }
    }

    fn prepared(&mut self, index: usize) {
        self.peers[index].state = State::Prepared;
        self.prepared += 1;
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The server refused what a session asked for.
    pub(super) fn refused(&mut self, index: usize, count: u32) {
        let peer = &self.peers[index];
        let (part, of_part) = (peer.part, peer.index);
        if part == Part::Visitor {
            if matches!(peer.state, State::Greeting | State::Asking) {
                let words = peer.words.clone().unwrap_or_default();
                self.visit_failed(index, &words);
                self.leave(index);
            }
            return;
        }
        let is_not_yet = peer
            .words
            .as_ref()
            .is_some_and(|words| words.starts_with(NOT_YET));
        if self.stage == Stage::Connect && peer.state == State::Asking && is_not_yet {
            let peer = &mut self.peers[index];
            peer.words = None;
            peer.since_ns = self.now_ns + ASK_AGAIN_NS;
            self.outcome.refusal = None;
            self.to_ask.push(index as u32);
            return;
        }
        // What is refused while events are stored would be missing when they are replayed.
        let is_needed = matches!(part, Part::Publisher { .. }) && self.cast.replayed().is_some();
        if matches!(peer.state, State::Greeting | State::Asking) || is_needed {
            let words = peer.words.clone().unwrap_or_default();
            let who = who(peer);
            self.shared.fail(RunError::Refused { who, words });
            return;
        }
        for _ in 0..count {
            match part {
                Part::Publisher { .. } => {
                    let storing = self.storing.as_mut();
                    let due_ns = storing.and_then(|storing| storing.refused(of_part as usize));
                    self.publishing.refused(due_ns.unwrap_or(self.now_ns));
                }
                Part::Caller { .. } => self.calling.refused(of_part, self.now_ns),
                _ => {}
            }
        }
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, index: usize, cause: Cause) {
        let peer = &mut self.peers[index];
        let state = std::mem::replace(&mut peer.state, State::Gone);
        peer.conn = None;
        peer.queued_bytes = 0;
        let is_backlog_full =
            matches!(&cause, Cause::Failed(error) if error.kind() == io::ErrorKind::WouldBlock);
        if state == State::Dialling && is_backlog_full {
            return self.dial_again(index);
        }
        if peer.part == Part::Visitor {
            if matches!(state, State::Dialling | State::Greeting | State::Asking) {
                let words = peer.words.take().unwrap_or_else(|| Self::words(&cause));
                self.visit_failed(index, &words);
            } else if state == State::Prepared && !self.holds() {
                self.visit_failed(index, &Self::words(&cause));
            }
            self.free.push(index as u32);
            return;
        }
        if state == State::Leaving || self.stage == Stage::Stop {
            return;
        }
        if peer.was_accepted && self.stage == Stage::Connect {
            // The server connects again, or did more than we needed.
            self.attached -= u64::from(state == State::Prepared);
            return;
        }
        let words = peer.words.clone().unwrap_or_else(|| Self::words(&cause));
        if self.stage == Stage::Connect {
            let error = match (state, cause) {
                (State::Dialling, Cause::Failed(error)) => self.connect_error(index, error),
                _ => RunError::Refused {
                    who: who(&self.peers[index]),
                    words,
                },
            };
            return self.shared.fail(error);
        }
        self.cut(index, words);
    }

    /// The backlog of a Unix socket was full.
    fn dial_again(&mut self, index: usize) {
        self.peers[index].state = State::Waiting;
        if self.stage == Stage::Connect {
            self.under_way -= 1;
            self.to_dial.push_back(index as u32);
        } else {
            self.dial(index);
        }
    }

    /// A connection that was needed is gone: the run goes on as long as anybody can send.
    fn cut(&mut self, index: usize, words: String) {
        let (part, of_part) = (self.peers[index].part, self.peers[index].index);
        let anybody = match part {
            Part::Publisher { .. } if self.speaker != Some(index) => self.publishing.gone(of_part as usize),
            Part::Caller { .. } => self.calling.gone(of_part),
            Part::Opener { .. } | Part::Server { .. } => self.streaming.gone(of_part),
            Part::Subscriber { .. } => {
                self.hearing.gone(of_part);
                true
            }
            _ => true,
        };
        if !anybody && self.stage == Stage::Run {
            let who = who(&self.peers[index]);
            let words = words.clone();
            self.shared.fail(RunError::Refused { who, words });
        }
        self.outcome.cuts_count += 1;
        if self.outcome.cuts.len() < CUTS_MAX {
            self.outcome.cuts.push(Cut {
                part,
                number: self.peers[index].number,
                after_ns: self.now_ns.saturating_sub(self.timetable.start_ns),
                words,
            });
        }
    }

    /// Subscribers that are to stop reading do, once the warm-up is over.
    fn stop_reading(&mut self) {
        if self.stopped_reading || self.now_ns < self.timetable.measured_from_ns() {
            return;
        }
        self.stopped_reading = true;
        for peer in &self.peers {
            if let (true, Some(conn)) = (peer.part.stops_reading(), peer.conn) {
                self.reactor.pause(conn);
            }
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.visiting.as_ref().is_some_and(|visiting| visiting.holds())
    }

    fn let_visitors_come(&mut self) {
        if self.visiting.is_none() {
            return;
        }
        for _ in 0..TURN_CONNECTIONS {
            // Those that are closing have descriptors still.
            if self.reactor.connections() >= self.connections_max {
                return;
            }
            let Some(visiting) = &mut self.visiting else {
                return;
            };
            let Some(due_ns) = visiting.due(self.now_ns) else {
                break;
            };
            let visit = visiting.came(due_ns);
            let number = self.cast.parts.len() as u64 + self.thread as u64 + visit * self.threads as u64;
            let hears = usize::from(Part::Visitor.hears());
            let session = self.protocols[hears].session(number, &self.names);
            let mut peer = Peer::new(session, Part::Visitor, number, 0);
            peer.since_ns = due_ns;
            let index = match self.free.pop() {
                Some(index) => {
                    // It may still stand on the list of those with something to send; then it stays there.
                    peer.is_dirty = self.peers[index as usize].is_dirty;
                    self.peers[index as usize] = peer;
                    index as usize
                }
                None => {
                    self.peers.push(peer);
                    self.peers.len() - 1
                }
            };
            self.dial(index);
        }
        if self.now_ns >= self.looked_ns + LOOK_NS {
            self.looked_ns = self.now_ns;
            self.turn_away();
        }
    }

    /// Visitors that wait too long have failed.
    fn turn_away(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            let waits = match peer.state {
                State::Dialling | State::Greeting | State::Asking => true,
                State::Prepared => !self.holds(),
                State::Waiting | State::Leaving | State::Gone => false,
            };
            if peer.part == Part::Visitor && waits && self.now_ns.saturating_sub(peer.since_ns) > PATIENCE_NS
            {
                self.visit_failed(index, "nothing came for 10 s");
                self.leave(index);
            }
        }
    }

    /// A visitor has what it came for.
    pub(super) fn visit_done(&mut self, index: usize) {
        let since_ns = self.peers[index].since_ns;
        let now_ns = self.now_ns;
        if let Some(visiting) = &mut self.visiting {
            visiting.done(since_ns, now_ns, &self.shared.live[self.thread].0);
        }
        if self.holds() {
            self.peers[index].state = State::Prepared;
        } else {
            self.leave(index);
        }
    }

    fn visit_failed(&mut self, index: usize, words: &str) {
        let since_ns = self.peers[index].since_ns;
        let was_refused = self.peers[index].state != State::Dialling;
        if let Some(visiting) = &mut self.visiting {
            visiting.failed(since_ns, was_refused, words);
        }
    }

    /// Ends a session in good order.
    fn leave(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let Some(conn) = peer.conn else { return };
        let how = if matches!(peer.state, State::Dialling) {
            Close::Now
        } else {
            peer.session.close(&mut peer.out);
            Close::Drain { ws_code: WS_NORMAL }
        };
        peer.state = State::Leaving;
        self.flush_peer(index);
        self.reactor.close(conn, how);
    }

    /// Silent connections subscribe, a few in a turn.
    fn rouse(&mut self) {
        self.each_silent(|worker, index| {
            let peer = &mut worker.peers[index];
            peer.state = State::Asking;
            peer.session.subscribe(0, &mut peer.out);
        });
    }

    /// All of them are sent one event; each of them pings.
    fn speak(&mut self) {
        if let Some(speaker) = self.speaker.take() {
            let stamp = Stamp {
                publisher: 0,
                sequence: 0,
                intended_ns: self.now_ns,
            };
            let peer = &mut self.peers[speaker];
            peer.session.publish(0, self.payloads.next(&stamp), &mut peer.out);
            self.shared.published[0].store(1, Ordering::Relaxed);
            self.outcome.spoken.sent += 1;
            self.mark(speaker);
        }
        self.each_silent(|worker, index| {
            let now_ns = worker.now_ns;
            let peer = &mut worker.peers[index];
            peer.since_ns = now_ns;
            peer.session.ping(&mut peer.out);
            worker.outcome.spoken.sent += 1;
        });
    }

    /// Goes on through the silent connections that are there.
    fn each_silent(&mut self, each: impl Fn(&mut Self, usize)) {
        let to = self.peers.len().min(self.spoken_to + TURN_CONNECTIONS);
        for index in self.spoken_to..to {
            let peer = &self.peers[index];
            if peer.part == Part::Silent && peer.state == State::Prepared {
                each(self, index);
                self.mark(index);
            }
        }
        self.spoken_to = to;
        self.has_more |= to < self.peers.len();
    }

    /// The end: all sessions say goodbye, and the connections close.
    pub(super) fn leave_all(&mut self) -> io::Result<()> {
        for index in 0..self.peers.len() {
            if self.peers[index].state != State::Leaving {
                self.leave(index);
            }
        }
        let until_ns = self.now_ns + LEAVE_NS;
        while self.reactor.connections() > 0 && self.reactor.now_ns() < until_ns {
            self.reactor.turn(Some(until_ns))?;
            while let Some(event) = self.reactor.poll() {
                self.handle(event);
            }
        }
        Ok(())
    }
}

/// How a connection is called in what is told.
fn who<S>(peer: &Peer<S>) -> String {
    format!("{} (connection {})", peer.part.name(), peer.number)
}
