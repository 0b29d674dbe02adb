//! The registered keys: which messages use them, and what their values must be [P-4].

use super::{Meta, Qos};
use crate::envelope::Kind;
use crate::error::Fault;
use crate::head;
use crate::limits::NAME_TEXT_BYTES_MAX;
use crate::position::{Begin, Position, Positions};

/// The messages that a key is used by, a bit for each: the type, and whether ref is set.
type Users = u16;

const fn user(kind: Kind, has_ref: bool) -> Users {
    1 << (2 * (kind as u16 - 1) + has_ref as u16)
}

const CALL: Users = user(Kind::Call, false);
const STREAM_OPEN: Users = user(Kind::Stream, false);
const STREAM: Users = STREAM_OPEN | user(Kind::Stream, true);
const SUBSCRIBE: Users = user(Kind::Subscribe, false);
const NOTE: Users = user(Kind::Subscribe, true);
const PUBLISH: Users = user(Kind::Event, false);
const ACK: Users = user(Kind::Event, true);
const PING: Users = user(Kind::Ping, false) | user(Kind::Ping, true);
const HELLO: Users = user(Kind::Hello, false) | user(Kind::Hello, true);
const ANSWER: Users = user(Kind::Call, true);
const ANY: Users = Users::MAX;

/// What a value is checked by.
type Check = fn(&[u8]) -> bool;

/// The registered key with this content: itself, its users, and what its value must be.
fn registered(key: &[u8]) -> Option<(&'static str, Users, Check)> {
    Some(match key {
        b"qos" => ("qos", PUBLISH | SUBSCRIBE, |item| Qos::from_item(item).is_some()),
        b"serve" => ("serve", SUBSCRIBE, is_bool),
        b"group" => ("group", SUBSCRIBE, is_name),
        b"run" => ("run", NOTE, |item| {
            is_uint(item) || Positions::read(item).is_some()
        }),
        b"dropped" => ("dropped", NOTE, is_uint),
        b"end" => ("end", STREAM | NOTE, is_bool),
        b"timeout_ms" => ("timeout_ms", CALL | STREAM_OPEN, is_uint),
        b"durable" => ("durable", SUBSCRIBE, is_name),
        b"from" => ("from", SUBSCRIBE, |item| Begin::read(item).is_some()),
        b"retain" => ("retain", PUBLISH | SUBSCRIBE, is_bool),
        b"skip_damaged" => ("skip_damaged", SUBSCRIBE, is_bool),
        b"at" => ("at", ACK | NOTE, |item| Position::read(item).is_some()),
        b"ack" => ("ack", ACK, |item| Positions::read(item).is_some()),
        b"epoch" => ("epoch", NOTE, is_uint),
        b"dup" => ("dup", NOTE, is_uint),
        b"key" => ("key", PUBLISH | CALL | STREAM_OPEN, |item| {
            is_text(item) || head::as_bytes(item).is_some()
        }),
        b"ttl_ms" => ("ttl_ms", PUBLISH, is_uint),
        b"prio" => ("prio", CALL | STREAM_OPEN, |item| {
            head::as_uint(item).is_some_and(|prio| prio <= 7)
        }),
        b"weight" => ("weight", SUBSCRIBE, is_uint),
        b"in_flight" => ("in_flight", SUBSCRIBE, |item| {
            head::as_uint(item).is_some_and(|calls| calls > 0)
        }),
        b"zone" => ("zone", SUBSCRIBE, is_name),
        b"idempotent" => ("idempotent", CALL, is_bool),
        b"hedge_ms" => ("hedge_ms", CALL, is_uint),
        b"credit" => ("credit", STREAM, is_uint),
        b"recv" => ("recv", PING | HELLO, is_uint),
        b"type" => ("type", ANY, is_text),
        b"trace" => ("trace", ANY, is_text),
        b"seal" => ("seal", CALL | ANSWER | STREAM | PUBLISH | ACK, head::is_map),
        _ => return None,
    })
}

impl Meta<'_> {
    /// Checks the values of the registered keys that such a message uses.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] names the first key whose value has the wrong type or range.
    pub fn check_values(&self, kind: Kind, has_ref: bool) -> Result<(), Fault> {
        for (key, value) in self.entries() {
            match registered(key) {
                Some((name, users, is_valid)) if users & user(kind, has_ref) != 0 && !is_valid(value) => {
                    return Err(Fault::MetaValue(name));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_uint(item: &[u8]) -> bool {
    head::as_uint(item).is_some()
}

fn is_bool(item: &[u8]) -> bool {
    head::as_bool(item).is_some()
}

/// A text of definite length. That it is UTF-8 was checked with the map.
fn is_text(item: &[u8]) -> bool {
    head::is_definite_text(item)
}

/// A text of 1..=255 bytes.
fn is_name(item: &[u8]) -> bool {
    head::as_text(item).is_some_and(|text| (1..=NAME_TEXT_BYTES_MAX).contains(&text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::MetaWriter;

    fn check(key: &str, item: &[u8], kind: Kind, has_ref: bool) -> Result<(), Fault> {
        let raw = MetaWriter::new().raw(key, item).finish().unwrap();
        Meta::from_checked(&raw).check_values(kind, has_ref)
    }

    #[test]
    fn values_of_used_keys_are_checked() {
        for (key, kind, has_ref, good, bad) in [
            (
                "qos",
                Kind::Event,
                false,
                &[&[2][..], &[0x18, 1]][..],
                &[&[3][..], &[0x20], &[0xf6]][..],
            ),
            (
                "serve",
                Kind::Subscribe,
                false,
                &[&[0xf5], &[0xf4]],
                &[&[1], &[0xf6]],
            ),
            (
                "skip_damaged",
                Kind::Subscribe,
                false,
                &[&[0xf5], &[0xf4]],
                &[&[1], &[0x80]],
            ),
            (
                "group",
                Kind::Subscribe,
                false,
                &[b"\x61g"],
                &[b"\x60", b"\x41g", b"\x7f\x61g\xff"],
            ),
            (
                "run",
                Kind::Subscribe,
                true,
                &[&[3], &[0x82, 0, 1]],
                &[&[0x81, 0], &[0x20]],
            ),
            (
                "at",
                Kind::Event,
                true,
                &[&[0x82, 0, 1]],
                &[&[0x83, 0, 1, 1], &[0x80], &[1]],
            ),
            (
                "ack",
                Kind::Event,
                true,
                &[&[0x82, 0, 1], &[0x84, 0, 1, 1, 1]],
                &[&[0x81, 0]],
            ),
            ("prio", Kind::Call, false, &[&[0], &[7]], &[&[8], &[0x20]]),
            (
                "key",
                Kind::Event,
                false,
                &[b"\x61k", b"\x41k", b"\x60"],
                &[&[1], b"\x5f\xff"],
            ),
            ("trace", Kind::Ping, true, &[b"\x60"], &[b"\x40"]),
            ("seal", Kind::Call, true, &[b"\xa0"], &[b"\x80"]),
            (
                "from",
                Kind::Subscribe,
                false,
                &[
                    b"\x63new",
                    b"\x63all",
                    b"\xa1\x67time_ms\x01",
                    b"\xa2\x62at\x81\x82\x00\x01\x65epoch\x01",
                ],
                &[
                    b"\x63old",
                    b"\xa0",
                    b"\xa1\x65epoch\x01",
                    b"\xa1\x62at\x80",
                    b"\xa2\x65epoch\x01\x62at\x81\x00",
                ],
            ),
        ] {
            for item in good {
                assert_eq!(check(key, item, kind, has_ref), Ok(()), "{key} {item:x?}");
            }
            for item in bad {
                assert!(
                    matches!(check(key, item, kind, has_ref), Err(Fault::MetaValue(name)) if name == key),
                    "{key} {item:x?}"
                );
            }
        }
    }

    #[test]
    fn what_a_type_does_not_use_is_not_looked_at() {
        assert_eq!(check("qos", &[9], Kind::Call, false), Ok(()));
        assert_eq!(check("timeout_ms", &[0xf6], Kind::Call, true), Ok(()));
        assert_eq!(check("x-mine", &[0xf6], Kind::Event, false), Ok(()));
    }
}
