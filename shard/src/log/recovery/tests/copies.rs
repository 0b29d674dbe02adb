//! `meta` and its copy, where the disk does not take both.

use super::*;

/// Files that do not take the one of a name.
struct Refusing<'a> {
    files: &'a mut MemoryFiles,
    name: &'static str,
}

impl Files for Refusing<'_> {
    passed_on!(names length read truncate write remove);

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if name == self.name {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.replace(name, bytes)
    }
}

fn is_of_the_copy(fault: Option<&RecoveryFault>) -> bool {
    matches!(fault, Some(RecoveryFault::Disk { verb: "write", name, .. }) if name == META_COPY)
}

#[test]
fn a_log_is_started_read_and_stopped_where_the_disk_has_no_room_for_the_copy_of_meta() {
    for had_copy in [true, false] {
        let mut log = Written::new(1, 2);
        log.segment(&[base(0, 0, 1)], 0);
        log.append(0, 1, 3);
        if !had_copy {
            log.files.0.remove(META_COPY);
        }
        let mut full = Refusing {
            files: &mut log.files,
            name: META_COPY,
        };
        let mut recovery = Recovery::open(&mut full, 2, &Settings::default(), [0; 16], NOW_MS).unwrap();
        assert!(is_of_the_copy(recovery.copy_fault()));
        let mut shares = Vec::new();
        while let Some(share) = recovery.step(|_| {}).expect("meta can be written") {
            assert!(is_of_the_copy(recovery.copy_fault()));
            shares.push(share);
        }
        assert_eq!(shares.len(), 2);
        drop(recovery);
        assert!(is_of_the_copy(Meta::mark_clean(&mut full).unwrap().as_ref()));
        assert_eq!(offsets(&log.files, partition(&shares, 0)), [1, 2, 3]);
        // None rather than one of before this start: positions of it would be given twice.
        assert!(!log.files.0.contains_key(META_COPY));
        let meta = Meta::read(&log.files).unwrap().unwrap();
        assert!(meta.is_clean && meta.epoch() == shares[0].epoch);

        // There is room again.
        let recovery = Recovery::open(&mut log.files, 2, &Settings::default(), [0; 16], NOW_MS).unwrap();
        assert!(recovery.copy_fault().is_none() && recovery.was_clean());
        drop(recovery);
        assert_eq!(log.files.0[META], log.files.0[META_COPY]);
    }
}

#[test]
fn where_meta_itself_cannot_be_written_nothing_is_changed() {
    let mut log = Written::new(1, 1);
    let before = log.files.clone();
    let mut full = Refusing {
        files: &mut log.files,
        name: META,
    };
    let opened = Recovery::open(&mut full, 1, &Settings::default(), [0; 16], NOW_MS);
    assert!(matches!(opened, Err(RecoveryFault::Disk { name, .. }) if name == META));
    assert_eq!(log.files, before);
}
