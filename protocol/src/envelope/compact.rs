//! The layout of a compact envelope, for those who pass it on without decoding it again [P-3.2].
//!
//! ```text
//!   87 | kind | 50 id… | f6       | target | meta | payload | error     without ref
//!   87 | kind | 50 id… | 50 ref…  | target | meta | payload | error     with one
//!   0    1      2  3     19  20
//! ```
//!
//! What is asked here is asked of envelopes that were decoded, or made, before: of anything else the answers are `None` or
//! mean nothing.

use alloc::vec::Vec;

use super::{Id, Kind};
use crate::head;

/// First byte of a compact envelope: a definite array of 7.
pub const COMPACT_HEAD: u8 = 0x87;
/// Offset of the 16 id bytes in a compact envelope.
pub const COMPACT_ID_AT: usize = 3;
/// Offset of the 16 ref bytes in a compact envelope whose ref is set; of its target in one without ref.
pub const COMPACT_REF_AT: usize = 20;
/// Bytes that [`write_answer_head`] appends.
pub const ANSWER_HEAD_BYTES: usize = COMPACT_REF_AT + 16 + 1;

/// First byte of 16 bytes: what ids are.
pub(crate) const ID_HEAD: u8 = 0x50;

const KIND_AT: usize = 1;

/// The type.
#[must_use]
#[inline]
pub fn kind_of(compact: &[u8]) -> Option<Kind> {
    Kind::from_number((*compact.get(KIND_AT)?).into())
}

/// The id.
#[must_use]
#[inline]
pub fn id_of(compact: &[u8]) -> Option<Id> {
    Some(Id(*compact.get(COMPACT_ID_AT..)?.first_chunk()?))
}

/// The bytes of the target of an envelope without ref, such as an event's topic.
#[must_use]
#[inline]
pub fn topic_bytes_of(event: &[u8]) -> Option<&[u8]> {
    match event.get(COMPACT_REF_AT - 1..)? {
        [head::NULL, first @ 0x60..=0x77, rest @ ..] => rest.get(..usize::from(first & 0x1f)),
        [head::NULL, 0x78, len, rest @ ..] => rest.get(..usize::from(*len)),
        _ => None,
    }
}

/// Where the text of the target stands in an envelope without ref. `None` if it is not this topic that stands there.
#[must_use]
#[inline]
pub fn topic_at(topic: &str, event: &[u8]) -> Option<usize> {
    let at = COMPACT_REF_AT + if topic.len() < 24 { 1 } else { 2 };
    (event.get(at..)?.starts_with(topic.as_bytes())).then_some(at)
}

/// Appends an envelope up to and with its target: one that has a ref and no target, so that meta, payload and error are still
/// to be written.
#[inline]
pub fn write_answer_head(kind: Kind, id: Id, reference: Id, out: &mut Vec<u8>) {
    out.extend_from_slice(&[COMPACT_HEAD, kind as u8, ID_HEAD]);
    out.extend_from_slice(&id.0);
    out.push(ID_HEAD);
    out.extend_from_slice(&reference.0);
    out.push(head::NULL);
}

/// Overwrites the id of a compact envelope.
///
/// # Panics
/// If the bytes are shorter than a compact envelope's fixed part.
pub fn patch_id(compact: &mut [u8], id: Id) {
    compact[COMPACT_ID_AT..COMPACT_ID_AT + 16].copy_from_slice(&id.0);
}

/// Overwrites the ref of a compact envelope whose ref is set.
///
/// # Panics
/// If the bytes are shorter than a compact envelope's fixed part.
pub fn patch_ref(compact: &mut [u8], reference: Id) {
    compact[COMPACT_REF_AT..COMPACT_REF_AT + 16].copy_from_slice(&reference.0);
}

const _: () = assert!(COMPACT_ID_AT == 3 && COMPACT_REF_AT == COMPACT_ID_AT + 16 + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Envelope, Form, decode};
    use crate::limits::TARGET_BYTES_MAX;

    const OWN: Id = Id([0xa5; 16]);
    const OTHER: Id = Id([0x5a; 16]);

    fn encoded(kind: Kind, reference: Option<Id>, target: Option<&str>) -> Vec<u8> {
        let mut out = Vec::new();
        let envelope = Envelope {
            kind,
            id: OWN,
            reference,
            target,
            meta: None,
            payload: b"\x61p",
            error: None,
        };
        envelope.encode(Form::Compact, &mut out);
        out
    }

    #[test]
    fn what_is_read_in_place_is_what_decoding_reads() {
        let longest = "t".repeat(TARGET_BYTES_MAX);
        for number in 1..=7 {
            let kind = Kind::from_number(number).expect("there are seven");
            for topic in ["a", "plant.größe", &longest[..23], &longest[..24], &longest] {
                let mut event = encoded(kind, None, Some(topic));
                assert_eq!((kind_of(&event), id_of(&event)), (Some(kind), Some(OWN)));
                assert_eq!(topic_bytes_of(&event), Some(topic.as_bytes()));
                let at = topic_at(topic, &event).expect("it stands there");
                assert_eq!(event[at..][..topic.len()], *topic.as_bytes());
                assert_eq!(topic_at("b", &event), None);
                patch_id(&mut event, OTHER);
                assert_eq!(event, {
                    let mut expected = encoded(kind, None, Some(topic));
                    expected[COMPACT_ID_AT..][..16].copy_from_slice(&OTHER.0);
                    expected
                });
                assert_eq!(id_of(&event), Some(OTHER));

                let mut answer = encoded(kind, Some(OTHER), Some(topic));
                assert_eq!((kind_of(&answer), id_of(&answer)), (Some(kind), Some(OWN)));
                assert_eq!(topic_bytes_of(&answer), None, "its ref stands there");
                patch_ref(&mut answer, OWN);
                let decoded = decode(&answer).expect("an envelope").envelope;
                assert_eq!((decoded.reference, decoded.target), (Some(OWN), Some(topic)));
            }
            assert_eq!(topic_bytes_of(&encoded(kind, None, None)), None);

            let mut answer = Vec::new();
            write_answer_head(kind, OWN, OTHER, &mut answer);
            assert_eq!(answer.len(), ANSWER_HEAD_BYTES);
            answer.extend_from_slice(b"\xf6\x61p\xf6");
            assert_eq!(answer, encoded(kind, Some(OTHER), None));
        }
    }

    #[test]
    fn what_is_cut_off_has_nothing_there() {
        for target in ["plant", "a.topic.of.more.than.twenty.three.bytes"] {
            let event = encoded(Kind::Event, None, Some(target));
            let end = topic_at(target, &event).expect("it stands there") + target.len();
            for cut in 0..end {
                let cut_off = &event[..cut];
                assert_eq!(kind_of(cut_off).is_some(), cut > KIND_AT);
                assert_eq!(id_of(cut_off).is_some(), cut >= COMPACT_ID_AT + 16);
                assert_eq!((topic_bytes_of(cut_off), topic_at(target, cut_off)), (None, None));
            }
        }
    }
}
