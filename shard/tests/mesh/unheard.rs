//! What a peer never heard of does not fail with it: it goes to another one, or waits for one.

use fluxar_protocol::Kind;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_shard::{Limits, Offering, Outcome as Said, Outgoing, PeerId, Standing};

use crate::promises::assert_nothing_is_left;
use crate::world::{Outcome, World, encoded, id, offering};

fn serve(world: &mut World, core: u16, slot: u32, in_flight_max: u32) -> PeerId {
    let peer = world.connect(core, slot, 0);
    let terms = Offering {
        in_flight_max,
        ..offering(1)
    };
    world.shard(peer).serve(peer, id(1_000_000), "m", terms).unwrap();
    world.settle();
    peer
}

fn leave(world: &mut World, peer: PeerId) {
    world.shard(peer).end_subscription(peer, id(1_000_000)).unwrap();
    world.drain(usize::from(peer.core));
}

fn answer_all(world: &mut World, server: PeerId) {
    while let Some(&call) = world.inboxes[&server].calls.first() {
        world.answer(server, call);
        world.settle();
    }
}

#[test]
fn what_waits_at_the_gate_of_one_that_leaves_or_is_lost_goes_to_another() {
    for is_lost in [true, false] {
        let mut world = World::new(3, 5, Limits::default());
        let askers = [0, 1, 2].map(|core| world.connect(core, 7, 0));
        let server = serve(&mut world, 0, 1, 1);
        // One of each core: the first is with the server, two wait at its gate.
        for asker in askers {
            world.ask(asker, id(1), "m", MetaWriter::new()).unwrap();
            world.settle();
        }
        assert_eq!(world.shards[0].counts().gated, 2);
        let other = serve(&mut world, 1, 2, 1);
        if is_lost {
            world.lose(server);
        } else {
            leave(&mut world, server);
        }
        world.settle();
        assert_eq!(world.served[&server], 1, "what it has not seen it does not get");
        answer_all(&mut world, other);
        if is_lost {
            assert_eq!(world.calls[&(askers[0], id(1))], [Outcome::Failed], "it was seen");
        } else {
            answer_all(&mut world, server);
            assert_eq!(world.calls[&(askers[0], id(1))], [Outcome::Answered]);
        }
        for asker in &askers[1..] {
            assert_eq!(world.calls[&(*asker, id(1))], [Outcome::Answered]);
        }
        assert_eq!((world.served[&server], world.served[&other]), (1, 2));
        assert_nothing_is_left(&world);
    }
}

#[test]
fn what_is_on_its_way_to_one_that_leaves_or_is_lost_goes_to_another() {
    for is_lost in [true, false] {
        for in_flight_max in [3, u32::MAX] {
            let mut world = World::new(2, 5, Limits::default());
            let asker = world.connect(0, 7, 0);
            let server = serve(&mut world, 1, 1, in_flight_max);
            // The letters are under way while the server leaves, and here is another one.
            for nth in 1..=3 {
                world.ask(asker, id(nth), "m", MetaWriter::new()).unwrap();
            }
            if is_lost {
                world.lose(server);
            } else {
                leave(&mut world, server);
            }
            let other = serve(&mut world, 0, 2, 2);
            answer_all(&mut world, other);
            assert!(!world.served.contains_key(&server));
            for nth in 1..=3 {
                assert_eq!(world.calls[&(asker, id(nth))], [Outcome::Answered]);
            }
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn with_nobody_else_they_are_unavailable() {
    for is_lost in [true, false] {
        let mut world = World::new(2, 5, Limits::default());
        let asker = world.connect(0, 7, 0);
        let server = serve(&mut world, 1, 1, u32::MAX);
        world.ask(asker, id(1), "m", MetaWriter::new()).unwrap();
        if is_lost {
            world.lose(server);
        } else {
            leave(&mut world, server);
        }
        world.settle();
        assert_eq!(world.calls[&(asker, id(1))], [Outcome::Failed]);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn an_offer_that_stays_is_still_served() {
    let mut world = World::new(2, 5, Limits::default());
    let asker = world.connect(0, 7, 0);
    let server = serve(&mut world, 1, 1, u32::MAX);
    world
        .shard(server)
        .serve(server, id(8), "n", offering(1))
        .unwrap();
    world.settle();
    leave(&mut world, server);
    world.settle();
    assert!(world.ask(asker, id(1), "m", MetaWriter::new()).is_err());
    world.ask(asker, id(2), "n", MetaWriter::new()).unwrap();
    world.settle();
    answer_all(&mut world, server);
    assert_eq!(world.calls[&(asker, id(2))], [Outcome::Answered]);
    assert_nothing_is_left(&world);
}

#[test]
fn what_a_full_queue_refused_waits_for_its_server_or_goes_to_another() {
    for core in 0..2 {
        let mut world = World::new(2, 5, Limits::default());
        let asker = world.connect(0, 7, 0);
        let server = serve(&mut world, core, 1, u32::MAX);
        world.ask(asker, id(1), "m", MetaWriter::new()).unwrap();
        world.settle();
        // Its connection did not take it after all.
        let call = world.inboxes.get_mut(&server).unwrap().calls.remove(0);
        let bytes = encoded(Kind::Call, call, None, Some("m"), None);
        let crowded = Standing {
            crowded: true,
            ..Standing::default()
        };
        world.shard(server).set_standing(server, crowded);
        world.shard(server).unheard(server, call, &bytes);
        world.settle();
        assert_eq!(world.shards[0].counts().queued, 1);
        assert_eq!(world.calls[&(asker, id(1))], []);
        world.shard(server).set_standing(server, Standing::default());
        world.settle();
        answer_all(&mut world, server);
        assert_eq!(world.calls[&(asker, id(1))], [Outcome::Answered]);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn a_second_copy_that_cannot_be_sent_leaves_it_to_the_first() {
    for core in 0..2 {
        let mut world = World::new(2, 5, Limits::default());
        let asker = world.connect(0, 7, 0);
        let first = serve(&mut world, 0, 1, 4);
        let meta = MetaWriter::new().flag("idempotent", true).uint("hedge_ms", 10);
        world.ask(asker, id(1), "m", meta).unwrap();
        let second = serve(&mut world, core, 2, 4);
        world.pass(20_000);
        world.settle();
        let copy = world.inboxes[&second].calls[0];
        world.answer_with(second, copy, Said::Refused);
        world.settle();
        assert_eq!(world.calls[&(asker, id(1))], []);
        assert_eq!(world.inboxes[&first].cancelled, []);
        answer_all(&mut world, first);
        assert_eq!(world.calls[&(asker, id(1))], [Outcome::Answered]);
        assert_nothing_is_left(&world);
    }
}

#[test]
fn those_that_wait_leave_a_part_at_a_time() {
    let mut world = World::new(1, 5, Limits::default());
    let asker = world.connect(0, 7, 0);
    let server = serve(&mut world, 0, 1, u32::MAX);
    let crowded = Standing {
        crowded: true,
        ..Standing::default()
    };
    world.shard(server).set_standing(server, crowded);
    let trace = "0".repeat(1_000);
    for nth in 0..200 {
        let meta = MetaWriter::new().text("trace", &trace);
        world.ask(asker, id(nth), "m", meta).unwrap();
    }
    let shard = world.shard(server);
    shard.set_standing(server, Standing::default());
    let mut polled = 0;
    while let Some(outgoing) = shard.poll_outgoing() {
        assert!(matches!(outgoing, Outgoing::Forward(_)));
        polled += 1;
        if polled == 10 {
            // Its connection has enough: what was taken out of the queue still comes, and no more.
            shard.set_standing(server, crowded);
        }
    }
    assert!((20..100).contains(&polled), "{polled} calls");
    assert_eq!(world.shards[0].counts().queued, 200 - polled);
}

#[test]
fn the_time_at_a_gate_is_spent() {
    let mut world = World::new(2, 5, Limits::default());
    let askers = [0, 1].map(|core| world.connect(core, 7, 0));
    let server = serve(&mut world, 0, 1, 1);
    for asker in askers {
        let meta = MetaWriter::new().uint("timeout_ms", 100);
        world.ask(asker, id(1), "m", meta).unwrap();
        world.settle();
    }
    world.pass(30_000);
    let call = world.inboxes[&server].calls[0];
    world.answer(server, call);
    world.settle();
    let call = world.inboxes[&server].calls[0];
    let meta = world.inboxes[&server].metas[&call].clone().unwrap();
    assert_eq!(Meta::from_checked(&meta).uint("timeout_ms"), Ok(Some(70)));
}
