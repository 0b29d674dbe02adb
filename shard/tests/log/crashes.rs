//! Random lives: appends of all classes, reads, faults of the disk, ends of the process, power cuts, clean stops.

use fluxar_protocol::Id;
use fluxar_shard::log::class::{Class, Level};
use fluxar_shard::log::{LogRefusal, Settings};

use crate::fake_disk::Faults;
use crate::world::{World, event};

fn settings() -> Settings {
    Settings {
        partitions: 5,
        segment_bytes: 16 * 1024,
        unsynced_bytes_max: 64 * 1024,
        tail_bytes: 4 * 1024,
        sync_ms: 300,
        retain_ms: 0,
        ..Settings::default()
    }
}

fn append_something(world: &mut World) {
    let partition = world.chance.below(world.known.len()) as u16;
    let level = [Level::Memory, Level::Written, Level::Synced][world.chance.below(3)];
    let class = Class {
        level,
        once: world.chance.of_thousand(300),
        retain: false,
        expires: world.chance.of_thousand(300),
    };
    let count = [1, 1, 2, 30][world.chance.below(4)];
    let mut events = Vec::new();
    for _ in 0..count {
        let known: Vec<Id> = world
            .once
            .iter()
            .filter(|(_, (of, _))| *of == partition)
            .map(|(id, _)| *id)
            .collect();
        let again = class.once && !known.is_empty() && world.chance.of_thousand(200);
        let id = if again {
            known[world.chance.below(known.len())]
        } else {
            world.fresh_id()
        };
        let bytes = [0, 10, 200, 3000][world.chance.below(4)];
        let mut payload = vec![0x59, (bytes >> 8) as u8, bytes as u8];
        payload.resize(3 + bytes, 0xab);
        events.push(event(id, "a.b", None, &payload));
    }
    match world.append(partition, class, &events) {
        Ok(()) => {
            for event in events.iter().filter(|_| class.once) {
                let id = crate::world::run(std::slice::from_ref(event)).id(0);
                world.once.entry(id).or_insert((partition, None));
            }
        }
        Err(LogRefusal::Behind | LogRefusal::DiskFull | LogRefusal::DiskFailed(_)) => world.refused += 1,
        Err(other) => panic!("{other:?}"),
    }
}

fn live(world: &mut World, steps: usize) {
    for _ in 0..steps {
        match world.chance.below(10) {
            0..4 => append_something(world),
            4..8 => world.step_disk(),
            8 => world.read_somewhere(),
            _ => {
                let us = [100, 2_000, 20_000, 700_000][world.chance.below(4)];
                world.pass(us);
            }
        }
    }
}

fn many_lives(seed: u64) -> World {
    let mut world = World::new(seed, settings());
    for _ in 0..6 {
        world.disk.faults = match world.chance.below(3) {
            0 => Faults {
                write: 100,
                sync: 100,
                ..Faults::default()
            },
            _ => Faults::default(),
        };
        for _ in 0..4 {
            world.disk.is_full = world.chance.of_thousand(150);
            let steps = world.chance.below(150);
            live(&mut world, steps);
        }
        world.disk.is_full = false;
        match world.chance.below(4) {
            0 => {
                world.disk.faults = Faults::default();
                world.settle();
                stop_and_start(&mut world);
            }
            1 => {
                world.disk.kill();
                world.start_in_vain();
                world.start();
                let has_failed = std::mem::take(&mut world.disk.has_failed);
                world.check_recovered(has_failed);
            }
            _ => {
                let mut chance = crate::chance::Chance(world.chance.next());
                world.disk.lose_power(&mut chance);
                world.disk.has_failed = false;
                world.start_in_vain();
                world.start();
                world.check_recovered(true);
            }
        }
    }
    world
}

/// In good order: nothing is lost, offsets go on densely.
fn stop_and_start(world: &mut World) {
    let ends: Vec<u64> = (0..world.settings.partitions)
        .map(|partition| world.log.bounds(partition).committed)
        .collect();
    let held: Vec<_> = world.known.iter().map(|known| known.committed.clone()).collect();
    world.stop();
    world.start();
    for (partition, end) in ends.into_iter().enumerate() {
        assert_eq!(
            world.log.bounds(partition as u16).committed,
            end,
            "of partition {partition}"
        );
        let (read, damaged) = world.read_all(partition as u16);
        assert!(damaged.is_empty());
        assert!(
            read == held[partition],
            "of partition {partition}: {} for {}",
            read.len(),
            held[partition].len()
        );
    }
    world.check_recovered(false);
}

#[test]
fn what_was_acknowledged_survives() {
    let seeds = std::env::var("LOG_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let first = std::env::var("LOG_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut reads, mut refused) = (0, 0);
    for seed in first.unwrap_or(0)..first.unwrap_or(0) + seeds.unwrap_or(200) {
        let told = Told(seed);
        let world = many_lives(seed);
        (reads, refused) = (reads + world.reads, refused + world.refused);
        std::mem::forget(told);
    }
    assert!(
        reads > 0 && refused > 0,
        "{reads} reads, {refused} refused: nothing was tried"
    );
}

#[test]
fn a_disk_that_gives_nothing_now_and_then_loses_nothing() {
    let (mut reads, mut damaged) = (0, 0);
    for seed in 0..30 {
        let mut world = World::new(seed, settings());
        live(&mut world, 300);
        world.settle();
        world.disk.faults = Faults {
            open: 300,
            read: 100,
            ..Faults::default()
        };
        // What cannot be read is told as damaged as long as this start lasts, and nobody is left without a word.
        world.may_be_damaged = true;
        for _ in 0..300 {
            world.read_somewhere();
            while !world.disk.is_idle() {
                world.step_disk();
            }
        }
        live(&mut world, 100);
        world.disk.faults = Faults::default();
        world.settle();
        (reads, damaged) = (reads + world.reads, damaged + world.damaged);
        world.may_be_damaged = false;
        if seed % 2 == 0 {
            stop_and_start(&mut world);
        } else {
            let mut chance = crate::chance::Chance(seed);
            world.disk.lose_power(&mut chance);
            world.start();
            world.check_recovered(true);
        }
    }
    assert!(reads > 5_000 && damaged > 10, "{reads} {damaged}");
}

#[test]
#[should_panic(expected = "was acknowledged and is lost")]
fn the_auditor_sees_that_all_is_lost() {
    let mut world = World::new(1, settings());
    live(&mut world, 300);
    world.settle();
    world.disk.kill();
    world.disk.lose_segments();
    world.start();
    world.check_recovered(true);
}

/// Says which seed it was.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("LOG_SEED={} LOG_SEEDS=1 fails", self.0);
    }
}
