//! What a run found out. Everything counts the measured time only, unless it says otherwise.

use hdrhistogram::Histogram;

/// One run.
#[derive(Debug, Clone)]
pub struct Measured {
    /// One, or one for each step of [`crate::scenario::Arrivals::Steps`].
    pub phases: Vec<Phase>,
    /// The server's share, if its process is known.
    pub server: Option<ServerUse>,
    /// This process's CPU time in the measured time, ns.
    pub generator_cpu_ns: u64,
    /// Busiest generator thread: its CPU time over the measured wall time, 0 to 1. Near 1 the generator is the limit.
    pub generator_busy: f64,
    /// Things that a reader of the figures has to know: the generator was the limit, publishes could not be sent in
    /// time, connections were refused, …
    pub warnings: Vec<String>,
    /// Figures that only this workload has, by name (units in the name).
    pub extra: Vec<(String, f64)>,
}

/// A part of the measured time with one rate.
#[derive(Debug, Clone)]
pub struct Phase {
    /// What was asked for, messages a second; `None` in a closed loop.
    pub asked_per_s: Option<f64>,
    /// How long it lasted, ns.
    pub elapsed_ns: u64,
    /// Messages (calls) sent.
    pub sent: u64,
    /// Of these, messages that arrived at subscribers (answers that arrived at callers), however late.
    pub delivered: u64,
    /// Messages and answers that came within this phase, whenever they were due. Rates and the CPU time a message count
    /// these: what an overloaded server delivers when the phase is over is not what it can do in its time.
    pub arrived: u64,
    /// That did not, although they had time to.
    pub lost: u64,
    /// Of those: that the server told of.
    pub told_dropped: u64,
    /// That arrived more than once.
    pub duplicated: u64,
    /// That arrived behind a later one.
    pub out_of_order: u64,
    /// Refused by the server.
    pub refused: u64,
    /// From the moment a message was due to its arrival, ns.
    pub latency_ns: Histogram<u64>,
    /// The longest time in which a subscriber that reads got nothing while something was published, ns. It belongs to the
    /// phase in which it began.
    pub stall_ns: u64,
}

/// What the server's process used, from /proc.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerUse {
    /// CPU time in the measured time, all its threads, ns.
    pub cpu_ns: u64,
    /// How near it was to its limit, 0 to 1: the share of the measured time in which its busiest thread ran; or that of the
    /// processors that it may use, if its threads take turns on them and that is more.
    pub saturation: f64,
    /// Resident memory before the run's connections, bytes.
    pub rss_before_bytes: u64,
    /// Largest that was seen during the run, bytes.
    pub rss_max_bytes: u64,
    /// At the end of the measured time, bytes.
    pub rss_after_bytes: u64,
    /// Voluntary context switches in the measured time, all threads.
    pub switches_voluntary: u64,
    /// Involuntary ones.
    pub switches_involuntary: u64,
}

impl Measured {
    /// Messages of the measured time that arrived.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.phases.iter().map(|phase| phase.delivered).sum()
    }

    /// Messages that arrived within the measured time.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.phases.iter().map(|phase| phase.arrived).sum()
    }

    /// The server's CPU time for each message that arrived in the same time, ns; `None` if none did.
    #[must_use]
    pub fn server_ns_per_message(&self) -> Option<f64> {
        let arrived = self.arrived();
        (arrived > 0).then_some(())?;
        self.server.map(|server| server.cpu_ns as f64 / arrived as f64)
    }
}
