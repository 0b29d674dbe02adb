//! Sessions against byte strings that a nats-server would send.

use proptest::prelude::*;

use super::super::testing::{Heard, cuts, cuts_do_not_matter, damaged, hand_over, names, payload};
use super::*;

fn asked() -> NatsSession {
    let nats = Nats {
        qos: 0,
        seed: 3,
        heads: Prepared::default(),
    };
    let mut session = nats.session(5, &names());
    session.talk.awaited.push_back(Incoming::Subscribed);
    session
}

fn message(line: &str, payload: &[u8]) -> Vec<u8> {
    [line.as_bytes(), b"\r\n", payload, b"\r\n"].concat()
}

/// The hello with a subscription behind it, events, a call, answers, refusals.
fn conversation() -> Vec<u8> {
    let mut stream =
        b"INFO {\"server_id\":\"x\",\"headers\":true,\"max_payload\":1048576}\r\nPONG\r\nPONG\r\n".to_vec();
    for sequence in 0..4 {
        stream.extend(message("MSG load.0 1 64", &payload(sequence, 64)));
    }
    stream.extend(message("MSG load.1 2 31", &payload(4, 31)));
    stream.extend(message("MSG load.0 1 64", &payload(5, 64)));
    stream.extend(b"PING\r\n+OK\r\n");
    let with_headers = [b"NATS/1.0\r\na: b\r\n\r\n", &payload(6, 64)[..]].concat();
    stream.extend(message("HMSG load.0 1 18 82", &with_headers));
    stream.extend(message("MSG work.echo 3 _INBOX.9.1 40", &payload(7, 40)));
    stream.extend(message("MSG _INBOX.3-5.0 4 24", &payload(8, 24)));
    stream.extend(message("HMSG _INBOX.3-5.1 4 16 16", b"NATS/1.0 503\r\n\r\n"));
    stream.extend(message("MSG gone 99 0", b""));
    stream.extend(b"-ERR 'Permissions Violation for Publish to \"load.1\"'\r\n");
    stream.extend(b"-ERR 'Stale Connection'\r\n");
    stream
}

#[test]
fn a_conversation_is_understood() {
    let mut session = asked();
    let outcome = hand_over(&mut session, [&conversation()[..]]);
    let mut expected = vec![Heard::Subscribed, Heard::Ready]; // in the order in which this test asked
    expected.extend((0..4).map(|sequence| Heard::Event(payload(sequence, 64))));
    expected.extend([
        Heard::Event(payload(4, 31)),
        Heard::Event(payload(5, 64)),
        Heard::Event(payload(6, 64)),
    ]);
    expected.extend([Heard::Served, Heard::Answer(payload(8, 24))]);
    expected.push(Heard::Refused("no responders: nobody serves the method".into()));
    expected.push(Heard::Refused(
        "Permissions Violation for Publish to \"load.1\"".into(),
    ));
    assert_eq!(outcome.heard, expected);
    assert_eq!(
        outcome.fault.as_deref(),
        Some("the server ended the session: Stale Connection")
    );
    let said = &outcome.said;
    assert!(said.starts_with(b"CONNECT {\"verbose\":false,"));
    let echo = [b"PONG\r\n", &message("PUB _INBOX.9.1 40", &payload(7, 40))[..]].concat();
    assert!(said.ends_with(&[b"PING\r\n", &echo[..]].concat()));
}

#[test]
fn what_is_said_is_nats() {
    let mut session = asked();
    let mut out = Outgoing::default();
    session.publish(1, b"abc", &mut out);
    session.call(0, b"de", &mut out);
    session.call(0, b"", &mut out);
    session.subscribe(0, &mut out);
    session.serve(0, &mut out);
    session.unsubscribe(0, &mut out);
    session.ping(&mut out);
    let expected = "PUB load.1 3\r\nabc\r\nSUB _INBOX.3-5.* 4\r\nPUB work.echo _INBOX.3-5.0 2\r\nde\r\n\
                    PUB work.echo _INBOX.3-5.1 0\r\n\r\nSUB load.0 1\r\nPING\r\nSUB work.echo loadgen 3\r\nPING\r\n\
                    UNSUB 1\r\nPING\r\n";
    assert_eq!(String::from_utf8(out.bytes).expect("text"), expected);
}

#[test]
fn what_is_not_nats_is_a_fault() {
    for stream in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"MSG a 1\r\n",
        b"MSG a 1 99999999\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 b c d e 1\r\n",
        b"MSG a 1 1\r\nabcd",
        b"HMSG a 1 9 8\r\n",
        b"INFO {\"tls_required\":true}\r\n",
        b"PONG\r\nPONG\r\n",
        &[b'x'; 40_000],
    ] {
        assert!(
            hand_over(&mut asked(), [stream]).fault.is_some(),
            "{}",
            quoted(stream)
        );
    }
}

proptest! {
    #[test]
    fn cuts_of_a_conversation(cuts in cuts()) {
        cuts_do_not_matter(asked, &conversation(), &cuts);
    }

    #[test]
    fn noise_is_a_fault_at_worst(stream in damaged(conversation()), cuts in cuts()) {
        cuts_do_not_matter(asked, &stream, &cuts);
    }
}

fn stored() -> NatsSession {
    let nats = Nats {
        qos: 1,
        seed: 3,
        heads: Prepared::default(),
    };
    nats.session(5, &names())
}

/// The hello, a stream, a consumer and its messages, acknowledgements, refusals.
fn stored_conversation() -> Vec<u8> {
    let mut stream = b"INFO {\"headers\":true}\r\n".to_vec();
    let sized = |line: &str, body: &[u8]| message(&format!("{line} {}", body.len()), body);
    stream.extend(sized("MSG _INBOX.3-5.s 4", b"{\"did_create\":true}"));
    stream.extend(sized("MSG _INBOX.3-5.c 4", b"{\"name\":\"x\"}"));
    for sequence in 0..3 {
        let line = format!("MSG load.0 1 $JS.ACK.load.x.1.{sequence}.9.8.7");
        stream.extend(sized(&line, &payload(sequence, 64)));
    }
    let flow = b"NATS/1.0 100 FlowControl Request\r\n\r\n";
    stream.extend(message(
        &format!("HMSG load.0 1 $JS.FC.load.x.9 {0} {0}", flow.len()),
        flow,
    ));
    let idle = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 3\r\n\r\n";
    stream.extend(message(&format!("HMSG load.0 1 {0} {0}", idle.len()), idle));
    stream.extend(sized("MSG load.1 2 $JS.ACK.load.y.1.1", &payload(3, 24)));
    stream.extend(sized("MSG _INBOX.3-5.p0 4", b"{\"stream\":\"load\",\"seq\":1}"));
    let refused = b"{\"error\":{\"description\":\"no space\"},\"stream\":\"load\",\"seq\":0}";
    stream.extend(sized("MSG _INBOX.3-5.p1 4", refused));
    stream.extend(message("HMSG _INBOX.3-5.c 4 16 16", b"NATS/1.0 503\r\n\r\n"));
    stream
}

#[test]
fn what_is_stored_is_acknowledged_and_what_is_read_is_not() {
    let outcome = hand_over(&mut stored(), [&stored_conversation()[..]]);
    assert_eq!(outcome.fault, None);
    let mut expected = vec![Heard::Ready, Heard::Subscribed];
    expected.extend((0..3).map(|sequence| Heard::Event(payload(sequence, 64))));
    expected.push(Heard::Event(payload(3, 24)));
    expected.push(Heard::Acknowledged(1));
    expected.push(Heard::Refused("JetStream refused: no space".into()));
    expected.push(Heard::Refused(
        "no responders: JetStream is not switched on; start nats-server with -js".into(),
    ));
    assert_eq!(outcome.heard, expected);
    // Flow control is answered.
    let said = String::from_utf8(outcome.said).expect("text");
    assert!(said.ends_with("PUB $JS.FC.load.x.9 0\r\n\r\n"), "{said}");
    assert!(!said.contains("$JS.ACK"), "{said}");
    assert!(
        said.contains("SUB _INBOX.3-5.* 4\r\nPUB $JS.API.STREAM.CREATE.load _INBOX.3-5.s "),
        "{said}"
    );

    let mut session = stored();
    let mut out = Outgoing::default();
    session.publish(1, b"abc", &mut out);
    session.publish(1, b"abc", &mut out);
    let said = String::from_utf8(out.bytes).expect("text");
    assert_eq!(
        said,
        "PUB load.1 _INBOX.3-5.p0 3\r\nabc\r\nPUB load.1 _INBOX.3-5.p1 3\r\nabc\r\n"
    );
}

/// nats-server 2.9.10 says so of the very stream that is asked for, while it makes it for another session.
#[test]
fn a_stream_that_is_being_made_is_asked_for_again() {
    let overlap = br#"{"error":{"code":400,"err_code":10065,"description":"subjects overlap with an existing stream"}}"#;
    let reply = |body: &[u8]| message(&format!("MSG _INBOX.3-5.s 4 {}", body.len()), body);
    let asked = |said: &[u8]| String::from_utf8_lossy(said).matches("STREAM.CREATE").count();
    let hello = b"INFO {\"headers\":true}\r\n".to_vec();
    let made = [
        hello.clone(),
        reply(overlap),
        reply(overlap),
        reply(b"{\"did_create\":false}"),
    ]
    .concat();
    let outcome = hand_over(&mut stored(), [&made[..]]);
    assert_eq!((outcome.fault, outcome.heard), (None, vec![Heard::Ready]));
    assert_eq!(asked(&outcome.said), 3);
    // A stream of somebody else stays in the way.
    let refused = [hello, reply(overlap).repeat(101)].concat();
    let outcome = hand_over(&mut stored(), [&refused[..]]);
    let why = "JetStream refused: subjects overlap with an existing stream".to_owned();
    assert_eq!((outcome.fault, outcome.heard), (None, vec![Heard::Refused(why)]));
    assert_eq!(asked(&outcome.said), 101);
}

proptest! {
    #[test]
    fn cuts_of_a_stored_conversation(cuts in cuts()) {
        cuts_do_not_matter(stored, &stored_conversation(), &cuts);
    }

    #[test]
    fn noise_where_things_are_stored(stream in damaged(stored_conversation()), cuts in cuts()) {
        cuts_do_not_matter(stored, &stream, &cuts);
    }
}
