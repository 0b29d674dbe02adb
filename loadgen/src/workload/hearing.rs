//! The subscribers of one thread: what each has of each publisher, how late it came, and how long nothing came.
//!
//! A call of [`Hearing::event`] is what an event costs beside its protocol: no lookup, no allocation. Events that were due
//! at the same moment follow each other and are counted together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ledger::{Arrival, Ledger};
use crate::stamp::Stamp;
use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

/// One subscriber.
#[derive(Debug, Clone)]
pub struct Subscriber {
    topic: u32,
    /// Stops reading: what it hears is counted apart and waited for by nobody.
    stops: bool,
    /// When something came last, or listening began, ns.
    last_ns: u64,
    /// Events that came to one that stops.
    heard: u64,
}

/// How far the slowest reader of a publisher on this thread is.
#[derive(Debug, Clone, Copy)]
struct Floor {
    position: u64,
    /// Readers that stand there. At 0 it has to be looked for anew.
    readers: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Hearing {
    publishers_per_topic: usize,
    subscribers: Vec<Subscriber>,
    /// Of each subscriber, one for each publisher of its topic.
    ledgers: Vec<Ledger>,
    /// By publisher; only those whose topic has readers here.
    floors: Vec<Option<Floor>>,
    /// By publisher: subscribers that read its topic. The same for those of one topic.
    readers: Vec<Vec<u32>>,
    timetable: Timetable,
    tallies: Vec<Tally>,
    /// By phase: the longest time in which nothing came to a reader though something had been published, ns. One that
    /// reaches into the next phase belongs to the one in which it began.
    stalls_ns: Vec<u64>,
    now_ns: u64,
    /// The phase of this turn.
    phase_now: Option<usize>,
    /// Events at hand that were due at the same moment.
    due_ns: u64,
    due_count: u64,
    /// All events that came to readers, each once.
    delivered: u64,
    delivered_measured: u64,
    /// Payloads without a stamp of this run.
    foreign: u64,
}

/// What subscribers found out besides their tallies.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Longest stall of any reader that began in each phase, ns.
    pub stalls_ns: Vec<u64>,
    /// Payloads that were not this run's.
    pub foreign: u64,
    /// Events that came to subscribers that stop.
    pub heard_by_stopped: u64,
}

impl Hearing {
    /// The subscribers of a thread, by topic and whether they stop, of a run with so many publishers.
    #[must_use]
    pub fn new(parts: &[(u32, bool)], publishers: u32, publishers_per_topic: u32) -> Hearing {
        let per_topic = publishers_per_topic as usize;
        let mut readers = vec![Vec::new(); publishers as usize];
        for (index, &(topic, stops)) in parts.iter().enumerate() {
            let first = topic as usize * per_topic;
            if !stops {
                for of_publisher in &mut readers[first..first + per_topic] {
                    of_publisher.push(index as u32);
                }
            }
        }
        let floors = readers.iter().map(|readers| {
            (!readers.is_empty()).then_some(Floor {
                position: 0,
                readers: readers.len() as u32,
            })
        });
        Hearing {
            publishers_per_topic: per_topic,
            subscribers: parts
                .iter()
                .map(|&(topic, stops)| Subscriber {
                    topic,
                    stops,
                    last_ns: 0,
                    heard: 0,
                })
                .collect(),
            ledgers: vec![Ledger::default(); parts.len() * per_topic],
            floors: floors.collect(),
            readers,
            timetable: Timetable::default(),
            tallies: Vec::new(),
            stalls_ns: Vec::new(),
            now_ns: 0,
            phase_now: None,
            due_ns: 0,
            due_count: 0,
            delivered: 0,
            delivered_measured: 0,
            foreign: 0,
        }
    }

    /// The run begins.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.tallies = vec![Tally::default(); timetable.phases.len()];
        self.stalls_ns = vec![0; timetable.phases.len()];
        for subscriber in &mut self.subscribers {
            subscriber.last_ns = timetable.start_ns;
        }
    }

    /// A new turn.
    pub fn begin_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.phase_now = self.timetable.phase(now_ns);
    }

    /// The turn's events are counted.
    pub fn end_turn(&mut self, live: &LiveLatency) {
        self.count_due(Some(live));
    }

    /// Something came that nobody here asked for.
    pub fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// An event came to a subscriber. `published` says how many each publisher of the run has sent: what is numbered beyond
    /// that, or was due before the run began, is another's.
    #[inline]
    pub fn event(&mut self, subscriber: u32, payload: &[u8], published: &[AtomicU64], live: &LiveLatency) {
        let Some(stamp) = Stamp::read(payload) else {
            self.foreign += 1;
            return;
        };
        let at = subscriber as usize;
        let Subscriber {
            topic,
            stops,
            last_ns,
            ..
        } = self.subscribers[at];
        let publisher = stamp.publisher as usize;
        let of_topic = publisher.wrapping_sub(topic as usize * self.publishers_per_topic);
        let is_own = of_topic < self.publishers_per_topic
            && stamp.intended_ns >= self.timetable.start_ns
            && published
                .get(publisher)
                .is_some_and(|sent| stamp.sequence < sent.load(Ordering::Relaxed));
        if !is_own {
            self.foreign += 1;
            return;
        }
        if stops {
            self.subscribers[at].heard += 1;
            return;
        }
        let ledger = &mut self.ledgers[at * self.publishers_per_topic + of_topic];
        let before = ledger.next();
        let arrival = ledger.arrived(stamp.sequence);
        let after = ledger.next();
        if after != before
            && let Some(floor) = &mut self.floors[publisher]
            && before == floor.position
        {
            floor.readers = floor.readers.saturating_sub(1);
        }
        if last_ns != self.now_ns {
            self.came(at, stamp.intended_ns, arrival);
        }
        if arrival == Arrival::Repeated {
            if let Some(phase) = self.timetable.phase(stamp.intended_ns) {
                self.tallies[phase].duplicated += 1;
            }
            return;
        }
        if arrival == Arrival::Late
            && let Some(phase) = self.timetable.phase(stamp.intended_ns)
        {
            self.tallies[phase].out_of_order += 1;
        }
        if stamp.intended_ns != self.due_ns {
            self.count_due(Some(live));
            self.due_ns = stamp.intended_ns;
        }
        self.due_count += 1;
    }

    /// The first event of a turn for this subscriber: how long did nothing come?
    fn came(&mut self, at: usize, intended_ns: u64, arrival: Arrival) {
        let subscriber = &mut self.subscribers[at];
        let now_ns = self.now_ns;
        let since_ns = match arrival {
            // What was published before this one did not come either: nothing at all came since.
            Arrival::Ahead { .. } => subscriber.last_ns,
            _ => subscriber.last_ns.max(intended_ns),
        };
        subscriber.last_ns = now_ns;
        self.stalled(since_ns, now_ns);
    }

    /// Nothing came in that time; what lies outside of the measured time does not count.
    fn stalled(&mut self, from_ns: u64, to_ns: u64) {
        let from_ns = from_ns.max(self.timetable.measured_from_ns());
        let to_ns = to_ns.min(self.timetable.measured_to_ns());
        if to_ns > from_ns
            && let Some(phase) = self.timetable.phase(from_ns)
        {
            let stall_ns = &mut self.stalls_ns[phase];
            *stall_ns = (*stall_ns).max(to_ns - from_ns);
        }
    }

    fn count_due(&mut self, live: Option<&LiveLatency>) {
        let count = std::mem::take(&mut self.due_count);
        if count == 0 {
            return;
        }
        self.delivered += count;
        if let Some(phase) = self.phase_now {
            self.tallies[phase].arrived += count;
        }
        if let Some(phase) = self.timetable.phase(self.due_ns) {
            let latency_ns = self.now_ns.saturating_sub(self.due_ns);
            self.tallies[phase].deliver(latency_ns, count);
            self.delivered_measured += count;
            if let Some(live) = live {
                live.add(latency_ns, count);
            }
        }
    }

    /// The server told of drops to a reader, or to one that stopped.
    pub fn dropped(&mut self, subscriber: u32, events: u64) {
        if !self.subscribers[subscriber as usize].stops
            && let Some(phase) = self.timetable.phase(self.now_ns)
        {
            let told = &mut self.tallies[phase].told_dropped;
            *told = told.saturating_add(events);
        }
    }

    /// How far the slowest reader on this thread is with a publisher's messages; `None` if it has none here.
    pub fn slowest(&mut self, publisher: usize) -> Option<u64> {
        let floor = (*self.floors.get(publisher)?)?;
        if floor.readers > 0 {
            return Some(floor.position);
        }
        let of_topic = publisher % self.publishers_per_topic;
        let (ledgers, per_topic) = (&self.ledgers, self.publishers_per_topic);
        let positions = self.readers[publisher]
            .iter()
            .map(|&reader| ledgers[reader as usize * per_topic + of_topic].next());
        let mut found = Floor {
            position: u64::MAX,
            readers: 0,
        };
        for position in positions {
            if position < found.position {
                found = Floor { position, readers: 1 };
            } else if position == found.position {
                found.readers += 1;
            }
        }
        self.floors[publisher] = Some(found);
        Some(found.position)
    }

    /// A reader's connection is gone: nobody waits for it any more.
    pub fn gone(&mut self, subscriber: u32) {
        let topic = self.subscribers[subscriber as usize].topic as usize;
        let first = topic * self.publishers_per_topic;
        for publisher in first..first + self.publishers_per_topic {
            self.readers[publisher].retain(|&reader| reader != subscriber);
            self.floors[publisher] = (!self.readers[publisher].is_empty()).then_some(Floor {
                position: 0,
                readers: 0,
            });
        }
    }

    /// Events that came to readers so far, each once; and those of the measured time.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        (self.delivered, self.delivered_measured)
    }

    /// The end: tallies by phase and what else there is. `published` says how many each publisher sent, for readers that
    /// were still waiting when the measured time ended.
    #[must_use]
    pub fn finish(mut self, published: impl Fn(usize) -> u64) -> (Vec<Tally>, Heard) {
        self.count_due(None);
        let to_ns = self.timetable.measured_to_ns();
        let mut heard = Heard {
            foreign: self.foreign,
            ..Heard::default()
        };
        for at in 0..self.subscribers.len() {
            let subscriber = &self.subscribers[at];
            if subscriber.stops {
                heard.heard_by_stopped += subscriber.heard;
                continue;
            }
            let first = subscriber.topic as usize * self.publishers_per_topic;
            let ledgers = &self.ledgers[at * self.publishers_per_topic..][..self.publishers_per_topic];
            let waits = (first..)
                .zip(ledgers)
                .any(|(publisher, ledger)| ledger.next() < published(publisher));
            let last_ns = subscriber.last_ns;
            if waits {
                self.stalled(last_ns, to_ns);
            }
        }
        heard.stalls_ns = self.stalls_ns;
        (self.tallies, heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::PAYLOAD_BYTES_MIN;

    fn payload(publisher: u32, sequence: u64, intended_ns: u64) -> Vec<u8> {
        let mut payload = vec![0; PAYLOAD_BYTES_MIN];
        payload[..4].copy_from_slice(&[0xa1, 0x61, b's', 0x54]);
        Stamp {
            publisher,
            sequence,
            intended_ns,
        }
        .write(&mut payload);
        payload
    }

    /// Two publishers that have sent a hundred each.
    fn hear(hearing: &mut Hearing, subscriber: u32, payload: &[u8]) {
        let published = [AtomicU64::new(100), AtomicU64::new(100)];
        hearing.event(subscriber, payload, &published, &LiveLatency::default());
    }

    fn hearing(parts: &[(u32, bool)]) -> Hearing {
        let mut hearing = Hearing::new(parts, 2, 1);
        hearing.begin(&Timetable {
            start_ns: 100,
            phases: vec![(1_000, 2_000), (2_000, 3_000)],
        });
        hearing
    }

    #[test]
    fn events_count_in_the_phase_in_which_they_were_due() {
        let live = LiveLatency::default();
        let mut hearing = hearing(&[(0, false)]);
        for (now_ns, sequence, intended_ns) in [
            (950, 0, 900),
            (1_100, 1, 990),
            (1_100, 2, 1_050),
            (2_500, 4, 1_900),
            (2_500, 3, 1_800),
            (9_000, 5, 2_900),
            (9_000, 5, 2_900),
        ] {
            hearing.begin_turn(now_ns);
            hear(&mut hearing, 0, &payload(0, sequence, intended_ns));
            hearing.end_turn(&live);
        }
        hear(&mut hearing, 0, &payload(1, 0, 1_500));
        hear(&mut hearing, 0, b"something else");
        let (tallies, heard) = hearing.finish(|_| 6);
        assert_eq!((tallies[0].delivered, tallies[1].delivered), (3, 1));
        // Two came in the first phase, one of them due before it; two in the second, due in the first.
        assert_eq!((tallies[0].arrived, tallies[1].arrived), (2, 2));
        assert_eq!((tallies[0].out_of_order, tallies[1].duplicated), (1, 1));
        assert_eq!(tallies[0].latency_ns.max(), 700);
        assert_eq!(heard.foreign, 2);
    }

    #[test]
    fn what_nobody_published_is_foreign() {
        let mut hearing = hearing(&[(0, false)]);
        hearing.begin_turn(1_600);
        for (sequence, intended_ns) in [(100, 1_500), (u64::MAX, 1_500), (0, 99)] {
            hear(&mut hearing, 0, &payload(0, sequence, intended_ns));
        }
        hear(&mut hearing, 0, &payload(0, 0, 1_500));
        assert_eq!(hearing.slowest(0), Some(1));
        let (tallies, heard) = hearing.finish(|_| 1);
        assert_eq!((tallies[0].delivered, heard.foreign), (1, 3));
    }

    #[test]
    fn the_slowest_reader_is_found() {
        let mut hearing = hearing(&[(0, false), (0, false), (1, false), (0, true)]);
        assert_eq!(hearing.slowest(0), Some(0));
        let hear = |hearing: &mut Hearing, subscriber, sequences: std::ops::Range<u64>| {
            for sequence in sequences {
                hear(hearing, subscriber, &payload(0, sequence, 1_500));
            }
        };
        hear(&mut hearing, 0, 0..10);
        assert_eq!(hearing.slowest(0), Some(0));
        hear(&mut hearing, 1, 0..7);
        assert_eq!(hearing.slowest(0), Some(7));
        hear(&mut hearing, 3, 0..3);
        hear(&mut hearing, 1, 7..12);
        assert_eq!(hearing.slowest(0), Some(10));
        assert_eq!(hearing.slowest(1), Some(0));
        hearing.gone(0);
        assert_eq!(hearing.slowest(0), Some(12));
        hearing.gone(1);
        assert_eq!(hearing.slowest(0), None);
    }

    #[test]
    fn a_stall_is_silence_while_something_was_published() {
        let mut hearing = hearing(&[(0, false)]);
        for (now_ns, sequence, intended_ns) in [
            (1_010, 0, 1_000),
            (1_300, 1, 1_290),
            (1_800, 3, 1_790),
            (2_700, 4, 2_650),
        ] {
            hearing.begin_turn(now_ns);
            hear(&mut hearing, 0, &payload(0, sequence, intended_ns));
        }
        // 10 after a pause in publishing; then number 2 never came, so the whole silence counts. In the second phase 50;
        // and from 2,700 on nothing, though there is one more.
        let (_, heard) = hearing.finish(|_| 6);
        assert_eq!(heard.stalls_ns, [500, 300]);
    }
}
