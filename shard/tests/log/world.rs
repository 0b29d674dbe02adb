//! One core's log on the fake disk, and what it promised so far.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Envelope, Form, Id, Kind};
use fluxar_shard::PeerId;
use fluxar_shard::log::class::{Class, Level};
use fluxar_shard::log::recovery::{Meta, Recovery};
use fluxar_shard::log::{
    Committed, CursorName, Events, Log, LogRefusal, ReaderId, Reading, RecoveredLog, Settings, Settled,
    Stored,
};
use foldhash::fast::FixedState;

use crate::chance::Chance;
use crate::fake_disk::FakeDisk;

pub(crate) const PEER: PeerId = PeerId {
    slot: 1,
    generation: 1,
    core: 0,
};

pub(crate) const SYNCED: Class = Class {
    level: Level::Synced,
    once: false,
    retain: false,
    expires: false,
};

/// Small segments, so that a few events fill one.
pub(crate) fn settings() -> Settings {
    Settings {
        partitions: 3,
        segment_bytes: 8 * 1024,
        unsynced_bytes_max: 64 * 1024,
        tail_bytes: 2 * 1024,
        sync_ms: 300,
        retain_ms: 0,
        ..Settings::default()
    }
}

/// A payload of so many bytes behind its head.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut payload = vec![0x59, (count >> 8) as u8, count as u8];
    payload.resize(3 + count, 1);
    payload
}

/// Stores so many events, each by itself.
pub(crate) fn fill(world: &mut World, partition: u16, events: usize) {
    for _ in 0..events {
        let id = world.fresh_id();
        world
            .append(partition, SYNCED, &[event(id, "a.b", None, &bytes(500))])
            .expect("room");
        world.settle();
    }
}

/// What is known of a partition.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Everything that ever got an offset.
    pub(crate) given: BTreeMap<u64, Bytes>,
    /// What readers may see.
    pub(crate) committed: BTreeMap<u64, Bytes>,
    /// Acknowledged, so that it survives power loss.
    pub(crate) synced: BTreeSet<u64>,
    /// Acknowledged, so that it survives the end of the process.
    pub(crate) written: BTreeSet<u64>,
    /// The last that retention may have removed.
    pub(crate) removed: u64,
    /// The first that the log held when it ended.
    first: u64,
}

/// A read that is under way.
#[derive(Debug)]
struct Asked {
    partition: u16,
    after: u64,
}

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) disk: FakeDisk,
    pub(crate) log: Log,
    pub(crate) settings: Arc<Settings>,
    pub(crate) known: Vec<Known>,
    /// Events published at qos 2: where each is, once that is known.
    pub(crate) once: HashMap<Id, (u16, Option<u64>)>,
    asked: BTreeMap<ReaderId, Asked>,
    next_reader: u64,
    next_id: u64,
    pub(crate) now_us: u64,
    pub(crate) unix_ms: u64,
    /// Partitions may have holes.
    pub(crate) may_be_damaged: bool,
    pub(crate) refused: u64,
    pub(crate) reads: u64,
    pub(crate) damaged: u64,
}

pub(crate) fn event(id: Id, topic: &str, key: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let meta = MetaWriter::new();
    let meta = match key {
        Some(key) => meta.text("key", key),
        None => meta,
    };
    event_with(id, topic, meta, payload)
}

pub(crate) fn event_with(id: Id, topic: &str, meta: MetaWriter, payload: &[u8]) -> Vec<u8> {
    let meta = meta.finish();
    let mut out = Vec::new();
    Envelope {
        kind: Kind::Event,
        id,
        reference: None,
        target: Some(topic),
        meta: meta.as_deref().map(fluxar_protocol::meta::Meta::from_checked),
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

pub(crate) fn run(events: &[Vec<u8>]) -> Events {
    let mut end = 0;
    let ends = events.iter().map(|event| {
        end += event.len() as u32;
        end
    });
    Events {
        ends: ends.collect(),
        bytes: events.concat().into(),
    }
}

pub(crate) fn cursor_name(number: u64) -> CursorName {
    CursorName {
        principal: "".into(),
        name: format!("cursor {number}").into(),
        pattern: "a.>".into(),
        group: "".into(),
    }
}

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let known = std::iter::repeat_with(Known::default);
        let mut this = Self {
            chance: Chance(seed),
            disk: FakeDisk::default(),
            log: Log::new(0, 1, None, &FixedState::default()),
            known: known.take(settings.partitions.into()).collect(),
            settings,
            once: HashMap::new(),
            asked: BTreeMap::new(),
            next_reader: 1,
            next_id: 1,
            now_us: 1_000_000,
            unix_ms: 1_700_000_000_000,
            may_be_damaged: false,
            refused: 0,
            reads: 0,
            damaged: 0,
        };
        this.start();
        this
    }

    /// Recovers what the disk has and begins a new log.
    pub(crate) fn start(&mut self) {
        self.asked.clear();
        for (partition, known) in self.known.iter_mut().enumerate() {
            known.first = self.log.bounds(partition as u16).first;
        }
        let random = [7; 16];
        let mut recovery = Recovery::open(&mut self.disk, 1, &self.settings, random, self.unix_ms)
            .expect("a log to recover");
        let share = recovery.step(|_| {}).expect("a good disk").expect("a share");
        assert!(recovery.step(|_| {}).expect("a good disk").is_none());
        let mut log = Log::new(0, 1, Some(self.settings.clone()), &FixedState::with_seed(3));
        log.handle_time(self.now_us, self.unix_ms);
        log.handle_recovered(RecoveredLog::new(share, 7));
        self.log = log;
    }

    /// Recoveries that are killed in the middle of what they change: all their work is to be done again.
    pub(crate) fn start_in_vain(&mut self) {
        while self.chance.of_thousand(300) {
            self.disk.changes_left = Some(self.chance.below(8));
            if let Ok(mut recovery) = Recovery::open(&mut self.disk, 1, &self.settings, [7; 16], self.unix_ms)
            {
                while let Ok(Some(_)) = recovery.step(|_| {}) {}
            }
        }
        self.disk.changes_left = None;
    }

    pub(crate) fn fresh_id(&mut self) -> Id {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next_id.to_le_bytes());
        self.next_id += 1;
        Id(id)
    }

    /// Appends events and takes note of what they got.
    pub(crate) fn append(
        &mut self,
        partition: u16,
        class: Class,
        events: &[Vec<u8>],
    ) -> Result<(), LogRefusal> {
        self.log.append(partition, class, run(events), Some(PEER))?;
        self.poll();
        Ok(())
    }

    /// Takes what the log has to say, and holds it against what is known.
    pub(crate) fn poll(&mut self) {
        while let Some(committed) = self.log.poll_committed() {
            let Committed {
                partition,
                stored,
                class,
            } = committed;
            let known = &mut self.known[usize::from(partition)];
            for (at, offset) in stored.offsets().enumerate() {
                let event = Bytes::copy_from_slice(stored.events.get(at));
                let last = known.committed.last_key_value().map_or(0, |(last, _)| *last);
                assert!(
                    offset > last,
                    "{offset} of {partition} is committed behind {last}"
                );
                if class.once {
                    let id = stored.events.id(at);
                    let before = self.once.insert(id, (partition, Some(offset)));
                    assert!(
                        before.is_none_or(|(_, before)| before.is_none()),
                        "{id:?} is committed twice"
                    );
                }
                assert!(
                    known.given.insert(offset, event.clone()).is_none(),
                    "{offset} is given twice"
                );
                known.committed.insert(offset, event);
                if class.level == Level::Synced {
                    known.synced.insert(offset);
                }
                if class.level >= Level::Written {
                    known.written.insert(offset);
                }
            }
            assert!(self.log.bounds(partition).committed >= stored.last());
        }
        while let Some(settled) = self.log.poll_settled() {
            match settled {
                Settled::Stored {
                    partition,
                    first,
                    events,
                    ..
                } => {
                    let known = &self.known[usize::from(partition)];
                    for at in 0..events.len() {
                        let offset = first + at as u64;
                        assert_eq!(
                            known.committed.get(&offset).map(|event| &event[..]),
                            Some(events.get(at))
                        );
                    }
                }
                Settled::Again {
                    id,
                    partition,
                    offset,
                    ..
                } => {
                    assert_eq!(
                        self.once.get(&id),
                        Some(&(partition, Some(offset))),
                        "a duplicate's place"
                    );
                }
            }
        }
        while let Some((reader, reading)) = self.log.poll_read() {
            let asked = self.asked.remove(&reader).expect("a reader that asked");
            self.check_reading(asked, reading);
        }
        while let Some(op) = self.log.poll_disk() {
            self.disk.take(op);
        }
    }

    /// Does one thing of the disk's.
    pub(crate) fn step_disk(&mut self) {
        if self.disk.is_idle() {
            return;
        }
        if let Some(done) = self.disk.step(&mut self.chance) {
            self.log.handle_disk(done);
        }
        self.poll();
    }

    pub(crate) fn pass(&mut self, us: u64) {
        self.now_us += us;
        self.unix_ms = 1_700_000_000_000 + self.now_us / 1000;
        self.log.handle_time(self.now_us, self.unix_ms);
        self.poll();
    }

    /// Ends in good order.
    pub(crate) fn stop(&mut self) {
        self.log.stop();
        self.poll();
        while !self.log.is_stopped() {
            if self.disk.is_idle() {
                self.pass(10_000);
            }
            self.step_disk();
            self.poll();
        }
        if self.log.is_sealed() {
            Meta::mark_clean(&mut &mut self.disk).expect("a disk");
        }
        self.disk.kill();
    }

    /// Until nothing is left to be done.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            while !self.disk.is_idle() {
                self.step_disk();
            }
            let counts = self.log.counts();
            if counts.unsynced_bytes == 0 && self.disk.is_idle() && self.asked.is_empty() {
                return;
            }
            self.pass(50_000);
        }
        panic!("the log does not come to rest: {:?}", self.log.counts());
    }

    /// Reads from a random position of a random partition.
    pub(crate) fn read_somewhere(&mut self) {
        let partition = self.chance.below(self.known.len()) as u16;
        let last = self.log.bounds(partition).committed;
        let known = &self.known[usize::from(partition)];
        let places: Vec<u64> = known.committed.keys().copied().collect();
        let after = match self.chance.below(4) {
            0 => 0,
            1 => last,
            _ => places.get(self.chance.below(places.len())).copied().unwrap_or(0),
        };
        let bytes_max = [1, 300, 5_000, 100_000][self.chance.below(4)];
        let reader = ReaderId(self.next_reader);
        self.next_reader += 1;
        let asked = Asked { partition, after };
        match self.log.read(reader, partition, after, bytes_max) {
            Reading::Later => drop(self.asked.insert(reader, asked)),
            reading => self.check_reading(asked, reading),
        }
        self.poll();
    }

    fn check_reading(&mut self, asked: Asked, reading: Reading) {
        self.reads += 1;
        let Asked { partition, after } = asked;
        let known = &self.known[usize::from(partition)];
        match reading {
            Reading::Events { stored, until } => {
                let expected: Vec<(u64, &[u8])> = known
                    .committed
                    .range(after + 1..=until)
                    .map(|(offset, event)| (*offset, &event[..]))
                    .collect();
                let mut read: Vec<(u64, &[u8])> = Vec::new();
                for run in &stored {
                    read.extend(
                        run.offsets()
                            .enumerate()
                            .map(|(at, offset)| (offset, run.events.get(at))),
                    );
                }
                assert!(until > after, "a read gets on");
                assert!(
                    read == expected,
                    "behind {after} of {partition} up to {until}: {} for {}",
                    read.len(),
                    expected.len()
                );
            }
            Reading::End => {
                assert!(
                    after >= self.log.bounds(partition).committed || self.log.counts().unsynced_bytes > 0
                );
            }
            Reading::Gone { first } => {
                assert!(after + 1 < first);
                let bounds = self.log.bounds(partition);
                assert!(first <= bounds.first, "{first} is not held");
                assert!(
                    known.committed.range(after + 1..first).next().is_some(),
                    "nothing is gone behind {after}"
                );
                assert!(self.log.counts().segments_removed > 0 || known.removed > 0);
            }
            Reading::Damaged { first, last } => {
                assert!(self.may_be_damaged, "{first}..={last} of {partition} is damaged");
                assert!(after < first && first <= last);
                self.damaged += 1;
            }
            Reading::Failed(why) => assert!(self.disk.faults.open > 0, "{why}"),
            Reading::Later => unreachable!("said at once"),
        }
    }

    /// Reads all of a partition from the first on: what is held.
    pub(crate) fn read_all(&mut self, partition: u16) -> (BTreeMap<u64, Bytes>, Vec<(u64, u64)>) {
        let mut all = BTreeMap::new();
        let mut damaged = Vec::new();
        let mut after = self.log.bounds(partition).first - 1;
        loop {
            let reader = ReaderId(self.next_reader);
            self.next_reader += 1;
            let mut reading = self.log.read(reader, partition, after, 64 * 1024);
            while matches!(reading, Reading::Later) {
                while let Some(op) = self.log.poll_disk() {
                    self.disk.take(op);
                }
                if let Some(done) = self.disk.step(&mut self.chance) {
                    self.log.handle_disk(done);
                }
                if let Some((_, read)) = self.log.poll_read() {
                    reading = read;
                }
            }
            match reading {
                Reading::Events { stored, until } => {
                    for run in &stored {
                        take(run, &mut all);
                    }
                    after = until;
                }
                Reading::End => return (all, damaged),
                Reading::Damaged { first, last } => {
                    damaged.push((first, last));
                    after = last;
                }
                other => panic!("{other:?} behind {after} of {partition}"),
            }
        }
    }

    /// After a crash and a recovery: holds what is there against what was promised, and goes on with it.
    pub(crate) fn check_recovered(&mut self, lost_power: bool) {
        for partition in 0..self.settings.partitions {
            let (held, damaged) = self.read_all(partition);
            assert!(
                self.may_be_damaged || damaged.is_empty(),
                "{damaged:?} of {partition}"
            );
            let known = &mut self.known[usize::from(partition)];
            let bounds = self.log.bounds(partition);
            for (offset, event) in &held {
                // Uncommitted ones, too, may be there now; what they were is checked by their ids.
                if let Some(given) = known.given.get(offset) {
                    assert_eq!(given, event, "{offset} of {partition}");
                }
            }
            let promised = if lost_power { &known.synced } else { &known.written };
            // Not from what is held now: then nothing would be missing where the beginning is lost.
            for offset in promised.range(known.first..) {
                let is_damaged = damaged
                    .iter()
                    .any(|(first, last)| (first..=last).contains(&offset));
                assert!(
                    held.contains_key(offset) || is_damaged,
                    "{offset} of {partition} was acknowledged and is lost; held {:?}",
                    held.len()
                );
            }
            let last = known.given.last_key_value().map_or(0, |(last, _)| *last);
            assert!(
                bounds.committed >= last,
                "offsets behind {} were given: {last}",
                bounds.committed
            );
            if let Some(first) = promised.first()
                && *first < bounds.first
            {
                known.removed = bounds.first - 1;
            }
            known.synced.retain(|offset| held.contains_key(offset));
            known.written = known.synced.clone();
            // What was recovered is safe from now on.
            known.synced.extend(held.keys());
            known.written.extend(held.keys());
            known
                .given
                .extend(held.iter().map(|(offset, event)| (*offset, event.clone())));
            known.committed = held;
        }
        // Those that were never acknowledged may be lost, or may be there.
        let mut places = HashMap::new();
        for (partition, known) in self.known.iter().enumerate() {
            for (offset, event) in &known.committed {
                places.insert(run(&[event.to_vec()]).id(0), (partition as u16, *offset));
            }
        }
        self.once.retain(|id, place| {
            let found = places.get(id);
            *place = found.map_or(*place, |(partition, offset)| (*partition, Some(*offset)));
            found.is_some()
        });
    }
}

fn take(run: &Stored, all: &mut BTreeMap<u64, Bytes>) {
    for (at, offset) in run.offsets().enumerate() {
        let event = Bytes::copy_from_slice(run.events.get(at));
        assert!(all.insert(offset, event).is_none(), "{offset} is read twice");
    }
}
