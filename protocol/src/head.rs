//! CBOR heads: the first bytes of an item, that say its major type and its length or value (RFC 8949 §3).
//!
//! The envelope's own fields are read and written with these; whole items are left to [`crate::cbor::walk`].

use alloc::vec::Vec;

use crate::cbor;
use crate::limits::PAYLOAD_DEPTH_MAX;

pub(crate) const UINT: u8 = 0;
pub(crate) const NINT: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;
pub(crate) const TAG: u8 = 6;
pub(crate) const SIMPLE: u8 = 7;

pub(crate) const FALSE: u8 = 0xf4;
pub(crate) const TRUE: u8 = 0xf5;
pub(crate) const NULL: u8 = 0xf6;
pub(crate) const BREAK: u8 = 0xff;

/// A head as it was read. `argument` is `None` for an indefinite length (or a break).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) major: u8,
    pub(crate) argument: Option<u64>,
    /// Its own length in bytes, 1..=9.
    pub(crate) len: usize,
    /// Whether no shorter head says the same; an indefinite length is not.
    pub(crate) is_shortest: bool,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoHead {
    Truncated,
    /// Additional information 28..=30, or 31 where the major type has no indefinite length.
    Reserved,
}

impl Head {
    /// Reads the head at the start of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, NoHead> {
        let (&first, rest) = bytes.split_first().ok_or(NoHead::Truncated)?;
        let (major, info) = (first >> 5, first & 0x1f);
        let (argument, len, least) = match info {
            0..=23 => (u64::from(info), 1, 0),
            24 => (u64::from(*rest.first().ok_or(NoHead::Truncated)?), 2, 24),
            25 => (u64::from(u16::from_be_bytes(argument_bytes(rest)?)), 3, 1 << 8),
            26 => (u64::from(u32::from_be_bytes(argument_bytes(rest)?)), 5, 1 << 16),
            27 => (u64::from_be_bytes(argument_bytes(rest)?), 9, 1 << 32),
            31 if !matches!(major, UINT | NINT | TAG) => {
                return Ok(Self {
                    major,
                    argument: None,
                    len: 1,
                    is_shortest: false,
                });
            }
            _ => return Err(NoHead::Reserved),
        };
        Ok(Self {
            major,
            argument: Some(argument),
            len,
            is_shortest: argument >= least,
        })
    }

    /// Appends the shortest head.
    pub(crate) fn write(major: u8, argument: u64, out: &mut Vec<u8>) {
        let major = major << 5;
        let wide = argument.to_be_bytes();
        match argument {
            0..=23 => out.push(major | argument as u8),
            24..=0xff => out.extend_from_slice(&[major | 24, argument as u8]),
            0x100..=0xffff => out.extend_from_slice(&[major | 25, wide[6], wide[7]]),
            0x1_0000..=0xffff_ffff => {
                out.push(major | 26);
                out.extend_from_slice(&wide[4..]);
            }
            _ => {
                out.push(major | 27);
                out.extend_from_slice(&wide);
            }
        }
    }

    /// Appends a text with the shortest head.
    pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
        Self::write(TEXT, text.len() as u64, out);
        out.extend_from_slice(text.as_bytes());
    }
}

fn argument_bytes<const N: usize>(rest: &[u8]) -> Result<[u8; N], NoHead> {
    rest.first_chunk().copied().ok_or(NoHead::Truncated)
}

/// The value of an item that is exactly one unsigned integer, however it is encoded.
pub(crate) fn as_uint(item: &[u8]) -> Option<u64> {
    match Head::read(item) {
        Ok(Head {
            major: UINT,
            argument,
            len,
            ..
        }) if len == item.len() => argument,
        _ => None,
    }
}

/// The content of an item that is exactly one definite-length text.
pub(crate) fn as_text(item: &[u8]) -> Option<&str> {
    core::str::from_utf8(string(TEXT, item)?).ok()
}

/// Whether an item has the shape of exactly one definite-length text, UTF-8 or not.
pub(crate) fn is_definite_text(item: &[u8]) -> bool {
    string(TEXT, item).is_some()
}

/// Whether an item is a text, in chunks or not.
pub(crate) fn is_text(item: &[u8]) -> bool {
    item.first().is_some_and(|first| first >> 5 == TEXT)
}

/// Whether an item is a map.
pub(crate) fn is_map(item: &[u8]) -> bool {
    item.first().is_some_and(|first| first >> 5 == MAP)
}

/// The content of an item that is exactly one definite-length byte string.
pub(crate) fn as_bytes(item: &[u8]) -> Option<&[u8]> {
    string(BYTES, item)
}

/// The value of an item that is exactly one boolean.
pub(crate) fn as_bool(item: &[u8]) -> Option<bool> {
    match item {
        [TRUE] => Some(true),
        [FALSE] => Some(false),
        _ => None,
    }
}

fn string(major: u8, item: &[u8]) -> Option<&[u8]> {
    let head = Head::read(item).ok()?;
    let content = &item[head.len..];
    (head.major == major && head.argument == Some(content.len() as u64)).then_some(content)
}

/// The items inside one array or map, each as its bytes; of a map keys and values in turn. Either kind of length.
///
/// Ends early at what is not well-formed: callers give it items that were walked already.
pub(crate) struct Items<'a> {
    rest: &'a [u8],
    /// Items to come; `None` until a break.
    left: Option<u64>,
}

impl<'a> Items<'a> {
    /// Over the elements of an array; `None` if the item is not one.
    pub(crate) fn of_array(item: &'a [u8]) -> Option<Self> {
        let head = Head::read(item).ok().filter(|head| head.major == ARRAY)?;
        Some(Self {
            rest: &item[head.len..],
            left: head.argument,
        })
    }

    /// Over the keys and values of a map; `None` if the item is not one.
    pub(crate) fn of_map(item: &'a [u8]) -> Option<Self> {
        let head = Head::read(item).ok().filter(|head| head.major == MAP)?;
        let left = match head.argument {
            Some(pairs) => Some(pairs.checked_mul(2)?),
            None => None,
        };
        Some(Self {
            rest: &item[head.len..],
            left,
        })
    }

    /// The next key with its value.
    pub(crate) fn pair(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        Some((self.next()?, self.next()?))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match &mut self.left {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None if self.rest.first() == Some(&BREAK) => return None,
            None => {}
        }
        let len = cbor::walk_short(self.rest, PAYLOAD_DEPTH_MAX).ok()?;
        let (item, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_head_is_read_back_as_the_shortest() {
        for shift in 0..64 {
            for argument in [
                1u64 << shift,
                (1 << shift) - 1,
                (1 << shift) + 1,
                u64::MAX - (1 << shift),
            ] {
                for major in 0..=6 {
                    let mut out = Vec::new();
                    Head::write(major, argument, &mut out);
                    let head = Head::read(&out).unwrap();
                    let expected = Head {
                        major,
                        argument: Some(argument),
                        len: out.len(),
                        is_shortest: true,
                    };
                    assert_eq!(head, expected);
                    assert!((0..out.len()).all(|cut| Head::read(&out[..cut]) == Err(NoHead::Truncated)));
                }
            }
        }
    }

    #[test]
    fn longer_heads_are_seen_as_such() {
        for bytes in [
            &[0x18, 23][..],
            &[0x59, 0, 255],
            &[0x7a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
        ] {
            assert!(!Head::read(bytes).unwrap().is_shortest, "{bytes:x?}");
        }
        assert!(!Head::read(&[0x9f]).unwrap().is_shortest);
    }

    #[test]
    fn reserved_heads_are_none() {
        for first in [0x1c, 0x3d, 0x5e, 0x1f, 0x3f, 0xdf, 0xfc] {
            assert_eq!(
                Head::read(&[first, 0, 0, 0, 0, 0, 0, 0, 0]),
                Err(NoHead::Reserved),
                "{first:x}"
            );
        }
    }
}
