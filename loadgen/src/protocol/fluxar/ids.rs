//! Ids of what a session sends: by its number each is known again when an answer refers to it.

use fluxar_protocol::Id;

/// Of a UUID: the two bits behind its first half.
const VARIANT: u64 = 1 << 63;

/// Ids that no other session of this run uses: UUIDs of version 8, a prefix and a counter.
#[derive(Debug)]
pub(in super::super) struct Ids {
    prefix: [u8; 8],
    next: u64,
}

impl Ids {
    /// For the session of this number (28 bits of it).
    pub(in super::super) fn new(seed: u32, number: u64) -> Self {
        const VERSION: u64 = 8 << 12;
        let prefix = u64::from(seed) << 32 | (number >> 12 & 0xffff) << 16 | VERSION | number & 0x0fff;
        Self {
            prefix: prefix.to_be_bytes(),
            next: 0,
        }
    }

    #[inline]
    pub(in super::super) fn next(&mut self) -> Id {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&(VARIANT | self.next).to_be_bytes());
        self.next += 1;
        Id(id)
    }

    /// The number that the next id will have: so many were made.
    #[inline]
    pub(super) fn upcoming(&self) -> u64 {
        self.next
    }

    /// The number of an id of this session.
    #[inline]
    pub(super) fn number(&self, id: Id) -> Option<u64> {
        let (prefix, number) = id.0.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        (*prefix == self.prefix && number & VARIANT != 0).then_some(number & !VARIANT)
    }
}
