//! From segments to partitions: each core's, or all.

use std::collections::BTreeMap;

use super::joining::Joining;
use super::meta::Meta;
use super::recovered::{CarriedDamage, CursorsLost, Hole, HoleCause, OnceId, RecoveredPartition};
use super::rows::RowTable;
use super::segment::SegmentFacts;
use crate::log::{
    disk::SegmentId,
    format::{BatchHead, Kind},
    owner_of,
};

/// What of a table is lost: a range of offsets, and rows that were carried on.
type TableDamage = (Option<(u64, u64)>, Vec<CarriedDamage>);

/// Puts together the partitions that are `wanted` from what all segments hold that may hold any of them; what belongs to them
/// is taken out. `before` is what `meta` said when the segments were read.
pub(in crate::log) fn partitions_of(
    facts: &mut [SegmentFacts],
    before: &Meta,
    wanted: impl Fn(u16) -> bool,
) -> Vec<RecoveredPartition> {
    // As they were written: starts one after the other, and in each its streams, of which only one holds a partition. One that
    // says nothing of its start stands behind the one before it in its stream.
    facts.sort_unstable_by_key(|facts| facts.id);
    let mut epochs: BTreeMap<SegmentId, u64> = BTreeMap::new();
    let mut newest = (0, 0);
    for facts in facts.iter() {
        let before = if newest.0 == facts.id.core { newest.1 } else { 0 };
        newest = (facts.id.core, facts.epoch.max(before));
        epochs.insert(facts.id, if facts.epoch > 0 { facts.epoch } else { before });
    }
    facts.sort_by_key(|facts| (epochs.get(&facts.id).copied(), facts.id.number));
    let mut joinings: BTreeMap<u16, Joining> = (0..before.partitions)
        .filter(|partition| wanted(*partition))
        .map(|partition| (partition, Joining::default()))
        .collect();
    let mut rows = RowTable::default();
    for facts in facts.iter_mut() {
        take(facts, before, &mut joinings);
        rows.append(facts.rows.extract(&wanted));
    }
    let lost = cursors_lost(facts, before, &wanted);
    // Few, if any: not to be looked for in all segments for each partition.
    let damaged: Vec<(SegmentId, BatchHead)> = facts
        .iter()
        .flat_map(|facts| facts.damage.iter().map(move |bad| (facts.id, bad.head)))
        .filter_map(|(id, head)| head.map(|head| (id, head)))
        .collect();
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
        let mut found = joining.finish(partition, is_clean, lost_bytes);
        (found.table_damage, found.carried_damage) = table_damage(partition, &found.holes, &damaged);
        found.cursors_lost = lost.get(&partition).copied();
        partitions.push(found);
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

/// Takes the ids of qos 2 of the partitions that are `wanted` out of what segments hold, which stand as they were written.
pub(super) fn once_of(facts: &mut [SegmentFacts], wanted: impl Fn(u16) -> bool) -> Vec<OnceId> {
    let is_wanted = |id: &mut OnceId| wanted(id.partition);
    let mut once = Vec::new();
    for facts in facts {
        once.extend(facts.once.extract_if(.., is_wanted));
        if facts.once.is_empty() {
            // There may be millions: not to be in memory twice.
            facts.once = Vec::new();
        }
    }
    // They are in order but for those of several streams, or of a clock that was set back.
    once.sort_by_key(|id| id.time_ms);
    once
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
fn take(facts: &mut SegmentFacts, before: &Meta, joinings: &mut BTreeMap<u16, Joining>) {
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
    // What a recovery has seen of it before, `meta` knows.
    if is_news(facts, before) {
        for (partition, joining) in joinings.iter_mut() {
            if facts.may_end_unknown(*partition) {
                joining.lose_end();
            }
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
}

/// The first and the last of the offsets that are damaged and not known to have been none of a table; and of the batches of
/// rows that were carried on and are damaged the first offset, and where they were.
fn table_damage(partition: u16, holes: &[Hole], damaged: &[(SegmentId, BatchHead)]) -> TableDamage {
    let heads = || {
        let of_partition = move |(_, head): &&(SegmentId, BatchHead)| head.partition == partition;
        damaged.iter().filter(of_partition)
    };
    let plain = heads().filter(|(_, head)| head.kind == Kind::Events && !head.class.retain);
    let mut plain: Vec<(u64, u64)> = plain.map(|(_, head)| (head.first, head.last())).collect();
    plain.sort_unstable();
    let mut lost: Vec<(u64, u64)> = Vec::new();
    for hole in holes.iter().filter(|hole| hole.cause == HoleCause::Damaged) {
        let mut next = hole.first;
        for &(first, last) in plain.iter().filter(|(_, last)| *last >= hole.first) {
            if first > hole.last {
                break;
            }
            if next < first {
                lost.push((next, first - 1));
            }
            next = next.max(last.saturating_add(1));
        }
        if next <= hole.last {
            lost.push((next, hole.last));
        }
    }
    // Which rows such a batch held, nobody knows but for the first.
    let carried = heads().filter(|(_, head)| head.kind == Kind::Kept);
    let carried = carried.map(|(id, head)| CarriedDamage {
        offset: head.first,
        segment: *id,
        claim: None,
    });
    let carried = carried.collect();
    let lost = lost
        .into_iter()
        .reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    (lost, carried)
}

/// The partitions of which records of cursors are lost: those that are found now, and what was found before in segments that are
/// gone.
fn cursors_lost(
    facts: &[SegmentFacts],
    before: &Meta,
    wanted: impl Fn(u16) -> bool,
) -> BTreeMap<u16, CursorsLost> {
    let mut lost: BTreeMap<u16, CursorsLost> = BTreeMap::new();
    let mut add = |partition: u16, found: CursorsLost| {
        let known = lost.entry(partition).or_insert(found);
        if known.written_ms < found.written_ms {
            *known = found;
        }
    };
    for (partition, found) in &before.cursors_lost {
        if wanted(*partition) {
            add(*partition, *found);
        }
    }
    for (at, held) in facts.iter().enumerate() {
        if held.lost_cursors.is_empty() {
            continue;
        }
        // Nothing was written to it once the next of its stream was begun.
        let mut later = facts[at + 1..].iter();
        let next = later.find(|next| next.id.core == held.id.core && next.head.is_some());
        let end_ms = next.map_or(u64::MAX, |next| next.created_ms);
        for partition in (0..before.partitions).filter(|partition| wanted(*partition)) {
            if let Some(written_ms) = held.cursors_lost_ms(partition) {
                add(
                    partition,
                    CursorsLost {
                        written_ms: written_ms.min(end_ms),
                        segment: held.id,
                    },
                );
            }
        }
    }
    lost
}

/// Whether no recovery has looked at a segment before, as far as that is known.
fn is_news(facts: &SegmentFacts, before: &Meta) -> bool {
    match facts.epoch {
        0 => !before.unsealed.contains_key(&facts.id),
        epoch => !before.has_recovered(epoch),
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
    // One that says nothing may have been the last.
    let is_unknown = |facts: &SegmentFacts| {
        facts.id.core == core && facts.epoch == 0 && !facts.damage.is_empty() && is_news(facts, before)
    };
    let is_clean = match of_stream().next_back() {
        _ if facts.iter().any(is_unknown) => false,
        Some(newest) => newest.is_sealed && newest.is_last,
        None => before.is_clean,
    };
    let news = facts.iter().filter(|facts| is_news(facts, before));
    let lost = news.map(|facts| facts.unknown_bytes);
    (is_clean, lost.sum())
}
