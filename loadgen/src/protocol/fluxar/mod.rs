//! FLUXAR: a session with a gateway, as the SDK would hold it (`docs/protocol.md`).
//!
//! What is written goes through `templates` into `frames`; what arrives is cut into bodies, and each envelope is
//! recognised by its `shapes` or read in full. One connection gets an event once, however many of its subscriptions
//! match [P-5.3]; a session therefore subscribes to each topic once.

mod frames;
mod ids;
mod listening;
mod logged;
mod shapes;
mod streaming;
mod streams;
mod templates;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use fluxar_protocol::envelope;
use fluxar_protocol::exchange::{Verb, verb};
use fluxar_protocol::frame::Deframer;
use fluxar_protocol::hello::{Hello, Welcome};
use fluxar_protocol::limits::{CREDIT_BYTES_DEFAULT, FRAME_BYTES_DEFAULT};
use fluxar_protocol::meta::{Meta, MetaWriter, Run};
use fluxar_protocol::position::Position;
use fluxar_protocol::stream::Part;
use fluxar_protocol::{Code, Envelope, ErrorBody, Id, Kind};

use super::prepared::Prepared;
use super::{Ability, Fault, Incoming, Names, Opening, Outgoing, Protocol, Session};

pub use frames::Framing;

pub(super) use frames::Frames;
pub(super) use ids::Ids;
use logged::{Logged, Unsettled};
pub(super) use shapes::Shapes;
use streams::Streams;
pub(super) use templates::Templates;

/// What logs of a gateway say about who we are.
const AGENT: &str = concat!("fluxar-loadgen/", env!("CARGO_PKG_VERSION"));
/// Most refusals that one answer is counted as: what a gateway that makes numbers up can cost us.
const REFUSED_AT_ONCE_MAX: u64 = 1_000_000;

/// How sessions speak.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The transport's way to tell frames apart.
    pub framing: Framing,
    /// Whether everything that is written in a turn goes into one frame (up to 64 KiB), as the SDK does; otherwise each
    /// envelope gets a frame of its own.
    pub batch: bool,
    /// Of publishes and subscriptions: 0, or 1 with acknowledgements in both directions [P-5.9].
    pub qos: u8,
    /// Whether subscriptions (at qos 1) begin at the first event that the log holds, instead of with what comes.
    pub from_all: bool,
    /// Whether events carry meta: a `type` that says what the payload is. (The SDK sends events without meta unless told
    /// otherwise; calls carry `timeout_ms` there and here.)
    pub meta: bool,
    /// What our hello grants to those who open streams to us, bytes.
    pub credit_bytes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            framing: Framing::Stream,
            batch: true,
            qos: 0,
            from_all: false,
            meta: true,
            credit_bytes: CREDIT_BYTES_DEFAULT,
        }
    }
}

/// FLUXAR with its settings.
#[derive(Debug)]
pub struct Fluxar {
    settings: Settings,
    /// Random, for the ids of this process.
    seed: u32,
    templates: Prepared<Templates>,
}

impl Fluxar {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            seed: RandomState::new().hash_one(AGENT) as u32,
            templates: Prepared::default(),
        }
    }
}

impl Protocol for Fluxar {
    type Session = FluxarSession;

    fn is_able(&self, ability: Ability) -> bool {
        match ability {
            Ability::PubSub | Ability::Calls | Ability::Streams | Ability::Listening => true,
            Ability::AcknowledgedPublish | Ability::Replay => self.settings.qos > 0,
        }
    }

    /// A gateway listens while it still reads its log; it accepts a subscription once that of its topic is there.
    fn needs_keeper(&self) -> bool {
        self.settings.qos > 0
    }

    fn session(&self, number: u64, names: &Arc<Names>) -> FluxarSession {
        let Settings {
            framing,
            batch,
            qos,
            from_all,
            meta,
            credit_bytes,
        } = self.settings;
        FluxarSession {
            framing,
            deframer: Deframer::new(),
            talk: Talk {
                names: names.clone(),
                templates: self.templates.of(names, |names| Templates::new(names, qos, meta)),
                frames: Frames::new(framing, batch),
                ids: Ids::new(self.seed, number),
                qos,
                from_all,
                credit_bytes,
                peer_credit_bytes: 0,
                hello: None,
                listens: false,
                is_open: false,
                subscriptions: Vec::new(),
                streams: Streams::default(),
                shapes: Shapes::default(),
                logged: Logged::default(),
                unsettled: Unsettled::default(),
            },
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct FluxarSession {
    framing: Framing,
    deframer: Deframer,
    talk: Talk,
}

/// All of a session but how bodies are cut out of what arrives.
#[derive(Debug)]
struct Talk {
    names: Arc<Names>,
    templates: Arc<Templates>,
    frames: Frames,
    ids: Ids,
    /// See [`Settings::qos`] and [`Settings::from_all`].
    qos: u8,
    from_all: bool,
    /// What our hello grants, and what the other side's granted, bytes.
    credit_bytes: u32,
    peer_credit_bytes: u32,
    /// The id of our hello, once it was written.
    hello: Option<Id>,
    /// The other side connected: its hello is waited for.
    listens: bool,
    /// The hello was accepted.
    is_open: bool,
    subscriptions: Vec<Subscription>,
    streams: Streams,
    shapes: Shapes,
    logged: Logged,
    /// At qos 1: our publishes that are under way.
    unsettled: Unsettled,
}

/// A subscription or an offer to serve.
#[derive(Debug)]
struct Subscription {
    id: Id,
    /// Index of the topic; none for offers.
    topic: Option<usize>,
    is_accepted: bool,
    /// Events that were dropped for it, as told last.
    dropped: u64,
}

impl Session for FluxarSession {
    fn open(&mut self, out: &mut Outgoing) {
        let mut payload = Vec::new();
        let hello = Hello {
            agent: AGENT,
            credit: self.talk.credit_bytes,
            ..Hello::default()
        };
        hello.encode(&mut payload);
        let id = self.talk.say(Kind::Hello, None, None, None, &payload, out);
        self.talk.hello = Some(id);
    }

    fn subscribe(&mut self, topic: usize, out: &mut Outgoing) {
        let names = self.talk.names.clone();
        let mut meta = MetaWriter::new();
        if self.talk.qos > 0 {
            meta = meta.uint("qos", self.talk.qos.into());
            if self.talk.from_all {
                meta = meta.text("from", "all");
            }
        }
        let (target, meta) = (Some(names.topics[topic].as_str()), meta.finish());
        let id = self
            .talk
            .say(Kind::Subscribe, None, target, meta.as_deref(), &[], out);
        self.talk.asked_for(id, Some(topic));
    }

    fn unsubscribe(&mut self, topic: usize, out: &mut Outgoing) {
        let subscriptions = self.talk.subscriptions.iter();
        let asked: Vec<Id> = subscriptions
            .filter(|subscription| subscription.topic == Some(topic))
            .map(|subscription| subscription.id)
            .collect();
        for id in asked {
            self.talk.say(Kind::Cancel, Some(id), None, None, &[], out);
        }
    }

    fn serve(&mut self, method: usize, out: &mut Outgoing) {
        let names = self.talk.names.clone();
        let meta = MetaWriter::new().flag("serve", true).finish();
        let target = Some(names.methods[method].as_str());
        let id = self
            .talk
            .say(Kind::Subscribe, None, target, meta.as_deref(), &[], out);
        self.talk.asked_for(id, None);
    }

    #[inline]
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing) {
        let Talk {
            templates,
            frames,
            ids,
            qos,
            unsettled,
            ..
        } = &mut self.talk;
        if *qos > 0 {
            unsettled.publish(ids.upcoming());
        }
        templates.event(topic, ids.next(), payload, frames, out);
    }

    #[inline]
    fn call(&mut self, method: usize, payload: &[u8], out: &mut Outgoing) {
        let Talk {
            templates,
            frames,
            ids,
            ..
        } = &mut self.talk;
        templates.call(method, ids.next(), payload, frames, out);
    }

    fn ping(&mut self, out: &mut Outgoing) {
        self.talk.say(Kind::Ping, None, None, None, &[], out);
    }

    fn close(&mut self, out: &mut Outgoing) {
        self.talk.say(Kind::Cancel, None, None, None, &[], out);
        self.seal(out);
    }

    fn listen(&mut self) {
        self.talk.listens = true;
    }

    fn open_stream(
        &mut self,
        stream: u32,
        method: usize,
        opening: Opening,
        payload: &[u8],
        out: &mut Outgoing,
    ) {
        self.talk.open_stream(stream, method, opening, payload, out);
    }

    #[inline]
    fn stream_credit(&self, stream: u32) -> u64 {
        self.talk.streams.credit_bytes(stream)
    }

    #[inline]
    fn send_chunk(&mut self, stream: u32, payload: &[u8], is_last: bool, out: &mut Outgoing) {
        self.talk.send_chunk(stream, payload, is_last, out);
    }

    fn end_stream(&mut self, stream: u32, out: &mut Outgoing) {
        self.talk.end_stream(stream, out);
    }

    fn grant(&mut self, stream: u32, bytes: u32, out: &mut Outgoing) {
        self.talk.grant(stream, bytes, out);
    }

    fn cancel_stream(&mut self, stream: u32, out: &mut Outgoing) {
        self.talk.cancel_stream(stream, out);
    }

    #[inline]
    fn has_unsaid(&self) -> bool {
        self.talk.logged.is_owing()
    }

    #[inline]
    fn seal(&mut self, out: &mut Outgoing) {
        if self.talk.logged.is_owing() {
            self.talk.acknowledge(out);
        }
        self.talk.frames.seal(out);
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        if self.framing == Framing::Messages {
            return self.talk.receive_body(bytes, out, on);
        }
        let mut input = bytes;
        loop {
            match self.deframer.next(&mut input, FRAME_BYTES_DEFAULT) {
                Ok(Some(body)) => self.talk.receive_body(body, out, on)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(Fault(format!("the gateway broke the framing: {error}"))),
            }
        }
    }
}

impl Talk {
    /// Writes an envelope of a rare kind, and returns its id.
    fn say(
        &mut self,
        kind: Kind,
        reference: Option<Id>,
        target: Option<&str>,
        meta: Option<&[u8]>,
        payload: &[u8],
        out: &mut Outgoing,
    ) -> Id {
        let id = self.ids.next();
        let envelope = Envelope {
            kind,
            id,
            reference,
            target,
            meta: meta.map(Meta::from_checked),
            payload,
            error: None,
        };
        templates::other(&envelope, &mut self.frames, out);
        id
    }

    fn asked_for(&mut self, id: Id, topic: Option<usize>) {
        self.subscriptions.push(Subscription {
            id,
            topic,
            is_accepted: false,
            dropped: 0,
        });
    }

    fn receive_body(
        &mut self,
        body: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let mut rest = body;
        while !rest.is_empty() {
            let Some(known) = self.shapes.recognise(rest) else {
                rest = match self.receive_logged(rest, on)? {
                    Some(behind) => behind,
                    None => self.receive_unknown(rest, out, on)?,
                };
                continue;
            };
            rest = &rest[known.bytes..];
            let payload = known.payload;
            match (known.kind, known.reference) {
                (Kind::Event, _) => {
                    self.logged.event();
                    on(Incoming::Event { payload });
                }
                (Kind::Stream, Some(stream)) => {
                    let part = Part::Chunk {
                        bytes: payload.len() as u64,
                        end: false,
                    };
                    self.hear_part(stream, part, payload, None, out, on);
                }
                (_, Some(_)) => on(Incoming::Answer { payload }),
                (_, None) => self.serve_call(known.id, payload, out, on),
            }
        }
        match self.logged.end_body() {
            0 => Ok(()),
            missing => Err(Fault(format!(
                "the gateway announced a run, and {missing} events of it do not stand behind its header"
            ))),
        }
    }

    /// Takes the header of a run, or acknowledgements of publishes, off the start, and returns what stands behind.
    fn receive_logged<'a>(
        &mut self,
        mut rest: &'a [u8],
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Option<&'a [u8]>, Fault> {
        if let Some((header, bytes)) = logged::header(rest) {
            self.begin_run(&header);
            return Ok(Some(&rest[bytes..]));
        }
        let mut count = 0;
        let mut settled = Ok(());
        while let Some((publish, bytes)) = logged::acknowledgement(rest) {
            settled = self.settle(publish, "acknowledged");
            if settled.is_err() {
                break;
            }
            rest = &rest[bytes..];
            count += 1;
        }
        if count > 0 {
            on(Incoming::Acknowledged { count });
        }
        settled?;
        Ok((count > 0).then_some(rest))
    }

    /// A publish at qos 1 is no longer under way.
    #[inline]
    fn settle(&mut self, publish: Id, how: &str) -> Result<(), Fault> {
        let number = self.ids.number(publish);
        if number.is_some_and(|number| self.unsettled.settle(number)) {
            return Ok(());
        }
        Err(Fault(format!(
            "the gateway {how} a publish that is not under way: it was settled before, or is none of ours"
        )))
    }

    /// The events behind this header are of one of our subscriptions, or of one that ended a moment ago.
    fn begin_run(&mut self, header: &logged::Header) {
        let is_open = |open: &Subscription| open.id == header.subscription;
        if self.subscriptions.iter().any(is_open) {
            self.logged.begin(header);
        }
    }

    /// Acknowledges what came for our subscriptions.
    fn acknowledge(&mut self, out: &mut Outgoing) {
        for (subscription, position) in self.logged.take_owed() {
            let meta = MetaWriter::new().position("ack", position).finish();
            let envelope = Envelope {
                kind: Kind::Event,
                id: self.ids.next(),
                reference: Some(subscription),
                target: None,
                meta: meta.as_deref().map(Meta::from_checked),
                payload: &[],
                error: None,
            };
            templates::other(&envelope, &mut self.frames, out);
        }
    }

    /// Reads the first envelope in full, and returns what stands behind it.
    #[inline(never)]
    fn receive_unknown<'a>(
        &mut self,
        rest: &'a [u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<&'a [u8], Fault> {
        let decoded = envelope::decode(rest).map_err(|reject| {
            Fault(format!(
                "the gateway sent what is no envelope: {} at byte {} of {}",
                reject.fault,
                reject.at,
                rest.len()
            ))
        })?;
        self.handle(&decoded.envelope, out, on)?;
        self.shapes.learn(&decoded);
        Ok(&rest[decoded.bytes.len()..])
    }

    fn handle(
        &mut self,
        envelope: &Envelope<'_>,
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        let payload = envelope.payload;
        let verb = match verb(envelope) {
            Ok(verb) => verb,
            Err(_) if envelope.reference.is_some() => return Ok(()), // ignored [P-3.7]
            Err(fault) => return Err(Fault(format!("the gateway sent a faulty envelope: {fault}"))),
        };
        match verb {
            Verb::Publish => {
                self.logged.event();
                on(Incoming::Event { payload });
            }
            Verb::Call => self.serve_call(envelope.id, payload, out, on),
            Verb::Answer(_) => match envelope.error {
                None => on(Incoming::Answer { payload }),
                Some(error) => on(refused(error)),
            },
            Verb::Ack(publish) => match envelope.error {
                None => {
                    self.settle(publish, "acknowledged")?;
                    on(Incoming::Acknowledged { count: 1 });
                }
                Some(error) if self.qos > 0 => {
                    self.settle(publish, "refused")?;
                    on(refused(error));
                }
                Some(error) => {
                    for _ in 0..refused_count(error)
                        .min(self.ids.upcoming())
                        .min(REFUSED_AT_ONCE_MAX)
                    {
                        on(refused(error));
                    }
                }
            },
            Verb::SubscriptionNote(id) => self.hear_of(id, envelope, on),
            Verb::Ping => {
                self.say(Kind::Ping, Some(envelope.id), None, None, &[], out);
            }
            Verb::Pong(_) => on(Incoming::Pong),
            Verb::Welcome(id) => return self.be_welcomed(id, envelope, on),
            Verb::Hello if self.listens => return self.welcome(envelope, out, on),
            Verb::StreamOpen => self.hear_open(envelope, out, on)?,
            Verb::StreamPart(id) => match Part::read(envelope) {
                Ok(part) => self.hear_part(id, part, payload, envelope.error, out, on),
                Err(fault) => {
                    return Err(Fault(format!(
                        "the gateway sent a faulty part of a stream: {fault}"
                    )));
                }
            },
            Verb::Cancel(id) => self.hear_cancel(id, out, on),
            Verb::Close => {
                let why = envelope.error.map_or_else(|| "without a reason".into(), said);
                return Err(Fault(format!("the gateway closed the session: {why}")));
            }
            Verb::Hello => {
                return Err(Fault(
                    "the gateway said hello as if it had connected to us".into(),
                ));
            }
            // It does not subscribe with us.
            Verb::Subscribe | Verb::Serve => {}
        }
        Ok(())
    }

    fn be_welcomed(
        &mut self,
        id: Id,
        envelope: &Envelope<'_>,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        if self.hello != Some(id) || self.is_open {
            return Err(Fault(
                "the gateway answered a hello that was not open: it was answered before, or is none of ours"
                    .into(),
            ));
        }
        if let Some(error) = envelope.error {
            return Err(Fault(format!("the gateway refused the hello: {}", said(error))));
        }
        let welcome = Welcome::decode(envelope.payload)
            .map_err(|fault| Fault(format!("the gateway's answer to the hello: {fault}")))?;
        if welcome.v != 0 {
            return Err(Fault(format!(
                "the gateway speaks version {}, we speak 0",
                welcome.v
            )));
        }
        self.is_open = true;
        self.peer_credit_bytes = welcome.credit;
        self.frames.peer_takes(welcome.max_frame as usize);
        on(Incoming::Ready);
        Ok(())
    }

    /// A note about one of our subscriptions or offers, told apart in the order that P-5 gives them.
    fn hear_of(&mut self, id: Id, envelope: &Envelope<'_>, on: &mut impl FnMut(Incoming<'_>)) {
        let Some(at) = self.subscriptions.iter().position(|open| open.id == id) else {
            return; // it ended a moment ago
        };
        let has = |key| {
            envelope
                .meta
                .is_some_and(|meta| meta.flag(key).unwrap_or_default())
        };
        if let Some(error) = envelope.error {
            self.subscriptions.swap_remove(at);
            self.logged.forget(id);
            on(refused(error));
        } else if has("end") {
            self.subscriptions.swap_remove(at);
            self.logged.forget(id);
        } else if let Some(run) = envelope.meta.and_then(|meta| meta.run().unwrap_or_default()) {
            // The events behind it are ours; they speak for themselves. Those of a group at qos 0 have no positions.
            if let Run::Logged(run) = run {
                let offset = run.deltas().fold(run.first(), u64::wrapping_add); // checked when it was read
                let partition = run.partition();
                self.begin_run(&logged::Header {
                    subscription: id,
                    last: Position { partition, offset },
                    count: run.count(),
                });
            }
        } else if let Some(total) = envelope
            .meta
            .and_then(|meta| meta.uint("dropped").unwrap_or_default())
        {
            let told = &mut self.subscriptions[at].dropped;
            let events = total.saturating_sub(*told);
            *told = total.max(*told);
            if events > 0 {
                on(Incoming::Dropped { events });
            }
        } else if !self.subscriptions[at].is_accepted {
            self.subscriptions[at].is_accepted = true;
            on(Incoming::Subscribed);
        }
    }

    #[inline]
    fn serve_call(
        &mut self,
        call: Id,
        payload: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) {
        let id = self.ids.next();
        templates::answer(id, call, payload, &mut self.frames, out);
        on(Incoming::Served);
    }
}

fn refused(error: &[u8]) -> Incoming<'static> {
    Incoming::Refused { message: said(error) }
}

/// What an error says, for a person.
fn said(error: &[u8]) -> String {
    match ErrorBody::decode(error) {
        Ok(body) => format!("{}: {}", body.code, body.message),
        Err(_) => Code::Unknown.to_string(),
    }
}

/// How many publishes a refusal speaks for: `details` is `{refused: n}` [P-3.8].
fn refused_count(error: &[u8]) -> u64 {
    let details = ErrorBody::decode(error).ok().and_then(|body| body.details);
    details
        .and_then(|details| Meta::from_checked(details).uint("refused").unwrap_or_default())
        .unwrap_or(1)
        .max(1)
}

#[cfg(test)]
mod streaming_tests;
#[cfg(test)]
mod tests;
