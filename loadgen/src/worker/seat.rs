//! Puts a generator thread together, on that thread: its ring belongs to it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fluxar_engine::listener::{Address, Listener, ListenerId};
use fluxar_engine::mail::Endpoint;
use fluxar_engine::reactor::{Board, Parcel, Reactor, ReactorConfig, Transport};
use fluxar_engine::uring::{Socket, UringConfig, UringDriver, UringHub};
use fluxar_engine::ws::{WsConfig, WsDial};

use crate::arrivals::{Plan, Schedule};
use crate::payload::Payloads;
use crate::protocol::{Names, Protocol};
use crate::tally::Timetable;
use crate::workload::calling::{Caller, Calling};
use crate::workload::hearing::Hearing;
use crate::workload::pacing::OpenLoop;
use crate::workload::publishing::{self, Publisher, Publishing};
use crate::workload::storing::Storing;
use crate::workload::streaming::Streaming;
use crate::workload::visiting::{self, Visiting};
use crate::workload::{Cast, Part, Stored, Visits};

use super::peer::Peer;
use super::shared::{Shared, Stage};
use super::{Look, Outcome, Worker};

/// What WebSocket connections speak, and the longest message of theirs.
const SUBPROTOCOL: &str = "fluxar.v0";
const WS_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a thread is started with.
pub(crate) struct Seat<P> {
    pub(crate) thread: usize,
    pub(crate) threads: usize,
    /// The processor that it is pinned to.
    pub(crate) processor: Option<usize>,
    /// It looks for what is due without ever sleeping.
    pub(crate) spins: bool,
    pub(crate) hub: Arc<UringHub>,
    pub(crate) mailbox: Endpoint<Parcel<Socket, Look>>,
    pub(crate) board: Board,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cast: Arc<Cast>,
    pub(crate) names: Arc<Names>,
    pub(crate) protocols: [Arc<P>; 3],
    pub(crate) addresses: [Address; 2],
    /// Where services listen, if they do.
    pub(crate) listener: Option<Arc<Listener>>,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) payloads: Payloads,
    /// In an open loop.
    pub(crate) plan: Option<Plan>,
    /// When churning visitors come.
    pub(crate) churn: Option<Plan>,
    pub(crate) connections_max: usize,
    pub(crate) seed: u64,
}

impl<P: Protocol> Seat<P> {
    /// The whole life of the thread.
    pub(crate) fn run(self) -> io::Result<Outcome> {
        if let Some(processor) = self.processor {
            let mut processors = rustix::thread::CpuSet::new();
            processors.set(processor);
            rustix::thread::sched_setaffinity(None, &processors)?;
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        self.shared.progress[self.thread]
            .0
            .thread
            .store(thread, Ordering::Release);
        self.sit_down()?.run()
    }

    fn sit_down(self) -> io::Result<Worker<P>> {
        // Large buffers: what a server sends in one go is looked at in one go. Few: they stay in the processor's cache.
        let sizes = UringConfig {
            entries: 2_048,
            cq_entries: 16_384,
            buffers: 256,
            buffer_bytes: 32 * 1024,
            ..UringConfig::default()
        };
        let mut driver = UringDriver::new(&self.hub, self.thread, &sizes)?;
        let mut listeners = Vec::new();
        if let Some(listener) = &self.listener {
            let id = ListenerId(0);
            driver.register(id, listener);
            listeners.push((id, transport(listener.address())));
        }
        let config = ReactorConfig {
            spin_us: 0,
            ..ReactorConfig::default()
        };
        let websocket = Arc::new(WsDial {
            subprotocol: Some(SUBPROTOCOL.to_owned()),
            max_message_bytes: WS_MESSAGE_BYTES_MAX,
            ..WsDial::default()
        });
        let mut peers = Vec::new();
        let mut subscribers = Vec::new();
        let mut publishers = Vec::new();
        let mut callers = Vec::new();
        let mut streaming = self.streaming();
        let mut speaker = None;
        for (number, part) in self.cast.share(self.thread, self.threads) {
            let at = peers.len() as u32;
            let index = match part {
                Part::Subscriber { topic, stops } => {
                    subscribers.push((topic, stops));
                    subscribers.len() - 1
                }
                Part::Publisher { .. } if self.cast.speaks => {
                    speaker = Some(peers.len());
                    0
                }
                Part::Publisher { topic, number } => {
                    publishers.push(Publisher::new(number, topic, at));
                    publishers.len() - 1
                }
                Part::Caller { method, number } => {
                    callers.push(Caller::new(number, method, at));
                    callers.len() - 1
                }
                Part::Opener { method, client, .. } => streaming.seat_client(at, client, method) as usize,
                Part::Server { .. } => streaming.seat_service(at) as usize,
                Part::Keeper { .. } | Part::Silent | Part::Visitor => 0,
            };
            let session = self.protocols[usize::from(part.hears())].session(number, &self.names);
            peers.push(Peer::new(session, part, number, index as u32));
        }
        let storing = self
            .cast
            .stored
            .map(|stored| Storing::new(publishers.len(), stored == Stored::Kept));
        let (publishing, calling) = self.paced(publishers, callers);
        let visiting = self.visiting();
        let hearing = Hearing::new(&subscribers, self.cast.publishers, self.cast.publishers_per_topic);
        let reactor = Reactor::new(driver, self.mailbox, self.board, listeners, config);
        let to_dial: VecDeque<u32> = (0..peers.len() as u32).collect();
        Ok(Worker {
            now_ns: reactor.now_ns(),
            reactor,
            thread: self.thread,
            threads: self.threads,
            spins: self.spins,
            shared: self.shared,
            cast: self.cast,
            names: self.names,
            protocols: self.protocols,
            addresses: self.addresses,
            websocket,
            sources_used: self.thread,
            sources: self.sources,
            connections_max: self.connections_max,
            peers,
            free: Vec::new(),
            by_slot: Vec::new(),
            to_dial,
            to_ask: Vec::new(),
            under_way: 0,
            dirty: Vec::new(),
            payloads: self.payloads,
            publishing,
            storing,
            hearing,
            calling,
            streaming,
            visiting,
            speaker,
            timetable: Timetable::default(),
            stage: Stage::Connect,
            has_more: false,
            is_blocked: false,
            is_behind: false,
            stopped_reading: false,
            spoken_to: 0,
            roused: 0,
            prepared: 0,
            attached: 0,
            accepted: 0,
            looked_ns: 0,
            outcome: Outcome::default(),
        })
    }

    /// Publishers and callers at the run's pace.
    fn paced(&self, publishers: Vec<Publisher>, callers: Vec<Caller>) -> (Publishing, Calling) {
        let of_publishers = publishers.iter().map(|publisher| publisher.number).collect();
        let first = self.cast.publishers;
        let of_callers = callers.iter().map(|caller| caller.number - first).collect();
        let schedule = |plan: &Plan, numbers: Vec<u32>, all: u32| {
            OpenLoop::new(Schedule::new(plan.clone(), numbers, all, self.seed))
        };
        let readers = self.cast.arrivals_per_publish();
        let pace = match &self.plan {
            Some(plan) => {
                publishing::Pace::Open(Box::new(schedule(plan, of_publishers, self.cast.publishers)))
            }
            None => publishing::Pace::Window(self.cast.window()),
        };
        let calls = self.plan.as_ref().filter(|_| self.cast.calls_arrive);
        let calls = calls.map(|plan| schedule(plan, of_callers, self.cast.callers));
        let publishing = Publishing::new(publishers, readers, pace);
        (
            match self.cast.stored {
                Some(_) => publishing.stored(self.cast.replayed()),
                None => publishing,
            },
            Calling::new(callers, self.cast.in_flight, calls),
        )
    }

    /// No stream is open yet. Where the scenario has none, there will be none.
    fn streaming(&self) -> Streaming {
        let shape = self.cast.streams.unwrap_or_default();
        let schedule = self.plan.as_ref().map(|plan| {
            let writers = shape.scheduled().len() as u32;
            let schedule = Schedule::new(plan.clone(), (0..writers).collect(), writers, self.seed);
            OpenLoop::new(schedule)
        });
        Streaming::new(shape, schedule, self.threads == 1)
    }

    /// This thread's share of the visitors.
    fn visiting(&self) -> Option<Visiting> {
        let share = |count: u32| {
            let (count, threads) = (count as usize, self.threads);
            ((count + threads - 1 - self.thread) / threads) as u64
        };
        let pace = match self.cast.visits? {
            Visits::Storm { connections, hold } => visiting::Pace::Storm {
                visitors: share(connections),
                concurrency: share(self.cast.concurrency).max(1),
                hold,
            },
            Visits::Churn { .. } => {
                let (thread, threads) = (self.thread as u32, self.threads as u32);
                let schedule = Schedule::new(self.churn.clone()?, vec![thread], threads, self.seed);
                visiting::Pace::Churn(Box::new(schedule))
            }
        };
        Some(Visiting::new(pace))
    }
}

/// How connections to that address are read.
fn transport(address: &Address) -> Transport {
    match address {
        Address::WebSocket { .. } => Transport::WebSocket(Arc::new(WsConfig {
            subprotocol: Some(SUBPROTOCOL.to_owned()),
            max_message_bytes: WS_MESSAGE_BYTES_MAX,
            ..WsConfig::default()
        })),
        Address::Tcp { .. } | Address::Unix { .. } => Transport::Stream,
    }
}
