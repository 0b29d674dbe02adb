//! CBOR as the envelope needs it (RFC 8949): the walk that finds where an item ends and that it is well-formed.
//!
//! Everything that a payload holds passes here on its way in; nothing is built from it. Meta and error are read and
//! written head by head, and their values walked here; only the payloads of hellos are left to `minicbor`.
//!
//! There are three walks with one result. [`walk_scalar`] takes item after item and is plainly right. [`walk`] first tries
//! the walk of small documents (`flat.rs`), then one that is many times faster on large ones, because it hardly ever
//! branches on what the bytes hold (`fast.rs` tells how). Both only notice that something is wrong or rare and leave it:
//! it is the plain one that says what and where.

mod fast;
mod flat;
mod nesting;
mod numbers;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;

pub use scalar::walk_scalar;
pub(crate) use simd::{as_str, is_ascii};

/// Deepest nesting that any walk follows; a larger `depth_max` counts as this.
pub const DEPTH_MAX: usize = crate::limits::PAYLOAD_DEPTH_MAX;

/// What is wrong with an item, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkFault {
    /// Offset of the byte at which it was noticed, from the start of the item that was walked: the first byte of
    /// the item or chunk at fault; for [`WalkFaultKind::Utf8`] the first byte that is not UTF-8; for
    /// [`WalkFaultKind::Truncated`] the end of the input.
    pub at: usize,
    /// What it is.
    pub kind: WalkFaultKind,
}

/// The ways in which bytes are not one well-formed CBOR item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkFaultKind {
    /// The item goes on past the end of the input.
    Truncated,
    /// Additional information 28, 29 or 30, or 31 where the major type has no indefinite length (RFC 8949 §3).
    Reserved,
    /// A "break" that ends nothing, or that stands where a map needs a value.
    Break,
    /// A two-byte simple value below 32 (RFC 8949 §3.3).
    Simple,
    /// A chunk of an indefinite-length string that is not a definite-length string of its own kind.
    Chunk,
    /// Text that is not UTF-8.
    Utf8,
    /// Nesting deeper than the caller allows.
    Depth,
}

/// Walks one item and returns its length in bytes; what follows it in `bytes` is not looked at.
///
/// `depth_max` bounds the nesting of arrays, maps and tags, the root being depth 1: with 1, `[7]` passes and `[[]]`
/// does not. Numbers and strings add no depth. More than [`DEPTH_MAX`] counts as [`DEPTH_MAX`].
///
/// Nothing is allocated and the time is bounded by the bytes that are there, whatever lengths the heads claim.
///
/// # Errors
/// The first fault found, see [`WalkFault`].
pub fn walk(bytes: &[u8], depth_max: usize) -> Result<usize, WalkFault> {
    if let Some(len) = flat::walk(bytes, depth_max) {
        return Ok(len);
    }
    match simd::walk(bytes, depth_max) {
        Some(len) => Ok(len),
        // Something is wrong with the item, or this machine has no SIMD: the plain walk says what there is to say.
        None => walk_scalar(bytes, depth_max),
    }
}

/// [`walk`] where most items are no longer than a few bytes, as the values of meta and error are: those are measured
/// here, without the preparations of the fast walk, which cost as much as 300 bytes of payload do.
#[inline]
pub(crate) fn walk_short(bytes: &[u8], depth_max: usize) -> Result<usize, WalkFault> {
    // Where its content begins if that is text, and where it ends.
    let (text, end) = match *bytes {
        [0x00..=0x17 | 0x20..=0x37 | 0xe0..=0xf7, ..] => return Ok(1),
        [0x18 | 0x38, ..] => (2, 2),
        [0x19 | 0x39 | 0xf9, ..] => (3, 3),
        [0x1a | 0x3a | 0xfa, ..] => (5, 5),
        [0x1b | 0x3b | 0xfb, ..] => (9, 9),
        [first @ 0x40..=0x57, ..] => (1 + usize::from(first & 0x1f), 1 + usize::from(first & 0x1f)),
        [0x58, len, ..] => (2 + usize::from(len), 2 + usize::from(len)),
        [first @ 0x60..=0x77, ..] => (1, 1 + usize::from(first & 0x1f)),
        [0x78, len, ..] => (2, 2 + usize::from(len)),
        _ => return walk(bytes, depth_max),
    };
    if bytes.get(text..end).is_some_and(is_ascii) {
        return Ok(end);
    }
    walk(bytes, depth_max)
}
