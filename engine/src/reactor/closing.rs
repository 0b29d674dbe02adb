//! Every way in which a connection ends. All of them lead through [`Reactor::finish`], which says so to the user,
//! once, if the user knew of it.

use std::io;

use bytes::Bytes;

use crate::driver::{Driver, Token};

use super::connection::{Flags, State};
use super::outgoing::Kind;
use super::{Cause, Close, Conn, Event, Reactor, Upcoming};

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Closes; [`Event::Closed`] follows. Until then only [`Event::Sent`] may come, and an [`Event::Ending`] that had
    /// crossed it.
    pub fn close(&mut self, conn: Conn, how: Close) {
        let token = conn.0;
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match how {
            // It is not the user's any more.
            _ if matches!(connection.state, State::Leaving(_)) => {}
            Close::Now => self.finish(token, Cause::Ours),
            // The user has sent nothing, so nothing drains.
            Close::Drain { .. } if matches!(connection.state, State::Connecting | State::Asking) => {
                self.finish(token, Cause::Ours);
            }
            Close::Drain { ws_code } if matches!(connection.state, State::Open) => {
                if let Some(ws) = connection.layer.websocket() {
                    if !ws.is_open() {
                        // The peer closed it, or failed it: that is already on its way.
                        return;
                    }
                    ws.close(ws_code, "", &mut self.reply);
                    self.enqueue_reply(token);
                }
                self.drain(token, Cause::Ours, self.config.flush_ms);
            }
            Close::Drain { .. } => {}
        }
    }

    /// A WebSocket's input ended with a close frame or a fault: `reply` is sent behind what is queued, then nothing.
    pub(super) fn input_ended(&mut self, token: Token, cause: Cause, reply: Bytes) {
        if self
            .table
            .get(token)
            .is_some_and(|connection| matches!(connection.state, State::Open))
        {
            self.enqueue(token, reply, Kind::Control);
            self.drain(token, cause, self.config.flush_ms);
        }
    }

    /// Begins to drain: nothing is handed up any more, what is queued is sent within `flush_ms`.
    pub(super) fn drain(&mut self, token: Token, cause: Cause, flush_ms: u64) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if connection.is_draining() {
            return;
        }
        if matches!(connection.state, State::Handshake(_)) {
            self.counters.handshakes_failed += 1;
        }
        let told = connection.flags.has(Flags::OPENED) && !matches!(cause, Cause::Ours);
        let is_breach = matches!(cause, Cause::Transport(_));
        connection.state = State::Draining(Box::new(cause));
        let held_bytes = connection.held.take().map_or(0, |held| held.len());
        self.held_bytes -= held_bytes;
        if told {
            let conn = Conn(token);
            self.upcoming
                .push_back(Upcoming::Event(Event::Ending { conn, is_breach }));
        }
        self.set_deadline(token, flush_ms);
        // Bytes go on to be read: a socket that is closed with bytes unread resets the connection, and the peer may
        // lose what it was sent.
        if let Some(connection) = self.table.get(token) {
            connection.flags.clear(Flags::PAUSED);
        }
        self.arm_receive(token);
        self.end_if_flushed(token);
    }

    /// In a draining connection: ends this side's direction as soon as all is sent, and the connection as soon as
    /// both directions are ended.
    pub(super) fn end_if_flushed(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if !connection.is_draining() || !connection.is_flushed() {
            return;
        }
        if connection.flags.has(Flags::PEER_ENDED) {
            self.finish(token, Cause::Ours);
        } else if !connection.flags.has(Flags::HALF_CLOSED) {
            connection.flags.set(Flags::HALF_CLOSED);
            self.driver.shutdown_write(&connection.socket);
            self.set_deadline(token, self.config.linger_ms);
        }
    }

    pub(super) fn deadline_passed(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        connection.deadline = None;
        let flushed = connection.flags.has(Flags::HALF_CLOSED);
        match &mut connection.state {
            State::Draining(cause) if !flushed && matches!(**cause, Cause::Ours) => {
                **cause = Cause::Failed(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer did not read what was queued before the close",
                ));
            }
            State::Leaving(_) => {
                let error = io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the peer did not read what was queued before it was handed over",
                );
                return self.finish(token, Cause::Failed(error));
            }
            State::Connecting | State::Asking => {
                let (what, within_ms) = match connection.state {
                    State::Connecting => ("the connect", self.config.connect_ms),
                    _ => ("the request for a WebSocket", self.config.handshake_ms),
                };
                let error = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer to {what} within {within_ms} ms"),
                );
                return self.finish(token, Cause::Failed(error));
            }
            _ => {}
        }
        self.finish(token, Cause::Ours);
    }

    /// The socket failed.
    pub(super) fn failed(&mut self, token: Token, error: io::Error) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let flushed = connection.is_flushed();
        if let State::Draining(cause) = &mut connection.state
            && matches!(**cause, Cause::Ours)
            && !flushed
        {
            **cause = Cause::Failed(error);
            self.finish(token, Cause::Ours);
        } else {
            self.finish(token, Cause::Failed(error));
        }
    }

    /// The end: closes the socket, frees the slot, tells the user. The cause of a drain under way takes precedence.
    pub(super) fn finish(&mut self, token: Token, cause: Cause) {
        let Some(connection) = self.table.remove(token) else {
            return;
        };
        if let Some(timer) = connection.deadline {
            self.timers.cancel(timer);
        }
        // It did not come to a drain, or the drain did not come to its end: the peer does not read, or has done what is
        // answered by an end at once. Megabytes of the kernel's are not kept for it.
        if connection.outgoing.is_some() || matches!(connection.state, State::Open | State::Leaving(_)) {
            self.driver.give_up(&connection.socket);
        }
        if let Some(outgoing) = connection.outgoing {
            self.pools.queue_back(outgoing);
        }
        self.held_bytes -= connection.held.map_or(0, |held| held.len());
        self.board.left(self.mail.core());
        self.driver.close(token, connection.socket);
        let cause = match connection.state {
            State::Draining(cause) => *cause,
            State::Open => cause,
            State::Connecting | State::Asking => {
                self.counters.dials_failed += 1;
                cause
            }
            State::Handshake(_) => {
                self.counters.handshakes_failed += 1;
                return;
            }
            State::Leaving(leaving) => return self.lost_while_leaving(*leaving, cause),
        };
        if connection.flags.has(Flags::OPENED) {
            let conn = Conn(token);
            self.upcoming
                .push_back(Upcoming::Event(Event::Closed { conn, cause }));
        }
    }
}
