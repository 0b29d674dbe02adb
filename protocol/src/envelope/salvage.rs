//! What can still be known of an envelope that is refused: whom to tell, and where the next one begins [P-3.8].

use super::decode::Reader;
use super::{COMPACT_HEAD, NAMED_HEAD};
use crate::error::{Fault, Reject};
use crate::head::{self, Head};
use crate::limits::PAYLOAD_DEPTH_MAX;

/// Levels that an item outside the payload may have inside the envelope: those of a value in meta or error, and the
/// map around it.
const FIELD_DEPTH_MAX: usize = PAYLOAD_DEPTH_MAX + 1;

/// Completes what decoding found out about the envelope at the start of `bytes`.
#[cold]
pub(super) fn reject(bytes: &[u8], fault: Fault, at: usize) -> Reject {
    let mut reject = Reject {
        fault,
        at,
        kind: None,
        id: None,
        has_ref: None,
        end: end(bytes),
    };
    match bytes.first() {
        Some(&COMPACT_HEAD) => read_on::<false>(bytes, &mut reject),
        Some(&NAMED_HEAD) => read_on::<true>(bytes, &mut reject),
        _ => None,
    };
    reject
}

/// Reads type, id and ref as far as they are without fault. An unknown type does not hide the id.
fn read_on<const NAMED: bool>(bytes: &[u8], reject: &mut Reject) -> Option<()> {
    let mut reader = Reader { bytes, at: 1 };
    reader.name::<NAMED>(0).ok()?;
    match reader.kind() {
        Ok(kind) => reject.kind = Some(kind),
        Err((Fault::UnknownKind(_), _)) => reader.at += Head::read(reader.rest()).ok()?.len,
        Err(_) => return None,
    }
    reader.name::<NAMED>(1).ok()?;
    reject.id = Some(reader.id().ok()?);
    reader.name::<NAMED>(2).ok()?;
    reject.has_ref = Some(reader.reference().ok()?.is_some());
    Some(())
}

/// Where the item at the start of `bytes` ends, if it is well-formed and every field nests within its bound. Text
/// that is not UTF-8 does not matter here.
fn end(bytes: &[u8]) -> Option<usize> {
    let outer = Head::read(bytes).ok()?;
    // The item that is the payload if this is meant to be an envelope.
    let (items, payload) = match (outer.major, outer.argument) {
        (head::ARRAY, items) => (items, 5),
        (head::MAP, Some(pairs)) => (Some(pairs.checked_mul(2)?), 11),
        (head::MAP, None) => (None, 11),
        (head::UINT | head::NINT, _) => return Some(outer.len), // at once: a body may hold a great many
        _ => return item_end(bytes, 0, FIELD_DEPTH_MAX),        // no envelope at all, but an item
    };
    let mut at = outer.len;
    let mut item: u64 = 0;
    while items != Some(item) {
        if items.is_none() && bytes.get(at) == Some(&head::BREAK) {
            let is_whole = outer.major == head::ARRAY || item.is_multiple_of(2);
            return is_whole.then_some(at + 1);
        }
        let depth_max = if item == payload {
            PAYLOAD_DEPTH_MAX
        } else {
            FIELD_DEPTH_MAX
        };
        at = item_end(bytes, at, depth_max)?;
        item += 1;
    }
    Some(at)
}

/// Where the item at `at` ends; `depth_max` bounds its arrays, maps and tags.
fn item_end(bytes: &[u8], mut at: usize, depth_max: usize) -> Option<usize> {
    let mut open = [Open::Items(0); FIELD_DEPTH_MAX];
    let mut depth = 0_usize;
    loop {
        let head = Head::read(&bytes[at..]).ok()?;
        let first = bytes[at];
        at += head.len;
        let opens = match (head.major, head.argument) {
            (head::BYTES | head::TEXT, Some(len)) => {
                at = past(bytes, at, len)?;
                None
            }
            (major @ (head::BYTES | head::TEXT), None) => {
                at = chunks_end(bytes, at, major)?;
                None
            }
            (head::ARRAY, Some(items)) => Some(Open::Items(items)),
            (head::MAP, Some(pairs)) => Some(Open::Items(pairs.checked_mul(2)?)),
            (head::TAG, _) => Some(Open::Items(1)),
            (head::ARRAY, None) => Some(Open::Array),
            (head::MAP, None) => Some(Open::Map { value_next: false }),
            (head::SIMPLE, Some(value)) if first == 0xf8 && value < 32 => return None,
            (head::SIMPLE, None) => {
                depth = depth.checked_sub(1)?;
                match open[depth] {
                    Open::Array | Open::Map { value_next: false } => None,
                    _ => return None,
                }
            }
            _ => None,
        };
        if let Some(opens) = opens {
            if depth == depth_max.min(FIELD_DEPTH_MAX) {
                return None;
            }
            if opens != Open::Items(0) {
                open[depth] = opens;
                depth += 1;
                continue;
            }
        }
        // An item ended here, and with it all that it was the last item of.
        loop {
            let Some(top) = depth.checked_sub(1) else {
                return Some(at);
            };
            match &mut open[top] {
                Open::Items(1) => depth = top,
                Open::Items(left) => {
                    *left -= 1;
                    break;
                }
                Open::Map { value_next } => {
                    *value_next = !*value_next;
                    break;
                }
                Open::Array => break,
            }
        }
    }
}

/// A container that has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// So many items are still to come, at least one.
    Items(u64),
    /// Items until a break.
    Array,
    /// Keys and values until a break.
    Map { value_next: bool },
}

/// Where the chunks of an indefinite-length string end, its break included.
fn chunks_end(bytes: &[u8], mut at: usize, major: u8) -> Option<usize> {
    loop {
        let head = Head::read(&bytes[at..]).ok()?;
        at += head.len;
        match head {
            Head {
                major: head::SIMPLE,
                argument: None,
                ..
            } => return Some(at),
            Head {
                major: chunk,
                argument: Some(len),
                ..
            } if chunk == major => at = past(bytes, at, len)?,
            _ => return None,
        }
    }
}

/// The offset `len` bytes behind `at`, if they are there.
fn past(bytes: &[u8], at: usize, len: u64) -> Option<usize> {
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::cbor::{WalkFaultKind, walk_scalar};

    /// Without regard to UTF-8 and within the depth, both walks have to agree.
    #[test]
    fn agrees_with_the_walk_on_every_short_item() {
        let mut bytes = Vec::new();
        // All strings of four bytes out of those that matter to structure.
        const ALPHABET: [u8; 20] = [
            0x00, 0x17, 0x18, 0x1c, 0x1f, 0x41, 0x5f, 0x61, 0x7f, 0x80, 0x82, 0x9f, 0xa1, 0xbf, 0xc1, 0xf4,
            0xf8, 0xf9, 0xff, 0x20,
        ];
        for number in 0..ALPHABET.len().pow(4) {
            bytes.clear();
            bytes.extend((0..4).map(|digit| ALPHABET[number / ALPHABET.len().pow(digit) % ALPHABET.len()]));
            let walked = walk_scalar(&bytes, 64);
            match walked {
                Err(fault) if fault.kind == WalkFaultKind::Utf8 => {}
                _ => assert_eq!(item_end(&bytes, 0, 64), walked.ok(), "{bytes:x?}"),
            }
        }
    }

    #[test]
    fn depth_is_bounded_by_field() {
        let nested = |levels: usize| [&[0x81].repeat(levels)[..], &[0]].concat();
        // Seven items, the sixth of them the payload.
        let envelope = |field: usize, levels: usize| {
            let mut bytes = alloc::vec![0x87];
            for item in 0..7 {
                bytes.extend(if item == field { nested(levels) } else { nested(0) });
            }
            bytes
        };
        for (field, levels) in [(5, 64), (4, 65), (6, 65)] {
            let fits = envelope(field, levels);
            assert_eq!(end(&fits), Some(fits.len()));
            assert_eq!(end(&envelope(field, levels + 1)), None);
        }
    }

    #[test]
    fn text_that_is_not_utf8_has_an_end() {
        assert_eq!(end(b"\x82\x62\xff\xff\x7f\x61\xff\xff"), Some(8));
    }

    #[test]
    fn absurd_claims_end_at_once() {
        for bytes in [
            &b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\0\0"[..],
            b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff\0",
        ] {
            assert_eq!(end(bytes), None);
        }
    }
}
