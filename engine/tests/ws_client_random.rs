//! The client's side of a WebSocket under random servers: whatever they send, however it is cut, what is good comes
//! whole, nothing panics, and no more is held than arrived.

use std::sync::Arc;

use fluxar_engine::ws::{Masks, WsClient, WsDial, WsEvent, frame_header, ping_frame};
use proptest::prelude::*;
use tungstenite::handshake::derive_accept_key;

const LIMIT_BYTES: usize = 3_000;

/// A client and the good answer to its request.
fn client() -> (WsClient, Vec<u8>) {
    let dial = WsDial {
        max_message_bytes: LIMIT_BYTES,
        ..WsDial::default()
    };
    let mut client =
        WsClient::new(&Arc::new(dial), "a:1", "/", &mut Masks::new([1; 32])).expect("nothing is wrong");
    let request = String::from_utf8(client.request()).expect("ASCII");
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = derive_accept_key(key.expect("a key").as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    (client, answer.into_bytes())
}

/// Lets bytes arrive, cut to these sizes over and over. Returns the messages and the replies; `None` after a fault.
fn feed(client: &mut WsClient, bytes: &[u8], cuts: &[usize]) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let (mut messages, mut reply) = (Vec::new(), Vec::new());
    let mut rest = bytes.to_vec();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let mut piece: Vec<u8> = rest.drain(..(*cut).min(rest.len())).collect();
        let mut input = &mut piece[..];
        loop {
            match client.next(&mut input, &mut reply) {
                Ok(Some(WsEvent::Message(message))) => messages.push(message.to_vec()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return None,
            }
        }
        assert!(input.is_empty(), "`None` means that all of the input was taken");
        let held = client.state().held_bytes();
        assert!(held <= 8 * 1024 + 2 * LIMIT_BYTES, "{held} bytes are held");
    }
    Some((messages, reply))
}

proptest! {
    #[test]
    fn messages_come_whole_however_they_are_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..LIMIT_BYTES), 0..8),
        pings in any::<bool>(),
        cuts in prop::collection::vec(1usize..2_000, 1..20),
    ) {
        let (mut client, mut bytes) = client();
        for message in &messages {
            let mut header = [0; 10];
            let header_bytes = frame_header(message.len(), &mut header);
            bytes.extend_from_slice(&header[..header_bytes]);
            bytes.extend_from_slice(message);
            if pings {
                bytes.extend(ping_frame(b"?"));
            }
        }
        let (got, reply) = feed(&mut client, &bytes, &cuts).expect("nothing is wrong");
        prop_assert_eq!(&got, &messages);
        prop_assert_eq!(client.state().held_bytes(), 0);
        let pongs = if pings { messages.len() } else { 0 };
        prop_assert_eq!(reply, [0x8a, 1, b'?'].repeat(pongs));
    }

    #[test]
    fn noise_is_a_fault_or_nothing(
        opened in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..20_000),
        cuts in prop::collection::vec(1usize..5_000, 1..20),
    ) {
        let (mut client, answer) = client();
        if opened {
            feed(&mut client, &answer, &[7]).expect("good");
        }
        if feed(&mut client, &noise, &cuts).is_none() {
            prop_assert_eq!(client.state().held_bytes(), 0);
            prop_assert!(!client.state().is_open());
            let (messages, reply) = feed(&mut client, b"anything", &[3]).expect("what follows is discarded");
            prop_assert!(messages.is_empty() && reply.is_empty());
        }
    }

    #[test]
    fn a_damaged_answer_opens_nothing_or_says_the_same(at in 0usize..120, octet in any::<u8>()) {
        let (mut client, mut answer) = client();
        let at = at % answer.len();
        answer[at] = octet;
        let _ = feed(&mut client, &answer, &[50]);
        // Only the phrase, spaces and the case of names may change unseen.
        if client.state().is_open() {
            let accept = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            prop_assert!(accept.contains("http/1.1 101") && accept.contains("sec-websocket-accept:"));
        }
    }
}
