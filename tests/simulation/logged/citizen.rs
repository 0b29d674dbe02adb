//! Who lives around the gateway: somebody with a connection, and what they want of it.

use fluxar_engine::sim::Random;
use fluxar_protocol::envelope::{Decoded, Envelope};
use fluxar_protocol::meta::{Meta, Run};
use fluxar_protocol::{Batch, Code, ErrorBody, Id, Kind};
use minicbor::{Decoder, Encoder};

use super::auditor::{Auditor, DEAD_TOPIC, DeadLetter, EventName, Place};
use super::follower::Follower;
use super::history::What;
use super::line::{Contact, Line};
use super::member::{Member, Queue};
use super::publisher::Publisher;

const MS: u64 = 1_000_000;

/// What everybody may touch while it is their turn.
pub(crate) struct Scene<'a> {
    pub(crate) now_ns: u64,
    /// Nothing new is said, everybody does at once what there is to do.
    pub(crate) calm: bool,
    pub(crate) random: &'a mut Random,
    pub(crate) auditor: &'a mut Auditor,
    pub(crate) queues: &'a mut [Queue],
}

/// What one wants.
pub(crate) enum Role {
    Publisher(Publisher),
    Follower(Follower),
    Member(Member),
}

/// Somebody.
pub(crate) struct Citizen {
    pub(crate) who: u32,
    pub(crate) line: Line,
    pub(crate) role: Role,
    /// It is gone, and does not come again.
    pub(crate) has_left: bool,
}

/// One event of a run, as it was given.
pub(crate) struct Given<'a> {
    pub(crate) sub: Id,
    pub(crate) place: Place,
    pub(crate) dup: u64,
    pub(crate) event: EventName,
    pub(crate) topic: &'a str,
}

/// How a subscription was refused or ended.
pub(crate) struct Ending {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Of the details: epoch, partition, first and last, where they are there.
    pub(crate) epoch: Option<u64>,
    pub(crate) partition: Option<u16>,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    pub(crate) retry_after_ms: Option<u32>,
}

impl Citizen {
    /// Hears what has arrived, and does something of its own.
    pub(crate) fn go_on(&mut self, scene: &mut Scene<'_>) {
        scene.auditor.told_since = self.line.losses;
        let bodies = self.line.turn();
        for body in &bodies {
            self.hear(body, scene);
        }
        if self.line.is_over() {
            self.is_lost(scene);
        }
        if self
            .line
            .is_given_up(scene.now_ns, !bodies.is_empty(), scene.random)
        {
            scene.auditor.totals.given_up += 1;
            // What it sent is read all the same, before the end of the connection or while that is not known.
            let again_at_ns = scene.now_ns + 1 + scene.random.below(20) * MS;
            if scene.random.chance(0.7) {
                self.line.die(false, again_at_ns);
            } else {
                self.line.abandon(scene.now_ns, again_at_ns, scene.random);
            }
            self.is_cut(scene);
        }
        if self.line.is_greeted() {
            match &mut self.role {
                Role::Publisher(publisher) => publisher.act(&mut self.line, scene),
                Role::Follower(follower) => follower.act(&mut self.line, scene),
                Role::Member(member) => member.act(&mut self.line, scene),
            }
            // Sends it, as far as there is room.
            for body in self.line.turn() {
                self.hear(&body, scene);
            }
        }
    }

    fn is_lost(&mut self, scene: &mut Scene<'_>) {
        scene.auditor.totals.lost_connections += 1;
        let pause_ns = if scene.calm {
            5 * MS
        } else {
            scene.random.below(60) * MS
        };
        self.line.drop_until(scene.now_ns + 1 + pause_ns);
        self.is_cut(scene);
    }

    /// Its connection is gone, however that came. Its session may go on over another.
    pub(crate) fn is_cut(&mut self, scene: &mut Scene<'_>) {
        let goes_on = self.line.goes_on(scene.calm, scene.random);
        let what = if goes_on {
            "is cut off, and comes back"
        } else {
            "is cut off"
        };
        scene.auditor.note(What::Contact {
            who: self.who,
            what: what.into(),
        });
        if !goes_on {
            self.begins_anew();
        }
    }

    fn begins_anew(&mut self) {
        match &mut self.role {
            Role::Publisher(publisher) => publisher.is_cut_off(),
            Role::Follower(follower) => follower.is_cut_off(),
            Role::Member(member) => member.is_cut_off(),
        }
    }

    fn hear(&mut self, body: &[u8], scene: &mut Scene<'_>) {
        // Of the run at hand: the offsets that are still to come.
        let mut run: Option<(Id, u16, u64, Vec<u64>)> = None;
        for decoded in Batch::new(body) {
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(reject) => {
                    let promise = format!("{} got what cannot be read: {reject:?}", self.who);
                    return scene.auditor.breaks(promise, None, None, Some(self.who));
                }
            };
            let envelope = &decoded.envelope;
            if let Some((sub, partition, dup, offsets)) = &mut run {
                let (sub, partition, dup) = (*sub, *partition, *dup);
                let offset = offsets.pop();
                let is_last = offsets.is_empty();
                match (envelope.kind, envelope.reference, offset) {
                    (Kind::Event, None, Some(offset)) => {
                        self.is_given(envelope, sub, (partition, offset), dup, scene);
                    }
                    _ => {
                        let promise = format!("{} got {:?} inside a run", self.who, envelope.kind);
                        return scene.auditor.breaks(promise, None, None, Some(self.who));
                    }
                }
                if is_last {
                    run = None;
                    self.run_ends(sub, partition, scene);
                }
                continue;
            }
            if self.meets(&decoded, scene) == Contact::Lost {
                return self.is_lost(scene);
            }
            let header = envelope.meta.filter(|_| envelope.kind == Kind::Subscribe);
            if let Some(sub) = envelope.reference
                && let Some(meta) = header
                && let Ok(Some(Run::Logged(positions))) = meta.run()
            {
                let dup = meta.uint("dup").ok().flatten().unwrap_or(0);
                let mut offsets: Vec<u64> = positions.offsets().collect();
                offsets.reverse();
                run = Some((sub, positions.partition(), dup, offsets));
                continue;
            }
            match &mut self.role {
                Role::Publisher(publisher) => publisher.hear(envelope, scene),
                Role::Follower(follower) => follower.hear(envelope, scene),
                Role::Member(member) => member.hear(envelope, scene),
            }
        }
        if run.is_some() {
            let promise = format!("{} got fewer events than a run announced", self.who);
            scene.auditor.breaks(promise, None, None, Some(self.who));
        }
    }

    /// What an envelope means for its connection, and for what it had over the one before.
    fn meets(&mut self, heard: &Decoded<'_>, scene: &mut Scene<'_>) -> Contact {
        let contact = self.line.hears(heard, scene.random);
        let what = match contact {
            Contact::Lost | Contact::Same => return contact,
            Contact::Greeted => "is greeted",
            Contact::BegunAnew { era } => {
                if scene.auditor.owes_session(era) {
                    let promise = format!("{} came back with its token, and its session was gone", self.who);
                    scene.auditor.breaks(promise, None, None, Some(self.who));
                }
                self.begins_anew();
                "came back, and begins anew"
            }
            Contact::Resumed { taken } => {
                scene.auditor.totals.resumed += 1;
                match &mut self.role {
                    Role::Publisher(publisher) => publisher.goes_on(&mut self.line, scene),
                    Role::Follower(follower) => follower.goes_on(taken),
                    // What it had went to others; what it is done with it says all the same.
                    Role::Member(_) => {}
                }
                "came back, and goes on"
            }
        };
        scene.auditor.note(What::Contact {
            who: self.who,
            what: what.into(),
        });
        contact
    }

    fn is_given(&mut self, envelope: &Envelope<'_>, sub: Id, place: Place, dup: u64, scene: &mut Scene<'_>) {
        let Some(event) = name_in(envelope, scene.auditor) else {
            let promise = format!("what {} got at {place:?} is not what was published", self.who);
            let event = Some(name_of(envelope.id));
            return scene.auditor.breaks(promise, event, Some(place), Some(self.who));
        };
        let given = Given {
            sub,
            place,
            dup,
            event,
            topic: envelope.target.unwrap_or_default(),
        };
        match &mut self.role {
            Role::Publisher(_) => {
                let promise = format!("{} is given {event:?} and never asked for any", self.who);
                scene
                    .auditor
                    .breaks(promise, Some(event), Some(place), Some(self.who));
            }
            Role::Follower(follower) => follower.is_given(&given, scene),
            Role::Member(member) => member.is_given(&given, scene),
        }
    }

    fn run_ends(&mut self, sub: Id, partition: u16, scene: &mut Scene<'_>) {
        match &mut self.role {
            Role::Publisher(_) => {}
            Role::Follower(follower) => follower.run_ends(sub, partition, &mut self.line, scene),
            Role::Member(_) => {}
        }
    }
}

/// The id of an event.
pub(crate) fn id_of(event: EventName) -> Id {
    let mut id = [0; 16];
    id[4..8].copy_from_slice(&event.publisher.to_be_bytes());
    id[12..].copy_from_slice(&event.number.to_be_bytes());
    Id(id)
}

/// The event of an id.
pub(crate) fn name_of(id: Id) -> EventName {
    let number = |at: usize| u32::from_be_bytes([id.0[at], id.0[at + 1], id.0[at + 2], id.0[at + 3]]);
    EventName {
        publisher: number(4),
        number: number(12),
    }
}

/// A payload that says which event it is of, and shows when it was altered.
pub(crate) fn signed(event: EventName, filler_bytes: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut encoder = Encoder::new(&mut payload);
    let written = encoder
        .array(3)
        .and_then(|e| e.u32(event.publisher))
        .and_then(|e| e.u32(event.number))
        .and_then(|e| e.bytes(&vec![0xa5; filler_bytes]));
    assert!(written.is_ok(), "a Vec takes all");
    payload
}

/// Which event it is, if it is as it was published. Of one that was set aside the auditor is told what it says of itself.
pub(crate) fn name_in(envelope: &Envelope<'_>, auditor: &mut Auditor) -> Option<EventName> {
    if envelope.target == Some(DEAD_TOPIC) {
        let event = signature_of(envelope.payload)?;
        let meta = envelope.meta?;
        let at: Option<(u16, u64)> = meta.get("x-dead-at").and_then(|at| minicbor::decode(at).ok());
        let letter = DeadLetter {
            id: envelope.id,
            topic: meta.text("x-dead-topic").ok().flatten()?,
            at,
            deliveries: meta.uint("x-deliveries").ok().flatten()?,
        };
        return Some(auditor.sets_aside(event, &letter));
    }
    let event = name_of(envelope.id);
    // What removes a row has nothing to be signed in.
    let is_signed = envelope.payload == [0xf6] || signature_of(envelope.payload) == Some(event);
    is_signed.then_some(event)
}

/// The event that a payload is of, if nothing of it was altered.
fn signature_of(payload: &[u8]) -> Option<EventName> {
    let mut decoder = Decoder::new(payload);
    let is_payload = decoder.array().ok()? == Some(3);
    let publisher = decoder.u32().ok()?;
    let number = decoder.u32().ok()?;
    let is_whole = decoder.bytes().ok()?.iter().all(|byte| *byte == 0xa5);
    (is_payload && is_whole).then_some(EventName { publisher, number })
}

/// Reads an envelope's error.
pub(crate) fn ending_of(envelope: &Envelope<'_>) -> Option<Ending> {
    let error = ErrorBody::decode(envelope.error?).ok()?;
    let details = error.details.map(Meta::from_checked);
    let uint = |key| details.and_then(|details| details.uint(key).ok().flatten());
    Some(Ending {
        code: error.code,
        message: error.message.to_owned(),
        epoch: uint("epoch"),
        partition: uint("partition").map(|partition| partition as u16),
        first: uint("first"),
        last: uint("last"),
        retry_after_ms: error.retry_after_ms,
    })
}
