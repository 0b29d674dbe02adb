//! Saying no: envelopes that are refused, and sessions that end with a reason [P-3.8, P-7].

use fluxar_engine::reactor::Close;
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::error::{Code, ErrorBody, Reject};
use fluxar_protocol::hello::Handshake;
use fluxar_protocol::meta::Qos;
use fluxar_protocol::{Fault, Id, Kind};

use crate::front::{Effect, Front, answer, ws_code};
use crate::session::pause;

impl Front {
    /// An envelope that could not be taken: answered, passed over, or the end, as [P-3.8] says.
    pub(crate) fn handle_reject(&mut self, slot: usize, reject: &Reject) {
        self.counters.rejected += 1;
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        if reject.end.is_none() || !session.is_open() {
            let message = reject.to_string();
            self.say_goodbye(slot, Some((reject.fault.code(), &message)), ws_code::POLICY);
            return;
        }
        if let (Some(id), Some(false)) = (reject.id, reject.has_ref) {
            let message = reject.to_string();
            self.refuse(
                slot,
                reject.kind.unwrap_or(Kind::Cancel),
                id,
                reject.fault.code(),
                &message,
            );
        }
        self.charge_refusal(slot);
    }

    /// Answers an envelope by its own type with an error. Publishes at qos 0, which are not acknowledged, are told at most once
    /// a second.
    pub(crate) fn refuse(&mut self, slot: usize, kind: Kind, id: Id, code: Code, message: &str) {
        let now_ms = self.now_ms;
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if kind != Kind::Event {
            return self.answer_error(slot, kind, id, code, message, None);
        }
        session.refusals_untold += 1;
        session.refused_last = (id, code);
        if session.due.refusals_ms != u64::MAX {
            self.counters.refused += 1;
            return;
        }
        let details = crate::greeting::encode_refused(std::mem::take(&mut session.refusals_untold));
        session.due.refusals_ms = now_ms + crate::limits::REFUSAL_NOTE_MS;
        self.arm(slot);
        self.answer_error(slot, kind, id, code, message, Some(&details));
    }

    /// Answers message `id` by its own type with an error.
    pub(crate) fn answer_error(
        &mut self,
        slot: usize,
        kind: Kind,
        id: Id,
        code: Code,
        message: &str,
        details: Option<&[u8]>,
    ) {
        self.counters.refused += 1;
        let mut error = Vec::new();
        ErrorBody {
            code,
            message,
            details,
            retry_after_ms: None,
        }
        .encode(&mut error);
        let own = self.ids.next();
        self.push(slot, &answer(kind, own, id, Some(&error)));
    }

    /// Refuses an envelope that was understood.
    pub(crate) fn refuse_fault(&mut self, slot: usize, kind: Kind, id: Id, fault: &Fault) {
        let message = fault.to_string();
        self.refuse(slot, kind, id, fault.code(), &message);
        self.charge_refusal(slot);
    }

    /// Refuses a publish that was understood. Who publishes at qos 1 or 2 waits for each, so each is answered by itself [P-5.9];
    /// so is one whose qos is no qos.
    pub(crate) fn refuse_publish(&mut self, slot: usize, envelope: &Envelope<'_>, fault: &Fault) {
        let qos = envelope.meta.map_or(Ok(Qos::AtMostOnce), |meta| meta.qos());
        if qos == Ok(Qos::AtMostOnce) {
            return self.refuse_fault(slot, Kind::Event, envelope.id, fault);
        }
        let message = fault.to_string();
        self.answer_error(slot, Kind::Event, envelope.id, fault.code(), &message, None);
        self.charge_refusal(slot);
    }

    pub(crate) fn charge_refusal(&mut self, slot: usize) {
        let per_s = u64::from(self.limits.refusals_per_s);
        let now_ms = self.now_ms;
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.is_away() {
            return; // it asked for this before, and cannot stop it now
        }
        if per_s > 0 && session.refusals.take(1, per_s, now_ms) > now_ms && !session.left {
            let message = format!("more than {per_s} envelopes in a second had to be refused");
            self.say_goodbye(slot, Some((Code::ResourceExhausted, &message)), ws_code::POLICY);
        }
    }

    /// The session ends: a last `cancel` says why, then the connection is half-closed and drained.
    pub(crate) fn say_goodbye(&mut self, slot: usize, why: Option<(Code, &str)>, ws_code: u16) {
        self.say_goodbye_until(slot, why, None, ws_code);
    }

    pub(crate) fn say_goodbye_until(
        &mut self,
        slot: usize,
        why: Option<(Code, &str)>,
        retry_after_ms: Option<u32>,
        ws_code: u16,
    ) {
        let id = self.ids.next();
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.is_away() {
            // There is no connection to say it on, and none whose end would free the place.
            return self.end_session(slot);
        }
        // Not by its handshake: that is over as soon as the peer's goodbye, or its fault, was read.
        if session.left {
            return;
        }
        session.left = true;
        session.handshake = Handshake::Closing;
        let error = why.map(|(code, message)| {
            let mut error = Vec::new();
            ErrorBody {
                code,
                message,
                details: None,
                retry_after_ms,
            }
            .encode(&mut error);
            error
        });
        let goodbye = Envelope {
            kind: Kind::Cancel,
            id,
            reference: None,
            target: None,
            meta: None,
            payload: &[],
            error: error.as_deref(),
        };
        let (conn, peer) = (session.conn, session.peer);
        session.due = crate::session::Due::NEVER;
        if let Some(bytes) = session.outbox.push(&goodbye) {
            self.effects.push_back(Effect::Send { conn, bytes });
        }
        self.seal(slot);
        self.effects.push_back(Effect::Close {
            conn,
            how: Close::Drain { ws_code },
        });
        // Behind a goodbye there is nothing to go on with.
        if let Some(session) = &mut self.sessions[slot] {
            self.resumables.let_go(session);
        }
        let reason = why.map_or("said goodbye", |(_, message)| message);
        self.let_go(slot, &reason, None);
        // From here on nothing reaches it, and nobody waits for it.
        self.shard.peer_lost(peer);
        self.after_shard();
    }

    /// The gateway stops: every session is told, with a moment of its own to come back at. Who waits for acknowledgements is not
    /// read any more, and told behind them, or when half of the time to drain is over.
    pub fn handle_stop(&mut self) {
        self.stopping = true;
        self.pool.stop();
        self.end_all_away();
        self.goodbye_by_ms = Some(self.now_ms + u64::from(self.limits.drain_ms) / 2);
        for slot in 0..self.sessions.len() {
            let waits = self.sessions[slot]
                .as_ref()
                .is_some_and(|session| !session.left && !session.unacked.is_nothing());
            if waits {
                self.pause(slot, pause::LOG);
            } else {
                self.say_stopping(slot);
            }
        }
    }

    /// So long was waited for acknowledgements.
    pub(crate) fn say_stopping_to_all(&mut self) {
        if self
            .goodbye_by_ms
            .take_if(|by_ms| *by_ms <= self.now_ms)
            .is_some()
        {
            for slot in 0..self.sessions.len() {
                self.say_stopping(slot);
            }
        }
    }

    pub(crate) fn say_stopping(&mut self, slot: usize) {
        if self.sessions[slot].as_ref().is_none_or(|session| session.left) {
            return;
        }
        // So that the next gateway is not stormed.
        let retry_after_ms = self.retry_after_ms(self.open_sessions);
        self.say_goodbye_until(
            slot,
            Some((Code::Unavailable, "the gateway is stopping; connect again")),
            Some(retry_after_ms),
            ws_code::GOING_AWAY,
        );
    }
}
