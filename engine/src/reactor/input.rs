//! The pieces of one received chunk, lent to the user one after the other; what it does not want now it gives back.

use crate::driver::{Driver, Token};
use crate::ws::{WsEvent, WsFault};

use super::connection::{Layer, State};
use super::{Cause, Chunk, Conn, Piece, Reactor, Transport, Upcoming};

/// The pieces of one chunk, one after the other (a lending iterator). Dropping it discards the rest of the chunk.
pub struct Input<'r, D: Driver, L: Send> {
    reactor: &'r mut Reactor<D, L>,
    token: Token,
    chunk: Chunk<D::Lease>,
    /// So many bytes of the chunk are taken.
    taken: usize,
    /// What ends the connection once the chunk is let go, and its messages were answered.
    end: Option<End>,
}

enum End {
    PeerClosed,
    Fault(WsFault),
}

impl<'r, D: Driver, L: Send> Input<'r, D, L> {
    pub(super) fn new(reactor: &'r mut Reactor<D, L>, token: Token, chunk: Chunk<D::Lease>) -> Self {
        Input {
            reactor,
            token,
            chunk,
            taken: 0,
            end: None,
        }
    }

    /// Whether a WebSocket message has begun to arrive and is not complete, once there is no further piece. A stream
    /// has no messages here, so none is partial.
    pub fn is_partial(&mut self) -> bool {
        match self
            .reactor
            .table
            .get(self.token)
            .map(|connection| &mut connection.layer)
        {
            Some(layer) => layer.websocket().is_some_and(|ws| ws.is_partial()),
            None => false,
        }
    }

    /// Gives back what was not taken of the chunk: the last `untaken_bytes` of the last [`Piece::Stream`] (a
    /// message is taken whole) and all behind it. The connection is paused; what was given back comes first when it is
    /// [resumed](Reactor::resume), or goes along when it is [handed over](Reactor::hand_over).
    pub fn hold(mut self, untaken_bytes: usize) {
        let Some(connection) = self.reactor.table.get(self.token) else {
            return;
        };
        if !matches!(connection.state, State::Open) || self.end.is_some() {
            return;
        }
        if matches!(connection.layer, Layer::Stream) {
            self.taken -= untaken_bytes.min(self.taken);
        }
        let bytes: &[u8] = match &self.chunk {
            Chunk::Lease(lease) => lease,
            Chunk::Held(held) => held,
        };
        let rest = &bytes[self.taken..];
        if !rest.is_empty() {
            // What was held while the chunk was lent arrived behind it.
            let held = connection.held.get_or_insert_default();
            held.splice(..0, rest.iter().copied());
            self.reactor.held_bytes += rest.len();
        }
        self.reactor.pause(Conn(self.token));
    }

    /// The next piece. A transport fault ends the input and closes the connection with its proper reason.
    #[allow(clippy::should_implement_trait)] // It lends.
    pub fn next(&mut self) -> Option<Piece<'_>> {
        if self.end.is_some() {
            return None;
        }
        let connection = self.reactor.table.get(self.token)?;
        if !matches!(connection.state, State::Open) {
            return None;
        }
        let bytes: &mut [u8] = match &mut self.chunk {
            Chunk::Lease(lease) => lease,
            Chunk::Held(held) => held,
        };
        let mut rest = &mut bytes[self.taken..];
        let before = rest.len();
        let event = match &mut connection.layer {
            Layer::Stream => {
                self.taken += rest.len();
                return (!rest.is_empty()).then_some(Piece::Stream(rest));
            }
            Layer::WebSocket { ws, listener } => {
                let transport = self.reactor.transports.get(usize::from(listener.0))?;
                let Some(Transport::WebSocket(config)) = transport.as_ref() else {
                    return None;
                };
                ws.next(&mut rest, config, &mut self.reactor.reply)
            }
            Layer::Client(client) => client.next(&mut rest, &mut self.reactor.reply),
        };
        self.taken += before - rest.len();
        match event {
            Ok(Some(WsEvent::Message(message))) => Some(Piece::Message(message)),
            Ok(Some(WsEvent::MessageText(text))) => Some(Piece::Message(text.as_bytes())),
            Ok(Some(WsEvent::Closed { .. })) => {
                self.end = Some(End::PeerClosed);
                None
            }
            // Opened came before the first chunk that is handed up.
            Ok(Some(WsEvent::Opened { .. }) | None) => None,
            Err(fault) => {
                self.end = Some(End::Fault(fault));
                None
            }
        }
    }
}

impl<D: Driver, L: Send> Drop for Input<'_, D, L> {
    fn drop(&mut self) {
        let token = self.token;
        let (cause, told) = match self.end.take() {
            None => return self.reactor.enqueue_reply(token),
            Some(End::PeerClosed) => (Cause::Peer, Vec::new()),
            Some(End::Fault(fault)) => (Cause::Transport(fault.reason().to_owned()), fault.reply()),
        };
        // Not at once: what the user answers to the messages before goes in front.
        let mut reply = std::mem::take(&mut self.reactor.reply);
        reply.extend(told);
        let reply = self.reactor.as_this_side_sends(token, &reply);
        self.reactor
            .upcoming
            .push_back(Upcoming::InputEnded { token, cause, reply });
    }
}
