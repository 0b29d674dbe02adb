//! Dialled connections on the real kernel: those that come to be, and each way in which one does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::dial::{Dial, DialError};
use fluxar_engine::driver::Driver;
use fluxar_engine::listener::Address;
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Cause, Close, Conn, Event, Piece, Reactor, ReactorConfig};
use fluxar_engine::uring::{UringConfig, UringDriver, UringHub};

/// Far longer than anything here takes; reaching it is the failure.
const STALLED: Duration = Duration::from_secs(60);

/// A reactor without listeners, and what its connections received.
struct Dialler {
    reactor: Reactor<UringDriver, ()>,
    board: Board,
    received: Vec<u8>,
}

/// An event, its bytes taken.
#[derive(Debug)]
enum Seen {
    Connected(Conn),
    Received(Conn),
    Ending(Conn),
    Closed(Conn, Cause),
}

impl Dialler {
    fn new(config: ReactorConfig) -> Dialler {
        let hub = UringHub::new(1).expect("hub");
        let driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("this kernel has io_uring");
        let (_, mut endpoints) = mail::mesh(1, 1);
        let board = Board::new(1);
        let endpoint = endpoints.pop().expect("one core");
        Dialler {
            reactor: Reactor::new(driver, endpoint, board.clone(), Vec::new(), config),
            board,
            received: Vec::new(),
        }
    }

    fn dial(&mut self, to: impl Into<Where>) -> Conn {
        self.reactor
            .dial(&to.into().0, &Dial::default())
            .expect("nothing is wrong so far")
    }

    fn next(&mut self) -> Seen {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.reactor.poll() {
                match event {
                    Event::Connected { conn } => return Seen::Connected(conn),
                    Event::Received { conn, chunk } => {
                        let mut input = self.reactor.input(conn, chunk);
                        while let Some(Piece::Stream(bytes) | Piece::Message(bytes)) = input.next() {
                            self.received.extend_from_slice(bytes);
                        }
                        return Seen::Received(conn);
                    }
                    Event::Ending { conn } => return Seen::Ending(conn),
                    Event::Closed { conn, cause } => return Seen::Closed(conn, cause),
                    Event::Sent { .. } => {}
                    Event::Opened { .. } | Event::Letter { .. } => panic!("{event:?}"),
                }
            }
            assert!(begun.elapsed() < STALLED, "no event came");
            let until_ns = self.reactor.now_ns() + 100_000_000;
            self.reactor.turn(Some(until_ns)).expect("turn");
        }
    }

    /// Nothing may be left.
    fn assert_clean(mut self) {
        self.reactor.turn(Some(0)).expect("turn");
        assert!(self.reactor.poll().is_none());
        assert_eq!((self.reactor.connections(), self.board.connections(0)), (0, 0));
        let free = self.reactor.driver().free_buffers();
        assert_eq!(free, usize::from(UringConfig::default().buffers));
    }
}

/// An address in any of the forms in which the tests have one.
struct Where(Address);

impl From<&TcpListener> for Where {
    fn from(listener: &TcpListener) -> Where {
        Where::from(listener.local_addr().expect("address"))
    }
}

impl From<SocketAddr> for Where {
    fn from(address: SocketAddr) -> Where {
        Where(Address::parse(&format!("tcp://{address}")).expect("address"))
    }
}

impl From<&std::path::Path> for Where {
    fn from(path: &std::path::Path) -> Where {
        Where(Address::Unix {
            path: path.to_owned(),
        })
    }
}

fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("bind")
}

/// Says something to the accepted end and is answered, then the accepted end goes.
fn speak<S: Read + Write>(dialler: &mut Dialler, conn: Conn, mut accepted: S) {
    dialler.reactor.send(conn, Bytes::from_static(b"question"));
    dialler.reactor.flush();
    dialler.reactor.turn(Some(0)).expect("turn");
    let mut question = [0; 8];
    accepted.read_exact(&mut question).expect("read");
    assert_eq!(&question, b"question");
    accepted.write_all(b"answer").expect("write");
    drop(accepted);
    while dialler.received.len() < 6 {
        assert!(matches!(dialler.next(), Seen::Received(of) if of == conn));
    }
    assert_eq!(dialler.received, b"answer");
    dialler.received.clear();
    assert!(matches!(dialler.next(), Seen::Ending(of) if of == conn));
    assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Peer) if of == conn));
}

fn accepted(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (stream, peer) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(STALLED)).expect("timeout");
    (stream, peer)
}

#[test]
fn a_dialled_connection_is_like_an_accepted_one_over_every_byte_stream() {
    let mut dialler = Dialler::new(ReactorConfig::default());
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = listen(address);
        let conn = dialler.dial(&listener);
        assert_eq!(dialler.board.connections(0), 1);
        assert!(matches!(dialler.next(), Seen::Connected(of) if of == conn));
        speak(&mut dialler, conn, accepted(&listener).0);
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).expect("bind");
    let conn = dialler.dial(path.as_path());
    assert!(matches!(dialler.next(), Seen::Connected(of) if of == conn));
    let (stream, _) = listener.accept().expect("accept");
    speak(&mut dialler, conn, stream);
    assert_eq!(dialler.reactor.counters().dialled, 3);
    assert_eq!(dialler.reactor.counters().dials_failed, 0);
    dialler.assert_clean();
}

#[test]
fn the_source_address_is_the_one_that_was_asked_for() {
    let mut dialler = Dialler::new(ReactorConfig::default());
    let listener = listen("127.0.0.1:0");
    for last in [2, 77] {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let dial = Dial {
            source: Some(source),
            ..Dial::default()
        };
        let conn = dialler
            .reactor
            .dial(&Where::from(&listener).0, &dial)
            .expect("dial");
        assert!(matches!(dialler.next(), Seen::Connected(of) if of == conn));
        let (stream, peer) = accepted(&listener);
        assert_eq!(peer.ip(), source);
        speak(&mut dialler, conn, stream);
    }
    dialler.assert_clean();
}

#[test]
fn what_is_wrong_before_the_network_is_asked_is_an_error_and_no_event() {
    let mut dialler = Dialler::new(ReactorConfig {
        connections_max: 1,
        ..ReactorConfig::default()
    });
    let listener = listen("127.0.0.1:0");
    let here = Where::from(&listener).0;
    let mut refusal = |address: &Address, source: Option<&str>| {
        let source = source.map(|source| source.parse().expect("address"));
        let dial = Dial {
            source,
            ..Dial::default()
        };
        dialler.reactor.dial(address, &dial).expect_err("refused")
    };
    let name = refusal(&Address::parse("tcp://localhost:1").expect("address"), None);
    let name = name.get_ref().and_then(|error| error.downcast_ref::<DialError>());
    assert_eq!(
        name,
        Some(&DialError::Unresolved {
            host: "localhost".to_owned()
        })
    );
    assert_eq!(refusal(&here, Some("::1")).kind(), ErrorKind::InvalidInput);
    assert_eq!(
        refusal(&here, Some("192.0.2.1")).kind(),
        ErrorKind::AddrNotAvailable
    );
    let long = Address::Unix {
        path: format!("/{}", "x".repeat(200)).into(),
    };
    assert!(refusal(&long, None).raw_os_error().is_some());
    dialler.dial(&listener);
    let full = dialler.reactor.dial(&here, &Dial::default()).expect_err("full");
    assert_eq!(full.kind(), ErrorKind::QuotaExceeded);
    assert!(matches!(dialler.next(), Seen::Connected(_)));
    assert_eq!(dialler.board.connections(0), 1);
}

#[test]
fn a_refused_dial_is_closed_with_the_kernels_word() {
    let mut dialler = Dialler::new(ReactorConfig::default());
    let nobody = listen("127.0.0.1:0").local_addr().expect("address");
    let conn = dialler.dial(nobody);
    match dialler.next() {
        Seen::Closed(of, Cause::Failed(error)) => {
            assert_eq!((of, error.kind()), (conn, ErrorKind::ConnectionRefused));
        }
        other => panic!("{other:?}"),
    }
    let directory = tempfile::tempdir().expect("directory");
    dialler.dial(directory.path().join("s").as_path());
    match dialler.next() {
        Seen::Closed(_, Cause::Failed(error)) => assert_eq!(error.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
    assert_eq!(dialler.reactor.counters().dials_failed, 2);
    dialler.assert_clean();
}

/// A listener whose backlog is full, so that the kernel does not answer, and what fills it.
fn silent() -> (TcpListener, Vec<TcpStream>) {
    let listener = listen("127.0.0.1:0");
    rustix::net::listen(&listener, 0).expect("a backlog of one");
    let address = listener.local_addr().expect("address");
    let waiting = (0..2)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    (listener, waiting)
}

#[test]
fn a_dial_that_nobody_answers_ends_at_its_deadline() {
    let mut dialler = Dialler::new(ReactorConfig {
        connect_ms: 30,
        ..ReactorConfig::default()
    });
    let (listener, _waiting) = silent();
    let conn = dialler.dial(&listener);
    match dialler.next() {
        Seen::Closed(of, Cause::Failed(error)) => {
            assert_eq!((of, error.kind()), (conn, ErrorKind::TimedOut));
        }
        other => panic!("{other:?}"),
    }
    dialler.assert_clean();
}

#[test]
fn closing_while_it_connects_ends_the_attempt() {
    for how in [Close::Now, Close::Drain { ws_code: 1000 }] {
        let mut dialler = Dialler::new(ReactorConfig::default());
        let (listener, waiting) = silent();
        let conn = dialler.dial(&listener);
        // Under way in the kernel.
        dialler.reactor.turn(Some(0)).expect("turn");
        assert!(dialler.reactor.poll().is_none());
        dialler.reactor.close(conn, how);
        assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Ours) if of == conn));
        // One that the kernel never heard of.
        let conn = dialler.dial(&listener);
        dialler.reactor.close(conn, how);
        assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Ours) if of == conn));
        // Both attempts come back cancelled, and are recognised.
        let begun = Instant::now();
        while dialler.reactor.counters().stale < 2 {
            assert!(begun.elapsed() < STALLED, "the attempts are over");
            let until_ns = dialler.reactor.now_ns() + 10_000_000;
            dialler.reactor.turn(Some(until_ns)).expect("turn");
            assert!(dialler.reactor.poll().is_none());
        }
        dialler.assert_clean();
        drop(waiting);
    }
}

/// Slots are used again at once, while earlier attempts still end; nothing is mixed up.
#[test]
fn many_dials_at_once_find_their_ends() {
    let mut dialler = Dialler::new(ReactorConfig::default());
    let listener = listen("127.0.0.1:0");
    let nobody = listen("127.0.0.1:0").local_addr().expect("address");
    let address = listener.local_addr().expect("address");
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for n in 0..300 {
        match n % 3 {
            0 => good.push(dialler.dial(address)),
            1 => bad.push(dialler.dial(nobody)),
            _ => {
                let gone = dialler.dial(address);
                dialler.reactor.close(gone, Close::Now);
                assert!(matches!(dialler.reactor.poll(), Some(Event::Closed { conn, .. }) if conn == gone));
            }
        }
    }
    let mut streams = Vec::new();
    while !good.is_empty() || !bad.is_empty() {
        match dialler.next() {
            Seen::Connected(conn) => {
                let at = good.iter().position(|of| *of == conn).expect("a good one, once");
                good.swap_remove(at);
                streams.push(accepted(&listener).0);
            }
            Seen::Closed(conn, Cause::Failed(error)) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                let at = bad.iter().position(|of| *of == conn).expect("a bad one, once");
                bad.swap_remove(at);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(dialler.reactor.connections(), streams.len());
}
