//! What several streams hold of one partition, one after the other: once, and without what retention removed.

use super::*;

#[test]
fn events_that_were_written_again_are_held_once() {
    // A write failed: the segment was left, and what was not known to be synced came again, in other batches.
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append(0, 1, 4);
    log.append(0, 5, 4);
    log.append(0, 9, 4);
    log.segment(&[base(0, 4, 5)], 0);
    log.append(0, 5, 6);
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!((found.holes.len(), found.last), (0, 12));
    let held = read_held(&log.files, found);
    assert_eq!(held, log.events);
    let extents: Vec<_> = found
        .extents
        .iter()
        .map(|held| (held.segment.number, held.extent.first, held.extent.last))
        .collect();
    assert_eq!(extents, [(1, 1, 4), (2, 5, 10), (1, 11, 12)]);

    // The first copy is damaged, the second is not: nothing is lost.
    let first = SegmentId { core: 0, number: 1 }.name();
    let file = log.files.0.get_mut(&first).unwrap();
    let at = file.len() - 500;
    file[at] ^= 1;
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    let lost: Vec<_> = found.holes.iter().map(|hole| (hole.first, hole.last)).collect();
    assert!(
        lost.iter().all(|(first, last)| *first > 10 && *last <= 12),
        "{lost:?}"
    );
    assert!(
        offsets(&log.files, found)
            .iter()
            .filter(|offset| **offset <= 10)
            .count()
            == 10
    );
}

#[test]
fn partitions_find_their_new_cores() {
    let mut log = Written::new(6, 2);
    for core in [0, 1] {
        log.core(core);
        let bases: Vec<Base> = (0..6)
            .filter(|at| at % 2 == core)
            .map(|at| base(at, 0, 1))
            .collect();
        log.segment(&bases, 0);
        for at in (0..6).filter(|at| at % 2 == core) {
            log.append(at, 1, 3 + u64::from(at));
        }
        log.seal(true);
    }
    for cores in [1, 3, 5, 2] {
        let shares = recover(&mut log.files, cores);
        for share in &shares {
            for found in &share.partitions {
                assert_eq!(owner_of(found.partition, cores), share.core);
                assert_eq!(found.last, 3 + u64::from(found.partition));
                assert_eq!(offsets(&log.files, found), (1..=found.last).collect::<Vec<_>>());
            }
        }
        // Each segment is looked after by one core.
        let mut segments: Vec<_> = shares
            .iter()
            .flat_map(|share| {
                let segments = share.segments.iter();
                let kept = segments.filter(|segment| segment.keeper(cores) == share.core);
                kept.map(|segment| (segment.id.core, share.core))
            })
            .collect();
        segments.sort_unstable();
        assert_eq!(segments, [(0, 0), (1, 1 % cores)]);
        let numbers: Vec<u64> = shares.iter().map(|share| share.next_number).collect();
        let expected: Vec<u64> = (0..cores).map(|core| if core < 2 { 2 } else { 1 }).collect();
        assert_eq!(numbers, expected);
        Meta::mark_clean(&mut log.files).unwrap();
    }
}

#[test]
fn what_retention_removed_of_a_newer_stream_is_told_from_what_was_lost() {
    // Partition 1 was core 1's, and is core 0's since there is only that; core 0's oldest segment is not there any more.
    for is_noted in [true, false] {
        let mut log = Written::new(2, 2);
        log.core(1);
        log.segment(&[base(1, 0, 1)], 0);
        log.append(1, 1, 4);
        log.write(|writer| vec![writer.cursors(1, &[cursor("a", 2)])]);
        log.seal(true);
        log.core(0);
        recover(&mut log.files, 1);
        log.started();
        for first in [5, 8, 11] {
            log.segment(&[base(0, 0, 1), base(1, first - 1, first)], 0);
            log.append(1, first, 3);
            if is_noted && first == 11 {
                log.write(|writer| vec![writer.cursors(1, &[cursor("b", 3)])]);
                let removed = |last| Removed {
                    partition: 1,
                    first: 1,
                    last,
                };
                log.write(|writer| vec![writer.removed(&[removed(4)])]);
                log.write(|writer| vec![writer.removed(&[removed(7)])]);
            }
            log.seal(first == 11);
        }
        log.files.0.remove(&SegmentId { core: 0, number: 1 }.name());
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 1);
        if !is_noted {
            assert_eq!(found.holes, [hole(5, 7, HoleCause::Damaged)]);
            assert_eq!((found.removed, found.let_go, found.last), (0, 0, 13));
            continue;
        }
        // What its owner had let go of does not come back, nor do the cursors that were to live on elsewhere.
        let check = |found: &RecoveredPartition, files: &MemoryFiles| {
            assert_eq!(found.holes, []);
            assert_eq!(offsets(files, found), (8..=13).collect::<Vec<_>>());
            assert_eq!((found.removed, found.let_go, found.last), (7, 7, 13));
            let cursors: Vec<&str> = found
                .cursors
                .iter()
                .map(|found| &*found.entry.name.name)
                .collect();
            assert_eq!(cursors, ["b"]);
        };
        check(found, &log.files);
        assert!(
            !log.files.0.contains_key(&SegmentId { core: 1, number: 1 }.name()),
            "nobody needs it"
        );
        // Nor when the segment that says so is gone, and with another number of cores.
        for cores in [2, 1, 3] {
            let shares = recover(&mut log.files, cores);
            check(partition(&shares, 1), &log.files);
        }
        log.files.0.retain(|name, _| name == META || name == META_COPY);
        let shares = recover(&mut log.files, 2);
        let found = partition(&shares, 1);
        assert_eq!((&*found.holes, found.removed, found.let_go), (&[][..], 13, 7));
    }
}

#[test]
fn what_was_removed_in_the_middle_stays_removed() {
    // The second copy of some events was damaged when the first was removed: what was written behind them stood there, too.
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append(0, 1, 10);
    log.append(0, 11, 2);
    log.seal(false);
    log.segment(&[base(0, 12, 13)], 0);
    log.append(0, 13, 1);
    let ranges = [(1, 4), (11, 12)].map(|(first, last)| Removed {
        partition: 0,
        first,
        last,
    });
    log.write(|writer| vec![writer.removed(&ranges)]);
    for _ in 0..2 {
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert_eq!(found.holes, [hole(11, 12, HoleCause::Removed)]);
        assert_eq!(offsets(&log.files, found), [5, 6, 7, 8, 9, 10, 13]);
        assert_eq!((found.removed, found.let_go), (4, 4));
    }
}
