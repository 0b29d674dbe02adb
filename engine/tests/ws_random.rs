//! The WebSocket layer under chance: conversations cut and fragmented at random must give the same messages, and
//! hostile bytes must neither crash it nor make it hold more than its bounds.

mod ws_peer;

use std::time::{Duration, Instant};

use fluxar_engine::ws::WsConfig;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use ws_peer::{BINARY, CONTINUATION, FIN, PING, PONG, REQUEST, Seen, Server, TEXT, close, frame_masked};

const LIMIT_BYTES: usize = 70_000;
/// What may be held beyond the limit: the beginning of a header or of a control frame's payload.
const TAIL_BYTES: usize = 125;
/// What a reply may come to: its bound, one control frame, the response to the handshake.
const REPLY_BYTES: usize = 4096 + 127 + 256;
const HEAD_BYTES: usize = 8192;

fn config() -> WsConfig {
    WsConfig {
        max_message_bytes: LIMIT_BYTES,
        text: true,
        ..WsConfig::default()
    }
}

/// One thing that a client sends.
#[derive(Clone, Debug)]
struct Sent {
    message: Seen,
    /// Where it is cut into fragments.
    cuts: Vec<Index>,
    /// Control frames before its fragments.
    controls: Vec<(bool, Vec<u8>)>,
    mask: [u8; 4],
}

impl Sent {
    /// Appends its frames to `wire` and the pongs that they ask for to `pongs`.
    fn write(&self, wire: &mut Vec<u8>, pongs: &mut Vec<u8>) {
        let (mut opcode, payload) = match &self.message {
            Seen::Binary(message) => (BINARY, &message[..]),
            Seen::Text(text) => (TEXT, text.as_bytes()),
            _ => unreachable!("only messages are sent"),
        };
        let mut ends: Vec<usize> = self.cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(payload.len());
        let mut controls = self.controls.iter();
        let mut begins = 0;
        for (i, &end) in ends.iter().enumerate() {
            if let Some((ping, payload)) = controls.next() {
                wire.extend(frame_masked(
                    FIN | if *ping { PING } else { PONG },
                    payload,
                    self.mask,
                ));
                if *ping {
                    pongs.extend([0x8a, payload.len() as u8]);
                    pongs.extend(payload);
                }
            }
            let fin = if i + 1 == ends.len() { FIN } else { 0 };
            wire.extend(frame_masked(fin | opcode, &payload[begins..end], self.mask));
            opcode = CONTINUATION;
            begins = end;
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let length = prop_oneof![
        6 => 0..300_usize,
        2 => 60_000..LIMIT_BYTES,
        2 => prop::sample::select(vec![125, 126, 127, 65_535, 65_536]),
    ];
    let binary = (length, any::<u8>())
        .prop_map(|(length, seed)| Seen::Binary((0..length).map(|i| (i * 7) as u8 ^ seed).collect()));
    let message = prop_oneof![3 => binary, 1 => any::<String>().prop_map(Seen::Text)];
    let controls = vec((any::<bool>(), vec(any::<u8>(), 0..=125)), 0..4);
    (message, vec(any::<Index>(), 0..5), controls, any::<[u8; 4]>()).prop_map(
        |(message, cuts, controls, mask)| Sent {
            message,
            cuts,
            controls,
            mask,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fragments_in_any_pieces_give_the_same_messages(
        conversation in vec(sent(), 0..12),
        sizes in vec(prop_oneof![1..20_usize, 1..40_000_usize], 1..20),
        ending in prop_oneof![Just(1000_u16), Just(1001), 3000..5000_u16],
    ) {
        let (mut wire, mut pongs) = (REQUEST.to_vec(), Vec::new());
        let mut expected = vec![Seen::Opened("/chat?room=1".into())];
        for sent in &conversation {
            sent.write(&mut wire, &mut pongs);
            expected.push(sent.message.clone());
        }
        wire.extend(close(ending, b"done"));
        expected.push(Seen::Closed(ending, "done".into()));
        pongs.extend([0x88, 2]);
        pongs.extend(ending.to_be_bytes());

        let mut server = Server::new(config());
        let mut replies = Vec::new();
        let mut rest = &wire[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*size));
            server.feed(piece).unwrap_or_else(|fault| panic!("{fault}"));
            replies.append(&mut server.reply);
            rest = after;
        }
        prop_assert!(server.seen == expected, "the same messages");
        let response_ends = replies.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        prop_assert_eq!(&replies[response_ends..], &pongs);
        prop_assert!(server.held_max_bytes <= LIMIT_BYTES + TAIL_BYTES);
        prop_assert_eq!(server.ws.held_bytes(), 0);
    }

    #[test]
    fn random_bytes_fail_or_wait_within_bounds(bytes in vec(any::<u8>(), 0..3000), size in 1..500_usize) {
        hostile(Server::new(config()), &bytes, size);
        hostile(Server::open(config()), &bytes, size);
        let request = [b"GET / HTTP/1.1\r\n", &bytes[..]].concat();
        hostile(Server::new(config()), &request, size);
    }
}

/// Feeds bytes of any kind, the reply left where it is, and holds the bounds against it.
fn hostile(mut server: Server, bytes: &[u8], size: usize) {
    let failed = server.feed_by(bytes, size).is_err();
    assert!(server.held_max_bytes <= LIMIT_BYTES.max(HEAD_BYTES) + TAIL_BYTES);
    assert!(server.reply.len() <= REPLY_BYTES);
    if failed {
        assert_eq!(server.ws.held_bytes(), 0);
        server.seen.clear();
        server.feed(bytes).expect("a failed connection discards");
        assert_eq!(server.seen, []);
    }
}

/// A small generator of its own (SplitMix64), so that a printed seed repeats a run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A conversation that is almost right: real frames, of which some octets are changed, lost or doubled.
fn nearly_right(chance: &mut Chance) -> Vec<u8> {
    let mut wire = if chance.below(20) == 0 {
        Vec::new()
    } else {
        REQUEST.to_vec()
    };
    let mut begun = false;
    for _ in 0..chance.below(30) {
        let first = match (chance.below(60), begun) {
            (0, _) => chance.next() as u8,
            (1..20, _) => FIN | [PING, PONG][chance.below(2)],
            (_, false) => [FIN | BINARY, BINARY, FIN | TEXT, TEXT][chance.below(4)],
            (_, true) => [FIN | CONTINUATION, CONTINUATION][chance.below(2)],
        };
        if first & 8 == 0 {
            begun = first & FIN == 0;
        }
        let length = match chance.below(20) {
            0 => chance.below(LIMIT_BYTES + 10),
            1..4 => 120 + chance.below(16),
            _ => chance.below(40),
        };
        let length = if first & 8 == 0 { length } else { length.min(125) };
        let payload = if chance.below(40) == 0 {
            chance.bytes(length)
        } else {
            vec![b'a'; length]
        };
        let mask = (chance.next() as u32).to_be_bytes();
        wire.extend(frame_masked(first, &payload, mask));
    }
    for _ in 0..chance.below(6).saturating_sub(2) {
        if wire.is_empty() {
            break;
        }
        let at = chance.below(wire.len());
        match chance.below(4) {
            0 => wire[at] ^= 1 << chance.below(8),
            1 => wire[at] = chance.next() as u8,
            2 => drop(wire.remove(at)),
            _ => wire.insert(at, chance.next() as u8),
        }
    }
    wire
}

/// The same verdict, events and replies for the same bytes, however they arrive; and the bounds.
#[test]
fn a_long_run_of_nearly_right_conversations() {
    let seed = match std::env::var("WS_SEED") {
        Ok(seed) => seed.parse().expect("WS_SEED is a number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64,
    };
    println!("WS_SEED={seed} repeats this run");
    let mut chance = Chance(seed);
    let begun = Instant::now();
    let (mut rounds, mut faults) = (0, 0);
    while rounds < 200 || begun.elapsed() < Duration::from_secs(2) {
        let wire = nearly_right(&mut chance);
        let mut whole = Server::new(config());
        let verdict = whole.feed(&wire);
        let mut pieces = Server::new(config());
        let mut rest = &wire[..];
        let mut verdict_of_pieces = Ok(());
        let most = [3, 50, 20_000][chance.below(3)];
        while !rest.is_empty() && verdict_of_pieces.is_ok() {
            let (piece, after) = rest.split_at(rest.len().min(1 + chance.below(most)));
            verdict_of_pieces = pieces.feed(piece);
            rest = after;
        }
        assert_eq!(verdict, verdict_of_pieces, "round {rounds}");
        assert_eq!(whole.seen, pieces.seen, "round {rounds}");
        assert_eq!(whole.reply, pieces.reply, "round {rounds}");
        for server in [whole, pieces] {
            assert!(
                server.held_max_bytes <= LIMIT_BYTES + TAIL_BYTES,
                "round {rounds}"
            );
            assert!(server.reply.len() <= REPLY_BYTES, "round {rounds}");
        }
        rounds += 1;
        faults += u32::from(verdict.is_err());
    }
    println!("{rounds} conversations, {faults} of them failed");
    assert!(faults > 0 && faults < rounds, "both kinds must occur");
}
