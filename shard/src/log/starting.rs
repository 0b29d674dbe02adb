//! How a log begins: with what recovery found.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Log;
use super::cursors::Cursors;
use super::disk::SegmentId;
use super::events::Bounds;
use super::once::Once;
use super::partition::Partition;
use super::recovery::{HeldExtent, Recovered, RecoveredPartition, RecoveredSegment};
use super::retained::{Retained, Row, RowPlace};
use super::segments::{Segment, Segments};

/// A core's share of what recovery found, as its log holds it. Put together by whoever reads the log, since with millions of ids and
/// rows that takes seconds: the core only takes it over.
#[derive(Debug)]
pub struct RecoveredLog {
    core: u16,
    cores: u16,
    epoch: u64,
    secret: u64,
    partition_count: u16,
    next_number: u64,
    /// By `partition / cores`.
    partitions: Vec<Partition>,
    once: Once,
    cursors: Cursors,
    rows: usize,
    segments: Segments,
    hasher: FixedState,
}

impl RecoveredLog {
    /// Puts it together. `hash_seed` is to be unknown outside: publishers choose ids, keys and topics.
    #[must_use]
    pub fn new(share: Recovered, hash_seed: u64) -> Self {
        let hasher = FixedState::with_seed(hash_seed);
        let ours = (share.core..share.partition_count).step_by(usize::from(share.cores));
        let mut log = Self {
            core: share.core,
            cores: share.cores,
            epoch: share.epoch,
            secret: share.secret,
            partition_count: share.partition_count,
            next_number: share.next_number.max(1),
            partitions: std::iter::repeat_with(Partition::default)
                .take(ours.count())
                .collect(),
            once: Once::new(hasher.clone()),
            cursors: Cursors::new(hasher.clone()),
            rows: 0,
            segments: Segments::new(hasher.clone()),
            hasher,
        };
        let own = share.segments.iter().filter(|found| found.cores == log.cores);
        let own: BTreeSet<SegmentId> = own.map(|found| found.id).collect();
        let mut event_bytes: HashMap<SegmentId, u64, FixedState> = HashMap::with_hasher(log.hasher.clone());
        let mut kept: KeptRows = HashMap::with_hasher(log.hasher.clone());
        for found in share.partitions {
            for held in &found.extents {
                *event_bytes.entry(held.segment).or_default() += held.extent.bytes;
            }
            log.add_partition(found, &own, &mut kept);
        }
        log.once.recover(share.once);
        for segment in share.segments {
            let event_bytes = event_bytes.get(&segment.id).copied();
            let kept = kept.remove(&segment.id);
            log.add_segment(segment, event_bytes.unwrap_or(0), kept.unwrap_or_default());
        }
        log
    }

    /// Whose it is.
    #[must_use]
    pub fn core(&self) -> u16 {
        self.core
    }

    fn add_partition(&mut self, found: RecoveredPartition, own: &BTreeSet<SegmentId>, kept: &mut KeptRows) {
        let number = found.partition;
        for cursor in found.cursors {
            self.cursors.recover(number, cursor.entry, cursor.segment);
        }
        let partition = &mut self.partitions[usize::from(number / self.cores)];
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

    fn add_segment(&mut self, found: RecoveredSegment, event_bytes: u64, kept: Vec<(u16, u64)>) {
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
}

impl Log {
    /// Takes this core's share of what recovery found. The partitions in it are ready from now on; nothing could be done with any
    /// before.
    pub fn handle_recovered(&mut self, found: RecoveredLog) {
        debug_assert_eq!(
            (found.core, found.cores),
            (self.core, self.cores),
            "another core's share"
        );
        self.epoch = found.epoch;
        self.secret = found.secret;
        self.partition_count = found.partition_count;
        self.partitions = found.partitions;
        self.once = found.once;
        self.cursors = found.cursors;
        self.rows = found.rows;
        self.segments = found.segments;
        self.stream.next_number = found.next_number;
        self.stream.first_number = found.next_number;
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
