//! What was found out about streams besides tallies.

use hdrhistogram::Histogram;

/// Longer ones are recorded as this, ns.
const TIME_NS_MAX: u64 = 600_000_000_000;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_NS_MAX, 3).expect("constants that the histogram takes")
}

/// See the module. Streams of stopped clients are counted among the opened, ended and failed ones, and nowhere else but
/// where it says so.
#[derive(Debug, Clone)]
pub struct Streamed {
    /// Chunks that left late, in an open loop.
    pub late: u64,
    /// That were due and never left.
    pub unsent: u64,
    /// Streams that clients opened.
    pub opened: u64,
    /// Whose both directions ended in good order.
    pub ended: u64,
    /// Of those: in the measured time.
    pub ended_measured: u64,
    /// That were refused, failed, were cancelled by the server, or lost with their connection.
    pub failed: u64,
    /// Streams and chunks that were not this run's.
    pub foreign: u64,
    /// Bytes of chunks that came in the measured time.
    pub arrived_bytes: u64,
    /// Chunks that were written to stopped readers, from the first one on.
    pub stopped_written: u64,
    /// Chunks that came to stopped readers since they had stopped, and the most bytes that one stream brought.
    pub stopped_chunks: u64,
    /// See `stopped_chunks`.
    pub stopped_bytes_max: u64,
    /// From the open to the first chunk, ns: of streams that were opened in the measured time, and of all.
    first_measured: Histogram<u64>,
    first_all: Histogram<u64>,
    /// Between two chunks of a stream, ns.
    pub gaps: Histogram<u64>,
}

impl Default for Streamed {
    fn default() -> Streamed {
        Streamed {
            late: 0,
            unsent: 0,
            opened: 0,
            ended: 0,
            ended_measured: 0,
            failed: 0,
            foreign: 0,
            arrived_bytes: 0,
            stopped_written: 0,
            stopped_chunks: 0,
            stopped_bytes_max: 0,
            first_measured: histogram(),
            first_all: histogram(),
            gaps: histogram(),
        }
    }
}

impl Streamed {
    /// From the open to the first chunk, ns: of the streams that were opened in the measured time, or of all if none was.
    #[must_use]
    pub fn first_chunks(&self) -> &Histogram<u64> {
        if self.first_measured.is_empty() {
            &self.first_all
        } else {
            &self.first_measured
        }
    }

    pub(super) fn first_chunk(&mut self, waited_ns: u64, is_measured: bool) {
        self.first_all.saturating_record(waited_ns.max(1));
        if is_measured {
            self.first_measured.saturating_record(waited_ns.max(1));
        }
    }

    pub(super) fn gap(&mut self, gap_ns: u64, count: u64) {
        self.gaps.saturating_record_n(gap_ns.max(1), count);
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Streamed) {
        self.late += other.late;
        self.unsent += other.unsent;
        self.opened += other.opened;
        self.ended += other.ended;
        self.ended_measured += other.ended_measured;
        self.failed += other.failed;
        self.foreign += other.foreign;
        self.arrived_bytes += other.arrived_bytes;
        self.stopped_written += other.stopped_written;
        self.stopped_chunks += other.stopped_chunks;
        self.stopped_bytes_max = self.stopped_bytes_max.max(other.stopped_bytes_max);
        for (to, from) in [
            (&mut self.first_measured, &other.first_measured),
            (&mut self.first_all, &other.first_all),
            (&mut self.gaps, &other.gaps),
        ] {
            to.add(from).expect("all have the same bounds");
        }
    }
}
