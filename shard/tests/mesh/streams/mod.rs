//! Streams over shards: two real ends with the relay between them, letters and connections that are late, peers that
//! break rules, cancel, and get lost.

use std::collections::BTreeMap;

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::{self, Note, Part, State, Stream};
use fluxar_protocol::{Code, Envelope, Form, Id, Kind, envelope};
use fluxar_shard::{Limits, Offering, PartRoute, PeerId, Standing};

use crate::promises::{Random, assert_nothing_is_left};
use crate::world::{Heard, World, id, number, offering};

const WINDOW: u32 = 1_000;

fn world(cores: u16, seed: u64) -> World {
    let limits = Limits {
        stream_window_bytes: WINDOW,
        ..Limits::default()
    };
    World::new(cores, seed, limits)
}

fn serve(world: &mut World, core: u16, slot: u32, in_flight_max: u32, credit_bytes: u32) -> PeerId {
    let peer = world.connect(core, slot, 0);
    let terms = Offering {
        in_flight_max,
        credit_bytes,
        ..offering(1)
    };
    world.shard(peer).serve(peer, id(1_000_000), "m", terms).unwrap();
    world.settle();
    peer
}

fn message(reference: Option<Id>, id: Id, target: Option<&str>, meta: MetaWriter, payload: &[u8]) -> Vec<u8> {
    let meta = meta.finish();
    let mut out = Vec::new();
    Envelope {
        kind: Kind::Stream,
        id,
        reference,
        target,
        meta: meta.as_deref().map(fluxar_protocol::meta::Meta::from_checked),
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut out);
    out
}

fn open_with(world: &mut World, opener: PeerId, nth: u64, meta: MetaWriter) -> Result<(), Code> {
    let compact = message(None, id(nth), Some("m"), meta, &[0xf6]);
    let envelope = envelope::decode(&compact).unwrap().envelope;
    let asked = world.shard(opener).ask(opener, 300, &envelope, &compact);
    world.drain(usize::from(opener.core));
    asked.map(drop).map_err(|refusal| refusal.code)
}

/// A chunk of so many bytes with its number in it.
fn chunk(reference: Id, nth: u32, bytes: usize, end: bool) -> (Part, Vec<u8>) {
    let mut payload = vec![0x58, (bytes - 2) as u8];
    payload.extend_from_slice(&nth.to_be_bytes());
    payload.resize(bytes, 0);
    let meta = if end {
        MetaWriter::new().flag("end", true)
    } else {
        MetaWriter::new()
    };
    let compact = message(Some(reference), id(9), None, meta, &payload);
    let part = Part::read(&envelope::decode(&compact).unwrap().envelope).unwrap();
    (part, compact)
}

fn grant(reference: Id, bytes: u64) -> (Part, Vec<u8>) {
    let meta = MetaWriter::new().uint("credit", bytes);
    (
        Part::Grant { bytes },
        message(Some(reference), id(9), None, meta, &[0xf6]),
    )
}

fn end(reference: Id) -> (Part, Vec<u8>) {
    let meta = MetaWriter::new().flag("end", true);
    (Part::End, message(Some(reference), id(9), None, meta, &[0xf6]))
}

fn fail(reference: Id) -> (Part, Vec<u8>) {
    let error = b"\xa2\x64code\x0d\x67message\x64lost";
    let mut out = message(Some(reference), id(9), None, MetaWriter::new(), &[0xf6]);
    out.pop();
    out.extend_from_slice(error);
    (Part::Fail, out)
}

fn heard(world: &mut World, peer: PeerId) -> Vec<(Id, Heard)> {
    world.inboxes.get_mut(&peer).unwrap().heard.drain(..).collect()
}

/// Opens a stream and gives the id that the server knows it by.
fn opened(world: &mut World, opener: PeerId, server: PeerId, nth: u64, meta: MetaWriter) -> Id {
    open_with(world, opener, nth, meta).unwrap();
    world.settle();
    let (forward_id, open) = heard(world, server).remove(0);
    assert!(matches!(open, Heard::Open(_)), "{open:?}");
    forward_id
}

fn said(world: &mut World, from: PeerId, (part, bytes): (Part, Vec<u8>)) -> PartRoute {
    let reference = envelope::decode(&bytes).unwrap().envelope.reference.unwrap();
    let route = world.say(from, reference, part, &bytes);
    world.settle();
    route
}

fn code(heard: &Heard) -> Option<Code> {
    match heard {
        Heard::Note(Note::Fail(failure)) => Some(failure.code),
        _ => None,
    }
}

#[test]
fn chunks_pass_both_ways_and_each_side_ends_by_itself() {
    for core in 0..2 {
        for opener_first in [true, false] {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let server = serve(&mut world, core, 1, u32::MAX, 200);
            let of_server = opened(
                &mut world,
                opener,
                server,
                1,
                MetaWriter::new().uint("credit", 100),
            );
            let first = heard(&mut world, opener);
            assert_eq!(first, [(id(1), Heard::Note(Note::Grant { bytes: 200 }))]);
            let up = chunk(id(1), 0, 64, false);
            said(&mut world, opener, up.clone());
            let down = chunk(of_server, 0, 32, false);
            said(&mut world, server, down.clone());
            let Heard::Part(part, _) = &heard(&mut world, server)[0].1 else {
                panic!("a chunk");
            };
            assert_eq!(*part, up.0);
            let (reference, Heard::Part(part, bytes)) = heard(&mut world, opener).remove(0) else {
                panic!("a chunk");
            };
            assert_eq!((reference, part), (id(1), down.0));
            assert_eq!(bytes.len(), down.1.len());
            let ends = [(opener, end(id(1))), (server, end(of_server))];
            for at in if opener_first { [0, 1] } else { [1, 0] } {
                said(&mut world, ends[at].0, ends[at].1.clone());
            }
            assert!(matches!(
                heard(&mut world, opener)[..],
                [(_, Heard::Part(Part::End, _))]
            ));
            assert!(matches!(
                heard(&mut world, server)[..],
                [(_, Heard::Part(Part::End, _))]
            ));
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn an_open_carries_the_credit_and_never_more_than_the_window() {
    for (meta, told) in [
        (MetaWriter::new(), 300),
        (MetaWriter::new().uint("credit", 70), 70),
        (MetaWriter::new().uint("credit", 0), 0),
        (MetaWriter::new().uint("credit", u64::MAX), 1_000),
    ] {
        let mut world = world(1, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, 0, 1, u32::MAX, u32::MAX);
        open_with(
            &mut world,
            opener,
            1,
            meta.text("trace", "00-ab").flag("end", true),
        )
        .unwrap();
        let Heard::Open(bytes) = &heard(&mut world, server)[0].1 else {
            panic!("an open");
        };
        let meta = envelope::decode(bytes).unwrap().envelope.meta.unwrap();
        assert_eq!(meta.uint("credit"), Ok(Some(told)));
        assert_eq!(
            (meta.text("trace"), meta.flag("end")),
            (Ok(Some("00-ab")), Ok(true))
        );
        assert_eq!(
            heard(&mut world, opener),
            [],
            "it sends nothing, and needs no credit"
        );
    }
}

#[test]
fn beyond_credit_and_behind_the_end_fail_that_stream_alone() {
    for core in 0..2 {
        let mut world = world(2, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, core, 1, u32::MAX, 100);
        let ids = [1, 2, 3].map(|nth| opened(&mut world, opener, server, nth, MetaWriter::new()));
        heard(&mut world, opener);
        said(&mut world, opener, chunk(id(1), 0, 101, false));
        said(&mut world, server, end(ids[1]));
        heard(&mut world, opener);
        said(&mut world, server, chunk(ids[1], 0, 10, false));
        let told = heard(&mut world, opener);
        assert_eq!((told[0].0, code(&told[0].1)), (id(2), Some(Code::Aborted)));
        let told = heard(&mut world, server);
        assert_eq!((told[0].0, code(&told[0].1)), (ids[0], Some(Code::Aborted)));
        assert_eq!(
            (told[1].0, code(&told[1].1)),
            (ids[1], Some(Code::FailedPrecondition))
        );
        said(&mut world, opener, chunk(id(3), 0, 10, false));
        assert!(
            matches!(heard(&mut world, server)[..], [(_, Heard::Part(..))]),
            "the third lives"
        );
        assert_eq!(world.shards[0].counts().open_streams, 1);
    }
}

#[test]
fn who_does_not_end_what_was_cancelled_is_ended() {
    for core in 0..2 {
        for by_opener in [true, false] {
            for ends in [true, false] {
                let mut world = world(2, 1);
                let opener = world.connect(0, 0, 0);
                let server = serve(&mut world, core, 1, 8, 100);
                let of_server = opened(&mut world, opener, server, 1, MetaWriter::new());
                heard(&mut world, opener);
                let (canceller, theirs, other, its) = if by_opener {
                    (opener, id(1), server, of_server)
                } else {
                    (server, of_server, opener, id(1))
                };
                world.cancel_any(canceller, theirs);
                world.settle();
                world.cancel_any(canceller, theirs);
                world.settle();
                assert_eq!(heard(&mut world, other), [(its, Heard::Note(Note::Cancel))]);
                if ends {
                    said(&mut world, other, end(its));
                    assert!(matches!(
                        heard(&mut world, canceller)[..],
                        [(_, Heard::Part(Part::End, _))]
                    ));
                } else {
                    world.pass(4_900_000);
                    assert_eq!(world.shards[0].counts().open_streams, 1);
                    world.pass(200_000);
                    world.settle();
                    let told = heard(&mut world, canceller);
                    assert_eq!(code(&told[0].1), Some(Code::Cancelled));
                    let told = heard(&mut world, other);
                    assert_eq!(code(&told[0].1), Some(Code::Cancelled));
                }
                assert_nothing_is_left(&world);
            }
        }
    }
}

#[test]
fn a_lost_side_and_a_time_that_is_over_end_it() {
    for core in 0..2 {
        for way in 0..3 {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let server = serve(&mut world, core, 1, 8, 100);
            let timeout = MetaWriter::new().uint("timeout_ms", 1_000);
            opened(&mut world, opener, server, 1, timeout);
            heard(&mut world, opener);
            match way {
                0 => world.lose(opener),
                1 => world.lose(server),
                _ => {
                    world.pass(990_000);
                    assert_eq!(world.shards[0].counts().open_streams, 1);
                    world.pass(20_000);
                }
            }
            world.settle();
            if way != 0 {
                let told = heard(&mut world, opener);
                let expected = [Code::Unknown, Code::Unavailable, Code::DeadlineExceeded][way];
                assert_eq!(code(&told[0].1), Some(expected));
            }
            if way == 0 {
                assert_eq!(heard(&mut world, server)[0].1, Heard::Note(Note::Cancel));
            } else if way == 2 {
                assert_eq!(
                    code(&heard(&mut world, server)[0].1),
                    Some(Code::DeadlineExceeded)
                );
            }
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn an_error_of_one_side_reaches_the_other_and_ends_both() {
    for by_opener in [true, false] {
        let mut world = world(2, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, 1, 1, 8, 100);
        let of_server = opened(&mut world, opener, server, 1, MetaWriter::new());
        heard(&mut world, opener);
        let (from, its, other) = if by_opener {
            (opener, id(1), server)
        } else {
            (server, of_server, opener)
        };
        said(&mut world, from, fail(its));
        assert!(matches!(
            heard(&mut world, other)[..],
            [(_, Heard::Part(Part::Fail, _))]
        ));
        assert_nothing_is_left(&world);
    }
}

#[test]
fn an_open_that_waits_remembers_what_was_said_meanwhile() {
    // In the queue of its core, at the gate of another.
    for core in 0..2 {
        for way in 0..4 {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let other = world.connect(1, 7, 0);
            let server = serve(&mut world, core, 1, 1, 100);
            let running = opened(&mut world, other, server, 1, MetaWriter::new());
            open_with(&mut world, opener, 1, MetaWriter::new().uint("credit", 10)).unwrap();
            world.settle();
            assert_eq!(heard(&mut world, server), []);
            assert_eq!(
                heard(&mut world, opener),
                [],
                "no credit before there is a server"
            );
            said(&mut world, opener, grant(id(1), 5));
            said(&mut world, opener, grant(id(1), 6));
            match way {
                0 => {}
                1 => {
                    said(&mut world, opener, end(id(1)));
                }
                2 => {
                    world.cancel_any(opener, id(1));
                    world.settle();
                    assert_eq!(code(&heard(&mut world, opener)[0].1), Some(Code::Cancelled));
                }
                _ => {
                    said(&mut world, opener, chunk(id(1), 0, 10, false));
                    assert_eq!(
                        code(&heard(&mut world, opener)[0].1),
                        Some(Code::FailedPrecondition)
                    );
                }
            }
            said(&mut world, server, fail(running));
            let told = heard(&mut world, server);
            if way >= 2 {
                assert!(told.is_empty(), "it never hears of it: {told:?}");
            } else {
                assert!(matches!(told[0].1, Heard::Open(_)));
                assert_eq!(told[1].1, Heard::Note(Note::Grant { bytes: 11 }));
                assert_eq!(told.len(), 2 + way);
                let granted = Heard::Note(Note::Grant { bytes: 100 });
                let credit = heard(&mut world, opener);
                assert_eq!(credit.iter().any(|(_, heard)| *heard == granted), way == 0);
                world.lose(opener);
                world.settle();
            }
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn who_does_not_read_gets_no_more_than_the_window() {
    for core in 0..2 {
        for opener_stops in [true, false] {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let server = serve(&mut world, core, 1, 8, u32::MAX);
            let credit = MetaWriter::new().uint("credit", u32::MAX.into());
            let of_server = opened(&mut world, opener, server, 1, credit);
            heard(&mut world, opener);
            let (reader, writer, its) = if opener_stops {
                (opener, server, of_server)
            } else {
                (server, opener, id(1))
            };
            let standing = |crowded| Standing {
                crowded,
                ..Standing::default()
            };
            world.shard(reader).set_standing(reader, standing(true));
            world.settle();
            for nth in 0..10 {
                said(&mut world, writer, chunk(its, nth, 100, false));
            }
            assert_eq!(heard(&mut world, writer), [], "no more credit");
            assert_eq!(heard(&mut world, reader).len(), 10);
            world.shard(reader).set_standing(reader, standing(false));
            world.settle();
            let told = heard(&mut world, writer);
            assert_eq!(told, [(its, Heard::Note(Note::Grant { bytes: WINDOW.into() }))]);
        }
    }
}

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

#[test]
fn a_server_on_another_connection_announces_its_credit_to_all_cores() {
    for core in 0..2 {
        let mut world = world(2, 1);
        let opener = world.connect(core, 0, 0);
        let server = serve(&mut world, 0, 1, 9, 100);
        world.shard(server).set_credit(server, 40);
        world.drain(0);
        world.settle();
        opened(
            &mut world,
            opener,
            server,
            1,
            MetaWriter::new().uint("credit", 10),
        );
        let granted = Heard::Note(Note::Grant { bytes: 40 });
        let credit = heard(&mut world, opener);
        assert!(credit.iter().any(|(_, heard)| *heard == granted), "{credit:?}");
    }
}
