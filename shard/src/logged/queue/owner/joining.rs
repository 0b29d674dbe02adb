//! Members that join: the queue is found, or begun, and they are told once its place survives power loss.

use fluxar_protocol::target;

use super::{WorkQueues, entries_of};
use crate::log::{CursorState, LogRefusal, owner_of, partition_of};
use crate::logged::letters::Start;
use crate::logged::queue::QueueLetter;
use crate::logged::queue::dealing::Queue;
use crate::logged::queue::ledger::Ledger;
use crate::logged::queue::letters::{Failure, Join, Matter, MemberName};
use crate::logged::queue::lot::Lot;
use crate::logged::queue::source::Source;
use crate::logged::start::position_of;

impl WorkQueues {
    /// Somebody joins a queue, which may begin with it.
    pub(super) fn join(&mut self, member: MemberName, join: &Join, log: &mut impl Source) {
        let matter = match self.open(join, log) {
            Ok(key) => {
                let queue = &mut self.queues[key as usize];
                if queue.members.is_empty() {
                    let pattern = self.patterns.entry(&queue.name.pattern);
                    self.patterns[pattern].push(key);
                    queue.pattern = pattern;
                    queue.touched_us = self.now_us;
                    self.active += 1;
                    self.resting_entries -= entries_of(queue);
                    for lot in &mut queue.lots {
                        lot.is_quiet = false; // nobody listened
                    }
                }
                let seat = queue.members.add(member, join.in_flight, join.allowance);
                self.by_member.insert(member, (key, seat));
                if !queue.untold.is_empty() || !queue.is_safe(log) {
                    queue.untold.insert(seat);
                    self.waiting.insert(key);
                    log.hurry_cursors();
                    return;
                }
                let joined = joined(queue);
                self.stir(key);
                joined
            }
            Err(failure) => Matter::NotJoined(Box::new(failure)),
        };
        self.letters.push_back(QueueLetter { member, matter });
    }

    /// Something may have been made safe: whoever waited for that has joined. Whether there was anybody.
    pub(crate) fn begin_safe(&mut self, log: &mut impl Source) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        log.hurry_cursors();
        if std::mem::replace(&mut self.cursors_synced, log.cursors_synced()) == log.cursors_synced() {
            return false;
        }
        let waiting = self.waiting.iter().copied();
        let safe: Vec<u32> = waiting
            .filter(|key| self.queues[*key as usize].is_safe(log))
            .collect();
        for &key in &safe {
            self.waiting.remove(&key);
            let queue = &mut self.queues[key as usize];
            for seat in std::mem::take(&mut queue.untold) {
                let member = queue.members.get(seat).name;
                let matter = joined(queue);
                self.letters.push_back(QueueLetter { member, matter });
            }
            self.stir(key);
        }
        !safe.is_empty()
    }

    /// Finds the queue, or begins it where its cursor says, or else where its first member asks.
    fn open(&mut self, join: &Join, log: &mut impl Source) -> Result<u32, Failure> {
        let Some(settings) = &self.settings else {
            return Err(Failure::refused(&LogRefusal::NoLog));
        };
        let covered = covered(&join.queue.pattern, self.core, self.cores, settings.partitions);
        if !covered.iter().all(|partition| log.is_ready(*partition)) {
            return Err(Failure::refused(&LogRefusal::Recovering));
        }
        let known = self.by_name.get(&join.queue).copied();
        if let Some(key) = known
            && !self.queues[key as usize].members.is_empty()
        {
            return Ok(key);
        }
        let mut begun = Vec::with_capacity(covered.len());
        for (nth, &partition) in covered.iter().enumerate() {
            let lot = known.map(|key| &self.queues[key as usize].lots[nth]);
            let cursor = log.cursor(partition, &join.queue);
            let is_made = cursor.is_none();
            let (ledger, start) = match (lot, cursor) {
                // One that cannot go on does so where somebody says, if that is behind what cannot be read.
                (
                    Some(Lot {
                        broken: Some(broken), ..
                    }),
                    Some(_),
                ) if join.start == Start::Default
                    || position_of(&join.start, partition, log)? < broken.last() =>
                {
                    return Err(Failure::broken(log.epoch(), partition, *broken));
                }
                (
                    Some(Lot {
                        broken: None, ledger, ..
                    }),
                    Some(_),
                ) => {
                    let (acked, beyond) = ledger.cursor();
                    begun.push((None, CursorState { acked, beyond }));
                    continue;
                }
                // It goes on behind what cannot be read; what was given before that, and is not done, is its own still.
                (
                    Some(Lot {
                        broken: Some(broken),
                        ledger,
                        ..
                    }),
                    Some(_),
                ) => {
                    let mut ledger = ledger.clone();
                    ledger.leave_out(broken.first(), broken.last());
                    ledger.pass(position_of(&join.start, partition, log)?.max(ledger.read()));
                    (ledger, &join.start)
                }
                // Where it has a place, what a member asks for does not count.
                (None, Some(cursor)) => {
                    let committed = log.bounds(partition).committed;
                    let ledger = Ledger::resume(cursor.acked, &cursor.beyond, committed);
                    (ledger, &Start::Default)
                }
                (_, None) if join.start == Start::Default && log.may_have_lost_cursors(partition) => {
                    let first = log.bounds(partition).first;
                    return Err(Failure::cursors_lost(log.epoch(), partition, first));
                }
                (_, None) => {
                    let ledger = Ledger::begin(position_of(&join.start, partition, log)?);
                    (ledger, &join.start)
                }
            };
            let (acked, beyond) = ledger.cursor();
            let mut lot = Lot::new(partition, ledger, start);
            lot.is_made = is_made;
            begun.push((Some(lot), CursorState { acked, beyond }));
        }
        let mut before = Vec::with_capacity(covered.len());
        for (&partition, (_, cursor)) in covered.iter().zip(&mut begun) {
            let old = log.cursor(partition, &join.queue).cloned();
            // An unchanged one is said to be in use.
            if let Err(refusal) = log.set_cursor(partition, &join.queue, std::mem::take(cursor)) {
                for (partition, old) in before {
                    log.put_back_cursor(partition, &join.queue, old);
                }
                return Err(Failure::refused(&refusal));
            }
            before.push((partition, old));
        }
        let Some(key) = known else {
            self.serial += 1;
            let lots = begun.into_iter().filter_map(|(lot, _)| lot).collect();
            let queue = Queue::new(join.queue.clone(), self.serial, lots);
            let key = self.queues.insert(queue) as u32;
            self.by_name.insert(join.queue.clone(), key);
            return Ok(key);
        };
        let queue = &mut self.queues[key as usize];
        self.resting_entries -= entries_of(queue);
        for (lot, (anew, _)) in queue.lots.iter_mut().zip(begun) {
            if let Some(mut anew) = anew {
                anew.alarm_us = lot.alarm_us;
                *lot = anew;
            }
        }
        self.resting_entries += entries_of(queue);
        Ok(key)
    }
}

/// The partitions of a core that a pattern's topics may lie in, ascending.
fn covered(pattern: &str, core: u16, cores: u16, partitions: u16) -> Vec<u16> {
    if target::is_wild(pattern) {
        return (core..partitions).step_by(usize::from(cores)).collect();
    }
    let partition = partition_of(pattern, partitions);
    if owner_of(partition, cores) == core {
        vec![partition]
    } else {
        Vec::new()
    }
}

fn joined(queue: &Queue) -> Matter {
    let at = queue.lots.iter().map(|lot| (lot.partition, lot.ledger.floor()));
    Matter::Joined(at.collect())
}
