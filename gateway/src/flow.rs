//! Flow control of a connection: the bounds of its queue, the rates of its input, and the reasons for which it is not
//! read for a while.

use fluxar_engine::reactor::Conn;
use fluxar_protocol::error::Code;

use crate::front::{Effect, Front, ws_code};
use crate::session::pause;

/// What made a queue grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// What the gateway says to this peer's own messages, bounded by what one frame can ask for.
    Reply,
    /// What others say to this peer's calls.
    Answer,
    /// Calls of others that this peer is to serve. More of them are refused at the bound; the peer is still read, since
    /// it may be writing the answers that it has to get rid of before it reads on.
    Call,
    /// Parts of streams. Bounded by their windows: who does not read gets no more credit for its writers, and who writes
    /// is read on, since its own streams may be waiting for what it reads.
    Stream,
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
        if queued <= queue_bytes || session.is_deaf() {
            return;
        }
        if !session.standing.crowded {
            // It gets no new calls, and its streams no more credit, until half is gone; see `Front::handle_sent`. The
            // shard is polled where what led here is.
            session.standing.crowded = true;
            self.shard.set_standing(session.peer, session.standing);
        }
        if growth == Growth::Answer && queued > 2 * queue_bytes {
            // Not closed here: its end fails calls of others, whose queues may be full as well, and theirs of others.
            self.overrun.push(session.conn);
            self.pause(slot, pause::OVERRUN);
            return;
        }
        if session.due.stall_ms == u64::MAX {
            session.due.stall_ms = self.now_ms + u64::from(self.limits.stall_ms);
            self.arm(slot);
        }
        if matches!(growth, Growth::Reply | Growth::Answer) && queued > queue_bytes + queue_bytes / 4 {
            self.pause(slot, pause::QUEUE);
        }
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
