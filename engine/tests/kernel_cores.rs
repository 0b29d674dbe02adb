//! Several cores on the real kernel: wakes between rings, and who gets the connections.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::driver::{Completion, Driver};
use fluxar_engine::listener::{Address, Listener, ListenerId};
use fluxar_engine::mail::{self, Wake};
use fluxar_engine::reactor::{Board, Event, Reactor, ReactorConfig};
use fluxar_engine::uring::{UringConfig, UringDriver, UringHub};

/// Far longer than anything here takes; reaching it is the failure.
const STALLED: Duration = Duration::from_secs(120);

/// Letters go back and forth between two cores that park whenever they may. One lost wake and both sleep for ever.
fn ping_pong(spin_us: u32, trips: u32) {
    let hub = UringHub::new(2).expect("hub");
    let board = Board::new(2);
    let (mut control, endpoints) = mail::mesh::<_>(2, 8);
    let (done, finished) = mpsc::channel();
    for core in 0..2 {
        control.attach(core, Box::new(hub.waker(core)));
    }
    let cores: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| {
            let (hub, board, done) = (Arc::clone(&hub), board.clone(), done.clone());
            thread::spawn(move || {
                let core = endpoint.core();
                let driver = UringDriver::new(&hub, core, &UringConfig::default()).expect("driver");
                let config = ReactorConfig {
                    spin_us,
                    ..ReactorConfig::default()
                };
                let mut reactor = Reactor::<_, u32>::new(driver, endpoint, board, Vec::new(), config);
                loop {
                    reactor.turn(None).expect("turn");
                    while let Some(event) = reactor.poll() {
                        let Event::Letter { letter, .. } = event else {
                            panic!("only letters here")
                        };
                        match letter {
                            u32::MAX => return,
                            letter if letter >= trips => done.send(letter).expect("the test is there"),
                            letter => reactor.post(1 - core, letter + 1).expect("there is room"),
                        }
                    }
                }
            })
        })
        .collect();
    // Three games at once, so that a wake also meets a core that is just parking or just waking.
    for start in 0..3 {
        control.post(start as usize % 2, start.into()).expect("room");
    }
    for _ in 0..3 {
        finished.recv_timeout(STALLED).expect("a wake was lost");
    }
    for core in 0..2 {
        control.post(core, u32::MAX.into()).expect("room");
    }
    for core in cores {
        core.join().expect("core");
    }
}

#[test]
fn no_wake_is_lost_between_cores_that_park_at_once() {
    ping_pong(0, 60_000);
}

#[test]
fn no_wake_is_lost_between_cores_that_watch_their_mail_first() {
    ping_pong(5, 40_000);
}

/// A core that is told by eventfd, because its ring does not exist yet, hears of it when it comes.
#[test]
fn a_core_that_comes_late_finds_the_wake() {
    let hub = UringHub::new(2).expect("hub");
    let mut early = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
    early.wake(1);
    early.turn(Some(0)).expect("turn");
    let mut late = UringDriver::new(&hub, 1, &UringConfig::default()).expect("driver");
    late.turn(None).expect("returns at once");
}

/// Wakes for a core that is gone are harmless, and its ring's place is not taken by another descriptor.
#[test]
fn waking_a_core_that_is_gone_does_nothing() {
    let hub = UringHub::new(2).expect("hub");
    let mut driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
    drop(UringDriver::new(&hub, 1, &UringConfig::default()).expect("driver"));
    for _ in 0..1000 {
        driver.wake(1);
        hub.waker(1).wake();
        driver.turn(Some(0)).expect("turn");
    }
    assert!(driver.poll().is_none());
}

/// The kernel's own spread, before the reactor evens it out: idle cores take turns.
#[test]
fn cores_that_share_a_listener_share_its_connections() {
    const CORES: usize = 2;
    const CONNECTIONS: usize = 400;
    let address = Address::parse("tcp://127.0.0.1:0").expect("address");
    let listener = Arc::new(Listener::open(&address).expect("open"));
    let port = listener
        .address()
        .to_string()
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok());
    let hub = UringHub::new(CORES).expect("hub");
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..CORES).map(|_| AtomicUsize::new(0)).collect());
    let ready = Arc::new(std::sync::Barrier::new(CORES + 1));
    let threads: Vec<_> = (0..CORES)
        .map(|core| {
            let (hub, listener) = (Arc::clone(&hub), Arc::clone(&listener));
            let (stop, counts, ready) = (Arc::clone(&stop), Arc::clone(&counts), Arc::clone(&ready));
            thread::spawn(move || {
                let mut driver = UringDriver::new(&hub, core, &UringConfig::default()).expect("driver");
                driver.register(ListenerId(0), &listener);
                driver.accept(ListenerId(0));
                driver.turn(Some(0)).expect("turn");
                ready.wait();
                while !stop.load(Ordering::Acquire) {
                    driver.turn(None).expect("turn");
                    while let Some(completion) = driver.poll() {
                        assert!(
                            matches!(completion, Completion::Accepted { .. }),
                            "{completion:?}"
                        );
                        counts[core].fetch_add(1, Ordering::AcqRel);
                    }
                }
            })
        })
        .collect();
    ready.wait();
    let total = || {
        counts
            .iter()
            .map(|count| count.load(Ordering::Acquire))
            .sum::<usize>()
    };
    let begun = Instant::now();
    for n in 1..=CONNECTIONS {
        let _connection = TcpStream::connect(("127.0.0.1", port.expect("port"))).expect("connect");
        while total() < n {
            assert!(begun.elapsed() < STALLED, "a connection was not accepted");
            thread::yield_now();
        }
    }
    stop.store(true, Ordering::Release);
    for core in 0..CORES {
        hub.waker(core).wake();
    }
    for thread in threads {
        thread.join().expect("core");
    }
    let counts: Vec<usize> = counts.iter().map(|count| count.load(Ordering::Acquire)).collect();
    assert!(
        counts.iter().all(|&count| count >= CONNECTIONS / (4 * CORES)),
        "uneven: {counts:?}"
    );
    println!("{counts:?}");
}
