//! Sessions against byte strings that an MQTT server would send.

use proptest::prelude::*;

use super::super::testing::{Heard, cuts, cuts_do_not_matter, damaged, hand_over, names, payload};
use super::*;

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

/// A session that has connected, asked for a topic (id 1) and, at qos 1, published twice (2 and 3).
fn asked(version: Version, qos: u8) -> MqttSession {
    let mut session = Mqtt::new(version, qos).session(5, &names());
    let mut out = Outgoing::default();
    session.open(&mut out);
    session.subscribe(0, &mut out);
    session.publish(1, &payload(0, 64), &mut out);
    session.publish(1, &payload(1, 64), &mut out);
    session
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    packet::write(first, &parts.concat(), &mut out);
    out
}

fn conversation(version: Version) -> Vec<u8> {
    let is_v5 = version == Version::V5;
    let properties: &[u8] = if is_v5 { &[0] } else { &[] };
    let some: &[u8] = if is_v5 { &[5, 0x26, 0, 0, 0, 0] } else { &[] };
    let connack: &[u8] = if is_v5 {
        &[11, 0x21, 0, 10, 0x24, 1, 0x12, 0, 3, b'a', b'b', b'c']
    } else {
        &[]
    };
    let mut stream = packet(packet::CONNACK, &[&[0, 0], connack]);
    stream.extend(packet(packet::PINGRESP, &[]));
    for sequence in 0..4 {
        stream.extend(packet(
            packet::PUBLISH,
            &[b"\0\x06load.0", properties, &payload(sequence, 64)],
        ));
    }
    stream.extend(packet(
        packet::PUBLISH | 2,
        &[b"\0\x06load.0\x12\x34", some, &payload(4, 300)],
    ));
    stream.extend(packet(
        packet::PUBLISH | 0x0a,
        &[b"\0\x06load.0\x12\x35", some, &payload(5, 64)],
    ));
    stream.extend(packet(packet::DISCONNECT, &[&[0x8b]]));
    stream
}

#[test]
fn a_conversation_is_understood() {
    for version in VERSIONS {
        let outcome = hand_over(&mut asked(version, 1), [&conversation(version)[..]]);
        let mut expected = vec![Heard::Ready, Heard::Pong];
        expected.extend((0..4).map(|sequence| Heard::Event(payload(sequence, 64))));
        expected.extend([Heard::Event(payload(4, 300)), Heard::Event(payload(5, 64))]);
        assert_eq!(outcome.heard, expected);
        assert_eq!(outcome.said, [0x40, 2, 0x12, 0x34, 0x40, 2, 0x12, 0x35]);
        assert!(outcome.fault.is_some());
    }
}

/// A session whose server has accepted it; in MQTT 5 with this receive maximum.
fn open(version: Version, qos: u8, receive_maximum: u16) -> MqttSession {
    let mut session = Mqtt::new(version, qos).session(5, &names());
    let [high, low] = receive_maximum.to_be_bytes();
    let properties: &[u8] = if version == Version::V5 {
        &[3, 0x21, high, low]
    } else {
        &[]
    };
    let connack = packet(packet::CONNACK, &[&[0, 0], properties]);
    assert_eq!(hand_over(&mut session, [&connack[..]]).heard, [Heard::Ready]);
    session
}

#[test]
fn acknowledgements_and_answers_are_told() {
    for version in VERSIONS {
        let mut session = open(version, 1, 20);
        let mut out = Outgoing::default();
        session.subscribe(0, &mut out);
        session.publish(1, b"x", &mut out);
        session.publish(1, b"y", &mut out);
        session.subscribe(1, &mut out);
        session.unsubscribe(1, &mut out);
        let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let stream = [
            packet(packet::SUBACK, &[&[0, 1], properties, &[1]]),
            packet(packet::PUBACK, &[&[0, 3]]),
            packet(packet::PUBACK, &[&[0, 2, 0x87]]),
            packet(packet::SUBACK, &[&[0, 4], properties, &[0x80]]),
            packet(packet::UNSUBACK, &[&[0, 5], properties]),
        ];
        let outcome = hand_over(&mut session, [&stream.concat()[..]]);
        assert_eq!(outcome.fault, None);
        let [
            Heard::Subscribed,
            Heard::Acknowledged(1),
            Heard::Refused(_),
            Heard::Refused(_),
        ] = &outcome.heard[..]
        else {
            panic!("{:?}", outcome.heard);
        };
        assert_eq!(session.talk.ids.take(), Some(1), "all ids are free again");
    }
}

#[test]
fn what_is_said_is_mqtt() {
    let mut out = Outgoing::default();
    for version in VERSIONS {
        let mut session = Mqtt::new(version, 1).session(5, &names());
        session.open(&mut out);
        session.subscribe(0, &mut out);
        session.publish(1, b"abc", &mut out);
        session.ping(&mut out);
        session.close(&mut out);
    }
    let expected = [
        &b"\x10\x15\0\x04MQTT\x04\x02\0\0\0\x09loadgen-5\x82\x0b\0\x01\0\x06load.0\x01"[..],
        b"\x32\x0d\0\x06load.1\0\x02abc\xc0\0\xe0\0",
        b"\x10\x16\0\x04MQTT\x05\x02\0\0\0\0\x09loadgen-5\x82\x0c\0\x01\0\0\x06load.0\x01",
        b"\x32\x0e\0\x06load.1\0\x02\0abc\xc0\0\xe0\0",
    ];
    assert_eq!(
        out.bytes.escape_ascii().to_string(),
        expected.concat().escape_ascii().to_string()
    );
}

#[test]
fn publishes_wait_for_ids_in_order_and_within_a_bound() {
    let mut session = open(Version::V5, 1, 3);
    let mut out = Outgoing::default();
    let most = WAITING_BYTES_MAX / (1_000 + Waiting::HEAD_BYTES);
    let sent = 3 + most as u64 + 5;
    (0..sent).for_each(|sequence| session.publish(0, &payload(sequence, 1_000), &mut out));
    session.subscribe(1, &mut out);
    let mut refused = 0;
    session.poll(&mut |incoming| refused += u64::from(matches!(incoming, Incoming::Refused { .. })));
    assert_eq!(refused, 5);

    // A server that takes them one by one and acknowledges the newest of the three first.
    let mut arrived = Vec::new();
    let mut open_ids = Vec::new();
    let mut subscription = None;
    let mut unread = out.bytes;
    loop {
        let mut at = 0;
        while let Ok(Ok(header)) = Header::read(&unread[at..]) {
            let mut reader = Reader::new(&unread[at + header.body_at..at + header.end]);
            if header.first == packet::SUBSCRIBE {
                subscription = Some(reader.u16().expect("an id"));
            } else {
                reader.text().expect("a topic");
                open_ids.push(reader.u16().expect("an id"));
                reader.skip_properties().expect("properties");
                arrived.push(
                    crate::stamp::Stamp::read(reader.rest())
                        .expect("a stamp")
                        .sequence,
                );
            }
            at += header.end;
        }
        assert!(open_ids.len() <= 3);
        let Some(id) = open_ids.pop() else { break };
        assert!(Some(id) != subscription && !open_ids.contains(&id));
        unread = hand_over(&mut session, [&packet(packet::PUBACK, &[&id.to_be_bytes()])[..]]).said;
    }
    assert!(arrived.iter().copied().eq(0..sent - 5));
    assert_eq!(session.talk.waiting.bytes.capacity(), 0, "memory is given back");
}

#[test]
fn what_is_not_mqtt_is_a_fault() {
    for version in VERSIONS {
        for stream in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x20\x02\0\x05",
            b"\x20\x01\0",
            b"\x20\x80\x80\x80\x80",
            b"\x30\xff\xff\xff\x7f",
            b"\x30\x02\0\0",
        ] {
            assert!(
                hand_over(&mut asked(version, 1), [stream]).fault.is_some(),
                "{stream:?}"
            );
        }
        for stream in [
            &b"\x34\x05\0\x01a\0\x01"[..], // qos 2
            b"\x32\x06\0\x01a\0\0\0",      // packet id 0
            b"\x30\x02\0\x09",
            b"\x40\x02\0\x09",
            b"\x40\x02\0\x00",
            b"\x90\x03\0\x09\0",
            b"\x20\x02\0\0",
            b"\xf0\0",
        ] {
            assert!(
                hand_over(&mut open(version, 1, 9), [stream]).fault.is_some(),
                "{stream:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn cuts_of_a_conversation(cuts in cuts()) {
        for version in VERSIONS {
            cuts_do_not_matter(|| asked(version, 1), &conversation(version), &cuts);
        }
    }

    #[test]
    fn noise_is_a_fault_at_worst(stream in damaged(conversation(Version::V5)), cuts in cuts()) {
        for version in VERSIONS {
            cuts_do_not_matter(|| asked(version, 1), &stream, &cuts);
        }
    }
}
