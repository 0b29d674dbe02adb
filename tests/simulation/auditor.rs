//! What was said and what was heard, and whether the second follows from the first.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::{Code, Id, target};

/// Who published what: (publisher, topic) → how many so far. Sequence numbers begin at 0.
type Published = BTreeMap<(u64, String), u64>;

/// One connection of a subscriber.
#[derive(Default)]
pub(crate) struct Ear {
    /// Its subscriptions: id → (pattern, group).
    pub(crate) subscriptions: BTreeMap<Id, (String, Option<String>)>,
    /// What was published when all its subscriptions were known everywhere; nothing is owed of what came before.
    pub(crate) since: Option<Published>,
    /// Plain: highest sequence number heard, and how many, by (publisher, topic).
    plain: BTreeMap<(u64, String), (u64, u64)>,
    /// By subscription: drops told last.
    dropped: BTreeMap<Id, u64>,
    /// It ended before the end, so that nothing can be said of what is missing.
    pub(crate) cut_short: bool,
}

/// A call, from its caller's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallState {
    Open { argument: u64, cancelled: bool },
    Ended,
}

/// Counts of what a life held, so that a test cannot pass by nothing happening.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) events: u64,
    pub(crate) grouped: u64,
    pub(crate) dropped: u64,
    pub(crate) answers: u64,
    pub(crate) failed_calls: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.events += other.events;
        self.grouped += other.grouped;
        self.dropped += other.dropped;
        self.answers += other.answers;
        self.failed_calls += other.failed_calls;
    }
}

/// The book of one life.
#[derive(Default)]
pub(crate) struct Auditor {
    pub(crate) published: Published,
    /// Events by group: (pattern, group, publisher, topic, sequence), heard by some member.
    grouped: BTreeSet<(String, String, u64, String, u64)>,
    pub(crate) totals: Totals,
}

impl Auditor {
    /// A publisher says the next event of a topic; returns its sequence number.
    pub(crate) fn publishes(&mut self, publisher: u64, topic: &str) -> u64 {
        let next = self.published.entry((publisher, topic.to_string())).or_default();
        *next += 1;
        *next - 1
    }

    /// A plain event reached a connection.
    pub(crate) fn hears(&mut self, ear: &mut Ear, publisher: u64, topic: &str, sequence: u64) {
        let wanted = ear
            .subscriptions
            .values()
            .any(|(pattern, group)| group.is_none() && target::matches(pattern, topic));
        assert!(
            wanted,
            "an event on {topic} reached a connection that did not ask for it: {:?}",
            ear.subscriptions
        );
        self.was_published(publisher, topic, sequence);
        let (highest, count) = ear
            .plain
            .entry((publisher, topic.to_string()))
            .or_insert((u64::MAX, 0));
        assert!(
            *highest == u64::MAX || sequence > *highest,
            "publisher {publisher} on {topic}: {sequence} came after {highest}"
        );
        *highest = sequence;
        if ear
            .since
            .as_ref()
            .is_some_and(|since| sequence >= from(since, publisher, topic))
        {
            *count += 1;
        }
        self.totals.events += 1;
    }

    /// An event of a run reached a member of a group.
    pub(crate) fn hears_in_group(
        &mut self,
        ear: &Ear,
        subscription: Id,
        publisher: u64,
        topic: &str,
        sequence: u64,
    ) {
        let Some((pattern, Some(group))) = ear.subscriptions.get(&subscription) else {
            panic!("a run for {subscription}, which is no group subscription of this connection");
        };
        assert!(
            target::matches(pattern, topic),
            "{topic} came to a member of {group} on {pattern}"
        );
        self.was_published(publisher, topic, sequence);
        let key = (
            pattern.clone(),
            group.clone(),
            publisher,
            topic.to_string(),
            sequence,
        );
        assert!(
            self.grouped.insert(key),
            "{topic} #{sequence} of {publisher} went to two members of {group}"
        );
        self.totals.grouped += 1;
    }

    /// Drops were told.
    pub(crate) fn told(&mut self, ear: &mut Ear, subscription: Id, dropped: u64) {
        assert!(
            ear.subscriptions.contains_key(&subscription),
            "drops told of {subscription}, which is unknown"
        );
        let before = ear.dropped.insert(subscription, dropped).unwrap_or(0);
        assert!(dropped > before, "drops are cumulative: {dropped} after {before}");
        self.totals.dropped += dropped - before;
    }

    /// At the end: what a connection that lived to see it must have heard, or been told of.
    pub(crate) fn settles(&self, ear: &Ear, faithful: &BTreeSet<u64>) {
        let Some(since) = &ear.since else { return };
        if ear.cut_short {
            return;
        }
        if !self.publishers().is_subset(faithful) {
            // What a publisher that died had said last may never have left it.
            return;
        }
        // Each subscription for itself: an event that two would have shared is missed by both.
        for (id, (pattern, group)) in &ear.subscriptions {
            if group.is_some() {
                continue;
            }
            let (mut owed, mut heard) = (0, 0);
            for ((publisher, topic), count) in &self.published {
                if target::matches(pattern, topic) {
                    owed += count - from(since, *publisher, topic);
                    heard += ear
                        .plain
                        .get(&(*publisher, topic.clone()))
                        .map_or(0, |(_, count)| *count);
                }
            }
            let told = Self::told_of(ear, *id);
            assert_eq!(
                heard + told,
                owed,
                "{heard} heard on {pattern}, {told} told to be dropped"
            );
        }
    }

    /// At the end: every event of a group whose members all lived was heard by one, or told to be dropped by one.
    pub(crate) fn group_settles(&self, pattern: &str, group: &str, since: &Published, told: u64) {
        let mut owed = 0;
        let mut heard = 0;
        for ((publisher, topic), count) in &self.published {
            if !target::matches(pattern, topic) {
                continue;
            }
            let first = from(since, *publisher, topic);
            owed += count - first;
            let key = |sequence| {
                (
                    pattern.to_string(),
                    group.to_string(),
                    *publisher,
                    topic.clone(),
                    sequence,
                )
            };
            heard += self.grouped.range(key(first)..key(u64::MAX)).count() as u64;
        }
        assert_eq!(
            heard + told,
            owed,
            "group {group} on {pattern}: {heard} heard, {told} told to be dropped"
        );
    }

    /// Drops told for one subscription.
    pub(crate) fn told_of(ear: &Ear, subscription: Id) -> u64 {
        ear.dropped.get(&subscription).copied().unwrap_or(0)
    }

    /// An answer reached a caller.
    pub(crate) fn answers(&mut self, state: &mut CallState, code: Option<Code>, value: Option<u64>) {
        let CallState::Open { argument, cancelled } = state else {
            panic!("a call was answered twice");
        };
        match code {
            None => {
                assert_eq!(value, Some(*argument + 1), "the answer to another call");
                assert!(
                    !*cancelled || value.is_some(),
                    "a cancelled call may still have been answered just before"
                );
                self.totals.answers += 1;
            }
            Some(Code::Cancelled) => {
                assert!(*cancelled, "cancelled, which its caller did not");
                self.totals.failed_calls += 1;
            }
            Some(Code::Unavailable | Code::ResourceExhausted) => self.totals.failed_calls += 1,
            Some(other) => panic!("a call failed with {other:?}"),
        }
        *state = CallState::Ended;
    }

    fn publishers(&self) -> BTreeSet<u64> {
        self.published.keys().map(|(publisher, _)| *publisher).collect()
    }

    fn was_published(&self, publisher: u64, topic: &str, sequence: u64) {
        let count = self
            .published
            .get(&(publisher, topic.to_string()))
            .copied()
            .unwrap_or(0);
        assert!(
            sequence < count,
            "#{sequence} of {publisher} on {topic} was never published"
        );
    }
}

fn from(since: &Published, publisher: u64, topic: &str) -> u64 {
    since.get(&(publisher, topic.to_string())).copied().unwrap_or(0)
}
