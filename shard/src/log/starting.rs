//! How a log begins: with what recovery found.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Log;
use super::disk::SegmentId;
use super::events::Bounds;
use super::partition::Partition;
use super::recovery::{HeldExtent, OnceId, Recovered, RecoveredPartition, RecoveredSegment};
use super::retained::{Retained, Row, RowPlace};
use super::segments::Segment;

impl Log {
    /// Takes this core's share of what recovery found. The partitions that it names are ready from now on.
    pub fn handle_recovered(&mut self, share: Recovered) {
        debug_assert_eq!(
            (share.core, share.cores),
            (self.core, self.cores),
            "another core's share"
        );
        self.epoch = share.epoch;
        self.secret = share.secret;
        self.set_partition_count(share.partition_count);
        let mut once: Vec<(u16, OnceId)> = Vec::new();
        let own = share.segments.iter().filter(|found| found.cores == self.cores);
        let own: BTreeSet<SegmentId> = own.map(|found| found.id).collect();
        let mut event_bytes: HashMap<SegmentId, u64, FixedState> = HashMap::with_hasher(self.hasher.clone());
        let mut kept: KeptRows = HashMap::with_hasher(self.hasher.clone());
        for found in share.partitions {
            let Some(at) = self.index(found.partition) else {
                continue;
            };
            once.extend(found.once.iter().map(|id| (found.partition, *id)));
            for held in &found.extents {
                *event_bytes.entry(held.segment).or_default() += held.extent.bytes;
            }
            self.recover_partition(at, found, &own, &mut kept);
        }
        once.sort_by_key(|(_, id)| id.time_ms);
        for (partition, id) in once {
            if self.once.find(partition, id.id).is_none() {
                self.once.insert(partition, id.id, id.offset, id.time_ms);
            }
        }
        for segment in share.segments {
            let event_bytes = event_bytes.get(&segment.id).copied();
            let kept = kept.remove(&segment.id);
            self.recover_segment(segment, event_bytes.unwrap_or(0), kept.unwrap_or_default());
        }
        self.stream.next_number = self.stream.next_number.max(share.next_number).max(1);
        self.stream.first_number = self.stream.next_number;
    }

    /// Has all partitions ready and empty, in this epoch, without a disk: for tests and measurements.
    pub fn handle_empty(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.stream.next_number = 1;
        for partition in &mut self.partitions {
            partition.ready = true;
            partition.begin = 1;
        }
    }

    fn set_partition_count(&mut self, count: u16) {
        self.partition_count = count;
        let ours = (self.core..count).step_by(usize::from(self.cores)).count();
        self.partitions.resize_with(ours, Partition::default);
    }

    fn recover_partition(
        &mut self,
        at: usize,
        found: RecoveredPartition,
        own: &BTreeSet<SegmentId>,
        kept: &mut KeptRows,
    ) {
        let number = found.partition;
        for cursor in found.cursors {
            self.cursors.recover(number, cursor.entry, cursor.segment);
        }
        let partition = &mut self.partitions[at];
        partition.last = found.next.saturating_sub(1);
        partition.committed = partition.last;
        partition.synced = found.last;
        partition.begin = found.next;
        partition.removed = found.removed;
        partition.let_go = found.let_go;
        partition.extents = found.extents.into();
        partition.holes = found.holes;
        partition.table_damage = found.table_damage;
        partition.carried_damage = found.carried_damage;
        partition.cursors_lost_ms = found.cursors_lost.map_or(0, |lost| lost.written_ms);
        partition.ready = true;
        if found.rows.is_empty() {
            return;
        }
        let mut retained = Box::new(Retained::new(self.hasher.clone()));
        for row in found.rows {
            let is_kept = !is_in_extents(&partition.extents, row.segment, row.offset);
            retained.insert(
                row.offset,
                Row {
                    topic: (&*row.topic).into(),
                    key: row.key,
                    time_ms: row.time_ms,
                    place: Some(RowPlace {
                        segment: row.segment,
                        at: row.at,
                        index: row.index,
                    }),
                    is_removal: row.is_removal,
                    is_damaged: false,
                    unreadable_since_ms: 0,
                    // A removal that is to come has to outlive what other cores may still need.
                    outlives_segment: row.is_outlived || !own.contains(&row.segment),
                },
            );
            if is_kept {
                kept.entry(row.segment).or_default().push((number, row.offset));
            }
        }
        self.rows += retained.len();
        partition.retained = Some(retained);
    }

    fn recover_segment(&mut self, found: RecoveredSegment, event_bytes: u64, kept: Vec<(u16, u64)>) {
        let is_keeper = found.keeper(self.cores) == self.core;
        let mut partitions = found.partitions;
        partitions.retain(|number| number % self.cores == self.core);
        self.segments.push(
            found.id,
            Segment {
                bytes: found.bytes,
                event_bytes,
                footer_at: found.footer_at,
                is_footer_damaged: false,
                newest_ms: found.newest_ms,
                partitions,
                kept,
                again_until: 0,
                is_synced: true,
                is_damaged: found.is_damaged,
                cores: found.cores,
                is_keeper,
                claim: found.claim,
            },
        );
    }

    /// What a partition of this core holds.
    #[must_use]
    pub fn bounds(&self, partition: u16) -> Bounds {
        match self.partition(partition) {
            Some(partition) => partition.bounds(),
            None => Bounds {
                first: 1,
                committed: 0,
            },
        }
    }
}

/// The rows that were carried on to each segment: partition and offset.
type KeptRows = HashMap<SegmentId, Vec<(u16, u64)>, FixedState>;

/// Whether it is this segment that holds an offset, as an event that was appended to it.
fn is_in_extents(extents: &VecDeque<HeldExtent>, segment: SegmentId, offset: u64) -> bool {
    let at = extents.partition_point(|held| held.extent.last < offset);
    extents
        .get(at)
        .is_some_and(|held| held.segment == segment && held.extent.first <= offset)
}
