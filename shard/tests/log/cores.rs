//! Another number of cores at each start: partitions go to other owners, and what they hold is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::Id;
use fluxar_shard::log::class::Class;
use fluxar_shard::log::recovery::Recovery;
use fluxar_shard::log::{Log, ReaderId, Reading, Settings, owner_of};
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
            log.handle_recovered(share);
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
