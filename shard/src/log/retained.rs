//! The retained events of one partition: of each topic and key the last one. Here is where it is, not the event itself.
//!
//! A removal (a null payload) stays in the table, invisible, as long as the segment that holds it: older segments may hold
//! what it removed, and a recovery has to know.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::sync::Arc;

use fluxar_protocol::target;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::disk::SegmentId;
use super::events::RetainedRow;
use super::format;

/// Rows of topics with a common beginning that are looked at for a pattern; where there are more, all rows are, by offset.
const LOOKED_AT_MAX: usize = 16_384;

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
    /// Since when the disk does not give it, monotonic, ms; 0: it does.
    pub(super) unreadable_since_ms: u64,
    /// An older event of this row is in a segment that may be there for longer: a removal has to be carried on, too.
    pub(super) outlives_segment: bool,
}

#[derive(Debug)]
pub(super) struct Retained {
    hasher: FixedState,
    by_offset: BTreeMap<u64, Row>,
    /// Of the rows, not of the removals.
    by_topic: BTreeSet<(Arc<str>, u64)>,
    /// Offsets, found by topic and key.
    by_key: HashTable<u64>,
    /// Rows that are to come with events that were appended and are not committed: the hashes of their topics and keys. (Of two
    /// with one hash one is counted.)
    coming: HashTable<u64>,
    /// Rows whose event cannot be read any more: they stay, so that whoever reads the table hears of them, until their key
    /// is published again.
    damaged: BTreeSet<u64>,
}

impl Retained {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            hasher,
            by_offset: BTreeMap::new(),
            by_topic: BTreeSet::new(),
            by_key: HashTable::new(),
            coming: HashTable::new(),
            damaged: BTreeSet::new(),
        }
    }

    /// Rows and removals, with those that are to come.
    pub(super) fn len(&self) -> usize {
        self.by_offset.len() + self.coming.len()
    }

    /// The offset of the last event of a topic and key.
    pub(super) fn find(&self, topic: &str, key: &[u8]) -> Option<u64> {
        self.find_hashed(self.hasher.hash_one((topic, key)), topic, key)
    }

    fn find_hashed(&self, hash: u64, topic: &str, key: &[u8]) -> Option<u64> {
        let by_offset = &self.by_offset;
        let is_it = |row: &Row| &*row.topic == topic && &*row.key == key;
        self.by_key
            .find(hash, |offset| by_offset.get(offset).is_some_and(is_it))
            .copied()
    }

    /// The hash of a row that would be one more, if it were appended now.
    pub(super) fn new_row(&self, row: &format::Row<'_>) -> Option<u64> {
        if row.is_removal {
            return None;
        }
        let hash = self.hasher.hash_one((row.topic, row.key));
        let is_known = self.coming.find(hash, |&coming| coming == hash).is_some()
            || self.find_hashed(hash, row.topic, row.key).is_some();
        (!is_known).then_some(hash)
    }

    /// An event was appended; whether it is going to be one more row.
    pub(super) fn expect(&mut self, row: &format::Row<'_>) -> bool {
        let new = self.new_row(row);
        if let Some(hash) = new {
            self.coming.insert_unique(hash, hash, |&hash| hash);
        }
        new.is_some()
    }

    /// A row that was to come is there.
    fn has_come(&mut self, hash: u64) {
        if let Ok(coming) = self.coming.find_entry(hash, |&coming| coming == hash) {
            coming.remove();
        }
        if self.coming.is_empty() && self.coming.capacity() > 1_024 {
            self.coming = HashTable::new(); // what waited at a bad time is not to take memory for ever
        }
    }

    /// Takes an event that is committed: it replaces the one before it.
    pub(super) fn apply(&mut self, offset: u64, time_ms: u64, row: format::Row<'_>) {
        let hash = self.hasher.hash_one((row.topic, row.key));
        let before = self.find_hashed(hash, row.topic, row.key);
        if before.is_none() {
            if row.is_removal {
                return;
            }
            self.has_come(hash);
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
                unreadable_since_ms: 0,
                outlives_segment,
            },
        );
    }

    /// Adds a row that is not there.
    pub(super) fn insert(&mut self, offset: u64, row: Row) {
        let hash = self.hasher.hash_one((&*row.topic, &*row.key));
        if !row.is_removal {
            self.by_topic.insert((row.topic.clone(), offset));
        }
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
        let row = self.by_offset.remove(&offset)?;
        self.damaged.remove(&offset);
        if !row.is_removal {
            self.by_topic.remove(&(row.topic.clone(), offset));
        }
        Some(row)
    }

    /// The event of a row or removal is damaged: it is no more among those that match. Its topic, if that is news and a row.
    pub(super) fn mark_damaged(&mut self, offset: u64) -> Option<Arc<str>> {
        let row = self.by_offset.get_mut(&offset)?;
        if std::mem::replace(&mut row.is_damaged, true) || row.is_removal {
            return None;
        }
        let topic = row.topic.clone();
        self.damaged.insert(offset);
        self.by_topic.remove(&(topic.clone(), offset));
        Some(topic)
    }

    /// The rows and removals whose events are in one batch, ascending. Looks at all: for a batch that is found damaged.
    pub(super) fn placed_at(&self, segment: SegmentId, at: u64) -> Vec<u64> {
        let is_there = |row: &Row| {
            row.place
                .is_some_and(|place| (place.segment, place.at) == (segment, at))
        };
        let rows = self.by_offset.iter().filter(|(_, row)| is_there(row));
        rows.map(|(offset, _)| *offset).collect()
    }

    /// The first and the last damaged row whose topic matches.
    pub(super) fn damaged_matching(&self, pattern: &str) -> Option<(u64, u64)> {
        let matches = |offset: &&u64| {
            let row = self.by_offset.get(*offset);
            row.is_some_and(|row| target::matches(pattern, &row.topic))
        };
        let mut damaged = self.damaged.iter().filter(matches);
        let first = *damaged.next()?;
        Some((first, damaged.next_back().copied().unwrap_or(first)))
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
        if after >= until {
            return Vec::new();
        }
        let found = |topic: &Arc<str>, offset: u64| RetainedRow {
            topic: topic.clone(),
            offset,
        };
        let Some(begin) = literal_begin(pattern) else {
            let topic: Arc<str> = pattern.into();
            let rows = (topic.clone(), after + 1)..=(topic, until);
            let rows = self.by_topic.range(rows).take(rows_max);
            return rows.map(|(topic, offset)| found(topic, *offset)).collect();
        };
        if !begin.is_empty() {
            let rows = self.by_topic.range((Arc::from(begin), 0)..);
            let mut rows = rows.take_while(|(topic, _)| topic.starts_with(begin));
            let mut matching: Vec<RetainedRow> = rows
                .by_ref()
                .take(LOOKED_AT_MAX)
                .filter(|(topic, offset)| {
                    (after + 1..=until).contains(offset) && target::matches(pattern, topic)
                })
                .map(|(topic, offset)| found(topic, *offset))
                .collect();
            if rows.next().is_none() {
                matching.sort_unstable_by_key(|row| row.offset);
                matching.truncate(rows_max);
                return matching;
            }
        }
        let rows = self.range(after + 1..=until);
        let is_there = |row: &Row| !row.is_removal && !row.is_damaged;
        let seen = rows.filter(|(_, row)| is_there(row) && target::matches(pattern, &row.topic));
        seen.take(rows_max)
            .map(|(offset, row)| found(&row.topic, offset))
            .collect()
    }
}

/// What all topics that a pattern matches begin with; `None`: it is no pattern, but one topic.
fn literal_begin(pattern: &str) -> Option<&str> {
    let mut at = 0;
    for token in pattern.split('.') {
        if matches!(token, "*" | ">") {
            return Some(&pattern[..at]);
        }
        at += token.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_topic_as_by_offset() {
        let mut table = Retained::new(FixedState::with_seed(1));
        let mut all: BTreeMap<(String, u8), u64> = BTreeMap::new();
        let topics = [
            "a", "a.b", "a.b.c", "a.bb.c", "a.c", "a.c.d", "b", "b.c", "b.c.c", "$x.a",
        ];
        let mut seed = 1_u64;
        for offset in 1..=2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (topic, key) = (
                topics[(seed >> 33) as usize % topics.len()],
                (seed >> 50) as u8 % 16,
            );
            let is_removal = (seed >> 60).is_multiple_of(4);
            let row = format::Row {
                topic,
                key: &[key],
                is_removal,
            };
            table.apply(offset, 7, row);
            if is_removal {
                all.remove(&(topic.to_owned(), key));
            } else {
                all.insert((topic.to_owned(), key), offset);
            }
        }
        for pattern in [
            "a", "a.b", "a.*", "a.>", "a.*.c", "a.b.>", "*.c", ">", "none", "none.>", "$x.a", "a.b.*",
        ] {
            let expected = |after: u64, until: u64, rows_max: usize| {
                let mut rows: Vec<(u64, &str)> = all
                    .iter()
                    .filter(|((topic, _), offset)| {
                        target::matches(pattern, topic) && (after + 1..=until).contains(*offset)
                    })
                    .map(|((topic, _), offset)| (*offset, topic.as_str()))
                    .collect();
                rows.sort_unstable();
                rows.truncate(rows_max);
                rows
            };
            for (after, until, rows_max) in [
                (0, u64::MAX, 1_000),
                (1_900, 1_990, 1_000),
                (0, 2_000, 3),
                (9, 9, 9),
            ] {
                let found = table.matching(pattern, after, until, rows_max);
                let found: Vec<(u64, &str)> = found.iter().map(|row| (row.offset, &*row.topic)).collect();
                assert_eq!(
                    found,
                    expected(after, until, rows_max),
                    "{pattern} {after} {until}"
                );
            }
        }
        assert_eq!(table.by_topic.len(), all.len());
    }

    #[test]
    fn more_than_is_looked_at_by_topic_is_found_all_the_same() {
        let mut table = Retained::new(FixedState::with_seed(1));
        for offset in 1..=LOOKED_AT_MAX as u64 + 1 {
            let topic = format!("a.{}", offset % 7);
            let row = format::Row {
                topic: &topic,
                key: &offset.to_le_bytes(),
                is_removal: false,
            };
            table.apply(offset, 7, row);
        }
        let found = table.matching("a.*", 3, u64::MAX, usize::MAX);
        assert_eq!(found.len(), LOOKED_AT_MAX - 2);
        assert!(found.is_sorted_by_key(|row| row.offset));
    }
}
