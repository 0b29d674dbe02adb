//! The life of a segment around its writes: made ahead of need, begun, sealed with a footer when it is full, given up when the
//! disk fails it.

use super::Log;
use super::disk::{DiskFault, DiskOp, SegmentId};
use super::footer::{Footer, FooterRow};
use super::format::{BatchWriter, SEGMENT_HEAD_BYTES, SegmentHead, row_of, salt_of};
use super::recovery::Claim;
use super::retained::RowPlace;
use super::segments::Segment;
use super::stream::{Ahead, CarriedBatch, Current, Group, RETRY_MS, Trouble};

impl Log {
    /// Has a segment to write to, and the next one ahead of need.
    pub(super) fn prepare_segment(&mut self) {
        let now_ms = self.now_ms();
        if self.stream.current.is_none()
            && let Ahead::Ready(id) = self.stream.ahead
            && (!self.stopping || self.has_waiting())
        {
            self.stream.ahead = Ahead::None { not_before_ms: 0 };
            self.stream.current = Some(Current {
                head: SegmentHead {
                    id,
                    cores: self.cores,
                    partitions: self.partition_count(),
                    epoch: self.epoch,
                    created_ms: self.unix_ms,
                    salt: salt_of(self.secret, id),
                },
                at: 0,
                written: 0,
                synced: 0,
                is_full: false,
                is_old: false,
                failed: None,
                newest_ms: 0,
                bases: Vec::new(),
                cursors_at: Vec::new(),
                event_bytes: 0,
                footer_at: None,
                kept: Vec::new(),
            });
        }
        match self.stream.ahead {
            Ahead::None { not_before_ms } if now_ms >= not_before_ms => {
                let bytes = self.segment_bytes();
                let current = self.stream.current.as_ref();
                let is_needed = match current {
                    Some(current) => (current.is_old || current.at > bytes / 2) && !self.stopping,
                    None => !self.stopping || self.has_waiting(),
                };
                if is_needed {
                    let segment = SegmentId {
                        core: self.core,
                        number: self.stream.next_number,
                    };
                    self.stream.next_number += 1;
                    self.stream.ahead = Ahead::Creating(segment);
                    self.ops.push_back(DiskOp::Create { segment, bytes });
                }
            }
            // Not before all is safe: a write that fails is done again there.
            Ahead::Ready(segment)
                if self.stopping && self.stream.current.is_none() && !self.has_waiting() =>
            {
                // Made and not needed.
                self.stream.ahead = Ahead::None { not_before_ms: 0 };
                self.opened.close(segment, &mut self.ops);
                self.ops.push_back(DiskOp::Remove { segment });
            }
            _ => {}
        }
    }

    pub(super) fn handle_created(&mut self, segment: SegmentId, result: Result<(), DiskFault>) {
        match result {
            Ok(()) => {
                self.opened.created(segment);
                self.news.created();
                self.stream.is_short = false;
                self.stream.ahead = Ahead::Ready(segment);
            }
            Err(fault) => {
                let retry_ms = self.now_ms() + RETRY_MS;
                self.stream.ahead = Ahead::None {
                    not_before_ms: retry_ms,
                };
                self.stream.failures += 1;
                self.news.not_created(&fault);
                self.stream.is_short = fault == DiskFault::Full;
                if self.stream.current.is_none() {
                    self.stream.trouble = Some(Trouble { fault, retry_ms });
                }
            }
        }
    }

    /// Hands the footer of a full segment to the disk.
    pub(super) fn begin_footer(&mut self) {
        // Its batches are listed once they are safe.
        if !self.stream.is_quiet() {
            return;
        }
        let Some(current) = &self.stream.current else {
            return;
        };
        if current.at == 0 {
            // Nothing was written to it.
            let segment = current.head.id;
            self.stream.current = None;
            self.opened.unpin(segment);
            self.opened.close(segment, &mut self.ops);
            self.ops.push_back(DiskOp::Remove { segment });
            return;
        }
        let id = current.head.id;
        let mut rows = current.kept.clone();
        let mut extents = Vec::new();
        for (number, partition) in self.numbered().filter(|(_, partition)| partition.ready) {
            let held = partition.extents.back().filter(|held| held.segment == id);
            let Some(held) = held else { continue };
            if let Some(retained) = &partition.retained {
                for (offset, row) in retained.range(held.extent.first..=held.extent.last) {
                    if let Some(place) = row.place.filter(|place| place.segment == id) {
                        rows.push(FooterRow {
                            partition: number,
                            offset,
                            time_ms: row.time_ms,
                            at: place.at,
                            index: place.index,
                            is_removal: row.is_removal,
                            topic: (&*row.topic).into(),
                            key: row.key.clone(),
                        });
                    }
                }
            }
            extents.push(held.extent.clone());
        }
        let footer = Footer {
            is_last: self.stopping && !self.has_waiting(),
            bases: current.bases.clone(),
            extents,
            rows: Some(rows),
            cursors_at: Some(current.cursors_at.clone()),
            removed: self.removed_ranges(),
        };
        let mut writer = BatchWriter::new(&current.head, current.at, current.synced, self.unix_ms);
        writer.footer(&footer);
        let group = Group {
            until: self.order.issued(),
            end: writer.at(),
            is_awaited: true,
            is_footer: true,
            since_ms: self.now_ms(),
            ..Group::default()
        };
        let at = current.at;
        if let Some(current) = &mut self.stream.current {
            current.footer_at = Some(at);
            current.at = group.end;
        }
        self.stream.write = Some(group);
        self.stream.writes += 1;
        self.ops.push_back(DiskOp::Write {
            segment: id,
            at,
            slices: writer.finish(),
        });
    }

    /// The current segment is written no more. What it holds is written again up to here in the stream's order, if the disk
    /// failed it.
    pub(super) fn finish_segment(&mut self, again_until: u64) {
        let Some(current) = self.stream.current.take() else {
            return;
        };
        self.look_soon();
        self.stream.ends_open = current.footer_at.is_none();
        let segment = current.head.id;
        let bytes = current.written;
        self.opened.unpin(segment);
        self.ops.push_back(DiskOp::Truncate { segment, bytes });
        let mut partitions: Vec<u16> = self
            .numbered()
            .filter(|(_, partition)| {
                partition
                    .extents
                    .back()
                    .is_some_and(|held| held.segment == segment)
            })
            .map(|(number, _)| number)
            .collect();
        partitions.extend(current.kept.iter().map(|row| row.partition));
        partitions.sort_unstable();
        partitions.dedup();
        if current.footer_at.is_some() {
            self.index_sealed(segment, &partitions);
        }
        self.segments.push(
            segment,
            Segment {
                bytes,
                event_bytes: current.event_bytes,
                footer_at: current.footer_at,
                is_footer_damaged: false,
                newest_ms: if current.newest_ms > 0 {
                    current.newest_ms
                } else {
                    current.head.created_ms
                },
                partitions,
                kept: current
                    .kept
                    .iter()
                    .map(|row| (row.partition, row.offset))
                    .collect(),
                again_until,
                is_synced: current.synced > 0,
                is_damaged: false,
                cores: self.cores,
                is_keeper: true,
                claim: Claim::of(1),
            },
        );
    }

    /// Gives the current segment up: what is not safe waits to be written again, to the next one.
    pub(super) fn abandon(&mut self) {
        let Some(current) = &mut self.stream.current else {
            return;
        };
        let fault = current.failed.take().unwrap_or(DiskFault::Full);
        // Whatever became of it.
        current.footer_at = None;
        let retry_ms = self.now_us / 1000 + RETRY_MS;
        self.stream.failures += 1;
        let again_until = self.order.issued();
        self.news.not_written(&fault);
        self.order.write_again();
        for group in self.stream.written.drain(..).rev() {
            for issued in group.cursors {
                self.cursors.lost(issued, self.now_us / 1000);
            }
            for batch in group.kept.into_iter().rev() {
                self.stream.carried.push_front(batch);
            }
            self.stream.removed.extend(group.removed);
            self.stream.wants_sync |= group.is_awaited;
        }
        self.stream.removals.issued = self.stream.removals.safe;
        self.stream.wants_write = true;
        self.stream.trouble = Some(Trouble { fault, retry_ms });
        if current.written > SEGMENT_HEAD_BYTES as u64 {
            self.finish_segment(again_until);
        } else {
            let segment = current.head.id;
            self.stream.current = None;
            self.opened.unpin(segment);
            self.opened.close(segment, &mut self.ops);
            self.ops.push_back(DiskOp::Remove { segment });
        }
    }

    /// Carried rows are safe at their new place.
    pub(super) fn place_carried(
        &mut self,
        segment: SegmentId,
        batch: &CarriedBatch,
        listed: &mut Vec<FooterRow>,
    ) {
        let Some(at) = self.index(batch.partition) else {
            return;
        };
        let Some(retained) = &mut self.partitions[at].retained else {
            return;
        };
        for (index, kept) in batch.rows.iter().enumerate() {
            let Some(row) = row_of(&kept.event) else { continue };
            let index = index as u32;
            if let Some(held) = retained.get_mut(kept.offset) {
                held.place = Some(RowPlace {
                    segment,
                    at: batch.at,
                    index,
                });
            } else if let Some(newer) = retained.find(row.topic, row.key)
                && let Some(newer) = retained.get_mut(newer)
            {
                // What replaces or removes it may stand in a segment that goes before this one.
                newer.outlives_segment = true;
            }
            listed.push(FooterRow {
                partition: batch.partition,
                offset: kept.offset,
                time_ms: kept.time_ms,
                at: batch.at,
                index,
                is_removal: row.is_removal,
                topic: row.topic.into(),
                key: row.key.into(),
            });
        }
    }
}
