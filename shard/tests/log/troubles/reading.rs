//! Rows that move while they are read, bad sectors, and damage.

use super::*;

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
