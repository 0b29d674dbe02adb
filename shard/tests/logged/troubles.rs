//! What is removed, damaged, not given by the disk, or too much at once, and who is told what.

use fluxar_protocol::Code;
use fluxar_protocol::meta::MetaWriter;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::files::MemoryFiles;
use fluxar_shard::log::recovery::{CursorsLost, Recovery};
use fluxar_shard::log::{RecoveredLog, partition_of};
use fluxar_shard::logged::{From, LoggedWish};
use fluxar_shard::{Limits, PeerId};

use crate::promises::{events, world};
use crate::world::{ACKED, EPOCH, Told, WISH, World, event_with, id, in_memory, peer};

#[test]
fn what_is_not_held_any_more_is_told_and_not_skipped() {
    for cores in [1, 2] {
        let mut settings = in_memory(1);
        settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
        settings.segment_bytes = 64 * 1024;
        settings.tail_bytes = 0;
        settings.retain_bytes = 128 * 1024;
        let mut world = World::new(cores, 3, Limits::default(), Some(settings));
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        let wish = LoggedWish {
            durable: Some("slow"),
            ..WISH
        };
        world.subscribe(bob, id(1), "a", wish).unwrap();
        world.settle();
        world.lose(bob);
        world.settle();
        let mut nth = 0;
        for _ in 0..100 {
            world.publish(alice, &events("a", nth..nth + 200), ACKED);
            nth += 200;
            world.settle();
            world.pass(1_000_000);
            world.settle();
        }
        let _ = world.take(bob, id(1));
        let bob = peer(cores - 1, 3);
        world.subscribe(bob, id(1), "a", wish).unwrap();
        world.settle();
        let told = world.take(bob, id(1));
        let [Told::Accepted(at), Told::Ended(Code::OutOfRange, Some(details))] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(at, &[(0, 0)]);
        let details = fluxar_protocol::meta::Meta::from_checked(details);
        let first = details.uint("first").unwrap().unwrap();
        assert_eq!(details.uint("partition"), Ok(Some(0)));
        assert!(first > 1);
        // As the refusal says: from there.
        let from = LoggedWish {
            from: From::Epoch {
                epoch: EPOCH,
                at: &[(0, first - 1)],
            },
            ..wish
        };
        world.subscribe(bob, id(2), "a", from).unwrap();
        let mut got = Vec::new();
        loop {
            world.settle();
            let more: Vec<_> = world.take(bob, id(2));
            let last = more.iter().rev().find_map(|told| match told {
                Told::Got(got) => Some(got.offset),
                _ => None,
            });
            got.extend(more.iter().filter_map(|told| match told {
                Told::Got(got) => Some(got.nth),
                _ => None,
            }));
            let Some(last) = last else { break };
            world.ack(bob, id(2), 0, last);
        }
        assert_eq!(got, (first - 1..nth).collect::<Vec<_>>());
    }
}

/// A subscriber of all, and a disk that neither gives nor takes.
fn behind_a_failing_disk() -> (World, PeerId) {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
    settings.tail_bytes = 0;
    let mut world = World::new(1, 3, Limits::default(), Some(settings));
    let (alice, bob) = (peer(0, 1), peer(0, 2));
    world.publish(alice, &events("a", 0..10), ACKED);
    world.settle();
    // A disk that takes nothing either: what it does not give is not damaged.
    world.disks[0].is_full = true;
    world.disks[0].reads_fail = true;
    world.publish(alice, &events("a", 10..11), ACKED);
    world.settle();
    let from = LoggedWish {
        from: From::All,
        ..WISH
    };
    world.subscribe(bob, id(1), "a", from).unwrap();
    (world, bob)
}

#[test]
fn what_the_disk_does_not_give_now_is_asked_for_again() {
    let (mut world, bob) = behind_a_failing_disk();
    world.settle();
    assert_eq!(world.take(bob, id(1)).len(), 1, "accepted, and that is all");
    world.disks[0].is_full = false;
    world.disks[0].reads_fail = false;
    for _ in 0..10 {
        world.pass(500_000);
        world.settle();
    }
    assert_eq!(world.got(bob, id(1)).len(), 11);
}

#[test]
fn what_the_disk_never_gives_is_told() {
    let (mut world, bob) = behind_a_failing_disk();
    for _ in 0..100 {
        world.settle();
        world.pass(500_000);
    }
    let told = world.take(bob, id(1));
    assert!(
        matches!(told[..], [Told::Accepted(_), Told::Ended(Code::Unavailable, _)]),
        "{told:?}"
    );
}

#[test]
fn many_subscriptions_of_a_slow_connection_do_not_fetch_all_at_once() {
    for cores in [1, 2] {
        let mut world = world(cores, 1);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        let payload = [&[0x59, 0x03, 0xe8][..], &[0; 1_000]].concat();
        for nth in 0..256 {
            let event = event_with("a", nth, MetaWriter::new(), &payload);
            world.shard(alice).publish_logged(alice, "a", &event, ACKED);
        }
        world.shard(alice).flush_run();
        world.settle();
        world.busy(bob, true);
        let from = LoggedWish {
            from: From::All,
            ..WISH
        };
        for sub in 0..200 {
            world.subscribe(bob, id(sub), "a", from).unwrap();
        }
        world.settle();
        world.busy_when_given(bob, 100_000);
        world.busy(bob, false);
        world.settle();
        let given = world.told.iter().filter(|(_, told)| matches!(told, Told::Got(_)));
        let given = given.count();
        assert!((100..8_500).contains(&given), "{given} events of about 1 KiB");
        // And none is forgotten.
        world.busy_when_given(bob, usize::MAX);
        world.busy(bob, false);
        world.settle();
        for sub in 0..200 {
            let last = world.got(bob, id(sub)).pop();
            assert!(last.is_some_and(|last| last > 200), "{sub}: {last:?}");
        }
    }
}

#[test]
fn what_was_to_be_read_for_a_subscription_that_is_gone_is_not_read() {
    for cores in [1, 2] {
        let mut settings = in_memory(1);
        settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
        settings.tail_bytes = 0;
        let mut world = World::new(cores, 3, Limits::default(), Some(settings));
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        for nth in 0..40 {
            world.publish(alice, &events("a", nth * 100..nth * 100 + 100), ACKED);
            world.settle();
        }
        let from = LoggedWish {
            from: From::All,
            ..WISH
        };
        let carry_all = |world: &mut World| {
            while world.carry(cores as usize - 1, 0) || world.carry(0, cores as usize - 1) {}
        };
        for sub in 0..2_000 {
            world.subscribe(bob, id(sub), "a", from).unwrap();
            carry_all(&mut world);
            world.end(bob, id(sub));
            carry_all(&mut world);
        }
        world.subscribe(bob, id(9_999), "a", from).unwrap();
        let before = world.disks[0].reads;
        world.settle();
        let reads = world.disks[0].reads - before;
        assert!(reads < 20, "{reads} reads");
        assert!(world.got(bob, id(9_999)).len() > 1_000);
        let asked = world.disks[0].reads;
        assert!(asked < 1_000, "{asked} reads for a single subscription");
    }
}

#[test]
fn events_for_all_partitions_in_turn_make_one_run_for_each() {
    let mut world = world(1, 64);
    let topics: Vec<String> = (0..64)
        .map(|partition| {
            let mut names = (0..).map(|nth| format!("t{nth}"));
            names.find(|topic| partition_of(topic, 64) == partition).unwrap()
        })
        .collect();
    let all: Vec<(&str, u64)> = (0..640).map(|nth| (&*topics[nth as usize % 64], nth)).collect();
    let alice = peer(0, 1);
    for (topic, nth) in all {
        let event = event_with(topic, nth, MetaWriter::new(), &[1]);
        world.shard(alice).publish_logged(alice, topic, &event, ACKED);
    }
    world.shard(alice).flush_run();
    let news = std::iter::from_fn(|| world.shard(alice).poll_logged());
    let runs: Vec<usize> = news
        .map(|news| match news {
            fluxar_shard::logged::LoggedNews::Stored { events, .. } => events.len(),
            news => panic!("{news:?}"),
        })
        .collect();
    assert_eq!(runs, [10; 64]);
}

#[test]
fn a_run_of_many_topics_goes_to_each_pattern_that_matches() {
    // So many patterns match that the run is handed out in parts.
    let mut world = world(1, 1);
    let (alice, bob) = (peer(0, 1), peer(0, 2));
    let mut patterns = Vec::new();
    for bits in 0_u32..128 {
        let part = |at: u32| if bits >> at & 1 == 0 { "a" } else { "*" };
        let parts: Vec<&str> = (0..7).map(part).collect();
        patterns.push(format!("{}.*", parts.join(".")));
    }
    for (sub, pattern) in (0..).zip(&patterns) {
        world.subscribe(bob, id(sub), pattern, WISH).unwrap();
    }
    world.subscribe(bob, id(128), "a.a.a.a.a.a.a.1", WISH).unwrap();
    world.settle();
    let topics: Vec<String> = (0..2).map(|nth| format!("a.a.a.a.a.a.a.{nth}")).collect();
    let all: Vec<(&str, u64)> = (0..900).map(|nth| (&*topics[nth as usize % 2], nth)).collect();
    world.publish(alice, &all, ACKED);
    world.settle();
    for sub in 0..128 {
        assert_eq!(world.got(bob, id(sub)), (0..900).collect::<Vec<_>>());
    }
    let odd: Vec<u64> = (0..900).filter(|nth| nth % 2 == 1).collect();
    assert_eq!(world.got(bob, id(128)), odd);
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
    let mut world = World::new(2, 3, Limits::default(), Some(settings));
    let (alice, bob) = (peer(1, 1), peer(0, 2));
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    world.disks[0].is_full = true;
    let mut nth = 0;
    for _ in 0..20 {
        world.publish(alice, &events("a", nth..nth + 10), ACKED);
        nth += 10;
        world.settle();
        world.pass(100_000);
        world.settle();
    }
    assert!(!world.refused.is_empty());
    assert!(world.stored.is_empty());
    assert_eq!(world.got(bob, id(1)), [], "nothing is seen that is not safe");
    world.disks[0].is_full = false;
    for _ in 0..20 {
        world.pass(500_000);
        world.settle();
    }
    assert_eq!(world.stored.len() + world.refused.len(), nth as usize);
    let stored: Vec<_> = world.stored.values().copied().collect();
    assert!(!stored.is_empty());
    assert_eq!(world.got(bob, id(1)), stored);
}

/// Two cores with one partition of 3,000 events on the disk, somewhere in which a bit has flipped.
fn damaged() -> World {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
    settings.tail_bytes = 0;
    let mut world = World::new(2, 3, Limits::default(), Some(settings));
    for nth in 0..300 {
        world.publish(peer(0, 1), &events("a", nth * 10..nth * 10 + 10), ACKED);
        world.settle();
    }
    world.disks[0].flip(40_000);
    world
}

/// What the details of `data_loss` in the only partition name.
fn range_of(details: &[u8]) -> (u64, u64) {
    let details = fluxar_protocol::meta::Meta::from_checked(details);
    let uint = |key| details.uint(key).unwrap().unwrap();
    assert_eq!(uint("partition"), 0);
    (uint("first"), uint("last"))
}

#[test]
fn damage_is_told_and_the_rest_can_be_had() {
    let mut world = damaged();
    let bob = peer(1, 2);
    let from = LoggedWish {
        from: From::All,
        ..WISH
    };
    let (mut got, mut damage, mut from) = (Vec::new(), None, from);
    let mut at = Vec::new();
    for sub in 0..2 {
        let sub = id(sub);
        world.subscribe(bob, sub, "a", from).unwrap();
        loop {
            world.settle();
            let told = world.take(bob, sub);
            let mut last = None;
            for told in told {
                match told {
                    Told::Got(event) => {
                        got.push(event.offset);
                        last = Some(event.offset);
                    }
                    Told::Ended(Code::DataLoss, Some(details)) => {
                        assert_eq!(damage.replace(range_of(&details)), None, "once");
                    }
                    _ => {}
                }
            }
            let Some(last) = last else { break };
            world.ack(bob, sub, 0, last);
        }
        if let Some((_, last)) = damage {
            at = vec![(0, last)];
        }
        from = LoggedWish {
            from: From::Epoch {
                epoch: EPOCH,
                at: &at,
            },
            ..WISH
        };
    }
    let (first, last) = damage.expect("the damage is told");
    assert!(first <= last);
    let expected: Vec<u64> = (1..first).chain(last + 1..=3_000).collect();
    assert_eq!(got, expected, "all but {first} to {last}");
}

#[test]
fn one_that_meets_damage_is_ended_when_it_has_acknowledged_what_it_was_given() {
    for takes_too_long in [false, true] {
        let mut world = damaged();
        let bob = peer(1, 2);
        let wish = LoggedWish {
            durable: Some("bob"),
            from: From::All,
            ..WISH
        };
        world.subscribe(bob, id(1), "a", wish).unwrap();
        world.settle();
        let told = world.take(bob, id(1));
        let Some(Told::Got(last)) = told.last() else {
            panic!("it is given what is before the damage, and not ended: {told:?}");
        };
        let last = last.offset;
        assert_eq!(told.len() as u64, 1 + last, "accepted, and all of it");
        if takes_too_long {
            world.pass(29_000_000);
            world.settle();
            assert_eq!(world.take(bob, id(1)), []);
            world.pass(2_000_000);
        } else {
            world.ack(bob, id(1), 0, last - 1);
            world.settle();
            assert_eq!(world.take(bob, id(1)), []);
            world.ack(bob, id(1), 0, last);
        }
        world.settle();
        let told = world.take(bob, id(1));
        let [Told::Ended(Code::DataLoss, Some(details))] = &told[..] else {
            panic!("{told:?}");
        };
        let (first, _) = range_of(details);
        assert_eq!(first, last + 1);
        // Who comes back goes on right there.
        let wish = LoggedWish {
            from: From::Default,
            ..wish
        };
        world.subscribe(bob, id(2), "a", wish).unwrap();
        world.settle();
        let told = world.take(bob, id(2));
        let acked = if takes_too_long { 0 } else { last };
        assert_eq!(told[0], Told::Accepted(vec![(0, acked)]));
        assert_eq!(
            told.len() as u64,
            if takes_too_long { 1 + last } else { 2 },
            "{told:?}"
        );
    }
}

#[test]
fn one_that_was_cut_off_before_its_end_comes_to_it_again() {
    for is_away in [false, true] {
        let mut world = damaged();
        let bob = peer(1, 2);
        let from = LoggedWish {
            from: From::All,
            ..WISH
        };
        world.subscribe(bob, id(1), "a", from).unwrap();
        world.settle();
        let given = world.take(bob, id(1)).len();
        if is_away {
            // For longer than it may take, and not as long as its session is kept.
            world.busy(bob, true);
            world.pass(45_000_000);
            world.settle();
            assert_eq!(world.take(bob, id(1)), []);
        }
        world.rewind(bob);
        world.busy(bob, false);
        world.settle();
        let again = world.take(bob, id(1));
        assert_eq!(again.len(), given - 1, "all but the acceptance, and no end");
        let Some(Told::Got(last)) = again.last() else {
            panic!("{again:?}");
        };
        world.ack(bob, id(1), 0, last.offset);
        world.settle();
        assert!(matches!(
            world.take(bob, id(1))[..],
            [Told::Ended(Code::DataLoss, Some(_))]
        ));
    }
}

#[test]
fn what_a_connection_does_not_take_ends_a_subscription_behind_what_was_given() {
    let mut world = World::new(2, 3, Limits::default(), Some(in_memory(1)));
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    world.subscribe(bob, id(1), "a", WISH).unwrap();
    world.settle();
    world.publish(alice, &events("a", 1..11), ACKED);
    world.settle();
    world.publish(alice, &events("a", 11..21), ACKED);
    world.settle();
    world.take(bob, id(1));
    // The fifth is too large for it: that, and what comes behind it, was not given.
    let at = fluxar_protocol::Position {
        partition: 0,
        offset: 5,
    };
    let why = (Code::ResourceExhausted, "too large".to_owned());
    world.shard(bob).stop_logged((bob, id(1)), at, Some(4), why);
    world.publish(alice, &events("a", 21..31), ACKED);
    world.settle();
    assert_eq!(world.take(bob, id(1)), []);
    world.ack(bob, id(1), 0, 3);
    world.settle();
    assert_eq!(world.take(bob, id(1)), []);
    world.ack(bob, id(1), 0, 4);
    world.settle();
    let told = world.take(bob, id(1));
    let [Told::Ended(Code::ResourceExhausted, Some(details))] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(range_of(details), (5, 5));
}

#[test]
fn a_member_whose_connection_does_not_take_an_event_is_told_where_that_is_with_the_epoch() {
    let mut world = World::new(2, 3, Limits::default(), Some(in_memory(1)));
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    let wish = LoggedWish {
        group: Some("workers"),
        ..WISH
    };
    world.subscribe(bob, id(1), "a", wish).unwrap();
    world.settle();
    world.publish(alice, &events("a", 1..11), ACKED);
    world.settle();
    world.take(bob, id(1));
    let at = fluxar_protocol::Position {
        partition: 0,
        offset: 5,
    };
    let why = (Code::ResourceExhausted, "too large".to_owned());
    world.shard(bob).stop_logged((bob, id(1)), at, None, why);
    world.settle();
    let told = world.take(bob, id(1));
    let [Told::Ended(Code::ResourceExhausted, Some(details))] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(range_of(details), (5, 5));
    let details = fluxar_protocol::meta::Meta::from_checked(details);
    assert_eq!(details.uint("epoch"), Ok(Some(EPOCH)));
}

#[test]
fn what_a_queue_had_given_before_damage_is_given_again() {
    let mut world = damaged();
    let bob = peer(1, 2);
    let wish = LoggedWish {
        group: Some("workers"),
        from: From::All,
        ..WISH
    };
    world.subscribe(bob, id(1), "a", wish).unwrap();
    let mut damage = None;
    while damage.is_none() {
        world.settle();
        for told in world.take(bob, id(1)) {
            match told {
                // All but the second are handled.
                Told::Got(got) if got.offset != 2 => world.ack(bob, id(1), 0, got.offset),
                Told::Ended(Code::DataLoss, Some(details)) => {
                    damage = Some(range_of(&details));
                }
                _ => {}
            }
        }
    }
    let (first, last) = damage.unwrap();
    assert!(first > 2 && last < 3_000);
    let at = [(0, last)];
    let from = From::Epoch {
        epoch: EPOCH,
        at: &at,
    };
    world
        .subscribe(bob, id(2), "a", LoggedWish { from, ..wish })
        .unwrap();
    let mut got = Vec::new();
    loop {
        world.settle();
        let before = got.len();
        for told in world.take(bob, id(2)) {
            if let Told::Got(event) = told {
                got.push((event.offset, event.dup));
                world.ack(bob, id(2), 0, event.offset);
            }
        }
        if got.len() == before {
            break;
        }
    }
    got.sort_unstable();
    // What was on its way to the member as it was ended was not handled, either.
    let (before, behind) = got.split_at(got.partition_point(|(offset, _)| *offset <= last));
    assert_eq!(before.first(), Some(&(2, 1)));
    assert!(
        before.iter().all(|(offset, dup)| *offset < first && *dup == 1),
        "{before:?}"
    );
    assert_eq!(
        behind,
        (last + 1..=3_000).map(|offset| (offset, 0)).collect::<Vec<_>>()
    );
}

#[test]
fn a_name_whose_cursor_may_be_lost_has_to_say_where() {
    let mut settings = in_memory(1);
    settings.cursor_ms = 80_000;
    let settings = std::sync::Arc::new(settings);
    for group in [None, Some("workers")] {
        let mut world = World::new(1, 3, Limits::default(), Some((*settings).clone()));
        let seed = fluxar_shard::Seed {
            hash: 1,
            ids: 2,
            epoch: EPOCH,
        };
        let mut shard = fluxar_shard::Shard::new(0, 1, Limits::default(), seed);
        shard.set_log(Some(settings.clone()));
        let mut files = MemoryFiles::default();
        let mut recovery = Recovery::open(&mut files, 1, &settings, [7; 16], 0).unwrap();
        let mut share = recovery.step(|_| {}).unwrap().unwrap();
        share.epoch = EPOCH;
        share.partitions[0].cursors_lost = Some(CursorsLost {
            written_ms: world.unix_ms(),
            segment: SegmentId { core: 0, number: 1 },
        });
        shard.handle_recovered(RecoveredLog::new(share, 7));
        world.shards = vec![shard];
        world.pass(1);
        let bob = peer(0, 2);
        let wish = |name, from| LoggedWish {
            durable: Some(name),
            group,
            from,
            ..WISH
        };
        let told = |world: &mut World, nth, wish| {
            world.subscribe(bob, id(nth), "a", wish).unwrap();
            world.pass(300_000);
            world.settle();
            let told = world.take(bob, id(nth)).remove(0);
            world.end(bob, id(nth));
            world.settle();
            told
        };
        let is_accepted = |told: &Told| matches!(told, Told::Accepted(_));
        let lost = Told::Refused(Code::DataLoss, None);
        assert_eq!(told(&mut world, 1, wish("a", From::Default)), lost);
        assert_eq!(
            told(&mut world, 2, wish("a", From::Default)),
            lost,
            "it was not made by that"
        );
        assert!(is_accepted(&told(&mut world, 3, wish("a", From::All))));
        assert!(
            is_accepted(&told(&mut world, 4, wish("a", From::Default))),
            "it is there now"
        );
        assert_eq!(told(&mut world, 5, wish("b", From::Default)), lost);
        // All that may have been lost would be forgotten by now.
        world.pass(100_000_000);
        assert!(is_accepted(&told(&mut world, 6, wish("b", From::Default))));
    }
}
