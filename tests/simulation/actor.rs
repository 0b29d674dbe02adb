//! Who lives in the town: publishers, subscribers, members of groups, servers, callers, and those who mean no good. Each
//! is one connection; what it hears goes to the auditor.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_engine::sim::{ClientState, Random};
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Batch, ErrorBody, Id, Kind};
use fluxar_tests::message::encoded;
use minicbor::{Decoder, Encoder};

use crate::auditor::{Auditor, CallState, Ear};
use crate::wire::Wire;

const TOPICS: &[&str] = &["a.b", "a.c", "a.b.c", "d", "d.e.f.g"];
const PATTERNS: &[&str] = &["a.*", "a.>", "a.b", ">", "*.b", "d", "*.*.c"];
/// What a caller has open at most.
const CALLS_OPEN_MAX: usize = 20;

/// What an actor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    Member,
    Server,
    Caller,
    Mischief,
}

/// One connection and who holds it.
pub(crate) struct Actor {
    pub(crate) name: u64,
    pub(crate) role: Role,
    pub(crate) wire: Wire,
    pub(crate) ear: Ear,
    /// Its hello was answered.
    pub(crate) greeted: bool,
    /// Subscriptions that were not accepted yet.
    pub(crate) asked: BTreeSet<Id>,
    pub(crate) calls: BTreeMap<Id, CallState>,
    /// Calls that it is to answer: when, which, with what.
    serving: Vec<(u64, Id, u64)>,
    ids: u64,
    /// It reads nothing until then.
    deaf_until_ns: u64,
    pub(crate) goodbye: bool,
}

impl Actor {
    pub(crate) fn new(name: u64, role: Role, mut wire: Wire, random: &mut Random) -> Self {
        let mut hello = Vec::new();
        Hello {
            agent: "a citizen",
            ..Hello::default()
        }
        .encode(&mut hello);
        let mut actor = Self {
            name,
            role,
            ear: Ear::default(),
            greeted: false,
            asked: BTreeSet::new(),
            calls: BTreeMap::new(),
            serving: Vec::new(),
            ids: 0,
            deaf_until_ns: 0,
            goodbye: false,
            wire: {
                wire.send(
                    &encoded(Kind::Hello, Id([name as u8; 16]), None, None, None, &hello),
                    random,
                );
                wire
            },
        };
        actor.subscribe(random);
        actor
    }

    /// Asks for what its role needs, right behind the hello.
    fn subscribe(&mut self, random: &mut Random) {
        let mut wishes = Vec::new();
        match self.role {
            Role::Subscriber => {
                for _ in 0..1 + random.index(3) {
                    wishes.push((PATTERNS[random.index(PATTERNS.len())], MetaWriter::new(), None));
                }
            }
            Role::Member => {
                let group = if random.chance(0.5) { "x" } else { "y" };
                let meta = MetaWriter::new().text("group", group);
                wishes.push((
                    if random.chance(0.5) { "a.*" } else { ">" },
                    meta,
                    Some(group.to_string()),
                ));
            }
            Role::Server => wishes.push(("sum.*", MetaWriter::new().flag("serve", true), None)),
            _ => {}
        }
        let mut body = Vec::new();
        for (pattern, meta, group) in wishes {
            let id = self.id();
            body.extend(encoded(
                Kind::Subscribe,
                id,
                None,
                Some(pattern),
                meta.finish().as_deref(),
                &[],
            ));
            self.asked.insert(id);
            if self.role != Role::Server {
                self.ear.subscriptions.insert(id, (pattern.to_string(), group));
            }
        }
        if !body.is_empty() {
            self.wire.send(&body, random);
        }
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.name.to_be_bytes());
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// Whether its connection can still be spoken on.
    pub(crate) fn is_alive(&self) -> bool {
        self.wire.state() == ClientState::Open && !self.goodbye
    }

    /// Takes what has arrived.
    pub(crate) fn listen(&mut self, now_ns: u64, random: &mut Random, auditor: &mut Auditor) {
        if self.deaf_until_ns != 0 && now_ns >= self.deaf_until_ns {
            self.deaf_until_ns = 0;
            self.wire.read_on();
        }
        for body in self.wire.turn() {
            let mut run: Option<(Id, u64)> = None;
            for decoded in Batch::new(&body) {
                let envelope = decoded.expect("a gateway sends what can be read").envelope;
                run = match (envelope.kind, run) {
                    (Kind::Event, Some((subscription, left))) => {
                        let (publisher, sequence) = signature(envelope.payload);
                        let topic = envelope.target.expect("an event has a topic");
                        auditor.hears_in_group(&self.ear, subscription, publisher, topic, sequence);
                        (left > 1).then_some((subscription, left - 1))
                    }
                    (_, Some(_)) => panic!("something else than an event inside a run"),
                    (_, None) => self.hear(&envelope, now_ns, random, auditor),
                };
            }
            assert_eq!(run, None, "a run was announced to be longer");
        }
    }

    /// One envelope; the header of a run returns whose it is and how long.
    fn hear(
        &mut self,
        envelope: &Envelope<'_>,
        now_ns: u64,
        random: &mut Random,
        auditor: &mut Auditor,
    ) -> Option<(Id, u64)> {
        let error = envelope
            .error
            .map(|error| ErrorBody::decode(error).expect("a readable error"));
        let code = error.as_ref().map(|error| error.code);
        match (envelope.kind, envelope.reference) {
            (Kind::Hello, Some(_)) => self.greeted = true,
            (Kind::Event, None) => {
                let (publisher, sequence) = signature(envelope.payload);
                auditor.hears(
                    &mut self.ear,
                    publisher,
                    envelope.target.expect("a topic"),
                    sequence,
                );
            }
            (Kind::Subscribe, Some(id)) => {
                if let Some(meta) = envelope.meta {
                    if let Some(run) = meta.run_count().expect("a count") {
                        assert!(run > 0, "an empty run");
                        return Some((id, run));
                    }
                    if let Some(dropped) = meta.uint("dropped").expect("a number") {
                        auditor.told(&mut self.ear, id, dropped);
                    }
                } else {
                    assert_eq!(code, None, "{error:?}");
                    assert!(self.asked.remove(&id), "accepted twice, or never asked");
                }
            }
            (Kind::Call, None) => {
                let argument = minicbor::decode(envelope.payload).expect("a number");
                let at_ns = now_ns + random.below(20_000_000);
                // One in thirty is never answered: its caller has to cancel it.
                if !random.chance(0.03) {
                    self.serving.push((at_ns, envelope.id, argument));
                }
            }
            (Kind::Call, Some(id)) => {
                let state = self.calls.get_mut(&id).expect("an answer to one of its calls");
                auditor.answers(state, code, minicbor::decode(envelope.payload).ok());
            }
            (Kind::Cancel, Some(id)) => self.serving.retain(|(_, call, _)| *call != id),
            (Kind::Cancel, None) => self.goodbye = true,
            (Kind::Ping, None) => {
                let own = self.id();
                self.wire.send(
                    &encoded(Kind::Ping, own, Some(envelope.id), None, None, &[]),
                    random,
                );
            }
            (Kind::Ping, Some(_)) | (_, _) if self.role == Role::Mischief => {}
            (kind, reference) => panic!("{:?} heard {kind:?} with ref {reference:?}, {error:?}", self.role),
        }
        None
    }

    /// Does something of its own.
    pub(crate) fn act(&mut self, now_ns: u64, active: bool, random: &mut Random, auditor: &mut Auditor) {
        if !self.greeted || !self.is_alive() || self.wire.unsent_bytes() > 20_000 {
            return;
        }
        match self.role {
            Role::Publisher if active => {
                let mut body = Vec::new();
                for _ in 0..1 + random.index(12) {
                    let topic = TOPICS[random.index(TOPICS.len())];
                    let sequence = auditor.publishes(self.name, topic);
                    let long = random.chance(0.1);
                    let filler = random.index(if long { 900 } else { 60 });
                    let payload = signed(self.name, sequence, filler);
                    let id = self.id();
                    body.extend(encoded(Kind::Event, id, None, Some(topic), None, &payload));
                }
                self.wire.send(&body, random);
            }
            Role::Caller => {
                let mut body = Vec::new();
                let open = self
                    .calls
                    .values()
                    .filter(|state| matches!(state, CallState::Open { .. }))
                    .count();
                if active && open < CALLS_OPEN_MAX {
                    for _ in 0..1 + random.index(4) {
                        let (id, argument) = (self.id(), random.below(1 << 40));
                        let payload = minicbor::to_vec(argument).expect("a Vec takes all");
                        body.extend(encoded(Kind::Call, id, None, Some("sum.one"), None, &payload));
                        self.calls.insert(
                            id,
                            CallState::Open {
                                argument,
                                cancelled: false,
                            },
                        );
                    }
                }
                // In the end all that is open is cancelled.
                let impatience = if active { 0.002 } else { 0.3 };
                for (id, state) in &mut self.calls {
                    if let CallState::Open { cancelled, .. } = state
                        && !*cancelled
                        && random.chance(impatience)
                    {
                        *cancelled = true;
                        self.ids += 1;
                        let mut own = id.0;
                        own[0] = 0xff;
                        body.extend(encoded(Kind::Cancel, Id(own), Some(*id), None, None, &[]));
                    }
                }
                if !body.is_empty() {
                    self.wire.send(&body, random);
                }
            }
            Role::Server => {
                let mut body = Vec::new();
                let mut at = 0;
                while at < self.serving.len() {
                    if self.serving[at].0 <= now_ns {
                        let (_, call, argument) = self.serving.swap_remove(at);
                        let payload = minicbor::to_vec(argument + 1).expect("a Vec takes all");
                        let id = self.id();
                        body.extend(encoded(Kind::Call, id, Some(call), None, None, &payload));
                    } else {
                        at += 1;
                    }
                }
                if !body.is_empty() {
                    self.wire.send(&body, random);
                }
            }
            Role::Mischief if active => self.misbehave(random),
            _ => {}
        }
    }

    /// Reads nothing for a while.
    pub(crate) fn turn_deaf(&mut self, until_ns: u64) {
        self.deaf_until_ns = until_ns;
        self.wire.stop_reading();
    }

    /// Reads on, whatever it had in mind.
    pub(crate) fn wake_up(&mut self) {
        self.deaf_until_ns = 0;
        self.wire.read_on();
    }

    fn misbehave(&mut self, random: &mut Random) {
        let mut noise: Vec<u8> = (0..1 + random.index(80)).map(|_| random.next() as u8).collect();
        match random.index(5) {
            // A frame body that is noise, noise beneath framing, an answer to nothing, a broken envelope, a good frame
            // that claims to be longer.
            0 => self.wire.send(&noise, random),
            1 => self.wire.send_raw(&noise),
            2 => {
                let id = self.id();
                let forged = encoded(
                    Kind::Call,
                    id,
                    Some(Id([random.next() as u8; 16])),
                    None,
                    None,
                    &[0x01],
                );
                self.wire.send(&forged, random);
            }
            3 => {
                let id = self.id();
                let mut broken = encoded(
                    Kind::Event,
                    id,
                    None,
                    Some("a.b"),
                    None,
                    &signed(self.name, 0, 30),
                );
                let at = random.index(broken.len());
                broken[at] = random.next() as u8;
                // It must not be able to pass for somebody: its payload is no signature.
                broken.truncate(broken.len() - random.index(20));
                noise = broken;
                self.wire.send(&noise[..noise.len() / 2], random);
            }
            _ => self.wire.send_raw(&[0x7f, 0xff, 0xff, 0xff, 0x87]),
        }
    }
}

/// A payload that says who published it as which of its events.
fn signed(publisher: u64, sequence: u64, filler: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut encoder = Encoder::new(&mut payload);
    let written = encoder
        .array(3)
        .and_then(|e| e.u64(publisher))
        .and_then(|e| e.u64(sequence))
        .and_then(|e| e.bytes(&vec![0xa5; filler]));
    assert!(written.is_ok(), "a Vec takes all");
    payload
}

fn signature(payload: &[u8]) -> (u64, u64) {
    let mut decoder = Decoder::new(payload);
    assert_eq!(decoder.array().expect("a signed payload"), Some(3));
    let publisher = decoder.u64().expect("a publisher");
    let sequence = decoder.u64().expect("a sequence number");
    assert!(
        decoder
            .bytes()
            .expect("a filler")
            .iter()
            .all(|byte| *byte == 0xa5),
        "the payload was altered"
    );
    (publisher, sequence)
}
