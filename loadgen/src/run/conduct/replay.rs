//! A replay: events are stored, which nobody measures; then subscribers ask for all of them, and the measured time is from that
//! moment to the last arrival.

use std::sync::atomic::Ordering;

use crate::arrivals;
use crate::tally::Timetable;
use crate::worker::shared::{Shared, Stage};

use super::{Conductor, ENDLESS_NS, LEAD_NS, Observed, PATIENCE_NS, RunError, RunStage, clock_ns};

impl Conductor<'_> {
    /// Leads the run, with so many events.
    pub(super) fn lead_replay(&mut self, events: u64) -> Result<Observed, RunError> {
        let mut observed = Observed {
            windows: arrivals::windows(&self.order.scenario, &self.cast.arrivals),
            ..Observed::default()
        };
        self.connect()?;
        // All that is published belongs to the one phase, which ends when everything arrived.
        let start_ns = clock_ns() + LEAD_NS;
        let timetable = Timetable {
            start_ns,
            phases: vec![(start_ns, ENDLESS_NS)],
        };
        self.shared.begin(timetable, Stage::Fill);
        self.fill(events)?;
        let before = self.mark();
        observed.rss_begun_bytes = self.memory_now();
        let from_ns = clock_ns();
        self.shared.enter(Stage::Run);
        let to_ns = self.watch_replay(from_ns)?;
        let after = self.mark();
        let rss_after_bytes = self.memory_now();
        self.shared.enter(Stage::Drain);
        self.drain(RunStage::Draining)?;
        observed.measured_ns = to_ns.saturating_sub(from_ns).max(1);
        self.sum_up(&before, &after, rss_after_bytes, &mut observed);
        Ok(observed)
    }

    /// Until all that will be replayed is acknowledged.
    fn fill(&mut self, events: u64) -> Result<(), RunError> {
        let figure = |shared: &Shared| shared.sum(|progress| &progress.settled);
        let stage = RunStage::Storing { done: 0, of: events };
        self.gather(events, figure, stage).map_err(|error| match error {
            RunError::Silent { prepared, of } => RunError::Unsettled {
                settled: prepared,
                of,
            },
            other => other,
        })
    }

    /// Until everything arrived, or nothing has for long; when the last did.
    fn watch_replay(&mut self, from_ns: u64) -> Result<u64, RunError> {
        let mut moved = (0, from_ns);
        loop {
            let delivered = self.shared.sum(|progress| &progress.delivered_measured);
            let expected = self.shared.sum(|progress| &progress.expected_measured);
            let now_ns = self.look(u64::MAX, RunStage::Measuring)?;
            if delivered != moved.0 {
                moved = (delivered, now_ns);
            }
            if delivered >= expected || now_ns - moved.1 >= PATIENCE_NS {
                let arrived = self.shared.progress.iter();
                let last_ns = arrived.map(|progress| progress.0.arrived_ns.load(Ordering::Relaxed));
                return Ok(last_ns.max().unwrap_or(from_ns).max(from_ns + 1));
            }
        }
    }
}
