//! A few shards with logs, the letters between them, their disks, and connections that write down what they get.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_protocol::limits::{POSITIONS_BYTES_MAX, RUN_BYTES_MAX};
use fluxar_protocol::meta::{MetaWriter, Qos};
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Batch, Code, Envelope, Form, Id, Kind};
use fluxar_shard::log::Settings;
use fluxar_shard::logged::{From, LoggedNews, LoggedPublish, LoggedWish};
use fluxar_shard::{Letter, Limits, PeerId, Refusal, Seed, Shard};

use crate::dice::Dice;
use crate::disk::Disk;

pub(crate) const EPOCH: u64 = (5 << 20) | 3;

pub(crate) fn id(number: u64) -> Id {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

pub(crate) fn number(Id(id): Id) -> u64 {
    u64::from_be_bytes(id[8..].try_into().unwrap())
}

/// An event whose id is a number.
pub(crate) fn event(topic: &str, nth: u64) -> Vec<u8> {
    event_with(topic, nth, MetaWriter::new(), &[0x18, 0x2a])
}

pub(crate) fn event_with(topic: &str, nth: u64, meta: MetaWriter, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let meta = meta.finish();
    Envelope {
        kind: Kind::Event,
        id: id(nth),
        reference: None,
        target: Some(topic),
        meta: meta.as_deref().map(fluxar_protocol::meta::Meta::from_checked),
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

pub(crate) const ACKED: LoggedPublish = LoggedPublish {
    once: false,
    retain: false,
    expires: false,
    acked: true,
};

pub(crate) const WISH: LoggedWish<'static> = LoggedWish {
    qos: Qos::AtLeastOnce,
    group: None,
    durable: None,
    from: From::Default,
    retain: false,
    skip_damaged: false,
    in_flight: 0,
    principal: "",
};

/// An event that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) partition: u16,
    pub(crate) offset: u64,
    pub(crate) nth: u64,
    pub(crate) dup: u32,
}

/// What a subscription was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Accepted(Vec<(u16, u64)>),
    Refused(Code, Option<u32>),
    Got(Got),
    Moved(u16, u64),
    Ended(Code, Option<Vec<u8>>),
}

pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    mail: Vec<VecDeque<Letter>>,
    pub(crate) disks: Vec<Disk>,
    /// In the order in which it was told.
    pub(crate) told: Vec<((PeerId, Id), Told)>,
    /// Where each event was stored: partition and offset to its number.
    pub(crate) stored: BTreeMap<(u16, u64), u64>,
    /// Events that were refused.
    pub(crate) refused: BTreeSet<u64>,
    /// In the order in which it was told: to whom, which, and when it is worth another try, ms.
    pub(crate) refusals: Vec<(PeerId, u64, Option<u32>)>,
    /// Acknowledgements of events that had been stored before.
    pub(crate) again: Vec<(u64, u16, u64)>,
    /// Plain deliveries.
    pub(crate) plain: BTreeMap<PeerId, Vec<u64>>,
    pub(crate) now_us: u64,
    /// Connections that are gone.
    lost: BTreeSet<PeerId>,
    /// A connection that is busy once it was given so many bytes.
    slow: Option<(PeerId, usize)>,
}

impl World {
    pub(crate) fn new(cores: u16, seed: u64, limits: Limits, settings: Option<Settings>) -> Self {
        let settings = settings.map(Arc::new);
        let shard = |core| {
            let seed = Seed {
                hash: seed ^ u64::from(core),
                ids: !seed ^ u64::from(core),
                epoch: EPOCH,
            };
            let mut shard = Shard::new(core, cores, limits, seed);
            shard.set_log(settings.clone());
            shard.handle_empty_log(EPOCH);
            shard
        };
        let mut world = Self {
            shards: (0..cores).map(shard).collect(),
            mail: (0..cores * cores).map(|_| VecDeque::new()).collect(),
            disks: (0..cores).map(|_| Disk::default()).collect(),
            told: Vec::new(),
            stored: BTreeMap::new(),
            refused: BTreeSet::new(),
            refusals: Vec::new(),
            again: Vec::new(),
            plain: BTreeMap::new(),
            now_us: 0,
            lost: BTreeSet::new(),
            slow: None,
        };
        world.pass(1);
        world
    }

    pub(crate) fn cores(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn shard(&mut self, peer: PeerId) -> &mut Shard {
        &mut self.shards[usize::from(peer.core)]
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.now_us / 1_000
    }

    pub(crate) fn publish(&mut self, peer: PeerId, events: &[(&str, u64)], how: LoggedPublish) {
        for (topic, nth) in events {
            self.shard(peer)
                .publish_logged(peer, topic, &event(topic, *nth), how);
        }
        self.shard(peer).flush_run();
        self.drain(usize::from(peer.core));
    }

    pub(crate) fn subscribe(
        &mut self,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        wish: LoggedWish<'_>,
    ) -> Result<(), Refusal> {
        let begun = self.shard(peer).subscribe_logged(peer, sub, pattern, wish);
        self.drain(usize::from(peer.core));
        begun
    }

    pub(crate) fn ack(&mut self, peer: PeerId, sub: Id, partition: u16, offset: u64) {
        self.shard(peer)
            .acknowledge(peer, sub, partition, offset, std::iter::empty());
        self.drain(usize::from(peer.core));
    }

    pub(crate) fn lose(&mut self, peer: PeerId) {
        self.lost.insert(peer);
        self.shard(peer).peer_lost(peer);
        self.drain(usize::from(peer.core));
    }

    pub(crate) fn end(&mut self, peer: PeerId, sub: Id) {
        self.shard(peer).end_subscription(peer, sub);
        self.drain(usize::from(peer.core));
    }

    pub(crate) fn busy(&mut self, peer: PeerId, busy: bool) {
        self.shard(peer).set_busy(peer, busy);
        self.drain(usize::from(peer.core));
    }

    /// A connection is busy once it was given so many bytes.
    pub(crate) fn busy_when_given(&mut self, peer: PeerId, bytes: usize) {
        self.slow = Some((peer, bytes));
    }

    fn slows_down(&mut self, core: usize, news: &LoggedNews) {
        let (Some((peer, room)), LoggedNews::Run { to, events, .. }) = (&mut self.slow, news) else {
            return;
        };
        if to == peer && *room > 0 {
            *room = room.saturating_sub(events.len());
            if *room == 0 {
                self.shards[core].set_busy(*peer, true);
            }
        }
    }

    pub(crate) fn rewind(&mut self, peer: PeerId) {
        self.shard(peer).rewind_logged(peer);
        self.drain(usize::from(peer.core));
    }

    /// Time passes on all cores.
    pub(crate) fn pass(&mut self, us: u64) {
        self.now_us += us;
        let unix_ms = self.unix_ms();
        for core in 0..self.cores() {
            self.shards[core].set_unix_ms(unix_ms);
            self.shards[core].handle_time(self.now_us);
            self.drain(core);
        }
    }

    /// Delivers one letter of this pair of cores; whether there was one.
    pub(crate) fn carry(&mut self, from: usize, to: usize) -> bool {
        let Some(letter) = self.mail[from * self.shards.len() + to].pop_front() else {
            return false;
        };
        let _ = self.shards[to].handle_letter(from as u16, letter);
        self.drain(to);
        true
    }

    /// Delivers a few letters of some pair of cores.
    pub(crate) fn carry_some(&mut self, dice: &mut Dice) {
        let (from, to) = (dice.below(self.cores()), dice.below(self.cores()));
        for _ in 0..=dice.below(4) {
            self.carry(from, to);
        }
    }

    /// How many events wait to be sent again, on all cores.
    pub(crate) fn refused_events(&self) -> usize {
        let counts = self.shards.iter().map(Shard::counts);
        counts.map(|counts| counts.refused_events).sum()
    }

    /// The disk of a core does one thing; whether there was one.
    pub(crate) fn work(&mut self, core: usize) -> bool {
        if !self.disks[core].has_work() {
            return false;
        }
        if let Some(done) = self.disks[core].step() {
            self.shards[core].handle_disk(done);
        }
        self.drain(core);
        true
    }

    /// Carries letters, and lets the disks work, until there is nothing.
    pub(crate) fn settle(&mut self) {
        let cores = self.cores();
        for core in 0..cores {
            self.drain(core);
        }
        while (0..cores * cores).any(|pair| self.carry(pair / cores, pair % cores))
            || (0..cores).any(|core| self.work(core))
        {}
    }

    /// Takes all that a shard has to give.
    pub(crate) fn drain(&mut self, core: usize) {
        while let Some(delivery) = self.shards[core].poll_delivery() {
            for peer in delivery.plain.iter() {
                let events = Batch::new(&delivery.run.framed()[PREFIX_BYTES..])
                    .map(|decoded| number(decoded.unwrap().envelope.id));
                self.plain.entry(*peer).or_default().extend(events);
            }
        }
        while let Some(news) = self.shards[core].poll_logged() {
            self.slows_down(core, &news);
            if let LoggedNews::Refused { to, .. } = &news
                && self.lost.contains(to)
            {
                self.shards[core].publisher_gone(*to);
            }
            self.heard(core, news);
        }
        while let Some((to, letter)) = self.shards[core].poll_letter() {
            let cores = self.cores();
            assert_ne!(usize::from(to), core);
            self.mail[core * cores + usize::from(to)].push_back(letter);
        }
        while let Some(op) = self.shards[core].poll_disk() {
            self.disks[core].ask(op);
        }
    }

    fn heard(&mut self, core: usize, news: LoggedNews) {
        let mut tell = |to: PeerId, sub, told| {
            assert_eq!(usize::from(to.core), core);
            self.told.push(((to, sub), told));
        };
        match news {
            LoggedNews::Stored {
                to,
                partition,
                first,
                events,
            } => {
                assert_eq!(usize::from(to.core), core);
                for at in 0..events.len() {
                    let nth = number(events.id(at));
                    let before = self.stored.insert((partition, first + at as u64), nth);
                    assert_eq!(before, None, "a position is given once");
                }
            }
            LoggedNews::StoredBefore {
                id,
                partition,
                offset,
                ..
            } => self.again.push((number(id), partition, offset)),
            LoggedNews::Refused {
                to,
                events,
                retry_after_ms,
                ..
            } => {
                for at in 0..events.len() {
                    let nth = number(events.id(at));
                    self.refused.insert(nth);
                    self.refusals.push((to, nth, retry_after_ms));
                }
            }
            LoggedNews::Accepted { to, sub, epoch, at } => {
                assert_eq!(epoch, EPOCH);
                tell(to, sub, Told::Accepted(at));
            }
            LoggedNews::RefusedSub {
                to,
                sub,
                code,
                retry_after_ms,
                ..
            } => tell(to, sub, Told::Refused(code, retry_after_ms)),
            LoggedNews::Run {
                to,
                sub,
                positions,
                count,
                dup,
                events,
            } => {
                assert!(positions.len() <= POSITIONS_BYTES_MAX);
                assert!(count == 1 || events.len() <= RUN_BYTES_MAX - 4096);
                let positions = Positions::read(&positions).unwrap();
                assert_eq!(positions.count(), u64::from(count));
                let numbers: Vec<_> = Batch::new(&events)
                    .map(|decoded| number(decoded.unwrap().envelope.id))
                    .collect();
                assert_eq!(numbers.len(), count as usize);
                for (offset, nth) in positions.offsets().zip(numbers) {
                    let partition = positions.partition();
                    tell(
                        to,
                        sub,
                        Told::Got(Got {
                            partition,
                            offset,
                            nth,
                            dup,
                        }),
                    );
                }
            }
            LoggedNews::Moved {
                to,
                sub,
                partition,
                offset,
            } => tell(to, sub, Told::Moved(partition, offset)),
            LoggedNews::Ended {
                to,
                sub,
                code,
                details,
                ..
            } => tell(to, sub, Told::Ended(code, details)),
        }
    }

    /// What a subscription was told since the last time.
    pub(crate) fn take(&mut self, peer: PeerId, sub: Id) -> Vec<Told> {
        let (taken, rest) = std::mem::take(&mut self.told)
            .into_iter()
            .partition(|(to, _)| *to == (peer, sub));
        self.told = rest;
        let taken: Vec<_> = taken;
        taken.into_iter().map(|(_, told)| told).collect()
    }

    /// The numbers of the events that it got since the last time.
    pub(crate) fn got(&mut self, peer: PeerId, sub: Id) -> Vec<u64> {
        self.take(peer, sub)
            .into_iter()
            .filter_map(|told| match told {
                Told::Got(got) => Some(got.nth),
                _ => None,
            })
            .collect()
    }
}

pub(crate) fn peer(core: u16, slot: u32) -> PeerId {
    PeerId {
        slot,
        generation: 0,
        core,
    }
}

/// Settings at memory level.
pub(crate) fn in_memory(partitions: u16) -> Settings {
    use fluxar_shard::log::class::{Level, TopicRule};
    Settings {
        partitions,
        topics: vec![TopicRule {
            pattern: ">".into(),
            level: Some(Level::Memory),
            always: None,
            deliveries_max: None,
            dead_letter: None,
        }],
        ..Settings::default()
    }
}
