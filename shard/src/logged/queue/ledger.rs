//! What a work queue knows about one partition: which events were given to whom, which are to be given again, how far
//! everything is done. Pure state; the events themselves stay in the log.
//!
//! ```text
//!      floor                              read
//!        │   Done  Given  Again  Given      │
//!   done │ ───────── entries ────────────── │ not looked at yet
//! ```
//!
//! Offsets up to `floor` are done with: acknowledged, expired, set aside, or of no concern to the pattern. Those between
//! `floor` and `read` that matter have an entry, ascending. The cursor that outlives the process is the floor and the
//! done entries beyond it.

use std::collections::{BTreeSet, VecDeque};

use crate::limits::QUEUE_ENTRIES_MAX;

/// Which member of the queue, on the owner's core.
pub(crate) type MemberKey = u32;

/// No member: an event of which nobody knows who had it.
const NOBODY: MemberKey = MemberKey::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// With a member.
    Given,
    /// To be given again.
    Again,
    /// Given as often as it may be: to be set aside.
    Spent,
    /// Done with; the floor has not come here yet.
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    /// Who has it, or had it last.
    member: MemberKey,
    /// How often it was given.
    deliveries: u32,
    /// How often it may be given; 0: no bound.
    deliveries_max: u32,
    /// How many of the deliveries never left the gateway, and do not count.
    unseen: u16,
    /// An earlier life may have given it, too.
    is_doubtful: bool,
    state: State,
}

impl Entry {
    /// How often somebody was given it.
    fn counted(&self) -> u32 {
        self.deliveries - u32::from(self.unseen)
    }
}

/// A giving that is overdue at some time, unless it was acknowledged or the event was given again before.
#[derive(Debug, Clone, Copy)]
struct Due {
    at_us: u64,
    offset: u64,
    deliveries: u32,
}

/// An event that is to be given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// Who had it last.
    pub(crate) member: MemberKey,
    /// How often it may have been given.
    pub(crate) dup: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    floor: u64,
    read: u64,
    entries: VecDeque<Entry>,
    /// Offsets of entries in [`State::Again`].
    again: BTreeSet<u64>,
    /// Offsets of entries in [`State::Spent`].
    spent: BTreeSet<u64>,
    given: usize,
    /// In the order of their times, since all wait equally long. Stale ones are recognised, and thrown out when they are
    /// more than the others.
    due: VecDeque<Due>,
    /// Offsets that the stored cursor names beyond its floor and that were not read yet.
    restored: VecDeque<u64>,
    /// Events up to here may have been given by an earlier life of this queue. How many were nobody can tell: its stored cursor
    /// is what was done some time before the end, and a queue that catches up does many thousands in that time.
    doubtful: u64,
    /// The floor or what is done beyond it has changed since [`Ledger::cursor`] was taken.
    is_moved: bool,
}

impl Ledger {
    /// A queue that begins behind `floor`.
    pub(crate) fn begin(floor: u64) -> Self {
        Self {
            floor,
            read: floor,
            entries: VecDeque::new(),
            again: BTreeSet::new(),
            spent: BTreeSet::new(),
            given: 0,
            due: VecDeque::new(),
            restored: VecDeque::new(),
            doubtful: 0,
            is_moved: true,
        }
    }

    /// A queue that goes on from its stored cursor. What it has not done may have been given before: nobody knows.
    pub(crate) fn resume(acked: u64, beyond: &[u64], committed: u64) -> Self {
        Self {
            restored: beyond.iter().copied().filter(|offset| *offset > acked).collect(),
            doubtful: committed,
            is_moved: false,
            ..Self::begin(acked)
        }
    }

    /// Everything up to here is done.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Everything up to here was looked at.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// How many more new events may be given.
    pub(crate) fn room(&self) -> usize {
        QUEUE_ENTRIES_MAX - self.entries.len().min(QUEUE_ENTRIES_MAX)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first event at this offset or behind it that is to be given again.
    pub(crate) fn next_again(&self, from: u64) -> Option<u64> {
        self.again.range(from..).next().copied()
    }

    /// The first event that was given too often.
    pub(crate) fn next_spent(&self) -> Option<u64> {
        self.spent.first().copied()
    }

    /// Whether this one is to be given again.
    pub(crate) fn again(&self, offset: u64) -> Option<Again> {
        let entry = &self.entries[self.find(offset)?];
        (entry.state == State::Again).then_some(Again {
            member: entry.member,
            dup: entry.counted() + u32::from(entry.is_doubtful),
        })
    }

    /// How often this one was given.
    pub(crate) fn deliveries(&self, offset: u64) -> u32 {
        self.find(offset).map_or(0, |at| self.entries[at].counted())
    }

    /// Whether an event that was not looked at yet was acknowledged in an earlier life.
    pub(crate) fn is_restored(&mut self, offset: u64) -> bool {
        while self.restored.front().is_some_and(|first| *first < offset) {
            self.restored.pop_front();
        }
        self.restored.front() == Some(&offset)
    }

    /// Everything up to here was looked at; what has no entry is of no concern, but for what an earlier life has done.
    pub(crate) fn pass(&mut self, until: u64) {
        debug_assert!(until >= self.read);
        while self.restored.front().is_some_and(|first| *first <= until) {
            self.restored.pop_front();
        }
        self.read = until;
        self.settle_front();
    }

    /// Events that cannot be read any more are done with.
    pub(crate) fn leave_out(&mut self, first: u64, last: u64) {
        let lost: Vec<u64> = self
            .entries
            .iter()
            .map(|entry| entry.offset)
            .filter(|offset| (first..=last).contains(offset))
            .collect();
        for offset in lost {
            self.done(offset);
        }
    }

    /// An event that was not looked at yet is given to a member. How often it may have been given before.
    pub(crate) fn give_new(
        &mut self,
        offset: u64,
        deliveries_max: u32,
        member: MemberKey,
        due_us: u64,
    ) -> u32 {
        debug_assert!(offset > self.read);
        let is_doubtful = offset <= self.doubtful;
        self.entries.push_back(Entry {
            offset,
            member,
            deliveries: 1,
            deliveries_max,
            unseen: 0,
            is_doubtful,
            state: State::Given,
        });
        self.read = offset;
        self.given += 1;
        self.remind(offset, 1, due_us);
        u32::from(is_doubtful)
    }

    /// An event that was not looked at yet, and is done all the same: expired, or done in an earlier life. It has an
    /// entry only if something before it is not done.
    pub(crate) fn skip(&mut self, offset: u64) {
        debug_assert!(offset > self.read);
        self.read = offset;
        if self.is_restored(offset) {
            self.restored.pop_front();
        }
        if self.entries.is_empty() {
            self.settle_front();
            return;
        }
        self.entries.push_back(Entry {
            offset,
            member: NOBODY,
            deliveries: 0,
            deliveries_max: 0,
            unseen: 0,
            is_doubtful: false,
            state: State::Done,
        });
        self.is_moved = true;
    }

    /// An event is given again.
    pub(crate) fn give_again(&mut self, offset: u64, member: MemberKey, due_us: u64) {
        let Some(at) = self.find(offset) else { return };
        let entry = &mut self.entries[at];
        debug_assert_eq!(entry.state, State::Again);
        self.again.remove(&offset);
        entry.state = State::Given;
        entry.member = member;
        entry.deliveries = entry.deliveries.saturating_add(1);
        let deliveries = entry.deliveries;
        self.given += 1;
        self.remind(offset, deliveries, due_us);
    }

    /// An event is done: somebody acknowledged it, it was set aside, or it has expired. Who had it just now, if anybody
    /// had. What was never given, or is done already, is ignored.
    pub(crate) fn done(&mut self, offset: u64) -> Option<MemberKey> {
        let at = self.find(offset)?;
        let entry = &mut self.entries[at];
        let before = std::mem::replace(&mut entry.state, State::Done);
        let member = entry.member;
        match before {
            State::Done => return None,
            State::Again => {
                self.again.remove(&offset);
            }
            State::Spent => {
                self.spent.remove(&offset);
            }
            State::Given => self.given -= 1,
        }
        self.is_moved = true;
        if at == 0 {
            self.settle_front();
        }
        (before == State::Given).then_some(member)
    }

    /// Whether a member has this one.
    pub(crate) fn is_with(&self, offset: u64, member: MemberKey) -> bool {
        self.given_to(offset, member).is_some()
    }

    /// A member has lost this one, or is gone: it goes to another. Whether the member had it.
    pub(crate) fn lose(&mut self, offset: u64, member: MemberKey) -> bool {
        let Some(at) = self.given_to(offset, member) else {
            return false;
        };
        self.take_back(at);
        // The key will name another member.
        self.entries[at].member = NOBODY;
        true
    }

    /// All members are gone.
    pub(crate) fn lose_all(&mut self) {
        for at in 0..self.entries.len() {
            if self.entries[at].state == State::Given {
                self.take_back(at);
                self.entries[at].member = NOBODY;
            }
        }
    }

    /// A giving never left the gateway: it does not count, and the event goes to another. `dup` is what was said of this
    /// giving, to tell it from a later one. Whether the member had it.
    pub(crate) fn never_left(&mut self, offset: u64, member: MemberKey, dup: u32) -> bool {
        let Some(at) = self.given_to(offset, member) else {
            return false;
        };
        let entry = &mut self.entries[at];
        let is_this = entry.counted() + u32::from(entry.is_doubtful) == dup + 1;
        if is_this {
            entry.unseen = entry.unseen.saturating_add(1);
            self.take_back(at);
        }
        is_this
    }

    /// Takes back one event whose time is over; from whom.
    pub(crate) fn expire(&mut self, now_us: u64) -> Option<MemberKey> {
        while let Some(due) = self.due.front() {
            let live = self.live(due);
            if live.is_some() && due.at_us > now_us {
                return None;
            }
            self.due.pop_front();
            if let Some(at) = live {
                self.take_back(at);
                return Some(self.entries[at].member);
            }
        }
        None
    }

    /// When [`Ledger::expire`] has something to do, µs.
    pub(crate) fn due_us(&mut self) -> Option<u64> {
        while let Some(due) = self.due.front() {
            if self.live(due).is_some() {
                return Some(due.at_us);
            }
            self.due.pop_front();
        }
        None
    }

    /// The floor and what is done beyond it, if that has changed since the last time.
    pub(crate) fn moved_cursor(&mut self) -> Option<(u64, Vec<u64>)> {
        std::mem::take(&mut self.is_moved).then(|| self.cursor())
    }

    /// What [`Ledger::moved_cursor`] gave could not be kept: it gives it again.
    pub(crate) fn not_kept(&mut self) {
        self.is_moved = true;
    }

    /// Whether [`Ledger::moved_cursor`] has something.
    pub(crate) fn is_moved(&self) -> bool {
        self.is_moved
    }

    /// The floor and what is done beyond it.
    pub(crate) fn cursor(&self) -> (u64, Vec<u64>) {
        let done = self.entries.iter().filter(|entry| entry.state == State::Done);
        let beyond = done
            .map(|entry| entry.offset)
            .chain(self.restored.iter().copied());
        (self.floor, beyond.collect())
    }

    /// Nobody is there: gives room back that only a busy queue needs.
    pub(crate) fn rest(&mut self) {
        self.entries.shrink_to_fit();
        self.due = VecDeque::new();
    }

    /// Back to the queue, or to what is to be set aside.
    fn take_back(&mut self, at: usize) {
        let entry = &mut self.entries[at];
        self.given -= 1;
        if entry.deliveries_max > 0 && entry.counted() >= entry.deliveries_max {
            entry.state = State::Spent;
            self.spent.insert(entry.offset);
        } else {
            entry.state = State::Again;
            self.again.insert(entry.offset);
        }
    }

    fn remind(&mut self, offset: u64, deliveries: u32, at_us: u64) {
        if self.due.len() > 2 * self.given + 64 {
            let mut due = std::mem::take(&mut self.due);
            due.retain(|due| self.live(due).is_some());
            self.due = due;
        }
        self.due.push_back(Due {
            at_us,
            offset,
            deliveries,
        });
    }

    /// The entry of a giving that still stands.
    fn live(&self, due: &Due) -> Option<usize> {
        let at = self.find(due.offset)?;
        let entry = &self.entries[at];
        (entry.state == State::Given && entry.deliveries == due.deliveries).then_some(at)
    }

    /// The entry of an event that a member has.
    fn given_to(&self, offset: u64, member: MemberKey) -> Option<usize> {
        let at = self.find(offset)?;
        let entry = &self.entries[at];
        (entry.state == State::Given && entry.member == member).then_some(at)
    }

    fn find(&self, offset: u64) -> Option<usize> {
        // Most logs hold nothing but what matches: then the entry stands where its offset says.
        let first = self.entries.front()?.offset;
        let guess = usize::try_from(offset.checked_sub(first)?).unwrap_or(usize::MAX);
        if self
            .entries
            .get(guess)
            .is_some_and(|entry| entry.offset == offset)
        {
            return Some(guess);
        }
        self.entries
            .binary_search_by_key(&offset, |entry| entry.offset)
            .ok()
    }

    /// Moves the floor over what is done.
    fn settle_front(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.state == State::Done)
        {
            self.entries.pop_front();
        }
        let floor = self.entries.front().map_or(self.read, |entry| entry.offset - 1);
        self.is_moved |= floor != self.floor;
        self.floor = floor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_stood_there_when_it_goes_on_may_have_been_given_before() {
        let committed = 3 * QUEUE_ENTRIES_MAX as u64;
        let mut ledger = Ledger::resume(5, &[], committed);
        for offset in 6..=committed + 1 {
            let dup = ledger.give_new(offset, 0, NOBODY, 1);
            assert_eq!(dup, u32::from(offset <= committed), "{offset}");
            ledger.done(offset);
        }
    }
}
