//! One core's loop: the engine's events go into the front, the front's effects go into the engine.
//!
//! ```text
//!   turn: submit, park, gather → time → events (bytes, letters) → seal frames → effects → flush
//! ```
//!
//! The same code runs on io_uring and under the simulation.

use std::collections::VecDeque;
use std::io;

use fluxar_engine::driver::Driver;
use fluxar_engine::reactor::{Conn, Event, Reactor};
use fluxar_shard::Letter;

use crate::front::{Effect, Front};
use crate::mail::Mail;

/// A core: its connections and its share of the truth.
pub struct Worker<D: Driver> {
    reactor: Reactor<D, Mail>,
    front: Front,
    /// Letters that found a full mailbox, for each core. Empty but for moments.
    waiting: Vec<VecDeque<Mail>>,
    /// Connections that are not read because of them.
    stalled: Vec<Conn>,
    letters_waiting_max: usize,
    drain_ms: u64,
    /// Set by the letter that says to stop: when to end at the latest.
    stop_by_ms: Option<u64>,
}

/// How a turn left the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There will be another.
    Running,
    /// It was told to stop and is done; so many connections had to be cut off.
    Stopped {
        /// How many.
        cut_off: u32,
    },
}

impl<D: Driver> Worker<D> {
    /// Puts a core together.
    #[must_use]
    pub fn new(reactor: Reactor<D, Mail>, front: Front) -> Self {
        let cores = reactor.cores();
        let (letters_waiting_max, drain_ms) =
            (front.limits.letters_waiting, u64::from(front.limits.drain_ms));
        Self {
            reactor,
            front,
            waiting: (0..cores).map(|_| VecDeque::new()).collect(),
            stalled: Vec::new(),
            letters_waiting_max,
            drain_ms,
            stop_by_ms: None,
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
        let now_ms = self.reactor.now_ns() / 1_000_000;
        self.front.handle_time(now_ms);
        while let Some(event) = self.reactor.poll() {
            match event {
                Event::Opened { conn, listener, peer } => {
                    tracing::debug!(?conn, ?peer, "connected");
                    self.front.handle_opened(conn, listener);
                }
                Event::Received { conn, chunk } => {
                    let mut input = self.reactor.input(conn, chunk);
                    let mut pieces = 0;
                    while let Some(piece) = input.next() {
                        self.front.handle_input(conn, piece);
                        pieces += 1;
                    }
                    let partial = input.is_partial();
                    drop(input);
                    self.front.handle_input_end(conn, pieces, partial);
                }
                Event::Sent { conn, bytes } => self.front.handle_sent(conn, bytes),
                Event::Closed { conn, cause } => {
                    tracing::debug!(?conn, ?cause, "closed");
                    self.front.handle_closed(conn);
                }
                Event::Letter { from, letter } => {
                    if matches!(letter, Mail::Stop) && self.stop_by_ms.is_none() {
                        self.stop_by_ms = Some(now_ms + self.drain_ms);
                        self.reactor.stop_accepting();
                    }
                    self.front.handle_mail(from, letter);
                }
            }
        }
        self.front.handle_turn_end();
        self.post_waiting();
        self.carry_out();
        self.reactor.flush();
        Ok(self.stopped(now_ms))
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.front.poll_effect() {
            match effect {
                Effect::Send { conn, bytes } => self.reactor.send(conn, bytes),
                Effect::Pause(conn) => self.reactor.pause(conn),
                Effect::Resume(conn) => self.reactor.resume(conn),
                Effect::Close { conn, how } => self.reactor.close(conn, how),
                Effect::MessageLimit { conn, bytes } => self.reactor.set_message_limit(conn, bytes),
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
        if let Some(conn) = cause {
            self.front.handle_mail_full(conn);
            self.stalled.push(conn);
        }
        if waiting.len() >= self.letters_waiting_max
            && let Mail::Shard(Letter::Run(run)) = &mail {
                self.front.counters.dropped_between_cores += run.events();
                return;
            }
        waiting.push_back(mail);
    }

    /// Tries again what found a full mailbox; once nothing waits, the connections that filled it are read again.
    fn post_waiting(&mut self) {
        if self.stalled.is_empty() && self.waiting.iter().all(VecDeque::is_empty) {
            return;
        }
        let mut left = false;
        for (core, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(mail) = waiting.pop_front() {
                if let Err(mail) = self.reactor.post(core, mail) {
                    waiting.push_front(mail);
                    left = true;
                    break;
                }
            }
        }
        if !left {
            for conn in self.stalled.drain(..) {
                self.front.handle_mail_room(conn);
            }
        }
    }

    fn park_until_ns(&self) -> Option<u64> {
        if self.waiting.iter().any(|waiting| !waiting.is_empty()) {
            // The other core will have made room in a moment; it does not know that somebody waits.
            return Some(self.reactor.now_ns() + 100_000);
        }
        let timeout_ms = match (self.front.poll_timeout_ms(), self.stop_by_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        timeout_ms.map(|ms| ms.saturating_mul(1_000_000))
    }

    fn stopped(&self, now_ms: u64) -> Turn {
        match self.stop_by_ms {
            Some(by_ms) if self.front.sessions() == 0 || now_ms >= by_ms => Turn::Stopped {
                cut_off: self.front.sessions(),
            },
            _ => Turn::Running,
        }
    }
}
