//! What is kept: the newest in memory, the rest on the disk, for as long as is configured; retained events and cursors longer
//! than the segments that held them; ids of qos 2; and what a full or damaged disk does.

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxar_protocol::meta::MetaWriter;
use fluxar_shard::log::class::Class;
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::{CursorState, LogRefusal, ReaderId, Reading, Settings};

use crate::chance::Chance;
use crate::fake_disk::Faults;
use crate::world::{SYNCED, World, bytes, cursor_name, event, event_with, fill, run, settings};

/// The retained rows of a partition with their events, as a reader gets them.
fn table(world: &mut World, partition: u16) -> BTreeMap<u64, Bytes> {
    let rows = world.log.retained(partition, "t.>", 0, u64::MAX, usize::MAX);
    let mut left: Vec<u64> = rows.iter().map(|row| row.offset).collect();
    let mut table = BTreeMap::new();
    while !left.is_empty() {
        let mut reading = world.log.read_rows(ReaderId(9), partition, &left);
        while matches!(reading, Reading::Later) {
            while let Some(op) = world.log.poll_disk() {
                world.disk.take(op);
            }
            if let Some(done) = world.disk.step(&mut world.chance) {
                world.log.handle_disk(done);
            }
            if let Some((_, read)) = world.log.poll_read() {
                reading = read;
            }
        }
        let Reading::Events { stored, until } = reading else {
            panic!("{reading:?}");
        };
        for run in &stored {
            for (at, offset) in run.offsets().enumerate() {
                table.insert(offset, Bytes::copy_from_slice(run.events.get(at)));
            }
        }
        left.retain(|offset| *offset > until);
    }
    table
}

#[test]
fn what_is_retained_outlives_its_segments() {
    for seed in 0..40 {
        let mut world = World::new(
            seed,
            Settings {
                retain_events: 20,
                ..settings()
            },
        );
        let retained = Class {
            retain: true,
            ..SYNCED
        };
        let mut current: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for round in 0..150 {
            let key = format!("key {}", world.chance.below(if round < 20 { 20 } else { 8 }));
            let id = world.fresh_id();
            let is_removal = world.chance.of_thousand(200);
            let payload = if is_removal { vec![0xf6] } else { bytes(300) };
            let event = event(id, "t.rows", Some(&key), &payload);
            current.insert(key, (!is_removal).then(|| event.clone()));
            world.append(1, retained, &[event]).expect("room");
            world.settle();
            world.pass(1_100_000);
            world.settle();
            if world.chance.of_thousand(30) {
                let mut chance = crate::chance::Chance(world.chance.next());
                world.disk.lose_power(&mut chance);
                world.start();
                world.check_recovered(true);
            }
            if round % 25 == 24 {
                let mut expected: Vec<Vec<u8>> = current.values().flatten().cloned().collect();
                let mut held: Vec<Vec<u8>> = table(&mut world, 1)
                    .values()
                    .map(|event| event.to_vec())
                    .collect();
                expected.sort();
                held.sort();
                assert!(
                    held == expected,
                    "seed {seed}, round {round}: {} rows for {}",
                    held.len(),
                    expected.len()
                );
            }
        }
        assert!(
            world.log.bounds(1).first > 50,
            "old segments are gone: {:?}",
            world.log.bounds(1)
        );
        let reading = world.log.read(ReaderId(5), 1, 3, 1000);
        assert!(matches!(reading, Reading::Gone { first } if first == world.log.bounds(1).first));
    }
}

#[test]
fn a_cursor_outlives_its_segment_and_the_process() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    let state = |acked| CursorState {
        acked,
        beyond: vec![acked + 2, acked + 7],
    };
    for number in 0..20 {
        world
            .log
            .set_cursor((number % 3) as u16, &cursor_name(number), state(number))
            .expect("room");
    }
    world.settle();
    world.pass(400_000);
    world.settle();
    for partition in [0, 1, 2] {
        fill(&mut world, partition, 60);
    }
    for _ in 0..40 {
        world.pass(1_100_000);
        world.settle();
    }
    assert!(
        world.log.counts().segments_removed > 3,
        "{:?}",
        world.log.counts()
    );
    world.log.put_back_cursor(0, &cursor_name(3), None);
    world.pass(2_000_000);
    world.settle();
    let mut chance = crate::chance::Chance(5);
    world.disk.lose_power(&mut chance);
    world.start();
    for number in 0..20 {
        let expected = (number != 3).then(|| state(number));
        let found = world.log.cursor((number % 3) as u16, &cursor_name(number));
        assert_eq!(found, expected.as_ref(), "of {number}");
    }
}

#[test]
fn a_cursor_that_moves_often_is_written_seldom() {
    let mut world = World::new(1, settings());
    world.settle();
    let before = world.log.counts().writes;
    for acked in 0..1_000 {
        let state = CursorState {
            acked,
            beyond: Vec::new(),
        };
        world.log.set_cursor(0, &cursor_name(1), state).expect("room");
        world.pass(1_000);
        while !world.disk.is_idle() {
            world.step_disk();
        }
    }
    let writes = world.log.counts().writes - before;
    assert!((2..=6).contains(&writes), "{writes} writes in a second");
}

#[test]
fn what_is_put_back_survives_power_loss_at_once() {
    for seed in 1..20 {
        for before in [Some(CursorState::up_to(500)), None] {
            let mut world = World::new(seed, settings());
            let name = cursor_name(1);
            if let Some(before) = before.clone() {
                world.log.set_cursor(0, &name, before).expect("room");
            }
            for _ in 0..3 {
                world.settle();
                world.pass(2_000_000);
            }
            world.settle();
            let moved = CursorState::up_to(900);
            world.log.set_cursor(0, &name, moved).expect("room");
            world.log.hurry_cursors();
            world.poll();
            while !world.disk.is_idle() {
                world.step_disk();
            }
            assert!(world.log.is_cursor_safe(0, &name, 900, false));
            // No time passes, and something else is written.
            world.log.put_back_cursor(0, &name, before.clone());
            let id = world.fresh_id();
            world
                .append(1, SYNCED, &[event(id, "a.b", None, &bytes(10))])
                .expect("room");
            world.poll();
            while !world.disk.is_idle() {
                world.step_disk();
            }
            world.disk.lose_power(&mut crate::chance::Chance(seed));
            world.start();
            assert_eq!(world.log.cursor(0, &name), before.as_ref());
        }
    }
}

#[test]
fn what_is_put_back_while_the_log_stops_is_written() {
    let mut world = World::new(1, settings());
    let name = cursor_name(1);
    world
        .log
        .set_cursor(0, &name, CursorState::up_to(900))
        .expect("room");
    world.log.stop();
    world.poll();
    world.log.put_back_cursor(0, &name, None);
    world.stop();
    world.start();
    assert_eq!(world.log.cursor(0, &name), None);
}

#[test]
fn unused_cursors_are_forgotten() {
    let mut world = World::new(
        1,
        Settings {
            cursor_ms: 100_000,
            cursors_max: 2,
            ..settings()
        },
    );
    let state = CursorState::default;
    world.log.set_cursor(0, &cursor_name(1), state()).expect("room");
    world.log.set_cursor(0, &cursor_name(2), state()).expect("room");
    assert_eq!(
        world.log.set_cursor(0, &cursor_name(3), state()),
        Err(LogRefusal::TooManyCursors)
    );
    for _ in 0..30 {
        world.pass(10_000_000);
        world.settle();
        world
            .log
            .set_cursor(0, &cursor_name(2), state())
            .expect("it is there");
    }
    assert_eq!(world.log.cursor(0, &cursor_name(1)), None);
    assert_eq!(world.log.cursor(0, &cursor_name(2)), Some(&state()));
    assert_eq!(world.log.set_cursor(0, &cursor_name(3), state()), Ok(()));
}

#[test]
fn ids_are_remembered_across_starts_until_they_are_old() {
    let mut world = World::new(
        1,
        Settings {
            once_ms: 60_000,
            ..settings()
        },
    );
    let once = Class { once: true, ..SYNCED };
    let id = world.fresh_id();
    let event = event(id, "a.b", None, &[1]);
    world
        .append(0, once, &[event.clone(), event.clone()])
        .expect("room");
    world.settle();
    assert_eq!(world.log.bounds(0).committed, 1);
    let mut chance = crate::chance::Chance(5);
    world.disk.lose_power(&mut chance);
    world.start();
    world.check_recovered(true);
    let end = world.log.bounds(0).committed;
    // Checked as it is polled: settled again, at the same offset.
    world.append(0, once, std::slice::from_ref(&event)).expect("room");
    assert_eq!(
        (world.log.bounds(0).committed, world.log.counts().duplicates),
        (end, 1)
    );
    world.pass(70_000_000);
    world.once.clear();
    world.append(0, once, std::slice::from_ref(&event)).expect("room");
    world.settle();
    assert_eq!(world.log.bounds(0).committed, end + 1);
}

#[test]
fn a_full_disk_stops_publishers_and_nothing_else() {
    let mut world = World::new(1, settings());
    fill(&mut world, 0, 10);
    world.disk.is_full = true;
    let id = world.fresh_id();
    world
        .append(0, SYNCED, &[event(id, "a.b", None, &bytes(900))])
        .expect("taken: nobody knew");
    for _ in 0..20 {
        world.pass(100_000);
        while !world.disk.is_idle() {
            world.step_disk();
        }
    }
    assert_eq!(world.log.bounds(0).committed, 10, "not acknowledged");
    let id = world.fresh_id();
    let refused = world.append(0, SYNCED, &[event(id, "a.b", None, &bytes(900))]);
    assert_eq!(refused, Err(LogRefusal::DiskFull));
    assert_eq!(world.read_all(0).0.len(), 10);
    world.disk.is_full = false;
    world.settle();
    assert_eq!(world.log.bounds(0).committed, 11, "and by itself it goes on");
    fill(&mut world, 0, 10);
    let mut chance = crate::chance::Chance(5);
    world.disk.lose_power(&mut chance);
    world.start();
    world.check_recovered(true);
}

#[test]
fn what_the_disk_does_not_take_is_bounded() {
    let mut world = World::new(1, settings());
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..200 {
        let id = world.fresh_id();
        match world.append(0, SYNCED, &[event(id, "a.b", None, &bytes(900))]) {
            Ok(()) => taken += 1,
            Err(LogRefusal::Behind) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(taken > 40 && refused > 100, "{taken} taken");
    world.settle();
    assert_eq!(world.log.bounds(0).committed, taken);
    assert!(world.log.counts().held_bytes <= 4 * 1024);
}

#[test]
fn a_turned_bit_is_told_and_never_served() {
    let (mut damaged, mut at_run_time) = (0, 0);
    for seed in 0..200 {
        let mut world = World::new(seed, settings());
        for partition in 0..3 {
            fill(&mut world, partition, 12);
        }
        world.may_be_damaged = true;
        let files: Vec<(SegmentId, usize)> = world
            .disk
            .lengths()
            .into_iter()
            .filter_map(|(name, bytes)| Some((SegmentId::from_name(&name)?, bytes)))
            .collect();
        let (file, bytes) = files[world.chance.below(files.len())];
        let at = world.chance.below(bytes) as u64;
        world.disk.flip(file, at);
        for _ in 0..100 {
            world.read_somewhere();
            while !world.disk.is_idle() {
                world.step_disk();
            }
        }
        at_run_time += world.damaged;
        // What is torn at the end of a log that nobody closed cannot be told from what was turned there.
        let is_closed = seed % 2 == 0;
        if is_closed {
            world.stop();
        } else {
            let mut chance = crate::chance::Chance(5);
            world.disk.lose_power(&mut chance);
        }
        world.start();
        for partition in 0..3 {
            let (held, holes) = world.read_all(partition);
            for (offset, event) in &world.known[usize::from(partition)].committed {
                match held.get(offset) {
                    Some(read) => assert_eq!(read, event),
                    None => assert!(
                        holes.iter().any(|(first, last)| (first..=last).contains(&offset))
                            || (!is_closed && held.range(offset..).next().is_none()),
                        "seed {seed}: {offset} of {partition} is missing without a word"
                    ),
                }
            }
            damaged += holes.len();
        }
    }
    assert!(damaged > 50 && at_run_time > 100, "{damaged} {at_run_time}");
}

#[test]
fn a_time_finds_its_place() {
    let mut world = World::new(1, settings());
    let mut times = Vec::new();
    for _ in 0..60 {
        world.pass(1_000_000);
        times.push(world.unix_ms);
        fill(&mut world, 0, 1);
    }
    for (at, time_ms) in times.iter().enumerate() {
        let offset = at as u64 + 1;
        let position = world.log.position_at(0, *time_ms);
        assert!(position < offset, "{position} is behind {offset}");
        assert!(offset - position < 50, "{position} is far before {offset}");
    }
    assert_eq!(world.log.position_at(0, world.unix_ms + 1_000_000), 60);
}

#[test]
fn a_time_in_what_is_damaged_finds_the_place_before_it() {
    let mut world = World::new(1, settings());
    let mut times = Vec::new();
    for _ in 0..60 {
        world.pass(60_000_000);
        times.push(world.unix_ms);
        fill(&mut world, 0, 1);
    }
    world.stop();
    world.disk.lose_segment(SegmentId { core: 0, number: 2 });
    world.start();
    let bounds = world.log.bounds(0);
    let (held, damaged) = world.read_all(0);
    let [(first, last)] = damaged[..] else {
        panic!("one segment is lost: {damaged:?}");
    };
    assert!(first > 1 && last < bounds.committed && held.len() > 40);
    for (at, time_ms) in times.iter().enumerate() {
        let offset = at as u64 + 1;
        let position = world.log.position_at(0, *time_ms);
        assert!(position < offset, "{position} is behind {offset}");
        assert_eq!(
            position < first,
            offset <= last + 1,
            "{offset}, from {position} on, with {first} to {last} missing"
        );
    }

    // As well where nothing that is held is so late: that segment was the last.
    world.stop();
    world.disk.lose_segment(SegmentId { core: 0, number: 5 });
    world.start();
    let (held, damaged) = world.read_all(0);
    let last_held = held.last_key_value().map_or(0, |(offset, _)| *offset);
    assert!(last_held < 60);
    let &(first, last) = damaged.last().expect("what was lost is known");
    assert_eq!((first, last), (last_held + 1, 60));
    let position = world.log.position_at(0, world.unix_ms);
    assert!(position < first, "{position}, with {first} to {last} missing");
}

#[test]
fn a_row_that_has_expired_goes_with_its_segment() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 20,
            ..settings()
        },
    );
    let class = Class {
        retain: true,
        expires: true,
        ..SYNCED
    };
    for nth in 0..40_u8 {
        // Some do not expire; and of some of those that do an older event is there that does not.
        for ttl_ms in [None, Some(5_000)].into_iter().skip(usize::from(nth % 4 > 0)) {
            let meta = MetaWriter::new().text("key", &format!("key {nth}"));
            let meta = match ttl_ms {
                Some(ttl_ms) => meta.uint("ttl_ms", ttl_ms),
                None => meta,
            };
            let event = event_with(world.fresh_id(), "t.rows", meta, &bytes(300));
            world.append(1, class, &[event]).expect("room");
            world.settle();
        }
    }
    let id = world.fresh_id();
    let kept = event(id, "t.rows", Some("kept"), &bytes(300));
    world.append(1, class, std::slice::from_ref(&kept)).expect("room");
    world.settle();
    assert_eq!(world.log.counts().rows, 41);
    world.pass(6_000_000);
    for _ in 0..60 {
        fill(&mut world, 1, 1);
        world.pass(11_000_000);
        world.settle();
    }
    for _ in 0..2 {
        assert_eq!(world.log.counts().rows, 1, "what has expired is not carried on");
        let held = table(&mut world, 1);
        assert_eq!(
            held.into_values().collect::<Vec<_>>(),
            [Bytes::from(kept.clone())]
        );
        world.stop();
        world.start();
        world.settle();
    }
}

#[test]
fn a_disk_that_fails_for_a_while_loses_nothing() {
    for seed in 0..50 {
        let mut world = World::new(seed, settings());
        world.disk.faults = Faults {
            write: 400,
            sync: 400,
            ..Faults::default()
        };
        let mut taken = 0;
        for _ in 0..60 {
            let id = world.fresh_id();
            taken += u64::from(
                world
                    .append(0, SYNCED, &[event(id, "a.b", None, &bytes(300))])
                    .is_ok(),
            );
            for _ in 0..3 {
                world.step_disk();
            }
            world.pass(50_000);
        }
        world.disk.faults = Faults::default();
        world.settle();
        assert_eq!(world.log.bounds(0).committed, taken);
        assert!(world.log.counts().failures > 0);
        let (held, _) = world.read_all(0);
        assert!(held == world.known[0].committed);
    }
}

#[test]
fn rows_that_wait_for_the_disk_count() {
    let rows_max = 3;
    let mut world = World::new(
        1,
        Settings {
            rows_max,
            ..settings()
        },
    );
    let retain = Class {
        retain: true,
        ..SYNCED
    };
    let publish = |world: &mut World, keys: &[&str], payload: &[u8]| {
        let rows: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| event(world.fresh_id(), "t.rows", Some(key), payload))
            .collect();
        world.append(1, retain, &rows)
    };
    // Nothing of all this is on the disk. What replaces a row that is to come is no other one.
    for (keys, expected) in [
        (&["one", "one"][..], Ok(())),
        (&["one"], Ok(())),
        (&["two", "three", "four"], Err(LogRefusal::TooManyRows)),
        (&["two", "three", "two"], Ok(())),
        (&["four"], Err(LogRefusal::TooManyRows)),
        (&["one", "three"], Ok(())),
    ] {
        assert_eq!(publish(&mut world, keys, &[1]), expected, "{keys:?}");
    }
    assert_eq!(world.log.bounds(1).committed, 0);
    world.settle();
    assert_eq!(world.log.counts().rows, rows_max);
    // A row that is removed is known as long as its mark is there: what follows the removal is no other one.
    assert_eq!(publish(&mut world, &["two"], &[0xf6]), Ok(()));
    assert_eq!(publish(&mut world, &["two"], &[1]), Ok(()));
    assert_eq!(publish(&mut world, &["four"], &[1]), Err(LogRefusal::TooManyRows));
    world.settle();
    assert_eq!(world.log.counts().rows, rows_max);
    assert_eq!(world.log.retained(1, "t.rows", 0, u64::MAX, 9).len(), rows_max);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut world = World::new(
        1,
        Settings {
            once_ids_max: 3,
            rows_max: 2,
            ..settings()
        },
    );
    let once = Class { once: true, ..SYNCED };
    for _ in 0..3 {
        let id = world.fresh_id();
        assert_eq!(world.append(0, once, &[event(id, "a.b", None, &[1])]), Ok(()));
    }
    let id = world.fresh_id();
    let refused = world.append(0, once, &[event(id, "a.b", None, &[1])]);
    assert_eq!(refused, Err(LogRefusal::TooManyIds));
    let retain = Class {
        retain: true,
        ..SYNCED
    };
    for (key, expected) in [
        ("one", Ok(())),
        ("two", Ok(())),
        ("three", Err(LogRefusal::TooManyRows)),
        ("two", Ok(())),
    ] {
        let id = world.fresh_id();
        let appended = world.append(1, retain, &[event(id, "t.rows", Some(key), &[1])]);
        assert_eq!(appended, expected, "{key}");
        world.settle();
    }
}

#[test]
fn offsets_go_on_though_retention_removed_everything() {
    for is_clean in [true, false] {
        let mut world = World::new(
            1,
            Settings {
                retain_ms: 10_000,
                ..settings()
            },
        );
        fill(&mut world, 0, 5);
        fill(&mut world, 1, 5);
        // Longer than it takes until there is nothing left, and then nothing more is written.
        for _ in 0..6 {
            world.pass(11_000_000);
            world.settle();
        }
        let writes = world.log.counts().writes;
        for _ in 0..20 {
            world.pass(11_000_000);
            world.settle();
        }
        let counts = world.log.counts();
        assert!(counts.segments <= 2 && counts.writes <= writes + 1, "{counts:?}");
        assert_eq!(world.log.bounds(0).first, 6);
        for round in 0..3 {
            if is_clean {
                world.stop();
            } else {
                let mut chance = Chance(round);
                world.disk.lose_power(&mut chance);
            }
            world.start();
            let bounds = world.log.bounds(0);
            assert!(
                bounds.committed >= 5 && bounds.first == bounds.committed + 1,
                "{bounds:?}"
            );
        }
        // The world's own account holds that none of these was given before.
        fill(&mut world, 0, 5);
    }
}

#[test]
fn a_crash_does_not_count_as_events() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 30,
            ..settings()
        },
    );
    fill(&mut world, 0, 50);
    for round in 0..3 {
        let mut chance = Chance(round);
        world.disk.lose_power(&mut chance);
        world.start();
        for _ in 0..4 {
            world.pass(11_000_000);
            world.settle();
        }
        let held = world.read_all(0).0;
        assert!(
            held.len() >= 30,
            "{} are held after {} crashes",
            held.len(),
            round + 1
        );
    }
    // New ones count.
    fill(&mut world, 0, 40);
    for _ in 0..10 {
        world.pass(11_000_000);
        world.settle();
    }
    assert!(world.read_all(0).0.len() < 60);
}

#[test]
fn what_nobody_waits_for_leaves_room_for_those_who_wait() {
    let mut world = World::new(1, settings());
    let mut taken = 0;
    let refusal = loop {
        let id = world.fresh_id();
        let events = run(&[event(id, "a.b", None, &bytes(900))]);
        match world.log.append(0, SYNCED, events, None) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, LogRefusal::Behind);
    assert!((40..50).contains(&taken), "{taken} taken");
    let id = world.fresh_id();
    let awaited = event(id, "a.b", None, &bytes(12_000));
    assert_eq!(world.append(0, SYNCED, &[awaited]), Ok(()));
}
