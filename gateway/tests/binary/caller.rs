//! A client that calls and serves: sends whole envelopes and keeps what it was told until somebody asks for it.

use std::collections::VecDeque;
use std::io::{Read, Write};

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::frame::prefix;
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Batch, Code, ErrorBody, Form, Id, Kind};

/// What it was told.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) reference: Option<Id>,
    pub(crate) target: Option<String>,
    pub(crate) payload: Vec<u8>,
    pub(crate) error: Option<(Code, String)>,
}

/// How frames travel.
pub(crate) trait Road {
    fn send(&mut self, body: &[u8]);
    fn receive(&mut self) -> Vec<u8>;
}

/// A byte stream: a length in front of each body.
pub(crate) struct Stream<S>(pub(crate) S);

impl<S: Read + Write> Road for Stream<S> {
    fn send(&mut self, body: &[u8]) {
        let mut frame = prefix(body.len()).to_vec();
        frame.extend(body);
        self.0.write_all(&frame).expect("the gateway reads");
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a frame");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).expect("a whole frame");
        body
    }
}

/// A WebSocket: a binary message is a body.
pub(crate) struct WebSocket<S>(S);

impl<S: Read + Write> WebSocket<S> {
    /// Asks for the upgrade and takes the answer.
    pub(crate) fn open(mut stream: S) -> Self {
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                  Sec-WebSocket-Protocol: fluxar.v0\r\n\r\n",
            )
            .expect("the gateway reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.extend(byte);
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        Self(stream)
    }
}

impl<S: Read + Write> Road for WebSocket<S> {
    fn send(&mut self, body: &[u8]) {
        // Masked with zeros: the bytes stay as they are.
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend((body.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(body);
        if body.len() < 126 {
            frame = [&[0x82, 0x80 | body.len() as u8, 0, 0, 0, 0], body].concat();
        }
        self.0.write_all(&frame).expect("the gateway reads");
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).expect("a length");
                usize::from(u16::from_be_bytes(length))
            }
            length => usize::from(length),
        };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole frame");
        assert_eq!(head[0], 0x82, "a binary message: {}", body.escape_ascii());
        body
    }
}

/// The client.
pub(crate) struct Caller<R> {
    road: R,
    told: VecDeque<Message>,
    next: u64,
}

impl<R: Road> Caller<R> {
    /// Says hello under this name and takes the welcome.
    pub(crate) fn on(road: R, agent: &str) -> Self {
        let mut caller = Self {
            road,
            told: VecDeque::new(),
            next: 1,
        };
        let mut payload = Vec::new();
        Hello {
            agent,
            ..Hello::default()
        }
        .encode(&mut payload);
        let id = caller.send(Kind::Hello, None, None, None, &payload);
        let welcome = caller.wait(|message| message.reference == Some(id));
        assert_eq!(welcome.error, None);
        caller
    }

    /// The other way round: takes the hello of a gateway that dialled, and welcomes it.
    pub(crate) fn welcoming(road: R, agent: &str) -> Self {
        let mut service = Self {
            road,
            told: VecDeque::new(),
            next: 1,
        };
        let hello = service.wait(|message| message.kind == Kind::Hello);
        let mut payload = Vec::new();
        Welcome {
            v: 0,
            session: Id([7; 16]),
            token: None,
            caps: Caps::default(),
            max_frame: 1 << 20,
            heartbeat_ms: 15_000,
            credit: 65_536,
            resumed: false,
            recv: 0,
            limits: None,
            agent,
        }
        .encode(&mut payload);
        service.send(Kind::Hello, Some(hello.id), None, None, &payload);
        service
    }

    /// Sends an envelope; its id.
    pub(crate) fn send(
        &mut self,
        kind: Kind,
        reference: Option<Id>,
        target: Option<&str>,
        meta: Option<&[u8]>,
        payload: &[u8],
    ) -> Id {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        let mut body = Vec::new();
        Envelope {
            kind,
            id: Id(id),
            reference,
            target,
            meta: meta.map(Meta::from_checked),
            payload,
            error: None,
        }
        .encode(Form::Compact, &mut body);
        self.road.send(&body);
        Id(id)
    }

    /// The first message that is so, now or later; the others are kept.
    pub(crate) fn wait(&mut self, is_it: impl Fn(&Message) -> bool) -> Message {
        loop {
            if let Some(at) = self.told.iter().position(&is_it) {
                return self.told.remove(at).expect("it is there");
            }
            let body = self.road.receive();
            for decoded in Batch::new(&body) {
                let envelope = decoded.expect("readable").envelope;
                let message = Message {
                    kind: envelope.kind,
                    id: envelope.id,
                    reference: envelope.reference,
                    target: envelope.target.map(Into::into),
                    payload: envelope.payload.to_vec(),
                    error: envelope.error.map(|error| {
                        let error = ErrorBody::decode(error).expect("readable");
                        (error.code, error.message.to_owned())
                    }),
                };
                if (message.kind, message.reference) == (Kind::Ping, None) {
                    self.send(Kind::Ping, Some(message.id), None, None, b"\xf6");
                } else {
                    self.told.push_back(message);
                }
            }
        }
    }

    /// Serves a pattern in a fleet, once that is accepted.
    pub(crate) fn serve(&mut self, pattern: &str, fleet: Option<&str>) {
        let mut meta = MetaWriter::new().flag("serve", true);
        if let Some(fleet) = fleet {
            meta = meta.text("group", fleet);
        }
        let meta = meta.finish().expect("small");
        let id = self.send(Kind::Subscribe, None, Some(pattern), Some(&meta), b"\xf6");
        let accepted = self.wait(|message| message.reference == Some(id));
        assert_eq!(accepted.error, None);
    }

    /// Calls, and goes on; its id.
    pub(crate) fn begin(&mut self, method: &str, payload: &[u8]) -> Id {
        self.send(Kind::Call, None, Some(method), None, payload)
    }

    /// What became of a call.
    pub(crate) fn outcome(&mut self, call: Id) -> Result<Vec<u8>, (Code, String)> {
        let answer = self.wait(|message| message.reference == Some(call));
        match answer.error {
            Some(error) => Err(error),
            None => Ok(answer.payload),
        }
    }

    /// Calls and waits.
    pub(crate) fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, (Code, String)> {
        let call = self.begin(method, payload);
        self.outcome(call)
    }

    /// The next call to this client.
    pub(crate) fn called(&mut self) -> Message {
        self.wait(|message| message.kind == Kind::Call && message.reference.is_none())
    }

    /// Answers a call.
    pub(crate) fn answer(&mut self, call: &Message, payload: &[u8]) {
        self.send(Kind::Call, Some(call.id), None, None, payload);
    }
}
