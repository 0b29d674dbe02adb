//! A few shards, the letters between them, and connections that write down what they get.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use fluxar_protocol::frame::PREFIX_BYTES;
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind};

use fluxar_shard::{AnswerRoute, Arrival, Grouped, Letter, Limits, Offering, PeerId, Route, Seed, Shard};

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

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    Failed,
    Cancelled,
    AskerLost,
}

#[derive(Default)]
pub(crate) struct Inbox {
    /// Events that came plainly, in order.
    pub(crate) plain: Vec<(u64, String)>,
    /// Events by subscription, in order.
    pub(crate) grouped: Vec<(Id, u64)>,
    /// Calls to answer: their forward ids.
    pub(crate) calls: Vec<Id>,
}

pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    mail: Vec<VecDeque<Letter>>,
    pub(crate) inboxes: BTreeMap<PeerId, Inbox>,
    /// Of each call of a connection, all its endings; there is to be one.
    pub(crate) calls: BTreeMap<(PeerId, Id), Vec<Outcome>>,
    /// How many calls each server got.
    pub(crate) served: BTreeMap<PeerId, usize>,
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
        self.inboxes.insert(peer, Inbox::default());
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

    pub(crate) fn call(&mut self, asker: PeerId, id: Id, method: &str) -> Option<Route> {
        let route = self.shard(asker).call(asker, id, method).ok()?;
        self.calls.insert((asker, id), Vec::new());
        *self.served.entry(route.server).or_default() += 1;
        self.forward(asker.core, route, "call");
        Some(route)
    }

    pub(crate) fn cancel(&mut self, asker: PeerId, id: Id) {
        if let Some(route) = self.shard(asker).cancel(asker, id) {
            self.calls.get_mut(&(asker, id)).unwrap().push(Outcome::Cancelled);
            self.forward(asker.core, route, "stop");
        }
    }

    /// Answers under any ref, an honest one or not; whether it was taken for one by this core.
    pub(crate) fn answer(&mut self, from: PeerId, reference: Id) -> AnswerRoute {
        let route = self.shard(from).answer(from, reference);
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
                        bytes,
                    },
                );
            }
            AnswerRoute::Unknown => {}
        }
        route
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
        while let Some(failed) = self.shards[core].poll_failed() {
            self.calls
                .get_mut(&(failed.asker, failed.reference))
                .unwrap()
                .push(Outcome::Failed);
        }
        while let Some(route) = self.shards[core].poll_cancelled() {
            self.forward(core as u16, route, "stop");
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

    fn forward(&mut self, from: u16, route: Route, what: &str) {
        let bytes = Bytes::from([what.as_bytes(), &route.forward_id.0].concat());
        if route.server.core == from {
            self.forwarded(route.server, &bytes);
        } else {
            self.post(
                from,
                route.server.core,
                Letter::Forward {
                    to: route.server,
                    bytes,
                },
            );
        }
    }

    fn forwarded(&mut self, to: PeerId, bytes: &[u8]) {
        let Some(inbox) = self.inboxes.get_mut(&to) else {
            return;
        };
        let id = Id(bytes[4..].try_into().unwrap());
        match &bytes[..4] {
            b"call" => inbox.calls.push(id),
            _ => inbox.calls.retain(|open| *open != id),
        }
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
