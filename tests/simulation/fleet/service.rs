//! One of the fleet: it serves `echo.call`, and streams of three kinds, until something happens to it.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_engine::sim::Random;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::Stream;
use fluxar_protocol::{Id, Kind};
use fluxar_tests::message::Received;
use minicbor::Decoder;

use super::flow::{Flow, News};
use super::ledger::Ledger;
use super::line::Line;

const MS: u64 = 1_000_000;
/// What a service announces in its hello: the window of every stream that it reads.
pub(crate) const WINDOW_BYTES: u32 = 1_000;
/// Longest that a call takes to be served.
pub(crate) const SERVING_NS_MAX: u64 = 50 * MS;

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The service sends so many chunks.
    Down,
    /// The opener sends, and gets back as many.
    Both,
    /// The opener sends, and gets one chunk in the end.
    Up,
}

impl Shape {
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Down => "echo.down",
            Self::Both => "echo.both",
            Self::Up => "echo.up",
        }
    }
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// Its process is stopped: it neither reads nor says anything.
    Paused {
        until_ns: u64,
    },
    /// It has cancelled its offer, and finishes what it has; then it says goodbye.
    Leaving {
        is_confirmed: bool,
    },
    Down {
        until_ns: u64,
    },
}

/// A service's stream.
struct Served {
    flow: Flow,
    shape: Shape,
    /// Chunks that it still has to send.
    to_send: u64,
}

/// An instance and its present incarnation.
pub(crate) struct Service {
    pub(crate) instance: usize,
    pub(crate) incarnation: u32,
    pub(crate) life: Life,
    line: Option<Line>,
    offer: Option<Id>,
    pub(crate) is_accepted: bool,
    in_flight_max: usize,
    weight: u64,
    /// Calls to be answered: when, which, whose number.
    jobs: BTreeMap<Id, (u64, u64)>,
    streams: BTreeMap<Id, Served>,
    /// Streams that ended a moment ago: what comes for them is late, not wrong.
    over: BTreeSet<Id>,
}

impl Service {
    pub(crate) fn new(instance: usize, random: &mut Random) -> Self {
        Self {
            instance,
            incarnation: 0,
            life: Life::Down { until_ns: 0 },
            line: None,
            offer: None,
            is_accepted: false,
            in_flight_max: 8 + random.index(24),
            weight: 1 + random.below(3),
            jobs: BTreeMap::new(),
            streams: BTreeMap::new(),
            over: BTreeSet::new(),
        }
    }

    /// A new incarnation dials in.
    pub(crate) fn start(&mut self, mut line: Line, random: &mut Random) {
        self.incarnation += 1;
        self.life = Life::Up;
        self.is_accepted = false;
        let offer = line.id();
        let meta = MetaWriter::new()
            .flag("serve", true)
            .uint("weight", self.weight)
            .uint("in_flight", self.in_flight_max as u64)
            .finish();
        line.say(Kind::Subscribe, offer, None, Some("echo.*"), meta.as_deref(), &[]);
        line.flush(random);
        self.offer = Some(offer);
        self.line = Some(line);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life == Life::Up && self.is_accepted
    }

    /// Killed: its connection ends as that of a process that ends does, and all that it had is gone.
    pub(crate) fn die(&mut self, until_ns: u64, reset: bool) {
        if let Some(mut line) = self.line.take() {
            line.die(reset);
        }
        self.jobs.clear();
        self.streams.clear();
        self.over.clear();
        self.is_accepted = false;
        self.life = Life::Down { until_ns };
    }

    pub(crate) fn pause(&mut self, until_ns: u64) {
        if let Some(line) = &mut self.line {
            line.stop_reading();
            self.life = Life::Paused { until_ns };
        }
    }

    /// It cancels its offer, to leave in good order.
    pub(crate) fn leave(&mut self, random: &mut Random) {
        if let (Some(line), Some(offer)) = (&mut self.line, self.offer) {
            line.say_about(Kind::Cancel, offer, None, &[]);
            line.flush(random);
            self.life = Life::Leaving { is_confirmed: false };
        }
    }

    pub(crate) fn turn(&mut self, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        if let Life::Paused { until_ns } = self.life {
            if now_ns < until_ns {
                return;
            }
            self.life = Life::Up;
            ledger.resumes(self.instance, now_ns);
            if let Some(line) = &mut self.line {
                line.read_on();
            }
        }
        let Some(mut line) = self.line.take() else { return };
        for one in line.hear() {
            self.hear(&one, now_ns, &mut line, random, ledger);
        }
        self.work(now_ns, &mut line, random);
        if let Life::Leaving { is_confirmed: true } = self.life
            && self.jobs.is_empty()
            && self.streams.is_empty()
        {
            line.say_goodbye();
            line.flush(random);
            ledger.departs(self.instance, now_ns);
            self.die(now_ns + (100 + random.below(400)) * MS, false);
            // Its goodbye is read before its end.
            drop(line);
            return;
        }
        line.flush(random);
        assert!(line.is_open(), "instance {} was cut off", self.instance);
        self.line = Some(line);
    }

    fn hear(
        &mut self,
        one: &Received,
        now_ns: u64,
        line: &mut Line,
        random: &mut Random,
        ledger: &mut Ledger,
    ) {
        match (one.kind, one.reference) {
            (Kind::Subscribe, Some(reference)) => {
                assert_eq!(Some(reference), self.offer);
                assert_eq!(one.error, None);
                if one.ends() {
                    assert!(matches!(self.life, Life::Leaving { .. }));
                    self.life = Life::Leaving { is_confirmed: true };
                    ledger.is_left(self.instance, now_ns);
                } else {
                    self.is_accepted = true;
                    ledger.serves(self.instance, self.incarnation, now_ns);
                }
            }
            (Kind::Call, None) => {
                assert_eq!(one.target.as_deref(), Some("echo.call"));
                ledger.receives_call(one.number(), self.instance, self.incarnation, now_ns);
                let done_ns = now_ns + MS / 2 + random.below(SERVING_NS_MAX - MS);
                self.jobs.insert(one.id, (done_ns, one.number()));
                self.check_in_flight();
            }
            (Kind::Stream, None) => {
                self.open(one, now_ns, random, ledger);
                self.check_in_flight();
            }
            (Kind::Cancel, Some(id)) => {
                self.jobs.remove(&id);
                if let Some(served) = self.streams.get_mut(&id)
                    && served.flow.hear_cancel() == News::Cancelled
                {
                    served.flow.end(line);
                }
            }
            (Kind::Stream, Some(id)) => {
                let Some(served) = self.streams.get_mut(&id) else {
                    assert!(
                        self.over.contains(&id),
                        "a part of no stream of instance {}",
                        self.instance
                    );
                    return;
                };
                match served.flow.hear(one, now_ns, random) {
                    News::Chunk { .. } if served.shape == Shape::Both => served.to_send += 1,
                    _ => {}
                }
            }
            other => panic!("a service heard {other:?}: {one:?}"),
        }
    }

    fn check_in_flight(&self) {
        let open = self.jobs.len() + self.streams.len();
        assert!(
            open <= self.in_flight_max,
            "instance {} has {open} open, and offered to take {}",
            self.instance,
            self.in_flight_max
        );
    }

    fn open(&mut self, one: &Received, now_ns: u64, random: &mut Random, ledger: &mut Ledger) {
        let mut decoder = Decoder::new(&one.payload);
        assert_eq!(decoder.array().expect("a request"), Some(2));
        let number = decoder.u64().expect("a number");
        let chunks = decoder.u64().expect("how many chunks");
        let shape = [Shape::Down, Shape::Both, Shape::Up]
            .into_iter()
            .find(|shape| one.target.as_deref() == Some(shape.method()))
            .expect("one of its methods");
        ledger.receives_stream(number, self.instance, self.incarnation, now_ns);
        let credit_bytes = one
            .uint("credit")
            .expect("a gateway writes the credit into the open");
        let stream = Stream::opened_there(one.ends(), WINDOW_BYTES.into(), credit_bytes);
        let served = Served {
            flow: Flow::new(one.id, number, stream, WINDOW_BYTES.into(), random),
            shape,
            to_send: if shape == Shape::Down { chunks } else { 0 },
        };
        assert!(self.streams.insert(one.id, served).is_none(), "an id twice");
    }

    fn work(&mut self, now_ns: u64, line: &mut Line, random: &mut Random) {
        self.jobs.retain(|call, (done_ns, number)| {
            if *done_ns > now_ns {
                return true;
            }
            let payload = minicbor::to_vec(*number).expect("a Vec takes all");
            line.say_about(Kind::Call, *call, None, &payload);
            false
        });
        let over = &mut self.over;
        self.streams.retain(|id, served| {
            let flow = &mut served.flow;
            flow.read(now_ns, line);
            while served.to_send > 0 && flow.write(false, line, random) {
                served.to_send -= 1;
            }
            if served.to_send == 0 && (flow.stream.has_received_end() || served.shape == Shape::Down) {
                let is_answered = served.shape != Shape::Up || flow.has_answered_or(line, random);
                if is_answered {
                    flow.end(line);
                }
            }
            if flow.is_closed() {
                over.insert(*id);
            }
            !flow.is_closed()
        });
    }

    /// When it next has something to do.
    pub(crate) fn due_ns(&self, now_ns: u64) -> Option<u64> {
        let jobs = self.jobs.values().map(|(done_ns, _)| *done_ns);
        let streams = self.streams.values().filter_map(|served| served.flow.due_ns());
        match self.life {
            Life::Paused { until_ns } | Life::Down { until_ns } => return Some(until_ns.max(now_ns + 1)),
            Life::Up | Life::Leaving { .. } => {}
        }
        jobs.chain(streams).filter(|due_ns| *due_ns > now_ns).min()
    }
}

impl Flow {
    /// Sends its one chunk of an [`Shape::Up`]; whether it is sent.
    fn has_answered_or(&mut self, line: &mut Line, random: &mut Random) -> bool {
        self.sent > 0 || self.write(true, line, random)
    }
}
