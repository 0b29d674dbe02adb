//! The bytes of the log on a disk: what [`writer`] makes of runs, cursors and footers, and what [`crate::log::scan`] and
//! whoever reads events take apart again.
//!
//! ```text
//!   segment   head (64) │ bases │ removed │ batch │ …               │ footer │ trailer (32)
//!                                                 └ while it is being written: zeros
//!   batch     head (56) │ table │ what the table places             │ zeros up to a multiple of 8
//! ```
//!
//! Everything is little-endian. A batch holds one partition's events of one class (or cursors, or what the log says about
//! itself), and its head is believed only when its CRC-32C is right; the CRC is begun with the segment's salt and with the
//! place of the head, so that neither an event that looks like a batch nor a batch at a wrong place is taken for one. A
//! length is used only from a head that was checked. Where nothing was written there are zeros.

pub mod body;
pub mod cursors;
pub mod head;
pub mod rows;
pub mod segment;
#[cfg(test)]
pub(in crate::log) mod tests;
pub mod writer;

pub use body::{Body, BodyFault};
pub use cursors::CursorEntry;
pub use head::{BatchHead, HeadFault, Kind};
pub use rows::{Row, row_of};
pub use segment::{Base, HeadlessSegment, Removed, SegmentHead, salt_of};
pub use writer::{BatchWriter, Kept};

/// The version of the format that this code writes and reads.
pub const VERSION: u16 = 1;
/// Every head stands at a multiple of this.
pub const ALIGN_BYTES: u64 = 8;
/// A segment's own head.
pub const SEGMENT_HEAD_BYTES: usize = 64;
/// A batch's head.
pub const BATCH_HEAD_BYTES: usize = 56;
/// What stands behind the footer of a sealed segment.
pub const TRAILER_BYTES: usize = 32;
/// A batch's table and what it places, at most: what a reader has to hold of a log at once.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The least that an event takes on the disk: the smallest envelope, and its place in the table.
pub const EVENT_BYTES_MIN: u64 = 24 + 4;

/// Offsets after a crash begin behind a multiple of this.
const OFFSETS_JUMP: u64 = 1_000_000;

/// The next offset of a partition after a crash: beyond all that the crashed log may have given away behind the `last`
/// that is known, so that no offset is used twice.
#[must_use]
pub fn offset_after_crash(last: u64) -> u64 {
    let jumps = last.saturating_add(crate::log::UNSYNCED_OFFSETS_MAX) / OFFSETS_JUMP + 1;
    jumps.saturating_mul(OFFSETS_JUMP).saturating_add(1)
}

/// The bytes that a batch with such a body takes, its zeros included.
#[must_use]
pub fn batch_bytes(body_bytes: usize) -> u64 {
    (BATCH_HEAD_BYTES as u64 + body_bytes as u64).next_multiple_of(ALIGN_BYTES)
}

/// Reads fixed-size fields from a slice, one after the other; `None` when it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Seven bits a byte, the lowest first.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A length and so many bytes of text.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let bytes = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(bytes))?).ok()
    }
}

/// Appends what [`Fields::varint`] reads.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends what [`Fields::text`] reads.
///
/// # Panics
/// If it is longer than 65,535 bytes: names on the wire are at most 255.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = u16::try_from(text.len()).expect("a name's bytes fit 16 bits");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
