//! Whole lives of a log against a model: starts with changing numbers of cores, stops in good order, crashes in the middle
//! of a write, failed writes that are written again, bits that flip. Whatever happens: what was synced is held or named as
//! damaged, nothing that was not written is ever held, and no offset is given twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::log::format::BatchHead;

const PARTITIONS: u16 = 5;

/// A plain source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

type Place = (u16, u64);

/// What is known of the log from outside.
#[derive(Default)]
struct Model {
    /// Synced, or held after a crash: promised.
    promised: BTreeSet<Place>,
    /// The largest offset that was given away, and whether the promise of it was kept.
    given: BTreeMap<u16, u64>,
    /// In batches that were altered.
    altered: BTreeSet<Place>,
}

struct Life {
    log: Written,
    model: Model,
    choices: Choices,
    /// Of each partition: the next offset, and the last one whose copy counts.
    next: BTreeMap<u16, u64>,
    synced: BTreeMap<u16, u64>,
    /// Where events were written, for those that may be altered later.
    written: Vec<(SegmentId, u64, BatchHead)>,
}

impl Life {
    /// A start: recovers, and holds what it finds against the model.
    fn start(&mut self, cores: u16) -> Result<(), TestCaseError> {
        let shares = recover(&mut self.log.files, cores);
        self.log.started();
        let mut held_in_all = BTreeSet::new();
        for found in shares.iter().flat_map(|share| &share.partitions) {
            let number = found.partition;
            let held = read_held(&self.log.files, found);
            for (place, event) in &held {
                prop_assert_eq!(Some(event), self.log.events.get(place), "{:?} was altered", place);
            }
            let given = self.model.given.get(&number).copied().unwrap_or(0);
            prop_assert!(
                found.next > given,
                "{} of partition {} is given twice",
                found.next,
                number
            );
            let of_partition = self.model.promised.range((number, 0)..=(number, u64::MAX));
            let in_hole = |offset: u64| {
                let mut holes = found.holes.iter();
                holes.any(|hole| (hole.first..=hole.last).contains(&offset))
            };
            for place in of_partition {
                let is_altered = self.model.altered.contains(place);
                prop_assert!(is_altered || held.contains_key(place), "{:?} is lost", place);
                prop_assert!(is_altered || !in_hole(place.1), "{:?} is called damaged", place);
            }
            for hole in &found.holes {
                prop_assert_eq!(hole.cause, HoleCause::Damaged);
                for offset in hole.first..=hole.last {
                    let place = (number, offset);
                    prop_assert!(
                        self.model.altered.contains(&place),
                        "{:?} is called damaged",
                        place
                    );
                }
            }
            held_in_all.extend(held.into_keys());
            self.next.insert(number, found.next);
            self.synced.insert(number, found.last);
        }
        // What is served now is promised from now on.
        self.model.promised.extend(held_in_all);
        Ok(())
    }

    fn begin_segment(&mut self, core: u16, cores: u16) {
        let bases: Vec<Base> = (0..PARTITIONS)
            .filter(|partition| owner_of(*partition, cores) == core)
            .map(|partition| base(partition, self.synced[&partition], self.next[&partition]))
            .collect();
        let room = if self.choices.one_in(2) { 1 << 15 } else { 0 };
        self.log.core(core);
        self.log.segment(&bases, room);
    }

    /// Runs of one write: consecutive events of some partitions of this core.
    fn runs(&mut self, core: u16, cores: u16) -> Vec<(u16, u64, crate::log::Events)> {
        let mut runs = Vec::new();
        for partition in (0..PARTITIONS).filter(|partition| owner_of(*partition, cores) == core) {
            if self.choices.one_in(2) {
                let count = 1 + self.choices.below(4);
                let first = self.next[&partition];
                self.next.insert(partition, first + count);
                self.model.given.insert(partition, first + count - 1);
                runs.push((partition, first, events(&format!("p.{partition}"), first, count)));
            }
        }
        runs
    }

    fn write(&mut self, runs: &[(u16, u64, crate::log::Events)], is_synced: bool) {
        let before = self.log.batches.len();
        let batches = |writer: &mut crate::log::format::BatchWriter| {
            let runs = runs.iter();
            runs.map(|(partition, first, run)| {
                writer.events(*partition, Class::default(), *first, NOW_MS, [run])
            })
            .collect()
        };
        if is_synced {
            self.log.write(batches);
        } else {
            self.log.write_unsynced(batches);
        }
        for (at, head) in self.log.batches[before..].iter().copied() {
            self.written.push((self.log.id(), at, head));
            if is_synced {
                for offset in head.first..=head.last() {
                    self.model.promised.insert((head.partition, offset));
                    // Written once more, whole.
                    self.model.altered.remove(&(head.partition, offset));
                }
                self.synced.insert(head.partition, head.last());
            }
        }
    }

    /// One core's part of a start. Returns whether it was stopped in good order.
    fn live(&mut self, core: u16, cores: u16, is_crash: bool) {
        self.begin_segment(core, cores);
        for _ in 0..self.choices.below(6) {
            let runs = self.runs(core, cores);
            if self.choices.one_in(6) {
                // It fails: some of it may be there. The segment is left, and all of it written again to the next one.
                let begun = self.log.at();
                self.write(&runs, false);
                self.tear(begun);
                self.begin_segment_again(core, cores, &runs);
            }
            self.write(&runs, true);
            if self.choices.one_in(5) {
                self.log.seal(false);
                self.begin_segment(core, cores);
            }
        }
        if is_crash {
            let runs = self.runs(core, cores);
            let begun = self.log.at();
            self.write(&runs, false);
            self.tear(begun);
        } else {
            self.log.seal(true);
        }
    }

    /// A segment behind one that failed: what is not synced begins at the runs that are written again.
    fn begin_segment_again(&mut self, core: u16, cores: u16, runs: &[(u16, u64, crate::log::Events)]) {
        let given = self.next.clone();
        for (partition, first, _) in runs {
            self.next.insert(*partition, *first);
        }
        self.begin_segment(core, cores);
        self.next = given;
    }

    /// Of the bytes behind `begun` the disk has some sectors, and a part of one.
    fn tear(&mut self, begun: u64) {
        let end = self.log.at();
        let mut at = begun;
        while at < end {
            let sector_end = (at / 512 + 1) * 512;
            let until = sector_end.min(end);
            if self.choices.one_in(3) {
                let from = at + self.choices.below(until - at);
                self.log.file()[from as usize..until as usize].fill(0);
            }
            at = until;
        }
    }

    /// A bit flips in a batch that was synced.
    fn flip(&mut self) {
        let index = self.choices.below(self.written.len() as u64) as usize;
        let (id, at, head) = self.written[index];
        let is_promised =
            (head.first..=head.last()).all(|offset| self.model.promised.contains(&(head.partition, offset)));
        let Some(file) = self.log.files.0.get_mut(&id.name()) else {
            return;
        };
        let bytes = BATCH_HEAD_BYTES as u64 + u64::from(head.body_bytes);
        if !is_promised || (file.len() as u64) < at + bytes {
            return;
        }
        let byte = at + self.choices.below(bytes);
        file[byte as usize] ^= 1 << self.choices.below(8);
        for offset in head.first..=head.last() {
            self.model.altered.insert((head.partition, offset));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_promised_is_lost_and_nothing_else_is_held(seed in any::<u64>()) {
        let mut life = Life {
            log: Written::new(PARTITIONS, 1),
            model: Model::default(),
            choices: Choices(seed),
            next: BTreeMap::new(),
            synced: BTreeMap::new(),
            written: Vec::new(),
        };
        for _ in 0..2 + life.choices.below(4) {
            let cores = 1 + life.choices.below(3) as u16;
            life.start(cores)?;
            let is_crash = life.choices.one_in(2);
            for core in 0..cores {
                life.live(core, cores, is_crash);
            }
            if !is_crash {
                Meta::mark_clean(&mut life.log.files).unwrap();
            }
            // The newest write of a crashed stream cannot be told from one that was torn: flips come later.
            life.start(cores)?;
            if !life.written.is_empty() {
                for _ in 0..life.choices.below(3) {
                    life.flip();
                }
            }
        }
        life.start(2)?;
    }
}
