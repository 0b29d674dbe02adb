//! Durable cursors: when they are safe, and how many one connection makes.

use fluxar_protocol::{Code, Id};
use fluxar_shard::limits::CURSORS_PER_PEER_MAX;
use fluxar_shard::log::class::Level;
use fluxar_shard::log::partition_of;
use fluxar_shard::logged::{From, LoggedWish};
use fluxar_shard::{Limits, PeerId};

use crate::promises::{events, world};
use crate::world::{ACKED, EPOCH, Told, WISH, World, id, in_memory, peer};

/// Carries all letters; the disks do nothing.
fn carry_all(world: &mut World) {
    let cores = world.cores();
    while (0..cores * cores).any(|pair| world.carry(pair / cores, pair % cores)) {}
}

#[test]
fn a_durable_subscription_has_begun_once_its_cursor_survives_power_loss() {
    for (cores, pattern) in [(1, "a"), (2, "a"), (2, ">")] {
        for retain in [false, true] {
            let mut world = world(cores, 4);
            let bob = peer(cores - 1, 1);
            let wish = LoggedWish {
                durable: Some("bob"),
                retain,
                ..WISH
            };
            world.subscribe(bob, id(1), pattern, wish).unwrap();
            carry_all(&mut world);
            assert_eq!(world.take(bob, id(1)), [], "nothing was written yet");
            world.pass(1);
            world.settle();
            assert!(matches!(world.take(bob, id(1))[..], [Told::Accepted(_)]));
            // What comes meanwhile is neither lost nor told twice.
            world
                .subscribe(
                    bob,
                    id(2),
                    pattern,
                    LoggedWish {
                        durable: Some("two"),
                        ..wish
                    },
                )
                .unwrap();
            carry_all(&mut world);
            world.publish(peer(0, 7), &events("a", 1..4), ACKED);
            carry_all(&mut world);
            world.settle();
            assert_eq!(world.got(bob, id(1)), [1, 2, 3]);
            assert_eq!(world.got(bob, id(2)), [1, 2, 3]);
            // One that is there already is not waited for,
            world.end(bob, id(1));
            world.subscribe(bob, id(3), pattern, wish).unwrap();
            carry_all(&mut world);
            assert!(matches!(world.take(bob, id(3))[..], [Told::Accepted(_), ..]));
            // unless it is set back (it began behind nothing; all of it is handled now), which a crash must not undo.
            world.ack(bob, id(3), fluxar_shard::log::partition_of("a", 4), 3);
            for _ in 0..4 {
                world.pass(2_000_000);
                world.settle();
            }
            world.end(bob, id(3));
            let from = LoggedWish {
                from: From::All,
                ..wish
            };
            world.subscribe(bob, id(4), pattern, from).unwrap();
            carry_all(&mut world);
            assert_eq!(world.take(bob, id(4)), [], "{cores} {pattern} {retain}");
            for _ in 0..3 {
                world.pass(300_000);
                world.settle();
            }
            assert!(matches!(world.take(bob, id(4))[..], [Told::Accepted(_), ..]));
        }
    }
}

#[test]
fn a_queue_gives_nothing_before_its_place_survives_power_loss() {
    for (cores, pattern) in [(1, "a"), (2, "a"), (2, ">")] {
        let mut world = world(cores, 4);
        let (bob, carol) = (peer(cores - 1, 1), peer(0, 2));
        let wish = LoggedWish {
            group: Some("workers"),
            ..WISH
        };
        world.subscribe(bob, id(1), pattern, wish).unwrap();
        world.subscribe(carol, id(2), pattern, wish).unwrap();
        carry_all(&mut world);
        world.publish(peer(0, 7), &events("a", 1..4), ACKED);
        carry_all(&mut world);
        assert_eq!(
            (world.take(bob, id(1)), world.take(carol, id(2))),
            (vec![], vec![])
        );
        // One of them does not wait for it.
        world.lose(carol);
        carry_all(&mut world);
        world.settle();
        let told = world.take(bob, id(1));
        assert!(matches!(told[0], Told::Accepted(_)));
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(world.take(carol, id(2)), []);
        // Who comes later does not wait.
        let dave = peer(0, 3);
        world.subscribe(dave, id(3), pattern, wish).unwrap();
        carry_all(&mut world);
        assert!(matches!(world.take(dave, id(3))[..], [Told::Accepted(_)]));
    }
}

/// One topic on each of two cores.
fn a_topic_on_each() -> [String; 2] {
    [0, 1].map(|core| {
        let names = (0..).map(|nth| format!("t{nth}"));
        let mut of_core = names.filter(|name| partition_of(name, 4) % 2 == core);
        of_core.next().unwrap()
    })
}

/// Stores five events in a partition of each of two cores, of which a subscription to all by the name of bob has handled the
/// first three. The partitions.
fn handle_three_of_five(world: &mut World) -> [u16; 2] {
    let (alice, bob) = (peer(0, 7), peer(0, 1));
    let topics = a_topic_on_each();
    let partitions = [0, 1].map(|core: usize| partition_of(&topics[core], 4));
    for nth in 0..10_u64 {
        world.publish(alice, &[(&topics[nth as usize % 2], nth)], ACKED);
    }
    world.settle();
    let wish = LoggedWish {
        durable: Some("bob"),
        from: From::All,
        ..WISH
    };
    world.subscribe(bob, id(1), ">", wish).unwrap();
    world.settle();
    for partition in partitions {
        world.ack(bob, id(1), partition, 3);
    }
    world.settle();
    world.take(bob, id(1));
    world.end(bob, id(1));
    partitions
}

/// Subscribes to all by the name of bob, behind these positions.
fn begin_behind(world: &mut World, who: PeerId, sub: Id, mut at: [(u16, u64); 2]) {
    at.sort_unstable();
    let wish = LoggedWish {
        durable: Some("bob"),
        from: From::Epoch {
            epoch: EPOCH,
            at: &at,
        },
        ..WISH
    };
    world.subscribe(who, sub, ">", wish).unwrap();
}

/// What comes to a subscription to all by the name of bob, which begins where its cursor is.
fn what_comes(world: &mut World, who: PeerId, sub: Id) -> Vec<u64> {
    let wish = LoggedWish {
        durable: Some("bob"),
        ..WISH
    };
    world.subscribe(who, sub, ">", wish).unwrap();
    world.settle();
    world.pass(300_000);
    world.settle();
    let mut got = world.got(who, sub);
    got.sort_unstable();
    got
}

#[test]
fn a_subscription_that_is_refused_leaves_the_cursor_where_it_was() {
    let mut world = world(2, 4);
    let partitions = handle_three_of_five(&mut world);
    let bob = peer(0, 1);
    // The first owner takes it, the other does not: it never gave out so much.
    let at = [(partitions[0], 5), (partitions[1], 1_000)];
    begin_behind(&mut world, bob, id(2), at);
    world.settle();
    assert_eq!(world.take(bob, id(2)), [Told::Refused(Code::OutOfRange, None)]);
    let got = what_comes(&mut world, bob, id(3));
    assert_eq!(got, [6, 7, 8, 9], "all but the first three of each");
}

#[test]
fn who_takes_a_name_from_one_that_is_refused_misses_nothing() {
    let mut world = world(2, 4);
    let partitions = handle_three_of_five(&mut world);
    world.settle();
    let (refused, next) = (peer(1, 2), peer(0, 3));
    let at = [(partitions[0], 5), (partitions[1], 1_000)];
    begin_behind(&mut world, refused, id(2), at);
    assert_eq!(
        world.take(refused, id(2)),
        [Told::Refused(Code::OutOfRange, None)]
    );
    // The other owner lets it begin, and has not heard that it is over when the next one comes.
    assert!(world.carry(1, 0));
    world.pass(1);
    let got = what_comes(&mut world, next, id(3));
    assert_eq!(got, [6, 7, 8, 9], "all but the first three of each");
}

#[test]
fn who_fails_to_take_a_name_leaves_the_cursor_of_one_that_has_begun() {
    for is_refused in [true, false] {
        let mut world = world(2, 4);
        let topics = a_topic_on_each();
        let partitions = [0, 1].map(|core: usize| partition_of(&topics[core], 4));
        let publish = |world: &mut World, numbers: std::ops::Range<u64>| {
            for nth in numbers {
                world.publish(peer(0, 7), &[(&topics[nth as usize % 2], nth)], ACKED);
            }
        };
        publish(&mut world, 0..10);
        world.settle();
        let (first, second, third) = (peer(1, 1), peer(0, 2), peer(0, 3));
        let wish = LoggedWish {
            durable: Some("bob"),
            ..WISH
        };
        world.subscribe(first, id(1), ">", wish).unwrap();
        while world.carry(1, 0) {}
        for _ in 0..3 {
            world.pass(1);
            while world.work(0) || world.work(1) || world.carry(0, 1) {}
        }
        assert!(matches!(world.take(first, id(1))[..], [Told::Accepted(_)]));
        publish(&mut world, 10..14);
        while world.carry(0, 1) {}
        // Core 0 has not heard that it has begun.
        if is_refused {
            begin_behind(
                &mut world,
                second,
                id(2),
                [(partitions[0], 7), (partitions[1], 1_000)],
            );
        } else {
            begin_behind(
                &mut world,
                second,
                id(2),
                partitions.map(|partition| (partition, 7)),
            );
            world.end(second, id(2));
        }
        world.settle();
        let got = what_comes(&mut world, third, id(3));
        assert_eq!(got, [10, 11, 12, 13], "all since the first one has begun");
    }
}

/// How somebody fails to take a name.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Refused,
    Gone,
    /// Before it is told that it begins.
    Superseded,
}

#[test]
fn who_fails_to_take_a_name_leaves_what_was_asked_for_again() {
    for failure in [Failure::Refused, Failure::Gone, Failure::Superseded] {
        let mut world = world(2, 4);
        let partitions = handle_three_of_five(&mut world);
        world.settle();
        let (first, second, third) = (peer(1, 1), peer(0, 2), peer(0, 3));
        begin_behind(
            &mut world,
            first,
            id(2),
            partitions.map(|partition| (partition, 0)),
        );
        while world.carry(1, 0) {}
        for _ in 0..5 {
            world.pass(300_000);
            while world.work(0) || world.work(1) || world.carry(0, 1) {}
        }
        let told = world.take(first, id(2));
        assert!(matches!(told[..], [Told::Accepted(_), ..]), "{told:?}");
        // Core 0 has not heard that it has begun, all over again.
        let last = match failure {
            Failure::Refused => 1_000,
            Failure::Gone | Failure::Superseded => 5,
        };
        begin_behind(
            &mut world,
            second,
            id(3),
            [(partitions[0], 5), (partitions[1], last)],
        );
        match failure {
            Failure::Refused => world.settle(),
            Failure::Gone => {
                world.end(second, id(3));
                world.settle();
            }
            Failure::Superseded => {}
        }
        let got = what_comes(&mut world, third, id(4));
        assert_eq!(got, (0..10).collect::<Vec<u64>>(), "{failure:?}");
    }
}

#[test]
fn where_a_subscription_has_begun_the_next_of_its_name_begins() {
    let mut world = world(2, 4);
    let partitions = handle_three_of_five(&mut world);
    world.settle();
    let (first, next) = (peer(1, 2), peer(0, 3));
    begin_behind(
        &mut world,
        first,
        id(2),
        partitions.map(|partition| (partition, 5)),
    );
    world.settle();
    world.pass(300_000);
    world.settle();
    let told = world.take(first, id(2));
    assert!(matches!(told[..], [Told::Accepted(_), ..]), "{told:?}");
    assert_eq!(what_comes(&mut world, next, id(3)), [], "it was said so");
}

#[test]
fn where_a_cursor_was_is_written_at_once() {
    let mut world = world(2, 4);
    let partitions = handle_three_of_five(&mut world);
    for _ in 0..3 {
        world.settle();
        world.pass(2_000_000);
    }
    world.settle();
    let at = [(partitions[0], 5), (partitions[1], 1_000)];
    begin_behind(&mut world, peer(1, 2), id(2), at);
    assert!(world.carry(1, 0));
    // Where it was moved to is written right before that is undone.
    let untouched = world.disks[0].done();
    world.pass(200_000);
    while world.work(0) {}
    assert_eq!(world.disks[0].done().0, untouched.0 + 1);
    let before = world.disks[0].done();
    carry_all(&mut world);
    while world.work(0) {}
    assert_eq!(world.disks[0].done(), (before.0 + 1, before.1 + 1));
}

#[test]
fn that_a_refused_one_has_made_none_is_written_at_once() {
    let [durable, queue] = [(Some("bob"), None), (None, Some("workers"))];
    for (durable, group) in [durable, queue] {
        let mut settings = in_memory(4);
        settings.cursors_max = 3;
        let mut world = World::new(2, 3, Limits::default(), Some(settings));
        let bob = peer(1, 1);
        // There is no room for two more on core 1.
        let names = (0..).map(|nth| format!("t{nth}"));
        let topics = names.filter(|name| partition_of(name, 4) % 2 == 1).take(2);
        for (nth, topic) in (1..).zip(topics) {
            let wish = LoggedWish {
                durable: Some("other"),
                ..WISH
            };
            world.subscribe(bob, id(nth), &topic, wish).unwrap();
        }
        for _ in 0..3 {
            world.settle();
            world.pass(2_000_000);
        }
        let wish = LoggedWish {
            durable,
            group,
            ..WISH
        };
        world.subscribe(bob, id(9), ">", wish).unwrap();
        assert!(world.carry(1, 0));
        while world.work(0) {}
        let before = world.disks[0].done();
        carry_all(&mut world);
        while world.work(0) {}
        assert_eq!(
            world.take(bob, id(9)),
            [Told::Refused(Code::ResourceExhausted, None)]
        );
        assert_eq!(world.disks[0].done(), (before.0 + 1, before.1 + 1));
    }
}

#[test]
fn one_that_is_gone_before_its_cursor_is_safe_leaves_none() {
    for cores in [1, 2] {
        let mut world = world(cores, 4);
        let bob = peer(cores - 1, 1);
        let wish = LoggedWish {
            durable: Some("bob"),
            ..WISH
        };
        world.subscribe(bob, id(1), ">", wish).unwrap();
        carry_all(&mut world);
        world.lose(bob);
        world.settle();
        world.publish(peer(0, 7), &events("a", 1..4), ACKED);
        world.settle();
        let bob = peer(cores - 1, 2);
        world.subscribe(bob, id(1), ">", wish).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(1)), [], "it begins with what comes from now on");
        assert_eq!(world.shards[0].counts().cursor_holders, 1);
    }
}

#[test]
fn a_beginning_that_fails_leaves_no_cursors() {
    let mut settings = in_memory(4);
    settings.cursors_max = 3;
    let mut world = World::new(2, 3, Limits::default(), Some(settings));
    let bob = peer(1, 1);
    let wish = |name| LoggedWish {
        durable: Some(name),
        ..WISH
    };
    world.subscribe(bob, id(1), ">", wish("one")).unwrap();
    world.settle();
    assert!(matches!(world.take(bob, id(1))[..], [Told::Accepted(_)]));
    for nth in 2..10 {
        world.subscribe(bob, id(nth), ">", wish("two")).unwrap();
        world.settle();
        assert_eq!(
            world.take(bob, id(nth)),
            [Told::Refused(Code::ResourceExhausted, None)]
        );
        // That they are forgotten is written, too.
        for _ in 0..2 {
            world.pass(2_000_000);
            world.settle();
        }
    }
    for (nth, topic) in (10..).zip(["a", "b", "c", "d", "e", "f"]) {
        world.subscribe(bob, id(nth), topic, wish("two")).unwrap();
    }
    world.settle();
    let begun = world
        .told
        .iter()
        .filter(|(_, told)| matches!(told, Told::Accepted(_)));
    assert_eq!(begun.count(), 2, "one on each core, where there was room for one");
}

#[test]
fn one_connection_does_not_make_all_cursors_there_are() {
    let mut world = world(2, 64);
    let (bob, carol) = (peer(1, 1), peer(1, 2));
    let names: Vec<String> = (0..=CURSORS_PER_PEER_MAX / 64)
        .map(|nth| format!("n{nth}"))
        .collect();
    let wish = |name| LoggedWish {
        durable: Some(name),
        ..WISH
    };
    let begins = |world: &mut World, who, sub, name| {
        world.subscribe(who, id(sub), ">", wish(name)).unwrap();
        world.settle();
        let told = world.take(who, id(sub)).into_iter().next();
        world.end(who, id(sub));
        world.settle();
        told
    };
    let (last, others) = names.split_last().unwrap();
    for (sub, name) in (0..).zip(others) {
        assert!(
            matches!(begins(&mut world, bob, sub, name), Some(Told::Accepted(_))),
            "{name}"
        );
    }
    let refused = Some(Told::Refused(Code::ResourceExhausted, None));
    assert_eq!(begins(&mut world, bob, 1_000, last), refused);
    assert_eq!(begins(&mut world, bob, 1_001, last), refused);
    // What is there already it may have, and others may make theirs.
    assert!(matches!(
        begins(&mut world, bob, 1_002, &names[3]),
        Some(Told::Accepted(_))
    ));
    assert!(matches!(
        begins(&mut world, carol, 1, last),
        Some(Told::Accepted(_))
    ));
    assert!(matches!(
        begins(&mut world, bob, 1_003, last),
        Some(Told::Accepted(_))
    ));
}

#[test]
fn a_name_that_is_taken_over_before_it_has_begun_is_counted() {
    let mut world = world(2, 64);
    let bob = peer(1, 1);
    let begins = |world: &mut World, subs: std::ops::Range<u64>, name: &str| {
        let wish = LoggedWish {
            durable: Some(name),
            ..WISH
        };
        for sub in subs.clone() {
            world.subscribe(bob, id(sub), ">", wish).unwrap();
        }
        world.settle();
        let last = id(subs.end - 1);
        let told = world.take(bob, last).into_iter().next();
        world.end(bob, last);
        world.settle();
        told
    };
    let count = u64::from(CURSORS_PER_PEER_MAX / 64);
    for nth in 0..count - 1 {
        let told = begins(&mut world, 2 * nth..2 * nth + 2, &format!("n{nth}"));
        assert!(matches!(told, Some(Told::Accepted(_))), "{nth}: {told:?}");
    }
    assert!(matches!(
        begins(&mut world, 2_000..2_001, "last"),
        Some(Told::Accepted(_))
    ));
    assert_eq!(
        begins(&mut world, 2_001..2_002, "one more"),
        Some(Told::Refused(Code::ResourceExhausted, None))
    );
}

#[test]
fn who_is_refused_a_cursor_while_others_begin_may_try_again() {
    let mut world = world(2, 64);
    let bob = peer(1, 1);
    let wish = |name| LoggedWish {
        durable: Some(name),
        ..WISH
    };
    let count = CURSORS_PER_PEER_MAX as usize / 64;
    let names: Vec<String> = (0..2 * count).map(|nth| format!("n{nth}")).collect();
    for (slot, names) in (2..).zip(names.chunks(count)) {
        let maker = peer(1, slot);
        for (sub, name) in (0..).zip(names) {
            world.subscribe(maker, id(sub), ">", wish(name)).unwrap();
        }
        world.settle();
        world.lose(maker);
        world.settle();
    }
    // All of these are there, of which bob's core knows only its own half yet.
    for (sub, name) in (0..).zip(&names) {
        world.subscribe(bob, id(sub), ">", wish(name)).unwrap();
    }
    world.subscribe(bob, id(1_000), ">", wish("new")).unwrap();
    world.settle();
    assert!(matches!(
        world.take(bob, id(1_000))[..],
        [Told::Refused(Code::ResourceExhausted, Some(_))]
    ));
    world.subscribe(bob, id(1_001), ">", wish("new")).unwrap();
    world.settle();
    assert!(matches!(world.take(bob, id(1_001))[..], [Told::Accepted(_)]));
}

#[test]
fn of_those_who_take_a_name_while_the_disk_hangs_the_last_begins() {
    for cores in [1, 2] {
        let mut world = world(cores, 4);
        let bob = peer(cores - 1, 1);
        let wish = LoggedWish {
            durable: Some("bob"),
            ..WISH
        };
        for nth in 0..100 {
            world.subscribe(bob, id(nth), ">", wish).unwrap();
            carry_all(&mut world);
        }
        assert_eq!(world.shards[0].counts().cursor_holders, 1);
        world.settle();
        for nth in 0..99 {
            assert_eq!(world.take(bob, id(nth)), [Told::Refused(Code::Aborted, None)]);
        }
        assert!(matches!(world.take(bob, id(99))[..], [Told::Accepted(_)]));
    }
}

#[test]
fn what_came_right_before_a_time_may_come_but_nothing_is_left_out() {
    for tail_bytes in [0, 1 << 20] {
        let mut settings = in_memory(1);
        settings.topics[0].level = Some(Level::Synced);
        settings.tail_bytes = tail_bytes;
        let mut world = World::new(1, 3, Limits::default(), Some(settings));
        let (alice, bob) = (peer(0, 1), peer(0, 2));
        // Within a few ms, and stored together.
        let mut times = Vec::new();
        for nth in 0..8 {
            world.pass(1_000);
            times.push((world.unix_ms(), nth));
            world.publish(alice, &events("a", nth..nth + 1), ACKED);
        }
        world.settle();
        world.pass(1_000_000);
        world.publish(alice, &events("a", 8..9), ACKED);
        world.settle();
        for (time_ms, nth) in times {
            let wish = LoggedWish {
                from: From::TimeMs(time_ms),
                ..WISH
            };
            world.subscribe(bob, id(nth), "a", wish).unwrap();
            world.settle();
            let got = world.got(bob, id(nth));
            let expected: Vec<u64> = (nth..9).collect();
            assert!(got.ends_with(&expected), "from {nth} on: {got:?}");
        }
        let wish = LoggedWish {
            from: From::TimeMs(world.unix_ms() - 500),
            ..WISH
        };
        world.subscribe(bob, id(100), "a", wish).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(100)), [8], "tail of {tail_bytes}");
    }
}

fn number_got(told: &Told) -> u64 {
    match told {
        Told::Got(got) => got.nth,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_older_than_it_asked_for_does_not_come_when_it_goes_on_either() {
    for cores in [1, 2] {
        let mut settings = in_memory(1);
        settings.topics[0].level = Some(Level::Synced);
        settings.tail_bytes = 0;
        let mut world = World::new(cores, 3, Limits::default(), Some(settings));
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        world.publish(alice, &events("a", 0..3), ACKED);
        world.publish(alice, &events("b", 3..6), ACKED);
        world.settle();
        world.pass(60_000_000);
        let time_ms = world.unix_ms();
        world.publish(alice, &events("a", 6..9), ACKED);
        world.settle();
        for (nth, (pattern, expected)) in [("a", 6..9), ("b", 0..0), (">", 6..9)].into_iter().enumerate() {
            let expected: Vec<u64> = expected.collect();
            let wish = LoggedWish {
                durable: Some("bob"),
                ..WISH
            };
            let from = LoggedWish {
                from: From::TimeMs(time_ms),
                ..wish
            };
            let sub = id(10 * nth as u64);
            world.subscribe(bob, sub, pattern, from).unwrap();
            world.settle();
            // Its peer knows where it may come back to before it is given anything.
            let mut told = world.take(bob, sub);
            let at = expected.first().map_or(9, |first| *first);
            assert!(matches!(told.remove(0), Told::Accepted(_)));
            assert_eq!(told.remove(0), Told::Moved(0, at), "{pattern}");
            let got: Vec<u64> = told.iter().map(number_got).collect();
            assert_eq!(got, expected, "{pattern}");
            world.rewind(bob);
            world.settle();
            assert_eq!(world.got(bob, sub), expected, "{pattern}: its session goes on");
            world.end(bob, sub);
            for again in 1..3 {
                let sub = id(10 * nth as u64 + again);
                world.subscribe(bob, sub, pattern, wish).unwrap();
                world.settle();
                assert_eq!(world.got(bob, sub), expected, "{pattern}: it is back");
                world.end(bob, sub);
            }
        }
    }
}
