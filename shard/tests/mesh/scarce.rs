//! Who goes without when there is not enough for all: copies before calls, repeats before calls that wait, the less
//! urgent before the more urgent; and nobody in vain.

use std::sync::Arc;

use fluxar_protocol::Code;
use fluxar_protocol::meta::MetaWriter;
use fluxar_shard::routes::{Balance, Ejection, Mirror, RetryBudget, Routes, Rule, SHARE_ALL};
use fluxar_shard::{Limits, Offering, Outcome as Said, PeerId, Refusal};

use crate::promises::assert_nothing_is_left;
use crate::world::{Outcome, World, id, offering};

const MS: u64 = 1_000;

fn serve(world: &mut World, slot: u32, in_flight_max: u32, fleet: Option<&str>) -> PeerId {
    let peer = world.connect(0, slot, 0);
    let terms = Offering {
        in_flight_max,
        fleet: fleet.map(Arc::from),
        ..offering(1)
    };
    world.shard(peer).serve(peer, id(1_000_000), "m", terms).unwrap();
    world.settle();
    peer
}

fn ask(world: &mut World, asker: PeerId, nth: u64, meta: MetaWriter) -> Result<(), Refusal> {
    let asked = world.ask(asker, id(nth), "m", meta).map(|_| ());
    world.settle();
    asked
}

fn prio(prio: u64) -> MetaWriter {
    MetaWriter::new().uint("prio", prio)
}

fn idempotent() -> MetaWriter {
    MetaWriter::new().flag("idempotent", true)
}

fn outcomes(world: &World, asker: PeerId, nth: u64) -> &[Outcome] {
    &world.calls[&(asker, id(nth))]
}

/// Bytes that one waiting call of this meta is held with.
fn bytes_of(meta: MetaWriter) -> usize {
    let mut world = World::new(1, 5, Limits::default());
    let asker = world.connect(0, 0, 0);
    serve(&mut world, 1, 1, None);
    ask(&mut world, asker, 1, MetaWriter::new()).unwrap();
    ask(&mut world, asker, 2, meta).unwrap();
    world.shards[0].counts().held_bytes
}

#[test]
fn copies_that_nobody_answers_leave_calls_their_room() {
    let limits = Limits {
        calls_per_core: 80,
        ..Limits::default()
    };
    let mut world = World::new(1, 5, limits);
    let asker = world.connect(0, 0, 0);
    let server = serve(&mut world, 1, u32::MAX, None);
    let shadow = serve(&mut world, 2, u32::MAX, Some("shadow"));
    world.shards[0].set_routes(Arc::new(Routes {
        rules: vec![Rule {
            methods: "m".to_owned(),
            meta: Vec::new(),
            share: SHARE_ALL,
            fleet: None,
            balance: Balance::Least,
            mirror: Some(Mirror {
                fleet: "shadow".to_owned(),
                share: SHARE_ALL,
            }),
            timeout_ms: None,
        }],
        ..Routes::default()
    }));
    for nth in 1..=60 {
        ask(&mut world, asker, nth, MetaWriter::new()).unwrap();
    }
    assert_eq!(world.inboxes[&server].calls.len(), 60);
    let copies = world.inboxes[&shadow].calls.clone();
    assert_eq!(copies.len(), 10, "an eighth of what a core may have open");
    // One that is answered makes room for another.
    world.answer(shadow, copies[0]);
    ask(&mut world, asker, 61, MetaWriter::new()).unwrap();
    assert_eq!(world.inboxes[&shadow].calls.len(), 10);
    world.pass(10_005 * MS);
    world.settle();
    for call in world.inboxes[&server].calls.clone() {
        world.answer(server, call);
    }
    world.settle();
    assert_nothing_is_left(&world);
}

#[test]
fn calls_that_run_lose_their_repeat_before_one_that_waits_is_ended() {
    let (waiting, kept) = (bytes_of(prio(2)), bytes_of(idempotent()));
    let limits = Limits {
        call_bytes_held_per_core: 2 * waiting + kept,
        ..Limits::default()
    };
    let mut world = World::new(1, 5, limits);
    let asker = world.connect(0, 0, 0);
    let server = serve(&mut world, 1, 2, None);
    ask(&mut world, asker, 1, idempotent()).unwrap();
    ask(&mut world, asker, 2, MetaWriter::new()).unwrap();
    for nth in 3..=4 {
        ask(&mut world, asker, nth, prio(2)).unwrap();
    }
    assert_eq!(world.shards[0].counts().held_bytes, 2 * waiting + kept);
    // There is room for a third one without the bytes of the one that runs, and it takes nobody's place.
    ask(&mut world, asker, 5, prio(2)).unwrap();
    assert_eq!(world.shards[0].counts().queued, 3);
    assert!((1..=5).all(|nth| outcomes(&world, asker, nth).is_empty()));
    // Without its bytes it is not repeated.
    world.lose(server);
    world.settle();
    assert_eq!(outcomes(&world, asker, 1), [Outcome::Failed]);
}

#[test]
fn nobody_is_ended_for_one_that_does_not_fit_all_the_same() {
    let (low, high) = (bytes_of(prio(0)), bytes_of(prio(6)));
    let limits = Limits {
        call_bytes_held_per_core: low + 3 * high,
        ..Limits::default()
    };
    let mut world = World::new(1, 5, limits);
    let asker = world.connect(0, 0, 0);
    serve(&mut world, 1, 1, None);
    ask(&mut world, asker, 1, MetaWriter::new()).unwrap();
    ask(&mut world, asker, 2, prio(0)).unwrap();
    for nth in 3..=5 {
        ask(&mut world, asker, nth, prio(6)).unwrap();
    }
    let large = prio(6).text("key", &"k".repeat(2 * low));
    let refusal = ask(&mut world, asker, 6, large).unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert_eq!(outcomes(&world, asker, 2), [], "its place was not enough");
    ask(&mut world, asker, 7, prio(6)).unwrap();
    assert_eq!(outcomes(&world, asker, 2), [Outcome::Refused]);
}

#[test]
fn what_waited_counts_for_the_budget_of_repeats() {
    let mut world = World::new(1, 5, Limits::default());
    world.shards[0].set_routes(Arc::new(Routes {
        retries: RetryBudget {
            percent: 10,
            least_per_s: 0,
        },
        ..Routes::default()
    }));
    let asker = world.connect(0, 0, 0);
    let server = serve(&mut world, 1, 1, None);
    for nth in 1..=10 {
        ask(&mut world, asker, nth, idempotent()).unwrap();
    }
    for _ in 1..10 {
        let call = world.inboxes[&server].calls[0];
        world.answer(server, call);
        world.settle();
    }
    // Ten went out, nine of them from the queue: one repeat is a tenth.
    let other = serve(&mut world, 2, 1, None);
    world.lose(server);
    world.settle();
    assert_eq!(world.inboxes[&other].calls.len(), 1);
    assert_eq!(outcomes(&world, asker, 10), []);
}

#[test]
fn who_waits_for_an_ejected_peer_gets_it_when_it_is_back_and_before_who_comes() {
    let mut world = World::new(1, 5, Limits::default());
    world.shards[0].set_routes(Arc::new(Routes {
        ejection: Ejection {
            failures: 1,
            first_ms: 1_000,
            percent_max: 50,
            ..Ejection::default()
        },
        ..Routes::default()
    }));
    let asker = world.connect(0, 0, 0);
    let one = serve(&mut world, 1, 1, None);
    let two = serve(&mut world, 2, 1, None);
    for nth in 1..=2 {
        ask(&mut world, asker, nth, MetaWriter::new()).unwrap();
    }
    let call = world.inboxes[&one].calls[0];
    world.answer_with(one, call, Said::Error(Code::Unavailable));
    ask(&mut world, asker, 3, MetaWriter::new()).unwrap();
    assert_eq!(world.shards[0].counts().queued, 1, "one is out, the other busy");
    assert_eq!(world.shards[0].poll_timeout_ms(), Some(1_000));
    world.pass(1_000 * MS);
    ask(&mut world, asker, 4, MetaWriter::new()).unwrap();
    assert_eq!(
        (world.inboxes[&one].calls.len(), world.inboxes[&two].calls.len()),
        (1, 1)
    );
    let call = world.inboxes[&one].calls[0];
    world.answer(one, call);
    world.settle();
    assert_eq!(outcomes(&world, asker, 3), [Outcome::Answered]);
    assert_eq!(outcomes(&world, asker, 4), []);
}
