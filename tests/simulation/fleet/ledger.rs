//! What was asked of the fleet, who received it, how it ended, and what happened to the services meanwhile: whether the
//! first follows from the last.

use fluxar_protocol::Code;

const MS: u64 = 1_000_000;

/// How soon the gateway notices that a serving peer is gone, or says nothing any more: it may have given it calls until
/// then. Health pings after 500 ms of silence and waits 500 ms more.
const NOTICE_NS: u64 = 1_200 * MS;
/// From then on no misfortune may be felt.
const RECOVERY_NS: u64 = 2_000 * MS;
/// What follows a misfortune is looked at so far.
const RECOVERED_NS: u64 = 4_000 * MS;
/// How late a deadline may be told: timers and the way back.
const LATE_NS: u64 = 100 * MS;

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfortune {
    Killed,
    Paused,
    Left,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    Failed(Code),
    /// Its opener cancelled it.
    Cancelled,
}

/// Who received something: instance, incarnation, when.
type Receipt = (usize, u32, u64);

/// A call or a stream.
#[derive(Debug)]
struct Asked {
    sent_ns: u64,
    timeout_ms: Option<u64>,
    idempotent: bool,
    is_stream: bool,
    receipts: Vec<Receipt>,
    ended: Option<(u64, Ending)>,
}

/// Something that happened to an instance, from when to when; a killed one comes back as another incarnation.
#[derive(Debug, Clone, Copy)]
struct Event {
    what: Misfortune,
    instance: usize,
    incarnation: u32,
    from_ns: u64,
    until_ns: u64,
}

/// Counts of what a life held.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) streams: u64,
    pub(crate) answered: u64,
    pub(crate) unavailable: u64,
    pub(crate) overdue: u64,
    /// Idempotent calls that two received.
    pub(crate) received_twice: u64,
    pub(crate) killed: u64,
    pub(crate) paused: u64,
    pub(crate) left: u64,
    /// Misfortunes with nothing else about them, behind which it was looked whether everything is as before.
    pub(crate) recoveries: u64,
    /// Slowest percentile of the calls behind them, µs: the largest.
    pub(crate) p99_us: u64,
    /// Longest time until the last call that a misfortune slowed down was sent, ms.
    pub(crate) recovery_ms: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.calls += other.calls;
        self.streams += other.streams;
        self.answered += other.answered;
        self.unavailable += other.unavailable;
        self.overdue += other.overdue;
        self.received_twice += other.received_twice;
        self.killed += other.killed;
        self.paused += other.paused;
        self.left += other.left;
        self.recoveries += other.recoveries;
        self.p99_us = self.p99_us.max(other.p99_us);
        self.recovery_ms = self.recovery_ms.max(other.recovery_ms);
    }
}

/// The book of one life.
#[derive(Default)]
pub(crate) struct Ledger {
    /// By number.
    asked: Vec<Asked>,
    events: Vec<Event>,
    /// What reached one that was known to be silent: whether it had to wait for it shows in the end.
    doubts: Vec<(u64, Event)>,
    /// Since when an instance serves, and until when it did: (instance, from, until).
    served: Vec<(usize, u64, u64)>,
    /// What nothing happened to is never slower.
    calm_ns: u64,
}

impl Ledger {
    /// An empty book; what nothing happens to takes at most so long.
    pub(crate) fn new(calm_ns: u64) -> Self {
        Self {
            calm_ns,
            ..Self::default()
        }
    }

    /// A call or a stream is sent; its number.
    pub(crate) fn asks(
        &mut self,
        now_ns: u64,
        is_stream: bool,
        idempotent: bool,
        timeout_ms: Option<u64>,
    ) -> u64 {
        self.asked.push(Asked {
            sent_ns: now_ns,
            timeout_ms,
            idempotent,
            is_stream,
            receipts: Vec::new(),
            ended: None,
        });
        self.asked.len() as u64 - 1
    }

    pub(crate) fn receives_call(&mut self, number: u64, instance: usize, incarnation: u32, now_ns: u64) {
        let asked = &mut self.asked[number as usize];
        assert!(!asked.is_stream);
        asked.receipts.push((instance, incarnation, now_ns));
        let most = if asked.idempotent { 2 } else { 1 };
        assert!(
            asked.receipts.len() <= most,
            "call {number} was given out too often: {asked:?}"
        );
        self.is_welcome(number, instance, now_ns);
    }

    pub(crate) fn receives_stream(&mut self, number: u64, instance: usize, incarnation: u32, now_ns: u64) {
        let asked = &mut self.asked[number as usize];
        assert!(asked.is_stream);
        assert_eq!(asked.receipts, [], "stream {number} was given out twice");
        asked.receipts.push((instance, incarnation, now_ns));
        self.is_welcome(number, instance, now_ns);
    }

    /// What an instance receives was sent before it was known to be silent, or to be leaving.
    fn is_welcome(&mut self, number: u64, instance: usize, now_ns: u64) {
        let sent_ns = self.asked[number as usize].sent_ns;
        for event in self.events.iter().filter(|event| event.instance == instance) {
            match event.what {
                // It may have waited in the gateway until this one came back.
                Misfortune::Paused
                    if sent_ns >= event.from_ns + NOTICE_NS
                        && sent_ns.saturating_add(LATE_NS) <= event.until_ns =>
                {
                    self.doubts.push((number, *event));
                }
                Misfortune::Paused => {}
                Misfortune::Left => assert!(
                    sent_ns < event.from_ns || now_ns > event.until_ns,
                    "call {number}, sent at {sent_ns}, reached one that had left at {}",
                    event.from_ns
                ),
                Misfortune::Killed => {}
            }
        }
    }

    pub(crate) fn ends(&mut self, number: u64, now_ns: u64, ending: Ending) {
        let asked = &mut self.asked[number as usize];
        assert_eq!(
            asked.ended, None,
            "{number} ends twice, the second time by {ending:?}"
        );
        asked.ended = Some((now_ns, ending));
        let elapsed_ns = now_ns - asked.sent_ns;
        if let (Some(timeout_ms), false) = (asked.timeout_ms, asked.is_stream) {
            assert!(
                elapsed_ns <= timeout_ms * MS + LATE_NS,
                "call {number} ended by {ending:?} {elapsed_ns} ns after it was sent, its timeout was {timeout_ms} ms"
            );
        }
    }

    pub(crate) fn serves(&mut self, instance: usize, _incarnation: u32, now_ns: u64) {
        self.served.push((instance, now_ns, u64::MAX));
    }

    fn stops_serving(&mut self, instance: usize, now_ns: u64) {
        for span in &mut self.served {
            if span.0 == instance && span.2 == u64::MAX {
                span.2 = now_ns;
            }
        }
    }

    pub(crate) fn befalls(&mut self, what: Misfortune, instance: usize, incarnation: u32, now_ns: u64) {
        self.stops_serving(instance, now_ns);
        if what != Misfortune::Left {
            self.events.push(Event {
                what,
                instance,
                incarnation,
                from_ns: now_ns,
                until_ns: if what == Misfortune::Paused {
                    u64::MAX
                } else {
                    now_ns
                },
            });
        }
    }

    pub(crate) fn resumes(&mut self, instance: usize, now_ns: u64) {
        self.close(instance, Misfortune::Paused, now_ns);
        self.served.push((instance, now_ns, u64::MAX));
    }

    /// The end of its offer was confirmed.
    pub(crate) fn is_left(&mut self, instance: usize, now_ns: u64) {
        self.events.push(Event {
            what: Misfortune::Left,
            instance,
            incarnation: 0,
            from_ns: now_ns,
            until_ns: u64::MAX,
        });
    }

    pub(crate) fn departs(&mut self, instance: usize, now_ns: u64) {
        self.close(instance, Misfortune::Left, now_ns);
    }

    fn close(&mut self, instance: usize, what: Misfortune, now_ns: u64) {
        let event = self
            .events
            .iter_mut()
            .rev()
            .find(|event| event.instance == instance && event.what == what);
        event.expect("it began").until_ns = now_ns;
    }

    pub(crate) fn open(&self) -> usize {
        self.asked.iter().filter(|asked| asked.ended.is_none()).count()
    }

    /// Everything has ended: whether it ended as it should.
    pub(crate) fn settle(&self) -> Totals {
        let mut totals = Totals::default();
        for (number, asked) in self.asked.iter().enumerate() {
            let (ended_ns, ending) = asked.ended.expect("it has ended");
            if asked.is_stream {
                totals.streams += 1;
            } else {
                totals.calls += 1;
            }
            match ending {
                Ending::Answered => {
                    totals.answered += 1;
                    assert!(!asked.receipts.is_empty(), "{number} was answered by nobody");
                }
                Ending::Cancelled => {}
                Ending::Failed(Code::Unavailable) => {
                    totals.unavailable += 1;
                    assert!(
                        self.is_unavailability_true(asked, ended_ns),
                        "{number} failed `unavailable` without a reason: {asked:?}, {:?}, {:?}",
                        self.around(asked.sent_ns, ended_ns),
                        self.served
                    );
                }
                Ending::Failed(Code::DeadlineExceeded) => {
                    totals.overdue += 1;
                    let timeout_ns = asked.timeout_ms.expect("it had a deadline") * MS;
                    assert!(
                        ended_ns - asked.sent_ns >= timeout_ns,
                        "{number} was overdue too early: {asked:?}"
                    );
                    // Nobody takes that long, unless something happened to somebody.
                    assert!(
                        !self.around(asked.sent_ns, ended_ns).is_empty()
                            || self.is_anybody_missing(asked.sent_ns, ended_ns),
                        "{number} was overdue without a reason: {asked:?}"
                    );
                }
                Ending::Failed(code) => panic!("{number} failed with {code:?}: {asked:?}"),
            }
            totals.received_twice += u64::from(asked.receipts.len() > 1);
        }
        for (number, event) in &self.doubts {
            let asked = &self.asked[*number as usize];
            assert!(
                self.is_nobody_there(asked.sent_ns, event.until_ns),
                "{number} was given to one that was silent: {asked:?}, {event:?}; all events: {:?}; served: {:?}",
                self.events,
                self.served
            );
        }
        for event in &self.events {
            match event.what {
                Misfortune::Killed => totals.killed += 1,
                Misfortune::Paused => totals.paused += 1,
                Misfortune::Left => totals.left += 1,
            }
        }
        self.check_recovery(&mut totals);
        totals
    }

    /// Kills and pauses that may have been felt by what was sent and ended then.
    fn around(&self, sent_ns: u64, ended_ns: u64) -> Vec<Event> {
        let is_near = |event: &&Event| {
            event.what != Misfortune::Left
                && event.from_ns <= ended_ns
                && event.until_ns.saturating_add(NOTICE_NS) >= sent_ns
        };
        self.events.iter().filter(is_near).copied().collect()
    }

    /// It was with one that was killed, or on its way there; or there was nobody.
    fn is_unavailability_true(&self, asked: &Asked, ended_ns: u64) -> bool {
        let killed = |event: &Event| event.what == Misfortune::Killed;
        if let Some((instance, incarnation, _)) = asked.receipts.last() {
            return self.events.iter().any(|event| {
                killed(event)
                    && (event.instance, event.incarnation) == (*instance, *incarnation)
                    && event.from_ns <= ended_ns
            });
        }
        self.around(asked.sent_ns, ended_ns).iter().any(killed)
            || self.is_nobody_there(asked.sent_ns, ended_ns)
    }

    /// At some moment nobody was known to serve.
    fn is_nobody_there(&self, sent_ns: u64, ended_ns: u64) -> bool {
        self.moments(sent_ns, ended_ns)
            .any(|at_ns| self.serving(at_ns) == 0)
    }

    /// At some moment fewer than half served.
    fn is_anybody_missing(&self, sent_ns: u64, ended_ns: u64) -> bool {
        let all = 1 + self.served.iter().map(|span| span.0).max().unwrap_or(0);
        self.moments(sent_ns, ended_ns)
            .any(|at_ns| 2 * self.serving(at_ns) < all)
    }

    fn moments(&self, sent_ns: u64, ended_ns: u64) -> impl Iterator<Item = u64> {
        let from_ns = sent_ns.saturating_sub(NOTICE_NS);
        let changes = self
            .served
            .iter()
            .flat_map(|span| [span.1.saturating_sub(1), span.2]);
        [from_ns, ended_ns]
            .into_iter()
            .chain(changes.filter(move |at_ns| (from_ns..=ended_ns).contains(at_ns)))
    }

    fn serving(&self, at_ns: u64) -> usize {
        self.served
            .iter()
            .filter(|span| span.1 + LATE_NS <= at_ns && at_ns < span.2)
            .count()
    }

    /// Two seconds after a misfortune nothing fails of what is sent then, and the slowest percentile is as before.
    fn check_recovery(&self, totals: &mut Totals) {
        let mut starts: Vec<u64> = self.events.iter().map(|event| event.from_ns).collect();
        starts.push(u64::MAX);
        for (at, start_ns) in starts.iter().enumerate().take(self.events.len()) {
            let next_ns = starts[at + 1..].iter().copied().min().unwrap_or(u64::MAX);
            let begun = |from_ns: u64, until_ns: u64| {
                let first = self.asked.partition_point(|asked| asked.sent_ns < from_ns);
                let last = self.asked.partition_point(|asked| asked.sent_ns < until_ns);
                self.asked[first..last.max(first)]
                    .iter()
                    .filter(|asked| !asked.is_stream)
            };
            let latency_ns = |asked: &Asked| asked.ended.map_or(0, |(ended_ns, _)| ended_ns - asked.sent_ns);
            if next_ns < start_ns + RECOVERY_NS + RECOVERY_NS / 4 {
                continue;
            }
            // What is still open when the next thing happens may feel that.
            let until_ns = next_ns.saturating_sub(self.calm_ns).min(start_ns + RECOVERED_NS);
            let slow = begun(*start_ns, until_ns).filter(|asked| latency_ns(asked) > self.calm_ns);
            if let Some(last) = slow.max_by_key(|asked| asked.sent_ns) {
                totals.recovery_ms = totals.recovery_ms.max((last.sent_ns - start_ns) / MS);
            }
            let mut latencies: Vec<u64> = Vec::new();
            for asked in begun(start_ns + RECOVERY_NS, until_ns) {
                let ended = asked.ended.map(|(_, ending)| ending);
                assert_eq!(
                    ended,
                    Some(Ending::Answered),
                    "sent more than two seconds after {:?}: {asked:?}",
                    self.events[at]
                );
                latencies.push(latency_ns(asked));
            }
            latencies.sort_unstable();
            if latencies.len() < 10 {
                continue;
            }
            let p99_ns = latencies[(latencies.len() * 99).div_ceil(100) - 1];
            assert!(
                p99_ns <= self.calm_ns,
                "two seconds after {:?} p99 is {} µs",
                self.events[at],
                p99_ns / 1_000
            );
            totals.p99_us = totals.p99_us.max(p99_ns / 1_000);
            totals.recoveries += 1;
        }
    }
}
