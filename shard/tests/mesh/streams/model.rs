//! Random histories of streams between real ends: no rule is broken, nothing is lost, and in the end nothing is left.

use std::collections::BTreeMap;

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::{self, Note, Part, State, Stream};
use fluxar_protocol::{Code, Id, envelope};
use fluxar_shard::{PeerId, Standing};

use super::{chunk, end, fail, grant, message, serve, world};
use crate::promises::{Random, assert_nothing_is_left};
use crate::world::{Heard, World, id, number};

/// One side of a stream as its peer keeps it.
struct End {
    stream: Stream,
    sent: u32,
    received: u32,
}

impl End {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            sent: 0,
            received: 0,
        }
    }
}

/// Peers with real ends over shards.
struct Town {
    world: World,
    random: Random,
    openers: Vec<PeerId>,
    servers: Vec<PeerId>,
    credit_bytes: u32,
    /// By the peer and what it knows the stream by.
    ends: BTreeMap<(PeerId, Id), End>,
    /// Of each server's end: whose it is.
    pairs: BTreeMap<(PeerId, Id), (PeerId, Id)>,
    next: u64,
    /// Nothing but ends happened to it.
    clean: BTreeMap<(PeerId, Id), bool>,
}

impl Town {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let cores = 1 + random.below(3) as u16;
        let mut world = world(cores, seed);
        let most = [1, 2, u32::MAX][random.below(3)];
        let credit_bytes = [0, 64, 500, 5_000][random.below(4)];
        let servers = (0..2).map(|at| serve(&mut world, at % cores, 10 + u32::from(at), most, credit_bytes));
        let servers = servers.collect();
        let openers = (0..3).map(|at| world.connect(at % cores, at.into(), 0)).collect();
        Self {
            world,
            random,
            openers,
            servers,
            credit_bytes,
            ends: BTreeMap::new(),
            pairs: BTreeMap::new(),
            next: 0,
            clean: BTreeMap::new(),
        }
    }

    fn open(&mut self) {
        let opener = self.openers[self.random.below(self.openers.len())];
        self.next += 1;
        let nth = self.next;
        let ends = self.random.below(4) == 0;
        let credit = [0, 20, 400, 3_000][self.random.below(4)];
        let mut meta = MetaWriter::new().uint("credit", credit);
        if ends {
            meta = meta.flag("end", true);
        }
        let payload = minicbor_number(nth);
        let compact = message(None, id(nth), Some("m"), meta, &payload);
        let envelope = envelope::decode(&compact).unwrap().envelope;
        if self
            .world
            .shard(opener)
            .ask(opener, 0, &envelope, &compact)
            .is_ok()
        {
            let stream = Stream::opened_here(ends, credit, 0);
            self.ends.insert((opener, id(nth)), End::new(stream));
            self.clean.insert((opener, id(nth)), true);
        }
        self.world.drain(usize::from(opener.core));
    }

    /// A peer says whatever its end may say.
    fn speak(&mut self, peer: PeerId, reference: Id) {
        let what = self.random.below(40);
        let bytes = 6 + self.random.below(150);
        let granted = 1 + self.random.below(600) as u64;
        let opener = self
            .pairs
            .get(&(peer, reference))
            .copied()
            .unwrap_or((peer, reference));
        let Some(side) = self.ends.get_mut(&(peer, reference)) else {
            return;
        };
        let mut soil = || {
            self.clean.insert(opener, false);
        };
        let (part, bytes) = match what {
            0..26 => {
                let is_last = what == 0;
                if side.stream.send_chunk(bytes as u64, is_last).is_err() {
                    return;
                }
                side.sent += 1;
                chunk(reference, side.sent - 1, bytes, is_last)
            }
            26..36 => {
                if !side.stream.send_grant(granted) {
                    return;
                }
                grant(reference, granted)
            }
            36 | 37 => {
                if !side.stream.send_end() {
                    return;
                }
                end(reference)
            }
            38 => {
                if side.stream.send_cancel() {
                    soil();
                    self.world.cancel_any(peer, reference);
                }
                return;
            }
            _ => {
                if !side.stream.send_fail() {
                    return;
                }
                soil();
                fail(reference)
            }
        };
        self.world.say(peer, reference, part, &bytes);
    }

    /// A peer takes the next thing that its connection brought.
    fn hear(&mut self, peer: PeerId) -> bool {
        let next = self
            .world
            .inboxes
            .get_mut(&peer)
            .and_then(|inbox| inbox.heard.pop_front());
        let Some((reference, heard)) = next else {
            return false;
        };
        if let Heard::Open(bytes) = &heard {
            let envelope = envelope::decode(bytes).unwrap().envelope;
            let meta = envelope.meta.unwrap();
            let credit = meta.uint("credit").unwrap().unwrap();
            let stream = Stream::opened_there(meta.flag("end").unwrap(), self.credit_bytes.into(), credit);
            self.ends.insert((peer, reference), End::new(stream));
            let nth = number_of(envelope.payload);
            let opener = self.clean.keys().find(|(_, opened)| number(*opened) == nth);
            self.pairs.insert((peer, reference), *opener.unwrap());
            return true;
        }
        let opener = self
            .pairs
            .get(&(peer, reference))
            .copied()
            .unwrap_or((peer, reference));
        let Some(side) = self.ends.get_mut(&(peer, reference)) else {
            return true;
        };
        let result = match &heard {
            Heard::Part(part, bytes) => {
                let result = side.stream.handle(*part);
                if let Ok(stream::Heard::Chunk { .. }) = result {
                    let payload = envelope::decode(bytes).unwrap().envelope.payload;
                    let nth = u32::from_be_bytes(payload[2..6].try_into().unwrap());
                    assert_eq!(nth, side.received, "in order, none missing");
                    side.received += 1;
                }
                result
            }
            Heard::Note(Note::Grant { bytes }) => side.stream.handle(Part::Grant { bytes: *bytes }),
            Heard::Note(Note::End) => side.stream.handle(Part::End),
            Heard::Note(Note::Cancel) => Ok(side.stream.handle_cancel()),
            Heard::Note(Note::Fail(failure)) => {
                let is_ours = matches!(failure.code, Code::FailedPrecondition | Code::Aborted);
                assert!(!is_ours, "nobody broke a rule: {failure:?}");
                self.clean.insert(opener, false);
                side.stream.handle(Part::Fail)
            }
            Heard::Open(_) => return true,
        };
        let what = result.unwrap_or_else(|breach| panic!("the relay broke a rule: {breach:?} by {heard:?}"));
        if what == stream::Heard::Cancelled {
            side.stream.send_end();
            let (part, bytes) = end(reference);
            self.world.say(peer, reference, part, &bytes);
        }
        true
    }

    fn lose(&mut self, peer: PeerId) {
        let lost: Vec<_> = self
            .ends
            .keys()
            .filter(|(owner, _)| *owner == peer)
            .copied()
            .collect();
        for name in lost {
            self.ends.remove(&name);
            let opener = self.pairs.get(&name).copied().unwrap_or(name);
            self.clean.insert(opener, false);
        }
        self.openers.retain(|other| *other != peer);
        self.servers.retain(|other| *other != peer);
        self.world.lose(peer);
    }

    fn peers(&self) -> Vec<PeerId> {
        self.openers.iter().chain(&self.servers).copied().collect()
    }

    fn step(&mut self) {
        let peers = self.peers();
        let peer = peers[self.random.below(peers.len())];
        let cores = self.world.cores();
        match self.random.below(100) {
            0..6 => self.open(),
            6..46 => {
                let names: Vec<_> = self.ends.keys().copied().collect();
                if !names.is_empty() {
                    let (peer, reference) = names[self.random.below(names.len())];
                    self.speak(peer, reference);
                }
            }
            46..70 => {
                self.hear(peer);
            }
            70..92 => {
                let (from, to) = (self.random.below(cores), self.random.below(cores));
                self.world.carry(from, to);
            }
            92..94 => {
                let us = self.random.below(50_000) as u64;
                self.world.pass(us);
            }
            94..98 => {
                let crowded = self.random.below(2) == 0;
                let standing = Standing {
                    crowded,
                    ..Standing::default()
                };
                self.world.shard(peer).set_standing(peer, standing);
                self.world.drain(usize::from(peer.core));
            }
            98 if self.random.below(8) == 0 && peers.len() > 3 => self.lose(peer),
            _ => {}
        }
    }

    /// All is carried and heard.
    fn settle(&mut self) {
        loop {
            self.world.settle();
            let mut is_quiet = true;
            for peer in self.peers() {
                is_quiet &= !self.hear(peer);
            }
            if is_quiet {
                break;
            }
        }
    }

    /// Everybody reads and ends, and then nothing is left.
    fn finish(&mut self) {
        for peer in self.peers() {
            self.world.shard(peer).set_standing(peer, Standing::default());
        }
        for _ in 0..40 {
            self.settle();
            let names: Vec<_> = self.ends.keys().copied().collect();
            for (peer, reference) in names {
                let side = self.ends.get_mut(&(peer, reference)).unwrap();
                let granted = side.stream.send_grant(10_000).then(|| grant(reference, 10_000));
                let ended = side.stream.send_end().then(|| end(reference));
                for (part, bytes) in [granted, ended].into_iter().flatten() {
                    self.world.say(peer, reference, part, &bytes);
                }
            }
        }
        self.settle();
        for ((peer, reference), side) in &self.ends {
            assert_eq!(side.stream.state(), State::Closed, "{peer:?} {reference}");
        }
        for (server, opener) in &self.pairs {
            let (Some(here), Some(there)) = (self.ends.get(server), self.ends.get(opener)) else {
                continue;
            };
            assert!(here.received <= there.sent && there.received <= here.sent);
            if self.clean[opener] {
                assert_eq!((here.received, there.received), (there.sent, here.sent));
            }
        }
        assert_nothing_is_left(&self.world);
    }
}

fn minicbor_number(nth: u64) -> Vec<u8> {
    let mut out = vec![0x1a];
    out.extend_from_slice(&(nth as u32).to_be_bytes());
    out
}

fn number_of(payload: &[u8]) -> u64 {
    u32::from_be_bytes(payload[1..5].try_into().unwrap()).into()
}

#[test]
fn random_histories_break_no_rule_lose_nothing_and_leave_nothing() {
    for seed in 0..3_000 {
        let told = std::panic::catch_unwind(|| {
            let mut town = Town::new(seed);
            for _ in 0..250 {
                town.step();
            }
            town.finish();
        });
        if let Err(panic) = told {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
