//! The client's end of the byte layers: length prefixes, or a WebSocket's handshake and masked frames, over a simulated
//! socket that takes what it has room for.

use fluxar_engine::sim::{ClientSocket, ClientState, Random};
use fluxar_protocol::frame::{Deframer, prefix};

/// A connection of an actor.
pub(crate) struct Wire {
    socket: Option<ClientSocket>,
    layer: Layer,
    /// What the socket had no room for yet.
    unsent: Vec<u8>,
}

enum Layer {
    Stream(Deframer),
    Ws { greeted: bool, unread: Vec<u8> },
}

impl Wire {
    pub(crate) fn new(socket: ClientSocket, websocket: bool) -> Self {
        let layer = if websocket {
            Layer::Ws {
                greeted: false,
                unread: Vec::new(),
            }
        } else {
            Layer::Stream(Deframer::new())
        };
        let mut wire = Self {
            socket: Some(socket),
            layer,
            unsent: Vec::new(),
        };
        if websocket {
            wire.unsent.extend_from_slice(
                b"GET / HTTP/1.1\r\nHost: town\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Protocol: fluxar.v0\r\n\r\n",
            );
        }
        wire
    }

    /// Queues one frame body.
    pub(crate) fn send(&mut self, body: &[u8], random: &mut Random) {
        match self.layer {
            Layer::Stream(_) => {
                self.unsent.extend_from_slice(&prefix(body.len()));
                self.unsent.extend_from_slice(body);
            }
            Layer::Ws { .. } => {
                // Sometimes in two fragments with a ping between.
                let cut = if body.len() > 1 && random.chance(0.2) {
                    1 + random.index(body.len() - 1)
                } else {
                    body.len()
                };
                self.ws_frame(if cut == body.len() { 0x82 } else { 0x02 }, &body[..cut], random);
                if cut < body.len() {
                    self.ws_frame(0x89, b"hm", random);
                    self.ws_frame(0x80, &body[cut..], random);
                }
            }
        }
    }

    /// Queues bytes beneath all layers.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    fn ws_frame(&mut self, first: u8, payload: &[u8], random: &mut Random) {
        self.unsent.push(first);
        match payload.len() {
            short @ 0..126 => self.unsent.push(0x80 | short as u8),
            medium @ 126..65_536 => {
                self.unsent.push(0x80 | 126);
                self.unsent.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                self.unsent.push(0x80 | 127);
                self.unsent.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        let mask = (random.next() as u32).to_be_bytes();
        self.unsent.extend_from_slice(&mask);
        self.unsent
            .extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    }

    /// How much waits for room.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Writes what there is room for.
    pub(crate) fn push(&mut self) {
        if let Some(socket) = &mut self.socket
            && !self.unsent.is_empty()
        {
            let written = socket.write(&self.unsent);
            self.unsent.drain(..written);
        }
    }

    /// Writes what there is room for, and returns the bodies that have arrived.
    pub(crate) fn turn(&mut self) -> Vec<Vec<u8>> {
        self.push();
        let Some(socket) = &mut self.socket else {
            return Vec::new();
        };
        let arrived = socket.read();
        let mut bodies = Vec::new();
        match &mut self.layer {
            Layer::Stream(deframer) => {
                let mut input = &arrived[..];
                while let Some(body) = deframer
                    .next(&mut input, 32 << 20)
                    .expect("the gateway keeps its limits")
                {
                    bodies.push(body.to_vec());
                }
            }
            Layer::Ws { greeted, unread } => {
                unread.extend_from_slice(&arrived);
                if !*greeted {
                    let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") else {
                        return bodies;
                    };
                    assert!(
                        unread.starts_with(b"HTTP/1.1 101 "),
                        "{:?}",
                        String::from_utf8_lossy(unread)
                    );
                    unread.drain(..end + 4);
                    *greeted = true;
                }
                while let Some((opcode, range, end)) = ws_header(unread) {
                    match opcode {
                        2 => bodies.push(unread[range].to_vec()),
                        8..=10 => {}
                        other => panic!("a server frame with opcode {other}"),
                    }
                    unread.drain(..end);
                }
            }
        }
        bodies
    }

    /// How the connection is; closed by this side counts as ended.
    pub(crate) fn state(&self) -> ClientState {
        self.socket
            .as_ref()
            .map_or(ClientState::Ended, ClientSocket::state)
    }

    pub(crate) fn stop_reading(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.stop_reading();
        }
    }

    pub(crate) fn read_on(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.read_on();
        }
    }

    /// Ends it: by a reset, or as a process that ends does.
    pub(crate) fn die(&mut self, reset: bool) {
        if let Some(socket) = self.socket.take()
            && reset
        {
            socket.abort();
        }
    }
}

/// Opcode, payload and end of the frame at the start, if it is whole.
fn ws_header(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(first & 0x80, 0x80, "a gateway does not fragment");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, head) = match second {
        126 => (
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        short => (usize::from(short), 2),
    };
    (bytes.len() >= head + length).then_some((first & 0x0f, head..head + length, head + length))
}
