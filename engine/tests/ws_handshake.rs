//! The WebSocket handshake (RFC 6455, 4.2): what is accepted, however it arrives, and what each refusal says.

mod ws_peer;

use fluxar_engine::ws::{Origins, WsConfig};
use ws_peer::{BINARY, FIN, REQUEST, Seen, Server, fault_of, frame};

fn config() -> WsConfig {
    WsConfig {
        subprotocol: Some("test.v1".into()),
        greeting: "A test's endpoint.".into(),
        ..WsConfig::default()
    }
}

/// [`REQUEST`] with further header lines.
fn with(lines: &str) -> Vec<u8> {
    let head = std::str::from_utf8(REQUEST)
        .unwrap()
        .strip_suffix("\r\n")
        .unwrap();
    format!("{head}{lines}\r\n\r\n").into_bytes()
}

fn replaced(old: &str, new: &str) -> Vec<u8> {
    let request = std::str::from_utf8(REQUEST).unwrap();
    assert!(request.contains(old));
    request.replace(old, new).into_bytes()
}

fn response_to(request: &[u8], config: WsConfig) -> String {
    let mut server = Server::new(config);
    server.feed(request).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(server.seen.len(), 1);
    assert!(server.ws.is_open());
    assert_eq!(server.ws.held_bytes(), 0);
    String::from_utf8(server.reply).unwrap()
}

/// Refuses `request` with `status`, and gives the whole response, whose length must be as it says.
fn refusal(request: &[u8], config: WsConfig, status: u16) -> String {
    let (fault, number) = fault_of(Server::new(config), request);
    assert_eq!(number, status, "{fault}");
    let response = String::from_utf8(fault.reply()).unwrap();
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("\r\nContent-Length: {}", body.len())),
        "{response}"
    );
    assert!(body.contains(fault.reason()));
    response
}

#[test]
fn the_response_is_the_one_of_the_rfc() {
    assert_eq!(
        response_to(REQUEST, config()),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn a_request_may_arrive_in_any_pieces_with_frames_behind_it() {
    let bytes = [
        REQUEST,
        &frame(FIN | BINARY, b"first"),
        &frame(FIN | BINARY, b"second"),
    ]
    .concat();
    let expected = [
        Seen::Opened("/chat?room=1".into()),
        Seen::Binary(b"first".into()),
        Seen::Binary(b"second".into()),
    ];
    let mut whole = Server::new(config());
    whole.feed(&bytes).unwrap();
    assert_eq!(whole.seen, expected);
    for cut in 0..=bytes.len() {
        let mut server = Server::new(config());
        server.feed(&bytes[..cut]).unwrap();
        server.feed(&bytes[cut..]).unwrap();
        assert_eq!(server.seen, expected, "cut at {cut}");
        assert_eq!(server.reply, whole.reply);
        assert_eq!(server.ws.held_bytes(), 0);
    }
    for size in [1, 2, 3, 7] {
        let mut server = Server::new(config());
        server.feed_by(&bytes, size).unwrap();
        assert_eq!(server.seen, expected, "by {size}");
        assert_eq!(server.ws.held_bytes(), 0);
    }
}

#[test]
fn bare_line_feeds_and_any_letter_case_are_taken() {
    let request = String::from_utf8(REQUEST.to_vec()).unwrap();
    response_to(request.replace("\r\n", "\n").as_bytes(), config());
    response_to(
        &replaced("Upgrade: websocket", "uPGRADE: h2c , WebSocket"),
        config(),
    );
    response_to(
        &replaced("Connection: Upgrade", "connection: keep-alive, uPgrade"),
        config(),
    );
    response_to(
        &replaced(
            "Connection: Upgrade",
            "Connection: keep-alive\r\nConnection:upgrade ",
        ),
        config(),
    );
    response_to(&with("Content-Length: 0"), config());
    response_to(
        &with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        config(),
    );
}

#[test]
fn subprotocols_are_negotiated() {
    let named = "Sec-WebSocket-Protocol: test.v1\r\n";
    assert!(response_to(&with("Sec-WebSocket-Protocol: other, test.v1"), config()).contains(named));
    let twice = with("Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: test.v1,more");
    assert!(response_to(&twice, config()).contains(named));
    assert!(!response_to(REQUEST, config()).contains("Protocol:"));
    assert!(
        !response_to(&with("Sec-WebSocket-Protocol: test.v1"), WsConfig::default()).contains("Protocol:")
    );
    let refused = refusal(&with("Sec-WebSocket-Protocol: other, TEST.V1"), config(), 400);
    assert!(refused.contains("Sec-WebSocket-Protocol: test.v1"), "{refused}");
}

#[test]
fn pages_from_elsewhere_are_refused_by_name() {
    response_to(&with("Origin: http://localhost:8080"), config());
    response_to(&with("Origin: file://"), config());
    refusal(&with("Origin: null"), config(), 403);
    let refused = refusal(&with("Origin: https://evil.example"), config(), 403);
    assert!(
        refused.contains("`https://evil.example`") && refused.contains("`origins`"),
        "{refused}"
    );
    response_to(
        &with("Origin: https://evil.example"),
        WsConfig {
            origins: Origins::Any,
            ..config()
        },
    );
    let list = WsConfig {
        origins: Origins::List(vec!["https://app.example".into()]),
        ..config()
    };
    response_to(&with("Origin: https://app.example"), list.clone());
    response_to(REQUEST, list.clone());
    refusal(&with("Origin: http://localhost"), list, 403);
    let mut latin = with("Origin: http://localhos_");
    let at = latin.iter().rposition(|&octet| octet == b'_').unwrap();
    latin[at] = 0xff;
    let refused = refusal(&latin, config(), 403);
    assert!(refused.contains('\u{fffd}'));
    let twice = with("Origin: http://localhost\r\nOrigin: https://evil.example");
    refusal(&twice, config(), 400);
}

#[test]
fn a_visitor_without_a_websocket_is_told_what_this_is() {
    for version in ["1.1", "1.0"] {
        let visit = format!("GET / HTTP/{version}\r\nHost: localhost:9001\r\nUser-Agent: curl/8\r\n\r\n");
        let response = refusal(visit.as_bytes(), config(), 426);
        assert!(response.contains("\r\nUpgrade: websocket\r\n"));
        assert!(response.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(response.contains("A test's endpoint."));
        assert!(response.contains("`test.v1`"));
    }
    let response = refusal(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", config(), 405);
    assert!(response.contains("\r\nAllow: GET\r\n") && response.contains("not POST"));
}

#[test]
fn each_missing_or_wrong_part_has_its_refusal() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status, says) in [
        (
            replaced("Upgrade: websocket", "Upgrade: websockets"),
            426,
            "A test's endpoint.",
        ),
        (
            replaced("Connection: Upgrade", "Connection: keep-alive"),
            400,
            "Connection: Upgrade",
        ),
        (replaced("Version: 13", "Version: 8"), 426, "`8`"),
        (
            replaced("Version: 13", "Version: 013"),
            426,
            "Sec-WebSocket-Version: 13",
        ),
        (replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "(none)"),
        (with("Sec-WebSocket-Version: 13"), 400, "more than once"),
        (replaced(key, ""), 400, "Sec-WebSocket-Key"),
        (
            replaced("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="),
            400,
            "16 bytes",
        ),
        (with(key.trim_end()), 400, "more than once"),
        (replaced("Host: server.example.com\r\n", ""), 400, "Host"),
        (with("Host: other.example.com"), 400, "Host"),
        (with("Content-Length: 5"), 400, "no body"),
        (with("Transfer-Encoding: chunked"), 400, "no body"),
        (replaced("HTTP/1.1", "HTTP/1.0"), 505, "HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505, "HTTP/1.1"),
        (replaced("Host:", "Ho st:"), 400, "malformed"),
        (replaced("GET /chat", "GET  /chat"), 400, "malformed"),
        (replaced("GET /chat?room=1", "GET"), 400, "malformed"),
        (with(&"X-A: b\r\n".repeat(100)), 431, "64"),
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), 400, "ws://"),
        (b"\x00\x00\x00\x10\x87\x01".to_vec(), 400, "not HTTP"),
    ] {
        let response = refusal(&request, config(), status);
        assert!(response.contains(says), "{says} in {response}");
        for size in [1, 5] {
            let mut server = Server::new(config());
            let fault = server.feed_by(&request, size).expect_err("refused in pieces too");
            assert_eq!(String::from_utf8(fault.reply()).unwrap(), response);
        }
    }
}

#[test]
fn a_head_is_bounded() {
    let fitting = 8192 - REQUEST.len() - "X: \r\n".len();
    response_to(&with(&format!("X: {}", "a".repeat(fitting))), config());
    for size in [1, 100, 8191, 8192, 8193, 20_000] {
        let mut server = Server::new(config());
        let head = with(&format!("X: {}", "a".repeat(fitting + 1)));
        let fault = server.feed_by(&head, size).expect_err("one byte too long");
        assert!(fault.reply().starts_with(b"HTTP/1.1 431 "), "{fault}");
        assert!(server.held_max_bytes <= 8192);
    }
}

#[test]
fn a_silent_peer_costs_nothing() {
    let mut server = Server::new(config());
    server.feed(b"").unwrap();
    assert_eq!(server.ws.held_bytes(), 0);
    assert!(!server.ws.is_open());
}
