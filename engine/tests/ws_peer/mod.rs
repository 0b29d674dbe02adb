//! The two ends that the WebSocket tests put together: a hand-made client, which can also write what no client
//! should, and a server that keeps all that its layer says.
#![allow(dead_code)] // Each test binary uses its own part of this.

use fluxar_engine::ws::{WebSocket, WsConfig, WsEvent, WsFault, WsFaultKind};

/// The request of RFC 6455, 1.3, less what it leaves open.
pub(crate) const REQUEST: &[u8] =
    b"GET /chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A client's frame: the first octet as given, the shortest length, masked.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

pub(crate) fn frame_masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(i, octet)| octet ^ mask[i % 4]));
    bytes
}

pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// [`WsEvent`], kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Opened(String),
    Binary(Vec<u8>),
    Text(String),
    Closed(u16, String),
}

pub(crate) struct Server {
    pub(crate) ws: WebSocket,
    pub(crate) config: WsConfig,
    pub(crate) reply: Vec<u8>,
    pub(crate) seen: Vec<Seen>,
    /// The most that the connection ever held.
    pub(crate) held_max_bytes: usize,
}

impl Server {
    pub(crate) fn new(config: WsConfig) -> Self {
        Self {
            ws: WebSocket::new(),
            config,
            reply: Vec::new(),
            seen: Vec::new(),
            held_max_bytes: 0,
        }
    }

    /// With the handshake done, and nothing seen or replied since.
    pub(crate) fn open(config: WsConfig) -> Self {
        let mut server = Self::new(config);
        server.feed(REQUEST).expect("the handshake");
        assert_eq!(server.seen, [Seen::Opened("/chat?room=1".into())]);
        server.seen.clear();
        server.reply.clear();
        server.held_max_bytes = 0;
        server
    }

    /// Lets one input arrive.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), WsFault> {
        let mut bytes = bytes.to_vec();
        let mut input = &mut bytes[..];
        loop {
            let event = match self.ws.next(&mut input, &self.config, &mut self.reply)? {
                Some(WsEvent::Opened { path }) => Some(Seen::Opened(path.into())),
                Some(WsEvent::Message(message)) => Some(Seen::Binary(message.into())),
                Some(WsEvent::MessageText(text)) => Some(Seen::Text(text.into())),
                Some(WsEvent::Closed { code, reason }) => Some(Seen::Closed(code, reason.into())),
                None => None,
            };
            self.held_max_bytes = self.held_max_bytes.max(self.ws.held_bytes());
            match event {
                Some(event) => self.seen.push(event),
                None => {
                    assert!(input.is_empty(), "`None` means that all of the input was taken");
                    return Ok(());
                }
            }
        }
    }

    /// Lets bytes arrive in inputs of at most `size`.
    pub(crate) fn feed_by(&mut self, bytes: &[u8], size: usize) -> Result<(), WsFault> {
        bytes.chunks(size).try_for_each(|piece| self.feed(piece))
    }
}

/// The status or close code of the fault that these bytes must be.
pub(crate) fn fault_of(mut server: Server, bytes: &[u8]) -> (WsFault, u16) {
    let fault = server.feed(bytes).expect_err("this must be refused");
    let number = match fault.kind() {
        WsFaultKind::Handshake { status } => status,
        WsFaultKind::Frame { code } => code,
    };
    assert_eq!(server.ws.held_bytes(), 0, "a failed connection holds nothing");
    assert!(!server.ws.is_open());
    server.seen.clear();
    server
        .feed(&frame(FIN | BINARY, b"too late"))
        .expect("what follows a fault is discarded");
    assert_eq!(server.seen, []);
    (fault, number)
}
