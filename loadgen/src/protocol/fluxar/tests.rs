//! Sessions against byte strings that a gateway would send, made by the encoder of the protocol crate.

use fluxar_protocol::frame::prefix;
use fluxar_protocol::{Batch, Form};
use proptest::prelude::*;

use super::super::testing::{Heard, Outcome, cuts, cuts_do_not_matter, damaged, hand_over, names, payload};
use super::*;

const OURS: Id = Id([9; 16]);

fn session(settings: Settings) -> FluxarSession {
    Fluxar::new(settings).session(5, &names())
}

/// A session that said hello and asked for a topic, with the ids of both.
fn asked(settings: Settings) -> (FluxarSession, Id, Id) {
    let mut session = session(settings);
    let mut out = Outgoing::default();
    session.open(&mut out);
    session.subscribe(0, &mut out);
    session.seal(&mut out);
    let hello = session.talk.hello.expect("a hello");
    let subscription = session.talk.subscriptions[0].id;
    (session, hello, subscription)
}

fn encoded(
    kind: Kind,
    reference: Option<Id>,
    target: Option<&str>,
    meta: MetaWriter,
    payload: &[u8],
    error: Option<(Code, &str)>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let meta = meta.finish();
    let error = error.map(|(code, message)| {
        let mut bytes = Vec::new();
        ErrorBody {
            code,
            message,
            details: None,
            retry_after_ms: None,
        }
        .encode(&mut bytes);
        bytes
    });
    Envelope {
        kind,
        id: OURS,
        reference,
        target,
        meta: meta.as_deref().map(Meta::from_checked),
        payload,
        error: error.as_deref(),
    }
    .encode(Form::Compact, &mut bytes);
    bytes
}

fn note(id: Id, meta: MetaWriter) -> Vec<u8> {
    encoded(Kind::Subscribe, Some(id), None, meta, &[], None)
}

fn event(sequence: u64, bytes: usize) -> Vec<u8> {
    let mut event = encoded(
        Kind::Event,
        None,
        Some("load.0"),
        MetaWriter::new().text("type", "reading/1"),
        &payload(sequence, bytes),
        None,
    );
    envelope::patch_id(&mut event, Id((sequence as u128 + 1).to_le_bytes()));
    event
}

fn welcome(hello: Id) -> Vec<u8> {
    let mut payload = Vec::new();
    Welcome {
        v: 0,
        session: OURS,
        token: None,
        caps: Default::default(),
        max_frame: 1 << 20,
        heartbeat_ms: 15_000,
        credit: 0,
        resumed: false,
        recv: 0,
        limits: None,
        agent: "gateway",
    }
    .encode(&mut payload);
    encoded(Kind::Hello, Some(hello), None, MetaWriter::new(), &payload, None)
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&prefix(body.len())[..], body].concat()
}

/// A whole conversation: hello, acceptance, events one by one and in batches, drops, a call, pings, the end.
fn conversation(hello: Id, subscription: Id) -> Vec<u8> {
    let meta = MetaWriter::new;
    let call = encoded(
        Kind::Call,
        None,
        Some("work.echo"),
        meta().uint("timeout_ms", 5),
        &payload(1, 40),
        None,
    );
    let mut bodies = vec![welcome(hello), note(subscription, meta()), vec![]];
    bodies.extend((0..3).map(|sequence| event(sequence, 64)));
    bodies.push((3..9).flat_map(|sequence| event(sequence, 64)).collect());
    bodies.push(
        (9..12)
            .flat_map(|sequence| event(sequence, 24 + sequence as usize * 7))
            .collect(),
    );
    bodies.push(note(subscription, meta().uint("dropped", 5)));
    bodies.push(note(subscription, meta().uint("dropped", 7)));
    bodies.push([call.clone(), call, event(12, 64)].concat());
    bodies.push(encoded(Kind::Ping, None, None, meta(), &[], None));
    bodies.push(encoded(Kind::Ping, Some(OURS), None, meta(), &[], None));
    bodies.push(encoded(
        Kind::Call,
        Some(OURS),
        None,
        meta(),
        &payload(4, 64),
        None,
    ));
    bodies.push(encoded(
        Kind::Call,
        Some(OURS),
        None,
        meta(),
        &payload(5, 64),
        None,
    ));
    let nobody = (Code::Unavailable, "nobody serves it");
    bodies.push(encoded(Kind::Call, Some(OURS), None, meta(), &[], Some(nobody)));
    bodies.push(encoded(
        Kind::Cancel,
        None,
        None,
        meta(),
        &[],
        Some((Code::Unavailable, "shutting down")),
    ));
    bodies.iter().flat_map(|body| framed(body)).collect()
}

#[test]
fn a_conversation_is_understood() {
    let (mut session, hello, subscription) = asked(Settings::default());
    let outcome = hand_over(&mut session, [&conversation(hello, subscription)[..]]);
    let mut expected = vec![Heard::Ready, Heard::Subscribed];
    expected.extend((0..9).map(|sequence| Heard::Event(payload(sequence, 64))));
    expected.extend((9..12).map(|sequence| Heard::Event(payload(sequence, 24 + sequence as usize * 7))));
    expected.extend([Heard::Dropped(5), Heard::Dropped(2), Heard::Served, Heard::Served]);
    expected.extend([Heard::Event(payload(12, 64)), Heard::Pong]);
    expected.extend([Heard::Answer(payload(4, 64)), Heard::Answer(payload(5, 64))]);
    expected.push(Heard::Refused("unavailable: nobody serves it".into()));
    assert_eq!(outcome.heard, expected);
    let fault = outcome.fault.expect("an end");
    assert!(fault.ends_with("unavailable: shutting down"), "{fault}");

    let mut said = &outcome.said[..];
    let mut answers = Vec::new();
    let mut deframer = Deframer::new();
    while let Some(body) = deframer.next(&mut said, 1 << 20).expect("frames") {
        for decoded in Batch::new(body) {
            let envelope = decoded.expect("an envelope").envelope;
            answers.push((envelope.kind, envelope.reference, envelope.payload.to_vec()));
        }
    }
    let echo = (Kind::Call, Some(OURS), payload(1, 40));
    assert_eq!(
        answers,
        [echo.clone(), echo, (Kind::Ping, Some(OURS), vec![0xf6])]
    );
}

/// The header of a run of logged events.
fn run(id: Id, first: u64, deltas: &[u64], dup: Option<u64>) -> Vec<u8> {
    let meta = MetaWriter::new().positions("run", 7, first, deltas.iter().copied());
    note(id, dup.map_or(meta.clone(), |dup| meta.uint("dup", dup)))
}

/// The ids of the sessions that [`storing`] makes.
fn own_id(number: usize) -> Id {
    let mut ids = Ids::new(1, 1);
    (0..=number).map(|_| ids.next()).last().expect("one at least")
}

/// A session at qos 1 that said hello, asked for a topic and published five times; its ids are those of [`own_id`], in this order.
fn storing() -> FluxarSession {
    let mut session = session(Settings {
        qos: 1,
        ..Settings::default()
    });
    session.talk.ids = Ids::new(1, 1);
    let mut out = Outgoing::default();
    session.open(&mut out);
    session.subscribe(0, &mut out);
    (0..5).for_each(|sequence| session.publish(0, &payload(sequence, 64), &mut out));
    session.seal(&mut out);
    session
}

fn acknowledgement(publish: Id, offset: u64) -> Vec<u8> {
    let meta = MetaWriter::new().position("at", Position { partition: 7, offset });
    encoded(Kind::Event, Some(publish), None, meta, &[], None)
}

/// What a session of [`storing`] hears: runs, one of them in the form that is not usual, and acknowledgements of publishes.
fn stored_conversation() -> Vec<u8> {
    let [hello, subscription] = [own_id(0), own_id(1)];
    let ack = |publish: usize, offset| acknowledgement(own_id(2 + publish), offset);
    let no_space = (Code::ResourceExhausted, "no space");
    let bodies = [
        welcome(hello),
        note(subscription, MetaWriter::new()),
        [
            &run(subscription, 5, &[1, 1], None)[..],
            &event(0, 64),
            &event(1, 64),
            &event(2, 40),
        ]
        .concat(),
        [&run(subscription, 9, &[], Some(1))[..], &event(3, 64)].concat(),
        note(
            subscription,
            MetaWriter::new().position(
                "at",
                Position {
                    partition: 7,
                    offset: 400,
                },
            ),
        ),
        // Of one that ended a moment ago.
        [&run(Id([8; 16]), 1, &[1], None)[..], &event(4, 64), &event(5, 64)].concat(),
        [ack(0, 1), ack(1, 24), ack(3, 70_000)].concat(),
        encoded(
            Kind::Event,
            Some(own_id(6)),
            None,
            MetaWriter::new(),
            &[],
            Some(no_space),
        ),
    ];
    bodies.iter().flat_map(|body| framed(body)).collect()
}

#[test]
fn runs_are_acknowledged_together_up_to_their_last_event() {
    let (mut session, subscription) = (storing(), own_id(1));
    let outcome = hand_over(&mut session, [&stored_conversation()[..]]);
    assert_eq!(outcome.fault, None);
    let mut expected = vec![Heard::Ready, Heard::Subscribed];
    let sizes = [64, 64, 40, 64, 64, 64];
    expected.extend(
        (0..)
            .zip(sizes)
            .map(|(sequence, bytes)| Heard::Event(payload(sequence, bytes))),
    );
    expected.push(Heard::Acknowledged(3));
    expected.push(Heard::Refused("resource_exhausted: no space".into()));
    assert_eq!(outcome.heard, expected);
    let mut said = &outcome.said[..];
    let mut deframer = Deframer::new();
    let body = deframer
        .next(&mut said, 1 << 20)
        .expect("a frame")
        .expect("a body");
    let said: Vec<_> = Batch::new(body)
        .map(|decoded| decoded.expect("an envelope").envelope)
        .collect();
    let [ack] = &said[..] else { panic!("{said:?}") };
    assert_eq!((ack.kind, ack.reference), (Kind::Event, Some(subscription)));
    let read = ack
        .meta
        .and_then(|meta| meta.ack().expect("positions"))
        .expect("an ack");
    assert_eq!((read.partition(), read.first(), read.count()), (7, 9, 1));

    // Events of a run stand behind its header, in the same body.
    let short = framed(&[&run(subscription, 10, &[1, 1], None)[..], &event(6, 64)].concat());
    let fault = hand_over(&mut session, [&short[..]]).fault.expect("a fault");
    assert!(fault.contains("2 events of it"), "{fault}");
}

#[test]
fn an_acknowledgement_that_nobody_waits_for_is_a_fault() {
    let others = Ids::new(1, 2).next();
    for publish in [own_id(2), own_id(6), own_id(7), own_id(0), others, OURS] {
        // The usual form, and one that is read in full.
        for is_usual in [true, false] {
            let mut session = storing();
            assert_eq!(hand_over(&mut session, [&stored_conversation()[..]]).fault, None);
            let meta = MetaWriter::new().position(
                "at",
                Position {
                    partition: 7,
                    offset: 9,
                },
            );
            let meta = if is_usual { meta } else { meta.text("x", "y") };
            let one_more = framed(&encoded(Kind::Event, Some(publish), None, meta, &[], None));
            let outcome = hand_over(&mut session, [&one_more[..]]);
            let fault = outcome.fault.expect("a fault");
            assert!(fault.contains("not under way"), "{fault}");
            assert_eq!(outcome.heard, []);
        }
    }
    // The one that is still under way, and then again.
    let mut session = storing();
    hand_over(&mut session, [&stored_conversation()[..]]);
    let twice = [
        acknowledgement(own_id(4), 70_001),
        acknowledgement(own_id(4), 70_002),
    ]
    .concat();
    let outcome = hand_over(&mut session, [&framed(&twice)[..]]);
    assert_eq!(
        (outcome.heard, outcome.fault.is_some()),
        (vec![Heard::Acknowledged(1)], true)
    );
}

#[test]
fn what_is_refused_or_ends_is_told() {
    let (mut session, _, subscription) = asked(Settings::default());
    let error = (Code::Unimplemented, "qos 1 is not served");
    let meta = MetaWriter::new;
    let bodies = [
        encoded(Kind::Event, Some(OURS), None, meta(), &[], Some(error)),
        encoded(
            Kind::Subscribe,
            Some(subscription),
            None,
            meta(),
            &[],
            Some(error),
        ),
        note(subscription, meta()), // it is over: nothing that a late note says counts
    ];
    let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
    let refused = Heard::Refused("unimplemented: qos 1 is not served".into());
    let outcome = hand_over(&mut session, [&stream[..]]);
    assert_eq!(
        (outcome.heard, outcome.fault),
        (vec![refused.clone(), refused], None)
    );

    let (mut session, hello, _) = asked(Settings::default());
    let refusal = (Code::Unauthenticated, "who are you?");
    let body = encoded(Kind::Hello, Some(hello), None, meta(), &[], Some(refusal));
    let fault = hand_over(&mut session, [&framed(&body)[..]])
        .fault
        .expect("a fault");
    assert!(fault.contains("unauthenticated: who are you?"), "{fault}");
}

#[test]
fn a_refusal_of_publishes_counts_each_of_them() {
    let mut session = session(Settings::default());
    let mut out = Outgoing::default();
    (0..3).for_each(|sequence| session.publish(0, &payload(sequence, 64), &mut out));
    session.seal(&mut out);
    for (claimed, counted) in [(2, 2), (u32::MAX, 3)] {
        let details = MetaWriter::new().uint("refused", claimed.into()).finish();
        let mut error = Vec::new();
        ErrorBody {
            code: Code::InvalidArgument,
            message: "no",
            details: details.as_deref(),
            retry_after_ms: None,
        }
        .encode(&mut error);
        let mut body = Vec::new();
        Envelope {
            kind: Kind::Event,
            id: OURS,
            reference: Some(OURS),
            target: None,
            meta: None,
            payload: &[],
            error: Some(&error),
        }
        .encode(Form::Compact, &mut body);
        let outcome = hand_over(&mut session, [&framed(&body)[..]]);
        assert_eq!(outcome.heard.len(), counted);
    }
}

#[test]
fn a_turn_is_one_frame_if_batched_and_within_its_bounds() {
    for (batch, framing) in [
        (true, Framing::Stream),
        (true, Framing::Messages),
        (false, Framing::Stream),
        (false, Framing::Messages),
    ] {
        let mut session = session(Settings {
            batch,
            framing,
            ..Settings::default()
        });
        session.talk.frames.peer_takes(1 << 20);
        let mut out = Outgoing::default();
        (0..1_000).for_each(|sequence| session.publish(1, &payload(sequence, 200), &mut out));
        session.seal(&mut out);
        let mut bodies = Vec::new();
        if framing == Framing::Stream {
            let (mut deframer, mut input) = (Deframer::new(), &out.bytes[..]);
            while let Some(body) = deframer.next(&mut input, 64 << 10).expect("within the bound") {
                bodies.push(body.to_vec());
            }
            assert!(!deframer.is_partial() && out.ends.is_empty());
        } else {
            let mut start = 0;
            for end in &out.ends {
                bodies.push(out.bytes[start..*end].to_vec());
                start = *end;
            }
            assert_eq!(start, out.bytes.len());
        }
        assert_eq!(
            bodies.len(),
            if batch {
                out.bytes.len().div_ceil(65_536)
            } else {
                1_000
            }
        );
        let mut ids = Vec::new();
        for body in &bodies {
            assert!(body.len() <= 64 << 10);
            for decoded in Batch::new(body) {
                let envelope = decoded.expect("an envelope").envelope;
                assert_eq!(envelope.payload, payload(ids.len() as u64, 200));
                ids.push(envelope.id);
            }
        }
        assert_eq!(ids.len(), 1_000);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 1_000, "ids are unique");
    }
}

#[test]
fn sessions_do_not_share_ids() {
    let mut ids: Vec<Id> = (0..10_000).map(|number| Ids::new(1, number).next()).collect();
    assert!(ids.iter().all(|id| id.0[6] >> 4 == 8 && id.0[8] >> 6 == 0b10));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10_000);
}

/// Without shapes everything is read in full.
fn slow(bodies: &[Vec<u8>]) -> Outcome {
    let mut session = session(Settings::default());
    let mut outcome = Outcome::default();
    for body in bodies {
        session.talk.shapes = Shapes::default();
        let one = hand_over(&mut session, [&framed(body)[..]]);
        outcome.heard.extend(one.heard);
        outcome.said.extend(one.said);
        if one.fault.is_some() {
            outcome.fault = one.fault;
            break;
        }
    }
    outcome
}

fn fast(bodies: &[Vec<u8>]) -> (Outcome, usize) {
    let mut session = session(Settings::default());
    let mut outcome = Outcome::default();
    for body in bodies {
        let one = hand_over(&mut session, [&framed(body)[..]]);
        outcome.heard.extend(one.heard);
        outcome.said.extend(one.said);
        if one.fault.is_some() {
            outcome.fault = one.fault;
            break;
        }
    }
    (outcome, session.talk.shapes.known_count())
}

/// Payloads with stamps, some that only look so, and some without.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![
        Just(vec![]),
        Just(vec![0x61, b'd', 0x18, 0x2a]),
        Just(vec![0x61, b'd', 0xf5])
    ];
    let head =
        prop_oneof![4 => Just(0xa1_u8), 1 => Just(0xb8), 1 => Just(0xd8), 1 => Just(0x78), 1 => any::<u8>()];
    (head, any::<[u8; 20]>(), tail).prop_map(|(head, stamp, tail)| {
        let head = if tail.is_empty() || head != 0xa1 {
            head
        } else {
            0xa2
        };
        [&[head, 0x61, b's', 0x54][..], &stamp, &tail].concat()
    })
}

fn any_envelope() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(Kind::Event), Just(Kind::Call)];
    let meta = prop_oneof![Just(false), Just(true)];
    let damage =
        prop_oneof![3 => Just(None), 1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some)];
    (kind, any::<bool>(), meta, any_payload(), damage).prop_map(|(kind, has_ref, meta, payload, damage)| {
        let meta = if meta {
            MetaWriter::new().text("type", "x")
        } else {
            MetaWriter::new()
        };
        let target = (!has_ref).then_some("load.0");
        let mut bytes = encoded(kind, has_ref.then_some(OURS), target, meta, &payload, None);
        if let Some((at, byte)) = damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn recognising_equals_reading(bodies in prop::collection::vec(any_envelope(), 1..24)) {
        let (fast, known) = fast(&bodies);
        prop_assert!(known <= 4);
        let slow = slow(&bodies);
        prop_assert_eq!(&fast.heard, &slow.heard);
        prop_assert_eq!(&fast.fault, &slow.fault);
        prop_assert_eq!(fast.said.len(), slow.said.len()); // the ids of the two sessions differ
    }

    #[test]
    fn cuts_of_a_conversation(cuts in cuts()) {
        let (_, hello, subscription) = asked(Settings::default());
        let stream = conversation(hello, subscription);
        let protocol = Fluxar::new(Settings::default());
        let make = || {
            let mut session = protocol.session(5, &names());
            let mut out = Outgoing::default();
            session.open(&mut out);
            session.subscribe(0, &mut out);
            session.seal(&mut out);
            session.talk.hello = Some(hello);
            session.talk.subscriptions[0].id = subscription;
            session
        };
        cuts_do_not_matter(make, &stream, &cuts);
    }

    #[test]
    fn cuts_of_a_stored_conversation(cuts in cuts(), is_noise: bool, noise in damaged(stored_conversation())) {
        let stream = if is_noise { noise } else { stored_conversation() };
        cuts_do_not_matter(storing, &stream, &cuts);
    }

    #[test]
    fn noise_is_a_fault_at_worst(stream in damaged({
        let (_, hello, subscription) = asked(Settings::default());
        conversation(hello, subscription)
    }), cuts in cuts()) {
        let protocol = Fluxar::new(Settings::default());
        cuts_do_not_matter(|| protocol.session(5, &names()), &stream, &cuts);
    }
}

#[test]
fn a_text_in_place_of_a_stamp_is_not_taken_for_one() {
    // A text of 0x61 bytes that happens to go on like a stamp: its bytes must stay UTF-8.
    let text = |byte: u8| {
        let mut payload = vec![0x78, 0x61, b's', 0x54];
        payload.resize(24, byte); // where a stamp would be
        payload.resize(2 + 0x61, b'a');
        framed(&encoded(
            Kind::Event,
            None,
            Some("load.0"),
            MetaWriter::new(),
            &payload,
            None,
        ))
    };
    let mut session = session(Settings::default());
    assert_eq!(hand_over(&mut session, [&text(b'a')[..]]).heard.len(), 1);
    assert!(hand_over(&mut session, [&text(0xff)[..]]).fault.is_some());
}
