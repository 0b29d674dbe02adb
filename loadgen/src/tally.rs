//! Counts and latencies by phase. Each generator thread keeps its own, and they are summed at the end.
//!
//! A message belongs to the phase in which it was *meant* to be sent, wherever and whenever it arrives: so what was sent,
//! delivered and lost of a phase fit together. Only [`Tally::arrived`] asks when something *came*: rates and the CPU time a
//! message are about what the server did in that time.

use hdrhistogram::Histogram;

/// Latencies above this are recorded as this, ns.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// The measured time's phases on the monotonic clock.
#[derive(Debug, Clone, Default)]
pub struct Timetable {
    /// When the warm-up begins, ns.
    pub start_ns: u64,
    /// First moment of each phase and the first one behind it, ns; one follows the other.
    pub phases: Vec<(u64, u64)>,
}

impl Timetable {
    /// When the measured time begins, ns.
    #[must_use]
    pub fn measured_from_ns(&self) -> u64 {
        self.phases.first().map_or(self.start_ns, |phase| phase.0)
    }

    /// The first moment behind the measured time, ns.
    #[must_use]
    pub fn measured_to_ns(&self) -> u64 {
        self.phases.last().map_or(self.start_ns, |phase| phase.1)
    }

    /// The phase of a moment; `None` outside of the measured time.
    #[must_use]
    #[inline]
    pub fn phase(&self, at_ns: u64) -> Option<usize> {
        self.phases
            .iter()
            .position(|&(from_ns, to_ns)| (from_ns..to_ns).contains(&at_ns))
    }
}

/// What happened in a phase.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Messages (calls) that were sent.
    pub sent: u64,
    /// How many arrivals they should lead to.
    pub expected: u64,
    /// Arrivals, each message once.
    pub delivered: u64,
    /// Messages that came in this phase, each once, whenever they were due.
    pub arrived: u64,
    /// Drops that the server told of.
    pub told_dropped: u64,
    /// Arrivals of what had arrived before.
    pub duplicated: u64,
    /// Arrivals behind a later one.
    pub out_of_order: u64,
    /// Refusals.
    pub refused: u64,
    /// From the moment a message was due to its arrival, ns.
    pub latency_ns: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            sent: 0,
            expected: 0,
            delivered: 0,
            arrived: 0,
            told_dropped: 0,
            duplicated: 0,
            out_of_order: 0,
            refused: 0,
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("constants that the histogram takes"),
        }
    }
}

impl Tally {
    /// Counts deliveries of what was due in this phase, with their latency.
    pub fn deliver(&mut self, latency_ns: u64, count: u64) {
        self.delivered += count;
        self.latency_ns.saturating_record_n(latency_ns.max(1), count);
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.arrived += other.arrived;
        self.told_dropped = self.told_dropped.saturating_add(other.told_dropped);
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.refused += other.refused;
        self.latency_ns
            .add(&other.latency_ns)
            .expect("all have the same bounds");
    }

    /// What did not arrive although nobody refused it.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.delivered)
    }
}
