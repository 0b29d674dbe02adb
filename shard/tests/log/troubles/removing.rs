//! What retention removes, and what it must not, while the disk is full or fails, and whatever the number of cores was.

use super::*;

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
