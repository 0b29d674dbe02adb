//! Retention and reading where several things go wrong at once: a full disk, a bad sector, another number of cores, a stop
//! with a write that fails.

mod reading;
mod removing;
mod writing;

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

/// The first batch of an event of this partition is in this file, and about there.
const FIRST: SegmentId = SegmentId { core: 0, number: 1 };

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

/// How many files of this stream, up to this number, there are.
fn files_of(world: &World, core: u16, number_max: u64) -> usize {
    let files = world.disk.lengths().into_iter();
    let ids = files.filter_map(|(name, _)| SegmentId::from_name(&name));
    ids.filter(|id| id.core == core && id.number <= number_max)
        .count()
}

fn news(world: &mut World) -> Vec<LogNews> {
    std::iter::from_fn(|| world.log.poll_news()).collect()
}
