//! Bytes of a WebSocket connection of which the user does not know yet: the HTTP request, until it was answered.

use crate::driver::{Driver, Token};
use crate::ws::WsEvent;

use super::connection::{Connection, Layer, State};
use super::outgoing::Kind;
use super::{Cause, Reactor, Transport, Upcoming};

impl<D: Driver, L: Send> Reactor<D, L> {
    pub(super) fn shake_hands(&mut self, token: Token, mut lease: D::Lease) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let listener = connection.listener;
        let Connection { state, layer, .. } = connection;
        let (State::Handshake(peer), Layer::WebSocket(ws)) = (&*state, layer) else {
            return;
        };
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
}
