//! Dialled WebSockets on the real kernel: against this crate's own server, against `tungstenite`, and against servers
//! that do what none should.

mod kernel_dialler;
mod kernel_server;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use fluxar_engine::dial::{Dial, DialError};
use fluxar_engine::listener::Address;
use fluxar_engine::reactor::{Cause, Close, Conn, ReactorConfig};
use fluxar_engine::uring::UringConfig;
use fluxar_engine::ws::{WsDial, WsFault, WsFaultKind};
use kernel_dialler::{Dialler, STALLED, Seen};
use kernel_server::{Random, Server};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, accept_hdr};

fn dialler() -> Dialler {
    Dialler::new(ReactorConfig::default())
}

fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = Address::WebSocket {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().expect("address").port(),
        path: "/there".to_owned(),
    };
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(STALLED)).expect("timeout");
    stream
}

/// Reads the request, whole; returns it.
fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut octet = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet).expect("request");
        request.push(octet[0]);
    }
    String::from_utf8(request).expect("ASCII")
}

/// The good answer to a request.
fn good_answer(request: &str) -> Vec<u8> {
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = derive_accept_key(key.expect("a key").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

/// Reads a frame as a server that insists on the mask: its first octet, its key, its payload unmasked.
fn read_frame(stream: &mut TcpStream) -> (u8, [u8; 4], Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("frame");
    assert!(head[1] & 0x80 != 0, "a client masks");
    let bytes = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("length");
            usize::from(u16::from_be_bytes(length))
        }
        length @ 0..126 => usize::from(length),
        _ => panic!("nothing this long is sent here"),
    };
    let mut key = [0; 4];
    stream.read_exact(&mut key).expect("key");
    let mut payload = vec![0; bytes];
    stream.read_exact(&mut payload).expect("payload");
    for (octet, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *octet ^= key;
    }
    (head[0], key, payload)
}

fn await_connected(dialler: &mut Dialler, conn: Conn) {
    match dialler.next() {
        Seen::Connected(of) => assert_eq!(of, conn),
        other => panic!("{other:?}"),
    }
}

fn await_received(dialler: &mut Dialler, bytes: usize) {
    while dialler.received.len() < bytes {
        assert!(matches!(dialler.next(), Seen::Received(_)));
    }
}

/// Every length whose header has another form, through sends of several sizes, shared by two connections.
#[test]
fn messages_come_back_from_this_crates_own_server() {
    for send_bytes_max in [777, 256 * 1024] {
        let server = Server::start(
            1,
            &["ws://127.0.0.1:0/"],
            &UringConfig::default(),
            &ReactorConfig::default(),
        );
        let mut dialler = Dialler::new(ReactorConfig {
            send_bytes_max,
            ..ReactorConfig::default()
        });
        let conns = [0, 1].map(|_| dialler.dial(&server.addresses[0]));
        for _ in conns {
            assert!(matches!(dialler.next(), Seen::Connected(conn) if conns.contains(&conn)));
        }
        let mut random = Random(7);
        for lengths in [
            &[0, 1, 125, 126, 127][..],
            &[65_535, 3],
            &[65_536],
            &[300_000, 0, 1],
        ] {
            let messages: Vec<Bytes> = lengths
                .iter()
                .map(|length| random.bytes(*length).into())
                .collect();
            let expected = messages.concat();
            // Both hold the same bytes; masking them for one must not be seen by the other.
            for message in &messages {
                dialler.reactor.send(conns[0], message.clone());
                let cut = random.below(message.len() + 1);
                let parts = [message.slice(..cut), message.slice(cut..)];
                dialler.reactor.send_parts(conns[1], parts);
            }
            while dialler.pieces.len() < 2 * lengths.len() {
                assert!(matches!(dialler.next(), Seen::Received(_)));
            }
            assert_eq!(messages.concat(), expected, "what was sent is as it was");
            for conn in conns {
                let own = dialler.pieces.iter().filter(|(of, _)| *of == conn);
                assert!(
                    own.map(|(_, piece)| &piece[..])
                        .eq(messages.iter().map(|message| &message[..]))
                );
            }
            dialler.pieces.clear();
        }
        for conn in conns {
            dialler.reactor.close(conn, Close::Drain { ws_code: 1000 });
            assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Ours) if of == conn));
        }
        assert_eq!(
            dialler.sent_bytes,
            2 * (379 + 65_538 + 65_536 + 300_001),
            "overhead is not counted"
        );
        dialler.assert_clean();
        server.await_connections(0);
        server.stop();
    }
}

#[test]
fn tungstenite_as_the_server_agrees_in_everything() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        #[allow(clippy::result_large_err)] // The trait's.
        let agree = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/there");
            assert_eq!(request.headers()["origin"], "http://localhost:8080");
            let offered = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", offered);
            Ok(response)
        };
        // It refuses frames that are not masked.
        let mut socket = accept_hdr(accept(&listener), agree).expect("handshake");
        for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
            let message = socket.read().expect("read");
            assert_eq!(message.len(), length);
            assert!(message.is_binary());
            socket.send(message).expect("send");
        }
        socket
            .send(Message::Ping(b"alive?".as_slice().into()))
            .expect("ping");
        assert_eq!(
            socket.read().expect("pong"),
            Message::Pong(b"alive?".as_slice().into())
        );
        let going = CloseFrame {
            code: CloseCode::Away,
            reason: "going down".into(),
        };
        socket.close(Some(going)).expect("close");
        match socket.read().expect("echo") {
            Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Away),
            other => panic!("{other:?}"),
        }
        while socket.read().is_ok() {}
    });
    let mut dialler = dialler();
    let dial = Dial {
        websocket: Arc::new(WsDial {
            subprotocol: Some("fine.v1".into()),
            origin: Some("http://localhost:8080".into()),
            ..WsDial::default()
        }),
        ..Dial::default()
    };
    let conn = dialler.dial_with(&address, &dial);
    await_connected(&mut dialler, conn);
    let mut random = Random(9);
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let message = random.bytes(length);
        let pieces = dialler.pieces.len();
        dialler.reactor.send(conn, message.clone().into());
        while dialler.pieces.len() == pieces {
            assert!(matches!(dialler.next(), Seen::Received(_)));
        }
        assert!(std::mem::take(&mut dialler.received) == message);
    }
    loop {
        match dialler.next() {
            Seen::Received(_) => {}
            Seen::Ending(of) => break assert_eq!(of, conn),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(dialler.next(), Seen::Closed(_, Cause::Peer)));
    dialler.assert_clean();
    server.join().expect("server");
}

/// RFC 6455, 5.3 and 10.3: each frame has a key of its own, the transport's own frames too.
#[test]
fn no_two_frames_have_the_same_key() {
    let (listener, address) = listen();
    let mut dialler = dialler();
    let conn = dialler.dial(&address);
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        let request = read_request(&mut stream);
        let mut answer = good_answer(&request);
        // A server need not wait for anything to send its first messages, and pings.
        answer.extend_from_slice(&[0x82, 3, b'o', b'n', b'e', 0x89, 1, 7, 0x82, 3, b't', b'w', b'o']);
        stream.write_all(&answer).expect("answer");
        let mut keys = Vec::new();
        let (first, key, payload) = read_frame(&mut stream);
        assert_eq!((first, &payload[..]), (0x8a, &[7][..]), "the pong");
        keys.push(key);
        for _ in 0..100 {
            let (first, key, payload) = read_frame(&mut stream);
            assert_eq!((first, &payload[..]), (0x82, &b"the same"[..]));
            keys.push(key);
        }
        let (first, key, payload) = read_frame(&mut stream);
        assert_eq!((first, &payload[..]), (0x88, &1001_u16.to_be_bytes()[..]));
        keys.push(key);
        keys.sort();
        keys.dedup();
        assert!(
            keys.len() > 100,
            "two of 102 may be equal by chance, once in a million runs"
        );
    });
    await_connected(&mut dialler, conn);
    await_received(&mut dialler, 6);
    assert_eq!(dialler.received, b"onetwo");
    let same = Bytes::from_static(b"the same");
    for _ in 0..100 {
        dialler.reactor.send(conn, same.clone());
    }
    dialler.reactor.close(conn, Close::Drain { ws_code: 1001 });
    assert!(matches!(dialler.next(), Seen::Closed(_, Cause::Ours)));
    server.join().expect("server");
    dialler.assert_clean();
}

#[test]
fn a_server_that_masks_is_closed_with_1002() {
    let (listener, address) = listen();
    let mut dialler = dialler();
    let conn = dialler.dial(&address);
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        let request = read_request(&mut stream);
        stream.write_all(&good_answer(&request)).expect("answer");
        stream.write_all(&[0x82, 0x81, 1, 2, 3, 4, 5]).expect("frame");
        let (first, _, payload) = read_frame(&mut stream);
        assert_eq!((first, &payload[..2]), (0x88, &1002_u16.to_be_bytes()[..]));
    });
    await_connected(&mut dialler, conn);
    loop {
        match dialler.next() {
            Seen::Received(_) => {}
            Seen::Ending(_) => break,
            other => panic!("{other:?}"),
        }
    }
    match dialler.next() {
        Seen::Closed(of, Cause::Transport(reason)) => {
            assert_eq!(of, conn);
            assert!(reason.contains("masked"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(dialler.received.is_empty());
    server.join().expect("server");
    dialler.assert_clean();
}

/// What a dial of a WebSocket fails with against a server that does this with its connection.
fn failure_of(config: ReactorConfig, serve: impl FnOnce(&mut TcpStream) + Send + 'static) -> std::io::Error {
    let (listener, address) = listen();
    let mut dialler = Dialler::new(config);
    let conn = dialler.dial(&address);
    let server = thread::spawn(move || {
        let mut stream = accept(&listener);
        serve(&mut stream);
        // Until the other end has had enough.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = match dialler.next() {
        Seen::Closed(of, Cause::Failed(error)) if of == conn => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(dialler.reactor.counters().dials_failed, 1);
    dialler.assert_clean();
    server.join().expect("server");
    error
}

#[test]
fn a_handshake_that_fails_is_one_event_that_says_why() {
    let error = failure_of(ReactorConfig::default(), |stream| {
        read_request(stream);
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nnot you\n";
        stream.write_all(refusal).expect("refusal");
    });
    let fault = error.get_ref().and_then(|error| error.downcast_ref::<WsFault>());
    let fault = fault.expect("a fault inside");
    assert_eq!(fault.kind(), WsFaultKind::Handshake { status: 403 });
    assert!(error.to_string().contains("not you"), "{error}");

    let error = failure_of(ReactorConfig::default(), |stream| {
        let request = read_request(stream);
        let wrong = request.replace("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: A");
        stream.write_all(&good_answer(&wrong)).expect("answer");
    });
    assert!(error.to_string().contains("not that of this request"), "{error}");

    let error = failure_of(ReactorConfig::default(), |stream| {
        read_request(stream);
        stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    });
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

    let impatient = ReactorConfig {
        handshake_ms: 30,
        ..ReactorConfig::default()
    };
    let error = failure_of(impatient, |_| {});
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn closing_before_the_answer_and_a_request_that_cannot_be_made() {
    let (listener, address) = listen();
    for how in [Close::Now, Close::Drain { ws_code: 1000 }] {
        let mut dialler = dialler();
        let conn = dialler.dial(&address);
        dialler.reactor.send(conn, Bytes::from_static(b"too early"));
        dialler.reactor.turn(Some(0)).expect("turn");
        let mut stream = accept(&listener);
        // The request leaves in the dialler's turns.
        while dialler.reactor.counters().sent_bytes == 0 {
            let until_ns = dialler.reactor.now_ns() + 1_000_000;
            dialler.reactor.turn(Some(until_ns)).expect("turn");
            assert!(dialler.reactor.poll().is_none());
        }
        dialler.reactor.close(conn, how);
        assert!(matches!(dialler.next(), Seen::Closed(of, Cause::Ours) if of == conn));
        // Which the kernel hears in the turn.
        dialler.reactor.turn(Some(0)).expect("turn");
        let mut request = Vec::new();
        let _ = stream.read_to_end(&mut request);
        assert!(!request.windows(9).any(|bytes| bytes == b"too early"));
        dialler.assert_clean();
    }
    let smuggling = Address::WebSocket {
        host: "127.0.0.1".to_owned(),
        port: 1,
        path: "/a\r\nb: c".to_owned(),
    };
    let mut dialler = dialler();
    let error = dialler
        .reactor
        .dial(&smuggling, &Dial::default())
        .expect_err("refused");
    let error = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<DialError>());
    assert!(matches!(error, Some(DialError::Unsendable(_))));
    dialler.assert_clean();
}
