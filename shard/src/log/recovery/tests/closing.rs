//! What a crash left open is closed, and a crash while that is done changes nothing.

use std::io;

use super::*;
use crate::log::files::Files;

/// A directory of which the power fails after so many changes; of a write that is cut off, a part is there.
pub(super) struct Cut<'a> {
    pub(super) files: &'a mut MemoryFiles,
    pub(super) left: usize,
    /// Of a write that is cut off: from which byte to which, of its length in eighths.
    pub(super) kept: (usize, usize),
    /// There is no space: writes are refused, and the rest goes on.
    pub(super) is_full: bool,
}

impl Cut<'_> {
    fn change(&mut self) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("no power"))?;
        Ok(())
    }
}

impl Files for Cut<'_> {
    passed_on!(names length read);

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.change()?;
        self.files.replace(name, bytes)
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.change()?;
        self.files.truncate(name, bytes)
    }

    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.is_full && self.left > 0 {
            self.left -= 1;
            return self.files.write(name, at, bytes);
        }
        let (from, until) = self.kept;
        let (from, until) = (bytes.len() * from / 8, bytes.len() * until / 8);
        if from < until {
            self.files.write(name, at + from as u64, &bytes[from..until])?;
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.change()?;
        self.files.remove(name)
    }
}

/// Two streams of which the power failed: events, rows, cursors, an id; a torn end; a segment that was made and never
/// begun, and one in which nothing but its beginning is left.
fn crashed() -> Written {
    let retained = Class {
        retain: true,
        ..Class::default()
    };
    let once = Class {
        once: true,
        ..Class::default()
    };
    let mut log = Written::new(2, 2);
    for core in [0, 1] {
        log.core(core);
        log.segment(&[base(core, 0, 1)], 1 << 14);
        log.append(core, 1, 3);
        log.write(|writer| vec![writer.cursors(core, &[cursor("a", 2)])]);
        log.append_as(core, retained, 4, &run([event("t.a", 4, Some("k"), &[1])]));
        log.append_as(core, once, 5, &run([event("t.b", 5, None, &[1])]));
        log.segment(&[base(core, 5, 6)], 1 << 14);
        log.append(core, 6, 2);
        let torn_at = log.at() as usize;
        log.append(core, 8, 9);
        log.file()[torn_at + 80..].fill(0);
        log.segment(&[base(core, 7, 8)], 1 << 12);
        let at = log.at() as usize;
        log.file()[at..].fill(0);
        log.segment(&[], 1 << 12);
        log.file().fill(0);
    }
    log
}

/// The ids of qos 2 of a partition.
fn ids_of(shares: &[Recovered], partition: u16) -> Vec<(Id, u64, u64)> {
    let ids = shares.iter().flat_map(|share| &share.once);
    ids.filter(|id| id.partition == partition)
        .map(|id| (id.id, id.offset, id.time_ms))
        .collect()
}

/// What a recovery says of what is held, apart from where the offsets go on.
fn told(files: &MemoryFiles, shares: &[Recovered]) -> Vec<String> {
    let partitions = shares.iter().flat_map(|share| &share.partitions);
    let told = partitions.map(|found| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            (found.partition, found.last, found.removed),
            found.holes,
            found.cursors,
            found.rows,
            ids_of(shares, found.partition),
            found
                .extents
                .iter()
                .map(|held| (held.segment, held.extent.first, held.extent.last))
                .collect::<Vec<_>>(),
            read_held(files, found),
        )
    });
    told.collect()
}

fn names(files: &MemoryFiles) -> Vec<&str> {
    let names = files.0.keys().map(String::as_str);
    names.filter(|name| ![META, META_COPY].contains(name)).collect()
}

/// How many segments have no whole footer.
fn open(files: &MemoryFiles) -> usize {
    let ids = names(files).into_iter().filter_map(SegmentId::from_name);
    let has_footer = |id: SegmentId| {
        let file_bytes = files.length(&id.name()).unwrap();
        let salt = crate::log::format::salt_of(SECRET, id);
        let footer = segment::read_footer(files, id, salt, file_bytes);
        footer.unwrap().is_some()
    };
    ids.filter(|id| !has_footer(*id)).count()
}

#[test]
fn crashed_segments_are_sealed_and_empty_ones_go() {
    for cores in [2, 3] {
        let mut log = crashed();
        assert_eq!((names(&log.files).len(), open(&log.files)), (8, 8));
        let shares = recover(&mut log.files, cores);
        let first = told(&log.files, &shares);
        assert_eq!((names(&log.files).len(), open(&log.files)), (4, 0));
        let listed = shares.iter().flat_map(|share| {
            let segments = share.segments.iter();
            segments.filter(|segment| segment.keeper(cores) == share.core)
        });
        assert_eq!(listed.count(), 4);
        for segment in shares.iter().flat_map(|share| &share.segments) {
            let file_bytes = log.files.length(&segment.id.name()).unwrap();
            assert!(segment.is_sealed && segment.bytes == file_bytes);
        }
        assert_eq!(Meta::read(&log.files).unwrap().unwrap().unsealed.len(), 0);
        // Read by its footer now: the same, and offsets jump again.
        let next = partition(&shares, 0).next;
        let shares = recover(&mut log.files, cores);
        assert_eq!(told(&log.files, &shares), first);
        assert!(partition(&shares, 0).next > next, "a crash is a crash");
    }
}

#[test]
fn a_crash_while_they_are_sealed_changes_nothing() {
    for cores in [2, 3] {
        let mut log = crashed();
        let expected = {
            let shares = recover(&mut log.files, cores);
            told(&log.files, &shares)
        };
        let mut cut_off = 0;
        for left in 0.. {
            let mut was_cut = false;
            for kept in [(0, 0), (0, 1), (0, 4), (0, 7), (1, 8), (3, 6), (7, 8)] {
                for is_full in [false, true] {
                    let mut log = crashed();
                    let mut next = 0;
                    for _ in 0..2 {
                        let mut files = Cut {
                            files: &mut log.files,
                            left,
                            kept,
                            is_full,
                        };
                        // Twice: what an attempt left is what the next one finds.
                        if let Ok(mut recovery) =
                            Recovery::open(&mut files, cores, &Settings::default(), [9; 16], NOW_MS)
                        {
                            while let Ok(Some(share)) = recovery.step(|_| {}) {
                                let given = share.partitions.iter().find(|found| found.partition == 0);
                                next = given.map_or(next, |found| found.next);
                            }
                        }
                        was_cut |= files.left == 0;
                    }
                    let shares = recover(&mut log.files, cores);
                    let found = told(&log.files, &shares);
                    assert!(
                        found == expected,
                        "{left} changes, {kept:?} of a write, full: {is_full}:\n{found:#?}\nfor\n{expected:#?}"
                    );
                    assert!(partition(&shares, 0).next > next, "an offset is given twice");
                    assert_eq!(
                        (names(&log.files).len(), open(&log.files)),
                        (4, 0),
                        "{left} changes, {kept:?} of a write, full: {is_full}"
                    );
                    cut_off += usize::from(was_cut);
                }
            }
            if !was_cut {
                break;
            }
        }
        assert!(cut_off > 100, "{cut_off} were cut off");
    }
}

#[test]
fn where_partitions_are_outlives_the_segment_that_says_it() {
    // Retention removed all events, and a crash comes while the segment that says where the partition stands is removed.
    for left in 0.. {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 5_000_000, 5_000_001)], 1 << 12);
        let mut files = Cut {
            files: &mut log.files,
            left,
            kept: (0, 0),
            is_full: false,
        };
        if let Ok(mut recovery) = Recovery::open(&mut files, 1, &Settings::default(), [9; 16], NOW_MS) {
            while let Ok(Some(_)) = recovery.step(|_| {}) {}
        }
        let was_cut = files.left == 0;
        let shares = recover(&mut log.files, 1);
        let found = partition(&shares, 0);
        assert!(
            found.next > 5_000_000 && found.last == 5_000_000,
            "{left} changes: {found:?}"
        );
        assert_eq!(names(&log.files), [""; 0]);
        if !was_cut {
            break;
        }
    }
}

#[test]
fn a_start_on_a_full_disk_goes_on_when_there_is_space() {
    for left in 1.. {
        let mut log = crashed();
        let mut well = log.files.clone();
        let shares = recover(&mut well, 2);
        let expected = told(&well, &shares);
        let mut files = Cut {
            files: &mut log.files,
            left,
            kept: (0, 0),
            is_full: true,
        };
        let Ok(mut recovery) = Recovery::open(&mut files, 2, &Settings::default(), [9; 16], NOW_MS) else {
            continue;
        };
        let mut shares = Vec::new();
        let mut refused = 0;
        loop {
            match recovery.step(|_| {}) {
                Ok(Some(share)) => shares.push(share),
                Ok(None) => break,
                Err(RecoveryFault::Disk { .. }) => {
                    refused += 1;
                    recovery.files.left = usize::MAX;
                }
                Err(fault) => panic!("{fault}"),
            }
        }
        drop(recovery);
        shares.sort_by_key(|share| share.core);
        assert_eq!(told(&log.files, &shares), expected, "{left} changes");
        if refused == 0 {
            assert!(left > 3);
            break;
        }
    }
}

#[test]
fn a_damaged_segment_stays_open_and_is_told_at_each_start() {
    let mut log = Written::new(1, 1);
    log.segment(&[base(0, 0, 1)], 1 << 14);
    for first in [1, 11, 21] {
        log.append(0, first, 10);
    }
    let at = log.batches[2].0 as usize;
    log.file()[at + 8] ^= 1;
    for _ in 0..3 {
        let shares = recover(&mut log.files, 1);
        assert_eq!(partition(&shares, 0).holes, [hole(11, 20, HoleCause::Damaged)]);
        assert!(!shares[0].segments[0].is_sealed);
        assert_eq!(open(&log.files), 1);
        // How far it goes is known: what is torn off it now is no torn end.
        let counted = Meta::read(&log.files).unwrap().unwrap().unsealed;
        assert_eq!(counted.into_values().collect::<Vec<_>>(), [log.at()]);
    }
    let end = log.file_bytes();
    log.file()[end - 9] ^= 1;
    let shares = recover(&mut log.files, 1);
    let found = partition(&shares, 0);
    assert_eq!(found.holes, [hole(11, 30, HoleCause::Damaged)]);
    assert_eq!(log.file_bytes(), end);
}

/// A directory that remembers what was cut, and so made to survive power loss.
struct Cuts<'a> {
    files: &'a mut MemoryFiles,
    cut: Vec<(String, u64)>,
}

impl Files for Cuts<'_> {
    passed_on!(names length read replace write remove);

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.cut.push((name.to_owned(), bytes));
        self.files.truncate(name, bytes)
    }
}

#[test]
fn a_sealed_segment_that_may_be_unsynced_is_synced_before_it_is_served() {
    for is_made_ahead in [false, true] {
        let mut log = Written::new(1, 1);
        log.segment(&[base(0, 0, 1)], 0);
        log.append(0, 1, 3);
        log.seal(false);
        log.segment(&[base(0, 3, 4)], 0);
        log.append(0, 4, 3);
        // Killed when the footer was written, and not synced yet.
        log.seal(false);
        let id = log.id();
        let bytes = log.file_bytes() as u64;
        if is_made_ahead {
            let ahead = SegmentId {
                number: id.number + 1,
                ..id
            };
            log.files.0.insert(ahead.name(), vec![0; 4096]);
        }
        let mut files = Cuts {
            files: &mut log.files,
            cut: Vec::new(),
        };
        let mut recovery = Recovery::open(&mut files, 1, &Settings::default(), [9; 16], NOW_MS).unwrap();
        assert!(recovery.step(|_| {}).unwrap().is_some());
        drop(recovery);
        let of_segments = |(name, _): &&(String, u64)| *name == id.name() || *name == first_of(id).name();
        let cut: Vec<&(String, u64)> = files.cut.iter().filter(of_segments).collect();
        assert_eq!(cut, [&(id.name(), bytes)], "made ahead: {is_made_ahead}");
    }
}

fn first_of(id: SegmentId) -> SegmentId {
    SegmentId { number: 1, ..id }
}
