//! Random meshes against an auditor that knows what was stored where.
//!
//! Publishers publish, subscribers come and go, lag, acknowledge, are cut off and return; letters and disks are late. The
//! auditor holds for every subscription: positions ascend, nothing that matches is left out between two of them, nothing
//! comes twice but behind a rewind and marked so; and one with a name goes on without a gap.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::target::matches;
use fluxar_protocol::{Code, Id};
use fluxar_shard::log::class::Level;
use fluxar_shard::logged::{From, LoggedWish};
use fluxar_shard::{Limits, PeerId};

use crate::dice::Dice;
use crate::world::{ACKED, EPOCH, Told, WISH, World, id, in_memory, peer};

const TOPICS: [&str; 7] = ["a", "a.b", "a.c", "b", "b.c.d", "c", "x.y"];
const PATTERNS: [&str; 7] = ["a", "a.*", ">", "*.c.d", "b", "a.>", "x.y"];

/// How far a subscription is in one partition, as its holder knows it.
#[derive(Debug, Clone, Default)]
struct Way {
    /// Where it began.
    from: u64,
    /// The last offset that it got, or was told to be past.
    last: u64,
    /// The most that it ever got.
    most: u64,
    acked: u64,
    /// Behind a rewind: the first that comes may be anywhere behind `acked`.
    rewound: bool,
    got: BTreeSet<u64>,
}

#[derive(Debug)]
struct Sub {
    pattern: &'static str,
    durable: Option<&'static str>,
    is_explicit: bool,
    ways: Option<BTreeMap<u16, Way>>,
    is_over: bool,
}

/// What everybody who ever had a durable name got by it.
#[derive(Debug, Default)]
struct Name {
    /// Where its cursor was set explicitly, or for the first time.
    from: BTreeMap<u16, u64>,
    got: BTreeSet<(u16, u64)>,
    /// Somebody set it explicitly and was not accepted yet, or never will be: where it is nobody knows.
    is_unknown: bool,
}

struct Play {
    world: World,
    dice: Dice,
    subs: BTreeMap<(PeerId, Id), Sub>,
    names: BTreeMap<(&'static str, &'static str), Name>,
    topics: BTreeMap<u64, &'static str>,
    /// Complaints that can be judged only when all is known: nothing that matches between two positions.
    spans: Vec<(u16, u64, u64, &'static str, String)>,
    busy: BTreeSet<PeerId>,
    nth: u64,
    next_id: u64,
    next_slot: u32,
    peers: Vec<PeerId>,
    is_in_memory: bool,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let cores = 1 + dice.below(4) as u16;
        let partitions = dice.of(&[1, 2, 3, 7]);
        let limits = Limits {
            unacked_bytes_per_subscription: dice.of(&[1, 100, 500, 1 << 18]),
            unacked_events_per_subscription: dice.of(&[1, 3, 10, 4096]),
            names_remembered: dice.of(&[1, 8192]),
            ..Limits::default()
        };
        let mut settings = in_memory(partitions);
        let is_in_memory = dice.one_in(2);
        if !is_in_memory {
            settings.topics[0].level = Some(dice.of(&[Level::Written, Level::Synced]));
            settings.segment_bytes = 256 * 1024;
            settings.tail_bytes = dice.of(&[0, 1_000, 1 << 20]);
        }
        let world = World::new(cores, seed, limits, Some(settings));
        let peers = (0..cores)
            .flat_map(|core| [peer(core, 1), peer(core, 2)])
            .collect();
        Self {
            world,
            dice,
            subs: BTreeMap::new(),
            names: BTreeMap::new(),
            topics: BTreeMap::new(),
            spans: Vec::new(),
            busy: BTreeSet::new(),
            nth: 0,
            next_id: 0,
            next_slot: 3,
            peers,
            is_in_memory,
        }
    }

    fn step(&mut self) {
        match self.dice.below(24) {
            0..5 => self.publish(),
            5..7 => self.subscribe(),
            7..10 => self.acknowledge(),
            10 => self.toggle_busy(),
            11 if self.dice.one_in(3) => self.lose(),
            12 if self.dice.one_in(2) => self.end(),
            13 if self.dice.one_in(2) => self.rewind(),
            14 => {
                let us = self.dice.of(&[1, 1_000, 600_000, 11_000_000]);
                self.world.pass(us);
            }
            15..17 => {
                let core = self.dice.below(self.world.cores());
                self.world.work(core);
            }
            _ => self.world.carry_some(&mut self.dice),
        }
        self.audit();
    }

    fn publish(&mut self) {
        let peer = self.dice.of(&self.peers);
        let mut topic = self.dice.of(&TOPICS);
        let mut events = Vec::new();
        for _ in 0..=self.dice.below(12) {
            if self.dice.one_in(4) {
                topic = self.dice.of(&TOPICS);
            }
            self.nth += 1;
            self.topics.insert(self.nth, topic);
            events.push((topic, self.nth));
        }
        self.world.publish(peer, &events, ACKED);
    }

    fn subscribe(&mut self) {
        let peer = self.dice.of(&self.peers);
        let pattern = self.dice.of(&PATTERNS);
        let durable = self.dice.of(&[None, Some("one"), Some("two")]);
        let mut at = Vec::new();
        let from = match self.dice.below(6) {
            0 => From::New,
            1 => From::All,
            2 => {
                let some = self.world.stored.keys().copied().collect::<Vec<_>>();
                if !some.is_empty() {
                    at.push(self.dice.of(&some));
                }
                From::Epoch {
                    epoch: EPOCH,
                    at: &at,
                }
            }
            _ => From::Default,
        };
        self.next_id += 1;
        let sub = id(self.next_id);
        self.subs.insert(
            (peer, sub),
            Sub {
                pattern,
                durable,
                is_explicit: from != From::Default,
                ways: None,
                is_over: false,
            },
        );
        if let Some(durable) = durable
            && from != From::Default
        {
            self.names.entry((durable, pattern)).or_default().is_unknown = true;
        }
        let wish = LoggedWish {
            durable,
            from,
            ..WISH
        };
        self.world.subscribe(peer, sub, pattern, wish).unwrap();
    }

    fn some_sub(&mut self) -> Option<(PeerId, Id)> {
        let open: Vec<_> = self
            .subs
            .iter()
            .filter(|(_, sub)| !sub.is_over)
            .map(|(key, _)| *key)
            .collect();
        (!open.is_empty()).then(|| self.dice.of(&open))
    }

    fn acknowledge(&mut self) {
        let Some((peer, sub)) = self.some_sub() else {
            return;
        };
        let Some(ways) = self.subs.get_mut(&(peer, sub)).and_then(|sub| sub.ways.as_mut()) else {
            return;
        };
        let partitions: Vec<u16> = ways.keys().copied().collect();
        let partition = self.dice.of(&partitions);
        let way = ways.get_mut(&partition).unwrap();
        let unacked: Vec<u64> = way
            .got
            .range(way.acked + 1..)
            .copied()
            .take_while(|got| *got <= way.last)
            .collect();
        if unacked.is_empty() {
            return;
        }
        let offset = self.dice.of(&unacked);
        way.acked = offset;
        self.world.ack(peer, sub, partition, offset);
    }

    fn toggle_busy(&mut self) {
        let peer = self.dice.of(&self.peers);
        let busy = self.busy.insert(peer) || !self.busy.remove(&peer);
        self.world.busy(peer, busy);
    }

    fn lose(&mut self) {
        let at = self.dice.below(self.peers.len());
        let lost = self.peers[at];
        self.audit();
        self.world.lose(lost);
        self.busy.remove(&lost);
        for (_, sub) in self.subs.iter_mut().filter(|((peer, _), _)| *peer == lost) {
            sub.is_over = true;
        }
        self.peers[at] = peer(lost.core, self.next_slot);
        self.next_slot += 1;
    }

    fn end(&mut self) {
        let Some((peer, sub)) = self.some_sub() else {
            return;
        };
        self.world.end(peer, sub);
        self.subs.get_mut(&(peer, sub)).unwrap().is_over = true;
    }

    fn rewind(&mut self) {
        let peer = self.dice.of(&self.peers);
        self.audit();
        for ((other, _), sub) in &mut self.subs {
            if *other == peer
                && let Some(ways) = &mut sub.ways
            {
                for way in ways.values_mut() {
                    way.rewound = true;
                }
            }
        }
        self.world.rewind(peer);
    }

    /// Looks at what came since the last time.
    fn audit(&mut self) {
        // How many may have a hand in each name, those that were gone before they were accepted included.
        let mut holders: BTreeMap<_, usize> = BTreeMap::new();
        for sub in self
            .subs
            .values()
            .filter(|sub| !sub.is_over || sub.ways.is_none())
        {
            if let Some(durable) = sub.durable {
                *holders.entry((durable, sub.pattern)).or_default() += 1;
            }
        }
        for ((peer, id), told) in std::mem::take(&mut self.world.told) {
            let sub = self
                .subs
                .get_mut(&(peer, id))
                .expect("a subscription that was asked for");
            let who = || format!("{peer:?} {id:?} {} {told:?}", sub.pattern);
            assert!(!sub.is_over, "it is over: {}", who());
            match told {
                Told::Accepted(ref at) => {
                    assert!(sub.ways.is_none(), "{}", who());
                    let ways = at.iter().map(|&(partition, offset)| {
                        let way = Way {
                            from: offset,
                            last: offset,
                            acked: offset,
                            ..Way::default()
                        };
                        (partition, way)
                    });
                    sub.ways = Some(ways.collect());
                    if let Some(durable) = sub.durable {
                        let name = self.names.entry((durable, sub.pattern)).or_default();
                        if sub.is_explicit && holders.get(&(durable, sub.pattern)) == Some(&1) {
                            *name = Name::default();
                        }
                        for &(partition, offset) in at.iter().filter(|_| !name.is_unknown) {
                            let from = *name.from.entry(partition).or_insert(offset);
                            // Everything between its beginning and here was handed out.
                            let mut after = from;
                            for &(_, got) in name.got.range((partition, from)..=(partition, offset)) {
                                self.spans
                                    .push((partition, after, got, sub.pattern, "durable".to_owned()));
                                after = got;
                            }
                            self.spans.push((
                                partition,
                                after,
                                offset + 1,
                                sub.pattern,
                                format!("durable at {offset}"),
                            ));
                        }
                    }
                }
                Told::Got(got) => {
                    let ways = sub.ways.as_mut().expect("accepted first");
                    let way = ways.get_mut(&got.partition).expect("a partition that it covers");
                    assert!(matches(sub.pattern, self.topics[&got.nth]));
                    if got.dup > 0 && got.offset <= way.acked {
                        continue; // on its way when it was acknowledged
                    }
                    if way.rewound {
                        way.rewound = false;
                        way.last = way.last.min(got.offset - 1).max(way.acked);
                    }
                    assert!(got.offset > way.last, "{peer:?} {id:?} {got:?} behind {way:?}");
                    assert_eq!(
                        got.dup > 0,
                        got.offset <= way.most,
                        "{peer:?} {id:?} {got:?} {way:?}"
                    );
                    self.spans.push((
                        got.partition,
                        way.last,
                        got.offset,
                        sub.pattern,
                        format!("{peer:?} {id:?}"),
                    ));
                    way.last = got.offset;
                    way.most = way.most.max(got.offset);
                    way.got.insert(got.offset);
                    if let Some(durable) = sub.durable {
                        let name = self.names.entry((durable, sub.pattern)).or_default();
                        name.got.insert((got.partition, got.offset));
                    }
                }
                Told::Moved(partition, offset) => {
                    let way = sub.ways.as_mut().unwrap().get_mut(&partition).unwrap();
                    assert!(offset > way.acked, "{peer:?} {id:?} to {offset}: {way:?}");
                    let most = way.got.last().copied().unwrap_or(way.from);
                    assert!(most <= way.acked, "only when all is acknowledged: {way:?}");
                    self.spans.push((
                        partition,
                        way.acked,
                        offset + 1,
                        sub.pattern,
                        format!("{peer:?} {id:?} moved"),
                    ));
                    way.last = way.last.max(offset);
                    way.acked = offset;
                }
                Told::Ended(code, _) => {
                    assert!(code == Code::Aborted && sub.durable.is_some());
                    sub.is_over = true;
                }
                Told::Refused(code, _) => {
                    assert!(code == Code::Aborted && sub.durable.is_some());
                    sub.is_over = true;
                }
            }
        }
    }

    /// Everybody catches up.
    fn finish(mut self) {
        for peer in self.busy.clone() {
            self.world.busy(peer, false);
        }
        loop {
            self.world.pass(1_000_000);
            self.world.settle();
            self.audit();
            let mut acks = Vec::new();
            let mut is_beginning = false;
            for ((peer, id), sub) in self.subs.iter_mut().filter(|(_, sub)| !sub.is_over) {
                // A cursor that was written a moment ago is written again a moment later.
                is_beginning |= sub.ways.is_none();
                for (partition, way) in sub.ways.iter_mut().flatten() {
                    if way.last > way.acked {
                        way.acked = way.last;
                        acks.push((*peer, *id, *partition, way.last));
                    }
                }
            }
            if acks.is_empty() && !is_beginning {
                break;
            }
            for (peer, id, partition, offset) in acks {
                self.world.ack(peer, id, partition, offset);
            }
        }
        assert_eq!(self.world.stored.len() as u64, self.nth, "everything is stored");
        assert!(self.world.refused.is_empty());
        let stored = &self.world.stored;
        let between = |partition, after: u64, before: u64, pattern| {
            stored
                .range((partition, after + 1)..(partition, before.max(after + 1)))
                .find(|(_, nth)| matches(pattern, self.topics[nth]))
        };
        for (partition, after, before, pattern, who) in &self.spans {
            let missed = between(*partition, *after, *before, pattern);
            assert_eq!(missed, None, "{who}: {pattern} between {after} and {before}");
        }
        for ((peer, id), sub) in self.subs.iter().filter(|(_, sub)| !sub.is_over) {
            for (partition, way) in sub.ways.as_ref().unwrap() {
                let missed = between(*partition, way.last, u64::MAX, sub.pattern);
                assert_eq!(missed, None, "{peer:?} {id:?} {} stopped at {way:?}", sub.pattern);
            }
        }
        for peer in std::mem::take(&mut self.peers) {
            self.world.lose(peer);
        }
        self.world.settle();
        for shard in &self.world.shards {
            let counts = shard.counts();
            assert_eq!(
                (
                    counts.logged_subscriptions,
                    counts.logged_patterns,
                    counts.cursor_holders,
                    counts.unacked_bytes,
                    counts.subscriptions
                ),
                (0, 0, 0, 0, 0),
                "in memory: {}",
                self.is_in_memory
            );
        }
    }
}

fn play(seed: u64, steps: usize) {
    let mut play = Play::new(seed);
    for _ in 0..steps {
        play.step();
    }
    play.finish();
}

#[test]
fn everybody_gets_everything_once() {
    let (first, count) = match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed, 1),
        None => (0, 1_500),
    };
    for seed in first..first + count {
        let played = std::panic::catch_unwind(|| play(seed, 250));
        if let Err(panic) = played {
            eprintln!("SEED={seed} plays it again");
            std::panic::resume_unwind(panic);
        }
    }
}
