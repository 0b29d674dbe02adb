//! Envelopes that are sent often, encoded once: what is left to do is to copy, and to write the id and the payload.

use fluxar_protocol::envelope::{self, COMPACT_HEAD};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Envelope, Form, Id, Kind};

use super::super::{Names, Outgoing};
use super::frames::Frames;

/// CBOR's null.
const NULL: u8 = 0xf6;
/// First byte of a byte string of 16: an id.
const ID_HEAD: u8 = 0x50;
/// What our calls say about how long they are waited for: the SDK puts this key into every call.
const CALL_TIMEOUT_MS: u64 = 10_000;
/// What our events say about their payload, if meta is asked for.
const PAYLOAD_TYPE: &str = "reading/1";

/// The heads of publishes and calls, for all names of a run.
#[derive(Debug)]
pub(in super::super) struct Templates {
    events: Vec<Box<[u8]>>,
    calls: Vec<Box<[u8]>>,
}

impl Templates {
    pub(in super::super) fn new(names: &Names, qos: u8, has_meta: bool) -> Self {
        let mut meta = MetaWriter::new();
        if qos > 0 {
            meta = meta.uint("qos", qos.into());
        }
        if has_meta {
            meta = meta.text("type", PAYLOAD_TYPE);
        }
        let event_meta = meta.finish();
        let call_meta = MetaWriter::new().uint("timeout_ms", CALL_TIMEOUT_MS).finish();
        let heads = |names: &[String], kind, meta: Option<&[u8]>| {
            names.iter().map(|name| head(kind, name, meta)).collect()
        };
        Self {
            events: heads(&names.topics, Kind::Event, event_meta.as_deref()),
            calls: heads(&names.methods, Kind::Call, call_meta.as_deref()),
        }
    }

    /// Appends a publish.
    #[inline]
    pub(in super::super) fn event(
        &self,
        topic: usize,
        id: Id,
        payload: &[u8],
        frames: &mut Frames,
        out: &mut Outgoing,
    ) {
        append(&self.events[topic], id, payload, frames, out);
    }

    /// Appends a call.
    #[inline]
    pub(super) fn call(
        &self,
        method: usize,
        id: Id,
        payload: &[u8],
        frames: &mut Frames,
        out: &mut Outgoing,
    ) {
        append(&self.calls[method], id, payload, frames, out);
    }
}

/// A compact envelope up to its payload, with an id that is written over.
fn head(kind: Kind, target: &str, meta: Option<&[u8]>) -> Box<[u8]> {
    let mut bytes = Vec::new();
    Envelope {
        kind,
        id: Id([0; 16]),
        reference: None,
        target: Some(target),
        meta: meta.map(Meta::from_checked),
        payload: &[],
        error: None,
    }
    .encode(Form::Compact, &mut bytes);
    bytes.truncate(bytes.len() - 2); // the nulls of payload and error
    bytes.into()
}

#[inline]
fn append(head: &[u8], id: Id, payload: &[u8], frames: &mut Frames, out: &mut Outgoing) {
    let envelope_bytes = head.len() + payload.len() + 1;
    frames.make_room(envelope_bytes, out);
    out.bytes.reserve(envelope_bytes);
    let start = out.bytes.len();
    out.bytes.extend_from_slice(head);
    envelope::patch_id(&mut out.bytes[start..], id);
    out.bytes.extend_from_slice(payload);
    out.bytes.push(NULL);
}

/// Appends the answer to a call: the payload that came with it.
#[inline]
pub(super) fn answer(id: Id, call: Id, payload: &[u8], frames: &mut Frames, out: &mut Outgoing) {
    refer(Kind::Call, id, call, payload, frames, out);
}

/// Appends a chunk of a stream, not the last one.
#[inline]
pub(super) fn chunk(id: Id, stream: Id, payload: &[u8], frames: &mut Frames, out: &mut Outgoing) {
    refer(Kind::Stream, id, stream, payload, frames, out);
}

/// Appends an envelope that has a ref and a payload, and nothing else.
#[inline]
fn refer(kind: Kind, id: Id, reference: Id, payload: &[u8], frames: &mut Frames, out: &mut Outgoing) {
    let mut head = [NULL; 38];
    head[..3].copy_from_slice(&[COMPACT_HEAD, kind as u8, ID_HEAD]);
    head[19] = ID_HEAD;
    envelope::patch_id(&mut head, id);
    envelope::patch_ref(&mut head, reference);
    frames.make_room(head.len() + payload.len() + 1, out);
    out.bytes.extend_from_slice(&head); // target and meta are null
    out.bytes.extend_from_slice(payload);
    out.bytes.push(NULL);
}

/// Appends any other envelope, encoded on the spot.
pub(super) fn other(envelope: &Envelope<'_>, frames: &mut Frames, out: &mut Outgoing) {
    let mut bytes = Vec::new();
    envelope.encode(Form::Compact, &mut bytes);
    frames.make_room(bytes.len(), out);
    out.bytes.extend_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use super::super::frames::Framing;
    use super::*;

    #[test]
    fn templates_give_what_the_encoder_gives() {
        let names = Names {
            topics: vec!["a".into(), "orders.eu.created".into()],
            methods: vec!["m".repeat(255)],
        };
        let payload = b"\xa1\x61s\x18\x2a";
        for (qos, has_meta) in [(0, false), (0, true), (1, false), (1, true)] {
            let templates = Templates::new(&names, qos, has_meta);
            let (mut out, mut frames) = (Outgoing::default(), Frames::new(Framing::Messages, true));
            templates.event(1, Id([3; 16]), payload, &mut frames, &mut out);
            templates.call(0, Id([4; 16]), payload, &mut frames, &mut out);
            answer(Id([5; 16]), Id([6; 16]), payload, &mut frames, &mut out);
            chunk(Id([7; 16]), Id([8; 16]), payload, &mut frames, &mut out);
            let mut again = Vec::new();
            for decoded in fluxar_protocol::Batch::new(&out.bytes) {
                let envelope = decoded.expect("an envelope").envelope;
                assert_eq!(envelope.payload, payload);
                fluxar_protocol::exchange::verb(&envelope).expect("a verb");
                envelope.encode(Form::Compact, &mut again);
            }
            assert_eq!(again, out.bytes);
        }
    }
}
