//! The walk of small documents: a map or array of a few common items, as most events carry.
//!
//! The fast walk ([`super::fast`]) prepares a window of 128 bytes before it takes a step, since it cannot foresee which
//! item comes next. The processor can: the events of a topic look alike, and a document of a dozen items is a
//! pattern that its branch prediction learns. So up to [`ITEMS_MAX`] items are walked one by one here; whatever is
//! larger, nested deeper, not ASCII, rare or wrong is left to the other walks, which begin anew.

use super::simd::is_ascii;

/// What is tried here. A document with more costs the walk up to where that shows.
const ITEMS_MAX: u8 = 32;

/// [`STEPS`]: the item is no more than this many bytes, its head included.
const FIXED_MAX: u8 = 0x18;
/// A text of less than 24 bytes.
const TEXT: u8 = 0x20;
/// A text with one byte of length.
const TEXT_U8: u8 = 0x21;
/// A text with two bytes of length.
const TEXT_U16: u8 = 0x22;
/// A byte string with one byte of length.
const BYTES_U8: u8 = 0x23;
/// An array of up to 23 items.
const ARRAY: u8 = 0x24;
/// A map of up to 23 pairs.
const MAP: u8 = 0x25;
/// Left to the other walks.
const OTHER: u8 = 0xff;

/// By initial byte: how long the item is, or what it is.
static STEPS: [u8; 256] = {
    let mut steps = [OTHER; 256];
    let mut first = 0;
    while first < 256 {
        let info = (first & 0x1f) as u8;
        steps[first] = match (first >> 5, info) {
            (0 | 1 | 7, 0..=23) => 1,
            (0 | 1, 24) => 2,
            (0 | 1 | 7, 25) => 3,
            (0 | 1 | 7, 26) => 5,
            (0 | 1 | 7, 27) => 9,
            (2, 0..=23) => 1 + info,
            (2, 24) => BYTES_U8,
            (3, 0..=23) => TEXT,
            (3, 24) => TEXT_U8,
            (3, 25) => TEXT_U16,
            (4, 0..=23) => ARRAY,
            (5, 0..=23) => MAP,
            _ => OTHER,
        };
        first += 1;
    }
    steps
};

/// Which of 24 bytes belong to a text of this length, by 8.
static MASKS: [[u64; 3]; 24] = {
    let mut masks = [[0; 3]; 24];
    let mut len = 0;
    while len < 24 {
        let mut at = 0;
        while at < len {
            masks[len][at / 8] |= 0xff << (at % 8 * 8);
            at += 1;
        }
        len += 1;
    }
    masks
};

/// The length of the item at the start of `bytes`, if it is a small sound document.
#[inline]
pub(super) fn walk(bytes: &[u8], depth_max: usize) -> Option<usize> {
    let (mut pos, mut left, mut opened) = (0, 1_u8, 0);
    let mut items = 0;
    while left > 0 {
        let first = *bytes.get(pos)?;
        let info = first & 0x1f;
        left -= 1;
        items += 1;
        match STEPS[usize::from(first)] {
            fixed @ 0..=FIXED_MAX => pos += usize::from(fixed),
            TEXT => {
                let len = usize::from(info);
                if !is_short_ascii(bytes, pos + 1, len)? {
                    return None;
                }
                pos += 1 + len;
            }
            step @ (ARRAY | MAP) => {
                left += if step == MAP { 2 * info } else { info };
                opened += 1;
                pos += 1;
                // Each container could lie in the one before it.
                if items + left > ITEMS_MAX || opened > depth_max {
                    return None;
                }
            }
            BYTES_U8 => pos += 2 + usize::from(*bytes.get(pos + 1)?),
            step @ (TEXT_U8 | TEXT_U16) => {
                let (head, len) = if step == TEXT_U8 {
                    (2, usize::from(*bytes.get(pos + 1)?))
                } else {
                    let len = bytes.get(pos + 1..)?.first_chunk()?;
                    (3, usize::from(u16::from_be_bytes(*len)))
                };
                let end = pos + head + len;
                if !is_ascii(bytes.get(pos + head..end)?) {
                    return None;
                }
                pos = end;
            }
            _ => return None,
        }
    }
    (pos <= bytes.len()).then_some(pos)
}

/// Whether these bytes, less than 24, are ASCII; `None` if they are not all there.
#[inline]
fn is_short_ascii(bytes: &[u8], at: usize, len: usize) -> Option<bool> {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let rest = bytes.get(at..)?;
    let Some(words) = rest.first_chunk::<24>() else {
        return rest.get(..len).map(<[u8]>::is_ascii);
    };
    let mask = &MASKS[len % 24];
    let mut seen = 0;
    for (word, mask) in words.as_chunks::<8>().0.iter().zip(mask) {
        seen |= u64::from_le_bytes(*word) & mask;
    }
    Some(seen & HIGH == 0)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::walk_scalar;
    use super::*;

    /// `{"s": 4 bytes, "device": "press-17", "v": [21.375, 1.5, null], "at": u64, "log": 30 letters, "x": {"y": -5}}`
    fn document() -> Vec<u8> {
        let mut bytes = b"\xa6\x61s\x44\x00\x01\x02\x03\x66device\x68press-17\x61v\x83".to_vec();
        bytes.extend_from_slice(b"\xfb\x40\x35\x60\x00\x00\x00\x00\x00\xf9\x3e\x00\xf6");
        bytes.extend_from_slice(b"\x62at\x1b\x00\x00\x01\x9a\xb6\x27\x4c\x00");
        bytes.extend_from_slice(b"\x63log\x78\x1eabcdefghijklmnopqrstuvwxyzabcd\x61x\xa1\x61y\x24");
        bytes
    }

    #[test]
    fn a_document_of_a_handful_of_fields_is_walked_here() {
        let document = document();
        assert_eq!(walk(&document, 64), Some(document.len()));
        assert_eq!(walk_scalar(&document, 64), Ok(document.len()));
        let behind = [&document[..], &[0xff; 40]].concat();
        assert_eq!(walk(&behind, 64), Some(document.len()));
    }

    /// Whatever it says is what the plain walk says.
    fn agrees(bytes: &[u8], depth_max: usize) {
        if let Some(len) = walk(bytes, depth_max) {
            assert_eq!(walk_scalar(bytes, depth_max), Ok(len), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_broken_is_left_to_others() {
        let document = document();
        for end in 0..document.len() {
            assert_eq!(walk(&document[..end], 64), None);
        }
        for tail in [0, 40] {
            let mut bytes = document.clone();
            bytes.resize(document.len() + tail, 0xf6);
            for at in 0..document.len() {
                for value in 0..=255 {
                    let was = core::mem::replace(&mut bytes[at], value);
                    for depth_max in [0, 1, 2, 3, 64] {
                        agrees(&bytes, depth_max);
                    }
                    bytes[at] = was;
                }
            }
        }
    }

    #[test]
    fn many_items_are_left_to_others() {
        let mut nested = alloc::vec![0x97_u8; 3];
        nested.extend_from_slice(&[0; 100]);
        assert_eq!(walk(&nested, 64), None);
        assert_eq!(walk(&[&[0x97][..], &[0; 23]].concat(), 64), Some(24));
    }
}
