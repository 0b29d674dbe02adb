//! The auditor: what publishers were told, what subscribers handled, and what must never be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fluxar_protocol::Id;

/// Names an event: its publisher and its number there, from 1 on. It is also what its id is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EventName {
    pub(crate) publisher: u32,
    pub(crate) number: u64,
}

impl EventName {
    pub(crate) fn id(self) -> Id {
        let mut id = [0; 16];
        id[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        id[8..].copy_from_slice(&self.number.to_be_bytes());
        Id(id)
    }

    pub(crate) fn of(id: Id) -> Self {
        let number =
            |range: std::ops::Range<usize>| id.0[range].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        Self {
            publisher: number(4..8) as u32,
            number: number(8..16),
        }
    }
}

/// A place in the log.
pub(crate) type Place = (u16, u64);

/// One subscriber's account.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    /// Handled once each, or at least once for work queues.
    pub(crate) events: HashMap<EventName, Place>,
    /// The last of each publisher and topic, for order, and where it is.
    last: HashMap<(u32, String), (u64, Place)>,
    /// Of a work queue: what was given as what nobody had before.
    given_first: HashSet<EventName>,
    /// Told again and recognised by position: no fault.
    pub(crate) repeats: u64,
}

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// What each publisher was acknowledged, and where it is.
    pub(crate) acked: HashMap<EventName, Place>,
    /// How far each publisher's numbers go: all that was ever sent.
    pub(crate) published: BTreeMap<u32, u64>,
    pub(crate) subscribers: BTreeMap<&'static str, Handled>,
    /// The last offset of each partition that anybody was told of, publisher or subscriber: what a power cut must leave.
    pub(crate) told_until: HashMap<u16, u64>,
    /// Handled behind a later one of the same publisher and topic.
    pub(crate) reordered: u64,
    pub(crate) faults: Vec<String>,
    /// How many there were, the ones not worded included.
    pub(crate) fault_count: u64,
}

/// Faults that are worded; more say nothing new.
const FAULTS_WORDED: usize = 20;

/// Shared by all threads of the harness.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Accounts>);

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    pub(crate) fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_WORDED {
            self.faults.push(what);
        }
    }

    /// A publish was acknowledged.
    pub(crate) fn acknowledged(&mut self, event: EventName, place: Place) {
        if place.1 == 0 {
            self.fault(format!("{event:?} was acknowledged without a position"));
        }
        match self.acked.insert(event, place) {
            Some(before) if before != place => {
                self.fault(format!(
                    "{event:?} was acknowledged at {before:?} and then at {place:?}"
                ));
            }
            _ => {}
        }
        self.told(place);
    }

    fn told(&mut self, place: Place) {
        let until = self.told_until.entry(place.0).or_default();
        *until = place.1.max(*until);
    }

    /// A handler ran for an event at qos 2.
    pub(crate) fn handled_once(&mut self, who: &'static str, topic: &str, event: EventName, place: Place) {
        self.told(place);
        let account = self.subscribers.entry(who).or_default();
        let before = account.events.insert(event, place);
        let last = account
            .last
            .entry((event.publisher, topic.to_owned()))
            .or_default();
        let later = (last.0 >= event.number).then_some(*last);
        *last = (event.number, place).max(*last);
        if let Some(before) = before {
            self.fault(format!(
                "{who} handled {event:?} twice, at {before:?} and at {place:?}"
            ));
        } else if let Some((number, later)) = later {
            self.reordered += 1;
            self.fault(format!(
                "{who} handled {event:?} of {topic}, at {place:?}, behind {number}, at {later:?}"
            ));
        }
        if let Some(acked) = self.acked.get(&event).copied()
            && acked != place
        {
            self.fault(format!(
                "{event:?} was acknowledged at {acked:?} and delivered to {who} at {place:?}"
            ));
        }
    }

    /// Whether this subscriber has handled the event before, at the same place.
    pub(crate) fn is_told_again(&mut self, who: &'static str, event: EventName, place: Place) -> bool {
        let account = self.subscribers.entry(who).or_default();
        let is_again = account.events.get(&event) == Some(&place);
        account.repeats += u64::from(is_again);
        is_again
    }

    /// A worker of a queue handled an event, perhaps not as the first: `dup` says so.
    pub(crate) fn worked(&mut self, who: &'static str, event: EventName, place: Place, dup: u64) {
        self.told(place);
        let account = self.subscribers.entry(who).or_default();
        let before = account.events.insert(event, place);
        account.repeats += u64::from(before.is_some());
        // What another worker was given may be read from its connection later than what came of it here.
        let is_first_again = dup == 0 && !account.given_first.insert(event);
        if is_first_again {
            self.fault(format!(
                "{who} was given {event:?} at {place:?} twice as what nobody had before"
            ));
        }
        if let Some(before) = before.filter(|before| *before != place) {
            self.fault(format!(
                "{who} was given {event:?} at {before:?} and at {place:?}"
            ));
        }
    }

    /// Whether each subscriber handled something.
    pub(crate) fn has_everybody_handled(&self) -> bool {
        let mut accounts = self.subscribers.values();
        accounts.all(|account| !account.events.is_empty())
    }

    /// Whether each subscriber handled as many events as were acknowledged.
    pub(crate) fn is_all_handled(&self) -> bool {
        let mut accounts = self.subscribers.values();
        accounts.all(|account| account.events.len() >= self.acked.len())
    }

    /// What each subscriber still lacks of what was acknowledged.
    pub(crate) fn missing(&self) -> Vec<(&'static str, usize, Option<EventName>)> {
        self.subscribers
            .iter()
            .map(|(who, account)| {
                let mut lacking = self
                    .acked
                    .keys()
                    .filter(|event| !account.events.contains_key(event));
                let first = lacking.clone().min().copied();
                (*who, lacking.by_ref().count(), first)
            })
            .collect()
    }
}
