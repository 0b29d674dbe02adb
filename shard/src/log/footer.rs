//! What a sealed segment says about itself, so that a start reads a few kilobytes of it instead of all: which offsets of
//! which partitions it holds and where, its retained rows, where its cursors are. [`crate::log::format::BatchWriter`] writes
//! it as the last batch; the trailer behind it, the last 32 bytes of the file, finds it.

use std::collections::BTreeMap;

use super::format::{
    BODY_BYTES_MAX, Base, BatchHead, BodyFault, Fields, Kind, Removed, TRAILER_BYTES, put_text, put_varint,
};

/// What a trailer begins with.
const TRAILER_MAGIC: [u8; 8] = *b"FLXREND\n";
/// An index entry covers so many bytes of its partition, or one batch.
const ENTRY_OWN_BYTES_MAX: u64 = 16 * 1024;
/// An index entry covers so many bytes of the segment, or one batch.
const ENTRY_SPAN_BYTES_MAX: u64 = 1024 * 1024;

/// A stretch of a segment that holds consecutive events of one partition, among other batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The offset of the first event in it.
    pub first: u64,
    /// Where its first batch is.
    pub at: u64,
    /// So many bytes: up to the end of its last batch.
    pub span_bytes: u32,
    /// So many of them are this partition's.
    pub own_bytes: u32,
    /// When its first batch was appended, ms since 1970.
    pub time_ms: u64,
}

impl IndexEntry {
    /// The end of the stretch.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at + u64::from(self.span_bytes)
    }
}

/// What a segment holds of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Which partition.
    pub partition: u16,
    /// The first offset.
    pub first: u64,
    /// The last offset.
    pub last: u64,
    /// When the oldest event was appended, ms since 1970.
    pub oldest_ms: u64,
    /// When the newest was.
    pub newest_ms: u64,
    /// When the newest one of qos 2 was; 0: there is none.
    pub once_newest_ms: u64,
    /// Its batches.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where they are, ascending and without overlap.
    pub index: Vec<IndexEntry>,
}

impl Extent {
    /// Begins with a batch of [`Kind::Events`] at this place.
    #[must_use]
    pub fn begin(head: &BatchHead, at: u64) -> Self {
        let mut this = Self {
            partition: head.partition,
            first: head.first,
            last: head.last(),
            oldest_ms: head.time_ms,
            newest_ms: head.time_ms,
            once_newest_ms: 0,
            batches: 0,
            bytes: 0,
            index: Vec::new(),
        };
        this.push(head, at);
        this
    }

    /// Takes the partition's next batch of [`Kind::Events`], which stands behind the others.
    pub fn push(&mut self, head: &BatchHead, at: u64) {
        self.last = self.last.max(head.last());
        self.oldest_ms = self.oldest_ms.min(head.time_ms);
        self.newest_ms = self.newest_ms.max(head.time_ms);
        if head.class.once {
            self.once_newest_ms = self.once_newest_ms.max(head.time_ms);
        }
        self.batches += 1;
        self.bytes += head.bytes();
        if let Some(entry) = self.index.last_mut() {
            let span_bytes = at + head.bytes() - entry.at;
            let own_bytes = u64::from(entry.own_bytes) + head.bytes();
            if span_bytes <= ENTRY_SPAN_BYTES_MAX && own_bytes <= ENTRY_OWN_BYTES_MAX {
                (entry.span_bytes, entry.own_bytes) = (span_bytes as u32, own_bytes as u32);
                return;
            }
        }
        self.index.push(IndexEntry {
            first: head.first,
            at,
            span_bytes: head.bytes() as u32,
            own_bytes: head.bytes() as u32,
            time_ms: head.time_ms,
        });
    }

    /// The entry that holds an offset: its place in the index.
    #[must_use]
    pub fn entry_of(&self, offset: u64) -> Option<usize> {
        if !(self.first..=self.last).contains(&offset) {
            return None;
        }
        self.index
            .partition_point(|entry| entry.first <= offset)
            .checked_sub(1)
    }

    /// Makes the index half as large.
    fn thin(&mut self) {
        let pairs = self.index.chunks(2).map(|pair| match pair {
            [one, other] => IndexEntry {
                span_bytes: u32::try_from(other.end() - one.at).unwrap_or(u32::MAX),
                own_bytes: one.own_bytes.saturating_add(other.own_bytes),
                ..*one
            },
            rest => rest[0],
        });
        self.index = pairs.collect();
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.partition.to_le_bytes());
        for value in [
            self.first,
            self.last - self.first,
            self.oldest_ms,
            self.newest_ms - self.oldest_ms,
            self.once_newest_ms,
            self.batches,
            self.bytes,
            self.index.len() as u64,
        ] {
            put_varint(out, value);
        }
        let (mut first, mut at, mut time_ms) = (self.first, 0, self.oldest_ms);
        for entry in &self.index {
            // The clock may have been set back: a difference that wraps comes back as it was.
            for value in [
                entry.first.wrapping_sub(first),
                entry.at - at,
                u64::from(entry.span_bytes),
                u64::from(entry.own_bytes),
                entry.time_ms.wrapping_sub(time_ms),
            ] {
                put_varint(out, value);
            }
            (first, at, time_ms) = (entry.first, entry.at, entry.time_ms);
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let partition = fields.u16()?;
        let first = fields.varint()?;
        let last = first.checked_add(fields.varint()?)?;
        let oldest_ms = fields.varint()?;
        let newest_ms = oldest_ms.checked_add(fields.varint()?)?;
        let once_newest_ms = fields.varint()?;
        let (batches, bytes, entries) = (fields.varint()?, fields.varint()?, fields.varint()?);
        let mut index = Vec::with_capacity(usize::try_from(entries).ok()?.min(fields.0.len() / 5));
        let (mut entry_first, mut at, mut time_ms) = (first, 0_u64, oldest_ms);
        for _ in 0..entries {
            entry_first = entry_first.wrapping_add(fields.varint()?);
            at = at.checked_add(fields.varint()?)?;
            let (span_bytes, own_bytes) = (fields.varint()?, fields.varint()?);
            time_ms = time_ms.wrapping_add(fields.varint()?);
            index.push(IndexEntry {
                first: entry_first,
                at,
                span_bytes: u32::try_from(span_bytes).ok()?,
                own_bytes: u32::try_from(own_bytes).ok()?,
                time_ms,
            });
        }
        Some(Self {
            partition,
            first,
            last,
            oldest_ms,
            newest_ms,
            once_newest_ms,
            batches,
            bytes,
            index,
        })
    }
}

/// What a segment holds, partition by partition: grows with each batch that is written or found.
#[derive(Debug, Clone, Default)]
pub struct Extents(BTreeMap<u16, Extent>);

impl Extents {
    /// Takes a batch of [`Kind::Events`] at this place; others are nothing to it.
    pub fn push(&mut self, head: &BatchHead, at: u64) {
        if head.kind != Kind::Events || head.count == 0 {
            return;
        }
        self.0
            .entry(head.partition)
            .and_modify(|extent| extent.push(head, at))
            .or_insert_with(|| Extent::begin(head, at));
    }

    /// One partition's.
    #[must_use]
    pub fn get(&self, partition: u16) -> Option<&Extent> {
        self.0.get(&partition)
    }

    /// All, by partition.
    #[must_use]
    pub fn into_vec(self) -> Vec<Extent> {
        self.0.into_values().collect()
    }
}

/// A retained event that a segment holds, or the removal of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FooterRow {
    /// Its partition.
    pub partition: u16,
    /// Its offset.
    pub offset: u64,
    /// When it was appended, ms since 1970.
    pub time_ms: u64,
    /// Where its batch is.
    pub at: u64,
    /// Which event of the batch it is.
    pub index: u32,
    /// Whether it removes the row.
    pub is_removal: bool,
    /// Its topic.
    pub topic: Box<str>,
    /// Its key, as [`crate::log::format::Row`] has it.
    pub key: Box<[u8]>,
}

impl FooterRow {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_removal));
        out.extend_from_slice(&self.partition.to_le_bytes());
        for value in [self.offset, self.time_ms, self.at, u64::from(self.index)] {
            put_varint(out, value);
        }
        put_text(out, &self.topic);
        put_varint(out, self.key.len() as u64);
        out.extend_from_slice(&self.key);
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let is_removal = fields.u8()? != 0;
        let partition = fields.u16()?;
        let (offset, time_ms, at, index) = (
            fields.varint()?,
            fields.varint()?,
            fields.varint()?,
            fields.varint()?,
        );
        let topic = fields.text()?.into();
        let key_bytes = usize::try_from(fields.varint()?).ok()?;
        Some(Self {
            partition,
            offset,
            time_ms,
            at,
            index: u32::try_from(index).ok()?,
            is_removal,
            topic,
            key: fields.bytes(key_bytes)?.into(),
        })
    }
}

/// What a range that was removed takes in a footer at most.
const REMOVED_BYTES_MAX: usize = 2 + 10 + 10;

/// What a sealed segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footer {
    /// The log was stopped in good order behind this segment: no offset was given away that is not on the disk.
    pub is_last: bool,
    /// As the segment's first batch has them.
    pub bases: Vec<Base>,
    /// What it holds.
    pub extents: Vec<Extent>,
    /// The retained rows that it holds and the removals; of each row the newest is enough. `None`: they are not listed, and
    /// have to be looked for.
    pub rows: Option<Vec<FooterRow>>,
    /// Where its batches of cursors are. `None`: they have to be looked for.
    pub cursors_at: Option<Vec<u64>>,
    /// What retention had removed when it was written.
    pub removed: Vec<Removed>,
}

impl Footer {
    /// As the body of a batch: with fewer index entries, without rows, without places of cursors, if it were too large.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.is_last)];
        put_varint(&mut out, self.bases.len() as u64);
        for base in &self.bases {
            out.extend_from_slice(&base.partition.to_le_bytes());
            put_varint(&mut out, base.last);
            put_varint(&mut out, base.next);
        }
        // A third for each of the three that may be large. What was removed is never left out: it is as small as the bases.
        let room = BODY_BYTES_MAX.saturating_sub(out.len() + self.removed.len() * REMOVED_BYTES_MAX) / 3;
        let mut extents = self.extents.clone();
        let mut part = Vec::new();
        loop {
            part.clear();
            put_varint(&mut part, extents.len() as u64);
            for extent in &extents {
                extent.encode(&mut part);
            }
            if part.len() <= room || extents.iter().all(|extent| extent.index.len() <= 1) {
                break;
            }
            extents.iter_mut().for_each(Extent::thin);
        }
        out.append(&mut part);
        put_list(&mut out, self.rows.as_deref(), room, FooterRow::encode);
        put_list(&mut out, self.cursors_at.as_deref(), room, |at, out| {
            put_varint(out, *at);
        });
        put_varint(&mut out, self.removed.len() as u64);
        for range in &self.removed {
            out.extend_from_slice(&range.partition.to_le_bytes());
            put_varint(&mut out, range.first);
            put_varint(&mut out, range.last);
        }
        out
    }

    /// Reads a footer's body, whose CRC was right.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, BodyFault> {
        Self::read(&mut Fields(body)).ok_or(BodyFault::Malformed)
    }

    /// Reads of a footer's body only what the segment holds and where: it may list many rows.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`].
    pub(super) fn decode_extents(body: &[u8]) -> Result<Vec<Extent>, BodyFault> {
        let begun = Self::read_begin(&mut Fields(body));
        begun.map(|(_, _, extents)| extents).ok_or(BodyFault::Malformed)
    }

    fn read_begin(fields: &mut Fields<'_>) -> Option<(bool, Vec<Base>, Vec<Extent>)> {
        let is_last = fields.u8()? != 0;
        let bases = list(fields, |fields| {
            Some(Base {
                partition: fields.u16()?,
                last: fields.varint()?,
                next: fields.varint()?,
            })
        })?;
        let extents = list(fields, Extent::decode)?;
        Some((is_last, bases, extents))
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (is_last, bases, extents) = Self::read_begin(fields)?;
        let rows = optional_list(fields, FooterRow::decode)?;
        let cursors_at = optional_list(fields, |fields| fields.varint())?;
        // The first footers ended here.
        let removed = match fields.0.is_empty() {
            true => Vec::new(),
            false => list(fields, read_removed)?,
        };
        fields.0.is_empty().then_some(Self {
            is_last,
            bases,
            extents,
            rows,
            cursors_at,
            removed,
        })
    }
}

fn read_removed(fields: &mut Fields<'_>) -> Option<Removed> {
    let removed = Removed {
        partition: fields.u16()?,
        first: fields.varint()?,
        last: fields.varint()?,
    };
    (1..=removed.last).contains(&removed.first).then_some(removed)
}

fn put_list<T>(out: &mut Vec<u8>, list: Option<&[T]>, room: usize, encode: impl Fn(&T, &mut Vec<u8>)) {
    let begun = out.len();
    if let Some(list) = list {
        out.push(1);
        put_varint(out, list.len() as u64);
        for entry in list {
            encode(entry, out);
            if out.len() - begun > room {
                out.truncate(begun);
                break;
            }
        }
    }
    if out.len() == begun {
        out.push(0);
    }
}

fn list<T>(fields: &mut Fields<'_>, decode: impl Fn(&mut Fields<'_>) -> Option<T>) -> Option<Vec<T>> {
    let count = fields.varint()?;
    // Not made as large as is claimed: each entry has to be there.
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(decode(fields)?);
    }
    Some(list)
}

fn optional_list<T>(
    fields: &mut Fields<'_>,
    decode: impl Fn(&mut Fields<'_>) -> Option<T>,
) -> Option<Option<Vec<T>>> {
    match fields.u8()? {
        0 => Some(None),
        1 => list(fields, decode).map(Some),
        _ => None,
    }
}

/// The last bytes of a sealed segment: where its footer is, and how long the file is.
pub(super) fn encode_trailer(salt: u64, footer_at: u64, file_bytes: u64) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(&TRAILER_MAGIC);
    out[8..16].copy_from_slice(&footer_at.to_le_bytes());
    out[16..24].copy_from_slice(&file_bytes.to_le_bytes());
    let crc = trailer_crc(&out, salt);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Where the footer is, if this is the trailer that ends a segment of this length.
#[must_use]
pub fn decode_trailer(trailer: &[u8; TRAILER_BYTES], salt: u64, file_bytes: u64) -> Option<u64> {
    let mut fields = Fields(trailer);
    let magic = fields.bytes(8)?;
    let (footer_at, said_bytes) = (fields.u64()?, fields.u64()?);
    fields.u32()?;
    let is_sound = magic == TRAILER_MAGIC
        && said_bytes == file_bytes
        && footer_at < file_bytes
        && fields.u32()? == trailer_crc(trailer, salt);
    is_sound.then_some(footer_at)
}

fn trailer_crc(trailer: &[u8; TRAILER_BYTES], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &trailer[..28])
}
