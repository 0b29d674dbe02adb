//! The newest of each row, whatever order rows are found in.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::recovered::RecoveredRow;
use crate::log::{disk::SegmentId, footer::FooterRow};

/// What a row is known by.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RowKey {
    partition: u16,
    topic: Box<str>,
    key: Box<[u8]>,
}

/// Where the newest event of a row is.
#[derive(Debug, Clone, Copy)]
struct Newest {
    offset: u64,
    time_ms: u64,
    at: u64,
    index: u32,
    is_removal: bool,
    segment: SegmentId,
    /// With how many cores that was written.
    cores: u16,
    /// An older one is in a segment that may be there for longer.
    is_outlived: bool,
}

impl Newest {
    /// Takes an older event of the same row into account.
    fn replaces(&mut self, older: &Newest) {
        let (own, other) = (self.segment, older.segment);
        // Of one number of cores, segments of a stream go in the order of their numbers.
        let in_order = own.core == other.core && self.cores == older.cores && own.number >= other.number;
        self.is_outlived |= older.is_outlived || !in_order;
    }
}

/// Rows of one or more partitions; of each only the newest is kept.
#[derive(Debug, Default)]
pub(in crate::log) struct RowTable(HashMap<RowKey, Newest, RandomState>);

impl RowTable {
    /// Takes a row; of the same event in two segments, the one that comes later counts.
    pub(super) fn take(&mut self, row: FooterRow, segment: SegmentId, cores: u16) {
        let newest = Newest {
            offset: row.offset,
            time_ms: row.time_ms,
            at: row.at,
            index: row.index,
            is_removal: row.is_removal,
            segment,
            cores,
            is_outlived: false,
        };
        let key = RowKey {
            partition: row.partition,
            topic: row.topic,
            key: row.key,
        };
        self.0
            .entry(key)
            .and_modify(|known| {
                if known.offset < newest.offset {
                    let older = std::mem::replace(known, newest);
                    known.replaces(&older);
                } else if known.offset > newest.offset {
                    known.replaces(&newest);
                } else {
                    *known = Newest {
                        is_outlived: known.is_outlived,
                        ..newest
                    };
                }
            })
            .or_insert(newest);
    }

    /// Takes all of another table, found later.
    pub(super) fn append(&mut self, other: Self) {
        for (key, newest) in other.0 {
            let row = FooterRow {
                partition: key.partition,
                offset: newest.offset,
                time_ms: newest.time_ms,
                at: newest.at,
                index: newest.index,
                is_removal: newest.is_removal,
                topic: key.topic,
                key: key.key,
            };
            self.take(row, newest.segment, newest.cores);
        }
    }

    /// Takes out the rows of these partitions.
    pub(super) fn extract(&mut self, is_wanted: impl Fn(u16) -> bool) -> Self {
        Self(self.0.extract_if(|key, _| is_wanted(key.partition)).collect())
    }

    /// All of them, in one order.
    pub(super) fn listed(&self) -> Vec<FooterRow> {
        let rows = self.0.iter().map(|(key, newest)| FooterRow {
            partition: key.partition,
            offset: newest.offset,
            time_ms: newest.time_ms,
            at: newest.at,
            index: newest.index,
            is_removal: newest.is_removal,
            topic: key.topic.clone(),
            key: key.key.clone(),
        });
        let mut rows: Vec<FooterRow> = rows.collect();
        rows.sort_unstable_by_key(|row| (row.partition, row.offset));
        rows
    }

    /// The partitions that have any, more than once.
    pub(super) fn partitions(&self) -> impl Iterator<Item = u16> {
        self.0.keys().map(|key| key.partition)
    }

    /// What is there, with its partition, in no order. Of removed rows only the removals that still hide something.
    pub(super) fn into_rows(self) -> impl Iterator<Item = (u16, RecoveredRow)> {
        self.0
            .into_iter()
            .filter(|(_, newest)| !newest.is_removal || newest.is_outlived)
            .map(|(key, newest)| {
                let row = RecoveredRow {
                    topic: key.topic,
                    key: key.key,
                    offset: newest.offset,
                    time_ms: newest.time_ms,
                    segment: newest.segment,
                    at: newest.at,
                    index: newest.index,
                    is_removal: newest.is_removal,
                    is_outlived: newest.is_outlived,
                };
                (key.partition, row)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_kept_while_what_it_removed_may_outlive_it() {
        let row = |offset, is_removal| FooterRow {
            partition: 1,
            offset,
            time_ms: 0,
            at: 64,
            index: 0,
            is_removal,
            topic: "t".into(),
            key: [].into(),
        };
        let segment = |core, number| SegmentId { core, number };
        let removal_in = (segment(0, 4), 2);
        for (older_in, is_outlived) in [
            ((segment(0, 3), 2), false),
            (removal_in, false),
            // Carried on behind the removal.
            ((segment(0, 5), 2), true),
            // Of a start with another number of cores.
            ((segment(0, 3), 1), true),
            ((segment(1, 3), 3), true),
        ] {
            for is_first in [false, true] {
                let mut table = RowTable::default();
                let mut taken = [(row(7, true), removal_in), (row(5, false), older_in)];
                if is_first {
                    taken.reverse();
                }
                for (row, (segment, cores)) in taken {
                    table.take(row, segment, cores);
                }
                let left: Vec<_> = table
                    .into_rows()
                    .map(|(_, row)| (row.offset, row.is_removal))
                    .collect();
                let expected = if is_outlived { vec![(7, true)] } else { Vec::new() };
                assert_eq!(left, expected, "{older_in:?}");
            }
        }
    }
}
