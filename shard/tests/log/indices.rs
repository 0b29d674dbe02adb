//! Where things are on the disk: what of that is in memory, what is read again when it is wanted, and what is kept of what was
//! read.

use fluxar_shard::log::class::{Class, Level};
use fluxar_shard::log::disk::SegmentId;
use fluxar_shard::log::{ReaderId, Reading, Settings, Stored};

use crate::world::{World, event};

const SYNCED: Class = Class {
    level: Level::Synced,
    once: false,
    retain: false,
    expires: false,
};
const TAIL_BYTES: usize = 2 * 1024;

fn settings() -> Settings {
    Settings {
        partitions: 3,
        segment_bytes: 8 * 1024,
        tail_bytes: TAIL_BYTES,
        retain_ms: 0,
        ..Settings::default()
    }
}

/// Events of three partitions in turn.
fn fill(world: &mut World, rounds: usize, bytes: usize) {
    let payload = [&[0x59, (bytes >> 8) as u8, bytes as u8][..], &vec![7; bytes]].concat();
    for _ in 0..rounds {
        for partition in 0..3 {
            let id = world.fresh_id();
            world
                .append(partition, SYNCED, &[event(id, "a.b", None, &payload)])
                .expect("room");
            world.settle();
        }
    }
}

fn check_all(world: &mut World, rounds: usize) {
    for partition in 0..3 {
        let (held, damaged) = world.read_all(partition);
        assert!(damaged.is_empty(), "{damaged:?}");
        assert_eq!(held.len(), rounds);
        assert!(held == world.known[usize::from(partition)].committed);
        let bytes = world.log.counts().index_bytes;
        assert!(bytes > 0 && bytes <= TAIL_BYTES, "{bytes} bytes of indices");
    }
}

#[test]
fn the_index_in_memory_is_bounded_and_read_again() {
    let mut world = World::new(1, settings());
    fill(&mut world, 200, 500);
    assert!(world.log.counts().segments > 40);
    check_all(&mut world, 200);
    world.stop();
    world.start();
    assert_eq!(world.log.counts().index_bytes, 0, "a start needs none");
    check_all(&mut world, 200);
    for _ in 0..300 {
        world.read_somewhere();
        world.settle();
    }
}

#[test]
fn a_damaged_footer_costs_time_and_nothing_else() {
    for is_recovered in [false, true] {
        let mut world = World::new(1, settings());
        fill(&mut world, 100, 500);
        if is_recovered {
            world.stop();
            world.start();
        }
        for number in [1, 2, 5] {
            let segment = SegmentId { core: 0, number };
            let lengths = world.disk.lengths();
            let bytes = lengths.iter().find(|(name, _)| *name == segment.name());
            let bytes = bytes.expect("it is there").1 as u64;
            // In the footer's body, before the trailer.
            world.disk.flip(segment, bytes - 40);
        }
        check_all(&mut world, 100);
        check_all(&mut world, 100);
    }
}

/// Reads from the disk behind a position.
fn read(world: &mut World, partition: u16, after: u64, bytes_max: usize) -> Vec<Stored> {
    let mut reading = world.log.read(ReaderId(1 << 40), partition, after, bytes_max);
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
    match reading {
        Reading::Events { stored, .. } => stored,
        reading => panic!("{reading:?}"),
    }
}

#[test]
fn a_little_of_what_was_read_does_not_keep_all_of_it() {
    let mut world = World::new(1, settings());
    fill(&mut world, 100, 500);
    let stored = read(&mut world, 0, 20, 1);
    let [run] = &stored[..] else {
        panic!("{stored:?}");
    };
    assert_eq!((run.first, run.events.len()), (21, 1));
    let bytes = run.events.bytes.clone();
    drop(stored);
    let kept = bytes.try_into_mut().expect("nobody else has it").capacity();
    assert!(kept < 1_000, "{kept} bytes are kept of one event");
}

#[test]
fn what_was_appended_since_a_time_is_not_behind_what_was_before() {
    let mut world = World::new(1, settings());
    // Three within the time of one batch, none of them on the disk before all are there.
    let mut appended = Vec::new();
    for _ in 0..3 {
        let id = world.fresh_id();
        let event = event(id, "a.b", None, &[1]);
        world
            .log
            .append(0, SYNCED, crate::world::run(&[event]), None)
            .expect("room");
        appended.push(world.unix_ms);
        world.now_us += 4_000;
        world.unix_ms += 4;
        world.log.handle_time(world.now_us, world.unix_ms);
    }
    world.settle();
    fill(&mut world, 60, 500);
    for (at, time_ms) in appended.into_iter().enumerate() {
        let offset = at as u64 + 1;
        let position = world.log.position_at(0, time_ms);
        assert!(position < offset, "{position} for {offset}");
        // Whoever leaves out what is older leaves out whole batches.
        let stored = read(&mut world, 0, 0, 1_000_000);
        let of_it = stored
            .iter()
            .find(|run| run.last() >= offset)
            .expect("it is there");
        assert!(of_it.time_ms >= time_ms, "{offset} is taken for older than it is");
    }
}
