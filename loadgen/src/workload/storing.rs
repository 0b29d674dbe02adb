//! Acknowledgements of one thread's publishers: how many of its publishes each has settled, and how long that took.
//!
//! Where events are stored and nobody listens (`store`), an acknowledgement is what a publish leads to, and counts as its
//! arrival. Where events are stored to be read later (`replay`), acknowledgements only make room for the next publishes.
//! Servers acknowledge in the order of publishing, so a queue of the moments at which publishes were due suffices; publishes
//! that were due together stand in it as one.

use std::collections::VecDeque;

use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

/// One publisher's.
#[derive(Debug, Clone, Default)]
struct Unsettled {
    /// When publishes were due that nothing was heard of, ns, and how many; oldest first.
    due: VecDeque<(u64, u64)>,
    /// Publishes that were acknowledged or refused.
    settled: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Storing {
    publishers: Vec<Unsettled>,
    /// Acknowledgements are the arrivals of this run.
    are_arrivals: bool,
    timetable: Timetable,
    tallies: Vec<Tally>,
    delivered: u64,
    delivered_measured: u64,
    settled: u64,
}

impl Storing {
    /// Of so many publishers.
    #[must_use]
    pub fn new(publishers: usize, are_arrivals: bool) -> Storing {
        Storing {
            publishers: vec![Unsettled::default(); publishers],
            are_arrivals,
            timetable: Timetable::default(),
            tallies: Vec::new(),
            delivered: 0,
            delivered_measured: 0,
            settled: 0,
        }
    }

    /// The run begins.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.tallies = vec![Tally::default(); timetable.phases.len()];
    }

    /// A publish left that was due then.
    #[inline]
    pub fn sent(&mut self, publisher: usize, due_ns: u64) {
        let queue = &mut self.publishers[publisher].due;
        match queue.back_mut() {
            Some((last_ns, count)) if *last_ns == due_ns => *count += 1,
            _ => queue.push_back((due_ns, 1)),
        }
    }

    /// The oldest publishes of a publisher were acknowledged.
    pub fn acknowledged(&mut self, publisher: usize, count: u64, now_ns: u64, live: &LiveLatency) {
        let mut left = count;
        while left > 0 {
            let Some((due_ns, count)) = self.publishers[publisher].take(left) else {
                return; // more acknowledgements than publishes: nobody counts what was not asked for
            };
            left -= count;
            self.settled += count;
            if self.are_arrivals {
                self.count(due_ns, count, now_ns, live);
            }
        }
    }

    fn count(&mut self, due_ns: u64, count: u64, now_ns: u64, live: &LiveLatency) {
        self.delivered += count;
        if let Some(phase) = self.timetable.phase(now_ns) {
            self.tallies[phase].arrived += count;
        }
        if let Some(phase) = self.timetable.phase(due_ns) {
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.tallies[phase].deliver(latency_ns, count);
            self.delivered_measured += count;
            live.add(latency_ns, count);
        }
    }

    /// The oldest publish of a publisher was refused: when it was due.
    pub fn refused(&mut self, publisher: usize) -> Option<u64> {
        let (due_ns, _) = self.publishers[publisher].take(1)?;
        self.settled += 1;
        Some(due_ns)
    }

    /// Publishes of a publisher that were acknowledged or refused.
    #[must_use]
    pub fn settled_of(&self, publisher: usize) -> u64 {
        self.publishers[publisher].settled
    }

    /// The same of all.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Acknowledged publishes that count as arrivals; and those of the measured time.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        (self.delivered, self.delivered_measured)
    }

    /// The end: tallies by phase.
    #[must_use]
    pub fn finish(self) -> Vec<Tally> {
        self.tallies
    }
}

impl Unsettled {
    /// Takes up to so many of the oldest that were due together: when, and how many.
    fn take(&mut self, most: u64) -> Option<(u64, u64)> {
        let (due_ns, open) = self.due.front_mut()?;
        let (due_ns, count) = (*due_ns, most.min(*open));
        *open -= count;
        if *open == 0 {
            self.due.pop_front();
        }
        self.settled += count;
        Some((due_ns, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storing(are_arrivals: bool) -> Storing {
        let mut storing = Storing::new(2, are_arrivals);
        storing.begin(&Timetable {
            start_ns: 100,
            phases: vec![(1_000, 2_000)],
        });
        for (publisher, due_ns) in [(0, 900), (0, 1_100), (0, 1_100), (0, 1_200), (1, 1_000)] {
            storing.sent(publisher, due_ns);
        }
        storing
    }

    #[test]
    fn acknowledgements_settle_the_oldest() {
        let mut storing = storing(true);
        let live = LiveLatency::default();
        storing.acknowledged(0, 2, 1_500, &live);
        assert_eq!((storing.settled_of(0), storing.settled_of(1)), (2, 0));
        assert_eq!(storing.refused(0), Some(1_100));
        // One after the measured time, and one that nobody published.
        storing.acknowledged(0, 2, 2_500, &live);
        assert_eq!(storing.refused(0), None);
        storing.acknowledged(1, 1, 1_001, &live);
        assert_eq!((storing.settled(), storing.delivered()), (5, (4, 3)));
        let tally = &storing.finish()[0];
        assert_eq!((tally.arrived, tally.delivered), (3, 3));
        assert_eq!((tally.latency_ns.min(), tally.latency_ns.max()), (1, 1_300));
    }

    #[test]
    fn where_others_arrive_they_only_make_room() {
        let mut storing = storing(false);
        storing.acknowledged(0, 4, 1_500, &LiveLatency::default());
        assert_eq!((storing.settled_of(0), storing.delivered()), (4, (0, 0)));
        assert_eq!(storing.finish()[0].arrived, 0);
    }
}
