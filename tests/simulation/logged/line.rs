//! Somebody's connection to the gateway: made, greeted, lost, and made again, for the same session or for a new one. What
//! arrives passes the seam on which faults between the gateway and its clients are planted.

use fluxar_engine::sim::{ClientSocket, ClientState, Random};
use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter, Run};
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_tests::message::encoded;

use super::auditor::Losses;
use super::seam::{Fault, Saboteur};
use crate::session::Session;
use crate::wire::Wire;

const MS: u64 = 1_000_000;
/// One who takes a silent connection for lost pings after so long.
const SILENCE_MS: u64 = 700;
/// And gives it up after so long.
const SILENCE_MS_MOST: u64 = 2_100;
/// What waits to be sent beyond this is not added to.
const UNSENT_BYTES_MOST: usize = 16 * 1024;

/// See the module.
pub(crate) struct Line {
    who: u32,
    wire: Option<Wire>,
    greeted: bool,
    /// Of one who comes back with a token, if there is one.
    session: Option<Session>,
    /// In which era of the gateway the connection was made, and that over which the session was opened: it was opened no
    /// earlier.
    era: u64,
    session_era: u64,
    /// Not before then.
    connects_at_ns: u64,
    /// What had been lost when it was connected.
    pub(crate) losses: Losses,
    ids: u64,
    saboteur: Saboteur,
    /// A silent connection is given up.
    pub(crate) gives_up: bool,
    /// When something arrived last, and whether a sign of life was asked for since.
    heard_ns: u64,
    is_pinged: bool,
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
    /// It was greeted just now, and its session is new.
    Greeted,
    /// It came back, and its session goes on; the gateway had taken so many of the counted envelopes that it said.
    Resumed { taken: u64 },
    /// It came back to a session of that era, and found a new one.
    BegunAnew { era: u64 },
    /// It is gone.
    Lost,
}

impl Line {
    /// `resumes`: its sessions outlive its connections.
    pub(crate) fn new(who: u32, resumes: bool, saboteur: Saboteur) -> Self {
        Self {
            who,
            wire: None,
            greeted: false,
            session: resumes.then(Session::new),
            era: 0,
            session_era: 0,
            connects_at_ns: 0,
            losses: Losses::default(),
            ids: 0,
            saboteur,
            gives_up: false,
            heard_ns: 0,
            is_pinged: false,
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
        if let Some(session) = &mut self.session {
            session.says(body);
        }
        if let Some(wire) = &mut self.wire
            && !body.is_empty()
        {
            wire.send(body, random);
        }
    }

    /// How many counted envelopes were said in its session; 0 if nobody counts.
    pub(crate) fn said(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::said)
    }

    /// Asks for a sign of life: the id that its answer refers to.
    pub(crate) fn ping(&mut self, random: &mut Random) -> Id {
        let id = self.id();
        self.say_ping(id, None, random);
        id
    }

    fn say_ping(&mut self, id: Id, reference: Option<Id>, random: &mut Random) {
        let mut meta = MetaWriter::new();
        if let Some(session) = &mut self.session {
            meta = meta.uint("recv", session.tell());
        }
        let meta = meta.finish();
        self.send(
            &encoded(Kind::Ping, id, reference, None, meta.as_deref(), &[]),
            random,
        );
    }

    /// Its connection is gone: whether it goes on with its session over the next one. If not, it begins anew.
    pub(crate) fn goes_on(&mut self, calm: bool, random: &mut Random) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| session.can_resume()) else {
            return false;
        };
        let goes_on = calm || random.chance(0.8);
        if !goes_on {
            *session = Session::new();
        }
        goes_on
    }

    /// Connects if it is time to.
    pub(crate) fn reach(
        &mut self,
        now_ns: u64,
        (losses, era): (Losses, u64),
        random: &mut Random,
        connect: impl FnOnce() -> ClientSocket,
    ) {
        self.half_open.retain(|(until_ns, _)| *until_ns > now_ns);
        if self.wire.is_some() || now_ns < self.connects_at_ns {
            return;
        }
        (self.losses, self.era) = (losses, era);
        let mut wire = Wire::new(connect(), false);
        let mut hello = Vec::new();
        Hello {
            agent: "a citizen",
            caps: Caps {
                resume: self.session.is_some(),
                ..Caps::default()
            },
            resume: self.session.as_ref().and_then(Session::resume),
            ..Hello::default()
        }
        .encode(&mut hello);
        let id = self.id();
        wire.send(&encoded(Kind::Hello, id, None, None, None, &hello), random);
        self.wire = Some(wire);
        self.greeted = false;
        self.heard_ns = now_ns;
        self.is_pinged = false;
        self.held_back = None;
    }

    /// Whether it gives its connection up because nothing arrives on it.
    pub(crate) fn is_given_up(&mut self, now_ns: u64, has_heard: bool, random: &mut Random) -> bool {
        if has_heard {
            self.heard_ns = now_ns;
            self.is_pinged = false;
        }
        if !self.gives_up || self.wire.is_none() {
            return false;
        }
        let silent_ns = now_ns - self.heard_ns;
        if self.greeted && silent_ns >= SILENCE_MS * MS && !std::mem::replace(&mut self.is_pinged, true) {
            self.ping(random);
        }
        silent_ns >= SILENCE_MS_MOST * MS
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
    pub(crate) fn hears(&mut self, heard: &Decoded<'_>, random: &mut Random) -> Contact {
        let envelope = &heard.envelope;
        if let Some(session) = self.session.as_mut().filter(|_| self.greeted) {
            session.hears(heard);
        }
        match (envelope.kind, envelope.reference) {
            (Kind::Hello, Some(_)) if envelope.error.is_none() => {
                self.is_greeted_by(envelope.payload, random)
            }
            (Kind::Hello, Some(_)) => Contact::Lost,
            (Kind::Cancel, None) => {
                // Behind a goodbye there is nothing to come back to; one that was never greeted is told why not.
                if let Some(session) = self.session.as_mut().filter(|_| self.greeted) {
                    *session = Session::new();
                }
                Contact::Lost
            }
            (Kind::Ping, None) => {
                let own = self.id();
                self.say_ping(own, Some(envelope.id), random);
                Contact::Same
            }
            _ => Contact::Same,
        }
    }

    fn is_greeted_by(&mut self, welcome: &[u8], random: &mut Random) -> Contact {
        self.greeted = true;
        let Some(session) = &mut self.session else {
            return Contact::Greeted;
        };
        let welcome = Welcome::decode(welcome).expect("a welcome that can be read");
        let came_back = session.can_resume();
        let before = self.session_era;
        if !welcome.resumed {
            self.session_era = self.era;
        }
        let again = session.greeted(&welcome);
        if let Some(wire) = &mut self.wire {
            again.iter().for_each(|body| wire.send(body, random));
        }
        match (came_back, welcome.resumed) {
            (_, true) => Contact::Resumed { taken: welcome.recv },
            (true, false) => Contact::BegunAnew { era: before },
            (false, false) => Contact::Greeted,
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
