//! Another number of cores at each start: partitions go to other owners, and what they hold is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Id;
use fluxar_shard::log::class::Class;
use fluxar_shard::log::recovery::{Meta, Recovery};
use fluxar_shard::log::{Log, ReaderId, Reading, RecoveredLog, Settings, owner_of};
use foldhash::fast::FixedState;

use crate::chance::Chance;
use crate::fake_disk::FakeDisk;
use crate::world::{event, run};

const PARTITIONS: u16 = 7;

/// Lets the disk do what this log asks for, and waits for what was read.
fn work(log: &mut Log, disk: &mut FakeDisk, chance: &mut Chance) -> Option<Reading> {
    loop {
        while let Some(op) = log.poll_disk() {
            disk.take(op);
        }
        if disk.is_idle() {
            return log.poll_read().map(|(_, reading)| reading);
        }
        if let Some(done) = disk.step(chance) {
            log.handle_disk(done);
        }
    }
}

#[test]
fn partitions_are_found_by_their_new_owners() {
    let settings = Arc::new(Settings {
        partitions: PARTITIONS,
        segment_bytes: 4 * 1024,
        tail_bytes: 1024,
        retain_ms: 0,
        ..Settings::default()
    });
    let mut disk = FakeDisk::default();
    let mut chance = Chance(1);
    let mut known: Vec<BTreeMap<u64, Bytes>> = vec![BTreeMap::new(); PARTITIONS.into()];
    let mut id = 0_u64;
    for (start, cores) in [2_u16, 3, 1, 4, 4, 2].into_iter().enumerate() {
        let unix_ms = 1_700_000_000_000 + start as u64;
        let mut recovery =
            Recovery::open(&mut disk, cores, &settings, [7; 16], unix_ms).expect("a log to recover");
        let mut logs = Vec::new();
        while let Some(share) = recovery.step(|_| {}).expect("a good disk") {
            let mut log = Log::new(
                share.core,
                cores,
                Some(settings.clone()),
                &FixedState::with_seed(1),
            );
            log.handle_time(1_000_000, unix_ms);
            log.handle_recovered(RecoveredLog::new(share, 7));
            logs.push(log);
        }
        drop(recovery);
        assert_eq!(logs.len(), usize::from(cores));
        for partition in 0..PARTITIONS {
            let log = &mut logs[usize::from(owner_of(partition, cores))];
            let known = &mut known[usize::from(partition)];
            let mut after = 0;
            let mut held = BTreeMap::new();
            loop {
                let reading = match log.read(ReaderId(1), partition, after, 10_000) {
                    Reading::Later => work(log, &mut disk, &mut chance).expect("a reading"),
                    reading => reading,
                };
                let Reading::Events { stored, until } = reading else {
                    assert!(matches!(reading, Reading::End), "{reading:?}");
                    break;
                };
                for run in stored {
                    for (at, offset) in run.offsets().enumerate() {
                        held.insert(offset, Bytes::copy_from_slice(run.events.get(at)));
                    }
                }
                after = until;
            }
            assert!(
                held == *known,
                "start {start}, partition {partition}: {} for {}",
                held.len(),
                known.len()
            );
            for _ in 0..12 {
                id += 1;
                let mut of_event = [0; 16];
                of_event[..8].copy_from_slice(&id.to_le_bytes());
                let event = event(Id(of_event), "a.b", None, &[0x58, 4, 1, 2, 3, 4]);
                log.append(partition, Class::default(), run(&[event]), None)
                    .expect("room");
                assert!(work(log, &mut disk, &mut chance).is_none());
                let committed = log.poll_committed().expect("it is on the disk");
                let stored = committed.stored;
                let is_new = known.insert(stored.first, Bytes::copy_from_slice(stored.events.get(0)));
                assert!(is_new.is_none(), "{} was given twice", stored.first);
            }
        }
        disk.lose_power(&mut chance);
    }
}

/// Reads what is held of a partition: its events, and the offsets that are told as gone in between.
fn read_all(
    log: &mut Log,
    partition: u16,
    disk: &mut FakeDisk,
    chance: &mut Chance,
) -> (BTreeMap<u64, Bytes>, Vec<(u64, u64)>) {
    let bounds = log.bounds(partition);
    let (mut held, mut gone) = (BTreeMap::new(), Vec::new());
    let mut after = bounds.first - 1;
    while after < bounds.committed {
        let reading = match log.read(ReaderId(1), partition, after, 10_000) {
            Reading::Later => work(log, disk, chance).expect("a reading"),
            reading => reading,
        };
        match reading {
            Reading::Events { stored, until } => {
                for run in stored {
                    for (at, offset) in run.offsets().enumerate() {
                        held.insert(offset, Bytes::copy_from_slice(run.events.get(at)));
                    }
                }
                after = until;
            }
            Reading::Gone { first } => {
                gone.push((after + 1, first - 1));
                after = first - 1;
            }
            reading => panic!("behind {after} of {partition}: {reading:?}"),
        }
    }
    (held, gone)
}

#[test]
fn what_is_held_is_bounded_whatever_the_number_of_cores_was() {
    let settings = Arc::new(Settings {
        partitions: PARTITIONS,
        segment_bytes: 4 * 1024,
        tail_bytes: 1024,
        retain_ms: 0,
        retain_events: 15,
        ..Settings::default()
    });
    for seed in 0..30 {
        let mut disk = FakeDisk::default();
        let mut chance = Chance(seed);
        let mut known: Vec<BTreeMap<u64, Bytes>> = vec![BTreeMap::new(); PARTITIONS.into()];
        let mut first = vec![1; usize::from(PARTITIONS)];
        let mut id = 0_u64;
        let (mut now_us, mut unix_ms) = (1_000_000, 1_700_000_000_000);
        for start in 0..8 {
            let cores = 1 + chance.below(4) as u16;
            let mut recovery =
                Recovery::open(&mut disk, cores, &settings, [7; 16], unix_ms).expect("a log to recover");
            let mut logs = Vec::new();
            while let Some(share) = recovery.step(|_| {}).expect("a good disk") {
                let mut log = Log::new(
                    share.core,
                    cores,
                    Some(settings.clone()),
                    &FixedState::with_seed(1),
                );
                log.handle_time(now_us, unix_ms);
                log.handle_recovered(RecoveredLog::new(share, 7));
                logs.push(log);
            }
            drop(recovery);
            let told = format!("seed {seed}, start {start}, {cores} cores");
            for partition in 0..PARTITIONS {
                let log = &mut logs[usize::from(owner_of(partition, cores))];
                let (held, gone) = read_all(log, partition, &mut disk, &mut chance);
                let known = &known[usize::from(partition)];
                for (offset, event) in &held {
                    assert_eq!(known.get(offset), Some(event), "{told}: {offset} of {partition}");
                }
                // What retention took may be back, as long as another core had not given its segment up.
                for (offset, _) in known.range(first[usize::from(partition)]..) {
                    assert!(
                        held.contains_key(offset),
                        "{told}: {offset} of {partition} is lost"
                    );
                }
                for (from, until) in gone {
                    assert!(
                        until < first[usize::from(partition)],
                        "{told}: {from} to {until} of {partition} is gone"
                    );
                }
            }
            for _ in 0..120 {
                let partition = chance.below(PARTITIONS.into()) as u16;
                let log = &mut logs[usize::from(owner_of(partition, cores))];
                id += 1;
                let mut of_event = [0; 16];
                of_event[..8].copy_from_slice(&id.to_le_bytes());
                let event = event(
                    Id(of_event),
                    "a.b",
                    None,
                    &[&[0x59, 1, 0][..], &[7; 256]].concat(),
                );
                log.append(partition, Class::default(), run(&[event]), None)
                    .expect("room");
                (now_us, unix_ms) = (now_us + 11_000_000, unix_ms + 11_000);
                for log in &mut logs {
                    log.handle_time(now_us, unix_ms);
                    assert!(work(log, &mut disk, &mut chance).is_none());
                }
                let log = &mut logs[usize::from(owner_of(partition, cores))];
                let stored = log.poll_committed().expect("it is on the disk").stored;
                let is_new = known[usize::from(partition)]
                    .insert(stored.first, Bytes::copy_from_slice(stored.events.get(0)));
                assert!(is_new.is_none(), "{told}: {} was given twice", stored.first);
            }
            for partition in 0..PARTITIONS {
                let log = &logs[usize::from(owner_of(partition, cores))];
                first[usize::from(partition)] = log.bounds(partition).first;
            }
            // A segment and what retention holds of each partition, and a little more for each core.
            let segments = disk.lengths().len();
            assert!(segments < 60, "{told}: {segments} segments");
            disk.lose_power(&mut chance);
        }
    }
}

/// The logs of a start with so many cores, and what they are given to do.
struct Start<'a> {
    logs: Vec<Log>,
    disk: &'a mut FakeDisk,
    chance: &'a mut Chance,
    now_us: u64,
}

impl<'a> Start<'a> {
    fn new(cores: u16, settings: &Arc<Settings>, disk: &'a mut FakeDisk, chance: &'a mut Chance) -> Self {
        let unix_ms = 1_700_000_000_000;
        let mut recovery =
            Recovery::open(&mut *disk, cores, settings, [7; 16], unix_ms).expect("a log to recover");
        let mut logs = Vec::new();
        while let Some(share) = recovery.step(|_| {}).expect("a good disk") {
            let mut log = Log::new(
                share.core,
                cores,
                Some(settings.clone()),
                &FixedState::with_seed(1),
            );
            log.handle_time(1_000_000, unix_ms);
            log.handle_recovered(RecoveredLog::new(share, 7));
            logs.push(log);
        }
        drop(recovery);
        Self {
            logs,
            disk,
            chance,
            now_us: 1_000_000,
        }
    }

    fn log(&mut self, partition: u16) -> &mut Log {
        let cores = self.logs.len() as u16;
        &mut self.logs[usize::from(owner_of(partition, cores))]
    }

    /// Appends so many events to a partition; only its core's time goes on.
    fn fill(&mut self, partition: u16, events: u64, id: &mut u64) {
        let cores = self.logs.len() as u16;
        for _ in 0..events {
            *id += 1;
            let mut of_event = [0; 16];
            of_event[..8].copy_from_slice(&id.to_le_bytes());
            let event = event(
                Id(of_event),
                "a.b",
                None,
                &[&[0x59, 1, 0][..], &[7; 256]].concat(),
            );
            let log = &mut self.logs[usize::from(owner_of(partition, cores))];
            log.append(partition, Class::default(), run(&[event]), None)
                .expect("room");
            self.now_us += 11_000_000;
            log.handle_time(self.now_us, 1_700_000_000_000 + self.now_us / 1_000);
            assert!(work(log, self.disk, self.chance).is_none());
            while log.poll_committed().is_some() {}
        }
    }

    fn read(&mut self, partition: u16) -> (BTreeMap<u64, Bytes>, Vec<(u64, u64)>) {
        let cores = self.logs.len() as u16;
        let log = &mut self.logs[usize::from(owner_of(partition, cores))];
        read_all(log, partition, self.disk, self.chance)
    }
}

#[test]
fn what_retention_removed_stays_removed_and_is_no_damage_whatever_the_number_of_cores() {
    let settings = Arc::new(Settings {
        partitions: PARTITIONS,
        segment_bytes: 4 * 1024,
        tail_bytes: 1024,
        retain_ms: 0,
        retain_bytes: 16 * 1024,
        ..Settings::default()
    });
    let (mut disk, mut chance, mut id) = (FakeDisk::default(), Chance(3), 0);
    // Of three cores, one has partitions 1 and 4 in one segment.
    let mut start = Start::new(3, &settings, &mut disk, &mut chance);
    start.fill(1, 3, &mut id);
    start.fill(4, 3, &mut id);
    start.disk.kill();
    // Of two, partition 4 is with 0: all that is stored there is removed again, and what the third core had is let go of,
    // but its file stays for the sake of partition 1.
    let mut start = Start::new(2, &settings, &mut disk, &mut chance);
    start.fill(4, 3, &mut id);
    start.fill(0, 200, &mut id);
    let gone = start.log(4).bounds(4).first;
    assert!(gone > start.log(4).bounds(4).committed, "all of it was removed");
    start.disk.kill();
    // Of three again: what said so in the two cores' segments goes, too.
    let mut start = Start::new(3, &settings, &mut disk, &mut chance);
    start.fill(0, 200, &mut id);
    start.fill(4, 1, &mut id);
    start.disk.kill();
    for cores in [3, 2, 4] {
        let mut start = Start::new(cores, &settings, &mut disk, &mut chance);
        assert_eq!(start.read(1).0.len(), 3, "another core still has its own");
        let (held, told) = start.read(4);
        assert_eq!(
            (held.len(), told),
            (1, Vec::new()),
            "what was told as gone is gone"
        );
        assert!(held.keys().all(|offset| *offset >= gone));
        start.disk.kill();
    }
}

#[test]
fn what_is_lost_when_the_number_of_cores_changed_is_told_as_damage() {
    let settings = Arc::new(Settings {
        partitions: PARTITIONS,
        segment_bytes: 4 * 1024,
        retain_ms: 0,
        ..Settings::default()
    });
    let (mut disk, mut chance, mut id) = (FakeDisk::default(), Chance(3), 0);
    for cores in [3, 2, 3] {
        let mut start = Start::new(cores, &settings, &mut disk, &mut chance);
        start.fill(4, 20, &mut id);
        for log in &mut start.logs {
            log.stop();
            work(log, start.disk, start.chance);
            assert!(log.is_stopped());
        }
        Meta::mark_clean(&mut &mut *start.disk).expect("a disk");
    }
    // The first segment that two cores wrote: nothing tells it from one that retention took, but that it did not.
    disk.lose_segment(fluxar_shard::log::disk::SegmentId { core: 0, number: 1 });
    let mut start = Start::new(3, &settings, &mut disk, &mut chance);
    let reading = match start.log(4).read(ReaderId(1), 4, 20, 10_000) {
        Reading::Later => {
            let at = usize::from(owner_of(4, 3));
            work(&mut start.logs[at], start.disk, start.chance).expect("a reading")
        }
        reading => reading,
    };
    assert!(
        matches!(reading, Reading::Damaged { first: 21, .. }),
        "{reading:?}"
    );
}
