//! Work queues against a naive model: a few cores, letters that take their time, a log that is slow, fails and restarts,
//! members that come, go, rest, and acknowledge what they like in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Batch, Code, Envelope, Form, Id, Kind, Position, envelope, target};
use foldhash::fast::FixedState;

use super::super::aside::derived_id;
use super::super::{QueueLetter, Queues};
use super::fake_log::{EPOCH, FakeLog, Random};
use crate::ids::Ids;
use crate::log::class::{TopicRule, terms_of};
use crate::log::{CursorName, CursorState, Events, Settings, owner_of, partition_of};
use crate::logged::LoggedNews;
use crate::logged::letters::Start;
use crate::peer::PeerId;

pub(super) const PARTITIONS: u16 = 6;
pub(super) const ACK_MS: u32 = 1_000;
/// Where dead letters go.
pub(super) const DEAD: &str = "dead.letters";

pub(super) fn id(number: u64) -> Id {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

pub(super) fn event(topic: &str, number: u64, ttl_ms: Option<u64>) -> Vec<u8> {
    let mut meta = MetaWriter::new().uint("qos", 1);
    if let Some(ttl_ms) = ttl_ms {
        meta = meta.uint("ttl_ms", ttl_ms);
    }
    let meta = meta.finish().unwrap();
    let mut out = Vec::new();
    Envelope {
        kind: Kind::Event,
        id: id(number),
        reference: None,
        target: Some(topic),
        meta: Some(Meta::from_checked(&meta)),
        payload: &[0x18, 0x2a],
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

pub(super) fn events(list: &[Vec<u8>]) -> Events {
    let mut end = 0;
    Events {
        bytes: list.concat().into(),
        ends: list
            .iter()
            .map(|event| {
                end += event.len() as u32;
                end
            })
            .collect(),
    }
}

/// An event as the model knows it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) topic: &'static str,
    pub(super) time_ms: u64,
    pub(super) ttl_ms: Option<u64>,
    pub(super) id: Id,
}

pub(super) type Place = (u16, u64);
pub(super) type QueueKey = (&'static str, &'static str);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) queue: QueueKey,
    pub(super) in_flight: usize,
    pub(super) is_accepted: bool,
    pub(super) is_busy: bool,
    /// When it got each event that it has not acknowledged.
    pub(super) held: BTreeMap<Place, u64>,
    /// Given to it, ever.
    pub(super) given: usize,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Fate {
    /// Deliveries since the gateway started.
    pub(super) deliveries: u32,
    pub(super) acked: bool,
    /// All letters about the acknowledgement had arrived.
    pub(super) is_final: bool,
}

pub(super) struct Town {
    pub(super) cores: u16,
    pub(super) settings: Arc<Settings>,
    pub(super) queues: Vec<Queues>,
    pub(super) logs: Vec<FakeLog>,
    pub(super) mail: BTreeMap<(u16, u16), VecDeque<QueueLetter>>,
    pub(super) members: BTreeMap<(PeerId, Id), Member>,
    pub(super) events: BTreeMap<Place, Known>,
    pub(super) fates: BTreeMap<(QueueKey, Place), Fate>,
    pub(super) set_aside: BTreeSet<(QueueKey, Place)>,
    pub(super) refuse_asides: bool,
    pub(super) now_ms: u64,
    pub(super) numbers: u64,
    pub(super) random: Random,
    /// Of all runs, in order: how often their events may have been given before.
    pub(super) dups: Vec<u32>,
    pub(super) ended: Vec<(PeerId, Id, Code, Option<Vec<u8>>)>,
}

impl Town {
    pub(super) fn new(cores: u16, seed: u64, trouble: bool, topics: Vec<TopicRule>) -> Self {
        let settings = Arc::new(Settings {
            partitions: PARTITIONS,
            ack_ms: ACK_MS,
            topics,
            ..Settings::default()
        });
        let mut town = Self {
            cores,
            queues: Vec::new(),
            logs: (0..cores)
                .map(|core| FakeLog::new(core, cores, seed ^ u64::from(core) << 7, trouble))
                .collect(),
            settings,
            mail: BTreeMap::new(),
            members: BTreeMap::new(),
            events: BTreeMap::new(),
            fates: BTreeMap::new(),
            set_aside: BTreeSet::new(),
            refuse_asides: false,
            now_ms: 1_000_000,
            numbers: 0,
            random: Random(Ids::new(seed)),
            dups: Vec::new(),
            ended: Vec::new(),
        };
        town.start();
        town
    }

    pub(super) fn start(&mut self) {
        self.mail.clear();
        self.queues = (0..self.cores)
            .map(|core| {
                let hasher = &FixedState::with_seed(u64::from(core));
                Queues::new(core, self.cores, Some(self.settings.clone()), hasher, 3)
            })
            .collect();
        for core in 0..usize::from(self.cores) {
            self.queues[core].handle_time(self.now_ms * 1_000, self.now_ms, &mut self.logs[core]);
        }
    }

    pub(super) fn restart(&mut self) {
        self.members.clear();
        for log in &mut self.logs {
            log.restart();
        }
        let logs = &self.logs;
        let cores = self.cores;
        for ((queue, (partition, offset)), fate) in &mut self.fates {
            let log = &logs[usize::from(owner_of(*partition, cores))];
            let cursor = log.cursors.get(&(*partition, name_of(*queue)));
            let done = |cursor: &CursorState| *offset <= cursor.acked || cursor.beyond.contains(offset);
            let is_kept = fate.acked && cursor.is_some_and(done);
            *fate = Fate {
                deliveries: 0,
                acked: is_kept,
                is_final: is_kept,
            };
        }
        self.start();
    }

    pub(super) fn publish(&mut self, topic: &'static str, count: usize, ttl_ms: Option<u64>) {
        let partition = partition_of(topic, PARTITIONS);
        let mut list = Vec::new();
        for _ in 0..count {
            self.numbers += 1;
            list.push(event(topic, self.numbers, ttl_ms));
        }
        let log = &mut self.logs[usize::from(owner_of(partition, self.cores))];
        let first = log.append(partition, events(&list), self.now_ms, ttl_ms.is_some());
        for nth in 0..count as u64 {
            let known = Known {
                topic,
                time_ms: self.now_ms,
                ttl_ms,
                id: id(self.numbers - count as u64 + 1 + nth),
            };
            self.events.insert((partition, first + nth), known);
        }
    }

    pub(super) fn hear(&mut self, core: u16) {
        let at = usize::from(core);
        while let Some(committed) = self.logs[at].unheard.pop_front() {
            self.queues[at].committed(&committed);
        }
        self.work(core);
    }

    pub(super) fn join(&mut self, core: u16, queue: QueueKey, in_flight: u32, start: Start) -> (PeerId, Id) {
        self.numbers += 1;
        let peer = PeerId {
            slot: self.numbers as u32,
            generation: 0,
            core,
        };
        let sub = id(self.numbers);
        self.join_as((peer, sub), queue, in_flight, start);
        (peer, sub)
    }

    /// A connection joins with a subscription's id that it may have used before.
    pub(super) fn join_as(
        &mut self,
        (peer, sub): (PeerId, Id),
        queue: QueueKey,
        in_flight: u32,
        start: Start,
    ) {
        let member = Member {
            queue,
            in_flight: in_flight as usize,
            is_accepted: false,
            is_busy: false,
            held: BTreeMap::new(),
            given: 0,
        };
        self.members.insert((peer, sub), member);
        let queues = &mut self.queues[usize::from(peer.core)];
        queues.join(peer, sub, (queue.0, queue.1, None), start, in_flight);
        self.work(peer.core);
    }

    pub(super) fn lose(&mut self, member: (PeerId, Id)) {
        self.members.remove(&member);
        assert!(self.queues[usize::from(member.0.core)].leave(member.0, member.1));
        self.work(member.0.core);
    }

    pub(super) fn rewind(&mut self, member: (PeerId, Id)) {
        self.members.get_mut(&member).unwrap().held.clear();
        self.queues[usize::from(member.0.core)].rewind(member.0, member.1);
        self.work(member.0.core);
    }

    /// The queue will begin anew in a partition, for somebody will say where.
    pub(super) fn forget_begun(&mut self, queue: QueueKey, partition: u16, at: u64) {
        let log = &mut self.logs[usize::from(owner_of(partition, self.cores))];
        log.begun.insert((partition, name_of(queue)), at);
        for ((other, place), fate) in &mut self.fates {
            if *other == queue && place.0 == partition {
                *fate = Fate::default();
            }
        }
    }

    pub(super) fn busy(&mut self, member: (PeerId, Id), busy: bool) {
        let known = self.members.get_mut(&member).unwrap();
        known.is_busy = busy;
        self.queues[usize::from(member.0.core)].set_busy(member.0, busy);
        self.work(member.0.core);
    }

    pub(super) fn acknowledge(&mut self, member: (PeerId, Id), places: &[Place]) {
        let known = self.members.get_mut(&member).unwrap();
        for place in places {
            known.held.remove(place);
            self.fates.get_mut(&(known.queue, *place)).unwrap().acked = true;
            let queues = &mut self.queues[usize::from(member.0.core)];
            assert!(queues.acknowledge(member.0, member.1, place.0, [place.1].into_iter()));
        }
        self.work(member.0.core);
    }

    /// The disk of a core has all that was changed of its cursors.
    pub(super) fn sync(&mut self, core: u16) {
        self.logs[usize::from(core)].sync();
        self.begin_safe(core);
    }

    /// A core's disk has done something; whether anybody waited for that.
    pub(super) fn begin_safe(&mut self, core: u16) -> bool {
        let at = usize::from(core);
        let have_begun = self.queues[at].begin_safe(&mut self.logs[at]);
        self.work(core);
        have_begun
    }

    /// Takes all that a core has to give.
    pub(super) fn work(&mut self, core: u16) {
        let at = usize::from(core);
        self.queues[at].work(&mut self.logs[at]);
        while let Some((to, letter)) = self.queues[at].poll_letter() {
            assert_ne!(to, core);
            self.mail.entry((core, to)).or_default().push_back(letter);
        }
        while let Some(news) = self.queues[at].poll_news(EPOCH) {
            self.news(news);
        }
        while let Some(letter) = self.queues[at].poll_append() {
            let dead = letter.events.id(0);
            if self.refuse_asides && self.random.chance(50) {
                self.queues[at].aside_refused(dead);
                continue;
            }
            let owner = usize::from(owner_of(letter.partition, self.cores));
            self.buried(letter.events.get(0));
            if self.logs[owner].ids.insert(dead) {
                let first = self.logs[owner].append(letter.partition, letter.events, self.now_ms, false);
                let known = Known {
                    topic: DEAD,
                    time_ms: self.now_ms,
                    ttl_ms: None,
                    id: dead,
                };
                self.events.insert((letter.partition, first), known);
            }
            self.queues[at].aside_stored(dead);
            self.queues[at].work(&mut self.logs[at]);
        }
        while let Some(given_up) = self.queues[at].poll_given_up() {
            let queue = self.queue_of(&given_up.queue);
            self.set_aside
                .insert((queue, (given_up.at.partition, given_up.at.offset)));
        }
        if self.queues[at].has_work() {
            self.work(core);
        }
    }

    /// An event was set aside: it was given as often as it may be, and its dead letter says which it was.
    pub(super) fn buried(&mut self, letter: &[u8]) {
        let letter = envelope::decode(letter).unwrap().envelope;
        let meta = letter.meta.unwrap();
        let at = Position::read(meta.get("x-dead-at").unwrap()).unwrap();
        let place = (at.partition, at.offset);
        let known = &self.events[&place];
        assert_eq!(meta.text("x-dead-topic"), Ok(Some(known.topic)));
        let mut queues = self.fates.keys().map(|(queue, _)| *queue);
        let queue = queues
            .find(|queue| derived_id(&name_of(*queue), known.id, DEAD) == letter.id)
            .expect("a queue that gave it out");
        let terms = terms_of(known.topic, &self.settings.topics);
        let deliveries = meta.uint("x-deliveries").unwrap().unwrap();
        assert_eq!(deliveries, terms.deliveries_max.into());
        let fate = self.fates.get(&(queue, place));
        assert!(fate.is_none_or(|fate| !fate.is_final));
        self.set_aside.insert((queue, place));
    }

    pub(super) fn queue_of(&self, name: &CursorName) -> QueueKey {
        let keys = self.fates.keys().map(|(queue, _)| *queue);
        keys.into_iter()
            .find(|queue| name_of(*queue) == *name)
            .expect("a queue that gave something out")
    }

    pub(super) fn news(&mut self, news: LoggedNews) {
        match news {
            LoggedNews::Accepted { to, sub, epoch, at } => {
                assert_eq!(epoch, EPOCH);
                let Some(member) = self.members.get_mut(&(to, sub)) else {
                    return;
                };
                member.is_accepted = true;
                let queue = member.queue;
                let is_wild = target::is_wild(queue.0);
                assert_eq!(at.len(), if is_wild { usize::from(PARTITIONS) } else { 1 });
                assert!(at.is_sorted_by_key(|(partition, _)| *partition));
                for (partition, floor) in at {
                    self.check_floor(queue, partition, floor);
                    let log = &self.logs[usize::from(owner_of(partition, self.cores))];
                    let kept = log.synced.get(&(partition, name_of(queue)));
                    let kept = kept.expect("a place that survives power loss");
                    self.check_floor(queue, partition, kept.acked);
                }
            }
            LoggedNews::Run {
                to,
                sub,
                positions,
                count,
                dup,
                events,
            } => self.run((to, sub), &positions, count, dup, &events),
            LoggedNews::Ended {
                to,
                sub,
                code,
                details,
                ..
            }
            | LoggedNews::RefusedSub {
                to,
                sub,
                code,
                details,
                ..
            } => {
                self.members.remove(&(to, sub));
                self.ended.push((to, sub, code, details));
            }
            news => panic!("{news:?}"),
        }
    }

    /// Everything up to a floor is done.
    pub(super) fn check_floor(&self, queue: QueueKey, partition: u16, floor: u64) {
        let begun = self.begun(queue, partition);
        if floor <= begun {
            return;
        }
        for (place, known) in self.events.range((partition, begun + 1)..=(partition, floor)) {
            if target::matches(queue.0, known.topic) {
                assert!(self.is_done(queue, *place), "{queue:?} stands behind {place:?}");
            }
        }
    }

    pub(super) fn begun(&self, queue: QueueKey, partition: u16) -> u64 {
        let log = &self.logs[usize::from(owner_of(partition, self.cores))];
        log.begun
            .get(&(partition, name_of(queue)))
            .copied()
            .unwrap_or(u64::MAX - 1)
    }

    pub(super) fn is_done(&self, queue: QueueKey, place: Place) -> bool {
        let fate = self.fates.get(&(queue, place));
        let known = &self.events[&place];
        fate.is_some_and(|fate| fate.acked)
            || self.set_aside.contains(&(queue, place))
            || known
                .ttl_ms
                .is_some_and(|ttl_ms| known.time_ms + ttl_ms <= self.now_ms)
    }

    pub(super) fn run(&mut self, to: (PeerId, Id), positions: &[u8], count: u32, dup: u32, events: &Bytes) {
        let positions = Positions::read(positions).expect("positions");
        assert_eq!(positions.count(), u64::from(count));
        let Some(member) = self.members.get_mut(&to) else {
            panic!("work for somebody who is gone");
        };
        self.dups.push(dup);
        assert!(member.is_accepted, "accepted before it gets work");
        assert!(!member.is_busy, "it rests");
        let queue = member.queue;
        member.given += count as usize;
        let now_ms = self.now_ms;
        let mut envelopes = Batch::new(events);
        for offset in positions.offsets() {
            let place = (positions.partition(), offset);
            let envelope = envelopes.next().unwrap().unwrap().envelope;
            let known = &self.events[&place];
            assert_eq!((envelope.target, envelope.id), (Some(known.topic), known.id));
            assert!(target::matches(queue.0, known.topic));
            assert!(offset > self.begun(queue, place.0), "before it began");
            let fate = self.fates.entry((queue, place)).or_default();
            assert!(!fate.is_final, "{place:?} was acknowledged");
            assert!(dup >= fate.deliveries, "{dup} for {fate:?}");
            fate.deliveries += 1;
            let terms = terms_of(known.topic, &self.settings.topics);
            assert!(terms.deliveries_max == 0 || fate.deliveries <= terms.deliveries_max);
            for (other, holder) in &self.members {
                let Some(since_ms) = holder.held.get(&place) else {
                    continue;
                };
                if holder.queue == queue {
                    let age_ms = now_ms - since_ms;
                    assert!(
                        age_ms >= u64::from(ACK_MS),
                        "{place:?} is with {other:?} for {age_ms} ms"
                    );
                }
            }
            self.members.get_mut(&to).unwrap().held.insert(place, now_ms);
        }
        assert!(envelopes.next().is_none());
        let member = &self.members[&to];
        let live = self.live(member);
        assert!(live <= member.in_flight, "{live} of {}", member.in_flight);
    }

    /// How many events a member has that are its own: neither overdue nor acknowledged by another.
    pub(super) fn live(&self, member: &Member) -> usize {
        let is_live = |(place, since_ms): &(&Place, &u64)| {
            self.now_ms - **since_ms < u64::from(ACK_MS)
                && self
                    .fates
                    .get(&(member.queue, **place))
                    .is_none_or(|fate| !fate.acked)
        };
        member.held.iter().filter(is_live).count()
    }

    pub(super) fn carry(&mut self, from: u16, to: u16) -> bool {
        let Some(letter) = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        let at = usize::from(to);
        self.queues[at].handle_letter(from, letter, &mut self.logs[at]);
        self.work(to);
        true
    }

    pub(super) fn come(&mut self, core: u16) -> bool {
        let at = usize::from(core);
        if self.logs[at].later.is_empty() {
            return false;
        }
        let nth = self.random.below(self.logs[at].later.len());
        let (reader, reading) = self.logs[at].later.swap_remove(nth);
        self.queues[at].read_done(reader, reading, &mut self.logs[at]);
        self.work(core);
        true
    }

    /// Lets everything arrive.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it goes round for ever");
            let mut came = false;
            for core in 0..self.cores {
                came |= !self.logs[usize::from(core)].unheard.is_empty();
                self.hear(core);
                while self.come(core) {
                    came = true;
                }
                let log = &self.logs[usize::from(core)];
                if log.wants_sync && !log.hangs {
                    self.sync(core);
                    came = true;
                }
                for to in 0..self.cores {
                    while self.carry(core, to) {
                        came = true;
                    }
                }
            }
            if !came {
                break;
            }
        }
        for fate in self.fates.values_mut() {
            fate.is_final |= fate.acked;
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.settle();
        self.now_ms += ms;
        for core in 0..self.cores {
            let at = usize::from(core);
            self.queues[at].handle_time(self.now_ms * 1_000, self.now_ms, &mut self.logs[at]);
            self.work(core);
        }
        self.settle();
    }

    /// Whoever has room has all there is: what nobody has is nowhere to be given. All letters have arrived.
    pub(super) fn check_nothing_is_stuck(&self) {
        let queues: BTreeSet<_> = self.members.values().map(|member| member.queue).collect();
        for queue in queues {
            let members = || self.members.values().filter(|member| member.queue == queue);
            let has_room = |member: &Member| {
                !member.is_busy && self.live(member) + self.overdue(member) < member.in_flight
            };
            if !members().any(has_room) {
                continue;
            }
            for (place, known) in &self.events {
                let matters = target::matches(queue.0, known.topic) && place.1 > self.begun(queue, place.0);
                if !matters || self.is_done(queue, *place) {
                    continue;
                }
                assert!(
                    members().any(|member| member.held.contains_key(place)),
                    "{queue:?}: nobody has {place:?}, and somebody has room"
                );
            }
        }
    }

    /// What a member has had for too long may have gone to another, or may have come to it again.
    pub(super) fn overdue(&self, member: &Member) -> usize {
        let late = |since_ms: &u64| self.now_ms - since_ms >= u64::from(ACK_MS);
        member.held.values().filter(|since_ms| late(since_ms)).count()
    }

    pub(super) fn random_member(&mut self) -> Option<(PeerId, Id)> {
        let bound = self.members.len();
        let nth = (bound > 0).then(|| self.random.below(bound))?;
        self.members.keys().nth(nth).copied()
    }

    /// Everybody acknowledges everything until there is nothing left.
    pub(super) fn finish(&mut self) {
        for log in &mut self.logs {
            log.recovers = false;
        }
        let resting: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.is_busy)
            .map(|(key, _)| *key)
            .collect();
        for member in resting {
            self.busy(member, false);
        }
        let queues: BTreeSet<_> = self.fates.keys().map(|(queue, _)| *queue).collect();
        for queue in queues {
            self.join(0, queue, 3, Start::Default);
        }
        for _ in 0..500 {
            self.pass(u64::from(ACK_MS) / 2);
            let held: Vec<_> = self
                .members
                .iter()
                .map(|(key, member)| (*key, member.held.keys().copied().collect::<Vec<_>>()))
                .collect();
            if held.iter().all(|(_, places)| places.is_empty()) && self.all_done() {
                return;
            }
            for (member, places) in held {
                self.acknowledge(member, &places);
            }
        }
        panic!("it does not come to an end");
    }

    pub(super) fn all_done(&self) -> bool {
        let queues: BTreeSet<_> = self.members.values().map(|member| member.queue).collect();
        queues.into_iter().all(|queue| {
            self.events.iter().all(|(place, known)| {
                !target::matches(queue.0, known.topic)
                    || place.1 <= self.begun(queue, place.0)
                    || self.is_done(queue, *place)
            })
        })
    }
}

pub(super) fn name_of(queue: QueueKey) -> CursorName {
    CursorName {
        principal: "".into(),
        name: "".into(),
        pattern: queue.0.into(),
        group: queue.1.into(),
    }
}
