//! Dialled connections until they are open: the socket, the connect, its end.

use std::io;

use crate::dial::{self, Dial, DialError};
use crate::driver::{Driver, Token};
use crate::listener::Address;

use super::connection::{Connection, DIALLED, Flags, Layer, State};
use super::{Cause, Conn, Event, Reactor};

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Dials. It waits for nothing: [`Event::Connected`] follows when the connection is open, or [`Event::Closed`] with
    /// the reason when it will not be. Until then it can only be closed; what is sent vanishes.
    ///
    /// # Errors
    /// What is wrong before the network is asked: a [`DialError`], or what the kernel says of the socket (`EMFILE`: out of
    /// descriptors, see [`crate::rlimit`]; `EADDRNOTAVAIL`: the source is no address of this machine). No event follows.
    pub fn dial(&mut self, address: &Address, dial: &Dial) -> io::Result<Conn> {
        if let Address::WebSocket { .. } = address {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let remote = dial::remote(address)?;
        let connections = self.config.connections_max;
        if self.table.len() >= connections {
            return Err(DialError::Full { connections }.into());
        }
        let socket = self.driver.open(remote, dial.source)?;
        self.counters.dialled += 1;
        let here = self.core();
        self.board.count(here);
        let mut flags = Flags::default();
        flags.set(Flags::OPENED);
        let token = self.table.insert(Connection {
            socket,
            listener: DIALLED,
            flags,
            state: State::Connecting,
            layer: Layer::Stream,
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
        connection.state = State::Open;
        if let Some(timer) = connection.deadline.take() {
            self.timers.cancel(timer);
        }
        self.arm_receive(token);
        Some(Event::Connected { conn: Conn(token) })
    }
}
