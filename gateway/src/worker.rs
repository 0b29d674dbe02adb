//! One core's loop: the engine's events go into the front, the front's effects go into the engine.
//!
//! ```text
//!   turn: submit, park, gather → time → letters → events, up to a budget of bytes → seal frames → effects → disk → flush
//! ```
//!
//! The same code runs on io_uring and under the simulation.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use fluxar_engine::dial::Dial;
use fluxar_engine::driver::Driver;
use fluxar_engine::reactor::{Chunk, Close, Conn, Event, Reactor};
use fluxar_engine::ws::WsDial;

use crate::front::{Effect, Front};
use crate::mail::Mail;

/// A core: its connections and its share of the truth.
pub struct Worker<D: Driver> {
    reactor: Reactor<D, Mail>,
    front: Front,
    /// Letters that found a full mailbox, for each core. Empty but for moments.
    waiting: Vec<VecDeque<Mail>>,
    /// How many they are together. At the bound this core handles letters and time, and nothing else.
    letters_waiting: usize,
    /// Connections that are not read because of them.
    stalled: Vec<Conn>,
    letters_waiting_max: usize,
    drain_ms: u64,
    /// How upstreams are dialled.
    dial: Dial,
    /// The letter that says so has come.
    told_to_stop: bool,
    /// When connections end at the latest, since it was told to stop.
    stop_by_ms: Option<u64>,
    /// Its connections have ended, and the other cores know; until when it waits for theirs.
    drained_by_ms: Option<u64>,
    /// Other cores whose connections have ended.
    cores_drained: usize,
    /// When the log ends at the latest, since all have.
    log_stop_by_ms: Option<u64>,
}

/// Received bytes after which a turn ends, so that what they caused is sent, and counted as sent, before more is taken:
/// without it a burst would fill the queues of receivers that keep up.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// A core whose time to drain is over waits so much longer for the others, which were told to stop a little later, to say that
/// theirs is, too.
const OTHERS_DRAIN_MS: u64 = 1_000;

/// A log has at least so long to be sealed, however short the time to drain.
const LOG_STOP_MS_LEAST: u64 = 2_000;

/// How a turn left the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There will be another.
    Running,
    /// It was told to stop and is done; so many connections had to be cut off.
    Stopped {
        /// How many.
        cut_off: u32,
        /// Whether its log was written to the end and sealed. If not, the next start reads it through.
        log_is_sealed: bool,
    },
}

impl<D: Driver> Worker<D> {
    /// Puts a core together.
    #[must_use]
    pub fn new(reactor: Reactor<D, Mail>, front: Front) -> Self {
        let cores = reactor.cores();
        let (letters_waiting_max, drain_ms) =
            (front.limits.letters_waiting, u64::from(front.limits.drain_ms));
        let dial = Dial {
            source: None,
            websocket: Arc::new(WsDial {
                subprotocol: Some("fluxar.v0".into()),
                max_message_bytes: front.limits.max_frame_bytes as usize,
                ..WsDial::default()
            }),
        };
        Self {
            reactor,
            front,
            waiting: (0..cores).map(|_| VecDeque::new()).collect(),
            letters_waiting: 0,
            stalled: Vec::new(),
            letters_waiting_max,
            drain_ms,
            dial,
            told_to_stop: false,
            stop_by_ms: None,
            drained_by_ms: None,
            cores_drained: 0,
            log_stop_by_ms: None,
        }
    }

    /// The core's FLUXAR side, to look at.
    #[must_use]
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// One turn: parks until there is something to do, and does all of it.
    ///
    /// # Errors
    /// Only what leaves the driver unusable.
    pub fn turn(&mut self) -> io::Result<Turn> {
        self.reactor.turn(self.park_until_ns())?;
        let now_us = self.reactor.now_ns() / 1_000;
        let now_ms = now_us / 1_000;
        self.front.handle_time(now_us);
        let told_to_stop = self.told_to_stop;
        while let Some(event) = self.reactor.poll_letter() {
            self.handle(event);
        }
        if told_to_stop && self.stop_by_ms.is_none() {
            // A turn after it was told: whatever other cores had posted before that has been handed on by now.
            self.stop_by_ms = Some(now_ms + self.drain_ms);
            self.reactor.stop_accepting();
            self.front.handle_stop();
        }
        self.post_waiting();
        let mut received_bytes = 0;
        // What is left over is still there in the next turn: what this one caused is sent, and its room counted, before.
        while received_bytes < TURN_BYTES_MAX && self.letters_waiting < self.letters_waiting_max {
            let Some(event) = self.reactor.poll() else { break };
            received_bytes += self.handle(event);
            self.carry_out();
        }
        self.stop_log(now_ms);
        self.front.handle_turn_end();
        self.carry_out();
        while let Some(op) = self.front.poll_disk() {
            self.reactor.disk(op);
        }
        self.reactor.flush();
        Ok(self.stopped(now_ms))
    }

    /// One event; returns how many bytes it brought.
    fn handle(&mut self, event: Event<D::Lease, Mail>) -> usize {
        match event {
            Event::Opened { conn, listener, peer } => {
                tracing::debug!(?conn, ?peer, "connected");
                self.front.handle_opened(conn, listener, &peer);
            }
            Event::Connected { conn } => {
                tracing::debug!(?conn, "connected to an upstream");
                self.front.handle_connected(conn);
            }
            Event::Received { conn, chunk } => {
                let bytes = match &chunk {
                    Chunk::Lease(lease) => lease.len(),
                    Chunk::Held(held) => held.len(),
                };
                let mut input = self.reactor.input(conn, chunk);
                let mut pieces = 0;
                while let Some(piece) = input.next() {
                    self.front.handle_input(conn, piece);
                    pieces += 1;
                }
                let partial = input.is_partial();
                drop(input);
                self.front.handle_input_end(conn, pieces, partial);
                return bytes;
            }
            Event::HandedOver {
                conn,
                letter: Mail::Resume(resuming),
                ..
            } => self.front.handle_resuming(conn, *resuming),
            // Connections are handed over with no other letter, and this letter with nothing but a connection.
            Event::HandedOver { conn, .. } => self.reactor.close(conn, Close::Now),
            Event::Letter {
                letter: Mail::Resume(_),
                ..
            } => {}
            Event::Sent { conn, bytes } => self.front.handle_sent(conn, bytes),
            Event::Ending { conn, is_breach } => self.front.handle_ending(conn, is_breach),
            Event::Closed { conn, cause } => {
                tracing::debug!(?conn, ?cause, "closed");
                self.front.handle_closed(conn, &cause);
            }
            Event::Disk(done) => self.front.handle_disk(done),
            Event::Letter {
                letter: Mail::Stop, ..
            } => self.told_to_stop = true,
            Event::Letter {
                letter: Mail::Drained,
                ..
            } => self.cores_drained += 1,
            Event::Letter {
                letter: Mail::Services(services),
                ..
            } => self.front.handle_services(services),
            Event::Letter {
                letter: Mail::Resolved(resolved),
                ..
            } => self.front.handle_resolved(resolved),
            Event::Letter {
                letter: Mail::Recovered(log),
                ..
            } => self.front.handle_recovered(*log),
            Event::Letter {
                from,
                letter: Mail::Admin(letter),
            } => self.front.handle_admin(from as u16, letter),
            Event::Letter {
                from,
                letter: Mail::Shard(letter),
            } => self.front.handle_letter(from as u16, letter),
        }
        0
    }

    /// Does what the front asks for.
    fn carry_out(&mut self) {
        while let Some(effect) = self.front.poll_effect() {
            match effect {
                Effect::Send { conn, bytes } => self.reactor.send(conn, bytes),
                Effect::SendParts { conn, parts } => self.reactor.send_parts(conn, parts),
                Effect::Pause(conn) => self.reactor.pause(conn),
                Effect::Resume(conn) => self.reactor.resume(conn),
                Effect::Close { conn, how } => self.reactor.close(conn, how),
                Effect::MessageLimit { conn, bytes } => self.reactor.set_message_limit(conn, bytes),
                Effect::Dial { link, address } => match self.reactor.dial(&address, &self.dial) {
                    Ok(conn) => self.front.handle_dialled(link, conn),
                    Err(error) => self.front.handle_dial_failed(link, &error),
                },
                Effect::HandOver { conn, core, mail } => {
                    // One that has ended meanwhile has nobody to resume for.
                    let _ = self.reactor.hand_over(conn, core, mail);
                }
                Effect::Post { core, mail, cause } => self.post(core, mail, cause),
            }
        }
    }

    fn post(&mut self, core: usize, mail: Mail, cause: Option<Conn>) {
        let waiting = &mut self.waiting[core];
        let mail = if waiting.is_empty() {
            match self.reactor.post(core, mail) {
                Ok(()) => return,
                Err(mail) => mail,
            }
        } else {
            mail
        };
        waiting.push_back(mail);
        self.letters_waiting += 1;
        if let Some(conn) = cause
            && self.stalled.last() != Some(&conn)
        {
            self.front.handle_mail_full(conn);
            self.stalled.push(conn);
        }
    }

    /// Tries again what found a full mailbox; once nothing waits, the connections that filled it are read again.
    fn post_waiting(&mut self) {
        if self.letters_waiting == 0 {
            return;
        }
        for (core, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(mail) = waiting.pop_front() {
                if let Err(mail) = self.reactor.post(core, mail) {
                    waiting.push_front(mail);
                    break;
                }
                self.letters_waiting -= 1;
            }
        }
        if self.letters_waiting == 0 {
            for conn in self.stalled.drain(..) {
                self.front.handle_mail_room(conn);
            }
        }
    }

    fn park_until_ns(&self) -> Option<u64> {
        if self.told_to_stop && self.stop_by_ms.is_none() {
            return Some(0);
        }
        if self.letters_waiting > 0 {
            // The other core will have made room in a moment; it does not know that somebody waits.
            return Some(self.reactor.now_ns() + 100_000);
        }
        let stop_by_ms = self.log_stop_by_ms.or(self.drained_by_ms).or(self.stop_by_ms);
        let timeout_ms = match (self.front.poll_timeout_ms(), stop_by_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        timeout_ms.map(|ms| ms.saturating_mul(1_000_000))
    }

    /// First the connections end, then the log: what was taken of them is written and sealed. Connections of other cores publish
    /// to this log and acknowledge what is in it: theirs have to end, too.
    fn stop_log(&mut self, now_ms: u64) {
        let Some(by_ms) = self.stop_by_ms else { return };
        if self.drained_by_ms.is_none() && (self.front.sessions() == 0 || now_ms >= by_ms) {
            self.drained_by_ms = Some(by_ms.max(now_ms) + OTHERS_DRAIN_MS);
            if self.front.keeps_log() {
                self.front.flush_acknowledged();
                self.carry_out();
                let own = usize::from(self.front.core);
                for core in (0..self.waiting.len()).filter(|&core| core != own) {
                    self.post(core, Mail::Drained, None);
                }
            }
        }
        let Some(others_by_ms) = self.drained_by_ms else {
            return;
        };
        let are_all_drained = self.cores_drained + 1 >= self.waiting.len() || !self.front.keeps_log();
        if self.log_stop_by_ms.is_none() && (are_all_drained || now_ms >= others_by_ms) {
            self.log_stop_by_ms = Some(now_ms + self.drain_ms.max(LOG_STOP_MS_LEAST));
            self.front.stop_log();
        }
    }

    fn stopped(&self, now_ms: u64) -> Turn {
        match self.log_stop_by_ms {
            Some(by_ms) if self.front.is_log_stopped() || now_ms >= by_ms => Turn::Stopped {
                cut_off: self.front.sessions(),
                log_is_sealed: self.front.is_log_sealed(),
            },
            _ => Turn::Running,
        }
    }
}
