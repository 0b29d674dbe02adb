//! The connection table on top of a [`Driver`]: accepts, byte layers, queues of what is to be sent, mail, and the
//! turn that moves them. Bytes come up as [`Event`]s; [`Reactor::send`] and friends take effects down.
//!
//! A user's loop is `turn`, `poll` until empty or as often as it likes, effects, `flush`:
//!
//! ```text
//!   turn(park_until) ─ submit, park, gather ──> poll() ─> Event ─> (user) ─> send/close/post … ─> flush() ─┐
//!        ^─────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Order of a turn: letters, then completions, as [`Reactor::poll`] yields them; the reactor's own deadlines
//! (handshakes, drains) are looked at behind the park. What a user queues leaves at the flush: one send a connection,
//! however many times it was queued for. A user that has had enough of a turn may flush and begin the next: it does
//! not park, and what was left comes before what is new (but behind all letters).
//!
//! | file | what it does |
//! |---|---|
//! | `table` | slots and generations |
//! | `connection` | one connection's state |
//! | `dialling` | dialled connections until they are open |
//! | `accepting` | accepted connections until they are in the table |
//! | `placement` | which core a connection goes to, and how it gets there |
//! | `receiving` | completions of receives, pause and resume, receives that found no buffer |
//! | `handshake` | bytes of a WebSocket that is not open yet, accepted or dialled |
//! | `input` | a chunk's pieces for the user |
//! | `outgoing`, `sending` | queues, gather lists, completions of sends |
//! | `handover` | connections that move to another core |
//! | `closing` | every way in which a connection ends |

mod accepting;
mod closing;
mod config;
mod connection;
mod dialling;
mod handover;
mod handshake;
mod input;
mod outgoing;
mod placement;
mod receiving;
mod sending;
mod table;

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::{DiskDone, DiskOp};
use crate::driver::{Completion, Driver, Token};
use crate::listener::{ListenerId, Peer};
use crate::mail::Endpoint;
use crate::timer::Wheel;
use crate::ws::Masks;

pub use config::{Counters, ReactorConfig, Transport};
pub use input::Input;
pub use placement::{Board, Parcel};

use connection::Connection;
use outgoing::Pools;
use placement::{Content, Newcomer};
use table::Table;

const NS_PER_MS: u64 = 1_000_000;
/// How soon a full mailbox is tried again.
const MAIL_RETRY_NS: u64 = 100_000;

/// A connection, for as long as it lives. Stale ones are recognised and ignored by every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conn(pub Token);

/// What happened.
#[derive(Debug)]
pub enum Event<Lease, L> {
    /// An accepted connection is open (a WebSocket: its handshake is done). Always the first event of such a connection.
    Opened {
        /// The connection.
        conn: Conn,
        /// Where it came in.
        listener: ListenerId,
        /// Who it is.
        peer: Peer,
    },
    /// A dialled connection is open (a WebSocket: its handshake is done). Its first event, unless it could not be
    /// opened: then [`Event::Closed`] is its only one.
    Connected {
        /// The connection, as [`Reactor::dial`] named it.
        conn: Conn,
    },
    /// Bytes arrived: hand them to [`Reactor::input`].
    Received {
        /// Whose.
        conn: Conn,
        /// The bytes, still in transport form.
        chunk: Chunk<Lease>,
    },
    /// So many bytes of what was queued with [`Reactor::send`] went to the kernel. Transport overhead is not counted.
    Sent {
        /// Whose.
        conn: Conn,
        /// How many.
        bytes: usize,
    },
    /// The connection is about to end, though it was not closed here: the peer ended it, or its WebSocket closed or
    /// broke the rules. Nothing is received any more, and what is sent from now on vanishes; what was queued before
    /// still leaves, if it can. At most once, and [`Event::Closed`] follows. One that fails at once, or is closed with
    /// [`Reactor::close`], is only `Closed`.
    Ending {
        /// Which.
        conn: Conn,
        /// Whether it broke its transport's rules: [`Cause::Transport`] follows.
        is_breach: bool,
    },
    /// The connection is gone. Always its last event; not given for accepted connections that never were `Opened`.
    Closed {
        /// Which.
        conn: Conn,
        /// Why.
        cause: Cause,
    },
    /// A connection that [`Reactor::hand_over`] moved here, with its letter. Always its first event under this name; what
    /// its peer had sent follows as [`Event::Received`]. If it died on the way, [`Event::Closed`] does.
    HandedOver {
        /// The connection, by its name on this core.
        conn: Conn,
        /// The core that it was on.
        from: usize,
        /// What that core says about it.
        letter: L,
    },
    /// A letter from another core (or, with `from` = number of cores, from the main thread).
    Letter {
        /// The sender.
        from: usize,
        /// The letter.
        letter: L,
    },
    /// Something that [`Reactor::disk`] asked for is done.
    Disk(DiskDone),
}

/// Received bytes on their way to [`Reactor::input`].
#[derive(Debug)]
pub enum Chunk<Lease> {
    /// In a receive buffer on loan.
    Lease(Lease),
    /// Held back while the connection was paused.
    Held(Vec<u8>),
}

/// Why a connection is gone.
#[derive(Debug)]
pub enum Cause {
    /// The peer closed it, in its transport's good order.
    Peer,
    /// This side closed it and all was sent.
    Ours,
    /// The socket failed.
    Failed(io::Error),
    /// The transport's rules were broken; what was told to the peer.
    Transport(String),
}

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Send what is queued, half-close (WebSocket: close frame with this code), read on and discard for up to 1 s so
    /// that the last bytes arrive, then close.
    Drain {
        /// RFC 6455 close code; unused on byte streams.
        ws_code: u16,
    },
    /// At once.
    Now,
}

/// One piece of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Some bytes of a byte stream.
    Stream(&'a [u8]),
    /// One whole WebSocket message.
    Message(&'a [u8]),
}

/// One core's connections over driver `D`; letters are `L`.
pub struct Reactor<D: Driver, L> {
    /// First, so that it is dropped before the sockets that its operations name.
    driver: D,
    mail: Endpoint<Parcel<D::Socket, L>>,
    board: Board,
    /// How each listener's bytes are read, by its index.
    transports: Vec<Option<Transport>>,
    config: ReactorConfig,
    accepting: bool,
    table: Table<Connection<D::Socket, L>>,
    /// Events beyond the one that a completion yields at once.
    upcoming: VecDeque<Upcoming<L, D::Lease>>,
    /// Connections with something queued since the last flush.
    dirty: Vec<Token>,
    /// Connections whose receive found no buffer, first come first served.
    starved: VecDeque<Token>,
    /// Bytes held for paused connections.
    held_bytes: usize,
    /// Connections on their way to a core whose mailbox was full. They still count in [`Reactor::connections`].
    departing: VecDeque<(usize, Parcel<D::Socket, L>)>,
    timers: Wheel<Token>,
    /// Scratch of [`Reactor::expire`].
    expired: Vec<Token>,
    pools: Pools,
    /// Since the first WebSocket was dialled.
    masks: Option<Masks>,
    /// What the WebSocket layer answers to the chunk at hand. Empty between chunks.
    reply: Vec<u8>,
    counters: Counters,
}

/// What [`Reactor::poll`] looks at before it takes another completion.
enum Upcoming<L, Lease> {
    Event(Event<Lease, L>),
    /// Bytes that were held while the connection was paused.
    Held(Token),
    /// The peer's end of stream came while it was paused.
    PeerEnded(Token),
    /// The input of a WebSocket ended with a close frame or a fault, which is answered with `reply`.
    InputEnded {
        token: Token,
        cause: Cause,
        reply: Bytes,
    },
}

impl<D: Driver, L: Send> Reactor<D, L> {
    /// A core's reactor. `mail` is one of the endpoints of a [`crate::mail::mesh`], and says which core this is; all
    /// reactors share one `board`. Accepting begins at once on `listeners`, which the driver already knows; there may be
    /// none, for a reactor that only dials.
    pub fn new(
        mut driver: D,
        mail: Endpoint<Parcel<D::Socket, L>>,
        board: Board,
        listeners: Vec<(ListenerId, Transport)>,
        mut config: ReactorConfig,
    ) -> Reactor<D, L> {
        // A send carries something.
        config.send_bytes_max = config.send_bytes_max.max(1);
        let mut transports = Vec::new();
        for (listener, transport) in listeners {
            let index = usize::from(listener.0);
            if transports.len() <= index {
                transports.resize_with(index + 1, || None);
            }
            transports[index] = Some(transport);
            driver.accept(listener);
        }
        let timers = Wheel::new(driver.now_ns() / NS_PER_MS);
        Reactor {
            driver,
            mail,
            board,
            transports,
            config,
            accepting: true,
            table: Table::new(),
            upcoming: VecDeque::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            held_bytes: 0,
            departing: VecDeque::new(),
            timers,
            expired: Vec::new(),
            pools: Pools::default(),
            masks: None,
            reply: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// This core's index.
    #[must_use]
    pub fn core(&self) -> usize {
        self.mail.core()
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.mail.cores()
    }

    /// Monotonic time, sampled once a turn.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.driver.now_ns()
    }

    /// How many connections this core has, handshakes, drains and those that are leaving included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.table.len() + self.departing.len()
    }

    /// How many bytes are held for paused connections.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many gather lists are with the driver.
    #[must_use]
    pub fn gathers_lent(&self) -> usize {
        self.pools.gathers_lent()
    }

    /// What was done since the beginning.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The driver, for figures that only it has.
    #[must_use]
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Submits, parks (see [`Driver::turn`]; the reactor's own deadlines are taken in), gathers. It does not park over
    /// anything that is still to be polled.
    ///
    /// # Errors
    /// Only what leaves the driver unusable.
    pub fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()> {
        self.rearm_starved();
        self.post_departing();
        self.flush();
        let own_ns = self
            .timers
            .next_deadline()
            .map(|at_ms| at_ms.saturating_mul(NS_PER_MS));
        // A core with a full mailbox will have made room in a moment; it does not know that somebody waits.
        let retry_ns = (!self.departing.is_empty()).then(|| self.driver.now_ns() + MAIL_RETRY_NS);
        let until_ns = [park_until_ns, own_ns, retry_ns].into_iter().flatten().min();
        let busy = !self.upcoming.is_empty() || self.driver.has_completions();
        if busy || until_ns.is_some_and(|until_ns| until_ns <= self.driver.now_ns()) {
            self.mail.unpark();
            self.driver.turn(Some(0))?;
        } else {
            self.park(until_ns)?;
        }
        self.mail.begin_turn();
        self.expire();
        Ok(())
    }

    /// Waits for completions or mail: first awake, then asleep.
    fn park(&mut self, until_ns: Option<u64>) -> io::Result<()> {
        if self.config.spin_us > 0 && self.mail.cores() > 1 {
            // What was asked for must not wait for the spin.
            self.driver.turn(Some(0))?;
            if self.has_work() {
                self.mail.unpark();
                return Ok(());
            }
            if self.spin() {
                self.mail.unpark();
                return self.driver.turn(Some(0));
            }
        }
        if !self.mail.park() {
            return self.driver.turn(Some(0));
        }
        self.driver.turn(until_ns)?;
        // A turn without effect leaves the flag up: this core goes to sleep again without doing anything meanwhile.
        // (In the simulation that is the sleep: its turns return at once.)
        if self.has_work() || until_ns.is_some_and(|until_ns| until_ns <= self.driver.now_ns()) {
            self.mail.unpark();
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        self.driver.has_completions() || self.mail.has_mail()
    }

    /// Watches the mailboxes and the driver for a while; true if anything came.
    fn spin(&mut self) -> bool {
        let span = Duration::from_micros(u64::from(self.config.spin_us));
        let begun = Instant::now();
        loop {
            for _ in 0..16 {
                if self.mail.has_mail() {
                    return true;
                }
                spin_loop();
            }
            if self.driver.is_ready() {
                return true;
            }
            if begun.elapsed() >= span {
                return false;
            }
        }
    }

    /// Acts on the deadlines that passed.
    fn expire(&mut self) {
        let mut expired = std::mem::take(&mut self.expired);
        self.timers
            .expire(self.driver.now_ns() / NS_PER_MS, |token| expired.push(token));
        for token in expired.drain(..) {
            self.deadline_passed(token);
        }
        self.expired = expired;
    }

    /// The next letter of this turn, an [`Event::Letter`], and nothing else. A user with a budget for events takes the
    /// letters first, so that a core that is behind still keeps up with its mail.
    pub fn poll_letter(&mut self) -> Option<Event<D::Lease, L>> {
        while let Some((from, Parcel(content))) = self.mail.take() {
            match content {
                Content::Letter(letter) => return Some(Event::Letter { from, letter }),
                Content::Connection(newcomer) => self.adopt(newcomer),
                Content::Traveller(traveller) => self.take_over(from, *traveller),
            }
        }
        None
    }

    /// The next event. It need not be called until there is none: see the module's order of a turn.
    pub fn poll(&mut self) -> Option<Event<D::Lease, L>> {
        // Mail first: what another core had posted before a peer could have heard of it is known here before that
        // peer's bytes are handled. The mailboxes were looked at after the completions were gathered, so this holds
        // across cores without any further agreement.
        if let Some(letter) = self.poll_letter() {
            return Some(letter);
        }
        loop {
            if let Some(upcoming) = self.upcoming.pop_front() {
                let event = match upcoming {
                    Upcoming::Event(event) => Some(event),
                    Upcoming::Held(token) => self.hand_held(token),
                    Upcoming::PeerEnded(token) => {
                        self.hand_peer_end(token);
                        None
                    }
                    Upcoming::InputEnded { token, cause, reply } => {
                        self.input_ended(token, cause, reply);
                        None
                    }
                };
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let completion = self.driver.poll()?;
            if let Some(event) = self.complete(completion) {
                return Some(event);
            }
        }
    }

    fn complete(&mut self, completion: Completion<D::Lease, D::Socket>) -> Option<Event<D::Lease, L>> {
        match completion {
            Completion::Accepted {
                listener,
                socket,
                peer,
            } => {
                self.accepted(Newcomer {
                    listener,
                    socket,
                    peer,
                });
                None
            }
            Completion::AcceptFailed { .. } => {
                self.counters.accepts_failed += 1;
                None
            }
            Completion::Connected { token, result } => self.connected(token, result),
            Completion::Received { token, lease } => self.received(token, lease),
            Completion::ReceiveEnded { token, end } => {
                self.receive_ended(token, end);
                None
            }
            Completion::Sent {
                token,
                result,
                gather,
            } => self.sent(token, result, gather),
            Completion::Disk(done) => Some(Event::Disk(done)),
        }
    }

    fn set_deadline(&mut self, token: Token, after_ms: u64) {
        if let Some(connection) = self.table.get(token) {
            if let Some(timer) = connection.deadline.take() {
                self.timers.cancel(timer);
            }
            let now_ms = self.driver.now_ns() / NS_PER_MS;
            // A started millisecond does not count.
            connection.deadline = Some(self.timers.arm(now_ms + after_ms + 1, token));
        }
    }

    /// Opens a chunk: byte streams yield it as it is, WebSocket yields whole messages. Dropping the input before its
    /// end discards the rest of the chunk. A connection that is closing yields nothing.
    pub fn input(&mut self, conn: Conn, chunk: Chunk<D::Lease>) -> Input<'_, D, L> {
        Input::new(self, conn.0, chunk)
    }

    /// Asks something of a disk; one [`Event::Disk`] follows.
    pub fn disk(&mut self, op: DiskOp) {
        self.driver.disk(op);
    }

    /// Raises or lowers the largest WebSocket message that is taken from this peer.
    pub fn set_message_limit(&mut self, conn: Conn, bytes: usize) {
        if let Some(connection) = self.table.get(conn.0)
            && let Some(ws) = connection.layer.websocket()
        {
            ws.set_max_message_bytes(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Stops accepting on all listeners. Connections that were accepted before are opened all the same, those on their
    /// way from another core included, so that they can be told; [`Event::Opened`] may come for as long as any reactor
    /// accepts. A user that ends earlier closes them by dropping its reactor.
    pub fn stop_accepting(&mut self) {
        if std::mem::take(&mut self.accepting) {
            for (index, transport) in self.transports.iter().enumerate() {
                if transport.is_some() {
                    self.driver.stop_accept(ListenerId(index as u16));
                }
            }
        }
    }

    /// Puts a letter into another core's mailbox. It is woken at the next [`Reactor::flush`].
    ///
    /// # Errors
    /// The letter, if the mailbox is full: stop what fills it, try again next turn.
    pub fn post(&mut self, core: usize, letter: L) -> Result<(), L> {
        match self.mail.post(core, Parcel::from(letter)) {
            Err(Parcel(Content::Letter(letter))) => Err(letter),
            _ => Ok(()),
        }
    }

    /// Starts a send for every connection with something queued and none in flight, and wakes the cores that got mail.
    pub fn flush(&mut self) {
        self.start_sends();
        self.mail.wake_receivers(|core| self.driver.wake(core));
    }
}
