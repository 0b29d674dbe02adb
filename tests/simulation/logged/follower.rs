//! A subscriber that is in no queue: one with a durable cursor, one that comes back with its positions, one that reads
//! all there is, one that keeps a table.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::position::{Acceptance, Position, write_positions};
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::encoded;

use super::auditor::{EventName, Place};
use super::citizen::{Given, Scene, ending_of, name_in};
use super::history::What;
use super::line::Line;

const MS: u64 = 1_000_000;

/// How one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// qos 2: a durable cursor, and it compares positions over all connections.
    Once,
    /// qos 1: a durable cursor, and what it had not acknowledged it forgets with its connection.
    Durable,
    /// qos 1: comes back with its positions.
    Returning,
    /// qos 1: reads all, and all again after each loss of its connection.
    FromAll,
    /// qos 1: the rows first.
    Table,
    /// qos 0: what passes.
    Plain,
}

/// See the module.
pub(crate) struct Follower {
    pub(crate) who: u32,
    /// Of its cursor, which a rival may have, too.
    pub(crate) name: u32,
    pub(crate) pattern: &'static str,
    pub(crate) how: How,
    sub: Option<Id>,
    is_accepted: bool,
    asks_at_ns: u64,
    epoch: Option<u64>,
    /// It goes on by its positions the next time, whatever else it would do.
    goes_by_positions: bool,
    /// Behind which places it began.
    pub(crate) begin: BTreeMap<u16, u64>,
    /// The last place of each partition that it handled, or was told that it may pass over.
    handled: BTreeMap<u16, u64>,
    /// The last place that this subscription brought over this connection; what comes lies behind it.
    brought: BTreeMap<u16, u64>,
    /// The last place that it brought over any.
    reached: BTreeMap<u16, u64>,
    /// What it acknowledged, and how much it had said of its session by then; and up to where the gateway is known to have
    /// taken that.
    acknowledged: Vec<(u64, Place)>,
    taken: BTreeMap<u16, u64>,
    /// Partitions in which something is to be acknowledged.
    to_acknowledge: BTreeSet<u16>,
    /// Handled and not acknowledged: forgotten with the connection by [`How::Durable`].
    pending: BTreeMap<Place, EventName>,
    pub(crate) seen: BTreeMap<Place, EventName>,
    once_at: BTreeMap<EventName, Place>,
    pub(crate) rows: BTreeMap<(&'static str, u8), EventName>,
}

impl Follower {
    pub(crate) fn new(who: u32, pattern: &'static str, how: How) -> Self {
        Self {
            who,
            name: who,
            pattern,
            how,
            sub: None,
            is_accepted: false,
            asks_at_ns: 0,
            epoch: None,
            goes_by_positions: false,
            begin: BTreeMap::new(),
            handled: BTreeMap::new(),
            brought: BTreeMap::new(),
            reached: BTreeMap::new(),
            acknowledged: Vec::new(),
            taken: BTreeMap::new(),
            to_acknowledge: BTreeSet::new(),
            pending: BTreeMap::new(),
            seen: BTreeMap::new(),
            once_at: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Whether it has a subscription that stands.
    pub(crate) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    pub(crate) fn is_cut_off(&mut self) {
        self.end_subscription(0);
        match self.how {
            How::Once | How::Returning | How::Plain => {}
            How::Durable => self.handled.clear(),
            How::FromAll => {
                self.handled.clear();
                self.seen.clear();
            }
            How::Table => {
                self.handled.clear();
                self.rows.clear();
            }
        }
        // What it had been told of damage it has noted elsewhere.
        if self.how == How::FromAll || self.how == How::Durable {
            self.goes_by_positions = false;
        }
    }

    fn end_subscription(&mut self, again_at_ns: u64) {
        self.sub = None;
        self.is_accepted = false;
        self.asks_at_ns = again_at_ns;
        self.brought.clear();
        self.reached.clear();
        self.acknowledged.clear();
        self.taken.clear();
        self.to_acknowledge.clear();
        self.pending.clear();
    }

    /// Its session goes on over another connection; so much of what it said the gateway had taken by then. Its subscription
    /// goes on behind what is acknowledged by that.
    pub(crate) fn goes_on(&mut self, taken: u64) {
        let own = &mut self.taken;
        self.acknowledged.retain(|&(said, (partition, offset))| {
            let is_taken = said <= taken;
            if is_taken {
                own.insert(partition, offset);
            }
            !is_taken
        });
        self.brought.clone_from(&self.taken);
    }

    pub(crate) fn hear(&mut self, envelope: &Envelope<'_>, scene: &mut Scene<'_>) {
        if self.how == How::Plain && (envelope.kind, envelope.reference) == (Kind::Event, None) {
            let topic = envelope.target.unwrap_or_default();
            let Some(event) = name_in(envelope, scene.auditor) else {
                let promise = format!("{} was given what nobody published", self.who);
                return scene.auditor.breaks(promise, None, None, Some(self.who));
            };
            return scene.auditor.sees(self.who, self.pattern, topic, event);
        }
        if envelope.kind != Kind::Subscribe || envelope.reference.is_none() || envelope.reference != self.sub
        {
            return;
        }
        if let Some(ending) = ending_of(envelope) {
            return self.ends(&ending, scene);
        }
        if let Some(at) = envelope.meta.and_then(|meta| meta.at().ok().flatten()) {
            let place = (at.partition, at.offset);
            scene.auditor.note(What::Moved { who: self.who, place });
            let handled = self.handled.entry(at.partition).or_default();
            *handled = at.offset.max(*handled);
            return;
        }
        let dropped = envelope.meta.and_then(|meta| meta.uint("dropped").ok().flatten());
        if let Some(dropped) = dropped.filter(|_| self.how == How::Plain) {
            // What passed while it was away.
            let what = format!("missed {dropped}");
            return scene.auditor.note(What::Contact { who: self.who, what });
        }
        let Some(acceptance) = Acceptance::read(envelope.payload) else {
            let promise = format!("{} got an acceptance that cannot be read", self.who);
            return scene.auditor.breaks(promise, None, None, Some(self.who));
        };
        self.is_accepted = true;
        let is_first = self.epoch.replace(acceptance.epoch).is_none();
        let mut text = String::from("accepted behind");
        for at in acceptance.at.iter() {
            text += &format!(" {}:{}", at.partition, at.offset);
            if is_first && self.how == How::Returning {
                self.begin.insert(at.partition, at.offset);
            }
            // Where it has something already it goes on behind that, by its positions: it began earlier.
            let is_anew = !self.handled.contains_key(&at.partition);
            // Everything that is held: before a start was done, or while nobody was accepted, more may have been let go.
            let has_asked_for_all = match self.how {
                How::FromAll => true,
                How::Once | How::Durable => is_first,
                _ => false,
            };
            if has_asked_for_all && scene.auditor.retains && is_anew {
                self.begin.insert(at.partition, at.offset);
            }
            if self.how == How::Returning {
                self.handled.entry(at.partition).or_insert(at.offset);
            }
        }
        scene.auditor.note(What::Contact {
            who: self.who,
            what: text,
        });
    }

    fn ends(&mut self, ending: &super::citizen::Ending, scene: &mut Scene<'_>) {
        let what = format!("ended: {:?}, {}", ending.code, ending.message);
        scene.auditor.note(What::Contact { who: self.who, what });
        let pause_ms = ending.retry_after_ms.map_or(20, u64::from);
        match (ending.code, ending.partition, ending.first, ending.last) {
            (Code::Unavailable | Code::Aborted, ..) => {}
            (Code::ResourceExhausted, ..) if ending.retry_after_ms.is_some() => {}
            (Code::DataLoss, Some(partition), Some(first), Some(last)) => {
                scene.auditor.is_told_damaged(self.who, partition, first, last);
                let handled = self.handled.entry(partition).or_default();
                *handled = last.max(*handled);
                self.goes_by_positions = true;
            }
            // Nobody knows where its cursor was: it says itself where to go on.
            (Code::DataLoss, Some(partition), Some(_), None) => {
                scene.auditor.is_told_cursor_lost(self.who, partition);
                self.goes_by_positions = true;
            }
            (Code::OutOfRange, Some(partition), Some(first), _) => {
                scene.auditor.is_told_gone(self.who, partition, first);
                let handled = self.handled.entry(partition).or_default();
                *handled = first.saturating_sub(1).max(*handled);
                self.goes_by_positions = true;
            }
            (code, ..) => {
                let promise = format!("{} was ended {code:?}: {}", self.who, ending.message);
                let place = ending
                    .partition
                    .map(|partition| (partition, ending.first.unwrap_or(0)));
                scene.auditor.breaks(promise, None, place, Some(self.who));
            }
        }
        if self.goes_by_positions {
            // What it got and did not acknowledge it keeps: its positions say that it has it.
            self.seen.append(&mut self.pending);
        }
        if self.how == How::Table {
            self.rows.clear();
        }
        self.end_subscription(scene.now_ns + pause_ms * MS);
        // What it asks for next by no position it reads again.
        if matches!(self.how, How::Durable | How::FromAll) && !self.goes_by_positions {
            self.handled.clear();
        }
        if self.how == How::FromAll && !self.goes_by_positions {
            self.seen.clear();
        }
    }

    pub(crate) fn is_given(&mut self, given: &Given<'_>, scene: &mut Scene<'_>) {
        if self.sub != Some(given.sub) {
            return; // of a subscription that was given up
        }
        let (place, event) = (given.place, given.event);
        scene
            .auditor
            .gives(self.who, self.pattern, given.topic, event, place, given.dup);
        let brought = self.brought.entry(place.0).or_default();
        if place.1 <= *brought {
            let promise = format!("{} was given {place:?} behind {brought}", self.who);
            scene
                .auditor
                .breaks(promise, Some(event), Some(place), Some(self.who));
        }
        *brought = place.1;
        self.to_acknowledge.insert(place.0);
        let reached = self.reached.entry(place.0).or_default();
        // The rows of a table come again as they are then.
        if place.1 <= *reached && given.dup == 0 && self.how != How::Table {
            let promise = format!("{} was given {place:?} again, and not told so", self.who);
            scene
                .auditor
                .breaks(promise, Some(event), Some(place), Some(self.who));
        }
        *reached = place.1.max(*reached);
        let handled = self.handled.entry(place.0).or_default();
        if place.1 <= *handled && self.how != How::Table {
            scene.auditor.totals.repeated += 1;
            return;
        }
        *handled = place.1.max(*handled);
        if self.how == How::Durable {
            self.pending.insert(place, event);
        } else {
            self.seen.insert(place, event);
        }
        self.handles(given, scene);
    }

    fn handles(&mut self, given: &Given<'_>, scene: &mut Scene<'_>) {
        let (place, event) = (given.place, given.event);
        let Some(published) = scene.auditor.published(event).cloned() else {
            return;
        };
        if let Some((key, removes)) = published.row.filter(|_| self.how == How::Table) {
            if removes {
                self.rows.remove(&(published.topic, key));
            } else {
                self.rows.insert((published.topic, key), event);
            }
        }
        let is_strong = published.strength == super::auditor::Strength::Synced;
        if self.how == How::Once
            && published.once
            && is_strong
            && !scene.auditor.retains
            && let Some(before) = self.once_at.insert(event, place)
            // With an event that is damaged its id is lost.
            && !scene.auditor.has_flipped(before.0, before.1, before.1)
        {
            let promise = format!(
                "{} handled {event:?} twice: at {before:?} and at {place:?}",
                self.who
            );
            scene
                .auditor
                .breaks(promise, Some(event), Some(place), Some(self.who));
        }
    }

    pub(crate) fn run_ends(&mut self, sub: Id, partition: u16, line: &mut Line, scene: &mut Scene<'_>) {
        if self.sub == Some(sub) && scene.random.chance(if scene.calm { 1.0 } else { 0.5 }) {
            self.acknowledge(partition, line, scene);
        }
    }

    fn acknowledge(&mut self, partition: u16, line: &mut Line, scene: &mut Scene<'_>) {
        let (Some(sub), Some(&offset)) = (self.sub, self.reached.get(&partition)) else {
            return;
        };
        if !self.to_acknowledge.remove(&partition) {
            return;
        }
        let place = (partition, offset);
        scene.auditor.note(What::Acks { who: self.who, place });
        let mut positions = Vec::new();
        write_positions(partition, offset, std::iter::empty(), &mut positions);
        let meta = MetaWriter::new().raw("ack", &positions).finish();
        let id = line.id();
        line.send(
            &encoded(Kind::Event, id, Some(sub), None, meta.as_deref(), &[]),
            scene.random,
        );
        self.acknowledged.push((line.said(), place));
        let of_partition: Vec<Place> = self
            .pending
            .range((partition, 0)..=place)
            .map(|(place, _)| *place)
            .collect();
        for place in of_partition {
            if let Some(event) = self.pending.remove(&place) {
                self.seen.insert(place, event);
            }
        }
    }

    pub(crate) fn act(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        if self.sub.is_none() && scene.now_ns >= self.asks_at_ns {
            self.subscribe(line, scene);
        }
        if line.has_room() && scene.random.chance(if scene.calm { 1.0 } else { 0.05 }) {
            for partition in self.to_acknowledge.clone() {
                self.acknowledge(partition, line, scene);
            }
        }
    }

    fn subscribe(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        let qos = match self.how {
            How::Plain => 0,
            How::Once => 2,
            _ => 1,
        };
        let mut meta = MetaWriter::new().uint("qos", qos);
        let name = format!("citizen-{}", self.name);
        if matches!(self.how, How::Once | How::Durable) {
            meta = meta.text("durable", &name);
        }
        if self.how == How::Table {
            meta = meta.flag("retain", true);
        }
        let by_positions = self.goes_by_positions || self.how == How::Returning;
        if let Some(epoch) = self
            .epoch
            .filter(|_| by_positions && !matches!(self.how, How::Table | How::Plain))
        {
            let positions = self.handled.iter();
            let positions: Vec<Position> = positions
                .map(|(&partition, &offset)| Position { partition, offset })
                .collect();
            meta = meta.begin_behind(epoch, positions.into_iter());
        } else if self.how == How::FromAll
            || (self.epoch.is_none() && matches!(self.how, How::Once | How::Durable))
        {
            // The first time everything; later the cursor, which an explicit `from` would override.
            meta = meta.text("from", "all");
        }
        let id = line.id();
        let meta = meta.finish();
        let body = encoded(
            Kind::Subscribe,
            id,
            None,
            Some(self.pattern),
            meta.as_deref(),
            &[],
        );
        line.send(&body, scene.random);
        self.sub = Some(id);
        scene.auditor.note(What::Contact {
            who: self.who,
            what: format!("{:?} subscribes to {}", self.how, self.pattern),
        });
    }
}
