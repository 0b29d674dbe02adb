//! One scenario against one target: [`run`] starts the generator's threads, conducts them through the stages of a run,
//! watches the server's process meanwhile, and puts together what all of them found out.
//!
//! ```text
//!   connect ─> run: warm-up, measured phases ─> (idle: rouse, speak) ─> drain ─> stop
//! ```
//!
//! The thread that calls [`run`] does no generating: it sleeps, reads /proc ten times a second, and tells of the progress.

mod conclude;
mod conduct;
mod error;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fluxar_engine::dial;
use fluxar_engine::listener::{Address, Listener};
use fluxar_engine::mail;
use fluxar_engine::reactor::Board;
use fluxar_engine::rlimit::raise_descriptor_limit;
use fluxar_engine::uring::UringHub;

use crate::arrivals::Plan;
use crate::measured::Measured;
use crate::payload::Payloads;
use crate::protocol::fluxar::{Fluxar, Framing, Settings};
use crate::protocol::mqtt::{Mqtt, Version};
use crate::protocol::nats::Nats;
use crate::protocol::redis::Redis;
use crate::protocol::relay::Relay;
use crate::protocol::{Ability, Protocol};
use crate::scenario::{ProtocolName, Scenario, Target, Workload};
use crate::worker::shared::Shared;
use crate::worker::{Outcome, Seat};
use crate::workload::streaming::Shape;
use crate::workload::{self, Cast, Visits};

use conduct::Conductor;

pub use error::RunError;

/// Descriptors that a generator takes besides its connections.
const DESCRIPTORS_OWN: u64 = 64;
/// Connections that are dialled from one loopback address before another one is taken: well below the ports that it has,
/// since those of the run before may still be waiting.
const CONNECTIONS_PER_SOURCE: usize = 8_000;
/// Letters under way between two generator threads. All say the same.
const LETTERS: usize = 64;
/// How long threads of a run that failed may take to end. Then they are left behind.
const ENDING: Duration = Duration::from_secs(10);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct RunOrder {
    /// Against whom.
    pub target: Target,
    /// What.
    pub scenario: Scenario,
    /// The server's processes, if they run on this machine and are to be watched.
    pub server: Option<Vec<u32>>,
    /// With what.
    pub generator: GeneratorConfig,
    /// Of random arrivals and sizes.
    pub seed: u64,
}

/// The generator's threads and where they dial from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeneratorConfig {
    /// Processors, one thread pinned to each; empty: one thread that is not pinned.
    pub cores: Vec<usize>,
    /// Local addresses to dial from, in turn. Empty: the kernel's choice, or as many loopback addresses as the
    /// connections of a run to a loopback address need.
    pub sources: Vec<IpAddr>,
    /// Whether threads look for what is due without sleeping: publishes leave on time to the microsecond, and the cores
    /// are busy whatever the load. `None`: in open loops only.
    pub spin: Option<bool>,
}

/// Where a run is, for whoever watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Which part of the run.
    pub stage: RunStage,
    /// Since the run was begun, s.
    pub seconds: f64,
    /// Messages and calls sent a second, since the last snapshot.
    pub sent_per_s: f64,
    /// Arrivals a second, since the last snapshot.
    pub delivered_per_s: f64,
    /// Median latency of the measured time so far, ns; coarse.
    pub p50_ns: Option<u64>,
    /// 99th percentile of the measured time so far, ns; coarse.
    pub p99_ns: Option<u64>,
    /// CPU time of the server since the last snapshot over the time that passed: 1 is one core.
    pub server_cpu: Option<f64>,
}

/// The parts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStage {
    /// Connections are made (or visitors greeted, in a storm).
    Connecting {
        /// That are ready.
        done: u64,
        /// Of so many.
        of: u64,
    },
    /// What will be replayed is stored.
    Storing {
        /// Events that are acknowledged.
        done: u64,
        /// Of so many.
        of: u64,
    },
    /// It runs and nothing counts yet.
    WarmingUp,
    /// It counts.
    Measuring,
    /// Nothing is sent any more.
    Draining,
}

/// Runs a scenario against a target, and tells of the progress about four times a second.
///
/// # Errors
/// See [`RunError`]. Messages that are lost and connections that break while it runs are results, not errors, as long as
/// anybody can send.
pub fn run(order: &RunOrder, progress: &mut dyn FnMut(&Snapshot)) -> Result<Measured, RunError> {
    let target = &order.target;
    let credit_bytes = match order.scenario.workload {
        Workload::Stream { window_bytes, .. } => window_bytes,
        _ => Settings::default().credit_bytes,
    };
    let from_all = matches!(order.scenario.workload, Workload::Replay { .. });
    let fluxar = |url: &str| {
        let framing = if url.starts_with("ws://") {
            Framing::Messages
        } else {
            Framing::Stream
        };
        Fluxar::new(Settings {
            framing,
            batch: target.batch,
            qos: target.qos,
            from_all,
            credit_bytes,
            ..Settings::default()
        })
    };
    let mqtt = |version| {
        let protocol = || Mqtt::new(version, target.qos);
        // Where there is no subscriber, nobody would be stored for.
        match order.scenario.workload {
            Workload::Store { .. } => [protocol(), protocol().keeping(), protocol()],
            _ => [protocol(), protocol(), protocol()],
        }
    };
    let subscriber_url = target.subscriber_url.as_deref().unwrap_or(&target.url);
    let service_url = target.service_url.as_deref().unwrap_or(subscriber_url);
    match target.protocol {
        ProtocolName::Fluxar => {
            let of = [&target.url, subscriber_url, service_url].map(fluxar);
            run_with(of, order, progress)
        }
        ProtocolName::Nats => run_with([target.qos; 3].map(Nats::new), order, progress),
        ProtocolName::Redis => run_with([target.qos; 3].map(Redis::new), order, progress),
        ProtocolName::Mqtt3 => run_with(mqtt(Version::V3), order, progress),
        ProtocolName::Mqtt5 => run_with(mqtt(Version::V5), order, progress),
        ProtocolName::Relay => {
            // It carries the same envelopes that FLUXAR does.
            let relay = || Relay::new(target.batch, Settings::default().meta);
            run_with([(); 3].map(|()| relay()), order, progress)
        }
    }
}

/// What a protocol is called in errors.
fn name(protocol: ProtocolName) -> &'static str {
    match protocol {
        ProtocolName::Fluxar => "FLUXAR",
        ProtocolName::Nats => "NATS",
        ProtocolName::Redis => "Redis",
        ProtocolName::Mqtt3 | ProtocolName::Mqtt5 => "MQTT",
        ProtocolName::Relay => "a bare relay",
    }
}

fn run_with<P: Protocol>(
    protocols: [P; 3],
    order: &RunOrder,
    progress: &mut dyn FnMut(&Snapshot),
) -> Result<Measured, RunError> {
    let scenario = &order.scenario;
    let connections_max = descriptors(&scenario.workload)?;
    let mut cast = Cast::of(scenario);
    if order.target.service_url.is_some() {
        cast.listen();
    }
    if order.target.qos > 0 {
        let mark = RandomState::new().hash_one(&order.target.name) as u32;
        cast.set_apart(&format!("{mark:08x}"));
    }
    if cast.stored.is_some() && protocols[1].needs_keeper() {
        cast.add_keepers();
    }
    let mut abilities = cast.abilities();
    if order.target.qos > 0 && cast.publishers > 0 {
        abilities.push(Ability::AcknowledgedPublish);
    }
    for ability in abilities {
        if !protocols.iter().all(|protocol| protocol.is_able(ability)) {
            let protocol = name(order.target.protocol);
            return Err(RunError::Unable { protocol, ability });
        }
    }
    let url = &order.target.url;
    let subscriber_url = order.target.subscriber_url.as_ref().unwrap_or(url);
    let addresses = [address(url)?, address(subscriber_url)?];
    let plan = Plan::new(scenario, &cast.arrivals).map_err(RunError::Scenario)?;
    let churn = match cast.visits {
        Some(Visits::Churn { per_s }) if !(per_s.is_finite() && per_s > 0.0) => {
            return Err(RunError::Scenario("churn_per_s has to be above 0".into()));
        }
        Some(Visits::Churn { per_s }) => Some(Plan::constant(scenario, per_s)),
        _ => None,
    };
    let payloads = Payloads::prepare(&scenario.payload, order.seed)?;
    if let Some(shape) = &mut cast.streams {
        shape.chunk_bytes_max = payloads.largest_bytes() as u64;
        check_window(shape)?;
    }
    let cast = Arc::new(cast);
    let listener = match &order.target.service_url {
        Some(url) if cast.attached > 0 => Some(Arc::new(listen(url)?)),
        _ => None,
    };
    let sources = sources(order, &addresses, &cast);

    let processors: Vec<Option<usize>> = match &order.generator.cores[..] {
        [] => vec![None],
        cores => cores.iter().copied().map(Some).collect(),
    };
    let threads = processors.len();
    let shared = Arc::new(Shared::new(threads, cast.publishers as usize));
    let mut conductor = Conductor::new(order, &cast, &shared, progress)?;
    let hub = UringHub::new(threads).map_err(RunError::System)?;
    let (control, mailboxes) = mail::mesh(threads, LETTERS);
    let board = Board::new(threads);
    let names = Arc::new(cast.names.clone());
    let protocols = protocols.map(Arc::new);
    let spins = order.generator.spin.unwrap_or(plan.is_some());
    let mut running = Vec::with_capacity(threads);
    for (mailbox, processor) in mailboxes.into_iter().zip(processors) {
        let seat = Seat {
            thread: mailbox.core(),
            threads,
            processor,
            spins,
            hub: Arc::clone(&hub),
            mailbox,
            board: board.clone(),
            shared: Arc::clone(&shared),
            cast: Arc::clone(&cast),
            names: Arc::clone(&names),
            protocols: protocols.clone(),
            addresses: addresses.clone(),
            listener: listener.clone(),
            sources: sources.clone(),
            payloads: payloads.clone(),
            plan: plan.clone(),
            churn: churn.clone(),
            connections_max,
            seed: order.seed,
        };
        let failing = Arc::clone(&shared);
        let started = thread::Builder::new()
            .name(format!("load-{}", seat.thread))
            .spawn(move || {
                // Nothing of the seat is used any more; what others share with it are atomics.
                let outcome = catch_unwind(AssertUnwindSafe(|| seat.run()))
                    .unwrap_or_else(|panic| Err(io::Error::other(broken_down(&*panic))));
                if let Err(error) = &outcome {
                    let error = io::Error::new(error.kind(), error.to_string());
                    failing.fail(RunError::System(error));
                }
                outcome
            });
        match started {
            Ok(thread) => running.push(thread),
            Err(error) => shared.fail(RunError::System(error)),
        }
    }
    let observed = beside_the_threads(&order.generator.cores, || conductor.conduct());
    drop(control);
    if observed.is_err() {
        let told = Instant::now();
        while !running.iter().all(JoinHandle::is_finished) && told.elapsed() < ENDING {
            thread::sleep(Duration::from_millis(1));
        }
        running.retain(JoinHandle::is_finished);
    }
    let outcomes: Vec<Outcome> = running
        .into_iter()
        .filter_map(|thread| thread.join().ok()?.ok())
        .collect();
    if let Some(error) = shared.take_failure() {
        return Err(error);
    }
    Ok(conclude::conclude(order, &cast, &payloads, outcomes, observed?))
}

/// What a panic of a generator thread is called.
fn broken_down(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "a thread broke down, which is a fault of loadgen: {}",
        words.unwrap_or("it said nothing")
    )
}

/// Does something on the generator's cores, so that it takes nothing from the server's.
fn beside_the_threads<T>(cores: &[usize], work: impl FnOnce() -> T) -> T {
    let before = rustix::thread::sched_getaffinity(None);
    if let (false, Ok(_)) = (cores.is_empty(), &before) {
        let mut processors = rustix::thread::CpuSet::new();
        for &core in cores {
            processors.set(core);
        }
        // A core that cannot be had is an error of the thread that is pinned to it.
        let _ = rustix::thread::sched_setaffinity(None, &processors);
    }
    let done = work();
    if let Ok(before) = before {
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    done
}

/// A writer can always send a chunk some time if half of its reader's window is enough for it.
fn check_window(shape: &Shape) -> Result<(), RunError> {
    let (window_bytes, largest_bytes) = (u64::from(shape.window_bytes), shape.chunk_bytes_max);
    if window_bytes < 2 * largest_bytes {
        return Err(RunError::Scenario(format!(
            "window_bytes of {window_bytes} is too small for chunks of {largest_bytes} bytes: take at least {}",
            2 * largest_bytes
        )));
    }
    Ok(())
}

fn listen(url: &str) -> Result<Listener, RunError> {
    let address = Address::parse(url).map_err(|error| RunError::Address {
        url: url.to_owned(),
        fault: error.fault,
    })?;
    Listener::open(&address).map_err(|error| RunError::Listen(error.to_string()))
}

fn address(url: &str) -> Result<Address, RunError> {
    let fault = |fault: String| RunError::Address {
        url: url.to_owned(),
        fault,
    };
    let address = Address::parse(url).map_err(|error| fault(error.fault))?;
    dial::resolve(&address).map_err(|error| fault(error.to_string()))
}

/// How many connections there may be at a time.
fn descriptors(workload: &Workload) -> Result<usize, RunError> {
    let (_, limit) = raise_descriptor_limit().map_err(RunError::System)?;
    let needed = workload::connections_max(workload).saturating_add(DESCRIPTORS_OWN);
    if needed > limit {
        return Err(RunError::Descriptors { needed, limit });
    }
    Ok(usize::try_from(limit - DESCRIPTORS_OWN).unwrap_or(usize::MAX))
}

/// The addresses to dial from.
fn sources(order: &RunOrder, addresses: &[Address; 2], cast: &Cast) -> Vec<IpAddr> {
    if !order.generator.sources.is_empty() {
        return order.generator.sources.clone();
    }
    let is_loopback = |address: &Address| match address {
        Address::Tcp { host, .. } | Address::WebSocket { host, .. } => host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_ipv4() && ip.is_loopback()),
        Address::Unix { .. } => true,
    };
    let run_s = (order.scenario.warmup_ms + order.scenario.duration_ms) as f64 / 1e3;
    let count = cast.connections_made(run_s).div_ceil(CONNECTIONS_PER_SOURCE);
    if count < 2 || !addresses.iter().all(is_loopback) {
        return Vec::new();
    }
    (0..count.min(60_000) as u32)
        .map(|index| IpAddr::V4(Ipv4Addr::from(0x7f00_0002 + index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Names, Protocol};
    use crate::scenario::{Arrivals, Payload};

    /// One whose sessions cannot even be made.
    struct Broken;

    impl Protocol for Broken {
        type Session = <Nats as Protocol>::Session;

        fn is_able(&self, _: Ability) -> bool {
            true
        }

        fn session(&self, number: u64, _: &Arc<Names>) -> Self::Session {
            panic!("no session {number}")
        }
    }

    #[test]
    fn a_thread_that_breaks_down_ends_the_run() {
        let order = RunOrder {
            target: Target {
                name: "t".into(),
                protocol: ProtocolName::Nats,
                url: "tcp://127.0.0.1:1".into(),
                subscriber_url: None,
                service_url: None,
                qos: 0,
                batch: true,
            },
            scenario: Scenario {
                workload: Workload::FanOut {
                    topics: 1,
                    publishers: 1,
                    subscribers: 1,
                },
                arrivals: Arrivals::default(),
                payload: Payload::default(),
                warmup_ms: 0,
                duration_ms: 100,
            },
            server: None,
            generator: GeneratorConfig::default(),
            seed: 1,
        };
        let error = run_with([Broken, Broken, Broken], &order, &mut |_| {}).expect_err("it broke down");
        assert!(matches!(error, RunError::System(_)), "{error}");
        assert!(error.to_string().contains("no session 0"), "{error}");
    }
}
