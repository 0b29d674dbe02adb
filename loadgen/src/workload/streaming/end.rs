//! One end of a stream, and what all ends of a thread have read.

use crate::ledger::{Arrival, Ledger};
use crate::stamp::Stamp;
use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

use super::Streamed;

/// One end of a stream.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) position: u32,
    pub(super) is_open: bool,
    /// Streams that this end had before.
    pub(super) opened_before: u64,
    /// It sends chunks.
    pub(super) writes: bool,
    pub(super) sent_end: bool,
    pub(super) received_end: bool,
    /// Its open was not of this run.
    pub(super) is_unknown: bool,
    /// Its first chunk is the one that is waited for.
    pub(super) is_read_first: bool,
    /// It stands among those that perhaps have something to write.
    pub(super) is_ready: bool,
    /// Chunks of this stream that were written.
    pub(super) written: u64,
    /// Read and not granted again.
    pub(super) ungranted_bytes: u32,
    opened_ns: u64,
    /// When a chunk came last, ns; 0: none did.
    last_ns: u64,
    /// Read since its reader stopped.
    behind_stop_bytes: u64,
    ledger: Ledger,
}

/// The ends of a connection, by the number of their stream.
#[derive(Debug, Default)]
pub(super) struct Ends(Vec<End>);

impl Ends {
    pub(super) fn get(&self, stream: u32) -> Option<&End> {
        self.0.get(stream as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, stream: u32) -> Option<&mut End> {
        self.0.get_mut(stream as usize)
    }

    pub(super) fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// A stream begins there.
    pub(super) fn open(&mut self, stream: u32, position: u32, opened_ns: u64) -> &mut End {
        let at = stream as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, End::default);
        }
        let end = &mut self.0[at];
        let opened_before = end.opened_before + u64::from(end.opened_ns > 0);
        *end = End {
            position,
            is_open: true,
            opened_before,
            opened_ns,
            ..End::default()
        };
        end
    }
}

/// What the readers of a thread have read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    timetable: Timetable,
    tallies: Vec<Tally>,
    now_ns: u64,
    phase_now: Option<usize>,
    /// Chunks at hand that were due at the same moment.
    due_ns: u64,
    due_count: u64,
    delivered: u64,
    delivered_measured: u64,
    pub(super) foreign: u64,
    found: Streamed,
    /// Gaps of 0 at hand: chunks that came in one piece with the one before.
    no_gaps: u64,
}

impl Reading {
    pub(super) fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.tallies = vec![Tally::default(); timetable.phases.len()];
    }

    pub(super) fn begin_turn(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.phase_now = self.timetable.phase(now_ns);
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Readers that are to stop have.
    pub(super) fn has_stopped(&self) -> bool {
        self.now_ns >= self.timetable.measured_from_ns()
    }

    /// A chunk came to an end, whose writer has that number.
    #[inline]
    pub(super) fn chunk(
        &mut self,
        end: &mut End,
        writer: u32,
        is_stopped: bool,
        payload: &[u8],
        live: &LiveLatency,
    ) {
        let is_own =
            |stamp: &Stamp| stamp.publisher == writer && stamp.intended_ns >= self.timetable.start_ns;
        let Some(stamp) = Stamp::read(payload).filter(is_own) else {
            self.foreign += 1;
            return;
        };
        if is_stopped {
            if self.has_stopped() {
                end.behind_stop_bytes += payload.len() as u64;
                self.found.stopped_chunks += 1;
            }
            return;
        }
        let arrival = end.ledger.arrived(stamp.sequence);
        if end.last_ns == self.now_ns {
            self.no_gaps += 1;
        } else {
            self.came(end);
        }
        if self.phase_now.is_some() {
            self.found.arrived_bytes += payload.len() as u64;
        }
        match arrival {
            Arrival::InOrder | Arrival::Ahead { .. } => {}
            Arrival::Late => {
                if let Some(phase) = self.timetable.phase(stamp.intended_ns) {
                    self.tallies[phase].out_of_order += 1;
                }
            }
            Arrival::Repeated => {
                if let Some(phase) = self.timetable.phase(stamp.intended_ns) {
                    self.tallies[phase].duplicated += 1;
                }
                return;
            }
        }
        if stamp.intended_ns != self.due_ns {
            self.count_due(live);
            self.due_ns = stamp.intended_ns;
        }
        self.due_count += 1;
    }

    /// The first chunk of a turn for this stream.
    fn came(&mut self, end: &mut End) {
        let last_ns = std::mem::replace(&mut end.last_ns, self.now_ns);
        if last_ns == 0 {
            // Streams that stay are opened once, and mostly before the measured time.
            if end.is_read_first {
                let waited_ns = self.now_ns.saturating_sub(end.opened_ns);
                let is_measured = self.timetable.phase(end.opened_ns).is_some();
                self.found.first_chunk(waited_ns, is_measured);
            }
        } else if self.phase_now.is_some() {
            self.found.gap(self.now_ns - last_ns, 1);
        }
    }

    pub(super) fn count_due(&mut self, live: &LiveLatency) {
        let no_gaps = std::mem::take(&mut self.no_gaps);
        if no_gaps > 0 && self.phase_now.is_some() {
            self.found.gap(0, no_gaps);
        }
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
            live.add(latency_ns, count);
        }
    }

    /// A stream is over at that end.
    pub(super) fn leave(&mut self, end: &End, is_stopped: bool) {
        if is_stopped {
            let bytes = &mut self.found.stopped_bytes_max;
            *bytes = end.behind_stop_bytes.max(*bytes);
        }
    }

    pub(super) fn delivered(&self) -> (u64, u64) {
        (self.delivered, self.delivered_measured)
    }

    /// Adds what was read to what was sent.
    pub(super) fn finish(mut self, tallies: &mut Vec<Tally>, found: &mut Streamed) {
        tallies.resize_with(self.tallies.len(), Tally::default);
        for (to, from) in tallies.iter_mut().zip(&self.tallies) {
            to.add(from);
        }
        self.found.foreign = self.foreign;
        found.add(&self.found);
    }
}
