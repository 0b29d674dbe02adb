//! Torn, flipped, zeroed, unreadable: what a scan makes of it.

use std::io;

use crate::log::{
    disk::SegmentId,
    files::{Files, MemoryFiles},
    format::{
        BATCH_HEAD_BYTES, Base, HeadlessSegment,
        tests::written::{NOW_MS, SECRET, Written, events, payload, run},
    },
    scan::{Bad, Ending, Found, Scan, Tail},
};

/// The end of the newest segment of a log that crashed.
const TORN: Tail = Tail::MayBeTorn { is_newest: true };

/// What a scan finds: places of batches, damage, and the ending.
fn scan<F: Files>(files: &F, id: SegmentId, tail: Tail) -> (Vec<u64>, Vec<Bad>, Ending) {
    let mut scan = Scan::open(files, id, SECRET, tail).unwrap();
    let (mut batches, mut damage) = (Vec::new(), Vec::new());
    while let Some(found) = scan.step().unwrap() {
        match found {
            Found::Batch { at, .. } => batches.push(at),
            Found::Damage(bad) => damage.push(bad),
        }
    }
    (batches, damage, scan.ending())
}

/// Two partitions, six batches (the first one bases), each in a write of its own, each synced before the next.
fn six(room: usize) -> Written {
    let mut log = Written::new(4, 1);
    let bases = [0, 1].map(|partition| Base {
        partition,
        last: 0,
        next: 1,
    });
    log.segment(&bases, room);
    for (partition, first, count) in [(0, 1, 2), (1, 1, 1), (0, 3, 1), (1, 2, 3), (0, 4, 2)] {
        log.append(partition, first, count);
    }
    log
}

fn places(log: &Written) -> Vec<u64> {
    log.batches.iter().map(|(at, _)| *at).collect()
}

/// Where the batch that covers this byte begins and ends, its zeros not counted; `None`: in none.
fn batch_at(log: &Written, byte: usize) -> Option<(u64, u64)> {
    log.batches.iter().find_map(|(at, head)| {
        let end = at + BATCH_HEAD_BYTES as u64 + u64::from(head.body_bytes);
        (*at..end).contains(&(byte as u64)).then_some((*at, end))
    })
}

#[test]
fn all_is_found_and_the_rest_is_empty() {
    for room in [0, 8 * 1024, 3 * 1024 * 1024] {
        let log = six(room);
        for tail in [TORN, Tail::IsWhole] {
            let (batches, damage, ending) = scan(&log.files, log.id(), tail);
            assert_eq!((batches, damage), (places(&log), vec![]));
            let expected = Ending {
                bytes: log.at(),
                footer: None,
                torn: None,
            };
            assert_eq!(ending, expected);
        }
    }
}

#[test]
fn a_sealed_segment_ends_with_its_footer() {
    let mut log = six(8192);
    log.seal(true);
    let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
    assert_eq!((batches, damage), (places(&log), vec![]));
    assert_eq!(ending.bytes, log.at());
    let footer = ending.footer.unwrap();
    assert!(footer.is_last);
    assert_eq!(footer.extents.len(), 2);
    // The room that it was made with was not cut off yet.
    log.file().resize(8192, 0);
    let (_, damage, ending) = scan(&log.files, log.id(), TORN);
    assert_eq!((damage, ending.bytes), (vec![], log.at()));
    assert!(ending.footer.is_some());
}

#[test]
fn torn_at_any_byte_what_is_whole_before_it_counts() {
    let whole = six(0);
    let end = whole.file_bytes();
    for cut in 0..end {
        let is_whole = |at: &u64, head_end: u64| *at + head_end <= cut as u64;
        let expected: Vec<u64> = whole
            .batches
            .iter()
            .filter(|(at, head)| is_whole(at, BATCH_HEAD_BYTES as u64 + u64::from(head.body_bytes)))
            .map(|(at, _)| *at)
            .collect();
        for room in [0, end + 4096] {
            let mut log = six(0);
            log.file().truncate(cut);
            let bytes = cut.max(room);
            log.file().resize(bytes, 0);
            let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
            // Bytes that are zeros in any case may be missing.
            let is_expected = batches == expected || batches.len() == expected.len() + 1;
            assert!(is_expected, "cut at {cut}: {batches:?} of {expected:?}");
            assert_eq!(damage, [], "cut at {cut}");
            assert!(ending.bytes <= bytes as u64 && ending.footer.is_none());
            for at in &batches {
                assert!(*at < ending.bytes);
            }
        }
    }
}

#[test]
fn a_flipped_bit_costs_its_batch_and_no_other() {
    let whole = six(4096);
    let last = whole.batches.last().unwrap().0;
    for byte in 0..whole.at() as usize {
        for bit in [0, 3, 7] {
            let mut log = six(4096);
            log.file()[byte] ^= 1 << bit;
            let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
            let mut expected = places(&whole);
            let hit = batch_at(&whole, byte);
            if let Some((at, _)) = hit {
                expected.retain(|batch| *batch != at);
            }
            assert_eq!(batches, expected, "byte {byte}");
            match hit {
                // What the last write wrote may be torn: nothing says that it was synced.
                Some((at, _)) if at == last => {
                    assert_eq!((damage, ending.torn.map(|bad| bad.at)), (vec![], Some(at)));
                    assert_eq!(ending.bytes, at);
                }
                Some((at, end)) => {
                    assert_eq!(
                        (damage.len(), damage[0].at, damage[0].end),
                        (1, at, end.next_multiple_of(8))
                    );
                    let is_in_body = byte as u64 >= at + BATCH_HEAD_BYTES as u64;
                    assert_eq!(damage[0].head.is_some(), is_in_body);
                    assert_eq!((ending.torn, ending.bytes), (None, whole.at()));
                }
                // The segment's head, and zeros between batches, which mean nothing.
                None if byte < 64 => {
                    assert_eq!((damage.len(), damage[0].at, damage[0].end), (1, 0, 64));
                }
                None => assert_eq!(damage, []),
            }
        }
    }
}

#[test]
fn a_segment_that_was_recovered_before_has_no_torn_tail() {
    let mut log = six(4096);
    let (last, head) = *log.batches.last().unwrap();
    log.file()[last as usize + BATCH_HEAD_BYTES] ^= 1;
    let (batches, damage, ending) = scan(&log.files, log.id(), Tail::IsWhole);
    assert_eq!(batches.len(), 5);
    let lost = Bad {
        at: last,
        end: last + head.bytes(),
        head: Some(head),
    };
    assert_eq!((damage, ending.torn, ending.bytes), (vec![lost], None, lost.end));
}

#[test]
fn zeros_where_something_was_synced_are_damage_and_others_are_torn() {
    let whole = six(4096);
    let places = places(&whole);
    for lost in 0..places.len() {
        let end = places.get(lost + 1).copied().unwrap_or(whole.at());
        let mut log = six(4096);
        log.file()[places[lost] as usize..end as usize].fill(0);
        let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
        let mut left = places.clone();
        left.remove(lost);
        assert_eq!(batches, left);
        if lost + 1 == places.len() {
            assert_eq!((damage, ending.bytes), (vec![], places[lost]));
        } else {
            let bad = Bad {
                at: places[lost],
                end,
                head: None,
            };
            assert_eq!(damage, [bad]);
        }
    }
}

#[test]
fn a_hole_in_the_last_write_ends_what_counts_although_more_follows() {
    // One write of three batches, of which the disk has the first and the last.
    let mut log = six(4096);
    let synced_until = log.at();
    log.write_unsynced(|writer| {
        [(0, 6), (1, 5), (0, 8)]
            .map(|(partition, first)| {
                writer.events(
                    partition,
                    Default::default(),
                    first,
                    NOW_MS,
                    [&events("x", first, 2)],
                )
            })
            .to_vec()
    });
    let lost = log.batches[7].0;
    log.file()[lost as usize..lost as usize + 16].fill(0);
    let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
    assert_eq!(batches.len(), 7, "the first of the three counts, too");
    assert_eq!((damage, ending.bytes), (vec![], lost));
    assert!(ending.bytes > synced_until);
    // Had it been synced, the next write would have said so.
    let mut log = six(4096);
    log.write(|writer| vec![writer.events(0, Default::default(), 6, NOW_MS, [&events("x", 6, 2)])]);
    let lost = log.batches[6].0;
    log.append(1, 5, 1);
    log.file()[lost as usize..lost as usize + 16].fill(0);
    let (batches, damage, _) = scan(&log.files, log.id(), TORN);
    assert_eq!((batches.len(), damage.len()), (7, 1));
}

#[test]
fn what_looks_like_a_batch_inside_an_event_is_none() {
    // Somebody publishes what a whole segment looks like, in every alignment, and the batch that holds it is damaged.
    let forged = six(0);
    let bytes = forged.files.0[&forged.id().name()].clone();
    let mut log = six(32 * 1024);
    let at = log.at();
    let run = run((0..8).map(|shift| {
        let mut event = payload(shift, 0);
        event.extend_from_slice(&bytes);
        event
    }));
    // The forger knows no salt: that of this segment is another one.
    log.append_as(0, Default::default(), 6, &run);
    log.append(1, 5, 1);
    let last = log.batches.last().unwrap().0;
    let mut other = log.head();
    other.salt ^= 1;
    log.file()[..64].copy_from_slice(&other.encode());
    // Its own batches are written with the other salt.
    let mut again = Vec::new();
    for (at, head) in log.batches.clone() {
        let head_end = at as usize + BATCH_HEAD_BYTES;
        log.file()[at as usize..head_end].copy_from_slice(&head.encode(other.salt, at));
        again.push(at);
    }
    log.file()[at as usize] ^= 1;
    let (batches, damage, _) = scan(&log.files, log.id(), TORN);
    again.retain(|batch| *batch != at);
    assert_eq!(batches, again);
    assert_eq!((damage.len(), damage[0].at, damage[0].end), (1, at, last));
}

#[test]
fn a_segment_without_a_head_is_read_by_the_directorys_secret() {
    let mut log = six(4096);
    log.file()[..64].fill(0xff);
    let opened = Scan::open(&log.files, log.id(), SECRET, Tail::IsWhole).unwrap();
    assert_eq!(opened.head(), Err(HeadlessSegment::Damaged));
    let (batches, damage, _) = scan(&log.files, log.id(), Tail::IsWhole);
    assert_eq!((batches, damage.len()), (places(&log), 1));
    // The file of another segment under this name is no segment.
    let other = SegmentId { core: 0, number: 9 };
    let log = six(4096);
    let bytes = log.files.0[&log.id().name()].clone();
    let files = MemoryFiles([(other.name(), bytes)].into());
    let (batches, damage, _) = scan(&files, other, Tail::IsWhole);
    assert_eq!((batches, damage.len()), (vec![], 1));
}

#[test]
fn many_bad_places_are_passed_in_one_walk() {
    let mut log = Written::new(4, 1);
    log.segment(&[], 0);
    for first in 1..400 {
        log.append(0, first, 1);
    }
    for (index, (at, _)) in log.batches.clone().into_iter().enumerate() {
        if index % 2 == 1 {
            log.file()[at as usize + 20] ^= 1;
        }
    }
    let (batches, damage, ending) = scan(&log.files, log.id(), TORN);
    assert_eq!((batches.len(), damage.len()), (200, 199));
    assert_eq!(ending.torn.map(|bad| bad.at), Some(log.batches[399].0));
}

/// Files of which some bytes cannot be read.
struct Unreadable(MemoryFiles, std::ops::Range<u64>);

impl Files for Unreadable {
    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.0.length(name)
    }

    fn read(&self, name: &str, at: u64, out: &mut [u8]) -> io::Result<usize> {
        if at < self.1.end && self.1.start < at + out.len() as u64 {
            return Err(io::Error::other("a bad sector"));
        }
        self.0.read(name, at, out)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.replace(name, bytes)
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.truncate(name, bytes)
    }
}

#[test]
fn sectors_that_cannot_be_read_are_damage_and_a_dead_disk_is_an_error() {
    let mut log = Written::new(4, 1);
    log.segment(&[], 0);
    for first in 1..300 {
        log.append(0, first, 10);
    }
    let bytes = log.file_bytes() as u64;
    assert!(bytes > 64 * 1024);
    let files = Unreadable(log.files.clone(), 20_000..20_512);
    let (batches, damage, ending) = scan(&files, log.id(), TORN);
    assert!(!damage.is_empty() && damage.iter().all(|bad| (15_000..26_000).contains(&bad.at)));
    assert!(batches.len() > 270, "{}", batches.len());
    assert_eq!(ending.bytes, bytes);

    let files = Unreadable(log.files.clone(), 4096..u64::MAX);
    let mut walk = Scan::open(&files, log.id(), SECRET, TORN);
    let failed = match &mut walk {
        Ok(walk) => loop {
            match walk.step() {
                Ok(None) => break false,
                Ok(Some(_)) => {}
                Err(_) => break true,
            }
        },
        Err(_) => true,
    };
    assert!(failed);
}

#[test]
fn an_end_that_cannot_be_read_is_waited_for_in_the_newest_segment_alone() {
    let log = six(0);
    let (last_at, _) = *log.batches.last().unwrap();
    let bytes = log.file_bytes() as u64;
    let files = Unreadable(log.files.clone(), last_at..bytes);
    let mut walk = Scan::open(&files, log.id(), SECRET, TORN).unwrap();
    let refused = loop {
        match walk.step() {
            Ok(Some(found)) => assert!(matches!(found, Found::Batch { .. })),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(refused.is_some(), "it may be there tomorrow");
    let (batches, damage, ending) = scan(&files, log.id(), Tail::MayBeTorn { is_newest: false });
    assert_eq!(batches, places(&log)[..batches.len()]);
    assert_eq!(damage.iter().map(|bad| bad.end).collect::<Vec<_>>(), [bytes]);
    assert_eq!((ending.bytes, ending.torn), (bytes, None), "nothing is cut off");
}
