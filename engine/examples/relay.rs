//! Relays bytes from publishers to subscribers and looks at none of them: the limit of this design, beside which a broker
//! that parses, checks and routes can be measured.
//!
//! ```text
//! relay [--pin N] [URL…]          default: tcp://127.0.0.1:7100, on any processor
//! ```
//!
//! The first byte of a connection says what it is, `P` a publisher or `S` a subscriber; the second is the number of its
//! topic. Everything behind is opaque: what one receive of a publisher brings is copied once, and handed by reference to
//! all subscribers of that topic. Subscribers say nothing more.
//!
//! A subscriber's queue is bounded. When one is full, the topic's publishers are not read from until there is room again,
//! so one slow subscriber slows its topic: a piece that was dropped instead would cut a frame that this program does not
//! know of, and the stream behind it would be noise.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_engine::listener::{Address, Listener, ListenerId};
use fluxar_engine::mail;
use fluxar_engine::probe;
use fluxar_engine::reactor::{Board, Chunk, Close, Conn, Event, Piece, Reactor, ReactorConfig, Transport};
use fluxar_engine::rlimit::raise_descriptor_limit;
use fluxar_engine::uring::{Lease, UringConfig, UringDriver, UringHub};

/// The publishers of a topic are not read from while so much waits for one of its subscribers.
const QUEUED_BYTES_MAX: usize = 1 << 20;

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
    let (processor, addresses) = arguments()?;
    if let Some(processor) = processor {
        let mut processors = rustix::thread::CpuSet::new();
        processors.set(processor);
        rustix::thread::sched_setaffinity(None, &processors)?;
    }
    let config = UringConfig::default();
    let report = probe::probe(1, &config);
    for missing in &report.missing {
        eprintln!("{missing}");
    }
    if let Some(fatal) = report.fatal.into_iter().next() {
        return Err(fatal.into());
    }
    raise_descriptor_limit()?;

    let hub = UringHub::new(1)?;
    let mut driver = UringDriver::new(&hub, 0, &config)?;
    let mut transports = Vec::new();
    for (id, address) in (0..).map(ListenerId).zip(&addresses) {
        let listener = Arc::new(Listener::open(address)?);
        println!("listening on {}", listener.address());
        driver.register(id, &listener);
        transports.push((id, Transport::Stream));
    }
    // One core, which nobody writes to.
    let (_control, mut mailboxes) = mail::mesh(1, 1);
    let mailbox = mailboxes.pop().ok_or("a mesh of one core has one mailbox")?;
    let reactor = Reactor::new(
        driver,
        mailbox,
        Board::new(1),
        transports,
        ReactorConfig::default(),
    );
    Relay::new(reactor).run()
}

/// What a connection is.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// It has not said.
    Unknown,
    /// `P` or `S` came, the topic has not.
    Half(u8),
    Publisher(u8),
    Subscriber {
        topic: u8,
        /// What waits to be sent to it.
        queued_bytes: usize,
    },
}

#[derive(Debug, Default)]
struct Topic {
    publishers: Vec<Conn>,
    subscribers: Vec<Conn>,
    /// Subscribers whose queue is full. While there are any, the publishers are paused.
    full: usize,
}

struct Relay {
    reactor: Reactor<UringDriver, Infallible>,
    roles: HashMap<Conn, Role>,
    topics: Vec<Topic>,
}

impl Relay {
    fn new(reactor: Reactor<UringDriver, Infallible>) -> Relay {
        Relay {
            reactor,
            roles: HashMap::new(),
            topics: (0..=u8::MAX).map(|_| Topic::default()).collect(),
        }
    }

    fn run(mut self) -> Result<(), Box<dyn Error>> {
        loop {
            self.reactor.turn(None)?;
            while let Some(event) = self.reactor.poll() {
                match event {
                    Event::Opened { conn, .. } => {
                        self.roles.insert(conn, Role::Unknown);
                    }
                    Event::Received { conn, chunk } => self.received(conn, chunk),
                    Event::Sent { conn, bytes } => self.sent(conn, bytes),
                    // From here on nothing reaches it.
                    Event::Ending { conn, .. } | Event::Closed { conn, .. } => self.ended(conn),
                    // Nothing is dialled here, nor asked of a disk.
                    Event::Connected { .. } | Event::Disk(_) => {}
                    Event::Letter { letter, .. } | Event::HandedOver { letter, .. } => match letter {},
                }
            }
        }
    }

    fn received(&mut self, conn: Conn, chunk: Chunk<Lease>) {
        let mut input = self.reactor.input(conn, chunk);
        let Some(Piece::Stream(mut bytes)) = input.next() else {
            return;
        };
        let Some(role) = self.roles.get_mut(&conn) else {
            return;
        };
        let before = *role;
        *role = introduce(before, &mut bytes);
        let piece = match *role {
            // The one copy: out of the receive buffer, for all subscribers.
            Role::Publisher(_) if !bytes.is_empty() => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        };
        let role = *role;
        drop(input);
        match (before, role) {
            (Role::Unknown | Role::Half(_), Role::Publisher(topic)) => {
                let topic = &mut self.topics[usize::from(topic)];
                topic.publishers.push(conn);
                if topic.full > 0 {
                    self.reactor.pause(conn);
                }
            }
            (Role::Unknown | Role::Half(_), Role::Subscriber { topic, .. }) => {
                self.topics[usize::from(topic)].subscribers.push(conn);
            }
            // It spoke before it introduced itself.
            (_, Role::Unknown) => self.reactor.close(conn, Close::Now),
            _ => {}
        }
        if let Role::Publisher(topic) = role
            && !piece.is_empty()
        {
            self.relay(topic, &piece);
        }
    }

    /// Hands a piece to all subscribers of a topic.
    fn relay(&mut self, topic: u8, piece: &Bytes) {
        let topic = &mut self.topics[usize::from(topic)];
        let full_before = topic.full;
        for &subscriber in &topic.subscribers {
            let Some(Role::Subscriber { queued_bytes, .. }) = self.roles.get_mut(&subscriber) else {
                continue;
            };
            let was_full = is_full(*queued_bytes);
            *queued_bytes += piece.len();
            topic.full += usize::from(!was_full && is_full(*queued_bytes));
            self.reactor.send(subscriber, piece.clone());
        }
        if full_before == 0 && topic.full > 0 {
            for &publisher in &topic.publishers {
                self.reactor.pause(publisher);
            }
        }
    }

    fn sent(&mut self, conn: Conn, bytes: usize) {
        if let Some(Role::Subscriber { topic, queued_bytes }) = self.roles.get_mut(&conn) {
            let was_full = is_full(*queued_bytes);
            *queued_bytes -= bytes;
            let topic = *topic;
            if was_full && !is_full(*queued_bytes) {
                self.has_room(topic);
            }
        }
    }

    /// A full subscriber has room again, or is gone.
    fn has_room(&mut self, topic: u8) {
        let topic = &mut self.topics[usize::from(topic)];
        topic.full -= 1;
        if topic.full == 0 {
            for &publisher in &topic.publishers {
                self.reactor.resume(publisher);
            }
        }
    }

    fn ended(&mut self, conn: Conn) {
        match self.roles.remove(&conn) {
            Some(Role::Publisher(topic)) => {
                self.topics[usize::from(topic)]
                    .publishers
                    .retain(|of| *of != conn);
            }
            Some(Role::Subscriber { topic, queued_bytes }) => {
                self.topics[usize::from(topic)]
                    .subscribers
                    .retain(|of| *of != conn);
                if is_full(queued_bytes) {
                    self.has_room(topic);
                }
            }
            Some(Role::Unknown | Role::Half(_)) | None => {}
        }
    }
}

fn is_full(queued_bytes: usize) -> bool {
    queued_bytes >= QUEUED_BYTES_MAX
}

/// Takes the two bytes with which a connection says what it is. `Unknown` once something came: it said anything else.
fn introduce(role: Role, bytes: &mut &[u8]) -> Role {
    let mut role = role;
    while let Role::Unknown | Role::Half(_) = role
        && let [first, rest @ ..] = *bytes
    {
        *bytes = rest;
        role = match (role, *first) {
            (Role::Unknown, b'P' | b'S') => Role::Half(*first),
            (Role::Half(b'P'), topic) => Role::Publisher(topic),
            (Role::Half(_), topic) => Role::Subscriber {
                topic,
                queued_bytes: 0,
            },
            _ => return Role::Unknown,
        };
    }
    role
}

fn arguments() -> Result<(Option<usize>, Vec<Address>), Box<dyn Error>> {
    let mut processor = None;
    let mut addresses = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--pin" => {
                let number = words.next().and_then(|number| number.parse().ok());
                processor = Some(number.ok_or("--pin takes the number of a processor, from 0")?);
            }
            "--help" | "-h" => {
                println!("relay [--pin N] [tcp://HOST:PORT | unix:///PATH]…");
                std::process::exit(0);
            }
            url => match Address::parse(url)? {
                Address::WebSocket { .. } => {
                    return Err("a relay of bytes knows no WebSocket: use tcp:// or unix://".into());
                }
                address => addresses.push(address),
            },
        }
    }
    if addresses.is_empty() {
        addresses.push(Address::parse("tcp://127.0.0.1:7100")?);
    }
    Ok((processor, addresses))
}
