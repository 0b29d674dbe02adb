//! One end of a stream with somebody behind it who reads at his own pace.

use std::collections::VecDeque;

use fluxar_engine::sim::Random;
use fluxar_protocol::envelope;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::{Heard, Part, State, Stream};
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::Received;
use minicbor::{Decoder, Encoder};

use super::line::Line;

const MS: u64 = 1_000_000;

/// What a message of a stream meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Nothing,
    /// A chunk of this stream, which of them, and how much filler it has; perhaps the last one.
    Chunk {
        sequence: u64,
        is_last: bool,
    },
    /// The other side has ended its direction.
    Ended,
    Failed(Code),
    Cancelled,
}

/// One end.
pub(crate) struct Flow {
    pub(crate) id: Id,
    pub(crate) number: u64,
    pub(crate) stream: Stream,
    window_bytes: u64,
    /// What came and was not read yet: when it will be, and its size.
    unread: VecDeque<(u64, u64)>,
    /// Its reader is slow.
    is_slow: bool,
    pub(crate) sent: u64,
    pub(crate) heard: u64,
}

impl Flow {
    pub(crate) fn new(id: Id, number: u64, stream: Stream, window_bytes: u64, random: &mut Random) -> Self {
        Self {
            id,
            number,
            stream,
            window_bytes,
            unread: VecDeque::new(),
            is_slow: random.chance(0.2),
            sent: 0,
            heard: 0,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.stream.state() == State::Closed
    }

    pub(crate) fn hear(&mut self, one: &Received, now_ns: u64, random: &mut Random) -> News {
        let decoded = envelope::decode(&one.bytes).expect("it was decoded before");
        let part = Part::read(&decoded.envelope).expect("a part that can be read");
        let heard = self
            .stream
            .handle(part)
            .expect("the gateway keeps credit and ends");
        match (heard, part) {
            (Heard::Chunk { is_last }, Part::Chunk { bytes, .. }) => {
                let (number, sequence) = read_chunk(&one.payload);
                assert_eq!(number, self.number, "a chunk of another stream");
                assert_eq!(sequence, self.heard, "a chunk was lost, repeated or overtaken");
                self.heard += 1;
                let wait_ns = random.below(if self.is_slow { 40 } else { 2 } * MS);
                self.unread.push_back((now_ns + wait_ns, bytes));
                News::Chunk { sequence, is_last }
            }
            (Heard::Ended, _) => News::Ended,
            (Heard::Failed, _) => News::Failed(one.code().expect("an error has a code")),
            _ => News::Nothing,
        }
    }

    pub(crate) fn hear_cancel(&mut self) -> News {
        match self.stream.handle_cancel() {
            Heard::Cancelled => News::Cancelled,
            Heard::Ended => News::Ended,
            _ => News::Nothing,
        }
    }

    /// Reads what is due, and grants so that a sender whose chunks have been read has half of the window.
    pub(crate) fn read(&mut self, now_ns: u64, line: &mut Line) {
        while self.unread.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            self.unread.pop_front();
        }
        let unread_bytes: u64 = self.unread.iter().map(|(_, bytes)| bytes).sum();
        let held_bytes = self.stream.granted_bytes() + unread_bytes;
        let bytes = self.window_bytes.saturating_sub(held_bytes);
        if held_bytes <= self.window_bytes / 2 && self.stream.send_grant(bytes) {
            let meta = MetaWriter::new().uint("credit", bytes).finish();
            line.say_about(Kind::Stream, self.id, meta.as_deref(), &[]);
        }
    }

    /// Sends the next chunk if there is credit for it; whether it did.
    pub(crate) fn write(&mut self, end: bool, line: &mut Line, random: &mut Random) -> bool {
        let payload = chunk(self.number, self.sent, random.index(90));
        if self.stream.send_chunk(payload.len() as u64, end).is_err() {
            return false;
        }
        self.sent += 1;
        let meta = end
            .then(|| MetaWriter::new().flag("end", true).finish())
            .flatten();
        line.say_about(Kind::Stream, self.id, meta.as_deref(), &payload);
        true
    }

    pub(crate) fn end(&mut self, line: &mut Line) {
        if self.stream.send_end() {
            let meta = MetaWriter::new().flag("end", true).finish();
            line.say_about(Kind::Stream, self.id, meta.as_deref(), &[]);
        }
    }

    /// When it next reads something.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.unread.front().map(|(due_ns, _)| *due_ns)
    }
}

fn chunk(number: u64, sequence: u64, filler: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let written = Encoder::new(&mut payload)
        .array(3)
        .and_then(|e| e.u64(number))
        .and_then(|e| e.u64(sequence))
        .and_then(|e| e.bytes(&vec![0x5a; filler]).map(|_| ()));
    assert!(written.is_ok(), "a Vec takes all");
    payload
}

fn read_chunk(payload: &[u8]) -> (u64, u64) {
    let mut decoder = Decoder::new(payload);
    assert_eq!(decoder.array().expect("a chunk"), Some(3));
    let number = decoder.u64().expect("a number");
    let sequence = decoder.u64().expect("a sequence number");
    let filler = decoder.bytes().expect("a filler");
    assert!(filler.iter().all(|byte| *byte == 0x5a), "the payload was altered");
    (number, sequence)
}
