//! Dialled connections until they are open: the socket, the connect, a WebSocket's request.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::dial::{self, Dial, DialError, Remote};
use crate::driver::{Driver, Token};
use crate::listener::Address;
use crate::ws::{Masks, WsClient};

use super::connection::{Connection, Flags, Layer, State};
use super::outgoing::Kind;
use super::{Cause, Conn, Event, Reactor};

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Dials. It waits for nothing: [`Event::Connected`] follows when the connection is open, or [`Event::Closed`] with
    /// the reason when it will not be. Until then it can only be closed; what is sent vanishes.
    ///
    /// # Errors
    /// What is wrong before the network is asked: a [`DialError`], or what the kernel says of the socket (`EMFILE`: out of
    /// descriptors, see [`crate::rlimit`]; `EADDRNOTAVAIL`: the source is no address of this machine). No event follows.
    pub fn dial(&mut self, address: &Address, dial: &Dial) -> io::Result<Conn> {
        let remote = dial::remote(address)?;
        let connections = self.config.connections_max;
        if self.connections() >= connections {
            return Err(DialError::Full { connections }.into());
        }
        let layer = match (address, remote) {
            (Address::WebSocket { path, .. }, Remote::Ip(server)) => {
                Layer::Client(Box::new(self.ask_for(server, path, dial)?))
            }
            _ => Layer::Stream,
        };
        let socket = self.driver.open(remote, dial.source)?;
        self.counters.dialled += 1;
        let here = self.core();
        self.board.count(here);
        let mut flags = Flags::default();
        flags.set(Flags::OPENED);
        let token = self.table.insert(Connection {
            socket,
            flags,
            state: State::Connecting,
            layer,
            outgoing: None,
            held: None,
            deadline: None,
        });
        if let Some(connection) = self.table.get(token) {
            self.driver.connect(token, &connection.socket, remote);
        }
        self.set_deadline(token, self.config.connect_ms);
        Ok(Conn(token))
    }

    /// The client's side of a WebSocket, its request made.
    fn ask_for(&mut self, server: SocketAddr, path: &str, dial: &Dial) -> io::Result<WsClient> {
        let masks = match &mut self.masks {
            Some(masks) => masks,
            none => none.insert(Masks::new(self.driver.entropy()?)),
        };
        let client = WsClient::new(&dial.websocket, &server.to_string(), path, masks);
        Ok(client.map_err(DialError::Unsendable)?)
    }

    /// A connect came to its end.
    pub(super) fn connected(&mut self, token: Token, result: io::Result<()>) -> Option<Event<D::Lease, L>> {
        let Some(connection) = self.table.get(token) else {
            self.counters.stale += 1;
            return None;
        };
        if let Err(error) = result {
            self.finish(token, Cause::Failed(error));
            return None;
        }
        if let Layer::Client(client) = &mut connection.layer {
            let request = client.request();
            connection.state = State::Asking;
            self.enqueue(token, request.into(), Kind::Control);
            self.set_deadline(token, self.config.handshake_ms);
            self.arm_receive(token);
            return None;
        }
        connection.state = State::Open;
        if let Some(timer) = connection.deadline.take() {
            self.timers.cancel(timer);
        }
        self.arm_receive(token);
        Some(Event::Connected { conn: Conn(token) })
    }

    /// A reply of the WebSocket layer as this side sends it: a client masks it.
    pub(super) fn as_this_side_sends(&mut self, token: Token, reply: &[u8]) -> Bytes {
        let connection = self.table.get(token);
        match (connection.map(|connection| &connection.layer), &mut self.masks) {
            (Some(Layer::Client(_)), Some(masks)) => WsClient::masked(reply, masks).into(),
            _ => Bytes::copy_from_slice(reply),
        }
    }
}
