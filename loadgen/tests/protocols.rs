//! Sessions of the load generator against real servers, on plain blocking sockets: hello, subscriptions, a thousand
//! publishes told apart by their stamps, calls, pings.
//!
//! The servers beside the gateway are Debian's; `tests/run` installs them.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::Gateway;
use fluxar_loadgen::protocol::fluxar::{Fluxar, Framing, Settings};
use fluxar_loadgen::protocol::mqtt::{Mqtt, Version};
use fluxar_loadgen::protocol::nats::Nats;
use fluxar_loadgen::protocol::redis::Redis;
use fluxar_loadgen::protocol::relay::Relay;
use fluxar_loadgen::protocol::{Ability, Incoming, Names, Outgoing, Protocol, Session};
use fluxar_loadgen::stamp::{STAMP_AT, STAMP_BYTES, Stamp};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where servers listen: at no other address are their ports taken by connections of other tests.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 31);
/// Publishes, and calls, of a test.
const MESSAGES: u64 = 1_000;

/// A server of another project, ended when it is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Server {
    /// Starts a program of a Debian package on a free port. `arguments` are told the port and a folder of its own.
    fn start(program: &str, package: &str, arguments: impl Fn(u16, &TempDir) -> Vec<String>) -> Self {
        let path = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
            .iter()
            .map(|folder| PathBuf::from(folder).join(program))
            .find(|path| path.exists())
            .unwrap_or_else(|| {
                panic!("{program} is missing: install Debian's package {package} (tests/run does)")
            });
        // Another process may take the port between our look and the server's.
        for _ in 0..5 {
            let port = TcpListener::bind((HOST, 0))
                .and_then(|listener| listener.local_addr())
                .expect("a free port")
                .port();
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut child = Command::new(&path)
                .args(arguments(port, &folder))
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let address = SocketAddr::from((HOST, port));
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until && child.try_wait().expect("a state").is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Self {
                        child,
                        address,
                        _folder: folder,
                    };
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{} does not start", path.display());
    }

    /// With JetStream.
    fn nats() -> Self {
        Self::start("nats-server", "nats-server", |port, folder| {
            let arguments = format!("-js -sd {} -a {HOST} -p {port}", folder.path().display());
            arguments.split(' ').map(String::from).collect()
        })
    }

    fn redis() -> Self {
        Self::start("redis-server", "redis-server", |port, _| {
            let arguments = format!("--bind {HOST} --port {port} --appendonly no --save");
            arguments
                .split(' ')
                .map(String::from)
                .chain([String::new()])
                .collect()
        })
    }

    fn mosquitto() -> Self {
        Self::start("mosquitto", "mosquitto", |port, folder| {
            let path = folder.path().join("mosquitto.conf");
            let settings = format!("listener {port} {HOST}\nallow_anonymous true\nmax_queued_messages 0\n");
            fs::write(&path, settings).expect("a file");
            vec!["-c".into(), path.display().to_string()]
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a session has said so far.
#[derive(Debug, Default)]
struct Tally {
    ready: u64,
    subscribed: u64,
    events: Vec<Vec<u8>>,
    acknowledged: u64,
    served: u64,
    answers: Vec<Vec<u8>>,
    refused: Vec<String>,
    dropped: u64,
    pongs: u64,
}

impl Tally {
    fn add(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Ready => self.ready += 1,
            Incoming::Subscribed => self.subscribed += 1,
            Incoming::Event { payload } => self.events.push(payload.to_vec()),
            Incoming::Acknowledged { count } => self.acknowledged += u64::from(count),
            Incoming::Served => self.served += 1,
            Incoming::Answer { payload } => self.answers.push(payload.to_vec()),
            Incoming::Refused { message } => self.refused.push(message),
            Incoming::Dropped { events } => self.dropped += events,
            Incoming::Pong => self.pongs += 1,
            other => panic!("nobody opened a stream: {other:?}"),
        }
    }
}

/// How bytes travel.
enum Wire {
    Stream(TcpStream),
    WebSocket(Box<WebSocket<TcpStream>>),
}

impl Wire {
    fn stream(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        stream
    }

    fn websocket(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/");
        let (socket, _) = tungstenite::client(url, Self::stream(address)).expect("a handshake");
        Self::WebSocket(Box::new(socket))
    }

    fn send(&mut self, out: &Outgoing) {
        match self {
            Self::Stream(stream) => stream.write_all(&out.bytes).expect("the server reads"),
            Self::WebSocket(socket) => {
                let starts = [0].into_iter().chain(out.ends.iter().copied());
                for (start, end) in starts.zip(&out.ends) {
                    let message = out.bytes[start..*end].to_vec();
                    socket
                        .send(Message::Binary(message.into()))
                        .expect("the server reads");
                }
            }
        }
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Stream(stream) => {
                let mut piece = vec![0; 32 * 1024];
                let bytes = stream.read(&mut piece)?;
                piece.truncate(bytes);
                Ok(piece)
            }
            Self::WebSocket(socket) => match socket.read().map_err(std::io::Error::other)? {
                Message::Binary(message) => Ok(message.to_vec()),
                other => panic!("{other:?}"),
            },
        }
    }
}

/// A session on a socket.
struct Connection<S> {
    session: S,
    wire: Wire,
    out: Outgoing,
    tally: Tally,
}

impl<S: Session> Connection<S> {
    fn open(protocol: &impl Protocol<Session = S>, number: u64, address: SocketAddr) -> Self {
        Self::over(Wire::Stream(Wire::stream(address)), protocol, number)
    }

    fn over(wire: Wire, protocol: &impl Protocol<Session = S>, number: u64) -> Self {
        let mut connection = Self {
            session: protocol.session(number, &names()),
            wire,
            out: Outgoing::default(),
            tally: Tally::default(),
        };
        connection.say(|session, out| session.open(out));
        connection.wait("to be accepted", |tally| tally.ready == 1);
        connection
    }

    fn say(&mut self, what: impl FnOnce(&mut S, &mut Outgoing)) {
        what(&mut self.session, &mut self.out);
        self.flush();
    }

    fn flush(&mut self) {
        self.session.seal(&mut self.out);
        self.session.poll(&mut |incoming| self.tally.add(incoming));
        self.wire.send(&self.out);
        self.out.bytes.clear();
        self.out.ends.clear();
    }

    /// Reads until the condition holds.
    fn wait(&mut self, what: &str, is_so: impl Fn(&Tally) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(&self.tally) {
            assert!(Instant::now() < until, "waited in vain {what}");
            let read = self.wire.read();
            let piece = read.unwrap_or_else(|error| panic!("waiting {what}: {error}"));
            assert!(!piece.is_empty(), "the server closed while we waited {what}");
            let tally = &mut self.tally;
            self.session
                .receive(&piece, &mut self.out, &mut |incoming| tally.add(incoming))
                .unwrap_or_else(|fault| panic!("waiting {what}: {fault}"));
            self.flush();
        }
    }
}

fn names() -> Arc<Names> {
    Arc::new(Names {
        topics: vec!["load.0".into(), "load.1".into()],
        methods: vec!["work.echo".into(), "work.nobody".into()],
    })
}

/// 64 bytes: a map of the stamp and 36 bytes.
fn payload(sequence: u64) -> Vec<u8> {
    let mut payload = vec![0xa2, 0x61, b's', 0x54];
    payload.resize(STAMP_AT + STAMP_BYTES, 0);
    payload.extend_from_slice(&[0x61, b'd', 0x58, 36]);
    payload.resize(64, 0x0d);
    let stamp = Stamp {
        publisher: 3,
        sequence,
        intended_ns: sequence << 32 | 0x0d0a_0d0a,
    };
    stamp.write(&mut payload);
    payload
}

/// Two subscribers of one topic and one of the other; a publisher, whose messages arrive each once and in order.
fn fan_out(protocol: &impl Protocol, address: SocketAddr) {
    let mut subscribers: Vec<_> = (0..3)
        .map(|number| Connection::open(protocol, number, address))
        .collect();
    for (subscriber, topic) in subscribers.iter_mut().zip([0, 0, 1]) {
        subscriber.say(|session, out| session.subscribe(topic, out));
        subscriber.wait("for the subscription", |tally| tally.subscribed == 1);
    }
    let mut publisher = Connection::open(protocol, 3, address);
    let is_acknowledged = protocol.is_able(Ability::AcknowledgedPublish);
    for begun in (0..MESSAGES).step_by(100) {
        publisher.say(|session, out| {
            for sequence in begun..begun + 100 {
                session.publish((sequence % 10 == 9).into(), &payload(sequence), out);
            }
        });
    }
    if is_acknowledged {
        publisher.wait("for acknowledgements", |tally| tally.acknowledged == MESSAGES);
    }
    publisher.say(|session, out| session.ping(out));
    publisher.wait("for the pong", |tally| tally.pongs == 1);
    assert_eq!(
        (publisher.tally.refused.len(), publisher.tally.events.len()),
        (0, 0)
    );

    for (subscriber, topic) in subscribers.iter_mut().zip([0, 0, 1]) {
        let expected: Vec<_> = (0..MESSAGES)
            .filter(|sequence| u64::from(sequence % 10 == 9) == topic)
            .map(payload)
            .collect();
        subscriber.wait("for the events", |tally| tally.events.len() >= expected.len());
        subscriber.say(|session, out| session.ping(out));
        subscriber.wait("for the pong", |tally| tally.pongs == 1);
        assert_eq!(subscriber.tally.events, expected);
        assert_eq!(subscriber.tally.dropped, 0);
    }

    // One that has unsubscribed hears no more.
    let first = &mut subscribers[0];
    first.say(|session, out| {
        session.unsubscribe(0, out);
        session.ping(out);
    });
    first.wait("for the pong", |tally| tally.pongs == 2);
    publisher.say(|session, out| session.publish(0, &payload(MESSAGES), out));
    let heard = first.tally.events.len();
    let second = &mut subscribers[1];
    second.wait("for the last event", |tally| {
        tally.events.last() == Some(&payload(MESSAGES))
    });
    let first = &mut subscribers[0];
    first.say(|session, out| session.ping(out));
    first.wait("for the pong", |tally| tally.pongs == 3);
    assert_eq!(first.tally.events.len(), heard);
    for connection in subscribers.iter_mut().chain([&mut publisher]) {
        connection.say(|session, out| session.close(out));
    }
}

/// A service on a thread of its own, and a caller with many calls in flight.
fn calls(protocol: &impl Protocol<Session: Send>, address: SocketAddr) {
    assert!(protocol.is_able(Ability::Calls));
    thread::scope(|scope| {
        let mut service = Connection::open(protocol, 10, address);
        service.say(|session, out| session.serve(0, out));
        service.wait("for the offer", |tally| tally.subscribed == 1);
        scope.spawn(move || {
            service.wait("for calls", |tally| tally.served == MESSAGES);
            service.say(|session, out| session.ping(out));
            service.wait("for the pong", |tally| tally.pongs == 1);
        });
        let mut caller = Connection::open(protocol, 11, address);
        for begun in (0..MESSAGES).step_by(50) {
            caller.say(|session, out| {
                (begun..begun + 50).for_each(|sequence| session.call(0, &payload(sequence), out));
            });
            caller.wait("for answers", |tally| tally.answers.len() as u64 == begun + 50);
        }
        caller
            .tally
            .answers
            .sort_by_key(|answer| Stamp::read(answer).map(|stamp| stamp.sequence));
        assert!(
            caller
                .tally
                .answers
                .iter()
                .cloned()
                .eq((0..MESSAGES).map(payload))
        );
        assert_eq!(caller.tally.refused, [""; 0]);

        caller.say(|session, out| session.call(1, &payload(0), out));
        caller.wait("for the refusal", |tally| tally.refused.len() == 1);
    });
}

/// Publishes what is stored before anybody comes.
fn store(protocol: &impl Protocol, address: SocketAddr) {
    let mut publisher = Connection::open(protocol, 20, address);
    publisher.say(|session, out| {
        (0..MESSAGES).for_each(|sequence| session.publish(1, &payload(sequence), out));
    });
    publisher.wait("for acknowledgements", |tally| tally.acknowledged == MESSAGES);
    assert_eq!(publisher.tally.refused, [""; 0]);
}

/// Two who come late have all that was stored, from the first on, and what is published then.
fn replay(protocol: &impl Protocol, address: SocketAddr) {
    assert!(protocol.is_able(Ability::Replay));
    store(protocol, address);
    let mut expected: Vec<_> = (0..MESSAGES).map(payload).collect();
    let mut late: Vec<_> = (21..23)
        .map(|number| Connection::open(protocol, number, address))
        .collect();
    for late in &mut late {
        late.say(|session, out| session.subscribe(1, out));
        // JetStream may send what is stored before it has said that the consumer is made.
        late.wait("for what was stored", |tally| {
            tally.subscribed > 0 && tally.events.len() >= expected.len()
        });
        assert_eq!(late.tally.subscribed, 1);
        assert!(late.tally.events == expected);
    }
    let mut publisher = Connection::open(protocol, 24, address);
    publisher.say(|session, out| session.publish(1, &payload(MESSAGES), out));
    publisher.wait("for the acknowledgement", |tally| tally.acknowledged == 1);
    expected.push(payload(MESSAGES));
    for late in &mut late {
        late.wait("for what came then", |tally| tally.events.len() >= expected.len());
        assert!(late.tally.events == expected);
    }
}

/// A gateway in this process that keeps a log, and where it listens.
fn logging_gateway() -> (Gateway, SocketAddr, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (gateway, address) = gateway_with(LogDir::At(folder.path().join("log")));
    // It listens while it still reads its log, empty as that is.
    let protocol = Fluxar::new(Settings {
        qos: 1,
        ..Settings::default()
    });
    let until = Instant::now() + PATIENCE;
    loop {
        let mut early = Connection::open(&protocol, 90, address);
        early.say(|session, out| {
            session.subscribe(0, out);
            session.subscribe(1, out);
        });
        early.wait("for answers", |tally| {
            tally.subscribed as usize + tally.refused.len() == 2
        });
        if early.tally.subscribed == 2 {
            return (gateway, address, folder);
        }
        assert!(Instant::now() < until, "{:?}", early.tally.refused);
    }
}

/// A gateway in this process that keeps none.
fn gateway() -> (Gateway, SocketAddr) {
    gateway_with(LogDir::Nowhere)
}

fn gateway_with(log: LogDir) -> (Gateway, SocketAddr) {
    let mut config = Config {
        cores: Cores::Count(1),
        listen: vec!["tcp://127.0.0.1:0".into(), "ws://127.0.0.1:0".into()],
        ..Config::default()
    };
    config.log.dir = log;
    config.engine.spin_us = 0; // tests share the machine
    let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
    let address = address_of(&gateway, |address| matches!(address, Address::Tcp { .. }));
    (gateway, address)
}

fn address_of(gateway: &Gateway, is: impl Fn(&Address) -> bool) -> SocketAddr {
    let address = gateway.addresses().iter().find(|address| is(address));
    match address.expect("such a listener") {
        Address::Tcp { host, port } | Address::WebSocket { host, port, .. } => {
            format!("{host}:{port}").parse().expect("an address")
        }
        Address::Unix { .. } => panic!("not in this test"),
    }
}

#[test]
fn fluxar() {
    let (gateway, address) = gateway();
    for (batch, meta) in [(true, true), (false, false)] {
        let protocol = Fluxar::new(Settings {
            batch,
            meta,
            ..Settings::default()
        });
        fan_out(&protocol, address);
        calls(&protocol, address);
    }
    assert!(gateway.stop().into_iter().all(|end| end.is_ok()));
}

#[test]
fn fluxar_with_a_log() {
    let (gateway, address, _folder) = logging_gateway();
    for batch in [true, false] {
        let settings = Settings {
            batch,
            qos: 1,
            ..Settings::default()
        };
        fan_out(&Fluxar::new(settings), address);
    }
    assert!(gateway.stop().into_iter().all(|end| end.is_ok()));

    // More than a subscription is given before it acknowledges.
    let (gateway, address, _folder) = logging_gateway();
    let protocol = Fluxar::new(Settings {
        qos: 1,
        from_all: true,
        ..Settings::default()
    });
    store(&protocol, address);
    let others: Vec<_> = (0..5).map(|_| store(&protocol, address)).collect();
    let mut late = Connection::open(&protocol, 21, address);
    late.say(|session, out| session.subscribe(1, out));
    let all = (1 + others.len()) * MESSAGES as usize;
    late.wait("for what was stored", |tally| tally.events.len() >= all);
    assert!(
        late.tally.events.iter().eq((0..all)
            .map(|at| payload(at as u64 % MESSAGES))
            .collect::<Vec<_>>()
            .iter())
    );
    assert!(gateway.stop().into_iter().all(|end| end.is_ok()));

    let (gateway, address, _folder) = logging_gateway();
    replay(&protocol, address);
    assert!(gateway.stop().into_iter().all(|end| end.is_ok()));
}

#[test]
fn fluxar_says_what_a_gateway_refuses() {
    let (gateway, address) = gateway();
    let protocol = Fluxar::new(Settings {
        qos: 1,
        ..Settings::default()
    });
    let mut publisher = Connection::open(&protocol, 0, address);
    publisher.say(|session, out| session.publish(0, &payload(0), out));
    // This one keeps no log.
    publisher.wait("to hear of it", |tally| tally.refused.len() == 1);
    let message = &publisher.tally.refused[0];
    assert!(message.starts_with("failed_precondition: "), "{message}");
    // A gateway that shuts down says so, and that is the fault.
    gateway.stop();
    let rest = publisher.wire.read().expect("a goodbye");
    let fault = publisher.session.receive(&rest, &mut publisher.out, &mut |_| ());
    let fault = fault.expect_err("a goodbye").to_string();
    assert!(
        fault.starts_with("the gateway closed the session: unavailable"),
        "{fault}"
    );
}

#[test]
fn fluxar_by_websocket() {
    let (gateway, tcp) = gateway();
    let ws = address_of(&gateway, |address| matches!(address, Address::WebSocket { .. }));
    let messages = Fluxar::new(Settings {
        framing: Framing::Messages,
        ..Settings::default()
    });
    let mut publisher = Connection::over(Wire::websocket(ws), &messages, 0);
    let mut subscriber = Connection::over(Wire::websocket(ws), &messages, 1);
    let mut by_tcp = Connection::open(&Fluxar::new(Settings::default()), 2, tcp);
    for subscriber in [&mut subscriber, &mut by_tcp] {
        subscriber.say(|session, out| session.subscribe(0, out));
        subscriber.wait("for the subscription", |tally| tally.subscribed == 1);
    }
    publisher.say(|session, out| {
        (0..MESSAGES).for_each(|sequence| session.publish(0, &payload(sequence), out));
    });
    let expected: Vec<_> = (0..MESSAGES).map(payload).collect();
    for subscriber in [&mut subscriber, &mut by_tcp] {
        subscriber.wait("for the events", |tally| tally.events.len() >= expected.len());
        assert_eq!(subscriber.tally.events, expected);
    }
    gateway.stop();
}

/// A relay as the protocol describes it: two bytes from each connection, and whatever the publisher sends goes on.
#[test]
fn relay() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = thread::spawn(move || {
        let mut roles = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut role = [0; 2];
            stream.read_exact(&mut role).expect("a role");
            roles.push((role, stream));
        }
        assert_eq!((roles[0].0, roles[1].0), ([b'S', 1], [b'P', 1]));
        let (_, mut publisher) = roles.pop().expect("a publisher");
        let (_, mut subscriber) = roles.pop().expect("a subscriber");
        std::io::copy(&mut publisher, &mut subscriber).expect("bytes pass");
    });
    let protocol = Relay::new(true, true);
    let mut subscriber = Connection::open(&protocol, 0, address);
    subscriber.say(|session, out| session.subscribe(1, out));
    assert_eq!((subscriber.tally.ready, subscriber.tally.subscribed), (1, 1));
    let mut publisher = Connection::open(&protocol, 1, address);
    publisher.say(|session, out| {
        (0..MESSAGES).for_each(|sequence| session.publish(1, &payload(sequence), out));
    });
    drop(publisher);
    let expected: Vec<_> = (0..MESSAGES).map(payload).collect();
    subscriber.wait("for the events", |tally| tally.events.len() >= expected.len());
    assert_eq!(subscriber.tally.events, expected);
    server.join().expect("the relay ends when its publisher does");
}

#[test]
fn nats() {
    let server = Server::nats();
    let protocol = Nats::new(0);
    fan_out(&protocol, server.address);
    calls(&protocol, server.address);
}

#[test]
fn jetstream() {
    let server = Server::nats();
    let protocol = Nats::new(1);
    fan_out(&protocol, server.address);
    let server = Server::nats();
    replay(&protocol, server.address);
    calls(&protocol, server.address);
}

#[test]
fn redis_streams() {
    let server = Server::redis();
    replay(&Redis::new(1), server.address);
}

#[test]
fn redis() {
    let server = Server::redis();
    let protocol = Redis::new(0);
    assert!(!protocol.is_able(Ability::Calls));
    fan_out(&protocol, server.address);
}

#[test]
fn mqtt() {
    let server = Server::mosquitto();
    for version in [Version::V3, Version::V5] {
        for qos in [0, 1] {
            let protocol = Mqtt::new(version, qos);
            assert!(!protocol.is_able(Ability::Calls));
            fan_out(&protocol, server.address);
        }
    }
}

#[test]
fn mqtt_keeps_for_those_who_are_away() {
    let server = Server::mosquitto();
    for (number, version) in [(30, Version::V3), (31, Version::V5)] {
        let keeping = Mqtt::new(version, 1).keeping();
        assert!(keeping.needs_keeper() && !keeping.is_able(Ability::Replay));
        let mut away = Connection::open(&keeping, number, server.address);
        away.say(|session, out| session.subscribe(1, out));
        away.wait("for the subscription", |tally| tally.subscribed == 1);
        away.say(|session, out| session.close(out));
        drop(away);
        let mut publisher = Connection::open(&Mqtt::new(version, 1), 40, server.address);
        publisher.say(|session, out| {
            (0..MESSAGES).for_each(|sequence| session.publish(1, &payload(sequence), out));
        });
        publisher.wait("for acknowledgements", |tally| tally.acknowledged == MESSAGES);
        let mut back = Connection::open(&keeping, number, server.address);
        back.wait("for what was kept", |tally| tally.events.len() as u64 >= MESSAGES);
        assert!(back.tally.events.iter().cloned().eq((0..MESSAGES).map(payload)));
    }
}
