//! A member of a work queue, and the queue as all its members together know it.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::position::{Acceptance, Position, write_positions};
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::encoded;

use super::auditor::{EventName, Place};
use super::citizen::{Given, Scene, ending_of};
use super::history::What;
use super::line::Line;
use super::seam::{Fault, Saboteur};

const MS: u64 = 1_000_000;

/// A queue: what its members were given, and what they acknowledged.
pub(crate) struct Queue {
    pub(crate) pattern: &'static str,
    pub(crate) group: &'static str,
    /// What was given to anybody, and what of it as if to nobody before.
    given: BTreeSet<Place>,
    given_first: BTreeSet<Place>,
    pub(crate) done: BTreeMap<Place, EventName>,
}

impl Queue {
    pub(crate) fn new(pattern: &'static str, group: &'static str) -> Self {
        Self {
            pattern,
            group,
            given: BTreeSet::new(),
            given_first: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }
}

/// See the module.
pub(crate) struct Member {
    who: u32,
    pub(crate) queue: usize,
    in_flight: u64,
    /// How likely it is that it never comes to be done with an event.
    fails: f64,
    epoch: Option<u64>,
    /// Behind damage that it was told of.
    behind: BTreeMap<u16, u64>,
    sub: Option<Id>,
    asks_at_ns: u64,
    /// What it works on, and when it is done with it.
    at_work: Vec<(u64, Place, EventName)>,
    saboteur: Saboteur,
}

impl Member {
    pub(crate) fn new(who: u32, queue: usize, (in_flight, fails): (u64, f64), saboteur: Saboteur) -> Self {
        Self {
            who,
            queue,
            in_flight,
            fails,
            epoch: None,
            behind: BTreeMap::new(),
            sub: None,
            asks_at_ns: 0,
            at_work: Vec::new(),
            saboteur,
        }
    }

    pub(crate) fn is_cut_off(&mut self) {
        self.sub = None;
        self.asks_at_ns = 0;
        self.at_work.clear();
    }

    pub(crate) fn hear(&mut self, envelope: &Envelope<'_>, scene: &mut Scene<'_>) {
        if envelope.kind != Kind::Subscribe || envelope.reference.is_none() || envelope.reference != self.sub
        {
            return;
        }
        let Some(ending) = ending_of(envelope) else {
            // It goes on where it said, if that was asked of it.
            self.behind.clear();
            self.epoch =
                Acceptance::read(envelope.payload).map_or(self.epoch, |accepted| Some(accepted.epoch));
            return;
        };
        let what = format!("ended: {:?}, {}", ending.code, ending.message);
        scene.auditor.note(What::Contact { who: self.who, what });
        // It may be ended before it is accepted, and learns there in which epoch it may say where to go on.
        self.epoch = self.epoch.or(ending.epoch);
        match (ending.code, ending.partition, ending.first, ending.last) {
            (Code::Unavailable, ..) => {}
            (Code::ResourceExhausted, ..) if ending.retry_after_ms.is_some() => {}
            (Code::DataLoss, Some(partition), Some(first), Some(last)) => {
                // The queue goes on behind that; what it gave before that and is not done comes again.
                scene.auditor.is_told_damaged(self.who, partition, first, last);
                self.behind.insert(partition, last);
            }
            (Code::OutOfRange, Some(partition), Some(first), _) => {
                scene.auditor.is_told_gone(self.who, partition, first);
                self.behind.insert(partition, first.saturating_sub(1));
            }
            (code, ..) => {
                let promise = format!("{} was ended {code:?}: {}", self.who, ending.message);
                let place = ending
                    .partition
                    .map(|partition| (partition, ending.first.unwrap_or(0)));
                scene.auditor.breaks(promise, None, place, Some(self.who));
            }
        }
        self.is_cut_off();
        self.asks_at_ns = scene.now_ns + ending.retry_after_ms.map_or(20, u64::from) * MS;
    }

    pub(crate) fn is_given(&mut self, given: &Given<'_>, scene: &mut Scene<'_>) {
        if self.sub != Some(given.sub) {
            return;
        }
        let (place, event) = (given.place, given.event);
        let queue = &mut scene.queues[self.queue];
        scene.auditor.totals.worked += 1;
        scene
            .auditor
            .gives(self.who, queue.pattern, given.topic, event, place, given.dup);
        // What went to another member may arrive before, on its connection.
        let is_again = queue.given.contains(&place);
        // Where its cursor was damaged the queue begins anew, and knows nothing of before.
        let knows_before = scene.auditor.totals.flips_beside == 0 && !scene.auditor.reads_failed;
        let is_first_again = knows_before && given.dup == 0 && queue.given_first.contains(&place);
        queue.given.insert(place);
        if given.dup == 0 {
            queue.given_first.insert(place);
        }
        scene.auditor.totals.worked_again += u64::from(is_again);
        if is_first_again {
            let promise = format!(
                "{event:?} at {place:?} was given to the queue again, and {} not told so",
                self.who
            );
            scene
                .auditor
                .breaks(promise, Some(event), Some(place), Some(self.who));
        }
        // Some are never done: another member gets them.
        if self.saboteur.strikes(Fault::WorkSwallowed) {
            // As if the gateway took it for acknowledged, though it never arrived.
            queue.given_first.remove(&place);
            self.at_work.push((
                0,
                place,
                EventName {
                    publisher: 0,
                    number: 0,
                },
            ));
        } else if scene.calm {
            self.at_work.push((scene.now_ns, place, event));
        } else if !scene.random.chance(self.fails) {
            self.at_work
                .push((scene.now_ns + scene.random.below(40 * MS), place, event));
        }
    }

    pub(crate) fn act(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        if self.sub.is_none() && scene.now_ns >= self.asks_at_ns {
            self.join(line, scene);
        }
        let Some(sub) = self.sub.filter(|_| line.has_room()) else {
            return;
        };
        let now_ns = scene.now_ns;
        let (done, at_work) = std::mem::take(&mut self.at_work)
            .into_iter()
            .partition(|(until_ns, ..)| *until_ns <= now_ns);
        self.at_work = at_work;
        let mut body = Vec::new();
        for (_, place, event) in done {
            scene.auditor.note(What::Acks { who: self.who, place });
            let mut positions = Vec::new();
            write_positions(place.0, place.1, std::iter::empty(), &mut positions);
            let meta = MetaWriter::new().raw("ack", &positions).finish();
            let id = line.id();
            body.extend(encoded(Kind::Event, id, Some(sub), None, meta.as_deref(), &[]));
            if event.publisher > 0 {
                scene.queues[self.queue].done.insert(place, event);
            }
        }
        line.send(&body, scene.random);
    }

    fn join(&mut self, line: &mut Line, scene: &mut Scene<'_>) {
        let queue = &scene.queues[self.queue];
        let from = match self.epoch {
            Some(_) if !self.behind.is_empty() => format!("from behind {:?}", self.behind),
            _ => "from all".into(),
        };
        let mut meta = MetaWriter::new()
            .uint("qos", 1)
            .text("group", queue.group)
            .uint("in_flight", self.in_flight);
        match self.epoch {
            Some(epoch) if !self.behind.is_empty() => {
                // All of them until it is accepted: of several, it is told of one at a time.
                let positions: Vec<Position> = self
                    .behind
                    .iter()
                    .map(|(&partition, &offset)| Position { partition, offset })
                    .collect();
                meta = meta.begin_behind(epoch, positions.into_iter());
            }
            _ => meta = meta.text("from", "all"),
        }
        let meta = meta.finish();
        let id = line.id();
        let body = encoded(
            Kind::Subscribe,
            id,
            None,
            Some(queue.pattern),
            meta.as_deref(),
            &[],
        );
        line.send(&body, scene.random);
        self.sub = Some(id);
        scene.auditor.note(What::Contact {
            who: self.who,
            what: format!("joins {} of {}, {from}", queue.group, queue.pattern),
        });
    }
}
