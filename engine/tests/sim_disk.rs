//! The simulated disk: what it promises holds for every seed, and each of its faults strikes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxar_engine::disk::{DiskDone, DiskOp, is_full};
use fluxar_engine::driver::{Completion, Driver};
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Event, Reactor, ReactorConfig};
use fluxar_engine::sim::{DiskFaults, Faults, Random, SimDisk, SimDriver, Step, World};

/// One core on a world of one.
struct House {
    world: World,
    disk: SimDisk,
    driver: SimDriver,
}

impl House {
    fn new(seed: u64, faults: DiskFaults) -> House {
        let mut world = World::new(seed, 1, Faults::none());
        let disk = world.disk();
        disk.set_faults(faults);
        let driver = world.driver(0);
        House { world, disk, driver }
    }

    /// What is done next; `None` if nothing is under way.
    fn next(&mut self) -> Option<DiskDone> {
        loop {
            match self.driver.poll() {
                Some(Completion::Disk(done)) => return Some(done),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            match self.world.step() {
                Step::Core(0) => self.driver.turn(None).expect("turn"),
                Step::Quiet => return None,
                step => panic!("{step:?}"),
            }
        }
    }

    fn ask(&mut self, op: DiskOp) -> io::Result<()> {
        self.driver.disk(op);
        outcome(self.next().expect("it is done"))
    }

    fn create(&mut self, file: u64, name: &str, bytes: u64) -> io::Result<()> {
        let path = path(name);
        self.ask(DiskOp::Create { file, path, bytes })
    }

    fn write(&mut self, file: u64, at: u64, bytes: Vec<u8>) -> io::Result<()> {
        self.ask(write(file, at, bytes))
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        self.ask(DiskOp::Sync { file })
    }

    /// The process is killed, and another one starts.
    fn kill(&mut self) {
        // The old driver goes before the new one comes.
        let spare = World::new(0, 1, Faults::none()).driver(0);
        drop(std::mem::replace(&mut self.driver, spare));
        self.driver = self.world.driver(0);
    }

    fn power_cut(&mut self) {
        self.disk.power_cut();
        self.kill();
    }

    fn held(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = path(name);
        let mut out = vec![0; self.disk.length(&path)? as usize];
        let read = self.disk.read(&path, 0, &mut out)?;
        assert_eq!(read, out.len());
        Ok(out)
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/data/log").join(name)
}

fn write(file: u64, at: u64, bytes: Vec<u8>) -> DiskOp {
    // In several slices.
    let bytes = Bytes::from(bytes);
    let middle = bytes.len() / 3;
    let slices = vec![bytes.slice(..middle), Bytes::new(), bytes.slice(middle..)];
    DiskOp::Write {
        file,
        at,
        slices,
        sync: false,
    }
}

fn write_and_sync(file: u64, at: u64, bytes: Vec<u8>) -> DiskOp {
    let slices = vec![bytes.into()];
    DiskOp::Write {
        file,
        at,
        slices,
        sync: true,
    }
}

fn outcome(done: DiskDone) -> io::Result<()> {
    match done {
        DiskDone::Opened { result, .. }
        | DiskDone::Wrote { result, .. }
        | DiskDone::Synced { result, .. }
        | DiskDone::Truncated { result, .. }
        | DiskDone::Closed { result, .. }
        | DiskDone::Removed { result, .. } => result,
        DiskDone::Read { result, .. } => result.map(drop),
    }
}

fn for_seeds(seeds: u64, play: impl Fn(u64)) {
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed)));
        if let Err(panic) = played {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_file_lives_through_its_operations_and_is_seen_from_outside() {
    let mut house = House::new(1, DiskFaults::none());
    house.create(1, "a", 4096).expect("created");
    assert_eq!(house.disk.names(Path::new("/data/log")), ["a"]);
    assert_eq!(house.held("a").expect("held"), vec![0; 4096]);
    assert_eq!(
        house.create(2, "a", 1).expect_err("taken").kind(),
        io::ErrorKind::AlreadyExists
    );
    house.write(1, 1000, vec![7; 2000]).expect("wrote");
    house.driver.disk(DiskOp::Read {
        ticket: 5,
        file: 1,
        at: 2990,
        bytes: 5000,
    });
    let Some(DiskDone::Read {
        ticket: 5,
        result: Ok(bytes),
    }) = house.next()
    else {
        panic!("read")
    };
    assert_eq!((bytes.len(), bytes[9], bytes[10]), (4096 - 2990, 7, 0));
    house.ask(DiskOp::Truncate { file: 1, bytes: 1500 }).expect("cut");
    assert_eq!(house.disk.length(&path("a")).expect("length"), 1500);
    house.ask(DiskOp::Close { file: 1 }).expect("closed");
    assert!(house.sync(1).is_err(), "not open any more");
    house
        .ask(DiskOp::Open {
            file: 1,
            path: path("a"),
        })
        .expect("opened");
    house.ask(DiskOp::Remove { path: path("a") }).expect("removed");
    assert!(house.disk.names(Path::new("/data/log")).is_empty());
    assert_eq!(house.disk.used_bytes(), 1500, "still open");
    house.ask(DiskOp::Close { file: 1 }).expect("closed");
    assert_eq!((house.disk.used_bytes(), house.disk.operations()), (0, 0));
}

#[test]
fn recovery_may_replace_cut_and_remove_for_good() {
    let house = House::new(1, DiskFaults::none());
    house.disk.replace(&path("meta"), b"one").expect("made");
    house.disk.replace(&path("meta"), b"two!").expect("replaced");
    house.disk.replace(&path("old"), b"old").expect("made");
    house.disk.truncate(&path("meta"), 3).expect("cut");
    house.disk.remove(&path("old")).expect("removed");
    house.disk.power_cut();
    assert_eq!(house.held("meta").expect("held"), b"two");
    assert_eq!(house.disk.names(Path::new("/data/log")), ["meta"]);
    assert!(house.disk.remove(&path("old")).is_err() && house.disk.length(&path("old")).is_err());
}

#[test]
fn a_flipped_bit_stays() {
    let mut house = House::new(1, DiskFaults::none());
    house.create(1, "a", 1000).expect("created");
    house.write(1, 0, vec![1; 1000]).expect("wrote");
    house.disk.flip(&path("a"), 500, 0x10).expect("flipped");
    house.sync(1).expect("synced");
    house.power_cut();
    let held = house.held("a").expect("held");
    assert_eq!((held[499], held[500], held[501]), (1, 0x11, 1));
    assert!(house.disk.flip(&path("a"), 1000, 1).is_err());
}

#[test]
fn space_ends_where_it_is_said_and_comes_back() {
    let mut house = House::new(1, DiskFaults::none());
    house.disk.set_space(Some(10_000));
    house.create(1, "a", 6_000).expect("there is room");
    assert!(is_full(&house.create(2, "b", 6_000).expect_err("no room")));
    assert_eq!(
        house.disk.names(Path::new("/data/log")),
        ["a"],
        "nothing is left of it"
    );
    house.write(1, 0, vec![1; 6_000]).expect("its room is its own");
    house.create(2, "b", 0).expect("an empty one");
    house.write(2, 0, vec![2; 3_000]).expect("grows");
    assert!(is_full(
        &house.write(2, 3_000, vec![3; 3_000]).expect_err("no room")
    ));
    assert_eq!(
        house.held("b").expect("held").len(),
        4_000,
        "as much as there was"
    );
    assert!(is_full(
        &house.disk.replace(&path("meta"), b"x").expect_err("no room")
    ));
    house.disk.set_space(Some(20_000));
    house
        .write(2, 3_000, vec![3; 3_000])
        .expect("there is room again");
    house.ask(DiskOp::Remove { path: path("a") }).expect("removed");
    house.ask(DiskOp::Close { file: 1 }).expect("closed");
    assert_eq!(house.disk.used_bytes(), 6_000);
}

/// Writes and syncs at random, with every fault; power cuts and kills in between. What was synced is there.
#[test]
fn what_was_synced_survives_and_nothing_is_there_that_was_not_written() {
    for_seeds(1_000, |seed| {
        let mut random = Random::new(seed);
        let faults = if seed % 2 == 0 {
            DiskFaults::wild()
        } else {
            DiskFaults {
                write_error: 0.1,
                write_full: 0.1,
                sync_error: 0.1,
                ..DiskFaults::wild()
            }
        };
        let mut house = House::new(seed, faults);
        // The file is written once from its beginning to its end. By byte: whether it must survive.
        const ROOM: usize = 16_384;
        while house.create(0, "a", ROOM as u64).is_err() {}
        let content: Vec<u8> = (0..ROOM).map(|at| 1 + (at % 251) as u8).collect();
        let mut must = vec![false; ROOM];
        let mut at = 0;
        // By the write's place: its end, for those that are done.
        let mut written: BTreeMap<u64, usize> = BTreeMap::new();
        let mut under_way: BTreeMap<u64, usize> = BTreeMap::new();
        let mut covered: Vec<(usize, usize)> = Vec::new();
        let mut syncing = false;
        let steps = random.index(60);
        for _ in 0..steps {
            match random.below(3) {
                0 if at < ROOM => {
                    let end = (at + 1 + random.index(1_500)).min(ROOM);
                    house.driver.disk(write(0, at as u64, content[at..end].to_vec()));
                    under_way.insert(at as u64, end);
                    at = end;
                }
                1 if !syncing => {
                    covered = written.iter().map(|(at, end)| (*at as usize, *end)).collect();
                    house.driver.disk(DiskOp::Sync { file: 0 });
                    syncing = true;
                }
                _ => match house.next() {
                    Some(DiskDone::Wrote { at, result, .. }) => {
                        let end = under_way.remove(&at).expect("under way");
                        if result.is_ok() {
                            written.insert(at, end);
                        }
                    }
                    Some(DiskDone::Synced { result, .. }) => {
                        syncing = false;
                        for (at, end) in covered.drain(..) {
                            if result.is_ok() {
                                must[at..end].fill(true);
                            }
                        }
                        if result.is_err() {
                            // Whatever was not durable by then may never be.
                            written.clear();
                            break;
                        }
                    }
                    None => {}
                    Some(done) => panic!("{done:?}"),
                },
            }
        }
        if random.chance(0.3) {
            house.kill();
            let held = house.held("a").expect("held");
            for (at, end) in written {
                let at = at as usize;
                assert_eq!(
                    held[at..end],
                    content[at..end],
                    "a kill loses nothing that was written"
                );
            }
        }
        house.power_cut();
        let held = house.held("a").expect("a name that was told of survives");
        assert_eq!(held.len(), ROOM);
        for (at, byte) in held.iter().enumerate() {
            assert!(*byte == content[at] || *byte == 0, "at {at}: {byte}");
            assert!(!must[at] || *byte == content[at], "lost at {at}");
        }
    });
}

/// Over many seeds a power cut does everything that it may do to a write that was not synced.
#[test]
fn a_power_cut_loses_tears_and_reorders() {
    const SECTOR: usize = 512;
    let (mut nothing, mut everything, mut holes, mut torn) = (0, 0, 0, 0);
    for seed in 0..500 {
        let mut house = House::new(seed, DiskFaults::none());
        house.create(0, "a", 16_384).expect("created");
        house.write(0, 0, vec![1; 8_192]).expect("wrote");
        house.write(0, 8_192, vec![2; 8_192]).expect("wrote");
        house.power_cut();
        let held = house.held("a").expect("held");
        let sectors: Vec<bool> = held
            .chunks(SECTOR)
            .map(|sector| sector.iter().all(|byte| *byte != 0))
            .collect();
        nothing += usize::from(held.iter().all(|byte| *byte == 0));
        everything += usize::from(sectors.iter().all(|whole| *whole));
        holes += usize::from(sectors.windows(2).any(|pair| pair == [false, true]));
        let is_torn = |sector: &[u8]| sector[0] != 0 && sector[SECTOR - 1] == 0;
        torn += usize::from(held.chunks(SECTOR).any(is_torn));
    }
    assert!(
        nothing > 50 && everything > 50 && holes > 100 && torn > 20,
        "{nothing} {everything} {holes} {torn}"
    );
}

#[test]
fn names_are_in_doubt_until_their_operation_is_done() {
    let (mut made, mut empty, mut back) = ([0, 0], 0, [0, 0]);
    for seed in 0..300 {
        let mut house = House::new(seed, DiskFaults::none());
        house.create(0, "old", 100).expect("created");
        let create = DiskOp::Create {
            file: 1,
            path: path("new"),
            bytes: 4096,
        };
        house.driver.disk(create);
        house.driver.disk(DiskOp::Remove { path: path("old") });
        // Both have acted, and nobody was told.
        house.world.alarm_at(house.world.now_ns() + 75_000);
        while house.world.step() != Step::Clients {
            house.driver.turn(None).expect("turn");
            assert!(house.driver.poll().is_none());
        }
        assert_eq!(house.disk.names(Path::new("/data/log")), ["new"]);
        house.power_cut();
        let names = house.disk.names(Path::new("/data/log"));
        let new = names.contains(&"new".to_owned());
        made[usize::from(new)] += 1;
        empty += usize::from(new && house.held("new").expect("held").is_empty());
        back[usize::from(names.contains(&"old".to_owned()))] += 1;
    }
    let often = |counts: [usize; 2]| counts[0] > 30 && counts[1] > 30;
    assert!(
        often(made) && often(back) && empty > 30,
        "{made:?} {empty} {back:?}"
    );

    // Told: durable.
    for seed in 0..100 {
        let mut house = House::new(seed, DiskFaults::wild());
        house.create(0, "old", 100).expect("created");
        house.create(1, "new", 4096).expect("created");
        house.ask(DiskOp::Truncate { file: 1, bytes: 10 }).expect("cut");
        house.ask(DiskOp::Remove { path: path("old") }).expect("removed");
        house.power_cut();
        assert_eq!(house.disk.names(Path::new("/data/log")), ["new"]);
        assert_eq!(house.held("new").expect("held").len(), 10);
    }
}

#[test]
fn a_write_that_syncs_survives_by_itself() {
    let mut left = 0;
    for_seeds(100, |seed| {
        let mut house = House::new(seed, DiskFaults::wild());
        house.create(0, "a", 4096).expect("created");
        house.write(0, 0, vec![1; 1000]).expect("wrote");
        house.ask(write_and_sync(0, 1000, vec![2; 1000])).expect("wrote");
        house.power_cut();
        assert_eq!(house.held("a").expect("held")[1000..2000], [2; 1000]);
    });
    for seed in 0..100 {
        let mut house = House::new(seed, DiskFaults::none());
        house.create(0, "a", 4096).expect("created");
        house.disk.set_faults(DiskFaults {
            sync_error: 1.0,
            ..DiskFaults::none()
        });
        let failed = house.ask(write_and_sync(0, 0, vec![2; 1000])).expect_err("fails");
        assert_eq!(failed.raw_os_error(), Some(libc::EIO));
        house.power_cut();
        left += usize::from(house.held("a").expect("held")[..1000] == [2; 1000]);
    }
    assert!((5..95).contains(&left), "{left}");
}

/// What makes a failed sync dangerous: the next one succeeds, and the bytes are gone all the same.
#[test]
fn a_failed_sync_forgets_what_it_should_have_saved() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut house = House::new(seed, DiskFaults::none());
        house.create(0, "a", 4096).expect("created");
        house.write(0, 0, vec![1; 4096]).expect("wrote");
        house.disk.set_faults(DiskFaults {
            sync_error: 1.0,
            ..DiskFaults::none()
        });
        assert_eq!(house.sync(0).expect_err("fails").raw_os_error(), Some(libc::EIO));
        house.disk.set_faults(DiskFaults::none());
        house.sync(0).expect("succeeds");
        assert_eq!(house.held("a").expect("held"), vec![1; 4096], "still in memory");
        house.power_cut();
        lost += usize::from(house.held("a").expect("held").contains(&0));
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn each_fault_strikes_the_operation_that_it_names() {
    let faults = |change: fn(&mut DiskFaults)| {
        let mut faults = DiskFaults::none();
        change(&mut faults);
        faults
    };
    let mut house = House::new(3, DiskFaults::none());
    house.create(0, "a", 100).expect("created");
    house.disk.set_faults(faults(|faults| faults.open_error = 1.0));
    assert!(house.create(1, "b", 100).is_err());
    house.disk.set_faults(faults(|faults| faults.write_error = 1.0));
    assert!(!is_full(&house.write(0, 0, vec![1; 10]).expect_err("fails")));
    house.disk.set_faults(faults(|faults| faults.write_full = 1.0));
    assert!(is_full(&house.write(0, 0, vec![1; 10]).expect_err("fails")));
    house.disk.set_faults(faults(|faults| faults.read_error = 1.0));
    let read = DiskOp::Read {
        ticket: 0,
        file: 0,
        at: 0,
        bytes: 1,
    };
    assert!(house.ask(read).is_err());
    house.disk.set_faults(DiskFaults::none());
    house.create(1, "b", 100).expect("the key is free after an error");
    assert!(house.create(1, "c", 100).is_err(), "and taken after none");
    house
        .disk
        .set_faults(faults(|faults| faults.latency_ns = (5_000_000, 5_000_000)));
    let before_ns = house.world.now_ns();
    house.sync(0).expect("synced");
    assert_eq!(
        house.world.now_ns() - before_ns,
        10_000_000,
        "until it acts, and until it is told"
    );
}

#[test]
fn a_kill_leaves_any_part_of_what_was_under_way() {
    let (mut none, mut all, mut some) = (0, 0, 0);
    for seed in 0..300 {
        let mut house = House::new(seed, DiskFaults::none());
        house.create(0, "a", 4096).expect("created");
        house.driver.disk(write(0, 0, vec![1; 4096]));
        house.kill();
        assert_eq!(house.disk.operations(), 0);
        match house
            .held("a")
            .expect("held")
            .iter()
            .filter(|byte| **byte == 1)
            .count()
        {
            0 => none += 1,
            4096 => all += 1,
            _ => some += 1,
        }
        house
            .ask(DiskOp::Open {
                file: 0,
                path: path("a"),
            })
            .expect("the new process has keys of its own");
    }
    assert!(none > 30 && all > 30 && some > 30, "{none} {all} {some}");
}

#[test]
fn a_file_is_closed_behind_what_was_asked_of_it() {
    for_seeds(200, |seed| {
        let mut house = House::new(seed, DiskFaults::wild());
        house.create(0, "a", 4096).expect("created");
        for n in 0..8 {
            house.driver.disk(write(0, n * 512, vec![1; 512]));
        }
        house.driver.disk(DiskOp::Close { file: 0 });
        house.driver.disk(DiskOp::Remove { path: path("a") });
        let mut done = Vec::new();
        while let Some(next) = house.next() {
            done.push(next);
        }
        assert_eq!(done.len(), 10);
        assert_eq!(house.disk.used_bytes(), 0);
        assert!(done.into_iter().all(|done| outcome(done).is_ok()));
    });
}

#[test]
fn a_seed_repeats_itself() {
    let play = |seed| {
        let mut house = House::new(seed, DiskFaults::brutal());
        let mut outcomes = String::new();
        for file in 0..4 {
            let created = house.create(file, &format!("{file}"), 8192);
            outcomes += &format!("{created:?}");
            for n in 0..6 {
                house.driver.disk(write(file, n * 700, vec![n as u8 + 1; 700]));
                house.driver.disk(DiskOp::Sync { file });
            }
            while let Some(done) = house.next() {
                outcomes += &format!("{done:?}");
            }
        }
        house.power_cut();
        for name in house.disk.names(Path::new("/data/log")) {
            outcomes += &format!("{:?}", house.held(&name));
        }
        (outcomes, house.world.now_ns())
    };
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed));
    }
    assert_ne!(play(1), play(2));
}

#[test]
fn a_reactor_hands_what_is_done_to_its_user() {
    let mut world = World::new(1, 1, Faults::none());
    let (_, mut endpoints) = mail::mesh(1, 1);
    let endpoint = endpoints.pop().expect("one core");
    let mut reactor: Reactor<SimDriver, ()> = Reactor::new(
        world.driver(0),
        endpoint,
        Board::new(1),
        Vec::new(),
        ReactorConfig::default(),
    );
    reactor.disk(DiskOp::Create {
        file: 1,
        path: path("a"),
        bytes: 10,
    });
    let mut done = Vec::new();
    while world.step() != Step::Quiet {
        reactor.turn(None).expect("turn");
        while let Some(event) = reactor.poll() {
            let Event::Disk(what) = event else {
                panic!("{event:?}")
            };
            let opened = matches!(what, DiskDone::Opened { result: Ok(()), .. });
            done.push(what);
            if opened {
                reactor.disk(write(1, 0, vec![1; 20]));
            }
        }
        reactor.flush();
    }
    assert!(
        matches!(
            done[..],
            [DiskDone::Opened { .. }, DiskDone::Wrote { file: 1, at: 0, .. }]
        ),
        "{done:?}"
    );
    assert_eq!(world.disk().length(&path("a")).expect("there"), 20);
}
