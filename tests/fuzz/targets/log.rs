//! The log on a disk: no bytes make a scan, a footer or a recovery panic or hold more than there is; and what was written
//! comes back, but for what was altered.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxar_shard::log::{
    Events, Settings,
    class::Class,
    disk::SegmentId,
    files::{Files, MemoryFiles},
    footer::Footer,
    format::{BATCH_HEAD_BYTES, Base, BatchHead, BatchWriter, Body, Kind, SegmentHead, salt_of},
    recovery::{META, Meta, Recovery},
    scan::{Found, Scan, Tail},
};
use libfuzzer_sys::fuzz_target;

const ID: SegmentId = SegmentId { core: 0, number: 1 };

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    match choice % 4 {
        0 => as_segment(rest),
        1 => as_body(rest),
        2 => as_meta(rest),
        _ => altered(rest),
    }
});

fn opened(files: &mut MemoryFiles) {
    let settings = Settings {
        partitions: 4,
        ..Settings::default()
    };
    if let Ok(mut recovery) = Recovery::open(files, 1, &settings, [5; 16], 1_000) {
        while let Ok(Some(share)) = recovery.step(|_| {}) {
            for partition in share.partitions {
                assert!(partition.next > partition.last || partition.last == u64::MAX);
                assert!(partition.holes.iter().all(|hole| hole.first <= hole.last));
                let firsts = partition.extents.iter().map(|held| held.extent.first);
                assert!(firsts.is_sorted());
            }
        }
    }
}

fn head() -> SegmentHead {
    let mut meta = Meta::new([5; 16], 4);
    meta.starts = 1;
    SegmentHead {
        id: ID,
        cores: 1,
        partitions: 4,
        epoch: meta.epoch(),
        created_ms: 1,
        salt: salt_of(meta.secret, ID),
    }
}

/// Any bytes as a segment, with and without a good head.
fn as_segment(bytes: &[u8]) {
    let mut whole = head().encode().to_vec();
    whole.extend_from_slice(bytes);
    for segment in [bytes.to_vec(), whole] {
        let mut files = MemoryFiles::default();
        opened(&mut files);
        files.0.insert(ID.name(), segment);
        opened(&mut files);
    }
}

/// Any bytes as the body of each kind, its CRC right: as other code may have written it.
fn as_body(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    for kind in [
        Kind::Events,
        Kind::Kept,
        Kind::Cursors,
        Kind::Footer,
        Kind::Bases,
        Kind::Removed,
    ] {
        let head = BatchHead {
            kind,
            class: Class::default(),
            partition: 1,
            count: u32::from_le_bytes(*count),
            first: 7,
            epoch: 1,
            time_ms: 2,
            synced_at: 0,
            body_bytes: bytes.len() as u32,
            body_crc: crc32c::crc32c(bytes),
        };
        let body = Body::check(head, &Bytes::copy_from_slice(bytes)).expect("its CRC is right");
        if let Ok(Some(stored)) = body.events() {
            let all: usize = (0..stored.events.len()).map(|at| stored.events.get(at).len()).sum();
            assert_eq!(all, stored.events.bytes.len());
        }
        let entries = body.kept().map_or(0, |kept| kept.len())
            + body.cursors().map_or(0, |cursors| cursors.len())
            + body.bases().map_or(0, |bases| bases.len())
            + body.removed().map_or(0, |removed| removed.len());
        assert!(entries <= bytes.len());
        if let Ok(footer) = Footer::decode(bytes) {
            assert!(footer.bases.len() + footer.extents.len() + footer.removed.len() <= bytes.len());
        }
    }
}

/// Any bytes as `meta`.
fn as_meta(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let crc = crc32c::crc32c(text.as_bytes());
    for text in [text.clone().into_owned(), format!("{text}crc = {crc:08x}\n")] {
        let mut files = MemoryFiles::default();
        files.replace(META, text.as_bytes()).expect("memory");
        if let Ok(Some(meta)) = Meta::read(&files) {
            meta.write(&mut files).expect("memory");
            assert_eq!(Meta::read(&files).expect("what was written"), Some(meta));
        }
        opened(&mut files);
    }
}

/// Batches of the sizes that the input says, some of whose bytes it alters: the others come back as they were.
fn altered(input: &[u8]) {
    let (script, alterations) = input.split_at(input.len().min(24));
    let head = head();
    let mut bytes = Vec::new();
    let mut writer = BatchWriter::new(&head, 0, 0, 5);
    let bases = [0, 1, 2, 3].map(|partition| Base { partition, last: 0, next: 1 });
    let mut heads = vec![writer.bases(&bases)];
    let mut next = [1; 4];
    let mut written = BTreeMap::new();
    let mut at = 64;
    for byte in script {
        at += heads.last().map_or(0, BatchHead::bytes);
        let (partition, count) = (u16::from(byte & 3), usize::from(byte >> 2 & 7) + 1);
        let first = next[usize::from(partition)];
        next[usize::from(partition)] += count as u64;
        let events = Events {
            bytes: vec![*byte; count * usize::from(byte >> 5)].into(),
            ends: (1..=count).map(|end| u32::from(byte >> 5) * end as u32).collect(),
        };
        heads.push(writer.events(partition, Class::default(), first, 5, [&events]));
        written.insert(at, events.bytes);
    }
    bytes.extend(writer.finish().concat());
    let mut touched = Vec::new();
    for alteration in alterations.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([alteration[0], alteration[1]])) % bytes.len();
        if alteration[2] != 0 {
            bytes[place] ^= alteration[2];
            touched.push(place as u64);
        }
    }
    let files = MemoryFiles([(ID.name(), bytes)].into());
    let secret = Meta::new([5; 16], 4).secret;
    let mut scan = Scan::open(&files, ID, secret, Tail::IsWhole).expect("memory");
    let mut found = BTreeMap::new();
    while let Some(step) = scan.step().expect("memory") {
        if let Found::Batch { at, body } = step
            && let Ok(Some(stored)) = body.events()
        {
            found.insert(at, (body.head().bytes(), stored.events.bytes));
        }
    }
    for (at, (_, events)) in &found {
        assert_eq!(written.get(at), Some(events), "what was never written was found");
    }
    for (at, events) in written {
        let end = at + (BATCH_HEAD_BYTES + events.len()) as u64 + 4 * 8 + 8;
        let is_touched = touched.iter().any(|place| (at..end).contains(place));
        assert!(is_touched || found.contains_key(&at), "the batch at {at} was lost");
    }
}
