//! One client's session: what the gateway knows of a connection between its accept and its end.
//!
//! Small on purpose: an idle connection is one of these in a table and nothing on the heap.

use std::sync::Arc;

use fluxar_engine::reactor::Conn;
use fluxar_engine::timer::TimerId;
use fluxar_protocol::hello::Handshake;
use fluxar_protocol::reader::EnvelopeReader;
use fluxar_protocol::{Code, Id};
use fluxar_shard::{PeerId, Standing};

use crate::logged::Unacked;
use crate::outbox::{Framing, Outbox};
use crate::rate::Bucket;
use crate::resume::Resumable;

/// Why reading from a connection stands still; it goes on when none is left.
pub mod pause {
    /// Its own queue is over the bound.
    pub const QUEUE: u8 = 1;
    /// It sent more than its rate.
    pub const RATE: u8 = 2;
    /// It fills the mailbox of another core.
    pub const MAIL: u8 = 4;
    /// Its queue is at twice the bound: it takes nothing more and is closed at the end of the turn.
    pub const OVERRUN: u8 = 8;
    /// What it published to the log is not acknowledged yet.
    pub const LOG: u8 = 16;
}

/// What was asked of a peer that is silent; any byte from it answers all of it.
pub mod awaited {
    /// It was silent for a heartbeat and got a ping.
    pub const HEARTBEAT: u8 = 1;
    /// It serves, was silent for [`crate::upstreams::Health::ping_ms`] and got a ping.
    pub const HEALTH: u8 = 2;
    /// It serves, did not answer that in time, and gets nothing new until it speaks.
    pub const SIGN_OF_LIFE: u8 = 4;
}

/// Where a connection comes from, as far as trust goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// A Unix socket of this machine.
    Unix,
    /// TCP from this machine. A WebSocket is not: any page in a browser here could be behind it.
    Loopback,
    /// Anywhere else, or dialled by this gateway.
    #[default]
    Other,
}

/// [`Session::link`] of a connection that was accepted.
pub const ACCEPTED: u32 = u32::MAX;

/// What a session must do later, each at a time in ms; [`u64::MAX`] for not at all.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// The handshake or the partial frame must be complete.
    pub complete_ms: u64,
    /// The heartbeat is looked at.
    pub heartbeat_ms: u64,
    /// Drops are told.
    pub drops_ms: u64,
    /// Refused publishes are told.
    pub refusals_ms: u64,
    /// Reading goes on after a pause for its rate.
    pub rate_ms: u64,
    /// A queue over its bound that did not move closes the connection.
    pub stall_ms: u64,
    /// The silence of a serving peer is looked at.
    pub health_ms: u64,
}

impl Due {
    /// Nothing.
    pub const NEVER: Self = Self {
        complete_ms: u64::MAX,
        heartbeat_ms: u64::MAX,
        drops_ms: u64::MAX,
        refusals_ms: u64::MAX,
        rate_ms: u64::MAX,
        stall_ms: u64::MAX,
        health_ms: u64::MAX,
    };

    /// The first of them.
    #[must_use]
    pub fn first_ms(&self) -> u64 {
        self.complete_ms
            .min(self.heartbeat_ms)
            .min(self.drops_ms)
            .min(self.refusals_ms)
            .min(self.rate_ms)
            .min(self.stall_ms)
            .min(self.health_ms)
    }
}

/// One connection as the gateway sees it.
#[derive(Debug)]
pub struct Session {
    /// The engine's name for it.
    pub conn: Conn,
    /// The shard's name for it.
    pub peer: PeerId,
    /// How far the handshake is.
    pub handshake: Handshake,
    /// Whether its goodbye was said, or it was given up: the shard has let go of it, and nothing more is said to it.
    pub left: bool,
    /// Cuts its bytes into envelopes; unused on a WebSocket.
    pub reader: EnvelopeReader,
    /// What it still gets.
    pub outbox: Outbox,
    /// When it last sent anything, ms.
    pub received_ms: u64,
    /// What its silence has led to, see [`awaited`].
    pub awaited: u8,
    /// Reasons, see [`pause`].
    pub paused: u8,
    /// Whether it rests from its groups' work, as the shard was told.
    pub busy: bool,
    /// Whether it is in the list of outboxes to be sealed this turn.
    pub dirty: bool,
    /// Why it gets no new calls, as the shard was told if it serves.
    pub standing: Standing,
    /// Where it comes from.
    pub origin: Origin,
    /// What its hello announced: bytes that a stream may send to it at first.
    pub credit_bytes: u32,
    /// Its link in the pool of dialled connections; [`ACCEPTED`] if it dialled in.
    pub link: u32,
    /// Who it says it is; sessions that say the same share it.
    pub agent: Option<Arc<str>>,
    /// What it published to the log and is not acknowledged yet.
    pub unacked: Unacked,
    /// Deadlines.
    pub due: Due,
    /// The one timer that stands for them, and when it rings, ms.
    pub timer: Option<(TimerId, u64)>,
    /// Where the last drop note ends in its outgoing stream: the next waits until the kernel took it.
    pub note_position: u64,
    /// Refused publishes that were not told yet.
    pub refusals_untold: u64,
    /// The last of them, and why it was refused.
    pub refused_last: (Id, Code),
    /// Refused envelopes in this second.
    pub refusals: Bucket,
    /// What it takes to go on over another connection, if it can.
    pub resumable: Option<Box<Resumable>>,
    /// Its rate, if it has a bound.
    pub rate: Option<Box<Rate>>,
}

/// The two rates of a connection.
#[derive(Debug)]
pub struct Rate {
    /// Envelopes.
    pub messages: Bucket,
    /// Bytes.
    pub bytes: Bucket,
}

impl Session {
    /// For a connection that was just accepted.
    #[must_use]
    pub fn new(conn: Conn, peer: PeerId, framing: Framing, now_ms: u64) -> Self {
        Self {
            conn,
            peer,
            handshake: Handshake::default(),
            left: false,
            reader: EnvelopeReader::new(),
            outbox: Outbox::new(framing),
            received_ms: now_ms,
            awaited: 0,
            paused: 0,
            busy: false,
            dirty: false,
            standing: Standing::default(),
            origin: Origin::Other,
            credit_bytes: 0,
            link: ACCEPTED,
            agent: None,
            unacked: Unacked::default(),
            due: Due::NEVER,
            timer: None,
            note_position: 0,
            refusals_untold: 0,
            refused_last: (Id([0; 16]), Code::Unknown),
            refusals: Bucket::full(now_ms),
            resumable: None,
            rate: None,
        }
    }

    /// Whether this gateway dialled it.
    #[must_use]
    pub fn is_dialled(&self) -> bool {
        self.link != ACCEPTED
    }

    /// Whether events of this size may still be queued. Not while its queue has to drain for the sake of answers; and
    /// one that is larger than the bound itself goes through an empty queue.
    #[must_use]
    pub fn has_room(&self, body_bytes: usize, queue_bytes: usize) -> bool {
        let queued = self.outbox.queued_bytes();
        self.paused & pause::QUEUE == 0 && (queued == 0 || queued + body_bytes <= queue_bytes)
    }

    /// Whether it has no connection, and waits for another one.
    #[must_use]
    pub fn is_away(&self) -> bool {
        crate::resume::is_away(self.conn)
    }

    /// Whether nothing more is said to it.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.left || self.paused & pause::OVERRUN != 0
    }

    /// Whether the hello was accepted and no goodbye was said.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.handshake, Handshake::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_stays_small() {
        let bytes = size_of::<Option<Session>>();
        assert!(
            bytes <= 320,
            "a session is {bytes} bytes; each of 200,000 idle connections pays for it"
        );
    }
}
