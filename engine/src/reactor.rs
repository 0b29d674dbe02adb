//! The connection table on top of a [`Driver`]: accepts, byte layers, queues of what is to be sent, mail, and the
//! turn that moves them. Bytes come up as [`Event`]s; [`Reactor::send`] and friends take effects down.
//!
//! A user's loop is `turn`, `poll` until empty, effects, `flush`:
//!
//! ```text
//!   turn(park_until) ─ submit, park, gather ──> poll() ─> Event ─> (user) ─> send/close/post … ─> flush() ─┐
//!        ^─────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::io;

use bytes::Bytes;

use crate::driver::{Driver, Token};
use crate::listener::{ListenerId, Peer};

/// A connection, for as long as it lives. Stale ones are recognised and ignored by every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conn(pub Token);

/// What happened.
#[derive(Debug)]
pub enum Event<Lease, L> {
    /// A connection is open (a WebSocket: its handshake is done). Always the first event of a connection.
    Opened {
        /// The connection.
        conn: Conn,
        /// Where it came in.
        listener: ListenerId,
        /// Who it is.
        peer: Peer,
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
    /// The connection is gone. Always its last event; not given for connections that never were `Opened`.
    Closed {
        /// Which.
        conn: Conn,
        /// Why.
        cause: Cause,
    },
    /// A letter from another core (or, with `from` = number of cores, from the main thread).
    Letter {
        /// The sender.
        from: usize,
        /// The letter.
        letter: L,
    },
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
    _p: std::marker::PhantomData<(D, L)>,
}

/// The pieces of one chunk, one after the other (a lending iterator).
pub struct Input<'r, D: Driver, L> {
    _p: std::marker::PhantomData<&'r mut (D, L)>,
}

impl<D: Driver, L> Input<'_, D, L> {
    /// The next piece. A transport fault ends the input and closes the connection with its proper reason.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Piece<'_>> {
        todo!()
    }
}

impl<D: Driver, L: Send> Reactor<D, L> {
    /// This core's index.
    #[must_use]
    pub fn core(&self) -> usize {
        todo!()
    }
    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        todo!()
    }
    /// Monotonic time, sampled once a turn.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        todo!()
    }
    /// Submits, parks (see [`Driver::turn`]; the reactor's own deadlines are taken in), gathers.
    ///
    /// # Errors
    /// Only what leaves the driver unusable.
    pub fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()> {
        let _ = park_until_ns;
        todo!()
    }
    /// The next event.
    pub fn poll(&mut self) -> Option<Event<D::Lease, L>> {
        todo!()
    }
    /// Opens a chunk: byte streams yield it as it is, WebSocket yields whole messages.
    pub fn input(&mut self, conn: Conn, chunk: Chunk<D::Lease>) -> Input<'_, D, L> {
        let _ = (conn, chunk);
        todo!()
    }
    /// Queues bytes: on a byte stream as they are, on a WebSocket as one binary message. They leave at the next
    /// [`Reactor::flush`]. The caller bounds what it queues (it is told by [`Event::Sent`]).
    pub fn send(&mut self, conn: Conn, bytes: Bytes) {
        let _ = (conn, bytes);
        todo!()
    }
    /// Stops reading: the peer's TCP window fills. What had arrived is held.
    pub fn pause(&mut self, conn: Conn) {
        let _ = conn;
        todo!()
    }
    /// Reads on.
    pub fn resume(&mut self, conn: Conn) {
        let _ = conn;
        todo!()
    }
    /// Closes; [`Event::Closed`] follows.
    pub fn close(&mut self, conn: Conn, how: Close) {
        let _ = (conn, how);
        todo!()
    }
    /// Raises or lowers the largest WebSocket message that is taken from this peer.
    pub fn set_message_limit(&mut self, conn: Conn, bytes: usize) {
        let _ = (conn, bytes);
        todo!()
    }
    /// Stops accepting on all listeners.
    pub fn stop_accepting(&mut self) {
        todo!()
    }
    /// Puts a letter into another core's mailbox.
    ///
    /// # Errors
    /// The letter, if the mailbox is full: stop what fills it, try again next turn.
    pub fn post(&mut self, core: usize, letter: L) -> Result<(), L> {
        let _ = core;
        Err(letter)
    }
    /// Starts a send for every connection with something queued and none in flight, and wakes the cores that got mail.
    pub fn flush(&mut self) {
        todo!()
    }
}
