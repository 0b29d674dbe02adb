//! The receiving side of a session that can be resumed: what is counted of what comes, and telling its peer how much that is.

use fluxar_protocol::envelope::{Decoded, Envelope};
use fluxar_protocol::error::{Code, Reject};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::session::{is_counted, is_counted_refused};
use fluxar_protocol::{Id, Kind};

use crate::front::{Front, ws_code};

impl Front {
    /// An envelope is about to be carried out or refused.
    pub(crate) fn count(&mut self, slot: usize, decoded: Result<&Decoded<'_>, &Reject>) {
        let Some(resumable) = self.sessions[slot]
            .as_mut()
            .and_then(|session| session.resumable.as_deref_mut())
        else {
            return;
        };
        if std::mem::take(&mut resumable.awaits_first) {
            resumable.tokens.confirm();
        }
        match decoded {
            Ok(decoded) if is_counted(&decoded.envelope) => resumable.received.take(decoded.bytes.len()),
            Err(reject) if is_counted_refused(reject) => resumable.received.take(reject.end.unwrap_or(0)),
            _ => {}
        }
    }

    /// A ping, or the answer to one. Of a session that can be resumed it says how much came.
    pub(crate) fn ping_or_pong(&mut self, slot: usize, reference: Option<Id>) {
        let id = self.ids.next();
        let recv = self.sessions[slot]
            .as_mut()
            .and_then(|session| session.resumable.as_deref_mut())
            .map(|resumable| resumable.received.tell());
        let meta = recv.and_then(|recv| MetaWriter::new().uint("recv", recv).finish());
        let ping = Envelope {
            kind: Kind::Ping,
            id,
            reference,
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &[],
            error: None,
        };
        self.push(slot, &ping);
    }

    /// The input is over: if much of it was counted, its peer is told.
    pub(crate) fn tell_received(&mut self, slot: usize) {
        let is_due = self.sessions[slot].as_ref().is_some_and(|session| {
            let resumable = session.resumable.as_deref();
            resumable.is_some_and(|resumable| resumable.received.is_due()) && session.is_open()
        });
        if is_due {
            self.ping_or_pong(slot, None);
        }
    }

    /// A ping or an answer to one came: what it says that its sender has is not kept any longer.
    pub(crate) fn hear_received(&mut self, slot: usize, envelope: &Envelope<'_>) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let (Some(keeping), Some(meta)) = (session.outbox.keeping(), &envelope.meta) else {
            return;
        };
        let Ok(Some(recv)) = meta.uint("recv") else { return };
        if let Err(fault) = keeping.covered(recv) {
            self.counters.rejected += 1;
            let message = fault.to_string();
            self.say_goodbye(slot, Some((Code::FailedPrecondition, &message)), ws_code::POLICY);
        }
    }
}
