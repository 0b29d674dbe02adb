//! What publishers were told, what subscribers were given, and what must follow from it [P-5.8 – P-5.12 in
//! docs/protocol.md].
//!
//! At the end of a life somebody reads the whole log from its beginning: that is the *truth*. What was acknowledged is in
//! it, where it was said to be; what anybody was given is in it; and everybody has got of it what they asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fluxar_protocol::{Id, target};

use super::history::{History, What};
use super::totals::Totals;

const MS: u64 = 1_000_000;

/// Where events go that no member of a queue could handle.
pub(crate) const DEAD_TOPIC: &str = "dead.letters";
/// What was handed over in time arrives no later than this.
pub(crate) const UNDER_WAY_NS: u64 = 2_000_000_000;
/// Marks the publishers of [`EventName::set_aside`].
const ASIDE: u32 = 1 << 31;

/// Names an event: its publisher and its number there, from 1 on. It is also what its id is made of, but for one that was
/// set aside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EventName {
    pub(crate) publisher: u32,
    pub(crate) number: u32,
}

impl EventName {
    /// The dead letter that is made of it.
    pub(crate) fn set_aside(self) -> Self {
        Self {
            publisher: self.publisher | ASIDE,
            ..self
        }
    }

    pub(crate) fn is_dead_letter(self) -> bool {
        self.publisher & ASIDE != 0
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_dead_letter() {
            f.write_str("dead ")?;
        }
        write!(f, "{}#{}", self.publisher & !ASIDE, self.number)
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
    /// After so long it is worth nothing.
    pub(crate) ttl_ms: Option<u64>,
    /// When it was published first.
    pub(crate) at_ns: u64,
}

/// What a dead letter says of the event that it was.
pub(crate) struct DeadLetter<'a> {
    pub(crate) id: Id,
    pub(crate) topic: &'a str,
    pub(crate) at: Option<Place>,
    pub(crate) deliveries: u64,
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
    pub(super) published: BTreeMap<EventName, Published>,
    /// Where its publisher was told that it is, and how much had been lost by then.
    pub(super) acked: BTreeMap<EventName, (Place, Losses)>,
    /// What stands at a place, as anybody was told, and how much had been lost when it was told last.
    pub(super) places: BTreeMap<Place, (EventName, Losses)>,
    /// When anybody was told first what stands at a place.
    known_ns: BTreeMap<Place, u64>,
    /// Places of each qos 2 event.
    once_at: BTreeMap<EventName, Place>,
    pub(crate) losses: Losses,
    /// What had been lost when the connection was made over which things are told now: they were said no earlier.
    pub(crate) told_since: Losses,
    /// Starts behind a gateway that had not stopped in good order.
    pub(crate) rough_starts: u64,
    /// Counts the times between a start and what ends them: sessions live in one of them.
    pub(crate) era: u64,
    /// They wait for those who come back for as long as any of them may be away.
    pub(crate) sessions_last: bool,
    /// How often an event is given to members of a queue before it is set aside.
    pub(crate) deliveries_max: Option<u32>,
    /// The ids of dead letters.
    letters: BTreeMap<EventName, Id>,
    /// Events go in time, and so do their ids: those of one that is published again may be gone.
    pub(crate) retains: bool,
    /// So many of each partition are kept in any case.
    pub(crate) retain_events: u64,
    /// Given plainly, and how much had been lost by then.
    pub(super) seen: BTreeMap<EventName, Losses>,
    /// Reads failed since the last start.
    pub(crate) reads_fail: bool,
    /// They failed at some start: what that could not read of cursors it may have written anew.
    pub(crate) reads_failed: bool,
    /// Who was told that which range is damaged.
    pub(super) damaged: BTreeSet<(u32, u16, u64, u64)>,
    /// Ranges in which a bit flipped: partition, first and last.
    flipped: BTreeSet<(u16, u64, u64)>,
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
    pub(super) fn breaks_between(&mut self, promise: String, events: [EventName; 2]) {
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
    pub(super) fn may_be_lost(&self, strength: Strength, told: Losses) -> bool {
        match strength {
            Strength::Memory => self.losses.processes > told.processes,
            Strength::Written => self.losses.power > told.power,
            Strength::Synced => false,
        }
    }

    /// Whether one of these was told that a place is damaged.
    pub(super) fn is_damaged(&self, place: Place, by: &[u32]) -> bool {
        self.damaged.iter().any(|(who, partition, first, last)| {
            by.contains(who) && *partition == place.0 && (*first..=*last).contains(&place.1)
        })
    }

    /// Whether an event may be worth nothing by now.
    pub(super) fn may_have_expired(&self, event: EventName) -> bool {
        let published = &self.published[&event];
        published
            .ttl_ms
            .is_some_and(|ttl_ms| self.now_ns >= published.at_ns + ttl_ms * MS)
    }

    /// Whether somebody whose session was opened in that era finds it again.
    pub(crate) fn owes_session(&self, era: u64) -> bool {
        self.sessions_last && era == self.era
    }

    /// A bit of events flips.
    pub(crate) fn flips(&mut self, partition: u16, first: u64, last: u64) {
        self.totals.flips += 1;
        self.flipped.insert((partition, first, last));
    }

    /// Whether a bit flipped in the batch of each event of a range.
    pub(super) fn has_flipped(&self, partition: u16, first: u64, last: u64) -> bool {
        let mut next = first;
        for &(_, begin, end) in self
            .flipped
            .range((partition, 0, 0)..=(partition, u64::MAX, u64::MAX))
        {
            if begin <= next {
                next = next.max(end.saturating_add(1));
            }
        }
        next > last
    }

    /// A publisher made an event, and is about to send it.
    pub(crate) fn publishes(&mut self, event: EventName, published: Published) {
        self.totals.published += 1;
        self.note(What::Published(event));
        self.published.insert(event, published);
    }

    /// Somebody was given what a queue set aside. The dead letter's name.
    pub(crate) fn sets_aside(&mut self, event: EventName, letter: &DeadLetter<'_>) -> EventName {
        let name = event.set_aside();
        let is_its = self
            .published
            .get(&event)
            .is_some_and(|published| published.topic == letter.topic);
        let stood_there = letter.at.is_some_and(|at| {
            let known = self.places.get(&at);
            at.1 > 0 && known.is_none_or(|(known, _)| *known == event)
        });
        let was_given = self
            .deliveries_max
            .is_some_and(|most| letter.deliveries >= u64::from(most));
        let is_same = *self.letters.entry(name).or_insert(letter.id) == letter.id;
        if !(is_its && stood_there && was_given && is_same) {
            let promise = format!(
                "{event:?} was set aside as one of {} at {:?}, given {} times, with the id {:?}",
                letter.topic, letter.at, letter.deliveries, letter.id
            );
            self.breaks(promise, Some(event), letter.at, None);
        }
        if !self.published.contains_key(&name) {
            self.totals.set_aside += 1;
            let published = Published {
                topic: DEAD_TOPIC,
                once: true,
                strength: Strength::Synced,
                row: None,
                ttl_ms: None,
                at_ns: self.now_ns,
            };
            self.published.insert(name, published);
        }
        name
    }

    pub(crate) fn refuses(&mut self, event: EventName, code: fluxar_protocol::Code) {
        self.totals.refused += 1;
        self.note(What::Refused(event, code));
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
        self.known_ns.entry(place).or_insert(self.now_ns);
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
        let ttl_ms = self.published.get(&event).and_then(|published| published.ttl_ms);
        if let Some(ttl_ms) = ttl_ms
            && self.now_ns > self.known_ns[&place] + ttl_ms * MS + UNDER_WAY_NS
        {
            let promise = format!("{who} was given {event:?} at {place:?}, which lives for {ttl_ms} ms");
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
        if !self.reads_fail && !self.has_flipped(partition, first, last) {
            let promise =
                format!("{who} was told that {partition}, {first} to {last} is damaged, which it is not");
            self.breaks(promise, None, Some((partition, first)), Some(who));
        }
        self.damaged.insert((who, partition, first, last));
    }

    /// A subscriber was told that its cursor may be lost.
    pub(crate) fn is_told_cursor_lost(&mut self, who: u32, partition: u16) {
        self.totals.told_damaged += 1;
        if self.totals.flips_beside == 0 && !self.reads_failed {
            let promise =
                format!("{who} was told that its cursor in {partition} is lost, and no cursor was damaged");
            self.breaks(promise, None, None, Some(who));
        }
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

    pub(crate) fn published(&self, event: EventName) -> Option<&Published> {
        self.published.get(&event)
    }
}
