//! The visitors of one thread: when the next one comes, and how long each took to be greeted.

use crate::arrivals::Schedule;
use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

/// A visitor that was not greeted, or heard nothing, for so long has failed, ns.
pub const PATIENCE_NS: u64 = 10_000_000_000;

/// When visitors come.
#[derive(Debug, Clone)]
pub enum Pace {
    /// As soon as there are fewer than so many on their way in.
    Storm {
        /// How many come altogether.
        visitors: u64,
        /// On their way in at a time.
        concurrency: u64,
        /// They stay until the end.
        hold: bool,
    },
    /// At their times.
    Churn(Box<Schedule>),
}

/// See the module.
#[derive(Debug)]
pub struct Visiting {
    pace: Pace,
    timetable: Timetable,
    tallies: Vec<Tally>,
    begun: u64,
    /// Begun and neither done nor failed.
    under_way: u64,
    over: u64,
    /// When the last one was done, ns.
    last_ns: u64,
    /// Why the first one failed.
    fault: Option<String>,
}

impl Visiting {
    /// Visitors that come at this pace.
    #[must_use]
    pub fn new(pace: Pace) -> Visiting {
        Visiting {
            pace,
            timetable: Timetable::default(),
            tallies: Vec::new(),
            begun: 0,
            under_way: 0,
            over: 0,
            last_ns: 0,
            fault: None,
        }
    }

    /// The run begins.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.tallies = vec![Tally::default(); timetable.phases.len()];
    }

    /// Whether visitors stay when they are in.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self.pace, Pace::Storm { hold: true, .. })
    }

    /// Whether visitors subscribe and wait for an event.
    #[must_use]
    pub fn listens(&self) -> bool {
        matches!(self.pace, Pace::Churn(_))
    }

    /// When the next one is due by time alone.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        match &self.pace {
            Pace::Churn(schedule) => schedule.next().map(|due| self.timetable.start_ns + due.at_ns),
            Pace::Storm { .. } => None,
        }
    }

    /// The moment at which a visitor that should come now was due.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> Option<u64> {
        match &self.pace {
            Pace::Storm {
                visitors,
                concurrency,
                ..
            } => {
                // One that came before the start would belong to no phase.
                let has_begun = now_ns >= self.timetable.start_ns;
                (has_begun && self.begun < *visitors && self.under_way < *concurrency).then_some(now_ns)
            }
            Pace::Churn(_) => self.next_ns().filter(|&due_ns| due_ns <= now_ns),
        }
    }

    /// It comes. Returns its number among this thread's visitors.
    pub fn came(&mut self, due_ns: u64) -> u64 {
        if let Pace::Churn(schedule) = &mut self.pace {
            schedule.advance();
        }
        if let Some(phase) = self.timetable.phase(due_ns) {
            self.tallies[phase].sent += 1;
        }
        self.under_way += 1;
        self.begun += 1;
        self.begun - 1
    }

    /// It has what it came for.
    pub fn done(&mut self, due_ns: u64, now_ns: u64, live: &LiveLatency) {
        self.under_way -= 1;
        self.over += 1;
        self.last_ns = now_ns;
        if let Some(phase) = self.timetable.phase(now_ns) {
            self.tallies[phase].arrived += 1;
        }
        if let Some(phase) = self.timetable.phase(due_ns) {
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.tallies[phase].expected += 1;
            self.tallies[phase].deliver(latency_ns, 1);
            // Beside a fan-out, what is watched is the fan-out.
            if !self.listens() {
                live.add(latency_ns, 1);
            }
        }
    }

    /// It was turned away, or nothing came.
    pub fn failed(&mut self, due_ns: u64, refused: bool, why: &str) {
        self.under_way -= 1;
        self.over += 1;
        self.fault.get_or_insert_with(|| why.to_owned());
        if let Some(phase) = self.timetable.phase(due_ns) {
            let tally = &mut self.tallies[phase];
            // A refusal is told, not lost. (One that was under way when the run ended is neither.)
            *(if refused {
                &mut tally.refused
            } else {
                &mut tally.expected
            }) += 1;
        }
    }

    /// How many are through, and when the last one was.
    #[must_use]
    pub fn over(&self) -> (u64, u64) {
        (self.over, self.last_ns)
    }

    /// The end: tallies, and why the first one failed.
    #[must_use]
    pub fn finish(self) -> (Vec<Tally>, Option<String>) {
        (self.tallies, self.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_waits_for_its_start() {
        let mut visiting = Visiting::new(Pace::Storm {
            visitors: 2,
            concurrency: 2,
            hold: false,
        });
        visiting.begin(&Timetable {
            start_ns: 1_000,
            phases: vec![(1_000, u64::MAX)],
        });
        assert_eq!(visiting.due(999), None);
        let due_ns = visiting.due(1_000).expect("it has begun");
        visiting.came(due_ns);
        visiting.done(due_ns, 1_500, &LiveLatency::default());
        let (tallies, _) = visiting.finish();
        let tally = &tallies[0];
        assert_eq!((tally.sent, tally.delivered, tally.arrived), (1, 1, 1));
    }
}
