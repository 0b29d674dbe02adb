//! What the generator writes into every payload: which publisher, the how-manyeth, and when it was due.
//!
//! Every payload is one CBOR map whose first key is `"s"` and whose first value is a byte string of [`STAMP_BYTES`]:
//!
//! ```text
//!   A? 61 's' 54 │ publisher u32 │ sequence u64 │ intended_ns u64 │ … the rest of the map
//!   0          3   4               8              16                24
//! ```
//!
//! so the stamp stands at the same place in all of them, whatever the protocol that carries them. Little-endian.

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 20;
/// Where it stands in a payload.
pub const STAMP_AT: usize = 4;
/// The smallest payload: a map with nothing but the stamp.
pub const PAYLOAD_BYTES_MIN: usize = STAMP_AT + STAMP_BYTES;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Who: publishers (or callers) are numbered through a whole run, over all threads.
    pub publisher: u32,
    /// Counts from 0 for each publisher, without gaps.
    pub sequence: u64,
    /// When it was due by the arrival plan, ns of the monotonic clock; in a closed loop, when it was sent.
    pub intended_ns: u64,
}

impl Stamp {
    /// Writes it into a payload.
    ///
    /// # Panics
    /// If the payload is smaller than [`PAYLOAD_BYTES_MIN`].
    pub fn write(&self, payload: &mut [u8]) {
        let stamp = &mut payload[STAMP_AT..STAMP_AT + STAMP_BYTES];
        stamp[..4].copy_from_slice(&self.publisher.to_le_bytes());
        stamp[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        stamp[12..].copy_from_slice(&self.intended_ns.to_le_bytes());
    }

    /// Reads it; `None` if the payload is not one of ours.
    #[must_use]
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let stamp = payload.get(STAMP_AT..STAMP_AT + STAMP_BYTES)?;
        if payload[1..STAMP_AT] != [0x61, b's', 0x54] {
            return None;
        }
        Some(Stamp {
            publisher: u32::from_le_bytes(stamp[..4].try_into().ok()?),
            sequence: u64::from_le_bytes(stamp[4..12].try_into().ok()?),
            intended_ns: u64::from_le_bytes(stamp[12..].try_into().ok()?),
        })
    }
}
