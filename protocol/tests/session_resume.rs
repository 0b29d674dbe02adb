//! A session over connections that are cut at every place [P-7.6, P-7.7]: two peers that use what `session` has, as a
//! gateway and a client do, and a network that loses what is under way, delays whole connections behind each other and
//! leaves either side in the belief that one still stands. Every counted envelope is carried out once, in order, or the
//! session is refused because of the bound.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use fluxar_protocol::hello::{Hello, Resume, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::session::{
    Kept, NotKept, RECV_DUE_BYTES, Received, TOKEN_BYTES, Tokens, is_counted, is_counted_refused,
};
use fluxar_protocol::{Envelope, Form, Id, Kind, envelope};
use proptest::prelude::*;

const SESSION: Id = Id([0x5e; 16]);

/// What both ends do alike.
struct End {
    kept: Kept<Rc<[u8]>>,
    received: Received,
    /// The frame that is being filled, and where in it counted envelopes stand.
    frame: Vec<u8>,
    counted: Vec<(Range<usize>, u32)>,
    /// How many counted envelopes it has made. Each holds its number.
    made: u32,
    /// How many of the other end's it has carried out.
    carried_out: u32,
    /// Pings sent because of what came, not of the script.
    pings_due: usize,
}

impl End {
    fn new(bytes_max: usize) -> End {
        End {
            kept: Kept::new(bytes_max),
            received: Received::default(),
            frame: Vec::new(),
            counted: Vec::new(),
            made: 0,
            carried_out: 0,
            pings_due: 0,
        }
    }

    fn queue(&mut self, envelope: &Envelope<'_>) {
        let start = self.frame.len();
        envelope.encode(Form::Compact, &mut self.frame);
        self.note(start, is_counted(envelope));
    }

    /// Takes note of an envelope at the end of the frame.
    fn note(&mut self, start: usize, is_counted: bool) {
        if is_counted {
            match self.counted.last_mut() {
                Some((range, count)) if range.end == start => {
                    range.end = self.frame.len();
                    *count += 1;
                }
                _ => self.counted.push((start..self.frame.len(), 1)),
            }
        }
    }

    /// The next counted envelope: a call, an answer, a chunk, an acknowledgement, a cancel.
    fn make_counted(&mut self, choice: u16) {
        let (kind, reference) = [
            (Kind::Call, None),
            (Kind::Call, Some(SESSION)),
            (Kind::Stream, Some(SESSION)),
            (Kind::Event, Some(SESSION)),
            (Kind::Subscribe, Some(SESSION)),
            (Kind::Cancel, Some(SESSION)),
            (Kind::Subscribe, None),
        ][usize::from(choice % 7)];
        let mut id = [0; 16];
        id[..4].copy_from_slice(&self.made.to_be_bytes());
        // A byte string of some length.
        let len = if choice.is_multiple_of(64) {
            50_000
        } else {
            choice >> 8
        };
        let mut payload = vec![0x59];
        payload.extend(len.to_be_bytes());
        payload.resize(3 + usize::from(len), 0xab);
        let start = self.frame.len();
        let counted = Envelope {
            kind,
            id: Id(id),
            reference,
            target: reference.is_none().then_some("a.b"),
            meta: None,
            payload: &payload,
            error: None,
        };
        assert!(is_counted(&counted));
        counted.encode(Form::Compact, &mut self.frame);
        if choice % 16 == 1 {
            // The other end will refuse it: the first byte of its payload is no item.
            let at = self.frame.len() - 1 - payload.len();
            self.frame.splice(at..at + payload.len(), [0x62, 0xff, 0xff]);
        }
        self.note(start, true);
        self.made += 1;
    }

    /// Something that is not counted: an event, or a run of two.
    fn make_uncounted(&mut self, choice: u16) {
        let event = Envelope {
            kind: Kind::Event,
            id: SESSION,
            reference: None,
            target: Some("a.b"),
            meta: None,
            payload: &[],
            error: None,
        };
        if choice.is_multiple_of(2) {
            let run = MetaWriter::new().uint("run", 2).finish();
            self.queue(&Envelope {
                kind: Kind::Subscribe,
                reference: Some(SESSION),
                target: None,
                meta: run.as_deref().map(Meta::from_checked),
                ..event
            });
            self.queue(&event);
        }
        self.queue(&event);
    }

    fn ping(&mut self, reference: Option<Id>) {
        let recv = self.received.tell();
        let meta = MetaWriter::new().uint("recv", recv).finish();
        self.queue(&Envelope {
            kind: Kind::Ping,
            id: SESSION,
            reference,
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &[],
            error: None,
        });
    }

    /// Ends the frame: what counts is kept, whether it can be sent or not.
    fn seal(&mut self) -> Vec<u8> {
        for (range, count) in self.counted.drain(..) {
            self.kept.keep(self.frame[range].into(), count);
        }
        std::mem::take(&mut self.frame)
    }

    /// What goes out on a new connection to a peer that has `recv`: of what was queued nothing but what is kept.
    fn again(&mut self, recv: u64) -> Result<Vec<u8>, NotKept> {
        self.seal();
        let again = self.kept.resume(recv)?;
        Ok(again
            .flat_map(|(bytes, from)| bytes[from..].iter().copied())
            .collect())
    }

    /// Carries out one envelope of an open connection.
    fn carry_out(&mut self, envelope: &Envelope<'_>, bytes: usize) {
        if envelope.kind == Kind::Ping {
            let recv = envelope.meta.unwrap().uint("recv").unwrap().unwrap();
            self.kept.covered(recv).expect("both count alike");
            if envelope.reference.is_none() {
                self.ping(Some(envelope.id));
            }
        } else if is_counted(envelope) {
            self.count(envelope.id, bytes);
        }
    }

    fn count(&mut self, id: Id, bytes: usize) {
        let number = u32::from_be_bytes(id.0[..4].try_into().unwrap());
        assert_eq!(number, self.carried_out, "once, and in order");
        self.carried_out += 1;
        self.received.take(bytes);
        if self.received.is_due() {
            self.pings_due += 1;
            self.ping(None);
        }
    }
}

/// What is under way on one connection, and what arrived of an envelope that is not whole.
#[derive(Default)]
struct Connection {
    to_gateway: VecDeque<u8>,
    to_client: VecDeque<u8>,
    gateway_holds: Vec<u8>,
    client_holds: Vec<u8>,
    /// The gateway has closed it: it takes nothing more from there, and the client will hear of it.
    closed: bool,
}

struct World {
    client: End,
    gateway: End,
    connections: BTreeMap<usize, Connection>,
    next_connection: usize,
    /// Each end's connection, as it believes.
    client_on: Option<usize>,
    gateway_on: Option<usize>,
    /// Whether the client has read the answer to its hello.
    is_open: bool,
    token: [u8; TOKEN_BYTES],
    tokens: Tokens,
    tokens_drawn: u8,
    resumes: usize,
    refused: Option<NotKept>,
}

impl World {
    fn new(client_bytes_max: usize, gateway_bytes_max: usize) -> World {
        // The first hello and its answer went well.
        World {
            client: End::new(client_bytes_max),
            gateway: End::new(gateway_bytes_max),
            connections: BTreeMap::from([(0, Connection::default())]),
            next_connection: 1,
            client_on: Some(0),
            gateway_on: Some(0),
            is_open: true,
            token: [0; TOKEN_BYTES],
            tokens: Tokens::new([0; TOKEN_BYTES]),
            tokens_drawn: 0,
            resumes: 0,
            refused: None,
        }
    }

    fn flush_client(&mut self) {
        if let Some(on) = self.client_on.filter(|_| self.is_open) {
            let frame = self.client.seal();
            self.connections.get_mut(&on).unwrap().to_gateway.extend(frame);
        }
    }

    fn flush_gateway(&mut self) {
        let frame = self.gateway.seal();
        if let Some(on) = self.gateway_on {
            self.connections.get_mut(&on).unwrap().to_client.extend(frame);
        }
    }

    /// The client comes back on a new connection.
    fn dial(&mut self) {
        assert!(self.client_on.is_none());
        let on = self.next_connection;
        self.next_connection += 1;
        self.client_on = Some(on);
        self.is_open = false;
        let mut payload = Vec::new();
        Hello {
            resume: Some(Resume {
                session: SESSION,
                token: &self.token,
                recv: self.client.received.tell(),
            }),
            ..Hello::default()
        }
        .encode(&mut payload);
        let mut hello = Vec::new();
        hello_envelope(None, &payload).encode(Form::Compact, &mut hello);
        let mut connection = Connection::default();
        connection.to_gateway.extend(hello);
        self.connections.insert(on, connection);
    }

    /// The client's connection is gone, as far as it is concerned; the gateway has not heard of that.
    fn lose_client(&mut self) {
        if let Some(connection) = self.client_on.take().and_then(|on| self.connections.get_mut(&on)) {
            connection.to_client.clear();
            connection.client_holds.clear();
        }
        self.is_open = false;
    }

    /// The gateway's is: what had not come is discarded.
    fn lose_gateway(&mut self) {
        if let Some(on) = self.gateway_on.take() {
            let connection = self.connections.get_mut(&on).unwrap();
            connection.closed = true;
            connection.to_gateway.clear();
            connection.gateway_holds.clear();
        }
    }

    fn deliver_to_gateway(&mut self, on: usize, bytes: usize) {
        let connection = self.connections.get_mut(&on).unwrap();
        if connection.closed {
            return;
        }
        let bytes = bytes.min(connection.to_gateway.len());
        connection
            .gateway_holds
            .extend(connection.to_gateway.drain(..bytes));
        let held = std::mem::take(&mut connection.gateway_holds);
        let mut rest = &held[..];
        while let Some(end) = whole(rest) {
            let (bytes, behind) = rest.split_at(end);
            rest = behind;
            if self.gateway_on == Some(on) {
                self.tokens.confirm();
                carry_out_any(&mut self.gateway, bytes);
                continue;
            }
            let envelope = envelope::decode(bytes).expect("a hello").envelope;
            self.take_over(on, &envelope);
            if self.gateway_on != Some(on) {
                return;
            }
        }
        let rest = rest.to_vec();
        self.connections.get_mut(&on).unwrap().gateway_holds = rest;
    }

    /// A hello that resumes has come on a connection that the gateway did not know.
    fn take_over(&mut self, on: usize, hello: &Envelope<'_>) {
        let payload = Hello::decode(hello.payload).unwrap();
        let resume = payload.resume.expect("it resumes");
        assert_eq!(resume.session, SESSION);
        self.tokens_drawn = self.tokens_drawn.wrapping_add(1).max(1);
        let Some(token) = self
            .tokens
            .take_over(resume.token, [self.tokens_drawn; TOKEN_BYTES])
        else {
            // Overtaken by a later connection that is in use: that one is not touched.
            assert_ne!(self.client_on, Some(on), "the client's own token is good");
            self.connections.get_mut(&on).unwrap().closed = true;
            return;
        };
        self.lose_gateway();
        let again = match self.gateway.again(resume.recv) {
            Ok(again) => again,
            Err(not_kept) => {
                self.refused = Some(not_kept);
                return;
            }
        };
        let mut payload = Vec::new();
        let mut welcome = Welcome::decode(
            b"\xa2\x61v\x00\x67session\x50\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e\x5e",
        )
        .unwrap();
        welcome.token = Some(&token);
        welcome.resumed = true;
        welcome.recv = self.gateway.received.tell();
        welcome.encode(&mut payload);
        let mut out = Vec::new();
        hello_envelope(Some(hello.id), &payload).encode(Form::Compact, &mut out);
        out.extend(again);
        self.gateway_on = Some(on);
        self.connections.get_mut(&on).unwrap().to_client.extend(out);
    }

    fn deliver_to_client(&mut self, bytes: usize) {
        let Some(on) = self.client_on else { return };
        let connection = self.connections.get_mut(&on).unwrap();
        let bytes = bytes.min(connection.to_client.len());
        connection
            .client_holds
            .extend(connection.to_client.drain(..bytes));
        let held = std::mem::take(&mut connection.client_holds);
        let mut rest = &held[..];
        while let Some(end) = whole(rest) {
            let (bytes, behind) = rest.split_at(end);
            rest = behind;
            if self.is_open {
                carry_out_any(&mut self.client, bytes);
                continue;
            }
            let envelope = envelope::decode(bytes).expect("an answer").envelope;
            assert_eq!(envelope.kind, Kind::Hello, "nothing comes before the answer");
            let welcome = Welcome::decode(envelope.payload).unwrap();
            assert!(welcome.resumed);
            self.token = welcome.token.unwrap().try_into().unwrap();
            match self.client.again(welcome.recv) {
                Ok(again) => self.connections.get_mut(&on).unwrap().to_gateway.extend(again),
                Err(not_kept) => {
                    self.refused = Some(not_kept);
                    return;
                }
            }
            self.is_open = true;
            self.resumes += 1;
        }
        let rest = rest.to_vec();
        self.connections.get_mut(&on).unwrap().client_holds = rest;
    }

    fn act(&mut self, (operation, choice): (u8, u16)) {
        match operation % 16 {
            0 | 1 => self.client.make_counted(choice),
            2 | 3 => self.gateway.make_counted(choice),
            4 => self.client.make_uncounted(choice),
            5 => self.gateway.make_uncounted(choice),
            6 => self.flush_client(),
            7 => self.flush_gateway(),
            8 | 9 => {
                // Any connection that the client ever had may bring something, in any order.
                let on = self
                    .connections
                    .keys()
                    .rev()
                    .nth(usize::from(choice) % 3)
                    .copied();
                if let Some(on) = on {
                    self.deliver_to_gateway(on, usize::from(choice >> 2));
                }
            }
            10 | 11 => self.deliver_to_client(choice.into()),
            12 if choice % 8 == 0 => self.client.ping(None),
            12 if choice % 8 == 1 => self.gateway.ping(None),
            13 => self.lose_client(),
            14 => self.lose_gateway(),
            _ if self.client_on.is_none() => self.dial(),
            _ => {}
        }
    }

    /// The network is kind from now on, until nothing is under way.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.refused.is_some() {
                return;
            }
            let dead = |world: &World, on: usize| world.connections[&on].closed;
            match self.client_on {
                Some(on) if dead(self, on) => self.lose_client(),
                Some(_) => {}
                None => self.dial(),
            }
            self.flush_client();
            self.flush_gateway();
            let all: Vec<usize> = self.connections.keys().copied().collect();
            for on in all {
                if self.refused.is_none() {
                    self.deliver_to_gateway(on, usize::MAX);
                }
            }
            self.deliver_to_client(usize::MAX);
        }
    }
}

fn hello_envelope(reference: Option<Id>, payload: &[u8]) -> Envelope<'_> {
    Envelope {
        kind: Kind::Hello,
        id: SESSION,
        reference,
        target: None,
        meta: None,
        payload,
        error: None,
    }
}

/// The length of the envelope that begins here, if it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() {
        return None;
    }
    match envelope::decode(bytes) {
        Ok(decoded) => Some(decoded.bytes.len()),
        // Of one that is cut off behind what is wrong with it, the end is not known yet.
        Err(reject) => reject.end,
    }
}

fn carry_out_any(end: &mut End, bytes: &[u8]) {
    match envelope::decode(bytes) {
        Ok(decoded) => end.carry_out(&decoded.envelope, bytes.len()),
        Err(reject) => {
            assert!(is_counted_refused(&reject));
            end.count(reject.id.expect("readable"), bytes.len());
        }
    }
}

fn live(script: &[(u8, u16)], client_bytes_max: usize, gateway_bytes_max: usize) -> World {
    let mut world = World::new(client_bytes_max, gateway_bytes_max);
    for step in script {
        if world.refused.is_some() {
            break;
        }
        world.act(*step);
    }
    world.settle();
    world
}

fn script() -> impl Strategy<Value = Vec<(u8, u16)>> {
    prop::collection::vec((any::<u8>(), any::<u16>()), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn with_room_nothing_is_lost_repeated_or_refused(script in script()) {
        let world = live(&script, usize::MAX, usize::MAX);
        prop_assert_eq!(world.refused, None);
        prop_assert_eq!(world.gateway.carried_out, world.client.made);
        prop_assert_eq!(world.client.carried_out, world.gateway.made);
        prop_assert_eq!(world.gateway.kept.sent(), u64::from(world.gateway.made));
    }

    #[test]
    fn with_little_room_it_is_that_or_refused(script in script(), bytes_max in 0usize..3_000) {
        let world = live(&script, bytes_max, 2 * bytes_max);
        prop_assert!(world.client.kept.bytes() <= bytes_max);
        prop_assert!(world.gateway.kept.bytes() <= 2 * bytes_max);
        match world.refused {
            None => {
                prop_assert_eq!(world.gateway.carried_out, world.client.made);
                prop_assert_eq!(world.client.carried_out, world.gateway.made);
            }
            Some(NotKept::Forgotten { recv, first }) => prop_assert!(recv < first),
            Some(wrong) => prop_assert!(false, "{wrong}"),
        }
    }
}

/// What the properties above rest on does happen in them.
#[test]
fn connections_are_lost_and_resumed_on_the_way() {
    let mut step = 1u64;
    let script: Vec<(u8, u16)> = (0..20_000)
        .map(|_| {
            step = step
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((step >> 33) as u8, (step >> 41) as u16)
        })
        .collect();
    let world = live(&script, usize::MAX, usize::MAX);
    assert_eq!(world.client.carried_out, world.gateway.made);
    assert!(
        world.resumes > 100 && world.gateway.made > 1_000,
        "{} resumes",
        world.resumes
    );
    assert!(
        world.client.pings_due > 0,
        "{} pings by {RECV_DUE_BYTES}",
        world.client.pings_due
    );
    let refused = (0..50).filter(|n| {
        live(&script[n * 300..(n + 1) * 300], 50_000, 50_000)
            .refused
            .is_some()
    });
    assert!((1..50).contains(&refused.count()), "the bound decides");
}
