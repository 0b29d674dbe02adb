//! One promise at a time.

use fluxar_protocol::Code;
use fluxar_protocol::meta::{MetaWriter, Qos};
use fluxar_shard::Limits;
use fluxar_shard::log::class::Level;
use fluxar_shard::log::partition_of;
use fluxar_shard::logged::{From, LoggedPublish, LoggedWish};

use crate::world::{ACKED, EPOCH, Got, Told, WISH, World, event_with, id, in_memory, peer};

pub(crate) fn world(cores: u16, partitions: u16) -> World {
    World::new(cores, 3, Limits::default(), Some(in_memory(partitions)))
}

pub(crate) fn small(bytes: usize, events: u32) -> Limits {
    Limits {
        unacked_bytes_per_subscription: bytes,
        unacked_events_per_subscription: events,
        ..Limits::default()
    }
}

pub(crate) fn events(topic: &str, numbers: std::ops::Range<u64>) -> Vec<(&str, u64)> {
    numbers.map(|nth| (topic, nth)).collect()
}

#[test]
fn without_a_log_everything_is_refused() {
    let mut world = World::new(2, 1, Limits::default(), None);
    assert!(!world.shards[0].has_log());
    world.publish(peer(0, 1), &[("a", 1)], ACKED);
    assert!(world.refused.contains(&1));
    let refusal = world.subscribe(peer(0, 1), id(1), "a", WISH).unwrap_err();
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(world.shards[0].is_log_stopped());
}

#[test]
fn a_live_subscription_gets_what_comes_with_positions() {
    for cores in 1..=3 {
        let mut world = world(cores, 4);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        world.publish(alice, &events("a.b", 0..3), ACKED);
        world.settle();
        world.subscribe(bob, id(1), "a.*", WISH).unwrap();
        world.settle();
        let partition = partition_of("a.b", 4);
        let mut at: Vec<_> = (0..4).map(|partition| (partition, 0)).collect();
        at[usize::from(partition)].1 = 3;
        assert_eq!(world.take(bob, id(1)), [Told::Accepted(at)]);
        world.publish(alice, &events("a.b", 3..6), ACKED);
        world.publish(alice, &events("b", 6..8), ACKED);
        world.settle();
        let expected: Vec<_> = (3..6)
            .map(|nth| {
                Told::Got(Got {
                    partition,
                    offset: nth + 1,
                    nth,
                    dup: 0,
                })
            })
            .collect();
        assert_eq!(world.take(bob, id(1)), expected);
        assert_eq!(world.stored.len(), 8);
        world.lose(bob);
        world.settle();
        for shard in &world.shards {
            let counts = shard.counts();
            assert_eq!(
                (
                    counts.logged_subscriptions,
                    counts.logged_patterns,
                    counts.unacked_bytes
                ),
                (0, 0, 0)
            );
            assert_eq!((counts.subscriptions, counts.pattern_bytes), (0, 0));
        }
    }
}

#[test]
fn all_that_have_a_pattern_share_the_bytes() {
    let mut world = world(1, 4);
    for slot in 1..=3 {
        world.subscribe(peer(0, slot), id(1), "a", WISH).unwrap();
    }
    world.settle();
    world.drain(0);
    let shard = &mut world.shards[0];
    for nth in 0..5 {
        shard.publish_logged(peer(0, 9), "a", &crate::world::event("a", nth), ACKED);
    }
    shard.flush_run();
    let runs: Vec<_> = std::iter::from_fn(|| shard.poll_logged())
        .filter_map(|news| match news {
            fluxar_shard::logged::LoggedNews::Run {
                positions,
                events,
                count,
                ..
            } => Some((positions.as_ptr(), events.as_ptr(), count)),
            _ => None,
        })
        .collect();
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    assert_eq!(runs[0].2, 5);
}

#[test]
fn a_window_is_kept_and_acknowledgements_open_it() {
    for cores in [1, 2] {
        let mut world = World::new(cores, 3, small(100_000, 4), Some(in_memory(3)));
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        world.subscribe(bob, id(1), "a", WISH).unwrap();
        world.settle();
        let _ = world.take(bob, id(1));
        world.publish(alice, &events("a", 0..100), ACKED);
        world.settle();
        let partition = partition_of("a", 3);
        let mut seen = Vec::new();
        for _ in 0..200 {
            let got = world.got(bob, id(1));
            assert!(got.len() <= 4, "{got:?}");
            seen.extend_from_slice(&got);
            let last = seen.len() as u64;
            world.ack(bob, id(1), partition, last);
            world.settle();
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        // It is live again.
        world.publish(alice, &events("a", 100..102), ACKED);
        world.settle();
        assert_eq!(world.got(bob, id(1)), [100, 101]);
    }
}

#[test]
fn a_large_event_goes_through_a_small_window() {
    let mut world = World::new(1, 3, small(10, 4), Some(in_memory(3)));
    let (alice, bob) = (peer(0, 1), peer(0, 2));
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    world.publish(alice, &events("a", 0..3), ACKED);
    world.settle();
    for nth in 0..3 {
        assert_eq!(world.got(bob, id(1)), [nth]);
        world.ack(bob, id(1), partition_of("a", 3), nth + 1);
        world.settle();
    }
}

#[test]
fn a_busy_connection_gets_nothing_and_then_all_of_it() {
    let mut world = world(2, 3);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    world.busy(bob, true);
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    assert!(matches!(world.take(bob, id(1))[..], [Told::Accepted(_)]));
    world.publish(alice, &events("a", 0..50), ACKED);
    world.settle();
    assert_eq!(world.got(bob, id(1)), []);
    world.busy(bob, false);
    world.settle();
    assert_eq!(world.got(bob, id(1)), (0..50).collect::<Vec<_>>());
    world.publish(alice, &events("a", 50..51), ACKED);
    world.settle();
    assert_eq!(world.got(bob, id(1)), [50]);
}

#[test]
fn a_subscription_begins_where_it_wants_to() {
    let mut world = world(2, 1);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    world.publish(alice, &events("a", 1..4), ACKED);
    world.settle();
    world.pass(5_000_000);
    let noon = world.unix_ms();
    world.publish(alice, &events("a", 4..7), ACKED);
    world.settle();
    let cases = [
        (From::Default, 7..7),
        (From::New, 7..7),
        (From::All, 1..7),
        (From::TimeMs(noon), 4..7),
        (From::TimeMs(noon + 1_000_000), 7..7),
        (From::TimeMs(0), 1..7),
        (
            From::Epoch {
                epoch: EPOCH,
                at: &[(0, 2)],
            },
            3..7,
        ),
        (
            From::Epoch {
                epoch: EPOCH - 2,
                at: &[(0, 2)],
            },
            3..7,
        ),
        (
            From::Epoch {
                epoch: EPOCH,
                at: &[],
            },
            1..7,
        ),
    ];
    for (nth, (from, expected)) in cases.into_iter().enumerate() {
        let sub = id(nth as u64);
        world
            .subscribe(bob, sub, "a", LoggedWish { from, ..WISH })
            .unwrap();
        world.settle();
        assert_eq!(world.got(bob, sub), expected.collect::<Vec<_>>(), "{from:?}");
    }
    for (nth, from) in [
        From::Epoch {
            epoch: EPOCH + 1,
            at: &[(0, 2)],
        },
        From::Epoch {
            epoch: EPOCH ^ (1 << 30),
            at: &[(0, 2)],
        },
        From::Epoch {
            epoch: EPOCH,
            at: &[(0, 7)],
        },
    ]
    .into_iter()
    .enumerate()
    {
        let sub = id(100 + nth as u64);
        world
            .subscribe(bob, sub, "a", LoggedWish { from, ..WISH })
            .unwrap();
        world.settle();
        assert_eq!(
            world.take(bob, sub),
            [Told::Refused(Code::OutOfRange, None)],
            "{from:?}"
        );
        assert!(
            world.shard(bob).end_subscription(bob, sub).is_none(),
            "it is over"
        );
    }
    world.publish(alice, &events("a", 7..9), ACKED);
    world.settle();
    for sub in 0..9 {
        assert_eq!(world.got(bob, id(sub)), [7, 8], "{sub}");
    }
}

#[test]
fn a_durable_subscription_goes_on_behind_what_it_acknowledged() {
    for cores in 1..=3 {
        let mut world = world(cores, 2);
        let partition = partition_of("a", 2);
        let alice = peer(0, 1);
        let wish = LoggedWish {
            durable: Some("mine"),
            qos: Qos::ExactlyOnce,
            principal: "bob",
            ..WISH
        };
        let first = peer(cores - 1, 2);
        world.subscribe(first, id(1), "a", wish).unwrap();
        world.settle();
        world.publish(alice, &events("a", 0..10), ACKED);
        world.settle();
        assert_eq!(world.got(first, id(1)).len(), 10);
        world.ack(first, id(1), partition, 4);
        world.settle();
        world.lose(first);
        world.settle();
        world.publish(alice, &events("a", 10..12), ACKED);
        world.settle();
        let again = peer(0, 3);
        world.subscribe(again, id(1), "a", wish).unwrap();
        world.settle();
        let told = world.take(again, id(1));
        assert_eq!(told[0], Told::Accepted(vec![(partition, 4)]));
        assert_eq!(told.len(), 1 + 8);
        // Somebody else's name, and another pattern, are other cursors.
        for (nth, (pattern, wish)) in [
            (
                "a",
                LoggedWish {
                    principal: "eve",
                    ..wish
                },
            ),
            (">", wish),
        ]
        .into_iter()
        .enumerate()
        {
            let sub = id(nth as u64 + 2);
            world.subscribe(again, sub, pattern, wish).unwrap();
            world.settle();
            assert_eq!(world.got(again, sub), []);
        }
        // An explicit `from` overrides the cursor.
        world.lose(again);
        let third = peer(0, 4);
        let wish = LoggedWish {
            from: From::All,
            ..wish
        };
        world.subscribe(third, id(1), "a", wish).unwrap();
        world.settle();
        assert_eq!(world.got(third, id(1)).len(), 12);
        world.lose(third);
        world.settle();
        assert!(
            world
                .shards
                .iter()
                .all(|shard| shard.counts().cursor_holders == 0)
        );
    }
}

#[test]
fn a_name_belongs_to_whoever_asked_last() {
    for cores in [1, 2] {
        let mut world = world(cores, 2);
        let wish = LoggedWish {
            durable: Some("mine"),
            ..WISH
        };
        let (old, new) = (peer(0, 1), peer(cores - 1, 2));
        world.subscribe(old, id(1), "a", wish).unwrap();
        world.settle();
        let _ = world.take(old, id(1));
        world.pass(1_000);
        world.subscribe(new, id(1), "a", wish).unwrap();
        world.settle();
        assert_eq!(world.take(old, id(1)), [Told::Ended(Code::Aborted, None)]);
        world.publish(peer(0, 9), &events("a", 0..2), ACKED);
        world.settle();
        assert_eq!(world.got(old, id(1)), []);
        assert_eq!(world.got(new, id(1)), [0, 1]);
        // What the old one still says moves nothing.
        world.ack(old, id(1), partition_of("a", 2), 2);
        world.lose(new);
        world.settle();
        world.subscribe(old, id(2), "a", wish).unwrap();
        world.settle();
        assert_eq!(world.got(old, id(2)), [0, 1]);
    }
}

#[test]
fn what_was_not_acknowledged_comes_again_when_a_session_goes_on() {
    let mut world = world(2, 2);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    let partition = partition_of("a", 2);
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    let _ = world.take(bob, id(1));
    world.publish(alice, &events("a", 0..6), ACKED);
    world.settle();
    assert_eq!(world.got(bob, id(1)).len(), 6);
    world.ack(bob, id(1), partition, 2);
    world.busy(bob, true);
    world.publish(alice, &events("a", 6..8), ACKED);
    world.settle();
    world.rewind(bob);
    world.busy(bob, false);
    world.settle();
    let got: Vec<_> = world
        .take(bob, id(1))
        .into_iter()
        .map(|told| match told {
            Told::Got(got) => (got.nth, got.dup),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, [(2, 1), (3, 1), (4, 1), (5, 1), (6, 0), (7, 0)]);
    world.rewind(bob);
    world.settle();
    assert_eq!(world.got(bob, id(1)).len(), 6);
    world.ack(bob, id(1), partition, 8);
    world.rewind(bob);
    world.settle();
    assert_eq!(world.got(bob, id(1)), [], "all of it was acknowledged");
}

#[test]
fn plain_subscriptions_get_logged_events_once_they_are_committed() {
    for cores in 1..=3 {
        let mut world = world(cores, 8);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        world.shard(bob).subscribe(bob, id(1), "a.>", None).unwrap();
        world.settle();
        let mut input = events("a.b", 0..3);
        input.extend(events("c", 3..5));
        input.extend(events("a.c", 5..7));
        world.publish(alice, &input, ACKED);
        world.settle();
        let mut got = world.plain.remove(&bob).unwrap();
        got.sort_unstable(); // topics of different partitions have no order
        assert_eq!(got, [0, 1, 2, 5, 6]);
        assert!(
            world
                .shards
                .iter()
                .all(|shard| shard.counts().unheard_events == 0)
        );
    }
}

#[test]
fn what_expires_while_it_waits_for_the_disk_is_not_given_to_plain_subscriptions() {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(Level::Synced);
    let mut world = World::new(1, 3, Limits::default(), Some(settings));
    let (alice, bob) = (peer(0, 1), peer(0, 2));
    world.shard(bob).subscribe(bob, id(1), ">", None).unwrap();
    let expires = LoggedPublish {
        expires: true,
        ..ACKED
    };
    for (nth, ttl_ms) in [(1, 1_000), (2, 60_000)] {
        let event = event_with("a", nth, MetaWriter::new().uint("ttl_ms", ttl_ms), &[1]);
        world.shard(alice).publish_logged(alice, "a", &event, expires);
    }
    world.shard(alice).flush_run();
    world.pass(2_000_000); // the disk has done nothing yet
    world.settle();
    assert_eq!(world.plain.remove(&bob), Some(vec![2]));
}

#[test]
fn topics_that_are_always_logged_are_so_at_qos_0() {
    let mut settings = in_memory(2);
    settings.topics[0].always = Some(true);
    let mut world = World::new(2, 3, Limits::default(), Some(settings));
    assert!(world.shards[0].always_logged("a"));
    let how = LoggedPublish {
        acked: false,
        ..ACKED
    };
    world.publish(peer(0, 1), &events("a", 0..3), how);
    world.settle();
    assert!(world.stored.is_empty(), "nobody is told");
    let from = LoggedWish {
        from: From::All,
        ..WISH
    };
    world.subscribe(peer(1, 1), id(1), "a", from).unwrap();
    world.settle();
    assert_eq!(world.got(peer(1, 1), id(1)), [0, 1, 2]);
}

#[test]
fn what_has_expired_is_not_handed_out() {
    let mut world = world(2, 2);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    let expires = LoggedPublish {
        expires: true,
        ..ACKED
    };
    for (nth, ttl_ms) in [(1, 1_000), (2, 60_000), (3, 1_000)] {
        let event = event_with("a", nth, MetaWriter::new().uint("ttl_ms", ttl_ms), &[1]);
        world.shard(alice).publish_logged(alice, "a", &event, expires);
    }
    world.shard(alice).flush_run();
    world.settle();
    world.pass(2_000_000);
    let from = LoggedWish {
        from: From::All,
        ..WISH
    };
    world.subscribe(bob, id(1), "a", from).unwrap();
    world.settle();
    assert_eq!(world.got(bob, id(1)), [2]);
}

#[test]
fn cursors_of_quiet_subscriptions_move_on() {
    for cores in 1..=3 {
        let mut world = world(cores, 1);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        let wish = LoggedWish {
            durable: Some("q"),
            ..WISH
        };
        world.subscribe(bob, id(1), "rare", wish).unwrap();
        world.settle();
        let _ = world.take(bob, id(1));
        world.publish(alice, &events("often", 0..10), ACKED);
        world.settle();
        for _ in 0..60 {
            world.pass(500_000);
            world.settle();
        }
        assert_eq!(world.take(bob, id(1)), [Told::Moved(0, 10)]);
        world.publish(alice, &events("rare", 10..11), ACKED);
        world.settle();
        assert_eq!(world.got(bob, id(1)), [10]);
        // What it has not acknowledged holds it where it is.
        world.publish(alice, &events("often", 11..13), ACKED);
        for _ in 0..60 {
            world.pass(500_000);
            world.settle();
        }
        assert_eq!(world.take(bob, id(1)), []);
        world.lose(bob);
        world.settle();
        world.subscribe(bob, id(1), "rare", wish).unwrap();
        world.settle();
        assert_eq!(world.take(bob, id(1))[0], Told::Accepted(vec![(0, 10)]));
    }
}

#[test]
fn who_takes_nothing_is_told_once_how_far_quiet_partitions_moved() {
    let mut world = world(2, 1);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    let wish = LoggedWish {
        durable: Some("q"),
        ..WISH
    };
    world.subscribe(bob, id(1), "rare", wish).unwrap();
    world.settle();
    let _ = world.take(bob, id(1));
    let quiet = |world: &mut World| {
        for _ in 0..30 {
            world.pass(500_000);
            world.settle();
        }
    };
    world.busy(bob, true);
    for round in 0..3 {
        world.publish(alice, &events("often", 10 * round..10 * round + 10), ACKED);
        world.settle();
        quiet(&mut world);
    }
    assert_eq!(world.take(bob, id(1)), [], "it takes nothing");
    world.busy(bob, false);
    quiet(&mut world);
    assert_eq!(world.take(bob, id(1)), [Told::Moved(0, 30)]);
    // The cursor moves on all the same.
    world.busy(bob, true);
    world.publish(alice, &events("often", 30..40), ACKED);
    world.settle();
    quiet(&mut world);
    world.lose(bob);
    world.settle();
    world.subscribe(bob, id(1), "rare", wish).unwrap();
    world.settle();
    assert_eq!(world.take(bob, id(1))[0], Told::Accepted(vec![(0, 40)]));
}

#[test]
fn runs_of_a_great_many_events_are_cut_to_what_a_header_holds() {
    let mut world = World::new(2, 3, small(usize::MAX >> 8, 1 << 20), Some(in_memory(1)));
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    // Every second one is wanted, so that no two stand together.
    let mut input = Vec::new();
    for nth in 0..5_000 {
        input.push(if nth % 2 == 0 { ("a", nth) } else { ("b", nth) });
    }
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    world.publish(alice, &input, ACKED);
    world.settle();
    let wanted: Vec<u64> = (0..5_000).step_by(2).collect();
    assert_eq!(world.got(bob, id(1)), wanted);
    let from = LoggedWish {
        from: From::All,
        ..WISH
    };
    for (sub, pattern, count) in [(2, "b", 2_500), (3, ">", 5_000)] {
        world.subscribe(bob, id(sub), pattern, from).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(sub)).len(), count);
    }
}

#[test]
fn a_name_needs_to_be_one_and_qos_2_needs_it() {
    let mut world = world(1, 1);
    let long = "x".repeat(256);
    for wish in [
        LoggedWish {
            durable: Some(""),
            ..WISH
        },
        LoggedWish {
            durable: Some(&long),
            ..WISH
        },
        LoggedWish {
            qos: Qos::ExactlyOnce,
            ..WISH
        },
    ] {
        let refusal = world.subscribe(peer(0, 1), id(1), "a", wish).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
    }
    assert_eq!(
        world.subscribe(peer(0, 1), id(1), "a..b", WISH).unwrap_err().code,
        Code::InvalidArgument
    );
    world.subscribe(peer(0, 1), id(1), "a", WISH).unwrap();
    assert_eq!(
        world.subscribe(peer(0, 1), id(1), "b", WISH).unwrap_err().code,
        Code::AlreadyExists
    );
}
