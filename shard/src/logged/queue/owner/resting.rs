//! Members that go, one by one or all at once, and queues without any: they rest, and of too many the oldest is forgotten.

use slab::Slab;

use super::{WorkQueues, entries_of, keep_cursor};
use crate::limits::{QUEUE_RESTING_ENTRIES_MAX, QUEUES_RESTING_MAX};
use crate::log::CursorName;
use crate::logged::queue::QueueLetter;
use crate::logged::queue::dealing::Queue;
use crate::logged::queue::ledger::MemberKey;
use crate::logged::queue::letters::{Failure, Matter};
use crate::logged::queue::lot::Broken;
use crate::logged::queue::source::Source;

impl WorkQueues {
    /// A member is gone. `is_void`: before all owners had let it join.
    pub(super) fn leave(&mut self, key: u32, member: MemberKey, is_void: bool, log: &mut impl Source) {
        let queue = &mut self.queues[key as usize];
        self.by_member.remove(&queue.members.get(member).name);
        queue.untold.remove(&member);
        if queue.untold.is_empty() {
            self.waiting.remove(&key);
        }
        queue.lose(member);
        queue.members.remove(member);
        if !is_void {
            // Its place was told to somebody, and holds from now on.
            queue.lots.iter_mut().for_each(|lot| lot.is_made = false);
        }
        if queue.members.is_empty() {
            let made = queue.lots.iter().filter(|lot| lot.is_made);
            let made: Vec<_> = made.map(|lot| lot.partition).collect();
            let name = queue.name.clone();
            self.rest(key, log);
            if !made.is_empty() {
                self.unmake(key, &name, &made, log);
            }
        } else {
            self.stir(key);
        }
    }

    /// A queue without members began, in some of its partitions, for members that were refused elsewhere, or left before they
    /// had joined: it has not begun there.
    fn unmake(&mut self, key: u32, name: &CursorName, made: &[u16], log: &mut impl Source) {
        for &partition in made {
            log.put_back_cursor(partition, name, None);
        }
        // Where it had a place before, it goes on from its cursor.
        if let Some(rested) = self.queues.get(key as usize).map(|queue| queue.rested) {
            self.forget(key, rested);
        }
    }

    /// A partition cannot go on: all members are told, and the queue waits for one that says where.
    pub(super) fn break_off(&mut self, key: u32, partition: u16, broken: Broken, log: &mut impl Source) {
        let queue = &mut self.queues[key as usize];
        let failure = Failure::broken(log.epoch(), partition, broken);
        queue.untold.clear();
        self.waiting.remove(&key);
        for lot in &mut queue.lots {
            lot.ledger.lose_all();
            lot.is_made = false;
        }
        let keys: Vec<_> = queue.members.keys().collect();
        for member in keys {
            let gone = queue.members.get(member).name;
            self.by_member.remove(&gone);
            self.letters.push_back(QueueLetter {
                member: gone,
                matter: Matter::Ended(Box::new(failure.clone())),
            });
            queue.members.remove(member);
        }
        self.rest(key, log);
    }

    /// A queue's last member is gone.
    fn rest(&mut self, key: u32, log: &mut impl Source) {
        let queue = &mut self.queues[key as usize];
        let others = &mut self.patterns[queue.pattern];
        others.retain(|other| *other != key);
        if others.is_empty() {
            self.patterns.remove(queue.pattern);
        }
        let readers = queue.lots.iter().filter(|lot| lot.reading.is_some());
        let readers: Vec<_> = readers.map(|lot| queue.reader(key, lot.partition)).collect();
        for reader in readers {
            log.forget_reader(reader);
        }
        for lot in &mut queue.lots {
            lot.reading = None;
            lot.retry_us = 0;
            self.ahead_bytes -= lot.drop_ahead();
            lot.ledger.rest();
            keep_cursor(&queue.name, lot, self.now_us, log);
        }
        self.active -= 1;
        self.resting_entries += entries_of(queue);
        self.rests += 1;
        queue.rested = self.rests;
        self.resting.push_back((key, queue.rested));
        while self.queues.len() - self.active > QUEUES_RESTING_MAX
            || self.resting_entries > QUEUE_RESTING_ENTRIES_MAX
        {
            let Some((key, rested)) = self.resting.pop_front() else {
                break;
            };
            self.forget(key, rested);
        }
        // Those that came back stand in it still: not more of them than there are queues.
        if self.resting.len() > 2 * self.queues.len() + 64 {
            let queues = &self.queues;
            self.resting
                .retain(|&(key, rested)| is_resting(queues, key, rested));
        }
    }

    /// Forgets what a queue without members knows, but for its cursor.
    fn forget(&mut self, key: u32, rested: u64) {
        if !is_resting(&self.queues, key, rested) {
            return;
        }
        let queue = self.queues.remove(key as usize);
        for lot in &queue.lots {
            if let Some(at_us) = lot.alarm_us {
                self.alarms.remove(&(at_us, key, lot.partition));
            }
        }
        self.resting_entries -= entries_of(&queue);
        self.by_name.remove(&queue.name);
    }
}

/// Whether a queue is without members since then.
fn is_resting(queues: &Slab<Queue>, key: u32, rested: u64) -> bool {
    queues
        .get(key as usize)
        .is_some_and(|queue| queue.rested == rested && queue.members.is_empty())
}
