//! Decoding of what peers usually send: compact, without an error. One straight way through the fields, made to be
//! inlined into whoever handles the envelope, so that its fields need not be copied from place to place.
//!
//! Of anything else it says nothing; `decode` reads that from its beginning, and finds out what is wrong.

use super::compact::{COMPACT_HEAD, COMPACT_REF_AT, ID_HEAD};
use super::{Decoded, Envelope, Form, Id, Kind};
use crate::cbor;
use crate::head;
use crate::limits::PAYLOAD_DEPTH_MAX;
use crate::meta::{self, Meta};

/// The envelope at the start of `bytes`, if it is a usual one: then it is what [`super::decode`] gives.
#[inline(always)]
pub(crate) fn decode(bytes: &[u8]) -> Option<Decoded<'_>> {
    let fixed: &[u8; COMPACT_REF_AT] = bytes.first_chunk()?;
    let [COMPACT_HEAD, kind, ID_HEAD, id @ .., reference_head] = fixed else {
        return None;
    };
    let kind = Kind::from_number((*kind).into())?;
    let (reference, at) = match *reference_head {
        head::NULL => (None, COMPACT_REF_AT),
        ID_HEAD => {
            let reference = bytes[COMPACT_REF_AT..].first_chunk()?;
            (Some(Id(*reference)), COMPACT_REF_AT + reference.len())
        }
        _ => return None,
    };
    let (target, rest) = target(&bytes[at..])?;
    let (meta, rest) = meta(rest)?;
    let payload_bytes = cbor::walk_short(rest, PAYLOAD_DEPTH_MAX).ok()?;
    let (payload, rest) = rest.split_at_checked(payload_bytes)?;
    let (&head::NULL, rest) = rest.split_first()? else {
        return None;
    };
    Some(Decoded {
        envelope: Envelope {
            kind,
            id: Id(*id),
            reference,
            target,
            meta,
            payload,
            error: None,
        },
        form: Form::Compact,
        bytes: &bytes[..bytes.len() - rest.len()],
    })
}

#[inline(always)]
fn target(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (len, rest) = match bytes {
        [head::NULL, rest @ ..] => return Some((None, rest)),
        [first @ 0x61..0x78, rest @ ..] => (first & 0x1f, rest),
        [0x78, len @ 24..=0xff, rest @ ..] => (*len, rest),
        _ => return None,
    };
    let (text, rest) = rest.split_at_checked(len.into())?;
    Some((Some(cbor::as_str(text).ok()?), rest))
}

#[inline(always)]
fn meta(bytes: &[u8]) -> Option<(Option<Meta<'_>>, &[u8])> {
    if let [head::NULL, rest @ ..] = bytes {
        return Some((None, rest));
    }
    let (meta, rest) = bytes.split_at_checked(meta::check(bytes).ok()?)?;
    Some((Some(Meta::from_checked(meta)), rest))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::envelope::decode::decode_any;
    use crate::meta::MetaWriter;

    #[test]
    fn it_says_what_the_way_for_everything_says() {
        let raw = MetaWriter::new().uint("qos", 1).text("trace", "00-4b").finish();
        let meta = raw.as_deref().map(Meta::from_checked);
        for (reference, target, meta, payload) in [
            (None, Some("a.b"), None, &b"\xa1\x62id\x18\x2a"[..]),
            (Some(Id([0x50; 16])), None, meta, b"\x9f\x62\xc3\xbc\xff"),
            (None, Some("sensors.hall-3.rack-17.climate"), meta, b"\xf6"),
        ] {
            let mut sound = Vec::new();
            Envelope {
                kind: Kind::Event,
                id: Id([7; 16]),
                reference,
                target,
                meta,
                payload,
                error: None,
            }
            .encode(Form::Compact, &mut sound);
            assert_eq!(decode(&sound).map(|decoded| decoded.bytes), Some(&sound[..]));
            for len in 0..=sound.len() {
                same(&sound[..len]);
            }
            for at in 0..sound.len() {
                let mut changed = sound.clone();
                for byte in 0..=255 {
                    changed[at] = byte;
                    same(&changed);
                }
            }
        }
    }

    fn same(bytes: &[u8]) {
        if let Some(usual) = decode(bytes) {
            let any = decode_any(bytes).expect("it was found sound");
            assert_eq!(
                (usual.envelope, usual.form, usual.bytes),
                (any.envelope, any.form, any.bytes),
                "{bytes:x?}"
            );
        }
    }
}
