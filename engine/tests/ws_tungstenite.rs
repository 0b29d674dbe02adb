//! The WebSocket layer against an independent client, `tungstenite`, over streams in memory.

mod ws_peer;

use std::io::{self, ErrorKind, Read, Write};

use fluxar_engine::ws::{WsConfig, frame_header, ping_frame, text_frame_header};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Error, Message, client};
use ws_peer::{Seen, Server};

/// The client's end of a connection in memory.
#[derive(Debug, Default)]
struct Wire {
    to_client: Vec<u8>,
    to_server: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.to_client.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let bytes = buf.len().min(self.to_client.len());
        buf[..bytes].copy_from_slice(&self.to_client[..bytes]);
        self.to_client.drain(..bytes);
        Ok(bytes)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to_server.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Carries what the client wrote to the server, in inputs of `size`, and its replies back.
    fn exchange(&mut self, server: &mut Server, size: usize) {
        let bytes = std::mem::take(&mut self.to_server);
        server
            .feed_by(&bytes, size)
            .unwrap_or_else(|fault| panic!("{fault}"));
        self.to_client.append(&mut server.reply);
    }
}

struct Pair {
    client: tungstenite::WebSocket<Wire>,
    server: Server,
    /// The most bytes that reach the server at once.
    size: usize,
}

impl Pair {
    /// Both ends after the handshake, with the subprotocol agreed.
    fn open(size: usize) -> Self {
        let config = WsConfig {
            subprotocol: Some("test.v1".into()),
            text: true,
            max_message_bytes: 1 << 20,
            ..WsConfig::default()
        };
        let mut server = Server::new(config);
        let mut request = "ws://localhost:9001/there?now".into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("test.v1"));
        request
            .headers_mut()
            .insert("Origin", HeaderValue::from_static("http://localhost:8080"));
        let mut waiting = match client(request, Wire::default()) {
            Err(HandshakeError::Interrupted(waiting)) => waiting,
            other => panic!("the client waits for its response: {other:?}"),
        };
        waiting.get_mut().get_mut().exchange(&mut server, size);
        let (client, response) = waiting.handshake().expect("a response that the client takes");
        assert_eq!(response.headers()["sec-websocket-protocol"], "test.v1");
        assert_eq!(server.seen, [Seen::Opened("/there?now".into())]);
        server.seen.clear();
        Pair { client, server, size }
    }

    /// Sends a message and returns what the server saw of it.
    fn send(&mut self, message: Message) -> Vec<Seen> {
        self.client.send(message).unwrap();
        self.client.get_mut().exchange(&mut self.server, self.size);
        std::mem::take(&mut self.server.seen)
    }
}

#[test]
fn messages_of_all_lengths_are_echoed() {
    for size in [1, 7, 1000, usize::MAX] {
        let mut pair = Pair::open(size);
        let longest = if size < 1000 { 65_537 } else { 1 << 20 };
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, longest] {
            let message: Vec<u8> = (0..length).map(|i| (i * 13) as u8).collect();
            assert_eq!(
                pair.send(Message::binary(message.clone())),
                [Seen::Binary(message.clone())]
            );
            let mut header = [0; 10];
            let header_bytes = frame_header(length, &mut header);
            let wire = &mut pair.client.get_mut().to_client;
            wire.extend_from_slice(&header[..header_bytes]);
            wire.extend_from_slice(&message);
            assert_eq!(pair.client.read().unwrap(), Message::binary(message));
        }
        let text = "grüß dich ".repeat(50);
        assert_eq!(pair.send(Message::text(text.clone())), [Seen::Text(text.clone())]);
        let mut header = [0; 10];
        let header_bytes = text_frame_header(text.len(), &mut header);
        let wire = &mut pair.client.get_mut().to_client;
        wire.extend_from_slice(&header[..header_bytes]);
        wire.extend_from_slice(text.as_bytes());
        assert_eq!(pair.client.read().unwrap(), Message::text(text));
    }
}

#[test]
fn fragments_with_pings_between_them_are_put_together() {
    let mut pair = Pair::open(5);
    let part =
        |data: &'static [u8], opcode, last| Message::Frame(Frame::message(data, OpCode::Data(opcode), last));
    assert_eq!(pair.send(part(b"one ", Data::Binary, false)), []);
    assert_eq!(pair.send(Message::Ping(b"between".as_slice().into())), []);
    assert_eq!(
        pair.client.read().unwrap(),
        Message::Pong(b"between".as_slice().into())
    );
    assert_eq!(pair.send(part(b"two ", Data::Continue, false)), []);
    assert_eq!(
        pair.send(part(b"three", Data::Continue, true)),
        [Seen::Binary(b"one two three".into())]
    );
}

#[test]
fn pings_of_ours_are_answered() {
    let mut pair = Pair::open(3);
    pair.client.get_mut().to_client.extend(ping_frame(b"alive?"));
    assert_eq!(
        pair.client.read().unwrap(),
        Message::Ping(b"alive?".as_slice().into())
    );
    pair.client.flush().unwrap();
    assert!(!pair.client.get_ref().to_server.is_empty());
    pair.client.get_mut().exchange(&mut pair.server, 3);
    assert_eq!(pair.server.seen, [], "a pong is no event");
    assert!(pair.server.reply.is_empty());
}

#[test]
fn the_client_closes() {
    for (frame, seen) in [
        (None, Seen::Closed(1005, String::new())),
        (
            Some(CloseFrame {
                code: CloseCode::Library(4321),
                reason: "enough".into(),
            }),
            Seen::Closed(4321, "enough".into()),
        ),
    ] {
        let mut pair = Pair::open(1);
        pair.client.close(frame).unwrap();
        pair.client.get_mut().exchange(&mut pair.server, 1);
        assert_eq!(pair.server.seen, [seen]);
        assert!(matches!(pair.client.read(), Ok(Message::Close(_))));
        assert!(!pair.server.ws.is_open());
    }
}

#[test]
fn the_server_closes() {
    let mut pair = Pair::open(1);
    pair.server.ws.close(1001, "going down", &mut pair.server.reply);
    pair.client.get_mut().exchange(&mut pair.server, 1);
    let expected = CloseFrame {
        code: CloseCode::Away,
        reason: "going down".into(),
    };
    assert_eq!(pair.client.read().unwrap(), Message::Close(Some(expected)));
    pair.client.flush().unwrap();
    pair.client.get_mut().exchange(&mut pair.server, 1);
    assert!(matches!(pair.server.seen[..], [Seen::Closed(1001, _)]));
    assert!(pair.server.reply.is_empty());
}

#[test]
fn a_fault_reaches_the_client_as_a_close_frame() {
    let mut pair = Pair::open(1000);
    let bad = Frame::message(b"of nothing".as_slice(), OpCode::Data(Data::Continue), true);
    pair.client.send(Message::Frame(bad)).unwrap();
    let bytes = std::mem::take(&mut pair.client.get_mut().to_server);
    let fault = pair.server.feed(&bytes).expect_err("a continuation of nothing");
    pair.client.get_mut().to_client.extend(fault.reply());
    match pair.client.read() {
        Ok(Message::Close(Some(frame))) => {
            assert_eq!(frame.code, CloseCode::Protocol);
            assert_eq!(frame.reason.as_str(), fault.reason());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_reaches_the_client_as_a_response() {
    let mut server = Server::new(WsConfig::default());
    let mut request = "ws://localhost:9001/".into_client_request().unwrap();
    request
        .headers_mut()
        .insert("Origin", HeaderValue::from_static("https://evil.example"));
    let Err(HandshakeError::Interrupted(mut waiting)) = client(request, Wire::default()) else {
        panic!("the client waits for its response");
    };
    let wire = waiting.get_mut().get_mut();
    let bytes = std::mem::take(&mut wire.to_server);
    wire.to_client
        .extend(server.feed(&bytes).expect_err("a foreign page").reply());
    match waiting.handshake() {
        Err(HandshakeError::Failure(Error::Http(response))) => {
            assert_eq!(response.status(), 403);
            let body = String::from_utf8(response.into_body().unwrap()).unwrap();
            assert!(body.contains("https://evil.example"));
        }
        other => panic!("{other:?}"),
    }
}
