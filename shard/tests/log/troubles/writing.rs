//! Writes that fail, segments that are given up, and what is told of it.

use super::*;

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
fn a_stop_whose_footer_the_disk_refused_is_no_loss() {
    for seed in 0..20 {
        let mut world = World::new(seed, settings());
        fill(&mut world, 0, 10);
        // All that was taken is safe. Only that the segment is whole cannot be written any more.
        world.disk.is_full = true;
        world.stop();
        assert!(!world.log.is_sealed());
        world.disk.is_full = false;
        world.start();
        let (held, damaged) = world.read_all(0);
        assert_eq!((held.len(), damaged), (10, Vec::new()), "seed {seed}");
        // The next one can.
        fill(&mut world, 0, 1);
        world.stop();
        assert!(world.log.is_sealed());
        world.start();
        assert_eq!(world.read_all(0).1, [], "seed {seed}");
    }
}
