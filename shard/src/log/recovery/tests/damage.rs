//! What is cut off, what is told as damaged, and what cannot be read; the rest is served.

use super::*;

#[test]
fn a_log_is_recovered_to_the_last_whole_batch_and_the_rest_is_cut() {
    let mut log = Written::new(2, 1);
    log.segment(&[base(0, 0, 1), base(1, 0, 1)], 1 << 16);
    log.append(0, 1, 3);
    log.append(1, 1, 2);
    let torn_at = log.at();
    log.append(0, 4, 5);
    log.file()[torn_at as usize + 100..].fill(0);
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!((found.last, found.next), (3, 1_000_001));
    assert_eq!(
        (offsets(&log.files, found), &*found.holes),
        (vec![1, 2, 3], &[][..])
    );
    let segment = &shares[0].segments[0];
    let end = log.file_bytes();
    assert_eq!(
        (segment.bytes, segment.is_sealed, &*segment.partitions),
        (end as u64, true, &[0, 1][..])
    );
    assert_eq!(segment.newest_ms, NOW_MS);
    let salt = log.head().salt;
    let behind = BatchHead::decode(&log.file()[torn_at as usize..], salt, torn_at);
    assert_eq!(
        behind.map(|head| head.kind),
        Ok(Kind::Footer),
        "what does not count was cut off"
    );
    assert_eq!(shares[0].next_number, 2);
    // What was recovered once and is not there now was lost, and nothing more is cut.
    let last = log.batches[2].0 as usize;
    log.file()[last + BATCH_HEAD_BYTES] ^= 1;
    log.file()[end - 1] ^= 1;
    let shares = recover(&mut log.files, 1);
    assert_eq!(partition(&shares, 1).holes, [hole(1, 2, HoleCause::Damaged)]);
    assert_eq!(log.file_bytes(), end);
}

#[test]
fn damage_is_named_exactly_and_the_rest_is_served() {
    for is_sealed in [true, false] {
        for (byte, is_head_known) in [(BATCH_HEAD_BYTES + 30, true), (8, false)] {
            let mut log = Written::new(2, 1);
            log.segment(&[base(0, 0, 1), base(1, 0, 1)], 0);
            for first in [1, 11, 21] {
                log.append(0, first, 10);
                log.append(1, first, 10);
            }
            let at = log.batches[3].0 as usize;
            if is_sealed {
                log.seal(true);
            }
            log.file()[at + byte] ^= 0x10;
            if is_sealed {
                // The bytes behind a good footer are not read at a start: they are checked when they are served.
                let end = log.file_bytes();
                log.file()[end - 1] ^= 1;
            }
            let shares = recover(&mut log.files, 1);
            let found = partition(&shares, 0);
            assert_eq!(
                found.holes,
                [hole(11, 20, HoleCause::Damaged)],
                "{is_sealed} {is_head_known}"
            );
            let expected: Vec<u64> = (1..=10).chain(21..=30).collect();
            assert_eq!(offsets(&log.files, found), expected);
            assert_eq!((found.last, partition(&shares, 1).holes.len()), (30, 0));
            assert_eq!(offsets(&log.files, partition(&shares, 1)).len(), 30);
            // Who knows what the lost bytes held: as many offsets as fit are passed by, if it crashed.
            assert!(found.next > 30);
        }
    }
}

#[test]
fn the_end_of_a_segment_is_known_from_the_next_one() {
    // The last batch of a segment is lost, head and all; nothing in the segment says that it was there.
    let mut log = Written::new(2, 1);
    log.segment(&[base(0, 0, 1), base(1, 0, 1)], 0);
    log.append(0, 1, 10);
    log.append(1, 1, 5);
    let (lost, _) = log.batches[2];
    log.file().truncate(lost as usize);
    log.segment(&[base(0, 10, 11), base(1, 5, 6)], 0);
    log.append(1, 6, 1);
    let shares = recover(&mut log.files, 1);
    assert_eq!(partition(&shares, 1).holes, [hole(1, 5, HoleCause::Damaged)]);
    assert_eq!(offsets(&log.files, partition(&shares, 1)), [6]);
    assert_eq!(offsets(&log.files, partition(&shares, 0)).len(), 10);
}

#[test]
fn a_file_that_is_missing_in_the_middle_is_damage_and_one_at_the_begin_was_removed() {
    let mut log = Written::new(1, 1);
    for first in [1, 11, 21, 31] {
        log.segment(&[base(0, first - 1, first)], 0);
        log.append(0, first, 10);
        log.seal(first == 31);
    }
    let files = log.files.clone();
    let name = |number| SegmentId { core: 0, number }.name();
    log.files.0.remove(&name(2));
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!(
        (&*found.holes, found.removed),
        (&[hole(11, 20, HoleCause::Damaged)][..], 0)
    );

    log.files = files.clone();
    log.files.0.remove(&name(1));
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!((&*found.holes, found.removed, found.first()), (&[][..], 10, 11));

    // All of them: offsets go on nonetheless.
    log.files = files;
    recover(&mut log.files, 1);
    log.files.0.retain(|name, _| name == META || name == META_COPY);
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!((found.last, found.first(), found.removed), (40, 41, 40));
    assert!(found.next > 40);
}

#[test]
fn a_sector_that_cannot_be_read_costs_what_is_in_it_and_nothing_else() {
    // Segments of more than a sector, so that head, events, cursors and footer stand in different ones.
    let mut log = Written::new(2, 2);
    for core in [0, 1] {
        log.core(core);
        for first in [1, 401] {
            log.segment(&[base(core, first - 1, first)], 0);
            log.append(core, first, 100);
            log.append(core, first + 100, 300);
            if first == 1 {
                log.write(|writer| vec![writer.cursors(core, &[cursor("a", 3)])]);
            }
            log.seal(first == 401);
        }
    }
    recover(&mut log.files, 2);
    let id = SegmentId { core: 0, number: 1 };
    let file_bytes = log.files.length(&id.name()).unwrap();
    for cores in [2, 3] {
        for at in (0..file_bytes).step_by(512).chain([file_bytes - 1]) {
            let mut files = log.files.clone();
            let mut bad = Unreadable {
                files: &mut files,
                name: id.name(),
                bytes: at..at + 1,
            };
            let mut recovery =
                Recovery::open(&mut bad, cores, &Settings::default(), [9; 16], NOW_MS).unwrap();
            let mut shares = Vec::new();
            while let Some(share) = recovery.step(|_| {}).expect("the rest can be read") {
                shares.push(share);
            }
            drop(recovery);
            assert_eq!(partition(&shares, 1).holes, []);
            assert_eq!(partition(&shares, 1).cursors.len(), 1);
            let found = partition(&shares, 0);
            let lost: u64 = found.holes.iter().map(|hole| hole.last - hole.first + 1).sum();
            assert!(lost == 0 || lost == 100 || lost == 300, "{at}: {:?}", found.holes);
            assert_eq!(found.last, 800);
            // Nothing of it was thrown away: a disk may give it tomorrow.
            let shares = recover(&mut files, cores);
            let found = partition(&shares, 0);
            assert_eq!((found.holes.len(), found.cursors.len()), (0, 1), "{at}");
            assert_eq!(offsets(&files, found).len(), 800, "{at}");
        }
    }
}

#[test]
fn one_core_whose_files_cannot_be_read_does_not_stop_the_others() {
    let mut log = Written::new(2, 2);
    for core in [0, 1] {
        log.core(core);
        log.segment(&[base(core, 0, 1)], 0);
        for first in (1..1_000).step_by(10) {
            log.append(core, first, 10);
            // Many sectors.
            log.append_as(
                core,
                Class::default(),
                first + 10_000,
                &events(&"t.0".repeat(20), first, 100),
            );
        }
    }
    let id = SegmentId { core: 0, number: 1 };
    let mut files = log.files.clone();
    let mut bad = Unreadable {
        bytes: 0..files.length(&id.name()).unwrap(),
        files: &mut files,
        name: id.name(),
    };
    let mut recovery = Recovery::open(&mut bad, 2, &Settings::default(), [9; 16], NOW_MS).unwrap();
    // Its head is needed to know that each stream is of one core.
    assert!(matches!(recovery.step(|_| {}), Err(RecoveryFault::Disk { .. })));
    recovery.files.bytes = 0..0;
    let mut cores = Vec::new();
    while let Some(share) = recovery.step(|_| {}).unwrap() {
        cores.push(share.core);
    }
    cores.sort_unstable();
    assert_eq!(cores, [0, 1]);
}
