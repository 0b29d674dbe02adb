//! Batches whose CRC is right and that make no sense: told like what is lost, or, where offsets rest on them, not passed over.

use super::*;
use crate::log::format::Kind;
use crate::log::scan::Bad;
use crate::log::verify::{read_events, survey};

/// Has the `nth` batch of the segment say something else, as other code might have written it.
fn spoil(log: &mut Written, nth: usize, change: impl FnOnce(&mut BatchHead, &mut [u8])) {
    let (at, mut head) = log.batches[nth];
    let salt = log.head().salt;
    let file = log.file();
    let body_at = at as usize + BATCH_HEAD_BYTES;
    let body = &mut file[body_at..][..head.body_bytes as usize];
    change(&mut head, body);
    head.body_crc = crc32c::crc32c(body);
    file[at as usize..body_at].copy_from_slice(&head.encode(salt, at));
}

/// The first event ends behind all of them.
fn end_too_far(_: &mut BatchHead, body: &mut [u8]) {
    body[..4].copy_from_slice(&u32::MAX.to_le_bytes());
}

/// There is one more than there are.
fn one_too_many(head: &mut BatchHead, _: &mut [u8]) {
    head.count += 1;
}

fn recovery_fault(files: &mut MemoryFiles) -> String {
    let mut recovery = Recovery::open(files, 1, &Settings::default(), [9; 16], NOW_MS).unwrap();
    loop {
        match recovery.step(|_| {}) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was passed over"),
            Err(fault) => return fault.to_string(),
        }
    }
}

#[test]
fn events_that_make_no_sense_are_damage() {
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    for first in [1, 4, 7] {
        log.append(0, first, 3);
    }
    spoil(&mut log, 2, end_too_far);
    let (at, head) = log.batches[2];
    let bad = |bad: &Bad| (bad.at, bad.end, bad.head.map(|head| head.kind));
    let expected = (at, at + head.bytes(), Some(Kind::Events));
    let mut lost = Vec::new();
    let mut taken = Vec::new();
    let take = |_, stored: crate::log::Stored| {
        taken.push(stored.first);
        std::io::Result::Ok(true)
    };
    assert!(
        read_events(
            &log.files,
            SECRET,
            log.id(),
            |_, _, _| true,
            take,
            |found| lost.push(bad(&found))
        )
        .unwrap()
    );
    assert_eq!((taken, lost), (vec![1, 7], vec![expected]));
    let found = survey(&log.files, true, |_| {}).unwrap();
    assert_eq!(
        found.segments[0].damage.iter().map(bad).collect::<Vec<_>>(),
        [expected]
    );
    for _ in 0..2 {
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert_eq!(found.holes, [hole(4, 6, HoleCause::Damaged)]);
        assert_eq!(found.last, 9);
        assert_eq!(found.extents.len(), 1);
    }
}

#[test]
fn cursors_that_make_no_sense_are_lost() {
    for is_sealed in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        log.append(0, 1, 3);
        log.write(|writer| vec![writer.cursors(0, &[cursor("a", 2)])]);
        log.append(0, 4, 3);
        spoil(&mut log, 2, one_too_many);
        if is_sealed {
            log.seal(true);
        }
        let id = log.id();
        for _ in 0..2 {
            let shares = recover(&mut log.files, 1);
            let found = partition(&shares, 0);
            assert_eq!(found.cursors, []);
            let lost = found.cursors_lost.map(|lost| (lost.written_ms, lost.segment));
            assert_eq!(lost, Some((NOW_MS, id)), "sealed: {is_sealed}");
        }
    }
}

#[test]
fn carried_rows_that_make_no_sense_are_damage() {
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 9, 10)], 0);
    let kept = Kept {
        offset: 4,
        time_ms: NOW_MS,
        event: event("t", 4, Some("k"), &[1]).into(),
    };
    log.write(|writer| vec![writer.kept(0, Class::default(), std::slice::from_ref(&kept))]);
    log.append(0, 10, 3);
    spoil(&mut log, 1, end_too_far);
    let found = survey(&log.files, true, |_| {}).unwrap();
    let kinds: Vec<_> = found.segments[0]
        .damage
        .iter()
        .map(|bad| bad.head.map(|head| head.kind))
        .collect();
    assert_eq!(kinds, [Some(Kind::Kept)]);
}

#[test]
fn where_partitions_stand_is_not_passed_over() {
    for of_bases in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        let removed = Removed {
            partition: 0,
            first: 1,
            last: 2,
        };
        log.write(|writer| vec![writer.removed(&[removed])]);
        log.append(0, 3, 3);
        spoil(&mut log, if of_bases { 0 } else { 1 }, one_too_many);
        let fault = recovery_fault(&mut log.files);
        assert!(
            fault.contains(&log.id().name()) && fault.contains("known way"),
            "{fault}"
        );
    }
}
