//! Flow control of a connection: the bounds of its queue, the rates of its input, and the reasons for which it is not
//! read for a while.

use fluxar_engine::reactor::Conn;
use fluxar_protocol::Batch;
use fluxar_protocol::error::Code;
use fluxar_protocol::stream::Part;

use crate::front::{Effect, Front, ws_code};
use crate::session::pause;

/// What made a queue grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// What the gateway says to this peer's own messages, bounded by what one frame can ask for.
    Reply,
    /// What others say to this peer's calls.
    Answer,
    /// Calls of others that this peer is to serve. More of them wait at the bound; the peer is still read, since
    /// it may be writing the answers that it has to get rid of before it reads on.
    Call,
    /// Parts of streams. Bounded by their windows: who does not read gets no more credit for its writers and opens no
    /// more of them, and who writes is read on, since its own streams may be waiting for what it reads. What costs much
    /// more than its credit is not taken at twice the bound; see [`Front::has_no_room_for`]. Grants are replies: it is
    /// what its reader has sent before that they follow.
    Stream,
}

/// What an envelope may cost beyond the payload of its chunk, which is about three times what one without meta does; and
/// the payload once more.
const CHUNK_ROOM_BYTES: usize = 128;
/// What an end may cost, once for each direction of a stream.
const END_ROOM_BYTES: usize = 1024;

/// What parts of a stream may cost. An encoded payload is a byte at least, so each chunk costs credit.
fn paid_bytes(parts: &[u8]) -> usize {
    let paid = Batch::new(parts).flatten().map(|decoded| {
        let payload = decoded.envelope.payload.len();
        match Part::read(&decoded.envelope) {
            Ok(Part::Fail | Part::End) => END_ROOM_BYTES,
            Ok(Part::Chunk { end: true, .. }) => END_ROOM_BYTES + 2 * payload,
            Ok(Part::Chunk { .. }) => CHUNK_ROOM_BYTES + 2 * payload,
            _ => 0,
        }
    });
    paid.sum()
}

impl Front {
    /// Holds the bounds of a queue that grew by something else than events. Events alone fill it to `queue_bytes` and no
    /// further; a quarter more is there for replies, so that a slow subscriber can still ping and cancel. Beyond that,
    /// reading stops and events are dropped until half of it is gone; at twice the bound the connection ends.
    pub(crate) fn watch_queue(&mut self, slot: usize, growth: Growth) {
        let queue_bytes = self.limits.queue_bytes;
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let queued = session.outbox.queued_bytes();
        // Windows may be larger than the queue: nobody is stopped or closed for what streams were granted.
        let beside_streams = session.outbox.queued_beside_streams();
        if queued <= queue_bytes || session.is_deaf() || session.is_away() {
            return;
        }
        if !session.standing.crowded {
            // It gets no new calls, and its streams no more credit, until half is gone; see `Front::handle_sent`. The
            // shard is polled where what led here is.
            session.standing.crowded = true;
            self.shard.set_standing(session.peer, session.standing);
        }
        if growth == Growth::Answer && beside_streams > 2 * queue_bytes {
            // Not closed here: its end fails calls of others, whose queues may be full as well, and theirs of others.
            self.overrun.push(session.conn);
            self.pause(slot, pause::OVERRUN);
            return;
        }
        if session.due.stall_ms == u64::MAX {
            session.due.stall_ms = self.now_ms + u64::from(self.limits.stall_ms);
            self.arm(slot);
        }
        if matches!(growth, Growth::Reply | Growth::Answer) && beside_streams > queue_bytes + queue_bytes / 4
        {
            self.pause(slot, pause::QUEUE);
        }
    }

    /// Whether parts of a stream cost so much more than their credit pays for that a peer with twice the bound queued does
    /// not get them: credit counts payloads, and what is around them could be many times that.
    pub(crate) fn has_no_room_for(&self, slot: usize, parts: &[u8]) -> bool {
        let Some(session) = &self.sessions[slot] else {
            return false;
        };
        session.outbox.queued_bytes() > 2 * self.limits.queue_bytes && parts.len() > paid_bytes(parts)
    }

    pub(crate) fn close_overrun(&mut self, conn: Conn) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        let message = format!(
            "{} bytes are waiting to be read by you, {} is the bound; read what you ask for",
            session.outbox.queued_bytes(),
            2 * self.limits.queue_bytes
        );
        self.counters.overrun += 1;
        self.say_goodbye(slot, Some((Code::ResourceExhausted, &message)), ws_code::POLICY);
    }

    pub(crate) fn pause(&mut self, slot: usize, reason: u8) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.paused == 0 {
            self.effects.push_back(Effect::Pause(session.conn));
        }
        session.paused |= reason;
    }

    pub(crate) fn unpause(&mut self, slot: usize, reason: u8) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.paused & reason == 0 {
            return;
        }
        session.paused &= !reason;
        if session.paused == 0 {
            // It could not have spoken: its silence begins now, and so does the time for what it had begun to say.
            session.received_ms = self.now_ms;
            if session.is_open() && session.due.complete_ms != u64::MAX {
                session.due.complete_ms = self.now_ms + u64::from(self.limits.frame_ms);
            }
            self.effects.push_back(Effect::Resume(session.conn));
        }
    }

    /// The mailbox that this connection's input fills is full; it is read again after [`Front::handle_mail_room`].
    pub fn handle_mail_full(&mut self, conn: Conn) {
        if let Some(slot) = self.slot_of(conn) {
            self.pause(slot, pause::MAIL);
        }
    }

    /// There is room again.
    pub fn handle_mail_room(&mut self, conn: Conn) {
        if let Some(slot) = self.slot_of(conn) {
            self.unpause(slot, pause::MAIL);
        }
    }

    pub(crate) fn charge_bytes(&mut self, slot: usize, bytes: usize) {
        let (per_s, now_ms) = (u64::from(self.limits.bytes_per_s), self.now_ms);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if per_s == 0 {
            return;
        }
        if let Some(rate) = &mut session.rate {
            let ready_ms = rate.bytes.take(bytes as u64, per_s, now_ms);
            self.wait_for_rate(slot, ready_ms);
        }
    }

    pub(crate) fn charge_messages(&mut self, slot: usize, messages: u64) {
        let (per_s, now_ms) = (u64::from(self.limits.messages_per_s), self.now_ms);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if per_s == 0 {
            return;
        }
        if let Some(rate) = &mut session.rate {
            let ready_ms = rate.messages.take(messages, per_s, now_ms);
            self.wait_for_rate(slot, ready_ms);
        }
    }

    fn wait_for_rate(&mut self, slot: usize, ready_ms: u64) {
        if ready_ms <= self.now_ms {
            return;
        }
        self.counters.rate_pauses += 1;
        if let Some(session) = &mut self.sessions[slot] {
            let later = if session.due.rate_ms == u64::MAX {
                0
            } else {
                session.due.rate_ms
            };
            session.due.rate_ms = ready_ms.max(later);
        }
        self.arm(slot);
        self.pause(slot, pause::RATE);
    }

    /// Holds the time that a frame may take: from the input that began it to the one that completed it.
    pub(crate) fn watch_partial(&mut self, slot: usize, partial: bool, whole: bool) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if !session.is_open() {
            return; // the handshake's deadline covers it
        }
        if !partial {
            session.due.complete_ms = u64::MAX;
        } else if whole || session.due.complete_ms == u64::MAX {
            session.due.complete_ms = self.now_ms + u64::from(self.limits.frame_ms);
            self.arm(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::envelope::Envelope;
    use fluxar_protocol::meta::{Meta, MetaWriter};
    use fluxar_protocol::{Form, Id, Kind};

    use super::*;

    fn part(meta: Option<MetaWriter>, payload: &[u8]) -> Vec<u8> {
        let meta = meta.and_then(MetaWriter::finish);
        let mut bytes = Vec::new();
        Envelope {
            kind: Kind::Stream,
            id: Id([1; 16]),
            reference: Some(Id([2; 16])),
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload,
            error: None,
        }
        .encode(Form::Compact, &mut bytes);
        bytes
    }

    #[test]
    fn a_part_is_paid_for_by_its_payload_or_by_being_the_last() {
        let is_paid = |bytes: &[u8]| bytes.len() <= paid_bytes(bytes);
        let text = |bytes| MetaWriter::new().text("trace", &"x".repeat(bytes));
        assert!(is_paid(&part(None, &[0x01])), "the smallest chunk");
        assert!(is_paid(&part(Some(text(55)), &[0x01])), "with a trace");
        assert!(!is_paid(&part(Some(text(1_000)), &[0x01])));
        let grant = MetaWriter::new().uint("credit", 1);
        assert!(!is_paid(&part(Some(grant), &[])), "the gateway words them itself");
        assert!(is_paid(&part(Some(MetaWriter::new().flag("end", true)), &[])));
        // A run is as its chunks are.
        assert!(is_paid(&part(None, &[0x01]).repeat(100)));
        assert!(!is_paid(&part(Some(text(1_000)), &[0x01]).repeat(100)));
    }
}
