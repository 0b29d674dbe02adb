//! The head of a batch: what it holds, of whom, from which offset on, and how to tell whether that is true.

use super::{ALIGN_BYTES, BATCH_HEAD_BYTES, BODY_BYTES_MAX, Fields, batch_bytes};
use crate::log::class::{Class, Level};

/// How every batch begins.
const MAGIC: u32 = u32::from_le_bytes(*b"FxBt");

/// What a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Newly appended events of one partition, offsets without a gap.
    Events = 1,
    /// Retained events that were carried on when their segment was removed, each with its old offset and time.
    Kept = 2,
    /// Durable cursors of one partition; of each the newest counts.
    Cursors = 3,
    /// What a sealed segment says about itself.
    Footer = 4,
    /// Where each partition stood when the segment was begun: the first batch of a segment.
    Bases = 5,
    /// Which offsets retention removed: written before the segments that held them go.
    Removed = 6,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Events,
            Self::Kept,
            Self::Cursors,
            Self::Footer,
            Self::Bases,
            Self::Removed,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// The head of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// What it holds.
    pub kind: Kind,
    /// How its events are treated; of events only.
    pub class: Class,
    /// Whose events or cursors; 0 where that says nothing.
    pub partition: u16,
    /// How many events, cursors or entries.
    pub count: u32,
    /// The offset of the first event.
    pub first: u64,
    /// The start of the gateway that wrote it.
    pub epoch: u64,
    /// When, ms since 1970.
    pub time_ms: u64,
    /// So many bytes of this segment were known to survive power loss when this was written.
    pub synced_at: u64,
    /// The bytes of its body.
    pub body_bytes: u32,
    /// The body's CRC-32C.
    pub body_crc: u32,
}

/// Why bytes are no head of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    /// Zeros: nothing was written here.
    Empty,
    /// Something else, or not all of a head.
    Damaged,
}

impl BatchHead {
    /// The offset of the last event; of [`Kind::Events`], where they are dense.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }

    /// The bytes of the whole batch, with the zeros that follow it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        batch_bytes(self.body_bytes as usize)
    }

    /// As it is written at this place of a segment with this salt.
    #[must_use]
    pub fn encode(&self, salt: u64, at: u64) -> [u8; BATCH_HEAD_BYTES] {
        let mut out = [0; BATCH_HEAD_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        out[12] = self.kind as u8;
        out[13] = flags_of(self.class);
        out[14..16].copy_from_slice(&self.partition.to_le_bytes());
        out[16..20].copy_from_slice(&self.count.to_le_bytes());
        for (at, value) in [self.first, self.epoch, self.time_ms, self.synced_at]
            .into_iter()
            .enumerate()
        {
            out[20 + 8 * at..28 + 8 * at].copy_from_slice(&value.to_le_bytes());
        }
        let crc = head_crc(&out, salt, at);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the head that stands at this place of a segment with this salt. What it says can be trusted, and its body is
    /// not larger than [`BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(bytes: &[u8], salt: u64, at: u64) -> Result<Self, HeadFault> {
        let whole = bytes.first_chunk::<BATCH_HEAD_BYTES>();
        let head = bytes.get(..BATCH_HEAD_BYTES).unwrap_or(bytes);
        if head.iter().all(|byte| *byte == 0) {
            return Err(HeadFault::Empty);
        }
        whole
            .and_then(|head| Self::read(head, salt, at))
            .ok_or(HeadFault::Damaged)
    }

    fn read(head: &[u8; BATCH_HEAD_BYTES], salt: u64, at: u64) -> Option<Self> {
        let mut fields = Fields(head);
        if fields.u32()? != MAGIC || !at.is_multiple_of(ALIGN_BYTES) {
            return None;
        }
        let (body_bytes, body_crc) = (fields.u32()?, fields.u32()?);
        let (kind, flags) = (fields.u8()?, fields.u8()?);
        let (partition, count) = (fields.u16()?, fields.u32()?);
        let (first, epoch, time_ms, synced_at) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        if fields.u32()? != head_crc(head, salt, at) {
            return None;
        }
        // Of a head whose CRC is right this can only be false if it is of another version.
        let is_sound = body_bytes as usize <= BODY_BYTES_MAX && first.checked_add(u64::from(count)).is_some();
        Some(Self {
            kind: Kind::from_number(kind).filter(|_| is_sound)?,
            class: class_of(flags)?,
            partition,
            count,
            first,
            epoch,
            time_ms,
            synced_at,
            body_bytes,
            body_crc,
        })
    }
}

fn head_crc(head: &[u8; BATCH_HEAD_BYTES], salt: u64, at: u64) -> u32 {
    let mut begun = [0; 16];
    begun[..8].copy_from_slice(&salt.to_le_bytes());
    begun[8..].copy_from_slice(&at.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&begun), &head[..52])
}

fn flags_of(class: Class) -> u8 {
    let level = match class.level {
        Level::Memory => 0,
        Level::Written => 1,
        Level::Synced => 2,
    };
    level | u8::from(class.once) << 2 | u8::from(class.retain) << 3 | u8::from(class.expires) << 4
}

fn class_of(flags: u8) -> Option<Class> {
    let level = match flags & 3 {
        0 => Level::Memory,
        1 => Level::Written,
        2 => Level::Synced,
        _ => return None,
    };
    (flags < 1 << 5).then_some(Class {
        level,
        once: flags & 1 << 2 != 0,
        retain: flags & 1 << 3 != 0,
        expires: flags & 1 << 4 != 0,
    })
}
