//! Records of cursors that are lost, and ends of segments that nobody knows: whoever misses something is told.

use super::*;

#[test]
fn lost_records_of_cursors_are_told() {
    // Of a batch of which the head is whole it is known whose it was, and when.
    for (byte, is_head_known) in [(BATCH_HEAD_BYTES + 9, true), (8, false)] {
        for is_sealed in [true, false] {
            let mut log = Written::new(4, 2);
            log.segment(&[base(0, 0, 1), base(2, 0, 1)], 0);
            log.append(0, 1, 3);
            log.append(2, 1, 3);
            log.write(|writer| vec![writer.cursors(0, &[cursor("a", 2)])]);
            log.append(0, 4, 3);
            let (at, _) = log.batches[3];
            if is_sealed {
                log.seal(true);
            }
            let id = log.id();
            let whole = log.files.clone();
            log.file()[at as usize + byte] ^= 1;
            let damaged = log.files.0[&id.name()].clone();
            for _ in 0..2 {
                let shares = recover(&mut log.files, 2);
                let lost = |number| partition(&shares, number).cursors_lost;
                let found = Some(CursorsLost {
                    written_ms: NOW_MS,
                    segment: id,
                });
                assert_eq!(lost(0), found, "sealed: {is_sealed}, head: {is_head_known}");
                assert_eq!(partition(&shares, 0).cursors, []);
                assert_eq!(
                    lost(2),
                    found.filter(|_| !is_head_known),
                    "it might have been its"
                );
                assert_eq!((lost(1), lost(3)), (None, None), "they are another stream's");
            }
            // Still known when retention has removed the segment; and not told any more when it is whole again.
            log.files.0.remove(&id.name());
            let shares = recover(&mut log.files, 2);
            assert!(partition(&shares, 0).cursors_lost.is_some());
            log.files.0.insert(id.name(), damaged);
            recover(&mut log.files, 2);
            log.files.0.insert(id.name(), whole.0[&id.name()].clone());
            let shares = recover(&mut log.files, 2);
            assert_eq!(partition(&shares, 0).cursors_lost, None);
            assert_eq!(partition(&shares, 0).cursors.len(), 1);
        }
    }
}

#[test]
fn a_segment_of_lost_cursors_alone_stays_and_its_number_is_not_given_again() {
    // Of a quiet life: somebody caught up and acknowledged, and nothing was published.
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append(0, 1, 3);
    log.seal(true);
    log.segment(&[base(0, 3, 4)], 0);
    log.write(|writer| vec![writer.cursors(0, &[cursor("a", 2)])]);
    let (at, head) = log.batches[1];
    log.seal(true);
    let id = log.id();
    let is_told = |shares: &[Recovered], files: &MemoryFiles| {
        let found = partition(shares, 0);
        assert_eq!(found.cursors, []);
        assert_eq!(found.cursors_lost.map(|lost| lost.segment), Some(id));
        let segment = shares[0].segments.iter().find(|segment| segment.id == id);
        assert!(
            segment.is_some_and(|segment| segment.is_damaged),
            "it goes in its time"
        );
        assert!(
            files.0.contains_key(&id.name()),
            "tomorrow the disk may give what it does not give today"
        );
    };
    let mut shares = Vec::new();
    let mut bad = Unreadable {
        files: &mut log.files,
        name: id.name(),
        bytes: at..at + head.bytes(),
    };
    let mut recovery = Recovery::open(&mut bad, 1, &Settings::default(), [9; 16], NOW_MS).unwrap();
    while let Some(share) = recovery.step(|_| {}).expect("the rest can be read") {
        shares.push(share);
    }
    drop(recovery);
    is_told(&shares, &log.files);
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!((found.cursors.len(), found.cursors_lost), (1, None));
    // What is not what was written stays as well, for whoever wants to look at it.
    log.file()[at as usize + BATCH_HEAD_BYTES + 9] ^= 1;
    for _ in 0..2 {
        let shares = recover(&mut log.files, 1);
        is_told(&shares, &log.files);
    }
    // When retention has removed it, no other segment may be taken for it: what was lost would be forgotten.
    log.files.0.remove(&id.name());
    for _ in 0..2 {
        let shares = recover(&mut log.files, 1);
        assert!(partition(&shares, 0).cursors_lost.is_some());
        assert_eq!(shares[0].next_number, id.number + 1);
    }
}

#[test]
fn damage_where_no_cursors_were_loses_none() {
    // The footer is there and lists all batches of cursors, so what is lost was none, even where it has no head.
    let once = Class {
        once: true,
        ..Class::default()
    };
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append_as(0, once, 1, &events("t", 1, 3));
    log.write(|writer| vec![writer.cursors(0, &[cursor("a", 2)])]);
    let (at, _) = log.batches[1];
    log.seal(true);
    log.file()[at as usize + 8] ^= 1;
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!(found.holes, [hole(1, 3, HoleCause::Damaged)]);
    assert_eq!((found.cursors.len(), found.cursors_lost), (1, None));
}

#[test]
fn an_end_that_nobody_knows_is_told_to_whoever_comes_by() {
    let mut log = Written::new(4, 2);
    log.segment(&[base(0, 0, 1), base(2, 0, 1)], 0);
    log.append(0, 1, 3);
    log.append(2, 1, 3);
    log.append(0, 4, 3);
    log.append(2, 4, 3);
    log.segment(&[base(0, 6, 7), base(2, 6, 7)], 0);
    log.append(2, 7, 3);
    log.append(0, 7, 3);
    log.append(2, 10, 3);
    // Partition 0's only batch there is lost, head and all; what comes behind it says that it was on the disk.
    let (at, _) = log.batches[2];
    log.file()[at as usize + 8] ^= 1;
    let mut told = None;
    let mut next = (0, 0);
    for _ in 0..3 {
        let shares = recover(&mut log.files, 2);
        let found = partition(&shares, 0);
        let told = *told.get_or_insert(found.holes[0]);
        assert_eq!(
            (told.first, told.cause, found.last),
            (7, HoleCause::Damaged, told.last)
        );
        assert_eq!(found.holes, [told], "at each start");
        assert!(told.last < found.next);
        let end = |number| partition(&shares, number).last;
        assert_eq!(
            (end(1), end(2), end(3)),
            (0, 12, 0),
            "what stands behind it is known"
        );
        next = (found.next, partition(&shares, 2).next);
    }
    // And when events have come since, and it ended well.
    let told = told.expect("it was");
    log.started();
    log.segment(&[base(0, told.last, next.0), base(2, 12, next.1)], 0);
    log.append(0, next.0, 2);
    log.seal(true);
    let shares = recover(&mut log.files, 2);
    assert_eq!(partition(&shares, 0).holes, [told]);
}

#[test]
fn damage_that_may_have_held_rows_is_told_apart() {
    let table = Class {
        retain: true,
        ..Class::default()
    };
    // Of a batch of rows; of one that held none; of one of which nobody knows; of rows that were carried on.
    for (nth, byte, told, carried) in [
        (1, BATCH_HEAD_BYTES + 9, Some((1, 1)), None),
        (2, BATCH_HEAD_BYTES + 9, None, None),
        (2, 8, Some((2, 3)), None),
        (3, BATCH_HEAD_BYTES + 9, None, Some(1)),
    ] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        let row = event("t", 1, Some("k"), &[1]);
        log.append_as(0, table, 1, &run([row.clone()]));
        log.append(0, 2, 2);
        let kept = Kept {
            offset: 1,
            time_ms: 7,
            event: row.into(),
        };
        log.write(|writer| vec![writer.kept(0, table, &[kept])]);
        log.append(0, 4, 1);
        log.append(0, 5, 1);
        let (at, _) = log.batches[nth];
        log.file()[at as usize + byte] ^= 1;
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert_eq!(found.table_damage, told, "batch {nth}, byte {byte}");
        let lost = found.carried_damage.iter();
        let lost: Vec<(u64, SegmentId)> = lost.map(|lost| (lost.offset, lost.segment)).collect();
        let carried: Vec<(u64, SegmentId)> = carried.map(|offset| (offset, log.id())).into_iter().collect();
        assert_eq!(lost, carried, "batch {nth}, byte {byte}");
    }
}

#[test]
fn damaged_rows_of_another_core_are_over_when_their_segment_is() {
    let table = Class {
        retain: true,
        ..Class::default()
    };
    let mut log = Written::new(2, 1);
    log.segment(&[base(0, 0, 1), base(1, 1, 2)], 0);
    let gone = Removed {
        partition: 1,
        first: 1,
        last: 1,
    };
    log.write(|writer| vec![writer.removed(&[gone])]);
    let kept = Kept {
        offset: 1,
        time_ms: 7,
        event: event("t", 1, Some("k"), &[1]).into(),
    };
    log.write(|writer| vec![writer.kept(1, table, &[kept])]);
    let (at, _) = log.batches[2];
    log.append(0, 1, 3);
    log.file()[at as usize + BATCH_HEAD_BYTES + 9] ^= 1;
    let mut shares = recover(&mut log.files, 2);
    // Nothing but these rows is in it of what the second core looks after.
    let second = shares.pop().unwrap();
    assert_eq!(second.segments, []);
    let settings = std::sync::Arc::new(Settings::default());
    let mut owner = crate::log::Log::new(1, 2, Some(settings), &Default::default());
    owner.handle_recovered(crate::log::RecoveredLog::new(second, 7));
    assert_eq!(owner.table_damage(1, "t"), Some((1, 1)));
    for segment in &shares[0].segments {
        segment.claim.give_up();
    }
    assert_eq!(owner.table_damage(1, "t"), None);
}

#[test]
fn a_footer_that_cannot_be_read_is_waited_for_in_the_newest_segment_alone() {
    for (is_clean, is_newest) in [(true, false), (false, false), (false, true)] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        let mut next = 1;
        let mut footers = Vec::new();
        for is_last in [false, true] {
            // So that it stands in sectors of its own.
            while next < 10 || !log.at().is_multiple_of(4096) {
                log.append(0, next, 1);
                next += 1;
            }
            footers.push((log.id(), log.at()));
            log.seal(is_last);
            if !is_last {
                log.segment(&[base(0, next - 1, next)], 0);
            }
        }
        if is_clean {
            Meta::mark_clean(&mut log.files).unwrap();
        }
        let (id, footer_at) = footers[usize::from(is_newest)];
        let whole = log.files.clone();
        let mut bad = Unreadable {
            bytes: footer_at..log.files.length(&id.name()).unwrap(),
            files: &mut log.files,
            name: id.name(),
        };
        let mut recovery = Recovery::open(&mut bad, 1, &Settings::default(), [9; 16], NOW_MS).unwrap();
        let step = recovery.step(|_| {});
        drop(recovery);
        let why = format!("clean: {is_clean}, newest: {is_newest}");
        match step {
            Ok(Some(share)) => {
                assert!(!is_newest, "{why}");
                assert!(share.segments.iter().any(|segment| segment.is_damaged), "{why}");
                let found = partition(std::slice::from_ref(&share), 0);
                assert_eq!((found.last, &*found.holes), (next - 1, &[][..]), "{why}");
                assert!(offsets(&log.files, found).into_iter().eq(1..next), "{why}");
            }
            Err(RecoveryFault::Disk { .. }) => assert!(is_newest, "{why}"),
            other => panic!("{why}: {other:?}"),
        }
        // Tomorrow it can be read, and all of it is there.
        assert_eq!(log.files.0[&id.name()], whole.0[&id.name()], "{why}");
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert_eq!((found.last, &*found.holes), (next - 1, &[][..]), "{why}");
        let segments = &shares[0].segments;
        let is_whole = |segment: &RecoveredSegment| segment.is_sealed && !segment.is_damaged;
        assert!(segments.len() == 2 && segments.iter().all(is_whole), "{why}");
    }
}

#[test]
fn what_was_cut_off_behind_a_stop_in_good_order_is_told_wherever_the_cut_fell() {
    let mut log = Written::new(2, 1);
    log.segment(&[base(0, 0, 1), base(1, 0, 1)], 0);
    let mut ends = Vec::new();
    for nth in 0..4 {
        log.append(0, 1 + 3 * nth, 3);
        ends.push(log.at());
    }
    log.seal(true);
    Meta::mark_clean(&mut log.files).unwrap();
    let (id, footer_at) = (log.id(), ends[3]);
    // Between two batches, in the middle of one, and behind the last.
    let cuts = [
        (ends[1], 6),
        (ends[1] + 1, 6),
        ((ends[1] + ends[2]) / 2, 6),
        (footer_at, 12),
    ];
    for (cut, held) in cuts {
        let mut files = log.files.clone();
        files.truncate(&id.name(), cut).unwrap();
        let mut given = Vec::new();
        // And later starts know it still.
        for _ in 0..3 {
            let shares = recover(&mut files, 1);
            let found = partition(&shares, 0);
            let told = &found.holes;
            assert_eq!(
                told.first().map(|hole| hole.first),
                Some(held + 1),
                "cut at {cut}: {told:?}"
            );
            assert!(
                told.iter().all(|hole| hole.cause == HoleCause::Damaged),
                "cut at {cut}: {told:?}"
            );
            let last = told.last().map_or(0, |hole| hole.last);
            assert!(last >= 12 && last < found.next, "cut at {cut}: up to {last}");
            assert_eq!(
                offsets(&files, found),
                (1..=held).collect::<Vec<_>>(),
                "cut at {cut}"
            );
            given.push(found.next);
        }
        assert!(
            given[0] > 12 && given.is_sorted(),
            "no position is given twice: {given:?}"
        );
    }
}
