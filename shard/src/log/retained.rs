//! The retained events of one partition: of each topic and key the last one. Here is where it is, not the event itself.
//!
//! A removal (a null payload) stays in the table, invisible, as long as the segment that holds it: older segments may hold
//! what it removed, and a recovery has to know.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::sync::Arc;

use fluxar_protocol::target;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::disk::SegmentId;
use super::events::RetainedRow;
use super::format;

/// Where an event is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowPlace {
    pub(super) segment: SegmentId,
    /// Where in it its batch is.
    pub(super) at: u64,
    /// Which event of the batch it is.
    pub(super) index: u32,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) topic: Arc<str>,
    /// As [`format::Row`] has it.
    pub(super) key: Box<[u8]>,
    /// When the event was appended, ms since 1970.
    pub(super) time_ms: u64,
    /// `None`: it is not on the disk yet.
    pub(super) place: Option<RowPlace>,
    pub(super) is_removal: bool,
    /// Its event cannot be read.
    pub(super) is_damaged: bool,
    /// An older event of this row is in a segment that may be there for longer: a removal has to be carried on, too.
    pub(super) outlives_segment: bool,
}

#[derive(Debug)]
pub(super) struct Retained {
    hasher: FixedState,
    by_offset: BTreeMap<u64, Row>,
    /// Offsets, found by topic and key.
    by_key: HashTable<u64>,
}

impl Retained {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            hasher,
            by_offset: BTreeMap::new(),
            by_key: HashTable::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_offset.len()
    }

    /// The offset of the last event of a topic and key.
    pub(super) fn find(&self, topic: &str, key: &[u8]) -> Option<u64> {
        let hash = self.hasher.hash_one((topic, key));
        let by_offset = &self.by_offset;
        let is_it = |row: &Row| &*row.topic == topic && &*row.key == key;
        self.by_key
            .find(hash, |offset| by_offset.get(offset).is_some_and(is_it))
            .copied()
    }

    /// Takes an event: it replaces the one before it.
    pub(super) fn apply(&mut self, offset: u64, time_ms: u64, row: format::Row<'_>) {
        let before = self.find(row.topic, row.key);
        if row.is_removal && before.is_none() {
            return;
        }
        let (topic, outlives_segment) = match before.and_then(|before| self.remove(before)) {
            Some(before) => (before.topic, before.outlives_segment),
            None => (row.topic.into(), false),
        };
        self.insert(
            offset,
            Row {
                topic,
                key: row.key.into(),
                time_ms,
                place: None,
                is_removal: row.is_removal,
                is_damaged: false,
                outlives_segment,
            },
        );
    }

    /// Adds a row that is not there.
    pub(super) fn insert(&mut self, offset: u64, row: Row) {
        let hash = self.hasher.hash_one((&*row.topic, &*row.key));
        self.by_offset.insert(offset, row);
        let (hasher, by_offset) = (&self.hasher, &self.by_offset);
        self.by_key.insert_unique(hash, offset, |offset| {
            let row = by_offset.get(offset);
            row.map_or(0, |row| hasher.hash_one((&*row.topic, &*row.key)))
        });
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Row> {
        let row = self.by_offset.get(&offset)?;
        let hash = self.hasher.hash_one((&*row.topic, &*row.key));
        if let Ok(entry) = self.by_key.find_entry(hash, |&known| known == offset) {
            entry.remove();
        }
        self.by_offset.remove(&offset)
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Row> {
        self.by_offset.get(&offset)
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut Row> {
        self.by_offset.get_mut(&offset)
    }

    /// The rows and removals with these offsets, ascending.
    pub(super) fn range(&self, offsets: RangeInclusive<u64>) -> impl Iterator<Item = (u64, &Row)> {
        let offsets = (!offsets.is_empty()).then_some(offsets);
        let rows = offsets.map(|offsets| self.by_offset.range(offsets));
        rows.into_iter().flatten().map(|(&offset, row)| (offset, row))
    }

    /// Says where the rows with these offsets are: events of one batch, which begins with the first of them.
    pub(super) fn place(&mut self, offsets: RangeInclusive<u64>, segment: SegmentId, at: u64) {
        let first = *offsets.start();
        for (offset, row) in self.by_offset.range_mut(offsets) {
            row.place = Some(RowPlace {
                segment,
                at,
                index: (offset - first) as u32,
            });
        }
    }

    /// Rows whose topic matches, with `after < offset <= until`, ascending, so many at most.
    pub(super) fn matching(
        &self,
        pattern: &str,
        after: u64,
        until: u64,
        rows_max: usize,
    ) -> Vec<RetainedRow> {
        let rows = self.range(after.saturating_add(1)..=until);
        let seen = rows.filter(|(_, row)| !row.is_removal && target::matches(pattern, &row.topic));
        seen.take(rows_max)
            .map(|(offset, row)| RetainedRow {
                topic: row.topic.clone(),
                offset,
            })
            .collect()
    }
}
