//! One connection's slot. Idle, it has nothing on the heap.
//!
//! ```text
//!              WebSocket                 handshake done
//!   adopted ─────┬─────▶ Handshake ─────────────┬──▶ Open ──── close(Drain), peer's end, a fault ───▶ Draining
//!                └── byte stream ───────────────┤     │                                                   │
//!                           │ refused: the answer is drained too                                          │
//!                           │                   │     └─ close(Now), socket failed ─▶ gone ◀── sent and ended,
//!                           └─ too slow, peer's end ─────────────────────────────────▶ gone     or out of time
//!                                               │     │
//!                                               │     └─ handed over ─▶ Leaving ─ sent, receive ended ─▶ gone: Open
//!                                               │                          │                             elsewhere
//!                                               │                          └─ socket failed, too slow ─▶ gone
//!   dialled ───▶ Connecting ──┬─ byte stream ───┤
//!                     │       └──▶ Asking ──────┘ good answer
//!                     │               └─ bad answer, too slow, closed, peer's end ───▶ gone
//!                     └─ refused, too slow, closed ──────────────────────────────────▶ gone
//! ```

use crate::listener::{ListenerId, Peer};
use crate::timer::TimerId;
use crate::ws::{WebSocket, WsClient};

use super::Cause;
use super::handover::Leaving;
use super::outgoing::Outgoing;

/// What the table holds for a connection.
#[derive(Debug)]
pub(super) struct Connection<S, L> {
    pub(super) socket: S,
    pub(super) flags: Flags,
    pub(super) state: State<L>,
    pub(super) layer: Layer,
    /// `None`: nothing is queued.
    pub(super) outgoing: Option<Box<Outgoing>>,
    /// What arrived while it was paused, before the receive ended. Never empty, bounded by
    /// [`super::ReactorConfig::held_bytes_max`], counted in [`super::Reactor::held_bytes`].
    #[allow(clippy::box_collection)] // Rare, and every slot pays for the field.
    pub(super) held: Option<Box<Vec<u8>>>,
    /// The deadline of the connect, the handshake or the drain.
    pub(super) deadline: Option<TimerId>,
}

#[derive(Debug)]
pub(super) enum State<L> {
    /// A dialled connection before its connect has come to an end.
    Connecting,
    /// A dialled WebSocket's request is sent, and the answer awaited.
    Asking,
    /// An accepted WebSocket's handshake is under way; the user does not know of the connection.
    Handshake(Box<Peer>),
    Open,
    /// The user has handed it to another core and hears nothing more of it: what is queued is sent, the receive comes to its
    /// end, what arrives until then is held. Paused.
    Leaving(Box<Leaving<L>>),
    /// Nothing is handed up any more. What is queued is sent, then this side is ended, then the peer's end awaited.
    Draining(Box<Cause>),
}

#[derive(Debug)]
pub(super) enum Layer {
    Stream,
    /// Accepted, with the settings of that listener.
    WebSocket {
        ws: WebSocket,
        listener: ListenerId,
    },
    /// A dialled WebSocket.
    Client(Box<WsClient>),
}

impl Layer {
    /// What WebSockets of either side have in common.
    pub(super) fn websocket(&mut self) -> Option<&mut WebSocket> {
        match self {
            Layer::Stream => None,
            Layer::WebSocket { ws, .. } => Some(ws),
            Layer::Client(client) => Some(client.state()),
        }
    }
}

/// What is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// A receive is armed.
    pub(super) const RECEIVING: u16 = 1;
    /// It was asked to end.
    pub(super) const STOPPING: u16 = 1 << 1;
    /// The user does not want bytes now.
    pub(super) const PAUSED: u16 = 1 << 2;
    /// It waits in the queue of receives that found no buffer.
    pub(super) const STARVED: u16 = 1 << 3;
    /// The peer ended its direction.
    pub(super) const PEER_ENDED: u16 = 1 << 4;
    /// A send is in flight.
    pub(super) const SENDING: u16 = 1 << 5;
    /// It is on the list of the next flush.
    pub(super) const DIRTY: u16 = 1 << 6;
    /// This side's direction was ended; all was sent.
    pub(super) const HALF_CLOSED: u16 = 1 << 7;
    /// The user knows of it, and is to be told when it is gone.
    pub(super) const OPENED: u16 = 1 << 8;

    pub(super) fn has(self, flags: u16) -> bool {
        self.0 & flags != 0
    }

    pub(super) fn set(&mut self, flags: u16) {
        self.0 |= flags;
    }

    pub(super) fn clear(&mut self, flags: u16) {
        self.0 &= !flags;
    }
}

impl<S, L> Connection<S, L> {
    /// Whether nothing is queued or in flight.
    pub(super) fn is_flushed(&self) -> bool {
        self.outgoing.is_none() && !self.flags.has(Flags::SENDING)
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining(_))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::super::table::Table;
    use super::*;

    #[test]
    fn a_slot_is_small() {
        let bytes = Table::<Connection<OwnedFd, ()>>::SLOT_BYTES;
        assert!(bytes <= 128, "{bytes}");
    }
}
