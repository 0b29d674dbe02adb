//! What was refused of one connection to one partition: which events have to come, topic by topic, and how long they are waited
//! for. Time is that of the hold's own clock, which runs while its connection is heard.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;

use crate::log::{Events, LogRefusal};
use crate::logged::pieces::topic_of;
use crate::logged::publishing::retry_after_ms;

/// What was refused is waited for so long, us, beyond the time that its publisher was told to let pass.
const PATIENCE_US: u64 = 2_000_000;
/// So much of the time between two inputs of a publisher counts, us, beyond what it was told to let pass: one silence alone never ends
/// patience.
const SILENCE_COUNTED_US: u64 = PATIENCE_US / 4;

/// What was refused of one connection to one partition.
#[derive(Debug)]
pub(super) struct Hold {
    refusal: LogRefusal,
    /// What the owner refused since it was asked to open again, with the topics' hashes: older than all in `lines`.
    returned: Vec<(u64, Id)>,
    /// What has to come, by the hash of its topic; none is empty.
    lines: HashMap<u64, Line, FixedState>,
    /// All of these.
    known: KnownIds,
    /// The owner was asked to open again, and has not answered: more may be returned.
    is_shut: bool,
    /// How long its connection was heard: the time that patience is measured in, us.
    clock_us: u64,
    /// No line is given up before this, by that clock, us.
    due_us: u64,
}

type KnownIds = HashMap<Id, Known, FixedState>;

/// An event that has to come.
#[derive(Debug)]
struct Known {
    /// Whose line it is in, or will be.
    topic: u64,
    /// The round of that line in which it was sent again last; 0: it was not.
    again: u32,
}

/// What has to come of one topic.
#[derive(Debug)]
struct Line {
    /// In this order. The first of them is among `known`; others that are not are passed over.
    ids: VecDeque<Id>,
    /// How often patience was at an end, from 1 on.
    round: u32,
    /// Some were given up, and nothing has passed since.
    has_given_up: bool,
    /// When those that did not come again are given up, by the clock of the hold, us.
    until_us: u64,
}

impl Hold {
    pub(super) fn new(refusal: LogRefusal, hasher: &FixedState) -> Self {
        Self {
            refusal,
            returned: Vec::new(),
            lines: HashMap::with_hasher(hasher.clone()),
            known: HashMap::with_hasher(hasher.clone()),
            is_shut: false,
            clock_us: 0,
            due_us: u64::MAX,
        }
    }

    /// Ids that it remembers.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Why something was refused last.
    pub(super) fn refusal(&self) -> &LogRefusal {
        &self.refusal
    }

    /// Whether the owner has not opened again.
    pub(super) fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// The owner is shut until [`Hold::reopen`]; whether it is to be asked to open.
    pub(super) fn shut(&mut self) -> bool {
        !std::mem::replace(&mut self.is_shut, true)
    }

    /// Its connection is heard, after a silence.
    pub(super) fn hear(&mut self, silence_us: u64) {
        self.clock_us += silence_us.min(self.told_us() + SILENCE_COUNTED_US);
    }

    /// All that the owner had refused has been returned: it goes in front.
    pub(super) fn reopen(&mut self) {
        self.is_shut = false;
        let until_us = self.clock_us + self.patience_us();
        self.due_us = self.due_us.min(until_us);
        for (topic, id) in std::mem::take(&mut self.returned).into_iter().rev() {
            if !self.known.contains_key(&id) {
                continue; // a copy of it is stored
            }
            let line = self.lines.entry(topic).or_insert_with(Line::new);
            line.ids.push_front(id);
            line.has_given_up = false;
            line.until_us = until_us;
        }
    }

    /// Whether an event may go to the owner now; if not, it waits for its turn.
    pub(super) fn is_next(&self, topic: u64, id: Id) -> bool {
        !self.is_shut
            && self
                .lines
                .get(&topic)
                .is_none_or(|line| line.ids.front() == Some(&id))
    }

    /// The next of a topic passes, or one of a topic that nothing is waited for of.
    pub(super) fn pass(&mut self, topic: u64) {
        let until_us = self.clock_us + self.patience_us();
        let Some(line) = self.lines.get_mut(&topic) else {
            return;
        };
        line.until_us = until_us;
        line.has_given_up = false;
        self.due_us = self.due_us.min(until_us);
        if let Some(id) = line.ids.pop_front() {
            self.known.remove(&id);
        }
        line.pass_over_unknown(&self.known);
        if line.ids.is_empty() {
            self.lines.remove(&topic);
        }
    }

    /// Waits for these no more; how many of them it waited for.
    pub(super) fn forget(&mut self, ids: impl Iterator<Item = Id>) -> usize {
        let mut topics: Vec<u64> = ids
            .filter_map(|id| self.known.remove(&id))
            .map(|known| known.topic)
            .collect();
        let gone = topics.len();
        topics.sort_unstable();
        topics.dedup();
        for topic in topics {
            // What was returned last has no line yet.
            let Some(line) = self.lines.get_mut(&topic) else {
                continue;
            };
            line.pass_over_unknown(&self.known);
            if line.ids.is_empty() {
                self.lines.remove(&topic);
            }
        }
        gone
    }

    pub(super) fn wait(&mut self, topic: u64, id: Id, ids_max: usize) {
        if let Some(known) = self.known.get_mut(&id) {
            if let Some(line) = self.lines.get(&topic) {
                known.again = line.round;
            }
        } else if self.known.len() < ids_max {
            let until_us = self.clock_us + self.patience_us();
            let line = self.lines.entry(topic).or_insert_with(|| Line {
                until_us,
                ..Line::new()
            });
            line.ids.push_back(id);
            self.due_us = self.due_us.min(until_us);
            self.known.insert(id, Known { topic, again: 0 });
        }
    }

    pub(super) fn is_over(&self) -> bool {
        !self.is_shut && self.lines.is_empty()
    }

    /// The owner has refused these, which had passed: so many of them are remembered at most beyond what is. How many are new.
    pub(super) fn take_back(&mut self, events: &Events, refusal: &LogRefusal, ids_max: usize) -> usize {
        let told_us = self.told_us();
        self.refusal = refusal.clone();
        // Who was told to let more time pass is silent for longer.
        let more_us = self.told_us().saturating_sub(told_us);
        if more_us > 0 {
            self.due_us = self.due_us.saturating_add(more_us);
            self.lines.values_mut().for_each(|line| line.until_us += more_us);
        }
        let mut again = self.take_out(events);
        let before = self.known.len();
        for at in 0..events.len() {
            let id = events.id(at);
            let topic = self.lines.hasher().hash_one(topic_of(events.get(at)));
            let has_room = self.known.len() - before < ids_max;
            let is_new = match self.known.entry(id) {
                Entry::Vacant(entry) if has_room => {
                    entry.insert(Known { topic, again: 0 });
                    true
                }
                _ => false,
            };
            if is_new || again.remove(&id) {
                self.returned.push((topic, id));
            }
        }
        self.known.len() - before
    }

    /// What of these waits behind what came later: it came again while it was under way to the owner, who refuses it only now. It
    /// leaves its line, to go in front with all that is returned.
    fn take_out(&mut self, events: &Events) -> HashSet<Id, FixedState> {
        let hasher = self.known.hasher().clone();
        let mut again: HashMap<u64, HashSet<Id, FixedState>, FixedState> =
            HashMap::with_hasher(hasher.clone());
        for at in (0..events.len()).filter(|&at| self.known.contains_key(&events.id(at))) {
            let ids = again.entry(hasher.hash_one(topic_of(events.get(at))));
            let ids = ids.or_insert_with(|| HashSet::with_hasher(hasher.clone()));
            ids.insert(events.id(at));
        }
        let mut taken = HashSet::with_hasher(hasher);
        for (topic, ids) in again {
            let Some(line) = self.lines.get_mut(&topic) else {
                continue;
            };
            line.ids.retain(|id| {
                let is_taken = ids.contains(id);
                if is_taken {
                    taken.insert(*id);
                }
                !is_taken
            });
            line.pass_over_unknown(&self.known);
            if line.ids.is_empty() {
                self.lines.remove(&topic);
            }
        }
        taken
    }

    /// What its publisher was told to let pass, us.
    fn told_us(&self) -> u64 {
        u64::from(retry_after_ms(&self.refusal).unwrap_or_default()) * 1_000
    }

    fn patience_us(&self) -> u64 {
        self.told_us() + PATIENCE_US
    }

    /// Gives up what did not come again, where patience is at an end. Whether that was all.
    pub(super) fn give_up(&mut self) -> bool {
        if self.is_shut || self.clock_us < self.due_us {
            return self.is_over();
        }
        let (clock_us, until_us) = (self.clock_us, self.clock_us + self.patience_us());
        let known = &mut self.known;
        self.due_us = u64::MAX;
        self.lines.retain(|_, line| {
            if clock_us >= line.until_us {
                line.until_us = until_us;
                line.give_up(known);
            }
            self.due_us = self.due_us.min(line.until_us);
            !line.ids.is_empty()
        });
        self.is_over()
    }
}

impl Line {
    fn new() -> Self {
        Self {
            ids: VecDeque::new(),
            round: 1,
            has_given_up: false,
            until_us: 0,
        }
    }

    /// What is at the front is waited for.
    fn pass_over_unknown(&mut self, known: &KnownIds) {
        while self.ids.front().is_some_and(|id| !known.contains_key(id)) {
            self.ids.pop_front();
        }
    }

    /// Patience is at an end: up to the first that its publisher has sent again since the last time, all are given up. If that
    /// one did not pass either, all are.
    fn give_up(&mut self, known: &mut KnownIds) {
        let gives_up_all = std::mem::replace(&mut self.has_given_up, true);
        while let Some(id) = self.ids.front()
            && (gives_up_all || known.get(id).is_none_or(|known| known.again != self.round))
        {
            known.remove(id);
            self.ids.pop_front();
        }
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_waited_for_no_more_in_its_topic_alone() {
        let mut hold = Hold::new(LogRefusal::Behind, &FixedState::with_seed(1));
        let id = |nth: u8| Id([nth; 16]);
        for (topic, ids) in [(7, 1..=3), (8, 4..=5), (9, 6..=6)] {
            ids.for_each(|nth| hold.wait(topic, id(nth), 100));
        }
        // The first of one topic and one behind it, the only one of another, and one that nobody waits for.
        assert_eq!(hold.forget([1, 3, 6, 7].map(id).into_iter()), 3);
        assert_eq!(hold.len(), 3);
        assert!(hold.is_next(7, id(2)) && !hold.is_next(7, id(3)));
        assert!(hold.is_next(8, id(4)) && !hold.is_next(8, id(5)));
        assert!(hold.is_next(9, id(8)), "nothing is waited for of this topic");
        hold.pass(7);
        assert!(
            hold.is_next(7, id(8)),
            "what was forgotten behind it is passed over"
        );
        assert_eq!(hold.forget([4, 5].map(id).into_iter()), 2);
        assert!(hold.is_over());
    }
}
