//! Time passes: handshakes and frames that are not complete, heartbeats, drops to be told, rates to be resumed,
//! queues that do not move.
//!
//! A session has several deadlines and one timer, which is armed for the first of them and only ever moved nearer:
//! when it rings too early it is armed again. So a heartbeat that moves with every message costs nothing.

use fluxar_engine::reactor::Conn;
use fluxar_protocol::Kind;
use fluxar_protocol::error::Code;
use fluxar_protocol::meta::{Meta, MetaWriter};

use crate::front::{Front, answer, ws_code};
use crate::limits::{DROP_NOTE_MS, REFUSAL_NOTE_MS};
use crate::session::{awaited, pause};

impl Front {
    /// The time, µs, before anything else of a turn.
    pub fn handle_time(&mut self, now_us: u64) {
        let now_ms = now_us / 1_000;
        self.now_us = now_us;
        self.now_ms = now_ms;
        if self.log_dir.is_some() {
            self.shard.set_unix_ms((self.wall_clock)(now_ms));
        }
        self.shard.handle_time(now_us);
        self.after_shard();
        let mut expired = std::mem::take(&mut self.expired);
        self.timers.expire(now_ms, |conn| expired.push(conn));
        for conn in expired.drain(..) {
            self.handle_timer(conn);
        }
        self.expired = expired;
        if self.pool.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.expire_pool();
        }
        self.expire_admin();
        self.say_stopping_to_all();
    }

    /// Makes the session's timer ring no later than its first deadline.
    pub(crate) fn arm(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let first_ms = session.due.first_ms();
        if first_ms == u64::MAX {
            return;
        }
        match session.timer {
            Some((_, at_ms)) if at_ms <= first_ms => {}
            armed => {
                if let Some((timer, _)) = armed {
                    self.timers.cancel(timer);
                }
                session.timer = Some((self.timers.arm(first_ms, session.conn), first_ms));
            }
        }
    }

    fn handle_timer(&mut self, conn: Conn) {
        let Some(slot) = self.slot_of(conn) else { return };
        if crate::resume::is_away(conn) {
            return self.look_at_away(slot);
        }
        let now_ms = self.now_ms;
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.timer = None;
        // What this side does not read cannot be completed; its time begins again when reading does.
        if session.paused != 0 && session.is_open() && session.due.complete_ms <= now_ms {
            session.due.complete_ms = now_ms + u64::from(self.limits.frame_ms);
        }
        let due = session.due;

        if due.complete_ms <= now_ms && session.is_dialled() && !session.is_open() {
            self.counters.timed_out += 1;
            return self.dial_overdue(slot);
        }
        if due.complete_ms <= now_ms {
            let message = if session.is_open() {
                format!(
                    "a frame was begun and not completed within {} ms",
                    self.limits.frame_ms
                )
            } else {
                format!("no hello within {} ms", self.limits.handshake_ms)
            };
            self.counters.timed_out += 1;
            self.say_goodbye(slot, Some((Code::DeadlineExceeded, &message)), ws_code::POLICY);
            return;
        }
        if due.stall_ms <= now_ms {
            let message = format!(
                "{} bytes are waiting for you and none was read for {} ms",
                session.outbox.queued_bytes(),
                self.limits.stall_ms
            );
            self.counters.overrun += 1;
            self.say_goodbye(slot, Some((Code::ResourceExhausted, &message)), ws_code::POLICY);
            return;
        }
        if due.heartbeat_ms <= now_ms && !self.beat(slot) {
            return;
        }
        if due.health_ms <= now_ms {
            self.look_at_health(slot);
        }
        if due.drops_ms <= now_ms {
            self.tell_drops(slot);
        }
        if due.refusals_ms <= now_ms {
            self.tell_refusals(slot);
        }
        if due.rate_ms <= now_ms {
            if let Some(session) = &mut self.sessions[slot] {
                session.due.rate_ms = u64::MAX;
            }
            self.unpause(slot, pause::RATE);
        }
        self.arm(slot);
    }

    /// Pings a peer that was silent for a heartbeat; gives one up that was for two. False if it is gone.
    fn beat(&mut self, slot: usize) -> bool {
        let now_ms = self.now_ms;
        let heartbeat_ms = u64::from(self.limits.heartbeat_ms);
        let Some(session) = &mut self.sessions[slot] else {
            return false;
        };
        if session.paused != 0 {
            // Not read from, so its silence says nothing; a stall has a deadline of its own.
            session.due.heartbeat_ms = now_ms + heartbeat_ms;
            return true;
        }
        let silent_ms = now_ms.saturating_sub(session.received_ms);
        if silent_ms >= 2 * heartbeat_ms {
            self.counters.lost += 1;
            tracing::debug!(conn = ?session.conn, silent_ms, "lost: no sign of life");
            self.give_up(slot, &format!("no sign of life for {silent_ms} ms"));
            return false;
        }
        if silent_ms >= heartbeat_ms {
            session.due.heartbeat_ms = session.received_ms + 2 * heartbeat_ms;
            let was_awaited = session.awaited;
            session.awaited |= awaited::HEARTBEAT;
            // One that serves may have been pinged for its health and owe that pong still: one is enough.
            if was_awaited & (awaited::HEARTBEAT | awaited::HEALTH) == 0 {
                self.ping(slot);
            }
        } else {
            session.due.heartbeat_ms = session.received_ms + heartbeat_ms;
        }
        true
    }

    pub(crate) fn ping(&mut self, slot: usize) {
        self.ping_or_pong(slot, None);
    }

    /// Tells a subscriber what it missed, one note for each subscription; again only after the last note left.
    pub(crate) fn tell_drops(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.outbox.sent_position() < session.note_position {
            session.due.drops_ms = self.now_ms + DROP_NOTE_MS;
            return;
        }
        session.due.drops_ms = u64::MAX;
        let peer = session.peer;
        let mut notes = Vec::new();
        self.shard.drop_notes(peer, &mut notes);
        for (subscription, dropped) in notes {
            let Some(meta) = MetaWriter::new().uint("dropped", dropped).finish() else {
                continue;
            };
            let own = self.ids.next();
            let mut note = answer(Kind::Subscribe, own, subscription, None);
            note.meta = Some(Meta::from_checked(&meta));
            self.push(slot, &note);
        }
        if let Some(session) = &mut self.sessions[slot] {
            session.note_position = session.outbox.end_position();
        }
    }

    fn tell_refusals(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.due.refusals_ms = u64::MAX;
        let untold = std::mem::take(&mut session.refusals_untold);
        let (refused_last, code) = session.refused_last;
        if untold == 0 {
            return;
        }
        session.due.refusals_ms = self.now_ms + REFUSAL_NOTE_MS;
        let details = crate::greeting::encode_refused(untold);
        let mut error = Vec::new();
        fluxar_protocol::ErrorBody {
            code,
            message: "more publishes were refused; details.refused counts them, this is the last",
            details: Some(&details),
            retry_after_ms: None,
        }
        .encode(&mut error);
        let own = self.ids.next();
        self.push(slot, &answer(Kind::Event, own, refused_last, Some(&error)));
    }
}
