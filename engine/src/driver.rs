//! The narrow waist of the engine: operations go down, completions come up.
//!
//! [`crate::uring`] is the driver of a running gateway, one io_uring a core. [`crate::sim`] is the driver of the
//! simulation: a virtual clock and a seeded network that cuts reads and writes short, reorders completions and
//! runs out of buffers. Everything above this trait, from the connection table to the FLUXAR session, is the same
//! code in both.
//!
//! Rules that both keep and the reactor relies on:
//! - An operation names its owner by a [`Token`]; after the owner is gone its completions still arrive and are
//!   recognised as stale by the generation.
//! - An operation owns what it works on (a [`Gather`], a buffer) until its last completion gives it back.
//! - It does not own its socket: until the turn that submits it, it knows the descriptor by its number only. So whoever
//!   has handed a socket to [`Driver::connect`], [`Driver::receive`] or [`Driver::send`] keeps it until it gives it to [`Driver::close`], or
//!   until the driver is gone. A socket that is dropped before makes the operation meet whatever has that number by then:
//!   another connection's bytes, though never memory that is not its own.
//! - At most one send is in flight for a socket. Receives are multishot: one `receive` yields any number of
//!   [`Completion::Received`] and exactly one final [`Completion::ReceiveEnded`].

use std::io;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

use crate::dial::Remote;
use crate::disk::{DiskDone, DiskOp};
use crate::gather::Gather;
use crate::listener::{ListenerId, Peer};

/// Names the owner of an operation: a slot of the reactor's table and the generation it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Index in the owner's table.
    pub slot: u32,
    /// How often the slot had been given out before, below 2 to the power of [`Token::GENERATION_BITS`].
    pub generation: u32,
}

impl Token {
    /// Bits of a generation that are used, so that a driver can pack slot, generation and a kind of operation into 64.
    pub const GENERATION_BITS: u32 = 24;
}

/// What a kernel, or its simulation, does for one core.
pub trait Driver {
    /// Received bytes on loan: a receive buffer, or a part of one. Dropping the last part gives the buffer back. Mutable so that WebSocket payloads are unmasked in place.
    type Lease: Deref<Target = [u8]> + DerefMut;
    /// A connected socket. Dropping one that was never handed to an operation closes it; others have to go to
    /// [`Driver::close`], see the module's rules.
    type Socket: Send + 'static;

    /// Monotonic time in nanoseconds, sampled once a turn: the same value until the next [`Driver::turn`].
    fn now_ns(&self) -> u64;

    /// Bytes that nobody can foresee, to seed a generator with.
    ///
    /// # Errors
    /// A kernel that has none.
    fn entropy(&mut self) -> io::Result<[u8; 32]>;

    /// Arms accepting on a listener that was registered with this driver.
    fn accept(&mut self, listener: ListenerId);
    /// Stops accepting on it. A connection that was accepted before may still come.
    fn stop_accept(&mut self, listener: ListenerId);
    /// Makes a socket that can be connected to `remote`, bound to `source` if there is one. It does not wait.
    ///
    /// # Errors
    /// Out of descriptors; a source that is not an address of this machine, or not of the remote's family.
    fn open(&mut self, remote: Remote<'_>, source: Option<IpAddr>) -> io::Result<Self::Socket>;
    /// Connects a socket of [`Driver::open`]; [`Completion::Connected`] follows. Nothing else is asked of the socket
    /// before that but [`Driver::close`].
    fn connect(&mut self, token: Token, socket: &Self::Socket, remote: Remote<'_>);
    /// Arms a multishot receive.
    fn receive(&mut self, token: Token, socket: &Self::Socket);
    /// Asks for the receive to end; [`Completion::ReceiveEnded`] with [`ReceiveEnd::Stopped`] follows, unless it ends otherwise first.
    fn stop_receive(&mut self, token: Token);
    /// Sends a gather list; [`Completion::Sent`] gives it back.
    fn send(&mut self, token: Token, socket: &Self::Socket, gather: Box<Gather>);
    /// Half-closes: the peer reads end-of-stream behind what was sent.
    fn shutdown_write(&mut self, socket: &Self::Socket);
    /// Has the close that follows be a reset: what the kernel still has to send is dropped, and a peer that is stuck in
    /// writing hears of the end at once, not when the kernel gives up probing its window. A simulation may leave it.
    fn give_up(&mut self, socket: &Self::Socket) {
        let _ = socket;
    }
    /// Ends whatever is still in flight for a socket, then closes it. What was asked for before this call must not
    /// reach a descriptor that was closed and given out anew: the descriptor is let go only behind the submission of
    /// those operations. Their completions still arrive, a gather with them; by then the token is stale. Bytes that
    /// the kernel took are still delivered, if the peer reads them.
    fn close(&mut self, token: Token, socket: Self::Socket);
    /// How many receive buffers are not used up: so many receives may be armed anew after
    /// [`ReceiveEnd::NoBuffers`].
    fn free_buffers(&self) -> usize;
    /// Asks something of a disk; one [`Completion::Disk`] follows. Files are open until they are closed, or until the driver
    /// is gone: it ends what is under way before.
    fn disk(&mut self, op: DiskOp);
    /// Wakes another core if it is parked. Cheap if it is not. A wake is never lost: if the core is not parked now,
    /// its next park returns at once.
    fn wake(&mut self, core: usize);

    /// Submits what was asked for and gathers completions. Parks until one arrives, a wake, or `park_until_ns`
    /// (0: not at all, `None`: without limit).
    ///
    /// While completions of an earlier turn are not polled, it submits, gathers nothing and does not park: what is new
    /// waits in the kernel, where a peer that sends too much is slowed down, and not in this process.
    ///
    /// # Errors
    /// Only what leaves the ring unusable.
    fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()>;
    /// Whether a turn would find something, as far as can be seen without asking the kernel.
    fn is_ready(&mut self) -> bool {
        self.has_completions()
    }
    /// Whether [`Driver::poll`] may have something.
    fn has_completions(&self) -> bool;
    /// The next gathered completion.
    fn poll(&mut self) -> Option<Completion<Self::Lease, Self::Socket>>;
}

/// How an operation ended, or what a lasting one yielded.
#[derive(Debug)]
pub enum Completion<Lease, Socket> {
    /// A listener has a new connection.
    Accepted {
        /// Which.
        listener: ListenerId,
        /// The connection.
        socket: Socket,
        /// Who is at the other end.
        peer: Peer,
    },
    /// Accepting failed (out of descriptors …); the driver arms it again by itself after a pause.
    AcceptFailed {
        /// Which.
        listener: ListenerId,
        /// Why.
        error: io::Error,
    },
    /// A socket is connected, or will not be.
    Connected {
        /// Whose.
        token: Token,
        /// Why not.
        result: io::Result<()>,
    },
    /// Bytes arrived.
    Received {
        /// Whose.
        token: Token,
        /// At least one byte.
        lease: Lease,
    },
    /// A receive is over.
    ReceiveEnded {
        /// Whose.
        token: Token,
        /// Why.
        end: ReceiveEnd,
    },
    /// A send is over; it may have been short.
    Sent {
        /// Whose.
        token: Token,
        /// Bytes taken, or why none were.
        result: io::Result<usize>,
        /// The list, given back.
        gather: Box<Gather>,
    },
    /// Something asked of a disk is done.
    Disk(DiskDone),
}

/// Why a receive is over.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// The peer closed its direction.
    EndOfStream,
    /// The buffer ring ran dry; arm again when leases came back.
    NoBuffers,
    /// [`Driver::stop_receive`].
    Stopped,
    /// The socket failed.
    Failed(io::Error),
}
