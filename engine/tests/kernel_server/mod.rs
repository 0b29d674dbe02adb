//! An echo server on the real kernel, inside the test's process: reactors on the io_uring driver, one thread a core.

#![allow(dead_code)] // Each test binary uses a part.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::listener::{Address, Listener, ListenerId};
use fluxar_engine::mail::{self, Control};
use fluxar_engine::reactor::{Board, Conn, Event, Parcel, Piece, Reactor, ReactorConfig, Transport};
use fluxar_engine::uring::{Socket, UringConfig, UringDriver, UringHub};
use fluxar_engine::ws::WsConfig;

/// Far longer than anything here takes; reaching it is the failure.
pub(crate) const STALLED: Duration = Duration::from_secs(60);

/// While so much waits for a peer it is not read from.
const QUEUED_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Letter {
    Stop,
    /// A connection that is handed over.
    Yours,
}

/// What a core says when it stops.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Connections that it still has.
    pub(crate) connections: usize,
    /// Connections that it took over its life.
    pub(crate) adopted: u64,
    /// Times that the kernel refused to accept.
    pub(crate) accepts_failed: u64,
    /// Receive buffers that are in nobody's hands.
    pub(crate) free_buffers: usize,
    /// Connections that went to another core.
    pub(crate) handed_over: u64,
    /// Gather lists with the driver.
    pub(crate) gathers_lent: usize,
    /// Events `Opened` less events `Closed`.
    pub(crate) open: usize,
}

pub(crate) struct Server {
    pub(crate) addresses: Vec<Address>,
    pub(crate) board: Board,
    /// A mutex only because several client threads share the server.
    control: Mutex<Control<Parcel<Socket, Letter>>>,
    threads: Vec<JoinHandle<Ended>>,
}

impl Server {
    pub(crate) fn start(cores: usize, urls: &[&str], uring: &UringConfig, config: &ReactorConfig) -> Server {
        Server::start_with(cores, urls, uring, config, false)
    }

    /// A server that now and then hands a connection on to the next core.
    pub(crate) fn start_wandering(cores: usize, urls: &[&str], uring: &UringConfig) -> Server {
        Server::start_with(cores, urls, uring, &ReactorConfig::default(), true)
    }

    fn start_with(
        cores: usize,
        urls: &[&str],
        uring: &UringConfig,
        config: &ReactorConfig,
        wandering: bool,
    ) -> Server {
        let open = |url: &&str| Arc::new(Listener::open(&Address::parse(url).expect(url)).expect(url));
        let listeners: Vec<_> = urls.iter().map(open).collect();
        let addresses = listeners
            .iter()
            .map(|listener| listener.address().clone())
            .collect();
        let hub = UringHub::new(cores).expect("hub");
        let board = Board::new(cores);
        let (mut control, endpoints) = mail::mesh(cores, 256);
        let ready = Arc::new(Barrier::new(cores + 1));
        let mut threads = Vec::new();
        for endpoint in endpoints {
            let core = endpoint.core();
            control.attach(core, Box::new(hub.waker(core)));
            let (hub, board, listeners) = (Arc::clone(&hub), board.clone(), listeners.clone());
            let (uring, config, ready) = (uring.clone(), config.clone(), Arc::clone(&ready));
            threads.push(thread::spawn(move || {
                let mut driver = UringDriver::new(&hub, core, &uring).expect("driver");
                let mut transports = Vec::new();
                for (id, listener) in (0..).map(ListenerId).zip(&listeners) {
                    driver.register(id, listener);
                    transports.push((id, transport(listener.address())));
                }
                let reactor = Reactor::new(driver, endpoint, board, transports, config);
                ready.wait();
                serve(reactor, wandering)
            }));
        }
        ready.wait();
        Server {
            addresses,
            board,
            control: Mutex::new(control),
            threads,
        }
    }

    /// The address of a TCP or WebSocket listener.
    pub(crate) fn socket_address(&self, index: usize) -> SocketAddr {
        match &self.addresses[index] {
            Address::Tcp { host, port } | Address::WebSocket { host, port, .. } => {
                SocketAddr::new(host.parse().expect("resolved"), *port)
            }
            Address::Unix { .. } => panic!("a Unix socket"),
        }
    }

    pub(crate) fn connect(&self, index: usize) -> TcpStream {
        let stream = TcpStream::connect(self.socket_address(index)).expect("connect");
        stream.set_read_timeout(Some(STALLED)).expect("timeout");
        stream
    }

    /// How many connections all cores have.
    pub(crate) fn connections(&self) -> usize {
        (0..self.threads.len())
            .map(|core| self.board.connections(core))
            .sum()
    }

    /// Waits until the server has so many connections.
    pub(crate) fn await_connections(&self, wanted: usize) {
        let begun = Instant::now();
        while self.connections() != wanted {
            assert!(
                begun.elapsed() < STALLED,
                "{} connections instead of {wanted}",
                self.connections()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the cores and hears what they have to say.
    pub(crate) fn stop(self) -> Vec<Ended> {
        let mut control = self.control.into_inner().expect("nobody posts");
        for core in 0..self.threads.len() {
            control
                .post(core, Letter::Stop.into())
                .expect("room for a letter");
        }
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("core"))
            .collect()
    }
}

fn transport(address: &Address) -> Transport {
    match address {
        Address::WebSocket { .. } => {
            let config = WsConfig {
                max_message_bytes: 4 << 20,
                ..WsConfig::default()
            };
            Transport::WebSocket(Arc::new(config))
        }
        Address::Tcp { .. } | Address::Unix { .. } => Transport::Stream,
    }
}

fn serve(mut reactor: Reactor<UringDriver, Letter>, wandering: bool) -> Ended {
    let next_core = (reactor.core() + 1) % reactor.cores();
    let mut chunks = 0;
    let mut queued_bytes: HashMap<Conn, usize> = HashMap::new();
    let mut echoes: Vec<Bytes> = Vec::new();
    loop {
        reactor.turn(None).expect("turn");
        while let Some(event) = reactor.poll() {
            match event {
                Event::Opened { conn, .. } => {
                    assert!(queued_bytes.insert(conn, 0).is_none(), "opened twice");
                }
                Event::HandedOver { conn, from, letter } => {
                    assert_eq!(
                        (letter, (from + 1) % reactor.cores()),
                        (Letter::Yours, reactor.core())
                    );
                    assert!(queued_bytes.insert(conn, 0).is_none(), "in use");
                }
                Event::Connected { conn } => panic!("{conn:?} was not dialled"),
                Event::Received { conn, chunk } => {
                    let mut input = reactor.input(conn, chunk);
                    while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                        echoes.push(Bytes::copy_from_slice(bytes));
                    }
                    drop(input);
                    let queued = queued_bytes.get_mut(&conn).expect("open");
                    for echo in echoes.drain(..) {
                        *queued += echo.len();
                        let parts = [echo.slice(..echo.len() / 3), echo.slice(echo.len() / 3..)];
                        reactor.send_parts(conn, parts);
                    }
                    if *queued > QUEUED_BYTES_MAX {
                        reactor.pause(conn);
                    }
                    chunks += 1;
                    if wandering
                        && chunks % 3 == 0
                        && reactor.hand_over(conn, next_core, Letter::Yours).is_ok()
                    {
                        queued_bytes.remove(&conn);
                    }
                }
                Event::Sent { conn, bytes } => {
                    let queued = queued_bytes.get_mut(&conn).expect("open");
                    *queued -= bytes;
                    if *queued <= QUEUED_BYTES_MAX / 2 {
                        reactor.resume(conn);
                    }
                }
                Event::Disk(_) => panic!("{event:?}"),
                Event::Ending { conn, .. } => assert!(queued_bytes.contains_key(&conn), "open"),
                Event::Closed { conn, .. } => {
                    queued_bytes.remove(&conn).expect("was open");
                }
                Event::Letter {
                    letter: Letter::Yours,
                    ..
                } => panic!("not without its connection"),
                Event::Letter {
                    letter: Letter::Stop, ..
                } => {
                    // Once more, so that buffers that were just given back are counted.
                    reactor.turn(Some(0)).expect("turn");
                    let counters = reactor.counters();
                    use fluxar_engine::driver::Driver;
                    return Ended {
                        connections: reactor.connections(),
                        adopted: counters.adopted,
                        accepts_failed: counters.accepts_failed,
                        free_buffers: reactor.driver().free_buffers(),
                        handed_over: counters.handed_over,
                        gathers_lent: reactor.gathers_lent(),
                        open: queued_bytes.len(),
                    };
                }
            }
        }
    }
}

/// A small seeded source of variety (xorshift); the seed is printed by the tests that use it.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}
