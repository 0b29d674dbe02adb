//! Two sessions that talk to each other without anybody between: one connected, the other was connected to.

use super::super::testing::{Heard, hand_over, names, payload};
use super::*;

struct Pair {
    client: FluxarSession,
    service: FluxarSession,
    /// What each has to say.
    from_client: Outgoing,
    from_service: Outgoing,
}

impl Pair {
    fn new(framing: Framing, credit_bytes: u32) -> Pair {
        let protocol = Fluxar::new(Settings {
            framing,
            credit_bytes,
            ..Settings::default()
        });
        let names = names();
        let mut pair = Pair {
            client: protocol.session(1, &names),
            service: protocol.session(2, &names),
            from_client: Outgoing::default(),
            from_service: Outgoing::default(),
        };
        pair.client.open(&mut pair.from_client);
        pair.service.listen();
        assert_eq!(pair.service_hears(), [Heard::Ready]);
        assert_eq!(pair.client_hears(), [Heard::Ready]);
        pair
    }

    fn service_hears(&mut self) -> Vec<Heard> {
        carry(
            &mut self.client,
            &mut self.from_client,
            &mut self.service,
            &mut self.from_service,
        )
    }

    fn client_hears(&mut self) -> Vec<Heard> {
        carry(
            &mut self.service,
            &mut self.from_service,
            &mut self.client,
            &mut self.from_client,
        )
    }

    fn open(&mut self, stream: u32, ends: bool, credit_bytes: u32) {
        let opening = Opening { ends, credit_bytes };
        self.client
            .open_stream(stream, 0, opening, &payload(7, 24), &mut self.from_client);
    }

    /// A chunk of the service.
    fn down(&mut self, stream: u32, sequence: u64, is_last: bool) {
        self.service
            .send_chunk(stream, &payload(sequence, 64), is_last, &mut self.from_service);
    }
}

fn carry(
    from: &mut FluxarSession,
    said: &mut Outgoing,
    to: &mut FluxarSession,
    answers: &mut Outgoing,
) -> Vec<Heard> {
    from.seal(said);
    let said = std::mem::take(said);
    let mut heard = Vec::new();
    let mut receive = |bytes: &[u8]| {
        to.receive(bytes, answers, &mut |incoming| heard.push(incoming.into()))
            .expect("no fault");
    };
    if said.ends.is_empty() {
        receive(&said.bytes);
    }
    let mut start = 0;
    for end in said.ends {
        receive(&said.bytes[start..end]);
        start = end;
    }
    heard
}

#[test]
fn chunks_come_in_order_as_credit_allows_and_the_last_one_ends_it() {
    for framing in [Framing::Stream, Framing::Messages] {
        let mut pair = Pair::new(framing, 65_536);
        pair.open(3, true, 4 * 64);
        assert_eq!(
            pair.service_hears(),
            [Heard::StreamOpened(0, payload(7, 24), true)]
        );
        assert_eq!(
            (pair.service.stream_credit(0), pair.client.stream_credit(3)),
            (256, 65_536)
        );
        // The fifth is beyond what was granted, and not said.
        (0..5).for_each(|sequence| pair.down(0, sequence, false));
        let expected: Vec<Heard> = (0..4).map(|n| Heard::Chunk(3, payload(n, 64), false)).collect();
        assert_eq!(pair.client_hears(), expected);
        assert_eq!(pair.service.stream_credit(0), 0);
        pair.client.grant(3, 128, &mut pair.from_client);
        assert_eq!(pair.service_hears(), [Heard::Granted(0)]);
        pair.down(0, 4, false);
        pair.down(0, 5, true);
        let expected = [
            Heard::Chunk(3, payload(4, 64), false),
            Heard::Chunk(3, payload(5, 64), true),
        ];
        assert_eq!(pair.client_hears(), expected);
        // It is over on both sides: its numbers are free again, and late parts say nothing.
        pair.open(3, true, 64);
        assert_eq!(
            pair.service_hears(),
            [Heard::StreamOpened(0, payload(7, 24), true)]
        );
        pair.down(0, 0, false);
        assert_eq!(pair.client_hears(), [Heard::Chunk(3, payload(0, 64), false)]);
    }
}

#[test]
fn both_directions_end_on_their_own() {
    let mut pair = Pair::new(Framing::Stream, 1_000);
    pair.open(0, false, 1_000);
    pair.service_hears();
    // What the client may send at first is what the service's hello granted.
    assert_eq!(pair.client.stream_credit(0), 1_000);
    pair.client
        .send_chunk(0, &payload(0, 64), true, &mut pair.from_client);
    assert_eq!(pair.service_hears(), [Heard::Chunk(0, payload(0, 64), true)]);
    pair.down(0, 0, false);
    pair.service.end_stream(0, &mut pair.from_service);
    assert_eq!(
        pair.client_hears(),
        [Heard::Chunk(0, payload(0, 64), false), Heard::StreamEnded(0)]
    );
    // Over: nothing more is said.
    pair.service.end_stream(0, &mut pair.from_service);
    pair.client.end_stream(0, &mut pair.from_client);
    assert_eq!((pair.client_hears(), pair.service_hears()), (vec![], vec![]));
}

#[test]
fn a_cancel_is_answered_by_an_end() {
    let mut pair = Pair::new(Framing::Stream, 1_000);
    pair.open(0, true, 1_000);
    pair.service_hears();
    pair.client.cancel_stream(0, &mut pair.from_client);
    assert_eq!(pair.service_hears(), [Heard::StreamCancelled(0)]);
    assert_eq!(pair.service.stream_credit(0), 1_000);
    pair.down(0, 0, false);
    assert_eq!(pair.client_hears(), [Heard::StreamEnded(0)]);
    // Its number goes to the next one.
    pair.open(1, true, 64);
    assert_eq!(
        pair.service_hears(),
        [Heard::StreamOpened(0, payload(7, 24), true)]
    );
}

#[test]
fn who_breaks_the_rules_is_told_and_the_session_goes_on() {
    let mut pair = Pair::new(Framing::Stream, 1_000);
    pair.open(0, true, 100);
    pair.open(1, true, 100);
    assert_eq!(pair.service_hears().len(), 2);
    // The service takes itself for richer than it is.
    pair.service
        .talk
        .streams
        .get(0)
        .map(|(_, stream)| stream.handle(Part::Grant { bytes: 1_000 }));
    pair.down(0, 0, false);
    pair.down(0, 1, false);
    pair.down(1, 0, false);
    let words = "a chunk of 64 bytes came where 36 were left of its credit".to_owned();
    assert_eq!(
        pair.client_hears(),
        [
            Heard::Chunk(0, payload(0, 64), false),
            Heard::StreamFailed(0, words.clone()),
            Heard::Chunk(1, payload(0, 64), false),
        ]
    );
    let failed = Heard::StreamFailed(0, format!("failed_precondition: {words}"));
    assert_eq!(pair.service_hears(), [failed]);
}

#[test]
fn many_streams_are_told_apart_whatever_their_order() {
    let mut pair = Pair::new(Framing::Stream, 1_000);
    for stream in 0..300 {
        pair.open(stream, true, 10_000);
    }
    assert_eq!(pair.service_hears().len(), 300);
    let order: Vec<u32> = (0..3_000).map(|n| n * 7_919 % 300).collect();
    for (sequence, &stream) in (0..).zip(&order) {
        pair.down(stream, sequence, false);
    }
    let expected: Vec<Heard> = (0..)
        .zip(&order)
        .map(|(sequence, &stream)| Heard::Chunk(stream, payload(sequence, 64), false))
        .collect();
    assert_eq!(pair.client_hears(), expected);
}

#[test]
fn a_service_that_listens_takes_nothing_before_a_hello_it_can_answer() {
    let protocol = Fluxar::new(Settings::default());
    let hello = |v0| {
        let mut payload = Vec::new();
        Hello {
            v0,
            ..Hello::default()
        }
        .encode(&mut payload);
        let mut body = Vec::new();
        Envelope {
            kind: Kind::Hello,
            id: Id([3; 16]),
            reference: None,
            target: None,
            meta: None,
            payload: &payload,
            error: None,
        }
        .encode(fluxar_protocol::Form::Compact, &mut body);
        [&fluxar_protocol::frame::prefix(body.len())[..], &body].concat()
    };
    let listening = || {
        let mut session = protocol.session(1, &names());
        session.listen();
        session
    };
    let twice = [hello(true), hello(true)].concat();
    let outcome = hand_over(&mut listening(), [&twice[..]]);
    assert_eq!(outcome.heard, [Heard::Ready]);
    assert!(outcome.fault.is_some_and(|fault| fault.contains("twice")));
    let outcome = hand_over(&mut listening(), [&hello(false)[..]]);
    assert!(outcome.heard.is_empty() && outcome.fault.is_some());
    // One that connected is greeted by nobody.
    let outcome = hand_over(&mut protocol.session(1, &names()), [&hello(true)[..]]);
    assert!(outcome.fault.is_some());
}
