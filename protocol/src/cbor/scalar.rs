//! The walk in its plain form: one item after the other, one byte after the other.
//!
//! It is the oracle that the fast walk is tested against, the walk of machines without SIMD, and what names the
//! fault when the fast walk has only noticed that there is one.

use super::{DEPTH_MAX, WalkFault, WalkFaultKind};

/// A container that has begun and not ended.
#[derive(Clone, Copy)]
enum Open {
    /// A definite array or map, or a tag: so many items are still to come.
    Definite(u64),
    /// An indefinite array: any number of items, then a break.
    Array,
    /// An indefinite map: any number of pairs, then a break. True when the next item is a value.
    Map(bool),
}

/// What a head says its item is, as far as the walk cares.
enum Head {
    /// A number or a simple value: the head is all of it.
    Scalar,
    /// A string of so many bytes, which follow.
    Bytes(u64),
    /// The same, of text.
    Text(u64),
    /// Chunks of byte strings follow, then a break.
    BytesChunks,
    /// Chunks of text follow, then a break.
    TextChunks,
    /// A container.
    Open(Open),
    /// The end of an indefinite item.
    Break,
}

/// The walk without SIMD, see [`walk`](super::walk): the same result for every input, but slower.
///
/// # Errors
/// The first fault found, see [`WalkFault`].
pub fn walk_scalar(bytes: &[u8], depth_max: usize) -> Result<usize, WalkFault> {
    let depth_max = depth_max.min(DEPTH_MAX);
    let mut stack = [Open::Definite(0); DEPTH_MAX];
    let mut depth = 0;
    let mut pos = 0;
    loop {
        let start = pos;
        let fault = |kind| WalkFault { at: start, kind };
        match read_head(bytes, &mut pos)? {
            Head::Scalar => {}
            Head::Bytes(len) => {
                take(bytes, &mut pos, len)?;
            }
            Head::Text(len) => take_text(bytes, &mut pos, len)?,
            Head::BytesChunks => take_chunks(bytes, &mut pos, false)?,
            Head::TextChunks => take_chunks(bytes, &mut pos, true)?,
            Head::Open(open) => {
                if depth == depth_max {
                    return Err(fault(WalkFaultKind::Depth));
                }
                stack[depth] = open;
                depth += 1;
                if !matches!(open, Open::Definite(0)) {
                    continue; // Its first item comes next.
                }
                depth -= 1;
            }
            Head::Break => match stack[..depth].last() {
                Some(Open::Array | Open::Map(false)) => depth -= 1,
                _ => return Err(fault(WalkFaultKind::Break)),
            },
        }
        // An item has ended; with it end those containers that it was the last item of.
        loop {
            match stack[..depth].last_mut() {
                None => return Ok(pos),
                Some(Open::Array) => break,
                Some(Open::Map(value_next)) => {
                    *value_next = !*value_next;
                    break;
                }
                Some(Open::Definite(left)) => {
                    *left -= 1;
                    if *left > 0 {
                        break;
                    }
                    depth -= 1;
                }
            }
        }
    }
}

/// Reads the head at `pos` and moves `pos` behind it.
fn read_head(bytes: &[u8], pos: &mut usize) -> Result<Head, WalkFault> {
    let start = *pos;
    let fault = |kind| WalkFault { at: start, kind };
    let first = take(bytes, pos, 1)?[0];
    let (major, info) = (first >> 5, first & 0x1f);
    let argument = match info {
        0..=23 => Some(u64::from(info)),
        24..=27 => {
            let argument = take(bytes, pos, 1 << (info - 24))?;
            Some(
                argument
                    .iter()
                    .fold(0, |value, &byte| value << 8 | u64::from(byte)),
            )
        }
        31 => None,
        _ => return Err(fault(WalkFaultKind::Reserved)),
    };
    Ok(match (major, argument) {
        (7, Some(value)) if info == 24 && value < 32 => return Err(fault(WalkFaultKind::Simple)),
        (0 | 1 | 7, Some(_)) => Head::Scalar,
        (2, Some(len)) => Head::Bytes(len),
        (3, Some(len)) => Head::Text(len),
        (4, Some(count)) => Head::Open(Open::Definite(count)),
        // A map that would overflow here cannot be in memory: it ends as truncated all the same.
        (5, Some(pairs)) => Head::Open(Open::Definite(pairs.saturating_mul(2))),
        (6, Some(_)) => Head::Open(Open::Definite(1)),
        (2, None) => Head::BytesChunks,
        (3, None) => Head::TextChunks,
        (4, None) => Head::Open(Open::Array),
        (5, None) => Head::Open(Open::Map(false)),
        (7, None) => Head::Break,
        _ => return Err(fault(WalkFaultKind::Reserved)),
    })
}

/// Takes `len` bytes at `pos`.
fn take<'a>(bytes: &'a [u8], pos: &mut usize, len: u64) -> Result<&'a [u8], WalkFault> {
    let rest = &bytes[*pos..];
    match usize::try_from(len) {
        Ok(len) if len <= rest.len() => {
            *pos += len;
            Ok(&rest[..len])
        }
        _ => Err(WalkFault {
            at: bytes.len(),
            kind: WalkFaultKind::Truncated,
        }),
    }
}

/// Takes `len` bytes at `pos` that must be UTF-8.
fn take_text(bytes: &[u8], pos: &mut usize, len: u64) -> Result<(), WalkFault> {
    let start = *pos;
    match core::str::from_utf8(take(bytes, pos, len)?) {
        Ok(_) => Ok(()),
        Err(error) => Err(WalkFault {
            at: start + error.valid_up_to(),
            kind: WalkFaultKind::Utf8,
        }),
    }
}

/// Takes the chunks of an indefinite string and their break. Each chunk is a whole string (RFC 8949 §3.2.3), so no
/// character of a text is cut in two by them.
fn take_chunks(bytes: &[u8], pos: &mut usize, text: bool) -> Result<(), WalkFault> {
    loop {
        let start = *pos;
        match read_head(bytes, pos)? {
            Head::Bytes(len) if !text => {
                take(bytes, pos, len)?;
            }
            Head::Text(len) if text => take_text(bytes, pos, len)?,
            Head::Break => return Ok(()),
            _ => {
                return Err(WalkFault {
                    at: start,
                    kind: WalkFaultKind::Chunk,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk_hex(hex: &str, depth_max: usize) -> Result<usize, (usize, WalkFaultKind)> {
        let digits: alloc::vec::Vec<u8> = hex
            .bytes()
            .filter(|b| *b != b' ')
            .map(|b| char::from(b).to_digit(16).unwrap() as u8)
            .collect();
        let bytes: alloc::vec::Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        walk_scalar(&bytes, depth_max).map_err(|fault| (fault.at, fault.kind))
    }

    #[test]
    fn finds_the_end_of_every_kind_of_item() {
        for (hex, len) in [
            ("00", 1),
            ("17 00", 1),
            ("18 ff", 2),
            ("39 ffff", 3),
            ("1a 00000001", 5),
            ("3b 0000000000000001 ff", 9),
            ("40", 1),
            ("43 ffffff", 4),
            ("58 02 8080 00", 4),
            ("60", 1),
            ("62 c3bc", 3),
            ("78 03 e282ac", 5),
            ("5f 41ff 40 ff", 5),
            ("7f 61 61 60 ff", 5),
            ("80", 1),
            ("82 01 02 03", 3),
            ("9f ff", 2),
            ("9f 01 9f ff ff", 5),
            ("a1 01 02", 3),
            ("a0", 1),
            ("bf ff", 2),
            ("bf 01 02 03 04 ff", 6),
            ("c0 00", 2),
            ("d8 20 61 61", 4),
            ("c1 82 01 c2 40 ff", 5),
            ("f4", 1),
            ("e0", 1),
            ("f8 20", 2),
            ("f9 7e00", 3),
            ("fa 00000000", 5),
            ("fb 0000000000000000", 9),
            ("98 02 00 00", 4),
            ("b9 0001 00 00", 5),
        ] {
            assert_eq!(walk_hex(hex, 64), Ok(len), "{hex}");
        }
    }

    #[test]
    fn names_each_fault_and_its_place() {
        use WalkFaultKind::*;
        for (hex, at, kind) in [
            ("", 0, Truncated),
            ("18", 1, Truncated),
            ("1b 00", 2, Truncated),
            ("62 61", 2, Truncated),
            ("5b ffffffffffffffff", 9, Truncated),
            ("9b ffffffffffffffff 00", 10, Truncated),
            ("bb ffffffffffffffff 00", 10, Truncated),
            ("bb 8000000000000000 00 00", 11, Truncated),
            ("9f 01", 2, Truncated),
            ("5f 41", 2, Truncated),
            ("c0", 1, Truncated),
            ("f8", 1, Truncated),
            ("82 00 1c", 2, Reserved),
            ("3d", 0, Reserved),
            ("1f", 0, Reserved),
            ("3f", 0, Reserved),
            ("df 00", 0, Reserved),
            ("fc", 0, Reserved),
            ("7e", 0, Reserved),
            ("ff", 0, Break),
            ("81 ff", 1, Break),
            ("a1 00 ff", 2, Break),
            ("bf 00 ff", 2, Break),
            ("9f c0 ff ff", 2, Break),
            ("9f 81 ff ff", 2, Break),
            ("82 00 f8 1f", 2, Simple),
            ("f8 00", 0, Simple),
            ("5f 61 61 ff", 1, Chunk),
            ("7f 41 61 ff", 1, Chunk),
            ("5f 5f 41 61 ff ff", 1, Chunk),
            ("7f 00 ff", 1, Chunk),
            ("61 80", 1, Utf8),
            ("82 00 63 61 c328", 4, Utf8),
            ("7f 61 c3 61 bc ff", 2, Utf8),
            ("63 eda080", 1, Utf8),
            ("64 f4908080", 1, Utf8),
            ("62 c0af", 1, Utf8),
        ] {
            assert_eq!(walk_hex(hex, 64), Err((at, kind)), "{hex}");
        }
    }

    #[test]
    fn counts_arrays_maps_and_tags_as_depth() {
        use WalkFaultKind::Depth;
        assert_eq!(walk_hex("00", 0), Ok(1));
        assert_eq!(walk_hex("80", 0), Err((0, Depth)));
        assert_eq!(walk_hex("81 00", 1), Ok(2));
        assert_eq!(walk_hex("81 80", 1), Err((1, Depth)));
        assert_eq!(walk_hex("c0 a1 00 9f ff", 3), Ok(5));
        assert_eq!(walk_hex("c0 a1 00 9f ff", 2), Err((3, Depth)));
        assert_eq!(walk_hex("7f 60 ff", 0), Ok(3));
        for container in ["81", "c0", "9f"] {
            let hex = |depth| {
                container.repeat(depth)
                    + "00"
                    + if container == "9f" { "ff" } else { "" }.repeat(depth).as_str()
            };
            assert!(walk_hex(&hex(64), 64).is_ok());
            assert_eq!(walk_hex(&hex(65), 64), Err((64, Depth)));
            assert_eq!(walk_hex(&hex(65), usize::MAX), Err((64, Depth)));
        }
    }
}
