//! One simulated core dials another that echoes: every dial comes to one end, whatever the network does, and what was
//! sent comes back when the network lets it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_engine::dial::Dial;
use fluxar_engine::listener::{Address, ListenerId};
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Cause, Close, Conn, Event, Piece, Reactor, ReactorConfig, Transport};
use fluxar_engine::sim::{Faults, SimDriver, Step, World};
use fluxar_engine::ws::WsConfig;

type Core = Reactor<SimDriver, ()>;

/// More steps than any seed needs; a livelock ends here.
const STEPS_MAX: usize = 2_000_000;
const STREAMS: ListenerId = ListenerId(0);
const WEBSOCKETS: ListenerId = ListenerId(1);
const DIALS: usize = 24;

/// What the dialling core knows of a connection.
struct Known {
    to_send: Vec<Bytes>,
    connected: bool,
    received: Vec<u8>,
    closing: bool,
}

impl Known {
    fn expected(&self) -> Vec<u8> {
        self.to_send.concat()
    }
}

struct Town {
    world: World,
    echo: Core,
    dialler: Core,
    /// What is known of each connection.
    known: BTreeMap<Conn, Known>,
    /// How each dial ended, and what it had received.
    ends: Vec<(Cause, Known)>,
}

fn core(
    world: &mut World,
    core: usize,
    listeners: Vec<(ListenerId, Transport)>,
    config: &ReactorConfig,
) -> Core {
    // Each is alone as far as mail goes.
    let (_, mut endpoints) = mail::mesh(1, 1);
    let endpoint = endpoints.pop().expect("one core");
    Reactor::new(
        world.driver(core),
        endpoint,
        Board::new(1),
        listeners,
        config.clone(),
    )
}

impl Town {
    fn new(seed: u64, faults: Faults) -> Town {
        let mut world = World::new(seed, 2, faults);
        assert_eq!([world.listen(), world.listen()], [STREAMS, WEBSOCKETS]);
        let config = ReactorConfig {
            send_bytes_max: world.random(|random| random.between(1, 3_000)) as usize,
            connect_ms: 200,
            handshake_ms: 1_000,
            ..ReactorConfig::default()
        };
        let websocket = Transport::WebSocket(Arc::new(WsConfig::default()));
        let listeners = vec![(STREAMS, Transport::Stream), (WEBSOCKETS, websocket)];
        Town {
            echo: core(&mut world, 0, listeners, &config),
            dialler: core(&mut world, 1, Vec::new(), &config),
            world,
            known: BTreeMap::new(),
            ends: Vec::new(),
        }
    }

    fn dial(&mut self, to: &Address) {
        let conn = self
            .dialler
            .dial(to, &Dial::default())
            .expect("nothing is wrong so far");
        let to_send = self.world.random(|random| {
            (0..random.between(1, 5))
                .map(|_| {
                    let bytes = random.between(1, 4_000);
                    (0..bytes)
                        .map(|_| random.next() as u8)
                        .collect::<Vec<u8>>()
                        .into()
                })
                .collect()
        });
        let known = Known {
            to_send,
            connected: false,
            received: Vec::new(),
            closing: false,
        };
        assert!(self.known.insert(conn, known).is_none(), "{conn:?} is in use");
    }

    fn run_echo(&mut self) {
        self.echo.turn(None).expect("turn");
        while let Some(event) = self.echo.poll() {
            if let Event::Received { conn, chunk } = event {
                let mut echoes = Vec::new();
                let mut input = self.echo.input(conn, chunk);
                while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                    echoes.push(Bytes::copy_from_slice(bytes));
                }
                drop(input);
                for echo in echoes {
                    self.echo.send(conn, echo);
                }
            }
        }
        self.echo.flush();
    }

    fn run_dialler(&mut self) {
        self.dialler.turn(None).expect("turn");
        while let Some(event) = self.dialler.poll() {
            match event {
                Event::Connected { conn } => {
                    let known = self.known.get_mut(&conn).expect("a connection that was dialled");
                    assert!(
                        !std::mem::replace(&mut known.connected, true),
                        "{conn:?} connects twice"
                    );
                    for bytes in &known.to_send {
                        self.dialler.send(conn, bytes.clone());
                    }
                }
                Event::Received { conn, chunk } => {
                    let known = self.known.get_mut(&conn).expect("a connection that is open");
                    assert!(known.connected && !known.closing, "{conn:?} receives");
                    let mut input = self.dialler.input(conn, chunk);
                    while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                        known.received.extend_from_slice(bytes);
                    }
                    drop(input);
                    if known.received.len() == known.expected().len() {
                        known.closing = true;
                        self.dialler.close(conn, Close::Drain { ws_code: 1000 });
                    }
                }
                Event::Sent { conn, .. } | Event::Ending { conn, .. } => {
                    assert!(self.known[&conn].connected, "{conn:?} is not open");
                }
                Event::Closed { conn, cause } => {
                    let known = self.known.remove(&conn).expect("a connection is closed once");
                    self.ends.push((cause, known));
                }
                Event::Opened { .. } | Event::Letter { .. } | Event::HandedOver { .. } | Event::Disk(_) => {
                    panic!("{event:?}")
                }
            }
        }
        self.dialler.flush();
    }

    /// Runs until nothing can happen any more.
    fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            match self.world.step() {
                Step::Core(0) => self.run_echo(),
                Step::Core(_) => self.run_dialler(),
                Step::Clients => {}
                Step::Quiet => return,
            }
        }
        panic!("it does not come to rest");
    }
}

fn life(seed: u64, faults: Faults) -> Town {
    let mut town = Town::new(seed, faults);
    let addresses = [
        town.world.address(STREAMS),
        town.world.websocket_address(WEBSOCKETS),
    ];
    for n in 0..DIALS {
        town.dial(&addresses[n % 2]);
    }
    town.run();
    assert!(
        town.known.is_empty(),
        "seed {seed}: {} dials have no end",
        town.known.len()
    );
    assert_eq!(town.ends.len(), DIALS);
    assert_eq!(
        (
            town.dialler.connections(),
            town.echo.connections(),
            town.world.sockets_open()
        ),
        (0, 0, 0),
        "seed {seed}"
    );
    assert_eq!(
        (town.world.operations(), town.dialler.gathers_lent()),
        (0, 0),
        "seed {seed}"
    );
    town
}

#[test]
fn what_was_sent_comes_back_over_a_wild_network() {
    for seed in 0..60 {
        let town = life(seed, Faults::wild());
        for (cause, known) in &town.ends {
            assert!(matches!(cause, Cause::Ours), "seed {seed}: {cause:?}");
            assert!(
                known.connected && known.received == known.expected(),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn every_dial_has_one_end_over_a_brutal_network() {
    let (mut refused, mut silent, mut reset, mut served) = (0, 0, 0, 0);
    for seed in 0..60 {
        for (cause, known) in life(seed, Faults::brutal()).ends {
            let expected = known.expected();
            assert!(
                expected.starts_with(&known.received),
                "seed {seed}: only what was sent comes back"
            );
            match cause {
                Cause::Ours => served += 1,
                Cause::Failed(error) => match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => {
                        assert!(!known.connected);
                        refused += 1;
                    }
                    std::io::ErrorKind::TimedOut => silent += 1,
                    _ => reset += 1,
                },
                other => assert!(known.connected, "seed {seed}: {other:?}"),
            }
        }
    }
    assert!(
        refused > 0 && silent > 0 && reset > 0 && served > 0,
        "{refused} refused, {silent} silent, {reset} reset, {served} served"
    );
}

#[test]
fn a_dial_where_nobody_listens_is_refused_and_one_that_is_closed_leaves_nothing() {
    let mut town = Town::new(3, Faults::none());
    town.dial(&Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 9,
    });
    town.dial(&Address::Unix {
        path: "/nowhere".into(),
    });
    town.run();
    assert_eq!(town.ends.len(), 2);
    for (cause, known) in town.ends.drain(..) {
        assert!(
            matches!(&cause, Cause::Failed(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        assert!(!known.connected);
    }
    // Closed before the network has heard of it, and while it is under way.
    for under_way in [false, true] {
        town.dial(&town.world.address(STREAMS));
        if under_way {
            town.run_dialler();
        }
        let conn = *town.known.keys().next().expect("dialled");
        town.dialler.close(conn, Close::Now);
        town.run();
        let (cause, known) = town.ends.pop().expect("ended");
        assert!(matches!(cause, Cause::Ours) && !known.connected);
        assert_eq!((town.world.sockets_open(), town.world.operations()), (0, 0));
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in [1, 99] {
        let digest = || life(seed, Faults::brutal()).world.digest();
        assert_eq!(digest(), digest());
    }
}

#[test]
fn a_core_that_stands_still_takes_no_turn_and_then_does_all() {
    let mut world = World::new(7, 2, Faults::none());
    let drivers = [world.driver(0), world.driver(1)];
    let begin_ns = world.now_ns();
    world.stall(0, begin_ns + 3_000_000);
    world.alarm_at(begin_ns + 2_000_000);
    // The other one never parks, so it is always its turn, or that of the clients.
    for _ in 0..20 {
        assert_ne!(world.step(), Step::Core(0));
    }
    world.stall(1, begin_ns + 5_000_000);
    assert_eq!(
        (world.step(), world.now_ns()),
        (Step::Clients, begin_ns + 2_000_000)
    );
    assert_eq!(
        (world.step(), world.now_ns()),
        (Step::Core(0), begin_ns + 3_000_000)
    );
    // A core that starts anew does not stand still any more.
    drop(drivers);
    let _driver = world.driver(1);
    assert_eq!(
        (world.step(), world.now_ns()),
        (Step::Core(1), begin_ns + 3_000_000)
    );
}
