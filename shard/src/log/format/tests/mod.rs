//! What is written comes back; what was altered does not.

pub(in crate::log) mod written;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::log::{
    CursorName, CursorState, Events,
    class::{Class, Level},
    disk::SegmentId,
    footer::{Extents, Footer, FooterRow, decode_trailer},
};
use written::{NOW_MS, SECRET, event, events, payload, run};

const ID: SegmentId = SegmentId { core: 3, number: 17 };

fn head() -> SegmentHead {
    SegmentHead {
        id: ID,
        cores: 4,
        partitions: 64,
        epoch: 0x00ab_cdef_0123_4567,
        created_ms: NOW_MS,
        salt: salt_of(SECRET, ID),
    }
}

/// The batches in what a writer made.
fn batches(slices: &[Bytes], mut at: u64) -> Vec<Body> {
    let bytes = Bytes::from(slices.concat());
    let begin = at;
    let mut found = Vec::new();
    while at - begin < bytes.len() as u64 {
        let place = (at - begin) as usize;
        let head = BatchHead::decode(&bytes[place..], head().salt, at).expect("a head");
        found.push(Body::check(head, &bytes.slice(place + BATCH_HEAD_BYTES..)).expect("a body"));
        at += head.bytes();
    }
    found
}

fn cursor(name: &str, acked: u64, beyond: &[u64]) -> CursorEntry {
    CursorEntry {
        name: CursorName {
            principal: "ada".into(),
            name: name.into(),
            pattern: "orders.>".into(),
            group: "".into(),
        }
        .into(),
        state: Some(CursorState {
            acked,
            beyond: beyond.to_vec(),
        }),
        used_ms: NOW_MS,
    }
}

#[test]
fn a_segments_head_comes_back_and_no_other_does() {
    let encoded = head().encode();
    assert_eq!(SegmentHead::decode(&encoded), Ok(head()));
    assert_eq!(SegmentHead::decode(&[0; 64]), Err(HeadlessSegment::Empty));
    assert_eq!(SegmentHead::decode(&[]), Err(HeadlessSegment::Empty));
    assert_eq!(SegmentHead::decode(&encoded[..63]), Err(HeadlessSegment::Damaged));
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            SegmentHead::decode(&flipped),
            Err(HeadlessSegment::Damaged),
            "bit {bit}"
        );
    }
    let mut later = encoded;
    later[8] = 2;
    let crc = crc32c::crc32c(&later[..60]);
    later[60..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SegmentHead::decode(&later), Err(HeadlessSegment::Version(2)));
}

#[test]
fn a_head_is_believed_only_whole_in_its_place_and_with_its_salt() {
    let mut writer = BatchWriter::new(&head(), 640, 64, NOW_MS);
    let written = writer.events(9, Class::default(), 77, NOW_MS, [&events("a.b", 77, 3)]);
    let bytes = writer.finish().concat();
    assert_eq!(BatchHead::decode(&bytes, head().salt, 640), Ok(written));
    assert_eq!((written.first, written.last(), written.count), (77, 79, 3));
    assert_eq!(
        BatchHead::decode(&bytes, head().salt, 648),
        Err(HeadFault::Damaged)
    );
    assert_eq!(
        BatchHead::decode(&bytes, head().salt + 1, 640),
        Err(HeadFault::Damaged)
    );
    assert_eq!(
        BatchHead::decode(&bytes[..55], head().salt, 640),
        Err(HeadFault::Damaged)
    );
    assert_eq!(
        BatchHead::decode(&[0; 100], head().salt, 640),
        Err(HeadFault::Empty)
    );
    let body = Bytes::copy_from_slice(&bytes[BATCH_HEAD_BYTES..]);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if bit < BATCH_HEAD_BYTES * 8 {
            assert_eq!(
                BatchHead::decode(&flipped, head().salt, 640),
                Err(HeadFault::Damaged)
            );
        } else if bit < (BATCH_HEAD_BYTES + written.body_bytes as usize) * 8 {
            let flipped = Bytes::copy_from_slice(&flipped[BATCH_HEAD_BYTES..]);
            assert_eq!(
                Body::check(written, &flipped).unwrap_err(),
                BodyFault::Damaged,
                "bit {bit}"
            );
        }
    }
    for short in 0..written.body_bytes as usize {
        assert_eq!(
            Body::check(written, &body.slice(..short)).unwrap_err(),
            BodyFault::Damaged
        );
    }
}

#[test]
fn events_are_referred_to_and_never_copied() {
    let runs = [events("a", 1, 100), events("b", 101, 100)];
    let mut writer = BatchWriter::new(&head(), 64, 0, NOW_MS);
    writer.events(0, Class::default(), 1, NOW_MS, &runs);
    let slices = writer.finish();
    for run in &runs {
        let of_run = slices.iter().any(|slice| slice.as_ptr() == run.bytes.as_ptr());
        assert!(of_run, "a run's bytes were copied");
    }
    // And read without a copy: what comes back lies within the bytes that were read.
    let bytes = Bytes::from(slices.concat());
    let read = BatchHead::decode(&bytes, head().salt, 64).unwrap();
    let stored = Body::check(read, &bytes.slice(BATCH_HEAD_BYTES..)).unwrap();
    let stored = stored.events().unwrap().unwrap();
    assert!(bytes.as_ptr_range().contains(&stored.events.bytes.as_ptr()));
}

#[test]
fn each_kind_comes_back_as_itself_and_as_no_other() {
    let bases = [
        Base {
            partition: 3,
            last: 0,
            next: 1,
        },
        Base {
            partition: 7,
            last: 1_234_567,
            next: 3_000_001,
        },
    ];
    let cursors = [
        cursor("a", 5, &[7, 8, 200_000]),
        CursorEntry {
            state: None,
            ..cursor("b", 0, &[])
        },
    ];
    let kept = [
        Kept {
            offset: 4,
            time_ms: 9,
            event: Bytes::from(event("k", 1, Some("x"), &[1])),
        },
        Kept {
            offset: 5_000_000_000,
            time_ms: 3,
            event: Bytes::from(event("k", 2, None, &[2])),
        },
    ];
    let class = Class {
        level: Level::Written,
        once: true,
        retain: true,
        expires: true,
    };
    let mut writer = BatchWriter::new(&head(), 0, 0, NOW_MS);
    writer.bases(&bases);
    writer.events(3, class, 12, 99, &[events("x", 0, 2), events("y", 2, 1)]);
    writer.cursors(3, &cursors);
    writer.kept(3, class, &kept);
    writer.removed(&[removed(3, 1, 7), removed(4, 9, 9)]);
    let slices = writer.finish();
    assert_eq!(SegmentHead::decode(&slices[0]), Ok(head()));
    let found = batches(&slices[1..], 64);
    let kinds: Vec<_> = found.iter().map(|body| body.head().kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Bases,
            Kind::Events,
            Kind::Cursors,
            Kind::Kept,
            Kind::Removed
        ]
    );
    assert_eq!(found[4].removed().unwrap(), [removed(3, 1, 7), removed(4, 9, 9)]);
    assert_eq!(found[4].bases().unwrap(), []);
    assert_eq!(found[0].bases().unwrap(), bases);
    assert_eq!(found[2].cursors().unwrap(), cursors);
    let stored = found[1].events().unwrap().unwrap();
    assert_eq!((stored.first, stored.time_ms, stored.expires), (12, 99, true));
    assert_eq!(found[1].head().class, class);
    let of_runs = events("x", 0, 2);
    assert_eq!(stored.events.get(1), of_runs.get(1));
    assert_eq!(stored.events.get(2), events("y", 2, 1).get(0));
    let read = found[3].kept().unwrap();
    for (read, kept) in read.iter().zip(&kept) {
        assert_eq!(
            (read.offset, read.time_ms, &read.event),
            (kept.offset, kept.time_ms, &kept.event)
        );
    }
    for body in &found {
        let others = [
            body.bases().unwrap().is_empty(),
            body.cursors().unwrap().is_empty(),
            body.kept().unwrap().is_empty(),
            body.removed().unwrap().is_empty(),
            body.events().unwrap().is_none(),
        ];
        assert_eq!(others.iter().filter(|is_other| **is_other).count(), 4);
    }
}

#[test]
fn a_row_is_its_topic_and_key_and_null_removes_it() {
    let bytes = event("t.a", 1, Some("k"), &[0xf6]);
    let row = row_of(&bytes).unwrap();
    assert_eq!((row.topic, row.key, row.is_removal), ("t.a", &b"\x61k"[..], true));
    let bytes = event("t.a", 1, None, &[0x01]);
    let row = row_of(&bytes).unwrap();
    assert_eq!((row.topic, row.key, row.is_removal), ("t.a", &b""[..], false));
    assert_eq!(row_of(b"nothing"), None);
}

#[test]
fn offsets_after_a_crash_are_beyond_all_that_may_have_been_given() {
    for last in [0, 1, 99_999, 100_000, 999_999, 1_000_000, 1_000_001, 7_950_000] {
        let next = offset_after_crash(last);
        assert!(next > last + crate::log::UNSYNCED_OFFSETS_MAX);
        assert!(next <= last + 2_000_001);
        assert_eq!(next % 1_000_000, 1);
    }
    assert!(offset_after_crash(u64::MAX - 5) > 0, "a crash at the end of time");
}

/// An extent of so many batches, and where they are.
fn removed(partition: u16, first: u64, last: u64) -> Removed {
    Removed {
        partition,
        first,
        last,
    }
}

fn extents(batches: u64, own_bytes: usize, foreign_bytes: u64) -> (Extents, Vec<BatchHead>) {
    let mut extents = Extents::default();
    let (mut at, mut heads) = (64, Vec::new());
    let run = run([event("a", 0, None, &payload(own_bytes, 1))]);
    for offset in 1..=batches {
        let mut writer = BatchWriter::new(&head(), at, 0, NOW_MS + offset);
        let head = writer.events(5, Class::default(), offset, NOW_MS + offset, [&run]);
        extents.push(&head, at);
        heads.push(head);
        at += head.bytes() + foreign_bytes;
    }
    (extents, heads)
}

#[test]
fn an_index_finds_every_batch_in_short_stretches() {
    for (own_bytes, foreign_bytes) in [
        (40, 0),
        (40, 4096),
        (3000, 400_000),
        (60_000, 64),
        (10, 2_000_000),
    ] {
        let (extents, heads) = extents(500, own_bytes, foreign_bytes);
        let extent = extents.get(5).unwrap();
        assert_eq!((extent.first, extent.last), (1, 500));
        assert_eq!((extent.oldest_ms, extent.newest_ms), (NOW_MS + 1, NOW_MS + 500));
        let mut at = 64;
        for (offset, head) in (1..).zip(&heads) {
            let entry = extent.index[extent.entry_of(offset).unwrap()];
            assert!(
                entry.at <= at && at + head.bytes() <= entry.end(),
                "offset {offset}"
            );
            let is_short = entry.span_bytes <= 1024 * 1024 || u64::from(entry.span_bytes) == head.bytes();
            assert!(is_short, "{entry:?}");
            at += head.bytes() + foreign_bytes;
        }
        let own: u64 = extent.index.iter().map(|entry| u64::from(entry.own_bytes)).sum();
        assert_eq!(
            (own, extent.bytes),
            (heads.iter().map(BatchHead::bytes).sum(), own)
        );
        assert_eq!(extent.entry_of(0), None);
        assert_eq!(extent.entry_of(501), None);
    }
}

#[test]
fn a_footer_comes_back_through_its_trailer() {
    let row = |number: u64| FooterRow {
        partition: 5,
        offset: number,
        time_ms: NOW_MS,
        at: 64 + 8 * number,
        index: 3,
        is_removal: number == 2,
        topic: format!("topic.{number}").into(),
        key: Box::from(&b"\x61k"[..]),
    };
    let footer = Footer {
        is_last: true,
        bases: vec![Base {
            partition: 5,
            last: 9,
            next: 1_000_001,
        }],
        extents: extents(300, 900, 5_000).0.into_vec(),
        rows: Some((1..5).map(row).collect()),
        cursors_at: None,
        removed: vec![removed(5, 1, 9), removed(7, 30, 1_000_002)],
    };
    let mut writer = BatchWriter::new(&head(), 4096, 4096, NOW_MS);
    writer.footer(&footer);
    let end = writer.at();
    let bytes = writer.finish().concat();
    assert_eq!(4096 + bytes.len() as u64, end);
    let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
    let trailer: &[u8; TRAILER_BYTES] = trailer.try_into().unwrap();
    assert_eq!(decode_trailer(trailer, head().salt, end), Some(4096));
    assert_eq!(decode_trailer(trailer, head().salt, end + 8), None);
    for bit in 0..TRAILER_BYTES * 8 {
        let mut flipped = *trailer;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_trailer(&flipped, head().salt, end), None);
    }
    let read = batches(&[Bytes::copy_from_slice(body)], 4096).remove(0);
    assert_eq!(Footer::decode(read.bytes()), Ok(footer.clone()));
    // The first footers said nothing of what was removed.
    let first = Footer {
        removed: Vec::new(),
        ..footer
    };
    let first_bytes = first.encode().len() - 1;
    assert_eq!(Footer::decode(&read.bytes()[..first_bytes]), Ok(first));
    for short in (0..read.bytes().len()).filter(|short| *short != first_bytes) {
        assert!(Footer::decode(&read.bytes()[..short]).is_err());
    }
}

#[test]
fn a_footer_that_would_be_too_large_says_less() {
    let row = |number: u64| FooterRow {
        partition: 0,
        offset: number,
        time_ms: NOW_MS,
        at: number,
        index: 0,
        is_removal: false,
        topic: "a.topic.with.a.long.name.".repeat(8).into(),
        key: Box::default(),
    };
    let mut large = extents(2, 10, 0).0.into_vec().remove(0);
    let entry = large.index[0];
    large.index = (0..1_000_000)
        .map(|at| crate::log::footer::IndexEntry {
            first: entry.first + at,
            at: at * 1000,
            span_bytes: 900,
            ..entry
        })
        .collect();
    let footer = Footer {
        is_last: false,
        bases: Vec::new(),
        extents: vec![large.clone()],
        rows: Some((0..60_000).map(row).collect()),
        cursors_at: Some((0..100).collect()),
        removed: vec![removed(1, 1, u64::MAX)],
    };
    let encoded = footer.encode();
    assert!(encoded.len() <= BODY_BYTES_MAX);
    let read = Footer::decode(&encoded).unwrap();
    assert_eq!((read.rows, read.cursors_at), (None, footer.cursors_at));
    assert_eq!(read.removed, footer.removed);
    let index = &read.extents[0].index;
    assert!(index.len() < large.index.len());
    for entry in &large.index {
        let held = index[index.partition_point(|held| held.first <= entry.first) - 1];
        assert!(held.at <= entry.at && entry.end() <= held.end());
    }
}

fn classes() -> impl Strategy<Value = Class> {
    (0..3_usize, any::<[bool; 3]>()).prop_map(|(level, [once, retain, expires])| Class {
        level: [Level::Memory, Level::Written, Level::Synced][level],
        once,
        retain,
        expires,
    })
}

fn any_events() -> impl Strategy<Value = Vec<Events>> {
    let event = proptest::collection::vec(any::<u8>(), 0..80);
    let events = proptest::collection::vec(event, 1..20);
    proptest::collection::vec(events.prop_map(run), 1..5)
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(
        written in proptest::collection::vec((any_events(), classes(), any::<u16>(), 1..u64::MAX / 2, any::<u64>()), 1..8),
        at in (8..1_000_000_u64).prop_map(|at| at * 8),
    ) {
        let mut writer = BatchWriter::new(&head(), at, at / 2, NOW_MS);
        let heads: Vec<_> = written
            .iter()
            .map(|(runs, class, partition, first, time_ms)| writer.events(*partition, *class, *first, *time_ms, runs))
            .collect();
        let end = writer.at();
        let slices = writer.finish();
        prop_assert_eq!(at + slices.concat().len() as u64, end);
        let found = batches(&slices, at);
        prop_assert_eq!(found.len(), written.len());
        for ((body, head), (runs, class, partition, first, time_ms)) in found.iter().zip(heads).zip(&written) {
            prop_assert_eq!(*body.head(), head);
            prop_assert_eq!((head.class, head.partition, head.first, head.synced_at), (*class, *partition, *first, at / 2));
            let stored = body.events().unwrap().unwrap();
            prop_assert_eq!((stored.first, stored.time_ms), (*first, *time_ms));
            let all: Vec<&[u8]> = runs.iter().flat_map(|run| (0..run.len()).map(|index| run.get(index))).collect();
            let read: Vec<&[u8]> = (0..stored.events.len()).map(|index| stored.events.get(index)).collect();
            prop_assert_eq!(read, all);
        }
    }

    #[test]
    fn cursors_come_back(acked in any::<u64>(), steps in proptest::collection::vec(1..1_000_u64, 0..50)) {
        let mut offset = acked / 2;
        let beyond: Vec<u64> = steps.iter().map(|step| { offset += step; offset }).collect();
        let written = [cursor("x", acked / 2, &beyond)];
        let mut writer = BatchWriter::new(&head(), 64, 0, NOW_MS);
        writer.cursors(1, &written);
        let found = batches(&writer.finish(), 64);
        prop_assert_eq!(found[0].cursors().unwrap(), written);
    }
}
