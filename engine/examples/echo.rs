//! Echoes TCP bytes and WebSocket messages, on several pinned cores: the engine in one file.
//!
//! ```text
//! echo [--cores N] [URL…]          default: one core, tcp://127.0.0.1:7000 and ws://127.0.0.1:7001
//! ```
//!
//! The main thread asks the kernel what it can do, opens the listeners and ties the cores together. Then each core is
//! a thread of its own with a ring of its own, and runs the same loop: turn, poll until empty, repeat. No core ever
//! waits for another.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use fluxar_engine::listener::{Address, Listener, ListenerId};
use fluxar_engine::mail::{self, Endpoint};
use fluxar_engine::probe;
use fluxar_engine::reactor::{Board, Conn, Event, Parcel, Piece, Reactor, ReactorConfig, Transport};
use fluxar_engine::rlimit::raise_descriptor_limit;
use fluxar_engine::uring::{Socket, UringConfig, UringDriver, UringHub};
use fluxar_engine::ws::WsConfig;

/// Letters that one core may have under way to another.
const MAILBOX_LETTERS: usize = 1024;

/// The cores of this program have nothing to tell each other. Connections still travel by mail: whichever core accepts
/// one sends it to the core that has the fewest.
type Letter = Infallible;

/// A peer that sends and does not read is not read from while so much waits for it.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// What every core is given.
#[derive(Clone)]
struct Shared {
    hub: Arc<UringHub>,
    board: Board,
    listeners: Vec<Arc<Listener>>,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let (cores, addresses) = arguments()?;

    // What the kernel lacks is said in a line each, with what to do about it.
    let report = probe::probe(cores, &UringConfig::default());
    for missing in &report.missing {
        eprintln!("{missing}");
    }
    if let Some(fatal) = report.fatal.into_iter().next() {
        return Err(fatal.into());
    }
    raise_descriptor_limit()?;

    // Each listener is opened once; all cores accept from it.
    let mut listeners = Vec::new();
    for address in &addresses {
        let listener = Listener::open(address)?;
        println!("listening on {}, {cores} core(s)", listener.address());
        listeners.push(Arc::new(listener));
    }

    // `_control` is the main thread's side of the mailboxes; a real program says "drain" and the like through it.
    let (_control, mailboxes) = mail::mesh(cores, MAILBOX_LETTERS);
    let shared = Shared {
        hub: UringHub::new(cores)?,
        board: Board::new(cores),
        listeners,
    };
    let mut threads = Vec::new();
    for mailbox in mailboxes {
        let shared = shared.clone();
        let name = format!("core-{}", mailbox.core());
        threads.push(
            thread::Builder::new()
                .name(name)
                .spawn(move || run(mailbox, shared))?,
        );
    }
    for thread in threads {
        thread.join().map_err(|_| "a core panicked")??;
    }
    Ok(())
}

/// One core, from its first breath. The ring is made here, because it belongs to the thread that makes it.
fn run(mailbox: Endpoint<Parcel<Socket, Letter>>, shared: Shared) -> Result<(), String> {
    let core = mailbox.core();
    pin(core);
    let config = UringConfig::default();
    let mut driver = UringDriver::new(&shared.hub, core, &config)
        .map_err(|error| probe::explain(&error, shared.hub.cores(), &config).to_string())?;
    let mut transports = Vec::new();
    for (id, listener) in (0..).map(ListenerId).zip(&shared.listeners) {
        driver.register(id, listener);
        transports.push((id, transport(listener)));
    }
    let mut reactor = Reactor::new(
        driver,
        mailbox,
        shared.board,
        transports,
        ReactorConfig::default(),
    );
    let mut queued_bytes: HashMap<Conn, usize> = HashMap::new();
    let mut echoes: Vec<Bytes> = Vec::new();
    loop {
        // Sends what was queued, and parks while there is nothing to do.
        reactor
            .turn(None)
            .map_err(|error| format!("core {core}: {error}"))?;
        while let Some(event) = reactor.poll() {
            match event {
                Event::Opened { conn, .. } => {
                    queued_bytes.insert(conn, 0);
                }
                // Nothing is dialled here.
                Event::Connected { .. } => {}
                // `input` takes the transport off: a TCP connection yields bytes as they come, a WebSocket whole
                // messages. What is kept is copied out of the receive buffer, which goes back at once.
                Event::Received { conn, chunk } => {
                    let mut input = reactor.input(conn, chunk);
                    while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                        echoes.push(Bytes::copy_from_slice(bytes));
                    }
                    drop(input);
                    let queued = queued_bytes.entry(conn).or_default();
                    // However many there are for one connection, they leave in one send at the next turn.
                    for echo in echoes.drain(..) {
                        *queued += echo.len();
                        reactor.send(conn, echo);
                    }
                    if *queued > QUEUED_BYTES_MAX {
                        reactor.pause(conn);
                    }
                }
                Event::Sent { conn, bytes } => {
                    let queued = queued_bytes.entry(conn).or_default();
                    *queued -= bytes;
                    if *queued <= QUEUED_BYTES_MAX / 2 {
                        reactor.resume(conn);
                    }
                }
                // What would be sent from here on vanishes; what was queued still leaves.
                Event::Ending { .. } => {}
                // The last that is heard of a connection.
                Event::Closed { conn, .. } => {
                    queued_bytes.remove(&conn);
                }
                // Nothing is asked of a disk.
                Event::Disk(_) => {}
                Event::Letter { letter, .. } | Event::HandedOver { letter, .. } => match letter {},
            }
        }
    }
}

/// How the bytes of a listener are read.
fn transport(listener: &Listener) -> Transport {
    match listener.address() {
        Address::WebSocket { .. } => Transport::WebSocket(Arc::new(WsConfig::default())),
        Address::Tcp { .. } | Address::Unix { .. } => Transport::Stream,
    }
}

/// Keeps the thread on one processor. Where that is not allowed it runs on any, a little slower.
fn pin(core: usize) {
    let mut processors = rustix::thread::CpuSet::new();
    processors.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &processors) {
        eprintln!("core {core} is not pinned: {error}");
    }
}

fn arguments() -> Result<(usize, Vec<Address>), Box<dyn Error>> {
    let mut cores = 1;
    let mut addresses = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--cores" => {
                let number = words.next().and_then(|number| number.parse().ok());
                cores = number
                    .filter(|&number| number > 0)
                    .ok_or("--cores takes a number from 1")?;
            }
            "--help" | "-h" => {
                println!("echo [--cores N] [tcp://HOST:PORT | ws://HOST:PORT/ | unix:///PATH]…");
                std::process::exit(0);
            }
            url => addresses.push(Address::parse(url)?),
        }
    }
    if addresses.is_empty() {
        addresses.push(Address::parse("tcp://127.0.0.1:7000")?);
        addresses.push(Address::parse("ws://127.0.0.1:7001/")?);
    }
    Ok((cores, addresses))
}
