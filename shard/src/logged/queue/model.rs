//! Work queues against a naive model: a few cores, letters that take their time, a log that is slow, fails and restarts,
//! members that come, go, rest, and acknowledge what they like in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Batch, Code, Envelope, Form, Id, Kind, target};
use foldhash::fast::FixedState;

use super::source::Source;
use super::{QueueLetter, Queues};
use crate::ids::Ids;
use crate::log::class::{Class, TopicRule};
use crate::log::{
    Bounds, Committed, CursorName, CursorState, Events, LogRefusal, ReaderId, Reading, Settings, Stored,
    owner_of, partition_of,
};
use crate::logged::LoggedNews;
use crate::logged::letters::Start;
use crate::peer::PeerId;

const PARTITIONS: u16 = 6;
const ACK_MS: u32 = 1_000;
const EPOCH: u64 = 77 << 20 | 5;

fn id(number: u64) -> Id {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

fn event(topic: &str, number: u64, ttl_ms: Option<u64>) -> Vec<u8> {
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

fn events(list: &[Vec<u8>]) -> Events {
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

struct Random(Ids);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One core's log.
struct FakeLog {
    core: u16,
    cores: u16,
    runs: BTreeMap<u16, Vec<Stored>>,
    /// The first offset that is held, where something was removed.
    cut: BTreeMap<u16, u64>,
    damage: BTreeMap<u16, (u64, u64)>,
    next: BTreeMap<u16, u64>,
    unheard: VecDeque<Committed>,
    later: Vec<(ReaderId, Reading)>,
    cursors: BTreeMap<(u16, CursorName), CursorState>,
    synced: BTreeMap<(u16, CursorName), CursorState>,
    /// Where each cursor began.
    begun: BTreeMap<(u16, CursorName), u64>,
    /// Of qos 2 events.
    ids: BTreeSet<Id>,
    random: Random,
    trouble: bool,
    reads: usize,
}

impl FakeLog {
    fn new(core: u16, cores: u16, seed: u64, trouble: bool) -> Self {
        Self {
            core,
            cores,
            runs: BTreeMap::new(),
            cut: BTreeMap::new(),
            damage: BTreeMap::new(),
            next: BTreeMap::new(),
            unheard: VecDeque::new(),
            later: Vec::new(),
            cursors: BTreeMap::new(),
            synced: BTreeMap::new(),
            begun: BTreeMap::new(),
            ids: BTreeSet::new(),
            random: Random(Ids::new(seed)),
            trouble,
            reads: 0,
        }
    }

    fn append(&mut self, partition: u16, events: Events, time_ms: u64, expires: bool) -> u64 {
        let next = self.next.entry(partition).or_insert(1);
        let stored = Stored {
            first: *next,
            deltas: None,
            time_ms,
            expires,
            events,
        };
        *next += stored.events.len() as u64;
        self.runs.entry(partition).or_default().push(stored.clone());
        self.unheard.push_back(Committed {
            partition,
            stored: stored.clone(),
            class: Class::default(),
        });
        stored.first
    }

    /// The process is gone; what was not synced as well.
    fn restart(&mut self) {
        self.cursors = self.synced.clone();
        self.unheard.clear();
        self.later.clear();
        for next in self.next.values_mut() {
            *next = (*next / 1_000_000 + 1) * 1_000_000 + 1;
        }
    }
}

impl Source for FakeLog {
    fn epoch(&self) -> u64 {
        EPOCH
    }

    fn is_ready(&self, partition: u16) -> bool {
        assert_eq!(owner_of(partition, self.cores), self.core);
        true
    }

    fn bounds(&self, partition: u16) -> Bounds {
        let runs = self.runs.get(&partition).map_or(&[][..], |runs| runs);
        let committed = runs.last().map_or(0, Stored::last);
        let held = runs.first().map_or(committed + 1, |run| run.first);
        Bounds {
            first: self.cut.get(&partition).copied().unwrap_or(held),
            committed,
        }
    }

    fn position_at(&self, partition: u16, _: u64) -> u64 {
        self.bounds(partition).committed
    }

    fn read(&mut self, reader: ReaderId, partition: u16, after: u64, bytes_max: usize) -> Reading {
        assert!(
            self.later.iter().all(|(other, _)| *other != reader),
            "one read at a time"
        );
        self.reads += 1;
        let bounds = self.bounds(partition);
        let reading = if after >= bounds.committed {
            return Reading::End;
        } else if after + 1 < bounds.first && self.cut.contains_key(&partition) {
            Reading::Gone { first: bounds.first }
        } else if let Some(&(first, last)) = self
            .damage
            .get(&partition)
            .filter(|(first, last)| (first - 1..*last).contains(&after))
        {
            Reading::Damaged { first, last }
        } else if self.trouble && self.random.chance(2) {
            Reading::Failed("it is a bad disk".into())
        } else {
            let mut stored = Vec::new();
            let mut bytes = 0;
            let mut until = after;
            for run in &self.runs[&partition] {
                if run.last() <= after {
                    continue;
                }
                if bytes > 0 && (bytes + run.events.bytes.len() > bytes_max || self.random.chance(10)) {
                    break;
                }
                let skip = (after + 1).saturating_sub(run.first) as usize;
                bytes += run.events.bytes.len();
                until = run.last();
                stored.push(Stored {
                    first: run.first + skip as u64,
                    events: run.events.slice(skip..run.events.len()),
                    ..run.clone()
                });
            }
            Reading::Events { stored, until }
        };
        if self.trouble && self.random.chance(40) {
            self.later.push((reader, reading));
            return Reading::Later;
        }
        reading
    }

    fn forget_reader(&mut self, reader: ReaderId) {
        self.later.retain(|(other, _)| *other != reader);
    }

    fn cursor(&self, partition: u16, name: &CursorName) -> Option<&CursorState> {
        self.cursors.get(&(partition, name.clone()))
    }

    fn set_cursor(
        &mut self,
        partition: u16,
        name: &CursorName,
        state: CursorState,
    ) -> Result<(), LogRefusal> {
        assert_eq!(owner_of(partition, self.cores), self.core);
        assert!(state.beyond.is_sorted_by(|one, other| one < other), "{state:?}");
        assert!(
            state.beyond.iter().all(|offset| *offset > state.acked),
            "{state:?}"
        );
        let key = (partition, name.clone());
        if let Some(before) = self.cursors.get(&key) {
            assert!(state.acked >= before.acked, "a cursor goes back");
        } else {
            self.begun.insert(key.clone(), state.acked);
        }
        self.cursors.insert(key, state);
        Ok(())
    }
}

/// An event as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    topic: &'static str,
    time_ms: u64,
    ttl_ms: Option<u64>,
    number: u64,
}

type Place = (u16, u64);
type QueueKey = (&'static str, &'static str);

#[derive(Debug)]
struct Member {
    queue: QueueKey,
    in_flight: usize,
    is_accepted: bool,
    is_busy: bool,
    /// It rested at this time; what it got may be older than it seems.
    rested_ms: Option<u64>,
    /// When it got each event that it has not acknowledged.
    held: BTreeMap<Place, u64>,
    /// Given to it, ever.
    given: usize,
}

#[derive(Debug, Default, Clone)]
struct Fate {
    /// Deliveries since the gateway started.
    deliveries: u32,
    acked: bool,
    /// All letters about the acknowledgement had arrived.
    is_final: bool,
}

struct Town {
    cores: u16,
    settings: Arc<Settings>,
    queues: Vec<Queues>,
    logs: Vec<FakeLog>,
    mail: BTreeMap<(u16, u16), VecDeque<QueueLetter>>,
    members: BTreeMap<(PeerId, Id), Member>,
    events: BTreeMap<Place, Known>,
    fates: BTreeMap<(QueueKey, Place), Fate>,
    /// Dead letters in the log: how many of each id.
    dead: BTreeMap<Id, usize>,
    set_aside: BTreeSet<(QueueKey, Place)>,
    refuse_asides: bool,
    now_ms: u64,
    numbers: u64,
    random: Random,
    ended: Vec<(PeerId, Id, Code, Option<Vec<u8>>)>,
}

impl Town {
    fn new(cores: u16, seed: u64, trouble: bool, topics: Vec<TopicRule>) -> Self {
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
            dead: BTreeMap::new(),
            set_aside: BTreeSet::new(),
            refuse_asides: false,
            now_ms: 1_000_000,
            numbers: 0,
            random: Random(Ids::new(seed)),
            ended: Vec::new(),
        };
        town.start();
        town
    }

    fn start(&mut self) {
        self.mail.clear();
        self.queues = (0..self.cores)
            .map(|core| {
                let hasher = &FixedState::with_seed(u64::from(core));
                Queues::new(core, self.cores, Some(self.settings.clone()), hasher)
            })
            .collect();
        for core in 0..usize::from(self.cores) {
            self.queues[core].handle_time(self.now_ms * 1_000, self.now_ms, &mut self.logs[core]);
        }
    }

    fn restart(&mut self) {
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

    fn publish(&mut self, topic: &'static str, count: usize, ttl_ms: Option<u64>) {
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
                number: self.numbers - count as u64 + 1 + nth,
            };
            self.events.insert((partition, first + nth), known);
        }
    }

    fn hear(&mut self, core: u16) {
        let at = usize::from(core);
        while let Some(committed) = self.logs[at].unheard.pop_front() {
            self.queues[at].committed(&committed);
        }
        self.work(core);
    }

    fn join(&mut self, core: u16, queue: QueueKey, in_flight: u32, start: Start) -> (PeerId, Id) {
        self.numbers += 1;
        let peer = PeerId {
            slot: self.numbers as u32,
            generation: 0,
            core,
        };
        let sub = id(self.numbers);
        let member = Member {
            queue,
            in_flight: in_flight as usize,
            is_accepted: false,
            is_busy: false,
            rested_ms: None,
            held: BTreeMap::new(),
            given: 0,
        };
        self.members.insert((peer, sub), member);
        self.queues[usize::from(core)].join(peer, sub, (queue.0, queue.1, None), start, in_flight);
        self.work(core);
        (peer, sub)
    }

    fn lose(&mut self, member: (PeerId, Id)) {
        self.members.remove(&member);
        assert!(self.queues[usize::from(member.0.core)].leave(member.0, member.1));
        self.work(member.0.core);
    }

    fn busy(&mut self, member: (PeerId, Id), busy: bool) {
        let known = self.members.get_mut(&member).unwrap();
        known.is_busy = busy;
        known.rested_ms = Some(self.now_ms);
        self.queues[usize::from(member.0.core)].set_busy(member.0, busy);
        self.work(member.0.core);
    }

    fn acknowledge(&mut self, member: (PeerId, Id), places: &[Place]) {
        let known = self.members.get_mut(&member).unwrap();
        for place in places {
            known.held.remove(place);
            self.fates.get_mut(&(known.queue, *place)).unwrap().acked = true;
            let queues = &mut self.queues[usize::from(member.0.core)];
            assert!(queues.acknowledge(member.0, member.1, place.0, [place.1].into_iter()));
        }
        self.work(member.0.core);
    }

    /// Takes all that a core has to give.
    fn work(&mut self, core: u16) {
        let at = usize::from(core);
        self.queues[at].work(&mut self.logs[at]);
        while let Some((to, letter)) = self.queues[at].poll_letter() {
            assert_ne!(to, core);
            self.mail.entry((core, to)).or_default().push_back(letter);
        }
        while let Some(news) = self.queues[at].poll_news(&self.logs[at]) {
            self.news(news);
        }
        while let Some(letter) = self.queues[at].poll_append() {
            let dead = letter.events.id(0);
            if self.refuse_asides && self.random.chance(50) {
                self.queues[at].aside_refused(dead);
                continue;
            }
            let owner = usize::from(owner_of(letter.partition, self.cores));
            if self.logs[owner].ids.insert(dead) {
                *self.dead.entry(dead).or_default() += 1;
                self.logs[owner].append(letter.partition, letter.events, self.now_ms, false);
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

    fn queue_of(&self, name: &CursorName) -> QueueKey {
        let keys = self.fates.keys().map(|(queue, _)| *queue);
        keys.into_iter()
            .find(|queue| name_of(*queue) == *name)
            .expect("a queue that gave something out")
    }

    fn news(&mut self, news: LoggedNews) {
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
    fn check_floor(&self, queue: QueueKey, partition: u16, floor: u64) {
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

    fn begun(&self, queue: QueueKey, partition: u16) -> u64 {
        let log = &self.logs[usize::from(owner_of(partition, self.cores))];
        log.begun
            .get(&(partition, name_of(queue)))
            .copied()
            .unwrap_or(u64::MAX - 1)
    }

    fn is_done(&self, queue: QueueKey, place: Place) -> bool {
        let fate = self.fates.get(&(queue, place));
        let known = &self.events[&place];
        fate.is_some_and(|fate| fate.acked)
            || self.set_aside.contains(&(queue, place))
            || known
                .ttl_ms
                .is_some_and(|ttl_ms| known.time_ms + ttl_ms <= self.now_ms)
            || fate.is_some_and(|fate| self.is_spent(queue, place, fate))
    }

    /// Given as often as it may be, and its dead letter is in the log.
    fn is_spent(&self, queue: QueueKey, place: Place, fate: &Fate) -> bool {
        let terms = crate::log::class::terms_of(self.events[&place].topic, &self.settings.topics);
        let _ = queue;
        terms.deliveries_max > 0 && fate.deliveries <= terms.deliveries_max && !self.dead.is_empty()
    }

    fn run(&mut self, to: (PeerId, Id), positions: &[u8], count: u32, dup: u32, events: &Bytes) {
        let positions = Positions::read(positions).expect("positions");
        assert_eq!(positions.count(), u64::from(count));
        let Some(member) = self.members.get_mut(&to) else {
            panic!("work for somebody who is gone");
        };
        assert!(member.is_accepted, "accepted before it gets work");
        assert!(!member.is_busy, "it rests");
        let queue = member.queue;
        member.given += count as usize;
        let (now_ms, lenient) = (self.now_ms, self.rested_lately(to));
        let mut envelopes = Batch::new(events);
        for offset in positions.offsets() {
            let place = (positions.partition(), offset);
            let envelope = envelopes.next().unwrap().unwrap().envelope;
            let known = &self.events[&place];
            assert_eq!(
                (envelope.target, envelope.id),
                (Some(known.topic), id(known.number))
            );
            assert!(target::matches(queue.0, known.topic));
            assert!(offset > self.begun(queue, place.0), "before it began");
            let fate = self.fates.entry((queue, place)).or_default();
            assert!(!fate.is_final, "{place:?} was acknowledged");
            assert!(dup >= fate.deliveries, "{dup} for {fate:?}");
            fate.deliveries += 1;
            let terms = crate::log::class::terms_of(known.topic, &self.settings.topics);
            assert!(terms.deliveries_max == 0 || fate.deliveries <= terms.deliveries_max);
            for (other, holder) in &self.members {
                let Some(since_ms) = holder.held.get(&place) else {
                    continue;
                };
                if holder.queue == queue && !lenient && !self.rested_lately(*other) {
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
        if !lenient {
            let live = self.live(member);
            assert!(live <= member.in_flight, "{live} of {}", member.in_flight);
        }
    }

    fn rested_lately(&self, member: (PeerId, Id)) -> bool {
        self.members[&member]
            .rested_ms
            .is_some_and(|at_ms| self.now_ms <= at_ms + 3 * u64::from(ACK_MS))
    }

    /// How many events a member has that are its own: neither overdue nor acknowledged by another.
    fn live(&self, member: &Member) -> usize {
        let is_live = |(place, since_ms): &(&Place, &u64)| {
            self.now_ms - **since_ms < u64::from(ACK_MS)
                && self
                    .fates
                    .get(&(member.queue, **place))
                    .is_none_or(|fate| !fate.acked)
        };
        member.held.iter().filter(is_live).count()
    }

    fn carry(&mut self, from: u16, to: u16) -> bool {
        let Some(letter) = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        let at = usize::from(to);
        self.queues[at].handle_letter(from, letter, &mut self.logs[at]);
        self.work(to);
        true
    }

    fn come(&mut self, core: u16) -> bool {
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
    fn settle(&mut self) {
        loop {
            let mut came = false;
            for core in 0..self.cores {
                came |= !self.logs[usize::from(core)].unheard.is_empty();
                self.hear(core);
                while self.come(core) {
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

    fn pass(&mut self, ms: u64) {
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
    fn check_nothing_is_stuck(&self) {
        let queues: BTreeSet<_> = self.members.values().map(|member| member.queue).collect();
        for queue in queues {
            let members = || self.members.values().filter(|member| member.queue == queue);
            let has_room = |member: &Member| {
                !member.is_busy && self.live(member) + self.overdue(member) < member.in_flight
            };
            if members().any(|member| member.rested_ms.is_some()) || !members().any(has_room) {
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
    fn overdue(&self, member: &Member) -> usize {
        let late = |since_ms: &u64| self.now_ms - since_ms >= u64::from(ACK_MS);
        member.held.values().filter(|since_ms| late(since_ms)).count()
    }

    fn random_member(&mut self) -> Option<(PeerId, Id)> {
        let bound = self.members.len();
        let nth = (bound > 0).then(|| self.random.below(bound))?;
        self.members.keys().nth(nth).copied()
    }

    /// Everybody acknowledges everything until there is nothing left.
    fn finish(&mut self) {
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

    fn all_done(&self) -> bool {
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

fn name_of(queue: QueueKey) -> CursorName {
    CursorName {
        principal: "".into(),
        name: "".into(),
        pattern: queue.0.into(),
        group: queue.1.into(),
    }
}

const TOPICS: [&str; 5] = ["a.x", "a.y", "b.x", "b.y.z", "c"];
const QUEUES: [QueueKey; 4] = [("a.x", "g"), ("a.*", "g"), (">", "g"), (">", "h")];

fn random_town(cores: u16, seed: u64, trouble: bool) {
    let mut town = Town::new(cores, seed, trouble, Vec::new());
    for _ in 0..120 {
        match town.random.below(100) {
            0..25 => {
                let topic = TOPICS[town.random.below(TOPICS.len())];
                let count = 1 + town.random.below(12);
                let ttl_ms = town
                    .random
                    .chance(10)
                    .then(|| 1 + town.random.below(3_000) as u64);
                town.publish(topic, count, ttl_ms);
                if town.random.chance(70) {
                    let core = owner_of(partition_of(topic, PARTITIONS), cores);
                    town.hear(core);
                }
            }
            25..38 if town.members.len() < 8 => {
                let queue = QUEUES[town.random.below(QUEUES.len())];
                let core = town.random.below(usize::from(cores)) as u16;
                let in_flight = 1 + town.random.below(6) as u32;
                let start = [Start::Default, Start::New, Start::All][town.random.below(3)].clone();
                town.join(core, queue, in_flight, start);
            }
            38..44 => {
                if let Some(member) = town.random_member() {
                    town.lose(member);
                }
            }
            44..70 => {
                if let Some(member) = town.random_member() {
                    let part = 20 + town.random.below(80);
                    let held: Vec<_> = town.members[&member].held.keys().copied().collect();
                    let mut places: Vec<_> = held.into_iter().filter(|_| town.random.chance(part)).collect();
                    if town.random.chance(50) {
                        places.reverse();
                    }
                    town.acknowledge(member, &places);
                }
            }
            70..74 if trouble => {
                if let Some(member) = town.random_member() {
                    let busy = town.random.chance(40);
                    town.busy(member, busy);
                }
            }
            74..86 => {
                for _ in 0..town.random.below(8) {
                    let pair = (town.random.below(cores.into()), town.random.below(cores.into()));
                    town.carry(pair.0 as u16, pair.1 as u16);
                    town.come(pair.0 as u16);
                }
            }
            86..94 => {
                let ms = town.random.below(600) as u64;
                town.pass(ms);
                if !trouble {
                    town.check_nothing_is_stuck();
                }
            }
            94..96 => {
                for log in &mut town.logs {
                    log.synced = log.cursors.clone();
                }
            }
            96 if town.random.chance(40) => town.restart(),
            _ => {}
        }
    }
    town.finish();
}

#[test]
fn every_event_is_handled_whatever_happens() {
    for seed in 0..200 {
        let cores = 1 + (seed % 4) as u16;
        let result = std::panic::catch_unwind(|| random_town(cores, seed, true));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn nothing_waits_while_a_member_has_room() {
    for seed in 0..200 {
        let cores = 1 + (seed % 4) as u16;
        let result = std::panic::catch_unwind(|| random_town(cores, !seed, false));
        assert!(result.is_ok(), "seed {seed}");
    }
}
