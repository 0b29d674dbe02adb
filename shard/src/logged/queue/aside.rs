//! Events that no member could handle: published again to the topic that the rules name (`dead_letter`), and done with in
//! their queue once they are stored there.

use fluxar_protocol::limits::TARGET_BYTES_MAX;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Envelope, Form, Id, Kind, Position, envelope};

use crate::log::class::{Class, TopicRule, terms_of};
use crate::log::{CursorName, Events, partition_of};

/// An event to be appended to the log of its dead-letter topic.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    /// The partition of that topic.
    pub(crate) partition: u16,
    /// How.
    pub(crate) class: Class,
    /// The event.
    pub(crate) events: Events,
}

/// Puts a dead letter together: the same payload and meta, with where it was and how often it was given, under an id that
/// follows from the event's and the queue's, so that a second try is recognised as the same.
pub(crate) fn dead_letter(
    queue: &CursorName,
    at: Position,
    event: &[u8],
    deliveries: u32,
    to: &str,
    rules: &[TopicRule],
    partitions: u16,
) -> Option<DeadLetter> {
    debug_assert!((1..=TARGET_BYTES_MAX).contains(&to.len()));
    let dead = envelope::decode(event).ok()?.envelope;
    let facts = |writer: MetaWriter| {
        writer
            .text("x-dead-topic", dead.target.unwrap_or_default())
            .position("x-dead-at", at)
            .uint("x-deliveries", deliveries.into())
    };
    let own = [
        "x-dead-topic",
        "x-dead-at",
        "x-deliveries",
        "qos",
        "ttl_ms",
        "retain",
    ];
    let mut writer = facts(MetaWriter::new()).uint("qos", 2);
    if let Some(meta) = dead.meta {
        let whole = facts(MetaWriter::new().copy(&meta, &own)).uint("qos", 2);
        if whole.fits() {
            writer = whole;
        }
    }
    let meta = writer.finish()?;
    let mut bytes = Vec::new();
    Envelope {
        kind: Kind::Event,
        id: derived_id(queue, dead.id, to),
        reference: None,
        target: Some(to),
        meta: Some(Meta::from_checked(&meta)),
        payload: dead.payload,
        error: None,
    }
    .encode(Form::Compact, &mut bytes);
    let ends = [bytes.len() as u32];
    Some(DeadLetter {
        partition: partition_of(to, partitions),
        class: Class {
            level: terms_of(to, rules).level,
            once: true,
            retain: false,
            expires: false,
        },
        events: Events {
            bytes: bytes.into(),
            ends: ends.into(),
        },
    })
}

/// The same for the same event of the same queue, on every start.
pub(crate) fn derived_id(queue: &CursorName, event: Id, to: &str) -> Id {
    // FNV-1a, 128 bits: nobody gains by finding two that are equal, since ids are their publisher's to choose anyway.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for text in [
        &event.0[..],
        queue.pattern.as_bytes(),
        queue.group.as_bytes(),
        queue.name.as_bytes(),
        to.as_bytes(),
    ] {
        for &byte in text.iter().chain(&[0xff]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    Id(hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> CursorName {
        CursorName {
            principal: "".into(),
            name: "".into(),
            pattern: "orders.*".into(),
            group: "billing".into(),
        }
    }

    fn event(meta: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        Envelope {
            kind: Kind::Event,
            id: Id([7; 16]),
            reference: None,
            target: Some("orders.created"),
            meta: meta.map(Meta::from_checked),
            payload: &[0x18, 0x2a],
            error: None,
        }
        .encode(Form::Compact, &mut bytes);
        bytes
    }

    #[test]
    fn it_says_where_it_was_and_keeps_the_rest() {
        let meta = MetaWriter::new()
            .uint("qos", 1)
            .uint("ttl_ms", 5)
            .text("trace", "00-ab")
            .finish()
            .unwrap();
        let at = Position {
            partition: 9,
            offset: 70_000,
        };
        let make = |event: &[u8]| dead_letter(&queue(), at, event, 5, "dead.orders", &[], 64).unwrap();
        let dead = make(&event(Some(&meta)));
        assert_eq!(dead.partition, partition_of("dead.orders", 64));
        assert!(dead.class.once);
        let read = envelope::decode(dead.events.get(0)).unwrap().envelope;
        assert_eq!(
            (read.target, read.payload),
            (Some("dead.orders"), &[0x18, 0x2a][..])
        );
        let meta = read.meta.unwrap();
        assert_eq!(meta.text("x-dead-topic"), Ok(Some("orders.created")));
        assert_eq!(
            meta.get("x-dead-at"),
            Some(&[0x82, 9, 0x1a, 0, 1, 0x11, 0x70][..])
        );
        assert_eq!(meta.uint("x-deliveries"), Ok(Some(5)));
        assert_eq!(meta.text("trace"), Ok(Some("00-ab")));
        assert_eq!((meta.uint("qos"), meta.uint("ttl_ms")), (Ok(Some(2)), Ok(None)));
        assert_eq!(
            make(&event(None)).events.id(0),
            read.id,
            "it follows from the event's id"
        );
        assert_ne!(read.id, Id([7; 16]));
    }

    #[test]
    fn a_meta_that_is_full_gives_way() {
        let full = (0..32).fold(MetaWriter::new(), |writer, key| {
            writer.flag(&format!("k{key}"), true)
        });
        let full = full.finish().unwrap();
        let at = Position {
            partition: 0,
            offset: 1,
        };
        let dead = dead_letter(&queue(), at, &event(Some(&full)), 1, "dead", &[], 64).unwrap();
        let read = envelope::decode(dead.events.get(0)).unwrap().envelope;
        assert_eq!(
            read.meta.unwrap().text("x-dead-topic"),
            Ok(Some("orders.created"))
        );
    }
}
