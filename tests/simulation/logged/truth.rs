//! What the log holds at the end of a life, as somebody reads it from its beginning, held against what was said: what was
//! acknowledged is there, where it was said to be; what anybody was given is there; order and offsets are as promised.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::target;

use super::auditor::{Auditor, EventName, Losses, Place};

/// Copies of events that expired and of which nobody heard, one behind the other, at most.
const UNKNOWN_MOST: u64 = 1_000;

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

impl Auditor {
    /// Whether the truth has an event where somebody was told that it stands, or need not have it.
    fn is_accounted_for(&self, truth: &Truth, (place, event): (Place, EventName), told: Losses) -> bool {
        truth.log.get(&place) == Some(&event)
            || truth.lies_before(place)
            || self.is_damaged(place, &[truth.reader])
            || self.may_be_lost(self.published[&event].strength, told)
            || self.may_have_expired(event)
    }

    /// Whether the truth holds all that was acknowledged and could not be lost, so that it is worth to be looked at.
    pub(crate) fn has_all(&self, truth: &Truth) -> bool {
        let mut acked = self.acked.iter();
        acked.all(|(&event, &(place, told))| {
            truth.log.contains_key(&place) || self.is_accounted_for(truth, (place, event), told)
        })
    }

    /// Holds the truth against what was said.
    pub(crate) fn audit(&mut self, truth: &Truth) {
        for (event, (place, told)) in self.acked.clone() {
            if !self.is_accounted_for(truth, (place, event), told) {
                let promise = format!("{event:?} was acknowledged at {place:?}, and is not there");
                return self.breaks(promise, Some(event), Some(place), None);
            }
        }
        for (place, (event, told)) in self.places.clone() {
            if !self.is_accounted_for(truth, (place, event), told) {
                let promise = format!("{event:?} at {place:?} was given to somebody, and is not there");
                return self.breaks(promise, Some(event), Some(place), None);
            }
        }
        let held: BTreeSet<EventName> = truth.log.values().copied().collect();
        for (event, told) in self.seen.clone() {
            let may_be_gone = self.retains
                || self.totals.flips > 0
                || self.may_be_lost(self.published[&event].strength, told)
                || self.may_have_expired(event);
            if !held.contains(&event) && !may_be_gone {
                let promise = format!("{event:?} was given to a subscriber at qos 0, and is not there");
                return self.breaks(promise, Some(event), None, None);
            }
        }
        self.audit_order(truth);
        self.audit_offsets(truth);
        self.audit_retention(truth);
    }

    /// Nothing is let go of that is among the newest of its partition.
    fn audit_retention(&mut self, truth: &Truth) {
        for (&partition, &begin) in truth.begin.iter().filter(|(_, begin)| **begin > 0) {
            let held = truth.log.range((partition, begin + 1)..=(partition, u64::MAX));
            let held = held.count() as u64;
            let is_any_gone = self
                .places
                .range((partition, 0)..=(partition, begin))
                .next()
                .is_some();
            if is_any_gone && held < self.retain_events {
                let promise = format!(
                    "of {partition} the {} newest events are kept, and those up to {begin} are gone though only \
                     {held} are newer",
                    self.retain_events
                );
                return self.breaks(promise, None, Some((partition, begin)), Some(truth.reader));
            }
        }
    }

    /// Of one publisher and topic events stand in the order in which they were published, those that came twice by
    /// their first.
    fn audit_order(&mut self, truth: &Truth) {
        let mut last: BTreeMap<(u32, &str), EventName> = BTreeMap::new();
        let mut seen: BTreeSet<EventName> = BTreeSet::new();
        let mut broken = None;
        for (place, event) in &truth.log {
            let published = &self.published[event];
            // Where something is gone, the first of those that came twice may be. Events are set aside in any order.
            if !seen.insert(*event) || truth.begin.contains_key(&place.0) || event.is_dead_letter() {
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
        let expired = self
            .places
            .iter()
            .filter(|(place, (event, _))| !truth.log.contains_key(*place) && self.may_have_expired(*event));
        let mut places: BTreeSet<Place> = truth.log.keys().copied().collect();
        places.extend(expired.map(|(place, _)| *place));
        self.totals.expired += (places.len() - truth.log.len()) as u64;
        // Of an event that came twice nobody may have been told where its second copy was.
        let unknown_most = if self
            .published
            .values()
            .any(|published| published.ttl_ms.is_some())
        {
            UNKNOWN_MOST
        } else {
            0
        };
        for place in &places {
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
                if place.1 - last <= 1 + unknown_most {
                    before = Some(*place);
                    continue;
                }
                *jumps.entry(place.0).or_default() += 1;
                let is_begin = (1..=1 + unknown_most).contains(&(place.1 % 1_000_000));
                if !is_begin || jumps[&place.0] > self.rough_starts {
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
        // What the reader was told of is gone on its way.
        let gone = self.places.iter().filter(|(place, _)| {
            !truth.log.contains_key(*place)
                && (truth.lies_before(**place) || self.is_damaged(**place, &[truth.reader]))
        });
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
