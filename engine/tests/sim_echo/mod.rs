//! An echo service on reactors over the simulation, with the invariants of the reactor's events checked on every one,
//! and clients that know what has to come back.

#![allow(dead_code)] // Each test file takes what it needs.

pub(crate) mod client;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_engine::listener::ListenerId;
use fluxar_engine::mail;
use fluxar_engine::reactor::{
    Board, Cause, Close, Conn, Event, Parcel, Piece, Reactor, ReactorConfig, Transport,
};
use fluxar_engine::sim::{Faults, Random, SimDriver, SimSocket, Step, World};
use fluxar_engine::ws::WsConfig;

/// More steps than any test needs; a livelock ends here.
const STEPS_MAX: usize = 2_000_000;

/// What the service does.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Stops reading from a connection that has so much queued.
    pub(crate) queued_max: usize,
    /// Pauses at random, too.
    pub(crate) pauses: f64,
    /// Answers the first bytes of a connection with so many, then drains it.
    pub(crate) farewell: Option<usize>,
    /// Closes at once at random, on any event.
    pub(crate) closes: f64,
    /// Each core sends so many letters to each core.
    pub(crate) letters: u64,
    /// Gives back a part of what arrived at random, and hands connections over at random, on any event.
    pub(crate) moves: f64,
    /// Takes all letters of a turn, but no more than so many other events.
    pub(crate) budget: Option<usize>,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            queued_max: 4096,
            pauses: 0.0,
            farewell: None,
            closes: 0.0,
            letters: 0,
            moves: 0.0,
            budget: None,
        }
    }
}

/// What one core knows of a connection.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) queued: usize,
    pub(crate) paused: bool,
    /// Closed by the service: nothing but `Sent` and `Closed` may come.
    pub(crate) closing: bool,
    /// About to end, not by the service: nothing but `Sent` and `Closed` may come.
    pub(crate) ending: bool,
}

pub(crate) struct Core {
    pub(crate) reactor: Reactor<SimDriver, u64>,
    service: Service,
    random: Random,
    pub(crate) known: BTreeMap<Conn, Known>,
    /// Connections that were paused for no reason.
    resting: Vec<Conn>,
    pub(crate) opened: usize,
    pub(crate) causes: Vec<Cause>,
    /// By receiver: the next letter's number.
    to_post: Vec<u64>,
    /// By sender: the number that has to come next.
    pub(crate) letters_next: Vec<u64>,
    /// The letters of connections that were handed over from here, and to here.
    pub(crate) handed: Vec<u64>,
    pub(crate) taken: Vec<u64>,
    pub(crate) queued_most: usize,
    /// `Received` events.
    pub(crate) chunks: u64,
}

impl Core {
    /// One round of the loop that every user of a reactor has.
    fn run_once(&mut self) {
        let unposted = self.to_post.iter().any(|next| *next < self.service.letters);
        let busy = !self.resting.is_empty() || unposted;
        let until_ns = busy.then(|| self.reactor.now_ns() + 100_000);
        self.reactor.turn(until_ns).unwrap();
        let mut budget = self.service.budget.unwrap_or(usize::MAX);
        if self.service.budget.is_some() {
            while let Some(letter) = self.reactor.poll_letter() {
                assert!(matches!(letter, Event::Letter { .. }), "{letter:?}");
                self.handle(letter);
            }
        }
        while budget > 0
            && let Some(event) = self.reactor.poll()
        {
            let late = self.service.budget.is_some() && matches!(event, Event::Letter { .. });
            assert!(!late, "all letters of the turn were taken");
            self.handle(event);
            budget -= 1;
        }
        self.rest_no_longer();
        self.post_letters();
        self.reactor.flush();
    }

    fn handle(&mut self, event: Event<<SimDriver as fluxar_engine::driver::Driver>::Lease, u64>) {
        let conn = match event {
            Event::Opened { conn, .. } => {
                assert!(
                    self.known.insert(conn, Known::default()).is_none(),
                    "{conn:?} opened twice"
                );
                self.opened += 1;
                conn
            }
            Event::Connected { conn } => panic!("{conn:?} was not dialled"),
            Event::HandedOver { conn, from, letter } => {
                assert_eq!(letter >> 32, from as u64);
                self.taken.push(letter);
                let new = self.known.insert(conn, Known::default()).is_none();
                assert!(new, "{conn:?} is in use");
                conn
            }
            Event::Received { conn, chunk } => {
                let known = self
                    .known
                    .get_mut(&conn)
                    .expect("bytes of a connection that is open");
                assert!(
                    !known.paused && !known.closing && !known.ending,
                    "{conn:?} got bytes it did not want"
                );
                self.chunks += 1;
                let gives_back = self.random.chance(self.service.moves);
                let (mut pieces, mut untaken) = (Vec::new(), 0);
                let mut input = self.reactor.input(conn, chunk);
                while let Some(piece) = input.next() {
                    pieces.push(match piece {
                        Piece::Stream(bytes) if gives_back => {
                            untaken = self.random.index(bytes.len() + 1);
                            Bytes::copy_from_slice(&bytes[..bytes.len() - untaken])
                        }
                        Piece::Stream(bytes) | Piece::Message(bytes) => Bytes::copy_from_slice(bytes),
                    });
                    if gives_back && self.random.chance(0.5) {
                        break;
                    }
                }
                if gives_back {
                    input.hold(untaken);
                    known.paused = true;
                    self.resting.push(conn);
                } else {
                    drop(input);
                }
                self.answer(conn, pieces);
                conn
            }
            Event::Sent { conn, bytes } => {
                let known = self
                    .known
                    .get_mut(&conn)
                    .expect("sent on a connection that is open");
                assert!(bytes > 0);
                known.queued = known
                    .queued
                    .checked_sub(bytes)
                    .expect("no more is sent than was queued");
                if known.paused && known.queued < self.service.queued_max && !self.resting.contains(&conn) {
                    known.paused = false;
                    self.reactor.resume(conn);
                }
                conn
            }
            Event::Ending { conn, .. } => {
                let known = self.known.get_mut(&conn).expect("a connection that is open ends");
                assert!(!std::mem::replace(&mut known.ending, true), "{conn:?} ends twice");
                // It vanishes: were it counted or sent, the clients or `Sent` would tell.
                self.reactor.send(conn, Bytes::from_static(b"too late"));
                conn
            }
            Event::Closed { conn, cause } => {
                let known = self.known.remove(&conn).expect("a connection is closed once");
                let told = known.ending || known.closing;
                assert!(told || !matches!(cause, Cause::Peer), "{conn:?} was about to end");
                self.resting.retain(|resting| *resting != conn);
                self.causes.push(cause);
                return;
            }
            Event::Disk(_) => panic!("{event:?}"),
            Event::Letter { from, letter } => {
                assert_eq!(letter, self.letters_next[from], "letters from {from} in order");
                self.letters_next[from] += 1;
                return;
            }
        };
        if self.random.chance(self.service.moves) {
            return self.hand_over(conn);
        }
        if self.random.chance(self.service.closes) && !self.known[&conn].closing {
            let now = self.random.chance(0.5);
            self.known.get_mut(&conn).unwrap().closing = true;
            self.reactor.close(
                conn,
                if now {
                    Close::Now
                } else {
                    Close::Drain { ws_code: 1001 }
                },
            );
        }
    }

    fn hand_over(&mut self, conn: Conn) {
        let letter = ((self.reactor.core() as u64) << 32) | self.handed.len() as u64;
        let core = self.random.index(self.reactor.cores());
        if let Err(back) = self.reactor.hand_over(conn, core, letter) {
            assert_eq!(back, letter, "it was not to be had, and its end follows");
            return;
        }
        self.handed.push(letter);
        self.known.remove(&conn).expect("it was known");
        self.resting.retain(|resting| *resting != conn);
        // The old name means nothing any more. What is sent by it would come back to the clients.
        self.reactor.send(conn, Bytes::from_static(b"too late"));
        self.reactor.resume(conn);
        self.reactor.close(conn, Close::Now);
        self.reactor.close(conn, Close::Drain { ws_code: 1001 });
        assert_eq!(self.reactor.hand_over(conn, core, letter), Err(letter));
    }

    fn answer(&mut self, conn: Conn, pieces: Vec<Bytes>) {
        let known = self.known.get_mut(&conn).unwrap();
        if let Some(bytes) = self.service.farewell {
            // A chunk of a WebSocket may hold no whole message yet.
            if !pieces.is_empty() {
                known.queued += bytes;
                known.closing = true;
                self.reactor.send(conn, Bytes::from(vec![7; bytes]));
                self.reactor.close(conn, Close::Drain { ws_code: 1001 });
            }
            return;
        }
        for piece in pieces {
            known.queued += piece.len();
            self.queued_most = self.queued_most.max(known.queued);
            if self.random.chance(0.5) {
                self.reactor.send(conn, piece);
            } else {
                let first = piece.slice(..self.random.index(piece.len() + 1));
                let second = piece.slice(first.len()..);
                self.reactor.send_parts(conn, [first, second]);
            }
        }
        let rests = self.random.chance(self.service.pauses);
        if known.queued >= self.service.queued_max || rests {
            known.paused = true;
            self.reactor.pause(conn);
            if rests && !self.resting.contains(&conn) {
                self.resting.push(conn);
            }
        }
    }

    fn rest_no_longer(&mut self) {
        for conn in std::mem::take(&mut self.resting) {
            let known = self.known.get_mut(&conn).unwrap();
            if self.random.chance(0.5) {
                self.resting.push(conn);
            } else if known.queued < self.service.queued_max {
                known.paused = false;
                self.reactor.resume(conn);
            }
        }
    }

    fn post_letters(&mut self) {
        for core in 0..self.to_post.len() {
            while self.to_post[core] < self.service.letters {
                let letter = self.to_post[core];
                if let Err(back) = self.reactor.post(core, letter) {
                    assert_eq!(back, letter);
                    break;
                }
                self.to_post[core] += 1;
            }
        }
    }
}

/// Cores with the service, on one byte-stream and one WebSocket listener.
pub(crate) struct House {
    pub(crate) world: World,
    pub(crate) cores: Vec<Core>,
    pub(crate) board: Board,
    pub(crate) control: mail::Control<Parcel<SimSocket, u64>>,
    pub(crate) stream: ListenerId,
    pub(crate) websocket: ListenerId,
}

impl House {
    pub(crate) fn new(seed: u64, cores: usize, faults: Faults, service: Service) -> House {
        House::with_config(seed, cores, faults, service, |_| {})
    }

    pub(crate) fn with_config(
        seed: u64,
        cores: usize,
        faults: Faults,
        service: Service,
        configure: impl Fn(&mut ReactorConfig),
    ) -> House {
        let mut world = World::new(seed, cores, faults);
        let (stream, websocket) = (world.listen(), world.listen());
        let board = Board::new(cores);
        let (mut control, endpoints) = mail::mesh(cores, 4);
        let ws = Arc::new(WsConfig::default());
        let mut config = ReactorConfig {
            spin_us: 0,
            ..ReactorConfig::default()
        };
        configure(&mut config);
        let cores = endpoints.into_iter().enumerate().map(|(core, mail)| Core {
            reactor: Reactor::new(
                world.driver(core),
                mail,
                board.clone(),
                vec![
                    (stream, Transport::Stream),
                    (websocket, Transport::WebSocket(Arc::clone(&ws))),
                ],
                config.clone(),
            ),
            service: service.clone(),
            random: Random::new(seed ^ (core as u64 + 1)),
            known: BTreeMap::new(),
            resting: Vec::new(),
            opened: 0,
            causes: Vec::new(),
            to_post: vec![0; cores],
            letters_next: vec![0; cores + 1],
            handed: Vec::new(),
            taken: Vec::new(),
            queued_most: 0,
            chunks: 0,
        });
        let cores: Vec<Core> = cores.collect();
        for core in 0..cores.len() {
            control.attach(core, world.waker(core));
        }
        House {
            world,
            cores,
            board,
            control,
            stream,
            websocket,
        }
    }

    /// Runs until `done` says so; `clients` acts whenever something arrived at one. False if nothing can happen any
    /// more before that.
    pub(crate) fn run_until<C>(
        &mut self,
        clients: &mut C,
        mut act: impl FnMut(&mut World, &mut C),
        mut done: impl FnMut(&House, &C) -> bool,
    ) -> bool {
        act(&mut self.world, clients);
        for _ in 0..STEPS_MAX {
            if done(self, clients) {
                return true;
            }
            match self.world.step() {
                Step::Core(core) => self.cores[core].run_once(),
                Step::Clients => act(&mut self.world, clients),
                Step::Quiet => return done(self, clients),
            }
        }
        panic!("no end after {STEPS_MAX} steps");
    }

    /// Runs until nothing can happen any more.
    pub(crate) fn run_until_quiet<C>(&mut self, clients: &mut C, act: impl FnMut(&mut World, &mut C)) {
        self.run_until(clients, act, |_, _| false);
    }

    pub(crate) fn opened(&self) -> usize {
        self.cores.iter().map(|core| core.opened).sum()
    }

    pub(crate) fn causes(&self) -> impl Iterator<Item = &Cause> {
        self.cores.iter().flat_map(|core| &core.causes)
    }

    /// How many connections were handed over, each of whose letters arrived once.
    pub(crate) fn handed_over(&self) -> usize {
        let sorted = |letters: &dyn Fn(&Core) -> Vec<u64>| {
            let mut all: Vec<u64> = self.cores.iter().flat_map(letters).collect();
            all.sort_unstable();
            all
        };
        let handed = sorted(&|core| core.handed.clone());
        assert_eq!(
            sorted(&|core| core.taken.clone()),
            handed,
            "letters of connections"
        );
        handed.len()
    }

    /// After the last connection is gone, nothing of any is left.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(
            self.opened(),
            self.causes().count(),
            "each opened connection was closed"
        );
        assert_eq!(self.world.sockets_open(), 0, "sockets");
        assert_eq!(self.world.operations(), 0, "operations under way");
        for (index, core) in self.cores.iter().enumerate() {
            assert_eq!(core.known.len(), 0, "connections that the service knows");
            assert_eq!(core.reactor.connections(), 0, "slots");
            assert_eq!(core.reactor.gathers_lent(), 0, "gather lists");
            assert_eq!(core.reactor.held_bytes(), 0, "bytes of paused connections");
            assert_eq!(self.world.leases_lent(index), 0, "receive buffers");
            assert_eq!(self.board.connections(index), 0, "connections on the board");
        }
    }
}

/// Runs a test for many seeds, and says which one failed. `FLUXAR_SEED` picks one.
pub(crate) fn for_seeds(seeds: std::ops::Range<u64>, test: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Some(seed) = std::env::var("FLUXAR_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return test(seed);
    }
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| test(seed)) {
            eprintln!("failed with seed {seed}; run again with FLUXAR_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
