//! From segments to partitions: each core's, or all.

use std::collections::BTreeMap;

use super::joining::Joining;
use super::meta::Meta;
use super::recovered::RecoveredPartition;
use super::rows::RowTable;
use super::segment::SegmentFacts;
use crate::log::owner_of;

/// Puts together the partitions that are `wanted` from what all segments hold that may hold any of them; what belongs to them
/// is taken out. `before` is what `meta` said when the segments were read.
pub(in crate::log) fn partitions_of(
    facts: &mut [SegmentFacts],
    before: &Meta,
    wanted: impl Fn(u16) -> bool,
) -> Vec<RecoveredPartition> {
    // As they were written: starts one after the other, and in each its streams, of which only one holds a partition.
    facts.sort_by_key(|facts| (facts.epoch, facts.id.number));
    let mut joinings: BTreeMap<u16, Joining> = (0..before.partitions)
        .filter(|partition| wanted(*partition))
        .map(|partition| (partition, Joining::default()))
        .collect();
    let mut rows = RowTable::default();
    for facts in facts.iter_mut() {
        take(facts, &mut joinings);
        rows.append(facts.rows.extract(&wanted));
    }
    let mut partitions = Vec::with_capacity(joinings.len());
    for (partition, mut joining) in joinings {
        if let Some(end) = before.partition_ends.get(&partition) {
            joining.take_end(*end);
        }
        for range in before.removed.get(&partition).into_iter().flatten() {
            joining.take_let_go(*range);
        }
        let stream = owner_of(partition, before.cores.max(1));
        let (is_clean, lost_bytes) = end_of_stream(facts, before, stream);
        partitions.push(joining.finish(partition, is_clean, lost_bytes));
    }
    for (partition, row) in rows.into_rows() {
        let found = partitions.binary_search_by_key(&partition, |found| found.partition);
        if let Ok(index) = found {
            partitions[index].rows.push(row);
        }
    }
    for partition in &mut partitions {
        partition.rows.sort_by_key(|row| row.offset);
    }
    partitions
}

/// Has each segment forget what retention removed of it: it is there because another core still needed something of it, or
/// because the gateway ended before it went.
pub(in crate::log) fn leave_removed(facts: &mut [SegmentFacts], before: &Meta) {
    let mut let_go: BTreeMap<u16, u64> = BTreeMap::new();
    let mut take = |partition: u16, first: u64, last: u64| {
        if first == 1 {
            let known = let_go.entry(partition).or_default();
            *known = last.max(*known);
        }
    };
    for (partition, ranges) in &before.removed {
        ranges
            .iter()
            .for_each(|(first, last)| take(*partition, *first, *last));
    }
    for range in facts.iter().flat_map(|facts| &facts.removed) {
        take(range.partition, range.first, range.last);
    }
    for facts in facts {
        facts.leave(|partition| let_go.get(&partition).copied().unwrap_or(0));
    }
}

/// Gives each partition its part of a segment.
fn take(facts: &mut SegmentFacts, joinings: &mut BTreeMap<u16, Joining>) {
    for base in &facts.bases {
        if let Some(joining) = joinings.get_mut(&base.partition) {
            joining.take_base(*base);
        }
    }
    for range in &facts.removed {
        if let Some(joining) = joinings.get_mut(&range.partition) {
            joining.take_let_go((range.first, range.last));
        }
    }
    for (partition, promised) in &facts.promised {
        if let Some(joining) = joinings.get_mut(partition) {
            joining.promise(*promised);
        }
    }
    for (partition, part) in std::mem::take(&mut facts.parts) {
        match joinings.get_mut(&partition) {
            Some(joining) => joining.take_part(facts.id, part),
            None => drop(facts.parts.insert(partition, part)),
        }
    }
    for (partition, cursor) in std::mem::take(&mut facts.cursors) {
        match joinings.get_mut(&partition) {
            Some(joining) => joining.take_cursor(cursor, facts.id),
            None => facts.cursors.push((partition, cursor)),
        }
    }
    for (partition, id) in std::mem::take(&mut facts.once) {
        match joinings.get_mut(&partition) {
            Some(joining) => joining.take_once(id),
            None => facts.once.push((partition, id)),
        }
    }
}

/// Whether the stream of a core of the last start was stopped in good order, and how many bytes are damaged so that nobody
/// knows what they held: of all that was written since a start looked at it, whatever its stream.
fn end_of_stream(facts: &[SegmentFacts], before: &Meta, core: u16) -> (bool, u64) {
    let epoch = before.epoch();
    let of_stream = || {
        facts
            .iter()
            .filter(move |facts| facts.id.core == core && facts.epoch == epoch)
    };
    let is_clean = match of_stream().next_back() {
        Some(newest) => newest.is_sealed && newest.is_last,
        None => before.is_clean,
    };
    let is_news = |facts: &&SegmentFacts| !before.has_recovered(facts.epoch);
    let lost = facts.iter().filter(is_news).map(|facts| facts.unknown_bytes);
    (is_clean, lost.sum())
}
