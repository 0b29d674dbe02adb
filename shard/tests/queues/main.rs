//! Work queues over whole shards: letters that take their time, real logs on a disk in memory, stops and kills of the
//! process. Every event that is in the log is handled; what was handled before a clean stop does not come again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fluxar_protocol::meta::{Meta, MetaWriter, Qos};
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Batch, Code, Envelope, Form, Id, Kind, target};
use fluxar_shard::log::class::{Level, TopicRule};
use fluxar_shard::log::disk::{DiskDone, DiskOp};
use fluxar_shard::log::files::MemoryFiles;
use fluxar_shard::log::recovery::{Recovered, Recovery};
use fluxar_shard::log::{RecoveredLog, Settings, partition_of};
use fluxar_shard::logged::{From, LoggedNews, LoggedPublish, LoggedWish};
use fluxar_shard::{Letter, Limits, PeerId, Seed, Shard};

const PARTITIONS: u16 = 5;
const ACK_MS: u32 = 2_000;
const TOPICS: [&str; 4] = ["a.x", "a.y", "m.fast", "b"];
const DEAD: &str = "dead";
const QUEUES: [(&str, &str, Option<&str>); 6] = [
    ("a.x", "g", None),
    ("a.*", "g", None),
    (">", "g", None),
    (">", "g", Some("again")),
    ("poison.*", "g", None),
    (DEAD, "g", None),
];
/// Those that are played at random; the others are for one test each.
const RANDOM_QUEUES: usize = 4;

/// Repeatable chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

type Place = (u16, u64);

struct Member {
    queue: usize,
    held: BTreeSet<Place>,
}

struct House {
    cores: u16,
    settings: Arc<Settings>,
    shards: Vec<Shard>,
    mail: BTreeMap<(u16, u16), VecDeque<Letter>>,
    ops: Vec<VecDeque<DiskOp>>,
    files: MemoryFiles,
    chance: Chance,
    members: BTreeMap<(PeerId, Id), Member>,
    /// By id: the topic.
    published: BTreeMap<Id, &'static str>,
    /// Where each event is, as its publisher or a member was told.
    places: BTreeMap<Place, Id>,
    /// In the log as surely as it can be.
    synced: BTreeSet<Place>,
    handled: BTreeSet<(usize, Place)>,
    /// Handled before a kill.
    doubtful: BTreeSet<(usize, Place)>,
    /// Of them, those that may not come again.
    settled: BTreeSet<(usize, Place)>,
    /// Those whose share of the log is read back later.
    late: BTreeSet<u16>,
    shares: Vec<Recovered>,
    epoch: u64,
    numbers: u64,
    now_us: u64,
    unix_ms: u64,
}

fn id(number: u64) -> Id {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

fn event(topic: &str, id: Id) -> Vec<u8> {
    let meta = MetaWriter::new().uint("qos", 1).finish().unwrap();
    let mut out = Vec::new();
    Envelope {
        kind: Kind::Event,
        id,
        reference: None,
        target: Some(topic),
        meta: Some(Meta::from_checked(&meta)),
        payload: &[0x18, 0x2a],
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

impl House {
    fn new(cores: u16, seed: u64) -> Self {
        let settings = Settings {
            partitions: PARTITIONS,
            segment_bytes: 64 * 1024,
            tail_bytes: 4 * 1024,
            ack_ms: ACK_MS,
            topics: vec![
                TopicRule {
                    pattern: "m.>".into(),
                    level: Some(Level::Memory),
                    always: None,
                    deliveries_max: None,
                    dead_letter: None,
                },
                TopicRule {
                    pattern: "poison.*".into(),
                    level: None,
                    always: None,
                    deliveries_max: Some(2),
                    dead_letter: None,
                },
                TopicRule {
                    pattern: "poison.known".into(),
                    level: None,
                    always: None,
                    deliveries_max: None,
                    dead_letter: Some(DEAD.into()),
                },
            ],
            ..Settings::default()
        };
        let mut house = Self {
            cores,
            settings: Arc::new(settings),
            shards: Vec::new(),
            mail: BTreeMap::new(),
            ops: Vec::new(),
            files: MemoryFiles::default(),
            chance: Chance(seed),
            members: BTreeMap::new(),
            published: BTreeMap::new(),
            places: BTreeMap::new(),
            synced: BTreeSet::new(),
            handled: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            settled: BTreeSet::new(),
            late: BTreeSet::new(),
            shares: Vec::new(),
            epoch: 0,
            numbers: 0,
            now_us: 1_000_000,
            unix_ms: 1_700_000_000_000,
        };
        house.start();
        house
    }

    /// Starts the process on what the disk holds.
    fn start(&mut self) {
        self.members.clear();
        self.mail.clear();
        let files = &mut self.files;
        let mut recovery = Recovery::open(files, self.cores, &self.settings, [7; 16], self.unix_ms).unwrap();
        let epoch = recovery.epoch();
        self.epoch = epoch;
        self.shares.clear();
        self.ops = (0..self.cores).map(|_| VecDeque::new()).collect();
        self.shards = (0..self.cores)
            .map(|core| {
                let seed = Seed {
                    hash: u64::from(core),
                    ids: !u64::from(core),
                    epoch,
                };
                let mut shard = Shard::new(core, self.cores, Limits::default(), seed);
                shard.set_log(Some(self.settings.clone()));
                shard.set_unix_ms(self.unix_ms);
                shard.handle_time(self.now_us);
                shard
            })
            .collect();
        while let Some(share) = recovery.step(|_| {}).unwrap() {
            if self.late.contains(&share.core) {
                self.shares.push(share);
            } else {
                self.shards[usize::from(share.core)].handle_recovered(RecoveredLog::new(share, 7));
            }
        }
        for core in 0..self.cores {
            self.drain(core);
        }
    }

    fn kill(&mut self) {
        // What only memory held is gone.
        let synced = &self.synced;
        self.places.retain(|place, _| synced.contains(place));
        // Nobody knows which acknowledgements the disk has: what was handled may come again, or not.
        self.settled.clear();
        self.doubtful.append(&mut self.handled);
        self.start();
    }

    fn stop(&mut self) {
        self.settle();
        for core in 0..self.cores {
            self.shards[usize::from(core)].stop_log();
            self.drain(core);
        }
        for _ in 0..1_000 {
            if self.shards.iter().all(Shard::is_log_stopped) {
                break;
            }
            self.tick(10);
        }
        assert!(self.shards.iter().all(Shard::is_log_stopped), "it stops");
        self.synced.extend(self.places.keys());
        self.settled = self.handled.clone();
        fluxar_shard::log::recovery::Meta::mark_clean(&mut self.files).unwrap();
        self.start();
    }

    fn publish(&mut self, core: u16, topic: &'static str, count: usize) {
        let shard = &mut self.shards[usize::from(core)];
        let publisher = PeerId {
            slot: 0,
            generation: 1,
            core,
        };
        for _ in 0..count {
            self.numbers += 1;
            let how = LoggedPublish {
                acked: true,
                ..LoggedPublish::default()
            };
            let id = id(self.numbers);
            self.published.insert(id, topic);
            shard.publish_logged(publisher, topic, &event(topic, id), how);
        }
        shard.flush_run();
        self.drain(core);
    }

    fn join(&mut self, core: u16, queue: usize, in_flight: u32) {
        self.numbers += 1;
        let peer = PeerId {
            slot: self.numbers as u32,
            generation: 1,
            core,
        };
        let sub = id(self.numbers);
        let (pattern, group, durable) = QUEUES[queue];
        let wish = LoggedWish {
            qos: Qos::AtLeastOnce,
            group: Some(group),
            durable,
            from: From::All,
            retain: false,
            skip_damaged: false,
            in_flight,
            principal: "somebody",
        };
        let held = BTreeSet::new();
        self.members.insert((peer, sub), Member { queue, held });
        self.shards[usize::from(core)]
            .subscribe_logged(peer, sub, pattern, wish)
            .unwrap();
        self.drain(core);
    }

    fn leave(&mut self, member: (PeerId, Id), is_lost: bool) {
        self.members.remove(&member);
        let shard = &mut self.shards[usize::from(member.0.core)];
        if is_lost {
            shard.peer_lost(member.0);
        } else {
            shard.end_subscription(member.0, member.1).unwrap();
        }
        self.drain(member.0.core);
    }

    fn acknowledge(&mut self, member: (PeerId, Id), places: &[Place]) {
        let known = self.members.get_mut(&member).unwrap();
        for place in places {
            known.held.remove(place);
            self.handled.insert((known.queue, *place));
        }
        let shard = &mut self.shards[usize::from(member.0.core)];
        for row in places.chunk_by(|one, other| one.0 == other.0) {
            let deltas = row.windows(2).map(|pair| pair[1].1 - pair[0].1);
            shard.acknowledge(member.0, member.1, row[0].0, row[0].1, deltas);
        }
        self.drain(member.0.core);
    }

    fn drain(&mut self, core: u16) {
        let at = usize::from(core);
        loop {
            while let Some(news) = self.shards[at].poll_logged() {
                self.news(news);
            }
            let Some((to, letter)) = self.shards[at].poll_letter() else {
                break;
            };
            self.mail.entry((core, to)).or_default().push_back(letter);
        }
        assert!(
            self.shards[at].poll_delivery().is_none(),
            "nobody subscribed plainly"
        );
        while let Some(op) = self.shards[at].poll_disk() {
            self.ops[at].push_back(op);
        }
    }

    fn news(&mut self, news: LoggedNews) {
        match news {
            LoggedNews::Stored {
                partition,
                first,
                events,
                ..
            } => {
                for nth in 0..events.len() {
                    let place = (partition, first + nth as u64);
                    self.place(place, events.id(nth));
                    if !self.published[&events.id(nth)].starts_with("m.") {
                        self.synced.insert(place);
                    }
                }
            }
            LoggedNews::Accepted { at, epoch, .. } => {
                assert!(!at.is_empty());
                assert_eq!(epoch, self.epoch, "that of the directory");
            }
            LoggedNews::Run {
                to,
                sub,
                positions,
                count,
                events,
                ..
            } => {
                let positions = Positions::read(&positions).unwrap();
                assert_eq!(positions.count(), count.into());
                let ids: Vec<_> = Batch::new(&events)
                    .map(|read| {
                        let envelope = read.unwrap().envelope;
                        if envelope.target == Some(DEAD) {
                            self.published.insert(envelope.id, DEAD);
                        }
                        assert_eq!(self.published[&envelope.id], envelope.target.unwrap());
                        envelope.id
                    })
                    .collect();
                assert_eq!(ids.len(), count as usize);
                let queue = self.members[&(to, sub)].queue;
                for (offset, id) in positions.offsets().zip(ids) {
                    let place = (positions.partition(), offset);
                    assert_eq!(partition_of(self.published[&id], PARTITIONS), place.0);
                    assert!(target::matches(QUEUES[queue].0, self.published[&id]));
                    assert!(!self.settled.contains(&(queue, place)), "{place:?} was handled");
                    self.place(place, id);
                    self.members.get_mut(&(to, sub)).unwrap().held.insert(place);
                }
            }
            news => panic!("{news:?}"),
        }
    }

    fn place(&mut self, place: Place, id: Id) {
        let before = self.places.insert(place, id);
        assert!(before.is_none_or(|before| before == id), "{place:?} twice");
    }

    fn carry(&mut self, from: u16, to: u16) -> bool {
        let Some(letter) = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        self.shards[usize::from(to)].handle_letter(from, letter);
        self.drain(to);
        true
    }

    fn work(&mut self, core: u16) -> bool {
        let Some(op) = self.ops[usize::from(core)].pop_front() else {
            return false;
        };
        if let Some(done) = perform(&mut self.files, op) {
            self.shards[usize::from(core)].handle_disk(done);
            self.drain(core);
        }
        true
    }

    fn tick(&mut self, ms: u64) {
        self.now_us += ms * 1_000;
        self.unix_ms += ms;
        for core in 0..self.cores {
            let shard = &mut self.shards[usize::from(core)];
            shard.set_unix_ms(self.unix_ms);
            shard.handle_time(self.now_us);
            self.drain(core);
        }
        self.settle();
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        let cores = self.cores;
        while (0..cores).any(|core| self.work(core))
            || (0..cores * cores).any(|pair| self.carry(pair / cores, pair % cores))
        {}
    }

    fn some_member(&mut self) -> Option<(PeerId, Id)> {
        let bound = self.members.len();
        let nth = (bound > 0).then(|| self.chance.below(bound))?;
        self.members.keys().nth(nth).copied()
    }

    fn step(&mut self) {
        let cores = usize::from(self.cores);
        match self.chance.below(100) {
            0..20 => {
                let core = self.chance.below(cores) as u16;
                let topic = TOPICS[self.chance.below(TOPICS.len())];
                let count = 1 + self.chance.below(30);
                self.publish(core, topic, count);
            }
            20..30 if self.members.len() < 8 => {
                let core = self.chance.below(cores) as u16;
                let queue = self.chance.below(RANDOM_QUEUES);
                let in_flight = self.chance.below(9) as u32;
                self.join(core, queue, in_flight);
            }
            30..35 => {
                if let Some(member) = self.some_member() {
                    let is_lost = self.chance.percent(50);
                    self.leave(member, is_lost);
                }
            }
            35..38 => {
                if let Some((peer, _)) = self.some_member() {
                    let busy = self.chance.percent(50);
                    self.shards[usize::from(peer.core)].set_busy(peer, busy);
                    self.drain(peer.core);
                }
            }
            38..40 => {
                if let Some((peer, sub)) = self.some_member() {
                    self.members.get_mut(&(peer, sub)).unwrap().held.clear();
                    self.shards[usize::from(peer.core)].rewind_logged(peer);
                    self.drain(peer.core);
                }
            }
            40..65 => {
                if let Some(member) = self.some_member() {
                    let part = 20 + self.chance.below(81);
                    let held: Vec<_> = self.members[&member].held.iter().copied().collect();
                    let places: Vec<_> = held.into_iter().filter(|_| self.chance.percent(part)).collect();
                    self.acknowledge(member, &places);
                }
            }
            65..90 => {
                for _ in 0..self.chance.below(10) {
                    let (from, to) = (self.chance.below(cores) as u16, self.chance.below(cores) as u16);
                    self.carry(from, to);
                    self.work(to);
                }
            }
            90..97 => {
                let ms = self.chance.below(900) as u64;
                self.tick(ms);
            }
            97 => self.stop(),
            98 if self.chance.percent(50) => self.kill(),
            _ => {}
        }
    }

    /// Everybody handles everything until there is nothing left.
    fn finish(&mut self) {
        let members: Vec<_> = self.members.keys().copied().collect();
        for (peer, _) in members {
            self.shards[usize::from(peer.core)].set_busy(peer, false);
            self.drain(peer.core);
        }
        for queue in 0..RANDOM_QUEUES {
            self.join(0, queue, 20);
        }
        for _ in 0..1_000 {
            self.tick(u64::from(ACK_MS) / 4);
            let mut is_idle = true;
            let members: Vec<_> = self.members.keys().copied().collect();
            for member in members {
                let places: Vec<_> = self.members[&member].held.iter().copied().collect();
                is_idle &= places.is_empty();
                self.acknowledge(member, &places);
            }
            if is_idle && self.missing().is_none() {
                return;
            }
        }
        panic!("never handled: {:?}", self.missing());
    }

    /// An event that is in the log, and a queue that has not handled it.
    fn missing(&self) -> Option<(usize, Place)> {
        let queues = 0..RANDOM_QUEUES;
        queues
            .flat_map(|queue| self.places.iter().map(move |(place, id)| (queue, *place, *id)))
            .find(|(queue, place, id)| {
                target::matches(QUEUES[*queue].0, self.published[id])
                    && !self.handled.contains(&(*queue, *place))
                    && !self.doubtful.contains(&(*queue, *place))
            })
            .map(|(queue, place, _)| (queue, place))
    }
}

/// Does what a log asks of a disk, at once and for good.
fn perform(files: &mut MemoryFiles, op: DiskOp) -> Option<DiskDone> {
    let result = Ok(());
    Some(match op {
        DiskOp::Create { segment, bytes } => {
            files.0.insert(segment.name(), vec![0; bytes as usize]);
            DiskDone::Opened { segment, result }
        }
        DiskOp::Open { segment } => DiskDone::Opened { segment, result },
        DiskOp::Write { segment, at, slices } => {
            let file = files.0.get_mut(&segment.name()).unwrap();
            let mut at = at as usize;
            for slice in slices {
                let end = at + slice.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(&slice);
                at = end;
            }
            DiskDone::Wrote { segment, result }
        }
        DiskOp::Sync { segment } => DiskDone::Synced { segment, result },
        DiskOp::Read {
            ticket,
            segment,
            at,
            bytes,
        } => {
            let file = &files.0[&segment.name()];
            let end = (at as usize + bytes as usize).min(file.len());
            let result = Ok(file[(at as usize).min(end)..end].to_vec().into());
            DiskDone::Read { ticket, result }
        }
        DiskOp::Truncate { segment, bytes } => {
            files.0.get_mut(&segment.name()).unwrap().truncate(bytes as usize);
            return None;
        }
        DiskOp::Close { .. } => return None,
        DiskOp::Remove { segment } => {
            files.0.remove(&segment.name());
            return None;
        }
    })
}

#[test]
fn every_event_in_the_log_is_handled() {
    for seed in 0..300 {
        let cores = 1 + (seed % 4) as u16;
        let result = std::panic::catch_unwind(|| {
            let mut house = House::new(cores, seed);
            for _ in 0..250 {
                house.step();
            }
            house.finish();
        });
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn what_no_member_handles_is_set_aside_wherever_its_letter_goes() {
    for cores in 1..=4 {
        let mut house = House::new(cores, 77);
        house.join(0, 4, 10);
        house.join(cores - 1, 5, 10);
        house.settle();
        house.publish(0, "poison.known", 3);
        house.publish(cores - 1, "poison.other", 2);
        house.settle();
        let dead_letters = |house: &House| -> usize {
            let held = house.members.values().filter(|member| member.queue == 5);
            held.map(|member| member.held.len()).sum()
        };
        for _ in 0..3 {
            assert_eq!(dead_letters(&house), 0, "not before they were given twice");
            house.tick(u64::from(ACK_MS) - 100);
        }
        for _ in 0..10 {
            house.tick(100);
        }
        assert_eq!(dead_letters(&house), 3, "{cores} cores");
        let mut given_up = Vec::new();
        for shard in &mut house.shards {
            given_up.extend(std::iter::from_fn(|| shard.poll_given_up()));
        }
        let said: Vec<_> = given_up
            .iter()
            .map(|given_up| (&*given_up.topic, given_up.deliveries))
            .collect();
        assert_eq!(said, [("poison.other", 2); 2]);
        // Nothing of it comes again, not even after a restart.
        house.stop();
        house.join(0, 4, 10);
        house.tick(100);
        assert!(house.members.values().all(|member| member.held.is_empty()));
    }
}

/// What a member is accepted with comes from the owner of the partition, even if its own core has not read its log back.
#[test]
fn a_member_on_a_core_that_still_recovers() {
    let (queue, cores) = (0, 2);
    let owner = partition_of(TOPICS[0], PARTITIONS) % cores;
    let mut house = House::new(cores, 5);
    house.publish(owner, TOPICS[0], 10);
    house.settle();
    house.late.insert(1 - owner);
    house.kill();
    house.join(1 - owner, queue, 100);
    house.settle();
    let held: usize = house.members.values().map(|member| member.held.len()).sum();
    assert_eq!(held, 10);
    for share in std::mem::take(&mut house.shares) {
        house.shards[usize::from(share.core)].handle_recovered(RecoveredLog::new(share, 7));
    }
    house.settle();
}

#[test]
fn a_group_has_no_table() {
    let mut house = House::new(1, 1);
    let wish = LoggedWish {
        qos: Qos::AtLeastOnce,
        group: Some("g"),
        durable: None,
        from: From::Default,
        retain: true,
        skip_damaged: false,
        in_flight: 0,
        principal: "",
    };
    let peer = PeerId {
        slot: 1,
        generation: 1,
        core: 0,
    };
    let refusal = house.shards[0]
        .subscribe_logged(peer, id(1), "a", wish)
        .unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert_eq!(house.shards[0].counts().subscriptions, 0);
}

/// A subscription's id is free again with its `cancel`; what the owner said of the subscription before may be under way
/// still.
#[test]
fn a_refusal_is_not_taken_for_that_of_a_later_member_with_the_same_id() {
    let (queue, cores) = (0, 2);
    let owner = partition_of(TOPICS[0], PARTITIONS) % cores;
    let mut house = House::new(cores, 3);
    let peer = PeerId {
        slot: 9,
        generation: 1,
        core: 1 - owner,
    };
    let sub = id(1);
    let (pattern, group, durable) = QUEUES[queue];
    let wish = LoggedWish {
        qos: Qos::AtLeastOnce,
        group: Some(group),
        durable,
        from: From::Epoch {
            epoch: house.epoch ^ 1 << 50,
            at: &[],
        },
        retain: false,
        skip_damaged: false,
        in_flight: 0,
        principal: "somebody",
    };
    let home = &mut house.shards[usize::from(peer.core)];
    home.subscribe_logged(peer, sub, pattern, wish).unwrap();
    home.end_subscription(peer, sub).unwrap();
    let from = From::All;
    home.subscribe_logged(peer, sub, pattern, LoggedWish { from, ..wish })
        .unwrap();
    let held = BTreeSet::new();
    house.members.insert((peer, sub), Member { queue, held });
    house.drain(peer.core);
    house.settle();
    house.publish(0, TOPICS[0], 3);
    house.settle();
    assert_eq!(house.members[&(peer, sub)].held.len(), 3);
    house.leave((peer, sub), true);
    house.settle();
    let members: Vec<_> = house
        .shards
        .iter()
        .map(|shard| shard.counts().queue_members)
        .collect();
    assert_eq!(members, [0, 0], "nobody is left behind");
}
