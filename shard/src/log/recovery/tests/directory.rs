//! A directory that cannot be used as it is, `meta` that is lost, and a file with nothing in it.

use super::*;

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
