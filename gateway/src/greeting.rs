//! The hello and its answer, and the other small CBOR items that the gateway says about itself.

use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::error::{Code, ErrorBody};
use fluxar_protocol::hello::{Handshake, Hello, Welcome};
use fluxar_protocol::{Form, Id, Kind, envelope, limits as wire};
use minicbor::Encoder;

use crate::front::{Effect, Front, answer, ws_code};
use crate::limits::Limits;
use crate::outbox::Framing;
use crate::resume::{Opened, PutOff};

/// Who the gateway says it is.
pub(crate) const AGENT: &str = concat!("fluxar-gateway/", env!("CARGO_PKG_VERSION"));

/// What a peer that speaks no common version is told: `{v: [0]}` [P-7.2].
const VERSIONS: &[u8] = b"\xa1\x61v\x81\x00";

/// A hello that is in order.
pub(crate) struct Greeting<'a> {
    pub(crate) id: Id,
    pub(crate) form: Form,
    pub(crate) hello: Hello<'a>,
}

impl<'a> Greeting<'a> {
    /// Reads a hello again that was read before.
    pub(crate) fn read(hello: &'a [u8]) -> Option<Self> {
        let decoded = envelope::decode(hello).ok()?;
        Some(Self {
            id: decoded.envelope.id,
            form: Handshake::answer_form(decoded.form),
            hello: Hello::decode(decoded.envelope.payload).ok()?,
        })
    }
}

impl Front {
    /// Answers an opening hello: accepts it, or refuses it and closes.
    pub(crate) fn greet(&mut self, slot: usize, decoded: &Decoded<'_>) {
        let id = decoded.envelope.id;
        let form = Handshake::answer_form(decoded.form);
        let hello = match Hello::decode(decoded.envelope.payload) {
            Ok(hello) if hello.v0 => hello,
            Ok(_) => {
                let message = "this gateway speaks version 0 only, which your hello does not offer in `v`";
                let refusal = ErrorBody {
                    details: Some(VERSIONS),
                    ..worded(Code::Unimplemented, message)
                };
                return self.refuse_hello(slot, id, form, &refusal);
            }
            Err(fault) => {
                let message = fault.to_string();
                return self.refuse_hello(slot, id, form, &worded(fault.code(), &message));
            }
        };
        if hello.resume.is_some() && self.limits.resume_ms > 0 {
            return self.put_off(slot, decoded.bytes);
        }
        self.welcome_new(slot, &Greeting { id, form, hello });
    }

    /// Answers a hello that opens a new session.
    pub(crate) fn welcome_new(&mut self, slot: usize, greeting: &Greeting<'_>) {
        let opened = self.new_session(slot, greeting.hello.caps);
        self.welcome(slot, greeting, greeting.form, &opened);
    }

    /// Answers a hello in this form. From here on the session is open.
    pub(crate) fn welcome(&mut self, slot: usize, greeting: &Greeting<'_>, form: Form, opened: &Opened) {
        let Greeting { id, hello, .. } = greeting;
        let own = self.ids.next();
        let agent = self.agents.name(hello.agent);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.handshake.opened();
        session.credit_bytes = hello.credit;
        session.agent = agent;
        session.outbox.greeted(hello.max_frame, form);
        session.due.complete_ms = u64::MAX;
        session.due.heartbeat_ms = self.now_ms + u64::from(self.limits.heartbeat_ms);
        let conn = session.conn;
        if self.framings_of(slot) == Framing::Message {
            self.effects.push_back(Effect::MessageLimit {
                conn,
                bytes: self.limits.max_frame_bytes as usize,
            });
        }
        let mut payload = Vec::with_capacity(224);
        Welcome {
            v: 0,
            session: opened.session,
            token: opened.token.as_ref().map(|token| &token[..]),
            caps: opened.caps(),
            max_frame: self.limits.max_frame_bytes,
            heartbeat_ms: self.limits.heartbeat_ms,
            credit: 0, // what a gateway takes, it can always hand on [P-3.11]
            resumed: opened.resumed,
            recv: opened.recv,
            limits: Some(&self.welcome_limits),
            agent: AGENT,
        }
        .encode(&mut payload);
        let mut welcome = answer(Kind::Hello, own, *id, None);
        welcome.payload = &payload;
        self.push(slot, &welcome);
        self.arm(slot);
    }

    /// Answers a hello that may resume its session, but not now.
    pub(crate) fn refuse_return(&mut self, slot: usize, greeting: &Greeting<'_>, put_off: &PutOff) {
        let refusal = ErrorBody {
            retry_after_ms: Some(put_off.after_ms),
            ..worded(Code::Unavailable, put_off.why)
        };
        self.refuse_hello(slot, greeting.id, greeting.form, &refusal);
    }

    fn refuse_hello(&mut self, slot: usize, id: Id, form: Form, refusal: &ErrorBody<'_>) {
        if let Some(session) = &mut self.sessions[slot] {
            session
                .outbox
                .greeted(wire::FRAME_BYTES_BEFORE_HELLO as u32, form);
        }
        self.counters.refused += 1;
        let mut error = Vec::new();
        refusal.encode(&mut error);
        let own = self.ids.next();
        self.push(slot, &answer(Kind::Hello, own, id, Some(&error)));
        let why = Some((refusal.code, refusal.message));
        self.say_goodbye_until(slot, why, refusal.retry_after_ms, ws_code::POLICY);
    }
}

/// An error without more.
fn worded(code: Code, message: &str) -> ErrorBody<'_> {
    ErrorBody {
        code,
        message,
        details: None,
        retry_after_ms: None,
    }
}

/// Encodes into a `Vec`, which cannot fail.
fn encode(
    write: impl FnOnce(
        &mut Encoder<&mut Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<core::convert::Infallible>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    match write(&mut Encoder::new(&mut out)) {
        Ok(()) => out,
        Err(_) => unreachable!("a Vec takes all that is written to it"),
    }
}

/// `limits` of the welcome: what a client can count on.
pub(crate) fn encode_limits(limits: &Limits) -> Vec<u8> {
    encode(|e| {
        e.map(10)?
            .str("queue_bytes")?
            .u64(limits.queue_bytes as u64)?
            .str("subscriptions")?
            .u32(limits.subscriptions_per_connection)?
            .str("calls")?
            .u32(limits.calls_per_connection)?
            .str("messages_per_s")?
            .u32(limits.messages_per_s)?
            .str("bytes_per_s")?
            .u32(limits.bytes_per_s)?
            .str("publish_unacked_bytes")?
            .u64(limits.publish_unacked_bytes as u64)?
            .str("unacked_bytes")?
            .u64(limits.unacked_bytes as u64)?
            .str("unacked_events")?
            .u32(limits.unacked_events)?
            .str("resume_ms")?
            .u32(limits.resume_ms)?
            .str("resume_bytes")?
            .u64(limits.resume_bytes as u64)?;
        Ok(())
    })
}

/// `details` of a refused publish: how many were refused since the last word about it.
pub(crate) fn encode_refused(refused: u64) -> Vec<u8> {
    encode(|e| {
        e.map(1)?.str("refused")?.u64(refused)?;
        Ok(())
    })
}

/// A number.
pub(crate) fn encode_uint(number: u64) -> Vec<u8> {
    encode(|e| e.u64(number).map(|_| ()))
}

/// The payload of an accepted subscription to topics without a log.
pub(crate) fn encode_accepted(epoch: u64) -> Vec<u8> {
    encode(|e| {
        e.map(2)?.str("epoch")?.u64(epoch)?.str("at")?.array(0)?;
        Ok(())
    })
}

/// An `error` field.
pub(crate) fn encode_error(code: Code, message: &str) -> Vec<u8> {
    let mut error = Vec::new();
    worded(code, message).encode(&mut error);
    error
}
