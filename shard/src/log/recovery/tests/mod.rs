//! What is recovered after every kind of end.

/// Methods of `Files` that the directory behind it does: `files`.
macro_rules! passed_on {
    (names) => {
        fn names(&self) -> std::io::Result<Vec<String>> {
            self.files.names()
        }
    };
    (length) => {
        fn length(&self, name: &str) -> std::io::Result<u64> {
            self.files.length(name)
        }
    };
    (read) => {
        fn read(&self, name: &str, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
            self.files.read(name, at, out)
        }
    };
    (replace) => {
        fn replace(&mut self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
            self.files.replace(name, bytes)
        }
    };
    (truncate) => {
        fn truncate(&mut self, name: &str, bytes: u64) -> std::io::Result<()> {
            self.files.truncate(name, bytes)
        }
    };
    (write) => {
        fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> std::io::Result<()> {
            self.files.write(name, at, bytes)
        }
    };
    (remove) => {
        fn remove(&mut self, name: &str) -> std::io::Result<()> {
            self.files.remove(name)
        }
    };
    ($($method:ident)+) => {
        $(passed_on!($method);)+
    };
}

mod closing;
mod copies;
mod lost;
mod promises;

use std::collections::BTreeSet;

use fluxar_protocol::Id;

use super::*;
use crate::log::{
    CursorName, CursorState,
    class::Class,
    files::MemoryFiles,
    format::{
        BATCH_HEAD_BYTES, Base, BatchHead, CursorEntry, Kept, Kind, Removed, offset_after_crash, row_of,
        tests::written::{NOW_MS, SECRET, Written, event, events, read_held, run},
    },
};

fn base(partition: u16, last: u64, next: u64) -> Base {
    Base {
        partition,
        last,
        next,
    }
}

/// Recovers everything, as a start with so many cores does.
fn recover(files: &mut MemoryFiles, cores: u16) -> Vec<Recovered> {
    recover_with(files, cores, &Settings::default())
}

fn recover_with(files: &mut MemoryFiles, cores: u16, settings: &Settings) -> Vec<Recovered> {
    let mut recovery = Recovery::open(files, cores, settings, [9; 16], NOW_MS).unwrap();
    let mut told = Progress {
        done_bytes: 0,
        all_bytes: recovery.progress().all_bytes,
    };
    let mut shares = Vec::new();
    while let Some(share) = recovery
        .step(|progress| {
            assert!(progress.done_bytes >= told.done_bytes && progress.all_bytes == told.all_bytes);
            told = progress;
        })
        .unwrap()
    {
        assert_eq!(share.core, shares.len() as u16);
        shares.push(share);
    }
    assert_eq!(shares.len(), usize::from(cores));
    assert_eq!(told.done_bytes, told.all_bytes);
    shares
}

fn partition(shares: &[Recovered], partition: u16) -> &RecoveredPartition {
    let mut found = shares.iter().flat_map(|share| &share.partitions);
    found
        .find(|found| found.partition == partition)
        .expect("each partition is somebody's")
}

fn offsets(files: &MemoryFiles, found: &RecoveredPartition) -> Vec<u64> {
    read_held(files, found)
        .into_keys()
        .map(|(_, offset)| offset)
        .collect()
}

fn hole(first: u64, last: u64, cause: HoleCause) -> Hole {
    Hole { first, last, cause }
}

fn name(name: &str) -> CursorName {
    CursorName {
        principal: "".into(),
        name: name.into(),
        pattern: "t.>".into(),
        group: "".into(),
    }
}

fn cursor(named: &str, acked: u64) -> CursorEntry {
    CursorEntry {
        name: name(named),
        state: Some(CursorState {
            acked,
            beyond: Vec::new(),
        }),
        used_ms: NOW_MS,
    }
}

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

/// Files of which some bytes cannot be read.
struct Unreadable<'a> {
    files: &'a mut MemoryFiles,
    name: String,
    bytes: std::ops::Range<u64>,
}

impl Files for Unreadable<'_> {
    passed_on!(names length replace truncate write remove);

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        if *name == self.name && at < self.bytes.end && at + out.len() as u64 > self.bytes.start {
            return Err(io::Error::other("a bad sector"));
        }
        self.files.read(name, at, out)
    }
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

#[test]
fn the_newest_cursor_counts_across_segments_and_streams() {
    for is_sealed in [true, false] {
        let mut log = Written::new(2, 2);
        log.core(1);
        log.segment(&[base(1, 0, 1)], 0);
        log.append(1, 1, 9);
        log.write(|writer| vec![writer.cursors(1, &[cursor("a", 3), cursor("b", 2), cursor("c", 1)])]);
        log.write(|writer| vec![writer.cursors(1, &[cursor("a", 5)])]);
        if is_sealed {
            log.seal(true);
        }
        log.core(0);
        recover(&mut log.files, 1);
        log.started();
        log.segment(&[base(0, 0, 1), base(1, 9, 10)], 0);
        let forgotten = CursorEntry {
            state: None,
            ..cursor("b", 0)
        };
        log.write(|writer| vec![writer.cursors(1, &[forgotten, cursor("c", 7)])]);
        log.write(|writer| vec![writer.cursors(0, &[cursor("a", 1)])]);
        if is_sealed {
            log.seal(true);
        }
        let shares = recover(&mut log.files, 1);
        let of = |number| {
            let cursors = partition(&shares, number).cursors.iter();
            cursors
                .map(|found| (found.entry.clone(), found.segment))
                .collect::<Vec<_>>()
        };
        let (old, new) = (SegmentId { core: 1, number: 1 }, SegmentId { core: 0, number: 1 });
        assert_eq!(of(1), [(cursor("a", 5), old), (cursor("c", 7), new)]);
        assert_eq!(of(0), [(cursor("a", 1), new)]);
    }
}

#[test]
fn retained_rows_are_the_newest_of_their_keys() {
    let table = Class {
        retain: true,
        ..Class::default()
    };
    let set = |key: &str, number, payload| event("t.a", number, Some(key), &[payload]);
    for is_sealed in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        log.append_as(
            0,
            table,
            1,
            &run([set("x", 1, 1), set("y", 2, 1), set("z", 3, 1)]),
        );
        log.append_as(
            0,
            table,
            4,
            &run([event("t.b", 4, None, &[1]), set("x", 5, 0xf6)]),
        );
        if is_sealed {
            log.seal(false);
        }
        log.segment(&[base(0, 5, 6)], 0);
        log.append_as(0, table, 6, &run([set("z", 6, 2), set("x", 7, 2)]));
        log.append_as(0, table, 8, &run([set("x", 8, 0xf6)]));
        // Carried on from a segment that is removed.
        let old = event("t.c", 0, None, &[5]);
        let kept = Kept {
            offset: 2,
            time_ms: 77,
            event: set("y", 2, 1).into(),
        };
        let gone = Kept {
            offset: 3,
            time_ms: 78,
            event: old.into(),
        };
        log.write(|writer| vec![writer.kept(0, table, &[kept, gone])]);
        let shares = recover(&mut log.files, 1);
        let rows = &partition(&shares, 0).rows;
        let found: Vec<_> = rows
            .iter()
            .map(|row| (&*row.topic, &*row.key, row.offset, row.segment.number))
            .collect();
        let expected = [
            ("t.a", &b"\x61y"[..], 2, 2),
            ("t.c", &b""[..], 3, 2),
            ("t.b", &b""[..], 4, 1),
            ("t.a", &b"\x61z"[..], 6, 2),
        ];
        assert_eq!(found, expected, "sealed: {is_sealed}");
        assert_eq!(rows[0].time_ms, 77);
        // Where it says, the row is.
        let row = &rows[3];
        let file = bytes::Bytes::from(log.files.0[&row.segment.name()].clone());
        let salt = crate::log::format::salt_of(SECRET, row.segment);
        let head = crate::log::format::BatchHead::decode(&file[row.at as usize..], salt, row.at).unwrap();
        let body = crate::log::format::Body::check(head, &file.slice(row.at as usize + BATCH_HEAD_BYTES..));
        let stored = body.unwrap().events().unwrap().unwrap();
        let event = row_of(stored.events.get(row.index as usize)).unwrap();
        assert_eq!(
            (event.topic, event.key, event.is_removal),
            ("t.a", &b"\x61z"[..], false)
        );
    }
}

#[test]
fn young_ids_are_read_back_and_old_ones_are_not() {
    let once = Class {
        once: true,
        ..Class::default()
    };
    let settings = Settings::default();
    let old_ms = NOW_MS - u64::from(settings.once_ms) - 1;
    for is_sealed in [true, false] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        for (first, class, time_ms) in [
            (1, once, old_ms),
            (3, Class::default(), NOW_MS),
            (5, once, NOW_MS),
        ] {
            log.write(|writer| vec![writer.events(0, class, first, time_ms, [&events("x", first, 2)])]);
        }
        if is_sealed {
            log.seal(true);
        }
        let shares = recover_with(&mut log.files, 1, &settings);
        let found: Vec<_> = shares[0]
            .once
            .iter()
            .map(|once| (once.id, once.offset, once.time_ms))
            .collect();
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Id(id)
        };
        assert_eq!(found, [(id(5), 5, NOW_MS), (id(6), 6, NOW_MS)]);
    }
}

#[test]
fn a_directory_that_cannot_be_used_says_why_and_is_left_alone() {
    let open = |files: &mut MemoryFiles| {
        let before = files.clone();
        let fault = Recovery::open(&mut *files, 1, &Settings::default(), [0; 16], NOW_MS).unwrap_err();
        assert_eq!(*files, before);
        fault.to_string()
    };
    let mut log = Written::new(1, 1);
    log.segment(&[], 0);
    log.append(0, 1, 1);
    let files = log.files.clone();

    log.files.0.remove(META);
    log.files.0.remove(META_COPY);
    assert!(open(&mut log.files).contains("no file `meta`"));
    for bit in 0..files.0[META].len() * 8 {
        let mut files = files.clone();
        files.0.remove(META_COPY);
        files.0.get_mut(META).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let opened = Recovery::open(&mut files, 1, &Settings::default(), [0; 16], NOW_MS);
        // The case of a hexadecimal digit of the checksum is no difference; nothing else goes unnoticed.
        if let Ok(recovery) = opened {
            assert_eq!(recovery.before.dir_id, Meta::new([7; 16], 1).dir_id, "bit {bit}");
        }
    }
    let mut later = files.clone();
    let meta = String::from_utf8(later.0[META].clone()).unwrap();
    let body = meta[..meta.find("crc = ").unwrap()].replace("format = 1", "format = 9");
    let crc = crc32c::crc32c(body.as_bytes());
    later
        .replace(META, format!("{body}crc = {crc:08x}\n").as_bytes())
        .unwrap();
    assert!(open(&mut later).contains("format 9"));
    // And the number of partitions is the directory's, whatever is configured.
    let mut files = files;
    let recovery = Recovery::open(&mut files, 1, &Settings::default(), [0; 16], NOW_MS).unwrap();
    assert_eq!(recovery.partitions(), 1);
}

/// One bad sector is enough to lose a file, and without `meta` nothing of the log can be read.
#[test]
fn a_lost_or_damaged_meta_is_made_good_by_its_copy() {
    let mut log = Written::new(1, 1);
    recover(&mut log.files, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append(0, 1, 3);
    let open = |files: &mut MemoryFiles| {
        let recovery = Recovery::open(&mut *files, 1, &Settings::default(), [0; 16], NOW_MS)?;
        Ok::<_, RecoveryFault>((recovery.epoch(), recovery.meta_fault().map(str::to_owned)))
    };
    let mut undamaged = log.files.clone();
    let (epoch, fault) = open(&mut undamaged).unwrap();
    assert_eq!((fault, &undamaged.0[META]), (None, &undamaged.0[META_COPY]));
    type Harm = fn(&mut MemoryFiles);
    let harms: [(Harm, &str); 3] = [
        (|files| drop(files.0.remove(META)), "missing"),
        (
            |files| files.0.get_mut(META).unwrap()[40] ^= 1,
            "checksum is wrong",
        ),
        (|files| files.0.get_mut(META).unwrap().truncate(10), "last line"),
    ];
    for (harm, why) in harms {
        let mut files = log.files.clone();
        harm(&mut files);
        let (found, fault) = open(&mut files).unwrap();
        assert!(fault.unwrap().contains(why));
        assert_eq!(found, epoch);
        assert_eq!(files, undamaged, "both are whole again");
        let shares = recover(&mut files, 1);
        assert_eq!(offsets(&files, partition(&shares, 0)), [1, 2, 3]);
    }
    // A copy of long ago is none: what happened since is in no file, and offsets would be given twice.
    let mut old = Meta::read(&log.files).unwrap().unwrap();
    old.starts = 0;
    old.write(&mut log.files).unwrap();
    log.files.0.remove(META);
    assert!(matches!(open(&mut log.files), Err(RecoveryFault::MetaDamaged(_))));
}

#[test]
fn an_empty_file_is_no_segment_and_goes() {
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 0);
    log.append(0, 1, 2);
    let id = SegmentId { core: 0, number: 2 };
    log.files.0.insert(id.name(), vec![0; 4096]);
    log.files.0.insert("lost+found".to_owned(), vec![1, 2, 3]);
    let shares = recover(&mut log.files, 1);
    assert_eq!(offsets(&log.files, partition(&shares, 0)), [1, 2]);
    assert_eq!(shares[0].next_number, 3);
    assert!(!log.files.0.contains_key(&id.name()), "nothing was in it");
    assert_eq!(log.files.0["lost+found"], [1, 2, 3]);
}
