//! Every fast walk against the plain one, and the plain one against other implementations.

use alloc::boxed::Box;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::simd::walks;
use super::{DEPTH_MAX, WalkFaultKind, walk, walk_scalar, walk_short};

/// Walks `bytes` in every way, which must be one in their result.
fn walk_all(bytes: &[u8], depth_max: usize) -> Option<usize> {
    let expected = walk_scalar(bytes, depth_max);
    assert_eq!(walk(bytes, depth_max), expected, "{bytes:02x?}");
    assert_eq!(walk_short(bytes, depth_max), expected, "{bytes:02x?}");
    for (name, walk) in walks() {
        assert_eq!(
            walk(bytes, depth_max),
            expected.ok(),
            "{name} {depth_max} {bytes:02x?}"
        );
    }
    expected.ok()
}

/// A source of randomness (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// Writes a head, in any of the forms that its argument fits.
fn put_head(random: &mut Random, out: &mut Vec<u8>, major: u8, argument: usize) {
    let shortest = match argument {
        0..24 => 0,
        24..256 => 1,
        256..65_536 => 2,
        _ => 3,
    };
    let form = if random.chance(8) {
        shortest + random.below(5 - shortest)
    } else {
        shortest
    };
    let bytes = (argument as u64).to_be_bytes();
    match form {
        0 => out.push(major << 5 | argument as u8),
        _ => {
            out.push(major << 5 | (23 + form as u8));
            out.extend_from_slice(&bytes[8 - (1 << (form - 1))..]);
        }
    }
}

fn put_string(random: &mut Random, out: &mut Vec<u8>, major: u8) {
    let chars = if random.chance(6) {
        random.below(300)
    } else {
        random.below(30)
    };
    let mut content = Vec::new();
    for _ in 0..chars {
        if major == 2 {
            content.push(random.below(256) as u8);
        } else if random.chance(3) {
            let char = char::from_u32(random.below(0x11_0000) as u32).unwrap_or('ß');
            content.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            content.push(b'a' + random.below(26) as u8);
        }
    }
    put_head(random, out, major, content.len());
    out.extend_from_slice(&content);
}

fn put_number(random: &mut Random, out: &mut Vec<u8>) {
    match random.below(8) {
        0..4 => {
            let bits = random.below(40);
            let argument = random.below(1 << bits);
            let major = random.below(2) as u8;
            put_head(random, out, major, argument);
        }
        4 => out.extend_from_slice(&[0xf9, random.below(256) as u8, 0x3c]),
        5 => out.extend_from_slice(&[0xfa, 0x7f, random.below(256) as u8, 0, 0]),
        6 => out.extend_from_slice(&[0xfb, 0x18, 0x60, random.below(256) as u8, 0xff, 0, 0x9f, 0, 0]),
        _ => out.push(0xe0 + random.below(24) as u8),
    }
}

/// Writes a sound item that is nested at most `depth_left` deep.
fn put_item(random: &mut Random, out: &mut Vec<u8>, depth_left: usize) {
    match random.below(if depth_left > 0 { 20 } else { 9 }) {
        0..3 => put_number(random, out),
        3 => out.extend_from_slice(&[0xf8, 32 + random.below(224) as u8]),
        4 => put_string(random, out, 2),
        5..8 => put_string(random, out, 3),
        8 => {
            let major = 2 + random.below(2) as u8;
            out.push(major << 5 | 31);
            for _ in 0..random.below(4) {
                put_string(random, out, major);
            }
            out.push(0xff);
        }
        9..11 => {
            let tag = random.below(300);
            put_head(random, out, 6, tag);
            put_item(random, out, depth_left - 1);
        }
        11 => {
            // A run of numbers, with something else in it from time to time.
            let (items, kinds, indefinite) = (random.below(120), random.below(40), random.chance(4));
            if indefinite {
                out.push(0x9f)
            } else {
                put_head(random, out, 4, items)
            }
            let mut number = Vec::new();
            put_number(random, &mut number);
            for _ in 0..items {
                match kinds {
                    0..20 => out.extend_from_slice(&number),
                    20..39 => put_number(random, out),
                    _ => put_item(random, out, depth_left - 1),
                }
                if random.chance(100) {
                    number.clear();
                    put_number(random, &mut number);
                }
            }
            if indefinite {
                out.push(0xff);
            }
        }
        kind => {
            let major = 4 + (kind % 2) as u8;
            let entries = if random.chance(12) {
                random.below(60)
            } else {
                random.below(5)
            };
            let indefinite = random.chance(4);
            if indefinite {
                out.push(major << 5 | 31)
            } else {
                put_head(random, out, major, entries)
            }
            for _ in 0..entries << (major - 4) {
                put_item(random, out, if entries > 5 { 0 } else { depth_left - 1 });
            }
            if indefinite {
                out.push(0xff);
            }
        }
    }
}

fn item(seed: u64, depth: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut out = Vec::new();
    while out.len() < 2 {
        out.clear();
        put_item(&mut random, &mut out, depth);
    }
    out
}

#[test]
fn one_and_two_bytes_exhaustively() {
    for first in 0..=255 {
        walk_all(&[first], DEPTH_MAX);
        for second in 0..=255 {
            walk_all(&[first, second], 1);
        }
    }
}

/// Minutes without optimisation, seconds with: `cargo test --release`.
#[test]
#[cfg_attr(debug_assertions, ignore = "too slow without optimisation")]
fn three_bytes_exhaustively() {
    for bytes in 0..1_u32 << 24 {
        walk_all(&bytes.to_be_bytes()[1..], 2);
    }
}

#[test]
fn three_bytes_of_all_kinds() {
    let kinds = [
        0x00, 0x17, 0x18, 0x1c, 0x3f, 0x40, 0x58, 0x5f, 0x61, 0x7f, 0x81, 0x9f, 0xa1, 0xbf, 0xc0, 0xe0, 0xf8,
        0xff,
    ];
    for first in 0..=255 {
        for second in kinds {
            for third in kinds {
                walk_all(&[first, second, third], 2);
            }
        }
    }
}

#[test]
fn claims_of_any_size_end_as_truncated() {
    for major in [2, 3, 4, 5] {
        for (info, len) in [(24, 1), (25, 2), (26, 4), (27, 8)] {
            for fill in [0xff, 0x80, 0x7f] {
                let mut bytes = alloc::vec![major << 5 | info];
                bytes.extend(core::iter::repeat_n(fill, len));
                for _ in 0..3 {
                    assert_eq!(
                        walk_scalar(&bytes, DEPTH_MAX).unwrap_err().kind,
                        WalkFaultKind::Truncated
                    );
                    walk_all(&bytes, DEPTH_MAX);
                    bytes = [&[0x9f][..], &bytes].concat();
                }
            }
        }
    }
}

#[test]
fn depth_is_exact_at_every_limit() {
    let nest = |heads: &[u8], inner: &[u8], depth: usize| {
        let mut bytes: Vec<u8> = heads.iter().copied().cycle().take(depth).collect();
        let ends = bytes.iter().filter(|&&head| head == 0x9f).count();
        bytes.extend_from_slice(inner);
        bytes.extend(core::iter::repeat_n(0xff, ends));
        bytes
    };
    for heads in [
        &[0x81][..],
        &[0xc1],
        &[0x9f],
        &[0x81, 0xc2, 0x9f],
        &[0x81, 0x9f, 0xc6, 0xc7],
    ] {
        for depth in 0..=66 {
            for limit in [0, 1, 2, 31, 62, 63, 64, 65] {
                let fits = depth <= limit.min(DEPTH_MAX);
                assert_eq!(
                    walk_all(&nest(heads, &[0], depth), limit).is_some(),
                    fits,
                    "{heads:02x?} {depth} {limit}"
                );
                let fits = depth < limit.min(DEPTH_MAX);
                assert_eq!(walk_all(&nest(heads, &[0x80], depth), limit).is_some(), fits);
                assert_eq!(
                    walk_all(&nest(heads, &[0xbf, 0xff], depth), limit).is_some(),
                    fits
                );
            }
        }
    }
}

#[test]
fn containers_side_by_side_are_no_depth() {
    for inner in [
        &[0x80][..],
        &[0x81, 0x80],
        &[0x9f, 0xff],
        &[0xc1, 0x81, 0x00],
        &[0x82, 0x80, 0xa0],
    ] {
        let mut bytes = alloc::vec![0x99, 0x08, 0x00];
        for _ in 0..0x800 {
            bytes.extend_from_slice(inner);
        }
        assert!(walk_all(&bytes, 3).is_some());
        assert!(walk_all(&bytes, 1).is_none());
        bytes.splice(bytes.len() - inner.len().., [0x81, 0x81, 0x81, 0x00]);
        assert!(walk_all(&bytes, 4).is_some());
        assert!(walk_all(&bytes, 3).is_none());
    }
}

#[test]
fn runs_of_numbers_of_every_width_and_count() {
    for number in [
        &[0x05][..],
        &[0xf5],
        &[0x18, 0x18],
        &[0x19, 0x19, 0xf8],
        &[0x3a, 1, 2, 3, 4],
        &[0xfa, 0xfa, 0, 0, 0],
        &[0xfb, 0xff, 0xfb, 0, 0, 0, 0, 0, 0],
        &[0x1b, 0x61, 0xff, 0x9f, 0, 0, 0, 0, 0],
    ] {
        for count in 24..=120_u8 {
            let mut bytes = alloc::vec![0x98, count];
            for _ in 0..count {
                bytes.extend_from_slice(number);
            }
            let len = bytes.len();
            assert_eq!(walk_all(&bytes, 1), Some(len));
            for cut in 1..=number.len() + 1 {
                assert_eq!(walk_all(&bytes[..len - cut], 1), None);
            }
            for tail in [0x00, 0x18, 0xfb, 0xf8, 0xff, 0x61] {
                bytes.truncate(len);
                bytes.resize(len + 70, tail);
                assert_eq!(walk_all(&bytes, 1), Some(len));
                // The last number becomes something else.
                let last = len - number.len();
                let before = core::mem::replace(&mut bytes[last], tail);
                walk_all(&bytes, 1);
                bytes[last] = before;
            }
        }
    }
}

#[test]
fn broken_text_is_found_at_every_length_and_place() {
    for len in 1..=130_usize {
        for (place, broken) in [(0, 0x80), (len / 2, 0xff), (len - 1, 0xc3), (len - 1, 0x80)] {
            let mut text = alloc::vec![b'x'; len];
            text[place] = broken;
            let mut bytes = alloc::vec![0x83];
            put_head(&mut Random(1), &mut bytes, 3, len);
            bytes.extend_from_slice(&text);
            // What follows would complete the character, if it were looked at together.
            bytes.extend_from_slice(&[0x41, 0xa9, 0x62, 0xc3, 0xa9]);
            assert_eq!(walk_all(&bytes, 1), None);
            let text_at = bytes.len() - 5 - len;
            bytes[text_at + place] = b'x';
            assert_eq!(walk_all(&bytes, 1), Some(bytes.len()));
        }
    }
    // The halves of a character in neighbouring texts and chunks.
    assert_eq!(walk_all(&[0x82, 0x61, 0xc3, 0x61, 0xa9], 1), None);
    assert_eq!(walk_all(&[0x7f, 0x61, 0xc3, 0x61, 0xa9, 0xff], 1), None);
    assert_eq!(walk_all(&[0x7f, 0x62, 0xc3, 0xa9, 0xff], 1), Some(5));
}

#[test]
fn text_of_every_amount_is_checked() {
    // More short text than waits for one check, with the fault at the end.
    for texts in (1..400_u16).step_by(13) {
        for text in [&[0x62, b'a', b'b'][..], &[0x78, 24], &[0x63, 0xe2, 0x82, 0xac]] {
            let mut bytes = alloc::vec![0x99];
            bytes.extend_from_slice(&(texts + 1).to_be_bytes());
            for _ in 0..texts {
                bytes.extend_from_slice(text);
                bytes.resize(bytes.len() + if text[0] == 0x78 { 24 } else { 0 }, b'y');
            }
            bytes.extend_from_slice(&[0x61, b'z']);
            assert_eq!(walk_all(&bytes, 1), Some(bytes.len()));
            *bytes.last_mut().unwrap() = 0xbf;
            assert_eq!(walk_all(&bytes, 1), None);
        }
    }
}

/// Whether `minicbor` skips the item, and to where.
fn minicbor_skip(bytes: &[u8]) -> Option<usize> {
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.skip().ok().map(|()| decoder.position())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(debug_assertions) { 60 } else { 20_000 }, ..ProptestConfig::default() })]

    #[test]
    fn sound_items_pass_everywhere(seed: u64, offset in 0..64_usize, tail: [u8; 40]) {
        let item = item(seed, 8);
        prop_assert_eq!(walk_all(&item, DEPTH_MAX), Some(item.len()));
        prop_assert_eq!(minicbor_skip(&item), Some(item.len()));
        // At any alignment, with anything behind it, and with nothing behind it in its allocation.
        let mut bytes = alloc::vec![0xff; offset];
        bytes.extend_from_slice(&item);
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(walk_all(&bytes[offset..], DEPTH_MAX), Some(item.len()));
        let boxed: Box<[u8]> = bytes[..offset + item.len()].into();
        prop_assert_eq!(walk_all(&boxed[offset..], DEPTH_MAX), Some(item.len()));
    }

    #[test]
    fn no_part_of_an_item_passes(seed: u64) {
        let item = item(seed, 5);
        for len in 0..item.len().min(600) {
            let boxed: Box<[u8]> = item[..len].into();
            prop_assert_eq!(walk_all(&boxed, DEPTH_MAX), None);
            prop_assert_eq!(walk_scalar(&boxed, DEPTH_MAX).unwrap_err().kind, WalkFaultKind::Truncated);
            prop_assert_eq!(walk_scalar(&boxed, DEPTH_MAX).unwrap_err().at, len);
        }
    }

    #[test]
    fn changed_items_are_judged_alike(seed: u64, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), depth_max in 0..12_usize) {
        let mut item = item(seed, 8);
        for (index, byte) in changes {
            let index = index.index(item.len());
            item[index] = byte;
        }
        walk_all(&item, depth_max);
        if let Some(len) = walk_all(&item, DEPTH_MAX) {
            prop_assert_eq!(minicbor_skip(&item), Some(len));
        }
    }

    #[test]
    fn bytes_at_random_are_judged_alike(bytes in prop::collection::vec(any::<u8>(), 0..400), items: u8) {
        walk_all(&bytes, DEPTH_MAX);
        // As the content of an array, so that the walk goes on after the first item.
        let mut array = alloc::vec![0x98, items];
        array.extend_from_slice(&bytes);
        walk_all(&array, 9);
        array[0..2].copy_from_slice(&[0x9f, 0x9f]);
        walk_all(&array, 9);
    }

    #[test]
    fn items_of_ciborium_pass(value in ciborium_value()) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).unwrap();
        prop_assert_eq!(walk_all(&bytes, DEPTH_MAX), Some(bytes.len()));
    }

    /// What `ciborium` takes is taken here. (Not the other way round: it knows fewer simple values.)
    #[test]
    fn changed_items_that_ciborium_takes_pass(value in ciborium_value(), index: prop::sample::Index, byte: u8) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).unwrap();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        let mut rest = &bytes[..];
        let ciborium = ciborium::from_reader::<ciborium::Value, _>(&mut rest).ok().map(|_| bytes.len() - rest.len());
        let ours = walk_all(&bytes, DEPTH_MAX);
        if ciborium.is_some() {
            prop_assert_eq!(ours, ciborium, "{:02x?}", bytes);
        }
    }
}

fn ciborium_value() -> impl Strategy<Value = ciborium::Value> {
    use ciborium::Value;
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        (0..300_u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ".{0,40}".prop_map(Value::Text),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..30).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner.clone()), 0..8).prop_map(Value::Map),
            (6..1000_u64, inner).prop_map(|(tag, value)| Value::Tag(tag, Box::new(value))),
        ]
    })
}
