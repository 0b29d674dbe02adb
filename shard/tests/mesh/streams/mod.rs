//! Streams over shards: two real ends with the relay between them, letters and connections that are late, peers that
//! break rules, cancel, and get lost.

mod model;
mod promises;

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::Part;
use fluxar_protocol::{Code, Envelope, Form, Id, Kind, envelope};
use fluxar_shard::{Limits, Offering, PartRoute, PeerId};

use crate::world::{Heard, World, id, offering};

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

/// A stream between two cores, open, of whose beginning the opener has heard: what each side knows it by.
struct Pair {
    world: World,
    opener: PeerId,
    server: PeerId,
    of_opener: Id,
    of_server: Id,
}

impl Pair {
    /// The opener is on core 0, the server on `core`, and gives so much credit.
    fn new(core: u16, credit_bytes: u32, meta: MetaWriter) -> Self {
        let mut world = world(2, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, core, 1, 8, credit_bytes);
        let of_server = opened(&mut world, opener, server, 1, meta);
        heard(&mut world, opener);
        Self {
            world,
            opener,
            server,
            of_opener: id(1),
            of_server,
        }
    }

    /// One side and what it knows the stream by, then the other.
    fn sides(&self, opener_first: bool) -> [(PeerId, Id); 2] {
        let sides = [(self.opener, self.of_opener), (self.server, self.of_server)];
        if opener_first { sides } else { [sides[1], sides[0]] }
    }
}

fn said(world: &mut World, from: PeerId, (part, bytes): (Part, Vec<u8>)) -> PartRoute {
    let reference = envelope::decode(&bytes).unwrap().envelope.reference.unwrap();
    let route = world.say(from, reference, part, &bytes);
    world.settle();
    route
}
