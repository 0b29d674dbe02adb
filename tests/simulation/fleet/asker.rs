//! Those who ask the fleet: calls at a rate, and streams, each on one connection.

use std::collections::BTreeMap;

use fluxar_engine::sim::Random;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::Stream;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::Received;
use minicbor::Encoder;

use super::flow::{Flow, News};
use super::ledger::{Ending, Ledger};
use super::line::Line;
use super::service::Shape;

const MS: u64 = 1_000_000;

/// A stream from its opener's side.
struct Opened {
    flow: Flow,
    shape: Shape,
    to_send: u64,
    /// How many chunks are to come.
    expected: u64,
    /// It loses interest then.
    cancel_ns: u64,
    is_cancelled: bool,
    has_failed: bool,
}

/// One that asks.
pub(crate) struct Asker {
    line: Line,
    /// How often it calls; `None`: it opens streams.
    pause_ns: u64,
    streams_max: usize,
    next_ns: u64,
    calls: BTreeMap<Id, u64>,
    streams: BTreeMap<Id, Opened>,
}

impl Asker {
    /// One that calls every `pause_ns` or so, and has `streams_max` streams open.
    pub(crate) fn new(line: Line, pause_ns: u64, streams_max: usize) -> Self {
        Self {
            line,
            pause_ns,
            streams_max,
            next_ns: 0,
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn turn(&mut self, now_ns: u64, is_active: bool, random: &mut Random, ledger: &mut Ledger) {
        for one in self.line.hear() {
            self.hear(&one, now_ns, random, ledger);
        }
        assert!(self.line.is_open(), "an asker was cut off");
        if is_active && self.next_ns <= now_ns {
            // Exponential, near enough: a burst is as likely as a pause.
            self.next_ns = now_ns + 1 + random.below(2 * self.pause_ns);
            if !self.line.is_greeted {
                // Not before the gateway has said what it takes.
            } else if self.streams_max == 0 {
                self.call(now_ns, random, ledger);
            } else if self.streams.len() < self.streams_max {
                self.open(now_ns, random, ledger);
            }
        }
        self.work(now_ns, random, ledger);
        self.line.flush(random);
    }

    fn call(&mut self, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        let idempotent = random.chance(0.4);
        let timeout_ms = random.chance(0.8).then(|| 300 + random.below(1_500));
        let mut meta = MetaWriter::new();
        if idempotent {
            meta = meta.flag("idempotent", true);
            if random.chance(0.3) {
                meta = meta.uint("hedge_ms", 5 + random.below(40));
            }
        }
        if let Some(timeout_ms) = timeout_ms {
            meta = meta.uint("timeout_ms", timeout_ms);
        }
        if random.chance(0.3) {
            meta = meta.uint("prio", random.below(8));
        }
        let number = ledger.asks(now_ns, false, idempotent, timeout_ms);
        let payload = minicbor::to_vec(number).expect("a Vec takes all");
        let id = self.line.id();
        self.line.say(
            Kind::Call,
            id,
            None,
            Some("echo.call"),
            meta.finish().as_deref(),
            &payload,
        );
        self.calls.insert(id, number);
    }

    fn open(&mut self, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        let shape = [Shape::Down, Shape::Both, Shape::Up][random.index(3)];
        let chunks = random.below(30);
        let window_bytes = 400 + random.below(4_000);
        let number = ledger.asks(now_ns, true, false, None);
        let mut payload = Vec::new();
        let written = Encoder::new(&mut payload)
            .array(2)
            .and_then(|e| e.u64(number))
            .and_then(|e| e.u64(chunks).map(|_| ()));
        assert!(written.is_ok(), "a Vec takes all");
        let ends = shape == Shape::Down;
        let mut meta = MetaWriter::new().uint("credit", window_bytes);
        if ends {
            meta = meta.flag("end", true);
        }
        let id = self.line.id();
        self.line.say(
            Kind::Stream,
            id,
            None,
            Some(shape.method()),
            meta.finish().as_deref(),
            &payload,
        );
        let stream = Stream::opened_here(ends, window_bytes, self.line.credit_bytes);
        let opened = Opened {
            flow: Flow::new(id, number, stream, window_bytes, random),
            shape,
            to_send: if ends { 0 } else { chunks },
            expected: if shape == Shape::Up { 1 } else { chunks },
            cancel_ns: if random.chance(0.15) {
                now_ns + random.below(300 * MS)
            } else {
                u64::MAX
            },
            is_cancelled: false,
            has_failed: false,
        };
        self.streams.insert(id, opened);
    }

    fn hear(&mut self, one: &Received, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        let reference = one.reference.expect("nobody calls an asker");
        match one.kind {
            Kind::Call => {
                let number = self
                    .calls
                    .remove(&reference)
                    .expect("an answer to one of its calls, the only one");
                let ending = match one.code() {
                    Some(code) => Ending::Failed(code),
                    None => {
                        assert_eq!(one.number(), number, "the answer to another call");
                        Ending::Answered
                    }
                };
                ledger.ends(number, now_ns, ending);
            }
            Kind::Stream => {
                // What is over may still be told something that crossed its end.
                let Some(opened) = self.streams.get_mut(&reference) else {
                    return;
                };
                if let News::Failed(code) = opened.flow.hear(one, now_ns, random) {
                    opened.has_failed = true;
                    let own = opened.is_cancelled && code == Code::Cancelled;
                    let ending = if own {
                        Ending::Cancelled
                    } else {
                        Ending::Failed(code)
                    };
                    ledger.ends(opened.flow.number, now_ns, ending);
                }
            }
            kind => panic!("an asker heard {kind:?}: {one:?}"),
        }
    }

    fn work(&mut self, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        let line = &mut self.line;
        self.streams.retain(|id, opened| {
            let flow = &mut opened.flow;
            if !opened.is_cancelled && opened.cancel_ns <= now_ns && flow.stream.send_cancel() {
                opened.is_cancelled = true;
                line.say_about(Kind::Cancel, *id, None, &[]);
            }
            if !opened.is_cancelled {
                flow.read(now_ns, line);
                while opened.to_send > 0 && flow.write(false, line, random) {
                    opened.to_send -= 1;
                }
                if opened.to_send == 0 {
                    flow.end(line);
                }
            }
            if !flow.is_closed() {
                return true;
            }
            if opened.has_failed {
                return false;
            }
            if opened.is_cancelled {
                ledger.ends(flow.number, now_ns, Ending::Cancelled);
            } else {
                assert_eq!(
                    flow.heard, opened.expected,
                    "{:?} ended well, without all of its chunks",
                    opened.shape
                );
                ledger.ends(flow.number, now_ns, Ending::Answered);
            }
            false
        });
    }

    /// When it next does something on its own.
    pub(crate) fn due_ns(&self, now_ns: u64, is_active: bool) -> Option<u64> {
        let flows = self.streams.values().flat_map(|opened| {
            let cancel_ns = (!opened.is_cancelled).then_some(opened.cancel_ns);
            [opened.flow.due_ns(), cancel_ns].into_iter().flatten()
        });
        let next_ns = is_active.then_some(self.next_ns);
        flows.chain(next_ns).filter(|due_ns| *due_ns > now_ns).min()
    }
}
