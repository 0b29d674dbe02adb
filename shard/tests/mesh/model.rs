//! Random histories of a mesh, against a list of subscriptions and `target::matches`.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_protocol::{Id, target};
use fluxar_shard::{Counts, Limits, PeerId};
use proptest::prelude::*;

use crate::world::{Outcome, World, id, offering};

const PATTERNS: &[&str] = &[
    "a", "b", "a.b", "a.c", "b.c", "a.b.c", "*", ">", "a.*", "*.b", "*.*", "a.>", "*.b.>", "a.*.c", "b.>",
    "$s", "$s.*",
];
const NAMES: &[&str] = &[
    "a", "b", "c", "a.b", "a.c", "b.c", "b.b", "a.b.c", "c.b.c.d", "a.x.c", "$s", "$s.a",
];
const GROUPS: &[&str] = &["red", "blue"];
const PEERS: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Subscribe {
        peer: usize,
        pattern: usize,
        group: Option<usize>,
    },
    Serve {
        peer: usize,
        pattern: usize,
        weight: u32,
    },
    End {
        nth: usize,
    },
    Lose {
        peer: usize,
    },
    Publish {
        core: usize,
        names: Vec<usize>,
    },
    Call {
        peer: usize,
        name: usize,
    },
    Answer {
        peer: usize,
        nth: usize,
    },
    Forge {
        peer: usize,
        of: usize,
    },
    Cancel {
        nth: usize,
    },
    Carry {
        from: usize,
        to: usize,
    },
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    prop_oneof![
        4 => (peer.clone(), 0..PATTERNS.len(), proptest::option::of(0..GROUPS.len()))
            .prop_map(|(peer, pattern, group)| Step::Subscribe { peer, pattern, group }),
        2 => (peer.clone(), 0..PATTERNS.len() - 2, 1..4u32)
            .prop_map(|(peer, pattern, weight)| Step::Serve { peer, pattern, weight }),
        3 => any::<usize>().prop_map(|nth| Step::End { nth }),
        1 => peer.clone().prop_map(|peer| Step::Lose { peer }),
        6 => (any::<usize>(), proptest::collection::vec(0..NAMES.len(), 1..12))
            .prop_map(|(core, names)| Step::Publish { core, names }),
        5 => (peer.clone(), 0..NAMES.len()).prop_map(|(peer, name)| Step::Call { peer, name }),
        4 => (peer.clone(), any::<usize>()).prop_map(|(peer, nth)| Step::Answer { peer, nth }),
        1 => (peer.clone(), peer).prop_map(|(peer, of)| Step::Forge { peer, of }),
        1 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
        8 => (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Step::Carry { from, to }),
        3 => Just(Step::Settle),
    ]
}

struct Sub {
    peer: PeerId,
    id: Id,
    pattern: &'static str,
    group: Option<&'static str>,
    is_offer: bool,
}

struct Model {
    world: World,
    peers: Vec<PeerId>,
    subs: Vec<Sub>,
    /// Nothing is under way.
    is_settled: bool,
    next: u64,
    /// Which core published an event, and to which topic.
    published: BTreeMap<u64, (usize, String)>,
    /// All that anybody ever subscribed to: nobody gets anything else.
    ever: BTreeMap<PeerId, BTreeSet<&'static str>>,
    opened: Vec<(PeerId, Id)>,
}

impl Model {
    fn new(cores: u16, seed: u64) -> Self {
        let mut world = World::new(
            cores,
            seed,
            Limits {
                names_remembered: 4,
                ..Limits::default()
            },
        );
        let peers = (0..PEERS)
            .map(|at| world.connect(at as u16 % cores, at as u32, 0))
            .collect();
        Self {
            world,
            peers,
            subs: Vec::new(),
            is_settled: true,
            next: 1,
            published: BTreeMap::new(),
            ever: BTreeMap::new(),
            opened: Vec::new(),
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn step(&mut self, step: Step) {
        let cores = self.world.cores();
        match step {
            Step::Subscribe { peer, pattern, group } => {
                let (peer, pattern, group) =
                    (self.peers[peer], PATTERNS[pattern], group.map(|at| GROUPS[at]));
                let id = id(self.fresh());
                self.world
                    .shard(peer)
                    .subscribe(peer, id, pattern, group)
                    .unwrap();
                self.subs.push(Sub {
                    peer,
                    id,
                    pattern,
                    group,
                    is_offer: false,
                });
                self.ever.entry(peer).or_default().insert(pattern);
                self.touched(peer);
            }
            Step::Serve {
                peer,
                pattern,
                weight,
            } => {
                let (peer, pattern, id) = (self.peers[peer], PATTERNS[pattern], id(self.fresh()));
                self.world
                    .shard(peer)
                    .serve(peer, id, pattern, offering(weight))
                    .unwrap();
                self.subs.push(Sub {
                    peer,
                    id,
                    pattern,
                    group: None,
                    is_offer: true,
                });
                self.touched(peer);
            }
            Step::End { nth } => {
                if !self.subs.is_empty() {
                    let sub = self.subs.swap_remove(nth % self.subs.len());
                    let ended = self
                        .world
                        .shard(sub.peer)
                        .end_subscription(sub.peer, sub.id)
                        .unwrap();
                    assert_eq!((ended.serve, ended.dropped), (sub.is_offer, 0));
                    assert!(
                        self.world
                            .shard(sub.peer)
                            .end_subscription(sub.peer, sub.id)
                            .is_none()
                    );
                    self.touched(sub.peer);
                }
            }
            Step::Lose { peer } => {
                let lost = self.peers[peer];
                self.check_inbox(lost);
                self.world.lose(lost);
                self.subs.retain(|sub| sub.peer != lost);
                self.is_settled = false;
                self.peers[peer] = self.world.connect(lost.core, lost.slot, lost.generation + 1);
            }
            Step::Publish { core, names } => self.publish(core % cores, &names),
            Step::Call { peer, name } => {
                let (asker, id) = (self.peers[peer], id(self.fresh()));
                let route = self.world.call(asker, id, NAMES[name]);
                let is_served = |pattern| target::matches(pattern, NAMES[name]);
                let offers: Vec<_> = self
                    .subs
                    .iter()
                    .filter(|sub| sub.is_offer && is_served(sub.pattern))
                    .collect();
                if let Some(route) = route {
                    self.opened.push((asker, id));
                    assert!(!self.is_settled || offers.iter().any(|sub| sub.peer == route.server));
                } else {
                    assert!(!self.is_settled || offers.is_empty(), "{} is served", NAMES[name]);
                }
                self.is_settled = false;
            }
            Step::Answer { peer, nth } => {
                let peer = self.peers[peer];
                let calls = &mut self.world.inboxes.get_mut(&peer).unwrap().calls;
                if !calls.is_empty() {
                    let reference = calls.swap_remove(nth % calls.len());
                    self.world.answer(peer, reference);
                    self.is_settled = false;
                }
            }
            Step::Forge { peer, of } => {
                // Knowing somebody else's forward id is of no use.
                let (peer, of) = (self.peers[peer], self.peers[of]);
                let stolen = self.world.inboxes[&of].calls.first().copied();
                if let Some(stolen) = stolen.filter(|_| peer != of) {
                    self.settle(); // honest answers that are under way arrive
                    let before = self.answered();
                    self.world.answer(peer, stolen);
                    self.world.settle();
                    assert_eq!(self.answered(), before);
                }
            }
            Step::Cancel { nth } => {
                if !self.opened.is_empty() {
                    let (asker, id) = self.opened[nth % self.opened.len()];
                    self.world.cancel(asker, id);
                    self.is_settled = false;
                }
            }
            Step::Carry { from, to } => {
                self.world.carry(from % cores, to % cores);
            }
            Step::Settle => self.settle(),
        }
    }

    fn touched(&mut self, peer: PeerId) {
        self.world.drain(usize::from(peer.core));
        self.is_settled = false;
    }

    fn is_open(&self, call: &(PeerId, Id)) -> bool {
        self.world.calls[call].is_empty()
    }

    fn answered(&self) -> usize {
        self.world
            .calls
            .values()
            .flatten()
            .filter(|outcome| **outcome == Outcome::Answered)
            .count()
    }

    fn settle(&mut self) {
        self.world.settle();
        self.is_settled = true;
        // What the shards count is what the model has.
        let live = |sub: &&Sub| !sub.is_offer;
        let topic_patterns: BTreeSet<_> = self.subs.iter().filter(live).map(|sub| sub.pattern).collect();
        let method_patterns: BTreeSet<_> = self
            .subs
            .iter()
            .filter(|sub| sub.is_offer)
            .map(|sub| sub.pattern)
            .collect();
        let groups: BTreeSet<_> = self
            .subs
            .iter()
            .filter_map(|sub| Some((sub.pattern, sub.group?)))
            .collect();
        let cores = self.world.cores();
        for (core, shard) in self.world.shards.iter().enumerate() {
            let counts = shard.counts();
            let here: Vec<_> = self
                .subs
                .iter()
                .filter(|sub| usize::from(sub.peer.core) == core)
                .collect();
            assert_eq!(counts.subscriptions, here.len());
            assert_eq!(
                counts.subscribers,
                here.iter().map(|sub| sub.peer).collect::<BTreeSet<_>>().len()
            );
            assert_eq!(
                counts.topic_patterns,
                topic_patterns.len(),
                "core {core} of {cores}"
            );
            assert_eq!(counts.method_patterns, method_patterns.len());
            assert_eq!(counts.groups, groups.len());
            let open = self
                .opened
                .iter()
                .filter(|call| usize::from(call.0.core) == core && self.is_open(call))
                .count();
            assert_eq!(counts.open_calls, open);
        }
    }

    fn publish(&mut self, core: usize, names: &[usize]) {
        let events: Vec<_> = names
            .iter()
            .map(|&name| (NAMES[name].to_owned(), self.fresh()))
            .collect();
        for (topic, nth) in &events {
            self.published.insert(*nth, (core, topic.clone()));
        }
        self.world.publish(core, &events);
        if !self.is_settled {
            return;
        }
        self.world.settle();
        for (topic, nth) in &events {
            let matching: Vec<_> = self
                .subs
                .iter()
                .filter(|sub| !sub.is_offer && target::matches(sub.pattern, topic))
                .collect();
            for (peer, inbox) in &self.world.inboxes {
                let expected = matching
                    .iter()
                    .any(|sub| sub.peer == *peer && sub.group.is_none());
                let got = inbox.plain.iter().filter(|(other, _)| other == nth).count();
                assert_eq!(got, usize::from(expected), "{topic} at {peer:?}");
            }
            let groups: BTreeSet<_> = matching
                .iter()
                .filter_map(|sub| Some((sub.pattern, sub.group?)))
                .collect();
            for group in groups {
                let members: Vec<_> = matching
                    .iter()
                    .filter(|sub| sub.group == Some(group.1) && sub.pattern == group.0)
                    .collect();
                let got: usize = members
                    .iter()
                    .map(|sub| {
                        let inbox = &self.world.inboxes[&sub.peer];
                        inbox.grouped.iter().filter(|got| **got == (sub.id, *nth)).count()
                    })
                    .sum();
                assert_eq!(got, 1, "{topic} in {group:?}");
            }
        }
    }

    /// What holds of a connection whenever.
    fn check_inbox(&self, peer: PeerId) {
        let inbox = &self.world.inboxes[&peer];
        let mut last = BTreeMap::new();
        for (nth, topic) in &inbox.plain {
            let (core, published_to) = &self.published[nth];
            assert_eq!(published_to, topic);
            assert!(
                self.ever[&peer]
                    .iter()
                    .any(|pattern| target::matches(pattern, topic))
            );
            let last = last.insert(core, nth);
            assert!(
                last.is_none_or(|last| last < nth),
                "{last:?} before {nth}: twice, or out of order"
            );
        }
        let mut seen = BTreeSet::new();
        assert!(
            inbox.grouped.iter().all(|got| seen.insert(*got)),
            "twice in a group"
        );
    }

    fn finish(mut self) {
        for peer in self.peers.clone() {
            self.check_inbox(peer);
            self.world.lose(peer);
        }
        self.world.settle();
        for (call, outcomes) in &self.world.calls {
            assert_eq!(outcomes.len(), 1, "{call:?}: {outcomes:?}");
        }
        for shard in &self.world.shards {
            let ever = shard.counts();
            let nothing = Counts {
                late_answers: ever.late_answers,
                unheard_events: ever.unheard_events,
                orphaned_events: ever.orphaned_events,
                ..Counts::default()
            };
            assert_eq!(ever, nothing);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, ..ProptestConfig::default() })]

    #[test]
    fn a_mesh_does_what_the_naive_model_does(
        cores in 1..=4u16,
        seed: u64,
        steps in proptest::collection::vec(step(), 1..160),
    ) {
        let mut model = Model::new(cores, seed);
        for step in steps {
            model.step(step);
        }
        model.finish();
    }

    #[test]
    fn resolving_is_matching(
        seed: u64,
        patterns in proptest::collection::vec(pattern(), 1..40),
        names in proptest::collection::vec(name(), 1..20),
        removed in proptest::collection::vec(any::<bool>(), 40),
    ) {
        // One peer a pattern: who gets an event tells which patterns matched it.
        let mut world = World::new(1, seed, Limits::default());
        let mut subscribers = Vec::new();
        for (slot, pattern) in patterns.iter().enumerate() {
            let peer = world.connect(0, slot as u32, 0);
            world.shards[0].subscribe(peer, id(1), pattern, None).unwrap();
            subscribers.push((peer, pattern));
        }
        let mut nth = 0;
        for round in 0..2 {
            for name in &names {
                nth += 1;
                world.publish(0, &[(name.clone(), nth)]);
                for (peer, pattern) in &subscribers {
                    let got = world.inboxes[peer].plain.last().is_some_and(|(last, _)| *last == nth);
                    prop_assert_eq!(got, target::matches(pattern, name), "{} {} {}", pattern, name, round);
                }
            }
            let mut removed = removed.iter();
            subscribers.retain(|(peer, _)| {
                let is_removed = *removed.next().unwrap();
                if is_removed {
                    world.shards[0].end_subscription(*peer, id(1)).unwrap();
                }
                !is_removed
            });
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("a"), Just("b"), Just("c"), Just("$d")];
    proptest::collection::vec(token, 1..6).prop_map(|tokens| tokens.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("$d"), 3 => Just("*")];
    (proptest::collection::vec(token, 0..5), any::<bool>()).prop_map(|(mut tokens, rest)| {
        if rest || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}
