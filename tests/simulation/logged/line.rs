//! Somebody's connection to the gateway: made, greeted, lost, and made again. What arrives passes the seam on which
//! faults between the gateway and its clients are planted.

use fluxar_engine::sim::{ClientSocket, ClientState, Random};
use fluxar_protocol::hello::Hello;
use fluxar_protocol::meta::{Meta, Run};
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_tests::message::encoded;

use super::auditor::Losses;
use super::seam::{Fault, Saboteur};
use crate::wire::Wire;

const MS: u64 = 1_000_000;
/// What waits to be sent beyond this is not added to.
const UNSENT_BYTES_MOST: usize = 16 * 1024;

/// See the module.
pub(crate) struct Line {
    who: u32,
    wire: Option<Wire>,
    greeted: bool,
    /// Not before then.
    connects_at_ns: u64,
    /// What had been lost when it was connected.
    pub(crate) losses: Losses,
    ids: u64,
    saboteur: Saboteur,
    /// Abandoned connections that the gateway may still believe in, and until when.
    half_open: Vec<(u64, Wire)>,
    /// A run that a planted fault holds back.
    held_back: Option<Vec<u8>>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// As before.
    Same,
    /// It was greeted just now.
    Greeted,
    /// It is gone.
    Lost,
}

impl Line {
    pub(crate) fn new(who: u32, saboteur: Saboteur) -> Self {
        Self {
            who,
            wire: None,
            greeted: false,
            connects_at_ns: 0,
            losses: Losses::default(),
            ids: 0,
            saboteur,
            half_open: Vec::new(),
            held_back: None,
        }
    }

    /// An id for a message that is no event.
    pub(crate) fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [0xff; 16];
        id[4..8].copy_from_slice(&self.who.to_be_bytes());
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    pub(crate) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether it takes more to be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.greeted
            && self
                .wire
                .as_ref()
                .is_some_and(|wire| wire.unsent_bytes() < UNSENT_BYTES_MOST)
    }

    pub(crate) fn send(&mut self, body: &[u8], random: &mut Random) {
        if let Some(wire) = &mut self.wire
            && !body.is_empty()
        {
            wire.send(body, random);
        }
    }

    /// Connects if it is time to.
    pub(crate) fn reach(
        &mut self,
        now_ns: u64,
        losses: Losses,
        random: &mut Random,
        connect: impl FnOnce() -> ClientSocket,
    ) {
        self.half_open.retain(|(until_ns, _)| *until_ns > now_ns);
        if self.wire.is_some() || now_ns < self.connects_at_ns {
            return;
        }
        self.losses = losses;
        let mut wire = Wire::new(connect(), false);
        let mut hello = Vec::new();
        Hello {
            agent: "a citizen",
            ..Hello::default()
        }
        .encode(&mut hello);
        let id = self.id();
        wire.send(&encoded(Kind::Hello, id, None, None, None, &hello), random);
        self.wire = Some(wire);
        self.greeted = false;
        self.held_back = None;
    }

    /// Sends what there is room for, and passes on the bodies that have arrived.
    pub(crate) fn turn(&mut self) -> Vec<Vec<u8>> {
        let Some(wire) = &mut self.wire else {
            return Vec::new();
        };
        let bodies = wire.turn();
        bodies.into_iter().flat_map(|body| self.tamper(body)).collect()
    }

    /// Whether its connection has ended, or it was greeted; called with each envelope first.
    pub(crate) fn hears(
        &mut self,
        kind: Kind,
        id: Id,
        reference: Option<Id>,
        has_error: bool,
        random: &mut Random,
    ) -> Contact {
        match (kind, reference) {
            (Kind::Hello, Some(_)) if !has_error => {
                self.greeted = true;
                Contact::Greeted
            }
            (Kind::Hello, Some(_)) | (Kind::Cancel, None) => Contact::Lost,
            (Kind::Ping, None) => {
                let own = self.id();
                self.send(&encoded(Kind::Ping, own, Some(id), None, None, &[]), random);
                Contact::Same
            }
            _ => Contact::Same,
        }
    }

    /// Whether its connection has ended without a word.
    pub(crate) fn is_over(&self) -> bool {
        self.wire
            .as_ref()
            .is_some_and(|wire| wire.state() != ClientState::Open)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// Lets go of the connection, and comes again then.
    pub(crate) fn drop_until(&mut self, again_at_ns: u64) {
        self.wire = None;
        self.greeted = false;
        self.connects_at_ns = again_at_ns;
    }

    /// Ends it: by a reset, or as a process that ends does.
    pub(crate) fn die(&mut self, reset: bool, again_at_ns: u64) {
        if let Some(wire) = &mut self.wire {
            wire.die(reset);
        }
        self.drop_until(again_at_ns);
    }

    /// Abandons it without the gateway being told, and comes again then.
    pub(crate) fn abandon(&mut self, now_ns: u64, again_at_ns: u64, random: &mut Random) {
        if let Some(mut wire) = self.wire.take() {
            wire.stop_reading();
            self.half_open.push((now_ns + random.below(8_000) * MS, wire));
        }
        self.drop_until(again_at_ns);
    }

    /// Where faults on the way to a client are planted.
    fn tamper(&mut self, mut body: Vec<u8>) -> Vec<Vec<u8>> {
        if !is_run(&body) {
            return vec![body];
        }
        if let Some(before) = self.held_back.take() {
            return vec![body, before];
        }
        if self.saboteur.strikes(Fault::RunLost) {
            return Vec::new();
        }
        if self.saboteur.strikes(Fault::RunTwice) {
            return vec![body.clone(), body];
        }
        if self.saboteur.strikes(Fault::RunsSwapped) {
            self.held_back = Some(body);
            return Vec::new();
        }
        if self.saboteur.strikes(Fault::EventAltered) {
            // The last byte is the error's, which is null; before it is the payload's.
            let at = body.len() - 2;
            body[at] ^= 0x10;
        }
        vec![body]
    }
}

/// Whether a body begins with the header of a run of logged events.
fn is_run(body: &[u8]) -> bool {
    let first = Batch::new(body).next().and_then(Result::ok);
    let meta =
        first.and_then(|first| (first.envelope.kind == Kind::Subscribe).then_some(first.envelope.meta)?);
    meta.is_some_and(|meta: Meta<'_>| matches!(meta.run(), Ok(Some(Run::Logged(_)))))
}
