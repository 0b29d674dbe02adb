//! What the generator's threads and the one that conducts them tell each other: atomics, written at most once a turn.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::run::RunError;
use crate::tally::Timetable;

/// Where a run is. It only moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Connections are made and prepared.
    Connect,
    /// What will be replayed is stored.
    Fill,
    /// The workload: warm-up and measured time.
    Run,
    /// Silent connections subscribe.
    Rouse,
    /// They are spoken to.
    Speak,
    /// Nothing is sent any more; what is under way arrives.
    Drain,
    /// All close, the threads end.
    Stop,
}

const STAGES: [Stage; 7] = [
    Stage::Connect,
    Stage::Fill,
    Stage::Run,
    Stage::Rouse,
    Stage::Speak,
    Stage::Drain,
    Stage::Stop,
];

/// Gives its content cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Lines<T>(pub T);

/// How far one thread is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Its thread id, once it runs.
    pub thread: AtomicU32,
    /// Connections that are greeted and, if they subscribe or serve, accepted.
    pub prepared: AtomicU64,
    /// Connections from the server to services that listen.
    pub attached: AtomicU64,
    /// Silent connections that subscribed.
    pub roused: AtomicU64,
    /// Messages and calls that were sent.
    pub sent: AtomicU64,
    /// Arrivals, each message once.
    pub delivered: AtomicU64,
    /// Arrivals that belong to the measured time.
    pub delivered_measured: AtomicU64,
    /// Arrivals that the messages of the measured time should lead to.
    pub expected_measured: AtomicU64,
    /// 1 while something is due that did not leave, and still may.
    pub behind: AtomicU64,
    /// Visits that are over, one way or another.
    pub visited: AtomicU64,
    /// When the last visitor of a storm was greeted, ns.
    pub visited_ns: AtomicU64,
    /// Publishes that were acknowledged or refused, where they are stored.
    pub settled: AtomicU64,
    /// When something arrived last, in a turn's time, ns.
    pub arrived_ns: AtomicU64,
    /// Of its spinning, the time in which nothing happened, ns.
    pub idle_ns: AtomicU64,
    /// The highest stage that it has taken up.
    pub stage: AtomicU8,
}

/// Latencies in coarse steps, for whoever watches a run; one for each thread, written by it alone.
#[derive(Debug)]
pub struct LiveLatency {
    /// By power of two and eighth.
    steps: Box<[AtomicU64]>,
}

const EIGHTHS: usize = 8;

impl Default for LiveLatency {
    fn default() -> LiveLatency {
        LiveLatency {
            steps: (0..64 * EIGHTHS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl LiveLatency {
    /// Counts some.
    #[inline]
    pub fn add(&self, latency_ns: u64, count: u64) {
        let latency_ns = latency_ns.max(EIGHTHS as u64);
        let power = latency_ns.ilog2() as usize;
        let eighth = (latency_ns >> (power - 3)) as usize & (EIGHTHS - 1);
        // One writer: no need to pay for a locked addition.
        let step = &self.steps[power * EIGHTHS + eighth];
        step.store(step.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// The latency below which so large a share of all lies, of several threads together, ns; `None` if there is none.
    #[must_use]
    pub fn quantile_ns<'a>(of: impl Iterator<Item = &'a LiveLatency>, share: f64) -> Option<u64> {
        let mut sums = vec![0u64; 64 * EIGHTHS];
        for live in of {
            for (sum, step) in sums.iter_mut().zip(&live.steps) {
                *sum += step.load(Ordering::Relaxed);
            }
        }
        let total: u64 = sums.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        let found = sums.iter().position(|&count| {
            let here = count >= left && total > 0;
            left = left.saturating_sub(count);
            here
        })?;
        // The upper end of the step.
        let (power, eighth) = (found / EIGHTHS, (found % EIGHTHS) as u64);
        Some(((EIGHTHS as u64 + eighth + 1) << power) >> 3)
    }
}

/// Everything that is shared.
#[derive(Debug)]
pub struct Shared {
    stage: AtomicU8,
    /// When what happens. Set before [`Stage::Fill`] and [`Stage::Run`].
    timetable: OnceLock<Timetable>,
    /// One for each thread.
    pub progress: Vec<Lines<Progress>>,
    /// One for each thread.
    pub live: Vec<Lines<LiveLatency>>,
    /// By thread and publisher: how far its slowest reader there is, `u64::MAX` if there is none.
    heard: Vec<Lines<Vec<AtomicU64>>>,
    /// By publisher: how many it sent altogether.
    pub published: Vec<AtomicU64>,
    failed: AtomicBool,
    failure: Mutex<Option<RunError>>,
}

impl Shared {
    /// For so many threads and publishers.
    #[must_use]
    pub fn new(threads: usize, publishers: usize) -> Shared {
        let positions = || (0..publishers).map(|_| AtomicU64::new(u64::MAX)).collect();
        Shared {
            stage: AtomicU8::new(Stage::Connect as u8),
            timetable: OnceLock::new(),
            progress: (0..threads).map(|_| Lines::default()).collect(),
            live: (0..threads).map(|_| Lines::default()).collect(),
            heard: (0..threads).map(|_| Lines(positions())).collect(),
            published: (0..publishers).map(|_| AtomicU64::new(0)).collect(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Where the run is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        STAGES[usize::from(self.stage.load(Ordering::Acquire))]
    }

    /// Moves on.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// Begins the workload, at its first stage.
    pub fn begin(&self, timetable: Timetable, stage: Stage) {
        self.timetable.get_or_init(|| timetable);
        self.enter(stage);
    }

    /// When what happens.
    #[must_use]
    pub fn timetable(&self) -> Timetable {
        self.timetable.get().cloned().unwrap_or_default()
    }

    /// Whether all threads have taken up a stage.
    #[must_use]
    pub fn all_in(&self, stage: Stage) -> bool {
        let stage = stage as u8;
        let mut all = self.progress.iter();
        all.all(|progress| progress.0.stage.load(Ordering::Acquire) >= stage)
    }

    /// The sum of one figure over all threads.
    #[must_use]
    pub fn sum(&self, figure: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        let figures = self.progress.iter().map(|progress| figure(&progress.0));
        figures.map(|figure| figure.load(Ordering::Relaxed)).sum()
    }

    /// A thread says how far its slowest reader of a publisher is; whether that is news.
    pub fn set_heard(&self, thread: usize, publisher: usize, position: u64) -> bool {
        let heard = &self.heard[thread].0[publisher];
        let is_news = heard.load(Ordering::Relaxed) != position;
        if is_news {
            heard.store(position, Ordering::Relaxed);
        }
        is_news
    }

    /// How far the slowest reader of a publisher is, over all threads; `None` if nobody reads.
    #[must_use]
    pub fn heard(&self, publisher: usize) -> Option<u64> {
        let positions = self
            .heard
            .iter()
            .map(|thread| thread.0[publisher].load(Ordering::Relaxed));
        positions.min().filter(|&position| position != u64::MAX)
    }

    /// The run cannot go on. The first reason stands.
    pub fn fail(&self, error: RunError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether it cannot.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Why it cannot; once.
    #[must_use]
    pub fn take_failure(&self) -> Option<RunError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_quantiles_are_within_an_eighth() {
        let live = LiveLatency::default();
        for latency_ns in 1..=100_000 {
            live.add(latency_ns, 1);
        }
        let quantile = |share| LiveLatency::quantile_ns([&live].into_iter(), share).expect("some");
        for (share, exact) in [(0.5, 50_000.0), (0.99, 99_000.0)] {
            let found = quantile(share) as f64;
            assert!((exact..exact * 1.13).contains(&found), "{share}: {found}");
        }
        assert_eq!(
            LiveLatency::quantile_ns([&LiveLatency::default()].into_iter(), 0.5),
            None
        );
    }

    #[test]
    fn the_slowest_over_all_threads_counts() {
        let shared = Shared::new(2, 1);
        assert_eq!(shared.heard(0), None);
        shared.set_heard(1, 0, 7);
        assert_eq!(shared.heard(0), Some(7));
        shared.set_heard(0, 0, 5);
        assert_eq!(shared.heard(0), Some(5));
    }
}
