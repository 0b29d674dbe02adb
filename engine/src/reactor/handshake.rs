//! Bytes of a WebSocket that is not open yet: a client's request until it was answered, of whose connection the user does
//! not know; and a server's answer to a dialled one.

use std::io;

use crate::driver::{Driver, Token};
use crate::ws::WsEvent;

use super::connection::{Connection, Layer, State};
use super::outgoing::Kind;
use super::{Cause, Conn, Event, Reactor, Transport, Upcoming};

impl<D: Driver, L: Send> Reactor<D, L> {
    pub(super) fn shake_hands(&mut self, token: Token, mut lease: D::Lease) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let Connection { state, layer, .. } = connection;
        let (State::Handshake(peer), Layer::WebSocket { ws, listener }) = (&*state, layer) else {
            return;
        };
        let listener = *listener;
        let Some(Some(Transport::WebSocket(config))) = self.transports.get(usize::from(listener.0)) else {
            return;
        };
        let peer = **peer;
        let mut rest = &mut lease[..];
        match ws.next(&mut rest, config, &mut self.reply) {
            Ok(Some(WsEvent::Opened { .. })) => {
                connection.state = State::Open;
                if let Some(timer) = connection.deadline.take() {
                    self.timers.cancel(timer);
                }
                // A client that does not wait for the answer may have sent messages behind its request.
                self.held_bytes += rest.len();
                connection.held = (!rest.is_empty()).then(|| Box::new(rest.to_vec()));
                if connection.held.is_none() {
                    // Frees what the request was gathered in; there is no input that it could fault.
                    let _ = ws.next(&mut &mut [][..], config, &mut self.reply);
                }
                self.enqueue_reply(token);
                self.opened(token, listener, peer);
                self.upcoming.push_back(Upcoming::Held(token));
            }
            // Before it is open there is nothing else that it could say.
            Ok(_) => {}
            Err(fault) => {
                let reply = fault.reply();
                self.reply.clear();
                let cause = Cause::Transport(fault.reason().to_owned());
                self.enqueue(token, reply.into(), Kind::Control);
                self.drain(token, cause, self.config.flush_ms);
            }
        }
    }

    /// Bytes of the server's answer to a dialled WebSocket's request.
    pub(super) fn hear_answer(&mut self, token: Token, mut lease: D::Lease) -> Option<Event<D::Lease, L>> {
        let connection = self.table.get(token)?;
        let Layer::Client(client) = &mut connection.layer else {
            return None;
        };
        let mut rest = &mut lease[..];
        match client.next(&mut rest, &mut self.reply) {
            Ok(Some(WsEvent::Opened { .. })) => {
                connection.state = State::Open;
                if let Some(timer) = connection.deadline.take() {
                    self.timers.cancel(timer);
                }
                // A server need not wait either.
                self.held_bytes += rest.len();
                connection.held = (!rest.is_empty()).then(|| Box::new(rest.to_vec()));
                self.upcoming.push_back(Upcoming::Held(token));
                Some(Event::Connected { conn: Conn(token) })
            }
            // Before it is open there is nothing else that it could say.
            Ok(_) => None,
            Err(fault) => {
                self.finish(token, Cause::Failed(io::Error::other(fault)));
                None
            }
        }
    }
}
