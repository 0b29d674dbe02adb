//! Sessions against byte strings that a redis-server would send.

use proptest::prelude::*;

use super::super::testing::{Heard, cuts, cuts_do_not_matter, damaged, hand_over, names, payload};
use super::*;

fn asked() -> RedisSession {
    let mut session = Redis::new(0).session(5, &names());
    let mut out = Outgoing::default();
    session.open(&mut out);
    session.ping(&mut out);
    session
}

fn message(channel: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"*3\r\n".to_vec();
    for part in [b"message", channel.as_bytes(), payload] {
        write_bulk(part, &mut bytes);
    }
    bytes
}

fn conversation() -> Vec<u8> {
    let mut stream = b"+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$6\r\nload.0\r\n:1\r\n".to_vec();
    for sequence in 0..4 {
        stream.extend(message("load.0", &payload(sequence, 64)));
    }
    stream.extend(message("load.1", &payload(4, 24)));
    stream.extend(message("load.0", &payload(5, 300)));
    stream.extend(message("load.0", b""));
    stream.extend(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n:0\r\n:12\r\n+OK\r\n");
    stream.extend(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    stream.extend(b"-ERR Can't execute 'publish'\r\n:-1\r\n");
    stream
}

#[test]
fn a_conversation_is_understood() {
    let outcome = hand_over(&mut asked(), [&conversation()[..]]);
    let mut expected = vec![Heard::Ready, Heard::Subscribed];
    expected.extend((0..4).map(|sequence| Heard::Event(payload(sequence, 64))));
    expected.extend([
        Heard::Event(payload(4, 24)),
        Heard::Event(payload(5, 300)),
        Heard::Event(vec![]),
    ]);
    expected.extend([Heard::Pong, Heard::Refused("ERR Can't execute 'publish'".into())]);
    assert_eq!(
        (outcome.heard, outcome.fault, outcome.said),
        (expected, None, vec![])
    );
}

#[test]
fn what_is_said_is_resp() {
    let mut session = asked();
    let mut out = Outgoing::default();
    session.publish(1, b"abc", &mut out);
    session.subscribe(0, &mut out);
    session.unsubscribe(0, &mut out);
    session.ping(&mut out);
    let expected = "*3\r\n$7\r\nPUBLISH\r\n$6\r\nload.1\r\n$3\r\nabc\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$6\r\nload.0\r\n\
                    *2\r\n$11\r\nUNSUBSCRIBE\r\n$6\r\nload.0\r\n*1\r\n$4\r\nPING\r\n";
    assert_eq!(String::from_utf8(out.bytes).expect("text"), expected);
}

#[test]
fn what_is_not_resp_is_a_fault() {
    for stream in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"-NOAUTH Authentication required.\r\n",
        b"*9\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*3\r\n*3\r\n",
        b"*3\r\n$99999999\r\n",
        b"*1\r\n$3\r\nabcde",
        b":1x\r\n",
        b"+PONG\r\n+PONG\r\n+PONG\r\n",
        &[b'+'; 40_000],
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

/// One that reads a stream.
fn reading() -> RedisSession {
    let mut session = Redis::new(1).session(5, &names());
    let mut out = Outgoing::default();
    session.open(&mut out);
    session.subscribe(0, &mut out);
    session
}

fn entries(first: u64, count: u64) -> Vec<u8> {
    let mut bytes = b"*1\r\n*2\r\n".to_vec();
    write_bulk(b"load.0", &mut bytes);
    bytes.extend(format!("*{count}\r\n").into_bytes());
    for sequence in first..first + count {
        bytes.extend(b"*2\r\n");
        write_bulk(format!("17-{sequence}").as_bytes(), &mut bytes);
        bytes.extend(b"*2\r\n");
        write_bulk(b"d", &mut bytes);
        write_bulk(&payload(sequence, 30 + sequence as usize), &mut bytes);
    }
    bytes
}

fn stored_conversation() -> Vec<u8> {
    let mut stream = b"+PONG\r\n+PONG\r\n".to_vec();
    stream.extend(entries(0, 1));
    stream.extend(entries(1, 5));
    stream.extend(b"$4\r\n17-9\r\n-OOM command not allowed\r\n");
    stream
}

#[test]
fn streams_are_read_entry_by_entry_and_asked_on() {
    let outcome = hand_over(&mut reading(), [&stored_conversation()[..]]);
    let mut expected = vec![Heard::Ready, Heard::Subscribed];
    expected.extend((0..6).map(|sequence| Heard::Event(payload(sequence, 30 + sequence as usize))));
    expected.extend([
        Heard::Acknowledged(1),
        Heard::Refused("OOM command not allowed".into()),
    ]);
    assert_eq!((outcome.heard, outcome.fault), (expected, None));
    let ask = |id: &str| {
        let mut bytes = b"*8\r\n".to_vec();
        for part in ["XREAD", "COUNT", "1000", "BLOCK", "0", "STREAMS", "load.0", id] {
            write_bulk(part.as_bytes(), &mut bytes);
        }
        bytes
    };
    assert_eq!(outcome.said, [ask("17-0"), ask("17-5")].concat());

    let mut session = reading();
    let mut out = Outgoing::default();
    session.publish(1, b"abc", &mut out);
    session.unsubscribe(0, &mut out);
    let said = String::from_utf8(out.bytes).expect("text");
    assert_eq!(
        said,
        "*5\r\n$4\r\nXADD\r\n$6\r\nload.1\r\n$1\r\n*\r\n$1\r\nd\r\n$3\r\nabc\r\n"
    );
    // One that has unsubscribed asks for no more.
    let said = hand_over(&mut session, [&b"+PONG\r\n+PONG\r\n"[..], &entries(0, 2)]).said;
    assert_eq!(said, b"");
}

proptest! {
    #[test]
    fn cuts_of_a_stored_conversation(cuts in cuts()) {
        cuts_do_not_matter(reading, &stored_conversation(), &cuts);
    }

    #[test]
    fn noise_where_things_are_stored(stream in damaged(stored_conversation()), cuts in cuts()) {
        cuts_do_not_matter(reading, &stream, &cuts);
    }
}
