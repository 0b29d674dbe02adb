//! A relayed stream as a whole [P-3.9, P-3.11]: two real ends, a relay between them, and everything that can be under
//! way on the two hops, in thousands of random orders. A failing run says its seed.

use std::collections::VecDeque;

use fluxar_protocol::Code;
use fluxar_protocol::stream::{Failure, Heard, Note, Part, Passage, Relay, Side, State, Stream, Unsendable};

const RUNS: u64 = 30_000;
const SIDES: [Side; 2] = [Side::Opener, Side::Server];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What travels on a hop. A chunk has a number, to see its order and who it was.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    Grant(u64),
    Chunk { number: u64, bytes: u64, end: bool },
    End,
    Fail(Option<Code>),
    Cancel,
}

/// An application with its end of the stream.
struct End {
    stream: Stream,
    /// What it announced: it never leaves the other side with less than half of it, once it has read everything.
    window_bytes: u64,
    /// Chunks that arrived and were not read yet, bytes each.
    unread: VecDeque<u64>,
    /// How many chunks it wants to send, and the size of the next one.
    to_send: u64,
    next_bytes: u64,
    sent: u64,
    heard: u64,
    /// It ended its direction in good order, behind its last chunk.
    ended_well: bool,
    /// Both directions were cut short: what was under way need not arrive.
    is_cut: bool,
    failed_with: Option<Option<Code>>,
}

impl End {
    fn new(stream: Stream, window_bytes: u64, chunks: u64) -> Self {
        Self {
            stream,
            window_bytes,
            unread: VecDeque::new(),
            to_send: chunks,
            next_bytes: 1,
            sent: 0,
            heard: 0,
            ended_well: false,
            is_cut: false,
            failed_with: None,
        }
    }

    fn hears(&mut self, message: Message) {
        let part = match message {
            Message::Cancel => {
                if self.stream.handle_cancel() == Heard::Cancelled {
                    self.is_cut = true;
                }
                return;
            }
            Message::Grant(bytes) => Part::Grant { bytes },
            Message::Chunk { bytes, end, .. } => Part::Chunk { bytes, end },
            Message::End => Part::End,
            Message::Fail(_) => Part::Fail,
        };
        let heard = self.stream.handle(part).expect("a relay keeps the rules");
        match (heard, message) {
            (Heard::Chunk { .. }, Message::Chunk { number, bytes, .. }) => {
                assert_eq!(number, self.heard, "a chunk was lost or overtaken");
                self.heard += 1;
                self.unread.push_back(bytes);
            }
            (Heard::Failed, Message::Fail(code)) => {
                self.is_cut = true;
                self.failed_with = Some(code);
            }
            (Heard::Granted, Message::Grant(bytes)) => assert!(bytes > 0, "a grant of nothing"),
            (Heard::Ended, Message::End | Message::Chunk { end: true, .. }) => {}
            // Only what crossed something of this side's is not wanted any more.
            (Heard::Ignored, _) => assert!(
                self.is_cut || self.stream.has_sent_end(),
                "{message:?} is ignored"
            ),
            other => panic!("{other:?}"),
        }
    }

    /// Reads some of what it has, and grants as [P-3.11] asks: when half is gone at the latest, sometimes earlier.
    fn reads(&mut self, random: &mut Random) -> Option<Message> {
        for _ in 0..random.within(1, 4) {
            self.unread.pop_front();
        }
        self.grants(random.one_in(10))
    }

    fn grants(&mut self, early: bool) -> Option<Message> {
        let unread_bytes: u64 = self.unread.iter().sum();
        let held = self.stream.granted_bytes() + unread_bytes;
        if held > self.window_bytes / 2 && !early {
            return None;
        }
        let bytes = self.window_bytes.saturating_sub(held);
        self.stream.send_grant(bytes).then_some(Message::Grant(bytes))
    }

    /// Sends a chunk, its end, or nothing; whether it has to wait is credit's to say.
    fn writes(&mut self, chunk_bytes_max: u64, random: &mut Random) -> Option<Message> {
        if self.sent == self.to_send {
            let has_ended = self.stream.send_end();
            self.ended_well |= has_ended && !self.is_cut;
            return has_ended.then_some(Message::End);
        }
        let bytes = self.next_bytes.min(chunk_bytes_max);
        let end = self.sent + 1 == self.to_send && random.one_in(2);
        match self.stream.send_chunk(bytes, end) {
            Ok(()) => {
                let number = self.sent;
                self.sent += 1;
                self.ended_well |= end;
                self.next_bytes = random.within(1, chunk_bytes_max);
                Some(Message::Chunk { number, bytes, end })
            }
            Err(Unsendable::NoCredit { credit_bytes }) => {
                assert!(credit_bytes < bytes);
                None
            }
            Err(Unsendable::Cancelled) => self.stream.send_end().then_some(Message::End),
            Err(Unsendable::Ended) => None,
        }
    }
}

struct World {
    random: Random,
    relay: Relay,
    window_bytes: u64,
    ends: [End; 2],
    /// To the relay, and from it, by side.
    inbound: [VecDeque<Message>; 2],
    outbound: [VecDeque<Message>; 2],
    /// Sides that do not take what is sent to them.
    is_crowded: [bool; 2],
    is_lost: [bool; 2],
    chunk_bytes_max: u64,
    /// Something was cut short by a loss, an error or the gateway.
    is_disturbed: bool,
}

fn note(note: Note) -> Message {
    match note {
        Note::Grant { bytes } => Message::Grant(bytes),
        Note::End => Message::End,
        Note::Cancel => Message::Cancel,
        Note::Fail(failure) => Message::Fail(Some(failure.code)),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let windows = [random.within(2, 400), random.within(2, 400)];
        let window_bytes = random.within(2, 300);
        let ends = random.one_in(2);
        let chunk_bytes_max = (windows[0].min(windows[1]).min(window_bytes) / 2).max(1);
        let mut relay = Relay::new(ends, windows[0], window_bytes as u32);
        let server_starts_with = relay.open_credit_bytes();
        let (opener_chunks, server_chunks) = (random.below(30), random.below(30));
        // The gateway announced no credit to either.
        let opener = Stream::opened_here(ends, windows[0], 0);
        let server = Stream::opened_there(ends, windows[1], server_starts_with);
        let mut outbound = [VecDeque::new(), VecDeque::new()];
        let opener_grant = relay.server_found(windows[1]);
        assert_eq!(opener_grant.is_none(), ends);
        outbound[0].extend(opener_grant.map(note));
        let mut world = Self {
            relay,
            window_bytes,
            ends: [
                End::new(opener, windows[0], if ends { 0 } else { opener_chunks }),
                End::new(server, windows[1], server_chunks),
            ],
            inbound: [VecDeque::new(), VecDeque::new()],
            outbound,
            is_crowded: [false; 2],
            is_lost: [false; 2],
            chunk_bytes_max,
            is_disturbed: false,
            random,
        };
        world.ends[0].ended_well = ends;
        world
    }

    fn says(&mut self, side: usize, message: Option<Message>) {
        if let Some(message) = message
            && !self.is_lost[side]
        {
            self.inbound[side].push_back(message);
        }
    }

    fn tells(&mut self, side: usize, message: Option<Message>) {
        if let Some(message) = message {
            assert!(!self.is_lost[side], "{message:?} to one that is lost");
            self.outbound[side].push_back(message);
        }
    }

    /// The relay takes the next message from a side.
    fn relays(&mut self, side: usize) {
        let Some(message) = self.inbound[side].pop_front() else {
            return;
        };
        let from = SIDES[side];
        let part = match message {
            Message::Cancel => {
                let on = self.relay.cancel(from);
                return self.tells(1 - side, on.map(note));
            }
            Message::Grant(bytes) => Part::Grant { bytes },
            Message::Chunk { bytes, end, .. } => Part::Chunk { bytes, end },
            Message::End => Part::End,
            Message::Fail(_) => Part::Fail,
        };
        // More is asked of a side only while what it sends is taken: a grant asks the other, a chunk its own sender.
        let may_grant = match part {
            Part::Grant { .. } => !self.is_crowded[side],
            _ => !self.is_crowded[1 - side],
        };
        let mut passed = None;
        if let Part::Chunk { bytes, end: false } = part
            && bytes <= self.relay.free_bytes(from)
        {
            let relay = passed.insert(self.relay);
            relay.passed(from, bytes);
        }
        let passage = self.relay.part(from, part, may_grant);
        if let Some(passed) = passed {
            let only_pass = Passage {
                pass: true,
                ..Passage::default()
            };
            assert_eq!((self.relay, passage), (passed, only_pass), "a free chunk");
        }
        for told in [passage.on, passage.back] {
            assert!(
                !matches!(told, Some(Note::Fail(_))),
                "the relay failed an honest stream: {told:?}"
            );
        }
        self.tells(1 - side, passage.pass.then_some(message));
        self.tells(1 - side, passage.on.map(note));
        self.tells(side, passage.back.map(note));
    }

    fn delivers(&mut self, side: usize) {
        if let Some(message) = self.outbound[side].pop_front() {
            self.ends[side].hears(message);
        }
    }

    /// It takes again what is sent to it: what the other side was not granted meanwhile it gets now.
    fn clears(&mut self, side: usize) {
        self.is_crowded[side] = false;
        let note_to_other = self.relay.grant(SIDES[1 - side]);
        self.tells(1 - side, note_to_other.map(note));
    }

    fn loses(&mut self, side: usize) {
        self.is_disturbed = true;
        self.is_lost[side] = true;
        self.inbound[side].clear();
        self.outbound[side].clear();
        self.ends[side].stream.close();
        self.ends[side].is_cut = true;
        let told = self.relay.lost(SIDES[side]);
        if self.is_lost[1 - side] {
            assert_eq!(told, None);
        } else {
            self.tells(1 - side, told.map(note));
        }
    }

    fn fails(&mut self) {
        self.is_disturbed = true;
        let (opener, server) = self.relay.fail(Failure::DEADLINE);
        self.tells(0, opener.map(note));
        self.tells(1, server.map(note));
    }

    fn check(&self) {
        for side in 0..2 {
            let hop = self.relay.hop(SIDES[side]);
            assert!(
                hop.granted_bytes() <= self.window_bytes,
                "more than the window is granted"
            );
            if hop.state() == State::Active && !hop.has_received_end() {
                let bytes: u64 = self.inbound[side]
                    .iter()
                    .map(|message| match message {
                        Message::Chunk { bytes, .. } => *bytes,
                        _ => 0,
                    })
                    .sum();
                assert!(bytes <= hop.granted_bytes(), "more is under way than was granted");
                let other = self.relay.hop(SIDES[1 - side]);
                assert!(
                    hop.granted_bytes() <= other.credit_bytes(),
                    "granted what the other side does not take"
                );
            }
        }
        let is_closed = |side| self.relay.hop(side).state() == State::Closed;
        assert_eq!(
            is_closed(Side::Opener),
            is_closed(Side::Server),
            "the hops close together"
        );
        assert_eq!(self.relay.state() == State::Closed, is_closed(Side::Opener));
    }

    /// Nothing new is begun; whoever was cancelled ends, whoever has something to say says it.
    fn settles(&mut self) {
        for side in 0..2 {
            if self.is_crowded[side] && !self.is_lost[side] {
                self.clears(side);
            }
        }
        let mut idle = 0;
        while idle < 4 {
            let before = (
                self.inbound.clone(),
                self.outbound.clone(),
                self.ends[0].sent,
                self.ends[1].sent,
            );
            for side in 0..2 {
                while !self.outbound[side].is_empty() {
                    self.delivers(side);
                }
                if self.is_lost[side] {
                    continue;
                }
                self.ends[side].unread.clear();
                // As late as it may.
                let grant = self.ends[side].grants(false);
                self.says(side, grant);
                let written = self.ends[side].writes(self.chunk_bytes_max, &mut self.random);
                self.says(side, written);
                while !self.inbound[side].is_empty() {
                    self.relays(side);
                    self.check();
                }
            }
            let after = (
                self.inbound.clone(),
                self.outbound.clone(),
                self.ends[0].sent,
                self.ends[1].sent,
            );
            let is_quiet = self.inbound.iter().chain(&self.outbound).all(VecDeque::is_empty);
            idle = if is_quiet && before == after { idle + 1 } else { 0 };
        }
        for (side, end) in self.ends.iter().enumerate() {
            assert_eq!(
                end.stream.state(),
                State::Closed,
                "an end stays open, having sent {} of {}",
                end.sent,
                end.to_send
            );
            assert_eq!(self.relay.hop(SIDES[side]).state(), State::Closed);
        }
        let is_cut = self.ends.iter().any(|end| end.is_cut);
        for side in 0..2 {
            let (here, there) = (&self.ends[side], &self.ends[1 - side]);
            assert!(there.heard <= here.sent);
            if !is_cut && here.ended_well {
                assert_eq!(there.heard, here.sent, "a chunk was lost");
                assert_eq!(here.sent, here.to_send);
            }
            if !self.is_disturbed {
                assert!(
                    matches!(here.failed_with, None | Some(None)),
                    "the relay made an error of its own"
                );
            }
        }
    }
}

/// How a run is disturbed.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Cancels,
    Everything,
}

fn run(seed: u64, trouble: Trouble) {
    let mut world = World::new(seed);
    let steps = world.random.within(0, 400);
    for _ in 0..steps {
        let side = world.random.below(2) as usize;
        let action = world.random.below(100);
        match action {
            0..30 => world.relays(side),
            30..60 => world.delivers(side),
            _ if world.is_lost[side] => {}
            60..75 => {
                let grant = world.ends[side].reads(&mut world.random);
                world.says(side, grant);
            }
            75..92 => {
                let written = world.ends[side].writes(world.chunk_bytes_max, &mut world.random);
                world.says(side, written);
            }
            92..94 => world.is_crowded[side] = true,
            94..96 => world.clears(side),
            96 if trouble != Trouble::None
                && world.random.one_in(3)
                && world.ends[side].stream.send_cancel() =>
            {
                world.ends[side].is_cut = true;
                world.says(side, Some(Message::Cancel));
            }
            97 if trouble == Trouble::Everything
                && world.random.one_in(3)
                && world.ends[side].stream.send_fail() =>
            {
                world.ends[side].is_cut = true;
                world.says(side, Some(Message::Fail(None)));
            }
            98 if trouble == Trouble::Everything && world.random.one_in(6) => world.loses(side),
            99 if trouble == Trouble::Everything && world.random.one_in(6) && !world.is_lost[1 - side] => {
                world.fails()
            }
            _ => {}
        }
        world.check();
    }
    world.settles();
}

fn runs(trouble: Trouble) {
    for seed in 0..RUNS {
        if std::panic::catch_unwind(|| run(seed, trouble)).is_err() {
            panic!("seed {seed}");
        }
    }
}

#[test]
fn what_is_sent_arrives_in_order_and_everything_ends() {
    runs(Trouble::None);
}

#[test]
fn cancels_at_any_time_from_either_side_end_it() {
    runs(Trouble::Cancels);
}

#[test]
fn losses_and_errors_at_any_time_end_it() {
    runs(Trouble::Everything);
}

#[test]
fn a_side_that_breaks_its_credit_ends_only_this_stream_and_both_are_told() {
    for from in SIDES {
        for breach in [
            Part::Chunk {
                bytes: 65,
                end: false,
            },
            Part::Chunk { bytes: 65, end: true },
        ] {
            let mut relay = Relay::new(false, 64, 256);
            assert_eq!(relay.server_found(64), Some(Note::Grant { bytes: 64 }));
            let passage = relay.part(from, breach, true);
            assert!(!passage.pass);
            assert!(
                matches!(
                    passage.back,
                    Some(Note::Fail(Failure {
                        code: Code::FailedPrecondition,
                        ..
                    }))
                ),
                "{passage:?}"
            );
            assert!(
                matches!(
                    passage.on,
                    Some(Note::Fail(Failure {
                        code: Code::Aborted,
                        ..
                    }))
                ),
                "{passage:?}"
            );
            assert_eq!(relay.state(), State::Closed);
            assert_eq!(
                relay.part(from, Part::End, true),
                fluxar_protocol::stream::Passage::default()
            );
        }
    }
}

#[test]
fn a_chunk_behind_an_end_is_a_breach() {
    let mut relay = Relay::new(true, 64, 256);
    assert_eq!(
        relay.server_found(64),
        None,
        "an opener that has ended is granted nothing"
    );
    let passage = relay.part(Side::Opener, Part::Chunk { bytes: 1, end: false }, true);
    assert!(matches!(
        passage.back,
        Some(Note::Fail(Failure {
            code: Code::FailedPrecondition,
            ..
        }))
    ));
    assert!(matches!(passage.on, Some(Note::Fail(_))));
}

#[test]
fn an_opener_may_send_nothing_before_the_server_is_known() {
    let mut relay = Relay::new(false, 64, 256);
    let passage = relay.part(Side::Opener, Part::Chunk { bytes: 1, end: false }, true);
    assert!(matches!(
        passage.back,
        Some(Note::Fail(Failure {
            code: Code::FailedPrecondition,
            ..
        }))
    ));
}

#[test]
fn the_window_caps_what_a_reader_grants() {
    let mut relay = Relay::new(false, 1 << 40, 1_000);
    assert_eq!(relay.open_credit_bytes(), 1_000);
    assert_eq!(relay.server_found(1 << 40), Some(Note::Grant { bytes: 1_000 }));
    // Nothing is said for every chunk, but when half is gone.
    let chunk = Part::Chunk {
        bytes: 100,
        end: false,
    };
    for _ in 0..5 {
        assert_eq!(relay.part(Side::Server, chunk, true).back, None);
    }
    assert_eq!(
        relay.part(Side::Server, chunk, true).back,
        Some(Note::Grant { bytes: 600 })
    );
    // To a reader that takes nothing no more than that comes, whatever it grants.
    for _ in 0..9 {
        assert_eq!(relay.part(Side::Server, chunk, false).back, None);
    }
    assert_eq!(
        relay.part(Side::Opener, Part::Grant { bytes: 1 << 30 }, false).on,
        None
    );
    assert_eq!(relay.hop(Side::Server).granted_bytes(), 100);
    assert_eq!(relay.grant(Side::Server), Some(Note::Grant { bytes: 900 }));
    assert_eq!(relay.grant(Side::Server), None);
}

#[test]
fn a_side_that_does_not_send_is_not_flooded_with_small_grants() {
    let window_bytes = 64 * 1024;
    let mut relay = Relay::new(true, 0, window_bytes);
    let steps = |relay: &mut Relay, by: u64, steps: u64| {
        let mut grants = 0;
        for _ in 0..steps {
            let on = relay.part(Side::Opener, Part::Grant { bytes: by }, true).on;
            grants += u32::from(on.is_some());
        }
        grants
    };
    let handed = steps(&mut relay, 1, window_bytes.into());
    assert!(handed < 128, "{handed} grants");
    // Nothing much of it was kept back, and a chunk brings the rest.
    let granted_bytes = relay.hop(Side::Server).granted_bytes();
    assert!(granted_bytes > u64::from(window_bytes / 8 * 7), "{granted_bytes}");
    let chunk = Part::Chunk {
        bytes: granted_bytes,
        end: false,
    };
    assert!(relay.part(Side::Server, chunk, true).pass);
    // To who sends, each is handed on.
    let grants = relay.part(Side::Opener, Part::Grant { bytes: 1 }, true);
    assert!(grants.on.is_some());
}

#[test]
fn what_each_is_told_of_a_loss() {
    let mut relay = Relay::new(true, 64, 256);
    assert_eq!(
        relay.lost(Side::Opener),
        Some(Note::Cancel),
        "nobody waits for it any more"
    );
    let mut relay = Relay::new(true, 64, 256);
    assert_eq!(relay.lost(Side::Server), Some(Note::Fail(Failure::SERVER_LOST)));
    assert_eq!(relay.lost(Side::Opener), None);
    assert_eq!(relay.fail(Failure::DEADLINE), (None, None));
}

#[test]
fn chunks_pass_freely_until_something_is_to_be_said() {
    // The reader's credit is within the window: nothing is to be said until it is used up.
    let mut relay = Relay::new(true, 100, 256);
    assert_eq!(relay.free_bytes(Side::Opener), 0, "it has ended");
    assert_eq!(relay.free_bytes(Side::Server), 100);
    relay.passed(Side::Server, 60);
    assert_eq!(relay.free_bytes(Side::Server), 40);
    relay.part(Side::Opener, Part::Grant { bytes: 60 }, true);
    assert_eq!(relay.free_bytes(Side::Server), 100);
    // It is beyond: at half a window more is granted.
    let mut relay = Relay::new(true, 1_000, 256);
    assert_eq!(relay.free_bytes(Side::Server), 128);
    relay.passed(Side::Server, 128);
    assert_eq!(relay.free_bytes(Side::Server), 0);
    let chunk = Part::Chunk { bytes: 1, end: false };
    assert_eq!(
        relay.part(Side::Server, chunk, true).back,
        Some(Note::Grant { bytes: 129 })
    );
    relay.cancel(Side::Opener);
    assert_eq!(relay.free_bytes(Side::Server), 0, "it is cancelled");
}
