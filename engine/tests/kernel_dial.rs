//! Dialled connections on the real kernel: those that come to be, and each way in which one does not.

mod kernel_dialler;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::dial::{Dial, DialError};
use fluxar_engine::listener::Address;
use fluxar_engine::reactor::{Cause, Close, Conn, Event, ReactorConfig};
use kernel_dialler::{Dialler, STALLED, Seen};

/// Where something listens.
fn at(address: SocketAddr) -> Address {
    Address::parse(&format!("tcp://{address}")).expect("address")
}

fn address_of(listener: &TcpListener) -> Address {
    at(listener.local_addr().expect("address"))
}

fn unix(path: PathBuf) -> Address {
    Address::Unix { path }
}

fn listen(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).expect("bind");
    // A full backlog under syncookies forgets connections that their dialler believes in.
    rustix::net::listen(&listener, 4096).expect("a large backlog");
    listener
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
        let conn = dialler.dial(&address_of(&listener));
        assert_eq!(dialler.board.connections(0), 1);
        assert!(matches!(dialler.next(), Seen::Connected(of) if of == conn));
        speak(&mut dialler, conn, accepted(&listener).0);
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).expect("bind");
    let conn = dialler.dial(&unix(path));
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
        let conn = dialler.reactor.dial(&address_of(&listener), &dial).expect("dial");
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
    let here = address_of(&listener);
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
    dialler.dial(&address_of(&listener));
    let full = dialler.reactor.dial(&here, &Dial::default()).expect_err("full");
    assert_eq!(full.kind(), ErrorKind::QuotaExceeded);
    assert!(matches!(dialler.next(), Seen::Connected(_)));
    assert_eq!(dialler.board.connections(0), 1);
}

#[test]
fn a_refused_dial_is_closed_with_the_kernels_word() {
    let mut dialler = Dialler::new(ReactorConfig::default());
    let nobody = listen("127.0.0.1:0").local_addr().expect("address");
    let conn = dialler.dial(&at(nobody));
    match dialler.next() {
        Seen::Closed(of, Cause::Failed(error)) => {
            assert_eq!((of, error.kind()), (conn, ErrorKind::ConnectionRefused));
        }
        other => panic!("{other:?}"),
    }
    let directory = tempfile::tempdir().expect("directory");
    dialler.dial(&unix(directory.path().join("s")));
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
    let conn = dialler.dial(&address_of(&listener));
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
        let conn = dialler.dial(&address_of(&listener));
        // Under way in the kernel.
        dialler.reactor.turn(Some(0)).expect("turn");
        assert!(dialler.reactor.poll().is_none());
        dialler.reactor.close(conn, how);
        assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Ours) if of == conn));
        // One that the kernel never heard of.
        let conn = dialler.dial(&address_of(&listener));
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
            0 => good.push(dialler.dial(&at(address))),
            1 => bad.push(dialler.dial(&at(nobody))),
            _ => {
                let gone = dialler.dial(&at(address));
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

/// More dials in one turn than the ring has entries: the addresses of those that wait for room are still there when the
/// kernel reads them.
#[test]
fn more_dials_than_the_ring_has_entries() {
    const DIALS: usize = 1_200;
    fluxar_engine::rlimit::raise_descriptor_limit().expect("descriptors");
    let listener = listen("127.0.0.1:0");
    let address = address_of(&listener);
    let server =
        thread::spawn(move || -> Vec<TcpStream> { (0..DIALS).map(|_| accepted(&listener).0).collect() });
    let mut dialler = Dialler::new(ReactorConfig::default());
    let dialled: Vec<Conn> = (0..DIALS).map(|_| dialler.dial(&address)).collect();
    let mut connected: Vec<Conn> = (0..DIALS)
        .map(|_| match dialler.next() {
            Seen::Connected(conn) => conn,
            other => panic!("{other:?}"),
        })
        .collect();
    connected.sort();
    assert!(connected == dialled, "each once");
    drop(server.join().expect("server"));
    let mut closed = 0;
    while closed < DIALS {
        match dialler.next() {
            Seen::Closed(_, Cause::Peer) => closed += 1,
            Seen::Ending(_) => {}
            other => panic!("{other:?}"),
        }
    }
    dialler.assert_clean();
}
