//! Leads the generator's threads from stage to stage, watches the server's process, and tells of the progress.

mod replay;

use std::io;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::arrivals::{self, Window};
use crate::measured::ServerUse;
use crate::process;
use crate::tally::Timetable;
use crate::worker::shared::{LiveLatency, Shared, Stage};
use crate::workload::{Cast, Visits};

use super::{RunError, RunOrder, RunStage, Snapshot};

const NS_PER_MS: u64 = 1_000_000;
/// How often it looks, ms.
const LOOK_MS: u64 = 10;
const SNAPSHOT_NS: u64 = 250 * NS_PER_MS;
const MEMORY_NS: u64 = 100 * NS_PER_MS;
/// Preparing connections may stand still for so long.
const PATIENCE_NS: u64 = 10_000 * NS_PER_MS;
/// A server may take so long to connect to services that listen: it tries now and then.
const ATTACH_NS: u64 = 60_000 * NS_PER_MS;
/// The workload begins so long after the threads were told.
const LEAD_NS: u64 = 2 * NS_PER_MS;
/// The drain ends when nothing arrives for so long; with calls, when no answer can count any more.
const QUIET_NS: u64 = 1_000 * NS_PER_MS;
const QUIET_CALLS_NS: u64 = 5_500 * NS_PER_MS;
/// And when it took so long.
const DRAIN_NS: u64 = 10_000 * NS_PER_MS;
/// A server is taken as quiet when its memory did not change for so many looks, and waited for so long.
const STEADY_LOOKS: u32 = 3;
const STEADY_NS: u64 = 3_000 * NS_PER_MS;
/// A process of which one thread used at least this share of the CPU time has one that matters.
const ONE_THREAD: f64 = 0.95;
/// The end of a storm's measured time is not known before.
const ENDLESS_NS: u64 = u64::MAX / 2;

/// What was seen from outside of the threads.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) server: Option<ServerUse>,
    /// Why nothing can be said of the server though it was to be watched.
    pub(super) server_unknown: Option<String>,
    /// Threads of the server ended in the measured time, and their CPU time was taken from the kernel's ticks.
    pub(super) server_in_ticks: bool,
    pub(super) generator_cpu_ns: u64,
    pub(super) generator_busy: f64,
    /// The share of the time in which the generator's thread that waited longest for a processor did so.
    pub(super) generator_waited: f64,
    /// The same of the server. Only if one thread does its work: several may wait for each other.
    pub(super) server_waited: Option<f64>,
    /// What the phases lasted and were asked for.
    pub(super) windows: Vec<Window>,
    /// How long the measured time was in truth, ns; that of a storm shows itself.
    pub(super) measured_ns: u64,
    /// The server's memory when all connections were there and quiet, bytes.
    pub(super) rss_quiet_bytes: Option<u64>,
    /// When the warm-up was over, bytes.
    pub(super) rss_begun_bytes: Option<u64>,
    /// Connections that the server had closed by the end of the measured time, and when it began, ns after subscribers
    /// stopped reading.
    pub(super) closed_by_server: Option<(usize, u64)>,
}

/// What is read at both ends of the measured time.
#[derive(Debug, Clone)]
struct Mark {
    at_ns: u64,
    /// Or why it cannot be looked at.
    server: Result<process::Use, String>,
    own_cpu_ns: u64,
    threads: Vec<ThreadMark>,
}

/// One generator thread's share of it.
#[derive(Debug, Clone, Copy, Default)]
struct ThreadMark {
    cpu_ns: u64,
    waited_ns: u64,
    /// Of its CPU time, spent on looking for work.
    idle_ns: u64,
}

pub(super) struct Conductor<'a> {
    order: &'a RunOrder,
    cast: &'a Cast,
    shared: &'a Shared,
    progress: &'a mut dyn FnMut(&Snapshot),
    server: Vec<u32>,
    begun_ns: u64,
    rss_before_bytes: u64,
    rss_max_bytes: u64,
    memory_ns: u64,
    last: Last,
}

/// What the last snapshot saw.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    at_ns: u64,
    sent: u64,
    delivered: u64,
    server_cpu_ns: u64,
}

fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl<'a> Conductor<'a> {
    /// Looks at the server before anything is asked of it.
    pub(super) fn new(
        order: &'a RunOrder,
        cast: &'a Cast,
        shared: &'a Shared,
        progress: &'a mut dyn FnMut(&Snapshot),
    ) -> Result<Conductor<'a>, RunError> {
        let server = order.server.clone().unwrap_or_default();
        let looked = process::used(&server).and_then(|_| process::rss_exact_bytes(&server));
        let rss_before_bytes = looked.map_err(|error| RunError::Process {
            pids: server.clone(),
            error,
        })?;
        let now_ns = clock_ns();
        Ok(Conductor {
            order,
            cast,
            shared,
            progress,
            server,
            begun_ns: now_ns,
            rss_before_bytes,
            rss_max_bytes: rss_before_bytes,
            memory_ns: now_ns,
            last: Last {
                at_ns: now_ns,
                ..Last::default()
            },
        })
    }

    /// The whole run. However it ends, the threads are told to stop.
    pub(super) fn conduct(&mut self) -> Result<Observed, RunError> {
        let observed = match self.cast.replayed() {
            Some(events) => self.lead_replay(events),
            None => self.lead(),
        };
        self.shared.enter(Stage::Stop);
        observed
    }

    fn lead(&mut self) -> Result<Observed, RunError> {
        let mut observed = Observed::default();
        self.connect()?;
        if self.cast.speaks || self.is_idle() {
            observed.rss_quiet_bytes = self.wait_until_quiet();
        }
        let is_storm = matches!(self.cast.visits, Some(Visits::Storm { .. }));
        let windows = arrivals::windows(&self.order.scenario, &self.cast.arrivals);
        let start_ns = clock_ns() + LEAD_NS;
        let phases = if is_storm {
            vec![(start_ns, ENDLESS_NS)]
        } else {
            let phase = |window: &Window| (start_ns + window.from_ns, start_ns + window.to_ns);
            windows.iter().map(phase).collect()
        };
        let timetable = Timetable { start_ns, phases };
        let from_ns = timetable.measured_from_ns();
        let to_ns = timetable.measured_to_ns();
        self.shared.begin(timetable, Stage::Run);
        self.wait_until(from_ns, RunStage::WarmingUp)?;
        let before = self.mark();
        observed.rss_begun_bytes = self.memory_now();
        let measured_to_ns = if is_storm {
            self.weather_storm(from_ns)?
        } else {
            observed.closed_by_server = self.watch_measured(from_ns, to_ns)?;
            to_ns
        };
        let after = self.mark();
        let rss_after_bytes = self.memory_now();
        if self.cast.speaks {
            self.speak()?;
        }
        self.shared.enter(Stage::Drain);
        self.drain(RunStage::Draining)?;

        observed.measured_ns = measured_to_ns.saturating_sub(from_ns).max(1);
        observed.windows = windows;
        self.sum_up(&before, &after, rss_after_bytes, &mut observed);
        Ok(observed)
    }

    /// What generator and server used between two looks; `measured_ns` is known.
    fn sum_up(&self, before: &Mark, after: &Mark, rss_after_bytes: Option<u64>, observed: &mut Observed) {
        observed.generator_cpu_ns = after.own_cpu_ns.saturating_sub(before.own_cpu_ns);
        // Looking for work is not work.
        let busy_ns = |thread: &ThreadMark| thread.cpu_ns.saturating_sub(thread.idle_ns);
        observed.generator_busy = share(before, after, busy_ns);
        observed.generator_waited = share(before, after, |thread| thread.waited_ns);
        if self.has_server() {
            match (&before.server, &after.server, rss_after_bytes) {
                (Ok(before), Ok(after), Some(rss_after_bytes)) => {
                    self.weigh(before, after, rss_after_bytes, observed);
                }
                (Err(why), ..) | (_, Err(why), _) => observed.server_unknown = Some(why.clone()),
                (.., None) => observed.server_unknown = Some("its memory cannot be read".to_owned()),
            }
        }
    }

    /// What the server used between two looks.
    fn weigh(
        &self,
        before: &process::Use,
        after: &process::Use,
        rss_after_bytes: u64,
        observed: &mut Observed,
    ) {
        let wall_ns = observed.measured_ns as f64;
        let (cpu_ns, is_in_ticks) = after.cpu_since(before);
        let busiest_ns = after.busiest_since(before) as f64;
        let waited_ns = after.waited_ns.saturating_sub(before.waited_ns) as f64;
        let is_one_thread = busiest_ns >= ONE_THREAD * cpu_ns as f64;
        observed.server_waited = is_one_thread.then_some(waited_ns / wall_ns);
        observed.server_in_ticks = is_in_ticks;
        let processors = f64::from(process::processors(&self.server));
        let saturation = (busiest_ns / wall_ns).max(cpu_ns as f64 / wall_ns / processors);
        let switches = |figure: fn(&process::Use) -> u64| figure(after).saturating_sub(figure(before));
        observed.server = Some(ServerUse {
            cpu_ns,
            saturation: saturation.min(1.0),
            rss_before_bytes: self.rss_before_bytes,
            rss_max_bytes: self.rss_max_bytes.max(rss_after_bytes),
            rss_after_bytes,
            switches_voluntary: switches(|used| used.switches_voluntary),
            switches_involuntary: switches(|used| used.switches_involuntary),
        });
    }

    fn has_server(&self) -> bool {
        !self.server.is_empty()
    }

    fn is_idle(&self) -> bool {
        matches!(
            self.order.scenario.workload,
            crate::scenario::Workload::Idle { .. }
        )
    }

    /// Sleeps a little, then looks at what is due to be looked at.
    fn look(&mut self, until_ns: u64, stage: RunStage) -> Result<u64, RunError> {
        let now_ns = clock_ns();
        let sleep_ns = until_ns.saturating_sub(now_ns).min(LOOK_MS * NS_PER_MS);
        thread::sleep(Duration::from_nanos(sleep_ns));
        if self.shared.has_failed()
            && let Some(error) = self.shared.take_failure()
        {
            return Err(error);
        }
        let now_ns = clock_ns();
        if now_ns >= self.memory_ns {
            self.memory_ns = now_ns + MEMORY_NS;
            // One that is gone is found out by its connections.
            if let Ok(bytes) = process::rss_bytes(&self.server) {
                self.rss_max_bytes = self.rss_max_bytes.max(bytes);
            }
        }
        if now_ns >= self.last.at_ns + SNAPSHOT_NS {
            self.tell(now_ns, stage);
        }
        Ok(now_ns)
    }

    fn tell(&mut self, now_ns: u64, stage: RunStage) {
        let seconds = (now_ns - self.last.at_ns) as f64 / 1e9;
        let (sent, delivered) = (
            self.shared.sum(|progress| &progress.sent),
            self.shared.sum(|progress| &progress.delivered),
        );
        let mut server_cpu_ns = 0;
        for &pid in &self.server {
            server_cpu_ns += process::cpu_ns(pid).unwrap_or(0);
        }
        let last = std::mem::replace(
            &mut self.last,
            Last {
                at_ns: now_ns,
                sent,
                delivered,
                server_cpu_ns,
            },
        );
        let quantile = |share| LiveLatency::quantile_ns(self.shared.live.iter().map(|live| &live.0), share);
        let has_last = self.has_server() && last.server_cpu_ns > 0;
        let snapshot = Snapshot {
            stage,
            seconds: (now_ns - self.begun_ns) as f64 / 1e9,
            sent_per_s: (sent - last.sent) as f64 / seconds,
            delivered_per_s: (delivered - last.delivered) as f64 / seconds,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            server_cpu: has_last
                .then(|| server_cpu_ns.saturating_sub(last.server_cpu_ns) as f64 / 1e9 / seconds),
        };
        (self.progress)(&snapshot);
    }

    fn wait_until(&mut self, until_ns: u64, stage: RunStage) -> Result<(), RunError> {
        while self.look(until_ns, stage)? < until_ns {}
        Ok(())
    }

    /// Until all connections are prepared.
    fn connect(&mut self) -> Result<(), RunError> {
        self.be_connected_to()?;
        let of = self.cast.parts.len() as u64;
        let figure = |shared: &Shared| shared.sum(|progress| &progress.prepared);
        self.gather(of, figure, RunStage::Connecting { done: 0, of })
    }

    /// Until the server has connected to services that listen.
    fn be_connected_to(&mut self) -> Result<(), RunError> {
        let of = u64::from(self.cast.attached);
        let begun_ns = clock_ns();
        loop {
            let attached = self.shared.sum(|progress| &progress.attached);
            if attached >= of {
                return Ok(());
            }
            let stage = RunStage::Connecting { done: attached, of };
            if self.look(u64::MAX, stage)?.saturating_sub(begun_ns) > ATTACH_NS {
                return Err(RunError::Unattached {
                    address: self.order.target.service_url.clone().unwrap_or_default(),
                    attached,
                    of,
                });
            }
        }
    }

    /// Until a figure of the threads' progress has reached a number. It may not stand still for long.
    fn gather(&mut self, of: u64, figure: impl Fn(&Shared) -> u64, stage: RunStage) -> Result<(), RunError> {
        let mut moved = (figure(self.shared), clock_ns());
        loop {
            let done = figure(self.shared);
            if done >= of {
                return Ok(());
            }
            let stage = match stage {
                RunStage::Connecting { .. } => RunStage::Connecting { done, of },
                RunStage::Storing { .. } => RunStage::Storing { done, of },
                other => other,
            };
            let now_ns = self.look(u64::MAX, stage)?;
            if done != moved.0 {
                moved = (done, now_ns);
            } else if now_ns - moved.1 > PATIENCE_NS {
                return Err(RunError::Silent { prepared: done, of });
            }
        }
    }

    /// Memory that is counted page by page, until it stands still.
    fn wait_until_quiet(&mut self) -> Option<u64> {
        if !self.has_server() {
            return None;
        }
        let until_ns = clock_ns() + STEADY_NS;
        let mut last = self.memory_now();
        let mut steady = 0;
        while steady < STEADY_LOOKS && clock_ns() < until_ns {
            thread::sleep(Duration::from_nanos(MEMORY_NS));
            let bytes = self.memory_now();
            steady = if bytes == last { steady + 1 } else { 0 };
            last = bytes;
        }
        last
    }

    /// The server's memory; `None` if there is no process to be looked at (any more).
    fn memory_now(&mut self) -> Option<u64> {
        self.has_server().then_some(())?;
        let bytes = process::rss_exact_bytes(&self.server).ok()?;
        self.rss_max_bytes = self.rss_max_bytes.max(bytes);
        Some(bytes)
    }

    fn mark(&self) -> Mark {
        let load = std::sync::atomic::Ordering::Relaxed;
        let threads = self.shared.progress.iter().map(|progress| {
            let thread = progress.0.thread.load(load);
            let idle_ns = progress.0.idle_ns.load(load);
            let (cpu_ns, waited_ns) = process::of_thread(thread).unwrap_or((0, 0));
            ThreadMark {
                cpu_ns,
                waited_ns,
                idle_ns,
            }
        });
        Mark {
            at_ns: clock_ns(),
            server: process::used(&self.server).map_err(|error| error.to_string()),
            own_cpu_ns: process::cpu_ns(std::process::id()).unwrap_or(0),
            threads: threads.collect(),
        }
    }

    /// The measured time. Where subscribers stop reading, it is also seen when the server closes connections: theirs.
    fn watch_measured(&mut self, from_ns: u64, to_ns: u64) -> Result<Option<(usize, u64)>, RunError> {
        let port = self.server_port().filter(|_| self.cast.has_stopped());
        let Some(port) = port else {
            self.wait_until(to_ns, RunStage::Measuring)?;
            return Ok(None);
        };
        let held = process::sockets_held(port);
        let mut closed = None;
        let mut look_ns = clock_ns();
        loop {
            let now_ns = self.look(to_ns, RunStage::Measuring)?;
            if now_ns >= to_ns {
                return Ok(closed);
            }
            if now_ns >= look_ns {
                look_ns = now_ns + MEMORY_NS;
                if let (Some(before), Some(now)) = (held, process::sockets_held(port))
                    && now < before
                {
                    let at_ns = closed.map_or(now_ns.saturating_sub(from_ns), |(_, at_ns)| at_ns);
                    closed = Some((before - now, at_ns));
                }
            }
        }
    }

    /// The port of subscribers, if the server is on this machine.
    fn server_port(&self) -> Option<u16> {
        let target = &self.order.target;
        let url = target.subscriber_url.as_ref().unwrap_or(&target.url);
        let authority = url.split_once("://")?.1.split('/').next()?;
        authority.rsplit_once(':')?.1.parse().ok()
    }

    /// Until all visitors of a storm are through; when the last one was.
    fn weather_storm(&mut self, from_ns: u64) -> Result<u64, RunError> {
        let of = match self.cast.visits {
            Some(Visits::Storm { connections, .. }) => u64::from(connections),
            _ => 0,
        };
        let figure = |shared: &Shared| shared.sum(|progress| &progress.visited);
        self.gather(of, figure, RunStage::Connecting { done: 0, of })?;
        let last_ns = self
            .shared
            .progress
            .iter()
            .map(|progress| progress.0.visited_ns.load(std::sync::atomic::Ordering::Relaxed))
            .max();
        Ok(last_ns.unwrap_or(from_ns).max(from_ns + 1))
    }

    /// Idle connections subscribe, and are spoken to.
    fn speak(&mut self) -> Result<(), RunError> {
        self.shared.enter(Stage::Rouse);
        let of = u64::from(self.cast.readers_per_topic);
        let figure = |shared: &Shared| shared.sum(|progress| &progress.roused);
        self.gather(of, figure, RunStage::Measuring)?;
        self.shared.enter(Stage::Speak);
        self.drain(RunStage::Measuring)
    }

    /// Until everything of the measured time arrived, or nothing comes any more.
    fn drain(&mut self, stage: RunStage) -> Result<(), RunError> {
        let begun_ns = clock_ns();
        // A call has its time, and so has a disk.
        let quiet_ns = if self.cast.callers > 0 || self.cast.stored.is_some() {
            QUIET_CALLS_NS
        } else {
            QUIET_NS
        };
        // What subscribers that had stopped reading are told comes when they read again.
        let at_least_ns = if self.cast.has_stopped() { QUIET_NS } else { 0 };
        let mut moved = (0, begun_ns);
        // Whatever they report from here on they know the stage.
        while !self.shared.all_in(self.shared.stage()) {
            if self.look(u64::MAX, stage)?.saturating_sub(begun_ns) > PATIENCE_NS {
                return Err(RunError::System(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a thread has not answered for 10 s",
                )));
            }
        }
        loop {
            let delivered = self.shared.sum(|progress| &progress.delivered_measured);
            let expected = self.shared.sum(|progress| &progress.expected_measured);
            let now_ns = self.look(u64::MAX, stage)?;
            if delivered != moved.0 {
                moved = (delivered, now_ns);
            }
            let lasted_ns = now_ns - begun_ns;
            let is_behind = self.shared.sum(|progress| &progress.behind) > 0;
            let is_complete = delivered >= expected && !is_behind && lasted_ns >= at_least_ns;
            if is_complete || now_ns - moved.1 >= quiet_ns || lasted_ns >= DRAIN_NS {
                return Ok(());
            }
        }
    }
}

/// The largest share of the time that any thread spent on something.
fn share(before: &Mark, after: &Mark, spent_ns: impl Fn(&ThreadMark) -> u64) -> f64 {
    let wall_ns = after.at_ns.saturating_sub(before.at_ns).max(1);
    let threads = before.threads.iter().zip(&after.threads);
    let shares = threads
        .map(|(before, after)| spent_ns(after).saturating_sub(spent_ns(before)) as f64 / wall_ns as f64);
    shares.fold(0.0, f64::max).min(1.0)
}
