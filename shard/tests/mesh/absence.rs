//! Peers that lose their connection and return: what others have of them is lost at once, and is there again under the same
//! name, in whatever order the letters about it arrive.

use fluxar_protocol::stream::Note;
use fluxar_protocol::{Kind, envelope};
use fluxar_shard::{AnswerRoute, Limits, PeerId, Standing};

use crate::world::{Heard, Outcome, World, encoded, id, offering};

/// A sequence without a pattern, the same for each seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn away(world: &mut World, peer: PeerId) {
    world.shard(peer).peer_away(peer);
    world.drain(usize::from(peer.core));
}

fn back(world: &mut World, peer: PeerId) {
    world
        .shard(peer)
        .peer_returned(peer, 1 << 16, Standing::default());
    world.drain(usize::from(peer.core));
}

#[test]
fn a_server_that_returns_at_any_moment_has_its_calls_and_no_others() {
    for seed in 1..=400 {
        let mut draw = Draw(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let cores = 1 + draw.below(3) as u16;
        let mut world = World::new(cores, seed, Limits::default());
        let server = world.connect(0, 1, 0);
        let terms = fluxar_shard::Offering {
            in_flight_max: [u32::MAX, 2][draw.below(2) as usize],
            ..offering(1)
        };
        world
            .shard(server)
            .serve(server, id(1), "m.*", terms.clone())
            .unwrap();
        world.shard(server).serve(server, id(2), "n", terms).unwrap();
        world.settle();
        let askers: Vec<PeerId> = (0..cores).map(|core| world.connect(core, 9, 0)).collect();
        let (mut is_away, mut asked) = (false, 100);
        for _ in 0..120 {
            match draw.below(8) {
                0 if is_away => {
                    back(&mut world, server);
                    is_away = false;
                }
                0 => {
                    away(&mut world, server);
                    is_away = true;
                }
                1..=2 => {
                    asked += 1;
                    let asker = askers[draw.below(u64::from(cores)) as usize];
                    world.call(asker, id(asked), ["m.a", "n"][draw.below(2) as usize]);
                }
                3 if !is_away => {
                    if let Some(&call) = world.inboxes[&server].calls.first() {
                        world.answer(server, call);
                    }
                }
                _ => {
                    let (from, to) = (draw.below(cores.into()), draw.below(cores.into()));
                    world.carry(from as usize, to as usize);
                }
            }
        }
        if is_away {
            back(&mut world, server);
        }
        world.settle();
        // What it believes to have, somebody waits for.
        while let Some(&call) = world.inboxes[&server].calls.first() {
            let route = world.answer(server, call);
            assert!(
                !matches!(route, AnswerRoute::Unknown),
                "seed {seed}: it was not told of an end"
            );
            world.settle();
        }
        for (call, outcomes) in &world.calls {
            assert_eq!(outcomes.len(), 1, "seed {seed}: {call:?} {outcomes:?}");
        }
        // It serves as before.
        for &asker in &askers {
            for method in ["m.b", "n"] {
                asked += 1;
                world.call(asker, id(asked), method);
                world.settle();
                let [call] = world.inboxes[&server].calls[..] else {
                    panic!("seed {seed}: {method} is not served");
                };
                world.answer(server, call);
                world.settle();
                assert_eq!(world.calls[&(asker, id(asked))], [Outcome::Answered]);
            }
        }
        for shard in &world.shards {
            assert_eq!(shard.counts().passed, 0, "seed {seed}: all places there are free");
        }
        for peer in askers.into_iter().chain([server]) {
            world.lose(peer);
        }
        world.settle();
        for shard in &world.shards {
            let counts = shard.counts();
            assert_eq!(
                (
                    counts.servers,
                    counts.open_calls,
                    counts.away,
                    counts.subscriptions,
                    counts.passed
                ),
                (0, 0, 0, 0, 0),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn who_returns_drained_gets_nothing_of_what_waits_on_whatever_core() {
    for core in 0..2 {
        let mut world = World::new(2, 7, Limits::default());
        let (drained, busy) = (world.connect(0, 1, 0), world.connect(0, 2, 0));
        let asker = world.connect(core, 9, 0);
        for (peer, sub) in [(drained, 1), (busy, 2)] {
            let terms = fluxar_shard::Offering {
                in_flight_max: 1,
                ..offering(1)
            };
            world.shard(peer).serve(peer, id(sub), "m", terms).unwrap();
        }
        world.settle();
        away(&mut world, drained);
        world.settle();
        for call in [11, 12] {
            world.call(asker, id(call), "m");
            world.settle();
        }
        let standing = Standing {
            draining: true,
            ..Standing::default()
        };
        let names: Vec<PeerId> = world
            .shard(drained)
            .services_away()
            .map(|(peer, _)| peer)
            .collect();
        assert_eq!(names, [drained]);
        world.shard(drained).peer_returned(drained, 1 << 16, standing);
        world.drain(0);
        world.settle();
        assert_eq!(world.inboxes[&drained].calls, [], "core {core}");
        for _ in 0..2 {
            let &call = world.inboxes[&busy].calls.first().expect("a call");
            world.answer(busy, call);
            world.settle();
        }
        world.shard(drained).set_standing(drained, Standing::default());
        world.drain(0);
        world.settle();
        for call in [13, 14] {
            world.call(asker, id(call), "m");
            world.settle();
        }
        assert_eq!(world.inboxes[&drained].calls.len(), 1, "core {core}");
    }
}

#[test]
fn a_stream_that_overtook_its_servers_loss_keeps_no_place_there() {
    let mut world = World::new(2, 7, Limits::default());
    let server = world.connect(0, 1, 0);
    let terms = fluxar_shard::Offering {
        in_flight_max: 1,
        ..offering(1)
    };
    world.shard(server).serve(server, id(1), "m", terms).unwrap();
    world.settle();
    let opener = world.connect(1, 9, 0);
    let open = |world: &mut World, nth| {
        let compact = encoded(Kind::Stream, id(nth), None, Some("m"), None);
        let envelope = envelope::decode(&compact).unwrap().envelope;
        world.shard(opener).ask(opener, 300, &envelope, &compact).unwrap();
        world.drain(1);
    };
    let heard = |world: &mut World| world.inboxes.get_mut(&server).unwrap().heard.pop_front();
    open(&mut world, 11);
    away(&mut world, server);
    back(&mut world, server);
    assert!(world.carry(1, 0), "the open, to who is back");
    assert!(matches!(heard(&mut world), Some((_, Heard::Open(_)))));
    assert_eq!(world.shards[0].counts().passed, 1);
    world.settle();
    assert_eq!(
        heard(&mut world).map(|(_, heard)| heard),
        Some(Heard::Note(Note::Cancel)),
        "its opener was told that it failed"
    );
    assert_eq!(world.shards[0].counts().passed, 0);
    open(&mut world, 12);
    world.settle();
    assert!(matches!(heard(&mut world), Some((_, Heard::Open(_)))));
}

#[test]
fn a_member_that_is_away_gets_nothing_and_misses_nothing_of_its_plain_subscriptions_count() {
    let mut world = World::new(2, 3, Limits::default());
    let (absent, present) = (world.connect(0, 1, 0), world.connect(1, 2, 0));
    for (peer, sub) in [(absent, 1), (present, 2)] {
        world
            .shard(peer)
            .subscribe(peer, id(sub), "jobs.*", Some("g"))
            .unwrap();
    }
    world
        .shard(absent)
        .subscribe(absent, id(3), "jobs.*", None)
        .unwrap();
    world.settle();
    away(&mut world, absent);
    world.settle();
    let events: Vec<_> = (0..20).map(|nth| ("jobs.a".to_owned(), nth)).collect();
    for core in 0..2 {
        world.publish(core, &events);
    }
    world.settle();
    assert_eq!(world.inboxes[&present].grouped.len(), 40);
    assert_eq!(world.inboxes[&absent].grouped, []);
    assert_eq!(
        world.inboxes[&absent].plain.len(),
        40,
        "they are its queue's to drop"
    );
    back(&mut world, absent);
    world.settle();
    world.publish(1, &events);
    world.settle();
    let shares = [absent, present].map(|peer| world.inboxes[&peer].grouped.len());
    assert_eq!((shares[0] + shares[1], shares[0]), (60, 10));
    for peer in [absent, present] {
        world.lose(peer);
    }
    world.settle();
    for shard in &world.shards {
        let counts = shard.counts();
        assert_eq!(
            (counts.groups, counts.subscriptions, counts.topic_patterns),
            (0, 0, 0)
        );
    }
}

#[test]
fn an_absent_peer_that_never_returns_leaves_nothing() {
    let mut world = World::new(2, 3, Limits::default());
    let (absent, server) = (world.connect(0, 1, 0), world.connect(1, 2, 0));
    world
        .shard(server)
        .serve(server, id(1), "m", offering(1))
        .unwrap();
    world
        .shard(absent)
        .serve(absent, id(2), "n", offering(1))
        .unwrap();
    world
        .shard(absent)
        .subscribe(absent, id(3), "a", Some("g"))
        .unwrap();
    world.settle();
    world.call(absent, id(10), "m");
    world.settle();
    away(&mut world, absent);
    world.settle();
    assert_eq!(world.inboxes[&server].cancelled, [], "what it began goes on");
    world.lose(absent);
    world.settle();
    assert_eq!(world.inboxes[&server].cancelled.len(), 1);
    world.lose(server);
    world.settle();
    for shard in &world.shards {
        let counts = shard.counts();
        assert_eq!(
            (
                counts.servers,
                counts.subscriptions,
                counts.groups,
                counts.away,
                counts.askers
            ),
            (0, 0, 0, 0, 0)
        );
    }
}
