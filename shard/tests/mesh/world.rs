//! A few shards, the letters between them, and connections that write down what they get.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::stream::{Note, Part};
use fluxar_protocol::{Batch, Code, Envelope, Form, Id, Kind, envelope};

use fluxar_shard::{
    AnswerRoute, Arrival, Asking, Forward, Grouped, Letter, Limits, Offering, Outcome as Said, Outgoing,
    PartRoute, PeerId, Refusal, Route, Seed, Shard, Spoken, Told,
};

pub(crate) fn id(number: u64) -> Id {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

pub(crate) fn number(Id(id): Id) -> u64 {
    u64::from_be_bytes(id[8..].try_into().unwrap())
}

/// An event whose id is a number.
pub(crate) fn event(topic: &str, nth: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let payload = [0x18, 0x2a];
    Envelope {
        kind: Kind::Event,
        id: id(nth),
        reference: None,
        target: Some(topic),
        meta: None,
        payload: &payload,
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

/// Terms that say nothing but a weight.
pub(crate) fn offering(weight: u32) -> Offering {
    Offering {
        fleet: None,
        weight,
        in_flight_max: u32::MAX,
        zone: None,
        credit_bytes: 1 << 16,
        name: "echo".into(),
    }
}

/// A message with a number as its payload.
pub(crate) fn encoded(
    kind: Kind,
    id: Id,
    reference: Option<Id>,
    target: Option<&str>,
    meta: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Vec::new();
    Envelope {
        kind,
        id,
        reference,
        target,
        meta: meta.map(Meta::from_checked),
        payload: &[0x07],
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
    Cancelled,
    Overdue,
    Refused,
    AskerLost,
}

/// What a peer hears of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Open(Vec<u8>),
    Part(Part, Vec<u8>),
    Note(Note),
}

pub(crate) struct Inbox {
    /// Events that came plainly, in order.
    pub(crate) plain: Vec<(u64, String)>,
    /// Events by subscription, in order.
    pub(crate) grouped: Vec<(Id, u64)>,
    /// Calls to answer: their forward ids.
    pub(crate) calls: Vec<Id>,
    /// Their meta.
    pub(crate) metas: BTreeMap<Id, Option<Vec<u8>>>,
    /// Of all it was told that nobody waits for it.
    pub(crate) cancelled: Vec<Id>,
    /// What it hears of streams, by the id that it knows each by.
    pub(crate) heard: VecDeque<(Id, Heard)>,
    peer: PeerId,
}

pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    mail: Vec<VecDeque<Letter>>,
    pub(crate) inboxes: BTreeMap<PeerId, Inbox>,
    /// Of each call of a connection, all its endings; there is to be one.
    pub(crate) calls: BTreeMap<(PeerId, Id), Vec<Outcome>>,
    /// How many calls each server got.
    pub(crate) served: BTreeMap<PeerId, usize>,
    pub(crate) now_us: u64,
}

impl World {
    pub(crate) fn new(cores: u16, seed: u64, limits: Limits) -> Self {
        let shard = |core| {
            let seed = Seed {
                hash: seed ^ u64::from(core),
                ids: !seed ^ u64::from(core),
                epoch: 7,
            };
            Shard::new(core, cores, limits, seed)
        };
        Self {
            shards: (0..cores).map(shard).collect(),
            mail: (0..cores * cores).map(|_| VecDeque::new()).collect(),
            inboxes: BTreeMap::new(),
            calls: BTreeMap::new(),
            served: BTreeMap::new(),
            now_us: 0,
        }
    }

    pub(crate) fn shard(&mut self, peer: PeerId) -> &mut Shard {
        &mut self.shards[usize::from(peer.core)]
    }

    pub(crate) fn cores(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn connect(&mut self, core: u16, slot: u32, generation: u32) -> PeerId {
        let peer = PeerId {
            slot,
            generation,
            core,
        };
        let inbox = Inbox {
            plain: Vec::new(),
            grouped: Vec::new(),
            calls: Vec::new(),
            metas: BTreeMap::new(),
            cancelled: Vec::new(),
            heard: VecDeque::new(),
            peer,
        };
        self.inboxes.insert(peer, inbox);
        peer
    }

    pub(crate) fn lose(&mut self, peer: PeerId) {
        self.inboxes.remove(&peer);
        for (_, outcomes) in self.calls.iter_mut().filter(|((asker, _), _)| *asker == peer) {
            if outcomes.is_empty() {
                outcomes.push(Outcome::AskerLost);
            }
        }
        self.shard(peer).peer_lost(peer);
        self.drain(usize::from(peer.core));
    }

    pub(crate) fn publish(&mut self, core: usize, events: &[(String, u64)]) {
        for (topic, nth) in events {
            self.shards[core].publish(topic, &event(topic, *nth));
        }
        self.shards[core].flush_run();
        self.drain(core);
    }

    /// Calls; where it goes, if it goes at once.
    pub(crate) fn call(&mut self, asker: PeerId, id: Id, method: &str) -> Option<Route> {
        self.ask(asker, id, method, MetaWriter::new()).ok().flatten()
    }

    pub(crate) fn ask(
        &mut self,
        asker: PeerId,
        id: Id,
        method: &str,
        meta: MetaWriter,
    ) -> Result<Option<Route>, Refusal> {
        let meta = meta.finish();
        let compact = encoded(Kind::Call, id, None, Some(method), meta.as_deref());
        let envelope = envelope::decode(&compact).unwrap().envelope;
        let asking = self.shard(asker).ask(asker, 0, &envelope, &compact)?;
        self.calls.insert((asker, id), Vec::new());
        let Asking::Forward(route) = asking else {
            self.drain(usize::from(asker.core));
            return Ok(None);
        };
        let mut bytes = compact;
        envelope::patch_id(&mut bytes, route.forward_id);
        let bytes = Bytes::from(bytes);
        let to = route.server;
        if to.core == asker.core {
            self.forwarded(to, &bytes);
        } else {
            self.post(asker.core, to.core, Letter::Forward { to, bytes });
        }
        self.drain(usize::from(asker.core));
        Ok(Some(route))
    }

    pub(crate) fn cancel(&mut self, asker: PeerId, id: Id) {
        self.shard(asker).cancel(asker, id);
        self.drain(usize::from(asker.core));
    }

    /// Answers under any ref, an honest one or not; whether it was taken for one by this core.
    pub(crate) fn answer(&mut self, from: PeerId, reference: Id) -> AnswerRoute {
        self.answer_with(from, reference, Said::Ok)
    }

    pub(crate) fn answer_with(&mut self, from: PeerId, reference: Id, outcome: Said) -> AnswerRoute {
        let route = self.shard(from).answer(from, reference, outcome);
        match route {
            AnswerRoute::Deliver { asker, reference } => self.answered(asker, reference),
            AnswerRoute::Elsewhere { core } => {
                let bytes = BytesMut::from(&b"answer"[..]);
                self.post(
                    from.core,
                    core,
                    Letter::Answer {
                        from,
                        reference,
                        outcome,
                        bytes,
                    },
                );
            }
            AnswerRoute::Unknown | AnswerRoute::Swallowed => {}
        }
        if let Some(inbox) = self.inboxes.get_mut(&from) {
            inbox.calls.retain(|open| *open != reference);
        }
        self.drain(usize::from(from.core));
        route
    }

    /// Time passes on all cores.
    pub(crate) fn pass(&mut self, us: u64) {
        self.now_us += us;
        for core in 0..self.cores() {
            self.shards[core].handle_time(self.now_us);
            self.drain(core);
        }
    }

    /// Delivers one letter of this pair of cores; whether there was one.
    pub(crate) fn carry(&mut self, from: usize, to: usize) -> bool {
        let Some(letter) = self.mail[from * self.shards.len() + to].pop_front() else {
            return false;
        };
        match self.shards[to].handle_letter(from as u16, letter) {
            Arrival::Taken => {}
            Arrival::Forward { to, bytes } => self.forwarded(to, &bytes),
            Arrival::Answer { asker, reference, .. } => self.answered(asker, reference),
            Arrival::Part { to, reference, bytes } => self.heard(to, reference, &bytes),
            Arrival::Chunks { .. } => panic!("nothing here puts chunks together"),
            Arrival::Passed { to, bytes, .. } => {
                let reference = envelope::decode(&bytes).unwrap().envelope.reference.unwrap();
                self.heard(to, reference, &bytes);
            }
        }
        self.drain(to);
        true
    }

    /// Carries letters until there are none.
    pub(crate) fn settle(&mut self) {
        let cores = self.cores();
        for core in 0..cores {
            self.drain(core);
        }
        while (0..cores * cores).any(|pair| self.carry(pair / cores, pair % cores)) {}
    }

    /// Takes all that a shard has to give.
    pub(crate) fn drain(&mut self, core: usize) {
        while let Some(delivery) = self.shards[core].poll_delivery() {
            for peer in delivery.plain.iter() {
                assert_eq!(usize::from(peer.core), core);
                let frame = delivery.run.framed();
                let events = events(frame);
                assert_eq!(events.len() as u64, delivery.run.events());
                assert_eq!(frame.slice(PREFIX_BYTES..), delivery.run.body());
                if let Some(inbox) = self.inboxes.get_mut(peer) {
                    inbox.plain.extend(events);
                }
            }
            for grouped in &delivery.grouped {
                let got = grouped_events(grouped);
                if let Some(inbox) = self.inboxes.get_mut(&grouped.peer) {
                    inbox
                        .grouped
                        .extend(got.into_iter().map(|(nth, _)| (grouped.sub, nth)));
                }
            }
        }
        while let Some(outgoing) = self.shards[core].poll_outgoing() {
            match outgoing {
                Outgoing::Forward(Forward { to, reference, bytes }) => {
                    assert_eq!(envelope::decode(&bytes).unwrap().envelope.id, reference);
                    self.forwarded(to, &bytes);
                }
                Outgoing::Note(told) => self.told(told),
            }
        }
        while let Some((to, letter)) = self.shards[core].poll_letter() {
            self.post(core as u16, to, letter);
        }
    }

    fn post(&mut self, from: u16, to: u16, letter: Letter) {
        assert_ne!(from, to);
        let cores = self.cores();
        self.mail[usize::from(from) * cores + usize::from(to)].push_back(letter);
    }

    fn forwarded(&mut self, to: PeerId, bytes: &[u8]) {
        assert_eq!(
            to.core,
            self.inboxes.get(&to).map_or(to.core, |inbox| inbox.peer.core)
        );
        let envelope = envelope::decode(bytes).unwrap().envelope;
        *self.served.entry(to).or_default() += 1;
        let Some(inbox) = self.inboxes.get_mut(&to) else {
            return;
        };
        match envelope.kind {
            Kind::Call => {
                inbox.calls.push(envelope.id);
                inbox
                    .metas
                    .insert(envelope.id, envelope.meta.map(|meta| meta.as_bytes().to_vec()));
            }
            Kind::Stream => inbox.heard.push_back((envelope.id, Heard::Open(bytes.to_vec()))),
            kind => panic!("{kind:?} is forwarded"),
        }
    }

    fn told(&mut self, told: Told) {
        let Told {
            to,
            reference,
            kind,
            note,
        } = told;
        if kind == Kind::Stream {
            if let Some(inbox) = self.inboxes.get_mut(&to) {
                inbox.heard.push_back((reference, Heard::Note(note)));
            }
            return;
        }
        match note {
            Note::Cancel => {
                if let Some(inbox) = self.inboxes.get_mut(&to) {
                    inbox.calls.retain(|open| *open != reference);
                    inbox.cancelled.push(reference);
                }
            }
            Note::Fail(failure) => {
                let outcome = match failure.code {
                    Code::Cancelled => Outcome::Cancelled,
                    Code::DeadlineExceeded => Outcome::Overdue,
                    Code::ResourceExhausted => Outcome::Refused,
                    _ => Outcome::Failed,
                };
                if self.inboxes.contains_key(&to) {
                    self.calls.get_mut(&(to, reference)).unwrap().push(outcome);
                }
            }
            Note::Grant { .. } | Note::End => panic!("{note:?} about a call"),
        }
    }

    /// A part of a stream from its other side, its ref as the gateway replaces it.
    pub(crate) fn heard(&mut self, to: PeerId, reference: Id, bytes: &[u8]) {
        let part = Part::read(&envelope::decode(bytes).unwrap().envelope).unwrap();
        if let Some(inbox) = self.inboxes.get_mut(&to) {
            inbox
                .heard
                .push_back((reference, Heard::Part(part, bytes.to_vec())));
        }
    }

    /// A peer says something of a stream; whether it went anywhere.
    pub(crate) fn say(&mut self, from: PeerId, reference: Id, part: Part, bytes: &[u8]) -> PartRoute {
        let error = (part == Part::Fail).then_some(Code::Internal);
        let spoken = Spoken { part, error };
        let route = self.shard(from).part(from, reference, spoken);
        match route {
            PartRoute::Pass { to, reference } if to.core == from.core => self.heard(to, reference, bytes),
            PartRoute::Pass { to, reference } => {
                let mut bytes = bytes.to_vec();
                envelope::patch_ref(&mut bytes, reference);
                let bytes = Bytes::from(bytes);
                self.post(
                    from.core,
                    to.core,
                    Letter::Passed {
                        to,
                        bytes,
                        envelopes: 1,
                    },
                );
            }
            PartRoute::Elsewhere { core } => {
                let bytes = Bytes::copy_from_slice(bytes);
                let letter = Letter::Part {
                    from,
                    reference,
                    spoken,
                    bytes,
                };
                self.post(from.core, core, letter);
            }
            PartRoute::Swallowed => {}
        }
        self.drain(usize::from(from.core));
        route
    }

    /// A peer cancels a stream or a call.
    pub(crate) fn cancel_any(&mut self, from: PeerId, reference: Id) {
        let shard = self.shard(from);
        if !shard.cancel(from, reference) {
            shard.cancel_elsewhere(from, reference);
        }
        self.drain(usize::from(from.core));
    }

    fn answered(&mut self, asker: PeerId, reference: Id) {
        self.calls
            .get_mut(&(asker, reference))
            .unwrap()
            .push(Outcome::Answered);
    }
}

/// The events of a frame, its prefix checked.
pub(crate) fn events(frame: &Bytes) -> Vec<(u64, String)> {
    let (prefix, body) = frame.split_at(PREFIX_BYTES);
    assert_eq!(
        u32::from_be_bytes(prefix.try_into().unwrap()) as usize,
        body.len()
    );
    Batch::new(body)
        .map(|decoded| {
            let envelope = decoded.unwrap().envelope;
            assert_eq!((envelope.kind, envelope.reference), (Kind::Event, None));
            (number(envelope.id), envelope.target.unwrap().to_owned())
        })
        .collect()
}

/// The events of a member's piece, its header checked.
pub(crate) fn grouped_events(grouped: &Grouped) -> Vec<(u64, String)> {
    let body = &grouped.framed[PREFIX_BYTES..];
    let header = Batch::new(body).next().unwrap().unwrap();
    let envelope = header.envelope;
    assert_eq!(
        (envelope.kind, envelope.reference),
        (Kind::Subscribe, Some(grouped.sub))
    );
    assert_eq!(
        envelope.meta.unwrap().run_count().unwrap(),
        Some(u64::from(grouped.events))
    );
    let rest = &body[header.bytes.len()..];
    let mut frame = fluxar_protocol::frame::prefix(rest.len()).to_vec();
    frame.extend_from_slice(rest);
    let events = events(&frame.into());
    assert_eq!(events.len(), grouped.events as usize);
    events
}
