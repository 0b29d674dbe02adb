//! Clients with frames made by hand, so that the reactor's WebSocket code does not check itself.

use fluxar_engine::sim::{ClientSocket, ClientState, Random};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
/// What RFC 6455, 1.3 says that the key above is answered with.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A client that writes what it has, reads what comes, and knows what it should be.
pub(crate) struct Client {
    pub(crate) socket: ClientSocket,
    pub(crate) is_websocket: bool,
    /// Bytes still to write.
    pub(crate) outgoing: Vec<u8>,
    /// What was sent, message by message (a byte stream: one).
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) pings: usize,
    /// What came, not yet taken apart.
    incoming: Vec<u8>,
    /// Messages that came (a byte stream: one that grows).
    pub(crate) got: Vec<Vec<u8>>,
    pub(crate) pongs: usize,
    pub(crate) close_code: Option<u16>,
    shaken: bool,
}

impl Client {
    /// A byte-stream client that sends so many bytes.
    pub(crate) fn stream(socket: ClientSocket, random: &mut Random, bytes: usize) -> Client {
        let bytes: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
        Client {
            outgoing: bytes.clone(),
            sent: vec![bytes],
            got: vec![Vec::new()],
            shaken: true,
            ..Client::new(socket, false)
        }
    }

    /// A WebSocket client that shakes hands and sends messages, some fragmented, with pings between.
    pub(crate) fn websocket(
        socket: ClientSocket,
        random: &mut Random,
        messages: usize,
        bytes_max: u64,
    ) -> Client {
        let mut client = Client::new(socket, true);
        client.outgoing.extend_from_slice(REQUEST.as_bytes());
        for _ in 0..messages {
            let message: Vec<u8> = (0..random.between(0, bytes_max))
                .map(|_| random.next() as u8)
                .collect();
            let mut rest = &message[..];
            let mut opcode = 2;
            while random.chance(0.3) {
                let (part, behind) = rest.split_at(random.index(rest.len() + 1));
                client.outgoing.extend(frame(random, opcode, false, part));
                (rest, opcode) = (behind, 0);
                if random.chance(0.3) {
                    client.outgoing.extend(frame(random, 9, true, b"are you there?"));
                    client.pings += 1;
                }
            }
            client.outgoing.extend(frame(random, opcode, true, rest));
            client.sent.push(message);
        }
        client
    }

    fn new(socket: ClientSocket, is_websocket: bool) -> Client {
        Client {
            socket,
            is_websocket,
            outgoing: Vec::new(),
            sent: Vec::new(),
            pings: 0,
            incoming: Vec::new(),
            got: Vec::new(),
            pongs: 0,
            close_code: None,
            shaken: false,
        }
    }

    /// Writes and reads what can be.
    pub(crate) fn act(&mut self) {
        let written = self.socket.write(&self.outgoing);
        self.outgoing.drain(..written);
        let bytes = self.socket.read();
        if self.is_websocket {
            self.incoming.extend(bytes);
            self.take_apart();
        } else {
            self.got[0].extend(bytes);
        }
    }

    fn take_apart(&mut self) {
        if !self.shaken {
            let Some(end) = self.incoming.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.incoming.drain(..end + 4).collect();
            let head = String::from_utf8(head).unwrap();
            assert!(
                head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT),
                "{head}"
            );
            self.shaken = true;
        }
        while let Some((first, payload, whole)) = parse(&self.incoming) {
            let payload = self.incoming[payload].to_vec();
            self.incoming.drain(..whole);
            assert!(self.close_code.is_none(), "nothing follows a close frame");
            match first {
                0x82 => self.got.push(payload),
                0x8a => self.pongs += 1,
                0x88 => self.close_code = Some(u16::from_be_bytes([payload[0], payload[1]])),
                _ => panic!("frame {first:#x}"),
            }
        }
    }

    /// Whether all came back.
    pub(crate) fn is_served(&self) -> bool {
        self.outgoing.is_empty() && self.got == self.sent && self.pongs == self.pings
    }

    /// Ends the connection in its transport's good order.
    pub(crate) fn say_goodbye(&mut self, random: &mut Random) {
        if self.is_websocket {
            self.outgoing
                .extend(frame(random, 8, true, &1000u16.to_be_bytes()));
        } else {
            self.socket.shutdown();
        }
    }

    pub(crate) fn state(&self) -> ClientState {
        self.socket.state()
    }
}

/// A client's frame, masked.
pub(crate) fn frame(random: &mut Random, opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode | if last { 0x80 } else { 0 }];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let mask = (random.next() as u32).to_be_bytes();
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(index, byte)| byte ^ mask[index % 4]),
    );
    frame
}

/// A server's frame: its first byte, where its payload lies, its length.
fn parse(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>, usize)> {
    let (header, len) = match *bytes.get(1)? {
        126 => (
            4,
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        ),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())),
        len => (2, u64::from(len)),
    };
    let whole = header + len as usize;
    (bytes.len() >= whole).then_some((bytes[0], header..whole, whole))
}

/// Lets every client write and read.
pub(crate) fn act_all<W>(_: &mut W, clients: &mut Vec<Client>) {
    for client in clients {
        client.act();
    }
}
