//! Every bound: refused with its number, and free again afterwards.

use fluxar_protocol::{Code, Id, Kind, envelope};
use fluxar_shard::limits::{GROUP_BYTES_MAX, WEIGHT_MAX};
use fluxar_shard::{Asking, Limits, Outcome, PeerId, Refusal, Route, Seed, Shard};

use crate::world::{encoded, id, offering};

fn shard(limits: Limits) -> Shard {
    Shard::new(
        0,
        1,
        limits,
        Seed {
            hash: 1,
            ids: 2,
            epoch: 3,
        },
    )
}

fn peer(slot: u32) -> PeerId {
    PeerId {
        slot,
        generation: 0,
        core: 0,
    }
}

fn call(shard: &mut Shard, asker: PeerId, id: Id, method: &str) -> Result<Route, Refusal> {
    let compact = encoded(Kind::Call, id, None, Some(method), None);
    let envelope = envelope::decode(&compact).unwrap().envelope;
    match shard.ask(asker, 0, &envelope, &compact)? {
        Asking::Forward(route) => Ok(route),
        Asking::Taken => panic!("it waits"),
    }
}

fn assert_exhausted(result: Result<(), Refusal>, number: &str) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains(number), "{refusal}");
    assert_eq!(refusal.body().message, refusal.message);
}

#[test]
fn subscriptions_of_a_peer_and_of_a_core() {
    let limits = Limits {
        subscriptions_per_peer: 3,
        subscriptions_per_core: 5,
        ..Limits::default()
    };
    let mut shard = shard(limits);
    shard.subscribe(peer(1), id(1), "a", None).unwrap();
    shard.subscribe(peer(1), id(2), "a", Some("g")).unwrap();
    shard.serve(peer(1), id(3), "a", offering(1)).unwrap();
    assert_exhausted(shard.subscribe(peer(1), id(4), "b", None), "3");
    assert_exhausted(shard.serve(peer(1), id(4), "b", offering(1)), "3");
    shard.subscribe(peer(2), id(1), "a", None).unwrap();
    shard.subscribe(peer(2), id(2), "a", None).unwrap();
    assert_exhausted(shard.subscribe(peer(3), id(1), "a", None), "5");
    shard.end_subscription(peer(1), id(1)).unwrap();
    shard.subscribe(peer(3), id(1), "a", None).unwrap();
}

#[test]
fn memberships_of_a_peer() {
    let mut shard = shard(Limits {
        members_per_peer: 2,
        ..Limits::default()
    });
    shard.subscribe(peer(1), id(1), "a", Some("g")).unwrap();
    shard.subscribe(peer(1), id(2), "a", Some("h")).unwrap();
    assert_exhausted(shard.subscribe(peer(1), id(3), "a", Some("i")), "2");
    shard.subscribe(peer(1), id(3), "a", None).unwrap();
    shard.subscribe(peer(2), id(1), "a", Some("i")).unwrap();
    shard.end_subscription(peer(1), id(1)).unwrap();
    shard.subscribe(peer(1), id(4), "a", Some("i")).unwrap();
}

#[test]
fn pattern_bytes() {
    let mut shard = shard(Limits {
        pattern_bytes_per_core: 10,
        ..Limits::default()
    });
    shard.subscribe(peer(1), id(1), "abcde", Some("fg")).unwrap();
    assert_exhausted(shard.subscribe(peer(1), id(2), "abcd", None), "10 bytes");
    shard.serve(peer(1), id(2), "abc", offering(1)).unwrap();
    assert_eq!(shard.counts().pattern_bytes, 10);
    shard.peer_lost(peer(1));
    assert_eq!(shard.counts().pattern_bytes, 0);
}

#[test]
fn open_calls_of_a_peer_and_of_a_core() {
    let mut shard = shard(Limits {
        calls_per_peer: 2,
        calls_per_core: 3,
        ..Limits::default()
    });
    shard.serve(peer(9), id(1), "m", offering(1)).unwrap();
    let first = call(&mut shard, peer(1), id(1), "m").unwrap();
    call(&mut shard, peer(1), id(2), "m").unwrap();
    assert_exhausted(call(&mut shard, peer(1), id(3), "m").map(drop), "2");
    call(&mut shard, peer(2), id(1), "m").unwrap();
    assert_exhausted(call(&mut shard, peer(3), id(1), "m").map(drop), "3");
    shard.answer(first.server, first.forward_id, Outcome::Ok);
    call(&mut shard, peer(3), id(1), "m").unwrap();
}

#[test]
fn what_is_not_a_subscription() {
    let mut shard = shard(Limits::default());
    let long = "g".repeat(GROUP_BYTES_MAX + 1);
    for (pattern, group) in [
        ("", None),
        ("a..b", None),
        (">.a", None),
        ("a", Some("")),
        ("a", Some(&*long)),
    ] {
        let refusal = shard.subscribe(peer(1), id(1), pattern, group).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument, "{pattern} {group:?}");
    }
    for (pattern, weight) in [("a", 0), ("a", WEIGHT_MAX + 1), ("$keys.get", 1), ("a.>.b", 1)] {
        assert_eq!(
            shard
                .serve(peer(1), id(1), pattern, offering(weight))
                .unwrap_err()
                .code,
            Code::InvalidArgument
        );
    }
    shard.serve(peer(1), id(1), "a", offering(WEIGHT_MAX)).unwrap();
    assert_eq!(
        shard.subscribe(peer(1), id(1), "b", None).unwrap_err().code,
        Code::AlreadyExists
    );
    shard.subscribe(peer(2), id(1), "b", None).unwrap();
    assert_eq!(shard.epoch(), 3);
}

#[test]
fn news_of_a_flapping_subscription_waits_once() {
    let seed = Seed {
        hash: 1,
        ids: 2,
        epoch: 3,
    };
    let limits = Limits {
        members_per_peer: 1000,
        ..Limits::default()
    };
    let mut shard = Shard::new(0, 3, limits, seed);
    for nth in 0..1000 {
        shard.subscribe(peer(1), id(nth), "a.*", None).unwrap();
        shard.subscribe(peer(1), id(nth), "a.*", Some("g")).unwrap_err();
        shard.subscribe(peer(2), id(nth), "a.*", Some("g")).unwrap();
        shard.end_subscription(peer(1), id(nth)).unwrap();
        shard.end_subscription(peer(2), id(nth)).unwrap();
    }
    assert!(shard.poll_letter().is_none(), "nothing came of it");
    assert_eq!(shard.counts().topic_patterns, 0);
    for nth in 0..1000 {
        shard.subscribe(peer(1), id(nth), "a.*", None).unwrap();
        shard.subscribe(peer(2), id(nth), "a.*", Some("g")).unwrap();
    }
    assert_eq!(
        std::iter::from_fn(|| shard.poll_letter()).count(),
        2 * 2,
        "a letter a core, for each of the two"
    );
}
