//! Checking a meta map on its way in: one pass, nothing allocated, bounded by the map's own limits [P-3.5].

use crate::cbor::{self, WalkFaultKind};
use crate::error::{Fault, Found};
use crate::head::{self, Head, NoHead};
use crate::limits::{META_BYTES_MAX, META_KEYS_MAX, PAYLOAD_DEPTH_MAX};

/// Checks the map at the start of `bytes` and finds its length. Offsets of faults count from there.
#[inline]
pub(crate) fn check(bytes: &[u8]) -> Found<usize> {
    let (keys, at) = match *bytes {
        [head @ 0xa0..0xb8, ..] => (usize::from(head & 0x1f), 1),
        _ => long_head(bytes)?,
    };
    entries(bytes, at, keys)
}

/// The number of keys and the length of a head that is not the usual single byte.
#[cold]
fn long_head(bytes: &[u8]) -> Found<(usize, usize)> {
    let fault = match Head::read(bytes) {
        Err(NoHead::Truncated) => Fault::Truncated,
        Ok(Head {
            major: head::MAP,
            is_shortest: false,
            ..
        }) => Fault::NotShortest,
        Ok(Head {
            major: head::MAP,
            argument: Some(keys),
            len,
            ..
        }) => {
            if keys <= META_KEYS_MAX as u64 {
                return Ok((keys as usize, len));
            }
            Fault::MetaTooLarge
        }
        _ => Fault::Meta,
    };
    Err((fault, 0))
}

fn entries(bytes: &[u8], mut at: usize, keys: usize) -> Found<usize> {
    // Nothing behind the limit is looked at: what does not end before it is too large, or truncated if the bytes
    // themselves end before it.
    let within = &bytes[..bytes.len().min(META_BYTES_MAX)];
    let mut seen = [Span::default(); META_KEYS_MAX];
    for count in 0..keys {
        let rest = &within[at..];
        let (head_len, len) = match *rest {
            [head @ 0x60..0x78, ..] => (1, usize::from(head & 0x1f)),
            _ => long_key(bytes, at)?,
        };
        let key = Span {
            start: (at + head_len) as u16,
            len: len as u16,
        };
        let Some(text) = within.get(at + head_len..at + head_len + len) else {
            return Err(cut_off(bytes));
        };
        if cbor::as_str(text).is_err() {
            return Err((Fault::Meta, at));
        }
        if seen[..count]
            .iter()
            .any(|other| other.len == key.len && within[other.range()] == *text)
        {
            return Err((Fault::MetaDuplicate, at));
        }
        seen[count] = key;
        at += head_len + len;
        at += value_len(bytes, within, at)?;
    }
    Ok(at)
}

/// Where a key's content stands in the map.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u16,
    len: u16,
}

impl Span {
    #[inline]
    fn range(self) -> core::ops::Range<usize> {
        usize::from(self.start)..usize::from(self.start) + usize::from(self.len)
    }
}

/// Head length and content length of a key that is not one of the usual short ones.
#[cold]
fn long_key(bytes: &[u8], at: usize) -> Found<(usize, usize)> {
    match Head::read(&bytes[at..]) {
        Err(NoHead::Truncated) => Err(cut_off(bytes)),
        Ok(Head {
            major: head::TEXT,
            is_shortest: false,
            ..
        }) => Err((Fault::NotShortest, at)),
        Ok(Head {
            major: head::TEXT,
            argument: Some(content),
            len,
            ..
        }) => {
            // Longer than the map may be is the same as running over its limit.
            Ok((
                len,
                usize::try_from(content)
                    .unwrap_or(META_BYTES_MAX)
                    .min(bytes.len()),
            ))
        }
        _ => Err((Fault::Meta, at)),
    }
}

/// Length of the value at `at`.
#[inline]
fn value_len(bytes: &[u8], within: &[u8], at: usize) -> Found<usize> {
    cbor::walk_short(&within[at..], PAYLOAD_DEPTH_MAX).map_err(|fault| match fault.kind {
        WalkFaultKind::Truncated => cut_off(bytes),
        _ => (Fault::Meta, at + fault.at),
    })
}

/// What it means that the map does not end where it has to.
#[cold]
fn cut_off(bytes: &[u8]) -> (Fault, usize) {
    if bytes.len() > META_BYTES_MAX {
        (Fault::MetaTooLarge, META_BYTES_MAX)
    } else {
        (Fault::Truncated, bytes.len())
    }
}

const _: () = assert!(META_BYTES_MAX <= u16::MAX as usize, "spans count in u16");

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use alloc::{format, vec};

    use super::*;

    #[test]
    fn what_is_a_meta() {
        for map in [
            &b"\xa0"[..],
            b"\xa1\x60\xf6",
            b"\xa2\x61a\x01\x61b\x9f\x01\xff",
            b"\xa2\x61a\x01\x62aa\x01",
            b"\xa1\x62\xc3\xbc\x18\x01",
        ] {
            assert_eq!(check(map), Ok(map.len()), "{map:x?}");
            assert_eq!(check(&[map, &[0xff; 3000]].concat()), Ok(map.len()));
            for cut in 0..map.len() {
                assert_eq!(
                    check(&map[..cut]).map_err(|(fault, _)| fault),
                    Err(Fault::Truncated),
                    "{map:x?}"
                );
            }
        }
    }

    #[test]
    fn what_is_none() {
        for (map, fault, at) in [
            (&b"\x80"[..], Fault::Meta, 0),
            (b"\xbf\xff", Fault::NotShortest, 0),
            (b"\xb8\x01\x61a\x01", Fault::NotShortest, 0),
            (b"\xb8\x21", Fault::MetaTooLarge, 0),
            (b"\xb9\x01\x00", Fault::MetaTooLarge, 0),
            (b"\xa1\x01\x01", Fault::Meta, 1),
            (b"\xa1\x41a\x01", Fault::Meta, 1),
            (b"\xa1\xf6\x01", Fault::Meta, 1),
            (b"\xa1\x78\x01a\x01", Fault::NotShortest, 1),
            (b"\xa1\x7f\x61a\xff\x01", Fault::NotShortest, 1),
            (b"\xa1\x61\xff\x01", Fault::Meta, 1),
            (b"\xa2\x61a\x01\x61a\x02", Fault::MetaDuplicate, 4),
            (b"\xa3\x61a\x01\x61b\x02\x61a\x02", Fault::MetaDuplicate, 7),
            (b"\xa1\x61a\x1f", Fault::Meta, 3),
            (b"\xa1\x61a\x82\x00\x62\xff\xff", Fault::Meta, 6),
            (b"\xa1\x61a\x61", Fault::Truncated, 4),
        ] {
            assert_eq!(check(map), Err((fault, at)), "{map:x?}");
        }
    }

    #[test]
    fn the_limits_are_met_exactly() {
        let sized = |bytes: usize| {
            let mut map = b"\xa1\x61a".to_vec();
            Head::write(head::BYTES, (bytes - 6) as u64, &mut map);
            map.resize(bytes, 0);
            map
        };
        let fits = sized(META_BYTES_MAX);
        assert_eq!(check(&fits), Ok(META_BYTES_MAX));
        assert_eq!(
            check(&sized(META_BYTES_MAX + 1)),
            Err((Fault::MetaTooLarge, META_BYTES_MAX))
        );

        let long_key = |bytes: usize| {
            let mut map = vec![0xa1];
            Head::write(head::TEXT, (bytes - 5) as u64, &mut map);
            map.resize(bytes - 1, b'k');
            map.push(0);
            map
        };
        assert_eq!(check(&long_key(META_BYTES_MAX)), Ok(META_BYTES_MAX));
        assert_eq!(
            check(&long_key(META_BYTES_MAX + 1)),
            Err((Fault::MetaTooLarge, META_BYTES_MAX))
        );
        assert_eq!(
            check(&long_key(65_000)),
            Err((Fault::MetaTooLarge, META_BYTES_MAX))
        );

        let keys = |count: usize| {
            let mut map = Vec::new();
            Head::write(head::MAP, count as u64, &mut map);
            for key in 0..count {
                Head::write_text(&format!("k{key}"), &mut map);
                map.push(0);
            }
            map
        };
        assert_eq!(check(&keys(32)), Ok(keys(32).len()));
        assert_eq!(check(&keys(33)), Err((Fault::MetaTooLarge, 0)));
        let mut twice = keys(32);
        let last = twice.len() - 2;
        twice[last] = b'0'; // k31 becomes k30
        assert_eq!(check(&twice), Err((Fault::MetaDuplicate, last - 3)));
    }

    #[test]
    fn values_nest_as_deep_as_payloads() {
        let nested = |levels: usize| [&b"\xa1\x61a"[..], &[0x81].repeat(levels), &[0]].concat();
        assert!(check(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
        assert_eq!(
            check(&nested(PAYLOAD_DEPTH_MAX + 1)),
            Err((Fault::Meta, 3 + PAYLOAD_DEPTH_MAX))
        );
    }
}
