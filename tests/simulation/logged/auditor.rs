//! What publishers were told, what subscribers were given, and what must follow from it [P-5.8 – P-5.12 in
//! docs/protocol.md].
//!
//! At the end of a life somebody reads the whole log from its beginning: that is the *truth*. What was acknowledged is in
//! it, where it was said to be; what anybody was given is in it; and everybody has got of it what they asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fluxar_protocol::target;

use super::history::{History, What};

/// Names an event: its publisher and its number there, from 1 on. It is also what its id is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EventName {
    pub(crate) publisher: u32,
    pub(crate) number: u32,
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.publisher, self.number)
    }
}

/// A place in the log: partition and offset.
pub(crate) type Place = (u16, u64);

/// What an acknowledgement survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strength {
    /// Neither.
    Memory,
    /// The end of the process.
    Written,
    /// The loss of power, too.
    Synced,
}

/// An event as its publisher made it.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) topic: &'static str,
    pub(crate) once: bool,
    pub(crate) strength: Strength,
    /// Of a table: its key, and whether it removes the row.
    pub(crate) row: Option<(u8, bool)>,
    /// It was refused for a while at least once.
    refused: bool,
}

/// What the log holds, and who read it.
pub(crate) struct Truth {
    pub(crate) reader: u32,
    /// Behind which places it is held.
    pub(crate) begin: BTreeMap<u16, u64>,
    pub(crate) log: BTreeMap<Place, EventName>,
}

impl Truth {
    /// Whether a place is before what is held.
    fn lies_before(&self, place: Place) -> bool {
        self.begin.get(&place.0).is_some_and(|before| place.1 <= *before)
    }
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) promise: String,
    pub(crate) history: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.promise, self.history)
    }
}

/// What was lived through, for the table at the end.
#[derive(Default, Clone)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) given: u64,
    pub(crate) repeated: u64,
    pub(crate) worked: u64,
    pub(crate) worked_again: u64,
    pub(crate) starts: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) stops: u64,
    pub(crate) flips: u64,
    pub(crate) told_damaged: u64,
    pub(crate) told_gone: u64,
    pub(crate) lost_connections: u64,
    pub(crate) takeovers: u64,
    pub(crate) disk_operations: u64,
    pub(crate) struck: u64,
}

impl Totals {
    /// Name and value of each.
    pub(crate) fn rows(&self) -> [(&'static str, u64); 18] {
        [
            ("events published", self.published),
            ("acknowledged", self.acknowledged),
            ("refused for a while", self.refused),
            ("given to subscribers", self.given),
            ("of these, repeated", self.repeated),
            ("given to members of queues", self.worked),
            ("of these, again", self.worked_again),
            ("starts of the gateway", self.starts),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("stops in good order", self.stops),
            ("bits flipped", self.flips),
            ("subscribers told of damage", self.told_damaged),
            ("subscribers told what is gone", self.told_gone),
            ("connections lost", self.lost_connections),
            ("subscriptions taken over", self.takeovers),
            ("operations of disks", self.disk_operations),
            ("faults that were planted", self.struck),
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.given += other.given;
        self.repeated += other.repeated;
        self.worked += other.worked;
        self.worked_again += other.worked_again;
        self.starts += other.starts;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.stops += other.stops;
        self.flips += other.flips;
        self.told_damaged += other.told_damaged;
        self.told_gone += other.told_gone;
        self.lost_connections += other.lost_connections;
        self.takeovers += other.takeovers;
        self.disk_operations += other.disk_operations;
        self.struck += other.struck;
    }
}

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows()).finish()
    }
}

/// Crashes so far, by what they take away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    processes: u32,
    power: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    pub(crate) history: History,
    pub(crate) totals: Totals,
    pub(crate) now_ns: u64,
    broken: Option<Broken>,
    published: BTreeMap<EventName, Published>,
    /// Where its publisher was told that it is, and how much had been lost by then.
    acked: BTreeMap<EventName, (Place, Losses)>,
    /// What stands at a place, as anybody was told, and how much had been lost when it was told last.
    places: BTreeMap<Place, (EventName, Losses)>,
    /// Places of each qos 2 event.
    once_at: BTreeMap<EventName, Place>,
    pub(crate) losses: Losses,
    /// What had been lost when the connection was made over which things are told now: they were said no earlier.
    pub(crate) told_since: Losses,
    /// Starts behind a gateway that had not stopped in good order.
    pub(crate) rough_starts: u64,
    /// Events go in time, and so do their ids: those of one that is published again may be gone.
    pub(crate) retains: bool,
    /// Given plainly, and how much had been lost by then.
    seen: BTreeMap<EventName, Losses>,
    /// Reads failed for a while.
    pub(crate) reads_fail: bool,
    /// Who was told that which range is damaged.
    damaged: BTreeSet<(u32, u16, u64, u64)>,
}

impl Auditor {
    /// The promise that was broken first.
    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(crate) fn breaks(
        &mut self,
        promise: String,
        event: Option<EventName>,
        place: Option<Place>,
        who: Option<u32>,
    ) {
        if self.broken.is_none() {
            let history = self.history.around(event.as_slice(), place, who);
            self.broken = Some(Broken { promise, history });
        }
    }

    /// Of two events of one publisher.
    fn breaks_between(&mut self, promise: String, events: [EventName; 2]) {
        if self.broken.is_none() {
            let history = self.history.around(&events, None, Some(events[0].publisher));
            self.broken = Some(Broken { promise, history });
        }
    }

    pub(crate) fn note(&mut self, what: What) {
        self.history.note(self.now_ns, what);
    }

    pub(crate) fn upheaval(&mut self, what: impl Into<String>) {
        self.note(What::Upheaval(what.into()));
    }

    /// The gateway ended without having been asked to; what only its memory held is gone.
    pub(crate) fn process_is_lost(&mut self) {
        self.losses.processes += 1;
    }

    /// And what was not synced.
    pub(crate) fn power_is_lost(&mut self) {
        self.losses.processes += 1;
        self.losses.power += 1;
    }

    /// Whether what was told then may be gone now.
    fn may_be_lost(&self, strength: Strength, told: Losses) -> bool {
        match strength {
            Strength::Memory => self.losses.processes > told.processes,
            Strength::Written => self.losses.power > told.power,
            Strength::Synced => false,
        }
    }

    /// Whether one of these was told that a place is damaged.
    fn is_damaged(&self, place: Place, by: &[u32]) -> bool {
        self.damaged.iter().any(|(who, partition, first, last)| {
            by.contains(who) && *partition == place.0 && (*first..=*last).contains(&place.1)
        })
    }

    /// A publisher made an event, and is about to send it.
    pub(crate) fn publishes(
        &mut self,
        event: EventName,
        topic: &'static str,
        once: bool,
        strength: Strength,
        row: Option<(u8, bool)>,
    ) {
        self.totals.published += 1;
        self.note(What::Published(event));
        let published = Published {
            topic,
            once,
            strength,
            row,
            refused: false,
        };
        self.published.insert(event, published);
    }

    pub(crate) fn refuses(&mut self, event: EventName, code: fluxar_protocol::Code) {
        self.totals.refused += 1;
        self.note(What::Refused(event, code));
        if let Some(published) = self.published.get_mut(&event) {
            published.refused = true;
        }
    }

    /// A publisher was told where its event is.
    pub(crate) fn acknowledges(&mut self, event: EventName, place: Place) {
        self.totals.acknowledged += 1;
        self.note(What::Acknowledged(event, place));
        self.acked.insert(event, (place, self.told_since));
        self.stands(event, place);
    }

    /// Somebody was told that an event stands at a place.
    fn stands(&mut self, event: EventName, place: Place) {
        if place.1 == 0 {
            self.breaks(
                format!("{event:?} has no position"),
                Some(event),
                Some(place),
                None,
            );
        }
        if let Some((before, _)) = self.places.insert(place, (event, self.told_since))
            && before != event
        {
            let promise = format!("{place:?} names two events: {before:?} and {event:?}");
            self.breaks(promise, Some(event), Some(place), None);
        }
        let Some(published) = self.published.get(&event) else {
            let promise = format!("{event:?} at {place:?} was never published");
            return self.breaks(promise, Some(event), Some(place), None);
        };
        if !published.once || published.strength != Strength::Synced || self.retains {
            return;
        }
        if let Some(before) = self.once_at.insert(event, place)
            && before != place
            && self.totals.flips == 0
        {
            let promise = format!("{event:?} of qos 2 is at {before:?} and at {place:?}");
            self.breaks(promise, Some(event), Some(place), None);
        }
    }

    /// A subscriber was given an event at a place, under this topic.
    pub(crate) fn gives(
        &mut self,
        who: u32,
        pattern: &str,
        topic: &str,
        event: EventName,
        place: Place,
        dup: u64,
    ) {
        self.totals.given += 1;
        self.note(What::Given {
            who,
            event,
            place,
            dup,
        });
        self.stands(event, place);
        let is_its = self
            .published
            .get(&event)
            .is_some_and(|published| published.topic == topic);
        if !is_its || !target::matches(pattern, topic) {
            let promise = format!("{who} was given {event:?} of {topic} for {pattern}");
            self.breaks(promise, Some(event), Some(place), Some(who));
        }
    }

    /// A subscriber was told that a range is damaged.
    pub(crate) fn is_told_damaged(&mut self, who: u32, partition: u16, first: u64, last: u64) {
        self.totals.told_damaged += 1;
        self.note(What::Contact {
            who,
            what: format!("damage in {partition}, {first} to {last}"),
        });
        if self.totals.flips == 0 && !self.reads_fail {
            let promise =
                format!("{who} was told that {partition}, {first} to {last} is damaged, which it is not");
            self.breaks(promise, None, Some((partition, first)), Some(who));
        }
        self.damaged.insert((who, partition, first, last));
    }

    /// A subscriber at qos 0 was given an event.
    pub(crate) fn sees(&mut self, who: u32, pattern: &str, topic: &str, event: EventName) {
        self.totals.given += 1;
        let published = self.published.get(&event);
        if published.is_none_or(|published| published.topic != topic) || !target::matches(pattern, topic) {
            let promise = format!("{who} was given {event:?} of {topic} for {pattern}");
            self.breaks(promise, Some(event), None, Some(who));
        }
        self.seen.insert(event, self.told_since);
    }

    /// Somebody was told that what is before a place is not held any more.
    pub(crate) fn is_told_gone(&mut self, who: u32, partition: u16, first: u64) {
        self.totals.told_gone += 1;
        self.note(What::Contact {
            who,
            what: format!("nothing in {partition} before {first}"),
        });
        if !self.retains {
            let promise =
                format!("{who} was told that {partition} begins at {first}, and nothing may be gone");
            self.breaks(promise, None, Some((partition, first)), Some(who));
        }
        self.damaged.insert((who, partition, 1, first.saturating_sub(1)));
    }

    /// A member of a queue asks for what is behind a place.
    pub(crate) fn passes_over(&mut self, who: u32, partition: u16, last: u64) {
        self.damaged.insert((who, partition, 1, last));
    }

    pub(crate) fn published(&self, event: EventName) -> Option<&Published> {
        self.published.get(&event)
    }

    /// Whether the truth holds all that was acknowledged and could not be lost, so that it is worth to be looked at.
    pub(crate) fn has_all(&self, truth: &Truth) -> bool {
        self.acked.iter().all(|(event, (place, told))| {
            truth.log.contains_key(place)
                || truth.lies_before(*place)
                || self.is_damaged(*place, &[truth.reader])
                || self
                    .published
                    .get(event)
                    .is_some_and(|published| self.may_be_lost(published.strength, *told))
        })
    }

    /// Holds the truth against what was said.
    pub(crate) fn audit(&mut self, truth: &Truth) {
        for (event, (place, told)) in self.acked.clone() {
            let strength = self.published[&event].strength;
            let is_there = truth.log.get(&place) == Some(&event) || truth.lies_before(place);
            if !is_there && !self.is_damaged(place, &[truth.reader]) && !self.may_be_lost(strength, told) {
                let promise = format!("{event:?} was acknowledged at {place:?}, and is not there");
                return self.breaks(promise, Some(event), Some(place), None);
            }
        }
        for (place, (event, told)) in self.places.clone() {
            let strength = self.published[&event].strength;
            let is_there = truth.log.get(&place) == Some(&event) || truth.lies_before(place);
            if !is_there && !self.is_damaged(place, &[truth.reader]) && !self.may_be_lost(strength, told) {
                let promise = format!("{event:?} at {place:?} was given to somebody, and is not there");
                return self.breaks(promise, Some(event), Some(place), None);
            }
        }
        let held: BTreeSet<EventName> = truth.log.values().copied().collect();
        for (event, told) in self.seen.clone() {
            let strength = self.published[&event].strength;
            let may_be_gone = self.retains || self.totals.flips > 0 || self.may_be_lost(strength, told);
            if !held.contains(&event) && !may_be_gone {
                let promise = format!("{event:?} was given to a subscriber at qos 0, and is not there");
                return self.breaks(promise, Some(event), None, None);
            }
        }
        self.audit_order(truth);
        self.audit_offsets(truth);
    }

    /// Of one publisher and topic events stand in the order in which they were published, those that came twice by
    /// their first.
    fn audit_order(&mut self, truth: &Truth) {
        let mut last: BTreeMap<(u32, &str), EventName> = BTreeMap::new();
        let mut seen: BTreeSet<EventName> = BTreeSet::new();
        let mut broken = None;
        for (place, event) in &truth.log {
            let published = &self.published[event];
            // Where something is gone, the first of those that came twice may be.
            if !seen.insert(*event) || truth.begin.contains_key(&place.0) {
                continue;
            }
            if let Some(before) = last.insert((event.publisher, published.topic), *event)
                && before > *event
                && !self
                    .damaged
                    .iter()
                    .any(|range| (range.0, range.1) == (truth.reader, place.0))
            {
                broken.get_or_insert([before, *event]);
            }
        }
        if let Some(events) = broken {
            let promise = format!("{:?} stands before {:?}", events[0], events[1]);
            self.breaks_between(promise, events);
        }
    }

    /// Offsets are dense but where a start followed a crash.
    fn audit_offsets(&mut self, truth: &Truth) {
        let mut jumps: BTreeMap<u16, u64> = BTreeMap::new();
        let mut before: Option<Place> = None;
        for place in truth.log.keys() {
            let first = truth.begin.get(&place.0).copied().unwrap_or(0);
            let last = before
                .filter(|(partition, _)| *partition == place.0)
                .map_or(first, |(_, offset)| offset);
            if place.1 != last + 1 {
                // What is missing may begin, or end, with what is damaged.
                let damage = [(place.0, last + 1), (place.0, place.1 - 1)];
                if damage
                    .iter()
                    .any(|place| self.is_damaged(*place, &[truth.reader]))
                {
                    before = Some(*place);
                    continue;
                }
                *jumps.entry(place.0).or_default() += 1;
                if place.1 % 1_000_000 != 1 || jumps[&place.0] > self.rough_starts {
                    let promise = format!("offsets jump from {last} to {place:?}");
                    let event = truth.log.get(place).copied();
                    return self.breaks(promise, event, Some(*place), Some(truth.reader));
                }
            }
            before = Some(*place);
        }
    }

    /// The first event of the truth that somebody who asked for a pattern, from these places on, did not get.
    pub(crate) fn lacks(
        &self,
        truth: &Truth,
        by: &[u32],
        pattern: &str,
        begin: &BTreeMap<u16, u64>,
        mut has: impl FnMut(Place, EventName) -> bool,
    ) -> Option<(EventName, Place)> {
        let mut wanted = truth.log.iter().filter(|(place, event)| {
            target::matches(pattern, self.published[*event].topic)
                && place.1 > begin.get(&place.0).copied().unwrap_or(0)
                && !self.is_damaged(**place, by)
        });
        let lacking = wanted.find(|(place, event)| !has(**place, **event));
        lacking.map(|(place, event)| (*event, *place))
    }

    /// The rows that tables have by the truth: topic and key, to the event.
    pub(crate) fn rows(&self, truth: &Truth, pattern: &str) -> BTreeMap<(&'static str, u8), EventName> {
        let mut rows = BTreeMap::new();
        // Rows stay when their events are gone for everybody else.
        let mut all: BTreeMap<Place, EventName> = truth.log.clone();
        let gone = self.places.iter().filter(|(place, _)| truth.lies_before(**place));
        all.extend(gone.map(|(place, (event, _))| (*place, *event)));
        for event in all.values() {
            let published = &self.published[event];
            let Some((key, removes)) = published.row else {
                continue;
            };
            if !target::matches(pattern, published.topic) {
                continue;
            }
            if removes {
                rows.remove(&(published.topic, key));
            } else {
                rows.insert((published.topic, key), *event);
            }
        }
        rows
    }
}
