//! What a segment says first: who wrote it, in which start, and the salt of its batches; and, as its first batch, from where
//! on each of its partitions goes.

use super::{Fields, SEGMENT_HEAD_BYTES, VERSION};
use crate::log::disk::SegmentId;

/// How every segment begins.
const MAGIC: [u8; 8] = *b"FLXRLOG\n";

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// Which it is.
    pub id: SegmentId,
    /// How many cores there were.
    pub cores: u16,
    /// How many partitions the topics are hashed onto.
    pub partitions: u16,
    /// The start of the gateway that wrote it.
    pub epoch: u64,
    /// When, ms since 1970.
    pub created_ms: u64,
    /// What the CRC of each batch head is begun with: not known to who publishes.
    pub salt: u64,
}

/// Why the beginning of a segment is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadlessSegment {
    /// Nothing was written.
    Empty,
    /// It is not what was written.
    Damaged,
    /// It is of another version.
    Version(u16),
}

impl SegmentHead {
    /// As it is written.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut out = [0; SEGMENT_HEAD_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&self.id.core.to_le_bytes());
        out[12..14].copy_from_slice(&self.cores.to_le_bytes());
        out[14..16].copy_from_slice(&self.partitions.to_le_bytes());
        for (at, value) in [self.id.number, self.epoch, self.created_ms, self.salt]
            .into_iter()
            .enumerate()
        {
            out[16 + 8 * at..24 + 8 * at].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadlessSegment> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEAD_BYTES>() else {
            return Err(if bytes.iter().all(|byte| *byte == 0) {
                HeadlessSegment::Empty
            } else {
                HeadlessSegment::Damaged
            });
        };
        if *bytes == [0; SEGMENT_HEAD_BYTES] {
            return Err(HeadlessSegment::Empty);
        }
        Self::read(bytes).unwrap_or(Err(HeadlessSegment::Damaged))
    }

    fn read(bytes: &[u8; SEGMENT_HEAD_BYTES]) -> Option<Result<Self, HeadlessSegment>> {
        let mut fields = Fields(bytes);
        if fields.bytes(8)? != MAGIC {
            return None;
        }
        let version = fields.u16()?;
        let (core, cores, partitions) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let (number, epoch, created_ms, salt) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        // Zeros: room for later versions.
        fields.bytes(12)?;
        if fields.u32()? != crc32c::crc32c(&bytes[..60]) {
            return None;
        }
        if version != VERSION {
            return Some(Err(HeadlessSegment::Version(version)));
        }
        Some(Ok(Self {
            id: SegmentId { core, number },
            cores,
            partitions,
            epoch,
            created_ms,
            salt,
        }))
    }
}

/// The salt of a segment: from the data directory's secret, so that the batches of a segment whose head was damaged can
/// still be told from what only looks like one.
#[must_use]
pub fn salt_of(secret: u64, segment: SegmentId) -> u64 {
    let mut mixed = secret;
    for part in [u64::from(segment.core), segment.number] {
        // A round of splitmix64.
        mixed = (mixed ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}

/// Where a partition stood when a segment was begun. What a segment holds of it is dense from `next` on; nothing ever had
/// the offsets between `last` and `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Which partition.
    pub partition: u16,
    /// The last offset that events before this segment have; 0: there are none.
    pub last: u64,
    /// The first offset that events of this segment may have.
    pub next: u64,
}

/// What a [`Base`] takes in its batch.
pub(super) const BASE_BYTES: usize = 18;

impl Base {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            partition: fields.u16()?,
            last: fields.u64()?,
            next: fields.u64()?,
        })
    }
}

/// Offsets of a partition that retention removed: they are not held, whatever older segments are still there, and their
/// absence is no damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Which partition.
    pub partition: u16,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// What a [`Removed`] takes in its batch.
pub(super) const REMOVED_BYTES: usize = 18;

impl Removed {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let removed = Self {
            partition: fields.u16()?,
            first: fields.u64()?,
            last: fields.u64()?,
        };
        (1..=removed.last).contains(&removed.first).then_some(removed)
    }
}
