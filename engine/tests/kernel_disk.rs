//! Operations on files through the ring of a real kernel, on real files: what `disk` promises.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::disk::{DiskDone, DiskOp};
use fluxar_engine::driver::{Completion, Driver};
use fluxar_engine::uring::{UringConfig, UringDriver, UringHub};

/// Far longer than anything here takes; reaching it is the failure.
const STALLED: Duration = Duration::from_secs(60);

fn driver() -> UringDriver {
    UringDriver::new(&UringHub::new(1).expect("hub"), 0, &UringConfig::default())
        .expect("this kernel has io_uring")
}

/// What is done next, waiting for it.
fn next(driver: &mut UringDriver) -> DiskDone {
    let begun = Instant::now();
    loop {
        match driver.poll() {
            Some(Completion::Disk(done)) => return done,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        assert!(begun.elapsed() < STALLED, "nothing was done");
        driver.turn(Some(driver.now_ns() + 100_000_000)).expect("turn");
    }
}

fn ask(driver: &mut UringDriver, op: DiskOp) -> DiskDone {
    driver.disk(op);
    next(driver)
}

/// The outcome of something that yields nothing but that.
fn outcome(done: DiskDone) -> std::io::Result<()> {
    match done {
        DiskDone::Opened { result, .. }
        | DiskDone::Wrote { result, .. }
        | DiskDone::Synced { result, .. }
        | DiskDone::Truncated { result, .. }
        | DiskDone::Closed { result, .. }
        | DiskDone::Removed { result, .. } => result,
        DiskDone::Read { .. } => panic!("{done:?}"),
    }
}

fn create(driver: &mut UringDriver, file: u64, path: &Path, bytes: u64) {
    let path = path.to_owned();
    outcome(ask(driver, DiskOp::Create { file, path, bytes })).expect("created");
}

fn write(file: u64, at: u64, slices: Vec<Bytes>) -> DiskOp {
    DiskOp::Write { file, at, slices }
}

fn read(driver: &mut UringDriver, file: u64, at: u64, bytes: u32) -> Bytes {
    let op = DiskOp::Read {
        ticket: at,
        file,
        at,
        bytes,
    };
    match ask(driver, op) {
        DiskDone::Read { ticket, result } if ticket == at => result.expect("read"),
        other => panic!("{other:?}"),
    }
}

/// Bytes that say where they are.
fn pattern(at: u64, len: usize) -> Bytes {
    (at..at + len as u64)
        .map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn a_file_lives_through_its_operations() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("0001-0000000001.log");
    let mut driver = driver();
    create(&mut driver, 9, &path, 1 << 20);
    let metadata = fs::metadata(&path).expect("it is there");
    assert_eq!(metadata.len(), 1 << 20);
    assert!(metadata.blocks() * 512 >= 1 << 20, "its room is its own");
    assert_eq!(metadata.permissions().mode() & 0o077, 0, "nobody else's");
    assert!(read(&mut driver, 9, 0, 1 << 20).iter().all(|byte| *byte == 0));

    let slices: Vec<Bytes> = (0..10).map(|n| pattern(n * 100, 100)).collect();
    outcome(ask(&mut driver, write(9, 0, slices))).expect("wrote");
    outcome(ask(&mut driver, DiskOp::Sync { file: 9 })).expect("synced");
    assert_eq!(read(&mut driver, 9, 0, 1000), pattern(0, 1000));
    assert_eq!(fs::read(&path).expect("read")[..1000], pattern(0, 1000)[..]);

    outcome(ask(&mut driver, DiskOp::Truncate { file: 9, bytes: 700 })).expect("truncated");
    assert_eq!(fs::metadata(&path).expect("there").len(), 700);
    assert_eq!(
        read(&mut driver, 9, 600, 1000),
        pattern(600, 100),
        "up to its end"
    );
    assert_eq!(read(&mut driver, 9, 5000, 10), Bytes::new(), "behind its end");
    outcome(ask(&mut driver, DiskOp::Close { file: 9 })).expect("closed");

    // Opened anew, under a name that is removed while it is read.
    let open = DiskOp::Open {
        file: 9,
        path: path.clone(),
    };
    outcome(ask(&mut driver, open)).expect("opened");
    outcome(ask(&mut driver, DiskOp::Remove { path: path.clone() })).expect("removed");
    assert!(!path.exists());
    assert_eq!(read(&mut driver, 9, 0, 700), pattern(0, 700));
    outcome(ask(&mut driver, DiskOp::Close { file: 9 })).expect("closed");
}
