//! What each start is: its epoch, and where offsets go on.

use super::*;

#[test]
fn an_empty_directory_becomes_a_log() {
    let mut files = MemoryFiles::default();
    let settings = Settings {
        partitions: 5,
        ..Settings::default()
    };
    let recovery = Recovery::open(&mut files, 2, &settings, [9; 16], NOW_MS).unwrap();
    assert!(recovery.is_new() && recovery.was_clean() && recovery.partitions() == 5);
    drop(recovery);
    let shares = recover_with(&mut files, 2, &settings);
    let numbers = |share: &Recovered| {
        let partitions = share.partitions.iter();
        partitions.map(|found| found.partition).collect::<Vec<_>>()
    };
    assert_eq!(
        (numbers(&shares[0]), numbers(&shares[1])),
        (vec![0, 2, 4], vec![1, 3])
    );
    for share in &shares {
        assert_eq!((share.next_number, share.segments.len()), (1, 0));
        for found in &share.partitions {
            assert_eq!((found.last, found.first(), found.removed), (0, 1, 0));
        }
    }
    let meta = Meta::read(&files).unwrap().unwrap();
    assert_eq!((meta.starts, meta.cores, meta.is_clean), (2, 2, false));
    assert_eq!(shares[0].epoch, meta.epoch());
}

#[test]
fn offsets_go_on_densely_after_a_clean_stop_and_jump_after_a_crash() {
    for is_last in [true, false] {
        let mut log = Written::new(4, 1);
        log.segment(&[base(0, 0, 1), base(1, 0, 1), base(2, 0, 1), base(3, 0, 1)], 0);
        log.append(0, 1, 3);
        log.append(2, 1, 7);
        log.seal(is_last);
        let shares = recover(&mut log.files, 1);
        let next = |last| {
            if is_last {
                last + 1
            } else {
                offset_after_crash(last)
            }
        };
        for (number, last) in [(0, 3), (1, 0), (2, 7), (3, 0)] {
            let found = partition(&shares, number);
            assert_eq!((found.last, found.next), (last, next(last)));
            assert_eq!(found.holes, []);
        }
        // Nothing was appended in this start, and it crashed: what it may have given away is not given again.
        let shares = recover(&mut log.files, 1);
        let again = partition(&shares, 0);
        assert_eq!(again.next, offset_after_crash(next(3) - 1));
        assert_eq!((again.last, again.first(), again.holes.len()), (3, 1, 0));
        // It was stopped in good order: as it was.
        Meta::mark_clean(&mut log.files).unwrap();
        let once_more = recover(&mut log.files, 1);
        assert_eq!(partition(&once_more, 0).next, again.next);
        // Offsets that never were are no hole.
        log.started();
        log.segment(&[base(0, 3, again.next)], 0);
        log.append(0, again.next, 2);
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert_eq!(found.holes, []);
        let expected = [1, 2, 3, again.next, again.next + 1];
        assert_eq!(offsets(&log.files, found), expected);
    }
}

#[test]
fn what_a_crashed_start_may_have_given_away_unwritten_is_not_given_again() {
    let mut files = MemoryFiles::default();
    let mut given = BTreeSet::new();
    for _ in 0..4 {
        let shares = recover(&mut files, 1);
        assert!(given.insert(partition(&shares, 0).next), "{given:?}");
        // Up to 900,000 events at level memory, and power loss before any was written.
    }
    assert!(given.into_iter().is_sorted_by(|one, other| other - one > 900_000));
}

#[test]
fn what_a_segment_was_to_begin_with_may_have_been_given_away() {
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 3, 1_000_001)], 0);
    let shares = recover(&mut log.files, 1);
    assert!(partition(&shares, 0).next > 1_000_000 + 900_000);
}

#[test]
fn epochs_grow_with_each_start_and_name_the_directory() {
    let mut files = MemoryFiles::default();
    let epochs: Vec<u64> = (0..3).map(|_| recover(&mut files, 1)[0].epoch).collect();
    assert!(epochs.is_sorted() && epochs[0] < epochs[2] && epochs[2] < 1 << 63);
    assert_eq!(epochs[0] >> 20, epochs[2] >> 20);
    assert_eq!(
        epochs
            .iter()
            .map(|epoch| Meta::start_of(*epoch))
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let mut meta = Meta::read(&files).unwrap().unwrap();
    meta.starts = (1 << 20) - 1;
    meta.write(&mut files).unwrap();
    let after_a_million = recover(&mut files, 1)[0].epoch;
    assert!(after_a_million >> 20 == (epochs[0] >> 20) + 1 && Meta::start_of(after_a_million) == 2);
}

#[test]
fn a_restored_copy_is_another_directory() {
    let mut log = Written::new(2, 1);
    log.segment(&[base(0, 0, 1), base(1, 0, 1)], 1 << 14);
    log.append(0, 1, 3);
    let torn_at = log.at() as usize;
    log.append(0, 4, 5);
    // As it was in the middle of a write.
    log.file()[torn_at + 100..].fill(0);
    let before = recover(&mut log.files.clone(), 1)[0].epoch;
    for changes in 0.. {
        let mut files = log.files.clone();
        files.0.insert(RESTORED.to_owned(), Vec::new());
        let mut cut = closing::Cut {
            files: &mut files,
            left: changes,
            kept: (0, 0),
            is_full: false,
        };
        if let Ok(mut recovery) = Recovery::open(&mut cut, 1, &Settings::default(), [9; 16], NOW_MS) {
            assert!(recovery.is_restored());
            while let Ok(Some(_)) = recovery.step(|_| {}) {}
        }
        let is_done = cut.left > 0;
        let shares = recover(&mut files, 1);
        let found = partition(&shares, 0);
        assert_eq!(
            (&*found.holes, found.last),
            (&[][..], 3),
            "what is torn is no damage"
        );
        assert!(
            shares[0].epoch >> 20 > before >> 20,
            "what the original gave out is unknown"
        );
        assert!(!files.0.contains_key(RESTORED));
        let again = recover(&mut files, 1)[0].epoch;
        assert_eq!(again, shares[0].epoch + 1, "and that is all");
        if is_done {
            break;
        }
    }
    // Two copies do not become the same one.
    let ids = [[3; 16], [4; 16]].map(|random| {
        let mut files = log.files.clone();
        files.0.insert(RESTORED.to_owned(), Vec::new());
        let recovery = Recovery::open(&mut files, 1, &Settings::default(), random, NOW_MS).unwrap();
        recovery.epoch() >> 20
    });
    assert_ne!(ids[0], ids[1]);
}
