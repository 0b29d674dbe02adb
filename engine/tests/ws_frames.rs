//! Frames, messages and closing (RFC 6455, 5 to 7): what is taken, however it arrives, and what each broken rule
//! costs its peer.

mod ws_peer;

use fluxar_engine::ws::{CLOSE_GOING_AWAY, CLOSE_NO_STATUS, WebSocket, WsConfig, WsFaultKind, close_frame};
use ws_peer::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Seen, Server, TEXT, close, fault_of, frame, frame_masked,
};

fn config() -> WsConfig {
    WsConfig {
        max_message_bytes: 100_000,
        ..WsConfig::default()
    }
}

fn with_text() -> WsConfig {
    WsConfig {
        text: true,
        ..config()
    }
}

/// What a server sees of `bytes` and replies, the same whole, cut in two anywhere, and by small pieces.
fn seen(config: &WsConfig, bytes: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let mut whole = Server::open(config.clone());
    whole.feed(bytes).unwrap_or_else(|fault| panic!("{fault}"));
    let idle = whole.ws.held_bytes();
    let check = |mut server: Server, how: &str| {
        assert_eq!(server.seen, whole.seen, "{how}");
        assert_eq!(server.reply, whole.reply, "{how}");
        server.feed(b"").unwrap();
        assert_eq!(server.ws.held_bytes() == 0, idle == 0, "{how}");
    };
    if bytes.len() < 2000 {
        for cut in 0..=bytes.len() {
            let mut server = Server::open(config.clone());
            server.feed(&bytes[..cut]).unwrap();
            server.feed(&bytes[cut..]).unwrap();
            check(server, &format!("cut at {cut}"));
        }
    }
    for size in [1, 2, 3, 5, 13, 4096] {
        let mut server = Server::open(config.clone());
        server.feed_by(bytes, size).unwrap();
        check(server, &format!("by {size}"));
    }
    (whole.seen, whole.reply)
}

/// The close code with which `bytes` fail, the same when they arrive octet by octet.
fn failure(config: WsConfig, bytes: &[u8]) -> u16 {
    let (fault, code) = fault_of(Server::open(config.clone()), bytes);
    let reply = fault.reply();
    assert_eq!(reply[0], 0x88);
    assert_eq!(usize::from(reply[1]), reply.len() - 2);
    assert_eq!(reply[2..4], code.to_be_bytes());
    assert_eq!(reply[4..], *fault.reason().as_bytes());
    let slow = Server::open(config)
        .feed_by(bytes, 1)
        .expect_err("refused octet by octet too");
    assert_eq!(slow, fault);
    code
}

fn sample(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 31 + i / 256) as u8).collect()
}

#[test]
fn every_length_and_mask_comes_through() {
    for length in [
        0, 1, 2, 3, 4, 5, 63, 64, 65, 124, 125, 126, 127, 128, 1000, 65_535, 65_536, 65_537, 100_000,
    ] {
        let message = sample(length);
        for mask in [[0; 4], [0xff; 4], [1, 2, 3, 4], [0x80, 0, 0x7f, 0x55]] {
            let bytes = frame_masked(FIN | BINARY, &message, mask);
            let (seen, reply) = seen(&config(), &[&bytes[..], &frame(FIN | BINARY, b"next")].concat());
            assert_eq!(
                seen,
                [Seen::Binary(message.clone()), Seen::Binary(b"next".into())]
            );
            assert!(reply.is_empty());
            if length > 1000 {
                break;
            }
        }
    }
}

#[test]
fn a_message_that_is_whole_in_the_input_is_lent_from_there() {
    let mut bytes = frame(FIN | BINARY, &sample(5000));
    let range = bytes.as_ptr_range();
    let mut server = Server::open(config());
    let mut input = &mut bytes[..];
    let event = server
        .ws
        .next(&mut input, &server.config, &mut server.reply)
        .unwrap();
    let Some(fluxar_engine::ws::WsEvent::Message(message)) = event else {
        panic!("{event:?}");
    };
    assert!(range.contains(&message.as_ptr()));
    assert_eq!(message, sample(5000));
    assert_eq!(server.ws.held_bytes(), 0);
    // Its header may have come before.
    let bytes = frame(FIN | BINARY, &sample(5000));
    server.feed(&bytes[..8]).unwrap();
    let idle = server.ws.held_bytes();
    assert_eq!(idle, 0, "a header that is read holds nothing");
    server.feed(&bytes[8..]).unwrap();
    assert_eq!(server.seen, [Seen::Binary(sample(5000))]);
    assert_eq!(server.held_max_bytes, 0);
}

#[test]
fn fragments_become_one_message_with_control_frames_between_them() {
    let bytes = [
        frame(BINARY, b"one "),
        frame(FIN | PING, b"are you there"),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, b"unasked"),
        frame(CONTINUATION, b"two "),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUATION, b"three"),
        frame(FIN | BINARY, b"four"),
        frame(BINARY, b""),
        frame(FIN | CONTINUATION, b""),
    ]
    .concat();
    let (seen, reply) = seen(&config(), &bytes);
    assert_eq!(
        seen,
        [
            Seen::Binary(b"one two three".into()),
            Seen::Binary(b"four".into()),
            Seen::Binary(Vec::new())
        ]
    );
    assert_eq!(reply, b"\x8a\x0dare you there\x8a\x00");
}

#[test]
fn broken_frame_rules_are_protocol_errors() {
    let begun = frame(BINARY, b"x");
    let unmasked = vec![0x82, 1, 0];
    let long_control = |opcode: u8| frame(FIN | opcode, &sample(126));
    for (what, bytes) in [
        ("unmasked", unmasked),
        ("rsv1", frame(FIN | 0x40 | BINARY, b"")),
        ("rsv2", frame(FIN | 0x20 | BINARY, b"")),
        (
            "rsv3 in a continuation",
            [&begun[..], &frame(FIN | 0x10, b"")].concat(),
        ),
        ("rsv1 in a ping", frame(FIN | 0x40 | PING, b"")),
        ("long ping", long_control(PING)),
        ("long pong", long_control(PONG)),
        ("long close", long_control(CLOSE)),
        ("fragmented ping", frame(PING, b"")),
        ("fragmented close", frame(CLOSE, b"")),
        ("continuation of nothing", frame(FIN | CONTINUATION, b"")),
        ("unfinished continuation of nothing", frame(CONTINUATION, b"x")),
        (
            "continuation after a whole message",
            [frame(FIN | BINARY, b"x"), frame(FIN, b"")].concat(),
        ),
        (
            "binary within binary",
            [&begun[..], &frame(FIN | BINARY, b"")].concat(),
        ),
        (
            "binary within an empty fragment",
            [frame(BINARY, b""), frame(FIN | BINARY, b"x")].concat(),
        ),
        (
            "text within binary",
            [&begun[..], &frame(FIN | TEXT, b"")].concat(),
        ),
        ("16-bit length 125", vec![0x82, 0xfe, 0, 125]),
        (
            "16-bit length 125, all of it",
            [&[0x82, 0xfe, 0, 125, 1, 2, 3, 4][..], &[0; 125]].concat(),
        ),
        (
            "64-bit length 65535",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        ),
        (
            "64-bit length with its first bit",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("close of one byte", frame(FIN | CLOSE, b"\x03")),
    ] {
        assert_eq!(failure(with_text(), &bytes), 1002, "{what}");
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(
            failure(config(), &frame(FIN | opcode, b"")),
            1002,
            "opcode {opcode}"
        );
    }
}

#[test]
fn an_empty_first_fragment_still_begins_a_message() {
    let mut server = Server::open(config());
    server.feed(&frame(BINARY, b"")).unwrap();
    assert_eq!(server.ws.held_bytes(), 0);
    let fault = server
        .feed(&frame(FIN | BINARY, b"x"))
        .expect_err("the first message is not over");
    assert_eq!(fault.kind(), WsFaultKind::Frame { code: 1002 });
}

#[test]
fn what_came_before_a_fault_stands() {
    let mut server = Server::open(config());
    let bytes = [
        frame(FIN | PING, b"p"),
        frame(FIN | BINARY, b"good"),
        frame(FIN | 3, b"bad"),
    ]
    .concat();
    server.feed(&bytes).expect_err("the reserved opcode");
    assert_eq!(server.seen, [Seen::Binary(b"good".into())]);
    assert_eq!(server.reply, b"\x8a\x01p");
}

#[test]
fn close_codes_are_echoed_or_refused() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let (seen, reply) = seen(&config(), &close(code, "für heute".as_bytes()));
        assert_eq!(seen, [Seen::Closed(code, "für heute".into())]);
        assert_eq!(reply, close_frame(code, ""));
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 0xffff,
    ] {
        assert_eq!(failure(config(), &close(code, b"")), 1002, "{code}");
    }
    assert_eq!(failure(config(), &close(1000, b"\xc3")), 1007);
    assert_eq!(failure(config(), &close(1000, b"ab\xed\xa0\x80")), 1007);
    let (seen, reply) = seen(&config(), &frame(FIN | CLOSE, b""));
    assert_eq!(seen, [Seen::Closed(CLOSE_NO_STATUS, String::new())]);
    assert_eq!(reply, [0x88, 0]);
}

#[test]
fn nothing_is_seen_or_answered_after_a_close() {
    let bytes = [
        frame(BINARY, b"unfinished"),
        close(1000, &[b'r'; 123]),
        frame(FIN | PING, b"x"),
        frame(FIN | BINARY, b"y"),
        close(1001, b""),
        vec![0xff; 20],
    ]
    .concat();
    let (seen, reply) = seen(&config(), &bytes);
    assert_eq!(seen, [Seen::Closed(1000, "r".repeat(123))]);
    assert_eq!(reply, close_frame(1000, ""));
}

#[test]
fn a_close_of_ours_is_sent_once_and_not_echoed_again() {
    let mut server = Server::open(config());
    assert!(server.ws.is_open());
    server.ws.close(CLOSE_GOING_AWAY, "going down", &mut server.reply);
    server.ws.close(CLOSE_GOING_AWAY, "going down", &mut server.reply);
    assert!(!server.ws.is_open());
    assert_eq!(server.reply, close_frame(1001, "going down"));
    server.reply.clear();
    let bytes = [
        frame(FIN | BINARY, b"on its way"),
        frame(FIN | PING, b"x"),
        close(1001, b""),
    ]
    .concat();
    server.feed(&bytes).unwrap();
    assert_eq!(
        server.seen,
        [
            Seen::Binary(b"on its way".into()),
            Seen::Closed(1001, String::new())
        ]
    );
    assert!(server.reply.is_empty());

    let mut server = Server::open(config());
    server.ws.close(CLOSE_GOING_AWAY, "", &mut server.reply);
    let fault = server.feed(&frame(FIN | 3, b"")).expect_err("still a fault");
    assert!(fault.reply().is_empty(), "a close frame was sent already");

    let mut waiting = Server::new(config());
    waiting.ws.close(CLOSE_GOING_AWAY, "", &mut waiting.reply);
    assert!(waiting.reply.is_empty(), "no frames before the handshake");
}

#[test]
fn messages_over_the_limit_are_refused_before_a_byte_is_kept() {
    let limit = config().max_message_bytes;
    let mut server = Server::open(config());
    server.feed(&frame(FIN | BINARY, &sample(limit))).unwrap();
    assert_eq!(server.seen, [Seen::Binary(sample(limit))]);

    let over = frame(FIN | BINARY, &sample(limit + 1));
    assert_eq!(failure(config(), &over[..14]), 1009);
    assert_eq!(
        failure(
            config(),
            &[
                0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4
            ]
        ),
        1009
    );

    let mut fragments = Server::open(config());
    fragments.feed(&frame(BINARY, &sample(limit - 10))).unwrap();
    fragments.feed(&frame(CONTINUATION, &sample(10))).unwrap();
    fragments.feed(&frame(FIN | PING, &sample(125))).unwrap();
    let fault = fragments
        .feed(&frame(FIN | CONTINUATION, b"x"))
        .expect_err("one byte over");
    assert!(fault.reply().starts_with(&[0x88]));
    assert!(fragments.held_max_bytes <= limit + 125);
}

#[test]
fn the_limit_can_be_raised_and_lowered() {
    let mut server = Server::open(WsConfig {
        max_message_bytes: 10,
        ..config()
    });
    server.ws.set_max_message_bytes(1000);
    server.feed(&frame(FIN | BINARY, &sample(1000))).unwrap();
    server.ws.set_max_message_bytes(0);
    server.feed(&frame(FIN | BINARY, &sample(10))).unwrap();
    server
        .feed(&frame(FIN | BINARY, &sample(11)))
        .expect_err("back at the listener's limit");
    let mut server = Server::open(config());
    server.feed(&frame(BINARY, &sample(1000))).unwrap();
    server.ws.set_max_message_bytes(500);
    server
        .feed(&frame(FIN | CONTINUATION, b"x"))
        .expect_err("already over");
}

#[test]
fn memory_grows_with_what_arrived_and_is_freed_with_the_message() {
    let mut server = Server::open(WsConfig {
        max_message_bytes: 1 << 30,
        ..config()
    });
    let header = [0x82, 0xff, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    server.feed(&header).unwrap();
    assert_eq!(server.ws.held_bytes(), 0, "a claim is not an allocation");
    let mut arrived = 0;
    while arrived < 1 << 20 {
        server.feed(&[0x55; 10_000]).unwrap();
        arrived += 10_000;
        assert!(
            server.ws.held_bytes() <= (2 * arrived).max(512),
            "{} for {arrived}",
            server.ws.held_bytes()
        );
    }

    let mut server = Server::open(config());
    let bytes = frame(FIN | BINARY, &sample(3000));
    server.feed(&bytes[..1]).unwrap();
    assert!(server.ws.held_bytes() <= 512);
    server.feed(&bytes[1..100]).unwrap();
    assert!(server.ws.held_bytes() <= 512);
    server.feed(&bytes[100..]).unwrap();
    assert_eq!(server.seen, [Seen::Binary(sample(3000))]);
    assert_eq!(server.ws.held_bytes(), 0);
    assert!(size_of::<WebSocket>() <= 48);
}

#[test]
fn pings_are_answered_in_order_and_a_flood_of_them_is_bounded() {
    let mut server = Server::open(config());
    let pings: Vec<u8> = (0..10).flat_map(|i| frame(FIN | PING, &[i; 3])).collect();
    let pongs: Vec<u8> = (0..10).flat_map(|i| [0x8a, 3, i, i, i]).collect();
    server.feed(&pings).unwrap();
    assert_eq!(server.reply, pongs);

    let mut flooded = Server::open(config());
    for i in 0..20_000_u32 {
        let payload = i.to_be_bytes().repeat(1 + i as usize % 31);
        flooded.feed(&frame(FIN | PING, &payload)).unwrap();
        assert!(flooded.reply.len() <= 4096 + 127);
        // The most recent ping is always answered (5.5.3).
        assert!(
            flooded
                .reply
                .ends_with(&[&[0x8a, payload.len() as u8][..], &payload].concat())
        );
    }
    flooded.reply.clear();
    flooded.feed(&frame(FIN | PING, b"after")).unwrap();
    assert_eq!(flooded.reply, b"\x8a\x05after");
    assert_eq!(flooded.held_max_bytes, 0);
}

#[test]
fn text_is_refused_unless_it_is_asked_for() {
    assert_eq!(failure(config(), &frame(FIN | TEXT, b"hello")), 1003);
    assert_eq!(failure(config(), &frame(TEXT, b"")), 1003);
}

#[test]
fn text_is_checked_as_it_arrives() {
    let text = "κόσμε 𝄞 ascii ýé — \u{10ffff}\u{0}";
    let (all, _) = seen(&with_text(), &frame(FIN | TEXT, text.as_bytes()));
    assert_eq!(all, [Seen::Text(text.into())]);
    for cut in 0..=text.len() {
        let (first, second) = text.as_bytes().split_at(cut);
        let fragments = [
            frame(TEXT, first),
            frame(FIN | PING, b""),
            frame(CONTINUATION, b""),
            frame(FIN, second),
        ]
        .concat();
        let mut server = Server::open(with_text());
        server.feed_by(&fragments, 3).unwrap();
        assert_eq!(server.seen, [Seen::Text(text.into())], "cut at {cut}");
    }
    let bytes = [
        frame(FIN | TEXT, b""),
        frame(FIN | BINARY, b"\xff"),
        frame(TEXT, b"a"),
        frame(FIN, b"b"),
    ]
    .concat();
    let (all, _) = seen(&with_text(), &bytes);
    assert_eq!(
        all,
        [
            Seen::Text("".into()),
            Seen::Binary(vec![0xff]),
            Seen::Text("ab".into())
        ]
    );
}

#[test]
fn text_that_is_not_utf8_fails_as_early_as_it_shows() {
    for wrong in [
        &b"\x80"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"ok \xff",
        b"cut \xf0\x9d\x84",
    ] {
        assert_eq!(failure(with_text(), &frame(FIN | TEXT, wrong)), 1007);
        let fragments = [frame(TEXT, wrong), frame(FIN | CONTINUATION, b"")].concat();
        assert_eq!(failure(with_text(), &fragments), 1007);
        for cut in 1..wrong.len() {
            let fragments = [frame(TEXT, &wrong[..cut]), frame(FIN, &wrong[cut..])].concat();
            assert_eq!(failure(with_text(), &fragments), 1007);
        }
    }
    // Within an unfinished frame of an unfinished message.
    let mut server = Server::open(with_text());
    let bytes = frame(TEXT, b"good so far \xf4\x90 and more to come");
    server.feed(&bytes[..6 + 13]).unwrap();
    server
        .feed(&bytes[6 + 13..][..1])
        .expect_err("no character begins like this");
}
