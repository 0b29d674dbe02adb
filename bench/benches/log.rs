//! A core's log on a disk in memory: appending and committing, writing, reading back, recovering.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::messages::{Message, small_event};
use fluxar_protocol::{Envelope, Form, Id, Kind};
use fluxar_shard::log::class::{Class, Level};
use fluxar_shard::log::disk::{DiskDone, DiskOp, SegmentId};
use fluxar_shard::log::files::MemoryFiles;
use fluxar_shard::log::recovery::{Recovered, Recovery};
use fluxar_shard::log::{Events, Log, ReaderId, Reading, RecoveredLog, Settings};
use foldhash::fast::FixedState;

const RUN: usize = 100;
const NOW_MS: u64 = 1_700_000_000_000;

/// Does everything at once, in memory.
#[derive(Default)]
struct MemoryDisk(HashMap<SegmentId, Vec<u8>>);

impl MemoryDisk {
    fn work(&mut self, log: &mut Log) {
        while let Some(op) = log.poll_disk() {
            let done = match op {
                DiskOp::Create { segment, bytes } => {
                    self.0.insert(segment, vec![0; bytes as usize]);
                    DiskDone::Opened {
                        segment,
                        result: Ok(()),
                    }
                }
                DiskOp::Open { segment } => DiskDone::Opened {
                    segment,
                    result: Ok(()),
                },
                DiskOp::Write {
                    segment,
                    mut at,
                    slices,
                } => {
                    let file = self.0.get_mut(&segment).expect("an open file");
                    for slice in slices {
                        let end = at as usize + slice.len();
                        if file.len() < end {
                            file.resize(end, 0);
                        }
                        file[at as usize..end].copy_from_slice(&slice);
                        at = end as u64;
                    }
                    DiskDone::Wrote {
                        segment,
                        result: Ok(()),
                    }
                }
                DiskOp::Sync { segment } => DiskDone::Synced {
                    segment,
                    result: Ok(()),
                },
                DiskOp::Read {
                    ticket,
                    segment,
                    at,
                    bytes,
                } => {
                    let file = &self.0[&segment][at as usize..];
                    let read = Bytes::copy_from_slice(&file[..file.len().min(bytes as usize)]);
                    DiskDone::Read {
                        ticket,
                        result: Ok(read),
                    }
                }
                DiskOp::Remove { segment } => {
                    self.0.remove(&segment);
                    continue;
                }
                DiskOp::Truncate { segment, bytes } => {
                    if let Some(file) = self.0.get_mut(&segment) {
                        file.truncate(bytes as usize);
                    }
                    continue;
                }
                DiskOp::Close { .. } => continue,
            };
            log.handle_disk(done);
        }
    }
}

/// A run of events of 64 bytes.
fn run(number: u64) -> Events {
    let event = Message {
        payload: vec![0x58, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        ..small_event()
    }
    .encoded(Form::Compact);
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for at in 0..RUN as u64 {
        let start = bytes.len();
        bytes.extend_from_slice(&event);
        bytes[start + 3..start + 11].copy_from_slice(&(number * RUN as u64 + at).to_le_bytes());
        ends.push(bytes.len() as u32);
    }
    Events {
        bytes: bytes.into(),
        ends: ends.into(),
    }
}

fn log(settings: Settings) -> (Log, MemoryDisk) {
    let mut log = Log::new(0, 1, Some(Arc::new(settings)), &FixedState::with_seed(1));
    log.handle_time(1_000_000, 1_700_000_000_000);
    log.handle_empty(1);
    let mut disk = MemoryDisk::default();
    disk.work(&mut log);
    (log, disk)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(8 * RUN as u64));
    let events = run(1);
    println!("{} bytes an event", events.get(0).len());
    for (name, level) in [("memory", Level::Memory), ("synced", Level::Synced)] {
        let (mut log, mut disk) = log(Settings {
            segment_bytes: 16 * 1024 * 1024,
            retain_bytes: 32 * 1024 * 1024,
            ..Settings::default()
        });
        let class = Class {
            level,
            ..Class::default()
        };
        let mut now_us = 1_000_000;
        group.bench_function(format!("append, write and commit, {name}"), |bench| {
            bench.iter(|| {
                now_us += 10;
                log.handle_time(now_us, 1_700_000_000_000);
                for partition in 0..8 {
                    log.append(partition, class, events.clone(), None).expect("room");
                }
                disk.work(&mut log);
                while let Some(committed) = log.poll_committed() {
                    black_box(committed);
                }
            });
        });
        println!("{:?}", log.counts());
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    let (mut log, mut disk) = log(Settings {
        tail_bytes: 1024 * 1024,
        ..Settings::default()
    });
    let class = Class::default();
    for number in 0..5_000 {
        log.append((number % 8) as u16, class, run(number), None)
            .expect("room");
        if number % 16 == 15 {
            disk.work(&mut log);
        }
    }
    disk.work(&mut log);
    while log.poll_committed().is_some() {}
    let end = log.bounds(0).committed;
    group.throughput(Throughput::Elements(end));
    group.bench_function("read a partition of eight from the disk", |bench| {
        bench.iter(|| {
            let mut after = 0;
            while after < end {
                let mut reading = log.read(ReaderId(1), 0, after, 60 * 1024);
                while matches!(reading, Reading::Later) {
                    disk.work(&mut log);
                    if let Some((_, read)) = log.poll_read() {
                        reading = read;
                    }
                }
                let Reading::Events { stored, until } = reading else {
                    panic!("{reading:?}");
                };
                black_box(stored);
                after = until;
            }
        });
    });
}

/// A directory as a start left it: so many topics, each with one event, in sealed segments, or killed before any was sealed.
fn directory(topics: u64, is_sealed: bool, class: Class) -> MemoryFiles {
    let settings = Settings {
        segment_bytes: if is_sealed { 16 * 1024 * 1024 } else { 1 << 30 },
        ..Settings::default()
    };
    let mut files = MemoryFiles::default();
    let mut recovery = Recovery::open(&mut files, 1, &settings, [7; 16], NOW_MS).expect("memory");
    let share = recovery.step(|_| {}).expect("memory").expect("a share");
    drop(recovery);
    let mut log = Log::new(0, 1, Some(Arc::new(settings)), &FixedState::with_seed(1));
    log.handle_time(1_000_000, NOW_MS);
    log.handle_recovered(RecoveredLog::new(share, 7));
    let mut disk = MemoryDisk::default();
    disk.work(&mut log);
    for first in (0..topics).step_by(RUN) {
        let partition = (first / RUN as u64 % 64) as u16;
        log.append(partition, class, run_of_topics(first), None)
            .expect("room");
        if first / RUN as u64 % 16 == 15 {
            disk.work(&mut log);
        }
        while log.poll_committed().is_some() {}
    }
    disk.work(&mut log);
    if is_sealed {
        log.stop();
        disk.work(&mut log);
        assert!(log.is_stopped());
    }
    files
        .0
        .extend(disk.0.into_iter().map(|(id, bytes)| (id.name(), bytes)));
    files
}

/// A run of events of 128 bytes, each of a topic of its own.
fn run_of_topics(first: u64) -> Events {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for number in first..first + RUN as u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let event = Envelope {
            kind: Kind::Event,
            id: Id(id),
            reference: None,
            target: Some(&format!("devices.{number}.temperature")),
            meta: None,
            payload: &[&[0x58, 70][..], &[7; 70]].concat(),
            error: None,
        };
        event.encode(Form::Compact, &mut bytes);
        ends.push(bytes.len() as u32);
    }
    Events {
        bytes: bytes.into(),
        ends: ends.into(),
    }
}

/// What the first core is told of a directory.
fn recovered(files: &mut MemoryFiles) -> Recovered {
    let mut recovery = Recovery::open(files, 1, &Settings::default(), [7; 16], NOW_MS).expect("memory");
    recovery.step(|_| {}).expect("memory").expect("a share")
}

/// Starts on a million topics: by footers, and from end to end; and puts together what was found.
fn recover(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recover a million topics");
    group.sample_size(10);
    let (plain, retained, once) = (
        Class::default(),
        Class {
            retain: true,
            ..Class::default()
        },
        Class {
            once: true,
            ..Class::default()
        },
    );
    for (name, is_sealed, class) in [
        ("sealed", true, plain),
        ("killed", false, plain),
        ("sealed, all retained", true, retained),
        ("sealed, all of qos 2", true, once),
        ("killed, all of qos 2", false, once),
    ] {
        let files = directory(1_000_000, is_sealed, class);
        let bytes: usize = files.0.values().map(Vec::len).sum();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |bench| {
            bench.iter_batched(
                || files.clone(),
                |mut files| (black_box(recovered(&mut files)), files),
                BatchSize::PerIteration,
            );
        });
        let mut files = files;
        let share = recovered(&mut files);
        group.bench_function(format!("{name}: put together"), |bench| {
            bench.iter_batched(
                || share.clone(),
                |share| RecoveredLog::new(share, 7),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = append, read, recover
}
criterion_main!(benches);
