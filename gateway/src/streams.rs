//! Streams on their way through: opens are asked for like calls ([`crate::exchanges`]), every other part goes from one
//! side to the other with its ref replaced, and between them the gateway says words of its own: grants, ends, errors.
//!
//! A chunk is copied once a core: from the receive buffer into its reader's outbox, or into a letter to another core. Those
//! that come one after the other take the way of `chunks.rs`.

use bytes::{Bytes, BytesMut};
use fluxar_protocol::envelope::{Envelope, patch_ref};
use fluxar_protocol::error::{Code, ErrorBody};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::stream::{Note, Part};
use fluxar_protocol::{Batch, Form, Id, Kind};
use fluxar_shard::{Letter, PartRoute, PeerId, Spoken, Told};

use crate::flow::Growth;
use crate::front::{Front, answer};

/// The code of an answer's or a part's error.
pub(crate) fn code_of(error: &[u8]) -> Code {
    ErrorBody::decode(error).map_or(Code::Unknown, |error| error.code)
}

impl Front {
    /// A part of a stream that this connection opened or serves.
    #[inline]
    pub(crate) fn stream_part(
        &mut self,
        slot: usize,
        reference: Id,
        envelope: &Envelope<'_>,
        compact: &[u8],
    ) {
        let (Ok(part), Some(session)) = (Part::read(envelope), &self.sessions[slot]) else {
            return;
        };
        let spoken = Spoken {
            part,
            error: envelope.error.map(code_of),
        };
        let from = session.peer;
        let route = self.relay_part(from, reference, spoken, compact);
        if self.shard.has_news() {
            self.after_shard();
        }
        if let Part::Chunk { end: false, .. } = part {
            self.begin_chunk_run(slot, from, reference, route);
        }
    }

    /// What somebody says of a stream goes where it belongs. The caller polls the shard afterwards.
    #[inline]
    pub(crate) fn relay_part(
        &mut self,
        from: PeerId,
        reference: Id,
        spoken: Spoken,
        compact: &[u8],
    ) -> PartRoute {
        let route = self.shard.part(from, reference, spoken);
        match route {
            PartRoute::Pass { to, reference } if to.core == self.core => {
                self.deliver_part(to, reference, compact);
            }
            PartRoute::Pass { to, reference } => {
                let mut bytes = BytesMut::from(compact);
                patch_ref(&mut bytes, reference);
                let bytes = bytes.freeze();
                let envelopes = 1;
                self.post(to.core, Letter::Passed { to, bytes, envelopes });
            }
            PartRoute::Elsewhere { core } => {
                let part = Letter::Part {
                    from,
                    reference,
                    spoken,
                    bytes: Bytes::copy_from_slice(compact),
                };
                self.post(core, part);
            }
            PartRoute::Swallowed => {}
        }
        route
    }

    /// Parts for one of this core's connections, their ref replaced.
    pub(crate) fn deliver_passed(&mut self, to: PeerId, parts: &[u8], envelopes: u32) {
        let reference = parts.get(20..36).and_then(|id| <[u8; 16]>::try_from(id).ok());
        let (Some(slot), Some(reference)) = (self.slot_of_peer(to), reference) else {
            return;
        };
        let is_named = self.sessions[slot]
            .as_ref()
            .is_some_and(|session| session.outbox.form() == Form::Named);
        if !is_named {
            // A run is no longer than every receiver takes.
            return self.deliver_parts(to, Id(reference), parts, envelopes);
        }
        for decoded in Batch::new(parts).flatten() {
            self.deliver_part(to, Id(reference), decoded.bytes);
        }
    }

    /// A part for one of this core's connections.
    #[inline]
    pub(crate) fn deliver_part(&mut self, to: PeerId, reference: Id, compact: &[u8]) {
        self.deliver_parts(to, reference, compact, 1);
    }

    /// So many parts of one stream.
    #[inline]
    fn deliver_parts(&mut self, to: PeerId, reference: Id, compact: &[u8], envelopes: u32) {
        let Some(slot) = self.slot_of_peer(to) else {
            return;
        };
        if self.has_no_room_for(slot, compact) {
            let message = "its receiver has much to read, and what came is large for its payload; send less meta and shorter errors";
            return self.fail_stream(to, reference, Code::ResourceExhausted, message);
        }
        let appended = self.append_all(slot, compact, envelopes, None, Some(reference), Growth::Stream);
        if let Err(too_large) = appended {
            let message = format!(
                "a chunk of this stream is {} bytes, its receiver's max_frame leaves room for {}",
                too_large.envelope_bytes, too_large.limit_bytes
            );
            self.fail_stream(to, reference, Code::ResourceExhausted, &message);
        }
    }

    /// Ends a stream in the place of one of its sides, which is told so as well.
    fn fail_stream(&mut self, side: PeerId, reference: Id, code: Code, message: &str) {
        if let Some(slot) = self.slot_of_peer(side) {
            let error = crate::greeting::encode_error(code, message);
            let own = self.ids.next();
            let part = answer(Kind::Stream, own, reference, Some(&error));
            self.say(slot, &part, Growth::Stream);
        }
        self.fail_unheard(side, reference, code, message);
    }

    /// Ends a stream in the place of one of its sides, which knows nothing of it.
    pub(crate) fn fail_unheard(&mut self, side: PeerId, reference: Id, code: Code, message: &str) {
        let error = crate::greeting::encode_error(code, message);
        let own = self.ids.next();
        let mut compact = Vec::new();
        answer(Kind::Stream, own, reference, Some(&error)).encode(Form::Compact, &mut compact);
        let spoken = Spoken {
            part: Part::Fail,
            error: Some(code),
        };
        self.relay_part(side, reference, spoken, &compact);
    }

    /// The gateway's own word to a connection of this core.
    pub(crate) fn tell(&mut self, told: &Told) {
        let Told {
            to,
            reference,
            kind,
            note,
        } = *told;
        let Some(slot) = self.slot_of_peer(to) else {
            return;
        };
        let own = self.ids.next();
        let mut part = answer(kind, own, reference, None);
        let (meta, error);
        match note {
            Note::Fail(failure) if kind == Kind::Call => {
                return self.refuse(slot, kind, reference, failure.code, failure.message);
            }
            Note::Fail(failure) => {
                self.counters.refused += 1;
                error = crate::greeting::encode_error(failure.code, failure.message);
                part.error = Some(&error);
            }
            Note::Cancel => part.kind = Kind::Cancel,
            Note::Grant { bytes } => {
                meta = MetaWriter::new().uint("credit", bytes).finish();
                part.meta = meta.as_deref().map(Meta::from_checked);
            }
            Note::End => {
                meta = MetaWriter::new().flag("end", true).finish();
                part.meta = meta.as_deref().map(Meta::from_checked);
            }
        }
        let growth = match note {
            _ if kind == Kind::Call => Growth::Call,
            // Who writes without reading them stalls itself.
            Note::Grant { .. } => Growth::Reply,
            _ => Growth::Stream,
        };
        self.say(slot, &part, growth);
    }
}
