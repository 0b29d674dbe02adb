//! How unkind the simulated kernel and network are.

/// Probabilities from 0 to 1, each drawn anew whenever the thing could happen, and sizes.
#[derive(Debug, Clone)]
pub struct Faults {
    /// A receive yields fewer bytes than there are.
    pub short_read: f64,
    /// A send takes fewer bytes than there is room for.
    pub short_write: f64,
    /// A completion comes late, by up to [`Faults::late_ns_max`].
    pub late: f64,
    /// See [`Faults::late`].
    pub late_ns_max: u64,
    /// A receive finds no buffer although there are some.
    pub no_buffers: f64,
    /// A send finds the connection reset.
    pub reset: f64,
    /// An accept fails; the driver goes on accepting after a pause.
    pub accept_failure: f64,
    /// A dial is refused although somebody listens.
    pub refusal: f64,
    /// A dial is never answered.
    pub silence: f64,
    /// Time that bytes take from one end to the other: at least and at most.
    pub latency_ns: (u64, u64),
    /// Bytes that one direction of a connection holds, under way and not yet read.
    pub socket_buffer_bytes: usize,
    /// Receive buffers of a core.
    pub buffers: usize,
    /// Size of each.
    pub buffer_bytes: usize,
}

impl Faults {
    /// None: only time passes.
    #[must_use]
    pub fn none() -> Faults {
        Faults {
            short_read: 0.0,
            short_write: 0.0,
            late: 0.0,
            late_ns_max: 0,
            no_buffers: 0.0,
            reset: 0.0,
            accept_failure: 0.0,
            refusal: 0.0,
            silence: 0.0,
            latency_ns: (10_000, 10_000),
            socket_buffer_bytes: 256 * 1024,
            buffers: 1024,
            buffer_bytes: 16 * 1024,
        }
    }

    /// All that a connection has to survive: everything but resets, refusals and silence.
    #[must_use]
    pub fn wild() -> Faults {
        Faults {
            short_read: 0.4,
            short_write: 0.4,
            late: 0.3,
            late_ns_max: 3_000_000,
            no_buffers: 0.05,
            accept_failure: 0.2,
            latency_ns: (1_000, 2_000_000),
            socket_buffer_bytes: 3_000,
            buffers: 3,
            buffer_bytes: 512,
            ..Faults::none()
        }
    }

    /// Everything.
    #[must_use]
    pub fn brutal() -> Faults {
        Faults {
            reset: 0.01,
            refusal: 0.1,
            silence: 0.1,
            ..Faults::wild()
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Faults::none()
    }
}
