//! From a connection's queue to the driver and back: one send in flight a connection; what is queued meanwhile goes
//! out in the next.

use std::io;

use bytes::Bytes;

use crate::driver::{Driver, Token};
use crate::gather::Gather;
use crate::limits::CONTROL_BYTES_MAX;
use crate::ws;

use super::connection::{Flags, Layer, State};
use super::outgoing::Kind;
use super::{Cause, Conn, Event, Reactor};

/// What a connection's transport makes of the user's bytes.
enum Form {
    Bytes,
    Message,
    /// A client's, masked with this key.
    MaskedMessage([u8; 4]),
}

impl<D: Driver, L: Send> Reactor<D, L> {
    /// Queues bytes: on a byte stream as they are, on a WebSocket as one binary message. They leave at the next
    /// [`Reactor::flush`]. The caller bounds what it queues (it is told by [`Event::Sent`]).
    pub fn send(&mut self, conn: Conn, bytes: Bytes) {
        let kind = match self.form_of(conn.0) {
            None => return,
            Some(Form::Bytes) => Kind::Bytes,
            Some(Form::Message) => Kind::Message,
            Some(Form::MaskedMessage(key)) => Kind::MaskedMessage(key),
        };
        self.enqueue(conn.0, bytes, kind);
    }

    /// Queues two byte strings as one: on a byte stream one behind the other, on a WebSocket as **one** binary message.
    /// For a few bytes that are made for this connection in front of many that others share, which are not copied.
    /// Otherwise as [`Reactor::send`]; both count in [`Event::Sent`].
    pub fn send_parts(&mut self, conn: Conn, parts: [Bytes; 2]) {
        let [first, second] = parts;
        if first.is_empty() || second.is_empty() {
            return self.send(conn, if first.is_empty() { second } else { first });
        }
        let (kind, rest) = match self.form_of(conn.0) {
            None => return,
            Some(Form::Bytes) => (Kind::Bytes, Kind::Bytes),
            Some(Form::Message) => (Kind::MessageInTwo, Kind::Bytes),
            Some(Form::MaskedMessage(key)) => {
                let rest = Kind::Masked(ws::rotated(key, first.len()));
                (Kind::MaskedMessageInTwo(key), rest)
            }
        };
        self.enqueue(conn.0, first, kind);
        self.enqueue(conn.0, second, rest);
    }

    /// How what the user sends now leaves. `None`: not at all, the connection is not open.
    fn form_of(&mut self, token: Token) -> Option<Form> {
        let connection = self.table.get(token)?;
        if !matches!(connection.state, State::Open) {
            return None;
        }
        match (&connection.layer, &mut self.masks) {
            (Layer::Stream, _) => Some(Form::Bytes),
            (Layer::WebSocket { .. }, _) => Some(Form::Message),
            (Layer::Client(_), Some(masks)) => Some(Form::MaskedMessage(masks.key())),
            (Layer::Client(_), None) => None,
        }
    }

    /// Queues something and puts the connection on the list of the next flush.
    pub(super) fn enqueue(&mut self, token: Token, bytes: Bytes, kind: Kind) {
        // A message without bytes still has a header.
        if bytes.is_empty() && !matches!(kind, Kind::Message | Kind::MaskedMessage(_)) {
            return;
        }
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let outgoing = connection.outgoing.get_or_insert_with(|| self.pools.queue());
        outgoing.push(bytes, kind);
        mark_dirty(&mut self.dirty, &mut connection.flags, token);
    }

    /// Queues what the WebSocket layer answered to the chunk at hand. A peer that lets answers pile up is closed.
    pub(super) fn enqueue_reply(&mut self, token: Token) {
        if self.reply.is_empty() {
            return;
        }
        let mut reply = std::mem::take(&mut self.reply);
        let sent = self.as_this_side_sends(token, &reply);
        reply.clear();
        self.reply = reply;
        self.enqueue(token, sent, Kind::Control);
        let queued = self
            .table
            .get(token)
            .and_then(|connection| connection.outgoing.as_ref());
        if queued.is_some_and(|outgoing| outgoing.control_bytes() > CONTROL_BYTES_MAX) {
            self.finish(
                token,
                Cause::Transport("the peer sends pings and does not read the pongs".into()),
            );
        }
    }

    pub(super) fn start_sends(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            let Some(connection) = self.table.get(token) else {
                continue;
            };
            connection.flags.clear(Flags::DIRTY);
            if connection.flags.has(Flags::SENDING) {
                continue;
            }
            let Some(outgoing) = &mut connection.outgoing else {
                continue;
            };
            let mut gather = self.pools.gather();
            outgoing.fill(&mut gather, self.config.send_bytes_max);
            if outgoing.is_empty()
                && let Some(outgoing) = connection.outgoing.take()
            {
                self.pools.queue_back(outgoing);
            }
            connection.flags.set(Flags::SENDING);
            self.driver.send(token, &connection.socket, gather);
        }
        // Nothing above marks a connection dirty, so no list was begun meanwhile.
        self.dirty = dirty;
    }

    /// A send completed: the rest of a short one goes on at once, the queue at the next flush.
    pub(super) fn sent(
        &mut self,
        token: Token,
        result: io::Result<usize>,
        mut gather: Box<Gather>,
    ) -> Option<Event<D::Lease, L>> {
        let Some(connection) = self.table.get(token) else {
            self.counters.stale += 1;
            self.pools.gather_back(gather);
            return None;
        };
        let sent_bytes = match result {
            Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            result => result,
        };
        let sent_bytes = match sent_bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                // What was in flight is lost: the connection still counts as sending, so not as flushed.
                self.pools.gather_back(gather);
                self.failed(token, error);
                return None;
            }
        };
        self.counters.sends += 1;
        self.counters.sent_bytes += sent_bytes as u64;
        let bytes = gather.advance(sent_bytes);
        let leaving = matches!(connection.state, State::Leaving(_));
        if gather.is_empty() {
            connection.flags.clear(Flags::SENDING);
            if connection.outgoing.is_some() {
                mark_dirty(&mut self.dirty, &mut connection.flags, token);
            }
            self.pools.gather_back(gather);
            if leaving {
                self.leave_if_idle(token);
            } else {
                self.end_if_flushed(token);
            }
        } else {
            self.driver.send(token, &connection.socket, gather);
        }
        // If this was the last of a connection that is closing, its end comes behind this.
        (bytes > 0 && !leaving).then_some(Event::Sent {
            conn: Conn(token),
            bytes,
        })
    }
}

fn mark_dirty(dirty: &mut Vec<Token>, flags: &mut Flags, token: Token) {
    if !flags.has(Flags::DIRTY) {
        flags.set(Flags::DIRTY);
        dirty.push(token);
    }
}
