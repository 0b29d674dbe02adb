//! Which sealed segments have their index in memory. What a segment holds of each partition is always known; where in it
//! that is, to the batch, stands in its footer, is read from there when somebody wants it, and let go of when there is too
//! much of it. A segment without a footer (given up after a failed write, or damaged) keeps its index.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::Log;
use super::disk::SegmentId;
use super::footer::{Extent, Extents, Footer, IndexEntry};
use super::format::{
    ALIGN_BYTES, BATCH_HEAD_BYTES, BatchHead, Body, Kind, SEGMENT_HEAD_BYTES, TRAILER_BYTES, salt_of,
};
use super::partition::{Stretch, What};
use super::recovery::HeldExtent;

/// Offsets of a partition that a segment holds.
type Range = (u16, u64, u64);

#[derive(Debug)]
struct Held {
    ranges: Vec<Range>,
    entries: usize,
    /// When it was used last, as [`Indices`] counts.
    used: u64,
}

#[derive(Debug)]
pub(super) struct Indices {
    held: HashMap<SegmentId, Held, FixedState>,
    entries: usize,
    /// Counts uses.
    uses: u64,
}

impl Indices {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            held: HashMap::with_hasher(hasher),
            entries: 0,
            uses: 0,
        }
    }

    /// Their bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.entries * size_of::<IndexEntry>()
    }

    /// Somebody reads a segment.
    pub(super) fn touch(&mut self, segment: SegmentId) {
        self.uses += 1;
        if let Some(held) = self.held.get_mut(&segment) {
            held.used = self.uses;
        }
    }

    fn add(&mut self, segment: SegmentId, ranges: Vec<Range>, entries: usize) {
        self.remove(segment);
        self.uses += 1;
        self.entries += entries;
        let held = Held {
            ranges,
            entries,
            used: self.uses,
        };
        self.held.insert(segment, held);
    }

    pub(super) fn remove(&mut self, segment: SegmentId) -> Option<Vec<Range>> {
        let held = self.held.remove(&segment)?;
        self.entries -= held.entries;
        Some(held.ranges)
    }

    /// The one that was not used for longest, but never the only one.
    fn oldest(&self) -> Option<SegmentId> {
        let oldest = self.held.iter().min_by_key(|(_, held)| held.used);
        oldest.filter(|_| self.held.len() > 1).map(|(id, _)| *id)
    }
}

impl Log {
    /// What is to be read of a segment to know where in it these offsets are: its footer or, where that is damaged, all of
    /// it. `None`: nothing says where.
    pub(super) fn index_of(&self, id: SegmentId, (first, last): (u64, u64)) -> Option<Stretch> {
        let segment = self.segments.get(id)?;
        let footer_at = segment.footer_at?;
        let (what, at, end) = if segment.is_footer_damaged {
            (What::Whole, SEGMENT_HEAD_BYTES as u64, footer_at)
        } else {
            let trailer_at = segment.bytes.checked_sub(TRAILER_BYTES as u64)?;
            (What::Footer, footer_at, trailer_at)
        };
        Some(Stretch {
            what,
            segment: id,
            at,
            bytes: u32::try_from(end.checked_sub(at)?).ok()?,
            first,
            last,
        })
    }

    /// Takes what was read of a segment for its index; whether it says where the offsets are that are wanted.
    pub(super) fn take_index(&mut self, number: u16, stretch: Stretch, bytes: &Bytes) -> bool {
        let id = stretch.segment;
        let found = match stretch.what {
            What::Footer => self.decode_footer(stretch, bytes),
            _ => self.walk_heads(stretch, bytes),
        };
        let (mut ranges, mut entries) = (Vec::new(), 0);
        for extent in found {
            let range = (extent.partition, extent.first, extent.last);
            for held in self.extents_of(id, range) {
                held.extent.index = extent.index.clone();
                entries += extent.index.len();
            }
            ranges.push(range);
        }
        self.indices.add(id, ranges, entries);
        self.evict_indices();
        let range = (number, stretch.first, stretch.last);
        let is_found = self
            .extents_of(id, range)
            .all(|held| !held.extent.index.is_empty());
        if !is_found && stretch.what == What::Footer {
            self.segments.footer_is_damaged(id);
        }
        is_found
    }

    /// What a segment holds of some offsets.
    fn extents_of(
        &mut self,
        id: SegmentId,
        (number, first, last): Range,
    ) -> impl Iterator<Item = &mut HeldExtent> {
        let partition = self.index(number).map(|at| &mut self.partitions[at]);
        let extents = partition.map(|partition| {
            let from = partition.extents.partition_point(|held| held.extent.last < first);
            partition.extents.range_mut(from..)
        });
        let of_range = extents
            .into_iter()
            .flatten()
            .take_while(move |held| held.extent.first <= last);
        of_range.filter(move |held| held.segment == id)
    }

    fn decode_footer(&self, stretch: Stretch, bytes: &Bytes) -> Vec<Extent> {
        let salt = salt_of(self.secret, stretch.segment);
        let head = BatchHead::decode(bytes, salt, stretch.at).ok();
        let head = head.filter(|head| head.kind == Kind::Footer);
        let body = head.and_then(|head| Body::check(head, &bytes.slice(BATCH_HEAD_BYTES..)).ok());
        let extents = body.and_then(|body| Footer::decode_extents(body.bytes()).ok());
        extents.unwrap_or_default()
    }

    fn walk_heads(&self, stretch: Stretch, bytes: &Bytes) -> Vec<Extent> {
        let salt = salt_of(self.secret, stretch.segment);
        let mut extents = Extents::default();
        let mut at = 0;
        while at + BATCH_HEAD_BYTES <= bytes.len() {
            let place = stretch.at + at as u64;
            match BatchHead::decode(&bytes[at..], salt, place) {
                Ok(head) => {
                    extents.push(&head, place);
                    at += head.bytes() as usize;
                }
                Err(_) => at += ALIGN_BYTES as usize,
            }
        }
        extents.into_vec()
    }

    /// A segment was sealed: its index may be let go of from now on.
    pub(super) fn index_sealed(&mut self, id: SegmentId, partitions: &[u16]) {
        let (mut ranges, mut entries) = (Vec::new(), 0);
        for &number in partitions {
            let Some(at) = self.index(number) else { continue };
            let Some(held) = self.partitions[at].extents.back_mut() else {
                continue;
            };
            if held.segment == id {
                held.extent.index.shrink_to_fit();
                entries += held.extent.index.len();
                ranges.push((number, held.extent.first, held.extent.last));
            }
        }
        self.indices.add(id, ranges, entries);
        self.evict_indices();
    }

    fn evict_indices(&mut self) {
        let bytes_max = self.settings.as_ref().map_or(0, |settings| settings.tail_bytes);
        while self.indices.bytes() > bytes_max
            && let Some(id) = self.indices.oldest()
        {
            for range in self.indices.remove(id).unwrap_or_default() {
                for held in self.extents_of(id, range) {
                    held.extent.index = Vec::new();
                }
            }
        }
    }
}
