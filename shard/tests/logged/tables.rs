//! Tables: the last event of each key comes before what is live.

use fluxar_protocol::Code;
use fluxar_protocol::meta::MetaWriter;
use fluxar_shard::Limits;
use fluxar_shard::log::class::Level;
use fluxar_shard::logged::{From, LoggedPublish, LoggedWish};

use crate::promises::{events, small, world};
use crate::world::{ACKED, EPOCH, Got, Told, WISH, World, event_with, id, in_memory, peer};

/// Publishes rows of a table: topic, key, event number, and whether it removes the row.
fn rows(world: &mut World, peer: fluxar_shard::PeerId, rows: &[(&str, &str, u64, bool)]) {
    let retained = LoggedPublish {
        retain: true,
        ..ACKED
    };
    for &(topic, key, nth, removes) in rows {
        let payload: &[u8] = if removes { &[0xf6] } else { &[1] };
        let event = event_with(
            topic,
            nth,
            MetaWriter::new().text("key", key).flag("retain", true),
            payload,
        );
        world.shard(peer).publish_logged(peer, topic, &event, retained);
    }
    world.shard(peer).flush_run();
    world.settle();
}

#[test]
fn a_table_comes_before_what_is_live_without_gap_or_repeat() {
    for (cores, limits) in [(1, Limits::default()), (2, small(100, 2)), (3, small(1, 1))] {
        let mut world = World::new(cores, 3, limits, Some(in_memory(4)));
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        rows(
            &mut world,
            alice,
            &[
                ("t.a", "k", 1, false),
                ("t.a", "l", 2, false),
                ("t.b", "k", 3, false),
                ("t.a", "k", 4, false),
                ("t.a", "m", 5, false),
                ("t.a", "m", 6, true),
                ("other", "k", 7, false),
            ],
        );
        world.publish(alice, &events("t.a", 8..10), ACKED);
        world.settle();
        let wish = LoggedWish {
            retain: true,
            durable: Some("table"),
            ..WISH
        };
        world.subscribe(bob, id(1), "t.*", wish).unwrap();
        world.settle();
        let mut seen = Vec::new();
        let mut took = |world: &mut World| {
            for _ in 0..20 {
                for told in world.take(bob, id(1)) {
                    if let Told::Got(got) = told {
                        seen.push(got.nth);
                        world.ack(bob, id(1), got.partition, got.offset);
                    }
                }
                world.settle();
            }
            std::mem::take(&mut seen)
        };
        rows(&mut world, alice, &[("t.a", "l", 10, false)]);
        let mut got = took(&mut world);
        got.sort_unstable();
        got.dedup();
        let expected: &[u64] = if got.contains(&2) {
            &[2, 3, 4, 10]
        } else {
            &[3, 4, 10]
        };
        assert_eq!(got, expected, "rows, then what came behind them");
        // The cursor stands behind the table now: it does not come again.
        world.lose(bob);
        world.settle();
        world.subscribe(bob, id(1), "t.*", wish).unwrap();
        world.settle();
        assert_eq!(took(&mut world), []);
    }
}

#[test]
fn a_table_that_was_not_handled_comes_again() {
    let mut world = world(2, 1);
    let (alice, bob) = (peer(0, 1), peer(1, 2));
    let table = [("t", "a", 1, false), ("t", "b", 2, false), ("t", "c", 3, false)];
    rows(&mut world, alice, &table);
    world.publish(alice, &events("t", 4..6), ACKED);
    world.settle();
    let wish = LoggedWish {
        retain: true,
        durable: Some("table"),
        ..WISH
    };
    for slot in 2..4 {
        let bob = peer(1, slot);
        world.subscribe(bob, id(1), "t", wish).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(1)), [1, 2, 3]);
        world.ack(bob, id(1), 0, 2);
        world.rewind(bob);
        world.settle();
        let told = world.take(bob, id(1));
        assert!(
            matches!(told[..], [Told::Got(Got { nth: 3, dup: 1, .. })]),
            "it comes again, and says so: {told:?}"
        );
        world.lose(bob);
        world.settle();
    }
    world.subscribe(bob, id(1), "t", wish).unwrap();
    world.settle();
    world.ack(bob, id(1), 0, 3);
    world.publish(alice, &events("t", 6..7), ACKED);
    world.settle();
    world.lose(bob);
    world.settle();
    let _ = world.take(bob, id(1));
    world.subscribe(bob, id(2), "t", wish).unwrap();
    world.settle();
    assert_eq!(world.got(bob, id(2)), [6]);
}

#[test]
fn what_came_while_a_table_was_not_handled_is_not_lost() {
    for cores in [1, 2] {
        let mut world = world(cores, 4);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        let wish = LoggedWish {
            retain: true,
            durable: Some("table"),
            ..WISH
        };
        rows(&mut world, alice, &[("t", "a", 1, false)]);
        world.subscribe(bob, id(1), "*", wish).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(1)), [1]);
        // The table is not acknowledged, or there was none: what comes now is in no table either.
        world.publish(alice, &[("t", 2), ("s", 3), ("r", 4)], ACKED);
        world.settle();
        world.lose(bob);
        world.publish(alice, &[("t", 5), ("s", 6)], ACKED);
        world.settle();
        let _ = world.take(bob, id(1));
        world.subscribe(bob, id(2), "*", wish).unwrap();
        world.settle();
        let mut got = world.got(bob, id(2));
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3, 4, 5, 6]);
    }
}

/// A table of rows `a` (if it is to have that), `b` and `c`, numbered 1, 2 and 3, of which `b` is damaged, which nobody has
/// noticed yet; behind it ten events, numbered from 10.
fn damaged(cores: u16, has_a: bool) -> World {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
    settings.tail_bytes = 0;
    let mut world = World::new(cores, 3, Limits::default(), Some(settings));
    let alice = peer(0, 1);
    if has_a {
        rows(&mut world, alice, &[("t", "a", 1, false)]);
    }
    let payload = [&[0x59, 0x07, 0xd0][..], &[0; 2_000]].concat();
    let meta = MetaWriter::new().text("key", "b").flag("retain", true);
    let retained = LoggedPublish {
        retain: true,
        ..ACKED
    };
    let event = event_with("t", 2, meta, &payload);
    world.shard(alice).publish_logged(alice, "t", &event, retained);
    world.shard(alice).flush_run();
    world.settle();
    rows(&mut world, alice, &[("t", "c", 3, false)]);
    for nth in 10..20 {
        world.publish(alice, &events("t", nth..nth + 1), ACKED);
        world.settle();
    }
    world.disks[0].flip(1_500);
    world
}

/// Asks for the table and is told that a row of it is damaged; it may have been given the one before.
fn is_told_of_damage(world: &mut World, bob: fluxar_shard::PeerId, sub: u64, wish: LoggedWish<'_>, row: u64) {
    world.subscribe(bob, id(sub), "t", wish).unwrap();
    world.settle();
    world.ack(bob, id(sub), 0, 1);
    world.settle();
    let told = world.take(bob, id(sub));
    let Some(Told::Ended(Code::DataLoss, Some(details))) = told.last() else {
        panic!("{told:?}")
    };
    let details = fluxar_protocol::meta::Meta::from_checked(details);
    assert_eq!(
        (details.uint("first"), details.uint("last"), details.flag("table")),
        (Ok(Some(row)), Ok(Some(row)), Ok(true))
    );
}

const TABLE: LoggedWish<'static> = LoggedWish {
    retain: true,
    from: From::New,
    ..WISH
};

const PARTIAL: LoggedWish<'static> = LoggedWish {
    skip_damaged: true,
    ..TABLE
};

#[test]
fn all_rows_of_a_damaged_batch_are_told_at_once() {
    let mut settings = in_memory(1);
    settings.topics[0].level = Some(fluxar_shard::log::class::Level::Synced);
    settings.tail_bytes = 0;
    let mut world = World::new(1, 3, Limits::default(), Some(settings));
    let (alice, bob) = (peer(0, 1), peer(0, 2));
    rows(&mut world, alice, &[("t", "first", 1, false)]);
    let payload = [&[0x58, 0xc8][..], &[0; 200]].concat();
    let retained = LoggedPublish {
        retain: true,
        ..ACKED
    };
    for nth in 2..22 {
        let key = format!("k{nth}");
        let meta = MetaWriter::new().text("key", &key).flag("retain", true);
        let event = event_with("t", nth, meta, &payload);
        world.shard(alice).publish_logged(alice, "t", &event, retained);
    }
    world.shard(alice).flush_run();
    world.settle();
    rows(&mut world, alice, &[("t", "last", 22, false)]);
    for nth in 30..40 {
        world.publish(alice, &events("t", nth..nth + 1), ACKED);
        world.settle();
    }
    // In the batch of the twenty.
    world.disks[0].flip(1_500);
    let wish = LoggedWish {
        retain: true,
        from: From::New,
        ..WISH
    };
    for sub in 1..3 {
        world.subscribe(bob, id(sub), "t", wish).unwrap();
        world.settle();
        world.ack(bob, id(sub), 0, 1);
        world.settle();
        let told = world.take(bob, id(sub));
        let Some(Told::Ended(Code::DataLoss, Some(details))) = told.last() else {
            panic!("{told:?}")
        };
        let details = fluxar_protocol::meta::Meta::from_checked(details);
        assert_eq!(
            (details.uint("first"), details.uint("last")),
            (Ok(Some(2)), Ok(Some(21))),
            "whoever finds it, and whoever comes then"
        );
    }
    let partial = LoggedWish {
        skip_damaged: true,
        ..wish
    };
    world.subscribe(bob, id(9), "t", partial).unwrap();
    world.settle();
    assert_eq!(world.got(bob, id(9)), [1, 22]);
}

#[test]
fn a_table_of_which_a_row_is_damaged_is_never_given_as_whole() {
    for cores in [1, 2] {
        let mut world = damaged(cores, true);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        // Each is told, whoever heard of it before.
        for sub in 1..4 {
            is_told_of_damage(&mut world, bob, sub, TABLE, 2);
        }
        // Who asks for that has the rest of it, and then what is live.
        world.subscribe(bob, id(9), "t", PARTIAL).unwrap();
        world.settle();
        assert_eq!(world.got(bob, id(9)), [1, 3]);
        world.publish(alice, &events("t", 20..21), ACKED);
        world.settle();
        assert_eq!(world.got(bob, id(9)), [20]);
        // Published again, it is a row like all others, also for those that were told before.
        rows(&mut world, alice, &[("t", "b", 21, false)]);
        for (sub, wish) in [(4, TABLE), (5, PARTIAL)] {
            world.subscribe(bob, id(sub), "t", wish).unwrap();
            world.settle();
            assert_eq!(world.got(bob, id(sub)), [1, 3, 21]);
        }
    }
}

#[test]
fn what_is_found_damaged_of_a_table_while_it_is_read_is_left_out_for_who_asks_for_that() {
    for (cores, has_a) in [(1, true), (2, true), (1, false), (2, false)] {
        let mut world = damaged(cores, has_a);
        let bob = peer(cores - 1, 2);
        let expected: &[u64] = if has_a { &[1, 3] } else { &[3] };
        let durable = LoggedWish {
            durable: Some("table"),
            from: From::Default,
            ..PARTIAL
        };
        for (sub, wish) in [(1, PARTIAL), (2, durable)] {
            world.subscribe(bob, id(sub), "t", wish).unwrap();
            world.settle();
            assert_eq!(world.got(bob, id(sub)), expected);
        }
        // It was found by that, and others are told.
        is_told_of_damage(&mut world, bob, 3, TABLE, 1 + u64::from(has_a));
    }
}

/// A reader that is up to date comes back with `retain` and its place: it has all rows, and would not hear of those that were
/// removed meanwhile if it were given them again.
#[test]
fn who_names_a_position_has_the_table_up_to_there_whatever_became_of_the_row_there() {
    for (cores, is_found) in [(1, true), (2, true), (1, false), (2, false)] {
        let mut world = damaged(cores, true);
        let (alice, bob) = (peer(0, 1), peer(cores - 1, 2));
        if is_found {
            is_told_of_damage(&mut world, bob, 1, TABLE, 2);
        }
        let at = [(0, 2)];
        let from = From::Epoch {
            epoch: EPOCH,
            at: &at,
        };
        let mut subs = (2..).map(id);
        let mut behind: Vec<u64> = [3].into_iter().chain(10..20).collect();
        for is_again in [false, true] {
            if is_again {
                rows(&mut world, alice, &[("t", "b", 20, false)]);
                behind.push(20);
            }
            for wish in [TABLE, PARTIAL] {
                let (sub, wish) = (subs.next().unwrap(), LoggedWish { from, ..wish });
                world.subscribe(bob, sub, "t", wish).unwrap();
                world.settle();
                assert_eq!(world.got(bob, sub), behind);
            }
        }
    }
}

#[test]
fn a_table_from_a_time_on_has_the_rows_from_before_it() {
    for tail_bytes in [0, 1 << 20] {
        let mut settings = in_memory(1);
        settings.topics[0].level = Some(Level::Synced);
        settings.tail_bytes = tail_bytes;
        let mut world = World::new(1, 3, Limits::default(), Some(settings));
        let (alice, bob) = (peer(0, 1), peer(0, 2));
        let old = [("t", "a", 1, false), ("t", "b", 2, false), ("t", "c", 3, false)];
        rows(&mut world, alice, &old);
        world.pass(300_000_000);
        let time_ms = world.unix_ms() - 200_000;
        rows(&mut world, alice, &[("t", "d", 4, false), ("t", "a", 5, false)]);
        let wish = LoggedWish {
            retain: true,
            from: From::TimeMs(time_ms),
            ..WISH
        };
        world.subscribe(bob, id(1), "t", wish).unwrap();
        world.settle();
        // Where the table ends lies in front of the time: what stands between the two comes as it was, overwritten or not.
        let mut got = world.got(bob, id(1));
        got.retain(|nth| *nth != 1);
        assert_eq!(got, [2, 3, 4, 5], "tail of {tail_bytes}");
    }
}
