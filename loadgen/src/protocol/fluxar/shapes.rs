//! Recognising what comes over and over: envelopes that differ from one seen before in nothing but id, ref and stamp.
//!
//! Reading an envelope walks its payload item by item. But the events of a run have the same topic, the same meta and
//! mostly the same payload around the stamp, so a receiver compares them with those that it has read: two comparisons
//! of memory instead of a walk. It is as exact as the walk. The bytes that may differ are the contents of byte strings
//! whose length stands in bytes that are compared, so equal bytes around them are the same items.

use fluxar_protocol::envelope::{COMPACT_HEAD, COMPACT_ID_AT, COMPACT_REF_AT, Decoded};
use fluxar_protocol::{Form, Id, Kind};

use crate::stamp::{STAMP_AT, STAMP_BYTES, Stamp};

/// How many shapes a connection remembers: of a mix of payloads the first ones. What is not among them is read in full.
const SHAPES_MAX: usize = 4;
/// Largest envelope that is remembered, bytes. Beyond it comparing costs no less than walking.
const SHAPE_BYTES_MAX: usize = 2 * 1024;
/// First byte of a byte string of 16: an id.
const ID_HEAD: u8 = 0x50;

/// What matters of an envelope that was recognised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Recognised<'a> {
    pub(in super::super) kind: Kind,
    pub(in super::super) id: Id,
    pub(in super::super) reference: Option<Id>,
    pub(in super::super) payload: &'a [u8],
    /// Length of the whole envelope.
    pub(in super::super) bytes: usize,
}

/// The envelopes that were read and are compared with; the newest is asked first.
#[derive(Debug, Default)]
pub(in super::super) struct Shapes {
    known: Vec<Shape>,
    last: usize,
}

#[derive(Debug)]
struct Shape {
    kind: Kind,
    has_ref: bool,
    /// The whole envelope.
    bytes: Box<[u8]>,
    /// Where its comparison begins: behind the id, or behind the ref.
    fixed_at: usize,
    payload_at: usize,
    /// Where the stamp stands in it.
    stamp_at: usize,
}

impl Shapes {
    /// The envelope at the start of `rest`, if it has a shape that was seen before.
    #[inline]
    pub(in super::super) fn recognise<'a>(&mut self, rest: &'a [u8]) -> Option<Recognised<'a>> {
        if let Some(recognised) = self.known.get(self.last)?.recognise(rest) {
            return Some(recognised);
        }
        self.try_others(rest)
    }

    fn try_others<'a>(&mut self, rest: &'a [u8]) -> Option<Recognised<'a>> {
        let others = self.known.iter().enumerate();
        let (at, found) = others
            .filter(|(at, _)| *at != self.last)
            .find_map(|(at, shape)| Some((at, shape.recognise(rest)?)))?;
        self.last = at;
        Some(found)
    }

    #[cfg(test)]
    pub(super) fn known_count(&self) -> usize {
        self.known.len()
    }

    /// Remembers an envelope that was read in full, if it is of a kind that comes often and there is room.
    pub(in super::super) fn learn(&mut self, decoded: &Decoded<'_>) {
        let envelope = &decoded.envelope;
        let has_ref = envelope.reference.is_some();
        let is_frequent = match envelope.kind {
            Kind::Event => !has_ref,
            Kind::Call => true,
            // Grants and last chunks say so in their meta.
            Kind::Stream => has_ref && envelope.meta.is_none(),
            _ => false,
        };
        if !is_frequent
            || envelope.error.is_some()
            || self.known.len() >= SHAPES_MAX
            || decoded.form != Form::Compact
            || decoded.bytes.len() > SHAPE_BYTES_MAX
            || !has_stamp(envelope.payload)
        {
            return;
        }
        let payload_at = decoded.bytes.len() - 1 - envelope.payload.len();
        self.last = self.known.len();
        self.known.push(Shape {
            kind: envelope.kind,
            has_ref,
            bytes: decoded.bytes.into(),
            fixed_at: if has_ref { COMPACT_REF_AT } else { COMPACT_ID_AT } + 16,
            payload_at,
            stamp_at: payload_at + STAMP_AT,
        });
    }
}

/// Whether a payload is a map whose first value is a byte string, the stamp: then any bytes may stand in its place.
/// (With another head the same bytes may mean something else, for example a text, which has to be UTF-8.)
fn has_stamp(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(0xa1..=0xb7)) && Stamp::read(payload).is_some()
}

impl Shape {
    #[inline]
    fn recognise<'a>(&self, rest: &'a [u8]) -> Option<Recognised<'a>> {
        let found = rest.get(..self.bytes.len())?;
        let is_same = found[..COMPACT_ID_AT] == [COMPACT_HEAD, self.kind as u8, ID_HEAD]
            && found[COMPACT_REF_AT - 1] == self.bytes[COMPACT_REF_AT - 1]
            && found[self.fixed_at..self.stamp_at] == self.bytes[self.fixed_at..self.stamp_at]
            && found[self.stamp_at + STAMP_BYTES..] == self.bytes[self.stamp_at + STAMP_BYTES..];
        if !is_same {
            return None;
        }
        Some(Recognised {
            kind: self.kind,
            id: Id(*found[COMPACT_ID_AT..].first_chunk()?),
            reference: if self.has_ref {
                Some(Id(*found[COMPACT_REF_AT..].first_chunk()?))
            } else {
                None
            },
            payload: &found[self.payload_at..found.len() - 1],
            bytes: found.len(),
        })
    }
}
