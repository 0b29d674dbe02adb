//! Messages as peers send them, for the benches: what is decoded, given to subscribers, encoded.

use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Envelope, Form, Id, Kind, limits};

/// An envelope's parts, owned.
#[derive(Debug, Clone)]
pub struct Message {
    /// What a bench calls it.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its target.
    pub target: Option<&'static str>,
    /// Its encoded meta.
    pub meta: Option<Vec<u8>>,
    /// Its encoded payload.
    pub payload: Vec<u8>,
}

/// The topic of all events but the least one.
pub const TOPIC: &str = "sensors.hall-3.climate";

impl Message {
    /// The envelope with these parts.
    #[must_use]
    pub fn envelope(&self) -> Envelope<'_> {
        Envelope {
            kind: self.kind,
            id: Id([0x5a; 16]),
            reference: None,
            target: self.target,
            meta: self.meta.as_deref().map(Meta::from_checked),
            payload: &self.payload,
            error: None,
        }
    }

    /// That envelope's bytes.
    #[must_use]
    pub fn encoded(&self, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        self.envelope().encode(form, &mut out);
        out
    }
}

/// An event of 109 bytes that says little: five fields in a map of 64 bytes.
#[must_use]
pub fn small_event() -> Message {
    event("event_small", None, small_reading())
}

/// The same with `qos`, `timeout_ms` and `trace` in its meta.
#[must_use]
pub fn small_event_with_meta() -> Message {
    event("event_small_with_meta", three_keys(), small_reading())
}

/// An event of 128 bytes: six fields, one of them an array.
#[must_use]
pub fn reading_event() -> Message {
    event("event", None, reading())
}

/// One of each that the benches of the codec go through.
#[must_use]
pub fn messages() -> Vec<Message> {
    vec![
        reading_event(),
        event("event_with_meta", three_keys(), reading()),
        small_event(),
        small_event_with_meta(),
        Message {
            target: Some("a"),
            ..event("event_least", None, vec![0xf6])
        },
        Message {
            name: "call",
            kind: Kind::Call,
            target: Some("users.getProfile"),
            meta: None,
            payload: b"\xa1\x62id\x18\x2a".to_vec(),
        },
        Message {
            name: "hello",
            kind: Kind::Hello,
            target: None,
            meta: None,
            payload: hello_payload(),
        },
    ]
}

/// What a client of the SDK says first.
#[must_use]
pub fn hello() -> Hello<'static> {
    Hello {
        caps: Caps {
            resume: true,
            ..Caps::default()
        },
        agent: "bench/1.0",
        ..Hello::default()
    }
}

/// What a gateway answers.
#[must_use]
pub fn welcome() -> Welcome<'static> {
    Welcome {
        v: 0,
        session: Id([0xa5; 16]),
        token: None,
        caps: Caps::default(),
        max_frame: limits::FRAME_BYTES_DEFAULT as u32,
        heartbeat_ms: limits::HEARTBEAT_MS_DEFAULT,
        credit: limits::CREDIT_BYTES_DEFAULT,
        resumed: false,
        recv: 0,
        limits: None,
        agent: "fluxar-gateway/0.1.0",
    }
}

fn hello_payload() -> Vec<u8> {
    let mut payload = Vec::new();
    hello().encode(&mut payload);
    payload
}

fn event(name: &'static str, meta: Option<Vec<u8>>, payload: Vec<u8>) -> Message {
    Message {
        name,
        kind: Kind::Event,
        target: Some(TOPIC),
        meta,
        payload,
    }
}

fn three_keys() -> Option<Vec<u8>> {
    MetaWriter::new()
        .uint("qos", 0)
        .uint("timeout_ms", 1500)
        .text("trace", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .finish()
}

fn small_reading() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut out);
    let written = encoder
        .map(5)
        .and_then(|encoder| encoder.str("sensor")?.str("hall-3/rack-17"))
        .and_then(|encoder| encoder.str("time_ms")?.u64(1_790_000_000_123))
        .and_then(|encoder| encoder.str("celsius")?.f32(21.4))
        .and_then(|encoder| encoder.str("rpm")?.u16(1200))
        .and_then(|encoder| encoder.str("ok")?.bool(true))
        .is_ok();
    assert!(written);
    out
}

fn reading() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut out);
    let written = encoder
        .map(6)
        .and_then(|encoder| encoder.str("sensor")?.str("hall-3/rack-17"))
        .and_then(|encoder| encoder.str("time_ms")?.u64(1_790_000_000_123))
        .and_then(|encoder| encoder.str("celsius")?.f32(21.4))
        .and_then(|encoder| encoder.str("humidity")?.f32(0.43))
        .and_then(|encoder| encoder.str("rpm")?.array(3)?.u16(1200)?.u16(1180)?.u16(0))
        .and_then(|encoder| encoder.str("ok")?.bool(true))
        .is_ok();
    assert!(written);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_they_are_said_to_be() {
        for message in messages() {
            let bytes = message.encoded(Form::Compact);
            let decoded = fluxar_protocol::envelope::decode(&bytes).expect(message.name);
            assert_eq!(decoded.envelope, message.envelope(), "{}", message.name);
            assert!(fluxar_protocol::exchange::verb(&decoded.envelope).is_ok());
        }
        assert_eq!(small_event().payload.len(), 64);
        assert_eq!(small_event().encoded(Form::Compact).len(), 109);
        assert_eq!(reading_event().encoded(Form::Compact).len(), 128);
    }
}
