//! The body of a batch, checked and taken apart: events with their offsets, cursors, bases.

use std::sync::Arc;

use bytes::Bytes;

use super::{Base, BatchHead, CursorEntry, Fields, Kind, Removed};
use crate::log::{Events, Stored};

/// Why a body is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// Its CRC is wrong, or it is not all there.
    Damaged,
    /// Its CRC is right and what it says makes no sense: written by other code.
    Malformed,
}

/// A body whose CRC is right.
#[derive(Debug, Clone)]
pub struct Body {
    head: BatchHead,
    bytes: Bytes,
}

impl Body {
    /// Takes the bytes behind a head (what follows the body may be there, too), if they are what was written.
    ///
    /// # Errors
    /// [`BodyFault::Damaged`].
    pub fn check(head: BatchHead, bytes: &Bytes) -> Result<Self, BodyFault> {
        let body_bytes = head.body_bytes as usize;
        if bytes.len() < body_bytes || crc32c::crc32c(&bytes[..body_bytes]) != head.body_crc {
            return Err(BodyFault::Damaged);
        }
        Ok(Self {
            head,
            bytes: bytes.slice(..body_bytes),
        })
    }

    /// Its head.
    #[must_use]
    pub fn head(&self) -> &BatchHead {
        &self.head
    }

    /// The body as it is.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether what it says makes sense, as far as a walk over a segment yields it. Bases, removals and footers are for whoever
    /// needs them to say.
    pub(in crate::log) fn is_sound(&self) -> bool {
        match self.head.kind {
            Kind::Events => self
                .split_table(4)
                .is_ok_and(|(table, events)| are_ends(table, events.len())),
            Kind::Kept => self.kept().is_ok(),
            Kind::Cursors => self.cursors().is_ok(),
            Kind::Bases | Kind::Removed | Kind::Footer => true,
        }
    }

    /// The events of a batch of [`Kind::Events`], sharing the bytes that were checked; nothing of any other kind.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn events(&self) -> Result<Option<Stored>, BodyFault> {
        if self.head.kind != Kind::Events {
            return Ok(None);
        }
        let (table, events) = self.split_table(4)?;
        let events = Events {
            ends: ends(table, events.len())?,
            bytes: events,
        };
        Ok(Some(Stored {
            events,
            first: self.head.first,
            deltas: None,
            time_ms: self.head.time_ms,
            expires: self.head.class.expires,
        }))
    }

    /// The events of a batch of [`Kind::Kept`], each with its offset and time; none of any other kind.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn kept(&self) -> Result<Vec<super::Kept>, BodyFault> {
        if self.head.kind != Kind::Kept {
            return Ok(Vec::new());
        }
        let count = self.head.count as usize;
        let (table, events) = self.split_table(20)?;
        let (end_table, rest) = table.split_at(4 * count);
        let (offsets, times) = rest.split_at(8 * count);
        let ends = ends(end_table, events.len())?;
        let mut kept = Vec::with_capacity(count);
        let (mut start, mut offset_before) = (0, 0);
        for ((end, offset), time_ms) in ends.iter().zip(u64s(offsets)).zip(u64s(times)) {
            if offset <= offset_before {
                return Err(BodyFault::Malformed);
            }
            kept.push(super::Kept {
                offset,
                time_ms,
                event: events.slice(start as usize..*end as usize),
            });
            (start, offset_before) = (*end, offset);
        }
        Ok(kept)
    }

    /// The cursors of a batch of [`Kind::Cursors`]; none of any other kind.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn cursors(&self) -> Result<Vec<CursorEntry>, BodyFault> {
        self.entries(Kind::Cursors, CursorEntry::decode)
    }

    /// The bases of a batch of [`Kind::Bases`]; none of any other kind.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn bases(&self) -> Result<Vec<Base>, BodyFault> {
        self.entries(Kind::Bases, Base::decode)
    }

    /// What a batch of [`Kind::Removed`] says was removed; nothing of any other kind.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn removed(&self) -> Result<Vec<Removed>, BodyFault> {
        self.entries(Kind::Removed, Removed::decode)
    }

    fn entries<T>(
        &self,
        kind: Kind,
        decode: impl Fn(&mut Fields<'_>) -> Option<T>,
    ) -> Result<Vec<T>, BodyFault> {
        let mut entries = Vec::new();
        if self.head.kind != kind {
            return Ok(entries);
        }
        let mut fields = Fields(&self.bytes);
        for _ in 0..self.head.count {
            entries.push(decode(&mut fields).ok_or(BodyFault::Malformed)?);
        }
        if fields.0.is_empty() {
            Ok(entries)
        } else {
            Err(BodyFault::Malformed)
        }
    }

    /// The table, so many bytes an event, and what is behind it.
    fn split_table(&self, row_bytes: usize) -> Result<(&[u8], Bytes), BodyFault> {
        let table_bytes = (self.head.count as usize)
            .checked_mul(row_bytes)
            .filter(|bytes| *bytes <= self.bytes.len() && self.head.count > 0)
            .ok_or(BodyFault::Malformed)?;
        Ok((&self.bytes[..table_bytes], self.bytes.slice(table_bytes..)))
    }
}

/// Where the events end.
fn ends(table: &[u8], bytes: usize) -> Result<Arc<[u32]>, BodyFault> {
    if are_ends(table, bytes) {
        Ok(u32s(table).collect())
    } else {
        Err(BodyFault::Malformed)
    }
}

/// Whether they ascend, the last to the end of all.
fn are_ends(table: &[u8], bytes: usize) -> bool {
    u32s(table).is_sorted() && u32s(table).next_back().is_some_and(|last| last as usize == bytes)
}

fn u32s(table: &[u8]) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator {
    let (words, _) = table.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word))
}

fn u64s(table: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = table.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}
