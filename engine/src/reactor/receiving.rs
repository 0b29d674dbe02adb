//! Bytes that arrive, the ends of receives, pause and resume, and receives that found no buffer.

use std::io;

use crate::driver::{Driver, ReceiveEnd, Token};

use super::connection::{Flags, Layer, State};
use super::{Cause, Chunk, Conn, Event, Reactor, Upcoming};

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Arms a receive unless one is armed or waits for its turn, or nothing more can come, or what is held has to be
    /// handed up first.
    pub(super) fn arm_receive(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token)
            && connection.held.is_none()
            && !connection
                .flags
                .has(Flags::RECEIVING | Flags::STARVED | Flags::PEER_ENDED)
        {
            connection.flags.set(Flags::RECEIVING);
            self.driver.receive(token, &connection.socket);
        }
    }

    pub(super) fn received(&mut self, token: Token, lease: D::Lease) -> Option<Event<D::Lease, L>> {
        let Some(connection) = self.table.get(token) else {
            self.counters.stale += 1;
            return None;
        };
        self.counters.received_bytes += lease.len() as u64;
        match connection.state {
            State::Draining(_) | State::Connecting => None,
            State::Handshake(_) => {
                self.shake_hands(token, lease);
                None
            }
            State::Asking => self.hear_answer(token, lease),
            State::Leaving(_) => {
                self.hold(token, &lease);
                None
            }
            State::Open if connection.flags.has(Flags::PAUSED) => {
                self.hold(token, &lease);
                None
            }
            State::Open => {
                let conn = Conn(token);
                let chunk = Chunk::Lease(lease);
                Some(Event::Received { conn, chunk })
            }
        }
    }

    /// Keeps bytes of a paused connection, behind those that are kept.
    fn hold(&mut self, token: Token, bytes: &[u8]) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let held = connection.held.get_or_insert_default();
        if held.len() + bytes.len() > self.config.held_bytes_max {
            let cause = "the peer sends more at once than is held for a paused connection";
            return self.finish(token, Cause::Transport(cause.into()));
        }
        held.extend_from_slice(bytes);
        self.held_bytes += bytes.len();
    }

    pub(super) fn receive_ended(&mut self, token: Token, end: ReceiveEnd) {
        let Some(connection) = self.table.get(token) else {
            self.counters.stale += 1;
            return;
        };
        connection.flags.clear(Flags::RECEIVING | Flags::STOPPING);
        let paused = connection.flags.has(Flags::PAUSED);
        if matches!(connection.state, State::Leaving(_)) {
            match end {
                ReceiveEnd::Failed(error) => return self.failed(token, error),
                ReceiveEnd::EndOfStream => connection.flags.set(Flags::PEER_ENDED),
                // Whoever takes it over arms it anew.
                ReceiveEnd::Stopped | ReceiveEnd::NoBuffers => {}
            }
            return self.leave_if_idle(token);
        }
        match end {
            ReceiveEnd::Stopped if paused => {}
            // It was resumed before the receive had ended.
            ReceiveEnd::Stopped => self.arm_receive(token),
            ReceiveEnd::NoBuffers => {
                self.counters.receives_starved += 1;
                connection.flags.set(Flags::STARVED);
                self.starved.push_back(token);
            }
            ReceiveEnd::EndOfStream => {
                connection.flags.set(Flags::PEER_ENDED);
                // What it sent before comes first.
                if connection.held.is_none() {
                    self.peer_ended(token);
                }
            }
            ReceiveEnd::Failed(error) => self.failed(token, error),
        }
    }

    /// The peer's direction is over, and all that it sent was handed up.
    pub(super) fn peer_ended(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match (&connection.state, &connection.layer) {
            (State::Connecting | State::Leaving(_), _) => {}
            (State::Handshake(_), _) => self.finish(token, Cause::Peer),
            (State::Open, Layer::Stream) => self.drain(token, Cause::Peer, self.config.linger_ms),
            (State::Asking, _) => {
                let error = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server ended the connection without an answer to the request for a WebSocket",
                );
                self.finish(token, Cause::Failed(error));
            }
            (State::Open, Layer::WebSocket { .. } | Layer::Client(_)) => {
                let error = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer ended the connection without a close frame",
                );
                self.drain(token, Cause::Failed(error), self.config.linger_ms);
            }
            (State::Draining(_), _) => self.end_if_flushed(token),
        }
    }

    /// Stops reading: the peer's TCP window fills. What arrives before the kernel hears of it, at the next turn, is held
    /// (see [`super::ReactorConfig::held_bytes_max`]).
    pub fn pause(&mut self, conn: Conn) {
        let Some(connection) = self.table.get(conn.0) else {
            return;
        };
        if !matches!(connection.state, State::Open) {
            return;
        }
        connection.flags.set(Flags::PAUSED);
        if connection.flags.has(Flags::RECEIVING) && !connection.flags.has(Flags::STOPPING) {
            connection.flags.set(Flags::STOPPING);
            self.driver.stop_receive(conn.0);
        }
    }

    /// Reads on. What was held comes first, and nothing more is received before it was handed up: pausing and resuming
    /// again and again gathers nothing.
    pub fn resume(&mut self, conn: Conn) {
        let token = conn.0;
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if !connection.flags.has(Flags::PAUSED) || matches!(connection.state, State::Leaving(_)) {
            return;
        }
        connection.flags.clear(Flags::PAUSED);
        if connection.held.is_some() {
            self.upcoming.push_back(Upcoming::Held(token));
            if connection.flags.has(Flags::PEER_ENDED) {
                self.upcoming.push_back(Upcoming::PeerEnded(token));
            }
        }
        self.arm_receive(token);
    }

    /// Hands up what was held, unless the connection was paused again, closed or is gone.
    pub(super) fn hand_held(&mut self, token: Token) -> Option<Event<D::Lease, L>> {
        let connection = self.table.get(token)?;
        if connection.flags.has(Flags::PAUSED) {
            return None;
        }
        let held = *connection.held.take()?;
        self.held_bytes -= held.len();
        self.arm_receive(token);
        let chunk = Chunk::Held(held);
        let conn = Conn(token);
        Some(Event::Received { conn, chunk })
    }

    pub(super) fn hand_peer_end(&mut self, token: Token) {
        if let Some(connection) = self.table.get(token)
            && connection.held.is_none()
        {
            self.peer_ended(token);
        }
    }

    /// Arms as many of the starved receives as there are free buffers: arming all of them again would only have all
    /// but those fail again.
    pub(super) fn rearm_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        let mut free = self.driver.free_buffers();
        while free > 0
            && let Some(token) = self.starved.pop_front()
        {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            connection.flags.clear(Flags::STARVED);
            // If it was paused meanwhile, `resume` arms it.
            if !connection.flags.has(Flags::PAUSED) {
                self.arm_receive(token);
                free -= 1;
            }
        }
    }
}
