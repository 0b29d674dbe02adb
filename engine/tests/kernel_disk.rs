//! Operations on files through the ring of a real kernel, on real files: what `disk` promises.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::disk::{DiskDone, DiskOp, OPERATIONS_MAX, is_full};
use fluxar_engine::driver::{Completion, Driver};
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Event, Reactor, ReactorConfig};
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
fn outcome(done: DiskDone) -> io::Result<()> {
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

fn try_create(driver: &mut UringDriver, file: u64, path: &Path, bytes: u64) -> io::Result<()> {
    let path = path.to_owned();
    outcome(ask(driver, DiskOp::Create { file, path, bytes }))
}

fn create(driver: &mut UringDriver, file: u64, path: &Path, bytes: u64) {
    try_create(driver, file, path, bytes).expect("created");
}

fn write(file: u64, at: u64, slices: Vec<Bytes>) -> DiskOp {
    DiskOp::Write {
        file,
        at,
        slices,
        sync: false,
    }
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

/// How many descriptors of this process are of files in a directory.
fn descriptors_in(directory: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").expect("proc").flatten();
    open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(directory)))
        .count()
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

#[test]
fn more_than_may_be_under_way_is_all_done_and_once() {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 10 * OPERATIONS_MAX as u64;
    let directory = tempfile::tempdir().expect("directory");
    let mut driver = driver();
    for file in 0..2 {
        create(
            &mut driver,
            file,
            &directory.path().join(file.to_string()),
            BLOCKS * BLOCK,
        );
    }
    for n in 0..BLOCKS {
        let at = n * BLOCK;
        driver.disk(write(0, at, vec![pattern(at, 96), pattern(at + 96, 4000)]));
        driver.disk(write(1, at, vec![pattern(at + 1, 4096)]));
        if n % 100 == 0 {
            driver.disk(DiskOp::Sync { file: 0 });
        }
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 2 * BLOCKS as usize {
        match next(&mut driver) {
            DiskDone::Wrote { file, at, result } => {
                result.expect("wrote");
                assert!(seen.insert((file, at)), "once");
            }
            DiskDone::Synced { file: 0, result } => result.expect("synced"),
            other => panic!("{other:?}"),
        }
    }
    // Read while it is written anew with what is there already.
    let mut tickets = BTreeSet::new();
    for n in 0..BLOCKS {
        driver.disk(DiskOp::Read {
            ticket: n,
            file: n % 2,
            at: n * BLOCK,
            bytes: BLOCK as u32,
        });
        driver.disk(write(0, n * BLOCK, vec![pattern(n * BLOCK, 4096)]));
    }
    let mut wrote = 0;
    while tickets.len() < BLOCKS as usize || wrote < BLOCKS {
        match next(&mut driver) {
            DiskDone::Read { ticket, result } => {
                assert_eq!(result.expect("read"), pattern(ticket * BLOCK + ticket % 2, 4096));
                assert!(tickets.insert(ticket), "once");
            }
            DiskDone::Wrote { result, .. } => {
                result.expect("wrote");
                wrote += 1;
            }
            DiskDone::Synced { result, .. } => result.expect("synced"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_write_has_as_many_slices_as_it_likes() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a");
    let mut driver = driver();
    create(&mut driver, 1, &path, 0);
    let mut at = 0;
    for (slices, sync) in [
        (0, true),
        (1, true),
        (2, false),
        (1024, true),
        (1025, true),
        (5000, false),
    ] {
        let all = pattern(at, slices * 7);
        let slices = (0..slices)
            .flat_map(|n| [all.slice(n * 7..n * 7 + 7), Bytes::new()])
            .take(slices * 2)
            .collect();
        let op = DiskOp::Write {
            file: 1,
            at,
            slices,
            sync,
        };
        outcome(ask(&mut driver, op)).expect("wrote");
        at += all.len() as u64;
        assert_eq!(fs::read(&path).expect("read"), pattern(0, at as usize));
    }
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a");
    let mut driver = driver();
    create(&mut driver, 1, &path, 100);
    outcome(ask(&mut driver, write(1, 0, vec![pattern(0, 100)]))).expect("wrote");
    let is = |result: io::Result<()>, kind| assert_eq!(result.expect_err("refused").kind(), kind);

    is(try_create(&mut driver, 2, &path, 50), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).expect("read"), pattern(0, 100), "it is as it was");
    let elsewhere = directory.path().join("nowhere/b");
    is(try_create(&mut driver, 2, &elsewhere, 50), ErrorKind::NotFound);
    let open = DiskOp::Open {
        file: 2,
        path: elsewhere.clone(),
    };
    is(outcome(ask(&mut driver, open)), ErrorKind::NotFound);
    is(
        outcome(ask(&mut driver, DiskOp::Remove { path: elsewhere })),
        ErrorKind::NotFound,
    );
    // The name's key is free after an error, and taken after none.
    create(&mut driver, 2, &directory.path().join("b"), 0);
    let c = directory.path().join("c");
    is(try_create(&mut driver, 2, &c, 50), ErrorKind::InvalidInput);
    assert!(!c.exists());
    is(
        try_create(&mut driver, 3, &PathBuf::from("a\0b"), 50),
        ErrorKind::InvalidInput,
    );

    is(
        outcome(ask(&mut driver, write(9, 0, vec![]))),
        ErrorKind::InvalidInput,
    );
    is(
        outcome(ask(&mut driver, DiskOp::Sync { file: 9 })),
        ErrorKind::InvalidInput,
    );
    is(
        outcome(ask(&mut driver, DiskOp::Close { file: 9 })),
        ErrorKind::InvalidInput,
    );
    is(
        outcome(ask(&mut driver, write(1, u64::MAX, vec![pattern(0, 1)]))),
        ErrorKind::InvalidInput,
    );
    let truncate = DiskOp::Truncate {
        file: 1,
        bytes: u64::MAX,
    };
    is(outcome(ask(&mut driver, truncate)), ErrorKind::InvalidInput);

    // A file that was opened is read only.
    let open = DiskOp::Open { file: 4, path };
    outcome(ask(&mut driver, open)).expect("opened");
    assert!(outcome(ask(&mut driver, write(4, 0, vec![pattern(7, 1)]))).is_err());
    assert_eq!(read(&mut driver, 4, 0, 100), pattern(0, 100));

    // More room than any file may have.
    let huge = try_create(&mut driver, 5, &c, 1 << 62).expect_err("no room");
    assert!(is_full(&huge), "{huge}");
    assert!(!c.exists(), "nothing is left of it");
}

#[test]
fn a_key_that_is_closed_means_the_old_file_to_what_was_asked_before() {
    const WRITES: u64 = 4 * OPERATIONS_MAX as u64;
    let directory = tempfile::tempdir().expect("directory");
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let mut driver = driver();
    create(&mut driver, 1, &old, 0);
    for n in 0..WRITES {
        driver.disk(write(1, n * 100, vec![pattern(n * 100, 100)]));
    }
    driver.disk(DiskOp::Close { file: 1 });
    let path = new.clone();
    driver.disk(DiskOp::Create {
        file: 1,
        path,
        bytes: 10,
    });
    let (mut writes, mut opened, mut closed) = (0, false, false);
    while writes < WRITES || !opened || !closed {
        let done = next(&mut driver);
        match &done {
            DiskDone::Wrote { .. } => {
                assert!(!closed, "closed behind them");
                writes += 1;
            }
            DiskDone::Opened { .. } => opened = true,
            DiskDone::Closed { .. } => closed = true,
            other => panic!("{other:?}"),
        }
        outcome(done).expect("done");
    }
    assert_eq!(descriptors_in(directory.path()), 1, "the new one");
    assert_eq!(fs::read(old).expect("read"), pattern(0, WRITES as usize * 100));
    assert_eq!(fs::read(new).expect("read"), [0; 10]);
    drop(driver);
    assert_eq!(descriptors_in(directory.path()), 0);
}

/// A core that ends waits for what it was asked to write, submitted or not, and lets go of no memory before.
#[test]
fn what_was_asked_for_is_done_when_the_driver_goes() {
    const BLOCK: usize = 256 * 1024;
    const BLOCKS: u64 = 2 * OPERATIONS_MAX as u64;
    let directory = tempfile::tempdir().expect("directory");
    for turns in 0..3 {
        let path = directory.path().join(turns.to_string());
        let created = directory.path().join(format!("{turns}-created"));
        let mut driver = driver();
        create(&mut driver, 1, &path, 0);
        for n in 0..BLOCKS {
            let at = n * BLOCK as u64;
            driver.disk(write(1, at, vec![pattern(at, BLOCK)]));
            driver.disk(DiskOp::Read {
                ticket: n,
                file: 1,
                at: 0,
                bytes: BLOCK as u32,
            });
        }
        driver.disk(DiskOp::Create {
            file: 2,
            path: created.clone(),
            bytes: 4096,
        });
        for _ in 0..turns {
            driver.turn(Some(0)).expect("turn");
            let _ = driver.poll();
        }
        drop(driver);
        assert!(fs::read(&path).expect("read") == pattern(0, BLOCKS as usize * BLOCK));
        assert_eq!(fs::metadata(&created).expect("made").len(), 4096);
        assert_eq!(descriptors_in(directory.path()), 0);
    }
}

#[test]
fn a_parked_core_is_woken_by_what_is_done() {
    let directory = tempfile::tempdir().expect("directory");
    let mut driver = driver();
    driver.disk(DiskOp::Create {
        file: 1,
        path: directory.path().join("a"),
        bytes: 1 << 20,
    });
    loop {
        // Without limit: a completion that does not wake hangs the test.
        driver.turn(None).expect("turn");
        if let Some(Completion::Disk(done)) = driver.poll() {
            return outcome(done).expect("created");
        }
    }
}

#[test]
fn a_reactor_hands_what_is_done_to_its_user() {
    let directory = tempfile::tempdir().expect("directory");
    let (_, mut endpoints) = mail::mesh(1, 1);
    let endpoint = endpoints.pop().expect("one core");
    let mut reactor: Reactor<UringDriver, ()> = Reactor::new(
        driver(),
        endpoint,
        Board::new(1),
        Vec::new(),
        ReactorConfig::default(),
    );
    let mut ask = |op| {
        reactor.disk(op);
        loop {
            match reactor.poll() {
                Some(Event::Disk(done)) => return outcome(done),
                Some(event) => panic!("{event:?}"),
                None => reactor.turn(None).expect("turn"),
            }
        }
    };
    let path = directory.path().join("a");
    ask(DiskOp::Create {
        file: 1,
        path: path.clone(),
        bytes: 0,
    })
    .expect("created");
    ask(write(1, 0, vec![pattern(0, 5000)])).expect("wrote");
    // Refused without asking the kernel: a parked reactor hears of it all the same.
    ask(DiskOp::Sync { file: 2 }).expect_err("not open");
    assert_eq!(fs::read(&path).expect("read"), pattern(0, 5000));
}

/// Where the small file systems are mounted.
const MOUNTS: &str = "FLUXAR_TEST_MOUNTS";

/// Runs the test below as a process that has file systems of its own, one of 1 MiB and one that does not allocate.
#[test]
fn a_full_disk_is_told_and_recovers() {
    let directory = tempfile::tempdir().expect("directory");
    let script = "mkdir \"$MOUNTS/small\" \"$MOUNTS/plain\" && mount -t tmpfs -o size=1m none \"$MOUNTS/small\" && \
                  mount -t ramfs none \"$MOUNTS/plain\" && echo mounted && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(script.replace("MOUNTS", MOUNTS))
        .arg("sh")
        .arg(env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "on_small_file_systems"])
        .env(MOUNTS, directory.path())
        .output()
        .expect("unshare is part of util-linux");
    let told = String::from_utf8_lossy(&output.stdout);
    if !told.contains("mounted") {
        // Not captured: who reads what the tests say is to know what was not tested.
        let _ = writeln!(
            io::stderr(),
            "a_full_disk_is_told_and_recovers: NOT TESTED, this machine lets nobody mount: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        return;
    }
    assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
}

/// As the test above where nobody may mount: runs the one below as a process whose files may not grow beyond 1 MiB.
#[test]
fn a_file_that_may_not_grow_is_told_and_costs_nothing_else() {
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ && exec prlimit --fsize=1048576 \"$@\"", "sh"])
        .arg(env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "where_files_may_not_grow"])
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
}

#[test]
#[ignore = "needs the limit that a_file_that_may_not_grow_is_told_and_costs_nothing_else sets"]
fn where_files_may_not_grow() {
    const LIMIT_BYTES: usize = 1 << 20;
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    let mut driver = driver();
    let full = try_create(&mut driver, 1, &path("a"), 2 * LIMIT_BYTES as u64).expect_err("no room");
    assert!(is_full(&full), "{full}");
    assert!(!path("a").exists(), "nothing is left of it");
    create(&mut driver, 1, &path("a"), 0);
    // Taken in part, and then not: that is an error, whatever of it is there.
    let slices = || {
        vec![
            pattern(0, LIMIT_BYTES - 1000),
            pattern(LIMIT_BYTES as u64 - 1000, 5000),
        ]
    };
    let full = outcome(ask(&mut driver, write(1, 0, slices()))).expect_err("no room");
    assert!(is_full(&full), "{full}");
    // What fits is taken all the same.
    outcome(ask(&mut driver, write(1, 0, vec![pattern(0, LIMIT_BYTES)]))).expect("wrote");
    outcome(ask(&mut driver, DiskOp::Sync { file: 1 })).expect("synced");
    assert_eq!(
        read(&mut driver, 1, 0, LIMIT_BYTES as u32),
        pattern(0, LIMIT_BYTES)
    );
}

#[test]
#[ignore = "needs the file systems that a_full_disk_is_told_and_recovers mounts"]
fn on_small_file_systems() {
    let mounts = PathBuf::from(env::var_os(MOUNTS).expect("mounted"));
    let (small, plain) = (mounts.join("small"), mounts.join("plain"));
    let mut driver = driver();
    // A megabyte: one file has most of it.
    create(&mut driver, 1, &small.join("a"), 768 << 10);
    let full = try_create(&mut driver, 2, &small.join("b"), 512 << 10).expect_err("no room");
    assert!(is_full(&full), "{full}");
    assert!(!small.join("b").exists(), "nothing is left of it");
    create(&mut driver, 2, &small.join("b"), 0);
    let big = || write(2, 0, vec![pattern(0, 100_000), pattern(100_000, 412_000)]);
    let full = outcome(ask(&mut driver, big())).expect_err("no room");
    assert!(is_full(&full), "{full}");
    // What has its room can be written all the same.
    outcome(ask(&mut driver, write(1, 0, vec![pattern(0, 768 << 10)]))).expect("wrote");
    outcome(ask(&mut driver, DiskOp::Sync { file: 1 })).expect("synced");
    // Removed, and closed: there is room again.
    outcome(ask(
        &mut driver,
        DiskOp::Remove {
            path: small.join("a"),
        },
    ))
    .expect("removed");
    outcome(ask(&mut driver, DiskOp::Close { file: 1 })).expect("closed");
    let begun = Instant::now();
    while let Err(error) = outcome(ask(&mut driver, big())) {
        assert!(is_full(&error) && begun.elapsed() < STALLED, "{error}");
    }
    assert_eq!(read(&mut driver, 2, 0, 600_000), pattern(0, 512_000));

    // No allocation: the file has its length all the same.
    create(&mut driver, 3, &plain.join("c"), 1 << 20);
    assert_eq!(read(&mut driver, 3, 0, 1 << 20), Bytes::from(vec![0; 1 << 20]));
}
