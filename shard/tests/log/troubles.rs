//! Retention and reading where several things go wrong at once: a full disk, a bad sector, another number of cores, a stop
//! with a write that fails.

use std::collections::BTreeMap;
use std::ops::Range;

use fluxar_shard::log::class::{Class, Level};
use fluxar_shard::log::disk::{DiskDone, DiskFault, DiskOp, SegmentId};
use fluxar_shard::log::files::Files;
use fluxar_shard::log::recovery::Recovery;
use fluxar_shard::log::{CursorState, Log, LogNews, LogRefusal, ReaderId, Reading, RecoveredLog, Settings};
use foldhash::fast::FixedState;

use crate::fake_disk::Faults;
use crate::world::{SYNCED, World, bytes, cursor_name, event, fill, run, settings};

const RETAINED: Class = Class {
    retain: true,
    ..SYNCED
};

fn put(world: &mut World, key: &str, size: usize) {
    let id = world.fresh_id();
    let event = event(id, "t.rows", Some(key), &bytes(size));
    world.append(1, RETAINED, &[event]).expect("room");
    world.settle();
}

/// Until the disk is idle.
fn work(world: &mut World) {
    while !world.disk.is_idle() {
        world.step_disk();
    }
}

/// Lets the disk do what is asked; what this reader was told.
fn reading_of(world: &mut World, reader: ReaderId, reading: Reading) -> Reading {
    if !matches!(reading, Reading::Later) {
        return reading;
    }
    loop {
        while let Some(op) = world.log.poll_disk() {
            world.disk.take(op);
        }
        while let Some((who, reading)) = world.log.poll_read() {
            if who == reader {
                return reading;
            }
        }
        assert!(!world.disk.is_idle(), "nobody answers");
        if let Some(done) = world.disk.step(&mut world.chance) {
            world.log.handle_disk(done);
        }
    }
}

#[test]
fn a_full_disk_is_freed_by_retention() {
    for has_rows in [false, true] {
        let mut world = World::new(
            1,
            Settings {
                retain_ms: 60_000,
                ..settings()
            },
        );
        if has_rows {
            put(&mut world, "k", 300);
        }
        fill(&mut world, 0, 60);
        // What is to be carried on needs the room that was made before.
        (world.disk.is_full, world.disk.is_out_of_room) = (!has_rows, has_rows);
        let mut refused = 0;
        for _ in 0..30 {
            let id = world.fresh_id();
            let event = event(id, "a.b", None, &bytes(500));
            refused += u64::from(world.append(0, SYNCED, &[event]) == Err(LogRefusal::DiskFull));
            work(&mut world);
        }
        assert!(refused > 0, "a full disk takes no events");
        for _ in 0..200 {
            world.pass(500_000);
            work(&mut world);
        }
        let counts = world.log.counts();
        assert!(counts.segments_removed > 2, "{counts:?}");
        (world.disk.is_full, world.disk.is_out_of_room) = (false, false);
        world.pass(1_000_000);
        world.settle();
        fill(&mut world, 0, 1);
        world.stop();
        world.start();
        let rows = world.log.retained(1, "t.>", 0, u64::MAX, 10);
        assert_eq!(rows.len(), usize::from(has_rows), "rows outlive their segments");
    }
}

#[test]
fn what_is_gone_is_not_held_in_memory_either() {
    let mut world = World::new(
        1,
        Settings {
            retain_bytes: 10_000,
            tail_bytes: 64 * 1024,
            ..settings()
        },
    );
    fill(&mut world, 0, 80);
    for _ in 0..30 {
        world.pass(1_100_000);
        world.settle();
    }
    assert!(world.log.counts().segments_removed > 0);
    let first = world.log.bounds(0).first;
    let reading = world.log.read(ReaderId(5), 0, first - 1, 1000);
    let reading = reading_of(&mut world, ReaderId(5), reading);
    assert!(
        matches!(&reading, Reading::Events { stored, .. } if stored[0].first == first),
        "{first}: {reading:?}"
    );
}

/// What a log on a disk of its own asks for is done.
fn drive(log: &mut Log, world: &mut World) {
    loop {
        while let Some(op) = log.poll_disk() {
            world.disk.take(op);
        }
        if world.disk.is_idle() {
            return;
        }
        if let Some(done) = world.disk.step(&mut world.chance) {
            log.handle_disk(done);
        }
    }
}

fn recover(world: &mut World, cores: u16) -> Vec<Log> {
    let settings = world.settings.clone();
    let mut recovery =
        Recovery::open(&mut world.disk, cores, &settings, [7; 16], world.unix_ms).expect("a log");
    let mut logs = Vec::new();
    while let Some(share) = recovery.step(|_| {}).expect("a good disk") {
        let mut log = Log::new(
            share.core,
            cores,
            Some(settings.clone()),
            &FixedState::with_seed(3),
        );
        log.handle_time(world.now_us, world.unix_ms);
        log.handle_recovered(RecoveredLog::new(share, 7));
        logs.push(log);
    }
    logs
}

/// Appends to a partition of this log, a segment's worth, and lets eleven seconds pass each time.
fn go_on(log: &mut Log, partition: u16, world: &mut World) {
    for _ in 0..60 {
        let id = world.fresh_id();
        let event = event(id, "a.b", None, &bytes(500));
        log.append(partition, SYNCED, run(&[event]), None).expect("room");
        world.now_us += 11_000_000;
        world.unix_ms += 11_000;
        log.handle_time(world.now_us, world.unix_ms);
        drive(log, world);
    }
}

/// How many files of this stream, up to this number, there are.
fn files_of(world: &World, core: u16, number_max: u64) -> usize {
    let files = world.disk.lengths().into_iter();
    let ids = files.filter_map(|(name, _)| SegmentId::from_name(&name));
    ids.filter(|id| id.core == core && id.number <= number_max)
        .count()
}

#[test]
fn segments_of_another_number_of_cores_go_when_all_have_given_them_up() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    let retained = world.fresh_id();
    let row = event(retained, "t.rows", Some("k"), &bytes(100));
    world.append(1, RETAINED, &[row]).expect("room");
    for _ in 0..20 {
        for partition in [0, 1, 2] {
            fill(&mut world, partition, 1);
        }
    }
    world.stop();
    let mut logs = recover(&mut world, 2);
    let before = files_of(&world, 0, u64::MAX);
    assert!(before > 3);
    // Core 0 needs them no more; what it wrote since comes and goes.
    for partition in [0, 2, 0, 2] {
        go_on(&mut logs[0], partition, &mut world);
    }
    let counts = logs[0].counts();
    assert!(counts.segments_removed > 5 && counts.segments < 9, "{counts:?}");
    let first = logs[0].bounds(0).first;
    assert!(first > 20);
    // Partition 1 is core 1's, which still needs most of them; without it, they stay.
    assert_eq!(files_of(&world, 0, before as u64), before);
    logs.clear();
    world.disk.kill();

    // A start finds all of them again, and serves nothing of what was told as gone.
    let before_first = first;
    let mut logs = recover(&mut world, 2);
    let committed = logs[0].bounds(0).committed;
    assert_eq!(logs[0].bounds(0).first, before_first);
    let (mut after, mut read) = (before_first - 1, 0);
    while after < committed {
        let mut reading = logs[0].read(ReaderId(1), 0, after, 100_000);
        if matches!(reading, Reading::Later) {
            drive(&mut logs[0], &mut world);
            reading = logs[0].poll_read().expect("a reading").1;
        }
        match reading {
            Reading::Events { stored, until } => {
                read += stored.iter().map(|run| run.events.len()).sum::<usize>();
                after = until;
            }
            reading => panic!("behind {after}: {reading:?}"),
        }
    }
    assert!(read > 10, "{read}");
    for (core, partition) in [(0, 0), (1, 1), (0, 2), (1, 1), (0, 0)] {
        go_on(&mut logs[core], partition, &mut world);
    }
    assert_eq!(files_of(&world, 0, before as u64), 0, "both have given them up");
    let (left, first) = (logs[1].counts(), logs[1].bounds(1).first);
    assert!(left.rows == 1 && first > 21, "{left:?} {first}");
    let rows = logs[1].retained(1, "t.rows", 0, u64::MAX, 9);
    let reading = logs[1].read_rows(ReaderId(2), 1, &[rows[0].offset]);
    assert!(matches!(reading, Reading::Later), "{reading:?}");
    drive(&mut logs[1], &mut world);
    let reading = logs[1].poll_read();
    let is_there = |reading: &Reading| matches!(reading, Reading::Events { stored, .. } if stored.len() == 1);
    assert!(
        reading.as_ref().is_some_and(|(_, reading)| is_there(reading)),
        "{reading:?}"
    );
}

#[test]
fn a_stop_with_a_write_that_fails_writes_it_again() {
    for seed in 0..40 {
        let mut world = World::new(seed, settings());
        // Beyond half of a segment: the next one is made.
        fill(&mut world, 0, 9);
        let id = world.fresh_id();
        let event = event(id, "a.b", None, &bytes(500));
        world.append(0, SYNCED, &[event]).expect("room");
        world.log.stop();
        world.poll();
        world.disk.faults = Faults {
            write: 1000,
            ..Faults::default()
        };
        world.step_disk();
        world.step_disk();
        world.disk.faults = Faults::default();
        for _ in 0..1000 {
            if world.disk.is_idle() {
                world.pass(10_000);
            }
            world.step_disk();
            world.poll();
        }
        assert!(world.log.is_stopped(), "seed {seed}: {:?}", world.log.counts());
        world.stop();
        world.start();
        let (held, _) = world.read_all(0);
        assert!(held == world.known[0].committed, "seed {seed}");
        assert_eq!(held.len(), 10);
    }
}

#[test]
fn a_row_is_read_though_the_one_before_it_moved_meanwhile() {
    let mut world = World::new(
        1,
        Settings {
            segment_bytes: 4 << 20,
            unsynced_bytes_max: 8 << 20,
            ..settings()
        },
    );
    put(&mut world, "k1", 30_000);
    put(&mut world, "k2", 60_000);
    for _ in 0..200 {
        let id = world.fresh_id();
        let event = event(id, "a.b", None, &bytes(20_000));
        world.append(0, SYNCED, &[event]).expect("room");
        world.settle();
    }
    let reader = ReaderId(9);
    assert!(matches!(world.log.read_rows(reader, 1, &[1, 2]), Reading::Later));
    let held_back =
        |world: &mut World| -> Vec<DiskOp> { std::iter::from_fn(|| world.log.poll_disk()).collect() };
    for op in held_back(&mut world) {
        world.disk.take(op);
    }
    // Others ask for as much as may be read at once; their reads are late.
    for at in 0..200 {
        let _ = world.log.read(ReaderId(100 + at), 0, 1, 300_000);
    }
    let mut late = held_back(&mut world);
    while !world.disk.is_idle() {
        if let Some(done) = world.disk.step(&mut world.chance) {
            world.log.handle_disk(done);
        }
    }
    late.extend(held_back(&mut world));
    let id = world.fresh_id();
    let newer = event(id, "t.rows", Some("k1"), &bytes(10));
    let memory = Class {
        level: Level::Memory,
        ..RETAINED
    };
    world.log.append(1, memory, run(&[newer]), None).expect("room");
    for op in late {
        world.disk.take(op);
    }
    let reading = reading_of(&mut world, reader, Reading::Later);
    assert!(matches!(reading, Reading::Events { .. }), "{reading:?}");
    assert_eq!(world.log.retained(1, "t.>", 0, u64::MAX, 10).len(), 2);
}

#[test]
fn many_large_cursors_are_written() {
    let mut world = World::new(1, settings());
    let state = CursorState {
        acked: 1,
        beyond: (1..=8192).map(|at| at * 200).collect(),
    };
    for number in 0..1024 {
        let name = cursor_name(number);
        world.log.set_cursor(0, &name, state.clone()).expect("room");
    }
    world.settle();
    world.pass(400_000);
    world.settle();
    world.stop();
    world.start();
    for number in [0, 500, 1023] {
        assert_eq!(world.log.cursor(0, &cursor_name(number)), Some(&state));
    }
}

#[test]
fn an_id_outlives_retention() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            once_ms: 60_000,
            ..settings()
        },
    );
    let once = Class { once: true, ..SYNCED };
    let id = world.fresh_id();
    let event = event(id, "a.b", None, &[1]);
    world.append(0, once, std::slice::from_ref(&event)).expect("room");
    world.settle();
    fill(&mut world, 0, 60);
    world.pass(12_000_000);
    world.settle();
    world.stop();
    world.start();
    let end = world.log.bounds(0).committed;
    world.append(0, once, &[event]).expect("room");
    world.settle();
    assert_eq!(world.log.bounds(0).committed, end, "stored twice within once_ms");
    for _ in 0..6 {
        world.pass(12_000_000);
        world.settle();
    }
    assert!(world.log.counts().segments_removed > 0, "then it may go");
}

/// The first batch of an event of this partition is in this file, and about there.
const FIRST: SegmentId = SegmentId { core: 0, number: 1 };

#[test]
fn a_bad_sector_costs_what_is_in_it() {
    let sector: Range<u64> = 4096..4608;
    let mut world = World::new(1, settings());
    fill(&mut world, 0, 40);
    world.disk.bad = Some((FIRST, sector));
    let (mut after, mut read, mut lost) = (0, 0, 0);
    let committed = world.log.bounds(0).committed;
    while after < committed {
        let reading = world.log.read(ReaderId(1), 0, after, 2_000);
        match reading_of(&mut world, ReaderId(1), reading) {
            Reading::Events { stored, until } => {
                read += stored.iter().map(|run| run.events.len()).sum::<usize>();
                after = until;
            }
            Reading::Damaged { first, last } => {
                lost += last + 1 - first;
                after = last;
            }
            reading => panic!("behind {after}: {reading:?}"),
        }
    }
    assert_eq!(read as u64 + lost, committed);
    assert!((1..=9).contains(&lost), "{lost} events are not in a page");
}

#[test]
fn a_bad_sector_does_not_stop_retention() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    put(&mut world, "k", 300);
    fill(&mut world, 0, 20);
    world.disk.bad = Some((FIRST, 0..4096));
    fill(&mut world, 1, 60);
    fill(&mut world, 0, 30);
    for _ in 0..10 {
        world.pass(12_000_000);
        work(&mut world);
    }
    let counts = world.log.counts();
    assert!(counts.segments_removed > 3, "{counts:?}");
    assert_eq!(
        world.log.retained(1, "t.>", 0, u64::MAX, 10),
        [],
        "the row is lost"
    );
    assert_eq!(world.log.table_damage(1, "t.>"), Some((1, 1)), "and told");
}

#[test]
fn what_a_disk_does_not_give_now_is_there_later() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    world.may_be_damaged = true;
    put(&mut world, "k", 300);
    fill(&mut world, 1, 9);
    fill(&mut world, 0, 8);
    world.disk.bad = Some((FIRST, 0..4096));
    let reader = ReaderId(7);
    for is_back in [false, true] {
        if is_back {
            world.disk.bad = None;
        }
        let reading = world.log.read(reader, 1, 0, 1000);
        let events = reading_of(&mut world, reader, reading);
        let reading = world.log.read_rows(reader, 1, &[1]);
        let rows = reading_of(&mut world, reader, reading);
        for reading in [events, rows] {
            match reading {
                Reading::Damaged { first: 1, .. } => assert!(!is_back),
                Reading::Events { stored, .. } => assert!(is_back && !stored.is_empty()),
                other => panic!("{other:?}"),
            }
        }
    }
    // A row that has to be carried on while the disk gives nothing is carried on later.
    world.disk.bad = Some((FIRST, 0..4096));
    fill(&mut world, 1, 30);
    fill(&mut world, 0, 30);
    world.pass(12_000_000);
    work(&mut world);
    world.disk.bad = None;
    for _ in 0..10 {
        world.pass(12_000_000);
        work(&mut world);
    }
    let counts = world.log.counts();
    assert!(counts.segments_removed > 0 && counts.rows == 1, "{counts:?}");
    let reading = world.log.read_rows(reader, 1, &[1]);
    let reading = reading_of(&mut world, reader, reading);
    assert!(matches!(reading, Reading::Events { stored, .. } if stored.len() == 1));
}

#[test]
fn rows_beyond_the_bound_of_bytes_are_not_written_again_and_again() {
    let mut world = World::new(
        1,
        Settings {
            retain_bytes: 20 * 1024,
            ..settings()
        },
    );
    for key in 0..100 {
        put(&mut world, &format!("key {key}"), 500);
    }
    fill(&mut world, 0, 200);
    for _ in 0..40 {
        world.pass(11_000_000);
        work(&mut world);
    }
    let before = world.log.counts();
    assert_eq!(before.rows, 100);
    assert!(world.log.bounds(0).first > 100, "events went: {before:?}");
    assert!(world.log.bounds(0).first < 195, "not all of them: {before:?}");
    for _ in 0..20 {
        world.pass(11_000_000);
        work(&mut world);
    }
    let after = world.log.counts();
    assert_eq!(
        (after.writes, after.segments_removed),
        (before.writes, before.segments_removed)
    );
}

#[test]
fn a_quiet_segment_goes_when_its_time_is_over() {
    let mut world = World::new(
        1,
        Settings {
            retain_ms: 60_000,
            ..settings()
        },
    );
    fill(&mut world, 0, 2);
    for _ in 0..12 {
        world.pass(11_000_000);
        world.settle();
    }
    assert_eq!(world.log.bounds(0).first, 3, "{:?}", world.log.counts());
}

#[test]
fn a_removed_row_stays_removed_whatever_goes_first() {
    for seed in 0..30 {
        let mut world = World::new(
            seed,
            Settings {
                retain_events: 20,
                ..settings()
            },
        );
        // Rows are set and removed again and again, over starts, while segments go.
        let mut living = BTreeMap::new();
        for round in 0..200 {
            let key = format!("key {}", world.chance.below(if round < 30 { 30 } else { 10 }));
            let is_removal = world.chance.of_thousand(400);
            let payload = if is_removal { vec![0xf6] } else { bytes(200) };
            let id = world.fresh_id();
            let event = event(id, "t.rows", Some(&key), &payload);
            world.append(1, RETAINED, &[event]).expect("room");
            living.insert(key, !is_removal);
            world.settle();
            world.pass(1_100_000);
            world.settle();
            if world.chance.of_thousand(100) {
                world.stop();
                world.start();
            }
            let rows = world.log.retained(1, "t.>", 0, u64::MAX, usize::MAX);
            let expected = living.values().filter(|lives| **lives).count();
            assert_eq!(rows.len(), expected, "seed {seed}, round {round}");
        }
    }
}

#[test]
fn what_was_written_is_kept_until_it_is_written_again() {
    let mut world = World::new(1, settings());
    let written = Class {
        level: Level::Written,
        ..SYNCED
    };
    let id = world.fresh_id();
    world
        .append(0, written, &[event(id, "a.b", None, &bytes(500))])
        .expect("room");
    // Taken by the system, and acknowledged; then the disk is full, and refuses the next write.
    while world.known[0].written.is_empty() {
        world.step_disk();
        world.pass(20_000);
    }
    world.disk.is_full = true;
    let id = world.fresh_id();
    world
        .append(0, written, &[event(id, "a.b", None, &bytes(500))])
        .expect("room");
    for _ in 0..60 {
        world.pass(500_000);
        work(&mut world);
    }
    assert!(world.log.counts().failures > 0);
    world.disk.kill();
    world.disk.is_full = false;
    world.start();
    let held = world.read_all(0).0;
    assert!(
        held.contains_key(&1),
        "the process has ended, and the power has not: {held:?}"
    );
}

#[test]
fn a_segment_that_cannot_be_read_is_not_thrown_away_at_once() {
    let mut world = World::new(1, settings());
    fill(&mut world, 0, 1);
    let first = SegmentId { core: 0, number: 1 };
    world.stop();
    // The end of a log that was stopped in good order is not torn: what is not right there is damaged.
    world.disk.flip(first, 8);
    world.disk.flip(first, 64 + 8);
    let lengths: BTreeMap<String, usize> = world.disk.lengths().into_iter().collect();
    for at in (128..lengths[&first.name()] as u64).step_by(8) {
        world.disk.flip(first, at);
    }
    world.start();
    for _ in 0..20 {
        world.pass(11_000_000);
        world.settle();
    }
    assert_eq!(files_of(&world, 0, 1), 1, "it may be read another day");
}

#[test]
fn what_could_not_be_made_is_not_removed() {
    let mut world = World::new(1, settings());
    let mut created = 0;
    let id = world.fresh_id();
    let events = run(&[event(id, "a.b", None, &bytes(10))]);
    world.log.append(0, SYNCED, events, None).expect("room");
    while let Some(op) = world.log.poll_disk() {
        assert!(!matches!(op, DiskOp::Remove { .. }), "{op:?}");
        if let DiskOp::Create { segment, .. } = op {
            created += 1;
            let result = Err(DiskFault::Full);
            world.log.handle_disk(DiskDone::Opened { segment, result });
        }
    }
    assert_eq!(created, 1, "it is tried again later");
}

#[test]
fn a_segment_that_was_given_up_is_not_damaged_behind_a_stop_in_good_order() {
    let written = Class {
        level: Level::Written,
        ..SYNCED
    };
    let state = CursorState {
        acked: 1,
        beyond: Vec::new(),
    };
    let mut with_gaps = 0;
    for seed in 0..40 {
        let mut world = World::new(seed, settings());
        fill(&mut world, 0, 3);
        world.disk.faults.sync = 1000;
        world
            .log
            .set_cursor(0, &cursor_name(1), state.clone())
            .expect("room");
        // A write each, and one sync for all: after it nobody knows which of them are there.
        for _ in 0..4 {
            let id = world.fresh_id();
            let event = event(id, "a.b", None, &bytes(500));
            world.append(0, written, &[event]).expect("room");
            work(&mut world);
        }
        world.pass(400_000);
        work(&mut world);
        assert!(world.disk.has_failed);
        world.disk.faults = Faults::default();
        world.pass(2_000_000);
        world.settle();
        let disk = &mut world.disk;
        let bytes = disk.length(&FIRST.name()).expect("it is there");
        let mut file = vec![0; bytes as usize];
        disk.read(&FIRST.name(), 0, &mut file).expect("it is there");
        let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        with_gaps += usize::from(file[..end].windows(256).any(is_zero));
        world.stop();
        world.start();
        for partition in 0..3 {
            assert!(!world.log.may_have_lost_cursors(partition), "seed {seed}");
            assert_eq!(world.log.table_damage(partition, ">"), None, "seed {seed}");
        }
        assert_eq!(world.log.cursor(0, &cursor_name(1)), Some(&state), "seed {seed}");
        let (held, damaged) = world.read_all(0);
        assert_eq!(damaged, [], "seed {seed}");
        assert!(held == world.known[0].committed && held.len() == 7, "seed {seed}");
    }
    assert!(with_gaps > 0, "it was about these");
}

#[test]
fn while_the_disk_fails_nothing_goes_that_is_not_noted() {
    let mut world = World::new(
        1,
        Settings {
            retain_ms: 60_000,
            ..settings()
        },
    );
    fill(&mut world, 0, 30);
    let is_there = |world: &World| {
        let mut files = world.disk.lengths().into_iter();
        files.any(|(name, _)| name == FIRST.name())
    };
    let live = |world: &mut World, seconds: usize| {
        for _ in 0..seconds {
            world.pass(1_000_000);
            work(world);
        }
    };
    world.disk.faults.write = 1000;
    let id = world.fresh_id();
    world
        .append(0, SYNCED, &[event(id, "a.b", None, &bytes(500))])
        .expect("taken: nobody knew");
    live(&mut world, 100);
    assert!(
        is_there(&world),
        "were the power cut now, what it held would be taken for damaged where other cores have something older"
    );
    world.disk.faults = Faults::default();
    live(&mut world, 30);
    assert!(!is_there(&world), "it goes once that is written");
    let mut chance = crate::chance::Chance(5);
    world.disk.lose_power(&mut chance);
    world.start();
    world.check_recovered(true);
}

fn news(world: &mut World) -> Vec<LogNews> {
    std::iter::from_fn(|| world.log.poll_news()).collect()
}

#[test]
fn a_disk_that_refuses_is_told_once_and_so_is_its_end() {
    for fails in [false, true] {
        let mut world = World::new(1, settings());
        fill(&mut world, 0, 3);
        assert_eq!(news(&mut world), []);
        world.disk.is_full = !fails;
        world.disk.faults.sync = if fails { 1000 } else { 0 };
        for _ in 0..30 {
            let id = world.fresh_id();
            let event = event(id, "a.b", None, &bytes(500));
            let _ = world.append(0, SYNCED, &[event]);
            work(&mut world);
            world.pass(300_000);
        }
        let told = news(&mut world);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0] == LogNews::Refuses(DiskFault::Full), !fails, "{told:?}");
        world.disk.is_full = false;
        world.disk.faults = Faults::default();
        world.pass(1_000_000);
        world.settle();
        assert_eq!(news(&mut world), [LogNews::TakesAgain]);
    }
}

#[test]
fn damage_that_a_start_found_ends_tables_until_retention_has_passed_it() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    world.may_be_damaged = true;
    put(&mut world, "k", 2_000);
    fill(&mut world, 1, 5);
    world.disk.kill();
    world.disk.flip(FIRST, 1_500);
    world.start();
    assert_eq!(world.log.table_damage(1, "t.>"), Some((1, 1)));
    put(&mut world, "k", 100);
    assert_eq!(
        world.log.table_damage(1, "t.>"),
        Some((1, 1)),
        "nobody knows which row that was"
    );
    fill(&mut world, 1, 40);
    for _ in 0..10 {
        world.pass(12_000_000);
        work(&mut world);
    }
    assert!(world.log.bounds(1).first > 10, "{:?}", world.log.bounds(1));
    assert_eq!(world.log.table_damage(1, "t.>"), None);
    assert_eq!(world.log.retained(1, "t.>", 0, u64::MAX, 10).len(), 1);
}

#[test]
fn a_damaged_row_is_told_until_its_key_is_published_again() {
    let mut world = World::new(
        1,
        Settings {
            retain_events: 10,
            ..settings()
        },
    );
    world.may_be_damaged = true;
    put(&mut world, "k", 2_000);
    put(&mut world, "l", 100);
    fill(&mut world, 0, 30);
    world.disk.flip(FIRST, 1_500);
    assert_eq!(world.log.table_damage(1, "t.>"), None, "nobody has looked yet");
    let reader = ReaderId(7);
    for _ in 0..2 {
        let reading = world.log.read_rows(reader, 1, &[1, 2]);
        let reading = reading_of(&mut world, reader, reading);
        assert!(
            matches!(reading, Reading::Damaged { first: 1, last: 1 }),
            "{reading:?}"
        );
    }
    let is_told = |world: &mut World| {
        assert_eq!(world.log.table_damage(1, "t.>"), Some((1, 1)));
        assert_eq!(world.log.table_damage(1, "t.rows"), Some((1, 1)));
        assert_eq!(world.log.table_damage(1, "other.>"), None);
        assert_eq!(world.log.retained(1, "t.>", 0, u64::MAX, 10).len(), 1);
    };
    is_told(&mut world);
    let row = LogNews::RowsDamaged {
        partition: 1,
        first: 1,
        last: 1,
        count: 1,
        topic: "t.rows".into(),
    };
    assert_eq!(news(&mut world), [row]);
    // Also when retention has carried on the others.
    fill(&mut world, 1, 30);
    for _ in 0..10 {
        world.pass(12_000_000);
        work(&mut world);
    }
    assert!(world.log.counts().segments_removed > 0 && world.log.bounds(1).first > 2);
    is_told(&mut world);
    put(&mut world, "k", 100);
    assert_eq!(world.log.table_damage(1, "t.>"), None);
    assert_eq!(world.log.retained(1, "t.>", 0, u64::MAX, 10).len(), 2);
}
