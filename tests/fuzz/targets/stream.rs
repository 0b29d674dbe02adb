//! Streams and their relay, driven by bytes: whatever two sides send, in whatever order, credit is kept on both hops,
//! the hops close together, and nothing goes on behind an end. The ends here are honest or not, as the bytes say.
#![no_main]

use fluxar_protocol::envelope;
use fluxar_protocol::meta::Asked;
use fluxar_protocol::stream::{Failure, Note, Part, Passage, Relay, Side, State, Stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // As an envelope: its part and what it asks are read without surprise.
    if let Ok(decoded) = envelope::decode(input) {
        if let Ok(Part::Chunk { bytes, .. }) = Part::read(&decoded.envelope) {
            assert_eq!(bytes, decoded.envelope.payload.len() as u64);
        }
        if let Ok(asked) = Asked::read(decoded.envelope.meta.as_ref()) {
            assert!(asked.prio <= 7);
        }
    }
    let Some((settings, script)) = input.split_first_chunk::<4>() else {
        return;
    };
    one_end(*settings, script);
    relayed(*settings, script);
});

/// A part, from an operation's byte and its argument's.
fn part(operation: u8, argument: u8) -> Option<Part> {
    let bytes = match argument {
        255 => u64::MAX,
        small => u64::from(small),
    };
    Some(match operation % 8 {
        0 => Part::Grant { bytes },
        1 | 2 => Part::Chunk { bytes, end: false },
        3 => Part::Chunk { bytes, end: true },
        4 => Part::End,
        5 => Part::Fail,
        _ => return None,
    })
}

fn one_end([flags, granted, credit, _]: [u8; 4], script: &[u8]) {
    let mut stream = if flags & 1 == 0 {
        Stream::opened_here(flags & 2 != 0, granted.into(), credit.into())
    } else {
        Stream::opened_there(flags & 2 != 0, granted.into(), credit.into())
    };
    for operation in script.chunks_exact(2) {
        let before = stream;
        let [code, argument] = [operation[0], operation[1]];
        let is_sent = match (code & 0x80 != 0, part(code, argument)) {
            (false, Some(part)) => {
                let _ = stream.handle(part);
                false
            }
            (false, None) => {
                let _ = stream.handle_cancel();
                false
            }
            (true, Some(Part::Grant { bytes })) => stream.send_grant(bytes),
            (true, Some(Part::Chunk { bytes, end })) => stream.send_chunk(bytes, end).is_ok(),
            (true, Some(Part::End)) => stream.send_end(),
            (true, Some(Part::Fail)) => stream.send_fail(),
            (true, None) => stream.send_cancel(),
        };
        // What has ended stays ended, and nothing is sent behind it.
        assert!(stream.has_sent_end() >= before.has_sent_end());
        assert!(stream.has_received_end() >= before.has_received_end());
        let both = stream.has_sent_end() && stream.has_received_end();
        assert_eq!(stream.state() == State::Closed, both);
        if before.state() == State::Closed {
            assert!(!is_sent);
            assert_eq!(stream, before);
        }
        if before.state() == State::Cancelling {
            assert_ne!(stream.state(), State::Active);
            assert!(stream.credit_bytes() <= before.credit_bytes());
        }
    }
}

fn relayed([flags, opener, server, window]: [u8; 4], script: &[u8]) {
    let mut relay = Relay::new(flags & 1 != 0, opener.into(), window.into());
    let mut is_found = false;
    for operation in script.chunks_exact(2) {
        let [code, argument] = [operation[0], operation[1]];
        let before = relay;
        let from = if code & 0x80 == 0 { Side::Opener } else { Side::Server };
        let may_grant = code & 0x40 == 0;
        match part(code, argument) {
            Some(part) => {
                let passage = relay.part(from, part, may_grant);
                if let Part::Chunk { bytes, end: false } = part
                    && bytes > 0 // as of any payload
                    && bytes <= before.free_bytes(from)
                {
                    let mut passed = before;
                    passed.passed(from, bytes);
                    assert_eq!(relay, passed);
                    assert!(passage.pass && passage.on.is_none() && passage.back.is_none());
                }
                check_passage(&before, &relay, from, part, passage);
            }
            None => match argument % 6 {
                0 | 1 => {
                    let told = relay.cancel(from);
                    assert!(matches!(told, None | Some(Note::Cancel)));
                }
                2 => {
                    relay.lost(from);
                    assert_eq!(relay.state(), State::Closed);
                }
                3 => {
                    relay.fail(Failure::DEADLINE);
                    assert_eq!(relay.state(), State::Closed);
                }
                4 if !is_found => {
                    is_found = true;
                    relay.server_found(server.into());
                }
                _ => {
                    relay.grant(from);
                    assert_eq!(relay.grant(from), None, "it is all handed over at once");
                }
            },
        }
        for side in [Side::Opener, Side::Server] {
            let (here, there) = (relay.hop(side), relay.hop(side.other()));
            assert_eq!(here.state() == State::Closed, there.state() == State::Closed);
            assert!(here.granted_bytes() <= u64::from(window), "the window bounds what may arrive");
            if here.state() == State::Active && !here.has_received_end() {
                assert!(here.granted_bytes() <= there.credit_bytes(), "what may arrive may go on");
                assert!(!there.has_sent_end());
            }
        }
        if before.state() == State::Closed {
            assert_eq!(relay, before);
        }
    }
}

fn check_passage(before: &Relay, after: &Relay, from: Side, part: Part, passage: Passage) {
    let (here, there) = (before.hop(from), before.hop(from.other()));
    if before.state() == State::Closed {
        assert_eq!(passage, Passage::default(), "nothing is said of what is over");
    }
    if passage.pass {
        match part {
            Part::Chunk { bytes, end } => {
                assert!(bytes <= there.credit_bytes() && bytes <= here.granted_bytes());
                assert_eq!(after.hop(from.other()).has_sent_end(), end);
            }
            Part::End | Part::Fail => assert!(!there.has_sent_end() || part == Part::Fail),
            Part::Grant { .. } => panic!("a grant is for one hop"),
        }
    }
    if let Some(Note::Grant { bytes }) = passage.on {
        assert!(bytes > 0 && matches!(part, Part::Grant { .. }));
        assert!(!there.has_received_end());
    }
    if let Some(Note::Grant { bytes }) = passage.back {
        assert!(bytes > 0 && matches!(part, Part::Chunk { end: false, .. }));
        assert!(!here.has_received_end());
    }
    if let Some(Note::Fail(_)) = passage.back {
        assert!(!passage.pass);
        assert_eq!(after.state(), State::Closed);
    }
}
