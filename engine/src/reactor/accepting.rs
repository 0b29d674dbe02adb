//! Accepted connections on their way into the table of their core.

use crate::driver::{Driver, Token};
use crate::listener::{ListenerId, Peer};
use crate::ws::WebSocket;

use super::connection::{Connection, Flags, Layer, State};
use super::placement::{Content, Newcomer};
use super::{Conn, Event, Parcel, Reactor, Transport, Upcoming};

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Finds the core for a new connection. After the stop that is this one: no other may be left to take it.
    pub(super) fn accepted(&mut self, newcomer: Newcomer<D::Socket>) {
        let here = self.core();
        let core = if self.accepting {
            self.board.place(here)
        } else {
            self.board.count(here)
        };
        if core == here {
            self.adopt(newcomer);
        } else if let Err(Parcel(content)) = self.mail.post(core, Parcel(Content::Connection(newcomer))) {
            // It does not keep up with its mail, so it is no better a place.
            self.board.move_to(core, here);
            if let Content::Connection(newcomer) = content {
                self.adopt(newcomer);
            }
        }
    }

    /// Takes a connection that was counted on the board into the table.
    pub(super) fn adopt(&mut self, newcomer: Newcomer<D::Socket>) {
        let Newcomer {
            listener,
            socket,
            peer,
        } = newcomer;
        let transport = self
            .transports
            .get(usize::from(listener.0))
            .and_then(Option::as_ref);
        let (state, layer) = match transport {
            Some(Transport::Stream) => (State::Open, Layer::Stream),
            Some(Transport::WebSocket(_)) => (
                State::Handshake(Box::new(peer)),
                Layer::WebSocket {
                    ws: WebSocket::new(),
                    listener,
                },
            ),
            None => {
                self.refuse();
                return;
            }
        };
        if self.connections() >= self.config.connections_max {
            self.refuse();
            return;
        }
        self.counters.adopted += 1;
        let opened = matches!(state, State::Open);
        let token = self.table.insert(Connection {
            socket,
            flags: Flags::default(),
            state,
            layer,
            outgoing: None,
            held: None,
            deadline: None,
        });
        if opened {
            self.opened(token, listener, peer);
        } else {
            self.set_deadline(token, self.config.handshake_ms);
        }
        self.arm_receive(token);
    }

    fn refuse(&mut self) {
        self.counters.refused += 1;
        self.board.left(self.core());
    }

    /// Tells the user of a connection.
    pub(super) fn opened(&mut self, token: Token, listener: ListenerId, peer: Peer) {
        if let Some(connection) = self.table.get(token) {
            connection.flags.set(Flags::OPENED);
            let conn = Conn(token);
            self.upcoming
                .push_back(Upcoming::Event(Event::Opened { conn, listener, peer }));
        }
    }
}
