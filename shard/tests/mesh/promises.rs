//! What a call is promised: a deadline, an order, a bound, a second try where that does no harm, and one end.

use std::sync::Arc;

use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Code, Id};
use fluxar_shard::routes::{Balance, Mirror, RetryBudget, Routes, Rule, SHARE_ALL};
use fluxar_shard::{AnswerRoute, Limits, Offering, Outcome as Said, PeerId, Refusal, Standing};

use crate::world::{Outcome, World, id, offering};

const MS: u64 = 1_000;

fn world(cores: u16) -> World {
    World::new(cores, 5, Limits::default())
}

fn serve_as(world: &mut World, core: u16, slot: u32, offering: Offering) -> PeerId {
    let peer = world.connect(core, slot, 0);
    world
        .shard(peer)
        .serve(peer, id(1_000_000), "m", offering)
        .unwrap();
    world.settle();
    peer
}

fn serve(world: &mut World, core: u16, slot: u32, in_flight_max: u32) -> PeerId {
    let terms = Offering {
        in_flight_max,
        ..offering(1)
    };
    serve_as(world, core, slot, terms)
}

fn ask(world: &mut World, asker: PeerId, nth: u64, meta: MetaWriter) {
    world.ask(asker, id(nth), "m", meta).unwrap();
    world.settle();
}

fn refused(world: &mut World, asker: PeerId, nth: u64, meta: MetaWriter) -> Refusal {
    world.ask(asker, id(nth), "m", meta).unwrap_err()
}

fn open_at(world: &World, server: PeerId) -> Vec<Id> {
    world.inboxes[&server].calls.clone()
}

fn outcomes(world: &World, asker: PeerId, nth: u64) -> &[Outcome] {
    &world.calls[&(asker, id(nth))]
}

fn timeout_told(world: &World, server: PeerId, call: Id) -> Option<u64> {
    let meta = world.inboxes[&server].metas[&call].as_deref()?;
    Meta::from_checked(meta).uint("timeout_ms").unwrap()
}

fn idempotent() -> MetaWriter {
    MetaWriter::new().flag("idempotent", true)
}

#[track_caller]
pub(crate) fn assert_nothing_is_left(world: &World) {
    for shard in &world.shards {
        let counts = shard.counts();
        let left = [
            counts.open_calls,
            counts.open_streams,
            counts.queued,
            counts.gated,
            counts.passed,
            counts.held_bytes,
            counts.askers,
        ];
        assert_eq!(left, [0; 7]);
        assert_eq!(shard.poll_timeout_ms(), None, "an idle core sleeps");
    }
}

#[test]
fn a_call_that_is_not_answered_in_time_ends_and_its_server_stops() {
    for server_core in 0..2 {
        let mut world = world(2);
        let asker = world.connect(0, 0, 0);
        let server = serve(&mut world, server_core, 1, u32::MAX);
        ask(&mut world, asker, 1, MetaWriter::new().uint("timeout_ms", 100));
        let call = open_at(&world, server)[0];
        assert_eq!(timeout_told(&world, server, call), Some(100));
        world.pass(99 * MS);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), []);
        assert!(world.shards[0].poll_timeout_ms().is_some());
        world.pass(6 * MS);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), [Outcome::Overdue]);
        assert_eq!(world.inboxes[&server].cancelled, [call]);
        world.answer(server, call);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), [Outcome::Overdue]);
        assert_eq!(world.shards[0].counts().late_answers, 1);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn no_time_at_all_is_over_at_once() {
    let mut world = world(1);
    let asker = world.connect(0, 0, 0);
    serve(&mut world, 0, 1, u32::MAX);
    let refusal = refused(&mut world, asker, 1, MetaWriter::new().uint("timeout_ms", 0));
    assert_eq!(refusal.code, Code::DeadlineExceeded);
    ask(
        &mut world,
        asker,
        2,
        MetaWriter::new().uint("timeout_ms", u64::MAX),
    );
    world.pass(3_600_000 * MS);
    assert_eq!(outcomes(&world, asker, 2), []);
}

#[test]
fn those_that_wait_go_by_prio_then_by_age() {
    let mut world = world(1);
    let asker = world.connect(0, 0, 0);
    let server = serve(&mut world, 0, 1, 1);
    ask(&mut world, asker, 1, MetaWriter::new());
    for (nth, prio) in [(2, 2), (3, 7), (4, 4), (5, 7), (6, 4)] {
        ask(&mut world, asker, nth, MetaWriter::new().uint("prio", prio));
    }
    assert_eq!(world.shards[0].counts().queued, 5);
    let mut order = Vec::new();
    while let Some(&call) = open_at(&world, server).first() {
        assert_eq!(open_at(&world, server).len(), 1, "it takes one at a time");
        world.answer(server, call);
        let answered = world.calls.iter().filter(|(_, ends)| !ends.is_empty());
        let answered: Vec<_> = answered.map(|((_, nth), _)| *nth).collect();
        order.push(*answered.iter().find(|nth| !order.contains(*nth)).unwrap());
    }
    assert_eq!(order, [1, 3, 5, 4, 6, 2].map(id));
    assert_nothing_is_left(&world);
}

#[test]
fn a_full_queue_takes_the_more_urgent_and_lets_the_newest_of_the_least_urgent_go() {
    let limits = Limits {
        calls_queued_per_core: 3,
        ..Limits::default()
    };
    let mut world = World::new(1, 5, limits);
    let asker = world.connect(0, 0, 0);
    serve(&mut world, 0, 1, 1);
    let prio = |prio| MetaWriter::new().uint("prio", prio);
    ask(&mut world, asker, 1, prio(0));
    for (nth, at) in [(2, 3), (3, 2), (4, 2)] {
        ask(&mut world, asker, nth, prio(at));
    }
    let refusal = refused(&mut world, asker, 5, prio(2));
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains("3 calls"), "{refusal}");
    ask(&mut world, asker, 6, prio(3));
    assert_eq!(outcomes(&world, asker, 4), [Outcome::Refused]);
    assert_eq!(outcomes(&world, asker, 3), []);
    ask(&mut world, asker, 7, prio(7));
    assert_eq!(outcomes(&world, asker, 3), [Outcome::Refused]);
    assert_eq!(
        refused(&mut world, asker, 8, prio(3)).code,
        Code::ResourceExhausted
    );
    assert_eq!(world.shards[0].counts().queued, 3);
    world.lose(asker);
    assert_nothing_is_left(&world);
}

#[test]
fn bytes_that_wait_have_a_bound() {
    let limits = Limits {
        call_bytes_held_per_core: 30,
        ..Limits::default()
    };
    let mut world = World::new(1, 5, limits);
    let asker = world.connect(0, 0, 0);
    let server = serve(&mut world, 0, 1, 1);
    // Longer than that: there is no room to keep its bytes for a second try, so it is sent once.
    ask(&mut world, asker, 1, idempotent());
    assert_eq!(world.shards[0].counts().held_bytes, 0);
    ask(&mut world, asker, 2, MetaWriter::new());
    assert!((1..=30).contains(&world.shards[0].counts().held_bytes));
    let refusal = refused(&mut world, asker, 3, MetaWriter::new());
    assert_eq!(refusal.code, Code::ResourceExhausted);
    serve(&mut world, 0, 2, 1);
    assert_eq!(world.shards[0].counts().held_bytes, 0);
    world.lose(server);
    assert_eq!(outcomes(&world, asker, 1), [Outcome::Failed]);
    assert_eq!(outcomes(&world, asker, 2), []);
    world.lose(asker);
    assert_nothing_is_left(&world);
}

#[test]
fn a_new_offer_and_a_peer_that_is_fit_again_get_what_waits() {
    let mut world = world(2);
    let asker = world.connect(0, 0, 0);
    let first = serve(&mut world, 0, 1, 1);
    for nth in 1..=3 {
        ask(&mut world, asker, nth, MetaWriter::new());
    }
    let second = serve(&mut world, 1, 2, 1);
    assert_eq!(
        (open_at(&world, first).len(), open_at(&world, second).len()),
        (1, 1)
    );
    let crowded = Standing {
        crowded: true,
        ..Standing::default()
    };
    world.shard(second).set_standing(second, crowded);
    world.settle();
    let call = open_at(&world, second)[0];
    world.answer(second, call);
    world.settle();
    assert_eq!(open_at(&world, second), [], "it gets nothing new");
    world.shard(second).set_standing(second, Standing::default());
    world.settle();
    assert_eq!(open_at(&world, second).len(), 1);
    assert_eq!(world.shards[0].counts().queued, 0);
}

#[test]
fn whoever_waits_for_a_set_in_which_nobody_is_left_is_told() {
    for loses in [true, false] {
        let mut world = world(2);
        let asker = world.connect(0, 0, 0);
        let server = serve(&mut world, 1, 1, 1);
        ask(&mut world, asker, 1, MetaWriter::new());
        ask(&mut world, asker, 2, MetaWriter::new());
        if loses {
            world.lose(server);
        } else {
            world
                .shard(server)
                .end_subscription(server, id(1_000_000))
                .unwrap();
        }
        world.settle();
        assert_eq!(outcomes(&world, asker, 2), [Outcome::Failed]);
        assert_eq!(
            outcomes(&world, asker, 1).is_empty(),
            !loses,
            "what is open goes on"
        );
    }
}

#[test]
fn no_peer_ever_has_more_open_than_it_takes_whatever_cores_they_come_from() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut world = World::new(3, seed, Limits::default());
        let askers = [0, 1, 2].map(|core| world.connect(core, 7, 0));
        let most = 1 + random.below(3) as u32;
        let servers = [serve(&mut world, 0, 1, most), serve(&mut world, 2, 2, most)];
        let mut nth = 0;
        for _ in 0..200 {
            match random.below(10) {
                0..4 => {
                    nth += 1;
                    let asker = askers[random.below(3)];
                    let meta = MetaWriter::new().uint("prio", random.below(8) as u64);
                    world.ask(asker, id(nth), "m", meta).unwrap();
                }
                4 => {
                    let asker = askers[random.below(3)];
                    world.cancel(asker, id(1 + random.below(nth as usize + 1) as u64));
                }
                5..7 => {
                    let server = servers[random.below(2)];
                    let open = open_at(&world, server);
                    if !open.is_empty() {
                        world.answer(server, open[random.below(open.len())]);
                    }
                }
                _ => {
                    world.carry(random.below(3), random.below(3));
                }
            }
            for server in servers {
                assert!(open_at(&world, server).len() <= most as usize, "seed {seed}");
            }
        }
        for _ in 0..nth + 1 {
            world.settle();
            for server in servers {
                assert!(open_at(&world, server).len() <= most as usize, "seed {seed}");
                for call in open_at(&world, server) {
                    world.answer(server, call);
                }
            }
        }
        assert!(world.calls.values().all(|ends| ends.len() == 1), "seed {seed}");
        assert_nothing_is_left(&world);
    }
}

#[test]
fn the_gate_goes_by_prio_and_forgets_who_is_cancelled() {
    let mut world = world(3);
    let askers = [0, 1, 2].map(|core| world.connect(core, 7, 0));
    let server = serve(&mut world, 0, 1, 1);
    for (asker, prio) in askers.into_iter().zip([0, 2, 6]) {
        ask(&mut world, asker, 1, MetaWriter::new().uint("prio", prio));
    }
    let first = open_at(&world, server);
    assert_eq!((first.len(), world.shards[0].counts().gated), (1, 2));
    world.answer(server, first[0]);
    world.settle();
    assert_eq!(outcomes(&world, askers[0], 1), [Outcome::Answered]);
    // The one of prio 6 is at the server now; the other is cancelled before it ever was.
    world.cancel(askers[1], id(1));
    world.settle();
    assert_eq!(outcomes(&world, askers[1], 1), [Outcome::Cancelled]);
    assert_eq!(world.inboxes[&server].cancelled, [], "it has not heard of it");
    let second = open_at(&world, server);
    world.answer(server, second[0]);
    world.settle();
    assert_eq!(outcomes(&world, askers[2], 1), [Outcome::Answered]);
    assert_eq!(world.served[&server], 2);
    assert_nothing_is_left(&world);
}

#[test]
fn what_is_lost_with_its_server_goes_elsewhere_once_if_that_does_no_harm() {
    for server_core in 0..2 {
        let mut world = world(2);
        let asker = world.connect(0, 0, 0);
        let first = serve(&mut world, server_core, 1, u32::MAX);
        ask(&mut world, asker, 1, idempotent().uint("timeout_ms", 100));
        ask(&mut world, asker, 2, MetaWriter::new());
        let second = serve(&mut world, 1 - server_core, 2, u32::MAX);
        world.pass(30 * MS);
        world.lose(first);
        world.settle();
        assert_eq!(outcomes(&world, asker, 2), [Outcome::Failed]);
        let again = open_at(&world, second);
        assert_eq!(again.len(), 1);
        assert_eq!(timeout_told(&world, second, again[0]), Some(70));
        assert_eq!(outcomes(&world, asker, 1), []);
        let third = serve(&mut world, 0, 3, u32::MAX);
        world.lose(second);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), [Outcome::Failed], "once");
        assert_eq!(open_at(&world, third), []);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn a_second_try_waits_its_turn_and_needs_a_budget() {
    let mut world = world(1);
    let asker = world.connect(0, 0, 0);
    let full = serve(&mut world, 0, 1, 1);
    ask(&mut world, asker, 1, MetaWriter::new());
    let first = serve(&mut world, 0, 2, 1);
    ask(&mut world, asker, 2, idempotent());
    assert_eq!(open_at(&world, first).len(), 1);
    world.lose(first);
    assert_eq!(world.shards[0].counts().queued, 1);
    let call = open_at(&world, full)[0];
    world.answer(full, call);
    let call = open_at(&world, full)[0];
    world.answer(full, call);
    assert_eq!(outcomes(&world, asker, 2), [Outcome::Answered]);

    let none = Routes {
        retries: RetryBudget {
            percent: 0,
            least_per_s: 0,
        },
        ..Routes::default()
    };
    world.shards[0].set_routes(Arc::new(none));
    ask(&mut world, asker, 3, idempotent());
    serve(&mut world, 0, 3, 1);
    world.lose(full);
    assert_eq!(outcomes(&world, asker, 3), [Outcome::Failed]);
    assert_nothing_is_left(&world);
}

#[test]
fn of_a_hedged_call_the_first_answer_counts_and_the_other_server_stops() {
    for by_first in [true, false] {
        for cores in [1, 2] {
            let mut world = world(cores);
            let asker = world.connect(0, 0, 0);
            let servers = [serve(&mut world, 0, 1, 4), serve(&mut world, cores - 1, 2, 4)];
            ask(
                &mut world,
                asker,
                1,
                idempotent().uint("hedge_ms", 10).uint("timeout_ms", 500),
            );
            let first = servers
                .iter()
                .position(|server| !open_at(&world, *server).is_empty())
                .unwrap();
            world.pass(9 * MS);
            world.settle();
            assert_eq!(open_at(&world, servers[1 - first]), []);
            world.pass(6 * MS);
            world.settle();
            let copy = open_at(&world, servers[1 - first]);
            assert_eq!(copy.len(), 1, "a second copy");
            assert_eq!(timeout_told(&world, servers[1 - first], copy[0]), Some(485));
            let winner = if by_first { first } else { 1 - first };
            let call = open_at(&world, servers[winner])[0];
            world.answer(servers[winner], call);
            world.settle();
            assert_eq!(outcomes(&world, asker, 1), [Outcome::Answered]);
            assert_eq!(open_at(&world, servers[1 - winner]), []);
            assert_eq!(world.inboxes[&servers[1 - winner]].cancelled.len(), 1);
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn of_a_hedged_call_one_that_is_unavailable_leaves_it_to_the_other() {
    for by_first in [true, false] {
        for end in [Said::Ok, Said::Error(Code::Unavailable)] {
            let mut world = world(2);
            let asker = world.connect(0, 0, 0);
            let servers = [serve(&mut world, 0, 1, 4), serve(&mut world, 1, 2, 4)];
            ask(&mut world, asker, 1, idempotent().uint("hedge_ms", 10));
            let first = servers
                .iter()
                .position(|server| !open_at(&world, *server).is_empty())
                .unwrap();
            world.pass(20 * MS);
            world.settle();
            let gives_up = if by_first { first } else { 1 - first };
            let call = open_at(&world, servers[gives_up])[0];
            world.answer_with(servers[gives_up], call, Said::Error(Code::Unavailable));
            world.settle();
            assert_eq!(outcomes(&world, asker, 1), []);
            let call = open_at(&world, servers[1 - gives_up])[0];
            world.answer_with(servers[1 - gives_up], call, end);
            world.settle();
            assert_eq!(
                outcomes(&world, asker, 1),
                [Outcome::Answered],
                "with what it says"
            );
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn a_hedged_call_outlives_either_of_its_servers_and_not_both() {
    for first_goes_first in [true, false] {
        let mut world = world(2);
        let asker = world.connect(0, 0, 0);
        let servers = [serve(&mut world, 0, 1, 4), serve(&mut world, 1, 2, 4)];
        ask(&mut world, asker, 1, idempotent().uint("hedge_ms", 10));
        world.pass(20 * MS);
        world.settle();
        let [one, other] = if first_goes_first {
            servers
        } else {
            [servers[1], servers[0]]
        };
        world.lose(one);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), []);
        world.lose(other);
        world.settle();
        assert_eq!(outcomes(&world, asker, 1), [Outcome::Failed]);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn what_may_do_harm_twice_is_never_sent_twice() {
    let mut world = world(1);
    let asker = world.connect(0, 0, 0);
    let servers = [serve(&mut world, 0, 1, 4), serve(&mut world, 0, 2, 4)];
    ask(&mut world, asker, 1, MetaWriter::new().uint("hedge_ms", 10));
    world.pass(1_000 * MS);
    assert_eq!(world.served.values().sum::<usize>(), 1);
    for server in servers {
        world.lose(server);
    }
    assert_eq!(outcomes(&world, asker, 1), [Outcome::Failed]);
    assert_eq!(world.served.values().sum::<usize>(), 1);
}

#[test]
fn a_cancel_and_a_loss_reach_it_wherever_it_is() {
    // With its server, behind the gate of another core, behind the gate of its own, in the queue.
    for stage in 0..4 {
        for is_lost in [true, false] {
            for hedged in [true, false] {
                let mut world = world(2);
                let asker_core = u16::from(stage == 1);
                let asker = world.connect(asker_core, 0, 0);
                let other = world.connect(1 - asker_core, 9, 0);
                let server = serve(&mut world, 0, 1, 1);
                match stage {
                    0 => {}
                    1 | 2 => ask(&mut world, other, 1, MetaWriter::new()),
                    _ => ask(&mut world, asker, 7, MetaWriter::new()),
                }
                let meta = if hedged {
                    idempotent().uint("hedge_ms", 5).uint("timeout_ms", 10_000)
                } else {
                    MetaWriter::new()
                };
                ask(&mut world, asker, 1, meta);
                let counts = world.shards[0].counts();
                let waits = [counts.gated, world.shards[1].counts().queued + counts.queued];
                assert_eq!(waits, [[0, 0], [1, 0], [1, 0], [0, 1]][stage], "stage {stage}");
                world.pass(7 * MS);
                world.settle();
                if is_lost {
                    world.lose(asker);
                } else {
                    world.cancel(asker, id(1));
                    world.cancel(asker, id(1));
                }
                world.settle();
                let expected = if is_lost {
                    Outcome::AskerLost
                } else {
                    Outcome::Cancelled
                };
                assert_eq!(outcomes(&world, asker, 1), [expected]);
                let told = world.inboxes[&server].cancelled.len();
                let heard = usize::from(stage == 0) + usize::from(stage == 3 && is_lost);
                assert_eq!(told, heard, "stage {stage}");
                for call in open_at(&world, server) {
                    world.answer(server, call);
                    world.settle();
                }
                assert_nothing_is_left(&world);
            }
        }
    }
}

#[test]
fn those_at_the_gate_of_the_only_server_fail_with_it() {
    let mut world = world(3);
    let askers = [0, 1, 2].map(|core| world.connect(core, 7, 0));
    let server = serve(&mut world, 0, 1, 1);
    for asker in askers {
        ask(&mut world, asker, 1, MetaWriter::new());
        ask(&mut world, asker, 2, MetaWriter::new());
    }
    world.lose(server);
    world.settle();
    assert!(world.calls.values().all(|ends| ends == &[Outcome::Failed]));
    assert_nothing_is_left(&world);
}

#[test]
fn a_mirror_gets_a_copy_and_nobody_hears_of_it() {
    let rule = Rule {
        methods: "m".into(),
        meta: Vec::new(),
        share: SHARE_ALL,
        fleet: None,
        balance: Balance::Least,
        mirror: Some(Mirror {
            fleet: "shadow".into(),
            share: SHARE_ALL,
        }),
        timeout_ms: Some(50),
    };
    let routes = Arc::new(Routes {
        rules: vec![rule],
        ..Routes::default()
    });
    for shadow_core in 0..2 {
        let mut world = world(2);
        let asker = world.connect(0, 0, 0);
        for shard in &mut world.shards {
            shard.set_routes(routes.clone());
        }
        let server = serve(&mut world, 0, 1, u32::MAX);
        let shadow = Offering {
            fleet: Some("shadow".into()),
            ..offering(1)
        };
        let shadow = serve_as(&mut world, shadow_core, 2, shadow);
        for nth in 1..=3 {
            ask(&mut world, asker, nth, MetaWriter::new().uint("timeout_ms", 100));
        }
        let (calls, copies) = (open_at(&world, server), open_at(&world, shadow));
        assert_eq!((calls.len(), copies.len()), (3, 3));
        assert_eq!(
            timeout_told(&world, server, calls[0]),
            Some(50),
            "the rule's time is the shorter one"
        );
        assert_eq!(timeout_told(&world, shadow, copies[0]), Some(50));
        let route = world.answer(shadow, copies[0]);
        world.settle();
        assert_ne!(route, AnswerRoute::Unknown);
        assert_eq!(outcomes(&world, asker, 1), []);
        world.answer(server, calls[0]);
        world.answer(server, calls[1]);
        assert_eq!(outcomes(&world, asker, 1), [Outcome::Answered]);
        world.lose(shadow);
        world.settle();
        assert_eq!(outcomes(&world, asker, 3), []);
        world.pass(60 * MS);
        world.settle();
        assert_eq!(outcomes(&world, asker, 3), [Outcome::Overdue]);
        assert_eq!(world.shards[0].counts().late_answers, 0);
        assert_nothing_is_left(&world);
    }
}

/// A small generator, for histories that a seed names.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % most.max(1) as u64) as usize
    }
}
