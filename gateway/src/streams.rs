//! Streams on their way through: opens are asked for like calls ([`crate::exchanges`]), every other part goes from one
//! side to the other with its ref replaced, and between them the gateway says words of its own: grants, ends, errors.
//!
//! A chunk is copied once: from the receive buffer into its reader's outbox, or into a letter to another core.

use bytes::{Bytes, BytesMut};
use fluxar_protocol::envelope::{Decoded, Envelope, patch_ref};
use fluxar_protocol::error::{Code, ErrorBody};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::stream::{Note, Part};
use fluxar_protocol::{Form, Id, Kind};
use fluxar_shard::{Lane, Letter, PartRoute, PeerId, Spoken, Told};

use crate::flow::Growth;
use crate::front::{Effect, Front, answer};

/// The code of an answer's or a part's error.
pub(crate) fn code_of(error: &[u8]) -> Code {
    ErrorBody::decode(error).map_or(Code::Unknown, |error| error.code)
}

/// The stream of which the input in hand brings one chunk after the other. The second of them looks up the way; those
/// behind it go the same way with a compare and a copy, as far as credit goes that was given before.
#[derive(Debug, Default)]
pub(crate) struct ChunkRun {
    /// The stream that the last part was of, as its sender knows it, and the sender's slot.
    last: Option<(usize, Id)>,
    /// The way, and the slot at its end.
    lane: Option<(Lane, usize)>,
    /// What went that way since the shard was told.
    passed_bytes: u64,
}

impl Front {
    /// Passes a chunk on if it goes the way of the one before it.
    #[inline]
    pub(crate) fn runs_on(&mut self, slot: usize, decoded: &Decoded<'_>) -> bool {
        let run = &mut self.chunks;
        let (Some((lane, to)), Some(last)) = (&mut run.lane, run.last) else {
            return false;
        };
        let Envelope {
            kind: Kind::Stream,
            reference: Some(reference),
            meta: None,
            payload,
            error: None,
            ..
        } = decoded.envelope
        else {
            return false;
        };
        let bytes = payload.len() as u64;
        if last != (slot, reference)
            || lane.free_bytes < run.passed_bytes + bytes
            || decoded.form != Form::Compact
        {
            return false;
        }
        let Some(session) = &mut self.sessions[*to] else {
            return false;
        };
        match session
            .outbox
            .push_patched(decoded.bytes, None, Some(lane.reference))
        {
            Ok(full) => {
                if let Some(bytes) = full {
                    let conn = session.conn;
                    self.effects.push_back(Effect::Send { conn, bytes });
                }
                run.passed_bytes += bytes;
                true
            }
            Err(_) => false,
        }
    }

    /// What comes now is not a chunk behind the one before it: the shard is told what it was not asked about.
    #[inline]
    pub(crate) fn end_chunk_run(&mut self) {
        if let Some((lane, to)) = self.chunks.lane.take() {
            self.account_for(&lane, to);
        }
    }

    fn account_for(&mut self, lane: &Lane, to: usize) {
        let passed_bytes = std::mem::take(&mut self.chunks.passed_bytes);
        if passed_bytes > 0 {
            self.shard.passed(lane, passed_bytes);
            self.mark_dirty(to);
            self.watch_queue(to, Growth::Stream);
        }
    }

    /// A chunk was passed on; if it is the second one of its stream in a row, so may be those behind it.
    #[inline]
    fn begin_chunk_run(&mut self, slot: usize, from: PeerId, reference: Id) {
        if self.chunks.last != Some((slot, reference)) {
            self.chunks.last = Some((slot, reference));
            return;
        }
        let lane = self.shard.lane(from, reference);
        let Some(lane) = lane.filter(|lane| lane.to.core == self.core && lane.free_bytes > 0) else {
            return;
        };
        let Some(to) = self.slot_of_peer(lane.to) else {
            return;
        };
        if let Some(session) = &mut self.sessions[to]
            && !session.is_deaf()
        {
            session.outbox.expect_more();
            self.chunks.lane = Some((lane, to));
        }
    }

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
        self.relay_part(from, reference, spoken, compact);
        if self.shard.has_news() {
            self.after_shard();
        }
        if let Part::Chunk { end: false, .. } = part {
            self.begin_chunk_run(slot, from, reference);
        }
    }

    /// What somebody says of a stream goes where it belongs. The caller polls the shard afterwards.
    #[inline]
    fn relay_part(&mut self, from: PeerId, reference: Id, spoken: Spoken, compact: &[u8]) {
        match self.shard.part(from, reference, spoken) {
            PartRoute::Pass { to, reference } if to.core == self.core => {
                self.deliver_part(to, reference, compact);
            }
            PartRoute::Pass { to, reference } => {
                let mut bytes = BytesMut::from(compact);
                patch_ref(&mut bytes, reference);
                let bytes = bytes.freeze();
                self.post(to.core, Letter::Passed { to, bytes });
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
    }

    /// A part for one of this core's connections.
    #[inline]
    pub(crate) fn deliver_part(&mut self, to: PeerId, reference: Id, compact: &[u8]) {
        let Some(slot) = self.slot_of_peer(to) else {
            return;
        };
        if let Err(too_large) = self.append(slot, compact, None, Some(reference), Growth::Stream) {
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
        let growth = if kind == Kind::Call {
            Growth::Call
        } else {
            Growth::Stream
        };
        self.say(slot, &part, growth);
    }
}
