//! What recovering a log costs in memory: nothing for a topic. (A test of its own, as an allocator is for a whole process.)

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use fluxar_protocol::{Envelope, Form, Id, envelope};
use fluxar_shard::log::{
    Events, Settings,
    class::Class,
    disk::SegmentId,
    files::MemoryFiles,
    footer::{Extents, Footer},
    format::{Base, BatchWriter, SegmentHead, salt_of},
    recovery::{Meta, Recovered, Recovery},
};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches two atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps alloc's contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EVENTS: u64 = 1_000_000;
const EVENTS_OF_BATCH: u64 = 500;
const PARTITIONS: u64 = 64;
/// Sealed ones, and as many that were cut off by a crash.
const SEGMENTS: u64 = 8;

/// A million events with as many topics as are wanted, half of them in segments without a footer.
fn log_of(topics: u64) -> MemoryFiles {
    let mut files = MemoryFiles::default();
    let mut meta = Meta::new([1; 16], PARTITIONS as u16);
    (meta.starts, meta.cores, meta.is_clean) = (1, 1, false);
    meta.write(&mut files).expect("memory");
    let mut next = [1; PARTITIONS as usize];
    let batches = EVENTS / EVENTS_OF_BATCH / SEGMENTS;
    for number in 1..=SEGMENTS {
        let id = SegmentId { core: 0, number };
        let head = SegmentHead {
            id,
            cores: 1,
            partitions: PARTITIONS as u16,
            epoch: meta.epoch(),
            created_ms: 1,
            salt: salt_of(meta.secret, id),
        };
        let bases: Vec<Base> = next
            .iter()
            .enumerate()
            .map(|(partition, next)| Base {
                partition: partition as u16,
                last: next - 1,
                next: *next,
            })
            .collect();
        let (mut bytes, mut extents) = (Vec::new(), Extents::default());
        let mut writer = BatchWriter::new(&head, 0, 0, 1);
        writer.bases(&bases);
        bytes.extend(writer.finish().concat());
        for batch in 0..batches {
            let nth = (number - 1) * batches + batch;
            let run = run(nth * EVENTS_OF_BATCH, topics);
            let partition = nth % PARTITIONS;
            let at = bytes.len() as u64;
            let mut writer = BatchWriter::new(&head, at, at, 1);
            let first = next[partition as usize];
            let written = writer.events(partition as u16, Class::default(), first, 1, [&run]);
            next[partition as usize] += EVENTS_OF_BATCH;
            extents.push(&written, at);
            bytes.extend(writer.finish().concat());
        }
        if number % 2 == 1 {
            let at = bytes.len() as u64;
            let mut writer = BatchWriter::new(&head, at, at, 1);
            writer.footer(&Footer {
                bases,
                extents: extents.into_vec(),
                rows: Some(Vec::new()),
                cursors_at: Some(Vec::new()),
                ..Footer::default()
            });
            bytes.extend(writer.finish().concat());
        }
        files.0.insert(id.name(), bytes);
    }
    files
}

fn run(first: u64, topics: u64) -> Events {
    let mut bytes = Vec::new();
    let ends = (first..first + EVENTS_OF_BATCH).map(|number| {
        let topic = format!("town.{:07}.news", number % topics);
        let event = Envelope {
            kind: envelope::Kind::Event,
            id: Id([0; 16]),
            reference: None,
            target: Some(&topic),
            meta: None,
            payload: &[0x01],
            error: None,
        };
        event.encode(Form::Compact, &mut bytes);
        bytes.len() as u32
    });
    Events {
        ends: ends.collect(),
        bytes: bytes.into(),
    }
}

/// What recovering takes at its peak, and what is kept of it.
fn costs(mut files: MemoryFiles) -> (usize, usize) {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut recovery = Recovery::open(&mut files, 1, &Settings::default(), [1; 16], 1).expect("it is a log");
    let share: Recovered = recovery.step(|_| {}).expect("memory is read").expect("a share");
    drop(recovery);
    let last: u64 = share.partitions.iter().map(|partition| partition.last).sum();
    assert_eq!(last, EVENTS);
    assert!(
        share
            .partitions
            .iter()
            .all(|partition| partition.holes.is_empty())
    );
    let kept = HELD.load(Ordering::Relaxed) - before;
    (PEAK.load(Ordering::Relaxed) - before, kept)
}

#[test]
fn a_million_topics_take_no_more_memory_than_one() {
    let (one_peak, one_kept) = costs(log_of(1));
    let (peak, kept) = costs(log_of(EVENTS));
    assert!(
        peak < 8 << 20,
        "{peak} bytes at the peak; the window is 1 MiB, and one index is held"
    );
    assert!(kept < 1 << 20, "{kept} bytes are kept");
    // The bytes of both logs differ only in the topics' digits.
    assert!(
        peak.abs_diff(one_peak) < 64 * 1024,
        "{peak} bytes at the peak, {one_peak} with one topic"
    );
    assert!(
        kept.abs_diff(one_kept) < 64 * 1024,
        "{kept} bytes are kept, {one_kept} with one topic"
    );
}
