//! Batches as slices to be written: heads and tables are made here, events are referred to, and copied only where they are few.
//!
//! One [`BatchWriter`] makes what one write carries. It is told how far the segment is and gives back, for each batch, the
//! head, from which the index is kept ([`crate::log::footer::Extents`]).

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BATCH_HEAD_BYTES, BODY_BYTES_MAX, Base, BatchHead, CursorEntry, Kind, Removed, SEGMENT_HEAD_BYTES,
    SegmentHead, TRAILER_BYTES, segment,
};
use crate::log::{
    Events,
    class::Class,
    footer::{self, Footer},
};

/// Runs smaller than this are copied: a slice of its own costs the disk more than a copy.
const COPY_BYTES_MAX: usize = 2 * 1024;

/// A retained event that is carried on.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its offset.
    pub offset: u64,
    /// When it was appended, ms since 1970.
    pub time_ms: u64,
    /// Its envelope.
    pub event: Bytes,
}

/// Makes the slices of one write to one segment.
#[derive(Debug)]
pub struct BatchWriter {
    salt: u64,
    epoch: u64,
    synced_at: u64,
    now_ms: u64,
    at: u64,
    /// Heads, tables and small runs behind the last slice.
    tables: BytesMut,
    slices: Vec<Bytes>,
}

impl BatchWriter {
    /// For a write at `at`, a multiple of 8, of a segment of which `synced_at` bytes are known to survive power loss. At 0
    /// the segment's head is written first.
    #[must_use]
    pub fn new(segment: &SegmentHead, at: u64, synced_at: u64, now_ms: u64) -> Self {
        debug_assert!(at.is_multiple_of(super::ALIGN_BYTES));
        let mut this = Self {
            salt: segment.salt,
            epoch: segment.epoch,
            synced_at,
            now_ms,
            at,
            tables: BytesMut::with_capacity(4096),
            slices: Vec::new(),
        };
        if at == 0 {
            this.slices.push(Bytes::copy_from_slice(&segment.encode()));
            this.at = SEGMENT_HEAD_BYTES as u64;
        }
        this
    }

    /// Where the next batch will stand: the end of the write, if it is over.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The slices, in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.tables.is_empty() {
            self.slices.push(self.tables.freeze());
        }
        self.slices
    }

    /// Where each partition of this stream stands: first in each segment.
    pub fn bases(&mut self, bases: &[Base]) -> BatchHead {
        let mut body = Vec::with_capacity(bases.len() * segment::BASE_BYTES);
        for base in bases {
            base.encode(&mut body);
        }
        self.plain(Kind::Bases, 0, bases.len() as u32, body)
    }

    /// What retention removed: behind the bases of a segment all of it that is known, later what is added.
    pub fn removed(&mut self, removed: &[Removed]) -> BatchHead {
        let mut body = Vec::with_capacity(removed.len() * segment::REMOVED_BYTES);
        for range in removed {
            range.encode(&mut body);
        }
        self.plain(Kind::Removed, 0, removed.len() as u32, body)
    }

    /// Runs of one partition and class, back to back: one batch, appended at `time_ms`.
    ///
    /// # Panics
    /// If they are larger than [`BODY_BYTES_MAX`] with their table: nobody could read them again.
    pub fn events<'a, R>(
        &mut self,
        partition: u16,
        class: Class,
        first: u64,
        time_ms: u64,
        runs: R,
    ) -> BatchHead
    where
        R: IntoIterator<Item = &'a Events>,
        R::IntoIter: Clone,
    {
        let runs = runs.into_iter();
        let count: usize = runs.clone().map(Events::len).sum();
        let mut head = self.head(Kind::Events, class, partition, count, first);
        head.time_ms = time_ms;
        self.tables.reserve(BATCH_HEAD_BYTES + 4 * count);
        let head_at = self.begin_table();
        let mut end = 0;
        for run in runs.clone() {
            for run_end in &*run.ends {
                self.tables.put_u32_le(end + run_end);
            }
            end += run.bytes.len() as u32;
        }
        self.end_table(&mut head, head_at, runs.map(|run| &run.bytes));
        head
    }

    /// Retained events of one partition, ascending: one batch.
    ///
    /// # Panics
    /// As [`Self::events`].
    pub fn kept(&mut self, partition: u16, class: Class, kept: &[Kept]) -> BatchHead {
        let first = kept.first().map_or(0, |kept| kept.offset);
        let mut head = self.head(Kind::Kept, class, partition, kept.len(), first);
        self.tables.reserve(BATCH_HEAD_BYTES + 20 * kept.len());
        let head_at = self.begin_table();
        let mut end = 0;
        for kept in kept {
            end += kept.event.len() as u32;
            self.tables.put_u32_le(end);
        }
        for kept in kept {
            self.tables.put_u64_le(kept.offset);
        }
        for kept in kept {
            self.tables.put_u64_le(kept.time_ms);
        }
        self.end_table(&mut head, head_at, kept.iter().map(|kept| &kept.event));
        head
    }

    /// Cursors of one partition: one batch.
    ///
    /// # Panics
    /// As [`Self::events`].
    pub fn cursors(&mut self, partition: u16, cursors: &[CursorEntry]) -> BatchHead {
        let mut body = Vec::new();
        for cursor in cursors {
            cursor.encode(&mut body);
        }
        self.plain(Kind::Cursors, partition, cursors.len() as u32, body)
    }

    /// What seals the segment: its footer and the trailer that finds it. The file ends at [`Self::at`].
    pub fn footer(&mut self, footer: &Footer) -> BatchHead {
        let footer_at = self.at;
        let head = self.plain(Kind::Footer, 0, footer.extents.len() as u32, footer.encode());
        let trailer = footer::encode_trailer(self.salt, footer_at, self.at + TRAILER_BYTES as u64);
        self.tables.extend_from_slice(&trailer);
        self.at += TRAILER_BYTES as u64;
        head
    }

    fn head(&self, kind: Kind, class: Class, partition: u16, count: usize, first: u64) -> BatchHead {
        BatchHead {
            kind,
            class,
            partition,
            count: u32::try_from(count).expect("a batch's events are counted by 32 bits"),
            first,
            epoch: self.epoch,
            time_ms: self.now_ms,
            synced_at: self.synced_at,
            body_bytes: 0,
            body_crc: 0,
        }
    }

    fn plain(&mut self, kind: Kind, partition: u16, count: u32, body: Vec<u8>) -> BatchHead {
        let mut head = self.head(kind, Class::default(), partition, count as usize, 0);
        self.tables.reserve(BATCH_HEAD_BYTES);
        let head_at = self.begin_table();
        let body = Bytes::from(body);
        self.end_table(&mut head, head_at, std::iter::once(&body));
        head
    }

    /// Leaves room for a head; the table comes behind it.
    fn begin_table(&mut self) -> usize {
        let head_at = self.tables.len();
        self.tables.put_bytes(0, BATCH_HEAD_BYTES);
        head_at
    }

    /// Puts the head in front of its table, and what the table places behind it.
    fn end_table<'a>(
        &mut self,
        head: &mut BatchHead,
        head_at: usize,
        bodies: impl Iterator<Item = &'a Bytes> + Clone,
    ) {
        let table = &self.tables[head_at + BATCH_HEAD_BYTES..];
        let body_bytes = table.len() + bodies.clone().map(Bytes::len).sum::<usize>();
        assert!(
            body_bytes <= BODY_BYTES_MAX,
            "a batch of {body_bytes} bytes is too large to be read again"
        );
        head.body_bytes = body_bytes as u32;
        head.body_crc = bodies.clone().fold(crc32c::crc32c(table), |crc, body| {
            crc32c::crc32c_append(crc, body)
        });
        let encoded = head.encode(self.salt, self.at);
        self.tables[head_at..head_at + BATCH_HEAD_BYTES].copy_from_slice(&encoded);
        for body in bodies {
            if body.len() < COPY_BYTES_MAX {
                self.tables.extend_from_slice(body);
            } else {
                self.slices.push(self.tables.split().freeze());
                self.slices.push(body.clone());
            }
        }
        let padding = head.bytes() as usize - BATCH_HEAD_BYTES - body_bytes;
        self.tables.put_bytes(0, padding);
        self.at += head.bytes();
    }
}
