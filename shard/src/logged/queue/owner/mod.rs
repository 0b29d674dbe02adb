//! The owner's side of work queues: the queues over this core's partitions, and what keeps them going.
//!
//! A queue is a durable cursor by the name of its pattern, its group and, if its members gave one, their `durable`; whoever
//! joins under that name works on it. What it holds in memory is bounded ([`crate::limits::QUEUE_ENTRIES_MAX`] entries a
//! partition), and without members it holds only what it knows of events that were given and not acknowledged: so that
//! their deliveries go on being counted while the only member, which such an event may have killed, comes back.

mod joining;
mod resting;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use fluxar_protocol::Id;
use fluxar_protocol::position::Positions;
use foldhash::fast::FixedState;
use slab::Slab;

use super::aside::DeadLetter;
use super::dealing::{Desk, GivenUp, Queue};
use super::ledger::MemberKey;
use super::letters::{Matter, MemberName, QueueLetter};
use super::lot::Lot;
use super::source::Source;
use crate::log::{Committed, CursorName, CursorState, ReaderId, Reading, Settings};
use crate::logged::patterns::FollowedPatterns;
use crate::logged::pieces::RunningTopic;

/// A cursor that has moved is handed to the log after so long, us.
const CURSOR_US: u64 = 200_000;
/// A dead letter that was refused is tried again after so long, us.
const ASIDE_RETRY_US: u64 = 500_000;
/// Cursors of quiet queues are moved on so often, us.
const SWEEP_US: u64 = 10_000_000;
/// Cursors are said to be in use at least so often, us.
const TOUCH_US: u64 = 3_600_000_000;

/// An event that is being set aside.
#[derive(Debug)]
struct Aside {
    queue: u32,
    serial: u64,
    partition: u16,
    offset: u64,
    letter: DeadLetter,
}

/// The queues over this core's partitions.
#[derive(Debug)]
pub(crate) struct WorkQueues {
    core: u16,
    cores: u16,
    settings: Option<Arc<Settings>>,
    queues: Slab<Queue>,
    by_name: HashMap<Arc<CursorName>, u32, FixedState>,
    by_member: HashMap<MemberName, (u32, MemberKey), FixedState>,
    /// The queues with members, by pattern.
    patterns: FollowedPatterns<Vec<u32>>,
    /// Without members, the longest first, each with [`Queue::rested`]: one that has got members meanwhile is recognised.
    resting: VecDeque<(u32, u64)>,
    /// How often queues have lost their last member.
    rests: u64,
    resting_entries: usize,
    /// How many queues have members.
    active: usize,
    serial: u64,
    /// Of each of this core's partitions, the last offset that was looked at as it was committed.
    heard: Vec<u64>,
    dirty: Vec<u32>,
    /// Queues with members that were not told: [`Queue::untold`] of these and of no others is not empty.
    waiting: BTreeSet<u32>,
    /// [`Source::cursors_synced`] when these were looked at last.
    cursors_synced: u64,
    /// Time, queue, partition: each [`Lot::alarm_us`] that is set, and nothing else. (Earlier ones are set again and again, while
    /// the one that they replace may be hours away.)
    alarms: BTreeSet<(u64, u32, u16)>,
    asides: HashMap<Id, Aside, FixedState>,
    /// Dead letters that were refused, and when to try again, us.
    refused: VecDeque<(u64, Id)>,
    appends: VecDeque<DeadLetter>,
    letters: VecDeque<QueueLetter>,
    given_up: VecDeque<GivenUp>,
    ahead_bytes: usize,
    now_us: u64,
    unix_ms: u64,
    swept_us: u64,
}

impl WorkQueues {
    pub(crate) fn new(
        core: u16,
        cores: u16,
        settings: Option<Arc<Settings>>,
        hasher: &FixedState,
        names_remembered: usize,
    ) -> Self {
        let partitions = settings.as_ref().map_or(0, |settings| settings.partitions);
        Self {
            core,
            cores,
            queues: Slab::new(),
            by_name: HashMap::with_hasher(hasher.clone()),
            by_member: HashMap::with_hasher(hasher.clone()),
            patterns: FollowedPatterns::new(hasher, names_remembered),
            resting: VecDeque::new(),
            rests: 0,
            resting_entries: 0,
            active: 0,
            serial: 0,
            heard: vec![0; (core..partitions).step_by(usize::from(cores)).count()],
            dirty: Vec::new(),
            waiting: BTreeSet::new(),
            cursors_synced: 0,
            alarms: BTreeSet::new(),
            asides: HashMap::with_hasher(hasher.clone()),
            refused: VecDeque::new(),
            appends: VecDeque::new(),
            letters: VecDeque::new(),
            given_up: VecDeque::new(),
            ahead_bytes: 0,
            now_us: 0,
            unix_ms: 0,
            swept_us: 0,
            settings,
        }
    }

    /// Takes a letter about a member.
    pub(crate) fn handle(&mut self, letter: QueueLetter, log: &mut impl Source) {
        let QueueLetter { member: name, matter } = letter;
        let found = self.by_member.get(&name).copied();
        match (matter, found) {
            (Matter::Join(join), None) => self.join(name, &join, log),
            (Matter::Leave { is_void }, Some((key, member))) => self.leave(key, member, is_void, log),
            (Matter::Rewind, Some((key, member))) => {
                let queue = &mut self.queues[key as usize];
                let back = queue.lose(member);
                queue.members.free(member, back);
                self.stir(key);
            }
            (Matter::NeverLeft { positions, dup }, Some((key, member))) => {
                self.never_left(key, member, &positions, dup);
            }
            (Matter::Worked { partition, offsets }, Some((key, _))) => {
                self.worked(key, partition, &offsets);
            }
            (Matter::Room { grant, keep }, Some((key, member))) => {
                self.queues[key as usize].members.grant(member, grant, keep);
                self.stir(key);
            }
            (Matter::Rests(rests), Some((key, member))) => {
                self.queues[key as usize].members.rest(member, rests);
                self.stir(key);
            }
            // It was refused or ended here, and its home core will hear of it.
            (
                Matter::Leave { .. }
                | Matter::Rewind
                | Matter::NeverLeft { .. }
                | Matter::Worked { .. }
                | Matter::Room { .. }
                | Matter::Rests(_),
                None,
            ) => {}
            _ => debug_assert!(false, "a letter to a home core, or one that joins twice"),
        }
    }

    /// Events were committed in one of this core's partitions.
    pub(crate) fn committed(&mut self, committed: &Committed) {
        let at = usize::from(committed.partition / self.cores);
        let Some(heard) = self.heard.get_mut(at) else {
            return;
        };
        *heard = committed.stored.last();
        if self.by_member.is_empty() {
            return;
        }
        let Self {
            patterns,
            queues,
            dirty,
            ..
        } = self;
        let mut topic = RunningTopic::default();
        for (nth, offset) in committed.stored.offsets().enumerate() {
            // The first event of a queue's topics is what it needs to hear of.
            if !topic.moves_to(committed.stored.events.get(nth)) {
                continue;
            }
            let matching = patterns.matching(topic.text()).clone();
            for &key in matching.iter().flat_map(|pattern| &patterns[*pattern]) {
                let queue = &mut queues[key as usize];
                if let Some(lot) = queue.lot(committed.partition) {
                    lot.heard(offset);
                }
                if !std::mem::replace(&mut queue.is_dirty, true) {
                    dirty.push(key);
                }
            }
        }
    }

    /// What a queue read from the disk has come.
    pub(crate) fn read_done(&mut self, reader: ReaderId, reading: Reading, log: &mut impl Source) {
        let (key, partition) = ((reader.0 >> 16) as u32 & 0x7fff_ffff, reader.0 as u16);
        if !self.queues.contains(key as usize) {
            return;
        }
        let flow = self.at_desk(key, |queue, desk| queue.read_done(partition, reading, desk));
        if let Some(ControlFlow::Break((partition, broken))) = flow {
            self.break_off(key, partition, broken, log);
        }
        self.stir(key);
    }

    /// A dead letter is in the log.
    pub(crate) fn aside_stored(&mut self, id: Id) {
        let Some(aside) = self.asides.remove(&id) else {
            return;
        };
        let Some(queue) = self
            .queues
            .get_mut(aside.queue as usize)
            .filter(|queue| queue.serial == aside.serial)
        else {
            return;
        };
        let before = entries_of(queue);
        if let Some(lot) = queue.lot(aside.partition) {
            lot.ledger.done(aside.offset);
            lot.aside = None;
        }
        if queue.members.is_empty() {
            self.resting_entries -= before - entries_of(queue);
        }
        self.stir(aside.queue);
    }

    /// A dead letter was not taken; it is tried again.
    pub(crate) fn aside_refused(&mut self, id: Id) {
        if self.asides.contains_key(&id) {
            self.refused.push_back((self.now_us + ASIDE_RETRY_US, id));
        }
    }

    /// Tells the time.
    pub(crate) fn handle_time(&mut self, now_us: u64, unix_ms: u64, log: &mut impl Source) {
        self.now_us = now_us;
        self.unix_ms = unix_ms;
        while let Some(&(at_us, key, partition)) = self.alarms.first() {
            if at_us > now_us {
                break;
            }
            self.alarms.pop_first();
            self.rang(key, partition, log);
        }
        while let Some(&(at_us, id)) = self.refused.front() {
            if at_us > now_us {
                break;
            }
            self.refused.pop_front();
            if let Some(aside) = self.asides.get(&id) {
                self.appends.push_back(aside.letter.clone());
            }
        }
        if now_us.saturating_sub(self.swept_us) >= SWEEP_US {
            self.swept_us = now_us;
            self.sweep(log);
        }
    }

    /// When [`WorkQueues::handle_time`] has something to do, us.
    pub(crate) fn due_us(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(at_us, ..)| *at_us);
        let refused = self.refused.front().map(|(at_us, _)| *at_us);
        let sweep = (!self.by_member.is_empty()).then_some(self.swept_us + SWEEP_US);
        [alarm, refused, sweep].into_iter().flatten().min()
    }

    /// Gives out what can be given.
    pub(crate) fn pump(&mut self, log: &mut impl Source) {
        while let Some(key) = self.dirty.pop() {
            let Some(queue) = self.queues.get_mut(key as usize) else {
                continue;
            };
            queue.is_dirty = false;
            if !queue.members.is_empty() && queue.untold.is_empty() {
                let flow = self.at_desk(key, |queue, desk| queue.pump(desk, log));
                if let Some(ControlFlow::Break((partition, broken))) = flow {
                    self.break_off(key, partition, broken, log);
                }
            }
            self.watch(key);
        }
    }

    /// Whether [`WorkQueues::pump`] has something to do.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether there is a letter or an event to be polled.
    pub(crate) fn has_output(&self) -> bool {
        !self.letters.is_empty() || !self.appends.is_empty()
    }

    /// Hands all cursors to the log, which is about to stop.
    pub(crate) fn stop(&mut self, log: &mut impl Source) {
        for (_, queue) in &mut self.queues {
            for lot in &mut queue.lots {
                keep_cursor(&queue.name, lot, self.now_us, log);
            }
        }
    }

    /// The next letter; it is for the core of the peer that it names.
    pub(crate) fn poll_letter(&mut self) -> Option<QueueLetter> {
        self.letters.pop_front()
    }

    /// The next event to be appended, to any core's partition: [`WorkQueues::aside_stored`] or
    /// [`WorkQueues::aside_refused`] is to say what came of it.
    pub(crate) fn poll_append(&mut self) -> Option<DeadLetter> {
        self.appends.pop_front()
    }

    /// The next event that was given up.
    pub(crate) fn poll_given_up(&mut self) -> Option<GivenUp> {
        self.given_up.pop_front()
    }

    /// How many members the queues have.
    pub(crate) fn members(&self) -> usize {
        self.by_member.len()
    }

    /// How many alarms are set, and for how many partitions of queues.
    #[cfg(test)]
    pub(crate) fn alarms(&self) -> (usize, usize) {
        let lots = self.queues.iter().map(|(_, queue)| queue.lots.len()).sum();
        (self.alarms.len(), lots)
    }

    /// How many queues wait for the disk.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn worked(&mut self, key: u32, partition: u16, offsets: &[u64]) {
        let queue = &mut self.queues[key as usize];
        let Ok(at) = queue.lots.binary_search_by_key(&partition, |lot| lot.partition) else {
            return;
        };
        for &offset in offsets {
            // It may be with another member by now: that one is done with it, too.
            if let Some(holder) = queue.lots[at].ledger.done(offset) {
                queue.members.free(holder, 1);
            }
        }
        self.stir(key);
    }

    /// Work for a member came when its connection took nothing.
    fn never_left(&mut self, key: u32, member: MemberKey, positions: &[u8], dup: u32) {
        let queue = &mut self.queues[key as usize];
        let Some(positions) = Positions::read(positions) else {
            return; // this core wrote them
        };
        let Some(lot) = queue.lot(positions.partition()) else {
            return;
        };
        let back = positions
            .offsets()
            .filter(|offset| lot.ledger.never_left(*offset, member, dup))
            .count();
        queue.members.free(member, back as u32);
        self.stir(key);
    }

    /// What was to be done at a time for one partition of a queue.
    fn rang(&mut self, key: u32, partition: u16, log: &mut impl Source) {
        let Some(queue) = self.queues.get_mut(key as usize) else {
            return;
        };
        let Ok(at) = queue.lots.binary_search_by_key(&partition, |lot| lot.partition) else {
            return;
        };
        let lot = &mut queue.lots[at];
        lot.alarm_us = None;
        while let Some(member) = lot.ledger.expire(self.now_us) {
            queue.members.free(member, 1);
        }
        if lot.cursor_us.is_some_and(|at_us| at_us <= self.now_us) {
            keep_cursor(&queue.name, lot, self.now_us, log);
        }
        if lot.retry_us <= self.now_us {
            lot.retry_us = 0;
        }
        self.stir(key);
    }

    /// Sets the alarms of a queue's partitions.
    fn watch(&mut self, key: u32) {
        let Some(queue) = self.queues.get_mut(key as usize) else {
            return;
        };
        for lot in &mut queue.lots {
            if lot.ledger.is_moved() && lot.cursor_us.is_none() {
                lot.cursor_us = Some(self.now_us + CURSOR_US);
            }
            let retry_us = Some(lot.retry_us).filter(|retry_us| *retry_us > 0);
            let times = [lot.ledger.due_us(), lot.cursor_us, retry_us];
            let Some(at_us) = times.into_iter().flatten().min() else {
                continue;
            };
            if lot.alarm_us.is_none_or(|alarm_us| at_us < alarm_us) {
                if let Some(later_us) = lot.alarm_us.replace(at_us) {
                    self.alarms.remove(&(later_us, key, lot.partition));
                }
                self.alarms.insert((at_us, key, lot.partition));
            }
        }
    }

    /// Moves the cursors of quiet queues on, so that the log may be cut behind them, and says which are in use.
    fn sweep(&mut self, log: &mut impl Source) {
        let mut moved = Vec::new();
        for (key, queue) in &mut self.queues {
            if queue.members.is_empty() {
                continue;
            }
            for lot in &mut queue.lots {
                let heard = self.heard[usize::from(lot.partition / self.cores)];
                if lot.is_quiet && heard > lot.ledger.read() {
                    lot.ledger.pass(heard);
                    moved.push(key as u32);
                }
            }
            if self.now_us.saturating_sub(queue.touched_us) >= TOUCH_US {
                queue.touched_us = self.now_us;
                for lot in &queue.lots {
                    let (acked, beyond) = lot.ledger.cursor();
                    // If it cannot be kept now, there is another time.
                    let _ = log.set_cursor(lot.partition, &queue.name, CursorState { acked, beyond });
                }
            }
        }
        for key in moved {
            self.stir(key);
        }
    }

    /// There may be something to do for a queue.
    fn stir(&mut self, key: u32) {
        if let Some(queue) = self.queues.get_mut(key as usize)
            && !std::mem::replace(&mut queue.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Does something with a queue and what it needs.
    fn at_desk<T>(&mut self, key: u32, work: impl FnOnce(&mut Queue, &mut Desk<'_>) -> T) -> Option<T> {
        let settings = self.settings.as_ref()?;
        let queue = self.queues.get_mut(key as usize)?;
        let mut asides = Vec::new();
        let mut desk = Desk {
            key,
            settings,
            now_us: self.now_us,
            unix_ms: self.unix_ms,
            ahead_bytes: &mut self.ahead_bytes,
            letters: &mut self.letters,
            asides: &mut asides,
            given_up: &mut self.given_up,
        };
        let came = work(queue, &mut desk);
        let serial = queue.serial;
        for (partition, offset, letter) in asides {
            let aside = Aside {
                queue: key,
                serial,
                partition,
                offset,
                letter: letter.clone(),
            };
            self.asides.insert(letter.events.id(0), aside);
            self.appends.push_back(letter);
        }
        Some(came)
    }
}

fn keep_cursor(name: &CursorName, lot: &mut Lot, now_us: u64, log: &mut impl Source) {
    lot.cursor_us = None;
    if let Some((acked, beyond)) = lot.ledger.moved_cursor()
        && log
            .set_cursor(lot.partition, name, CursorState { acked, beyond })
            .is_err()
    {
        lot.ledger.not_kept();
        lot.cursor_us = Some(now_us + 5 * CURSOR_US);
    }
}

fn entries_of(queue: &Queue) -> usize {
    queue.lots.iter().map(|lot| lot.ledger.len()).sum()
}
