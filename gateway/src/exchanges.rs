//! What a greeted peer wants, by the verb of its message: events go to the shard's runs, calls and opens are routed to
//! who serves them, answers back to who asked; parts of streams are for [`crate::streams`]. Nothing here waits.

use std::sync::Arc;

use bytes::BytesMut;
use fluxar_protocol::envelope::compact::kind_of;
use fluxar_protocol::envelope::{Decoded, Envelope};
use fluxar_protocol::error::Code;
use fluxar_protocol::exchange::{Verb, verb};
use fluxar_protocol::meta::{Meta, MetaWriter, Published};
use fluxar_protocol::{Fault, Form, Id, Kind};
use fluxar_shard::{AnswerRoute, Asking, Letter, Offering, Outcome, PeerId, Refusal, Route};

use crate::flow::Growth;
use crate::front::{Effect, Front, answer, ws_code};
use crate::logged::{LogWish, WishFault};
use crate::mail::Mail;
use crate::streams::code_of;

impl Front {
    /// One envelope that the handshake admits.
    pub(crate) fn handle_envelope(&mut self, slot: usize, decoded: &Decoded<'_>) {
        let envelope = &decoded.envelope;
        let verb = match verb(envelope) {
            Ok(verb) => verb,
            Err(fault) => {
                if envelope.reference.is_none() && envelope.kind == Kind::Event {
                    self.refuse_publish(slot, envelope, &fault);
                } else if envelope.reference.is_none() {
                    self.refuse_fault(slot, envelope.kind, envelope.id, &fault);
                }
                return;
            }
        };
        if verb == Verb::Hello {
            return self.greet(slot, decoded);
        }
        if decoded.form == Form::Compact {
            return self.handle_verb(slot, verb, envelope, decoded.bytes);
        }
        // Inside, everything is compact: named input is transcoded as it enters [P-3.2].
        let mut compact = std::mem::take(&mut self.scratch);
        compact.clear();
        envelope.encode(Form::Compact, &mut compact);
        self.handle_verb(slot, verb, envelope, &compact);
        self.scratch = compact;
    }

    fn handle_verb(&mut self, slot: usize, verb: Verb, envelope: &Envelope<'_>, compact: &[u8]) {
        match verb {
            Verb::Publish => self.publish(slot, envelope, compact),
            Verb::Call | Verb::StreamOpen => self.ask(slot, envelope, compact),
            Verb::StreamPart(reference) => self.stream_part(slot, reference, envelope, compact),
            Verb::Answer(reference) => {
                if let Some(session) = &self.sessions[slot] {
                    let outcome = match envelope.error {
                        None => Outcome::Ok,
                        Some(error) => Outcome::Error(code_of(error)),
                    };
                    self.route_answer(session.peer, reference, outcome, compact);
                    if self.shard.has_news() {
                        self.after_shard();
                    }
                }
            }
            Verb::Subscribe | Verb::Serve => self.subscribe(slot, verb == Verb::Serve, envelope),
            Verb::Cancel(reference) => self.cancel(slot, reference),
            Verb::Ping => {
                self.hear_received(slot, envelope);
                self.ping_or_pong(slot, Some(envelope.id));
            }
            Verb::Close => self.say_goodbye(slot, None, ws_code::NORMAL),
            Verb::Ack(subscription) => self.acknowledge(slot, subscription, envelope),
            Verb::Pong(_) => self.hear_received(slot, envelope),
            // About things that this gateway does not have open: ignored, as [P-3.10] says.
            Verb::SubscriptionNote(_) => {}
            // The handshake admits neither here.
            Verb::Hello | Verb::Welcome(_) => {}
        }
    }

    fn publish(&mut self, slot: usize, envelope: &Envelope<'_>, compact: &[u8]) {
        let Some(topic) = envelope.target else { return };
        let wish = match Published::read(envelope.meta.as_ref()) {
            Ok(wish) => wish,
            Err(fault) => return self.refuse_publish(slot, envelope, &fault),
        };
        self.publish_as(slot, envelope.id, topic, compact, wish);
    }

    fn subscribe(&mut self, slot: usize, serve: bool, envelope: &Envelope<'_>) {
        let (Some(pattern), Some(session)) = (envelope.target, &self.sessions[slot]) else {
            return;
        };
        let (peer, id) = (session.peer, envelope.id);
        if !serve && let Some(meta) = &envelope.meta {
            match LogWish::read(meta) {
                Ok(None) => {}
                Ok(Some(wish)) => return self.subscribe_logged(slot, id, pattern, &wish),
                Err(WishFault::Meta(fault)) => {
                    return self.refuse_fault(slot, Kind::Subscribe, id, &fault);
                }
                Err(WishFault::Together(message)) => {
                    self.refuse(slot, Kind::Subscribe, id, Code::InvalidArgument, message);
                    return self.charge_refusal(slot);
                }
            }
        }
        let wish = match Wish::read(envelope.meta.as_ref()) {
            Ok(wish) => wish,
            Err(fault) => return self.refuse_fault(slot, Kind::Subscribe, id, &fault),
        };
        let result = if serve {
            let offering = Offering {
                fleet: wish.group.map(Arc::from),
                weight: wish.weight,
                in_flight_max: wish.in_flight,
                zone: wish.zone.map(Arc::from),
                credit_bytes: session.credit_bytes,
                name: session.agent.clone().unwrap_or_default(),
            };
            self.shard.serve(peer, id, pattern, offering)
        } else {
            self.shard.subscribe(peer, id, pattern, wish.group)
        };
        match result {
            Ok(()) => {
                if self.sessions[slot].as_ref().is_some_and(|session| session.busy) {
                    self.shard.set_busy(peer, true);
                }
                let payload = crate::greeting::encode_accepted(self.shard.epoch());
                let own = self.ids.next();
                let mut accepted = answer(Kind::Subscribe, own, id, None);
                accepted.payload = &payload;
                self.push(slot, &accepted);
                if serve {
                    self.watch_health(slot);
                }
            }
            Err(Refusal { code, message }) => {
                self.refuse(slot, Kind::Subscribe, id, code, &message);
                self.charge_refusal(slot);
            }
        }
    }

    /// A call, or the open of a stream.
    fn ask(&mut self, slot: usize, envelope: &Envelope<'_>, compact: &[u8]) {
        let (Some(method), Some(session)) = (envelope.target, &self.sessions[slot]) else {
            return;
        };
        if fluxar_protocol::target::is_system(method) {
            return self.administer(slot, envelope);
        }
        let (queued, queue_bytes) = (session.outbox.queued_bytes(), self.limits.queue_bytes);
        if envelope.kind == Kind::Stream && queued > queue_bytes {
            // Its window may be written and forgotten before any of it is read, and then the next one's.
            let message = format!(
                "{queued} bytes are waiting to be read by you, {queue_bytes} is the bound for opening a stream; read them and try again"
            );
            return self.refuse(slot, Kind::Stream, envelope.id, Code::ResourceExhausted, &message);
        }
        match self
            .shard
            .ask(session.peer, session.credit_bytes, envelope, compact)
        {
            Ok(asking) => {
                if envelope.kind == Kind::Stream {
                    self.counters.streams += 1;
                } else {
                    self.counters.calls += 1;
                }
                if let Asking::Forward(Route { server, forward_id }) = asking {
                    self.forward_asked(server, forward_id, compact);
                }
            }
            Err(Refusal { code, message }) => self.refuse(slot, envelope.kind, envelope.id, code, &message),
        }
        if self.shard.has_news() {
            self.after_shard();
        }
    }

    fn forward_asked(&mut self, server: PeerId, forward_id: Id, compact: &[u8]) {
        if server.core == self.core {
            return self.forward(server, forward_id, compact);
        }
        let mut bytes = BytesMut::from(compact);
        fluxar_protocol::envelope::patch_id(&mut bytes, forward_id);
        let bytes = bytes.freeze();
        self.post(server.core, Letter::Forward { to: server, bytes });
    }

    /// A call or an open for one of this core's connections, its id already or to be replaced by `forward_id`. The caller
    /// polls the shard afterwards.
    pub(crate) fn forward(&mut self, server: PeerId, forward_id: Id, compact: &[u8]) {
        // A server that is gone fails what is open at it by itself, on every core.
        let Some(slot) = self.slot_of_peer(server) else {
            return;
        };
        let Some(session) = self.sessions[slot].as_mut().filter(|session| !session.is_away()) else {
            return;
        };
        let queued = session.outbox.queued_bytes();
        let is_stream = kind_of(compact) == Some(Kind::Stream);
        let message = if queued > self.limits.queue_bytes {
            if !is_stream {
                // Its peer is told to be crowded by now: the call waits for it, or goes to another.
                if !session.standing.crowded {
                    session.standing.crowded = true;
                    self.shard.set_standing(session.peer, session.standing);
                }
                return self.shard.unheard(server, forward_id, compact);
            }
            format!("the serving peer has {queued} bytes to read before this stream; try again later")
        } else if let Err(too_large) = self.append(slot, compact, Some(forward_id), None, Growth::Call) {
            format!(
                "the call is {} bytes, the serving peer takes {}",
                too_large.envelope_bytes, too_large.limit_bytes
            )
        } else {
            return;
        };
        // Answered in its server's place.
        let code = Code::ResourceExhausted;
        if is_stream {
            return self.fail_unheard(server, forward_id, code, &message);
        }
        let error = crate::greeting::encode_error(code, &message);
        let own = self.ids.next();
        let mut answered = Vec::new();
        answer(Kind::Call, own, forward_id, Some(&error)).encode(Form::Compact, &mut answered);
        self.route_answer(server, forward_id, Outcome::Refused, &answered);
    }

    /// An answer goes to whoever asked. The caller polls the shard afterwards.
    fn route_answer(&mut self, from: PeerId, reference: Id, outcome: Outcome, compact: &[u8]) {
        match self.shard.answer(from, reference, outcome) {
            AnswerRoute::Deliver { asker, reference } => self.deliver_answer(asker, reference, compact),
            AnswerRoute::Elsewhere { core } => {
                self.post(
                    core,
                    Letter::Answer {
                        from,
                        reference,
                        outcome,
                        bytes: BytesMut::from(compact),
                    },
                );
            }
            AnswerRoute::Swallowed => {}
            AnswerRoute::Unknown => self.counters.late_answers += 1,
        }
    }

    /// An answer for one of this core's connections.
    pub(crate) fn deliver_answer(&mut self, asker: PeerId, reference: Id, compact: &[u8]) {
        let Some(slot) = self.slot_of_peer(asker) else {
            return;
        };
        if let Err(too_large) = self.append(slot, compact, None, Some(reference), Growth::Answer) {
            let message = format!(
                "the answer is {} bytes, your max_frame leaves room for {}",
                too_large.envelope_bytes, too_large.limit_bytes
            );
            self.refuse(slot, Kind::Call, reference, Code::ResourceExhausted, &message);
        }
    }

    fn cancel(&mut self, slot: usize, reference: Id) {
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        let peer = session.peer;
        // What this input published before comes before the end that it asks for.
        self.shard.flush_run();
        self.after_shard();
        if self.shard.cancel(peer, reference) {
            self.after_shard();
        } else if let Some(ended) = self.shard.end_subscription(peer, reference) {
            let mut meta = MetaWriter::new().flag("end", true);
            if ended.dropped > 0 {
                meta = meta.uint("dropped", ended.dropped);
            }
            let meta = meta.finish().unwrap_or_default();
            let own = self.ids.next();
            let mut confirmation = answer(Kind::Subscribe, own, reference, None);
            confirmation.meta = Some(Meta::from_checked(&meta));
            self.push(slot, &confirmation);
            self.after_shard();
        } else {
            // A stream of another core's, or it ended a moment ago, or never was.
            self.shard.cancel_elsewhere(peer, reference);
            self.after_shard();
        }
    }

    pub(crate) fn post(&mut self, core: u16, letter: Letter) {
        self.effects.push_back(Effect::Post {
            core: usize::from(core),
            mail: Mail::Shard(letter),
            cause: self.cause,
        });
    }
}

/// What a subscribe asks for beyond its pattern.
struct Wish<'a> {
    group: Option<&'a str>,
    weight: u32,
    in_flight: u32,
    zone: Option<&'a str>,
}

impl<'a> Wish<'a> {
    fn read(meta: Option<&Meta<'a>>) -> Result<Self, Fault> {
        let Some(meta) = meta else {
            return Ok(Self {
                group: None,
                weight: 1,
                in_flight: u32::MAX,
                zone: None,
            });
        };
        let number = |key| -> Result<Option<u32>, Fault> {
            let number = meta.uint(key)?;
            Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
        };
        Ok(Self {
            group: meta.text("group")?,
            weight: number("weight")?.unwrap_or(1),
            in_flight: number("in_flight")?.unwrap_or(u32::MAX),
            zone: meta.text("zone")?,
        })
    }
}
