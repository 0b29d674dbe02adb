//! A service on a simulated core, for gateways to dial.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_engine::listener::ListenerId;
use fluxar_engine::mail;
use fluxar_engine::reactor::{Board, Close, Conn, Event, Piece, Reactor, ReactorConfig, Transport};
use fluxar_engine::sim::{SimDriver, World};
use fluxar_engine::ws::WsConfig;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::{Batch, Code, ErrorBody, Form, Id, Kind};
use fluxar_tests::message::{Received, encoded, number};

use super::{CORES, SERVICE};

pub(crate) fn envelopes(body: &[u8]) -> Vec<Received> {
    Batch::new(body)
        .map(|decoded| Received::from_decoded(&decoded.expect("only what can be read is said here")))
        .collect()
}

/// Cuts a byte stream into envelopes.
#[derive(Default)]
pub(crate) struct Ear(Deframer);

impl Ear {
    pub(crate) fn hear(&mut self, mut bytes: &[u8]) -> Vec<Received> {
        let mut heard = Vec::new();
        while let Some(body) = self.0.next(&mut bytes, 1 << 20).expect("no frame is too large") {
            heard.extend(envelopes(body));
        }
        heard
    }
}

/// The reactor of the core behind the gateway's.
pub(crate) fn alone(world: &mut World, listeners: Vec<(ListenerId, Transport)>) -> Reactor<SimDriver, ()> {
    let (_, mut endpoints) = mail::mesh(1, 1);
    let endpoint = endpoints.pop().expect("one");
    Reactor::new(
        world.driver(CORES),
        endpoint,
        Board::new(1),
        listeners,
        ReactorConfig::default(),
    )
}

/// A service on a core of its own: greets who dials it, and answers calls with their number plus one.
pub(crate) struct Service {
    pub(crate) reactor: Reactor<SimDriver, ()>,
    is_websocket: bool,
    pub(crate) ears: BTreeMap<Conn, Ear>,
    /// Connections that were greeted.
    pub(crate) greeted: Vec<Conn>,
    pub(crate) greetings: u32,
    pub(crate) served: u32,
    /// It reads and says nothing, not even to pings.
    pub(crate) is_mute: bool,
    ids: u64,
}

impl Service {
    pub(crate) fn new(world: &mut World, is_websocket: bool) -> Self {
        assert_eq!(world.listen(), SERVICE);
        world.wake(CORES);
        let transport = if is_websocket {
            Transport::WebSocket(Arc::new(WsConfig {
                subprotocol: Some("fluxar.v0".into()),
                ..WsConfig::default()
            }))
        } else {
            Transport::Stream
        };
        Self {
            reactor: alone(world, vec![(SERVICE, transport)]),
            is_websocket,
            ears: BTreeMap::new(),
            greeted: Vec::new(),
            greetings: 0,
            served: 0,
            is_mute: false,
            ids: 0,
        }
    }

    pub(crate) fn id(&mut self) -> Id {
        self.ids += 1;
        Id((u128::from(self.ids) << 64).to_be_bytes())
    }

    pub(crate) fn turn(&mut self) {
        self.reactor.turn(None).expect("a turn");
        while let Some(event) = self.reactor.poll() {
            match event {
                Event::Opened { conn, .. } => {
                    self.ears.insert(conn, Ear::default());
                }
                Event::Received { conn, chunk } => {
                    let mut heard = Vec::new();
                    let mut input = self.reactor.input(conn, chunk);
                    while let Some(piece) = input.next() {
                        match piece {
                            Piece::Stream(bytes) => {
                                heard.extend(self.ears.entry(conn).or_default().hear(bytes));
                            }
                            Piece::Message(body) => heard.extend(envelopes(body)),
                        }
                    }
                    drop(input);
                    for message in heard {
                        self.answer(conn, &message);
                    }
                }
                Event::Closed { conn, .. } => {
                    self.ears.remove(&conn);
                    self.greeted.retain(|greeted| *greeted != conn);
                }
                Event::Ending { .. } | Event::Sent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.reactor.flush();
    }

    fn answer(&mut self, conn: Conn, message: &Received) {
        if self.is_mute {
            return;
        }
        let mut payload = vec![0xf6];
        match (message.kind, message.reference) {
            (Kind::Hello, None) => {
                let hello = Hello::decode(&message.payload).expect("a hello");
                assert_eq!(hello.credit, 0, "a gateway holds no chunk");
                assert!(hello.agent.starts_with("fluxar-gateway/"));
                self.greeted.push(conn);
                self.greetings += 1;
                payload.clear();
                Welcome {
                    v: 0,
                    session: Id([9; 16]),
                    token: None,
                    caps: Caps::default(),
                    max_frame: 1 << 20,
                    heartbeat_ms: 15_000,
                    credit: 65_536,
                    resumed: false,
                    recv: 0,
                    limits: None,
                    agent: "simulated/1",
                }
                .encode(&mut payload);
            }
            (Kind::Call, None) => {
                self.served += 1;
                payload = number(message.number() + 1);
            }
            (Kind::Ping, None) => {}
            _ => return,
        }
        let id = self.id();
        let answer = encoded(message.kind, id, Some(message.id), None, None, &payload);
        self.say(conn, answer);
    }

    pub(crate) fn say(&mut self, conn: Conn, body: Vec<u8>) {
        let bytes = if self.is_websocket {
            body
        } else {
            [&prefix(body.len())[..], &body].concat()
        };
        self.reactor.send(conn, Bytes::from(bytes));
    }

    pub(crate) fn cut_all(&mut self) {
        for conn in self.ears.keys().copied().collect::<Vec<_>>() {
            self.reactor.close(conn, Close::Now);
        }
    }

    /// Says goodbye to all, and when to come back.
    pub(crate) fn leave(&mut self, retry_after_ms: u32) {
        for conn in std::mem::take(&mut self.greeted) {
            let mut error = Vec::new();
            ErrorBody {
                code: Code::Unavailable,
                message: "restarting",
                details: None,
                retry_after_ms: Some(retry_after_ms),
            }
            .encode(&mut error);
            let id = self.id();
            let goodbye = encoded(Kind::Cancel, id, None, None, None, b"\xf6");
            let mut envelope = fluxar_protocol::envelope::decode(&goodbye)
                .expect("our own")
                .envelope;
            envelope.error = Some(&error);
            let mut body = Vec::new();
            envelope.encode(Form::Compact, &mut body);
            self.say(conn, body);
            self.reactor.close(conn, Close::Drain { ws_code: 1001 });
        }
        self.reactor.flush();
    }
}
