//! What all who send have in common: an open loop's schedule, and the count of what left.

use crate::arrivals::Schedule;
use crate::tally::{Tally, Timetable};

/// What was due in the measured time may leave for so long after it, ns.
pub const OVERTIME_NS: u64 = 1_000_000_000;
/// What leaves later than this behind its moment is counted as late, ns.
pub const LATE_NS: u64 = 5_000_000;

/// What became of something that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It left.
    Sent,
    /// Whoever was to send it is gone.
    Gone,
    /// It waits, and with it what is due behind it: its connection does not take it now.
    Waits,
}

/// An open loop: something leaves when its moment has come, whatever became of what left before it.
#[derive(Debug, Clone)]
pub struct OpenLoop {
    schedule: Schedule,
    late: u64,
}

impl OpenLoop {
    /// By this schedule.
    #[must_use]
    pub fn new(schedule: Schedule) -> OpenLoop {
        OpenLoop { schedule, late: 0 }
    }

    /// When something is due next.
    #[must_use]
    pub fn next_ns(&self, timetable: &Timetable) -> Option<u64> {
        self.schedule.next().map(|due| timetable.start_ns + due.at_ns)
    }

    /// Whether something is due that did not leave, and still may.
    #[must_use]
    pub fn is_behind(&self, timetable: &Timetable, now_ns: u64) -> bool {
        now_ns < timetable.measured_to_ns().saturating_add(OVERTIME_NS)
            && self.next_ns(timetable).is_some_and(|due_ns| due_ns <= now_ns)
    }

    /// Calls `send` with who is to send and when that was due, for what is due now, at most `most` times.
    pub fn pump(
        &mut self,
        timetable: &Timetable,
        now_ns: u64,
        most: usize,
        mut send: impl FnMut(usize, u64) -> Left,
    ) {
        if now_ns >= timetable.measured_to_ns().saturating_add(OVERTIME_NS) {
            // What has not left by now never will: an overloaded run has an end.
            return;
        }
        for _ in 0..most {
            let Some(due) = self.schedule.next() else { return };
            let intended_ns = timetable.start_ns + due.at_ns;
            if intended_ns > now_ns {
                return;
            }
            match send(due.publisher, intended_ns) {
                Left::Sent => {
                    let is_measured = timetable.phase(intended_ns).is_some();
                    self.late += u64::from(is_measured && now_ns - intended_ns > LATE_NS);
                }
                Left::Gone => {}
                Left::Waits => return,
            }
            self.schedule.advance();
        }
    }

    /// The end: how much left late, and how much never did.
    #[must_use]
    pub fn finish(mut self, timetable: &Timetable) -> (u64, u64) {
        let mut unsent = 0;
        if timetable.start_ns > 0 {
            while self.schedule.next().is_some() {
                unsent += 1;
                self.schedule.advance();
            }
        }
        (self.late, unsent)
    }
}

/// What was sent, by the phase in which it was due.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Of each phase.
    pub tallies: Vec<Tally>,
    /// Altogether, outside of the phases too.
    pub all: u64,
    /// Arrivals that what was due in the measured time should lead to.
    pub expected_measured: u64,
}

impl Sent {
    /// None yet.
    #[must_use]
    pub fn new(timetable: &Timetable) -> Sent {
        Sent {
            tallies: vec![Tally::default(); timetable.phases.len()],
            ..Sent::default()
        }
    }

    /// So many left, each to so many readers.
    pub fn count(&mut self, phase: Option<usize>, count: u64, readers: u64) {
        self.all += count;
        if let Some(phase) = phase {
            self.tallies[phase].sent += count;
            self.tallies[phase].expected += count * readers;
            self.expected_measured += count * readers;
        }
    }

    /// One was refused: it is accounted for, told and not lost.
    pub fn refused(&mut self, phase: Option<usize>, readers: u64) {
        if let Some(phase) = phase {
            let tally = &mut self.tallies[phase];
            tally.refused += 1;
            tally.expected = tally.expected.saturating_sub(readers);
            self.expected_measured = self.expected_measured.saturating_sub(readers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::Plan;
    use crate::scenario::{Arrivals, Payload, Scenario, Workload};

    #[test]
    fn what_waits_keeps_its_moment_and_who_is_gone_is_passed_over() {
        let scenario = Scenario {
            workload: Workload::FanOut {
                topics: 1,
                publishers: 2,
                subscribers: 1,
            },
            arrivals: Arrivals::default(),
            payload: Payload::default(),
            warmup_ms: 0,
            duration_ms: 1_000,
        };
        let schedule = Schedule::new(Plan::constant(&scenario, 100.0), vec![0, 1], 2, 1);
        let mut open = OpenLoop::new(schedule);
        let timetable = Timetable {
            start_ns: 1_000,
            phases: vec![(1_000, 1_000_001_000)],
        };
        let now_ns = 1_000 + 20_000_000;
        open.pump(&timetable, now_ns, 100, |_, _| Left::Waits);
        assert!(open.is_behind(&timetable, now_ns));
        let mut sent = Vec::new();
        open.pump(&timetable, now_ns, 100, |who, due_ns| {
            if who == 1 {
                return Left::Gone;
            }
            sent.push(due_ns);
            Left::Sent
        });
        assert_eq!(sent, [1_000 + 5_000_000]);
        assert_eq!(open.next_ns(&timetable), Some(1_000 + 25_000_000));
        // The first left 15 ms late.
        assert_eq!(open.finish(&timetable), (1, 98));
    }
}
